"""A model of your own in five minutes, on a CPU, with nothing to download: made, checked, and heard.

    python examples/tutorial/first_model.py                # about five minutes; everything lands in first-model/
    python examples/tutorial/first_model.py --minutes 0.5  # the same steps, and a worse model

Every step is a command that you would type yourself; each is shown before it runs. The music is the song of `streamsep demo`:
the network learns from its first two thirds and is judged on the last, which it has never heard. It will know one voice and one
band, so it is good for nothing but showing how; with your own recordings in the folder it is a real model.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

import streamsep
from streamsep.demo import STEMS

ROOT = Path(streamsep.__file__).parents[1]  # the checkout: training and export are not part of the installed package
LEARNT = 14.0  # s of the song to learn from; the rest is held out
CONFIG = """\
# What is not said here is as in train/configs/tiny.toml; train/config.py lists all there is.
extends = "tiny"
name = "first"
licence = "yours to say"
n_fft = 1024           # 64 ms at 16 kHz: fine enough to tell one partial from the next
synthesis_length = 256 # 16 ms: the latency
hop_length = 128       # 8 ms: a mask so often
layers = 2
hidden = 96            # the shipped model has 3 layers of 400
dropout = 0.2
loss = "sdr"
batch = 8
steps_per_epoch = 25   # how often it is scored
ema = 0.98             # what is scored and kept is an average over the last steps
[augment]
speeds = [0.84, 0.92, 1.0, 1.09, 1.19] # each also slower and faster: 14 seconds become a minute of different singers
"""


def main() -> None:
    """The five steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.5, help="time to train [default: 3.5]")
    parser.add_argument("--out", type=Path, default=Path("first-model"), help="folder for everything [default: first-model]")
    given = parser.parse_args()
    out = given.out
    if (out / "run").exists():
        parser.error(f"{out} holds a model already: give another --out, or delete it")
    out.mkdir(parents=True, exist_ok=True)

    say(
        "1. Recordings",
        "Training wants stems: for each song a file with the voice alone and one with all else.",
    )
    data = recordings(out / "data")

    say("2. A configuration", "What the network is like, in TOML. The rest are defaults.")
    config = out / "first.toml"
    config.write_text(CONFIG)
    print(CONFIG)

    say(
        "3. Training",
        "Stems become endless different mixtures; the network learns the masks that take them apart again.\n"
        "`voice NSDR` is what the held-out song has gained so far. Ctrl-C saves, `--resume` goes on.",
    )
    command("train", config, "--data", data, "--out", out / "run", "--minutes", given.minutes, "--device", "cpu")

    say(
        "4. Export",
        "One .onnx file with everything in it, written only if the runtime, hop by hop, gives what PyTorch gives.",
    )
    model = out / "first.onnx"
    command("export", out / "run" / "best.pt", "-o", model, "--quantize", "int8", "--data", data)

    say("5. Hearing it", "The engine that plays live, on a file: both parts of the song, the learnt one and the new one.")
    for part in ("1-learnt", "2-new"):
        mixture = out / f"{part}.wav"
        command("streamsep", "separate", mixture, "--model", model, "-o", out / "stems", "--plot")
    for part, what in (("1-learnt", "what it learnt from"), ("2-new", "what it never heard")):
        gains = {name: gained(out, part, name) for name in STEMS}
        print(f"{what}: " + ", ".join(f"{name} {gain:+.1f} dB over the mixture" for name, gain in gains.items()))
    print(f"\nListen to {out / 'stems' / '2-new'}, look at its spectrograms.png and at {out / 'run' / 'curve.png'}. Live:")
    print(f"    streamsep run --model {shlex.quote(str(model))}")


def say(title: str, text: str) -> None:
    """A heading and what the step is for."""
    print(f"\n{title}\n{'-' * len(title)}\n{text}\n", flush=True)


def command(module: str, *arguments: object) -> None:
    """Show `python -m module arguments`, and run it; this script ends where that fails."""
    words = [str(a) for a in arguments]
    shown = [module, *words] if module == "streamsep" else ["python", "-m", module, *words]
    print(f"$ {shlex.join(shown)}", flush=True)
    places = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    done = subprocess.run([sys.executable, "-m", module, *words], env=places, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def recordings(folder: Path) -> Path:
    """Cut the song's stems in two, as files that training finds, with the mixture of each part beside the folder.

    Of a folder of songs the last tenth by name, here the second of two, is held out.
    """
    folder.mkdir(exist_ok=True)
    stems = {}
    for name, path in STEMS.items():
        stems[name], rate = soundfile.read(path, dtype="float32")
    cut = round(LEARNT * rate)
    for part, where in (("1-learnt", slice(cut)), ("2-new", slice(cut, None))):
        for name, sound in stems.items():
            write(folder / f"{part}.{name}.wav", sound[where], rate)
        write(folder.parent / f"{part}.wav", np.sum([sound[where] for sound in stems.values()], axis=0), rate)
    return folder


def write(path: Path, sound: NDArray[np.float32], rate: int) -> None:
    """Write `sound` `[shape=(samples, channels)]`, and say so."""
    soundfile.write(path, sound, rate, subtype="FLOAT")
    print(f"{path}  {len(sound) / rate:.0f} s")


def gained(out: Path, part: str, source: str) -> float:
    """SDR of the separated source less that of the mixture taken for it, dB."""
    truth = soundfile.read(out / "data" / f"{part}.{source}.wav")[0]
    mixture = soundfile.read(out / f"{part}.wav")[0]
    stem = soundfile.read(out / "stems" / part / f"{source}.wav")[0]
    noise, worse = np.sum((truth - stem) ** 2), np.sum((truth - mixture) ** 2)
    return float(10 * np.log10(worse / noise))


if __name__ == "__main__":
    main()
