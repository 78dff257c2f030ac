"""Devices by the names people give them: an index, a name or words of it, a host API before it; and the last ones used.

It chooses from a list that it is given and talks to no sound system. A device that was chosen has one spelling,
`HOSTAPI:name`, by which it is found again after its index has changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from .portaudio import DeviceError, DeviceInfo

FILE = "file:"
NONE = "none"
DEFAULT = "default"  # the system's, whatever was used last
JACK = "JACK"  # how the host API's name begins
# What people write before the colon: how the host API's name begins, without blanks and case.
HOST_APIS = {
    "alsa": "alsa",
    "jack": "jack",
    "pulse": "pulse",
    "oss": "oss",
    "coreaudio": "coreaudio",
    "wasapi": "windowswasapi",
    "asio": "asio",
    "directsound": "windowsdirectsound",
    "mme": "mme",
    "wdmks": "windowswdm-ks",
}
_SPELLED = {"coreaudio": "CoreAudio", "pulse": "Pulse", "directsound": "DirectSound"}  # the others in capitals
_PLUGINS = ("pulse", "pipewire")
_CARD = re.compile(r"\((hw:\d+),\d+\)|\(([^()]+)\)$")


def find(name: str | None, kind: str, devices: Sequence[DeviceInfo]) -> DeviceInfo:
    """The device called `name` for `kind` "input" or "output".

    `name` is an index, a whole name, or words that only one name holds; before it may stand a host API and a colon, and after
    such a colon nothing: that API's default. Without a name, or with "default": JACK's where a server runs (it is there to be
    used), then the system's default, then the first.

    Raises
    ------
    DeviceError
        none, or more than one.
    """
    usable = [d for d in devices if (d.in_channels if kind == "input" else d.out_channels)]
    if not usable:
        raise DeviceError(
            f"there is no {kind} device: expected one of a sound card or server; start JACK, PipeWire or PulseAudio, "
            f"or give --{kind} {FILE}PATH"
        )
    if name is None or name.lower() == DEFAULT:
        jack = [d for d in usable if d.host_api.startswith(JACK)]
        defaults = [d for d in usable if (d.default_input if kind == "input" else d.default_output)]
        return (jack or defaults or usable)[0]
    api, rest = _prefix(name)
    among = _of_host_api(api, usable) if api else usable
    found = _of_api(api, rest, kind, among) if api else _named(rest, among)
    if len(found) != 1:
        raise DeviceError(f"{kind} device {name!r} {_why_not_one(found, among, usable)}")
    return found[0]


def _why_not_one(found: list[DeviceInfo], among: list[DeviceInfo], usable: list[DeviceInfo]) -> str:
    if not among:
        return f"is unknown: its host API is not here or has no device; expected one of {_listed_apis(usable)}"
    problem = f"means {len(found)} devices" if found else "is unknown"
    listed = ", ".join(f"{d.index} {spelling(d, usable)!r}" for d in found or among)
    return f"{problem}: expected one of {listed} (see `streamsep devices`), or {FILE}PATH"


def _listed_apis(devices: list[DeviceInfo]) -> str:
    return ", ".join(dict.fromkeys(d.host_api for d in devices))


def _prefix(name: str) -> tuple[str | None, str]:
    """("jack", "system") of "JACK:system"; (None, name) where no host API stands before a colon."""
    before, colon, after = name.partition(":")
    api = before.strip().lower()
    return (api, after.strip()) if colon and api in HOST_APIS else (None, name.strip())


def _is_api(device: DeviceInfo, api: str) -> bool:
    return device.host_api.replace(" ", "").lower().startswith(HOST_APIS[api])


def _of_host_api(api: str, devices: list[DeviceInfo]) -> list[DeviceInfo]:
    """A PortAudio without PulseAudio reaches it, and PipeWire, through ALSA's plugin."""
    plugins = [d for d in devices if d.host_api == "ALSA" and d.name in _PLUGINS] if api == "pulse" else []
    return [d for d in devices if _is_api(d, api)] or plugins


