"""Files through the engine: as long as they were, exactly over the input, whole or not at all."""

import errno
import os
import resource
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from streamsep import frames, media, model, offline, ort, plot, soundfiles, stems
from streamsep.engine import Separator
from streamsep.frames import Frames
from tests import graphs
from tests.conftest import DATA, need_data, need_program

BYTES_OF_A_CLIP = 200_000


def noise(channels, samples, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (channels, samples)).astype(np.float32)


def music(channels, samples):
    """Real sound where it lies there, noise elsewhere; full scale at most."""
    path = DATA / "songs" / "hydrogen.accompaniment.opus"
    if not path.is_file():
        return noise(channels, samples)
    x, _ = soundfile.read(path, start=48000 * 60, frames=samples, dtype="float32", always_2d=True)
    return np.ascontiguousarray(x.T[:channels])


def write(path, x, rate, subtype="FLOAT"):
    soundfile.write(path, x.T, rate, subtype=subtype)
    return path


def read(path):
    x, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return x.T, rate


def one_go(loaded, x, rate):
    """All of it in one block, aligned by hand; [shape=(sources, channels, samples)]."""
    separator = Separator(loaded, rate, x.shape[0])
    return np.concatenate([separator.process(x), separator.flush()], axis=2)[:, :, separator.latency :]


def entries(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


# -------------------------------------------------------------------------------------------------- exactly over the input


@pytest.mark.parametrize(
    ("rate", "channels", "frames"),
    [(16000, 1, 20_011), (44100, 2, soundfiles.BLOCK), (48000, 2, 70_001), (96000, 1, 40_000), (48000, 6, 5_000), (8000, 1, 1)],
)
@pytest.mark.parametrize("kind", ["live", "lstm"])
def test_stems_equal_the_engine_in_one_go(tmp_path, request, kind, rate, channels, frames):
    """Bit by bit where the network is stepped frame by frame, which it is where its weights are 8 bits."""
    loaded = request.getfixturevalue(kind)
    x = music(min(channels, 2), frames)[np.arange(channels) % 2 if channels > 2 else slice(None)]
    result = offline.separate(write(tmp_path / "in.wav", x, rate), tmp_path / "out", loaded)
    assert (result.frames, result.channels, result.sample_rate) == (frames, channels, rate)
    assert result.failed == 0
    assert result.error is None
    assert list(result.paths) == ["vocals", "accompaniment"]
    for source, expected in zip(result.paths, one_go(loaded, x, rate), strict=True):
        info = soundfile.info(result.paths[source])
        assert (info.format, info.subtype) == ("WAV", "FLOAT")
        stem, stem_rate = read(tmp_path / "out" / "in" / f"{source}.wav")
        assert stem_rate == rate
        np.testing.assert_allclose(stem, expected, rtol=0, atol=0 if kind == "live" else 1e-5)


def test_hops_together_and_one_by_one_share_a_state(live):
    """Cut anywhere into calls of some hops and blocks of some samples, it is the same sound."""
    x = music(2, 100 * 384)
    separator = Separator(live, 48000, 2)
    frames = Frames(separator)
    expected = one_go(live, x, 48000)
    pieces, place = [], 0
    for k, hops in enumerate((1, 5, 16, 2, 9, 16, 30)):
        block = np.ascontiguousarray(x[:, place : place + hops * 384])
        place += hops * 384
        if k % 2:  # the hop that `process` holds back comes out at once of the other
            pieces.append(separator.process(block)[:, :, 384:])
            pieces.append(separator.state.y.copy())
            separator.state.fill[0] = 0
        else:
            pieces.append(
                np.concatenate([frames.process(b) for b in np.split(block, hops, axis=1)], axis=2)
                if hops > 16
                else frames.process(block)
            )
    got = np.concatenate(pieces, axis=2)[:, :, 384:]
    np.testing.assert_array_equal(got, expected[:, :, : got.shape[2]])


def test_frames_share_a_call_only_where_they_do_not_touch_each_other(live, lstm, coarse):
    """Our files do not; one that takes the scale of its activations from the whole call is noticed, and goes frame by frame."""
    x = music(2, 30 * 384)
    for loaded, independent in ((live, True), (lstm, True), (coarse, False)):
        assert frames.frames_are_independent(ort.NativeNetwork(loaded), loaded.contract) == independent
        got = np.concatenate(list(offline.aligned(Frames(Separator(loaded, 48000, 2)), [x])), axis=2)
        expected = one_go(loaded, x, 48000)[:, :, : x.shape[1]]
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 if loaded is lstm else 0)
    forced = np.concatenate(list(offline.aligned(Frames(Separator(coarse, 48000, 2), together=True), [x])), axis=2)
    assert (forced != expected).any()


