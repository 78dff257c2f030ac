"""The training loop, top to bottom: draw, filter, separate, lose, step; at each epoch's end score, save, tell.

Everything that changes during a run lives in `Trainer` and goes into the checkpoint, so that a run that was stopped at any
step and resumed ends with the same bits as one that was not (same machine, same thread count, budget in steps: a budget in
minutes depends on the clock by its nature).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from . import checkpoint, loss, mixing
from .config import Config
from .datasets import DataSet, Recording
from .model import MaskLSTM, State
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
    device : where to compute
    precision : "auto" is bf16 on CUDA and fp32 on the CPU, where only the newest processors gain from bf16
    minutes : a budget by the clock instead of `config.epochs`
    """

    def __init__(
        self,
        config: Config,
        sets: Sequence[DataSet],
        held: Sequence[Recording],
        out: Path,
        device: torch.device,
        precision: Precision = "auto",
        minutes: float | None = None,
    ):
        self.config, self.held, self.out, self.device, self.minutes = config, held, out, device, minutes
        self.bf16 = precision == "bf16" or (precision == "auto" and device.type == "cuda")
        self.provenance = [describe(d, config.sample_rate) for d in sets]
        self.mixer = mixing.Mixer(sets, config.augment, config.samples, config.sample_rate, config.seed)
        torch.manual_seed(config.seed)
        self.transform = Transform(config.n_fft, config.synthesis_length, config.hop_length).to(device)
        self.model = checkpoint.network(config).to(device)
        with torch.no_grad():
            self._standardise()
        self.ema: MaskLSTM = deepcopy(self.model).requires_grad_(False).eval()
        self.optimizer = torch.optim.AdamW(_groups(self.model, config.weight_decay), lr=config.learning_rate)
        self.state: State = self.model.initial(config.batch)
        self.init: dict[str, Any] | None = None
        self.step = 0
        self.seconds = 0.0
        self.losses: list[float] = []  # of the epoch so far
        self.report = Report(out, config.name)

    def _standardise(self) -> None:
        """Per-bin mean and deviation of the features, from mixtures that no training step will see."""
        batch = self.mixer.batch(2**62, 64).to(self.device)
        mixture = mixing.apply(batch).sum(1)
        self.model.standardise(self.transform.magnitude(self.transform.analyse(mixture)))

    @property
    def steps(self) -> int:
        """The budget in steps; by the clock, the steps it will take at the pace so far."""
        if self.minutes is None:
            return self.config.epochs * self.config.steps_per_epoch
        return max(self.step, round(self.step / max(self.progress, 1e-9)))

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, 0 to 1."""
        if self.minutes is None:
            return self.step / (self.config.epochs * self.config.steps_per_epoch)
        return min(1.0, self.seconds / (60 * self.minutes))

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine to zero."""
        warm = min(1.0, (self.step + 1) / (self.config.warm_up + 1))
        return self.config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * self.progress))

    def run(self, stop: Callable[[], bool], tick: Callable[[], None], tell: Callable[[str], None]) -> bool:
        """Train until the budget is spent or `stop()`; True when it is spent.

        `tick()` is called after each step, `tell(line)` at each epoch's end.
        """
        started = time.monotonic() - self.seconds
        with ThreadPoolExecutor(1) as loader:  # the next mixtures are made while the network learns from these
            for batch in self._batches(loader):
                self.losses.append(self.learn(batch))
                self.step += 1
                self.seconds = time.monotonic() - started
                tick()
                done, asked = self.progress >= 1, stop()
                if done or self.step % self.config.steps_per_epoch == 0:
                    tell(self._close_epoch())
                elif asked:
                    self.save("last.pt")
                if done or asked:
                    return done
        return True

    def _batches(self, loader: ThreadPoolExecutor) -> Iterator[mixing.Batch]:
        if self.progress >= 1:
            return
        coming = loader.submit(self.mixer.batch, self.step, self.config.batch)
        while True:
            batch = coming.result()
            coming = loader.submit(self.mixer.batch, self.step + 1, self.config.batch)
            yield batch.to(self.device)

    def learn(self, batch: mixing.Batch) -> float:
        """One step of the optimiser; the loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.model.train()
        stems = mixing.apply(batch)
        value = self._loss(stems)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        self._average()
        return float(value.detach())

    def _loss(self, stems: Tensor) -> Tensor:
        """Loss of stems `[shape=(streams, sources, samples)]`."""
        mixture = self.transform.analyse(stems.sum(1))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            mask, state = self.model(self.transform.magnitude(mixture), self._start())
        self.state = (state[0].detach().float(), state[1].detach().float())
        if self.config.loss == "sdr":
            return loss.negative_sdr(mask, mixture, stems, self.transform)
        return loss.discriminative(mask, mixture, self.transform.analyse(stems), self.config.gamma)

    def _start(self) -> State:
        """Initial states: zeros, or where another stream ended: live, the network runs for hours without a reset."""
        keep = torch.rand(self.config.batch, device=self.device) < self.config.carry
        order = torch.randperm(self.config.batch, device=self.device)
        h, c = (s[:, order] * keep[:, None] for s in self.state)
        return h, c

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))  # the first weights are soon forgotten
        for mean, weight in zip(self.ema.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(weight, 1 - decay)

    def _close_epoch(self) -> str:
        row = {
            "epoch": math.ceil(self.step / self.config.steps_per_epoch),
            "step": self.step,
            "seconds": round(self.seconds, 1),
            "learning_rate": self.learning_rate(),
            "loss": sum(self.losses) / len(self.losses),
        } | self.validate()
        self.losses = []
        better = self.report.add(row)
        self.save("last.pt")
        if better:
            self.save("best.pt")
        return self.report.line(better)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """NSDR of the averaged weights on the held recordings: mean over clips, dB, by plain SDR (not BSS Eval)."""
        scores = torch.tensor([self._score(recording) for recording in self.held]).mean(0)
        return {f"nsdr_{source}": float(s) for source, s in zip(self.config.sources, scores, strict=True)}

    def _score(self, recording: Recording) -> list[float]:
        """NSDR of each source at 0 dB, from a zero state: the recording is heard from its start, as at run time."""
        stems = torch.stack([torch.as_tensor(recording.voice), torch.as_tensor(recording.accompaniment)])[None].to(self.device)
        mixture = self.transform.analyse(stems.sum(1))
        mask, _ = self.ema(self.transform.magnitude(mixture), self.ema.initial(1))
        estimate = self.transform.synthesise(mask.transpose(1, 2) * mixture.unsqueeze(1))
        truth = stems[..., : estimate.shape[-1]]
        gain = sdr(estimate, truth) - sdr(truth.sum(1, keepdim=True), truth)
        return gain[0].tolist()

    def save(self, name: str) -> None:
        """Write the checkpoint `name` into the run's folder."""
        checkpoint.save(self.out / name, self.content())

    def content(self) -> dict[str, Any]:
        """All of the run, as plain data and tensors."""
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        return {
            "config": self.config.model_dump(mode="json"),
            "data": self.provenance,
            "validation": [r.name for r in self.held],
            "commit": checkpoint.commit(),
            "init": self.init,
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "history": self.report.rows,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": list(self.state),
            # The loader draws from (seed, step) and Python's and NumPy's global generators are not used: these are all.
            "rng": {"torch": torch.get_rng_state(), "cuda": cuda},
        }

    def begin_with(self, content: dict[str, Any]) -> None:
        """Take the averaged weights of another run's checkpoint as the first ones, and remember where they came from.

        Raises
        ------
        CheckpointError
            that network has another shape.
        """
        try:
            self.model.load_state_dict(content["ema"])
        except RuntimeError as error:
            raise checkpoint.CheckpointError(
                f"checkpoint's network does not fit: expected layers={self.config.layers}, hidden={self.config.hidden}, "
                f"n_fft={self.config.n_fft}; begin with one of that shape"
            ) from error
        self.ema.load_state_dict(content["ema"])
        self.init = {
            "steps": content["step"],
            "minutes": round(content["seconds"] / 60, 1),
            "commit": content["commit"],
            "data": content["data"],
        }

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
        self.optimizer.load_state_dict(content["optimizer"])
        self.state = (content["state"][0].to(self.device), content["state"][1].to(self.device))
        self.init = content.get("init")
        self.step, self.seconds, self.losses = content["step"], content["seconds"], list(content["losses"])
        self.report.rows = list(content["history"])
        torch.set_rng_state(content["rng"]["torch"].cpu())
        if content["rng"]["cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(content["rng"]["cuda"].cpu(), self.device)


def sdr(estimate: Tensor, truth: Tensor) -> Tensor:
    """10 log10(||s||² / ||ŝ-s||²) over the last axis, dB."""
    return 10 * torch.log10(truth.square().sum(-1) / (estimate - truth).square().sum(-1).clamp_min(1e-12))


def describe(data: DataSet, rate: int) -> dict[str, Any]:
    """What a data set contributed, for the model's contract: names and lengths, no paths."""
    return {
        "name": data.name,
        "weight": data.weight,
        "recordings": len(data.recordings),
        "voice_minutes": round(sum(len(r.voice) for r in data.recordings if r.voice is not None) / rate / 60, 1),
        "accompaniment_minutes": round(
            sum(len(r.accompaniment) for r in data.recordings if r.accompaniment is not None) / rate / 60, 1
        ),
    }


def _groups(model: MaskLSTM, weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay, biases do not: they set where gates and masks rest."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    biases = [p for p in model.parameters() if p.ndim == 1]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": biases, "weight_decay": 0.0}]
