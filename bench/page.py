"""bench/RESULTS.md: sections between markers, each with the command, day, commit and Python that wrote it.

It knows no benchmark, and needs no package: a section can be written on a machine that has only what its benchmark needs.
"""

from __future__ import annotations

import platform
import subprocess
from datetime import date
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "RESULTS.md"
HEAD = """# Results

Written by `make bench`. Machines differ and are shared: read ratios within one table, not milliseconds across machines.
What has not been run is said at the end of ARCHITECTURE.md.
"""


@cache
def commit() -> str:
    """What is measured: `-dirty` where the tree is not as committed, but for RESULTS.md, which a run writes row by row."""
    try:
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)bench/RESULTS.md")
        return (_git("describe", "--always") or "unknown") + "-dirty" * bool(changed)
    except OSError:
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- begin {name} -->", f"<!-- end {name} -->"


def section(name: str) -> str:
    """What RESULTS.md holds under `name`, "" where nothing."""
    begin, end = _marks(name)
    page = RESULTS.read_text() if RESULTS.exists() else ""
    return page[page.index(begin) : page.index(end)] if begin in page else ""


def write(name: str, title: str, text: str) -> None:
    """Replace one section of RESULTS.md, between its markers, or add it."""
    begin, end = _marks(name)
    page = RESULTS.read_text() if RESULTS.exists() else HEAD
    origin = f"`python bench/results.py {name}`, {date.today()}, commit {commit()}, Python {platform.python_version()}"
    made = f"{begin}\n## {title}\n\n{text}\n\n({origin})\n{end}"
    if begin in page:
        page = page[: page.index(begin)] + made + page[page.index(end) + len(end) :]
    else:
        page = page.rstrip() + "\n\n" + made + "\n"
    RESULTS.write_text(page)
