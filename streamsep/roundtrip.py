"""Measures a round trip: plays a burst, records what comes back, and holds its delay beside what was promised.

Two ways. `through_device`: out of a device and into it again, by a cable; the very stream that a live run uses, so the figure
is the device's own part of the daemon's latency. `through_jack`: a JACK client of its own that is wired into any graph, for
example around a running daemon. In both, playing and recording share one clock and one callback.

A way that begins and ends in the same JACK client is a loop, and every loop in the graph holds one period: a cycle computes
each client once, so somewhere around the loop is what was computed the cycle before. That period belongs to the measurement
and not to what stands in the loop; it is a part of its own here (`graph`).

What the signal is and how it is found is `loopback`'s.
"""

from __future__ import annotations

import ctypes
import math
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import build_msg

from . import StreamsepError, loopback
from .devices.filedevice import FileDevice
from .devices.portaudiodevice import DeviceError
from .live import Device
from .rings import CALLS, IN_WRITE, INPUT_XRUNS, MAX_BLOCK, OUT_READ, OUTPUT_XRUNS, arm, make_rings

SECONDS = 2.0  # of signal
LEAD = 0.3  # s of silence before it: streams start with a shock of their own
LEARNING = 10.0  # s of it where input and output are two devices: until one clock is followed to the sample
LEVEL_DB = -20.0
MAX_DELAY = 2.0  # s
TRIES = 3  # a recording with a gap in it is thrown away
CLIENT = "streamsep-latency"
FULL_SCALE = 0.999
_WITHIN = 3.0  # s for a device to begin, and a daemon to answer
_TICK = 0.02
_CAPTURE, _PLAYBACK = 0, 1  # jack_latency_callback_mode_t


class RoundTripError(StreamsepError):
    """A round trip cannot be measured."""


@dataclass(frozen=True)
class Take:
    """One burst and its recording."""

    sent: NDArray[np.float32]  # [shape=(samples,)]
    heard: NDArray[np.float32]  # [shape=(channels, longer)], from the moment on in which sent[0] was played
    sample_rate: int
    block: int
    name: str
    promised: dict[str, int]  # parts of the delay that are known beforehand, samples
    gaps: int  # xruns meanwhile


@dataclass(frozen=True)
class RoundTrip:
    """What was measured, and what was promised."""

    take: Take
    loop: loopback.Loop | None  # of the channel that heard it best; None: no loopback
    channel: int  # 0: none

    @property
    def promised(self) -> int:
        """Samples."""
        return sum(self.take.promised.values())

    def as_dict(self) -> dict[str, Any]:
        """For JSON. Delays in samples and ms, levels in dB."""
        take, loop = self.take, self.loop
        result: dict[str, Any] = {
            "loopback": loop is not None,
            "device": take.name,
            "sample_rate": take.sample_rate,
            "block": take.block,
            "xruns": take.gaps,
            "recorded_dbfs": round(_db(float(np.abs(take.heard).max(initial=0))), 1),
            "computed_samples": take.promised | {"total": self.promised},
            "computed_ms": {k: _ms(v, take.sample_rate) for k, v in (take.promised | {"total": self.promised}).items()},
        }
        if loop is None:
            return result
        return result | {
            "measured_samples": round(loop.delay, 3),
            "measured_ms": _ms(loop.delay, take.sample_rate),
            "difference_samples": round(loop.delay - self.promised, 3),
            "confidence": loop.confidence,
            "false_alarm": loop.false_alarm,
            "snr_db": round(loop.snr_db, 1),
            "gain_db": round(_db(abs(loop.gain)), 2),
            "inverted": loop.gain < 0,
            "channel": self.channel,
            "steady": loop.steady,
            "spread_samples": round(loop.spread, 3),
            "other_paths": [{"samples": round(p.delay, 3), "gain_db": round(_db(abs(p.gain)), 1)} for p in loop.others],
        }

    def why_none(self) -> str:
        """One line for whoever expected a loop."""
        loudest = float(np.abs(self.take.heard).max(initial=0))
        level = f"the loudest sample is at {_db(loudest):.0f} dBFS" if loudest else "there is digital silence"
        return (
            f"no loopback: what {self.take.name} recorded does not hold the signal ({level}); connect an output to an input, "
            f"or raise --level. A separator takes noise out of the voice: return all of its sources, or bypass it"
        )

    def remarks(self) -> list[str]:
        """What whoever reads the figure should know, a line each."""
        take, loop, lines = self.take, self.loop, []
        if take.gaps:
            lines.append(f"{take.gaps} xruns while it was measured, {TRIES} times over: use larger blocks or a quieter machine")
        if np.abs(take.heard).max(initial=0) >= FULL_SCALE:
            lines.append("the input clips: turn it down, or measure with a lower --level")
        if loop and not loop.steady:
            lines.append(
                f"the delay moved by {loop.spread:.1f} samples within {len(take.sent) / take.sample_rate:g} s: "
                f"do input and output run on different clocks, or does something in the loop queue up?"
            )
        if loop and loop.others:
            found = ", ".join(f"{p.delay:.0f} samples ({_db(abs(p.gain / loop.gain)):+.0f} dB)" for p in loop.others)
            lines.append(f"other paths lead back too: {found}")
        return lines


