"""Where compiled code is kept between runs: a folder for each state of the sources.

Numba's disk cache looks only at the file of the outermost function: after an update, a kernel that calls a changed kernel of
another file would come back stale, and write where the old layout had its places. This module must come before Numba.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

VARIABLE = "NUMBA_CACHE_DIR"


def use(folder: Path | None = None) -> Path | None:
    """Tell Numba to keep what it compiles under `folder` (the user's cache folder), unless the environment says where.

    None where that folder cannot be written: then Numba looks for a place itself.
    """
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE])
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = (folder or home / "streamsep") / fingerprint()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    os.environ[VARIABLE] = str(place)
    return place


def fingerprint() -> str:
    """16 hexadecimal digits that change with any source file of the package that has compiled code.

    A constant that a kernel uses must lie in such a file, too.
    """
    sources = [p.read_bytes() for p in sorted(Path(__file__).parent.rglob("*.py"))]
    return hashlib.sha256(b"".join(s for s in sources if b"numba import" in s)).hexdigest()[:16]
