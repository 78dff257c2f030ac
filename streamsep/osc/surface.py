"""Every address of the daemon, in one list: the server dispatches by it; help, docs/osc.md and OSCQuery tree are made from it.

The rows stand in the modules that obey them; here they are joined. This module knows neither packets nor sockets.
"""

from __future__ import annotations

from .house import HOUSE
from .row import Row, told
from .sound import SOUND
from .steering import STEERING, STREAMS
from .watching import STREAM_METERS, WATCHING

ERROR = "/streamsep/error"

ROWS: tuple[Row, ...] = (
    *STEERING,
    *HOUSE,
    *WATCHING,
    *SOUND,
    *STREAMS,
    *STREAM_METERS,
    Row(ERROR, (), "the answer to a message that cannot be obeyed", told=(told("address", "s"), told("reason", "s"))),
)


def table() -> list[tuple[str, str, str, str]]:
    """The OSC surface: address, arguments, reply (or content of what the server sends), help."""
    lines = []
    for row in ROWS:
        arguments = "; ".join(f"{a}: {a.takes} ({a.range})" for a in row.arguments) or "none"
        lines.append((f"`{row.address}`", arguments if row.handler else "*sent by streamsep*", row.content, row.help))
    return lines


def markdown() -> str:
    """`table()` for docs/osc.md."""
    head = [("address", "arguments ([optional])", "reply", "what it does"), ("---",) * 4]
    return "\n".join("| " + " | ".join(line) + " |" for line in [*head, *table()])
