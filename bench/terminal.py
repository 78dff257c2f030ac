"""The picture of the live view in the documentation: the bundled song through a daemon in real time, drawn by the view itself.

python bench/terminal.py [-o docs/terminal.svg] [--seconds 9] [--size 100x22]
"""

import argparse
import contextlib
import io
import queue
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import MONOKAI

from streamsep import jit_cache


def shoot(song: Path, seconds: float, columns: int, lines: int) -> str:
    """An SVG of the view, `seconds` into the song."""
    from streamsep.cli.screen import Screen
    from streamsep.cli.view import draw
    from streamsep.config import load
    from streamsep.daemon import Daemon

    console = Console(
        record=True, width=columns, height=lines, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    stop, setup = threading.Event(), queue.SimpleQueue[dict[str, Any]]()
    config = load(None, {"input": f"file:{song}", "osc_port": 0, "gain": {"vocals": -3}})
    daemon = Daemon(config, lambda line: screen.tell(line))
    screen = Screen(daemon, console)
    thread = threading.Thread(target=daemon.run, args=(setup.put, stop))
    thread.start()
    screen.announce(setup.get(timeout=60))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        picture = screen.look()
        time.sleep(0.1)
    console.print(draw(picture, screen.log, columns, lines))
    stop.set()
    thread.join()
    svg = console.export_svg(title="streamsep run", theme=MONOKAI)
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # a picture asks nobody for a font
    return re.sub(r"Fira Code,|font-family: arial;", "", svg)


def main() -> None:
    """Write the picture."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-o", "--output", type=Path, default=Path("docs/terminal.svg"))
    p.add_argument("--seconds", type=float, default=9)
    p.add_argument("--size", default="100x22", help="columns x lines (%(default)s)")
    arguments = p.parse_args()
    jit_cache.use()
    from streamsep import demo, soundfiles

    columns, lines = map(int, arguments.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        stems = [soundfiles.read(path) for path in demo.STEMS.values()]
        soundfiles.write(Path(folder) / "song.wav", sum(x for x, _ in stems).T, stems[0][1])  # type: ignore[union-attr]
        with contextlib.chdir(folder):  # its name in the picture is short
            picture = shoot(Path("song.wav"), arguments.seconds, columns, lines)
    arguments.output.write_text(picture)


if __name__ == "__main__":
    main()
