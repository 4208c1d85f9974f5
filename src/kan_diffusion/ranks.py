"""Several processes that train one model, as ``torchrun`` and ``mpirun`` start them."""

from __future__ import annotations

import os

__all__ = ["leads"]

_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK")


def leads() -> bool:
    """Whether this process is the first or the only one, which writes files and prints."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)
