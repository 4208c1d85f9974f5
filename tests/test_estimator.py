from __future__ import annotations

import pickle
import re
import warnings
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

from command_line import few_steps
from helpers import refused, seeded
from kan_diffusion import FAMILIES, DiffusionEstimator
from kan_diffusion.data.densities import GaussianMixture
from kan_diffusion.errors import KanDiffusionError, RunFolderError
from kan_diffusion.table_pipeline import TableDiffusionPipeline

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
    with few_steps():
        check(estimator)


@pytest.mark.hard
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.parametrize("params", [200, 2300, 20_000])
@pytest.mark.parametrize("family", FAMILIES)
def test_scikit_learn_accepts_every_family_in_every_size(family: str, params: int) -> None:
    if (family, params) == ("kan", 200):
        params = 500  # its smallest for one of the tables has 399
    model = DiffusionEstimator(family=family, **{**QUICK, "params": params})
    results = check_estimator(model, on_fail=None)
    assert [result for result in results if result["status"] == "failed"] == []
    assert sum(result["status"] == "passed" for result in results) >= 30


@pytest.mark.parametrize(("params", "kan"), [(200, "full-kan"), (2300, "kan")])
def test_a_budget_is_an_upper_bound_and_no_table_is_too_wide_for_it(
    params: int, kan: str, caplog: pytest.LogCaptureFixture
) -> None:
    generator = np.random.default_rng(0)
    for family in (kan, "kan-fourier-inputs", "modulated-kan", "mlp"):
        for dim in (1, 5, 30):
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
    assert 100 < len(fitted.loss_curve_) <= 300
    assert fitted.heldout_curve_[-1, 1] <= 0.9 * fitted.heldout_curve_[0, 1]
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


def _people(num: int = 600) -> pd.DataFrame:
    """A mixed table: the older the richer, students are poor, and the rich do not say so."""
    generator = np.random.default_rng(5)
    age = generator.integers(18, 80, num)
    job = np.where(age < 26, "student", generator.choice(["baker", "clerk, senior"], num))
    income = np.exp(7 + age / 40 + 0.3 * generator.normal(size=num)) * (job != "student")
    frame = pd.DataFrame(
        {
            "id": [f"p-{row:05d}" for row in range(num)],
            "age": age,
            "job": pd.Categorical(job),
            "income": np.round(income, 2),
            "children": pd.array(generator.poisson(age / 40), dtype="Int64"),
            "since": pd.Timestamp("2020-01-01") + pd.to_timedelta(age, unit="D"),
            "member": pd.array(age > 40, dtype="boolean"),
            "planet": "Earth",
        }
    )
    gaps = generator.random(num) < np.where(frame["income"] > 3000, 0.6, 0.05)
    frame.loc[gaps, "income"] = np.nan
    frame.loc[generator.random(num) < 0.1, "children"] = pd.NA
    return frame


@pytest.fixture(scope="module")
def people() -> DiffusionEstimator:
    settings = {"params": 30_000, "steps": 1800, "batch_size": 256, "learning_rate": 5e-3}
    model = DiffusionEstimator("mlp", **settings, device="cpu", random_state=0)
    return model.fit(_people())


def test_a_frame_comes_out_as_it_went_in(people: DiffusionEstimator) -> None:
    real, drawn = _people(), people.sample(2000)
    assert isinstance(drawn, pd.DataFrame)
    assert drawn.dtypes.equals(real.dtypes)
    assert drawn["id"].is_unique
    assert (drawn["planet"] == "Earth").all()
    assert set(drawn["job"].unique()) == set(real["job"].unique())
    for name in ("age", "children", "since", "income"):
        assert drawn[name].min() >= real[name].min()
    assert drawn["income"].isna().mean() == pytest.approx(real["income"].isna().mean(), abs=0.08)
    # What is missing, and what goes together, is learned.
    old, young = drawn["age"] > 60, drawn["age"] < 26
    assert drawn.loc[old, "income"].isna().mean() > 2 * drawn.loc[young, "income"].isna().mean()
    assert (drawn.loc[young, "job"] == "student").mean() > 0.65
    assert (drawn["member"] == (drawn["age"] > 40)).mean() > 0.9
    rounded = drawn["income"].dropna()
    np.testing.assert_allclose(rounded, rounded.round(2))


