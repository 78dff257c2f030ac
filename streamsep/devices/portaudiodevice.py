"""A PortAudio device: one stream between it and the rings, or two where input and output run by different clocks.

What the streams call is compiled (`callbacks`), how two clocks are brought together is `drift`'s, which devices are meant and
how they are opened `endpoints`'. A device that was stopped is not started again; `again` makes a new one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import native
from ..channelmap import Wiring
from ..rings import PATIENCE, Rings, make_rings
from . import callbacks, drift
from .endpoints import End, choose
from .names import FILE, NONE, find
from .portaudio import ANSWER_SECONDS, DeviceError, DeviceInfo, devices, portaudio, quiet_alsa, quiet_stderr, restart, within

__all__ = ["FILE", "NONE", "DeviceError", "DeviceInfo", "PortAudioDevice", "devices", "find", "portaudio", "restart"]

SILENT_SECONDS = 1.0  # an output that does not call for so long is gone
# Two clocks are watched so long before sound, at least and at most: a null sink may begin after 2 s.
WATCH_SECONDS, KNOWN_SECONDS, WATCH_AT_MOST = 1.2, 0.1, 8.0


class PortAudioDevice:
    """A PortAudio device or two of them, duplex or input only.

    Parameters
    ----------
    source, sink
        names as `names.find` takes them; None: the last that was named, else the default; sink "none" plays nothing.
    sample_rate
        Hz; None: the input device's own. An output with a clock of its own may have a rate of its own.
    block
        frames; 0: the server's own with JACK, elsewhere one hop, which makes the hand-over cost nothing.
    sources
        the stems' names: the output gets a pair of channels for each where the device has them.
    wiring
        other channels than the first ones.
    host_api
        settings for the host API alone, such as `exclusive` (see `portaudio.settings`).
    clocks
        "one": one stream; "two": a stream each and a resampler between; "auto": by the devices' names.

    Raises
    ------
    DeviceError
        no such device, or one that does not run like that.
    """

    def __init__(
        self,
        source: str | None,
        sink: str | None,
        sample_rate: int | None,
        block: int,
        hop_seconds: float,
        sources: Sequence[str],
        wiring: Wiring | None = None,
        host_api: Mapping[str, Any] | None = None,
        clocks: str = "auto",
    ) -> None:
        self._sd = portaudio()
        quiet_alsa(callbacks.ignore.address)
        self._wishes: tuple[Any, ...] = block, hop_seconds, sources, wiring, host_api, clocks
        self.ends = choose(source, sink, sample_rate, wiring or Wiring(), sources, host_api or {}, clocks, devices())
        self._input, self._output = self.ends.input, self.ends.output
        for end in filter(None, (self._input, self._output)):
            end.block = block or (0 if end.steady else round(hop_seconds * end.sample_rate))
        self.two, self.routes, self.notes, self.spelled = self.ends.two, self.ends.routes, self.ends.notes, self.ends.spelled
        self.name = f"{self.spelled[0]} -> {self.spelled[1]}" + (", two clocks" if self.two else "")
        self.sample_rate = self._input.sample_rate
        self.in_channels, self.out_channels = len(self.ends.picks), self._output.channels if self._output else 0
        self.steady = self._input.steady
        self._streams: list[Any] = []
        # What the callbacks work on lives as long as they may be called.
        self._bridge = np.zeros(drift.PLACES, np.int64)
        self._times = self._bridge.view(np.float64)
        self._memory: tuple[Any, ...] = ()
        self._known_margin = 0.0  # input frames; from the same devices, earlier
        self._seen = 0, time.monotonic()

    # ------------------------------------------------------------------------------------------------------ start and stop

    def start(self, rings: Rings) -> None:
        """Open and start."""
        sink_rate = self._output.sample_rate if self._output else self.sample_rate
        kernel = drift.kernel(self.sample_rate / sink_rate)
        scratch = np.zeros(kernel.shape[1] + self.out_channels)
        self._memory = rings, kernel, scratch
        self._bridge[:] = drift.make_bridge(rings, kernel, scratch, self.sample_rate, sink_rate)
        self._bridge[drift.WIDTH] = self._input.channels
        self._bridge[drift.PICKS :][: self.in_channels] = self.ends.picks
        if native.AVAILABLE:
            self._bridge[drift.CLOCK] = native.clock().gettime
        try:
            if self.two and self._output:
                self._open(callbacks.on_input, self._input)
                self._open(callbacks.on_output, self._output)
            else:
                self._open(callbacks.on_both, self._input, self._output)
        except DeviceError:
            self.stop()
            raise
        self.ends.remember()

    def _open(self, callback: Any, end: End, other: End | None = None) -> None:
        """Open and start a stream of `end`, and of `other` where both share it."""
        sd, ends = self._sd, [end, other] if other else [end]
        per_end = {
            "device": [e.info.index for e in ends],
            "channels": [e.channels for e in ends],
            "extra_settings": [e.settings for e in ends],
        }
        try:
            with quiet_stderr():
                stream = sd._StreamBase(
                    "duplex" if other else end.kind,
                    samplerate=end.sample_rate,
                    blocksize=end.block,
                    dtype="float32",
                    latency="low",
                    callback=sd._ffi.cast("PaStreamCallback*", callback.address),
                    userdata=sd._ffi.cast("void*", self._bridge.ctypes.data),
                    **{key: values if other else values[0] for key, values in per_end.items()},
                )
                self._streams.append(stream)
                stream.start()
        except sd.PortAudioError as error:
            raise DeviceError((other or end).problem(error)) from error

    def stop(self) -> None:
        """Stop and close the streams; what waits for a server that was killed is left behind."""
        streams, self._streams = self._streams, []

        def close() -> None:
            for stream in streams:
                for step in (stream.abort, stream.close):
                    with contextlib.suppress(self._sd.PortAudioError):  # the server may be gone already
                        step()

        if not within(ANSWER_SECONDS, close):  # should it call once more, then into rings that nobody uses
            unused = make_rings(1, self.in_channels, self.out_channels, self.in_channels)
            self._memory += (unused,)
            self._bridge[drift.RINGS] = unused.memory.ctypes.data

    def again(self) -> PortAudioDevice:
        """The same devices, by their names, to be started anew. Only after `stop`; DeviceError while one is not there."""
        restart()
        device = PortAudioDevice(*self.spelled, self.sample_rate, *self._wishes)
        device.ends.asked = None, None  # nobody asked for these names
        device._known_margin = float(self._times[drift.MARGIN])
        return device

    # ----------------------------------------------------------------------------------------------------- how it is doing

    @property
    def latency(self) -> float:
        """Input plus output latency, seconds, as PortAudio reports them, and what lies between two clocks.

        The first look waits until two clocks have been watched long enough, and fixes the distance between them.
        """
        if not self._streams:
            return 0.0
        between = self._margin() / self.sample_rate if self.two else 0.0
        return between + float(sum(np.sum(stream.latency) for stream in self._streams))

    def _margin(self) -> float:
        """How far playback stays behind the schedule, input frames.

        As in `live`, one block of two is always allowed for where blocks may come in bursts.
        """
        if self._times[drift.MARGIN] == 0 and self._output:
            self._watch(KNOWN_SECONDS if self._known_margin else WATCH_SECONDS)
            late, early = (0.0 if end.steady else end.block / end.sample_rate for end in (self._input, self._output))
            late = max(late, 1e-9 * int(self._memory[0].header[PATIENCE]))
            margin = self._known_margin or drift.margin(self._bridge, self._times, late, early)
            self._times[drift.MARGIN] = margin
        return float(self._times[drift.MARGIN])

    def _watch(self, seconds: float) -> None:
        """Until both lines have settled, and are so old."""
        lines, end = np.array([drift.CAPTURE, drift.PLAYBACK]), time.monotonic() + WATCH_AT_MOST
        while self._times[lines + drift.SETTLED].min() == 0 or self._times[lines + drift.AGE].min() < seconds:
            if time.monotonic() > end or not all(stream.active for stream in self._streams):
                raise DeviceError(f"{self.name}: one of the two delivers no sound: is its server running?")
            time.sleep(0.01)

    @property
    def finished(self) -> bool:
        """True when a stream has ended without being asked to, or an output of its own is silent: a device is gone."""
        calls, now = int(self._bridge[drift.CALLS]), time.monotonic()
        if calls != self._seen[0] or self._times[drift.MARGIN] == 0:  # the input's calls everyone sees in the rings
            self._seen = calls, now
        silent = now - self._seen[1] > SILENT_SECONDS
        return silent or not self._streams or not all(stream.active for stream in self._streams)

    @property
    def drift(self) -> dict[str, float]:
        """How two clocks go: the output's against the input's, ppm, and how often playback lost its place; {} with one."""
        ppm = -1e6 * self._times[drift.SUM] / (self._times[drift.NOMINAL] or 1)
        return {"ppm": round(float(ppm), 1), "jumps": int(self._bridge[drift.JUMPS])} if self.two else {}

    def set_latency(self, samples: int) -> None:
        """PortAudio has nobody to tell."""
