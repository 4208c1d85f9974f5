"""What is found out about a trained denoiser, as one thing that can be shown and saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kan_diffusion.symbolic.search import EdgeReport
from kan_diffusion.symbolic.views import LevelView, NetworkView, ScoreView

__all__ = ["Explanation", "LevelFormula", "Standing"]


@dataclass(frozen=True)
class LevelFormula:
    """The formula at one noise level.

    Attributes:
        level: The level.
        score: The score's coordinates in LaTeX.
        ranges: Smallest and largest value of each coordinate it was checked on, (d, 2).
        error: Root mean square difference of its predicted noise from the network's with formulas.
    """

    level: LevelView
    score: tuple[str, ...]
    ranges: NDArray[np.float64]
    error: float


@dataclass(frozen=True)
class Standing:
    """How one denoiser of the explanation does.

    Attributes:
        name: ``"network"``, ``"simplified"``, ``"with formulas"`` or ``"formula"``.
        edges: Number of edges; None for one that has none.
        constants: Number of parameters that have an effect.
        loss: Held-out loss.
        floor: The oracle's loss; None without one.
        excess: Excess over the oracle; None without one.
        metrics: Sample metrics by name; empty where it was not sampled.
        real: The same between two samples of real points.
        trouble: Why it could not be sampled; empty where it could, or was not asked to.
    """

    name: str
    edges: int | None
    constants: int
    loss: float
    floor: float | None
    excess: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    real: Mapping[str, float] = field(default_factory=dict)
    trouble: str = ""


@dataclass
class Explanation:
    """An explanation.

    Attributes:
        title: What was explained, in words.
        columns: Names of the coordinates.
        command: What makes this explanation again.
        network: The network as it was trained.
        simplified: What is left of it after pruning and straightening; None where not asked for.
        readable: With formulas in place of curves; None where they were not looked for.
        score: Scores of these and of the formula beside the exact one.
        edges: What became of each edge of the simplified network.
        standings: How each of them does.
        sentences: What was found, in words, the most important first.
        formula: The score's coordinates in LaTeX at all noise levels; None where there is no such
            formula.
        noise: The predicted noise likewise.
        level_formulas: The formulas at single levels; empty where curves are left.
        samples: Generated points in standardised coordinates, by name; real ones under ``"real"``.
    """

    title: str
    columns: tuple[str, ...]
    command: str
    network: NetworkView
    score: ScoreView
    simplified: NetworkView | None = None
    readable: NetworkView | None = None
    edges: tuple[EdgeReport, ...] = ()
    standings: tuple[Standing, ...] = ()
    sentences: tuple[str, ...] = ()
    formula: tuple[str, ...] | None = None
    noise: tuple[str, ...] | None = None
    level_formulas: tuple[LevelFormula, ...] = ()
    samples: dict[str, NDArray[np.float64]] = field(default_factory=dict)
