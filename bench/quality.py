"""The ruler: how well a model separates, through the runtime engine, by the protocol of Huang et al. (ISMIR 2014).

    python bench/quality.py --model live [--set public100] [--rate 16000] [--level -6] [--jobs 2] [--json]
    python bench/quality.py --model live --song ../shared/data/songs/sodium

Clips (MIR-1K: channel 0 the accompaniment, channel 1 the voice). Each source is divided by its own L2 norm, the mixture is
their sum (0 dB), scaled so that its peak stands at `--level` dBFS. It goes hop by hop through a cold `Separator` at
`--rate`; the estimates, moved back by the latency, are measured at the clip's own rate with BSS Eval v3 (512-tap filter, no
permutation). NSDR = SDR(estimate) - SDR(mixture taken as the estimate). GNSDR, GSIR and GSAR are means weighted by clip
length. References have MIR-1K's order, accompaniment and voice, which changes nothing without a permutation.

Songs (true stems `NAME.vocals.*` and `NAME.accompaniment.*`, added as they are). There is no filter to forgive anything:
SDR over the whole song and both channels at once, as the Music Demixing Challenge defines it, SI-SDR likewise, and what
both gain over the mixture. The two kinds of figures cannot be compared with each other.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from streamsep import StreamsepError, offline
from streamsep.engine import Separator
from streamsep.frames import Frames
from streamsep.model import METADATA_KEY, Model, load
from streamsep.soundfiles import read

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "mir1k"
SETS = Path(__file__).resolve().with_name("sets")
SOURCES = ("accompaniment", "vocals")
TAPS = 512
# Songs of other singers over the backing tracks of amy_6, amy_7 and abjones_2, on which the paper trains.
SHARED_BACKING = ("leon_5", "yifen_2", "stool_4")
PAPER = (7.45, 13.08, 9.68)  # voice GNSDR, GSIR, GSAR on the paper's 825 test clips; sees one frame of the future

Array = NDArray[np.float64]


class QualityError(StreamsepError):
    """What was asked for cannot be measured."""


# ------------------------------------------------------------------------------------------------------------- BSS Eval


def bss_eval(references: Array, estimates: Array, taps: int = TAPS) -> Array:
    """BSS Eval v3 (Vincent, Gribonval and Fevotte, 2006): SDR, SIR and SAR in dB, `[shape=(sets, sources, 3)]`.

    With P_j the projection onto reference j delayed by 0 to taps - 1 samples and P that onto all references so delayed,
    estimate e = P_j e + (P - P_j) e + (1 - P) e: target, interference, artefacts. They are orthogonal, because P_j's space
    lies within P's, so three energies give every ratio, and no projected signal is needed:

        |P e|^2 = d' G^-1 d,   G = inner products of the delayed references,   d = those of them with e.

    Parameters
    ----------
    references : float64 [shape=(sources, samples)]
    estimates : float64 [shape=(sets, sources, samples)]
        estimate j of each set is held against reference j.

    Raises
    ------
    ValueError
        shapes differ, or a signal is silent: no ratio exists.
    """
    if estimates.shape[1:] != references.shape:
        raise ValueError(f"estimates have shape {estimates.shape}: expected (sets, *{references.shape})")
    if not (np.any(references, axis=-1).all() and np.any(estimates, axis=-1).all()):
        raise ValueError("a reference or an estimate is silent: expected sound in each; leave the clip out")
    sources, samples = references.shape
    size = 1 << (samples + taps - 2).bit_length()  # no lag below `taps` wraps around
    spectra, others = np.fft.rfft(references, size), np.fft.rfft(estimates, size)
    # <s_i delayed by a, s_j delayed by b> is the cross-correlation of i and j at lag a - b.
    lags = np.subtract.outer(np.arange(taps), np.arange(taps)) % size
    correlation = np.fft.irfft(spectra.conj()[:, None] * spectra, size)
    gram = correlation[:, :, lags].transpose(0, 2, 1, 3)  # [shape=(sources, taps, sources, taps)]
    products = np.fft.irfft(spectra.conj() * others[:, :, None], size)[..., :taps]  # (sets, estimates, references, taps)
    explained = _energies(gram.reshape(sources * taps, -1), products.reshape(*products.shape[:2], -1))
    own = [_energies(gram[j, :, j], products[:, j, j]) for j in range(sources)]
    target, whole = np.stack(own, axis=1), np.sum(estimates**2, axis=-1)
    errors = np.stack([whole - target, explained - target, whole - explained], axis=-1)
    # What is lost in rounding is no error: a perfect estimate reads 157 dB, not infinity or worse.
    errors = np.maximum(errors, np.finfo(float).eps * whole[..., None])
    return 10 * np.log10(np.stack([target, target, explained], axis=-1) / errors)


def _energies(gram: Array, products: Array) -> Array:
    """d' G^-1 d for each d, a row of `products` `[shape=(..., n)]`."""
    rows = products.reshape(-1, len(gram))
    return np.sum(rows * np.linalg.solve(gram, rows.T).T, axis=1).reshape(products.shape[:-1])