def test_asking_leaves_the_streams_state_alone(live):
    separator = Separator(live, 48000, 2)
    x = music(2, 40 * 384)
    first = separator.process(x[:, : 20 * 384])
    Frames(separator)
    got = np.concatenate([first, separator.process(x[:, 20 * 384 :])], axis=2)
    expected = one_go(live, x, 48000)[:, :, : x.shape[1] - separator.latency]
    np.testing.assert_array_equal(got[:, :, separator.latency :], expected)


@pytest.mark.parametrize("rate", [16000, 44100, 48000, 96000])
def test_sources_add_up_to_the_input(tmp_path, lstm, rate):
    x = music(2, 50_000)
    result = offline.separate(write(tmp_path / "in.wav", x, rate), tmp_path, lstm)
    heard = [read(p)[0] for p in result.paths.values()]
    np.testing.assert_allclose(sum(heard), x, atol=1e-6)
    assert min(np.abs(s).max() for s in heard) > 0.01


def test_identity_gives_the_file_back(tmp_path, identity):
    x = music(2, 100_000)
    result = offline.separate(write(tmp_path / "in.wav", x, 48000), tmp_path, identity)
    np.testing.assert_allclose(read(result.paths["vocals"])[0], x, atol=1e-6)
    np.testing.assert_allclose(read(result.paths["accompaniment"])[0], 0, atol=1e-6)


def test_a_source_beyond_full_scale_is_not_clipped(tmp_path, identity):
    x = 3 * noise(1, 30_000)
    result = offline.separate(write(tmp_path / "in.wav", x, 48000), tmp_path, identity)
    np.testing.assert_allclose(read(result.paths["vocals"])[0], x, atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), [("a.flac", {}), ("a.ogg", {}), ("a.opus", {"format": "OGG", "subtype": "OPUS"})])
def test_any_file_that_libsndfile_reads(tmp_path, lstm, name, kind):
    path = tmp_path / name
    soundfile.write(path, 0.5 * noise(2, 60_001).T, 48000, **kind)
    x, rate = read(path)
    result = offline.separate(path, tmp_path / "out", lstm)
    assert result.frames == x.shape[1]
    for file, expected in zip(result.paths.values(), one_go(lstm, x, rate), strict=True):
        np.testing.assert_allclose(read(file)[0], expected, rtol=0, atol=1e-5)


def test_progress_counts_up_to_the_whole(tmp_path, lstm):
    frames = 2 * soundfiles.BLOCK + 5
    told = []
    offline.separate(write(tmp_path / "in.wav", noise(1, frames), 16000), tmp_path, lstm, progress=lambda *a: told.append(a))
    assert told == [(soundfiles.BLOCK, frames), (2 * soundfiles.BLOCK, frames), (frames, frames)]


def test_result_tells_how_it_went(tmp_path, lstm):
    result = offline.separate(write(tmp_path / "in.wav", noise(1, 16_000), 16000), tmp_path, lstm, provider="cpu")
    assert result.seconds == 1.0
    assert result.latency == 256
    assert result.counts["hops"] == (16_000 + 256) // 128 - 1  # no hop has to be gathered first
    assert result.provider == "cpu"
    assert result.real_time_factor == pytest.approx(result.elapsed)
    assert result.elapsed > 0


