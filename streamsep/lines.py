"""Several streams on one device, as the settings name them: which channels each hears, and where its sources go.

A device knows sources and channels, no streams. So to it the sources of all streams are so many sources of one, named
`<stream>_<source>`, and its inputs are all the channels that any stream hears, in the order in which they are first named. Here
that is made of the settings, and what the device then is, is cut into each stream's `live.Share`. This module knows neither
engines nor OSC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .channelmap import MIX, Routes, Wiring, default_routes, part
from .config import Config, ConfigError, StreamConfig
from .live import Share


@dataclass(frozen=True)
class Lines:
    """The streams of a configuration with the sources of a model.

    Raises
    ------
    ValueError
        a source that the model has not.
    """

    streams: Sequence[StreamConfig]
    sources: tuple[str, ...]

    def __post_init__(self) -> None:
        for stream, name in zip(self.streams, self.names, strict=True):
            for source in (*stream.gain, *stream.mute):
                self._check(name, source, self.sources)
            for source in stream.wiring.outputs:
                self._check(name, source, (*self.sources, MIX))

    @staticmethod
    def _check(stream: str, source: str, known: Sequence[str]) -> None:
        if source not in known:
            raise ValueError(f"stream {stream!r}: source {source!r} is unknown: expected one of {', '.join(known)}")

    @property
    def names(self) -> tuple[str, ...]:
        """What the streams are called: by themselves, or `stream1` and so on."""
        return tuple(stream.name or f"stream{n}" for n, stream in enumerate(self.streams, 1))

    @property
    def channels(self) -> tuple[int, ...]:
        """How many channels each has."""
        return tuple(len(stream.wiring.inputs) for stream in self.streams)

    @property
    def all_sources(self) -> tuple[str, ...]:
        """The sources of all streams, for the device."""
        return tuple(f"{name}_{source}" for name in self.names for source in self.sources)

    @property
    def inputs(self) -> tuple[int, ...]:
        """The device's channels that are heard, counted from 1."""
        return tuple(dict.fromkeys(channel for stream in self.streams for channel in stream.wiring.inputs))

    @property
    def wiring(self) -> Wiring:
        """What the device is to be asked for."""
        named = list(zip(self.names, self.streams, strict=True))
        names: dict[int, str] = {}
        for name, stream in named:
            for place, channel in enumerate(stream.wiring.inputs, 1):
                names.setdefault(channel, f"{name}_{place}")
        return Wiring(
            inputs=self.inputs,
            outputs={f"{name}_{source}": to for name, stream in named for source, to in stream.wiring.outputs.items()},
            channels={f"{name}_{s}": len(stream.wiring.inputs) for name, stream in named for s in self.sources},
            groups={f"{name}_{MIX}": tuple(f"{name}_{s}" for s in self.sources) for name in self.names},
            input_names=tuple(names.values()),
        )

    def shares(self, routes: Routes | None, inputs: Sequence[int], outputs: int) -> list[Share]:
        """Each stream's part of a device with the channels `inputs` (counted from 1) and `outputs` of them, routed by `routes`.

        Raises
        ------
        ValueError
            a channel that the device has not.
        """
        count = len(self.sources)
        if routes is None:
            routes = default_routes(len(self.all_sources), [n for n in self.channels for _ in self.sources], outputs)
        shares = []
        for n, (name, stream) in enumerate(zip(self.names, self.streams, strict=True)):
            for channel in stream.wiring.inputs:
                if channel not in inputs:
                    raise ValueError(f"stream {name!r}: input channel {channel}: expected one of {', '.join(map(str, inputs))}")
            columns = tuple(inputs.index(channel) for channel in stream.wiring.inputs)
            shares.append(Share(columns, part(routes, n * count, count)))
        return shares


def lines_of(config: Config, sources: Sequence[str]) -> Lines | None:
    """The streams of `config` with a model's `sources`, None where it names no streams; ConfigError: they cannot be."""
    try:
        return Lines(config.stream, tuple(sources)) if config.stream else None
    except ValueError as error:
        raise ConfigError(str(error)) from error


def as_one(config: Config, sources: Sequence[str]) -> tuple[tuple[str, ...], Wiring]:
    """Sources and channels as a device is to see them, whatever the number of streams."""
    lines = lines_of(config, sources)
    return (lines.all_sources, lines.wiring) if lines else (tuple(sources), config.wiring)