def test_conditions_hold_and_the_rest_follows(people: DiffusionEstimator) -> None:
    rows = people.sample(300, conditions={"job": "student", "age": (18, 22)})
    assert (rows["job"] == "student").all()
    assert rows["age"].between(18, 22).all()
    assert rows["income"].dropna().median() < 200
    rows = people.sample(200, conditions={"income": None, "member": True})
    assert rows["income"].isna().all()
    assert rows["member"].all()
    rows = people.sample(200, conditions={"job": ["baker", "student"], "children": (2, None)})
    assert set(rows["job"]) <= {"baker", "student"}
    assert (rows["children"] >= 2).all()
    like = pd.DataFrame({"age": [20, 70, 71], "job": ["student", None, "baker"]})
    rows = people.sample(like=like)
    assert rows["age"].tolist() == [20, 70, 71]
    assert rows["job"].tolist()[::2] == ["student", "baker"]
    assert rows.dtypes.equals(_people().dtypes)


def test_conditions_that_nothing_comes_near_are_extrapolation(
    people: DiffusionEstimator, caplog: pytest.LogCaptureFixture
) -> None:
    early = pd.Timestamp("2019-01-01"), pd.Timestamp("2019-02-01")
    rows = people.sample(20, conditions={"job": ["student", "baker"], "since": early})
    assert rows["job"].isin(["student", "baker"]).all()
    assert rows["since"].between(*early).all()
    assert "20 rows are extrapolation" in caplog.text
    caplog.clear()
    rows = people.sample(5, conditions={"age": 19, "member": True})
    assert (rows["age"] == 19).all()
    assert "comes near" in caplog.text
    caplog.clear()
    people.sample(50, conditions={"job": "student"})
    assert not caplog.records


def test_numbers_that_a_column_has_no_room_for_are_refused(people: DiffusionEstimator) -> None:
    generator = np.random.default_rng(0)
    whole = generator.integers(-100, 100, 60)
    frame = pd.DataFrame(
        {"half": generator.normal(size=60).astype(np.float32), "far": generator.normal(size=60)}
        | {dtype: pd.Series(whole).astype(dtype) for dtype in ("int8", "Int8", "int8[pyarrow]")}
    )
    model = DiffusionEstimator("mlp", **QUICK).fit(frame)
    for name, told in (("int8", 300), ("Int8", -129), ("int8[pyarrow]", 300)):
        with refused(rf"column '{re.escape(name)}' has {told} in row 2, and its .* -128 to 127"):
            model.sample(like=pd.DataFrame({name: [5, told]}))
        assert model.sample(like=pd.DataFrame({name: [5, 127]}))[name].tolist() == [5, 127]
    with refused(r"column 'half' has 1e\+39 in row 1, more than 1e\+12 times the spread"):
        model.sample(like=pd.DataFrame({"half": [1e39]}))
    with refused(r"column 'far' has 1e\+40 in row 1, more than 1e\+12 times the spread"):
        model.sample(3, conditions={"far": 1e40})
    like = pd.DataFrame({"job": ["baker", "baker", "king"]})
    with refused("column 'job' has 'king' in row 3"):
        people.sample(like=like, conditions={"age": (20, 60)})


def test_a_merged_category_is_no_extrapolation(caplog: pytest.LogCaptureFixture) -> None:
    frame = pd.DataFrame({"word": ["a"] * 40 + ["b"] * 15 + list("cdefg"), "x": _points(60)[:, 0]})
    model = DiffusionEstimator("mlp", **QUICK, merge_below=5).fit(frame)
    assert set(model.codec_.column("word").categories) == {"a", "b", "other"}
    caplog.clear()
    model.sample(like=pd.DataFrame({"word": ["c"]}))
    assert not caplog.records


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"jobs": "baker"}, "no column 'jobs'; known: id, age"),
        ({"job": "king"}, "no value 'king'; known: baker, clerk"),
        ({"age": (30, 20)}, "from 30 to 20"),
        ({"age": "old"}, "holds whole numbers, not 'old'"),
        ({"age": None}, "has no gaps"),
        ({"id": "p-00001"}, "identifiers, which are made anew"),
        ({"job": ("a", "b")}, "categories and no ranges"),
        ({"planet": "Mars"}, "no value 'Mars'; known: Earth"),
        ({"job": []}, "set of values of column 'job' is empty"),
    ],
    ids=str,
)
def test_conditions_that_cannot_be_met_are_refused(
    people: DiffusionEstimator, conditions: dict[str, object], message: str
) -> None:
    with refused(message):
        people.sample(3, conditions=conditions)


