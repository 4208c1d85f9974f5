"""How much is computed to judge a model: what a comparison needs, or a first look.

The numbers of a first look estimate the same quantities from fewer draws, so they scatter more: it
decides nothing. How many samples a first look takes is said by their source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["EFFORTS", "Effort", "EffortName"]

EffortName = Literal["full", "quick"]


@dataclass(frozen=True)
class Effort:
    """Amounts of what is computed to judge a model; the defaults are those of a comparison.

    Attributes:
        trees: Trees of the forests, and of boosted trees, that tell samples apart or learn from
            them.
        likelihood_steps: Steps of the integration of a likelihood.
        fitted_points: Noised points that an explanation's networks are fine-tuned on.
        tune_steps: Most steps of fine-tuning at once in an explanation.
        formula_batches: Batches of points that a formula over noise levels is fitted to.
        formula_sweeps: Most rounds of changes, and of starts, in the search for its forms.
    """

    trees: int = 60
    likelihood_steps: int = 50
    fitted_points: int = 131_072
    tune_steps: int = 1_000_000
    formula_batches: int = 8
    formula_sweeps: int = 3


EFFORTS: Mapping[EffortName, Effort] = {
    "full": Effort(),
    "quick": Effort(
        trees=5,
        likelihood_steps=5,
        fitted_points=16_384,
        tune_steps=200,
        formula_batches=1,
        formula_sweeps=1,
    ),
}
"""The efforts by name."""
