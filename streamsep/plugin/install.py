"""Building the plugin with the system's C compiler, and putting it where hosts look.

    LV2      ~/.lv2/streamsep.lv2        /usr/local/lib/lv2/streamsep.lv2     (with --system)
    LADSPA   ~/.ladspa/streamsep.so      /usr/local/lib/ladspa/streamsep.so   a link to the bundle's object

The interpreter that installs is compiled in: the engine that an instance starts is this one's. Everything is built in a folder
beside the bundle and renamed, so that a host never sees half of it. LV2's own headers (ISC licence) come with the package.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .. import StreamsepError

SOURCE = Path(__file__).parent
BUNDLE, OBJECT = "streamsep.lv2", "streamsep.so"
TURTLE = ("manifest.ttl", "streamsep.ttl")
URI = "urn:streamsep:live"
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-fPIC", "-shared", "-fvisibility=hidden")
# Programs that load LV2 plugins from the folders above, by what they are called in a shell.
HOSTS = {
    "Ardour": ("ardour", "ardour6", "ardour7", "ardour8", "ardour9"),
    "Reaper": ("reaper",),
    "Carla": ("carla", "carla-rack"),
    "Qtractor": ("qtractor",),
    "Audacity": ("audacity",),
    "Zrythm": ("zrythm",),
    "MusE": ("muse", "muse4"),
    "jalv": ("jalv",),
    "lv2apply": ("lv2apply",),
    "PipeWire's filter-chain": ("pipewire",),
}


class InstallError(StreamsepError):
    """The plugin cannot be built or put in its place."""


@dataclass(frozen=True)
class Places:
    """Where the plugin goes."""

    lv2: Path
    ladspa: Path

    @property
    def bundle(self) -> Path:
        """The LV2 bundle."""
        return self.lv2 / BUNDLE

    @property
    def link(self) -> Path:
        """What LADSPA hosts load."""
        return self.ladspa / OBJECT

    @property
    def installed(self) -> bool:
        """Whether there is a plugin."""
        return (self.bundle / OBJECT).exists()


def places(system: bool) -> Places:
    """This user's folders, or all users'."""
    if system:
        return Places(Path("/usr/local/lib/lv2"), Path("/usr/local/lib/ladspa"))
    return Places(Path.home() / ".lv2", Path.home() / ".ladspa")


def compiler() -> list[str]:
    """The C compiler's command: $CC, or the first of cc, gcc and clang.

    Raises
    ------
    InstallError
        there is none.
    """
    if chosen := os.environ.get("CC"):
        return chosen.split()
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return [path]
    raise InstallError(
        "no C compiler: expected cc, gcc or clang; install one (Debian, Ubuntu: apt install gcc libc6-dev; Fedora: dnf install "
        "gcc; Arch: pacman -S gcc) or name it in CC"
    )


def build(folder: Path, python: str = sys.executable) -> None:
    """The whole bundle into `folder`; the engine it starts is `python`'s.

    Raises
    ------
    InstallError
        the compiler failed; it says why.
    """
    for name in TURTLE:
        shutil.copy(SOURCE / name, folder)
    define = f'-DPYTHON="{python}"'
    paths = ["-I", str(SOURCE), "-o", str(folder / OBJECT), str(SOURCE / "ladspa.c")]
    command = [*compiler(), *FLAGS, define, *paths, "-lm", "-lpthread", "-lrt"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise InstallError(f"{command[0]} cannot be started ({error.strerror}): expected a C compiler; see CC") from error
    if done.returncode:
        raise InstallError(f"{' '.join(command)} failed: {done.stderr.strip()}; are the C library's headers there (libc6-dev)?")


def install(system: bool = False) -> Places:
    """Build the plugin and put it in its place, over one that is there.

    Raises
    ------
    InstallError
        not on this system, no compiler, or no right to write there.
    """
    if not sys.platform.startswith("linux"):
        raise InstallError(f"the plugin is for Linux: this is {sys.platform}")
    where = places(system)
    try:
        for folder in (where.lv2, where.ladspa):
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".streamsep-", dir=where.lv2) as made:
            build(Path(made))
            os.chmod(made, 0o755)
            _remove(where)
            os.rename(made, where.bundle)
            os.mkdir(made)  # for its own end
        where.link.symlink_to(where.bundle / OBJECT)
    except PermissionError as error:
        cure = "run it as root (sudo)" if system else "give yourself that folder"
        raise InstallError(
            f"{error.filename} cannot be written: {cure}, or install for {'--user' if system else '--system'}"
        ) from error
    return where


def uninstall(system: bool = False) -> Places:
    """Take the plugin away.

    Raises
    ------
    InstallError
        there is none, or no right to.
    """
    where = places(system)
    if not where.bundle.exists():
        raise InstallError(f"{where.bundle} is not there: nothing to uninstall; see `streamsep plugin status`")
    try:
        _remove(where)
    except PermissionError as error:
        raise InstallError(f"{error.filename} cannot be removed: run it as root (sudo)") from error
    return where


def _remove(where: Places) -> None:
    """The object is unlinked, not written over: a host that has it loaded keeps it."""
    if where.bundle.exists():
        shutil.rmtree(where.bundle)
    if where.link.is_symlink():
        with contextlib.suppress(FileNotFoundError):
            where.link.unlink()


def hosts() -> dict[str, str]:
    """Hosts on this machine's PATH that will find the plugin, with their programs."""
    found = {name: next(filter(None, map(shutil.which, programs)), None) for name, programs in HOSTS.items()}
    return {name: path for name, path in found.items() if path}
