import signal

import numpy as np
import pytest
from sklearn.utils.estimator_checks import check_estimator

from kan_diffusion import DiffusionEstimator
from kills import run_until
from mixed_tables import people

QUICK = {"params": 2300, "steps": 3, "batch_size": 16, "device": "cpu", "random_state": 0}


# Skipped by scikit-learn itself unless SCIPY_ARRAY_API is set.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learn_accepts_it():
    results = check_estimator(DiffusionEstimator(**QUICK), on_fail=None)
    assert [result for result in results if result["status"] == "failed"] == []
    assert sum(result["status"] == "passed" for result in results) >= 30


def test_what_is_missing_and_what_goes_together_is_learned():
    real = people(600, 0)
    settings = {"params": 30_000, "steps": 1800, "batch_size": 256, "learning_rate": 5e-3}
    model = DiffusionEstimator("mlp", **settings, device="cpu", random_state=0).fit(real)
    drawn = model.sample(2000)
    for name in ("score", "job"):
        assert drawn[name].isna().mean() == pytest.approx(real[name].isna().mean(), abs=0.06)
    # Of the gaps in scores most have no job either, and no others.
    gaps = drawn["score"].isna()
    assert drawn.loc[gaps, "job"].isna().mean() > 0.5 > 5 * drawn.loc[~gaps, "job"].isna().mean()
    expected = real[["age", "score", "income"]].corr()
    assert (drawn[["age", "score", "income"]].corr() - expected).abs().to_numpy().max() < 0.2
    told = model.sample(300, conditions={"age": (18, 25)})
    assert told["score"].median() < -0.8
    known = people(400, 1).dropna()
    draws = model.impute(known.assign(score=np.nan), draws=8)
    filled = np.mean([whole["score"] for whole in draws], axis=0)
    assert np.corrcoef(filled, known["score"])[0, 1] > 0.6


def test_a_model_saved_over_another_is_the_old_one_or_the_new_one(tmp_path):
    points = np.random.default_rng(0).normal(1000.0, 50.0, (60, 2))
    old, new = (DiffusionEstimator("mlp", **QUICK).fit(shift + points) for shift in (0, 9000))
    drawn = [model.sample(5) for model in (old, new)]
    old.save(tmp_path)
    write = 0
    while run_until(write, tmp_path, new.save, tmp_path) == -signal.SIGKILL:
        again = DiffusionEstimator.load(tmp_path).sample(5)
        assert any(np.array_equal(again, rows) for rows in drawn)  # the old one or the new one
        old.save(tmp_path)
        np.testing.assert_array_equal(DiffusionEstimator.load(tmp_path).sample(5), drawn[0])
        write += 1
    assert write > 5
    np.testing.assert_array_equal(DiffusionEstimator.load(tmp_path).sample(5), drawn[1])
