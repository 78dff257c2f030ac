"""A slot is a Separator, bit for bit, whoever is beside it: joining, leaving, failing, silent or broken."""

import threading

import numpy as np
import onnx
import pytest
from numba import njit
from onnx import helper

from streamsep import batch, ortapi, ortsession, rows, structs
from streamsep import model as models
from streamsep.batch import Batch, BatchError
from streamsep.engine import Separator
from tests import graphs

FORMATS = [(48_000, 2), (48_000, 2), (44_100, 1), (16_000, 3), (48_000, 2), (48_000, 1)]
ALIGNED = dict(n_fft=1022, n_bins=512)  # a whole number of vectors: no row's sums depend on its place


@pytest.fixture(scope="session")
def aligned(folder) -> models.Model:
    """A network whose rows do not touch each other."""
    return models.load(graphs.lstm(folder / "aligned.onnx", seed=3, **ALIGNED))


@pytest.fixture(params=["aligned", "lstm", "coarse", "live"])
def network(request) -> models.Model:
    """Together, and the two kinds that are stepped row by row: sums that depend on the row, and 8 bits of one scale a call."""
    return request.getfixturevalue(request.param)


def sound(slot, seconds=0.5):
    """Noise of its own for each slot, at levels far apart."""
    rate, channels = FORMATS[slot]
    return np.random.default_rng(slot).normal(0, 0.5 * 10 ** (-slot / 2), (channels, int(seconds * rate))).astype(np.float32)


def alone(model, slot, x):
    return Separator(model, *FORMATS[slot], "cpu").process(x)


def joined(model, slots=(0, 1, 2, 3, 4, 5), **kwargs) -> Batch:
    made = Batch(model, FORMATS, "cpu", **kwargs)
    for slot in slots:
        made.join(slot)
    return made


def test_every_slot_is_a_separator(network):
    """Different rates and channels, blocks of different lengths: so hops are ready in ever other company."""
    many = joined(network)
    inputs = {slot: sound(slot) for slot in range(many.capacity)}
    parts = {slot: [] for slot in inputs}
    done = dict.fromkeys(inputs, 0)
    random = np.random.default_rng(1)
    while any(done[slot] < x.shape[1] for slot, x in inputs.items()):
        blocks = {}
        for slot, x in inputs.items():
            if random.random() < 0.8:
                n = int(random.integers(0, 1000))
                blocks[slot] = x[:, done[slot] : done[slot] + n]
                done[slot] += n
        for slot, y in many.process(blocks).items():
            parts[slot].append(y)
    for slot, x in inputs.items():
        np.testing.assert_array_equal(np.concatenate(parts[slot], -1), alone(network, slot, x))
        assert many.streams[slot].counts["hops"] == x.shape[1] // many.streams[slot].geometry.hop_length


def test_what_couples_rows_is_found(aligned, lstm, coarse, live):
    assert joined(aligned).together
    assert not joined(lstm).together
    assert not joined(coarse).together
    assert joined(live).together


def test_rows_that_are_coupled_do_differ_together(coarse):
    """What the row by row is for: it would not be noticed otherwise that it is needed no more."""
    loud, quiet = sound(0), sound(1) * 1e-3
    together = joined(coarse, (0, 1), together=True).process({0: loud, 1: quiet})[1]
    assert np.abs(together - alone(coarse, 1, quiet)).max() > 1e-8


def test_joining_leaving_and_beginning_anew_disturb_nobody(network):
    many = joined(network, [0])
    x = sound(0, 1.2)
    cuts = np.split(x, 6, axis=1)
    others = sound(1, 0.2), sound(4, 0.2), sound(2, 0.2)
    out = [many.process({0: cuts[0]})[0]]
    assert [many.join(), many.join(4)] == [1, 4]
    both = many.process({0: cuts[1], 1: others[0], 4: others[1]})
    out.append(both[0])
    np.testing.assert_array_equal(both[1], alone(network, 1, others[0]))
    many.leave(1)
    many.join(4)  # present already: it begins anew
    both = many.process({4: others[1], 0: cuts[2]})
    out.append(both[0])
    np.testing.assert_array_equal(both[4], alone(network, 4, others[1]))
    many.join(1)  # back, with nothing remembered
    both = many.process({1: others[0], 0: cuts[3]})
    out.append(both[0])
    np.testing.assert_array_equal(both[1], alone(network, 1, others[0]))
    many.leave(4)
    many.join(2)
    both = many.process({0: cuts[4], 2: others[2]})
    out.append(both[0])
    np.testing.assert_array_equal(both[2], alone(network, 2, others[2]))
    many.streams[2].forget()  # a reset without a click
    both = many.process({2: others[2], 0: cuts[5]})
    out.append(both[0])
    np.testing.assert_array_equal(np.concatenate(out, -1), alone(network, 0, x))


