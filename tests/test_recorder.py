"""Recording: the files hold what was heard, sample by sample, whatever becomes of the process, the disk or the folder."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import soundfile

from streamsep import flacfile, rings
from streamsep import recorder as recorder_module
from streamsep.devices.filedevice import FileDevice
from streamsep.engine import Separator
from streamsep.flacfile import FlacFile, to_24_bit
from streamsep.live import Live
from streamsep.recorder import Recorder, RecorderError
from tests.conftest import ROOT

RATE, HOP, BLOCK = 48000, 384, 4096  # BLOCK: of FLAC
FADE_IN = 480  # frames in which a device's sound has begun
WAIT = 20.0  # s until a test gives up; none waits this long
SOURCES = ("vocals", "accompaniment")
FILES = (*SOURCES, "heard")


def until(condition):
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def rounded(x):
    """`x` as 24 bit in the upper bits of int32, by arithmetic of double precision."""
    return (np.clip(np.rint(np.float64(x) * 2**23), -(2**23), 2**23 - 1) * 256).astype(np.int32)


def read(path):
    """The samples `[shape=(frames, channels)]`, int32."""
    return soundfile.read(path, dtype="int32", always_2d=True)[0]


def decoded_elsewhere(path, channels=2):
    """The same by a decoder that has nothing in common with libsndfile, which finds nothing to complain of."""
    command = ["ffmpeg", "-v", "warning", "-i", str(path), "-f", "s32le", "-"]
    result = subprocess.run(command, capture_output=True, check=True)
    assert result.stderr == b""
    return np.frombuffer(result.stdout, "<i4").reshape(-1, channels)


class Desk:
    """Rings without an engine: sound is put into the tap hop by hop, and kept to compare with."""

    def __init__(self, folder, channels=2, rate=RATE, sources=SOURCES, seconds=1.0):
        self.rate, self.shape = rate, (len(sources), channels, HOP)
        self.rings = rings.make_rings(int(seconds * rate), channels, 2, len(sources) * channels)
        self.recorder = Recorder(folder, sources, channels, rate, self.rings)
        self.random = np.random.default_rng(0)
        self.sound = []  # of each hop

    def put(self, hops, level=0.3):
        for _ in range(hops):
            y = (level * self.random.standard_normal(self.shape)).astype(np.float32)
            rings.put(self.rings, y)
            self.sound.append(y)

    def play(self, seconds, real_time=False, **kwargs):
        """`seconds` of sound: in real time, or as fast as the recorder copies it."""
        hops, step = int(seconds * self.rate / HOP), max(1, int(0.05 * self.rate / HOP))
        for start in range(0, hops, step):
            self.put(min(step, hops - start), **kwargs)
            if real_time:
                time.sleep(0.05)
            else:
                until(lambda: self.ahead() < len(self.rings.tap) // 4)

    def ahead(self):
        """Frames in the tap that the recorder has not copied."""
        return rings.position(self.rings.header, rings.TAP_WRITE) - self.recorder._position

    def expected(self):
        """What each file should hold."""
        stems = np.concatenate(self.sound, axis=2).transpose(0, 2, 1)
        heard = np.zeros(stems.shape[1:], np.float32)
        for stem in stems:
            heard += stem
        return [rounded(x) for x in (*stems, heard)]


# ---------------------------------------------------------------------------------------------------------- one file


def test_rounding_and_clipping():
    x = np.array([[0.0, 1.0], [-1.0, 1.5], [-1.5, 2**-23], [0.3 * 2**-23, 1 - 2**-23]], np.float32)
    samples, clipped = to_24_bit(x)
    top = 2**23 - 1
    np.testing.assert_array_equal(samples >> 8, [[0, top], [-(2**23), top], [-(2**23), 1], [0, top]])
    assert clipped == 2
    assert not np.any(samples & 255)


@pytest.mark.parametrize("rate", [8000, 44100, 192000, 655350])
def test_a_file_is_whole_after_every_write(tmp_path, rate):
    """What a process leaves that is killed after any of the writes: a copy opens, and lacks less than a block and a frame."""
    random = np.random.default_rng(0)
    file = FlacFile(tmp_path / "a.flac", 2, rate)
    written = np.zeros((0, 2), np.int32)
    for frames in [1, 4094, 1, 1, 1, *random.integers(1, 9000, 12)]:
        samples = to_24_bit(random.standard_normal((frames, 2)).astype(np.float32) / 4)[0]
        file.write(samples)
        written = np.concatenate([written, samples])
        if len(written) > BLOCK:
            shutil.copy(tmp_path / "a.flac", tmp_path / "copy.flac")
            left = read(tmp_path / "copy.flac")
            np.testing.assert_array_equal(left, written[: len(left)])
            assert len(left) == file.settled >= len(written) - BLOCK
        else:
            assert [p.name for p in tmp_path.iterdir()] == [".a.flac.part"]
    file.close()
    np.testing.assert_array_equal(read(tmp_path / "a.flac"), written)


@pytest.mark.parametrize(("channels", "rate"), [(9, 48000), (2, 65537), (2, 655360), (2, 0)])
def test_what_flac_cannot_hold_is_said_before_anything_starts(tmp_path, channels, rate):
    with pytest.raises(ValueError, match=f"channels={channels} at rate={rate} Hz: FLAC holds"):
        flacfile.check(channels, rate)
    with pytest.raises(RecorderError, match="FLAC holds"):
        Recorder(tmp_path, ("a",), channels, rate, rings.make_rings(4096, channels, 2, channels)).start()
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------------- live


def test_the_files_hold_what_the_device_played(live, song, song_file, tmp_path):
    """The song through the real engine in real time, with a gain and a mute on the way."""
    x, rate = song
    beginning = tmp_path / "beginning.wav"
    soundfile.write(beginning, x[:, 4 * rate : 7 * rate].T, rate, subtype="FLOAT")
    for _ in range(3):  # on a busy machine the device may find nothing to play; the recording has it all the same
        device = FileDevice(beginning, 0, 0.008, 2)
        run = Live(Separator(live, rate, 2), device)
        run.prepare()
        run.open()
        recorder = Recorder(tmp_path, run.separator.sources, 2, rate, run.rings)
        recorder.start()
        run.start()
        run.separator.set_gain("vocals", -3.0)
        time.sleep(2.0)
        run.separator.set_mute("accompaniment", True)
        until(lambda device=device: device.finished)
        run.stop()
        recorder.stop()
        if not run.report()["missed_blocks"]:
            break
    assert (recorder.error, recorder.counts["lost_frames"]) == ("", 0)
    vocals, accompaniment, heard = (read(recorder.folder / f"{name}.flac") for name in FILES)
    played = device.played[run.prefill :]
    faded_in = slice(FADE_IN, len(played))
    assert len(vocals) == len(accompaniment) == len(heard) == recorder.counts["frames"] >= len(played)
    np.testing.assert_array_equal(vocals[faded_in], rounded(played[faded_in, :2]))
    np.testing.assert_array_equal(accompaniment[faded_in], rounded(played[faded_in, 2:]))
    np.testing.assert_array_equal(heard[faded_in], rounded(played[faded_in, :2] + played[faded_in, 2:]))
    assert np.abs(vocals[2 * rate :]).max() > 2**24  # somebody sings
    assert not accompaniment[int(2.8 * rate) : 3 * rate].any()


@pytest.mark.parametrize(("channels", "rate"), [(1, 8000), (2, 44100), (8, 48000), (2, 192000)])
def test_any_rate_and_channels(tmp_path, channels, rate):
    desk = Desk(tmp_path, channels, rate, ("vocals", "drums", "bass"))
    desk.recorder.start()
    desk.play(0.7)
    desk.put(1)  # what comes right before the stop
    desk.recorder.stop()
    assert sorted(p.name for p in desk.recorder.folder.iterdir()) == ["bass.flac", "drums.flac", "heard.flac", "vocals.flac"]
    for name, x in zip(("vocals", "drums", "bass", "heard"), desk.expected(), strict=True):
        np.testing.assert_array_equal(read(desk.recorder.folder / f"{name}.flac"), x)
        info = soundfile.info(desk.recorder.folder / f"{name}.flac")
        assert (info.samplerate, info.channels, info.subtype) == (rate, channels, "PCM_24")


def test_takes_have_folders_of_their_own(tmp_path):
    desk = Desk(tmp_path / "made" / "here")
    assert desk.recorder.folder is None
    assert desk.recorder.summary() == ""
    desk.recorder.stop()  # harmless
    folders, lengths = [], []
    for _ in range(3):
        desk.recorder.start()
        assert desk.recorder.recording
        folder = desk.recorder.folder
        desk.recorder.start()  # as harmless
        assert desk.recorder.folder == folder
        desk.play(0.3)
        desk.recorder.stop()
        assert not desk.recorder.recording
        desk.put(20)  # between two takes
        folders.append(folder)
        lengths.append(desk.recorder.counts["frames"])
    assert len(set(folders)) == 3
    start = 0
    for folder, length in zip(folders, lengths, strict=True):
        for name, x in zip(FILES, desk.expected(), strict=True):
            np.testing.assert_array_equal(read(folder / f"{name}.flac"), x[start : start + length])
        start += length + 20 * HOP


def test_a_take_without_sound_leaves_nothing(tmp_path):
    desk = Desk(tmp_path)
    before = threading.active_count()
    desk.recorder.start()
    desk.recorder.stop()
    assert desk.recorder.error == ""
    assert not list(tmp_path.iterdir())
    assert threading.active_count() == before


def test_long_takes_come_in_parts_cut_at_the_same_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder_module, "PART_BYTES", 200_000)
    desk = Desk(tmp_path)
    desk.recorder.start()
    desk.play(3.0)
    desk.recorder.stop()
    parts = {name: sorted(desk.recorder.folder.glob(f"{name}*.flac"), key=lambda p: (len(p.name), p.name)) for name in FILES}
    assert [p.name for p in parts["heard"]][:3] == ["heard.flac", "heard.2.flac", "heard.3.flac"]
    lengths = {name: [len(read(p)) for p in paths] for name, paths in parts.items()}
    assert lengths["vocals"] == lengths["accompaniment"] == lengths["heard"]
    for name, x in zip(FILES, desk.expected(), strict=True):
        np.testing.assert_array_equal(np.concatenate([read(p) for p in parts[name]]), x)


def test_clipping_is_counted(tmp_path):
    desk = Desk(tmp_path)
    desk.recorder.start()
    desk.play(0.5, level=0.6)
    desk.recorder.stop()
    stems = np.concatenate(desk.sound, axis=2)
    clipped = sum(int((np.abs(x) > 1).sum()) for x in (*stems, stems[0] + stems[1]))
    assert desk.recorder.counts["clipped_samples"] == clipped > 0
    assert (
        desk.recorder.summary() == f"recorded 0.5 s into {desk.recorder.folder}; {clipped} samples clipped: turn the gains down"
    )
    np.testing.assert_array_equal(read(desk.recorder.folder / "heard.flac"), desk.expected()[2])


# ---------------------------------------------------------------------------------------------------------- faults


def check_with_gaps(desk):
    """Every file has every sample, or silence at places that are the same in all and were counted."""
    files = [read(desk.recorder.folder / f"{name}.flac") for name in FILES]
    expected = desk.expected()
    silent = ~np.any(files[2], axis=1)
    assert desk.recorder.counts["lost_frames"] == np.count_nonzero(silent)
    assert desk.recorder.counts["frames"] == len(expected[0])
    for x, y in zip(expected, files, strict=True):
        np.testing.assert_array_equal(y, np.where(silent[:, None], 0, x))


def test_lost_sound_is_silence_of_the_same_length(tmp_path):
    """Four times the ring at once: nobody can read that."""
    desk = Desk(tmp_path)
    desk.recorder.start()
    desk.play(0.5)
    desk.put(4 * RATE // HOP)
    desk.play(0.5)
    desk.recorder.stop()
    assert RATE < desk.recorder.counts["lost_frames"] < 4 * RATE
    assert f"{desk.recorder.counts['lost_frames'] / RATE:.2f} s of it lost" in desk.recorder.summary()
    check_with_gaps(desk)


@pytest.fixture
def sleepy_disk(monkeypatch):
    """The first sync takes so many seconds, and may fail then; a list that is not empty any more when it has begun."""

    def make(seconds, fails=False):
        sync, slept = FlacFile.sync, []

        def sleepy(self):
            if not slept:
                slept.append(True)
                time.sleep(seconds)
                if fails:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
            sync(self)

        monkeypatch.setattr(FlacFile, "sync", sleepy)
        return slept

    return make


@pytest.mark.parametrize(("pieces", "loses"), [(100, False), (4, True)])
def test_a_disk_that_sleeps(tmp_path, monkeypatch, sleepy_disk, pieces, loses):
    """For 2.5 s, in the middle: the queue holds it; and a shorter queue does not grow, but loses, and says how much."""
    slept = sleepy_disk(2.5)
    monkeypatch.setattr(recorder_module, "QUEUE_PIECES", pieces)
    desk = Desk(tmp_path)
    desk.recorder.start()
    desk.play(5.0, real_time=True)
    desk.recorder.stop()
    assert slept
    assert desk.recorder.error == ""
    assert bool(desk.recorder.counts["lost_frames"]) == loses
    check_with_gaps(desk)


def test_a_disk_that_sleeps_and_does_not_wake(tmp_path, monkeypatch, sleepy_disk):
    """The queue is full when the take ends: its threads end all the same."""
    sleepy_disk(1.5, fails=True)
    monkeypatch.setattr(recorder_module, "QUEUE_PIECES", 2)
    desk = Desk(tmp_path)
    desk.recorder.start()
    desk.play(3.0, real_time=True)
    assert "(Input/output error): what was written is kept" in desk.recorder.error
    until(lambda: not desk.recorder.recording)
    for name, x in zip(FILES, desk.expected(), strict=True):
        y = read(desk.recorder.folder / f"{name}.flac")
        assert len(y) == desk.recorder.counts["frames"] > BLOCK
        np.testing.assert_array_equal(y, x[: len(y)])


@pytest.mark.parametrize("patient", [True, False])
def test_stopped_while_the_disk_sleeps(tmp_path, monkeypatch, sleepy_disk, patient):
    """Queue and tap both hold sound: `stop` waits for all of it, but not for ever."""
    slept = sleepy_disk(1.5)
    monkeypatch.setattr(recorder_module, "QUEUE_PIECES", 2)
    monkeypatch.setattr(recorder_module, "STOP_SECONDS", 10.0 if patient else 0.2)
    desk = Desk(tmp_path)
    desk.recorder.start()
    while not slept:
        desk.put(6)
        time.sleep(6 * HOP / RATE)
    desk.put(40)
    time.sleep(0.5)  # all that fits is in the queue
    desk.recorder.stop()
    assert ("the disk hangs" in desk.recorder.error) == (not patient)
    until(lambda: not desk.recorder.recording)
    assert desk.recorder.counts["lost_frames"] == 0
    check_with_gaps(desk)


def test_a_folder_that_vanishes(tmp_path):
    desk = Desk(tmp_path)
    desk.recorder.start()
    desk.play(0.5)
    gone = desk.recorder.folder
    shutil.rmtree(gone)
    desk.play(1.5, real_time=True)
    until(lambda: desk.recorder.error)
    assert "its files were deleted" in desk.recorder.error
    assert "\n" not in desk.recorder.error
    until(lambda: not desk.recorder.recording)
    desk.recorder.stop()
    first = len(desk.sound)
    desk.recorder.start()  # and again
    desk.play(0.5)
    desk.recorder.stop()
    assert desk.recorder.error == ""
    np.testing.assert_array_equal(read(desk.recorder.folder / "heard.flac"), desk.expected()[2][first * HOP :])


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    desk = Desk(tmp_path / "file")
    with pytest.raises(RecorderError, match=r"folder .*file cannot be written \(.*\): expected"):
        desk.recorder.start()
    assert not desk.recorder.recording


def test_what_does_not_fit_together_is_refused(tmp_path):
    two = rings.make_rings(4096, 2, 2, 4)
    with pytest.raises(RecorderError, match="tap_channels=4: expected 6"):
        Recorder(tmp_path, ("a", "b", "c"), 2, RATE, two)
    with pytest.raises(RecorderError, match="'heard' is the name of the mix's file"):
        Recorder(tmp_path, ("a", "heard"), 2, RATE, two).start()
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------------- real processes


@pytest.fixture(scope="module")
def five_seconds(song, folder):
    path = folder / "five.wav"
    soundfile.write(path, song[0][:, 4 * RATE : 9 * RATE].T, RATE, subtype="FLOAT")
    return path


def heard_by(folder):
    """What the device has played so far `[shape=(frames, 4)]`, of a process that may be dead."""
    return np.memmap(folder / "played.raw", np.float32, "r").reshape(-1, 4)


def check_recorded(take, played, decode=read):
    """The length of each file, all of which hold what was played, from the end of the device's fade-in on."""
    lengths = []
    for name, x in zip(FILES, (played[:, :2], played[:, 2:], played[:, :2] + played[:, 2:]), strict=True):
        y = decode(take / f"{name}.flac")
        start, end = FADE_IN, min(len(x), len(y))
        np.testing.assert_array_equal(y[start:end], rounded(x[start:end]))
        lengths.append(len(y))
    return lengths


