"""How long a run lasts, in steps or by the clock, and its learning rate: linear warm-up, then a cosine to zero at the end."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .config import Config


@dataclass(frozen=True)
class Budget:
    """The configuration's steps, or `minutes` instead."""

    config: Config
    minutes: float | None = None

    def progress(self, step: int, seconds: float) -> float:
        """Share that is spent after so many steps and seconds, 0 to 1."""
        if self.minutes is None:
            return step / (self.config.epochs * self.config.steps_per_epoch)
        return min(1.0, seconds / (60 * self.minutes))

    def steps(self, step: int, seconds: float) -> int:
        """The whole in steps; by the clock, the steps it will take at the pace so far."""
        if self.minutes is None:
            return self.config.epochs * self.config.steps_per_epoch
        return max(step, round(step / max(self.progress(step, seconds), 1e-9)))

    def learning_rate(self, step: int, seconds: float) -> float:
        """Of the step to come."""
        warm = min(1.0, (step + 1) / (self.config.warm_up + 1))
        return self.config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * self.progress(step, seconds)))
