"""Encoded rows of a table, apart from the sources that make them, which import no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from kan_diffusion.data.datasets import Dataset
from kan_diffusion.tables.codec import TableCodec

__all__ = ["TableDataset"]


@dataclass(frozen=True, kw_only=True)
class TableDataset(Dataset):
    """Encoded rows of a table.

    Attributes:
        codec: The map between rows and encoded rows.
    """

    codec: TableCodec
    heldout: Tensor = field()
