"""The export room: the file does what the network does, says what it is, or is not written."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

import streamsep.model
from export import exporter, graph, int8, parity, reader
from export.__main__ import main
from export.exporter import export
from streamsep import rows
from tests.untrained import write_checkpoint
from train import checkpoint, config
from train.growth import grown
from train.model import MaskLSTM

ROOT = Path(__file__).parents[1]
MIR1K = Path(__file__).parents[2] / "shared/data/mir1k"

needs_mir1k = pytest.mark.skipif(not MIR1K.is_dir(), reason=f"{MIR1K} is missing: it is not part of the repository")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    settings = config.load("tiny").model_copy(update={"licence": "CC0-1.0"})
    return write_checkpoint(tmp_path_factory.mktemp("run") / "best.pt", settings)


@pytest.fixture(scope="module")
def network(source) -> MaskLSTM:
    return checkpoint.trained(checkpoint.load(source))


@pytest.fixture(scope="module")
def banded(tmp_path_factory) -> Path:
    settings = config.load("tiny").model_copy(update={"network": "bands", "layers": 2, "hidden": 32, "width": 32})
    return write_checkpoint(tmp_path_factory.mktemp("bands") / "best.pt", settings)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_bands_do_what_the_network_does_and_share_a_call(banded, tmp_path, precision):
    contract, result = export(banded, tmp_path / "out.onnx", precision)
    assert result.difference <= 1e-4 or precision != "fp32"
    assert result.snr_db > ({"fp32": 100.0} | parity.LEAST_SNR_DB)[precision]
    loaded = streamsep.model.load(tmp_path / "out.onnx")
    assert loaded.contract == contract
    bands = checkpoint.trained(checkpoint.load(banded)).bands
    assert contract.hidden == 32 * bands
    assert contract.network == f"2 x 32 LSTM x {bands} bands"
    assert rows.RowsNetwork(loaded, 9).together, "no stream hears another by a bit"


def test_bands_have_no_8_bits(banded, tmp_path):
    result = CliRunner().invoke(main, [str(banded), "-o", str(tmp_path / "out.onnx"), "--quantize", "int8"])
    assert result.exit_code == 1
    assert "precision='int8': expected fp32 or fp16 for network='bands'" in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("roots", [(), pytest.param((MIR1K,), marks=needs_mir1k)], ids=["song", "mir1k"])
def test_the_file_does_what_the_network_does_and_loads(source, tmp_path, precision, roots):
    contract, result = export(source, tmp_path / "out.onnx", precision, roots)
    assert result.difference <= 1e-4 or precision != "fp32"
    assert result.snr_db > ({"fp32": 100.0} | parity.LEAST_SNR_DB)[precision]
    loaded = streamsep.model.load(tmp_path / "out.onnx")
    assert loaded.contract == contract
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]


def test_the_contract_says_where_the_weights_come_from(source, tmp_path):
    contract, _ = export(source, tmp_path / "out.onnx")
    assert (contract.name, contract.licence, contract.precision) == ("tiny", "CC0-1.0", "fp32")
    assert contract.sources == ("vocals", "accompaniment")
    assert contract.network == f"{contract.layers} x {contract.hidden} LSTM"
    assert contract.training["commit"] == "0123456789ab"
    assert contract.training["steps"] == 7
    assert contract.quality["parity"]["sounds"] == "the song of `streamsep demo`"
    assert contract.quality["validation"]["nsdr_vocals"] == 1.23
    for place in (str(source.parent), str(tmp_path), str(ROOT)):
        assert place.encode() not in (tmp_path / "out.onnx").read_bytes()


def test_every_precision_is_smaller_than_the_one_before(source, tmp_path):
    for precision in ("fp32", "fp16", "int8"):
        export(source, tmp_path / f"{precision}.onnx", precision)
    sizes = [(tmp_path / f"{p}.onnx").stat().st_size for p in ("fp32", "fp16", "int8")]
    assert sizes[1] < 0.6 * sizes[0]
    assert sizes[2] < 0.4 * sizes[0]


def test_int8_rows_and_frames_do_not_touch_each_other(source, network, tmp_path):
    """Loud beside quiet beside silent: every row and frame gets the bits that it gets alone."""
    export(source, tmp_path / "out.onnx", "int8")
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx", providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    mag = (random.random((7, 9, 257)) ** 4 * 10.0 ** random.uniform(-5, 0, (7, 9, 1))).astype(np.float32)
    mag[2] = mag[:, 4] = 0
    h, c = (s.numpy() for s in network.initial(7))
    together, *states = session.run(None, {"mag": mag, "h": h, "c": c})
    assert together.std() > 0.05
    for row in range(7):
        np.testing.assert_array_equal(parity.hop_by_hop(session, network, mag[row : row + 1])[0], together[row])
        alone = session.run(None, {"mag": mag[row : row + 1], "h": h[:, :1], "c": c[:, :1]})
        for a, b in zip(alone[1:], states, strict=True):
            np.testing.assert_array_equal(a[:, 0], b[:, row])


def test_int8_stays_in_16_bits_where_pairs_of_products_do(source, tmp_path):
    """VPMADDUBSW on processors without VNNI: uint8 times int8, two neighbours added, saturated at int16."""
    export(source, tmp_path / "out.onnx", "int8")
    graph_ = onnx.load(tmp_path / "out.onnx").graph
    stored = {t.name: onnx.numpy_helper.to_array(t).astype(int) for t in graph_.initializer if t.name.endswith("_int8")}
    assert set(stored) == {"W_0_int8", "R_0_int8", "W_1_int8", "R_1_int8", "heads_int8"}
    assert min(np.abs(weight).max() for weight in stored.values()) > 90
    for weight in stored.values():
        assert np.abs(weight).max() <= 127
        even, odd = weight[0::2], weight[1::2]
        assert 255 * (np.maximum(even, 0) + np.maximum(odd, 0)).max() <= 32767
        assert 255 * (np.minimum(even, 0) + np.minimum(odd, 0)).min() >= -32768


def test_any_number_of_streams_and_frames(source, network, tmp_path):
    export(source, tmp_path / "out.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx", providers=["CPUExecutionProvider"])
    mag = np.random.default_rng(0).random((3, 11, 257), np.float32)
    h, c = (s.numpy() for s in network.initial(3))
    first, h, c = session.run(None, {"mag": mag[:, :4], "h": h, "c": c})
    second, h, c = session.run(None, {"mag": mag[:, 4:], "h": h, "c": c})
    with torch.no_grad():
        mask, state = network(torch.from_numpy(mag), network.initial(3))
    np.testing.assert_allclose(np.concatenate([first, second], 1), mask.numpy(), atol=parity.LARGEST_DIFFERENCE)
    np.testing.assert_allclose(h, state[0].numpy(), atol=parity.LARGEST_DIFFERENCE)
    np.testing.assert_allclose(c, state[1].numpy(), atol=parity.LARGEST_DIFFERENCE)


@pytest.mark.parametrize(("precision", "least"), [("fp32", 120), ("fp16", 60), ("int8", 40)])
def test_a_files_weights_come_back(source, tmp_path, precision, least):
    """And another run can begin with them: its network, whose features have other statistics, gives the masks of the file."""
    export(source, tmp_path / "model.onnx", precision)
    content = reader.read(tmp_path / "model.onnx")
    assert (content["step"], content["seconds"], content["commit"]) == (7, 60.0, "0123456789ab")
    settings = config.load("tiny")
    torch.manual_seed(1)
    model = checkpoint.network(settings)
    model.mean.fill_(-3)
    model.std.fill_(1.7)
    model.load_state_dict(grown(content["ema"], model))
    mags, _ = parity.recordings(settings, ())
    assert parity.measure(model.eval(), tmp_path / "model.onnx", mags).snr_db > least
    assert bool((model.mean == -3).all()) == (precision == "int8")  # where it has its own, as part of the first layer


def test_8_bits_of_an_earlier_version_have_no_way_back(source, tmp_path):
    """They had no constant of that name."""
    export(source, tmp_path / "model.onnx", "int8")
    content = (tmp_path / "model.onnx").read_bytes()
    (tmp_path / "earlier.onnx").write_bytes(content.replace(b"state_zero_step", b"state_only_step"))
    reader.read(tmp_path / "model.onnx")
    with pytest.raises(streamsep.model.ModelError, match="has no way back: an earlier version wrote its 8 bits"):
        reader.read(tmp_path / "earlier.onnx")


def test_a_file_of_bands_has_no_way_back(banded, tmp_path):
    export(banded, tmp_path / "model.onnx")
    with pytest.raises(streamsep.model.ModelError, match="has no way back: expected an LSTM over all bins"):
        reader.read(tmp_path / "model.onnx")


@pytest.mark.parametrize("layers", [1, 3])
def test_any_number_of_layers(tmp_path, layers):
    settings = config.load("tiny").model_copy(update={"layers": layers, "hidden": 16})
    contract, _ = export(write_checkpoint(tmp_path / "best.pt", settings), tmp_path / "out.onnx")
    assert contract.layers == layers


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_wrong_weight_leaves_no_file(source, tmp_path, monkeypatch, precision):
    room = int8 if precision == "int8" else graph
    build = room.build

    def wrong(model: MaskLSTM, *kind: graph.Precision) -> onnx.ModelProto:
        """The recurrent gates in PyTorch's order: shapes fit, and the first frame is right."""
        made = build(model, *kind)
        for tensor in made.graph.initializer:
            if tensor.name in ("R_0", "R_1", "R_0_fp16", "R_1_fp16", "R_0_int8"):
                value = onnx.numpy_helper.to_array(tensor)
                i, o, f, c = np.split(value, 4, axis=1)
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.concatenate([i, f, c, o], 1), tensor.name))
        return made

    monkeypatch.setattr(room, "build", wrong)
    target = tmp_path / "out.onnx"
    with pytest.raises(parity.ParityError, match="no file is written"):
        export(source, target, precision)
    assert list(tmp_path.iterdir()) == []
    target.write_bytes(b"the last good one")
    with pytest.raises(parity.ParityError):
        export(source, target, precision)
    assert target.read_bytes() == b"the last good one"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_parity_that_is_no_number_is_no_parity(value):
    with pytest.raises(parity.ParityError):
        parity.Parity(value, 200.0).check("fp32")
    with pytest.raises(parity.ParityError):
        parity.Parity(0.0, float("nan")).check("int8")


