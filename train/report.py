"""What a run tells: `metrics.csv` and `curve.png` in its folder, and one line an epoch."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from . import curve
from .curve import Row


class Report:
    """The run's history; files are rewritten from it at each epoch, so that a resumed run has no gap or double."""

    def __init__(self, out: Path, name: str, writes: bool = True):
        self.out, self.name, self.writes = out, name, writes
        self.rows: list[Row] = []

    def add(self, row: Row) -> bool:
        """Note an epoch; True if its voice NSDR is the best so far."""
        better = all(row["nsdr_vocals"] > earlier["nsdr_vocals"] for earlier in self.rows)
        self.rows.append(row)
        if self.writes:
            self._write_csv()
            curve.draw(self.out / "curve.png", [self.rows], self.name)
        return better

    def line(self, better: bool) -> str:
        """The last epoch in words."""
        row = self.rows[-1]
        return (
            f"epoch {row['epoch']:4.0f}  step {row['step']:6.0f}  {row['seconds'] / 60:6.1f} min  loss {row['loss']:8.4f}  "
            f"voice NSDR {row['nsdr_vocals']:6.2f} dB  "
            f"waiting {100 * row['waiting']:.1f} %  loading {100 * row['loading']:.0f} %{'  best' if better else ''}"
        )

    def _write_csv(self) -> None:
        temporary = self.out / "metrics.csv.part"
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[-1]), restval="nan")  # older rows may know less
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(temporary, self.out / "metrics.csv")