# ------------------------------------------------------------------------------------------------------------- one clip


@dataclass(frozen=True)
class Row:
    """One clip's figures, dB: (NSDR, SIR, SAR) by source."""

    name: str
    frames: int
    vocals: tuple[float, float, float]
    accompaniment: tuple[float, float, float]
    failed: int = 0  # hops whose mask was not the network's

    @property
    def singer(self) -> str:
        """Of MIR-1K's singer_song_clip."""
        return self.name.split("_")[0]

    @property
    def song(self) -> str:
        """Singer and song."""
        return "_".join(self.name.split("_")[:2])


def measure(name: str, references: Array, estimates: Array, failed: int = 0) -> Row:
    """Hold `estimates` against `references`, both `[shape=(2, samples)]`, in the order of `SOURCES`.

    The references have the loudness that they have in the mixture: the mixture is their sum.
    """
    mixture = np.broadcast_to(references.sum(axis=0), references.shape)
    ratios, before = bss_eval(references, np.stack([estimates, mixture]))
    ratios[:, 0] -= before[:, 0]
    figures = {source: tuple(map(float, r)) for source, r in zip(SOURCES, ratios, strict=True)}
    return Row(name, references.shape[1], failed=failed, **figures)  # type: ignore[arg-type]


def normalised(clip: NDArray[np.float32]) -> Array:
    """Each channel over its own L2 norm: what sounds equally loud sums to a mixture at 0 dB."""
    norms = np.linalg.norm(clip.astype(np.float64), axis=1, keepdims=True)
    if not norms.all():
        raise ValueError("a source is silent: expected sound in each; leave the clip out")
    return clip / norms


def separated(separator: Separator, mixture: Array, rate: int, level: float) -> Array:
    """The engine's estimates of the `SOURCES` in `mixture` `[shape=(channels, samples)]`, `[shape=(2, channels, samples)]`.

    The mixture is played at a peak of `level` dBFS and at the engine's rate; the estimates are brought back to the
    mixture's loudness and to `rate`.
    """
    gain = 10 ** (level / 20) / np.abs(mixture).max()
    played = _resampled(gain * mixture, rate, separator.sample_rate).astype(np.float32)
    hop = separator.geometry.hop_length
    hops = (played[:, i : i + hop] for i in range(0, played.shape[1], hop))
    stems = np.concatenate(list(offline.aligned(Frames(separator, together=False), hops)), axis=2)
    estimates = np.zeros((len(SOURCES), *mixture.shape))
    for estimate, source in zip(estimates, SOURCES, strict=True):
        stem = _resampled(stems[separator.sources.index(source)] / gain, separator.sample_rate, rate)
        n = min(stem.shape[1], mixture.shape[1])  # a round trip may end a sample off
        estimate[:, :n] = stem[:, :n]
    return estimates


