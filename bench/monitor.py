"""What open monitor pages do to the sound: late hops and the work for a hop, with none, with ten, and with real browsers.

    python bench/monitor.py [--seconds 120] [--pages 10] [--browsers 2] [--json]

For each stretch a daemon of its own plays the bundled song from a file, in real time, through the shipped model. A page is a
WebSocket that gets all that a page gets (state, meters at 30 Hz, spectrogram columns, the history of hops), in a process beside
the daemon, and one in five listens to the mix as well. A browser is a Chromium that draws the page without a graphics card,
which takes a core by itself: `--browsers 0` leaves them out. All runs on this machine's loopback.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import osc  # type: ignore[import-not-found]  # beside this file
from pythonosc.osc_message_builder import build_msg

SETTLE = 3.0  # s between the pages' coming and the first look
LISTENS = 5  # one page in so many
ASKED = (("/streamsep/notify", 2), ("/streamsep/meters/subscribe", 30.0))


async def be_page(port: int, seconds: float, listens: bool) -> int:
    """Get all that a page gets, for so long; the columns that came."""
    import aiohttp

    columns = 0
    async with aiohttp.ClientSession() as session, session.ws_connect(f"http://{osc.HOST}:{port}/monitor/socket") as page:
        for address, *values in (*ASKED, *([("/streamsep/audio/subscribe", "mix", 0, "s16", 0, 2)] if listens else [])):
            await page.send_bytes(build_msg(address, values).dgram)
        end = pinged = time.monotonic()
        end += seconds
        while time.monotonic() < end:
            if time.monotonic() - pinged > 2:  # as the page's script does
                pinged = time.monotonic()
                await page.send_bytes(build_msg("/streamsep/ping").dgram)
            message = await page.receive(5)
            if message.type == aiohttp.WSMsgType.BINARY and message.data[0] == 1:
                columns += message.data[3]
    return columns


async def be_pages(port: int, count: int, seconds: float) -> None:
    """So many pages; prints how many columns the one that got the fewest got."""
    print(min(await asyncio.gather(*(be_page(port, seconds, n % LISTENS == 0) for n in range(count)))))


@contextlib.contextmanager
def sockets(port: int, count: int, seconds: float) -> Iterator[None]:
    """So many pages without a browser, in a process of their own."""
    command = [sys.executable, __file__, "--be-pages", str(port), str(count), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield
    finally:
        columns = int(process.communicate(timeout=60)[0])
        if columns < 15 * seconds:
            raise SystemExit(f"bench/monitor: a page got {columns} columns in {seconds:g} s: expected thirty a second")


@contextlib.contextmanager
def browsers(port: int, count: int, seconds: float) -> Iterator[None]:
    """So many pages in a real browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(count):
            browser.new_context(viewport={"width": 1440, "height": 1000}).new_page().goto(f"http://{osc.HOST}:{port}/")
        yield
        browser.close()


def busy(pid: int) -> float:
    """s of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def stretch(visitors: Any, count: int, seconds: float) -> dict[str, Any]:
    """The figures of a daemon with so many visitors."""
    with socket.socket() as free:
        free.bind((osc.HOST, 0))
        http = free.getsockname()[1]
    with osc.daemon(seconds + 120, "--http", str(http)) as (port, pid), contextlib.ExitStack() as stack:
        client = osc.Client(port)
        client.ping()
        time.sleep(SETTLE)
        if count:
            stack.enter_context(visitors(http, count, seconds + SETTLE))
            time.sleep(SETTLE)
        before, used = client.status(), busy(pid)
        time.sleep(seconds)
        after = client.status()
        figures = {key: after[key] - before[key] for key in ("hops", "late", "bridged", "missed_blocks")}
        steps = {key: after[f"step_ms.{key}"] for key in ("p50", "p99", "max")}
        cpu = round(100 * (busy(pid) - used) / seconds, 1)
        lost = after.get("osc.monitor_lost", 0)
        return figures | {"step_ms": steps, "cpu": cpu, "lost": lost, "deadline_ms": after["deadline_ms"]}


def measure(seconds: float, pages: int, real: int) -> dict[str, Any]:
    """All figures."""
    report: dict[str, Any] = {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "seconds": seconds,
        "stretches": {"no page": stretch(None, 0, seconds), f"{pages} pages": stretch(sockets, pages, seconds)},
    }
    if real:
        report["stretches"][f"{real} in Chromium"] = stretch(browsers, real, seconds)
    return report


def markdown(report: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [
        f"The bundled song through the shipped model in real time, {report['machine']}, {report['seconds']:g} s a stretch. A "
        "page gets state, meters, spectrogram columns and the history of hops; one in five listens as well. Chromium draws "
        "without a graphics card, on the same machine. Step times hold the daemon's start, too.",
        "",
        "| pages | hops | late | step p50 / p99 / max ms | daemon, of a core | messages lost by slow pages |",
        "|---|---|---|---|---|---|",
    ]
    for name, r in report["stretches"].items():
        step = r["step_ms"]
        times = f"{step['p50']:.2f} / {step['p99']:.2f} / {step['max']:.2f}"
        lines.append(f"| {name} | {r['hops']} | {r['late']} | {times} | {r['cpu']:g} % | {r['lost']} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--be-pages"]:
        port, count, seconds = sys.argv[2:]
        asyncio.run(be_pages(int(port), int(count), float(seconds)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120, help="of each stretch (120)")
    parser.add_argument("--pages", type=int, default=10, help="WebSockets (10)")
    parser.add_argument("--browsers", type=int, default=2, help="pages in Chromium (2); 0: none")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a Markdown section")
    arguments = parser.parse_args()
    report = measure(arguments.seconds, arguments.pages, arguments.browsers)
    print(json.dumps(report, indent=2) if arguments.json else markdown(report))


if __name__ == "__main__":
    main()
