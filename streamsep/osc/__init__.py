"""OSC: the daemon's controls with feedback, its status and meters, and the separated sound as packets for whoever subscribes.

Every reply goes to the sender of the message: on the same address, with the value really set, or `/streamsep/error` with the
address and one line of reason. `python -c "from streamsep.osc import markdown; print(markdown())"` prints the surface.

    wire.py      packets to messages, address patterns, time tags
    client.py    who sends to us and is sent to, whatever the transport
    host.py      the daemon, as it is seen from here
    udp.py, sockets.py, framing.py       ports and what comes through them
    leases.py, ticker.py                 who gets something again and again, and until when
    streams.py   the listeners to sound
    notify.py, metering.py, dumping.py   those to changes, to levels, to messages
    row.py       what an address is made of
    steering.py, house.py, watching.py, sound.py   the addresses
    surface.py   all of them, the one list
    dispatch.py  what is done with a packet
    server.py    one thread, one loop
    tcp.py, web.py, query.py, discovery.py, services.py   what else lives in the loop

Each knows those above it at most. The audio path knows none of them.
"""

from .client import Client, UdpClient
from .host import Host
from .server import OscError, OscServer, Service
from .surface import markdown, table

__all__ = ["Client", "Host", "OscError", "OscServer", "Service", "UdpClient", "markdown", "table"]
