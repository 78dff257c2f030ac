"""What listens besides UDP, as the settings say.

What nobody asked for is not imported: aiohttp and zeroconf take their time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import Config

if TYPE_CHECKING:
    from .server import OscServer, Service


def services(config: Config) -> list[Service]:
    """The services of `OscServer` that `config` asks for; to be made before sound runs, for the imports."""
    found: list[Service] = []
    tcp = http = None
    if config.osc_tcp_port is not None:
        from .tcp import TcpServer

        tcp = TcpServer(config.osc_host, config.osc_tcp_port)
        found.append(tcp)
    if config.http is not None:
        from ..monitor.part import Monitor
        from .query import OscQuery
        from .web import HttpServer

        http = HttpServer(config.http_host, config.http, [Monitor(config), OscQuery()])
        found.append(http)
    if http is not None or config.advertise:
        from .discovery import Discovery

        found.append(Discovery(tcp, http, config.advertise))
    return found


def places(server: OscServer) -> dict[str, str]:
    """Where the running services of `server` are to be found, for people."""
    found: dict[str, str] = {}
    for service in server.services:
        found |= getattr(service, "place", {})
    return found