def test_gaps_are_filled_and_what_was_there_stays(people: DiffusionEstimator) -> None:
    frame = _people().iloc[::-1].set_axis(range(7, 607))
    filled = people.impute(frame, draws=8)
    assert len(filled) == 8
    for whole in filled:
        assert not whole.isna().any().any()
        assert whole.dtypes.equals(frame.dtypes)
        assert whole.index.equals(frame.index)
        there = frame.notna()
        assert whole[there].equals(frame[there])
    gaps = frame["income"].isna()
    draws = np.array([whole.loc[gaps, "income"] for whole in filled])
    assert (draws.std(axis=0) > 0).mean() > 0.9
    truth = np.exp(7 + frame.loc[gaps, "age"] / 40) * (frame.loc[gaps, "job"] != "student")
    assert np.corrcoef(draws.mean(axis=0), truth)[0, 1] > 0.6
    one = people.impute(frame.iloc[:20])
    assert isinstance(one, pd.DataFrame)
    with refused("column 'job' of the rows trained on is missing"):
        people.impute(frame.drop(columns="job"))
    with refused("column 'king' is new"):
        people.impute(frame.assign(king=1))
    with refused("at least once, not 0"):
        people.impute(frame, draws=0)


def test_gaps_among_identifiers_are_filled_beyond_their_dtype() -> None:
    numbers = pd.Series(range(1, 101), dtype="Int8")
    frame = pd.DataFrame({"id": numbers.mask(numbers > 60), "x": _points(100)[:, 0]})
    model = DiffusionEstimator("mlp", **QUICK).fit(frame)
    filled = pd.concat(model.impute(frame, draws=5))["id"]
    assert sorted(filled[frame["id"].isna().tolist() * 5]) == list(range(1, 201))


def test_a_saved_model_is_the_same_and_holds_no_row(
    people: DiffusionEstimator, tmp_path: Path
) -> None:
    people.save(tmp_path / "model")
    again = DiffusionEstimator.load((tmp_path / "model").rename(tmp_path / "moved"))
    pd.testing.assert_frame_equal(
        again.sample(30, random_state=4), people.sample(30, random_state=4)
    )
    np.testing.assert_allclose(again.score(_people(40)), people.score(_people(40)))
    assert again.get_params()["steps"] == 1800
    text = "".join(path.read_text() for path in (tmp_path / "moved").rglob("*.json"))
    assert "p-00" not in text
    incomes = _people()["income"].dropna().drop_duplicates(keep=False).sort_values()
    assert sum(f"{income!r}" in text for income in incomes[incomes > 100]) <= 2
    for name, damage in (("estimator.json", '{"settings": {"a": 1}}'), ("model_index.json", "{}")):
        (tmp_path / "moved" / name).write_text(damage)
        with refused(name, RunFolderError):
            DiffusionEstimator.load(tmp_path / "moved")


def test_a_model_saved_over_another_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = _points(50)
    old, new = (DiffusionEstimator("mlp", **QUICK).fit(shift + points) for shift in (0, 9000))
    drawn = [model.sample(5) for model in (old, new)]
    replace, left = Path.replace, [0]

    def killed_at(self: Path, target: Path) -> Path:
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


def test_a_loaded_model_is_fitted_again_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    points = np.column_stack([_points(50)[:, 0], np.arange(50) % 3])
    given = {**QUICK, "params": np.int64(900), "settings": {"grid_size": 4}}
    model = DiffusionEstimator("kan", **given, columns={1: "categorical"}).fit(points)
    model.save(tmp_path)
    again = clone(DiffusionEstimator.load(tmp_path)).fit(points)
    np.testing.assert_array_equal(again.loss_curve_, model.loss_curve_)
    assert not caplog.records
    model.set_params(random_state=np.random.RandomState(0)).save(tmp_path)
    (record,) = caplog.records
    assert "random_state is not saved, since it is a RandomState" in record.getMessage()
    assert DiffusionEstimator.load(tmp_path).random_state is None


