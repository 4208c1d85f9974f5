import pickle
from threading import Thread

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from helpers import refused
from kan_diffusion import DiffusionEstimator
from kan_diffusion.data.frames import write_frame
from kan_diffusion.errors import DataError, KanDiffusionError, RunFolderError
from kan_diffusion.evaluation.effort import EFFORTS
from kan_diffusion.study import trial
from kan_diffusion.tables.codec import TableCodec
from kan_diffusion.tables.sources import FileData
from kan_diffusion.training.loop import train
from mixed_tables import people

QUICK = {"params": 2300, "steps": 3, "batch_size": 16, "device": "cpu", "random_state": 0}


def _points(num=400):
    generator = np.random.default_rng(0)
    first = generator.normal(1000.0, 50.0, num)
    return np.column_stack([first, 0.001 * (first - 1000) + generator.normal(0, 0.02, num)])


def test_a_budget_is_an_upper_bound_and_no_table_is_too_wide_for_it(caplog):
    for dim, params in ((1, 2300), (30, 5)):
        assert not caplog.records
        points = np.random.default_rng(0).normal(size=(20, dim))
        model = DiffusionEstimator("mlp", **{**QUICK, "params": params, "steps": 1}).fit(points)
        assert dim == 30 or 0.75 * params < model.n_parameters_ <= params
    assert set(model.pipeline_.denoiser.config.hidden) == {1}
    assert f"its smallest has {model.n_parameters_:,}" in caplog.text


def test_a_time_limit_counts_what_comes_before_training_and_after(monkeypatch):
    reserved = []

    def noted(*args, **options):
        reserved.append(options.get("reserved", 0.0))  # warming up has no limit
        return train(*args, **options)

    monkeypatch.setattr(trial, "train", noted)
    points = np.random.default_rng(0).normal(size=(20, 2))
    DiffusionEstimator("mlp", **QUICK, max_seconds=50).fit(points)
    assert 10 < max(reserved) < 50


@pytest.fixture(scope="module")
def fitted():
    model = DiffusionEstimator("mlp", steps=300, batch_size=128, device="cpu", random_state=0)
    return model.fit(_points())


def test_samples_are_in_data_units_and_follow_the_data(fitted):
    points, samples = _points(), fitted.sample(2000)
    assert samples.shape == (2000, 2)
    assert samples.dtype == np.float64
    own = fitted.pipeline_.log_density(pd.DataFrame(points[:9]))
    np.testing.assert_allclose(fitted.score_samples(points[:9]), own)
    assert (np.abs(samples.mean(0) - points.mean(0)) < 0.2 * points.std(0)).all()
    np.testing.assert_allclose(samples.std(0), points.std(0), rtol=0.25)
    expected = np.corrcoef(points.T)[0, 1]
    assert np.corrcoef(samples.T)[0, 1] == pytest.approx(expected, abs=0.15)
    assert 100 < len(fitted.loss_curve_) <= 300
    assert fitted.heldout_curve_[-1, 1] <= 0.9 * fitted.heldout_curve_[0, 1]
    assert fitted.loss_curve_[-50:].mean() < 0.9 * fitted.loss_curve_[:10].mean()


def test_every_sampler_can_be_asked_for_also_after_pickling(fitted):
    gaps = np.array([[np.nan, 0.0]])
    usual, filled = fitted.sample(20), fitted.impute(gaps)
    for scheduler in ("heun", "ddpm"):
        assert np.isfinite(fitted.sample(20, scheduler=scheduler, steps=5)).all()
    for model in (fitted, pickle.loads(pickle.dumps(fitted))):  # no trace is left
        np.testing.assert_array_equal(model.sample(20), usual)
        np.testing.assert_array_equal(model.impute(gaps), filled)
    with refused("did you mean 'heun'"):
        fitted.sample(20, scheduler="huen")
    for num in (0, 2.5):
        with refused(f"at least 1 row, a whole number, not {num}"):
            fitted.sample(num)
    with refused("at least once, not 2.5"):
        fitted.impute(gaps, draws=2.5)
    given = pd.DataFrame({"1": [0.5, np.nan]})  # columns of an array may be named by text
    assert fitted.sample(like=given)[0, 1] == 0.5
    assert np.isfinite(fitted.impute(given.assign(**{"0": [np.nan, 1.0]}))).all()
    with refused("drawn for each of the 2 given, not 50"):
        fitted.sample(50, like=given)


def test_random_state_decides_everything():
    def outcome(random_state):
        model = DiffusionEstimator("mlp", **{**QUICK, "random_state": random_state})
        return [*model.fit(_points(50)).loss_curve_, *model.sample(5).ravel()]

    first = outcome(3)
    torch.manual_seed(0)  # the global state decides nothing
    assert outcome(3) == first
    assert outcome(4)[3:] != first[3:]
    # A RandomState moves on with every use, as scikit-learn has it.
    shared = np.random.RandomState(3)
    assert outcome(shared)[:3] != outcome(shared)[:3]


PEOPLE = people(300, 0).assign(id=[f"p-{row:05d}" for row in range(300)])


