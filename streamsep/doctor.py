"""What runs here, what does not, and why: the facts that `streamsep doctor` prints."""

from __future__ import annotations

import platform
import threading
from importlib.metadata import version
from pathlib import Path

from . import __version__, engine, media, model, native, ort, ortsession
from .devices import portaudiodevice as device


def examine(name: str = "live") -> dict[str, object]:
    """Facts by topic, for JSON; nothing raises, what fails says why."""
    return {
        "streamsep": __version__,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("numpy", "numba", "rocket-fft", "sounddevice", "soundfile")}
        | {"onnxruntime": ort.onnxruntime.__version__},
        "network": _network(name),
        "cuda": ortsession.why_no_cuda() or "works",
        "portaudio": _portaudio(),
        "media": media.reader(),
        "realtime": realtime(),
        "jit_cache": _jit_cache(),
    }


def _network(name: str) -> dict[str, object]:
    try:
        separator = engine.Separator(model.load(name), 48_000, 2)
    except (model.ModelError, ort.OrtError) as error:
        return {"model": name, "works": False, "why": str(error)}
    separator.hop()
    return {
        "model": name,
        "works": separator.error is None,
        "provider": separator.network.provider,
        "c_api": separator.native,
        "why": separator.error or "; ".join(separator.provider_notes),
    }


def _portaudio() -> dict[str, object]:
    try:
        sd = device.portaudio()
        return {"works": True, "version": sd.get_portaudio_version()[1], "devices": len(device.devices())}
    except device.DeviceError as error:
        return {"works": False, "why": str(error)}


def realtime() -> dict[str, object]:
    """Tried in a thread of its own, which takes the priority with it when it ends."""
    granted: list[bool] = []
    thread = threading.Thread(target=lambda: granted.append(native.become_realtime(native.WORKER_PRIORITY)))
    thread.start()
    thread.join()
    cure = "" if granted[0] else "add yourself to the audio group and '@audio - rtprio 95' to /etc/security/limits.d/audio.conf"
    return {"granted": granted[0], "why": cure}


def _jit_cache() -> dict[str, object]:
    path = Path(engine.hop.stats.cache_path or "")
    return {"path": str(path), "compiled": len(list(path.glob("engine.*.nbc"))) if path.is_dir() else 0}