def test_failed_steps_are_reported_with_their_reason(tmp_path, lstm, monkeypatch):
    class Broken(Separator):
        """Its network fails from the third hop on."""

        def __init__(self, *args):
            super().__init__(*args, use_c_api=False)
            session, calls = self.network._session, []

            def run(*args):
                calls.append(args)
                if len(calls) > 2:
                    raise RuntimeError("the device is gone")
                return session.run(*args)

            self.network._session = SimpleNamespace(run=run)

    monkeypatch.setattr(offline, "Separator", Broken)
    monkeypatch.setattr(offline, "Frames", lambda separator: Frames(separator, False))
    result = offline.separate(write(tmp_path / "in.wav", noise(1, 1280), 16000), tmp_path, lstm)
    assert result.failed == result.counts["failed_steps"] == 10
    assert result.error == "the device is gone"
    assert result.frames == 1280


def test_memory_does_not_grow_with_the_file(tmp_path, identity):
    """The blocks that the engine gets and gives are bounded, and all that is kept is on the disk."""
    sizes = []
    separator = Separator(identity, 16000, 1)
    x = noise(1, 10 * soundfiles.BLOCK)
    with soundfiles.Reader(write(tmp_path / "in.wav", x, 16000)) as reader:
        for y in offline.aligned(Frames(separator), reader.blocks()):
            sizes.append(y.shape[2])
    assert max(sizes) <= soundfiles.BLOCK
    assert sum(sizes) == x.shape[1]


@pytest.mark.parametrize(
    ("container", "bits", "subtype"), [("wav", 16, "PCM_16"), ("wav", 24, "PCM_24"), ("flac", 24, "PCM_24")]
)
def test_other_forms_hold_the_same_sound(tmp_path, lstm, container, bits, subtype):
    x = music(2, 50_000) * np.float32(0.5)
    path = write(tmp_path / "in.wav", x, 48000)
    floats = offline.separate(path, tmp_path / "floats", lstm)
    result = offline.separate(path, tmp_path / "ints", lstm, form=stems.Form(container, bits))
    assert result.clipped == 0
    for source, file in result.paths.items():
        assert file == tmp_path / "ints" / "in" / f"{source}.{container}"
        assert soundfile.info(file).subtype == subtype
        np.testing.assert_allclose(read(file)[0], read(floats.paths[source])[0], rtol=0, atol=2**-bits * 4)


def test_what_integers_clip_is_counted(tmp_path, identity):
    x = np.zeros((1, 8000), np.float32)
    x[0, 4000:4010] = 1.5
    result = offline.separate(write(tmp_path / "in.wav", x, 16000), tmp_path, identity, form=stems.Form("flac", 16))
    assert 10 <= result.clipped <= 12
    assert read(result.paths["vocals"])[0].max() == pytest.approx(1, abs=1e-4)
    with pytest.raises(ValueError, match="bits=32 in flac: expected 16 or 24"):
        stems.Form("flac", 32)


@pytest.mark.parametrize("reader", ["PyAV", "ffmpeg", "neither"])
@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.wma", "wmav2"), ("film.mkv", "aac")])
def test_what_libsndfile_does_not_read(tmp_path, identity, monkeypatch, name, codec, reader):
    path = tmp_path / name
    tone = ["-f", "lavfi", "-i", "sine=440:r=44100:d=2", "-ac", "2", "-c:a", codec]
    subprocess.run([need_program("ffmpeg"), "-loglevel", "error", *tone, path], check=True)
    monkeypatch.setattr(media, "_have_av", lambda: reader == "PyAV")
    if reader == "neither":
        monkeypatch.setattr(shutil, "which", lambda name: None)
        with pytest.raises(soundfiles.AudioFileError, match=r"install PyAV \(pip install 'streamsep\[media\]'\) or ffmpeg"):
            offline.separate(path, tmp_path, identity)
        return
    result = offline.separate(path, tmp_path, identity)
    assert (result.sample_rate, result.channels) == (44100, 2)
    assert 88_200 - 4096 <= result.frames <= 88_200 + 4096  # these formats keep whole blocks
    heard = read(result.paths["vocals"])[0][0, 20_000:60_000]
    assert np.abs(np.fft.rfft(heard)).argmax() * 44100 / 40_000 == pytest.approx(440, abs=2)
    assert np.abs(heard).max() == pytest.approx(1 / 8 / 2**0.5, rel=0.1)  # of mono, FFmpeg makes stereo of the same power


