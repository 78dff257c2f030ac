"""Zeroconf: the ports of a running daemon, told to whoever browses for OSC and OSCQuery, and taken back at the end.

What listens on the loopback is told on the loopback alone, so that programs of this machine find it and nobody else hears of
it; what listens elsewhere is told on those interfaces, and only when that was asked for.

Importing this module imports zeroconf: it is imported when something is to be told, and not before.
"""

from __future__ import annotations

import asyncio
import contextlib
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple, Protocol

from zeroconf import Error as ZeroconfError
from zeroconf import InterfaceChoice, IPVersion, ServiceInfo, get_all_addresses
from zeroconf.asyncio import AsyncZeroconf

from .sockets import instance_name, local_name

if TYPE_CHECKING:
    from .server import OscServer

OSC_UDP, OSC_TCP, OSCQUERY = "_osc._udp.local.", "_osc._tcp.local.", "_oscjson._tcp.local."
GOODBYE_WITHIN = 2.0  # s


class Port(Protocol):
    """Something that listens."""

    address: str  # the numeric one
    port: int


class Discovery:
    """Tells where OSC and OSCQuery are to be had, from `start` to `stop`: a `server.Service`.

    Parameters
    ----------
    tcp, http
        the ports besides UDP, already started; None: there is none.
    everywhere
        tell also what does not listen on the loopback, to those who can reach it.
    """

    def __init__(self, tcp: Port | None, http: Port | None, everywhere: bool) -> None:
        self.problem = ""  # why nothing is told: a daemon without zeroconf still plays
        self._tcp, self._http, self._everywhere = tcp, http, everywhere
        self._running: list[AsyncZeroconf] = []
        self._telling: asyncio.Task[None] | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Whether nothing could be told."""
        return {"zeroconf_failed": int(bool(self.problem))}

    def places(self, bound: tuple[str, int]) -> list[Place]:
        """What is to be told, for an OSC server whose UDP port is `bound`."""
        found = [Place(OSC_UDP, *bound)]
        found += [Place(OSC_TCP, self._tcp.address, self._tcp.port)] if self._tcp is not None else []
        found += [Place(OSCQUERY, self._http.address, self._http.port)] if self._http is not None else []
        return [place for place in found if self._everywhere or ip_address(place.host).is_loopback]

    async def start(self, server: OscServer) -> None:
        """Begin to make the services known, which takes a second or two: the name is tried for being free."""
        self._telling = asyncio.create_task(self._tell(instance_name(server.port), self.places(server.bound)))

    async def _tell(self, name: str, places: list[Place]) -> None:
        try:
            for host in dict.fromkeys(place.host for place in places):
                zeroconf = _zeroconf(host)
                self._running.append(zeroconf)
                infos = [_info(name, place) for place in places if place.host == host]
                asked = [zeroconf.async_register_service(info, allow_name_change=True) for info in infos]
                await asyncio.gather(*await asyncio.gather(*asked))
        except Exception as error:  # no multicast, no interface, no such right: none is worth a daemon
            self.problem = str(error) or type(error).__name__

    async def stop(self) -> None:
        """Take the services back: who browses sees them go."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.wait([self._telling])
        for zeroconf in self._running:
            with contextlib.suppress(OSError, ZeroconfError, TimeoutError):
                await asyncio.wait_for(zeroconf.async_unregister_all_services(), GOODBYE_WITHIN)
            await zeroconf.async_close()
        self._running.clear()
        self._telling = None


class Place(NamedTuple):
    """What listens: a service type, and the numeric address and port it is bound to."""

    type: str
    host: str
    port: int


def _zeroconf(host: str) -> AsyncZeroconf:
    """Where to speak about what listens at `host`."""
    address = ip_address(host)
    if address.is_unspecified:
        return AsyncZeroconf(InterfaceChoice.All, ip_version=IPVersion.V4Only)
    return AsyncZeroconf([host], ip_version=IPVersion.V4Only if address.version == 4 else IPVersion.V6Only)


def _info(name: str, place: Place) -> ServiceInfo:
    bound = ip_address(place.host)
    # the wildcard address means all that others can reach; IPv4's are enough to be found by
    addresses = [a for a in get_all_addresses() if not ip_address(a).is_loopback] if bound.is_unspecified else [place.host]
    properties = {"txtvers": "1"} if place.type == OSCQUERY else {"txtvers": "1", "version": "1.1", "types": "ifsbhdTFN"}
    return ServiceInfo(
        place.type,
        f"{name}.{place.type}",
        place.port,
        properties=properties,
        server=f"{local_name()}.",
        parsed_addresses=addresses,
    )
