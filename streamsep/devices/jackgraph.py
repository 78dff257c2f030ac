"""The JACK graph as others have made it: whether a server runs, its clients and their ports, and libjack itself.

It speaks the plain client API, which PipeWire's libjack answers as jackd's does. The library is loaded on first use, not on
import.

What libjack asks of a server that is stopped or hung may never be answered, and meanwhile it holds a lock that all clients of
the process share. So nothing that needs the server is called outside `within`, which gives up after some seconds.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
import threading
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import cache
from types import ModuleType
from typing import Any, TypeVar

from . import jackcalls as calls
from .portaudiodevice import NONE, DeviceError, DeviceInfo

CLIENT = "streamsep"  # the server makes it streamsep-01 where that is taken
HOST_API = "JACK"
SECONDS = 3.0  # for the server to answer; it does within some periods

_Result = TypeVar("_Result")


# ------------------------------------------------------------------------------------------------------------ the library


class _Range(ctypes.Structure):
    _fields_ = (("least", ctypes.c_uint32), ("most", ctypes.c_uint32))


class Library:
    """libjack as JACK-Client loaded it, and those of its functions that JACK-Client does not declare."""

    def __init__(self, jack: ModuleType) -> None:
        self.jack, self.ffi = jack, jack._ffi
        self.c = ctypes.CDLL(jack._libname)
        self.c.jack_port_get_latency_range.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Range)]
        for setter in (self.c.jack_set_latency_callback, self.c.jack_on_shutdown):
            setter.argtypes = [ctypes.c_void_p] * 3
        self.c.jack_recompute_total_latencies.argtypes = [ctypes.c_void_p]
        for setter in (self.c.jack_set_error_function, self.c.jack_set_info_function):
            setter.argtypes = [ctypes.c_void_p]
            setter(calls.ignore.address)

    def function(self, name: str) -> int:
        """The address of one of libjack's functions."""
        return ctypes.cast(getattr(self.c, name), ctypes.c_void_p).value or 0

    def address(self, pointer: Any) -> int:
        """The address in one of JACK-Client's pointers."""
        return int(self.ffi.cast("uintptr_t", pointer))

    def latency(self, port: Any, mode: int) -> int:
        """The longest latency of `port`, samples."""
        span = _Range()
        self.c.jack_port_get_latency_range(self.address(port._ptr), mode, ctypes.byref(span))
        return int(span.most)


@cache
def libjack() -> Library:
    """JACK's library; DeviceError where there is none."""
    find = ctypes.util.find_library
    # It looks where the linker does, which is not where `pw-jack` puts PipeWire's; the loader finds that.
    ctypes.util.find_library = lambda name: find(name) or ("libjack.so.0" if sys.platform == "linux" else None)
    try:
        import jack
    except (ImportError, OSError) as error:
        raise DeviceError(
            "JACK's library is not installed: apt install libjack-jackd2-0 or pipewire-jack (Debian, Ubuntu), "
            "brew install jack (macOS)"
        ) from error
    finally:
        ctypes.util.find_library = find
    return Library(jack)


unanswered: list[threading.Thread] = []  # questions that were given up; while one waits, nobody in this process is answered


def within(seconds: float, ask: Callable[[], _Result]) -> _Result:
    """What `ask` returns or raises; DeviceError if that takes longer than `seconds`, or an earlier question still waits."""
    answers: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(ask())
        except BaseException as error:
            errors.append(error)

    if not any(thread.is_alive() for thread in unanswered):
        thread = threading.Thread(target=run, name="streamsep-jack", daemon=True)
        thread.start()
        thread.join(seconds)
        unanswered[:] = [thread] if thread.is_alive() else []
    if unanswered:
        raise DeviceError(f"the JACK server does not answer within {seconds:g} s: is it stopped or hung? Start it again")
    if errors:
        raise errors[0]
    return answers[0]


def connect(name: str) -> Any:
    """A new client of a server that runs already; DeviceError if there is none."""
    library = libjack()
    try:
        return library.jack.Client(name, no_start_server=True)
    except library.jack.JackError as error:
        raise DeviceError(
            "no JACK server runs: start jackd or PipeWire (`jack_lsp` shows it), or use another device"
        ) from error


# ---------------------------------------------------------------------------------------------------------- what there is


def available() -> bool:
    """Whether a JACK server runs and answers. Starts none and prints nothing."""
    try:
        within(SECONDS, lambda: connect(f"{CLIENT}-look").close())
    except DeviceError:
        return False
    return True


def devices() -> list[DeviceInfo]:
    """The graph's clients that have audio ports, as devices; none where no server runs.

    Their index is -1: clients come and go, they are chosen by name.
    """
    try:
        return within(SECONDS, _list)
    except DeviceError:
        return []


def _list() -> list[DeviceInfo]:
    client = connect(f"{CLIENT}-look")
    try:
        sources, sinks = ports_for(client, "input"), ports_for(client, "output")
        cards = [client_of(next(iter(_card(ports)), "")) for ports in (sources, sinks)]
        return [
            DeviceInfo(
                index=-1,
                name=name,
                host_api=HOST_API,
                in_channels=len(_of_client(name, sources)),
                out_channels=len(_of_client(name, sinks)),
                default_sample_rate=client.samplerate,
                default_input=name == cards[0],
                default_output=name == cards[1],
                api_default_input=name == cards[0],
                api_default_output=name == cards[1],
            )
            for name in dict.fromkeys(map(client_of, sources | sinks))
        ]
    finally:
        client.close()


def ports_for(client: Any, kind: str) -> dict[str, bool]:
    """What can be connected to the inputs ("input") or outputs of `client`, in the server's order: names, whether physical."""
    found = client.get_ports(is_audio=True, is_output=kind == "input", is_input=kind == "output")
    return {port.name: port.is_physical for port in found}


def client_of(port: str) -> str:
    """The client's part of a port's name."""
    return port.partition(":")[0]


def _of_client(name: str, ports: dict[str, bool]) -> list[str]:
    return [port for port in ports if client_of(port).lower() == name.lower()]


def _card(ports: dict[str, bool]) -> list[str]:
    """The first sound card's; PipeWire lists the default one first."""
    physical = [port for port, is_physical in ports.items() if is_physical]
    return [port for port in physical if client_of(port) == client_of(physical[0])]


def find_ports(name: str | None, kind: str, ports: dict[str, bool]) -> list[str]:
    """Those of `ports` (names, whether physical) that `name` means, for `kind` "input" or "output".

    Without a name the first sound card's, for "none" no port; else a client's, ports with commas between, those of a pattern
    with `*`, or those that hold all its words, if they are one client's.

    Raises
    ------
    DeviceError
        no port, or several clients'.
    """
    if name is None or name == NONE:
        return [] if name else _card(ports)
    listed = [part.strip() for part in name.split(",")]
    if set(listed) <= set(ports):
        return listed
    if "*" in name:
        found = [port for port in ports if fnmatchcase(port.lower(), name.lower())]
    else:
        words = name.lower().split()
        found = _of_client(name, ports) or [port for port in ports if all(word in port.lower() for word in words)]
    clients = list(dict.fromkeys(map(client_of, found)))
    if not found or (len(clients) > 1 and "*" not in name):
        problem = f"means {len(clients)} clients" if clients else "is unknown"
        known = ", ".join(clients or dict.fromkeys(map(client_of, ports))) or "(no client has such ports)"
        raise DeviceError(
            f"{kind} device {name!r} {problem}: expected one of {known}, ports as `jack_lsp` lists them, "
            f"or {NONE!r} to connect it yourself"
        )
    return found
