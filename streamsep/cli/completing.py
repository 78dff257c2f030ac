"""What a shell offers after Tab: models, devices, sources. Quick, and silent where something is missing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import click
from click.shell_completion import CompletionItem

MODELS = "models"
Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def models(ctx: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Shipped models by name, and files."""
    from pathlib import Path

    names = sorted(p.stem for p in Path(__file__).parents[1].joinpath(MODELS).glob("*.onnx"))  # loads no model
    return _matching(names, begun) or [CompletionItem(begun, type="file")]


def sources(ctx: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """The shipped model's sources, and what else can be listened to."""
    from .. import model

    return _matching([*model.load("live").contract.sources, "mix", "input"], begun)


def devices(kind: str) -> Completer:
    """The names of the devices that have channels of that `kind`, "input" or "output"."""

    def complete(ctx: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
        from ..devices.portaudio import DeviceError, devices

        words = ["default", "file:"] + (["osc:"] if kind == "input" else ["none"])
        with contextlib.suppress(DeviceError):
            words += [d.name for d in devices() if (d.in_channels if kind == "input" else d.out_channels)]
        return _matching(words, begun)

    return complete


def _matching(words: list[str], begun: str) -> list[CompletionItem]:
    return [CompletionItem(word) for word in words if word.lower().startswith(begun.lower())]
