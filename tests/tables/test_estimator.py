import functools
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from helpers import refused
from kan_diffusion import DiffusionEstimator
from kan_diffusion.data.frames import write_frame
from kan_diffusion.errors import KanDiffusionError, RunFolderError
from kan_diffusion.study.named import single_trial
from kan_diffusion.tables import estimator
from kan_diffusion.tables.pipeline import TableDiffusionPipeline
from mixed_tables import people

QUICK = {"params": 2300, "steps": 3, "batch_size": 16, "device": "cpu", "random_state": 0}


def _points(num=400):
    generator = np.random.default_rng(0)
    first = generator.normal(1000.0, 50.0, num)
    return np.column_stack([first, 0.001 * (first - 1000) + generator.normal(0, 0.02, num)])


# Skipped by scikit-learn itself unless SCIPY_ARRAY_API is set.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learn_accepts_it():
    results = check_estimator(DiffusionEstimator("mlp", **QUICK), on_fail=None)
    assert [result for result in results if result["status"] == "failed"] == []
    assert sum(result["status"] == "passed" for result in results) >= 30


@pytest.mark.parametrize(("params", "dim"), [(200, 1), (200, 30), (2300, 30)])
def test_a_budget_is_an_upper_bound_and_no_table_is_too_wide_for_it(params, dim, caplog):
    points = np.random.default_rng(0).normal(size=(20, dim))
    for family in ("full-kan" if params == 200 else "kan", "mlp"):
        caplog.clear()
        model = DiffusionEstimator(family, **{**QUICK, "params": params, "steps": 1}).fit(points)
        assert model.n_parameters_ == model.pipeline_.denoiser.num_trainable
        if model.n_parameters_ > params:
            assert set(model.pipeline_.denoiser.config.hidden) == {1}
            assert f"its smallest has {model.n_parameters_:,}" in caplog.text
        else:
            assert model.n_parameters_ > 0.75 * params or dim > 1
            assert caplog.records == []


@pytest.fixture(scope="module")
def fitted():
    model = DiffusionEstimator("mlp", steps=300, batch_size=128, device="cpu", random_state=0)
    return model.fit(_points())


def test_samples_are_in_data_units_and_follow_the_data(fitted):
    points, samples = _points(), fitted.sample(2000)
    assert samples.shape == (2000, 2)
    assert samples.dtype == np.float64
    assert (np.abs(samples.mean(0) - points.mean(0)) < 0.2 * points.std(0)).all()
    np.testing.assert_allclose(samples.std(0), points.std(0), rtol=0.25)
    expected = np.corrcoef(points.T)[0, 1]
    assert np.corrcoef(samples.T)[0, 1] == pytest.approx(expected, abs=0.15)
    assert 100 < len(fitted.loss_curve_) <= 300
    assert fitted.heldout_curve_[-1, 1] <= 0.9 * fitted.heldout_curve_[0, 1]
    assert fitted.loss_curve_[-50:].mean() < 0.9 * fitted.loss_curve_[:10].mean()


def test_every_sampler_can_be_asked_for_also_after_pickling(fitted):
    usual = fitted.sample(20)
    assert np.isfinite(fitted.sample(20, scheduler="heun", steps=5)).all()
    np.testing.assert_array_equal(fitted.sample(20), usual)  # no trace is left
    gaps = np.array([[np.nan, 0.0]])
    filled = fitted.impute(gaps)
    fitted.sample(20, scheduler="ddpm")
    np.testing.assert_array_equal(fitted.impute(gaps), filled)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).sample(20), usual)
    with refused("did you mean 'heun'"):
        fitted.sample(20, scheduler="huen")
    with refused("at least 1 row"):
        fitted.sample(0)


def test_random_state_decides_everything():
    def outcome(random_state):
        model = DiffusionEstimator("mlp", **{**QUICK, "random_state": random_state})
        model.fit(_points(50))
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


