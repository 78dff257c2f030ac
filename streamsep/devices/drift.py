"""Two devices, two clocks: what one records the other plays, through a resampler that follows how their clocks drift.

Capture keeps the schedule: with every block it moves the output ring's read position on, as a single device would. Playback
reads the ring `margin` frames behind that schedule, at a fractional position of its own. Its speed keeps that distance, so the
delay is constant and known:

    line      each device's calls, filtered by a delay-locked loop (F. Adriaensen, "Using a DLL to filter time", LAC 2005):
              when its calls are due if they came evenly, and how long a frame takes. The bandwidth is that of a fit over all
              calls so far, until it has fallen to `LINE_HZ`.
    speed     a second-order loop of `SPEED_HZ` on the distance between the schedule's line and the position read, as
              zita-ajbridge has it: input frames for each output frame.
    sound     a windowed sinc (J. O. Smith, "Digital Audio Resampling") around the position read, straight from the ring. It has
              no state, and no delay of its own but the half of its length that must be there, which is in `margin`.

The bridge is a block of memory of its own, `PLACES` int64, of which those named here as times and ratios hold float64. The
functions know rings and this memory; they know neither PortAudio nor Python.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..rings import (
    ARMED,
    CAPACITY,
    CLOSE_SECONDS,
    FULL,
    GAP_FRAMES,
    LEVEL,
    MAX_BLOCK,
    MISSED,
    OPEN,
    OPEN_SECONDS,
    OUT_READ,
    OUT_WRITE,
    OUTPUT_XRUNS,
    Rings,
    position,
    publish,
)

Kernel = NDArray[np.float32]

PLACES = 128
# Fixed before sound. RINGS, KERNEL, SCRATCH: addresses; WIDTH: channels of the input stream; TAPS: the kernel's length.
# float64: NOMINAL, input frames for each output frame; MARGIN, input frames; IN_RATE and OUT_RATE, Hz.
# CLOCK: the address of clock_gettime, 0 where PortAudio's own time must do.
RINGS, WIDTH, TAPS, KERNEL, SCRATCH, NOMINAL, MARGIN, IN_RATE, OUT_RATE, CLOCK = range(10)
PICKS = 64  # to the end: the device's channels that are recorded, from 0
# A line, float64: when the next call is due, s; a frame, s; its age, s; the farthest that calls came early and late, s; whether
# it has been begun anew since the stream's own beginning, which is a burst with most of them; for how long calls have been off
# to one side, and how far the last was, s.
NEXT, PERIOD, AGE, EARLY, LATE, SETTLED, ASIDE, SIDE = range(8)
CAPTURE, PLAYBACK = 18, 40
# What capture publishes: a sequence number, odd while the others are written; the schedule, when, and its line then.
SEQUENCE, SCHEDULE, WHEN, FRAME, SINCE, FIRST = range(26, 32)
# Playback's position and the sum of its speed loop (float64); whether it has a place, and how often it took another one.
READ, SUM, PLACED, JUMPS, MISSES, CALLS, BLOCK = range(48, 55)
RELOCK = 56  # playback asks capture to begin its line anew

LINE_HZ, SPEED_HZ = 0.02, 0.1
MOST_DRIFT = 1e-3  # of a clock, against its nominal rate
LOST_SECONDS = 0.1  # a call so far off its line means a pause, not jitter
ASIDE_SECONDS = 0.15  # so do calls that are off to one side for so long
SETTLE_SECONDS = 0.25  # a new line is not trusted before
TRUST_SECONDS = 2.0  # over less than that the nominal rate says more of a clock than its calls do
JUMP_SECONDS = 0.005  # farther off than that, playback does not glide back but fades over
NUDGE_SECONDS = 0.001  # the same where there is a gap anyway

SLACK_SECONDS = 0.001  # what calls may stray farther than they did while they were watched

PHASES, HALF_TAPS, KAISER_BETA = 1024, 32, 11.2


def kernel(nominal: float) -> Kernel:
    """The sinc's samples `[shape=(PHASES + 1, 2 * half)]`, one row for each fraction of a frame.

    `nominal` is input frames for each output frame; where it is above 1 only the output's band passes. 110 dB down within
    0.11 of the lower rate.
    """
    stretch = max(1.0, nominal)
    half = int(np.ceil(HALF_TAPS * stretch))
    fractions = np.arange(PHASES + 1)[:, None] / PHASES
    distance = np.arange(1 - half, half + 1) - fractions
    window = np.i0(KAISER_BETA * np.sqrt(np.maximum(0, 1 - (distance / half) ** 2))) / np.i0(KAISER_BETA)
    rows = np.sinc(distance / stretch) * window
    return np.ascontiguousarray(rows / rows.sum(axis=1, keepdims=True), np.float32)


def make_bridge(rings: Rings, kernel: Kernel, scratch: NDArray[np.float64], in_rate: int, out_rate: int) -> NDArray[np.int64]:
    """A bridge between two streams and `rings`. Who holds it must hold the arrays, too.

    `scratch` `[shape=(kernel's length + out_channels,)]`; the first input channels are picked.
    """
    bridge = np.zeros(PLACES, np.int64)
    times = bridge.view(np.float64)
    bridge[[RINGS, WIDTH]] = rings.memory.ctypes.data, rings.inward.shape[1]
    bridge[[TAPS, KERNEL, SCRATCH]] = kernel.shape[1], kernel.ctypes.data, scratch.ctypes.data
    bridge[PICKS:] = range(PLACES - PICKS)
    times[[NOMINAL, IN_RATE, OUT_RATE]] = in_rate / out_rate, in_rate, out_rate
    begin_line(times, CAPTURE, float(in_rate))
    begin_line(times, PLAYBACK, float(out_rate))
    return bridge


def margin(bridge: NDArray[np.int64], times: NDArray[np.float64], late: float, early: float) -> float:
    """How far playback must stay behind the schedule, input frames, now that both lines have been watched for a while.

    That is its own block, half the kernel, and what calls stray: as they did, but at least `late` (capture's) and `early`
    (playback's) seconds.
    """
    stray = SLACK_SECONDS + max(late, float(times[CAPTURE + LATE])) + max(early, float(times[PLAYBACK + EARLY]))
    return float(np.ceil(bridge[TAPS] // 2 + 1 + bridge[BLOCK] * times[NOMINAL] + stray * times[IN_RATE]))


@njit(nogil=True, cache=True)
def begin_line(f, line, rate):  # type: ignore[no-untyped-def]
    """A line that knows nothing but the nominal `rate`, Hz."""
    f[line + NEXT], f[line + PERIOD], f[line + AGE] = 0.0, 1 / rate, 0.0
    f[line + EARLY] = f[line + LATE] = f[line + SETTLED] = f[line + ASIDE] = f[line + SIDE] = 0.0


@njit(nogil=True, cache=True)
def follow(f, line, now, frames, rate, anew):  # type: ignore[no-untyped-def]
    """A call of `frames` came at `now`, s; when it was due by its line. `anew`: there was a pause, frames are missing."""
    error = now - f[line + NEXT]
    settles = f[line + SETTLED] == 0 and f[line + AGE] > SETTLE_SECONDS
    span = frames * f[line + PERIOD]
    f[line + ASIDE] = f[line + ASIDE] + span if abs(error) > NUDGE_SECONDS and error * f[line + SIDE] > 0 else 0.0
    f[line + SIDE] = error
    lost = abs(error) > LOST_SECONDS or f[line + ASIDE] > ASIDE_SECONDS
    if f[line + AGE] == 0.0 or anew or settles or lost:
        f[line + ASIDE] = f[line + AGE] = f[line + EARLY] = f[line + LATE] = error = 0.0
        f[line + NEXT], f[line + SETTLED] = now, settles or f[line + SETTLED] != 0
    f[line + AGE] += span
    omega = 2 * np.pi * max(LINE_HZ, 0.45 / f[line + AGE]) * span
    due = f[line + NEXT] + min(np.sqrt(2.0) * omega, 1.0) * error
    longest, shortest = (1 + MOST_DRIFT) / rate, (1 - MOST_DRIFT) / rate
    if f[line + AGE] > TRUST_SECONDS:
        f[line + PERIOD] = min(max(f[line + PERIOD] + omega * omega * error / frames, shortest), longest)
    f[line + NEXT] = due + frames * f[line + PERIOD]
    if f[line + AGE] > SETTLE_SECONDS:
        f[line + EARLY] = max(f[line + EARLY], due - now)
        f[line + LATE] = max(f[line + LATE], now - due)
    return due


# ---------------------------------------------------------------------------------------------------------------- capture


@njit(nogil=True, cache=True)
def keep_schedule(i, f, header, frames, now, armed, broken):  # type: ignore[no-untyped-def]
    """Capture's call of `frames` at `now`, s: move the schedule on, and tell playback. `broken`: frames were lost before."""
    anew = broken or position(i, RELOCK) != 0
    due = follow(f, CAPTURE, now, frames, f[IN_RATE], anew)
    if anew:
        publish(i, RELOCK, 0)
    if not armed:
        return
    scheduled = header[OUT_READ]
    publish(i, SEQUENCE, i[SEQUENCE] + 1)  # odd: being written
    if i[SEQUENCE] == 1:
        i[FIRST] = scheduled
    i[SCHEDULE] = scheduled + frames
    f[WHEN], f[FRAME], f[SINCE] = due, f[CAPTURE + PERIOD], f[CAPTURE + AGE]
    publish(header, OUT_READ, scheduled + frames)
    publish(i, SEQUENCE, i[SEQUENCE] + 1)


# --------------------------------------------------------------------------------------------------------------- playback


@njit(nogil=True, cache=True)
def play_between(i, f, header, outward, kernel, weights, held, y, now, broken):  # type: ignore[no-untyped-def]
    """Playback's call at `now`, s: fill `y` `[shape=(frames, out_channels)]`. `broken`: it ran dry before.

    `weights` `[shape=(2 * half,)]` is scratch, `held` `[shape=(out_channels,)]` the last frame that was played.
    """
    frames = y.shape[0]
    i[BLOCK] = max(i[BLOCK], frames)
    i[CALLS] += 1
    due = follow(f, PLAYBACK, now, frames, f[OUT_RATE], broken)
    if position(header, ARMED) == 0 or position(i, SEQUENCE) < 2:
        y[:] = 0
        return
    header[OUTPUT_XRUNS] += broken
    speed, lost = steer(i, f, header, due, frames)
    there = (position(header, OUT_WRITE) - weights.size // 2 - f[READ]) / speed
    ready = 0 if lost else min(frames, max(0, int(np.ceil(there))))
    sound(i, f, header, outward, kernel, weights, held, y, speed, ready)
    f[READ] += frames * speed
    header[MISSED] += ready < frames
    i[MISSES] = i[MISSES] + 1 if ready < frames else 0
    if i[MISSES] == 3:
        publish(i, RELOCK, 1)


@njit(nogil=True, cache=True)
def steer(i, f, header, due, frames):  # type: ignore[no-untyped-def]
    """(input frames for each output frame of this block, whether playback has lost its place and takes a new one)."""
    sequence = position(i, SEQUENCE)
    now = i[SCHEDULE] + (due - f[WHEN]) / f[FRAME]
    torn, young = sequence & 1 or position(i, SEQUENCE) != sequence, min(f[SINCE], f[PLAYBACK + AGE]) < SETTLE_SECONDS
    error = now - header[MAX_BLOCK] - f[MARGIN] - f[READ]
    lost = False
    if i[PLACED] == 0:
        i[PLACED], f[READ], error = 1, f[READ] + error, 0.0
    elif torn or (young and i[MISSES] < 3):  # while nothing is heard a young line will do
        error = 0.0
    elif abs(error) > f[IN_RATE] * (NUDGE_SECONDS if i[MISSES] else JUMP_SECONDS):
        i[JUMPS] += 1
        f[READ], error, lost = f[READ] + error, 0.0, True
    omega, most = 2 * np.pi * SPEED_HZ / f[OUT_RATE], 2 * MOST_DRIFT * f[NOMINAL]
    f[SUM] = min(max(f[SUM] + omega * omega * frames * error, -most), most)
    return f[NOMINAL] + min(max(f[SUM] + np.sqrt(2.0) * omega * error, -most), most), lost


@njit(nogil=True, cache=True)
def sound(i, f, header, outward, kernel, weights, held, y, speed, ready):  # type: ignore[no-untyped-def]
    """Fill `y` from the position read on; what is not ready is the last frame, fading out, as in `rings.fade`."""
    wrap, half = header[CAPACITY] - 1, weights.size // 2
    rise, fall = FULL / (OPEN_SECONDS * f[OUT_RATE]), FULL / (CLOSE_SECONDS * f[OUT_RATE])
    gap = FULL / GAP_FRAMES
    level = np.float64(header[LEVEL])
    is_open = position(header, OPEN)
    for n in range(y.shape[0]):
        if n < ready:
            whole = int(np.floor(f[READ] + n * speed))
            weigh(kernel, f[READ] + n * speed - whole, weights)
            first = whole + 1 - half
            for c in range(y.shape[1]):
                held[c] = 0
                for k in range(max(0, i[FIRST] - first), 2 * half):  # before that lies the sound before the pause
                    held[c] += weights[k] * outward[(first + k) & wrap, c]
            level += rise if is_open else -fall
        else:
            level -= gap
        level = min(max(level, np.float64(0)), np.float64(FULL))
        for c in range(y.shape[1]):
            y[n, c] = held[c] * np.float32(level / FULL)
    header[LEVEL] = int(level)


@njit(nogil=True, cache=True)
def weigh(kernel, fraction, weights):  # type: ignore[no-untyped-def]
    """The sinc at `fraction` of a frame, between two rows of its table: 110 dB, too."""
    place = fraction * PHASES
    row = min(int(place), PHASES - 1)
    share = place - row
    for k in range(weights.size):
        weights[k] = kernel[row, k] + share * (kernel[row + 1, k] - kernel[row, k])
