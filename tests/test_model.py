"""The model file: loaded strictly or not at all, and saying why not."""

import json

import onnx
import pytest
from onnx import helper
from pydantic import ValidationError

from streamsep import model
from streamsep.model import METADATA_KEY, Contract, ModelError
from tests import graphs


@pytest.fixture
def path(tmp_path):
    return graphs.lstm(tmp_path / "m.onnx")


def rewrite(path, change):
    proto = onnx.load(path)
    values = json.loads(next(p.value for p in proto.metadata_props if p.key == METADATA_KEY))
    change(values)
    del proto.metadata_props[:]
    helper.set_model_props(proto, {METADATA_KEY: json.dumps(values)})
    onnx.save(proto, path)


def test_contract_survives_the_file(path):
    loaded = model.load(path)
    assert loaded.contract == graphs.contract()
    assert loaded.contract.latency_ms == 16
    assert loaded.size == path.stat().st_size


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda v: v.update(n_bins=512), "n_bins=512"),
        (lambda v: v.update(hidden=17), "tensor h is"),
        (lambda v: v.update(format_version=2), "format_version"),
        (lambda v: v.update(surprise=1), "surprise"),
        (lambda v: v.pop("licence"), "licence"),
        (lambda v: v.update(sources=["vocals", "vocals"]), "sources"),
        (lambda v: v.update(sources=["vocals", "drums", "bass"]), "tensor mask is"),
        (lambda v: v.update(hop_length=100), "synthesis_length"),
    ],
)
def test_a_file_that_contradicts_its_contract_is_refused(path, change, says):
    rewrite(path, change)
    with pytest.raises(ModelError, match=says) as caught:
        model.load(path)
    assert "\n" not in str(caught.value)


def test_foreign_truncated_text_and_missing_files(path, tmp_path):
    proto = onnx.load(path)
    del proto.metadata_props[:]
    foreign = tmp_path / "foreign.onnx"
    onnx.save(proto, foreign)
    truncated = tmp_path / "truncated.onnx"
    truncated.write_bytes(path.read_bytes()[:5000])
    text = tmp_path / "text.onnx"
    text.write_text("not a model")
    empty = tmp_path / "empty.onnx"
    empty.touch()
    for bad, says in (
        (foreign, "foreign"),
        (truncated, "damaged"),
        (text, "damaged"),
        (empty, "damaged|foreign"),
        (tmp_path / "no.onnx", "exist"),
    ):
        with pytest.raises(ModelError, match=says) as caught:
            model.load(bad)
        assert "\n" not in str(caught.value)


def test_unknown_name_lists_the_shipped_ones():
    with pytest.raises(ModelError, match="expected one of live"):
        model.load("nosuchmodel")


def test_shipped_models_are_small_and_have_a_card():
    assert "live" in model.shipped()
    for name in model.shipped():
        loaded = model.load(name)
        assert loaded.size <= 25 * 2**20
        card = loaded.path.with_suffix(".md").read_text()
        assert "MIR-1K" in card
        assert loaded.contract.name == name


def test_contract_is_frozen():
    with pytest.raises(ValidationError):
        graphs.contract().hidden = 3
    assert Contract.model_validate_json(graphs.contract().model_dump_json()) == graphs.contract()