def test_an_absent_slot_keeps_its_state(network):
    """One that has no hop ready, as its clock is another's, goes on where it was."""
    many = joined(network)
    x, first = sound(1), sound(0)
    a = many.process({1: x[:, :9600]})[1]
    many.process({0: first})
    b = many.process({1: x[:, 9600:]})[1]
    np.testing.assert_array_equal(np.concatenate([a, b], -1), alone(network, 1, x))


def test_controls_are_each_slots_own(aligned):
    many = joined(aligned)
    many.streams[0].set_gain("vocals", -6)
    many.streams[1].set_mute("accompaniment", True)
    twin = Separator(aligned, *FORMATS[0], "cpu")
    twin.set_gain("vocals", -6)
    twin.reset()  # what was set before a stream begins is there from its first sample on
    both = many.process({0: sound(0), 1: sound(1), 4: sound(4)})
    np.testing.assert_array_equal(both[0], twin.process(sound(0)))
    assert not both[1][1, :, 1000:].any()
    assert both[1][0].any()
    np.testing.assert_array_equal(both[4], alone(aligned, 4, sound(4)))


def poisoned(path, source, below):
    """The network at `source`, but for frames whose first magnitude is over `below` its mask is NaN."""
    proto = onnx.load(source)
    graph = proto.graph
    for node in graph.node:
        node.output[:] = ["clean" if name == "mask" else name for name in node.output]
    node = helper.make_node
    constants = {
        "limit": np.float32(below),
        "nan": np.float32(np.nan),
        "start": np.array([0], np.int64),
        "end": np.array([1], np.int64),
        "last": np.array([2], np.int64),
    }
    graph.node.extend(
        [
            node("Slice", ["mag", "start", "end", "last"], ["low"]),
            node("Greater", ["low", "limit"], ["bad3"]),
            node("Unsqueeze", ["bad3", "last"], ["bad"]),
            node("Where", ["bad", "nan", "clean"], ["mask"]),
        ]
    )
    graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    onnx.save(proto, path)
    return models.load(path)


def test_a_mask_that_is_none_drops_that_slots_state_only(tmp_path, aligned):
    network = poisoned(tmp_path / "poisoned.onnx", aligned.path, 0.4)
    many = joined(network)
    assert many.together
    x = {slot: sound(slot) * 0.1 for slot in (0, 1, 4)}
    x[1][:, 9600:12000] = 1.0
    both = many.process(x)
    twin = Separator(network, *FORMATS[1], "cpu")
    np.testing.assert_array_equal(both[1], twin.process(x[1]))
    assert twin.counts["bad_masks"] > 1
    assert many.streams[1].counts == twin.counts
    for slot in (0, 4):
        np.testing.assert_array_equal(both[slot], alone(network, slot, x[slot]))
        assert many.streams[slot].counts["bad_masks"] == 0


def test_samples_that_are_none_stay_in_their_slot(network):
    many = joined(network)
    x = {slot: sound(slot) for slot in (0, 1)}
    broken = x[1].copy()
    broken[:, 5000:6000] = np.nan
    both = many.process({0: x[0], 1: broken})
    np.testing.assert_array_equal(both[0], alone(network, 0, x[0]))
    np.testing.assert_array_equal(both[1], alone(network, 1, np.nan_to_num(broken, nan=0)))
    assert many.streams[1].counts["bad_samples"] == 2000


