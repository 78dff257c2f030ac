"""PortAudio devices: what there is, and a stream between one of them and the rings.

The PortAudio callback is a compiled C function: no Python, no GIL on the audio thread. Its contract: it allocates nothing,
waits for nothing and fills the whole output (`rings.exchange`). PortAudio is loaded on first use, not on import.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import ctypes.util
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numba import carray, cfunc, int64, types

from . import StreamsepError
from .rings import (
    ARMED,
    CAPACITY,
    HEADER,
    IN_CHANNELS,
    INPUT_XRUNS,
    OUT_CHANNELS,
    OUTPUT_XRUNS,
    Rings,
    exchange,
)

FILE = "file:"
NONE = "none"
JACK = "JACK"  # how the host API's name begins
CLIENT_NAME = b"streamsep"  # the JACK client's; PortAudio keeps the pointer, so it must stay alive
CLOSE_SECONDS = 2.0  # a living server lets go of a stream within a few periods


class DeviceError(StreamsepError):
    """A device does not exist, cannot be opened as asked, or went away."""


@dataclass(frozen=True)
class DeviceInfo:
    """One PortAudio device, as `streamsep devices` lists it."""

    index: int
    name: str
    host_api: str
    in_channels: int
    out_channels: int
    default_sample_rate: int
    default_input: bool
    default_output: bool

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


# ------------------------------------------------------------------------------------------------------------- PortAudio


@cache
def portaudio() -> ModuleType:
    """The `sounddevice` module, which loads and starts PortAudio.

    Raises
    ------
    DeviceError
        the PortAudio library is not installed.
    """
    library = ctypes.util.find_library("portaudio")
    try:
        if library:
            with contextlib.suppress(AttributeError):  # a PortAudio built without JACK
                ctypes.CDLL(library).PaJack_SetClientName(CLIENT_NAME)
        with _quiet_stderr():  # ALSA and JACK talk of every plug that is empty
            import sounddevice
    except OSError as error:
        raise DeviceError(
            "the PortAudio library is not installed: apt install libportaudio2 (Debian, Ubuntu), brew install portaudio (macOS)"
        ) from error
    return sounddevice


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


def devices() -> list[DeviceInfo]:
    """All PortAudio devices."""
    sd = portaudio()
    apis = sd.query_hostapis()
    default_in, default_out = sd.default.device
    return [
        DeviceInfo(
            index=i,
            name=d["name"],
            host_api=apis[d["hostapi"]]["name"],
            in_channels=d["max_input_channels"],
            out_channels=d["max_output_channels"],
            default_sample_rate=int(d["default_samplerate"]),
            default_input=i == default_in,
            default_output=i == default_out,
        )
        for i, d in enumerate(sd.query_devices())
    ]


def find(name: str | None, kind: str) -> DeviceInfo:
    """The device called `name` for `kind` "input" or "output": an index, a whole name, or words that only one name holds.

    Without a name: JACK's where a server runs (it is there to be used), then PortAudio's default, then the first.

    Raises
    ------
    DeviceError
        none, or more than one.
    """
    usable = [d for d in devices() if (d.in_channels if kind == "input" else d.out_channels)]
    if name is None:
        jack = [d for d in usable if d.host_api.startswith(JACK)]
        defaults = [d for d in usable if (d.default_input if kind == "input" else d.default_output)]
        found = (jack or defaults or usable)[:1]
    elif name.isdecimal():
        found = [d for d in usable if d.index == int(name)]
    else:
        exact = [d for d in usable if name.lower() in (d.name.lower(), f"{d.name}, {d.host_api}".lower())]
        found = exact or [d for d in usable if all(w in f"{d.name} {d.host_api}".lower() for w in name.lower().split())]
    if not usable:
        raise DeviceError(
            f"there is no {kind} device: expected one of a sound card or server; start JACK, PipeWire or PulseAudio, "
            f"or give --{kind} {FILE}PATH"
        )
    if len(found) != 1:
        problem = "is unknown" if not found else f"means {len(found)} devices ({', '.join(str(d.index) for d in found)})"
        listed = ", ".join(f"{d.index} {d.name!r}" for d in usable)
        raise DeviceError(
            f"{kind} device {name!r} {problem}: expected one of {listed} (see `streamsep devices`), or {FILE}PATH"
        )
    return found[0]


# PaStreamCallback's frame count and flags are C's unsigned long.
_ULONG = types.uint32 if sys.platform == "win32" else types.uint64


@cfunc(types.int32(types.voidptr, types.voidptr, _ULONG, types.voidptr, _ULONG, types.voidptr), cache=True)
def _callback(source, sink, frame_count, time_info, status, memory):  # type: ignore[no-untyped-def]
    """PaStreamCallback; `memory` is the rings' (its header says where they lie)."""
    frames = int64(frame_count)
    header = carray(memory, HEADER, np.int64)
    capacity, ins, outs = header[CAPACITY], header[IN_CHANNELS], header[OUT_CHANNELS]
    flags = int64(status) if header[ARMED] else 0  # what happens before the first sound is not heard
    header[INPUT_XRUNS] += (flags & 3) != 0  # paInputUnderflow, paInputOverflow
    header[OUTPUT_XRUNS] += (flags & 12) != 0  # paOutputUnderflow, paOutputOverflow
    samples = carray(memory, 2 * HEADER + capacity * (ins + outs), np.float32)
    first = 2 * HEADER
    inward = samples[first : first + capacity * ins].reshape(capacity, ins)
    outward = samples[first + capacity * ins : first + capacity * (ins + outs)].reshape(capacity, outs)
    exchange(header, inward, outward, carray(source, (frames, ins), np.float32), carray(sink, (frames, outs), np.float32))
    return 0