def _db(amplitude: float) -> float:
    return 20 * math.log10(max(amplitude, 1e-10))


def _ms(samples: float, sample_rate: int) -> float:
    return round(1e3 * samples / sample_rate, 3)


def measure(record: Callable[[], Take], promised: dict[str, int] | None = None) -> RoundTrip:
    """Record, again if there was a gap, and find the signal in the channel that holds most of it.

    `promised` are parts of the delay beside those that the recording knows of, samples (`promised_by_daemon`).
    """
    for _ in range(TRIES):
        take = record()
        if not take.gaps:
            break
    take = replace(take, promised=(promised or {}) | take.promised)
    found = [(loopback.find(take.sent, y, take.sample_rate), channel) for channel, y in enumerate(take.heard, 1)]
    loops = [(loop, channel) for loop, channel in found if loop]
    if not loops:
        return RoundTrip(take, None, 0)
    loop, channel = max(loops, key=lambda entry: entry[0].coherence)
    chance = min(1.0, loop.false_alarm * len(take.heard))  # each channel was one more chance
    return RoundTrip(take, replace(loop, false_alarm=chance), channel)


# ------------------------------------------------------------------------------------------------------------ by a device


def through_device(device: Device, max_delay: float = MAX_DELAY, level_db: float = LEVEL_DB) -> Take:
    """Play the burst on all outputs of `device` and record all its inputs; `max_delay` in s.

    The rings do it as in a live run, but for the worker: the burst lies in the output ring before it is due, and an input
    ring that is long enough keeps all that comes.

    Raises
    ------
    RoundTripError
        the device has no output, or delivers nothing.
    DeviceError
        it does not open.
    """
    rate = device.sample_rate
    if not device.out_channels or isinstance(device, FileDevice):
        raise RoundTripError(f"{device.name} is no way round: expected an input and an output of a sound card or server")
    lead = round((LEARNING if getattr(device, "two", False) else LEAD) * rate)
    sent = loopback.burst(round(SECONDS * rate), rate, level_db)
    total = lead + len(sent) + round(max_delay * rate)
    rings = make_rings(total + rate, device.in_channels, device.out_channels, device.in_channels)
    header, wrap = rings.header, len(rings.inward) - 1
    device.start(rings)
    try:
        _wait(lambda: header[CALLS] >= 4, _WITHIN, device)
        promised = round(device.latency * rate)
        first_in, first_out = int(header[IN_WRITE]), int(header[OUT_READ])
        arm(rings, total)
        rings.outward[(first_out + lead + np.arange(len(sent))) & wrap] = sent[:, None]
        _wait(lambda: header[IN_WRITE] - first_in >= total, total / rate + _WITHIN, device)
    finally:
        device.stop()
    heard = rings.inward[(first_in + np.arange(lead, total)) & wrap].T
    gaps = int(header[INPUT_XRUNS] + header[OUTPUT_XRUNS])
    return Take(sent, np.ascontiguousarray(heard), rate, int(header[MAX_BLOCK]), device.name, {"device": promised}, gaps)


def _wait(ready: Callable[[], bool], seconds: float, device: Device) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end or device.finished:
            raise RoundTripError(f"{device.name} delivers no sound: is its server running?")
        time.sleep(_TICK)


# ----------------------------------------------------------------------------------------------------- in the JACK graph


def through_jack(send: Sequence[str], back: Sequence[str], max_delay: float = MAX_DELAY, level_db: float = LEVEL_DB) -> Take:
    """Play the burst into the ports `send` and record what comes out of the ports `back`, added up; `max_delay` in s.

    A port is named as `jack_lsp` lists it; a client's name means all of its ports. With no port at all the client's own
    output is wired to its own input: the graph alone.

    Raises
    ------
    DeviceError
        no server, or no such port.
    RoundTripError
        the server stopped calling.
    """
    jack = _jack()
    try:
        client = jack.Client(CLIENT, no_start_server=True)
    except jack.JackError as error:
        raise DeviceError("there is no JACK server: start jackd or PipeWire (see `jack_lsp`)") from error
    try:
        probe = _Probe(client, max_delay, level_db)
        to, fro = _ports(client, send, "send"), _ports(client, back, "return")
        if bool(to) != bool(fro):
            raise DeviceError("a round trip has two ends: expected both --send and --return, or neither")
        client.activate()
        for port in to or [probe.input]:
            client.connect(probe.output, port)
        for port in fro:
            client.connect(port, probe.input)
        promised = _of_the_graph(jack, client, to, fro)
        heard = probe.run()
        return Take(probe.sent, heard[None], client.samplerate, client.blocksize, _name(to, fro), promised, probe.gaps)
    except jack.JackError as error:
        raise DeviceError(f"JACK: {error}") from error
    finally:
        client.close()


