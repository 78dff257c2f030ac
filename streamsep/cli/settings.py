"""`streamsep init` and `streamsep config`: the TOML file, made and looked at."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from .. import StreamsepError
from .terminal import err, json_option, out, print_json

DEFAULT_FILE = "streamsep.toml"


@click.command()
@click.argument("file", default=DEFAULT_FILE, type=click.Path(path_type=Path, dir_okay=False))
@click.option("-y", "--yes", is_flag=True, help="Ask nothing: the system's default devices.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def init(file: Path, yes: bool, force: bool) -> None:
    """Write a commented TOML file, after asking for devices.

    \b
    streamsep init                        # streamsep.toml here
    streamsep init ~/.config/streamsep/streamsep.toml --yes
    streamsep run --config streamsep.toml
    """
    from .. import configfile, model
    from ..soundfiles import replacing

    if file.exists() and not force:
        raise click.UsageError(f"{file} exists: expected a new file; choose another name, or --force to overwrite it")
    values = {} if yes or not (sys.stdin.isatty() and err.is_terminal) else _asked()
    with replacing(file) as (part,):
        part.write_text(configfile.template(values, model.load("live").contract.sources), encoding="utf-8")
    out.print(f"{file}: begin with: streamsep run --config {file}", markup=False)


def _asked() -> dict[str, Any]:
    """The devices that somebody chooses from a list; Enter leaves one to the system."""
    from ..devices.names import spelling
    from ..devices.portaudio import DeviceError, devices

    try:
        found = devices()
    except DeviceError as error:
        err.print(f"streamsep: {error}; the system's default devices are taken", markup=False)
        return {}
    values = {}
    for kind in ("input", "output"):
        usable = [d for d in found if (d.in_channels if kind == "input" else d.out_channels)]
        if usable and (index := _choice(kind, usable)) is not None:
            values[kind] = spelling(next(d for d in usable if d.index == index), usable)
    return values


def _choice(kind: str, usable: list[Any]) -> int | None:
    """The index of the device chosen, None for the system's."""
    table = Table("", f"{kind} device", "host API", "channels", "Hz", box=None, pad_edge=False)
    for d in usable:
        channels = d.in_channels if kind == "input" else d.out_channels
        default = " (default)" if (d.default_input if kind == "input" else d.default_output) else ""
        table.add_row(str(d.index), d.name + default, d.host_api, str(channels), str(d.default_sample_rate))
    err.print(table)
    indices = [str(d.index) for d in usable]
    prompt = f"{kind} device, by its number [Enter: the system's]"
    answer = click.prompt(
        prompt, default="", show_default=False, err=True, type=click.Choice(["", *indices]), show_choices=False
    )
    return int(answer) if answer else None


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--check", is_flag=True, help="Say what is wrong with FILE, a line each; exit code 2 if anything is.")
@click.option("--show", is_flag=True, help="Print all settings as they are with FILE, or by default.")
@json_option
def config(file: Path | None, check: bool, show: bool, as_json: bool) -> None:
    """Look at a TOML file of settings, or at the defaults.

    \b
    streamsep config --check live.toml
    streamsep config --show live.toml
    """
    from .. import configfile
    from ..config import load

    if check and (show or file is None):
        raise click.UsageError("--check: expected FILE, and no --show")
    if not check:
        settings = load(file, {}).model_dump()
        if as_json:
            print_json(settings)
            return
        for name, value in settings.items():
            out.print(f"{name} = {configfile.toml(value)}" if value is not None else f"# {name} is not set", markup=False)
        return
    assert file
    found = configfile.problems(file)
    if as_json:
        print_json({"file": str(file), "problems": found})
    else:
        for problem in found:
            err.print(f"streamsep: {problem}", markup=False)
        if not found:
            out.print(f"{file}: fine", markup=False)
    if found:
        raise click.exceptions.Exit(2)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what a shell needs to complete commands.

    Their options, models, devices and sources, too.

    \b
    source <(streamsep completion bash)                             # in ~/.bashrc
    source <(streamsep completion zsh)                              # in ~/.zshrc, after compinit
    streamsep completion fish > ~/.config/fish/completions/streamsep.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    root = click.get_current_context().find_root()
    if kind is None or root.info_name is None:
        raise StreamsepError(f"shell={shell!r}: click {click.__version__} knows no such shell; update click")
    click.echo(kind(root.command, {}, "streamsep", "_STREAMSEP_COMPLETE").source())
