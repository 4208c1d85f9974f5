from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

from helpers import refused
from kan_diffusion import FAMILIES, DiffusionEstimator, PointDiffusionPipeline

QUICK = {"params": 2300, "steps": 3, "batch_size": 16, "device": "cpu", "random_state": 0}


def _points(num: int = 400) -> np.ndarray:
    """Two correlated columns of very different size."""
    generator = np.random.default_rng(0)
    first = generator.normal(1000.0, 50.0, num)
    return np.column_stack([first, 0.001 * (first - 1000) + generator.normal(0, 0.02, num)])


# Skipped by scikit-learn itself unless SCIPY_ARRAY_API is set.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [
        DiffusionEstimator(family=family, **{**QUICK, "params": params})
        for family, params in (("kan", 2300), ("kan-fourier-inputs", 200), ("rbf-2015", 20_000))
    ]
)
def test_scikit_learn_accepts_it(estimator: DiffusionEstimator, check: object) -> None:
    check(estimator)


@pytest.mark.hard
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.parametrize("params", [200, 2300, 20_000])
@pytest.mark.parametrize("family", FAMILIES)
def test_scikit_learn_accepts_every_family_in_every_size(family: str, params: int) -> None:
    model = DiffusionEstimator(family=family, **{**QUICK, "params": params})
    results = check_estimator(model, on_fail=None)
    assert [result for result in results if result["status"] == "failed"] == []
    assert sum(result["status"] == "passed" for result in results) >= 30


@pytest.mark.parametrize("params", [200, 2300])
def test_a_budget_is_an_upper_bound_and_no_table_is_too_wide_for_it(
    params: int, caplog: pytest.LogCaptureFixture
) -> None:
    generator = np.random.default_rng(0)
    for family in ("kan", "kan-fourier-inputs", "modulated-kan", "mlp"):
        for dim in (1, 2, 5, 30):
            caplog.clear()
            model = DiffusionEstimator(family, **{**QUICK, "params": params, "steps": 1})
            model.fit(generator.normal(size=(20, dim)))
            denoiser = model.pipeline_.denoiser
            assert model.n_parameters_ == denoiser.num_trainable
            if model.n_parameters_ > params:
                assert set(denoiser.config.hidden) == {1}
                (record,) = caplog.records
                message = record.getMessage()
                assert "\n" not in message
                assert f"its smallest has {model.n_parameters_:,}" in message
                assert "the smallest is taken" in message
            else:
                assert model.n_parameters_ > 0.75 * params or dim > 1
                assert caplog.records == []


@pytest.fixture(scope="module")
def fitted() -> DiffusionEstimator:
    model = DiffusionEstimator("mlp", steps=300, batch_size=128, device="cpu", random_state=0)
    return model.fit(_points())


def test_samples_are_in_data_units_and_follow_the_data(fitted: DiffusionEstimator) -> None:
    points, samples = _points(), fitted.sample(2000)
    assert samples.shape == (2000, 2)
    assert samples.dtype == np.float64
    np.testing.assert_allclose(samples.mean(0), points.mean(0), atol=0.25 * points.std(0).max())
    assert (np.abs(samples.mean(0) - points.mean(0)) < 0.2 * points.std(0)).all()
    np.testing.assert_allclose(samples.std(0), points.std(0), rtol=0.25)
    expected = np.corrcoef(points.T)[0, 1]
    assert np.corrcoef(samples.T)[0, 1] == pytest.approx(expected, abs=0.15)


def _far_from_zero(num: int = 400) -> np.ndarray:
    """Time stamps with three decimals over an hour, and columns of sizes float32 has not."""
    generator = np.random.default_rng(0)
    stamps = np.round(1.7e9 + generator.uniform(0, 3600, num), 3)
    return np.column_stack([stamps, *(generator.normal(3, 1, (2, num)).T * [1e-300, 1e299]).T])


def test_columns_far_from_zero_come_back_with_their_decimals(
    caplog: pytest.LogCaptureFixture,
) -> None:
    points = _far_from_zero()
    model = DiffusionEstimator("mlp", steps=300, batch_size=128, device="cpu", random_state=0)
    samples = model.fit(points).sample(2000)
    assert not caplog.records
    assert set(np.round(1000 * samples[:, 0]) % 10) == set(range(10))  # the third decimal
    scaled = (samples - [1.7e9 + 1800, 3e-300, 3e299]) / [1e3, 1e-300, 1e299]
    assert (np.median(np.abs(scaled), axis=0) < 1.5).all()


def test_a_column_of_lost_decimals_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    stamps = np.round(1.7e9 + np.random.default_rng(0).uniform(0, 3e8, 50), 3)
    points = pd.DataFrame({"mass": _points(50)[:, 0], "time": stamps})
    DiffusionEstimator(**QUICK).fit(points)
    (record,) = caplog.records
    assert record.getMessage().startswith("column 'time' has steps of 0.001")


