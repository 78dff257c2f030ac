"""The training loop, top to bottom: draw, filter, separate, lose, step; at each epoch's end score, save, tell.

Everything that changes during a run lives in `Trainer` and goes into the checkpoint, and what is drawn depends on (seed, step,
process) alone, so that a run that was stopped at any step and resumed ends with the same bits as one that was not (same
machine, thread count and processes, budget in steps: a budget in minutes depends on the clock by its nature).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from . import checkpoint, loss, mixing, provenance, score
from .budget import Budget
from .config import Config, ConfigError
from .datasets import DataSet, Recording
from .growth import first_weights
from .loader import Loader
from .model import MaskNetwork, State
from .optimizer import Optimizer
from .parallel import Group
from .report import Report
from .stft import Transform

Precision = Literal["auto", "fp32", "bf16"]


class Trainer:
    """One run.

    Parameters
    ----------
    config : what to train
    sets : data to train on
    held : recordings to score on
    out : the run's folder
    group : where this process computes, and with whom
    precision : "auto" is bf16 on CUDA and fp32 on the CPU, where only the newest processors gain from bf16
    minutes : a budget by the clock instead of `config.epochs`
    loaders : threads that make batches
    """

    def __init__(
        self,
        config: Config,
        sets: Sequence[DataSet],
        held: Sequence[Recording],
        out: Path,
        group: Group,
        precision: Precision = "auto",
        minutes: float | None = None,
        loaders: int = 1,
    ):
        if config.batch % group.size:
            raise ConfigError(
                f"batch={config.batch} cannot be shared by {group.size} processes: expected a multiple; change one"
            )
        self.config, self.held, self.out, self.loaders = config, held, out, loaders
        self.budget = Budget(config, minutes)
        self.group, self.device, device = group, group.device, group.device
        self.bf16 = precision == "bf16" or (precision == "auto" and device.type == "cuda")
        self.provenance = [provenance.contribution(d, config.sample_rate) for d in sets]
        self.commit, self.machine = provenance.commit(), provenance.machine(device, group.size)
        self.mixer = mixing.Mixer(sets, config.augment, config.samples, config.sample_rate, config.seed)
        torch.manual_seed(config.seed)
        self.transform = Transform(config.n_fft, config.synthesis_length, config.hop_length).to(device)
        self.model = checkpoint.network(config).to(device)
        with torch.no_grad():
            self._standardise()
        self.network = group.wrap(self.model)  # the same weights, their gradients averaged over the processes
        self.ema: MaskNetwork = deepcopy(self.model).requires_grad_(False).eval()
        self.optimizer = Optimizer(self.model, config.optimizer, config.learning_rate, config.weight_decay)
        self.state: State = self.model.initial(len(self._rows))
        self.init: dict[str, Any] | None = None
        self.filters: dict[str, Any] | None = None  # the run whose sub-bands this one began with, if that is another
        self.heard = 0  # steps of the runs behind this one: it hears other mixtures than they did
        self.step = 0
        self.seconds = 0.0
        self.losses: list[float] = []  # of the epoch so far
        self.report = Report(out, config.name, group.lead)

    @property
    def _rows(self) -> range:
        return self.group.share(self.config.batch)

    def _standardise(self) -> None:
        """Per-bin mean and deviation of the features, from mixtures that no training step will see."""
        batch = self.mixer.batch(2**62, range(64)).to(self.device)
        mixture = mixing.apply(batch).sum(1)
        self.model.standardise(self.transform.magnitude(self.transform.analyse(mixture)))

    @property
    def steps(self) -> int:
        """The budget in steps; by the clock, the steps it will take at the pace so far."""
        return self.budget.steps(self.step, self.seconds)

    @property
    def done(self) -> bool:
        """Whether the budget is spent."""
        return self.budget.progress(self.step, self.seconds) >= 1

    def learning_rate(self) -> float:
        """Of the step to come."""
        return self.budget.learning_rate(self.step, self.seconds)

    def run(self, stop: Callable[[], bool], tick: Callable[[], None], tell: Callable[[str], None]) -> bool:
        """Train until the budget is spent or `stop()`; True when it is spent.

        `tick()` is called after each step, `tell(line)` at each epoch's end.
        """
        if self.done:
            return True
        started = time.monotonic() - self.seconds
        with Loader(lambda step: self.mixer.batch(self.heard + step, self._rows), self.step, self.loaders) as loader:
            while True:
                value = self.learn(loader.batch().to(self.device))
                self.step += 1
                self.seconds, value, asked = self.group.agree(time.monotonic() - started, value, stop())
                self.losses.append(value)
                tick()
                if self.done or self.step % self.config.steps_per_epoch == 0:
                    tell(self._close_epoch(loader.shares()))
                elif asked:
                    self.save("last.pt")
                if self.done or asked:
                    return self.done

    def learn(self, batch: mixing.Batch) -> float:
        """One step of the optimiser; the loss before it."""
        self._draw_anew()
        self.model.train()
        stems = mixing.apply(batch)
        value = self._loss(stems)
        self.optimizer.zero()
        value.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step(self.learning_rate())
        self._average()
        return float(value.detach())

    def _draw_anew(self) -> None:
        """Dropout and carried states of this step depend on nothing that was drawn before."""
        seed = np.random.SeedSequence((self.config.seed, self.heard + self.step, self.group.rank)).generate_state(1, np.uint64)
        torch.manual_seed(int(seed[0]))

    def _loss(self, stems: Tensor) -> Tensor:
        """Loss of stems `[shape=(streams, sources, samples)]`."""
        mixture = self.transform.analyse(stems.sum(1))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            output, state = self.network(self.model.sees(mixture, self.transform.mag_scale), self._start())
        estimates = self.model.estimates(output, mixture)
        self.state = (state[0].detach().float(), state[1].detach().float())
        value = (
            loss.negative_sdr(estimates, stems, self.transform)
            if self.config.loss == "sdr"
            else loss.discriminative(estimates, mixture, self.transform.analyse(stems), self.config.gamma)
        )
        if self.config.spectral:
            value = value + self.config.spectral * loss.spectral(estimates, stems, self.transform)
        return value

    def _start(self) -> State:
        """Initial states: zeros, or where another stream ended: live, the network runs for hours without a reset."""
        keep = torch.rand(len(self._rows), device=self.device) < self.config.carry
        order = torch.randperm(len(self._rows), device=self.device)
        h, c = (s[:, order] * keep[:, None] for s in self.state)
        return h, c

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))  # the first weights are soon forgotten
        for mean, weight in zip(self.ema.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(weight, 1 - decay)

    def _close_epoch(self, shares: dict[str, float]) -> str:
        row = {
            "epoch": math.ceil(self.step / self.config.steps_per_epoch),
            "step": self.step,
            "seconds": round(self.seconds, 1),
            "learning_rate": self.learning_rate(),
            "loss": sum(self.losses) / len(self.losses),
        }
        self.losses = []
        better = self.report.add(row | self.validate() | shares)
        self.save("last.pt", *["best.pt"] * better)
        return self.report.line(better)

    def validate(self) -> dict[str, float]:
        """NSDR of the averaged weights on the held recordings: mean over clips, dB."""
        mine = [score.nsdr(self.ema, self.transform, r) for r in self.held[self.group.rank :: self.group.size]]
        means = np.mean(self.group.merge(mine), 0)
        return {f"nsdr_{source}": float(s) for source, s in zip(self.config.sources, means, strict=True)}

    def save(self, *names: str) -> None:
        """Write the checkpoint into the run's folder under each of `names`. All processes of the group call this together."""
        content = self.content()
        for name in names if self.group.lead else ():
            checkpoint.save(self.out / name, content)

    def content(self) -> dict[str, Any]:
        """All of the run, as plain data and tensors."""
        return {
            "config": self.config.model_dump(mode="json"),
            "data": self.provenance,
            "validation": [r.name for r in self.held],
            "commit": self.commit,
            "machine": self.machine,
            "init": self.init,
            "filters": self.filters,
            "heard": self.heard,
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "history": self.report.rows,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.content(),
            "state": [self.group.rows(s) for s in self.state],
        }

    def begin_with(self, content: dict[str, Any], filters: dict[str, Any] | None = None) -> None:
        """Take the averaged weights of another run's checkpoint, or a model file's, as the first ones, and remember where they
        came from. A network with fewer units grows (`train.growth`); sub-bands may come from another run, `filters`. Mixtures
        go on where those of the runs behind it ended: those of the same steps again are soon known by heart.

        Raises
        ------
        CheckpointError
            that network has another shape.
        """
        try:
            self.model.load_state_dict(first_weights(content["ema"], self.model, filters["ema"] if filters else None))
        except (RuntimeError, ValueError) as error:
            raise checkpoint.CheckpointError(
                f"checkpoint's network does not fit: expected layers={self.config.layers}, hidden={self.config.hidden} or "
                f"less, n_fft={self.config.n_fft}; begin with one of that shape"
            ) from error
        self.ema.load_state_dict(self.model.state_dict())
        self.init = provenance.record(content)
        self.filters = provenance.record(filters) if filters else None
        behind = provenance.lineage({"init": self.init, "filters": self.filters, "steps": 0})
        self.heard = sum(run["steps"] for run in behind)

    def restore(self, content: dict[str, Any]) -> None:
        """Go on where `content` was saved.

        Raises
        ------
        CheckpointError
            the checkpoint's configuration differs from this run's in more than the budget.
        """
        mine = self.config.model_dump(mode="json")
        theirs = checkpoint.config_of(content).model_dump(mode="json")  # keys that it is older than: as if not there
        for key in mine:
            if key != "epochs" and mine[key] != theirs.get(key):
                raise checkpoint.CheckpointError(
                    f"checkpoint has {key}={theirs.get(key)!r}, the configuration {mine[key]!r}: "
                    "resume with the configuration it began with"
                )
        if content["data"] != self.provenance:
            raise checkpoint.CheckpointError("checkpoint was trained on other data: resume with the --data it began with")
        self.model.load_state_dict(content["model"])
        self.ema.load_state_dict(content["ema"])
        self.optimizer.restore(content["optimizer"])
        rows = slice(self._rows.start, self._rows.stop)
        h, c = (s[:, rows].to(self.device) for s in content["state"])
        self.state = (h, c)
        self.init, self.filters = content.get("init"), content.get("filters")
        self.heard = content.get("heard", 0)  # runs of a version that did not count
        self.step, self.seconds, self.losses = content["step"], content["seconds"], list(content["losses"])
        self.report.rows = list(content["history"])
