"""`streamsep plugin`: installing the plugin for hosts, and what its engine does."""

from __future__ import annotations

from typing import Any

import click

from .terminal import err, json_option, out, print_json

system_option = click.option("--system/--user", default=False, help="For all users, or for you.  [default: user]")


@click.group()
def plugin() -> None:
    """streamsep inside a host: an LV2 and LADSPA plugin (Linux)."""


@plugin.command()
@system_option
@json_option
def install(system: bool, as_json: bool) -> None:
    """Build the plugin with the system's C compiler and put it where hosts look."""
    from .. import model as models
    from ..plugin import engine
    from ..plugin import install as installing

    where = installing.install(system)
    if not as_json:
        out.print(f"{where.bundle} (LV2), {where.link} (LADSPA)", markup=False)
        err.print("compiling the engine, once ...", markup=False)
    engine.warm(models.load("live"))
    found = installing.hosts()
    if as_json:
        print_json({"lv2": str(where.bundle), "ladspa": str(where.link), "uri": installing.URI, "hosts": found})
        return
    out.print(f"hosts here that find it: {', '.join(found) or 'none (Ardour, Reaper, Carla, ... are not on the PATH)'}")
    out.print("in a host it is called streamsep; a host that runs must be restarted or look for plugins again", markup=False)


@plugin.command()
@system_option
@json_option
def uninstall(system: bool, as_json: bool) -> None:
    """Take the plugin away; hosts that have it loaded keep it until they end."""
    from ..plugin import install as installing

    where = installing.uninstall(system)
    if as_json:
        print_json({"removed": [str(where.bundle), str(where.link)]})
    else:
        out.print(f"removed {where.bundle} and {where.link}", markup=False)


@plugin.command()
@json_option
def status(as_json: bool) -> None:
    """Say what is installed, for which hosts, and what the engine does at this moment."""
    from ..plugin import engine
    from ..plugin import install as installing

    installed = {name: str(w.bundle) for name in ("user", "system") if (w := installing.places(name == "system")).installed}
    report: dict[str, Any] = {"installed": installed, "hosts": installing.hosts(), "engine": engine.running()}
    if as_json:
        print_json(report)
        return
    places = ", ".join(f"{path} ({name})" for name, path in installed.items())
    out.print(f"installed  {places or 'no; streamsep plugin install'}", markup=False)
    out.print(f"hosts      {', '.join(report['hosts']) or 'none on the PATH'}", markup=False)
    out.print(f"engine     {_engine(report['engine'])}", markup=False)


def _engine(state: dict[str, Any] | None) -> str:
    if state is None:
        return "none runs; the first instance starts one"
    if not state:
        return "starting"
    times = state["call_ms"]
    other = f"; {state['refused']} of another version: install again and restart the host" if state["refused"] else ""
    return (
        f"process {state['pid']}: {state['instances']} instances, {state['hops']} hops in {state['calls']} calls, "
        f"{state['late']} late, p50 {times['p50']:.2f}, p99 {times['p99']:.2f} ms; "
        f"{'real-time' if state['realtime'] else 'ordinary'} scheduling{other}"
    )
