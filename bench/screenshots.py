"""Takes the pictures of the monitor page for the documentation: docs/monitor.png and docs/monitor-phone.png.

    python bench/screenshots.py

A daemon plays the bundled song through the shipped model; Chromium looks at its page, on a desk and on a phone.
"""

import io
import shutil
import socket
from pathlib import Path
from typing import Any

import osc  # type: ignore[import-not-found]  # beside this file
from PIL import Image
from playwright.sync_api import sync_playwright
from pythonosc.osc_message_builder import build_msg

DOCS = Path(__file__).resolve().parents[1] / "docs"
FILLED = 20_000  # ms until the spectrograms have come in, patience for slow machines included
COLOURS = 96
PICTURES: dict[str, tuple[dict[str, Any], int]] = {
    "monitor.png": ({"viewport": {"width": 1440, "height": 1040}, "color_scheme": "dark"}, 1200),
    "monitor-phone.png": (
        {"viewport": {"width": 360, "height": 740}, "color_scheme": "light", "device_scale_factor": 2, "is_mobile": True},
        540,
    ),
}


def shrink(png: bytes, width: int) -> Image.Image:
    """Fit for a page: so wide (px), of few colours."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    return picture.resize((width, width * picture.height // picture.width), Image.Resampling.LANCZOS).quantize(COLOURS)


def main() -> None:
    """Take them."""
    with socket.socket() as free:
        free.bind((osc.HOST, 0))
        http = free.getsockname()[1]
    with osc.daemon(300, "--http", str(http)) as (port, _), sync_playwright() as playwright:
        client = osc.Client(port)
        client.send(build_msg("/streamsep/source/vocals/gain", [-6.0]).dgram)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (options, width) in PICTURES.items():
            page = browser.new_context(**options).new_page()
            page.goto(f"http://{osc.HOST}:{http}/")
            page.wait_for_timeout(FILLED)
            shrink(page.screenshot(), width).save(DOCS / name, optimize=True)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
