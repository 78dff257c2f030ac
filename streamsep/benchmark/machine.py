"""What the figures were taken on: processor, caches, memory, kernel, what the system grants, versions.

Only facts that the system tells; where it does not, that is what stands there. Nothing is changed.
"""

from __future__ import annotations

import ctypes as C
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import __version__, doctor, ort

UNKNOWN = "not told by the system"
PACKAGES = ("numpy", "numba", "llvmlite", "rocket-fft")
CPU0 = Path("/sys/devices/system/cpu/cpu0")


def machine() -> dict[str, Any]:
    """Facts by name, for JSON."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count() or 0,
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "caches": caches(),
        "ram_gib": _ram(),
        "system": f"{platform.system()} {platform.machine()}",
        "kernel": platform.release(),
        "virtual": "hypervisor" in _cpuinfo("flags").split(),
        "governor": _text(CPU0 / "cpufreq/scaling_governor"),
        "huge_pages": _text(Path("/sys/kernel/mm/transparent_hugepage/enabled")),
        "realtime": doctor.realtime()["granted"],
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0,
    }


def versions() -> dict[str, str]:
    """Versions of all that takes part in a hop."""
    found = {"streamsep": __version__, "python": platform.python_version(), "onnxruntime": ort.onnxruntime.__version__}
    return found | {package: version(package) for package in PACKAGES}


def caches() -> list[dict[str, Any]]:
    """The first core's data caches, the nearest first: `level`, `kib`, and `shared_by` how many cores."""
    found = []
    for index in sorted(CPU0.glob("cache/index*")):
        if _text(index / "type") != "Instruction":
            size = _text(index / "size")
            kib = int(size.removesuffix("K")) if size.endswith("K") else 0
            found.append(
                {"level": int(_text(index / "level")), "kib": kib, "shared_by": _count(_text(index / "shared_cpu_list"))}
            )
    return found or [
        {"level": level, "kib": int(size) // 1024, "shared_by": 0}
        for level, name in ((1, "hw.l1dcachesize"), (2, "hw.l2cachesize"), (3, "hw.l3cachesize"))
        if (size := _sysctl(name)).isdigit()
    ]


def last_cache_bytes() -> int:
    """The largest cache, bytes; 32 MiB where the system does not tell."""
    return max((cache["kib"] for cache in caches()), default=0) * 1024 or 32 << 20


def gpu() -> str:
    """The first CUDA device's name, as the driver says."""
    try:
        cuda = C.CDLL("libcuda.so.1")
        device, name = C.c_int(), C.create_string_buffer(128)
        if cuda.cuInit(0) == 0 and cuda.cuDeviceGet(C.byref(device), 0) == 0 and cuda.cuDeviceGetName(name, 128, device) == 0:
            return name.value.decode()
    except OSError:
        pass
    return UNKNOWN


def _cpu() -> str:
    return _cpuinfo("model name") or _sysctl("machdep.cpu.brand_string") or platform.processor() or UNKNOWN


def _cpuinfo(key: str) -> str:
    """The first processor's line of that name; "" where there is none."""
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _ram() -> float:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return 0.0


def _sysctl(name: str) -> str:
    if sys.platform != "darwin":
        return ""
    return subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False).stdout.strip()


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return UNKNOWN


def _count(cpus: str) -> int:
    """How many are in a list such as 0-3,8."""
    ends = [part.split("-") for part in cpus.split(",") if part[:1].isdigit()]
    return sum(int(end[-1]) - int(end[0]) + 1 for end in ends)
