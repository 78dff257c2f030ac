"""What is in an OSC 1.0 packet: its messages, and which addresses a message's pattern means.

Messages are parsed and built by python-osc, but its server is not for an open port: it loops for ever on a bundle's element of
negative size, drops a whole bundle for one bad message, and its pattern matcher backtracks. Here every packet is short work.

This module knows no socket, no clock and none of our addresses, and it does not say what to do with a bad packet: it raises.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from pythonosc.osc_message import OscMessage
from pythonosc.parsing import osc_types

NOW = 1  # the time tag that means "at once"
_SECONDS_1900_TO_1970 = 2_208_988_800


class Message(NamedTuple):
    """One OSC message; `arguments` is None when a type tag is none that we know."""

    address: str
    tags: str
    arguments: list[Any] | None


def split(packet: bytes) -> list[tuple[int, bytes]]:
    """The messages of a packet, of bundles in bundles too, in order; each with the time tag of the innermost bundle around it.

    ValueError if it is not OSC.
    """
    messages, pending = [], [(NOW, packet)]
    while pending:  # no recursion: a packet holds 400 bundles one in another
        time, part = pending.pop()
        if part.startswith(b"#bundle\0"):
            elements = [(int.from_bytes(part[8:16], "big"), element) for element in _elements(part)]
            pending.extend(reversed(elements))
        elif part.startswith(b"/"):
            messages.append((time, part))
        else:
            raise ValueError("neither a message nor a bundle")
    return messages


def seconds(time_tag: int) -> float:
    """A time tag as seconds since 1970, as `time.time` has it; -inf for `NOW`. From 2036 on the tags begin again at zero."""
    if time_tag == NOW:
        return -math.inf
    era = 2**32 if time_tag < 2**63 else 0  # RFC 4330: the first bit tells the era, until 2104
    return time_tag / 2**32 + era - _SECONDS_1900_TO_1970


def _elements(bundle: bytes) -> Iterator[bytes]:
    at = 16  # "#bundle" and the time tag
    if len(bundle) < at:
        raise ValueError("a bundle is cut off")
    while at < len(bundle):
        size = int.from_bytes(bundle[at : at + 4], "big")  # unsigned: a negative size is one beyond the end
        at += 4 + size
        if at > len(bundle):
            raise ValueError(f"a bundle's element of {size} bytes is cut off")
        yield bundle[at - size : at]


def parse(data: bytes) -> Message:
    """One message; any exception means that it is not one (python-osc lets more than its own ParseError through)."""
    address, at = osc_types.get_string(data, 0)
    tags = osc_types.get_string(data, at)[0] if at < len(data) else ","
    if set(tags[1:]) - set("ihfdsbrmtTFN[]"):  # python-osc would drop the argument and log to the root logger
        return Message(address, tags, None)
    return Message(address, tags, OscMessage(data).params)


def matches(pattern: str, address: str) -> bool:
    """Whether an OSC 1.0 address pattern (`?`, `*`, `[a-z]`, `[!a-z]`, `{one,two}`) means `address`.

    Keeps the set of places in `address` that can be reached: no backtracking, so no pattern takes long.
    """
    places = {0}
    for token in re.findall(r"\*+|\[[^\]]*\]|\{[^}]*\}|.", pattern, re.DOTALL):
        places = {end for at in places for end in _reach(token, address, at)}
    return len(address) in places


def _reach(token: str, address: str, at: int) -> list[int]:
    """Where in `address` one token of a pattern can end that begins at `at`."""
    if token[0] == "*":
        part = address[at:].partition("/")[0]
        return list(range(at, at + len(part) + 1))
    if token[0] == "{" and len(token) > 1:
        return [at + len(word) for word in token[1:-1].split(",") if address.startswith(word, at)]
    here = address[at : at + 1]
    return [at + 1] if here and fnmatchcase(here, token) and (here != "/" or token == "/") else []
