r"""Is a trained model any good? One sentence where it is not, with what to change.

A classifier is given n drawn and n held-out rows. On rows of one distribution its accuracy is 1/2
with a standard deviation of about :math:`1 / (2 \sqrt{2n})`; it is far above chance beyond four of
them, and beyond 0.7 in any case. Training was too short where the second half of the steps brought
the held-out loss down by more than 8 %. (With a learning rate that decays to zero the last steps
change little, however short a run is.)
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from kan_diffusion.evaluation.metrics import c2st
from kan_diffusion.training import TrainingConfig, TrainingResult

__all__ = ["TOLD_APART_ROWS", "training_doubt"]

TOLD_APART_ROWS = 1000
"""Most rows of a side that the classifier is given; more would cost more than a second."""

_FEWEST_ROWS = 20
_TOLD_APART = 0.7
_FALLING = 0.08
_FEW_STEPS = 1000
_BY_HEART = 0.02
"""Rise of the held-out loss after its lowest, where the rows of training are learned by heart."""


def training_doubt(
    result: TrainingResult,
    config: TrainingConfig,
    num_parameters: int,
    drawn: Tensor,
    heldout: Tensor,
    generator: np.random.Generator,
) -> str | None:
    """Says that a model is too small, or was not trained for long enough, and what to change.

    Args:
        result: What came of its training with held-out rows.
        config: How it was trained.
        num_parameters: Number of its trainable parameters.
        drawn: Rows it drew, encoded, with shape (n, d).
        heldout: Rows it was not trained on, encoded, with shape (m, d).
        generator: Source of the classifier's draws.

    Returns:
        A sentence, or None where there is nothing to say or too little was held out to tell.
    """
    size = min(len(drawn), len(heldout), TOLD_APART_ROWS)
    accuracy = 0.5
    if size >= _FEWEST_ROWS:
        accuracy = c2st(drawn, heldout, generator, max_points=size)
    told_apart = accuracy > max(_TOLD_APART, 0.5 + 4 / (2 * math.sqrt(2 * size)))
    fall = _fall(result)
    symptoms = []
    if told_apart:
        symptoms.append(
            f"a classifier tells drawn rows from held-out ones in {accuracy:.0%} of cases, and "
            "50% is chance"
        )
    if fall > _FALLING:
        symptoms.append(f"the held-out loss fell by {fall:.0%} in the second half of the steps")
    if not symptoms:
        return None
    taken = len(result.losses)
    if result.ending == "time":
        remedy = (
            f"max_seconds={config.max_seconds:g} ended training after {taken:,} steps; raise it"
        )
    elif _rise(result) > _BY_HEART:
        remedy = (
            "it learns the rows of training by heart; give it more rows, or fewer params than "
            f"{num_parameters:,}"
        )
    elif fall > _FALLING or config.steps < _FEW_STEPS:
        remedy = f"it has not converged; raise steps from {config.steps:,} to {4 * config.steps:,}"
    else:
        remedy = f"it is too small; raise params from {num_parameters:,} to {4 * num_parameters:,}"
    return f"the model does not fit the table well: {'; '.join(symptoms)}: {remedy}"


def _fall(result: TrainingResult) -> float:
    """Fall of the held-out loss over the second half of the steps, as a fraction of its end."""
    looks = result.heldout_losses
    half = [loss for step, loss in looks if step <= len(result.losses) / 2]
    return half[-1] / looks[-1][1] - 1 if half else 0.0


def _rise(result: TrainingResult) -> float:
    """How much higher than its lowest the held-out loss ended, as a fraction of the lowest."""
    losses = [loss for _, loss in result.heldout_losses]
    return losses[-1] / min(losses) - 1
