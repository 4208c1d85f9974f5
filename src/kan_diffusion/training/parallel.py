"""Several processes that train one model, as ``torchrun`` starts them.

Each takes its part of every batch. One sum over the processes, of the one vector of gradients,
makes their steps those of a single process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Joins the processes that ``torchrun`` has started, if it has, inside the block.

    Yields:
        Where this process computes; of several GPUs its own.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def wait() -> None:
    """Waits until all processes are here."""
    if num_processes() > 1:
        distributed.barrier()


def num_processes() -> int:
    """The number of processes that train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rows_here(total: int) -> slice:
    """The rows of a batch of ``total`` that are this process's part; there may be none."""
    size = num_processes()
    rank = distributed.get_rank() if size > 1 else 0
    return slice(total * rank // size, total * (rank + 1) // size)


def sum_over_processes(gradient: Tensor, loss: Tensor) -> Tensor:
    """Sums a gradient (P,) in place, and returns the sum of the losses."""
    if num_processes() == 1:
        return loss
    both = torch.cat([gradient, loss.reshape(1).to(gradient)])
    distributed.all_reduce(both)
    gradient.copy_(both[:-1])
    return both[-1]


def mean(value: float, device: torch.device) -> float:
    """The mean of a number over the processes, so that all decide alike."""
    if num_processes() == 1:
        return value
    total = torch.tensor(value, device=device)
    distributed.all_reduce(total)
    return float(total) / num_processes()