def _mixed():
    frame = people(300, 0)
    visits = pd.array(frame["age"] // 10, dtype="Int64")
    visits[::9] = pd.NA
    return frame.assign(
        id=[f"p-{row:05d}" for row in range(300)],
        visits=visits,
        member=pd.array(frame["age"] > 40, dtype="boolean"),
        grade=pd.Categorical(np.where(frame["age"] > 40, "high", "low, at most")),
        planet="Earth",
    )


@pytest.fixture(scope="module")
def mixed():
    return DiffusionEstimator("mlp", **{**QUICK, "steps": 50}).fit(_mixed())


def test_a_frame_comes_out_as_it_went_in(mixed):
    real, drawn = _mixed(), mixed.sample(500)
    assert isinstance(drawn, pd.DataFrame)
    assert drawn.dtypes.equals(real.dtypes)
    assert drawn["id"].is_unique
    assert (drawn["planet"] == "Earth").all()
    assert set(drawn["grade"].unique()) == set(real["grade"].unique())
    for name in ("age", "visits"):
        assert drawn[name].min() >= real[name].min()
    assert drawn["income"].min() > 0
    np.testing.assert_allclose(drawn["income"], drawn["income"].round(1))


def test_conditions_hold(mixed):
    rows = mixed.sample(30, conditions={"grade": "low, at most", "age": (30, 50)})
    assert (rows["grade"] == "low, at most").all()
    assert rows["age"].between(30, 50).all()
    rows = mixed.sample(20, conditions={"score": None, "job": ["clerk", "driver"]})
    assert rows["score"].isna().all()
    assert set(rows["job"]) <= {"clerk", "driver"}
    rows = mixed.sample(like=pd.DataFrame({"age": [20, 70, 71], "job": ["nurse", None, "clerk"]}))
    assert rows["age"].tolist() == [20, 70, 71]
    assert rows["job"].tolist()[::2] == ["nurse", "clerk"]
    assert rows.dtypes.equals(_mixed().dtypes)


def test_conditions_that_cannot_be_met_are_refused(mixed):
    for conditions, message in (
        ({"id": "p-00001"}, "identifiers, which are made anew"),
        ({"score": 1e40}, r"column 'score' has 1e\+40 in row 1, more than 1e\+12 times the spread"),
    ):
        with refused(message):
            mixed.sample(3, conditions=conditions)
    with refused("column 'job' has 'king' in row 3"):
        like = pd.DataFrame({"job": ["nurse", "nurse", "king"]})
        mixed.sample(like=like, conditions={"age": (20, 60)})


def test_gaps_are_filled_and_what_was_there_stays(mixed):
    frame = _mixed().iloc[::-1].set_axis(range(7, 307))
    there = frame.notna()
    filled = mixed.impute(frame, draws=3)
    assert len(filled) == 3
    for whole in filled:
        assert not whole.isna().any().any()
        assert whole.dtypes.equals(frame.dtypes)
        assert whole.index.equals(frame.index)
        assert whole[there].equals(frame[there])
    draws = np.array([whole.loc[~there["score"], "score"] for whole in filled])
    assert (draws.std(axis=0) > 0).mean() > 0.9
    assert isinstance(mixed.impute(frame.iloc[:20]), pd.DataFrame)
    with refused("at least once, not 0"):
        mixed.impute(frame, draws=0)


def test_identifiers_that_are_filled_in_or_drawn_are_new(mixed):
    frame = _mixed()[:40].assign(id=[*[f"p-{row:05d}" for row in range(280, 310)], *[None] * 10])
    for whole in mixed.impute(frame, draws=2):
        assert whole["id"][:30].tolist() == frame["id"][:30].tolist()
        assert whole["id"].is_unique
        assert not whole["id"][30:].isin(_mixed()["id"]).any()
    assert not mixed.sample(300)["id"].isin(_mixed()["id"]).any()
    rows = mixed.sample(like=frame[["id"]], conditions={"age": (20, 60)})
    assert rows["id"][:30].tolist() == frame["id"][:30].tolist()
    assert rows["id"].is_unique


def test_a_saved_model_is_the_same_and_holds_no_row(mixed, tmp_path):
    mixed.save(tmp_path / "model")
    again = DiffusionEstimator.load((tmp_path / "model").rename(tmp_path / "moved"))
    drawn = mixed.sample(30, random_state=4)
    pd.testing.assert_frame_equal(again.sample(30, random_state=4), drawn)
    few = _mixed()[:10]
    np.testing.assert_allclose(again.score(few), mixed.score(few))
    assert again.get_params()["columns"] == mixed.get_params()["columns"]
    text = "".join(path.read_text() for path in (tmp_path / "moved").rglob("*.json"))
    assert "p-00" not in text
    scores = _mixed()["score"].dropna()
    assert not any(f"{score!r}" in text for score in scores)
    for name, damage in (("trial.json", '{"config": 1}'), ("model_index.json", "{}")):
        (tmp_path / "moved" / name).write_text(damage)
        with refused(name, RunFolderError):
            DiffusionEstimator.load(tmp_path / "moved")


@functools.wraps(single_trial)
def _quickly_judged(*names, **settings):
    trial = single_trial(*names, **settings)
    quick = trial.evaluation.model_copy(update={"effort": "quick"})
    return trial.model_copy(update={"evaluation": quick})


def test_every_command_reads_a_saved_model(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["age", "income", "smokes"]
    frame = people(80, 0)[names]
    settings = {**QUICK, "params": 150, "steps": 12, "holdout": 0.3}
    monkeypatch.setattr(estimator, "single_trial", _quickly_judged)
    model = DiffusionEstimator("readable-kan", **settings).fit(frame)
    model.save("run", rows=frame)
    write_frame(tmp_path / "others.csv", people(60, 5)[names])
    for words, said in (
        ("sample run --num 20 --seed 0 --out drawn.parquet", "20 rows: drawn.parquet"),
        ("evaluate run --data others.csv", "60 rows of 'others' that were not trained on"),
        ("evaluate run", "24 rows of 'rows' that were not trained on"),
        ("explain run --no-formulas --num 20", "Explanation: run/explanation/explanation.html"),
        ("report run", "Report: run/report.html"),
    ):
        outcome = cli(*words.split())
        assert outcome.code == 0, outcome.err
        assert said in " ".join(outcome.out.split())
    pd.testing.assert_frame_equal(pd.read_parquet("drawn.parquet"), model.sample(20))
    model.save("alone")
    assert cli("evaluate", "alone", "--data", "others.csv").code == 0
    for command in ("evaluate", "explain"):
        assert "there is no file" in cli(command, "alone").error
    model.set_params(holdout=0.0).fit(frame).save("whole", rows=frame)
    for command in ("evaluate", "explain"):
        assert "no row of 'rows' is held out" in cli(command, "whole").error
    assert "was not judged; hold rows out" in cli("report", "whole").error


def test_a_whole_number_is_the_seed_of_the_command(cli, tmp_path):
    frame = people(80, 0)
    write_frame(tmp_path / "rows.parquet", frame)
    settings = "--family mlp --params 900 --steps 12 --batch-size 16 --device cpu --seed 3"
    run, drawn = tmp_path / "run", tmp_path / "drawn.parquet"
    assert cli("train", tmp_path / "rows.parquet", *settings.split(), "--out", run).code == 0
    assert cli("sample", run, "--num", 20, "--seed", 3, "--out", drawn).code == 0
    given = {**QUICK, "params": 900, "steps": 12, "holdout": 0.2, "random_state": 3}
    model = DiffusionEstimator("mlp", **given).fit(frame)
    pd.testing.assert_frame_equal(model.sample(20), pd.read_parquet(drawn))


def test_a_callback_ends_training():
    def after_twenty(run):
        assert np.isfinite(run.losses().cpu().numpy()).all()
        if run.looks and run.step >= 20:
            run.stop()

    settings = {**QUICK, "steps": 4000}
    model = DiffusionEstimator("mlp", **settings).fit(_points(200), callbacks=[after_twenty])
    assert 20 <= len(model.loss_curve_) < 4000


def test_a_loaded_model_is_fitted_again_as_it_was(tmp_path, caplog):
    points = np.column_stack([_points(50)[:, 0], np.arange(50) % 3])
    given = {**QUICK, "params": np.int64(900), "settings": {"grid_size": 4}}
    model = DiffusionEstimator("kan", **given, columns={1: "category"}).fit(points)
    assert model.get_params()["settings"] is given["settings"]
    model.save(tmp_path)
    for same in (clone(DiffusionEstimator.load(tmp_path)), clone(model)):
        assert not hasattr(same, "pipeline_")
        np.testing.assert_array_equal(same.fit(points).loss_curve_, model.loss_curve_)
    assert model.set_params(steps=2).fit(points).loss_curve_.shape == (2,)
    assert not caplog.records
    drawn = DiffusionEstimator("mlp", **{**QUICK, "random_state": np.random.RandomState(0)})
    drawn.fit(points).save(tmp_path)
    again = clone(DiffusionEstimator.load(tmp_path))
    np.testing.assert_array_equal(again.fit(points).loss_curve_, drawn.loss_curve_)


def test_it_is_searched_over_and_stands_in_a_pipeline():
    search = GridSearchCV(DiffusionEstimator("mlp", **QUICK), {"steps": [1, 30]}, cv=2)
    assert search.fit(_points(60)).best_params_ == {"steps": 30}
    scaler = StandardScaler().set_output(transform="pandas")
    chain = make_pipeline(scaler, DiffusionEstimator("mlp", **QUICK))
    drawn = chain.fit(pd.DataFrame(_points(60), columns=["a", "b"]))[-1].sample(5)
    assert drawn.columns.tolist() == ["a", "b"]


def test_frames_give_their_column_names(tmp_path):
    frame = pd.DataFrame(_points(50), columns=["mass", "age"])
    seen = []
    model = DiffusionEstimator(**QUICK).fit(frame, callbacks=[lambda run: seen.append(run.step)])
    assert seen[-1] == 3
    assert model.feature_names_in_.tolist() == ["mass", "age"]
    assert model.n_features_in_ == 2
    array = DiffusionEstimator(**QUICK).fit(frame.to_numpy())
    np.testing.assert_array_equal(array.loss_curve_, model.loss_curve_)
    model.save(tmp_path)
    assert TableDiffusionPipeline.from_pretrained(tmp_path).columns == ("mass", "age")
    knots = model.codec_.columns[0].transform.x
    assert np.mean(knots) == pytest.approx(frame["mass"].mean())


def test_a_verbose_fit_shows_the_kinds_of_columns(capsys):
    DiffusionEstimator("mlp", **QUICK, verbose=True).fit(_mixed()[:60])
    shown = capsys.readouterr()
    assert shown.out == ""
    for line in ("  job: category, ", "  since: date, ", "  id: identifier, "):
        assert line in shown.err


def test_unfitted_model_has_no_samples(tmp_path):
    for use in (lambda m: m.sample(1), lambda m: m.save(tmp_path)):
        with pytest.raises(NotFittedError):
            use(DiffusionEstimator())


def _with(row, column, value):
    points = _points(20)
    points[row, column] = value
    return points


def test_points_that_cannot_be_used_are_refused():
    for points, message in (
        (np.full((9, 2), 2.5), "nothing to learn"),
        (_with(3, 0, 1e301), "column '0' has 1e.301 in row 4, beyond 1e"),
        (pd.DataFrame({"a": [1.0, np.inf, 2.0]}), "column 'a' has inf in row 2, beyond 1e"),
        (pd.DataFrame({"a": []}), "no rows"),
        (_with(3, 1, np.inf), "infinity"),
        (np.arange(5.0), "Expected 2D array, got 1D"),
        (np.ones((1, 2)), "1 sample"),
        (np.zeros((5, 0)), r"0 feature"),
    ):
        with pytest.raises((ValueError, KanDiffusionError), match=message):
            DiffusionEstimator(**QUICK).fit(points)


def test_settings_are_checked_when_fitting():
    for changes, message in (
        ({"family": "knn"}, "unknown family 'knn', did you mean 'kan'"),
        ({"params": 5}, "budget of 5 is too small"),
        ({"settings": {"grid": 4}}, "settings of family 'kan'.*'grid'"),
        ({"device": "abacus"}, "device 'abacus' cannot be used here"),
        ({"steps": 0}, "steps"),
        ({"optimizer": "sgd"}, "unknown optimizer 'sgd'; known: adam, lbfgs, muon, soap"),
    ):
        model = DiffusionEstimator(**{**QUICK, **changes})  # nothing is checked here
        with refused(message):
            model.fit(_points(50))
