r"""Diagnostics of a trained model: one sentence where it fits badly, with what to change.

A classifier is given n drawn and n held-out rows. On rows of one distribution its accuracy is 1/2
with a standard deviation s of about :math:`1 / (2 \sqrt{2n})`. A model fits badly if the accuracy
is above 1/2 + 4 s and above 0.7. Training was too short if the held-out loss fell by more than 8 %
in the second half of the steps. (With a learning rate that decays to zero the last steps change
little, however short a run is.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from kan_diffusion.errors import listed
from kan_diffusion.training.config import TrainingConfig
from kan_diffusion.training.loop import TrainingResult

DIAGNOSED_ROWS = 1000
"""Most rows of a side for the classifier; more would take longer than a second."""

_DISTINGUISHED = 0.7
_FALLING = 0.08
_FEW_STEPS = 1000
_SHOWN = 3
_BY_HEART = 0.02
"""Relative rise of the held-out loss above its minimum beyond which the model has overfitted, if
the loss fell by less in the second half of the steps."""


class Distinction(NamedTuple):
    """How well a classifier distinguishes drawn rows from held-out ones.

    Attributes:
        accuracy: Of a classifier; 0.5 is a guess.
        columns: Columns that give drawn rows away by themselves.
    """

    accuracy: float
    columns: Sequence[str] = ()


def training_diagnosis(
    result: TrainingResult,
    config: TrainingConfig,
    num_parameters: int,
    distinction: Distinction,
    num_rows: int,
) -> str | None:
    """Says whether a model is too small, overfitted or trained too briefly, and what to change.

    Args:
        result: Result of its training, with held-out losses.
        config: Settings of its training.
        num_parameters: Number of its trainable parameters.
        distinction: How well rows that it drew differ from those that it was not trained on.
        num_rows: Number n of rows of each of the two.

    Returns:
        A sentence; None if there is nothing to say, or too little was held out to tell.
    """
    accuracy, columns = distinction
    chance = max(_DISTINGUISHED, 0.5 + 2 / math.sqrt(2 * max(num_rows, 1)))
    steps, validation = len(result.losses), result.heldout_losses
    losses = [loss for _, loss in validation]
    half = [loss for step, loss in validation if step <= steps / 2]
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
    elif losses[-1] / min(losses) - 1 > max(_BY_HEART, fall):
        remedy = (
            "it learns the rows of training by heart; give it more rows, or fewer params than "
            f"{num_parameters:,}"
        )
    elif fall > _FALLING or config.steps < _FEW_STEPS:
        remedy = f"it has not converged; raise steps from {config.steps:,} to {4 * config.steps:,}"
    elif columns:
        remedy = (
            f"columns that give rows away by themselves: {listed(columns, _SHOWN)}; see whether "
            "their kinds are right"
        )
    else:
        remedy = f"it is too small; raise params from {num_parameters:,} to {4 * num_parameters:,}"
    return f"the model does not fit the table well: {'; '.join(symptoms)}: {remedy}"
