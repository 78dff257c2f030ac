"""A listener: sound of a running daemon, taken off the wire, to a file or to a sound device.

    socket -> `Assembly`: in order, holes as silence of their exact length -> sink

It subscribes over UDP, answers when asked whether it wants the sound, and keeps the lease. This module knows the daemon only by
its messages; it imports nothing of the engine.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
import soxr
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import build_msg

from . import StreamsepError
from .osc.packet import AUDIO, unpack
from .osc.reception import Assembly, Frames, Jitter
from .soundfiles import AudioFileError, reason, replacing

KEEP = 3.0  # s between two subscriptions: a lease lasts 10
ASK_AGAIN = 0.5  # s until an answer that has not come is asked for again
GIVE_UP = 5.0  # s without any answer
GONE = 15.0  # s without anything: a daemon that starts again is back before
PLAY_AHEAD = 0.06  # s of sound that waits for the device
RECEIVE = 0.05  # s; how soon the end is noticed
REPORT_EVERY = 1.0  # s

Report = dict[str, object]


class ListenError(StreamsepError):
    """There is no daemon, or it refuses."""


class Sink(Protocol):
    """Where sound goes."""

    def write(self, frames: Frames) -> None:
        """Take `frames` `[shape=(frames, channels)]`."""


class Listener:
    """A subscription to one source of the daemon at `host`:`port`, with a socket of its own; a context manager.

    Raises
    ------
    ListenError
        nobody answers there, or the daemon refuses.
    """

    def __init__(self, source: str, host: str = "127.0.0.1", port: int = 9000, encoding: str = "f32") -> None:
        self.source, self.host, self.port = source, host, port
        self.format: dict[str, Any] = {}  # what the daemon says of the stream
        self.measured_rate = 0.0  # Hz
        self.assembly, self.jitter = Assembly(), Jitter()
        self.unreadable = 0
        self._heard = time.monotonic()  # s
        self._subscribe = build_msg(f"{AUDIO}/subscribe", [source, 0, encoding]).dgram
        self._asked = 0.0  # s, monotonic
        self._socket = _connect(host, port)
        try:
            self._begin()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._send(build_msg(f"{AUDIO}/unsubscribe", [self.source]).dgram)
        finally:
            self._socket.close()

    def _begin(self) -> None:
        """Subscribe, and wait until the daemon says what comes."""
        end = time.monotonic() + GIVE_UP
        while not self.format:
            if time.monotonic() > end:
                raise ListenError(
                    f"nobody answers at {self.host}:{self.port}: is streamsep running there, with --osc-host and --osc-port "
                    "that let it hear this machine?"
                )
            if time.monotonic() - self._asked > ASK_AGAIN:
                self._ask()
            for _ in self.receive():
                pass

    def _ask(self) -> None:
        self._asked = time.monotonic()
        self._send(self._subscribe)

    def _send(self, data: bytes) -> None:
        try:
            self._socket.send(data)
        except ConnectionRefusedError:  # told of an earlier packet: nobody listens there, now
            pass
        except OSError as error:
            raise ListenError(f"{self.host}:{self.port} cannot be reached ({error.strerror}): check the network") from error

    def receive(self) -> Iterator[Frames]:
        """What comes within `RECEIVE`, in order; keeps the lease. To be called again and again."""
        if time.monotonic() - self._asked > KEEP:
            self._ask()
        try:
            data = self._socket.recv(65_536)
        except (TimeoutError, ConnectionRefusedError):  # silence, or the daemon is not there: it may come back
            return
        self._heard = now = time.monotonic()
        if data.startswith(AUDIO.encode() + b"\0"):
            try:
                packet = unpack(data)
            except ValueError:
                self.unreadable += 1
                return
            self.jitter.note(now, packet)
            self.measured_rate = packet.sample_rate
            yield from self.assembly.feed(packet)
        else:
            self._obey(data)

    def _obey(self, data: bytes) -> None:
        try:
            message = OscMessage(data)
        except Exception:  # python-osc lets more than its own ParseError through
            self.unreadable += 1
            return
        address, values = message.address, message.params
        if address == f"{AUDIO}/challenge":
            self._send(build_msg(f"{AUDIO}/confirm", values[:1]).dgram)
        elif address == f"{AUDIO}/format" and len(values) >= 8:
            names = ("stream_id", "source", "sample_rate", "channels", "frames_per_packet", "encoding", "delay", "lost_frames")
            self.format = dict(zip(names, values, strict=False))
        elif address == "/streamsep/error" and values[:1] == [f"{AUDIO}/subscribe"]:
            raise ListenError(f"{self.host}:{self.port} refuses: {values[1]}")

    @property
    def gone(self) -> bool:
        """Whether the daemon has been silent for `GONE`; it tells the format every second, sound or not."""
        return time.monotonic() - self._heard > GONE

    def report(self) -> Report:
        """What came, and what did not."""
        return {
            "host": self.host,
            "port": self.port,
            **{key: value for key, value in self.format.items() if key not in ("stream_id", "lost_frames")},
            "measured_rate": round(self.measured_rate, 3),
            "seconds": round(self.assembly.counts["frames"] / self.format["sample_rate"], 3),
            **self.assembly.counts,
            "unreadable": self.unreadable,
            "gone": self.gone,
            "daemon_lost_frames": self.format["lost_frames"],
            "jitter_ms": round(1e3 * self.jitter.mean, 3),
            "jitter_max_ms": round(1e3 * self.jitter.max, 3),
        }


def listen(
    listener: Listener, sink: Sink, stop: threading.Event, duration: float | None, tell: Callable[[Report], None]
) -> Report:
    """Sound to `sink` until `stop` is set, `duration` (s of sound) is over or the daemon is gone; a report every second."""
    rate = listener.format["sample_rate"]
    left = round(duration * rate) if duration else 2**62
    told = time.monotonic()
    while left > 0 and not stop.is_set() and not listener.gone:
        for frames in listener.receive():
            sink.write(frames[:left])
            left -= len(frames[:left])
        if time.monotonic() - told >= REPORT_EVERY:
            told = time.monotonic()
            tell(listener.report())
    for frames in listener.assembly.flush():
        sink.write(frames[:left])
        left -= len(frames[:left])
    return listener.report()


def _connect(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        opened = socket.socket(family, kind, protocol)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        opened.settimeout(RECEIVE)
        opened.connect(address)  # packets of others do not come through
    except (OSError, UnicodeError, OverflowError) as error:
        raise ListenError(f"host {host!r} is unknown ({getattr(error, 'strerror', None) or error}): check --host") from error
    return opened


# ---------------------------------------------------------------------------------------------------------------- sinks


class Nowhere:
    """Counts only: to look at a network."""

    def write(self, frames: Frames) -> None:
        """Forget them."""


@contextmanager
def wav(path: Path, listener: Listener) -> Iterator[Sink]:
    """A WAV file of 32-bit floats, there when the listening ends and not before.

    Raises
    ------
    AudioFileError
        it cannot be written there.
    """
    rate, channels = listener.format["sample_rate"], listener.format["channels"]
    try:
        with replacing(path) as (part,), soundfile.SoundFile(part, "w", rate, channels, "FLOAT", format="WAV") as file:
            yield file
    except soundfile.SoundFileError as error:
        raise AudioFileError(f"{path} cannot be written ({reason(error)}): free some space or choose another place") from error


class Player:
    """A sound device with `PLAY_AHEAD` of sound before it; a context manager.

    It runs at its own rate, and what comes at another is resampled. Nor is its clock the daemon's: when too little is left,
    silence is played until there is enough again; when too much has piled up, the oldest is left out. Both are counted.

    Raises
    ------
    DeviceError, ListenError
        no such device, or it does not open.
    """

    def __init__(self, listener: Listener, device: str | None = None) -> None:
        from .devices.names import find
        from .devices.portaudio import devices, portaudio

        sd = portaudio()
        sink = find(device, "output", devices())
        source_rate, channels = listener.format["sample_rate"], listener.format["channels"]
        rate = sink.default_sample_rate
        self.underruns = self.skipped = 0
        self._resampler = soxr.ResampleStream(source_rate, rate, channels, "float32") if rate != source_rate else None
        self._ahead = round(PLAY_AHEAD * rate)
        self._waiting = np.zeros((0, channels), np.float32)
        self._filling = True
        self._lock = threading.Lock()
        try:
            self._stream = sd.OutputStream(rate, 0, sink.index, channels, "float32", latency="low", callback=self._play)
        except sd.PortAudioError as error:
            raise ListenError(f"{sink.name} does not open at {rate} Hz: {error}; see `streamsep devices`") from error

    def __enter__(self) -> Player:
        self._stream.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.stop()
        self._stream.close()

    def write(self, frames: Frames) -> None:
        """Let them wait for their turn."""
        if self._resampler:
            frames = self._resampler.resample_chunk(frames)
        with self._lock:
            self._waiting = np.concatenate([self._waiting, frames])
            extra = len(self._waiting) - 3 * self._ahead
            if extra > 0:
                extra += self._ahead  # more in one step, and not again for long
                self._waiting = self._waiting[extra:]
                self.skipped += extra

    def _play(self, out: Frames, frames: int, time: object, status: object) -> None:
        with self._lock:
            self._filling &= len(self._waiting) < max(self._ahead, frames)
            ready = 0 if self._filling else min(frames, len(self._waiting))
            out[:ready], out[ready:] = self._waiting[:ready], 0
            self._waiting = self._waiting[ready:]
            if ready < frames and not self._filling:
                self._filling = True
                self.underruns += 1
