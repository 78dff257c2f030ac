"""Spectrogram columns of the input and of every source, as sound passes: once for all pages, and only while one looks.

A column ends at a frame of the tap and covers the `WINDOW` before it; columns are `RATE` a second of sound, not of time, so
nothing is drawn while no sound comes. Input and sources are read so that a column shows the same moment in all of them. A
column has `ROWS` rows, lowest first, evenly spaced in log frequency; channels are averaged by power, so that what is out of
phase does not vanish, and a row that is wider than a bin shows the mean of its bins. One row is one byte: `STEP` dB from
`BOTTOM` on, dB against a full-scale sine.

A message to the pages is COLUMNS, signals, ROWS and columns (a byte each), the number of the first column (uint32, little
endian), then the bytes column by column, the input first and then the sources.

The work is done in a thread of its own, with numpy alone and at a low priority. It reads the rings as any listener does.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .. import rings
from ..bands import LOWEST, WINDOW, log_bands
from ..engine import Engine
from ..osc.stream import read_input
from ..rings import TAP_WRITE, Rings, position

COLUMNS = 1  # what a message begins with; OSC begins with "/" or "#"
RATE = 30  # columns a second
ROWS = 160
BOTTOM, STEP = -120.0, 0.5  # dB
BEHIND = 0.25  # s; a thread that was held up for longer goes on with the newest
NICENESS = 10
_HEAD = struct.Struct("<4BI")


class Analysis:
    """Columns of one engine's sound, as far as they are due: no thread, no clock."""

    def __init__(self, separator: Engine, rings: Rings) -> None:
        self._rings, self._rate = rings, separator.sample_rate
        self._signals, self._channels = 1 + len(separator.sources), separator.channels
        self._delay = separator.latency - separator.geometry.hop_length  # frames by which sources are late (see osc/streams)
        self._n_fft = 2 * round(WINDOW * self._rate / 2)
        self._window = np.hanning(self._n_fft).astype(np.float32)
        self._window *= 2 / self._window.sum()
        self._input = np.zeros((self._n_fft, self._channels), np.float32)
        self._tap = np.zeros((self._n_fft, (self._signals - 1) * self._channels), np.float32)  # the first stream's
        # The weights by bin, without their zeros: no library decides to share so little work among threads.
        bands = log_bands(self._n_fft, self._rate, ROWS)
        row, self._bin = np.nonzero(bands)
        self._weight = bands[row, self._bin]
        self._first = np.searchsorted(row, np.arange(ROWS))
        self._begin()

    def _begin(self) -> None:
        self._origin, self._count = position(self._rings.header, TAP_WRITE), 0

    @property
    def _next(self) -> int:
        """Where the next column ends."""
        return int(self._origin) + (self._count + 1) * self._rate // RATE

    def due(self) -> list[NDArray[np.uint8]]:
        """The columns since the last call, each `[shape=(signals, ROWS)]`."""
        written = position(self._rings.header, TAP_WRITE)
        if not 0 <= written - self._origin - self._count * self._rate // RATE <= BEHIND * self._rate:
            self._begin()
        found = []
        while self._next <= written:
            column = self._column(self._next)
            self._count += 1
            if column is not None:
                found.append(column)
        return found

    def _column(self, end: int) -> NDArray[np.uint8] | None:
        first = end - self._n_fft
        heard = read_input(self._rings, first - self._delay, self._input)
        if heard < 1 or rings.read_tap(self._rings, first, 0, self._tap) < 1:
            return None
        frames = np.concatenate((self._input.T, self._tap.T)) * self._window  # (channels of all signals, n_fft)
        spectrum = np.fft.rfft(frames)
        power = (spectrum.real**2 + spectrum.imag**2).reshape(self._signals, self._channels, -1).mean(axis=1)
        rows = np.add.reduceat(power[:, self._bin] * self._weight, self._first, axis=1)
        decibels = 10 * np.log10(rows + 1e-13)
        return np.clip((decibels - BOTTOM) / STEP, 0, 255).astype(np.uint8)


class Spectra:
    """The thread that makes the columns, while it is wanted.

    Parameters
    ----------
    separator, rings
        whose sound; `attach` changes them.
    deliver
        called in the thread with each message.
    """

    def __init__(self, separator: Engine, rings: Rings, deliver: Callable[[bytes], None]) -> None:
        self._sent = 0  # columns
        self._deliver = deliver
        self._of = separator, rings
        self._busy = threading.Lock()
        self._analysis: Analysis | None = None
        self._thread: threading.Thread | None = None
        self._end = threading.Event()

    @property
    def running(self) -> bool:
        """Whether the thread does its work."""
        return self._thread is not None

    def attach(self, separator: Engine, rings: Rings) -> None:
        """Go on with another engine; when this returns, nothing of the old one is used any more."""
        with self._busy:
            self._of, self._analysis = (separator, rings), None

    def start(self) -> None:
        """Begin; harmless when it runs."""
        if self._thread is None:
            self._end = threading.Event()
            self._thread = threading.Thread(target=self._run, args=(self._end,), name="streamsep-monitor", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End, within a column's time; harmless when it does not run."""
        if self._thread is not None:
            self._end.set()
            self._thread.join()
            self._thread = self._analysis = None

    def _run(self, end: threading.Event) -> None:
        with contextlib.suppress(OSError, AttributeError):  # not every system lets a thread choose
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while not end.wait(1 / RATE):
            with self._busy:
                self._analysis = self._analysis or Analysis(*self._of)
                columns = self._analysis.due()
            if columns:
                self._deliver(message(self._sent, columns))
                self._sent += len(columns)


def message(number: int, columns: list[NDArray[np.uint8]]) -> bytes:
    """Columns that follow each other, the first of this `number`, as the pages get them."""
    signals, rows = columns[0].shape
    return _HEAD.pack(COLUMNS, signals, rows, len(columns), number % 2**32) + b"".join(c.tobytes() for c in columns)


def count(data: bytes) -> int:
    """How many columns a message holds."""
    return data[3]


def axis(sample_rate: int) -> dict[str, float]:
    """What a page must know to draw the columns: Hz, columns a second, dB."""
    return {"lowest": LOWEST, "highest": sample_rate / 2, "rows": ROWS, "rate": RATE, "bottom": BOTTOM, "step": STEP}
