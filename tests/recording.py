"""A process that plays the song and records it, for tests to kill or to starve of room.

    python -m tests.recording SONG.wav RECORDINGS OUT [LIMIT]

What the device plays lands in OUT/played.raw at once, as float32 with four channels; the report and copies of the files
when the song is over. LIMIT is the most bytes that a file may get.
"""

import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from streamsep import jit_cache

jit_cache.use(Path(__file__).parents[1] / ".pytest_cache" / "numba")

from streamsep import model as models  # noqa: E402
from streamsep.devices.filedevice import FileDevice  # noqa: E402
from streamsep.engine import Separator  # noqa: E402
from streamsep.live import Live  # noqa: E402
from streamsep.recorder import Recorder  # noqa: E402


def main(song, recordings, out, limit):
    device = FileDevice(song, 0, 0.008, 2)
    device.played = np.asarray(np.memmap(out / "played.raw", np.float32, "w+", shape=device.played.shape))
    separator = Separator(models.load("live"), device.sample_rate, device.in_channels)
    live = Live(separator, device)
    live.prepare()
    live.open()
    recorder = Recorder(recordings, separator.sources, separator.channels, separator.sample_rate, live.rings)
    with limited(limit):
        recorder.start()
        live.start()
        print(live.prefill, flush=True)
        while not device.finished:
            time.sleep(0.02)
        live.stop()
        recorder.stop()
    report = live.report() | {"record_error": recorder.error, "folder": str(recorder.folder), "prefill": live.prefill}
    report |= recorder.counts
    if recorder.folder.exists():
        shutil.copytree(recorder.folder, out / "take")
    (out / "report.json").write_text(json.dumps(report))


class limited:  # noqa: N801
    """No file of this process gets longer than so many bytes; 0: as long as it likes."""

    def __init__(self, limit):
        self.limit = limit

    def __enter__(self):
        if self.limit:
            import resource

            self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, self.before[1]))

    def __exit__(self, *exception):
        if self.limit:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), int(sys.argv[4]) if sys.argv[4:] else 0)