@pytest.mark.parametrize("reader", ["PyAV", "ffmpeg"])
def test_no_sound_where_the_name_says_so(tmp_path, identity, monkeypatch, reader):
    monkeypatch.setattr(media, "_have_av", lambda: reader == "PyAV")
    path = tmp_path / "a.m4a"
    path.write_text("la la la" * 1000)
    with pytest.raises(soundfiles.AudioFileError, match=r"a\.m4a cannot be read \(Invalid data found when processing input\)"):
        offline.separate(path, tmp_path / "out", identity)
    subprocess.run(
        [need_program("ffmpeg"), "-loglevel", "error", "-f", "lavfi", "-i", "testsrc=d=0.2", "-an", tmp_path / "b.mp4"],
        check=True,
    )
    with pytest.raises(soundfiles.AudioFileError, match=r"b\.mp4 cannot be read"):
        offline.separate(tmp_path / "b.mp4", tmp_path / "out", identity)
    assert entries(tmp_path) == ["a.m4a", "b.mp4"]


# ----------------------------------------------------------------------------------------------------- lengths that headers
# tell wrongly or not at all


def ffmpeg(path, *options):
    """Three seconds from ffmpeg through a pipe, which leaves it no way back to the header."""
    program = need_program("ffmpeg")
    tone = ["-f", "lavfi", "-i", "sine=440:r=48000:d=3"]
    data = subprocess.run([program, "-loglevel", "error", *tone, *options, "-"], stdout=subprocess.PIPE, check=True).stdout
    path.write_bytes(data)
    return path


def test_flac_of_unknown_length_is_read_to_its_end(tmp_path, identity):
    path = ffmpeg(tmp_path / "in.flac", "-f", "flac")
    told = []
    result = offline.separate(path, tmp_path, identity, progress=lambda *a: told.append(a))
    assert result.frames == 144_000
    assert told[-1] == (144_000, 144_000)
    assert read(result.paths["vocals"])[0].shape == (1, 144_000)


@pytest.mark.parametrize("cover", [0, 500_000])
def test_mp3_without_a_frame_count_is_read_to_its_end(tmp_path, identity, cover):
    """Quiet first, loud noise later: libsndfile takes the first bit rate for that of the whole."""
    swell = ["-af", "volume='if(lt(t,1),0,1)':eval=frame,aeval=val(0)+0.3*(random(0)-0.5)*gt(t\\,1)"]
    path = ffmpeg(tmp_path / "in.mp3", *swell, "-q:a", "4", "-write_xing", "0", "-f", "mp3")
    tag = b"ID3\x03\0\0" + bytes(cover >> s & 0x7F for s in (21, 14, 7, 0)) + bytes(cover)
    path.write_bytes(tag + path.read_bytes())
    result = offline.separate(path, tmp_path, identity)
    # MP3 adds its own delay and padding, which only the missing header could tell how to remove.
    assert 144_000 <= result.frames < 144_000 + 4 * 1152
    assert read(result.paths["vocals"])[0].shape == (1, result.frames)


