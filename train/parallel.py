"""One process or several: `torchrun --nproc-per-node N -m train CONFIG ...`, gloo between CPUs, NCCL between GPUs.

A step's mixtures do not depend on how many processes there are: each makes and hears its share of the batch's rows, and
DistributedDataParallel averages the gradients, so that a step of N processes is the step of one up to the order of sums
(dropout and the choice of carried states excepted: each process draws those for its own rows). What hangs on the clock or on a
signal is agreed upon, lest one process stops while the others wait for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn


class Group:
    """This process's place among those of a run.

    Parameters
    ----------
    device : where this process computes
    rank : its number
    size : how many there are
    """

    def __init__(self, device: torch.device, rank: int = 0, size: int = 1):
        self.device, self.rank, self.size = device, rank, size

    @property
    def lead(self) -> bool:
        """One process writes and prints."""
        return self.rank == 0

    def share(self, rows: int) -> range:
        """This process's rows of a batch."""
        each = rows // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model, its gradients averaged over the processes."""
        if self.size == 1:
            return model
        return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)

    def agree(self, seconds: float, loss: float, stop: bool) -> tuple[float, float, bool]:
        """The lead's clock, the mean loss, and whether anyone was asked to stop: the same in every process."""
        if self.size == 1:
            return seconds, loss, stop
        said = torch.tensor([seconds if self.lead else 0.0, loss / self.size, float(stop)], dtype=torch.float64)
        said = said.to(self.device)
        distributed.all_reduce(said)
        seconds, loss, asked = said.tolist()
        return seconds, loss, asked > 0

    def rows(self, tensor: Tensor) -> Tensor:
        """All processes' rows, in order; dimension 1 of `tensor` are this one's."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts, 1)

    def merge(self, mine: list[Any]) -> list[Any]:
        """All processes' items, this one's among them: those with number i, i + size, ... are process i's."""
        if self.size == 1:
            return mine
        parts: list[list[Any]] = [[] for _ in range(self.size)]
        distributed.all_gather_object(parts, mine)
        return [parts[i % self.size][i // self.size] for i in range(sum(map(len, parts)))]


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """The group that torchrun made this process part of, or a group of one, on `device`, "cpu" or "cuda"."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Group(torch.device(device))
        return
    place = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if device == "cuda" else torch.device("cpu")
    if device == "cuda":
        torch.cuda.set_device(place)
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield Group(place, distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