def _jack() -> ModuleType:
    try:
        import jack
    except (ImportError, OSError) as error:
        raise DeviceError("JACK's library is not installed: apt install libjack-jackd2-0 (Debian, Ubuntu)") from error
    jack.set_error_function(lambda text: None)  # failures are told by what its functions raise
    jack.set_info_function(lambda text: None)
    return jack


def _ports(client: Any, names: Sequence[str], option: str) -> list[Any]:
    """The ports that `names` mean: whole names, or clients."""
    known = [p for p in client.get_ports(is_audio=True, is_input=option == "send", is_output=option == "return")]
    known = [port for port in known if not client.owns(port)]
    found = []
    for name in names:
        ports = [p for p in known if name in (p.name, p.name.rpartition(":")[0])]
        if not ports:
            listed = ", ".join(p.name for p in known) or "(there is none)"
            raise DeviceError(f"--{option} {name!r} is unknown: expected a client, or one of {listed}")
        found += ports
    return found


def _name(to: Sequence[Any], fro: Sequence[Any]) -> str:
    if not to:
        return f"{CLIENT}'s own output -> its input (JACK)"
    return f"{', '.join(p.name for p in to)} -> {', '.join(p.name for p in fro)} (JACK)"


def _of_the_graph(jack: ModuleType, client: Any, to: Sequence[Any], fro: Sequence[Any]) -> dict[str, int]:
    """What JACK knows of the way: a sound card's latencies at its two ends, or the one period that a loop holds."""
    if to and fro and all(port.is_physical for port in (*to, *fro)):
        return {"playback": _latency(jack, to[0], _PLAYBACK), "capture": _latency(jack, fro[0], _CAPTURE)}
    return {"graph": int(client.blocksize)}


def _latency(jack: ModuleType, port: Any, mode: int) -> int:
    """The largest latency of a port, samples; JACK-Client does not declare the function."""
    ask = ctypes.CDLL(jack._libname).jack_port_get_latency_range
    ask.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
    span = (ctypes.c_uint32 * 2)()  # jack_latency_range_t: min, max
    ask(int(jack._ffi.cast("uintptr_t", port._ptr)), mode, ctypes.byref(span))
    return int(span[1])


class _Probe:
    """A JACK client's two ports and the callback between them.

    In Python: it only copies a block each way, and this is no audio path of the daemon's. It goes by JACK's own frame time:
    a cycle that it misses leaves a gap, which is counted, and shifts nothing.
    """

    def __init__(self, client: Any, max_delay: float, level_db: float) -> None:
        rate = client.samplerate
        self.output, self.input = client.outports.register("out"), client.inports.register("in")
        self.sent = loopback.burst(round(SECONDS * rate), rate, level_db)
        self.gaps = 0
        self._lead = round(LEAD * rate)
        self._total = self._lead + len(self.sent) + round(max_delay * rate)
        self._out = np.zeros(self._total, np.float32)
        self._out[self._lead : self._lead + len(self.sent)] = self.sent
        self._heard = np.zeros(self._total, np.float32)
        self._client, self._rate = client, rate
        self._first: int | None = None
        self._next, self._at = 0, 0
        self._armed = False
        client.set_process_callback(self._process)

    def _process(self, frames: int) -> None:
        # Taken first: where the output is wired to the input, both are one piece of memory.
        x, y = self.input.get_array().copy(), self.output.get_array()
        y[:] = 0
        if not self._armed:
            return
        now = self._client.last_frame_time
        if self._first is None:
            self._first = self._next = now
        self.gaps += now != self._next
        self._next = (now + frames) & 0xFFFFFFFF
        at = (now - self._first) & 0xFFFFFFFF
        n = min(frames, self._total - at)
        if n > 0:
            y[:n] = self._out[at : at + n]
            self._heard[at : at + n] = x[:n]
        self._at = at + frames

    def run(self) -> NDArray[np.float32]:
        """Play and record once; the recording from the burst's first sample on."""
        self._armed = True
        end = time.monotonic() + self._total / self._rate + _WITHIN
        while self._at < self._total:
            if time.monotonic() > end:
                raise RoundTripError("the JACK server stopped calling: is it still running?")
            time.sleep(_TICK)
        self._armed = False
        return self._heard[self._lead :]


# -------------------------------------------------------------------------------------------------- what a daemon promises


def promised_by_daemon(port: int, host: str = "127.0.0.1") -> dict[str, int]:
    """Algorithmic latency and buffering of the daemon whose OSC port this is, samples at its rate.

    Its device's part stays out: a way through the graph passes no sound card.

    Raises
    ------
    RoundTripError
        nobody answers there.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(_WITHIN)
        try:
            asking.connect((host, port))
            asking.send(build_msg("/streamsep/status", []).dgram)
            values = OscMessage(asking.recv(65536)).params
        except (OSError, ValueError) as error:
            raise RoundTripError(f"no streamsep answers on OSC port {port}: expected the port its start-up names") from error
    status = dict(zip(values[::2], values[1::2], strict=False))
    try:
        return {part: int(status[f"latency_samples.{part}"]) for part in ("algorithmic", "buffering")}
    except KeyError as error:
        raise RoundTripError(f"what answers on OSC port {port} tells no latency ({error}): is it streamsep?") from error