@pytest.fixture(scope="module")
def mixed():
    return DiffusionEstimator("mlp", **{**QUICK, "steps": 50}).fit(PEOPLE)


def test_rows_are_completed_and_gaps_are_filled_once_or_several_times(mixed):
    gaps = PEOPLE[:40].assign(score=np.nan)
    like, conditions = gaps[["age", "job", "id"]], {"income": (0, None), "smokes": [True, False]}
    rows, draws = mixed.sample(like=like, conditions=conditions), mixed.impute(gaps, draws=3)
    for given, whole in ((like, rows), *((gaps, draw) for draw in draws)):
        assert whole.dtypes.equals(PEOPLE.dtypes)
        assert whole[given.columns][given.notna()].equals(given)
    assert len({draw.loc[7, "score"] for draw in draws}) == 3
    assert isinstance(mixed.impute(gaps), pd.DataFrame)


def test_a_saved_model_is_the_same_and_holds_no_row(mixed, tmp_path):
    mixed.save(tmp_path / "model")
    moved = (tmp_path / "model").rename(tmp_path / "moved")
    again = DiffusionEstimator.load(moved)
    drawn = mixed.sample(30, random_state=4)
    pd.testing.assert_frame_equal(again.sample(30, random_state=4), drawn)
    np.testing.assert_allclose(again.score(PEOPLE[:10]), mixed.score(PEOPLE[:10]))
    np.testing.assert_array_equal(again.heldout_curve_, mixed.heldout_curve_)
    assert len(again.heldout_curve_) > 0
    text = "".join(path.read_text() for path in moved.rglob("*.json"))
    assert not any(cell in text for cell in ("p-00", *PEOPLE["score"].dropna().map(repr)))
    (moved / "trial.json").write_text('{"config": 1}')
    with refused("trial.json", RunFolderError):
        DiffusionEstimator.load(moved)


def test_commands_read_a_saved_model(cli, tmp_path, monkeypatch, mixed):
    monkeypatch.chdir(tmp_path)
    mixed.save("run")
    others = PEOPLE[:60]
    write_frame(tmp_path / "others.parquet", others.assign(score=None))
    for words, said in (
        ("sample run --num 20 --seed 0 --out drawn.parquet", "20 rows: drawn.parquet"),
        ("impute run others.parquet --out filled.parquet", "60 rows: filled.parquet"),
    ):
        outcome = cli(*words.split())
        assert outcome.code == 0, outcome.err
        assert said in " ".join(outcome.out.split())
    pd.testing.assert_frame_equal(pd.read_parquet("drawn.parquet"), mixed.sample(20))
    write_frame(tmp_path / "real.parquet", PEOPLE[:60])
    monkeypatch.setitem(EFFORTS, "full", EFFORTS["quick"])
    assert cli("evaluate", "run", "--data", "real.parquet").code == 0
    without = "the run is a model that was saved without the rows it was fitted to; give a file of"
    assert without in cli("evaluate", "run").error
    assert "was not judged" in cli("report", "run").error


def test_a_model_saved_over_another_leaves_nothing_of_it_but_other_files(tmp_path):
    rows = people(80, 0)[["age", "smokes"]]
    first = DiffusionEstimator("mlp", **QUICK).fit(rows)
    with refused("'.*' holds training that has not finished", RunFolderError):
        (tmp_path / "checkpoint.safetensors").touch()
        first.save(tmp_path)
    (tmp_path / "checkpoint.safetensors").unlink()
    first.save(tmp_path)
    second = DiffusionEstimator("mlp", **{**QUICK, "params": 900}).fit(rows)
    assert DiffusionEstimator.load(tmp_path).n_parameters_ == first.n_parameters_
    (tmp_path / "reverse").mkdir()
    kept = [tmp_path / name for name in ("reverse/3.safetensors", "notes.txt", ".pipelines/ci.yml")]
    kept += [tmp_path / name for name in (".env.tmpl", ".notes.tmp/keep.txt", "denoiser/my.py")]
    for path in kept:
        path.parent.mkdir(exist_ok=True)
        path.write_text("of the user")
    with refused(
        "my.py' is no file of the run .* move it, or choose another folder", RunFolderError
    ):
        second.save(tmp_path)
    for path in (kept.pop(0), kept.pop()):
        path.unlink()
    second.save(tmp_path)
    assert DiffusionEstimator.load(tmp_path).n_parameters_ == second.n_parameters_
    assert all(path.read_text() == "of the user" for path in kept)
    project = tmp_path / "project"
    (project / "weights").mkdir(parents=True)
    (project / "weights" / "resnet.safetensors").write_text("of the user")
    with refused("holds other files and no run", RunFolderError):
        second.save(project)


def test_a_whole_number_is_the_seed_of_the_command(cli, runs, tmp_path):
    drawn = tmp_path / "drawn.parquet"
    assert cli("sample", runs("table"), "--num", 20, "--seed", 3, "--out", drawn).code == 0
    model = DiffusionEstimator.load(runs("table"))
    assert model.get_params()["random_state"] == 0
    rows = model.sample(20, random_state=3)
    pd.testing.assert_frame_equal(rows, pd.read_parquet(drawn).astype(rows.dtypes))


