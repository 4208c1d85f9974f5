"""Encoded rows of a table, apart from the sources that make them, which import no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd
from torch import Tensor

from kan_diffusion.data.coordinates import CoordinateMap
from kan_diffusion.data.datasets import Dataset
from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.randomness import numpy_generator
from kan_diffusion.tables.codec import TableCodec


@dataclass(frozen=True, kw_only=True)
class TableDataset(Dataset):
    """Encoded rows of a table.

    Attributes:
        codec: The map between rows and encoded rows.
    """

    codec: TableCodec
    heldout: Tensor = field()

    @property
    def maps(self) -> tuple[CoordinateMap, ...]:
        """How each coordinate follows from the cells of a row."""
        return self.codec.maps


def encoded(
    name: str, frame: pd.DataFrame, codec: TableCodec, parts: tuple[Tensor, Tensor], seed: int
) -> TableDataset:
    """Encodes the rows of a frame; ``parts`` are indices of rows to train on and held out."""
    rows = codec.encode(frame, numpy_generator("encoding", seed))
    train, heldout = parts
    return TableDataset(
        name=name,
        columns=codec.names,
        standardizer=Standardizer.identity(codec.dim),
        train=rows[train],
        heldout=rows[heldout].double(),
        codec=codec,
    )