def _resampled(x: NDArray[Any], rate: int, to: int) -> NDArray[Any]:
    return x if rate == to else soxr.resample(x.T, rate, to, quality="VHQ").T


def failures(separator: Separator) -> int:
    """Hops since the last reset whose mask was not the network's."""
    return separator.counts["failed_steps"] + separator.counts["bad_masks"]


def clip_row(separator: Separator, path: Path, level: float) -> Row:
    """The figures of one clip through `separator`."""
    clip, rate = read(path)
    references = normalised(clip)
    estimates = separated(separator, references.sum(axis=0, keepdims=True), rate, level)
    return measure(path.stem, references, estimates[:, 0], failures(separator))


# ----------------------------------------------------------------------------------------------------------- many clips


def weighted(rows: Iterable[Row], source: str = "vocals") -> tuple[float, float, float]:
    """GNSDR, GSIR and GSAR of `source`, dB: means weighted by clip length."""
    rows = list(rows)
    means = np.average([getattr(r, source) for r in rows], axis=0, weights=[r.frames for r in rows])
    return tuple(round(float(m), 4) for m in means)  # type: ignore[return-value]


def clip_names(which: str, data: Path) -> list[str]:
    """Names from a list: a file, or the name of one in bench/sets or in the data folder.

    Raises
    ------
    QualityError
        no such list, or nothing in it.
    """
    places = [Path(which), SETS / f"{which}.txt", data / f"{which}.txt"]
    found = next((p for p in places if p.is_file()), None)
    if found is None:
        raise QualityError(f"set {which!r} is unknown: expected a file or one of public100, public, dev, train")
    names = [s for line in found.read_text().splitlines() if (s := line.split("#")[0].strip())]
    if not names:
        raise QualityError(f"set {found} names 0 clips: expected one name a line")
    return names


_separator: Separator  # of this worker process


def _start(model: Path, rate: int, provider: str) -> None:
    global _separator
    _separator = Separator(load(model), rate, 1, provider)


def _work(path: Path, level: float) -> Row:
    return clip_row(_separator, path, level)