def test_a_callback_ends_training_and_a_verbose_fit_shows_the_columns(capsys):
    DiffusionEstimator("mlp", **QUICK, verbose=True).fit(PEOPLE[:60])
    assert "  job: category, " in capsys.readouterr().err

    def after_twenty(run):
        assert np.isfinite(run.losses().cpu().numpy()).all()
        if run.validation and run.step >= 20:
            run.stop()

    settings = {**QUICK, "steps": 4000}
    model = DiffusionEstimator("mlp", **settings).fit(_points(200), callbacks=[after_twenty])
    assert 20 <= len(model.loss_curve_) < 4000


def test_a_loaded_model_is_fitted_again_as_it_was(tmp_path, caplog):
    points = np.column_stack([_points(50)[:, 0], np.arange(50) % 3])
    given = {**QUICK, "params": np.int64(900), "settings": {"num_time_frequencies": 3}}
    model = DiffusionEstimator("mlp", **given, columns={1: "category"}).fit(points)
    assert model.get_params()["settings"] is given["settings"]
    model.save(tmp_path)
    for same in (clone(DiffusionEstimator.load(tmp_path)), clone(model)):  # as a search does
        assert not hasattr(same, "pipeline_")
        np.testing.assert_array_equal(same.fit(points).loss_curve_, model.loss_curve_)
    framed = clone(model).fit(pd.DataFrame(points))
    np.testing.assert_array_equal(framed.loss_curve_, model.loss_curve_)
    assert model.set_params(steps=2).fit(points).loss_curve_.shape == (2,)
    assert not caplog.records
    drawn = DiffusionEstimator("mlp", **{**QUICK, "random_state": np.random.RandomState(0)})
    drawn.fit(points).save(tmp_path)
    again = clone(DiffusionEstimator.load(tmp_path))
    np.testing.assert_array_equal(again.fit(points).loss_curve_, drawn.loss_curve_)


def test_masked_cells_of_an_array_are_gaps():
    points = np.column_stack([_points(60)[:, 0], np.arange(60)])
    for dtype in (float, int):
        masked = np.ma.masked_array(points.astype(dtype), np.eye(60, 2, dtype=bool))
        model = DiffusionEstimator(**QUICK).fit(masked)
        assert [column.missing > 0 for column in model.codec_.columns] == [True, True]
        assert isinstance(model.sample(3), np.ndarray)


def test_points_and_settings_are_checked_when_fitting(tmp_path):
    for use in (lambda m: m.sample(1), lambda m: m.save(tmp_path), lambda m: m.codec_):
        with pytest.raises(NotFittedError):
            use(DiffusionEstimator())
    with refused("not the name 'x.csv'; read it", DataError):
        DiffusionEstimator().fit("x.csv")
    for points, message in (
        (np.full((9, 2), 2.5), "nothing to learn"),
        (np.where(np.eye(9, 2), np.inf, _points(9)), "infinity"),
        (pd.DataFrame({"a": [1.0, np.inf, 2.0]}), "column 'a' has inf in row 2, beyond 1e"),
        (np.ones((1, 2)), "1 sample"),
    ):
        with pytest.raises((ValueError, KanDiffusionError), match=message):
            DiffusionEstimator(**QUICK).fit(points)
    for changes, message in (
        ({"family": "knn"}, "unknown family 'knn', did you mean 'kan'"),
        ({"family": 3}, "unknown family '3'"),
        ({"settings": {"grid": 4}}, "unknown setting of family 'kan' 'grid'"),
        ({"device": "abacus"}, "device 'abacus' cannot be used here"),
        ({"steps": 0}, "steps"),
        ({"optimizer": "sgd"}, "unknown optimizer 'sgd'; known: adam, muon, soap"),
        ({"without": ["0<=1"]}, "there is no rule '0<=1'; known: none"),
        ({"max_seconds": -1.0}, "max_seconds"),
    ):
        model = DiffusionEstimator(**{**QUICK, **changes})  # nothing is checked here
        with refused(message):
            model.fit(_points(50))
    named = pd.DataFrame(_points(50), columns=["a", 3])
    with refused("columns are named by text and by numbers; name all by text", DataError):
        DiffusionEstimator(**QUICK).fit(named)


def test_a_file_that_is_read_again_silences_no_other_thread(tmp_path, caplog):
    frame = pd.DataFrame({"id": range(100, 150), "x": np.random.default_rng(0).normal(size=50)})
    write_frame(tmp_path / "rows.csv", frame)
    source = FileData(path=tmp_path / "rows.csv", sha256="0" * 64)
    with source._quiet():
        TableCodec.fit(frame)
        assert not caplog.records
        other = Thread(target=TableCodec.fit, args=(frame,))
        other.start()
        other.join()
    assert [record.getMessage()[:28] for record in caplog.records] == [
        "column 'id' identifies rows:"
    ]
    TableCodec.fit(frame)
    assert len(caplog.records) == 2
