"""Options of the command line that are fields of `Config`."""

from __future__ import annotations

from collections.abc import Callable
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import click

from ..config import Config


def config_options(command: Callable[..., None]) -> Callable[..., None]:
    """One option for every field of `Config` that a flag can carry."""
    for name, field in reversed(Config.model_fields.items()):
        kind = flag_type(field.annotation)
        if kind is None:
            continue
        text = field.description or ""
        if field.default is not None:
            text += f" [default: {field.default}]"
        flag = f"--{name.replace('_', '-')}"
        if kind is bool:
            flag += f"/--no-{flag[2:]}"
        command = click.option(flag, name, type=kind, default=None, help=text)(command)
    return command


def flag_type(annotation: Any) -> Any:
    """The click type of a field, None if no flag can carry it."""
    if get_origin(annotation) is Literal:
        return click.Choice(get_args(annotation))
    if isinstance(annotation, UnionType):
        annotation = next(a for a in get_args(annotation) if a is not type(None))
    return annotation if annotation in (str, int, float, bool) else None


def loop_options(command: Callable[..., None]) -> Callable[..., None]:
    """The fields of `Config` that name a device."""
    for name in ("block", "rate", "output", "input"):
        field = Config.model_fields[name]
        command = click.option(f"--{name}", type=flag_type(field.annotation), default=None, help=field.description)(command)
    return command