def test_cut_off_mp3_is_as_long_as_what_is_there(tmp_path, identity):
    x = 0.3 * noise(1, 96_000)
    soundfile.write(tmp_path / "in.mp3", x.T, 48000)
    data = (tmp_path / "in.mp3").read_bytes()
    (tmp_path / "cut.mp3").write_bytes(data[: len(data) // 2])
    result = offline.separate(tmp_path / "cut.mp3", tmp_path, identity)
    assert 20_000 < result.frames < 60_000
    assert read(result.paths["vocals"])[0].shape == (1, result.frames)


def test_long_files_become_rf64(tmp_path, lstm, monkeypatch):
    assert stems.Form().major(stems.WAV_LIMIT) == "WAV"
    assert stems.Form().major(stems.WAV_LIMIT + 1) == "RF64"
    monkeypatch.setattr(stems, "WAV_LIMIT", 1000)
    result = offline.separate(write(tmp_path / "in.wav", noise(1, 5000), 16000), tmp_path, lstm)
    assert result.paths["vocals"].read_bytes()[:4] == b"RF64"
    assert read(result.paths["vocals"])[0].shape == (1, 5000)


# -------------------------------------------------------------------------------------------------------- whole or not at all


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_midway_keeps_the_old_files_and_leaves_nothing(tmp_path, lstm, failure):
    path = write(tmp_path / "in.wav", noise(1, 4 * soundfiles.BLOCK), 16000)
    folder = tmp_path / "out" / "in"
    folder.mkdir(parents=True)
    (folder / "vocals.wav").write_bytes(b"old")
    seen = []

    def stop(done, total):
        seen.extend(entries(folder))
        if done > soundfiles.BLOCK:
            raise failure

    with pytest.raises(failure):
        offline.separate(path, tmp_path / "out", lstm, progress=stop)
    assert any(name.endswith(".part") for name in seen)
    assert entries(tmp_path / "out") == ["in", "in/vocals.wav"]
    assert (folder / "vocals.wav").read_bytes() == b"old"
    assert offline.separate(path, tmp_path / "out", lstm).frames == 4 * soundfiles.BLOCK
    assert entries(folder) == ["accompaniment.wav", "vocals.wav"]


def test_a_failure_leaves_no_new_folders(tmp_path, lstm):
    def stop(done, total):
        raise RuntimeError

    path = write(tmp_path / "in.wav", noise(1, 1000), 16000)
    with pytest.raises(RuntimeError):
        offline.separate(path, tmp_path / "a" / "b", lstm, progress=stop)
    assert entries(tmp_path) == ["in.wav"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, lstm):
    """A limit on the size of files makes writing fail the way a full disk does."""
    path = write(tmp_path / "in.wav", noise(1, 4 * soundfiles.BLOCK), 16000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BYTES_OF_A_CLIP, limits[1]))
    try:
        with pytest.raises(soundfiles.AudioFileError, match=r"stems in .* cannot be written \(.*\): expected room"):
            offline.separate(path, tmp_path / "out", lstm)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert entries(tmp_path) == ["in.wav"]


def test_too_little_space_is_told_before_the_work(tmp_path, lstm, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**20))
    path = write(tmp_path / "in.wav", noise(1, 2**18), 16000)
    with pytest.raises(soundfiles.AudioFileError, match="has 1 MiB free: expected 2 MiB for the stems; free some space"):
        offline.separate(path, tmp_path / "out", lstm, progress=lambda *a: pytest.fail("it began"))
    assert entries(tmp_path) == ["in.wav"]


def test_the_input_is_never_its_own_output(tmp_path, lstm):
    folder = tmp_path / "vocals"
    folder.mkdir()
    path = write(folder / "vocals.wav", noise(1, 1000), 16000)
    before = path.read_bytes()
    with pytest.raises(soundfiles.AudioFileError, match="would be overwritten by its own stem"):
        offline.separate(path, tmp_path, lstm)
    assert path.read_bytes() == before


# ----------------------------------------------------------------------------------------------------------- what goes wrong


def empty(path):
    path.write_bytes(b"")


def header_only(path):
    write(path, np.zeros((1, 0), np.float32), 16000)


def text(path):
    path.write_text("la la la\n" * 100)


def cut_flac(path):
    soundfile.write(path, noise(1, 48_000).T, 16000, format="FLAC")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def ten_channels(path):
    write(path, noise(10, 1000), 48000)