def test_a_failed_step_keeps_every_state(network):
    many = joined(network)
    b = many.compiled
    x = sound(0)
    twin = Separator(network, *FORMATS[0], "cpu")
    hop = twin.geometry.hop_length
    out = [many.process({0: x[:, : 20 * hop], 1: x[:, : 20 * hop]})]
    expected = [twin.process(x[:, : 20 * hop])]

    good, call = b.rows, twin.network.compiled
    many.compiled = b._replace(rows=good._replace(names_in=good.names_out))  # asks for inputs the graph does not have
    twin.network.compiled = call._replace(names_in=call.names_out)
    out.append(many.process({0: x[:, 20 * hop : 23 * hop], 1: x[:, 20 * hop : 23 * hop]}))
    expected.append(twin.process(x[:, 20 * hop : 23 * hop]))
    many.compiled, twin.network.compiled = b, call
    assert network.contract.gives in many.error
    out.append(many.process({0: x[:, 23 * hop :], 1: x[:, 23 * hop :]}))
    expected.append(twin.process(x[:, 23 * hop :]))
    for slot in (0, 1):
        np.testing.assert_array_equal(np.concatenate([y[slot] for y in out], -1), np.concatenate(expected, -1))
        assert many.streams[slot].counts["failed_steps"] == 3


@njit(nogil=True)
def turns(b, x, y, stop):
    """A worker: hop after hop of noise `x` through every slot that is present, the last of slot 0 in `y`."""
    hops = 0
    while stop[0] == 0:
        batch.attend(b)
        count = 0
        for slot in range(b.wanted.size):
            if batch.present(b, slot):
                s = batch.at(b, slot)
                s.x[:] = x[: s.x.shape[0], : s.x.shape[1]]
                b.ready[count] = slot
                count += 1
        batch.hop(b, count)
        hops += 1
        y[:] = batch.at(b, 0).y
    return hops


def test_join_and_leave_beside_a_running_worker(aligned):
    """Slot 0 hears the same hop again and again, so its output settles: it must not move for all the coming and going."""
    many = joined(aligned, [0])
    hop = many.streams[0].geometry.hop_length
    x = sound(0)[:, :hop]
    twin = Separator(aligned, *FORMATS[0], "cpu")
    y, stop = np.zeros((2, 2, hop), np.float32), np.zeros(1, np.int64)
    done = []
    worker = threading.Thread(target=lambda: done.append(turns(many.compiled, np.vstack([x, x]), y, stop)))
    worker.start()
    for _ in range(50):
        slots = [many.join() for _ in range(3)]
        for slot in slots:
            while not many.present(slot):
                pass
            many.leave(slot)
    stop[0] = 1
    worker.join()
    for _ in range(done[0] - 1):
        twin.process(x)
    twin.state.x[:] = x
    twin.hop()
    np.testing.assert_array_equal(y, twin.state.y)
    assert many.streams[0].counts["hops"] == done[0]


def test_slots_are_counted_and_named(aligned):
    many = Batch(aligned, FORMATS[:2], "cpu")
    assert [many.join(), many.join()] == [0, 1]
    with pytest.raises(BatchError, match="all 2 slots are taken"):
        many.join()
    many.leave(0)
    many.leave(0)
    assert many.join() == 0
    with pytest.raises(BatchError, match="slot=2 is out of range: expected 0 to 1"):
        many.leave(2)
    many.leave(1)
    with pytest.raises(BatchError, match="slot=1 is absent"):
        many.process({1: sound(1)})
    with pytest.raises(ValueError, match=r"expected \(2, samples\)"):
        many.process({0: np.zeros((1, 5), np.float32)})
    with pytest.raises(ValueError, match="channels=9"):
        Batch(aligned, [(48_000, 9)])
    with pytest.raises(ValueError, match="formats is empty"):
        Batch(aligned, [])
    with pytest.raises(ValueError, match="provider='tpu'"):
        Batch(aligned, FORMATS, "tpu")


@pytest.mark.skipif(ortsession.why_no_cuda() is None, reason="there is a GPU here")
def test_without_a_gpu_it_says_so(aligned):
    with pytest.raises(ortapi.OrtError, match="use --provider cpu"):
        Batch(aligned, FORMATS, "cuda")
    assert Batch(aligned, FORMATS, "auto").provider_notes


@njit
def doubled(table):
    for n in range(len(table.memory)):
        structs.at(table, n).mag[:] *= 2


def test_a_table_holds_what_belongs_to_others(aligned):
    network = rows.RowsNetwork(aligned, 3)
    parts = network.compiled
    made = [batch.Stream(aligned, 48_000, 1 + n).begin(parts.mag[n], parts.mask[n]) for n in range(3)]
    table = structs.table(made)
    network.compiled.mag[:] = [[1], [2], [3]]
    for _ in range(100):  # an array counted down for each look would be gone
        doubled(table)
        network.compiled.mag[:] /= 2
    doubled(table)
    assert [s.mag[0] for s in made] == [2, 4, 6]
