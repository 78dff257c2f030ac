"""PortAudio as a library: loading it, starting it again, and what devices and rates it knows. It opens no stream.

PortAudio looks for devices only when it starts: whoever waits for one that was unplugged, or for a server that was restarted,
must `restart` it. It is loaded on first use, not on import.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import ctypes.util
import inspect
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from types import ModuleType
from typing import Any

from .. import StreamsepError

CLIENT_NAME = b"streamsep"  # the JACK client's; PortAudio keeps the pointer, so it must stay alive
ANSWER_SECONDS = 2.0  # a living server lets go of a stream within a few periods
USUAL_RATES = (8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 176_400, 192_000)
_stuck: list[threading.Thread] = []  # calls that wait for a server that was killed, for ever


class DeviceError(StreamsepError):
    """A device does not exist, cannot be opened as asked, or went away."""


@dataclass(frozen=True)
class DeviceInfo:
    """One device, as `streamsep devices` lists it. `default_input` is the system's, `api_default_input` its host API's."""

    index: int
    name: str
    host_api: str
    in_channels: int
    out_channels: int
    default_sample_rate: int
    default_input: bool
    default_output: bool
    api_default_input: bool = False
    api_default_output: bool = False

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


@cache
def portaudio() -> ModuleType:
    """The `sounddevice` module, which loads and starts PortAudio.

    Raises
    ------
    DeviceError
        the PortAudio library is not installed.
    """
    library = ctypes.util.find_library("portaudio")
    try:
        if library:
            with contextlib.suppress(AttributeError):  # a PortAudio built without JACK
                ctypes.CDLL(library).PaJack_SetClientName(CLIENT_NAME)
        with quiet_stderr():
            import sounddevice
    except OSError as error:
        raise DeviceError(
            "the PortAudio library is not installed: apt install libportaudio2 (Debian, Ubuntu), brew install portaudio (macOS)"
        ) from error
    return sounddevice


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Nothing on the process's stderr meanwhile: ALSA and JACK talk of every plug that is empty."""
    saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


def quiet_alsa(ignore: int) -> None:
    """Let ALSA's library call the C function at `ignore` instead of writing to stderr; its errors come back as PortAudio's."""
    library = ctypes.util.find_library("asound")
    if library:
        ctypes.CDLL(library).snd_lib_error_set_handler(ctypes.c_void_p(ignore))


def within(seconds: float, call: Callable[[], None]) -> bool:
    """Whether `call` came back in time. PortAudio waits for ever on some servers that were killed: then it is left behind."""
    thread = threading.Thread(target=call, name="streamsep-portaudio", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        _stuck.append(thread)
        atexit.unregister(portaudio()._exit_handler)  # it would wait as well
    return not thread.is_alive()


def restart() -> None:
    """Stop PortAudio and start it again, so that it sees the devices there are now. Only while no stream is open.

    While a stream is left behind that waits for a killed server PortAudio stays as it is, since stopping it would wait as well.
    Its list is then the one from when that server ran, and what is on it can be opened once the server is back.

    Raises
    ------
    DeviceError
        it does not come back.
    """
    sd = portaudio()

    def again() -> None:
        with quiet_stderr(), contextlib.suppress(sd.PortAudioError):
            while sd._initialized:
                sd._terminate()
            sd._initialize()

    if any(thread.is_alive() for thread in _stuck):
        return
    if not within(ANSWER_SECONDS, again):
        raise DeviceError("PortAudio waits for a server that was killed, and does not come back: start streamsep again")


def devices() -> list[DeviceInfo]:
    """All PortAudio devices."""
    sd = portaudio()
    try:
        apis = sd.query_hostapis()
        listed = sd.query_devices()
    except sd.PortAudioError:  # it could not be started again
        return []
    default_in, default_out = sd.default.device
    return [
        DeviceInfo(
            index=i,
            name=d["name"],
            host_api=apis[d["hostapi"]]["name"],
            in_channels=d["max_input_channels"],
            out_channels=d["max_output_channels"],
            default_sample_rate=int(d["default_samplerate"]),
            default_input=i == default_in,
            default_output=i == default_out,
            api_default_input=i == apis[d["hostapi"]]["default_input_device"],
            api_default_output=i == apis[d["hostapi"]]["default_output_device"],
        )
        for i, d in enumerate(listed)
    ]


def accepts(info: DeviceInfo, kind: str, channels: int, sample_rate: int, settings: object = None) -> bool:
    """Whether the device says that it can do that, for `kind` "input" or "output"."""
    sd = portaudio()
    check = sd.check_input_settings if kind == "input" else sd.check_output_settings
    try:
        check(info.index, channels, "float32", extra_settings=settings, samplerate=sample_rate)
    except sd.PortAudioError:
        return False
    return True


def rates(info: DeviceInfo, kind: str, channels: int, settings: object = None) -> list[int]:
    """Those of the usual rates that the device can do, Hz."""
    return [rate for rate in USUAL_RATES if accepts(info, kind, channels, rate, settings)]


# Keyword arguments of sounddevice's classes, by what the host API's name holds.
_SETTINGS = {"WASAPI": "WasapiSettings", "Core Audio": "CoreAudioSettings"}


def settings(host_api: str, options: Mapping[str, Any]) -> object:
    """What PortAudio is told about one host API alone, such as `exclusive` for WASAPI; None where there is nothing to tell.

    Raises
    ------
    DeviceError
        the host API has no such setting.
    """
    if not options:
        return None
    name = next((name for words, name in _SETTINGS.items() if words in host_api), None)
    if name is None:
        raise DeviceError(f"host_api setting {next(iter(options))!r}: {host_api} has none; expected {' or '.join(_SETTINGS)}")
    kind = getattr(portaudio(), name)
    known = [key for key in inspect.signature(kind).parameters if key != "channel_map"]  # that is what input_channels is for
    for key in options:
        if key not in known:
            raise DeviceError(f"host_api setting {key!r}: expected one of {host_api}'s {', '.join(known)}")
    try:
        return kind(**options)
    except (TypeError, ValueError, KeyError) as error:
        raise DeviceError(f"host_api settings {dict(options)} of {host_api}: {error}") from error


def asio_selectors(host_api: str, channels: tuple[int, ...]) -> object:
    """ASIO opens these channels (from 1) of its device and no others; None for every other host API."""
    return portaudio().AsioSettings([c - 1 for c in channels]) if "ASIO" in host_api else None