def slow(path):
    write(path, noise(1, 1000), 4000)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, r"cannot be read \(No such file or directory\): expected a sound file"),
        (lambda path: path.mkdir(), r"cannot be read \(Is a directory\): expected a sound file"),
        (empty, r"cannot be read \(Format not recognised\): expected a sound file"),
        (text, r"cannot be read \(Format not recognised\): expected a sound file"),
        (header_only, r"holds 0 frames of sound: expected at least 1"),
        (cut_flac, r"is damaged or cut off after \d\.\d s \(.*\): expected 3\.0 s; get a whole copy"),
        (ten_channels, r"does not fit the engine: channels=10 is out of range: expected 1 to 8; convert it"),
        (slow, r"does not fit the engine: sample_rate=4000 Hz is out of range: expected 8000 to 192000; convert it"),
    ],
    ids=["missing", "folder", "empty", "text", "header only", "cut flac", "ten channels", "slow"],
)
def test_bad_input_is_one_line_with_the_cure(tmp_path, lstm, make, says):
    path = tmp_path / "song.wav"
    make(path)
    before = entries(tmp_path)
    with pytest.raises(soundfiles.AudioFileError, match=says) as caught:
        offline.separate(path, tmp_path / "out", lstm)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert entries(tmp_path) == before


def test_headerless_audio_is_one_line(tmp_path, lstm):
    (tmp_path / "song.raw").write_bytes(bytes(1000))
    with pytest.raises(soundfiles.AudioFileError, match=r"song\.raw cannot be read \(.*\): expected a sound file"):
        offline.separate(tmp_path / "song.raw", tmp_path, lstm)


def test_output_folder_that_is_a_file(tmp_path, lstm):
    path = write(tmp_path / "in.wav", noise(1, 1000), 16000)
    (tmp_path / "out").write_text("mine")
    with pytest.raises(soundfiles.AudioFileError, match=r"output folder .*out/in cannot be written \(.*\): expected a folder"):
        offline.separate(path, tmp_path / "out", lstm)
    assert (tmp_path / "out").read_text() == "mine"


