"""The house itself: what the pages say is what the code does."""

import ast
import subprocess

from streamsep.osc import markdown
from tests.conftest import ROOT


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            yield prefix
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def test_the_table_of_osc_addresses_is_the_codes():
    assert f"<!-- begin osc -->\n{markdown()}\n<!-- end osc -->" in (ROOT / "docs" / "osc.md").read_text()


def test_every_room_in_the_readmes_tree_exists_and_every_room_is_in_it():
    tree = (ROOT / "README.md").read_text().split("## Where things are")[1].split("```")[1]
    for path in (ROOT / "streamsep").iterdir():
        if (path.suffix == ".py" and not path.name.startswith("__")) or (path.is_dir() and not path.name.startswith("__")):
            assert path.name in tree, path


def test_imports_point_one_way():
    for path in (ROOT / "streamsep").rglob("*.py"):
        for name in imports(path):
            assert name.split(".")[0] not in {"torch", "train", "export", "bench", "tests"}, (path, name)
    forbidden = {
        "engine": "live devices osc daemon cli offline",
        "live": "daemon cli osc devices offline",
        "devices": "daemon cli engine offline recorder",
        "osc": "daemon cli live devices",
        "monitor": "daemon cli live devices offline plot",
    }
    for room, others in forbidden.items():
        paths = (
            (ROOT / "streamsep" / room).rglob("*.py")
            if (ROOT / "streamsep" / room).is_dir()
            else [ROOT / f"streamsep/{room}.py"]
        )
        for path in paths:
            used = {part for name in imports(path) if name.startswith(".") for part in name.strip(".").split(".")}
            assert not used & set(others.split()), (path, used)


def test_nothing_large_is_committed():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        assert not path.exists() or path.stat().st_size <= 25 * 2**20, name
        assert path.suffix not in {".wav", ".flac", ".opus", ".mp3", ".pt"}, name
