"""The plugin and the engine's loop, with nothing between them that depends on time: an engine turned by hand."""

import os
import subprocess

import numpy as np
import pytest

from streamsep import rings, stft
from streamsep.engine import Separator
from streamsep.plugin import CHANNELS, MEMORY, engine, install, layout, prefix, segments
from tests import plugin_host as P
from tests.plugin_host import Crank, Host

RATES = (44_100, 48_000, 96_000)


@pytest.fixture(scope="module")
def shared_object(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    install.build(folder, python="/bin/false")  # no engine is wanted here but ours
    return folder / install.OBJECT


@pytest.fixture(autouse=True)
def _space(monkeypatch):
    monkeypatch.setenv("STREAMSEP_PLUGIN_SPACE", f"hand{os.getpid()}")
    yield
    assert not P.left_overs()
    engine.engine_lock().unlink(missing_ok=True)


@pytest.fixture
def host(shared_object):
    made = []

    def make(rate=48_000):
        made.append(Host(shared_object, rate))
        return made[-1]

    yield make
    for one in made:
        one.close()


def noise(seconds, rate=48_000, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, (CHANNELS, int(seconds * rate))).astype(np.float32)


def chord(seconds, rate=48_000):
    t = np.arange(int(seconds * rate)) / rate
    return np.array([0.2 * np.sin(2 * np.pi * f * t) + 0.1 * np.sin(2 * np.pi * 3.1 * f * t) for f in (110, 164.8)], np.float32)


def through(one, crank, x, lengths):
    """`x` in blocks of these lengths, round and round; the engine keeps up."""
    parts, at, n = [], 0, 0
    while at < x.shape[1]:
        block = x[:, at : at + lengths[n % len(lengths)]]
        parts.append(one.run(block))
        crank.turn()
        at, n = at + block.shape[1], n + 1
    return np.concatenate(parts, axis=2)


def separated(model, x, latency, rate=48_000):
    """What `streamsep separate` writes for `x`, `latency` later, and as long as `x`."""
    separator = Separator(model, rate, CHANNELS, "cpu")
    early = separator.latency
    y = np.concatenate([separator.process(x), separator.flush()], axis=2)[:, :, early:]
    return np.concatenate([np.zeros((2, CHANNELS, latency), np.float32), y], axis=2)[:, :, : x.shape[1]]


# ----------------------------------------------------------------------------------------------------------- one description


def test_c_header_is_what_python_writes():
    assert layout.HEADER_FILE.read_text() == layout.header(), "run: python -m streamsep.plugin.layout"


def test_c_compiler_reads_the_same_places(tmp_path):
    names = [*layout.PLACES, "HEADER", "CHANNELS", "SOURCES"]
    lines = "".join(f'printf("{n} %d\\n", (int){n});' for n in names)
    (tmp_path / "ask.c").write_text(
        f'#include <stdio.h>\n#include "streamsep_rings.h"\nint main(void) {{ {lines} printf("LAYOUT %d", STREAMSEP_LAYOUT); }}'
    )
    command = [*install.compiler(), "-I", str(install.SOURCE), "-o", str(tmp_path / "ask"), str(tmp_path / "ask.c")]
    subprocess.run(command, check=True)
    said = subprocess.run([tmp_path / "ask"], check=True, capture_output=True, text=True).stdout
    theirs = {name: int(value) for name, value in (line.split() for line in said.splitlines())}
    assert theirs == {name: getattr(rings, name, None) for name in names} | {
        "CHANNELS": 2,
        "SOURCES": 2,
        "LAYOUT": rings.LAYOUT,
    }


def test_what_c_puts_into_the_memory_python_finds_and_the_other_way(host, live):
    one, x = host(), noise(0.1)
    one.run(x[:, :1000])
    segment = segments.Segment.open(one.segment, live.contract)
    header, r = segment.rings.header, segment.rings
    np.testing.assert_array_equal(r.inward[:1000], x[:, :1000].T)
    assert header[rings.IN_WRITE] == header[rings.OUT_READ] == 1000
    assert header[rings.SAMPLE_RATE] == 48_000
    assert os.stat(MEMORY / one.segment).st_size == rings.size(int(header[rings.CAPACITY]), 2, 4, 0)
    assert os.stat(MEMORY / one.segment).st_mode & 0o777 == 0o600
    # An engine that brings numbers: each frame says where it lies.
    start, prefill = int(header[rings.START]), int(header[rings.PREFILL])
    wanted = (np.arange(4096)[:, None] + np.arange(4) / 8).astype(np.float32)
    r.outward[start + prefill : start + prefill + 4096] = wanted
    for place, value in ((rings.IN_READ, 0), (rings.OUT_WRITE, start + prefill + 4096), (rings.BEGUN, header[rings.EPOCH])):
        rings.publish(header, place, int(value))
    silence = np.zeros((CHANNELS, 1000), np.float32)
    heard = np.concatenate([one.run(silence).reshape(4, -1).T for _ in range(3)])
    first = prefill - 1000 + rings.GAP_FRAMES  # after the fade-in
    np.testing.assert_array_equal(heard[first:], wanted[rings.GAP_FRAMES :][: len(heard) - first])


# ------------------------------------------------------------------------------------------------------------- sound


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("lengths", [[16], [128], [1024, 16, 777, 1], [4096, 353, 64]], ids=str)
def test_any_block_and_rate_gives_what_a_file_gives_later_by_the_latency(host, lstm, rate, lengths):
    one, crank, x = host(rate), Crank(lstm, rate), noise(0.6, rate)
    crank.join(one)
    y = through(one, crank, x, lengths)
    hop = stft.Geometry.at(lstm.contract, rate).hop_length
    longest = lengths[0]
    assert one.latency == hop + longest + hop - 1 + max(rings.GAP_FRAMES, hop - longest)  # S - H + prefill, and S is 2 H
    wanted = separated(lstm, x, one.latency, rate)
    np.testing.assert_array_equal(y[:, :, one.latency :], wanted[:, :, one.latency :])
    assert one.control[P.CONNECTED] == 1
    assert one.control[P.LATE] == 0


def test_prefill_is_the_live_paths_but_for_the_fade_and_blocks_that_vary(host, lstm):
    """`live.prefill` for a fixed block may go by what block and hop have in common; the plugin's host may cut as it likes."""
    from streamsep.live import prefill

    for block in (16, 100, 384, 1024):
        one = host()
        one.run(noise(1)[:, :block])
        common = np.gcd(block, 384)
        extra = rings.GAP_FRAMES if block > 384 - rings.GAP_FRAMES else 0
        assert one.latency == 384 + prefill(block, 384) + common - 1 + max(0, extra - max(0, 384 - block))


def test_a_longer_block_is_a_new_promise_without_a_click(host, lstm):
    one, crank, x = host(), Crank(lstm), chord(2)
    crank.join(one)
    first = through(one, crank, x[:, :24_000], [128])
    before = one.latency
    second = through(one, crank, x[:, 24_000:], [2048, 128])
    assert one.latency > before
    y = np.concatenate([first, second], axis=2)
    settled = 24_000 + 8192
    wanted = np.concatenate([np.zeros((2, one.latency), np.float32), x], axis=1)[:, settled : x.shape[1]]
    np.testing.assert_allclose(y.sum(axis=0)[:, settled:], wanted, atol=1e-6)
    assert steepest(y[:, :, 4000:]) < 2 * steepest(first[:, :, 4000:])


def test_without_an_engine_the_input_goes_on_half_on_each_source(host):
    one, x = host(), noise(0.5)
    y = np.concatenate([one.run(x[:, n : n + 100]) for n in range(0, x.shape[1], 100)], axis=2)
    late = x[:, : -one.latency]
    np.testing.assert_array_equal(y[0], y[1])
    np.testing.assert_array_equal(y.sum(axis=0)[:, one.latency :], late)
    assert not y[:, :, : one.latency].any()
    assert one.control[P.CONNECTED] == 0


def test_bypass_is_the_same_delay_and_fades(host, lstm):
    one, crank, x = host(), Crank(lstm), chord(1)
    crank.join(one)
    first = through(one, crank, x[:, :24_000], [128])
    one.control[P.ENABLED] = 0
    second = through(one, crank, x[:, 24_000:], [128])
    np.testing.assert_array_equal(second[0, :, 64:], second[1, :, 64:])
    wanted = x[:, 24_000 - one.latency : x.shape[1] - one.latency]
    np.testing.assert_array_equal(second.sum(axis=0)[:, 64:], wanted[:, 64:])
    both = np.concatenate([first, second], axis=2)[:, :, 4000:]
    np.testing.assert_allclose(both.sum(axis=0), x[:, 4000 - one.latency : -one.latency], atol=1e-6)
    assert steepest(both) < 2 * steepest(first[:, :, 4000:])


def test_gain_and_mute_are_of_their_source_and_move_without_a_click(host, lstm):
    one, crank, x = host(), Crank(lstm), chord(1.5)
    crank.join(one)
    first = through(one, crank, x[:, :24_000], [128])
    one.control[P.VOCALS_GAIN], one.control[P.ACCOMPANIMENT_MUTE] = -6, 1
    second = through(one, crank, x[:, 24_000:], [128])
    wanted = separated(lstm, x, one.latency)[:, :, 24_000:]
    np.testing.assert_allclose(second[0, :, 384:], wanted[0, :, 384:] * 10 ** (-6 / 20), rtol=1e-6)
    assert not second[1, :, 384:].any()
    assert steepest(np.concatenate([first, second], axis=2)[:, :, 4000:]) < 2 * steepest(first[:, :, 4000:])
    one.control[P.VOCALS_GAIN] = -90
    assert not through(one, crank, x, [128])[0, :, 384:].any()


# --------------------------------------------------------------------------------------------------- when something is wrong


def steepest(y):
    """The largest fourth difference: an edge of which no sound like ours has any."""
    return np.abs(np.diff(y.astype(np.float64), 4)).max()


def test_late_hops_are_bridged_counted_and_not_heard_as_clicks(host, lstm):
    one, crank, x = host(), Crank(lstm), chord(3)
    crank.join(one)
    parts = [through(one, crank, x[:, :48_000], [128])]
    for n in range(48_000, 96_000, 128):  # an engine that does nothing for four hops, again and again
        parts.append(one.run(x[:, n : n + 128]))
        if (n // 128) % 50 > 20:
            crank.turn()
    assert one.control[P.LATE] > 20
    parts.append(through(one, crank, x[:, 96_000:], [128]))
    y = np.concatenate(parts, axis=2)
    latency = one.latency
    assert latency == 1151
    np.testing.assert_allclose(y.sum(axis=0)[:, latency:], x[:, :-latency], atol=1e-6)
    np.testing.assert_array_equal(y[:, :, 100_000:], separated(lstm, x, latency)[:, :, 100_000:])
    assert steepest(y[:, :, 4000:]) < 2 * steepest(parts[0][:, :, 4000:])


def test_late_hops_are_counted_one_by_one(host, lstm):
    one, crank, x = host(), Crank(lstm), noise(1)
    crank.join(one)
    through(one, crank, x[:, : 384 * 50], [384])
    for n in range(384 * 50, 384 * 61, 384):  # the first two blocks still find what was there
        one.run(x[:, n : n + 384])
    through(one, crank, x[:, 384 * 61 :], [384])  # and the first one here runs before the engine
    assert one.control[P.LATE] == 10


def test_an_engine_that_dies_is_replaced_by_another(host, lstm):
    one, crank, x = host(), Crank(lstm), chord(4)
    crank.join(one, engine=1)
    parts = [through(one, crank, x[:, :48_000], [128])]
    parts += [one.run(x[:, n : n + 128]) for n in range(48_000, 96_000, 128)]  # nobody is there
    assert one.control[P.CONNECTED] == 0
    other = Crank(lstm)
    other.join(one, engine=2)
    parts.append(through(one, other, x[:, 96_000:], [128]))
    assert one.control[P.CONNECTED] == 1
    y = np.concatenate(parts, axis=2)
    np.testing.assert_allclose(y.sum(axis=0)[:, 1151:], x[:, :-1151], atol=1e-6)
    assert np.abs(y[0] - y[1])[:, 100_000:].max() > 0.01  # separated again
    assert steepest(y[:, :, 4000:]) < 2 * steepest(parts[0][:, :, 4000:])


def test_activating_begins_anew(host, lstm):
    one, crank, x = host(), Crank(lstm), noise(1)
    crank.join(one)
    through(one, crank, x[:, :10_000], [128])
    one.plugin.activate(one.handle)
    y = through(one, crank, x, [128])
    np.testing.assert_array_equal(y[:, :, 1151:], separated(lstm, x, 1151)[:, :, 1151:])


def test_instances_are_streams_of_their_own_in_one_batch(host, lstm):
    crank, ones = Crank(lstm, slots=3), [host() for _ in range(3)]
    songs = [noise(1, seed=n) for n in range(3)]
    crank.join(ones[0])
    crank.join(ones[1])
    parts = [[], [], []]
    for n in range(0, 48_000, 128):
        if n == 12_800:
            crank.join(ones[2])
        for k, one in enumerate(ones):
            parts[k].append(one.run(songs[k][:, n : n + 128]))
        crank.turn()
    for k in range(2):
        y = np.concatenate(parts[k], axis=2)
        np.testing.assert_array_equal(y[:, :, 1151:], separated(lstm, songs[k], 1151)[:, :, 1151:])


def test_ten_instances_of_the_shipped_model_are_ten_rows_of_one_network_call(host, live):
    """All that are ready go in one call, and each is what a file gives, to the bit."""
    crank, ones = Crank(live, slots=10), [host() for _ in range(10)]
    assert crank.batch.together
    for one in ones:
        crank.join(one)
    songs = [noise(0.5, seed=n) * 10.0 ** (-n / 3) for n in range(10)]  # 60 dB apart
    parts = [[] for _ in ones]
    for n in range(0, 24_000, 128):
        for one, song, part in zip(ones, songs, parts, strict=True):
            part.append(one.run(song[:, n : n + 128]))
        crank.turn()
    for song, part in zip(songs, parts, strict=True):
        y = np.concatenate(part, axis=2)
        np.testing.assert_array_equal(y[:, :, 1151:], separated(live, song.astype(np.float32), 1151)[:, :, 1151:])


def test_what_is_no_sound_does_not_come_out(host, lstm):
    one, crank, x = host(), Crank(lstm), noise(0.5)
    crank.join(one)
    x[0, 5000], x[1, 6000], x[0, 7000] = np.nan, np.inf, 1e30
    assert np.isfinite(through(one, crank, x, [128])).all()


# ------------------------------------------------------------------------------------------------------------ segments


def test_an_engine_of_another_layout_says_so_and_touches_nothing(host, live):
    one = host()
    one.run(noise(0.1))
    memory = np.memmap(MEMORY / one.segment, np.int64, "r+", shape=rings.HEADER)
    memory[rings.VERSION] = rings.LAYOUT - 1
    with pytest.raises(segments.SegmentError, match="plugin install"):
        segments.Segment.open(one.segment, live.contract)
    one.run(noise(0.1))
    assert one.control[P.CONNECTED] == 2
    assert memory[rings.ENGINE] == memory[rings.BEGUN] == 0


@pytest.mark.parametrize(
    ("place", "value"), [("CAPACITY", 1 << 40), ("CAPACITY", 3), ("OUT_CHANNELS", 6), ("SAMPLE_RATE", 7), ("HOP", 385)]
)
def test_a_damaged_segment_is_refused(host, live, place, value):
    one = host()
    memory = np.memmap(MEMORY / one.segment, np.int64, "r+", shape=rings.HEADER)
    memory[getattr(rings, place)] = value
    with pytest.raises(segments.SegmentError, match=one.segment):
        segments.Segment.open(one.segment, live.contract)
    assert memory[rings.REFUSED] == -1


def test_segments_of_the_dead_are_swept_and_those_of_the_living_are_not(host):
    one = host()
    dead = MEMORY / f"{prefix()}dead"
    dead.write_bytes(bytes(100))
    for name in (one.segment, dead.name):
        os.utime(MEMORY / name, (0, 0))
    assert segments.names() == {one.segment, dead.name}
    assert not segments.sweep(one.segment)
    assert segments.sweep(dead.name)
    assert segments.names() == {one.segment}


def test_only_one_engine_for_a_user():
    lock = engine.take_lock()
    try:
        with pytest.raises(engine.EngineError, match="running already"):
            engine.take_lock()
    finally:
        os.close(lock)
    os.close(engine.take_lock())


def test_an_instance_leaves_nothing_behind(host):
    for _ in range(20):
        host().close()
    assert not segments.names()


# --------------------------------------------------------------------------------------------------------- the installer


def test_install_twice_and_uninstall(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for _ in range(2):
        where = install.install()
    assert sorted(p.name for p in where.lv2.iterdir()) == [install.BUNDLE]
    assert sorted(p.name for p in where.bundle.iterdir()) == ["manifest.ttl", "streamsep.so", "streamsep.ttl"]
    assert where.link.resolve() == where.bundle / install.OBJECT
    assert where.installed
    install.uninstall()
    assert not [*where.lv2.iterdir(), *where.ladspa.iterdir()]
    with pytest.raises(install.InstallError, match="nothing to uninstall"):
        install.uninstall()


def test_without_a_compiler_it_says_which_package(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(install.InstallError, match="apt install gcc"):
        install.install()
    assert not list((tmp_path / ".lv2").iterdir())