def _of_api(api: str, rest: str, kind: str, devices: list[DeviceInfo]) -> list[DeviceInfo]:
    if rest:
        return _named(rest, devices)
    default = [d for d in devices if (d.api_default_input if kind == "input" else d.api_default_output)]
    return (default or devices)[:1]


def _named(name: str, devices: list[DeviceInfo]) -> list[DeviceInfo]:
    """The devices that `name` may mean: by index, else by the whole name, else by its words."""
    if name.isdecimal():
        return [d for d in devices if d.index == int(name)]
    low = name.lower()
    same, hash_sign, number = low.rpartition("#")
    if hash_sign and number.isdecimal():  # the second, the third of the same name
        twins = [d for d in devices if d.name.lower() == same]
        if len(twins) > 1:
            return twins[int(number) - 1 : int(number)]
    exact = [d for d in devices if low in (d.name.lower(), f"{d.name}, {d.host_api}".lower())]
    # The same card, plugged into another socket, has another number.
    numberless = [d for d in devices if _CARD.sub("", low) == _CARD.sub("", d.name.lower()) != ""] if "(hw:" in low else []
    return exact or numberless or [d for d in devices if all(w in f"{d.name} {d.host_api}".lower() for w in low.split())]


def spelling(device: DeviceInfo, devices: Sequence[DeviceInfo]) -> str:
    """`HOSTAPI:name`, which means this device and no other of `devices`."""
    api = next((api for api in HOST_APIS if _is_api(device, api)), None)
    twins = [d for d in devices if (d.host_api, d.name) == (device.host_api, device.name)]
    place = f"#{twins.index(device) + 1}" if len(twins) > 1 else ""
    return (f"{_SPELLED.get(api, api.upper())}:" if api else "") + device.name + place


def same_clock(one: DeviceInfo, other: DeviceInfo) -> bool:
    """Whether one stream can hold both, as far as names tell: they are one JACK server's, or one card's.

    Not so what ALSA reaches through a plugin (pulse, pipewire, default): there PortAudio's duplex stream drops a block now and
    then without a word, even of one device.
    """
    if one.host_api != other.host_api or (one.host_api == "ALSA" and "(hw:" not in one.name):
        return False
    return one.host_api.startswith((JACK, "ASIO")) or _card(one) == _card(other)


def _card(device: DeviceInfo) -> str:
    """`hw:1` of ALSA's "USB Audio: - (hw:1,0)", "USB Audio" of Windows' "Speakers (USB Audio)", else the name."""
    found = _CARD.search(device.name)
    return (found[1] or found[2]) if found else device.name


# -------------------------------------------------------------------------------------------------------------- last used


def recall(kind: str, devices: Sequence[DeviceInfo]) -> str | None:
    """The spelling of the `kind` of device that was named last, if it is there."""
    name = _remembered().get(kind)
    with contextlib.suppress(DeviceError):
        if name and find(name, kind, devices):
            return name
    return None


def remember(kind: str, name: str | None) -> None:
    """Keep the spelling of a device for the next time; None forgets it. A folder that cannot be written does no harm."""
    names = {key: value for key, value in _remembered().items() if key != kind} | ({kind: name} if name else {})
    if names == _remembered():
        return
    place = _state_file()
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        new = place.with_name(f"{place.name}.{os.getpid()}")
        new.write_text(json.dumps(names, indent=2) + "\n", encoding="utf-8")
        new.replace(place)


def _remembered() -> dict[str, str]:
    try:
        found = json.loads(_state_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}


def _state_file() -> Path:
    home = Path.home()
    places = {"darwin": home / "Library/Application Support", "win32": Path(os.environ.get("LOCALAPPDATA") or home)}
    base = os.environ.get("XDG_STATE_HOME") or places.get(sys.platform, home / ".local/state")
    return Path(base) / "streamsep" / "devices.json"
