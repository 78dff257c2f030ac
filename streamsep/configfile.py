"""The TOML file: a new one with every setting explained, and what is wrong with one that somebody wrote.

Both are made from the fields of `Config`: a setting that is new there is new here. This module writes and prints nothing.
"""

from __future__ import annotations

import json
import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from . import StreamsepError
from .channelmap import MIX
from .config import Config, ConfigError, explain, load

WIDTH = 110
GROUPS = {
    "Sound": ("input", "output", "rate", "input_channels", "output_channels", "record", "model", "provider"),
    "Steering": ("osc_port", "http"),
}
REST = "Rare"
_SAYS = {
    "Sound": "where sound comes from and goes to, and what separates it. Names, not indices: an index changes with what is "
    "plugged in. Without names: a JACK or PipeWire server's first card where one runs, else the system's default.",
    "Steering": "OSC over UDP, and OSCQuery over HTTP; of this machine, as long as the hosts below are not opened.",
    REST: "what few need. Hosts: 127.0.0.1 hears this machine only; 0.0.0.0 hears the network, which has no password, and "
    "needs the list of who may speak: your own network, or single machines.",
}
# What a commented-out line shows where the default is nothing.
_EXAMPLES: dict[str, Any] = {
    "input": "USB Audio",
    "output": "USB Audio",
    "rate": 48000,
    "input_channels": "1,2",
    "output_channels": "vocals=1,2;accompaniment=3,4;mix=5,6",
    "record": "recordings",
    "osc_allow": ["192.168.0.0/16"],
    "osc_tcp_port": 9001,
    "http": 8080,
    "duration": 3600.0,
}


def groups() -> dict[str, tuple[str, ...]]:
    """The settings that are one value, in groups; what no group names is rare."""
    single = [name for name in Config.model_fields if is_single(name)]
    named = {name for names in GROUPS.values() for name in names}
    return GROUPS | {REST: tuple(name for name in single if name not in named)}


def is_single(name: str) -> bool:
    """Whether a setting is one value, and neither table nor list of tables."""
    annotation = Config.model_fields[name].annotation
    if get_origin(annotation) is Literal:
        return True
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    return any(kind in (str, int, float, bool) for kind in kinds)


# --------------------------------------------------------------------------------------------------------------- a new one


def template(values: Mapping[str, Any], sources: Sequence[str]) -> str:
    """A commented TOML file that sets `values`; every other setting stands commented out, at its default or as an example."""
    lines = [
        "# streamsep's settings: streamsep run --config FILE. Every key is a flag of `streamsep run` as well, and flags win.",
        "# What is commented out stands at its default or is an example.",
    ]
    for title, names in groups().items():
        lines += ["", *_comment(f"--- {title}: {_SAYS[title]}")]
        for name in names:
            lines += [*_comment(_description(name)), _line(name, values)]
    tables = [name for name in Config.model_fields if not is_single(name) and name != "gain"]
    for name in tables:
        lines += ["", *_comment(f"--- {name}: {_description(name)}"), *_table(name)]
    lines += [
        "",
        *_comment(f"--- gain: {_description('gain')}; -90 is silence. OSC and keys change it while sound runs."),
        "[gain]",
    ]
    gains = values.get("gain", {})
    return "\n".join([*lines, *(f"{source} = {float(gains.get(source, 0.0))}" for source in sources)]) + "\n"


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, WIDTH)]


def _description(name: str) -> str:
    return (Config.model_fields[name].description or name).replace(" (TOML only)", "")


def _line(name: str, values: Mapping[str, Any]) -> str:
    if name in values:
        return f"{name} = {toml(values[name])}"
    default = Config.model_fields[name].default
    return f"#{name} = {toml(_EXAMPLES.get(name, '') if default in (None, '') else default)}"


def _table(name: str) -> list[str]:
    return [f"#[{name}]"] if get_origin(Config.model_fields[name].annotation) is dict else [f"#[[{name}]]"]


def toml(value: Any) -> str:
    """A value as TOML; strings and lists as JSON, which TOML takes."""
    return str(value).lower() if isinstance(value, bool) else json.dumps(value, ensure_ascii=False)


# ------------------------------------------------------------------------------------------------------ what is wrong with one


def problems(path: Path) -> list[str]:
    """What is wrong with the file at `path`, a line each, with the line's number where there is one."""
    try:
        text = path.read_text(encoding="utf-8")
        settings = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        try:
            load(path, {})
        except ConfigError as error:
            return [str(error)]
        raise
    try:
        config = Config.model_validate(settings)
    except ValidationError as error:
        return [_at(path, text, problem["loc"], explain(problem)) for problem in error.errors()]
    return [_at(path, text, where, says) for where, says in _misfits(config)]


def _misfits(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is well-formed and cannot work: (key, why)."""
    from . import model

    try:
        sources = model.load(config.model).contract.sources
    except StreamsepError as error:
        yield ("model",), str(error)
        return
    for source in config.gain:
        if source not in sources:
            yield ("gain", source), f"gain.{source}: expected one of {', '.join(sources)}"
    for name in config.wiring.outputs:
        if name not in (*sources, MIX):
            yield ("output_channels",), f"output_channels: {name!r} is unknown: expected one of {', '.join((*sources, MIX))}"


def _at(path: Path, text: str, where: Sequence[int | str], says: str) -> str:
    """`path:line: says`, with the line of the innermost key of `where` that can be found."""
    for key in reversed([str(part) for part in where]):
        pattern = re.compile(rf"^\s*(\[+\s*)?([\w.\"-]+\.)?\"?{re.escape(key)}\"?\s*[=\].]", re.MULTILINE)
        if match := pattern.search(text):
            return f"{path}:{text.count(chr(10), 0, match.start()) + 1 + match[0].count(chr(10))}: {says}"
    return f"{path}: {says}"