def test_fit_lowers_the_loss(fitted: DiffusionEstimator) -> None:
    assert fitted.loss_curve_.shape == (300,)
    assert fitted.loss_curve_[-50:].mean() < 0.9 * fitted.loss_curve_[:10].mean()


def test_random_state_decides_everything() -> None:
    def outcome(random_state: object) -> tuple[np.ndarray, np.ndarray]:
        settings = {**QUICK, "random_state": random_state}
        model = DiffusionEstimator(**settings).fit(_points(50))
        return model.loss_curve_, model.sample(5)

    first = outcome(3)
    torch.manual_seed(0)  # the global state decides nothing
    second = outcome(3)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert not np.array_equal(outcome(4)[1], first[1])
    # A RandomState moves on with every use, as scikit-learn has it.
    shared = np.random.RandomState(3)
    assert not np.array_equal(outcome(shared)[0], outcome(shared)[0])


def test_frames_give_their_column_names(tmp_path: Path) -> None:
    frame = pd.DataFrame(_points(50), columns=["mass", "age"])
    model = DiffusionEstimator(**QUICK).fit(frame)
    assert model.feature_names_in_.tolist() == ["mass", "age"]
    assert model.n_features_in_ == 2
    array = DiffusionEstimator(**QUICK).fit(frame.to_numpy())
    np.testing.assert_array_equal(array.loss_curve_, model.loss_curve_)
    model.save(tmp_path)
    pipeline = PointDiffusionPipeline.from_pretrained(tmp_path)
    assert pipeline.config.columns == ["mass", "age"]
    assert pipeline.config.mean == pytest.approx(frame.mean().tolist())


def test_parameters_are_kept_as_given_and_cloned() -> None:
    settings = {"grid_size": 4}
    model = DiffusionEstimator("kan", **{**QUICK, "params": 390}, settings=settings, depth=1)
    model.fit(_points(50))
    assert model.get_params()["settings"] is settings
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert not hasattr(copy, "pipeline_")
    assert model.set_params(steps=2).fit(_points(50)).loss_curve_.shape == (2,)


def test_fitted_model_survives_pickling(fitted: DiffusionEstimator) -> None:
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.sample(10), fitted.sample(10))


def test_every_sampler_can_be_asked_for(fitted: DiffusionEstimator) -> None:
    usual = fitted.sample(20)
    assert np.isfinite(fitted.sample(20, scheduler="heun", steps=5)).all()
    np.testing.assert_array_equal(fitted.sample(20), usual)  # no trace is left
    with refused("did you mean 'heun'"):
        fitted.sample(20, scheduler="huen")
    with refused("at least 1 sample"):
        fitted.sample(0)


def test_progress_is_told() -> None:
    seen: list[tuple[int, float]] = []
    DiffusionEstimator(**QUICK).fit(_points(50), on_progress=lambda *news: seen.append(news))
    assert seen[-1][0] == 3
    assert np.isfinite(seen[-1][1])


def test_unfitted_model_has_no_samples(tmp_path: Path) -> None:
    for use in (lambda m: m.sample(1), lambda m: m.save(tmp_path)):
        with pytest.raises(NotFittedError):
            use(DiffusionEstimator())


def _with(row: int, column: int, value: float) -> np.ndarray:
    points = _points(20)
    points[row, column] = value
    return points


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.column_stack([np.arange(9.0), np.full(9, 2.5)]), "column '1' is constant at 2.5"),
        (pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 3.0]}), "column 'b' is constant at 3"),
        (_with(3, 0, 1e301), "column '0' has values beyond 1e"),
        (_with(3, 0, np.nan), "NaN"),
        (_with(3, 1, np.inf), "infinity"),
        (np.arange(5.0), "Expected 2D array, got 1D"),
        (np.zeros((0, 2)), "0 sample"),
        (np.ones((1, 2)), "1 sample"),
        (np.zeros((5, 0)), r"0 feature"),
        ([["a", "b"], ["c", "d"]], "could not convert"),
    ],
)
def test_points_that_cannot_be_used_are_refused(points: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusionEstimator(**QUICK).fit(points)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "knn"}, "unknown family 'knn', did you mean 'kan'"),
        ({"process": "cosin"}, "did you mean 'cosine'"),
        ({"params": 5}, "budget of 5 is too small"),
        ({"settings": {"grid": 4}}, "settings of family 'kan'.*'grid'"),
        ({"device": "abacus"}, "device 'abacus' cannot be used here"),
        ({"steps": 0}, "steps"),
        ({"learning_rate": -1.0}, "learning_rate"),
    ],
    ids=str,
)
def test_settings_are_checked_when_fitting(changes: dict[str, object], message: str) -> None:
    model = DiffusionEstimator(**{**QUICK, **changes})  # nothing is checked here
    with refused(message):
        model.fit(_points(50))
