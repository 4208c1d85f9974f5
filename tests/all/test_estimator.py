"""Estimators of every family, what they learn, and models saved over others."""

import warnings
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.estimator_checks import check_estimator

from helpers import refused, seeded
from kan_diffusion import FAMILIES, DiffusionEstimator
from kan_diffusion.data.densities import GaussianMixture
from kan_diffusion.errors import RunFolderError
from kan_diffusion.table_pipeline import TableDiffusionPipeline
from mixed_tables import people

QUICK = {"params": 2300, "steps": 3, "batch_size": 16, "device": "cpu", "random_state": 0}
LEARN = {"learning_rate": 1e-2, "device": "cpu", "random_state": 0}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.parametrize(
    ("family", "params"),
    [*((family, 2300) for family in FAMILIES), ("kan-fourier-inputs", 200), ("rbf-2015", 20_000)],
)
def test_scikit_learn_accepts_every_family(family, params):
    model = DiffusionEstimator(family=family, **{**QUICK, "params": params})
    results = check_estimator(model, on_fail=None)
    assert [result for result in results if result["status"] == "failed"] == []
    assert sum(result["status"] == "passed" for result in results) >= 30


def test_columns_far_from_zero_come_back_with_their_decimals(caplog):
    """Time stamps with three decimals over an hour, and columns of sizes float32 has not."""
    generator = np.random.default_rng(0)
    stamps = np.round(1.7e9 + generator.uniform(0, 3600, 400), 3)
    others = generator.normal(3, 1, (2, 400)).T * [1e-300, 1e299]
    model = DiffusionEstimator("mlp", steps=300, batch_size=128, device="cpu", random_state=0)
    samples = model.fit(np.column_stack([stamps, others])).sample(2000)
    assert not caplog.records
    assert set(np.round(1000 * samples[:, 0]) % 10) == set(range(10))  # the third decimal
    scaled = (samples - [1.7e9 + 1800, 3e-300, 3e299]) / [1e3, 1e-300, 1e299]
    assert (np.median(np.abs(scaled), axis=0) < 1.5).all()


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


def test_densities_are_those_of_a_known_mixture_and_integrate_to_one():
    mixture = GaussianMixture([[-1.5, 0.0], [1.5, 1.0]], variances=0.5)
    points = mixture.sample(20_000, seeded()).numpy()
    model = DiffusionEstimator("mlp", params=4000, steps=1500, batch_size=512, **LEARN).fit(points)
    fresh = mixture.sample(300, seeded(1))
    error = model.score_samples(fresh.numpy()) - mixture.log_density(fresh, 1.0, 1e-9).numpy()
    assert abs(error.mean()) < 0.03
    assert np.abs(error).mean() < 0.12
    axes = np.linspace(-6, 7, 53)
    grid = np.stack(np.meshgrid(axes, axes), axis=-1).reshape(-1, 2)
    total = np.exp(model.score_samples(grid)).sum() * (axes[1] - axes[0]) ** 2
    assert total == pytest.approx(1, abs=0.02)


def _points(num=60):
    return np.random.default_rng(0).normal(1000.0, 50.0, (num, 2))


def test_a_model_saved_over_another_is_whole_or_not_there(tmp_path, monkeypatch):
    old, new = (DiffusionEstimator("mlp", **QUICK).fit(shift + _points()) for shift in (0, 9000))
    drawn = [model.sample(5) for model in (old, new)]
    replace, left = Path.replace, [0]

    def killed_at(self, target):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed_at)
    for write in range(100):
        left[0] = 100
        old.save(tmp_path)
        np.testing.assert_array_equal(DiffusionEstimator.load(tmp_path).sample(5), drawn[0])
        left[0] = write
        try:
            new.save(tmp_path)
            break
        except KeyboardInterrupt:
            with refused("estimator.json", RunFolderError):
                DiffusionEstimator.load(tmp_path)
            with suppress(RunFolderError):  # the pipeline is whole with its index
                assert TableDiffusionPipeline.from_pretrained(tmp_path).codec == new.codec_
    assert write > 5
    np.testing.assert_array_equal(DiffusionEstimator.load(tmp_path).sample(5), drawn[1])


def test_arrays_stay_arrays_and_y_is_a_column_to_condition_on():
    generator = np.random.default_rng(0)
    y = generator.integers(0, 2, 500)
    points = np.column_stack([generator.normal(4.0 * y), generator.normal(size=500)])
    model = DiffusionEstimator("mlp", params=4000, steps=400, batch_size=256, **LEARN)
    drawn = model.fit(points, y).sample(y=np.repeat([0, 1], 200))
    assert isinstance(drawn, np.ndarray)
    assert drawn.shape == (400, 2)
    assert drawn[:200, 0].mean() == pytest.approx(0, abs=0.4)
    assert drawn[200:, 0].mean() == pytest.approx(4, abs=0.4)
    assert model.sample(9, y=1).shape == (9, 2)
    # The density without y is the sum over its classes.
    parts = [model.score_samples(points[:20], np.full(20, label)) for label in (0, 1)]
    shares = np.log([[(y == label).mean()] for label in (0, 1)])
    whole = logsumexp(np.array(parts) + shares, axis=0)
    np.testing.assert_allclose(model.score_samples(points[:20]), whole, atol=1e-3)
    with refused("fitted without y"):
        DiffusionEstimator(**QUICK).fit(points).sample(3, y=1)
    with refused("2 values and X 500 rows"):
        DiffusionEstimator(**QUICK).fit(points, [1, 2])


@pytest.mark.parametrize(
    ("y", "kind"),
    [
        (pd.date_range("2020-01-01", periods=60), "datetime"),
        (pd.Series(pd.to_timedelta(np.arange(60) ** 2, unit="h")), "continuous"),
        (pd.Series([Decimal(row) / 100 for row in range(60)]), "continuous"),
        (pd.Series([True, None, False] * 20, dtype="boolean"), "categorical"),
        ([1.0, 2.0, 3.0] * 20, "categorical"),
        (np.arange(60) % 30, "count"),
        ([f"class {row}" for row in range(60)], "categorical"),
    ],
)
def test_y_is_a_class_an_amount_or_a_date(y, kind):
    model = DiffusionEstimator("mlp", **QUICK).fit(_points(), y)
    assert model.codec_.columns[-1].kind == kind
    assert model.sample(y=np.asarray(y)[:2]).shape == (2, 2)
    gaps = _points()
    gaps[3, 0] = np.nan
    assert np.isfinite(model.impute(gaps)).all()
    with refused("y has 2 values for 1 rows"):
        model.sample(y=np.asarray(y)[:2], like=pd.DataFrame({0: [1.0]}))


def test_y_in_one_column_is_taken_with_the_warning_of_scikit_learn():
    points, y = _points(), np.array([[0], [1]] * 30)
    flat = DiffusionEstimator("mlp", **QUICK).fit(points, y[:, 0])
    for use in (lambda: clone(flat).fit(points, y), lambda: flat.sample(y=y[:4])):
        with pytest.raises(DataConversionWarning, match="column-vector y"):  # an error in tests
            use()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataConversionWarning)
        model = DiffusionEstimator("mlp", **QUICK).fit(points, y)
        np.testing.assert_array_equal(model.sample(y=y[:4]), flat.sample(y=y[:4, 0]))
