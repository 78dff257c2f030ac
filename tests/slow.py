"""A network that takes too long when it is told to: the real one, behind a compiled function that sleeps first."""

from __future__ import annotations

import numpy as np
from numba import cfunc, types

from streamsep import native
from streamsep.engine import Separator


def slow_down(separator: Separator) -> np.ndarray:
    """An int64 array of one place: how many ns each network step of `separator` takes longer from now on. Keep it alive."""
    delay = np.zeros(1, np.int64)
    address, nanosleep = delay.ctypes.data, native.clock().nanosleep
    step = separator.network.compiled
    real = step.run

    @cfunc(types.int64(*[types.int64] * 8))
    def run(session, options, names_in, values_in, count_in, names_out, count_out, values_out):
        left = native.load_acquire(address)
        while left > 0:
            native.sleep_ns(nanosleep, min(left, 100_000_000))
            left -= 100_000_000
        return native.ort_run(real, session, options, names_in, values_in, count_in, names_out, count_out, values_out)

    separator.network.compiled = step._replace(run=run.address)
    separator.network.slow = run  # kept alive
    return delay
