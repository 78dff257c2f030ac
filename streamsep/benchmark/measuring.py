"""One benchmark: what is measured, and in which order.

    floor, hops through the worker's functions, floor again      stages, step, hop, ratio to the floor
    the same back to back                                        what a loop without pauses would say
    hops through the live path                                   hand-over, latency, late hops
    many streams in one call, if asked for                       in place of the first two, and what each number costs

All of it in one process, one after the other, beside one and the same load, each in a thread with the worker's priority.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from .. import model, native
from ..engine import Separator
from . import handover, hops, loads, machine
from .floor import Floor
from .hops import BenchError, Times
from .measurement import Measurement, Scaling, Settings
from .sound import song
from .streams import SEARCH_HOPS, Streams
from .weights import weights

WARM_UP = 100  # hops
HANDOVER_BESIDE = 250  # hops of the hand-over, which is always paced, where the rest is not
START_SECONDS, FLOOR_SECONDS = 3.0, 3.0  # for the progress bar only


def measure(settings: Settings, tick: Callable[[float], None] = lambda share: None) -> Measurement:
    """Measure; `tick` gets the share of the expected time that has passed, ten times a second.

    Raises
    ------
    BenchError
        this system has no compiled path, or what ran failed.
    ModelError, OrtError
        the model or the provider does not work here.
    """
    loaded = model.load(settings.model)
    facts = machine.machine()
    separator = Separator(loaded, settings.sample_rate, settings.channels, settings.provider)
    require_native(separator)
    native.lock_memory()  # as the daemon does; without leave for it nothing is locked
    sound = song(settings.sample_rate, settings.channels)
    hops.measure(separator, sound, WARM_UP, paced=False)
    ticker = Ticker(expected_seconds(settings, separator), tick)
    counted = weights(loaded.path)
    floor = Floor(counted.bytes, 1_000_000_000 * separator.geometry.hop_length // settings.sample_rate)
    many = Streams(loaded, settings.sample_rate, settings.provider, sound)
    with loads.beside(settings.load) as spent:
        floor.measure(ticker)
        scaling = scale(many, settings, ticker) if settings.streams != 1 else None

        def run(paced: bool) -> Times:
            if scaling:
                return many.measure(scaling.measured, settings.hops, paced, ticker)
            return hops.measure(separator, sound, settings.hops, paced, ticker, settings.rehearse)

        times = scaling.tried[scaling.measured] if scaling else run(settings.paced)
        floor.measure(ticker)
        loop = run(False) if settings.paced else times
        count = settings.hops if settings.paced else HANDOVER_BESIDE
        live = handover.measure(separator, sound, count, ticker, settings.rehearse)
    if separator.network.provider == "cuda":
        facts["gpu"] = machine.gpu()
    return Measurement(
        settings,
        loaded,
        separator.network.provider,
        [*separator.provider_notes, *separator.network.notes],
        times,
        loop,
        live,
        floor,
        counted,
        scaling,
        {"name": settings.load} | spent if settings.load else None,
        facts,
        live.realtime,
    )


def scale(many: Streams, settings: Settings, tick: Callable[[], None]) -> Scaling:
    """As many streams as `settings` say, or as hold their deadlines; one where none does."""
    if settings.streams:
        times = many.measure(settings.streams, settings.hops, settings.paced, tick)
        return Scaling(settings.streams, None, many.together, {settings.streams: times})
    largest, tried = many.largest(settings.hops, tick)
    return Scaling(max(1, largest), largest, many.together, tried)


def require_native(separator: Separator) -> None:
    """Raise BenchError where a hop goes through Python: there is nothing to measure that anyone should run."""
    if not separator.native:
        raise BenchError(
            f"no compiled path here ({'; '.join(separator.provider_notes)}): the benchmark measures that path only; "
            "see `streamsep doctor`"
        )


def expected_seconds(settings: Settings, separator: Separator) -> float:
    """About how long the measurement takes."""
    period = separator.geometry.hop_length / settings.sample_rate
    paced = 2 * settings.hops if settings.paced else HANDOVER_BESIDE
    search = 0 if settings.streams else settings.hops + 10 * SEARCH_HOPS
    return START_SECONDS + FLOOR_SECONDS + (paced + search) * period


class Ticker:
    """Turns the time that passes into a share of what was expected."""

    def __init__(self, seconds: float, tell: Callable[[float], None]) -> None:
        self._start, self._seconds, self._tell = time.monotonic(), seconds, tell

    def __call__(self) -> None:
        """Tell the share of now."""
        self._tell(min(1.0, (time.monotonic() - self._start) / self._seconds))
