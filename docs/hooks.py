"""What mkdocs is told beyond mkdocs.yml: the repository's own pages are pages of the site, and links between all of them hold.

A link is written so that it works in the repository: from the file that it stands in. On the site it leads to the page that
the file became; where it became none (a folder, a source file), its words stay, and the link goes. A link to what does not
exist is a warning, which ends the build. `<!-- fields MODULE:CLASS -->` becomes a table of a pydantic class's fields.
"""

from __future__ import annotations

import importlib
import logging
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

log = logging.getLogger("mkdocs.hooks.streamsep")
ROOT = Path(__file__).parents[1]
PAGES = {  # by file of the repository
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "bench/RESULTS.md": "benchmarks.md",
    "streamsep/models/live.md": "model-live.md",
}
SOURCES = {page: source for source, page in PAGES.items()}
WIDE = {"osc.md"}  # the table needs the place of the table of contents
LINK = re.compile(r"(?P<image>!?)\[(?P<words>[^\]]*)\]\((?P<target>[^)\s]+)\)")
FIELDS = re.compile(r"^<!-- fields ([\w.]+):(\w+) -->$", re.MULTILINE)
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the repository's links into the site's; code stays as it is."""
    here = page.file.src_uri
    if here in WIDE:
        page.meta["hide"] = ["toc"]
    markdown = FIELDS.sub(lambda named: fields(*named.groups()), markdown)
    source = SOURCES.get(here, f"docs/{here}")

    def turned(text: str) -> str:
        return LINK.sub(lambda link: _turn(link, source, here, files), text)

    done, place = [], 0
    for code in CODE.finditer(markdown):
        if "](" in markdown[max(0, code.start() - 1) : code.end() + 2]:  # the words of a link may be code
            continue
        done += [turned(markdown[place : code.start()]), code.group()]
        place = code.end()
    return "".join(done) + turned(markdown[place:])


def _turn(link: re.Match[str], source: str, here: str, files: Files) -> str:
    target, _, anchor = link["target"].partition("#")
    if not target or "://" in target or target.startswith("mailto:"):
        return link[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    if not (ROOT / path).exists():
        log.warning(f"{source} links to {link['target']!r}: {path} does not exist")
        return link[0]
    page = PAGES.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
    if page is None or files.get_file_from_path(page) is None:
        return link["words"]
    to = posixpath.relpath(page, posixpath.dirname(here) or ".")
    return f"{link['image']}[{link['words']}]({to}{'#' if anchor else ''}{anchor})"


def fields(module: str, name: str) -> str:
    """A table of a pydantic class's fields: their names, types, defaults, bounds, and what their descriptions say."""
    rows = ["| name | type | default | |", "|---|---|---|---|"]
    for field, facts in getattr(importlib.import_module(module), name).model_fields.items():
        kind = facts.annotation.__name__ if isinstance(facts.annotation, type) else str(facts.annotation)
        kind = re.sub(r"typing\.|Annotated\[(\w+), .*\)\]", r"\1", kind).replace(" | ", " or ")
        default = "needed" if facts.is_required() else f"`{facts.get_default(call_default_factory=True)!r}`"
        text = "; ".join(filter(None, (facts.description, _bounds(facts.metadata))))
        rows.append(f"| `{field}` | `{kind}` | {default} | {text} |")
    return "\n".join(rows)


def _bounds(metadata: list[object]) -> str:
    """The numbers that a field may be."""
    limits = {key: getattr(m, key) for m in metadata for key in ("gt", "ge", "le", "multiple_of") if hasattr(m, key)}
    words = {"gt": "above {}", "ge": "from {}", "le": "up to {}", "multiple_of": "a multiple of {}"}
    return " ".join(words[key].format(limit) for key, limit in limits.items())
