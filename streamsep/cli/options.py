"""Options of the command line that are fields of `Config`, in sections, and help that fits a screen.

The groups of `configfile` are in `--help`; every other field is in `--help-all`, so that a new field is never without help.
"""

from __future__ import annotations

from collections.abc import Callable
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import click

from ..config import Config
from ..configfile import REST, groups
from . import completing

model_option = click.option(
    "--model",
    default="live",
    show_default=True,
    shell_complete=completing.models,
    help="A shipped model's name, or an .onnx file.",
)
provider_option = click.option(
    "--provider",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="Where the network runs; on the CPU where cuda does not work.",
)
require_gpu_option = click.option("--require-gpu", is_flag=True, help="Exit with 3 where the network cannot run on the GPU.")
COMPLETERS = {"input": completing.devices("input"), "output": completing.devices("output"), "model": completing.models}


class SectionedCommand(click.Command):
    """A command whose `--help` shows the common options of `Config` and its own, and `--help-all` the rare ones besides."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The sections."""
        records = {p.name: r for p in self.get_params(ctx) if (r := p.get_help_record(ctx)) and p.name}
        sections = groups() | {"Other": tuple(name for name in records if name not in Config.model_fields)}
        if not ctx.meta.get("streamsep.help_all"):
            del sections[REST]
        for title, names in sections.items():
            with formatter.section(title):
                formatter.write_dl([records[name] for name in names if name in records], col_max=24)


def _help_all(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        ctx.meta["streamsep.help_all"] = True
        click.echo(ctx.get_help())
        ctx.exit()


help_all = click.option(
    "--help-all", is_flag=True, is_eager=True, expose_value=False, callback=_help_all, help="Help with every setting."
)


def config_options(command: Callable[..., None]) -> Callable[..., None]:
    """One option for every field of `Config` that a flag can carry."""
    for name in reversed(Config.model_fields):
        if flag_type(Config.model_fields[name].annotation) is not None:
            command = _option(name)(command)
    return command


def loop_options(command: Callable[..., None]) -> Callable[..., None]:
    """The fields of `Config` that name a device."""
    for name in ("block", "rate", "output", "input"):
        command = _option(name)(command)
    return command


def _option(name: str) -> Callable[..., Any]:
    field = Config.model_fields[name]
    kind = flag_type(field.annotation)
    flag = f"--{name.replace('_', '-')}"
    if kind is bool:
        flag += f"/--no-{flag[2:]}"
    return click.option(
        flag,
        name,
        type=kind,
        default=None,
        help=help_of(name),
        shell_complete=COMPLETERS.get(name),
        metavar=None if kind is bool or isinstance(kind, click.Choice) else _METAVARS.get(kind),
    )


_METAVARS = {str: "TEXT", int: "N", float: "X"}


def help_of(name: str) -> str:
    """What a setting is, and its default."""
    field = Config.model_fields[name]
    text = field.description or ""
    return text if field.default in (None, "", False) or "[default" in text else f"{text} [default: {field.default}]"


def flag_type(annotation: Any) -> Any:
    """The click type of a field, None if no flag can carry it."""
    if get_origin(annotation) is Literal:
        return click.Choice(get_args(annotation))
    if isinstance(annotation, UnionType):
        annotation = next(a for a in get_args(annotation) if a is not type(None))
    return annotation if annotation in (str, int, float, bool) else None
