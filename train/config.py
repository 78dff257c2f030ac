"""The configuration of a training run: one validated object from a TOML file. Unknown keys are errors."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

CONFIGS = Path(__file__).with_name("configs")
OptimizerName = Literal["adamw", "muon"]


class ConfigError(Exception):
    """The configuration is missing, not TOML, or holds a wrong key or value."""


class Strict(BaseModel):
    """Unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Strict):
    """One data set of a run, by its path below a `--data` root: never a path of one machine."""

    path: str = Field(min_length=1)
    role: Literal["auto", "voice", "accompaniment"] = Field(default="auto", description="for folders of single recordings")
    split: Literal["auto", "train", "validation"] = "auto"
    list: str | None = Field(default=None, description="text file in the folder: one recording's name a line")
    only: tuple[str, ...] = Field(default=(), description="patterns of the names to take; none: all")
    exclude: tuple[str, ...] = Field(default=(), description="patterns of names to leave out")
    weight: float = Field(default=1.0, gt=0, description="how often it is drawn from, relative to the others")
    start: float = Field(default=0.0, ge=0, description="s: what lies before is left out")
    stop: float | None = Field(default=None, gt=0, description="s: what lies behind is left out")

    @model_validator(mode="after")
    def _ordered(self) -> Data:
        if self.stop is not None and self.stop <= self.start:
            raise ValueError(f"stop={self.stop} s must lie behind start={self.start} s")
        return self


Range = Annotated[tuple[float, float], Field(description="lowest and highest value, drawn evenly")]


class Augment(Strict):
    """How stems become mixtures. Probabilities are per mixture."""

    coherent: float = Field(default=0.4, ge=0, le=1, description="voice and accompaniment from the same place of one recording")
    balance_db: Range = (-6.0, 6.0)
    gain_db: Range = (-40.0, 0.0)
    speeds: tuple[float, ...] = Field(
        default=(0.84, 0.92, 1.0, 1.09, 1.19), min_length=1, description="resampling: pitch and formants move with it"
    )
    stem_eq_db: float = Field(default=4.0, ge=0, description="deviation of each stem's random equaliser")
    mix_eq_db: float = Field(default=4.0, ge=0, description="deviation of the equaliser common to all stems")
    dark: float = Field(default=0.0, ge=0, le=1, description="probability that the voice, and nothing else, lacks its top")
    dark_hz: Range = (400.0, 1600.0)
    dark_slope_db: Range = Field(default=(3.0, 15.0), description="dB an octave")
    low_pass: float = Field(default=0.4, ge=0, le=1, description="probability that the band's top is missing")
    low_pass_hz: Range = (3500.0, 8000.0)
    band_slope_db: Range = Field(default=(12.0, 400.0), description="dB an octave: a gentle roll-off to a codec's wall")
    high_pass: float = Field(default=0.3, ge=0, le=1)
    high_pass_hz: Range = (40.0, 400.0)
    noise: float = Field(default=0.25, ge=0, le=1, description="probability of white noise in the accompaniment")
    noise_db: Range = (-80.0, -35.0)
    several: float = Field(default=0.0, ge=0, lt=1, description="probability that one voice more joins; then again")
    several_db: Range = (-12.0, 0.0)
    formants: float = Field(default=0.0, ge=0, le=1, description="probability that a voice's formants move, not its pitch")
    formant_ratio: Range = (0.85, 1.18)
    produced: float = Field(default=0.0, ge=0, le=1, description="of a voice as studios make it: train/production.py")
    room: float = Field(default=0.0, ge=0, le=1, description="probability of a room, of each stem by itself")
    room_seconds: Range = Field(default=(0.2, 1.2), description="reverberation times, RT60")
    room_db: Range = Field(default=(-18.0, -3.0), description="energy of the reverberation to that of the direct sound")
    silent_voice: float = Field(default=0.04, ge=0, le=1)
    silent_accompaniment: float = Field(default=0.02, ge=0, le=1)


class Filter(Strict):
    """The second stage of network = "filter" (train/deepfilter.py)."""

    taps: int = Field(default=3, gt=0, description="frames that are combined: the newest and those before it")
    near: int = Field(default=1, ge=0, description="bins on either side that are, too")
    group: int = Field(default=4, gt=0, description="neighbouring bins with an LSTM between them")
    groups: int = Field(default=51, gt=0, description="of them, as many for each layer: filters reach up to bin group * groups")
    context: int = Field(default=4, ge=0, description="bins that a group sees on either side of its own: those of whole groups")
    width: int = Field(default=80, gt=0, description="units of a group's LSTM")

    @model_validator(mode="after")
    def _whole(self) -> Filter:
        if self.context % self.group:
            raise ValueError(f"context={self.context} must be a multiple of group={self.group}")
        return self

    @property
    def bins(self) -> int:
        """Bins that are combined into one."""
        return 2 * self.near + 1

    @property
    def reach(self) -> int:
        """Bins that have filters."""
        return self.group * self.groups

    @property
    def span(self) -> int:
        """Bins that a group sees."""
        return self.group + 2 * self.context