def clip_rows(model: Model, paths: list[Path], rate: int, level: float, provider: str, jobs: int) -> Iterator[Row]:
    """The figures of all clips, in order, by `jobs` processes with one thread each."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # the workers': they share the cores already
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start, (model.path.resolve(), rate, provider)) as pool:
        yield from pool.map(_work, paths, [level] * len(paths))


# --------------------------------------------------------------------------------------------------------------- a song


def sdr(reference: Array, estimate: Array) -> float:
    """Energy of the reference over that of the error, all channels together, dB."""
    return float(10 * np.log10(np.sum(reference**2) / np.sum((reference - estimate) ** 2)))


def si_sdr(reference: Array, estimate: Array) -> float:
    """SDR after the reference was scaled to fit the estimate best (Le Roux et al., 2019), dB."""
    return sdr(reference * (np.sum(reference * estimate) / np.sum(reference**2)), estimate)


def song_stems(song: Path) -> tuple[Array, int]:
    """True stems of `song` (a path without `.vocals.*`) in the order of `SOURCES`, `[shape=(2, channels, samples)]`; rate."""
    loaded = [read(_stem(song, source)) for source in SOURCES]
    kinds = {(rate, len(x)) for x, rate in loaded}
    if len(kinds) != 1:
        raise QualityError(f"stems of {song} have rates and channels {sorted(kinds)}: expected the same; convert one")
    frames = min(x.shape[1] for x, _ in loaded)
    return np.stack([x[:, :frames] for x, _ in loaded]).astype(np.float64), loaded[0][1]


def song_report(separator: Separator, references: Array, rate: int, level: float) -> dict[str, Any]:
    """SDR and SI-SDR of the estimates of `references` (see `song_stems`) and what they gain over the mixture, dB."""
    mixture = references.sum(axis=0)
    estimates = separated(separator, mixture, rate, level)
    report: dict[str, Any] = {"seconds": round(mixture.shape[1] / rate, 1)}
    for source, reference, estimate in zip(SOURCES, references, estimates, strict=True):
        report[source] = {
            "sdr": sdr(reference, estimate),
            "sdr_gain": sdr(reference, estimate) - sdr(reference, mixture),
            "si_sdr": si_sdr(reference, estimate),
            "si_sdr_gain": si_sdr(reference, estimate) - si_sdr(reference, mixture),
        }
    return report | {"failed_hops": failures(separator)}


def _stem(song: Path, source: str) -> Path:
    found = sorted(song.parent.glob(f"{song.name}.{source}.*"))
    if not found:
        raise QualityError(f"stem {song}.{source}.* does not exist: expected a stem for each of {', '.join(SOURCES)}")
    return found[0]


# -------------------------------------------------------------------------------------------------------------- reports


def clips_report(rows: list[Row]) -> dict[str, Any]:
    """All figures of a set of clips, dB."""
    by_singer = defaultdict(list)
    for row in rows:
        by_singer[row.singer].append(row)
    clean = [r for r in rows if r.song not in SHARED_BACKING]
    return {
        "clips": len(rows),
        "vocals": _named(weighted(rows)),
        "accompaniment": _named(weighted(rows, "accompaniment")),
        "clean": {"clips": len(clean)} | (_named(weighted(clean)) if clean else {}),
        "singers": {s: {"clips": len(of)} | _named(weighted(of)) for s, of in sorted(by_singer.items())},
        "failed_hops": sum(r.failed for r in rows),
        "rows": [asdict(r) for r in rows],
    }


def _named(figures: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("gnsdr", "gsir", "gsar"), figures, strict=True))


def provenance(model: Model, separator: Separator, level: float) -> dict[str, Any]:
    """What the figures were measured with."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    return {
        "model": model.contract.name,
        "precision": model.contract.precision,
        "sha256": hashlib.sha256(model.path.read_bytes()).hexdigest()[:12],
        "latency_ms": model.contract.latency_ms,
        "rate": separator.sample_rate,
        "peak_dbfs": level,
        "provider": separator.network.provider,
        "commit": commit or "none",
        "machine": f"{platform.system()} {platform.machine()}",
    }


def clips_table(report: dict[str, Any]) -> str:
    """A clips report for people."""
    lines = [f"{'':24}{'clips':>6}{'GNSDR':>8}{'GSIR':>8}{'GSAR':>8}  dB"]

    def line(label: str, clips: int, figures: dict[str, float]) -> None:
        lines.append(f"{label:24}{clips:6}" + "".join(f"{figures[k]:8.2f}" for k in ("gnsdr", "gsir", "gsar")))

    line("vocals", report["clips"], report["vocals"])
    if 0 < report["clean"]["clips"] < report["clips"]:
        line("  no shared backing", report["clean"]["clips"], report["clean"])
    line("accompaniment", report["clips"], report["accompaniment"])
    line("(paper, vocals)", 825, _named(PAPER))
    for singer, figures in report["singers"].items():
        line(f"  {singer}", figures["clips"], figures)
    return "\n".join(lines)


def song_table(report: dict[str, Any]) -> str:
    """A song report for people."""
    keys = ("sdr", "sdr_gain", "si_sdr", "si_sdr_gain")
    lines = [f"{report['song']:16}" + "".join(f"{k.upper().replace('_', ' '):>13}" for k in keys) + "  dB"]
    lines += [f"{s:16}" + "".join(f"{report[s][k]:13.2f}" for k in keys) for s in reversed(SOURCES)]
    return "\n".join(lines)


