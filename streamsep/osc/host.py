"""The daemon as OSC sees it: what can be asked of it and told to it. Who implements this need not know OSC.

All of it is called in the server's thread and must be quick: what takes time (opening a device, loading a model) is begun
here, done elsewhere, and seen by its result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from ..engine import Engine
from ..meters import Meters
from ..rings import Rings

Value = int | float | str


class Line(NamedTuple):
    """One of several streams."""

    name: str  # "" if it has but a number
    engine: Engine
    meters: Meters


class Host(Protocol):
    """A running daemon."""

    @property
    def separator(self) -> Engine:
        """The engine that sounds now, the first where there are several. When it is replaced: `OscServer.attach`."""

    @property
    def lines(self) -> Sequence[Line]:
        """The streams, where there are several; the first is `separator`. Else none."""

    def active(self, stream: int) -> bool:
        """Whether a stream (from 0) takes part, or soon will."""

    def activate(self, stream: int, on: bool) -> bool:
        """Let a stream join or leave; whether it takes part then."""

    @property
    def rings(self) -> Rings:
        """The engine's rings, with one tap channel for each channel of each source."""

    @property
    def meters(self) -> Meters:
        """The worker's history of levels and times."""

    @property
    def model(self) -> str:
        """The model's name or file, as `choose` takes it."""

    @property
    def devices(self) -> tuple[str, str]:
        """Input and output device, as `choose` takes them."""

    @property
    def recording(self) -> str:
        """Where the recording goes; "" while there is none."""

    @property
    def state(self) -> str:
        """One or two words: "running", "device lost", "loading"."""

    def status(self) -> Mapping[str, Value]:
        """All figures, flat; `watching.FIGURES` names those that have addresses of their own."""

    def choose(self, *, model: str | None = None, input: str | None = None, output: str | None = None) -> None:
        """Begin to change to another model or device and return at once; ValueError where that cannot be."""

    def record(self, on: bool) -> bool:
        """Begin or end the recording; whether it runs. ValueError where it cannot."""

    def quit(self) -> None:
        """End the daemon, soon."""
