"""Signal ratios in dB: SDR, SI-SDR, and the SDR, SIR and SAR of BSS Eval v3. They know arrays and nothing else."""

import numpy as np
from numpy.typing import NDArray

TAPS = 512  # of the filter that BSS Eval forgives

Array = NDArray[np.float64]


def sdr(reference: Array, estimate: Array) -> float:
    """Energy of the reference over that of the error, all channels together. Nothing is forgiven."""
    return _db(np.sum(reference**2), np.sum((reference - estimate) ** 2))


def si_sdr(reference: Array, estimate: Array) -> float:
    """SDR after the reference was scaled to fit the estimate best (Le Roux et al., 2019): a gain is forgiven, no delay."""
    return sdr(reference * (np.sum(reference * estimate) / np.sum(reference**2)), estimate)


def _db(signal: float, error: float) -> float:
    """What is lost in rounding is no error: equal signals read 157 dB, not infinity."""
    return float(10 * np.log10(signal / max(error, np.finfo(float).eps * signal)))


def bss_eval(references: Array, estimates: Array, taps: int = TAPS) -> Array:
    """BSS Eval v3 (Vincent, Gribonval and Fevotte, 2006): SDR, SIR and SAR, `[shape=(sets, sources, 3)]`.

    With P_j the projection onto reference j delayed by 0 to taps - 1 samples and P that onto all references so delayed,
    estimate e = P_j e + (P - P_j) e + (1 - P) e: target, interference, artefacts. They are orthogonal, because P_j's space
    lies within P's, so three energies give every ratio, and no projected signal is needed:

        |P e|^2 = d' G^-1 d,   G = inner products of the delayed references,   d = those of them with e.

    A filter of `taps` is forgiven, and with it a delay of less: who wants to see those looks at SI-SDR.

    Parameters
    ----------
    references : float64 [shape=(sources, samples)]
    estimates : float64 [shape=(sets, sources, samples)]
        estimate j of each set is held against reference j; there is no search for a permutation.

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
    errors = np.maximum(errors, np.finfo(float).eps * whole[..., None])  # as in `_db`
    return 10 * np.log10(np.stack([target, target, explained], axis=-1) / errors)


def _energies(gram: Array, products: Array) -> Array:
    """d' G^-1 d for each d, a row of `products` `[shape=(..., n)]`."""
    rows = products.reshape(-1, len(gram))
    return np.sum(rows * np.linalg.solve(gram, rows.T).T, axis=1).reshape(products.shape[:-1])
