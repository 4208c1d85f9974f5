import re

import numpy as np
import pytest

from helpers import randn
from kan_diffusion.evaluation.doubts import training_doubt
from kan_diffusion.training import TrainingConfig, TrainingResult

HELDOUT = randn(100, 3)
FELL = (500, 2.0), (1000, 0.8), (2000, 0.4)
STAYED = (500, 0.9), (1000, 0.8), (2000, 0.79)
ROSE = (500, 0.9), (1000, 0.8), (2000, 0.9)


def _doubt(looks, drawn, steps=2000, ending="finished", **limits):
    """What is said of 2,000 steps with these losses on held-out rows."""
    result = TrainingResult(
        losses=np.full(2000, 0.5),
        learning_rates=np.full(2000, 0.01),
        heldout_losses=looks,
        best_step=min(looks, key=lambda look: look[1])[0],
        ending=ending,
        seconds=1.0,
        cpu_seconds=1.0,
        threads=1,
        resumed_from=0,
        out_of_range={},
    )
    config, random = TrainingConfig(steps=steps, **limits), np.random.default_rng(0)
    return training_doubt(result, config, 1234, drawn, HELDOUT, random)


@pytest.mark.parametrize("looks", [STAYED, ROSE])
def test_nothing_is_said_of_a_model_whose_rows_are_like_others(looks):
    assert _doubt(looks, randn(100, 3, seed=1)) is None


@pytest.mark.parametrize(
    ("looks", "settings", "remedy"),
    [
        (FELL, {}, "the held-out loss fell by 50% in .*; raise steps from 2,000 to 8,000"),
        (STAYED, {"steps": 60}, "it has not converged; raise steps from 60 to 240"),
        (STAYED, {"ending": "time", "max_seconds": 7}, "max_seconds=7 ended .*; raise it"),
        (STAYED, {"ending": "time", "processor_seconds": 7}, "processor_seconds=7 .* raise it"),
        (STAYED, {}, "it is too small; raise params from 1,234 to 4,936"),
        (ROSE, {}, "by heart; give it more rows, or fewer params than 1,234"),
    ],
)
def test_a_model_that_does_not_fit_is_told_with_its_remedy(looks, settings, remedy):
    doubt = _doubt(looks, HELDOUT + 2, **settings)
    assert doubt.startswith("the model does not fit the table well: a classifier tells drawn rows")
    assert "\n" not in doubt
    assert re.search(remedy, doubt), doubt
