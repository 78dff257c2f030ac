"""Which files are meant, and that no two of them meet in one folder."""

from pathlib import Path

import pytest

from streamsep.filelist import find


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in (
        "a/x.wav",
        "a/y.mp3",
        "a/notes.txt",
        "a/.hidden.wav",
        "b/x.wav",
        "b/c/x.wav",
        "b/X.flac",
        "odd[1].wav",
        "out/x/vocals.wav",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    monkeypatch.chdir(tmp_path)


def places(*names):
    return {str(song.path): str(song.name) for song in find(names, Path("out")).songs}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a/x.wav"], {"a/x.wav": "x"}),
        (["a"], {"a/x.wav": "x", "a/y.mp3": "y"}),
        (["a", "b/c"], {"a/x.wav": "a/x", "a/y.mp3": "y", "b/c/x.wav": "b/c/x"}),
        (["b"], {"b/x.wav": "x.wav", "b/X.flac": "X.flac", "b/c/x.wav": "c/x"}),
        (["*/x.wav"], {"a/x.wav": "a/x", "b/x.wav": "b/x"}),
        (["b/**/*.wav"], {"b/c/x.wav": "c/x", "b/x.wav": "x"}),
        (["a/x.wav", "./a/x.wav", "a"], {"a/x.wav": "x", "a/y.mp3": "y"}),
        (["odd[1].wav"], {"odd[1].wav": "odd[1]"}),
        (["a/notes.txt"], {"a/notes.txt": "notes"}),
        (["out/x/vocals.wav"], {"out/x/vocals.wav": "vocals"}),
        (["a/*"], {"a/x.wav": "x", "a/y.mp3": "y"}),
    ],
)
def test_where_stems_go(tree, names, expected):
    assert places(*names) == expected


def test_what_is_left_out_is_told(tree):
    found = find(["a", "a/*", ".", "*.ogg", "nosuch.wav"], Path("out"))
    assert found.skipped["a/notes.txt"] == "not a sound file by its name"
    assert found.skipped["out/x/vocals.wav"] == "lies in the output folder"
    assert found.missing == ["*.ogg"]
    assert Path("nosuch.wav") in [song.path for song in found.songs]  # reading it says why not
    assert len({str(song.name).casefold() for song in found.songs}) == len(found.songs) == 7


def test_a_folder_without_sound_is_told(tree, tmp_path):
    (tmp_path / "empty").mkdir()
    assert find(["empty"], Path("out")).missing == ["empty"]
