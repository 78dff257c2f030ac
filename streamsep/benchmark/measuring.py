"""One benchmark: what is measured, in which order, and the figures that come of it.

    floor, hops through the worker's functions, floor again      stages, step, hop, ratio to the floor
    the same back to back                                        what a loop without pauses would say
    hops through the live path                                   hand-over, latency, late hops

All of it in one process, one after the other, beside one and the same load, each in a thread with the worker's priority.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from .. import model, native
from ..engine import Separator
from . import handover, hops, loads, machine
from .floor import Floor
from .handover import Handover
from .hops import BenchError, Times, figures
from .sound import song
from .weights import Weights, weights

WARM_UP = 100  # hops
HANDOVER_BESIDE = 250  # hops of the hand-over, which is always paced, where the rest is not
START_SECONDS, FLOOR_SECONDS = 3.0, 3.0  # for the progress bar only


@dataclass(frozen=True)
class Settings:
    """What `streamsep bench` can be told."""

    model: str = "live"
    provider: str = "auto"
    hops: int = 1000
    paced: bool = True
    load: str | None = None  # "gil" or "cpu"
    sample_rate: int = 48_000  # Hz
    channels: int = 2

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"mode": "paced" if self.paced else "back to back"} | {
            name: getattr(self, name) for name in ("hops", "sample_rate", "channels")
        }


class Measurement(NamedTuple):
    """What was measured, as it is; `report` makes the figures."""

    settings: Settings
    model: model.Model
    provider: str
    notes: list[str]  # why no better provider
    times: Times
    back_to_back: Times
    handover: Handover
    floor: Floor
    weights: Weights
    load: dict[str, Any] | None
    machine: dict[str, Any]
    realtime: bool

    @property
    def deadline_ms(self) -> float:
        """Time between two hops."""
        return self.times.period / 1e6

    def report(self) -> dict[str, Any]:
        """All figures, for JSON. Times are ms; `step_ms` is the network alone, `hop_ms` all of a hop's work."""
        stages = {name: figures(ms) for name, ms in self.times.stages().items()}
        floor, step = self.floor.ms(), stages["network"]
        loop = figures(self.back_to_back.between(*hops.STAGES["network"]))
        live = self.handover
        return {
            **self.settings.as_dict(),
            "model": self._model(),
            "provider": self.provider,
            "provider_notes": self.notes,
            "load": self.load,
            "realtime": self.realtime,
            "deadline_ms": round(self.deadline_ms, 4),
            "late": self.times.late(),
            "stages": stages | {"handover": figures(live.waiting)},
            "step_ms": step,
            "hop_ms": figures(self.times.hop()),
            "real_time_factor": round(float(self.times.hop().mean()) / self.deadline_ms, 5),
            "latency_ms": live.latency.ms(),
            "latency_samples": live.latency.samples(),
            "floor_ms": floor,
            "floor_bytes": self.floor.bytes,
            "floor_gb_s": self.floor.bandwidth(),
            "floor_ratio": _ratio(step["p50"], floor["cold"]) if self.settings.paced else None,
            "back_to_back": {
                "step_ms": loop,
                "hop_ms": figures(self.back_to_back.hop()),
                "floor_ratio_warm": _ratio(loop["p50"], floor["warm"]),
            },
            "live": {
                "hops": len(live.work),
                "hop_ms": figures(live.work),
                "response_ms": figures(live.waiting + live.work),
                **{key: live.report[key] for key in ("late", "bridged", "missed_blocks")},
            },
            "machine": self.machine,
            "versions": machine.versions(),
        }

    def _model(self) -> dict[str, Any]:
        contract = self.model.contract
        return {
            "name": contract.name,
            "path": str(self.model.path),
            "network": f"{contract.layers} x {contract.hidden} LSTM",
            "precision": contract.precision,
            "parameters": self.weights.parameters,
        }


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
    floor = Floor(counted.bytes)
    with loads.beside(settings.load) as spent:
        floor.measure(ticker)
        times = hops.measure(separator, sound, settings.hops, settings.paced, ticker)
        floor.measure(ticker)
        loop = hops.measure(separator, sound, settings.hops, False, ticker) if settings.paced else times
        live = handover.measure(separator, sound, settings.hops if settings.paced else HANDOVER_BESIDE, ticker)
    if separator.network.provider == "cuda":
        facts["gpu"] = machine.gpu()
    return Measurement(
        settings,
        loaded,
        separator.network.provider,
        separator.provider_notes,
        times,
        loop,
        live,
        floor,
        counted,
        {"name": settings.load} | spent if settings.load else None,
        facts,
        live.realtime,
    )


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
    return START_SECONDS + FLOOR_SECONDS + paced * period


class Ticker:
    """Turns the time that passes into a share of what was expected."""

    def __init__(self, seconds: float, tell: Callable[[float], None]) -> None:
        self._start, self._seconds, self._tell = time.monotonic(), seconds, tell

    def __call__(self) -> None:
        """Tell the share of now."""
        self._tell(min(1.0, (time.monotonic() - self._start) / self._seconds))


def _ratio(ms: float, floor: float) -> float:
    """How many times the floor; 0 where the model has no weights to read."""
    return round(ms / floor, 3) if floor else 0.0
