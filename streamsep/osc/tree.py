"""The addresses as OSCQuery describes them: a tree of nodes, made from `server.targets` and from nothing else.

A node is what goes out as JSON. An attribute that says nothing about an address is left out. This module knows no address and
no transport.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from .. import __version__
from .host import Value
from .row import Argument

if TYPE_CHECKING:
    from .dispatch import Target
    from .server import OscServer

Node = dict[str, Any]

ATTRIBUTES = ("FULL_PATH", "CONTENTS", "TYPE", "ACCESS", "VALUE", "RANGE", "DESCRIPTION", "UNIT", "CLIPMODE")
UNITS = {"dB": "gain.db", "ms": "time.ms", "s": "time.second", "Hz": "time.hz"}  # the proposal's names
READ = 1  # a bit of ACCESS


def tree(server: OscServer, with_values: bool = True) -> Node:
    """All addresses that can be sent something, as one node."""
    root = _container("/") | {"DESCRIPTION": f"streamsep {__version__}, a live stem separator"}
    for address, target in server.targets.items():
        node = root
        path = ""
        for name in address.split("/")[1:]:
            path += f"/{name}"
            node = node.setdefault("CONTENTS", {}).setdefault(name, _container(path))
        node.update(_method(target))
        values = server.values(address) if with_values else None
        if values is not None:
            node["VALUE"] = _json(values)
    return root


def _container(path: str) -> Node:
    return {"FULL_PATH": path, "ACCESS": 0}


def _method(target: Target) -> Node:
    """What is known of an address without asking for its value."""
    row = target.row
    arguments = row.values if row.access & READ else row.arguments
    node: Node = {"DESCRIPTION": row.help, "ACCESS": row.access, "TYPE": "".join(a.tag for a in arguments) or "N"}
    ranges = [_range(a) for a in arguments]
    if any(ranges):
        node["RANGE"] = ranges
        node["CLIPMODE"] = ["both" if a.clamps else "none" for a in arguments]
    if any(a.unit for a in arguments):
        node["UNIT"] = [UNITS.get(a.unit, a.unit) for a in arguments]
    return node


def _range(argument: Argument) -> Node:
    limits = {"MIN": argument.low, "MAX": argument.high, "VALS": list(argument.values) or None}
    whole = argument.tag in "ih"
    return {key: int(v) if whole and isinstance(v, float) else v for key, v in limits.items() if v is not None}


def _json(values: Iterable[Value]) -> list[Value | None]:
    """As JSON has it, which knows no infinity and no NaN."""
    return [None if isinstance(v, float) and not math.isfinite(v) else v for v in values]


def find(root: Node, path: str) -> Node | None:
    """The node at `path`."""
    node: Node | None = root
    for name in filter(None, path.split("/")):
        node = node.get("CONTENTS", {}).get(name) if node else None
    return node


def methods(node: Node) -> dict[str, Node]:
    """The addresses at and below `node` that can be sent something, each with what is said of itself alone."""
    own = {key: value for key, value in node.items() if key != "CONTENTS"}
    found = {node["FULL_PATH"]: own} if "TYPE" in node else {}
    for part in node.get("CONTENTS", {}).values():
        found |= methods(part)
    return found


def difference(before: Node, after: Node) -> list[tuple[str, str]]:
    """The commands that tell a client that knows `before` how it comes to `after`."""
    old, new = methods(before), methods(after)
    removed, added = [path for path in old if path not in new], [path for path in new if path not in old]
    changed = [path for path in old if path in new and old[path] != new[path]]
    changed += [path.rpartition("/")[0] for path in (*removed, *added)]
    if not changed:
        return []
    commands = [("PATH_REMOVED", path) for path in removed] + [("PATH_ADDED", path) for path in added]
    return [*commands, ("PATH_CHANGED", _common(changed))]


def _common(paths: Iterable[str]) -> str:
    """The deepest node that has all `paths` in it."""
    columns = zip(*(path.split("/") for path in paths), strict=False)
    return "/".join(names[0] for names in takewhile(lambda names: len(set(names)) == 1, columns)) or "/"
