"""The rate of a stream as the monotonic clock sees it: frames against seconds, a straight line through what was observed.

A device that says 48000 Hz runs some parts in a million off, and another device other parts; whoever plays one machine's sound
on another needs the true figure. It is the slope of a least-squares line over the observations, each weighted by
exp(-age / `MEMORY`): late looks scatter around the line, and their scatter goes down with the number of them. Looks that are
1 ms late now and then leave a few parts in a million after `MEMORY`, a hundred after a few seconds.
"""

from __future__ import annotations

import math

MEMORY = 30.0  # s
SETTLE = 3.0  # s of observations before the slope is worth more than the nominal rate
STALL = 1.0  # s without a frame: the stream stood still, and the line before is no longer its own
TRUST = 0.02  # relative; what differs more from the nominal rate is no clock but a stream that was held up


class RateMeter:
    """Frames a second; `nominal` until there is something better.

    Parameters
    ----------
    nominal
        Hz, as the device calls it.
    """

    def __init__(self, nominal: float) -> None:
        self.nominal = nominal
        self._last = -math.inf, 0
        self.reset()

    def reset(self) -> None:
        """Forget what was observed."""
        self._start = math.inf
        self._weight = self._mean_t = self._mean_n = self._var = self._cov = 0.0

    def observe(self, now: float, frames: int) -> None:
        """At `now` (s) the stream had reached `frames`; looks at which it has not moved say nothing and are ignored."""
        before, last = self._last
        if frames == last:
            return
        self._last = now, frames
        if now - before > STALL or frames < last:
            self.reset()
            self._start, self._origin = now, frames
        forget = math.exp(-(now - before) / MEMORY) if self._weight else 0.0
        self._weight = forget * self._weight + 1
        t, n = now - self._start, frames - self._origin  # small numbers: sums of squares stay exact enough
        dt, dn = t - self._mean_t, n - self._mean_n
        self._mean_t += dt / self._weight
        self._mean_n += dn / self._weight
        self._var = forget * self._var + dt * (t - self._mean_t)
        self._cov = forget * self._cov + dt * (n - self._mean_n)

    @property
    def rate(self) -> float:
        """Hz."""
        if self._last[0] - self._start < SETTLE:
            return self.nominal
        rate = self._cov / self._var
        return rate if abs(rate / self.nominal - 1) <= TRUST else self.nominal