def stamp(model: Model, report: dict[str, Any]) -> None:
    """Write the figures of a set of clips into the contract of the model's file, replaced whole."""
    import onnx

    figures = {
        "voice_gnsdr_db": round(report["vocals"]["gnsdr"], 2),
        "voice_gsir_db": round(report["vocals"]["gsir"], 2),
        "voice_gsar_db": round(report["vocals"]["gsar"], 2),
        "accompaniment_gnsdr_db": round(report["accompaniment"]["gnsdr"], 2),
        "conditions": f"{report['clips']} clips of MIR-1K ({report['set']}) at {report['rate']} Hz, BSS Eval v3, 0 dB mixtures "
        f"with their peak {report['peak_dbfs']:g} dBFS, cold start, hop by hop through the runtime",
    }
    contract = model.contract.model_copy(update={"quality": model.contract.quality | figures})
    proto = onnx.load(model.path)
    onnx.helper.set_model_props(proto, {METADATA_KEY: contract.model_dump_json()})
    temporary = model.path.with_name(f".{model.path.name}.partial")
    onnx.save(proto, temporary)
    os.replace(temporary, model.path)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, text = (__doc__ or "").partition("\n\n")
    p = argparse.ArgumentParser(description=summary, epilog=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, help="shipped name or .onnx file")
    p.add_argument("--set", default="public100", help="list of clips: a file, public100, public, dev (%(default)s)")
    p.add_argument("--data", type=Path, default=DATA, help="MIR-1K folder (%(default)s)")
    p.add_argument("--song", type=Path, help="measure DIR/NAME.vocals.* and .accompaniment.* instead")
    p.add_argument("--rate", type=int, help="the engine's rate, Hz (the sound's own)")
    p.add_argument("--level", type=float, default=-6.0, help="peak of the mixture, dBFS (%(default)s)")
    p.add_argument("--provider", default="auto", choices=("auto", "cpu", "cuda"))
    p.add_argument("--stamp", action="store_true", help="also write a set's figures into the model file's contract")
    p.add_argument("--jobs", type=int, default=1, help="processes (%(default)s)")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command line asks for, as a report."""
    model = load(arguments.model)
    missing = set(SOURCES) - set(model.contract.sources)
    if missing:
        raise QualityError(f"model {model.path} has no source {', '.join(missing)}: expected {', '.join(SOURCES)}")
    level, provider = arguments.level, arguments.provider
    if arguments.song:
        references, rate = song_stems(arguments.song)
        separator = Separator(model, arguments.rate or rate, references.shape[1], provider)
        head = provenance(model, separator, level) | {"song": arguments.song.name}
        return head | song_report(separator, references, rate, level)
    paths = [arguments.data / "clips" / f"{name}.flac" for name in clip_names(arguments.set, arguments.data)]
    rate = arguments.rate or read(paths[0])[1]
    head = provenance(model, Separator(model, rate, 1, provider), level) | {"set": arguments.set}  # fails here, not in a worker
    rows = []
    for row in clip_rows(model, paths, rate, level, provider, arguments.jobs):
        rows.append(row)
        if sys.stderr.isatty():
            print(f"\r{len(rows)}/{len(paths)}", end="\r", file=sys.stderr)
    return head | clips_report(rows)


def main() -> None:
    """Measure and print; one line and exit code 1 when it cannot be done."""
    arguments = parser().parse_args()
    try:
        report = run(arguments)
    except (StreamsepError, ValueError) as error:
        sys.exit(f"quality: {error}")
    if arguments.stamp and not arguments.song:
        stamp(load(arguments.model), report)
    if arguments.json:
        print(json.dumps(report, indent=1))
        return
    print(f"model {report['model']} {report['precision']} {report['sha256']}, commit {report['commit']}")
    print(f"engine at {report['rate']} Hz, mixture's peak at {report['peak_dbfs']:g} dBFS\n")
    print(song_table(report) if arguments.song else clips_table(report))
    if report["failed_hops"]:
        print(f"\nwarning: {report['failed_hops']} hops ran without the network: the figures are not its own")


if __name__ == "__main__":
    main()
