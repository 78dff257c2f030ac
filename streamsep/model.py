"""The model file and its contract: one `.onnx` is the only bridge between training and runtime.

Graph (float32 at its edges, axes `streams` and `frames` dynamic):

    inputs    mag   (streams, frames, n_bins)            |STFT| of the mono downmix; a full-scale sine peaks at 1.0
              h, c  (layers, streams, hidden)            LSTM state
    outputs   mask  (streams, frames, sources, n_bins)   in [0, 1], summing to 1 over the sources
              h_out, c_out  like h, c

A model with `filters` sees how phase goes on as well, and gives complex filters beside the masks (train/deepfilter.py has the
maths):

    inputs    mag_phase (streams, frames, n_bins + 4 seen)   mag, then of the first `seen` bins of the mono downmix, level-free,
              real and imaginary parts of X(t, k) X*(t - 1, k), the frame before turned by exp(2 pi i k hop / n_fft), and of
              X(t, k) X*(t, k - 1) (`stft.directions`)
    outputs   filter    (streams, frames, sources n_bins + groups (sources - 1) taps (2 near + 1) 2 group)   the masks, then of
              each group of bins, from the lowest on, of each source but the last, by tap and neighbour, real and imaginary part

`metadata_props["streamsep"]` holds the `Contract` as JSON: all that is needed to run the file and to trust it. A file is
loaded strictly or not at all. This module knows nothing of devices, rates other than the model's own, or of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnxruntime
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from . import StreamsepError

METADATA_KEY = "streamsep"
MODELS = Path(__file__).with_name("models")


class ModelError(StreamsepError):
    """A model file is missing, damaged, foreign, or contradicts its own contract."""


class Filters(BaseModel):
    """The filters that a model gives beside its masks; see the module's text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    taps: int = Field(gt=0, description="frames that are combined: the newest and those before it")
    near: int = Field(ge=0, description="bins on either side that are, too")
    group: int = Field(gt=0, description="neighbouring bins whose filters lie together")
    groups: int = Field(gt=0, description="of them, from the lowest bin on")
    seen: int = Field(gt=0, description="bins whose phase the network sees")

    @property
    def bins(self) -> int:
        """Bins that are combined into one."""
        return 2 * self.near + 1

    @property
    def reach(self) -> int:
        """Bins that have filters."""
        return self.group * self.groups

    @property
    def kept(self) -> int:
        """Bins whose past is needed."""
        return max(self.reach + self.near, self.seen)


class Contract(BaseModel):
    """What a model file says about itself. Unknown keys and wrong types are errors.

    Lengths are in samples at `sample_rate`; at another rate the engine keeps their durations (`stft.Geometry.at`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1] = 1
    name: str = Field(min_length=1, description="short name, e.g. the preset")
    sample_rate: int = Field(gt=0, description="Hz")
    n_fft: int = Field(gt=0, multiple_of=2, description="analysis window, samples")
    synthesis_length: int = Field(gt=0, description="synthesis window, samples: the algorithmic latency")
    hop_length: int = Field(gt=0, description="samples")
    n_bins: int = Field(gt=0)
    sources: tuple[str, ...] = Field(min_length=2)
    layers: int = Field(gt=0)
    hidden: int = Field(gt=0)
    mag_scale: Literal["2/sum(window)"] = "2/sum(window)"
    filters: Filters | None = None
    precision: Literal["fp32", "fp16", "int8"]
    licence: str
    training: dict[str, Any] = Field(description="data, commit, configuration, steps: where the weights come from")
    quality: dict[str, Any] = Field(default_factory=dict, description="measured figures with their conditions")

    @model_validator(mode="after")
    def _consistent(self) -> Contract:
        if self.n_bins != self.n_fft // 2 + 1:
            raise ValueError(f"n_bins={self.n_bins} does not follow from n_fft={self.n_fft}: expected {self.n_fft // 2 + 1}")
        if self.synthesis_length > self.n_fft or self.synthesis_length % (2 * self.hop_length):
            raise ValueError(
                f"synthesis_length={self.synthesis_length} must be an even multiple of hop_length={self.hop_length} "
                f"and at most n_fft={self.n_fft}"
            )
        if len(set(self.sources)) != len(self.sources) or not all(s.isidentifier() for s in self.sources):
            raise ValueError(f"sources={self.sources} must be distinct names made of letters, digits and _")
        if self.filters and self.filters.kept > self.n_bins:
            raise ValueError(f"filters reach bin {self.filters.kept}: expected at most n_bins={self.n_bins}")
        return self

    @property
    def latency_ms(self) -> float:
        """Algorithmic latency, ms: the length of the synthesis window."""
        return 1e3 * self.synthesis_length / self.sample_rate

    @property
    def network(self) -> str:
        """What it is, in a few words."""
        config = self.training.get("config", {})
        of_parts = self.filters or config.get("network") == "bands"
        units = config["hidden"] if of_parts else self.hidden  # of a layer, of each band
        if self.filters:
            return f"{self.layers} x {units} LSTM, filters"
        bands = f" x {self.hidden // units} bands" if units != self.hidden else ""
        return f"{self.layers} x {units} LSTM{bands}"

    @property
    def sees(self) -> str:
        """The graph's input beside the state."""
        return "mag_phase" if self.filters else "mag"

    @property
    def gives(self) -> str:
        """The graph's output beside the state."""
        return "filter" if self.filters else "mask"

    @property
    def inputs(self) -> tuple[str, str, str]:
        """Names of the graph's inputs, in order."""
        return (self.sees, "h", "c")

    @property
    def outputs(self) -> tuple[str, str, str]:
        """Names of the graph's outputs, in order."""
        return (self.gives, "h_out", "c_out")

    def shapes(self, streams: int = 1, frames: int = 1) -> dict[str, tuple[int, ...]]:
        """Tensor shapes by name for `streams` streams and `frames` frames a call."""
        state, sources = (self.layers, streams, self.hidden), len(self.sources)
        seen: tuple[int, ...] = (self.n_bins,)
        given: tuple[int, ...] = (sources, self.n_bins)
        if f := self.filters:
            seen = (self.n_bins + 4 * f.seen,)
            given = (sources * self.n_bins + (sources - 1) * f.taps * f.bins * 2 * f.reach,)
        tensors = (streams, frames, *seen), state, state, (streams, frames, *given), state, state
        return dict(zip(self.inputs + self.outputs, tensors, strict=True))


