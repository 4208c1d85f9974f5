"""Random streams with names: what a stream draws depends on its name alone.

Every draw in the package comes from a generator made here from a list of words and numbers, such
as ``("noise", study_seed, trial_seed, step)``. Nothing depends on the order in which things are
drawn: step 1,000 of a resumed run draws what step 1,000 of an undisturbed run drew, and two trials
that share a stream's name share its draws, which is what a paired comparison needs.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def stream_seed(*name: str | int) -> int:
    """Computes the seed of a named stream: 63 bits of the SHA-256 of its name."""
    digest = hashlib.sha256(repr(name).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def torch_generator(*name: str | int) -> torch.Generator:
    """Makes a torch generator for a named stream, on the CPU."""
    import torch  # costs seconds, which what draws no tensors need not pay

    return torch.Generator().manual_seed(stream_seed(*name))


def numpy_generator(*name: str | int) -> np.random.Generator:
    """Makes a NumPy generator for a named stream."""
    return np.random.default_rng(stream_seed(*name))