def test_output_folder_without_permission(tmp_path, lstm, monkeypatch):
    """Root may write anywhere, and tests may run as root: the refusal is played."""

    def refuse(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    path = write(tmp_path / "in.wav", noise(1, 1000), 16000)
    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(soundfiles.AudioFileError, match=r"cannot be written \(Permission denied\): .*; choose another"):
        offline.separate(path, tmp_path / "out", lstm)
    assert entries(tmp_path) == ["in.wav"]


def test_an_unknown_provider_is_no_fault_of_the_file(tmp_path, lstm):
    path = write(tmp_path / "in.wav", noise(1, 1000), 16000)
    with pytest.raises(ValueError, match="provider='tpu' is unknown"):
        offline.separate(path, tmp_path, lstm, provider="tpu")


# ----------------------------------------------------------------------------------------------------------------- the picture


def tone(frequency, rate, seconds, gain=1.0):
    return (gain * np.sin(2 * np.pi * frequency / rate * np.arange(int(rate * seconds)))).astype(np.float32)[None]


@pytest.mark.parametrize("rate", [16000, 44100, 96000])
@pytest.mark.parametrize("frequency", [80, 1000, 7000])
def test_a_tone_stands_at_its_frequency_and_level(rate, frequency):
    x = tone(frequency, rate, 2, gain=0.1)
    picture = plot.spectrogram([x], x.shape[1], rate)
    middle = picture[:, picture.shape[1] // 2]
    edges = np.geomspace(plot.LOWEST, rate / 2, plot.ROWS + 1)
    peak = int(middle.argmax())
    # A low tone is as wide as a bin, many rows: its place is known to a bin's width only.
    assert edges[peak] - 16 <= frequency <= edges[peak + 1] + 16
    # Between bins the window loses 1.4 dB, between rows half is lost; a high row is the mean of a tone and its neighbours.
    bins = max(1, 0.064 * (edges[peak + 1] - edges[peak]))
    assert -20 - 5 - 10 * np.log10(bins) < middle[peak] <= -20


def test_cutting_into_blocks_changes_no_pixel():
    x = noise(2, 200_000)
    whole = plot.spectrogram([x], x.shape[1], 48000)
    cut = plot.spectrogram((x[:, i : i + 777] for i in range(0, x.shape[1], 777)), x.shape[1], 48000)
    np.testing.assert_array_equal(cut, whole)


def test_time_runs_from_left_to_right_and_columns_are_limited():
    """A click halfway through a minute stands in the middle column; the rest is silence."""
    x = np.zeros((1, 60 * 16000), np.float32)
    x[0, x.shape[1] // 2] = 1
    picture = plot.spectrogram([x], x.shape[1], 16000)
    assert picture.shape == (plot.ROWS, plot.COLUMNS)
    loud = np.flatnonzero(picture.max(0) > -100)
    assert abs(loud.mean() - plot.COLUMNS / 2) < 2
    assert len(loud) <= 4


@pytest.mark.parametrize("samples", [1, 100, 1024, 5000, 76_801, 1_000_003])
def test_short_sounds_have_a_picture_too(samples):
    picture = plot.spectrogram([noise(1, samples)], samples, 16000)
    assert picture.shape[1] >= 1
    assert np.isfinite(picture).all()
    assert picture.max(axis=0).min() > -80  # no column is left out


def test_a_hop_longer_than_the_window_skips_samples_and_nothing_else():
    x = noise(1, 20_000)
    frames = list(plot._chunks((x[:, i : i + 331] for i in range(0, 20_000, 331)), 64, 200))
    padded = np.pad(x, ((0, 0), (32, 32)))
    got = np.concatenate([f for _, f in frames], axis=1)[0]
    np.testing.assert_array_equal(got, [padded[0, i : i + 64] for i in range(0, 20_001, 200)])


def test_png_of_a_separation_is_not_blank(tmp_path, lstm):
    path = write(tmp_path / "in.wav", music(2, 96_000), 48000)
    result = offline.separate(path, tmp_path, lstm)
    png = plot.from_files({"mixture": path} | result.paths, tmp_path / "in" / "spectrograms.png")
    from matplotlib.image import imread

    pixels = imread(png)[..., :3]
    assert pixels.shape[0] > 600
    assert pixels.shape[1] > 1200
    third = pixels.shape[0] // 3
    for panel in range(3):
        middle = pixels[panel * third : (panel + 1) * third, 100:1000]
        assert len(np.unique(middle.reshape(-1, 3), axis=0)) > 100
    assert entries(tmp_path / "in") == ["accompaniment.wav", "spectrograms.png", "vocals.wav"]


def test_png_from_arrays_takes_mono_and_silence(tmp_path):
    png = plot.spectrograms(tmp_path / "a.png", {"voice": noise(1, 8000)[0], "nothing": np.zeros(8000)}, 16000, "a title")
    assert png.read_bytes()[:4] == b"\x89PNG"


def test_pictures_of_nothing_or_of_two_lengths_are_refused(tmp_path):
    for signals in ({}, {"a": np.zeros(0)}, {"a": np.zeros(5), "b": np.zeros(6)}):
        with pytest.raises(ValueError, match="expected one length above 0 for all"):
            plot.spectrograms(tmp_path / "a.png", signals, 16000)
    assert entries(tmp_path) == []


def test_png_is_replaced_whole(tmp_path):
    (tmp_path / "a.png").mkdir()  # what cannot be replaced
    with pytest.raises(soundfiles.AudioFileError, match=r"cannot be written \(Is a directory\)"):
        plot.spectrograms(tmp_path / "a.png", {"a": noise(1, 1000)}, 16000)
    assert entries(tmp_path) == ["a.png"]


def test_a_real_song_keeps_its_length_and_sum(tmp_path, folder):
    path = DATA / "songs" / "sodium.vocals.opus"
    need_data()
    x, rate = soundfile.read(path, start=48000 * 200, frames=48000 * 4, dtype="float32")
    write(tmp_path / "in.wav", x.T, rate)
    loaded = model.load(graphs.constant(folder / "some.onnx", (0.3, 0.7)))
    result = offline.separate(tmp_path / "in.wav", tmp_path, loaded)
    np.testing.assert_allclose(read(result.paths["vocals"])[0], 0.3 * x.T, atol=1e-6)
    np.testing.assert_allclose(read(result.paths["accompaniment"])[0], 0.7 * x.T, atol=1e-6)