@dataclass(frozen=True)
class Model:
    """A checked model file."""

    path: Path
    contract: Contract

    @property
    def size(self) -> int:
        """File size, bytes."""
        return self.path.stat().st_size


def shipped() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(p.stem for p in MODELS.glob("*.onnx"))


def load(model: str | Path) -> Model:
    """The model called `model` (a shipped name) or stored at `model` (a path).

    Raises
    ------
    ModelError
        no such name or file, not ONNX, no contract inside, or a graph that is not what its contract says.
    """
    path = Path(model)
    if path.suffix != ".onnx" and path.name == str(model):
        path = MODELS / f"{model}.onnx"
        if not path.is_file():
            raise ModelError(
                f"model {str(model)!r} is unknown: expected one of {', '.join(shipped())} or a path to an .onnx file"
            )
    if not path.is_file():
        raise ModelError(f"model file {str(path)!r} does not exist: give a path to an .onnx file made by `python -m export`")
    return Model(path, _check(path))


def _check(path: Path) -> Contract:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # it is only read here
    options.log_severity_level = 4
    # This is the process's first session of this library, and only the first one's word on denormals counts (see ort.py).
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions share no base class of their own
        reason = str(error).splitlines()[0][:160]
        raise ModelError(f"model file {str(path)!r} is damaged or not ONNX: export it again ({reason})") from error
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise ModelError(
            f"model file {str(path)!r} is foreign: it carries no {METADATA_KEY!r} contract; make one with `python -m export`"
        )
    try:
        contract = Contract.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "contract"
        raise ModelError(f"model file {str(path)!r} has a bad contract: {where}: {first['msg']}; export it again") from error
    expected = contract.shapes()
    for names, tensors in ((contract.inputs, session.get_inputs()), (contract.outputs, session.get_outputs())):
        if tuple(t.name for t in tensors) != names:
            raise ModelError(f"model file {str(path)!r} has tensors {[t.name for t in tensors]}: expected {list(names)}")
        for tensor in tensors:
            if not _matches(tensor.shape, expected[tensor.name]) or tensor.type != "tensor(float)":
                raise ModelError(
                    f"model file {str(path)!r}: tensor {tensor.name} is {tensor.type} {tensor.shape}: "
                    f"expected tensor(float) {list(expected[tensor.name])}"
                )
    return contract


def _matches(shape: Sequence[int | str | None], expected: tuple[int, ...]) -> bool:
    """A dynamic axis (a name) takes any length."""
    return len(shape) == len(expected) and all(not isinstance(a, int) or a == b for a, b in zip(shape, expected, strict=True))
