"""What was measured, and the figures that follow from it.

Times are ms throughout. `step_ms` is the network alone, `hop_ms` all of a hop's work; `floor_ratio` is the median of the
paced step over the cold floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from .. import model
from . import hops, machine, streams
from .floor import Floor
from .handover import Handover
from .hops import Times, figures
from .weights import Weights


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
    streams: int = 1  # 0: as many as hold their deadlines
    rehearse: bool = False  # dry runs before each hop

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"mode": "paced" if self.paced else "back to back"} | {
            name: getattr(self, name) for name in ("hops", "sample_rate", "channels", "rehearse")
        }


class Scaling(NamedTuple):
    """Many streams in one process: how many were measured, whether one call of the network takes them all, what was tried."""

    measured: int
    largest: int | None  # that holds its deadlines; None where it was not looked for
    together: bool
    tried: dict[int, Times]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [streams.row(count, times) for count, times in self.tried.items()]
        return {"measured": self.measured, "largest": self.largest, "together": self.together, "rows": rows}


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
    scaling: Scaling | None  # None: one stream
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
        live, on_cpu = self.handover, self.provider == "cpu"  # a GPU reads the weights from a memory of its own
        return {
            **self.settings.as_dict(),
            "model": self._model(),
            "provider": self.provider,
            "provider_notes": self.notes,
            "streams": self.scaling.as_dict() if self.scaling else None,
            "load": self.load,
            "realtime": self.realtime,
            "deadline_ms": round(self.deadline_ms, 4),
            "late": self.times.late(),
            "stages": stages | {"handover": figures(live.waiting)},
            "step_ms": step,
            "hop_ms": figures(self.times.hop()),
            "without_network_ms": figures(self.times.without_network()),
            "real_time_factor": round(float(self.times.hop().mean()) / self.deadline_ms, 5),
            "latency_ms": live.latency.ms(),
            "latency_samples": live.latency.samples(),
            "floor_ms": floor,
            "floor_bytes": self.floor.bytes,
            "floor_gb_s": self.floor.bandwidth(),
            "floor_ratio": _ratio(step["p50"], floor["cold"]) if self.settings.paced and on_cpu else None,
            "back_to_back": {
                "step_ms": loop,
                "hop_ms": figures(self.back_to_back.hop()),
                "without_network_ms": figures(self.back_to_back.without_network()),
                "floor_ratio_warm": _ratio(loop["p50"], floor["warm"]) if on_cpu else None,
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
            "network": contract.network,
            "precision": contract.precision,
            "parameters": self.weights.parameters,
        }


def _ratio(ms: float, floor: float) -> float:
    """How many times the floor; 0 where the model has no weights to read."""
    return round(ms / floor, 3) if floor else 0.0