class Config(Strict):
    """Everything that decides the weights, apart from the recordings themselves."""

    name: str = Field(min_length=1, description="the model's name in its file")
    licence: str = "unspecified"
    sources: tuple[Literal["vocals"], Literal["accompaniment"]] = ("vocals", "accompaniment")

    sample_rate: int = Field(default=16_000, gt=0, description="Hz")
    n_fft: int = Field(default=1024, gt=0, multiple_of=2)
    synthesis_length: int = Field(default=256, gt=0)
    hop_length: int = Field(default=128, gt=0)

    network: Literal["lstm", "bands", "filter"] = Field(
        default="lstm", description="every layer sees all bins, or band by band; filter: an lstm, then complex filters"
    )
    layers: int = Field(default=3, gt=0)
    hidden: int = Field(default=1000, gt=0, description="units of a layer; of bands: for each band")
    width: int = Field(default=64, gt=0, description="channels of a band")
    filter: Filter = Filter()
    frozen: bool = Field(default=False, description="of a filter's network: its lstm stays as it begins")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="between the LSTM layers")

    loss: Literal["discriminative", "sdr"] = "discriminative"
    gamma: float = Field(default=0.5, ge=0, lt=1, description="weight of the discriminative term")
    spectral: float = Field(default=0.0, ge=0, description="weight of the multi-resolution spectral loss beside it")

    seed: int = 0
    epochs: int = Field(default=100, gt=0)
    steps_per_epoch: int = Field(default=100, gt=0, description="mixtures are random: an epoch is a number of steps")
    batch: int = Field(default=16, gt=0, description="mixtures a step")
    seconds: float = Field(default=4.096, gt=0, description="length of a mixture")
    optimizer: OptimizerName = Field(default="adamw", description="muon: for the matrices; biases have AdamW")
    learning_rate: float = Field(default=1e-3, gt=0, description="peak; cosine to zero at the end of the budget")
    warm_up: int = Field(default=100, ge=0, description="steps")
    weight_decay: float = Field(default=1e-2, ge=0)
    clip: float = Field(default=5.0, gt=0, description="largest norm of the gradient")
    ema: float = Field(default=0.998, ge=0, lt=1, description="decay of the averaged weights, which are validated and exported")
    carry: float = Field(
        default=0.5, ge=0, le=1, description="share of mixtures that start from the state another one ended in"
    )

    augment: Augment = Augment()
    data: tuple[Data, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.synthesis_length > self.n_fft or self.synthesis_length % (2 * self.hop_length):
            raise ValueError(
                f"synthesis_length={self.synthesis_length} must be an even multiple of hop_length={self.hop_length} "
                f"and at most n_fft={self.n_fft}"
            )
        if self.network == "filter" and self.filter.reach + self.filter.context >= self.n_bins:
            raise ValueError(
                f"filter.group={self.filter.group} times filter.groups={self.filter.groups}, and filter.context="
                f"{self.filter.context}, reach beyond the {self.n_bins} bins: expected fewer groups"
            )
        if self.network == "filter" and self.filter.groups % self.layers:
            raise ValueError(f"filter.groups={self.filter.groups} must be a multiple of layers={self.layers}")
        if self.frozen and self.network != "filter":
            raise ValueError(f"frozen=true is for network='filter', not {self.network!r}: nothing would learn")
        if self.frozen and self.optimizer == "muon":
            raise ValueError("frozen=true leaves optimizer='muon' no matrices: expected 'adamw'")
        if self.samples < 2 * self.n_fft:
            raise ValueError(f"seconds={self.seconds} is too short for n_fft={self.n_fft}: expected two windows at least")
        return self

    @property
    def n_bins(self) -> int:
        """Bins of a spectrum."""
        return self.n_fft // 2 + 1

    @property
    def bin_hz(self) -> float:
        """From one bin to the next."""
        return self.sample_rate / self.n_fft

    @property
    def samples(self) -> int:
        """Length of a mixture in samples: whole hops."""
        return round(self.seconds * self.sample_rate / self.hop_length) * self.hop_length


def shipped() -> list[str]:
    """Names of the configurations that come with the checkout."""
    return sorted(p.stem for p in CONFIGS.glob("*.toml"))


def load(config: str, changes: Sequence[str] = ()) -> Config:
    """The configuration called `config` (a shipped name) or stored at `config` (a path), with `changes` like "gamma=0.05".

    Raises
    ------
    ConfigError
        no such name or file, not TOML, an unknown key, or a value out of range.
    """
    path = CONFIGS / f"{config}.toml" if config in shipped() else Path(config)
    table = _read(path)
    for change in changes:
        table = _changed(table, change)
    return validate(table, path.name)


def _changed(table: dict[str, Any], change: str) -> dict[str, Any]:
    """`table` with the line of TOML `change` over it; "augment.room=0.5" changes one key of the table `augment`."""
    try:
        new = tomllib.loads(change)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"change {change!r} is not TOML: expected key=value, as in gamma=0.05 ({error})") from error
    inner = {key: table[key] | value for key, value in new.items() if isinstance(value, dict) and key in table}
    return table | new | inner


def _read(path: Path) -> dict[str, Any]:
    """The file's keys over those of the file it `extends`, if any; a table within, `augment`, takes the other's place whole."""
    try:
        table = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(
            f"configuration {str(path)!r} cannot be read: expected one of {', '.join(shipped())} or a path to a TOML file"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"configuration {str(path)!r} is not TOML: {error}") from error
    if "extends" not in table:
        return table
    base = str(table.pop("extends"))
    return _read(CONFIGS / f"{base}.toml" if base in shipped() else path.parent / base) | table


def validate(table: dict[str, Any], where: str) -> Config:
    """The checked configuration of a plain table; `where` names it in errors."""
    try:
        return Config.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "configuration"
        value = "" if isinstance(first["input"], dict) else f"={first['input']!r}"
        raise ConfigError(f"{where}: {key}{value}: {first['msg']}") from error
