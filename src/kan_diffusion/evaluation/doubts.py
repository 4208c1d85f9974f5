r"""Doubts about a trained model: one sentence where it fits badly, with what to change.

A classifier is given n drawn and n held-out rows. On rows of one distribution its accuracy is 1/2
with a standard deviation s of about :math:`1 / (2 \sqrt{2n})`. The model is doubted if the accuracy
is above 1/2 + 4 s and above 0.7. Training was too short if the held-out loss fell by more than 8 %
in the second half of the steps. (With a learning rate that decays to zero the last steps change
little, however short a run is.)
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from kan_diffusion.evaluation.metrics import c2st
from kan_diffusion.training import TrainingConfig, TrainingResult

__all__ = ["TOLD_APART_ROWS", "training_doubt"]

TOLD_APART_ROWS = 1000
"""Most rows of a side for the classifier; more would take longer than a second."""

_TOLD_APART = 0.7
_FALLING = 0.08
_FEW_STEPS = 1000
_BY_HEART = 0.02
"""Relative rise of the held-out loss above its minimum beyond which the model has overfitted."""


def training_doubt(
    result: TrainingResult,
    config: TrainingConfig,
    num_parameters: int,
    drawn: Tensor,
    heldout: Tensor,
    generator: np.random.Generator,
) -> str | None:
    """Says whether a model is too small, overfitted or trained too briefly, and what to change.

    Args:
        result: Result of its training, with held-out losses.
        config: Settings of its training.
        num_parameters: Number of its trainable parameters.
        drawn: Rows it drew, encoded, with shape (n, d).
        heldout: Rows it was not trained on, encoded, with shape (m, d).
        generator: Source of the classifier's draws.

    Returns:
        A sentence; None if there is no doubt, or too little was held out to tell.
    """
    size = min(len(drawn), len(heldout), TOLD_APART_ROWS)
    accuracy = c2st(drawn, heldout, generator, max_points=size) if size > 1 else 0.5
    chance = max(_TOLD_APART, 0.5 + 2 / math.sqrt(2 * max(size, 1)))
    steps, looks = len(result.losses), result.heldout_losses
    losses = [loss for _, loss in looks]
    half = [loss for step, loss in looks if step <= steps / 2]
    fall = 1 - losses[-1] / half[-1] if half else 0.0
    symptoms = []
    if accuracy > chance:
        symptoms.append(
            f"a classifier tells drawn rows from held-out ones in {accuracy:.0%} of cases, and "
            "50% is chance"
        )
    if fall > _FALLING:
        symptoms.append(f"the held-out loss fell by {fall:.0%} in the second half of the steps")
    if not symptoms:
        return None
    if result.ending == "time":
        limit = "processor_seconds" if config.max_seconds is None else "max_seconds"
        seconds = getattr(config, limit)
        remedy = f"{limit}={seconds:g} ended training after {steps:,} steps; raise it"
    elif losses[-1] / min(losses) - 1 > _BY_HEART:
        remedy = (
            "it learns the rows of training by heart; give it more rows, or fewer params than "
            f"{num_parameters:,}"
        )
    elif fall > _FALLING or config.steps < _FEW_STEPS:
        remedy = f"it has not converged; raise steps from {config.steps:,} to {4 * config.steps:,}"
    else:
        remedy = f"it is too small; raise params from {num_parameters:,} to {4 * num_parameters:,}"
    return f"the model does not fit the table well: {'; '.join(symptoms)}: {remedy}"