def test_arrays_stay_arrays_and_y_is_a_column_to_condition_on() -> None:
    generator = np.random.default_rng(0)
    y = generator.integers(0, 2, 500)
    points = np.column_stack([generator.normal(4.0 * y), generator.normal(size=500)])
    settings = {"params": 4000, "steps": 400, "batch_size": 256, "learning_rate": 1e-2}
    model = DiffusionEstimator("mlp", **settings, device="cpu", random_state=0).fit(points, y)
    drawn = model.sample(400, y=1)
    assert isinstance(drawn, np.ndarray)
    assert drawn.shape == (400, 2)
    assert drawn[:, 0].mean() == pytest.approx(4, abs=0.4)
    classes = np.repeat([0, 1], 200)
    drawn = model.sample(y=classes)
    assert drawn[:200, 0].mean() == pytest.approx(0, abs=0.4)
    assert drawn[200:, 0].mean() == pytest.approx(4, abs=0.4)
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
        (pd.date_range("2020-01-01", periods=60).to_numpy("datetime64[ns]"), "datetime"),
        (pd.Series(pd.date_range("2020-01-01", periods=60).date), "datetime"),
        (pd.Series(pd.to_timedelta(np.arange(60) ** 2, unit="h")), "continuous"),
        (pd.Series([Decimal(row) / 100 for row in range(60)]), "continuous"),
        (pd.Series([True, None, False] * 20, dtype="boolean"), "categorical"),
        ([1.0, 2.0, 3.0] * 20, "categorical"),
        (np.arange(60) % 30, "count"),
        ([f"class {row}" for row in range(60)], "categorical"),
    ],
)
def test_y_is_a_class_an_amount_or_a_date(y: object, kind: str) -> None:
    model = DiffusionEstimator("mlp", **QUICK).fit(_points(60), y)
    assert model.codec_.columns[-1].kind == kind
    assert model.sample(y=np.asarray(y)[:2]).shape == (2, 2)
    with refused("y has 2 values for 1 rows"):
        model.sample(y=np.asarray(y)[:2], like=pd.DataFrame({0: [1.0]}))
    with refused("a table is a pandas DataFrame, got list"):
        model.sample(y=np.asarray(y)[:2], like=[[1.0], [2.0]])


@pytest.mark.parametrize("classes", [(0, 1), (1, 2), (False, True), ("a", "b")])
def test_y_is_unknown_where_gaps_are_filled(classes: tuple[object, object]) -> None:
    points = _points(60)
    model = DiffusionEstimator("mlp", **QUICK).fit(points, list(classes) * 30)
    told = model._y_cells([classes[1], None])
    assert told.isna().tolist() == [False, True]
    points[3, 0] = np.nan
    frame = model._frame(points).assign(y=model._y_cells([None] * 60).array)
    observed = model.codec_.observe(frame.set_axis([0, 1, 2], axis=1))
    assert observed[:, 2].isnan().all()
    assert np.isfinite(model.impute(points)).all()
    assert model.sample(y=[classes[0], None]).shape == (2, 2)


def test_y_in_one_column_is_taken_with_the_warning_of_scikit_learn() -> None:
    points, y = _points(60), np.array([[0], [1]] * 30)
    flat = DiffusionEstimator("mlp", **QUICK).fit(points, y[:, 0])
    for use in (lambda: clone(flat).fit(points, y), lambda: flat.sample(y=y[:4])):
        with pytest.raises(DataConversionWarning, match="column-vector y"):  # an error in tests
            use()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataConversionWarning)
        model = DiffusionEstimator("mlp", **QUICK).fit(points, y)
        np.testing.assert_array_equal(model.sample(y=y[:4]), flat.sample(y=y[:4, 0]))
    with pytest.raises(ValueError, match=r"y should be a 1d array, got .* shape \(60, 2\)"):
        model.fit(points, np.hstack([y, y]))


def test_y_beside_numbered_columns_has_a_number_of_its_own() -> None:
    frame = pd.DataFrame(_points(60), columns=[1, 2])
    model = DiffusionEstimator("mlp", **QUICK).fit(frame, [0, 1] * 30)
    assert model.sample(3, y=1).columns.tolist() == [1, 2]


def test_densities_are_those_of_a_known_mixture_and_integrate_to_one() -> None:
    mixture = GaussianMixture([[-1.5, 0.0], [1.5, 1.0]], variances=0.5)
    points = mixture.sample(20_000, seeded()).numpy()
    settings = {"params": 4000, "steps": 1500, "batch_size": 512, "learning_rate": 1e-2}
    model = DiffusionEstimator("mlp", **settings, device="cpu", random_state=0).fit(points)
    fresh = mixture.sample(300, seeded(1))
    exact = mixture.log_density(fresh, 1.0, 1e-9).numpy()
    error = model.score_samples(fresh.numpy()) - exact
    assert abs(error.mean()) < 0.03
    assert np.abs(error).mean() < 0.12
    axes = np.linspace(-6, 7, 53)
    grid = np.stack(np.meshgrid(axes, axes), axis=-1).reshape(-1, 2)
    total = np.exp(model.score_samples(grid)).sum() * (axes[1] - axes[0]) ** 2
    assert total == pytest.approx(1, abs=0.02)


