"""streamsep inside a host: an LV2 (and LADSPA) plugin in C, and the engine process that serves all its instances.

    host's process                       memory that both see (/dev/shm)                the user's engine process
    run(): records, plays, fades  ----   rings, one segment an instance   ----   one compiled loop, one network call for
    a thread that starts the engine      (`rings`, LAYOUT)                       all hops that are there (`batch`)

An instance makes its segment and holds a lock on it while it lives; the engine finds segments by their names, serves them,
and removes those whose instance has died. One engine for a user: it holds the lock of the file `engine_lock`. Nothing passes
between the two but the rings, and nobody ever waits for the other, but a host that is free-wheeling.
"""

from __future__ import annotations

import os
from pathlib import Path

MEMORY = Path("/dev/shm")
SPACE = "STREAMSEP_PLUGIN_SPACE"  # two that name different spaces do not see each other
CHANNELS = 2  # of the input and of every source
SOURCES = ("vocals", "accompaniment")


def prefix() -> str:
    """What the names of this user's segments begin with."""
    space = os.environ.get(SPACE, "")
    return f"streamsep-{os.getuid()}{'.' * bool(space)}{space}-"


def engine_lock() -> Path:
    """The file that the user's one engine holds a lock on."""
    return MEMORY / f"{prefix()}engine"
