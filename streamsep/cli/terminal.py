"""The terminal: what is printed where, progress, and the signals that end a command."""

from __future__ import annotations

import gc
import json
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .. import __version__

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")


def print_json(value: object) -> None:
    """One JSON object on stdout."""
    click.echo(json.dumps(value, indent=2))


def tell(line: str) -> None:
    """One line about what happened, on stderr."""
    err.print(f"streamsep: {line}", markup=False)


def announcement(setup: Mapping[str, Any]) -> list[str]:
    """The set-up of a daemon (`Daemon.describe`) in lines."""
    parts = setup["latency_ms"]
    tcp = f", {setup['osc_tcp']} (TCP)" if "osc_tcp" in setup else ""
    http = f", OSCQuery at {setup['http']}" if "http" in setup else ""
    path = "C path" if setup["c_api"] else "Python path: ONNX Runtime has no C library here"
    lines = (
        f"streamsep {__version__}: {setup['model']} ({', '.join(setup['sources'])}) on {setup['provider']}, {path}",
        f"{setup['device']}: {setup['in_channels']} in, {setup['out_channels']} out, {setup['sample_rate']} Hz, "
        f"block {setup['block']}, hop {setup['hop']}",
        f"latency {parts['algorithmic']:.1f} ms algorithmic + {parts['buffering']:.1f} buffering "
        f"+ {parts['device']:.1f} device = {parts['total']:.1f} ms",
        f"recording to {setup['recording']}" if setup["recording"] else "",
        f"monitor page: {setup['monitor']}" if "monitor" in setup else "",
        f"OSC on {setup['osc']} (UDP){tcp}{http}; Ctrl-C ends",
    )
    return [line for line in lines if line]


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection while modules are imported: they only make what stays, and a fifth of the time goes to looking.

    Nor will it be looked at later.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, from the start of the command on; the handlers before come back at the end.

    So does SIGHUP, a terminal that is closed, unless somebody (nohup) has it ignored.
    """
    stop = threading.Event()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        numbers.append(signal.SIGHUP)
    before = {s: signal.signal(s, lambda *_: stop.set()) for s in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Advance:
    """Moves a progress bar to a share between 0 and 1."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=1.0)

    def __call__(self, share: float) -> None:
        self._progress.update(self._task, completed=share)


@contextmanager
def progress(name: str, quiet: bool) -> Iterator[_Advance]:
    """A bar with the time left, on stderr and only if that is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal) as progress:
        yield _Advance(progress, name)
