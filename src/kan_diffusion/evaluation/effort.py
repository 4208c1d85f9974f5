"""How much is computed to judge a model: what a comparison needs, or a first look.

The numbers of a first look estimate the same quantities from fewer draws, so they scatter more: it
decides nothing. How many samples a first look takes is said by their source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

EffortName = Literal["full", "quick"]


@dataclass(frozen=True)
class Effort:
    """Amounts of what is computed to judge a model; the defaults are those of a comparison.

    Attributes:
        trees: Trees of the forests, and of boosted trees, that tell samples apart or learn from
            them.
        likelihood_steps: Steps of the integration of a likelihood.
    """

    trees: int = 60
    likelihood_steps: int = 50


EFFORTS: Mapping[EffortName, Effort] = {
    "full": Effort(),
    "quick": Effort(trees=5, likelihood_steps=5),
}
"""The efforts by name."""