def test_a_contract_the_runtime_refuses_leaves_no_file(source, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "_attach", lambda path, contract: None)
    with pytest.raises(streamsep.model.ModelError, match="carries no 'streamsep' contract"):
        export(source, tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


def test_command_writes_and_reports(source, tmp_path):
    arguments = [sys.executable, "-m", "export", source, "-o", tmp_path / "out.onnx", "--quantize", "int8"]
    done = subprocess.run(arguments, cwd=ROOT, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "tiny, int8, 16 ms" in done.stdout
    assert "mask SNR" in done.stdout
    assert streamsep.model.load(tmp_path / "out.onnx").contract.precision == "int8"


@pytest.mark.parametrize(
    ("checkpoint_name", "out", "code", "message"),
    [
        ("nothing.pt", "out.onnx", 1, "does not exist: give a file made by `python -m train`"),
        ("best.pt", "out.pb", 2, "must end in .onnx"),
        ("best.pt", "nowhere/out.onnx", 2, "make it, or give another --out"),
    ],
)
def test_errors_are_one_line_and_a_code(source, tmp_path, checkpoint_name, out, code, message):
    done = CliRunner().invoke(main, [str(source.with_name(checkpoint_name)), "-o", str(tmp_path / out)])
    assert done.exit_code == code
    assert message in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
