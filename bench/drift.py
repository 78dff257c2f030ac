"""Two devices whose clocks drift apart, simulated faster than real time through the very functions that PortAudio calls.

    python bench/drift.py [--hours 1] [--json]

The input's clock is the reference; the output's goes 200 ppm fast to 200 ppm slow and back. Every call comes late by a random
time, now and then by much more, and in the case "bursts" two blocks at once, as sound servers behind ALSA's plugins do. The
worker is as late as the schedule allows. Told is how far the delay wanders, from the first sound on, and every block that was
missed. The delay is that between the true clocks, which the code under test never sees.
"""

import argparse
import json
import time
from typing import NamedTuple

from streamsep import jit_cache

jit_cache.use()  # before Numba comes: kernels call kernels of other files
# ruff: noqa: E402

import numpy as np
from numba import njit

from streamsep.devices import drift
from streamsep.devices.callbacks import capture, playback
from streamsep.live import prefill
from streamsep.rings import MISSED, OUT_READ, OUT_WRITE, arm, make_rings, put, take

WATCHED = 1.5  # s before the first sound, as in streamsep.devices.portaudiodevice


class Case(NamedTuple):
    """One pair of devices. Rates in Hz, blocks in frames, `late` (mean) and `spike` (most) in s.

    `bursts` is how many output blocks come at once.
    """

    in_rate: int = 48_000
    out_rate: int = 48_000
    in_block: int = 128
    out_block: int = 256
    hop: int = 384
    late: float = 0.0002
    spike: float = 0.003
    bursts: int = 1
    ppm: float = 200.0
    swing: float = 600.0  # s from fast to slow and back; 0: always fast


CASES = {
    "as sound cards are": Case(),
    "always 200 ppm fast": Case(swing=0.0),
    "always 200 ppm slow": Case(ppm=-200.0, swing=0.0),
    "blocks in bursts, much jitter": Case(in_block=384, out_block=384, late=0.001, spike=0.006, bursts=2),
    "44.1 kHz in, 48 kHz out": Case(in_rate=44_100, hop=353),
}


@njit(cache=True)
def lateness(late, spike):  # type: ignore[no-untyped-def]
    """How late a call comes, s: often little, seldom much."""
    return np.random.exponential(late) if np.random.random() > 0.002 else spike * np.random.random()


IN_DUE, OUT_DUE, IN_CALL, OUT_CALL, BURST, RECORDED, PLAYED, LEAST, MOST = range(9)  # of a simulation's state, float64


@njit(cache=True)
def run_clocks(case, rings, bridge, times, state, until, start, tone, heard):  # type: ignore[no-untyped-def]
    """Both devices until `until` s of true time; sound goes in from `start` on, as `tone` radians a frame.

    `heard` `[shape=(frames,)]` gets the first that is played. LEAST and MOST are the delay less the promised one, s, by
    the true clocks.
    """
    x, y = np.zeros((case.in_block, 1), np.float32), np.zeros((case.out_block, 1), np.float32)
    hop_in, hop_out = np.zeros((1, case.hop), np.float32), np.zeros((1, 1, case.hop), np.float32)
    while state[IN_DUE] < until:
        if state[IN_CALL] <= state[OUT_CALL]:
            record_call(case, rings, bridge, times, state, start, tone, x, hop_in, hop_out)
        else:
            playback(bridge, times, rings.header, y, state[OUT_CALL], False)
            advance_output(case, state)
            if bridge[drift.PLACED]:
                keep(state, y, heard)
                promised = bridge[drift.FIRST] + (state[OUT_DUE] - start) * case.in_rate - times[drift.MARGIN]
                error = (promised - times[drift.READ]) / case.in_rate
                state[LEAST], state[MOST] = min(state[LEAST], error), max(state[MOST], error)


@njit(cache=True)
def record_call(case, rings, bridge, times, state, start, tone, x, hop_in, hop_out):  # type: ignore[no-untyped-def]
    """One call of the input, and then the worker, as late as the schedule allows."""
    sounding = state[IN_DUE] >= start
    for n in range(case.in_block):
        x[n, 0] = 0.5 * np.sin(tone * (state[RECORDED] + n)) if sounding else 0.0
    state[RECORDED] += case.in_block * sounding
    capture(bridge, times, rings.header, x, state[IN_CALL], False)
    while rings.header[OUT_WRITE] < rings.header[OUT_READ] and take(rings, hop_in):
        hop_out[0] = hop_in
        put(rings, hop_out)
    state[IN_DUE] += case.in_block / case.in_rate
    state[IN_CALL] = max(state[IN_CALL], state[IN_DUE] + lateness(case.late, case.spike))


