"""`streamsep run`: the daemon, and what a terminal is told of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ..config import load as load_config
from . import keys
from .options import SectionedCommand, config_options, help_all
from .terminal import announcement, err, json_option, out, print_json, stop_signals, tell, uncollected


@click.command(cls=SectionedCommand)
@config_options
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="TOML file with these settings; flags win.")
@click.option("--plain", is_flag=True, help="Lines instead of the live view, on a terminal too.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@json_option
@help_all
def run(config_file: Path | None, plain: bool, quiet: bool, as_json: bool, **flags: Any) -> None:
    """Separate live sound until Ctrl-C.

    OSC and the keys of the live view steer it.

    \b
    streamsep run
    streamsep run --input "USB Audio" --output jack --record takes
    streamsep run --input file:song.flac --output file:stems.wav
    """
    config = load_config(config_file, flags)
    with stop_signals() as stop:
        with uncollected():
            from ..daemon import Daemon

        listener = _Silence() if quiet else _Lines(as_json)
        daemon = Daemon(config, lambda line: listener.tell(line))
        if not (quiet or as_json or plain) and _has_view(out):
            listener = _View(daemon)
        try:
            report = daemon.run(lambda setup: listener.announce(setup), stop)
        finally:
            listener.close()
    if as_json:
        print_json(report)
    elif not quiet:
        _print_report(report)


def _has_view(console: Console) -> bool:
    """Whether there is a terminal that can be drawn on, with its keys, and it is ours."""
    if not (keys.AVAILABLE and console.is_terminal and not console.is_dumb_terminal and sys.stdin.isatty()):
        return False
    return keys.in_foreground(sys.stdin.fileno())


class _Silence:
    """Hears nothing."""

    def announce(self, setup: dict[str, Any]) -> None:
        """The set-up, before the first sound."""

    def tell(self, line: str) -> None:
        """Something happened."""

    def close(self) -> None:
        """The end."""


class _Lines(_Silence):
    """Plain lines: the set-up on stdout (with JSON: on stderr), what happens on stderr."""

    def __init__(self, as_json: bool) -> None:
        self._console = err if as_json else out

    def announce(self, setup: dict[str, Any]) -> None:
        for line in announcement(setup):
            self._console.print(line, markup=False)
        self._console.file.flush()

    def tell(self, line: str) -> None:
        tell(line)


class _View(_Silence):
    """The live view, from the announcement on."""

    def __init__(self, daemon: Any) -> None:
        from .screen import Screen

        self._screen = Screen(daemon, Console(highlight=False))

    def announce(self, setup: dict[str, Any]) -> None:
        self._screen.announce(setup)
        self._screen.open()

    def tell(self, line: str) -> None:
        self._screen.tell(line)

    def close(self) -> None:
        self._screen.close()


def _print_report(report: dict[str, Any]) -> None:
    step = report["step_ms"]
    out.print(
        f"{report['hops']} hops, {report['late']} late ({report['bridged']} bridged), {report['lost']} lost; "
        f"xruns: {report['input_xruns']} in, "
        f"{report['output_xruns']} out; step p50 {step['p50']:.2f}, p99 {step['p99']:.2f}, max {step['max']:.2f} ms "
        f"of {report['deadline_ms']} ms"
    )
    if report["failed_steps"] or report["bad_samples"]:
        out.print(
            f"{report['failed_steps']} network steps failed ({report['error']}); {report['bad_samples']} bad input samples"
        )
