r"""Size, steps, batch and learning rate that suit a table.

With n rows of d coordinates, V = n d values, P parameters and :math:`\eta` the learning rate of the
family, which was tuned at 2,300 parameters,

.. math:: P = 28\, V^{2/3}, \qquad \eta_P = \eta\, (2300 / P)^{1/4},

P between 1,500 and 500,000. The exponents and factors are measured, on tables from 150 x 4 to
100,000 x 50 (benchmarks/table_defaults.py, results/tables/defaults.json): a network that is too
small costs much more than one that is too large, since the weights that are kept are those of the
lowest held-out loss.
"""

from __future__ import annotations

from dataclasses import dataclass

from kan_diffusion.denoisers import get_family
from kan_diffusion.errors import KanDiffusionError

__all__ = ["Suggestion", "suggested"]

_FACTOR, _POWER = 28.0, 2 / 3
_FEWEST, _MOST = 1_500, 500_000
_TUNED_AT = 2_300
_HELD_OUT = 0.1
_MOST_HELD_OUT = 5_000
_FEWEST_ROWS = 10
"""Rows below which none is held out: too few would be left to learn from."""


@dataclass(frozen=True)
class Suggestion:
    """Settings of a denoiser and its training.

    Attributes:
        params: Number of trainable parameters at most.
        steps: Optimiser steps at most.
        batch_size: Rows a step.
        learning_rate: Peak learning rate.
        patience: Fraction of the steps without a better held-out loss after which training stops;
            None where no row is held out.
        heldout_rows: Number of rows to hold out of training.
    """

    params: int
    steps: int
    batch_size: int
    learning_rate: float
    patience: float | None
    heldout_rows: int


def suggested(
    num_rows: int, dim: int, family: str = "kan", params: int | None = None
) -> Suggestion:
    """Suggests settings for a table.

    Args:
        num_rows: Number n of rows, those that will be held out included.
        dim: Number d of coordinates of an encoded row.
        family: Kind of denoiser.
        params: Number of parameters, where it is settled: the learning rate follows from it.

    Raises:
        KanDiffusionError: The family is not known, or a number is below 1.
    """
    if min(num_rows, dim) < 1:
        raise KanDiffusionError(
            f"a table has at least one row and one coordinate, not {num_rows:,} and {dim:,}"
        )
    if params is None:
        params = round(min(max(_FACTOR * (num_rows * dim) ** _POWER, _FEWEST), _MOST))
    heldout = 0
    if num_rows >= _FEWEST_ROWS:
        heldout = min(round(_HELD_OUT * num_rows), _MOST_HELD_OUT)
    return Suggestion(
        params=params,
        steps=3000 if num_rows < 5_000 else 4000 if num_rows < 50_000 else 6000,
        batch_size=128 if num_rows < 1_000 else 256,
        learning_rate=get_family(family).learning_rate * min(1.0, (_TUNED_AT / params) ** 0.25),
        patience=0.2 if heldout else None,
        heldout_rows=heldout,
    )
