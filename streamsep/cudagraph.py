"""CUDA graphs of a network's turns: captured in the thread that will replay them, and compared before they are used.

A captured graph is one launch in place of some dozens. ONNX Runtime captures the runs that carry a graph's number
(`gpu_graph_id`), and this is what it leaves to its user:

  - A graph belongs to the thread whose runs captured it: another thread's first run would capture again, for a tenth of a
    second. So the thread that steps calls `capture` itself, before there is sound.
  - A graph holds addresses. Each way from one set of tensors to another needs a number of its own; with one number for both,
    every second step would begin with the state before the last (onnxruntime-genai #2446).
  - Capturing runs the network three times (#32243), and a replay does not look at what is handed over (#29782).
  - While a graph is captured no other thread of the process may allocate CUDA memory or wait for a stream: either would fail.
    So only those capture who have the device to themselves (`Live`, the benchmark), not the files of `separate --jobs`.

It knows how to try and to compare; what a turn is, its user knows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .ortsession import Session

TOLERANCE = 1e-4  # of a mask: the same arithmetic, but cuBLAS may choose another order of sums
REPLAYED, CAPTURED = 1, 2  # seeds of the two inputs

Masks = NDArray[np.float32]


def capture(
    session: Session, plain: int, numbered: list[int], options: NDArray[np.int64], play: Callable[[int], Masks | None]
) -> bool:
    """Let the turns of `options` be replayed graphs; False, and a note in `session`, where they give other masks than runs.

    Parameters
    ----------
    plain, numbered
        OrtRunOptions pointers: of runs that are no graph, and with a graph's number for each turn.
    options : int64 [shape=(turns,)]
        what the turns run with: `numbered` after, or `plain`. Before it may be either: another thread may have captured.
    play
        gives the masks of all turns one after the other on input from a seed, None when a run failed.
    """
    options[:] = plain
    expected = play(REPLAYED)
    options[:] = numbered
    done = play(CAPTURED)  # on other input: a graph that reads what it was captured with is found out
    masks = play(REPLAYED) if done is not None else None
    if expected is not None and masks is not None and np.abs(masks - expected).max() <= TOLERANCE:
        return True
    options[:] = plain
    why = session.error or "a replayed graph gave other masks than a run"
    session.forgive()
    session.notes[:] = [f"cuda: no CUDA graph: {why}"]
    return False
