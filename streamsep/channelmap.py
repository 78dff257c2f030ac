"""Which channels of a device are heard, and where each source goes: the words for it, and the table that `rings.route` reads.

A map is written as `1,2` (input) and `vocals=1,2;accompaniment=3,4;mix=5,6` (output); channels count from 1, as on the front
of a sound card. This room knows neither devices nor models: that names and numbers exist is checked by those who have them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_INPUTS = 8  # of one stream
MAX_INPUT, MAX_OUTPUT = 64, 256  # the highest channel
MIX = "mix"  # all sources, each with its gain


class Routes(NamedTuple):
    """Row r: channel `where[r, 1]` of source `where[r, 0]`, times `weight[r]`, is added to output channel `where[r, 2]`."""

    where: NDArray[np.int64]
    weight: NDArray[np.float32]


def table(rows: Sequence[tuple[int, int, int, float]]) -> Routes:
    """`rows` of (source, channel, output, weight), counted from 0."""
    where = np.array([row[:3] for row in rows], np.int64).reshape(-1, 3)
    return Routes(where, np.array([row[3] for row in rows], np.float32))


def default_routes(sources: int, channels: int | Sequence[int], outputs: int) -> Routes:
    """A pair of channels for each source where there are enough of them, else the mix.

    `channels` are those of the input, or of each source. A mono signal goes to both channels of a pair; to a single output
    channel goes the mean of the input's.
    """
    each = [channels] * sources if isinstance(channels, int) else channels
    if outputs >= 2 * sources:
        return table([row for i, n in enumerate(each) for row in _rows(i, n, (2 * i, 2 * i + 1))])
    heard = range(min(outputs, max(max(each), 2)))
    return table([row for i, n in enumerate(each) for row in _rows(i, n, heard)])


def part(routes: Routes, first: int, sources: int) -> Routes:
    """The rows of `sources` sources from `first` on, which is source 0 there."""
    mine = (routes.where[:, 0] >= first) & (routes.where[:, 0] < first + sources)
    return Routes(np.ascontiguousarray(routes.where[mine] - [first, 0, 0]), routes.weight[mine])


def _rows(source: int, channels: int, outputs: Sequence[int]) -> list[tuple[int, int, int, float]]:
    if len(outputs) == 1:
        return [(source, c, outputs[0], 1 / channels) for c in range(channels)]
    return [(source, min(k, channels - 1), output, 1.0) for k, output in enumerate(outputs)]


@dataclass(frozen=True)
class Wiring:
    """The channels that were asked for, counted from 1; empty: the usual ones.

    Where several streams share a device (`lines`), `channels` are those of each source, `groups` the names that mean several
    sources besides `mix`, and `input_names` what the inputs are called.
    """

    inputs: tuple[int, ...] = ()
    outputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    channels: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    input_names: tuple[str, ...] = ()

    def members(self, name: str, sources: Sequence[str]) -> tuple[str, ...]:
        """The sources that an output's name means; none if it is unknown."""
        if name in sources:
            return (name,)
        return tuple(sources) if name == MIX else self.groups.get(name, ())

    def routes(self, sources: Sequence[str], channels: int) -> Routes | None:
        """The table for these sources, of `channels` unless it is known better; None without a wish.

        Raises
        ------
        ValueError
            a source that there is not.
        """
        rows = []
        for name, outputs in self.outputs.items():
            if not self.members(name, sources):
                raise ValueError(f"output_channels: source {name!r} is unknown: expected one of {', '.join((*sources, MIX))}")
            for source in self.members(name, sources):
                rows += _rows(sources.index(source), self.channels.get(source, channels), [c - 1 for c in outputs])
        return table(rows) if rows else None

    @property
    def highest_output(self) -> int:
        """The highest output channel that is asked for, 0 without a wish."""
        return max((c for outputs in self.outputs.values() for c in outputs), default=0)


def parse(inputs: str | None, outputs: str | None) -> Wiring:
    """A wiring from its words.

    Raises
    ------
    ValueError
        they are not of the form that this module's text says.
    """
    return Wiring(parse_inputs(inputs) if inputs else (), parse_outputs(outputs) if outputs else {})


def parse_inputs(text: str) -> tuple[int, ...]:
    """`1,2`: 1 to 8 channels, each once."""
    channels = _numbers(text, "1,2", MAX_INPUT)
    if len(channels) > MAX_INPUTS:
        raise ValueError(f"expected 1 to {MAX_INPUTS} channels, not {len(channels)}")
    return channels


def parse_outputs(text: str) -> dict[str, tuple[int, ...]]:
    """`vocals=1,2;accompaniment=3,4`."""
    outputs: dict[str, tuple[int, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, numbers = (word.strip() for word in part.partition("="))
        if not (name and equals) or name in outputs:
            raise ValueError("expected each source once, such as vocals=1,2;accompaniment=3,4")
        outputs[name] = _numbers(numbers, "vocals=1,2;accompaniment=3,4", MAX_OUTPUT)
    return outputs


def _numbers(text: str, example: str, most: int) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and 1 <= int(word) <= most for word in words):
        raise ValueError(f"expected channels from 1 to {most}, such as {example}")
    channels = tuple(map(int, words))
    if len(set(channels)) < len(channels):
        raise ValueError(f"expected each channel once, such as {example}")
    return channels


def spell(value: object) -> object:
    """A TOML list or table of channels as the words for it; anything else as it is."""
    if isinstance(value, dict):
        return ";".join(f"{name}={spell(channels)}" for name, channels in value.items())
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
