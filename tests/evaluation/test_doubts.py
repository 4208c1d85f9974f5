import re
from types import SimpleNamespace

import numpy as np
import pytest

from helpers import randn
from kan_diffusion.evaluation.doubts import training_doubt
from kan_diffusion.training import TrainingConfig

HELDOUT = randn(100, 3)
FELL = (500, 2.0), (1000, 0.8), (2000, 0.4)
STAYED = (500, 0.9), (1000, 0.8), (2000, 0.79)
ROSE = (500, 0.9), (1000, 0.8), (2000, 0.9)


@pytest.mark.parametrize(
    ("looks", "moved", "settings", "remedy"),
    [
        (STAYED, 0, {}, None),
        (ROSE, 0, {}, None),
        (FELL, 2, {}, "the held-out loss fell by 50% in .*; raise steps from 2,000 to 8,000"),
        (STAYED, 2, {"steps": 60}, "it has not converged; raise steps from 60 to 240"),
        (STAYED, 2, {"max_seconds": 7}, "max_seconds=7 ended .*; raise it"),
        (STAYED, 2, {"processor_seconds": 7}, "processor_seconds=7 .* raise it"),
        (STAYED, 2, {}, "it is too small; raise params from 1,234 to 4,936"),
        (ROSE, 2, {}, "by heart; give it more rows, or fewer params than 1,234"),
    ],
)
def test_a_model_whose_rows_are_unlike_others_is_told_with_its_remedy(
    looks, moved, settings, remedy
):
    result = SimpleNamespace(
        losses=np.full(2000, 0.5),
        heldout_losses=looks,
        ending="time" if settings.keys() - {"steps"} else "finished",
    )
    config, random = TrainingConfig(**{"steps": 2000, **settings}), np.random.default_rng(0)
    doubt = training_doubt(result, config, 1234, randn(100, 3, seed=1) + moved, HELDOUT, random)
    if remedy is None:
        assert doubt is None
        return
    assert doubt.startswith("the model does not fit the table well: a classifier tells drawn rows")
    assert "\n" not in doubt
    assert re.search(remedy, doubt), doubt
