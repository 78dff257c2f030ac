"""What is in an OSC 1.0 packet: its messages, and which addresses a message's pattern means.

Rare types are parsed by python-osc, but its server is not for an open port: it loops for ever on a bundle's element of negative
size, drops a whole bundle for one bad message, and its pattern matcher backtracks. Here every packet is short work.

This module knows no socket, no clock and none of our addresses, and it does not say what to do with a bad packet: it raises.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from pythonosc.osc_message import OscMessage

NOW = 1  # the time tag that means "at once"
_SECONDS_1900_TO_1970 = 2_208_988_800
_KNOWN = frozenset("ihfdsbrmtTFN[]")
# The types that almost all messages are made of are read and written here, at a tenth of python-osc's time: a flood counts.
_NUMBERS = {tag: struct.Struct(f">{code}") for tag, code in (("i", "i"), ("h", "q"), ("f", "f"), ("d", "d"))}
_WORDS = {"T": True, "F": False, "N": None}
_PLAIN = frozenset((",", "s", *_NUMBERS, *_WORDS))


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
    address, at = _string(data, 0)
    tags, at = _string(data, at) if at < len(data) else (",", at)
    if set(tags[1:]) - _KNOWN:  # python-osc would drop the argument and log to the root logger
        return Message(address, tags, None)
    if not _PLAIN.issuperset(tags) or tags[0] != ",":
        return Message(address, tags, OscMessage(data).params)
    arguments: list[Any] = []
    for tag in tags[1:]:
        if tag == "s":
            value, at = _string(data, at)
            arguments.append(value)
        elif tag in _WORDS:
            arguments.append(_WORDS[tag])
        else:
            arguments += _NUMBERS[tag].unpack_from(data, at)
            at += _NUMBERS[tag].size
    return Message(address, tags, arguments)


def _string(data: bytes, at: int) -> tuple[str, int]:
    """The string at `at`, and where what follows it begins."""
    end = data.index(0, at)
    after = (end // 4 + 1) * 4
    if after > len(data):
        raise ValueError("a string's padding is cut off")
    return data[at:end].decode(), after


def build(address: str, values: Iterable[int | float | str | bytes] = ()) -> bytes:
    """A message of 32-bit integers (64-bit ones where they must be), 32-bit floats, strings and blobs."""
    tags, data = ",", b""
    for value in values:
        if isinstance(value, str):
            tags += "s"
            data += _padded(value.encode())
        elif isinstance(value, float):
            tags += "f"
            data += _NUMBERS["f"].pack(value)
        elif isinstance(value, bytes):
            tags += "b"
            data += _NUMBERS["i"].pack(len(value)) + value + bytes(-len(value) % 4)
        else:
            tag = "i" if -(2**31) <= value < 2**31 else "h"
            tags += tag
            data += _NUMBERS[tag].pack(value)
    return _padded(address.encode()) + _padded(tags.encode()) + data


def _padded(text: bytes) -> bytes:
    return text + bytes(4 - len(text) % 4)


def bundle(messages: Iterable[bytes]) -> bytes:
    """A bundle of messages that belong together, to be obeyed at once."""
    return b"#bundle\0" + NOW.to_bytes(8, "big") + b"".join(len(m).to_bytes(4, "big") + m for m in messages)


def matches(pattern: str, address: str) -> bool:
    """Whether an OSC 1.0 address pattern (`?`, `*`, `[a-z]`, `[!a-z]`, `{one,two}`) means `address`.

    Keeps the set of places in `address` that can be reached: no backtracking, so no pattern takes long.
    """
    places = {0}
    for token in re.findall(r"\*+|\[[^\]]*\]|\{[^}]*\}|.", pattern, re.DOTALL):
        places = {end for at in places for end in _reach(token, address, at)}
    return len(address) in places


Tree = dict[str, Any]  # the parts of addresses: name -> what is below it


def tree(addresses: Iterable[str]) -> Tree:
    """Addresses by their parts, for `search`."""
    root: Tree = {}
    for address in addresses:
        node = root
        for name in address.split("/")[1:]:
            node = node.setdefault(name, {})
    return root


def search(pattern: str, root: Tree) -> list[str]:
    """The places in the tree that `pattern` means, in order; part for part, so that a hostile one finds little to work on."""
    found: list[tuple[str, Tree]] = [("", root)]
    for part in pattern.split("/")[1:]:
        known: dict[str, bool] = {}
        below: list[tuple[str, Tree]] = []
        for place, node in found:
            for name, child in node.items():
                if name not in known:
                    known[name] = name == part or matches(part, name)
                if known[name]:
                    below.append((f"{place}/{name}", child))
        found = below
    return [place for place, _ in found] if pattern.startswith("/") else []


def _reach(token: str, address: str, at: int) -> list[int]:
    """Where in `address` one token of a pattern can end that begins at `at`."""
    if token[0] == "*":
        part = address[at:].partition("/")[0]
        return list(range(at, at + len(part) + 1))
    if token[0] == "{" and len(token) > 1:
        return [at + len(word) for word in token[1:-1].split(",") if address.startswith(word, at)]
    here = address[at : at + 1]
    if not here or (here == "/") != (token == "/"):
        return []
    if token[0] == "[" and len(token) > 1:
        return [at + 1] if _in_class(here, token[1:-1]) else []
    return [at + 1] if token in ("?", here) else []


def _in_class(here: str, body: str) -> bool:
    """Whether one character is among those between brackets. (`fnmatch` would keep every pattern it is asked, compiled.)"""
    among = body.removeprefix("!")
    at, found = 0, False
    while at < len(among):
        if among[at + 1 : at + 2] == "-" and at + 2 < len(among):
            found |= among[at] <= here <= among[at + 2]
            at += 3
        else:
            found |= among[at] == here
            at += 1
    return found != body.startswith("!")
