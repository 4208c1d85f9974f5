"""What tests share: seeded generators."""

from __future__ import annotations

import torch


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of its own for every draw of a test."""
    return torch.Generator().manual_seed(seed)