def play_and_kill(song, folder, seconds):
    """The frames before the first of the take, and those heard, of a process that was killed in the middle of the song."""
    folder.mkdir()
    command = [sys.executable, "-m", "tests.recording", song, folder / "recordings", folder]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        prefill = int(process.stdout.readline())
        played = heard_by(folder)
        until(lambda: played[int(seconds * RATE) :].any())
        process.kill()
    return prefill, int(np.flatnonzero(played.any(axis=1))[-1]) + 1


@pytest.mark.parametrize("seconds", [0.7, 2.6])
def test_killed_in_the_middle(five_seconds, tmp_path, seconds):
    """kill -9: every file opens, and holds all but the last second of what was heard."""
    for attempt in range(3):  # a device that found nothing to play, on a busy machine: that is not in the recording
        folder = tmp_path / str(attempt)
        prefill, heard = play_and_kill(five_seconds, folder, seconds)
        assert heard < 5 * RATE
        played = heard_by(folder)[prefill:heard]
        (take,) = (folder / "recordings").iterdir()
        assert min(len(read(take / f"{name}.flac")) for name in FILES) >= len(played) - RATE
        with contextlib.suppress(AssertionError):
            lengths = check_recorded(take, played)
            break
    else:
        lengths = check_recorded(take, played)
    if shutil.which("ffmpeg"):
        assert check_recorded(take, played, decoded_elsewhere) == lengths


