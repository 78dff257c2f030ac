"""`python -m train.music DIR`: the recipes' accompaniments, from Debian's packages of game music, each in a folder of DIR;
words and letters that many people spoke, for train/sing.py, as well.

Packages are fetched by `apt-get download` and unpacked, not installed; with `--from` they are taken from a folder where they
lie already. Which tracks are used is for the configurations to say (see train/screen.py), their licences for
usr/share/doc/PACKAGE/copyright, which is kept beside each folder as NAME.copyright.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click

from .datasets import AUDIO


@dataclass(frozen=True)
class Package:
    """A Debian package, and the folder in it whose sound files are wanted; `flat`: without the folders below it."""

    deb: str
    place: str
    flat: bool = True


PACKAGES = {
    "sectoid": Package("fretsonfire-songs-sectoid", "usr/share/games/fretsonfire/data/songs/sectoid", flat=False),
    "wesnoth": Package("wesnoth-1.16-music", "usr/share/games/wesnoth/1.16/data/core/music"),
    "warzone": Package("warzone2100-music", "usr/share/games/warzone2100/music"),
    "freedroid": Package("freedroidrpg-data", "usr/share/freedroidrpg/data/sound/music"),
    "supertuxkart": Package("supertuxkart-data", "usr/share/games/supertuxkart/data/music"),
    # Speech, a folder a language.
    "klettres": Package("klettres-data", "usr/share/klettres", flat=False),
    "ktuberling": Package("ktuberling-data", "usr/share/ktuberling/sounds", flat=False),
}

# Never trained on, nor may they be: bench/instrumentals.py asks by them how much of a music that nobody knows goes into vocals.
UNHEARD = {
    "btanks": Package("btanks-data", "usr/share/games/btanks/data/tunes"),
    "hedgewars": Package("hedgewars-data", "usr/share/games/hedgewars/Data/Music"),
    "starfighter": Package("starfighter-data", "usr/share/starfighter/music"),
    "tumiki-fighters": Package("tumiki-fighters-data", "usr/share/games/tumiki-fighters/sounds"),
    "xmoto": Package("xmoto-data", "usr/share/games/xmoto/Textures/Musics"),
    "zaz": Package("zaz-data", "usr/share/games/zaz"),
}


class MusicError(Exception):
    """A package cannot be had, or is not what it was."""


def collect(deb: Path, package: Package, name: str, target: Path) -> int:
    """The sound files of the package file `deb` into `target`/`name`; how many files.

    Raises
    ------
    MusicError
        it cannot be unpacked, or they are not where they were.
    """
    with tempfile.TemporaryDirectory(dir=target, prefix=".unpacked-") as folder:
        _run("dpkg", "-x", deb, folder)
        place = Path(folder) / package.place
        files = sorted(p for p in place.rglob("*") if p.suffix.lower() in AUDIO)
        if not files:
            raise MusicError(
                f"package {deb.name} holds no sound files at {package.place!r}: another version? See train/music.py"
            )
        for file in files:
            kept = target / name / (file.name if package.flat else file.relative_to(place))
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(file, kept)
        for text in Path(folder).glob("usr/share/doc/*/copyright"):
            shutil.move(text, target / f"{name}.copyright")
    return len(files)


def fetch(package: Package, folder: Path) -> Path:
    """The package's file, downloaded into `folder`."""
    _run("apt-get", "download", package.deb, cwd=folder)
    return find(package, folder)


def find(package: Package, folder: Path) -> Path:
    """The package's file in `folder`."""
    found = sorted(folder.glob(f"{package.deb}_*.deb"))
    if not found:
        raise MusicError(f"package {package.deb} is not in {str(folder)!r}: expected {package.deb}_VERSION_all.deb")
    return found[-1]


def _run(*words: object, cwd: Path | None = None) -> None:
    line = list(map(str, words))
    try:
        subprocess.run(line, cwd=cwd, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise MusicError(f"{line[0]} is not on this machine: use Debian, or a container of it") from error
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip() or "no reason given").splitlines()[-1]
        raise MusicError(f"{' '.join(line)} failed: {reason}") from error


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("target", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--from", "packages", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of .deb files.")
@click.option("--only", multiple=True, type=click.Choice([*PACKAGES, *UNHEARD]), help="Not all of them. Repeatable.")
@click.option("--unheard", is_flag=True, help="The music that nothing may train with, for bench/instrumentals.py.")
def main(target: Path, packages: Path | None, only: tuple[str, ...], unheard: bool) -> None:
    """Fetch the game music that the recipes train with, and voices, into DIR; about a gigabyte is downloaded."""
    target.mkdir(parents=True, exist_ok=True)
    try:
        for name in only or (UNHEARD if unheard else PACKAGES):
            package = (PACKAGES | UNHEARD)[name]
            if (target / name).exists():
                click.echo(f"{name:14}is there already")
                continue
            with tempfile.TemporaryDirectory(prefix="streamsep-music-") as folder:
                deb = find(package, packages) if packages else fetch(package, Path(folder))
                click.echo(f"{name:14}{collect(deb, package, name, target)} files of {deb.name}")
    except (MusicError, OSError) as error:
        click.echo(f"train.music: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="python -m train.music")