def test_it_is_searched_over_and_stands_in_a_pipeline() -> None:
    search = GridSearchCV(DiffusionEstimator("mlp", **QUICK), {"steps": [1, 30]}, cv=2)
    assert search.fit(_points(60)).best_params_ == {"steps": 30}
    scaler = StandardScaler().set_output(transform="pandas")
    chain = make_pipeline(scaler, DiffusionEstimator("mlp", **QUICK))
    drawn = chain.fit(pd.DataFrame(_points(60), columns=["a", "b"]))[-1].sample(5)
    assert drawn.columns.tolist() == ["a", "b"]


def test_frames_give_their_column_names(tmp_path: Path) -> None:
    frame = pd.DataFrame(_points(50), columns=["mass", "age"])
    model = DiffusionEstimator(**QUICK).fit(frame)
    assert model.feature_names_in_.tolist() == ["mass", "age"]
    assert model.n_features_in_ == 2
    array = DiffusionEstimator(**QUICK).fit(frame.to_numpy())
    np.testing.assert_array_equal(array.loss_curve_, model.loss_curve_)
    model.save(tmp_path)
    pipeline = TableDiffusionPipeline.from_pretrained(tmp_path)
    assert pipeline.columns == ("mass", "age")
    assert model.codec_.columns[0].transform.mean == pytest.approx(frame["mass"].mean())


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
    gaps = np.array([[np.nan, 0.0]])
    filled = fitted.impute(gaps)
    fitted.sample(20, scheduler="ddpm")
    np.testing.assert_array_equal(fitted.impute(gaps), filled)
    with refused("did you mean 'heun'"):
        fitted.sample(20, scheduler="huen")
    with refused("at least 1 row"):
        fitted.sample(0)


def test_progress_is_told() -> None:
    seen: list[tuple[int, float]] = []
    DiffusionEstimator(**QUICK).fit(_points(50), on_progress=lambda *news: seen.append(news))
    assert seen[-1][0] == 3
    assert np.isfinite(seen[-1][1])


def test_a_verbose_fit_shows_the_kinds_of_columns(capsys: pytest.CaptureFixture[str]) -> None:
    DiffusionEstimator(**QUICK, verbose=True).fit(_people(60))
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert max(map(len, lines)) <= 80
    for name, kind in (("job", "categorical"), ("since", "datetime"), ("id", "identifier")):
        assert any(line.split()[:2] == [name, kind] for line in lines)


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
        (np.full((9, 2), 2.5), "nothing to learn"),
        (pd.DataFrame({"a": ["x", "x"], "b": [3.0, 3.0]}), "nothing to learn"),
        (_with(3, 0, 1e301), "column '0' has 1e.301 in row 4, beyond 1e"),
        (pd.DataFrame({"a": [1.0, np.inf, 2.0]}), "column 'a' has inf in row 2, beyond 1e"),
        (pd.DataFrame({"a": [1.0, "x", 2.0]}), "column 'a' mixes types: row 2 holds str"),
        (pd.DataFrame([[1, 2], [3, 5]], columns=["a", "a"]), "two columns are named 'a'"),
        (pd.DataFrame({"a": []}), "0 rows"),
        (_with(3, 1, np.inf), "infinity"),
        (np.arange(5.0), "Expected 2D array, got 1D"),
        (np.zeros((0, 2)), "0 sample"),
        (np.ones((1, 2)), "1 sample"),
        (np.zeros((5, 0)), r"0 feature"),
        (pd.DataFrame({"a": [[1], [2]]}), "column 'a' holds objects of type list"),
    ],
)
def test_points_that_cannot_be_used_are_refused(points: object, message: str) -> None:
    with pytest.raises((ValueError, KanDiffusionError), match=message):
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
        ({"optimizer": "sgd"}, "optimizer = 'sgd': .*'adam', 'soap', 'muon' or 'lbfgs'"),
    ],
    ids=str,
)
def test_settings_are_checked_when_fitting(changes: dict[str, object], message: str) -> None:
    model = DiffusionEstimator(**{**QUICK, **changes})  # nothing is checked here
    with refused(message):
        model.fit(_points(50))
