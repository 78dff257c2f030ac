"""OSC over UDP: the daemon's controls with feedback, its status, and the separated sound as packets for whoever subscribes.

Every reply goes to the sender of the message: on the same address, with the value really set, or `/streamsep/error` with the
address and one line of reason. `python -c "from streamsep.osc import markdown; print(markdown())"` prints the surface.

    wire.py      packets to messages, address patterns
    streams.py   the listeners, and their sound packets
    surface.py   the one list of addresses, their arguments and handlers
    server.py    one thread, one socket

Each knows those above it at most. The audio path knows none of them.
"""

from .server import OscError, OscServer
from .surface import markdown, table

__all__ = ["OscError", "OscServer", "markdown", "table"]