IN_A_SMALL_DISK = 'mount -t tmpfs -o size=1m none "$1" && shift && exec "$@"'  # in a name space of its own: nothing stays


def run_out_of_room(tmp_path, path, prefix=(), limit=0):
    """The report of a process that ends well, whatever its disk does, and the folder of what it left."""
    (tmp_path / "disk").mkdir()
    for attempt in range(3):  # on a busy machine the device may find nothing to play; that is not in the recording
        out = tmp_path / str(attempt)
        out.mkdir()
        command = [*prefix, sys.executable, "-m", "tests.recording", path, tmp_path / "disk", out, str(limit)]
        subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
        report = json.loads((out / "report.json").read_text())
        if not report["missed_blocks"]:
            break
    return report, out


def check_out_of_room(report, out, reason):
    """A clear line; all that was written can be read; and the sound went on to the end."""
    assert f"ended after {report['frames'] / RATE:.1f} s ({reason})" in report["record_error"]
    assert report["folder"] in report["record_error"]
    assert "\n" not in report["record_error"]
    played = heard_by(out)
    lengths = check_recorded(out / "take", played[report["prefill"] :])
    assert min(lengths) > report["frames"] - BLOCK - 1
    if shutil.which("ffmpeg"):
        assert check_recorded(out / "take", played[report["prefill"] :], decoded_elsewhere) == lengths
    assert max(lengths) < 4 * RATE
    assert played[4 * RATE : 5 * RATE].any()
    assert (report["lost"], report["hops"] >= 5 * RATE // HOP) == (0, True)


def test_a_disk_that_is_full(five_seconds, tmp_path):
    """A real file system of 1 MB."""
    private = ["unshare", "-rm", "sh", "-c", IN_A_SMALL_DISK, "sh", tmp_path / "disk"]
    try:
        subprocess.run([*private[:5], "sh", tmp_path, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system lets nobody mount a file system; the test below runs out of room without one")
    report, out = run_out_of_room(tmp_path, five_seconds, private)
    check_out_of_room(report, out, "No space left on device")
    assert sum(p.stat().st_size for p in (out / "take").iterdir()) > 0.9 * 2**20


def test_a_file_that_may_not_grow(five_seconds, tmp_path):
    report, out = run_out_of_room(tmp_path, five_seconds, limit=300_000)
    check_out_of_room(report, out, "File too large")
    assert max(p.stat().st_size for p in (out / "take").iterdir()) > 270_000


def test_no_room_from_the_start(song, tmp_path):
    """Not even for a first block: nothing is left that would be in the way."""
    soundfile.write(tmp_path / "one.wav", song[0][:, :RATE].T, RATE, subtype="FLOAT")
    report, _ = run_out_of_room(tmp_path, tmp_path / "one.wav", limit=50)
    assert "ended after 0.0 s (File too large)" in report["record_error"]
    assert not list((tmp_path / "disk").iterdir())
    assert report["hops"] >= RATE // HOP
