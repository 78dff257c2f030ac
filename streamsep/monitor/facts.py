"""What a page has to know of the daemon besides what OSC tells it: what there is to choose from, and how to draw it.

Devices are asked for in a process of their own: PortAudio looks at a system's devices once, when it is loaded, and looking
again would end the streams that run.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from .. import model as models
from ..controls import GAIN_DB
from . import hops, spectra

if TYPE_CHECKING:
    from ..config import Config
    from ..osc.server import OscServer

ROOT = "/streamsep"  # what the addresses of this daemon's stream begin with
FOUND_WITHIN = 30.0  # s
_ASK = "import json; from streamsep.devices.portaudio import devices; print(json.dumps([d.as_dict() for d in devices()]))"
_PACKAGES = str(Path(__file__).parents[2])


def setup(server: OscServer, config: Config) -> dict[str, Any]:
    """What holds until the engine is another one."""
    separator = server.separator
    return {
        "version": __version__,
        "root": ROOT,
        "sources": list(separator.sources),
        "sample_rate": separator.sample_rate,
        "channels": separator.channels,
        "hop": separator.geometry.hop_length,
        "deadline_ms": deadline(server),
        "gain_db": list(GAIN_DB),
        "models": list(dict.fromkeys([server.host.model, *models.shipped()])),
        "read_only": config.osc_read_only,
        "wants_gpu": config.provider == "cuda",
        "has_gpu": any(Path("/dev").glob("nvidia[0-9]*")),
        "int8": separator.model.contract.precision == "int8",  # then the CPU is where it belongs
        "notes": list(getattr(separator, "provider_notes", ())),  # of several streams, each has none of its own
        "spectra": spectra.axis(separator.sample_rate),
        "histogram": {"per_octave": hops.PER_OCTAVE, "octaves_below": hops.OCTAVES_BELOW, "seconds": hops.RECENT},
    }


def deadline(server: OscServer) -> float:
    """ms between two hops: what one may take."""
    return 1e3 * server.separator.geometry.hop_length / server.separator.sample_rate


async def devices() -> dict[str, list[str]]:
    """The names under which devices can be chosen now, by "input" and "output"; both empty where that cannot be told."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [_PACKAGES, os.environ.get("PYTHONPATH")]))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _ASK, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), FOUND_WITHIN)
        found = json.loads(said)
    except (TimeoutError, ValueError):
        found = []
    finally:
        if process.returncode is None:
            process.kill()
    return {
        kind: [f"{d['name']}, {d['host_api']}" for d in found if d[f"{short}_channels"]]
        for kind, short in (("input", "in"), ("output", "out"))
    }
