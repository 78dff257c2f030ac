"""The documentation: the site builds without a warning, asks no other host for anything, and quotes what is really said."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

# What a page says that the program says: the first column of the troubleshooting tables that begin with these words.
SAID = ("it says", "why")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    line = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_there_and_none_calls_another_host(site):
    pages = list(site.rglob("*.html"))
    assert {"index.html", "osc.html", "troubleshooting.html", "benchmarks.html"} <= {p.name for p in pages}
    for page in pages:
        text = page.read_text()
        # What a browser fetches by itself; a link that somebody clicks is another matter.
        fetched = re.findall(r'<(?:script|img|iframe|source)[^>]*\ssrc="([^"]*)"', text)
        fetched += re.findall(r'<link[^>]*rel="(?:stylesheet|icon|preconnect|preload)"[^>]*href="([^"]*)"', text)
        assert fetched, page
        for url in fetched:
            assert not re.match(r"(https?:)?//", url), (page, url)


def test_the_reference_shows_what_is_public_with_shapes_units_and_errors(site):
    separating = (site / "api" / "separating.html").read_text()
    for anchor in ("Separator.process", "Separator.set_gain", "Separator.latency"):
        assert f'id="streamsep.engine.{anchor}"' in separating
    text = re.sub(r"<[^>]+>", "", separating)
    assert "[shape=(channels, samples)]" in text
    assert "Raises:" in text
    public = (ROOT / "docs" / "api" / "index.md").read_text()
    for module, names in re.findall(r"^\| `(streamsep[\w.]*)` \| (.*) \|$", public, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            assert hasattr(__import__(module, fromlist=[name]), name), (module, name)


def strings() -> list[str]:
    """Every text in the sources, the parts of f-strings joined by a mark for what stands between them."""
    found = []
    for folder in ("streamsep", "train", "export"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    found.append("".join(v.value if isinstance(v, ast.Constant) else "\0" for v in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


def quoted() -> list[str]:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    tables = re.findall(r"((?:^\|.*\n)+)", page, re.MULTILINE)
    rows = [row for table in tables if table[2:].startswith(SAID) for row in table.splitlines()[2:]]
    return [quote for row in rows for quote in re.findall(r"`([^`]+)`", row.split(" | ")[0]) if " " in quote]


def is_said(quote: str, said: list[str]) -> bool:
    """Whether `quote` is part of a text of the program: word by word, where a value may stand for what is computed."""
    words = quote.split()
    parts = ["(.*)" if word == "..." else rf"(?:{re.escape(word)}|[^\s]*\0[^\s]*)" for word in words]
    pattern = re.compile((r"\s?" if "(.*)" in parts else " ").join(parts))
    known = [word for word in words if word != "..."]
    likely = (
        text for text in said if sum(word in text for word in known) >= len(known) - len(words) // 2
    )  # the pattern is slow
    hits = (hit for text in likely for hit in pattern.finditer(text))
    return any((hit[0].count("\0") - "".join(hit.groups()).count("\0")) <= len(words) / 2 for hit in hits)


def test_what_the_troubleshooting_quotes_is_what_is_said():
    said, quotes = strings(), quoted()
    assert len(quotes) > 20
    assert not is_said("there is no such thing as a free lunch", said)
    assert [quote for quote in quotes if not is_said(quote, said)] == []


def test_pictures_are_small_and_used():
    pages = "".join(p.read_text() for p in (ROOT / "README.md", ROOT / "bench" / "RESULTS.md", *(ROOT / "docs").rglob("*.md")))
    for picture in Path(ROOT / "docs").rglob("*.png"):
        assert picture.stat().st_size < 200_000, picture
        assert picture.name in pages, picture
