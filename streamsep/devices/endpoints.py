"""The two ends of the sound as they will be opened: which devices, channels, rate and block. It opens nothing.

What cannot be is refused here, by name and with what would be possible, before anything runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..channelmap import Routes, Wiring
from .names import DEFAULT, JACK, NONE, find, recall, remember, same_clock, spelling
from .portaudio import DeviceError, DeviceInfo, accepts, asio_selectors, rates, settings


@dataclass
class End:
    """One device. `channels` are those of its stream; `kind` is "input" or "output"; `settings` the host API's own."""

    kind: str
    info: DeviceInfo
    channels: int
    sample_rate: int
    settings: Any = None
    block: int = 0

    @property
    def steady(self) -> bool:
        """Whether its periods come at even distances by design."""
        return self.info.host_api.startswith(JACK)

    def can(self) -> bool:
        """Whether the device says that it can do that."""
        return accepts(self.info, self.kind, self.channels, self.sample_rate, self.settings)

    def problem(self, reason: object) -> str:
        """Why it does not open: the usual reason is the rate."""
        possible = rates(self.info, self.kind, self.channels, self.settings)
        name = f"{self.kind} {self.info.name!r} ({self.info.host_api})"
        if possible and self.sample_rate not in possible:
            return f"rate={self.sample_rate} Hz: {name} cannot do that; it can do {', '.join(map(str, possible))} Hz"
        why = str(reason).split("[")[0].strip()
        return (
            f"{name} does not open at {self.sample_rate} Hz with {self.channels} channels, block {self.block}: {why}; "
            f"see `streamsep devices`"
        )


@dataclass
class Ends:
    """Input, output and what lies between.

    `picks` are the input stream's channels that are heard, from 0. `spelled` are the names by which the same devices are found
    again, `asked` the names as they were given; `notes` is what somebody should be told.
    """

    input: End
    output: End | None
    picks: tuple[int, ...]
    routes: Routes | None
    two: bool
    spelled: tuple[str, str]
    asked: tuple[str | None, str | None]
    notes: list[str] = field(default_factory=list)

    def remember(self) -> None:
        """Keep the names that were given for the next time; "default" forgets them."""
        for kind, asked, spelled in zip(("input", "output"), self.asked, self.spelled, strict=True):
            if asked not in (None, NONE):
                remember(kind, None if str(asked).lower() == DEFAULT else spelled)


def choose(
    source: str | None,
    sink: str | None,
    sample_rate: int | None,
    wiring: Wiring,
    sources: Sequence[str],
    host_api: Mapping[str, Any],
    clocks: str,
    there: Sequence[DeviceInfo],
) -> Ends:
    """The ends among the devices that are `there`; see `device.PortAudioDevice` for the rest.

    Raises
    ------
    DeviceError
        no such device, or not like that.
    """
    notes: list[str] = []
    inward = find(_last(source, "input", there, notes), "input", there)
    outward = None if sink == NONE else _sink(inward, _last(sink, "output", there, notes), there)
    rate = sample_rate or inward.default_sample_rate
    picks, own = _inputs(inward, wiring), "ASIO" in inward.host_api  # ASIO opens the channels it is told and no others
    entry = End("input", inward, len(picks) if own else max(picks), rate)
    entry.settings = asio_selectors(inward.host_api, picks) or settings(inward.host_api, host_api)
    exit_ = End("output", outward, _outputs(outward, wiring, len(sources)), rate) if outward else None
    two = outward is not None and (clocks == "two" or (clocks == "auto" and not same_clock(inward, outward)))
    if exit_ and outward:
        exit_.settings = settings(outward.host_api, host_api)
        if two and not exit_.can():
            exit_.sample_rate = outward.default_sample_rate
    for end in filter(None, (entry, exit_)):
        if not end.can():
            raise DeviceError(end.problem("the device refuses this"))
    try:
        routes = wiring.routes(sources, len(picks)) if outward else None
    except ValueError as error:
        raise DeviceError(str(error)) from error
    spelled = spelling(inward, there), spelling(outward, there) if outward else NONE
    heard = tuple(range(len(picks))) if own else tuple(c - 1 for c in picks)
    return Ends(entry, exit_, heard, routes, two, spelled, (source, sink), notes)


def _last(name: str | None, kind: str, there: Sequence[DeviceInfo], notes: list[str]) -> str | None:
    """`name`, or the one that was named last, of which a line is noted."""
    last = recall(kind, there) if name is None else None
    if last:
        notes.append(f"{kind} {last!r} as last time; --{kind} {DEFAULT} is the system's")
    return last or name


def _sink(inward: DeviceInfo, sink: str | None, there: Sequence[DeviceInfo]) -> DeviceInfo:
    if sink is not None:
        return find(sink, "output", there)
    # Without a wish stay with the input's clock if that can be.
    same = [d for d in there if d.host_api == inward.host_api and d.out_channels]
    chosen = [d for d in same if same_clock(d, inward)] or [d for d in same if d.default_output] or same
    if not chosen:
        raise DeviceError(f"{inward.host_api} has no output device: name one with --output, or use --output {NONE}")
    return chosen[0]


def _inputs(info: DeviceInfo, wiring: Wiring) -> tuple[int, ...]:
    picks = wiring.inputs or tuple(range(1, 1 + min(2, info.in_channels)))
    if max(picks) > info.in_channels:
        raise DeviceError(
            f"input_channels={','.join(map(str, picks))}: expected channels from 1 to {info.in_channels} of {info.name!r}"
        )
    return picks


def _outputs(info: DeviceInfo, wiring: Wiring, sources: int) -> int:
    if wiring.highest_output > info.out_channels:
        raise DeviceError(
            f"output_channels={wiring.highest_output}: expected channels from 1 to {info.out_channels} of {info.name!r}"
        )
    return wiring.highest_output or (2 * sources if info.out_channels >= 2 * sources else min(2, info.out_channels))
