"""Dry runs ahead of a hop: once for each, in time or not at all, and no bit of the sound is another."""

import time

import numpy as np
import pytest

from streamsep import worker
from streamsep.benchmark import handover, hops
from streamsep.config import ConfigError, load
from streamsep.engine import Separator
from streamsep.live import Live
from streamsep.rings import IN_READ, IN_WRITE, MAX_BLOCK, SAMPLE_RATE, WHEN
from tests.servers import REAL_TIME
from tests.test_cli import fails, run
from tests.test_live import expected, play

HOP, BLOCK = 384, 128  # samples
SLOW = 8  # s a hop lasts here: what a busy machine takes besides is little of it
LASTS = SLOW * 1_000_000_000  # ns
TAKES = 0.02  # of a hop, a dry run
LEAD = worker.LEAD * TAKES


@pytest.fixture
def desk(live):
    """A desk whose hops last seconds, and come in three blocks; a dry run is thought to take a fiftieth of that."""
    path = Live(Separator(live, 48_000, 2, "cpu"), paced(np.zeros((4096, 2), np.float32)), rehearse=True)
    made = path._make_desk()
    worker.keep_warm(made)  # compiled before a clock runs
    made.rings.header[[SAMPLE_RATE, MAX_BLOCK]] = HOP // SLOW, BLOCK
    made.warmth[worker.TAKES] = TAKES * LASTS
    yield made
    assert path is not None  # a desk does not hold what it points to


def paced(sound, count=10):
    return handover.PacedDevice(sound, 48_000, HOP, 4, count)


@pytest.mark.parametrize(
    ("there", "since", "ran", "again"),
    [
        (256, 0.000, False, 1 / 3 - LEAD),  # samples of the hop; hops since the last block, and from then
        (256, 0.213, True, None),  # 0.12 before the last block: now
        (128, 0.213, False, 2 / 3 - LEAD - 0.213),  # two are to come
        (256, 0.320, False, 1 / 3 - 0.32),  # it would not be done in time
        (256, 0.360, False, worker.EYE / LASTS),  # due: at once
        (256, 0.600, False, None),  # overdue: whenever it comes
        (384, 0.213, False, None),  # the hop is there
        (0, 0.000, False, 1 - LEAD),
    ],
)
def test_they_end_shortly_before_the_hop(desk, there, since, ran, again):
    header = desk.rings.header
    header[IN_READ], header[IN_WRITE] = 10 * HOP, 10 * HOP + there
    header[WHEN] = time.monotonic_ns() - round(since * LASTS)
    wait = worker.keep_warm(desk)
    assert (desk.warmth[worker.LAST] > 0) == ran
    if ran:
        assert 0 < desk.warmth[worker.TAKES] < TAKES * LASTS
        last, wait = desk.warmth[worker.LAST], worker.keep_warm(desk)
        assert desk.warmth[worker.LAST] == last, "once is enough"
        assert 0 < wait < (1 / 3 - since) * LASTS
    elif again is None:
        assert wait == worker.NEVER
    else:
        assert 0 < wait <= again * LASTS


def test_none_where_they_take_too_long(desk):
    header = desk.rings.header
    header[IN_READ], header[IN_WRITE] = 10 * HOP, 11 * HOP - BLOCK
    header[WHEN] = time.monotonic_ns() - LASTS // 5
    desk.warmth[[worker.TAKES, worker.LAST]] = 0.4 * LASTS, 1
    assert worker.keep_warm(desk) == worker.NEVER


@pytest.mark.parametrize(("takes", "ahead"), [(0.01, 0.01 * worker.LEAD), (0.2, 0.5), (0.32, 0.5), (0.34, 0)])
def test_they_leave_time_for_the_hop(takes, ahead):
    assert worker.lead(round(takes * LASTS), LASTS) == pytest.approx(ahead * LASTS)


def test_none_after_the_hop_has_come(desk):
    header = desk.rings.header
    header[IN_READ], header[IN_WRITE] = 0, HOP
    now = time.monotonic_ns()
    assert worker.dry_runs(desk.slots.rows, header, HOP, 1000, now + LASTS, desk.clock) == 1000
    assert time.monotonic_ns() - now < LASTS


def test_an_interruption_counts_little():
    assert worker.believe(200, 280) == 210
    assert worker.believe(200, 10**9) == 225
    assert worker.believe(800, 210) == 210


def test_none_before_the_device_has_told_its_blocks(desk):
    desk.rings.header[MAX_BLOCK] = 0
    assert worker.keep_warm(desk) == worker.NEVER


def test_none_unless_asked_for(live):
    made = Live(Separator(live, 48_000, 2, "cpu"), paced(np.zeros((4096, 2), np.float32)))
    assert made._make_desk().warmth[worker.AHEAD] == 0


def dry_masks(separator):
    """What dry runs computed last: the array for masks that steps do not use."""
    network = separator.network
    return next(array for array in network._keep if array.shape == network.mask.shape)


@pytest.mark.parametrize("rehearse", [False, True])
@REAL_TIME
def test_the_sound_is_the_same(live, song, song_file, rehearse):
    x, rate = song
    played, path = play(live, song_file, BLOCK, seconds=2.0, rehearse=rehearse)
    y = expected(live, x[:, : 2 * rate], rate, path)
    np.testing.assert_array_equal(played[:2], y[0][:, : played.shape[1]])
    np.testing.assert_array_equal(played[2:], y[1][:, : played.shape[1]])
    assert path.report()["late"] == path.report()["missed_blocks"] == 0
    assert dry_masks(path.separator).any() == rehearse


def test_the_benchmark_rehearses(live, song):
    separator = Separator(live, 48_000, 2, "cpu")
    x = np.ascontiguousarray(song[0][:, :48_000].T)
    for rehearse in (False, True):
        dry_masks(separator)[:] = 0
        hops.measure(separator, x, 20, True, rehearse=rehearse)
        assert dry_masks(separator).any() == rehearse


def test_as_a_command(tmp_path):
    fails(run("bench", "--rehearse", "--streams", "2"), 2, "rehearse=True: expected one stream")
    fails(run("bench", "--rehearse", "--back-to-back"), 2, "rehearse=True: expected one stream")
    path = tmp_path / "many.toml"
    path.write_text('rehearse = true\n[[stream]]\ninput_channels = "1"\n')
    with pytest.raises(ConfigError, match="expected none with rehearse = true"):
        load(path, {})
