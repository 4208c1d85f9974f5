import re
from types import SimpleNamespace

import numpy as np
import pytest

from helpers import randn
from kan_diffusion.evaluation.diagnostics import Distinction, training_diagnosis
from kan_diffusion.evaluation.metrics import c2st
from kan_diffusion.training.config import TrainingConfig

HELDOUT = randn(100, 3)
FELL = (500, 2.0), (1000, 0.8), (2000, 0.4)
STAYED = (500, 0.9), (1000, 0.8), (2000, 0.79)
ROSE = (500, 0.9), (1000, 0.8), (2000, 0.9)
WAVERED = (1000, 1.2), (1500, 0.95), (2000, 0.99)


@pytest.mark.parametrize(
    ("validation", "moved", "settings", "remedy"),
    [
        (STAYED, 0, {}, None),
        (ROSE, 0, {}, None),
        (FELL, 2, {}, "the held-out loss fell by 50% in .*; raise steps from 2,000 to 8,000"),
        (STAYED, 2, {"steps": 60}, "it has not converged; raise steps from 60 to 240"),
        (STAYED, 2, {"max_seconds": 7}, "max_seconds=7 ended .*; raise it"),
        (STAYED, 2, {"processor_seconds": 7}, "processor_seconds=7 .* raise it"),
        (STAYED, 2, {}, "it is too small; raise params from 1,234 to 4,936"),
        (WAVERED, 2, {}, "fell by 17% in .*: it has not converged; raise steps"),
        (ROSE, 2, {}, "by heart; give it more rows, or fewer params than 1,234"),
    ],
)
def test_a_model_whose_rows_are_unlike_others_is_named_with_its_remedy(
    validation, moved, settings, remedy
):
    result = SimpleNamespace(
        losses=np.full(2000, 0.5),
        heldout_losses=validation,
        ending="time" if settings.keys() - {"steps"} else "finished",
    )
    config, random = TrainingConfig(**{"steps": 2000, **settings}), np.random.default_rng(0)
    distinction = Distinction(c2st(randn(100, 3, seed=1) + moved, HELDOUT, random))
    said = training_diagnosis(result, config, 1234, distinction, 100)
    if remedy is None:
        assert said is None
        return
    assert said.startswith("the model does not fit the table well: a classifier tells drawn rows")
    assert "\n" not in said
    assert re.search(remedy, said), said
    if settings:
        return
    alone = training_diagnosis(result, config, 1234, Distinction(0.9, ["limit", "hours"]), 100)
    kinds = "give rows away by themselves: limit, hours; see whether their kinds are right"
    assert alone.endswith(kinds) == ("too small" in remedy)