@njit(cache=True)
def advance_output(case, state):  # type: ignore[no-untyped-def]
    """The output's next call: by its drifting clock, late, and in bursts the same moment as the one before."""
    swing = np.cos(2 * np.pi * state[OUT_DUE] / case.swing) if case.swing else 1.0
    state[OUT_DUE] += case.out_block / (case.out_rate * (1 + 1e-6 * case.ppm * swing))
    state[BURST] += 1
    if state[BURST] % case.bursts == 0:
        state[OUT_CALL] = max(state[OUT_CALL], state[OUT_DUE] + lateness(case.late, case.spike))


@njit(cache=True)
def keep(state, y, heard):  # type: ignore[no-untyped-def]
    """Note what is played, as long as there is room."""
    first = int(state[PLAYED])
    for n in range(min(y.shape[0], heard.size - first)):
        heard[first + n] = y[n, 0]
    state[PLAYED] += y.shape[0]


@njit(cache=True)
def seed_random(seed):  # type: ignore[no-untyped-def]
    """Of compiled code: it has a generator of its own."""
    np.random.seed(seed)


class Clocks:
    """Both devices, watched as before the first sound; `heard` `[shape=(frames,)]` is what is played from then on."""

    def __init__(self, case: Case, hertz: float = 997.0, keep_seconds: float = 0.0, seed: int = 1) -> None:
        self.case, self.tone = case, 2 * np.pi * hertz / case.in_rate
        self.rings = make_rings(2 * case.in_rate, 1, 1, 1)
        self.kernel = drift.kernel(case.in_rate / case.out_rate)
        self.scratch = np.zeros(self.kernel.shape[1] + 1)
        self.bridge = drift.make_bridge(self.rings, self.kernel, self.scratch, case.in_rate, case.out_rate)
        self.times = self.bridge.view(np.float64)
        self.heard = np.zeros(int(keep_seconds * case.out_rate), np.float32)
        self.state = np.zeros(9)
        self.state[[IN_DUE, IN_CALL, OUT_DUE, OUT_CALL]] = 0.1, 0.1, 0.1037, 0.1037
        self.start = np.inf
        seed_random(seed)
        self._run(WATCHED)
        self.times[drift.MARGIN] = drift.margin(
            self.bridge, self.times, case.in_block / case.in_rate, case.out_block / case.out_rate
        )

    def _run(self, until: float) -> None:
        run_clocks(self.case, self.rings, self.bridge, self.times, self.state, until, self.start, self.tone, self.heard)

    def play(self, seconds: float) -> dict[str, float]:
        """Let sound through, or go on with it, for so long; what happened meanwhile."""
        if self.start == np.inf:
            arm(self.rings, prefill(self.case.in_block, self.case.hop))
            self.start = self.state[IN_DUE]
        self.state[[LEAST, MOST]] = np.inf, -np.inf
        missed, jumps, began = self.rings.header[MISSED], self.bridge[drift.JUMPS], time.perf_counter()
        self._run(self.state[IN_DUE] + seconds)
        return {
            "seconds": seconds,
            "wander_ms": round(1e3 * float(self.state[MOST] - self.state[LEAST]), 3),
            "missed_blocks": int(self.rings.header[MISSED] - missed),
            "jumps": int(self.bridge[drift.JUMPS] - jumps),
            "margin_ms": round(1e3 * float(self.times[drift.MARGIN]) / self.case.in_rate, 3),
            "times_real_time": round(seconds / (time.perf_counter() - began), 1),
        }

    def lose(self, seconds: float) -> None:
        """The input stands still for so long, and what it would have recorded is lost."""
        self.state[[IN_DUE, IN_CALL]] += seconds
        self.start += seconds

    def pause(self, seconds: float) -> None:
        """Both stand still."""
        self.lose(seconds)
        self.state[[OUT_DUE, OUT_CALL]] += seconds


def main() -> None:
    """All cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = {}
    for name, case in CASES.items():
        results[name] = Clocks(case).play(3600 * arguments.hours)
        if not arguments.json:
            print(f"{name:32s} {' '.join(f'{key}={value}' for key, value in results[name].items())}", flush=True)
    if arguments.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