class PortAudioDevice:
    """A PortAudio stream, duplex or input only.

    Parameters
    ----------
    source, sink
        names as `find` takes them; sink "none" plays nothing.
    sample_rate
        Hz; None: the input device's own.
    block
        frames; 0: the server's own with JACK, elsewhere `hop`, which makes the hand-over cost nothing.
    sources
        how many stems there are: the output gets a pair of channels for each where the device has them.

    Raises
    ------
    DeviceError
        no such device, or one that does not run like that.
    """

    steady = False

    def __init__(
        self, source: str | None, sink: str | None, sample_rate: int | None, block: int, hop_seconds: float, sources: int
    ) -> None:
        self._sd = sd = portaudio()
        inward = find(source, "input")
        outward = None if sink == NONE else self._sink(inward, sink)
        self.sample_rate = sample_rate or inward.default_sample_rate
        self.in_channels = min(2, inward.in_channels)
        self.out_channels = 0
        if outward:
            self.out_channels = 2 * sources if outward.out_channels >= 2 * sources else min(2, outward.out_channels)
        self.steady = inward.host_api.startswith(JACK)  # its periods come at even distances
        self._block = block or (0 if self.steady else round(hop_seconds * self.sample_rate))
        self.name = f"{inward.name} -> {outward.name if outward else NONE} ({inward.host_api})"
        self._indices = inward.index, outward.index if outward else None
        self._stream: Any = None
        try:
            sd.check_input_settings(inward.index, self.in_channels, "float32", samplerate=self.sample_rate)
            if outward:
                sd.check_output_settings(outward.index, self.out_channels, "float32", samplerate=self.sample_rate)
        except sd.PortAudioError as error:
            raise DeviceError(self._problem(error)) from error

    @staticmethod
    def _sink(inward: DeviceInfo, sink: str | None) -> DeviceInfo:
        if sink is not None:
            return find(sink, "output")
        # One stream needs one host API: without a wish stay with the input's.
        same = [d for d in devices() if d.host_api == inward.host_api and d.out_channels]
        chosen = [d for d in same if d.default_output] or [d for d in same if d.name == inward.name] or same
        if not chosen:
            raise DeviceError(f"{inward.host_api} has no output device: name one with --output, or use --output {NONE}")
        return chosen[0]

    def _problem(self, error: Exception) -> str:
        reason = str(error).split("[")[0].strip()
        return f"{self.name} does not open at {self.sample_rate} Hz, block {self._block}: {reason}; see `streamsep devices`"

    def start(self, rings: Rings) -> None:
        """Open and start the stream."""
        sd = self._sd
        inward, outward = self._indices
        duplex = outward is not None
        try:
            self._stream = sd._StreamBase(
                "duplex" if duplex else "input",
                samplerate=self.sample_rate,
                blocksize=self._block,
                device=(inward, outward) if duplex else inward,
                channels=(self.in_channels, self.out_channels) if duplex else self.in_channels,
                dtype="float32",
                latency="low",
                callback=sd._ffi.cast("PaStreamCallback*", _callback.address),
                userdata=sd._ffi.cast("void*", rings.memory.ctypes.data),
            )
            self._stream.start()
        except sd.PortAudioError as error:
            self.stop()
            raise DeviceError(self._problem(error)) from error

    def stop(self) -> None:
        """Stop and close the stream.

        PortAudio waits for ever on a server that was killed. Then it is left behind, and not ended at exit either.
        """
        if self._stream is None:
            return
        closing = threading.Thread(target=self._close, args=(self._stream,), name="streamsep-close", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
        if closing.is_alive():
            atexit.unregister(self._sd._exit_handler)
        self._stream = None

    def _close(self, stream: Any) -> None:
        with contextlib.suppress(self._sd.PortAudioError):  # the server may be gone already
            stream.abort()
        with contextlib.suppress(self._sd.PortAudioError):
            stream.close()

    @property
    def latency(self) -> float:
        """Input plus output latency, seconds, as PortAudio reports it."""
        if self._stream is None:
            return 0.0
        return float(np.sum(self._stream.latency))

    @property
    def finished(self) -> bool:
        """True when the stream has ended without being asked to: the device is gone."""
        return self._stream is None or not self._stream.active
