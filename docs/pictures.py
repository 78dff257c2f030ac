"""`make pictures`: the pictures of README and documentation, each made from what is measured or heard; each under 200 kB.

docs/demo.png             what `streamsep demo` draws: the bundled song through the live path
docs/training/*.png       `python -m train.curve` of the metrics of the runs behind a shipped model, by the stages of its recipe
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))

from train import recipe  # noqa: E402

LIMIT = 200_000  # bytes
WIDTH, COLOURS = 960, 40  # of the spectrograms, which compress badly; a page shows them at most so wide


def run(*words: object) -> None:
    """`python -m words`, from the checkout."""
    subprocess.run([sys.executable, "-m", *map(str, words)], cwd=DOCS.parent, check=True)


def shrink(source: Path, target: Path) -> None:
    """The picture at `source`, `WIDTH` wide and with `COLOURS` colours."""
    image = Image.open(source).convert("RGB")
    image = image.resize((WIDTH, WIDTH * image.height // image.width), Image.Resampling.LANCZOS)
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)


def main() -> None:
    """All of them."""
    with tempfile.TemporaryDirectory() as folder:
        run("streamsep", "demo", "-o", folder)
        shrink(Path(folder) / "spectrograms.png", DOCS / "demo.png")
    training = DOCS / "training"
    for model in recipe.shipped():
        stages = [training / f"{stage.name}.csv" for stage in recipe.load(model).stages if stage.config]
        run("train.curve", *stages, "-o", training / f"{model}.png", "--title", model)
    for picture in DOCS.rglob("*.png"):
        print(f"{picture.relative_to(DOCS.parent)}  {picture.stat().st_size / 1000:.0f} kB")
        assert picture.stat().st_size < LIMIT, f"{picture} is larger than {LIMIT} bytes"


if __name__ == "__main__":
    main()
