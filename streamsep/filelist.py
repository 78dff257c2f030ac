"""Which sound files are meant by the names that somebody gives, and where the stems of each go.

A name is a file, a folder (everything in it and below that looks like sound), or a pattern with `*`, `?`, `[...]` and `**`.
What was named itself is always taken; what is left out of a folder is listed, never silently dropped.

Stems lie under the output folder in the tree that the inputs have below their folder or below the pattern's fixed beginning.
Files named one by one lose their folders, unless two would then meet; and where two files differ in their suffix only, the
suffix stays. So no two inputs share a folder of stems. This module opens no file.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .soundfiles import looks_like_sound


@dataclass(frozen=True)
class Song:
    """A file, and the folder of its stems below the output folder."""

    path: Path
    name: Path


@dataclass
class FileList:
    """What was found."""

    songs: list[Song] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # path: why
    missing: list[str] = field(default_factory=list)  # names that mean nothing


def find(names: Sequence[str], out_dir: Path) -> FileList:
    """The files that `names` mean, each once, in their order; nothing that lies in `out_dir` unless it was named itself."""
    found = FileList()
    taken: dict[Path, tuple[Path, Path]] = {}  # real path: (as it was named, below what)
    for name in names:
        count = len(taken)
        for path, base, named in _meant(name):
            real = path.resolve()
            if real in taken:
                count = -1  # it means something
            elif not named and (why := _why_not(path, real, out_dir.resolve())):
                found.skipped[str(path)] = why
            else:
                taken[real] = path, base
        if len(taken) == count:
            found.missing.append(name)
    found.songs = [Song(path, name) for (path, _), name in zip(taken.values(), _places(list(taken.values())), strict=True)]
    return found


def _meant(name: str) -> Iterator[tuple[Path, Path, bool]]:
    """(file, what its tree begins below, whether it was named itself), sorted."""
    path = Path(name)
    if path.is_dir():
        for file in _below(path):
            yield file, path, False
    elif path.exists() or not glob.has_magic(name):
        yield path, path.parent, True
    else:
        base = _fixed(path)
        for match in sorted(map(Path, glob.glob(name, recursive=True))):
            for file in _below(match) if match.is_dir() and "**" not in name else [match]:
                if not file.is_dir():
                    yield file, base, False


def _below(folder: Path) -> list[Path]:
    """All files in `folder` and below."""
    return sorted(Path(where, file) for where, _, files in os.walk(folder) for file in files)


def _fixed(pattern: Path) -> Path:
    """The part of a pattern before its first wildcard."""
    parts = pattern.parts
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:first])


def _why_not(path: Path, real: Path, out_dir: Path) -> str:
    if not looks_like_sound(path):
        return "not a sound file by its name"
    return "lies in the output folder" if real.is_relative_to(out_dir) else ""


def _places(files: Sequence[tuple[Path, Path]]) -> list[Path]:
    """A folder of stems for each file, all different."""
    names = [path.relative_to(base).with_suffix("") if path.is_relative_to(base) else Path(path.stem) for path, base in files]
    clashing = _twice(names)
    if any(name in clashing for name in names):
        common = Path(os.path.commonpath([path.resolve().parent for path, _ in files]))
        below = [path.resolve().relative_to(common).with_suffix("") for path, _ in files]
        names = [deep if name in clashing else name for name, deep in zip(names, below, strict=True)]
    clashing = _twice(names)
    names = [name.with_name(path.name) if name in clashing else name for name, (path, _) in zip(names, files, strict=True)]
    while clashing := _twice(names):  # trees of several folders that are alike
        again = [n for n, name in enumerate(names) if name in clashing][1:]
        names = [name.with_name(f"{name.name}_{n + 1}") if n in again else name for n, name in enumerate(names)]
    return names


def _twice(names: Iterable[Path]) -> set[Path]:
    """Names that would be the same folder, where case does not count too."""
    counts = Counter(str(name).casefold() for name in names)
    return {name for name in names if counts[str(name).casefold()] > 1}
