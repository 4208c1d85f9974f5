import shutil
import sys
import types
from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers import refused
from kan_diffusion.errors import DataError, RunFolderError
from kan_diffusion.evaluation.metrics import Metric
from kan_diffusion.files import write_parquet
from kan_diffusion.study.config import read_study
from kan_diffusion.study.run import (
    Study,
    load_study,
    read_environment,
    require_folder,
    run_study,
)
from kan_diffusion.study.trial import evaluate_run, run_trial
from make import reseal, study, written
from one_by_one import one_by_one
from runs import copied

SMALL = {"family": "mlp", "params": 200}
DIVERGING = {"name": "diverging", "family": "mlp", "params": 300, "learning_rate": 1e30}


def _study(**changes):
    models = [DIVERGING, *study().model_dump(include={"models"})["models"]]
    return study(**{"models": models, **changes})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A study of three trials, the first of which diverges; its trials run in this process."""
    folder = tmp_path_factory.mktemp("study") / "run"
    for trial in _study().trials():
        run_trial(trial, folder / "trials" / trial.id, device="cpu")
    (folder / "study.yaml").write_text(_study().to_yaml())
    return run_study(_study(), folder)


def test_everything_a_run_folder_holds(undisturbed):
    folder = undisturbed.folder
    files = {"study.yaml", "environment.json", "trials", "results.parquet", ".lock"}
    assert {path.name for path in folder.iterdir()} == files
    kept = {path.name for path in (folder / "trials").iterdir()}
    assert kept == {trial.id for trial in _study().trials()}
    assert read_study(folder / "study.yaml") == _study().pinned()
    environment = read_environment(folder)
    assert environment["python"] == sys.version.split()[0]
    assert {"torch", "diffusers", "numba", "kan-diffusion"} <= set(environment)


def test_rows_are_those_of_the_trials_and_say_what_diverged(undisturbed):
    errors = dict(zip(undisturbed.rows["name"], undisturbed.rows["error"], strict=True))
    assert "lower the learning rate" in errors.pop("diverging")
    assert errors == {"KAN": None, "MLP": None}
    assert undisturbed.rows["excess"].notna().tolist() == [False, True, True]
    table = pd.read_parquet(undisturbed.folder / "results.parquet")
    for trial, record in zip(undisturbed.trials, table.to_dict("records"), strict=True):
        known = {key: value for key, value in trial.row.items() if value is not None}
        assert {key: record[key] for key in known} == known
        assert all(pd.isna(record[key]) for key in record.keys() - known.keys())
    assert table["parameters"][1] == pytest.approx(600, rel=0.02)
    # One draw of points is shared: the floor is the same for all.
    assert table["floor"][1] == table["floor"][2]


def test_a_finished_study_is_read_back_and_not_run_again(undisturbed):
    read = load_study(undisturbed.folder)
    assert (read.config, read.trials) == (undisturbed.config, undisturbed.trials)
    before, events = written(undisturbed.folder / "trials"), []
    again = run_study(_study(), undisturbed.folder, on_event=events.append)
    assert events == []
    assert written(undisturbed.folder / "trials") == before
    for each in (read, again):
        pd.testing.assert_frame_equal(each.rows, undisturbed.rows)


def test_why_a_trial_could_not_be_run_is_read_back(undisturbed, tmp_path):
    folder = copied(undisturbed.folder, tmp_path / "run")
    rows = pd.read_parquet(folder / "results.parquet").astype(object)
    lost = undisturbed.config.trials()[1]
    rows.loc[1] = pd.Series({**lost.keys, "error": "its worker died"})
    write_parquet(folder / "results.parquet", rows)
    shutil.rmtree(folder / "trials" / lost.id)
    with refused(r"results\.parquet' is not what the run wrote", RunFolderError):
        load_study(folder)
    reseal(folder)
    assert load_study(folder).rows["error"][1] == "its worker died"
    shutil.rmtree(folder / "trials")
    assert load_study(folder).rows["error"][1] == "its worker died"
    (folder / "results.parquet").write_bytes(b"[]")
    reseal(folder)
    with refused("is not the results of a study .*; run the study again", RunFolderError):
        load_study(folder)


def test_a_study_may_grow(undisturbed, tmp_path):
    folder, plans, events = copied(undisturbed.folder, tmp_path / "run"), [], []
    before = written(folder / "trials")
    told = {"on_plan": lambda *plan: plans.append(plan), "on_event": events.append}
    grown = run_study(_study(seeds=2), folder, executor=one_by_one, **told)
    assert grown.rows["seed"].tolist() == [0, 0, 0, 1, 1, 1]
    assert grown.rows["excess"].notna().tolist() == [False, True, True] * 2
    # The trials that the shorter study had finished were read, not run again.
    assert before.items() <= written(folder / "trials").items()
    pd.testing.assert_frame_equal(
        grown.rows.iloc[:3], undisturbed.rows, check_dtype=False, check_names=False
    )
    ((trials, missing),) = plans
    assert len(trials) == 6
    assert {trial.seed for trial in missing} == {1}
    assert {event.trial for event in events if event.finished} == {t.id for t in missing}


def test_results_are_not_replaced_where_fewer_trials_can_be_judged(
    undisturbed, tmp_path, monkeypatch
):
    def raises(x, y, generator):
        raise RuntimeError("my own\nfault")

    module = types.ModuleType("failing_metrics")
    module.RAISES = Metric("raises", "R", "lower", raises)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    failing = study().evaluation.model_copy(update={"metrics": ("failing_metrics:RAISES",)})
    folder = copied(undisturbed.folder, tmp_path / "run")
    before = {name: (folder / name).read_bytes() for name in ("study.yaml", "results.parquet")}
    said = "metric .raises. gives no number .RuntimeError: my own fault.; .* those of before"
    with refused(f"2 of 3 trials .* the first with: {said}"):
        run_study(_study(evaluation=failing), folder, executor=one_by_one)
    assert {name: (folder / name).read_bytes() for name in before} == before
    pd.testing.assert_frame_equal(load_study(folder).rows, undisturbed.rows)


def test_a_study_in_the_way_is_refused(undisturbed, tmp_path):
    folder = undisturbed.folder
    before = written(folder)

    (tmp_path / "notes.txt").write_text("mine")
    for message, config, place in (
        (r"holds another study \(seed 0, not 1\)", _study(seed=1), folder),
        (r"\(training.steps 40, not 3, ", _study(training={"steps": 3}), folder),
        (r"\(data.0.toy gaussian-mixture, not moons", _study(data=[{"toy": "moons"}]), folder),
        (
            "whose page would lose 1 of its trials, such as .* KAN",
            _study().only(families=["mlp"]),
            folder,
        ),
        ("whose page would lose 3 of its trials", _study(models=[SMALL]), folder),
        ("holds other files and no study", _study(), tmp_path),
        ("is a file", _study(), tmp_path / "notes.txt"),
    ):
        with refused(f"{message}.*choose a.*folder", RunFolderError):
            run_study(config, place)
    assert written(folder) == before
    with pytest.raises(RunFolderError, match=r"holds no study \(there is no study\.yaml"):
        load_study(tmp_path)


def test_a_file_that_was_moved_is_the_same_study(tmp_path):
    rows = np.random.default_rng(0).normal(size=(40, 2))

    def of_place(place, rows):
        path = tmp_path / place / "points.npy"
        path.parent.mkdir()
        np.save(path, rows)
        return _study(data=[{"path": str(path)}], models=[DIVERGING]).pinned()

    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "study.yaml").write_text(of_place("here", rows).to_yaml())
    require_folder(of_place("there", rows), folder, 1)
    with refused("holds another study .data.0.sha256", RunFolderError):
        require_folder(of_place("elsewhere", rows + 1), folder, 1)


def test_a_run_is_judged_from_another_folder_and_after_it_was_moved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("points.npy", np.random.default_rng(0).normal(size=(40, 2)))
    trial = study(data=[{"path": "points.npy"}]).pinned().trials()[1]
    row = run_trial(trial, Path("run"), device="cpu").row
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move("run", elsewhere / "run")
    monkeypatch.chdir(elsewhere)
    assert evaluate_run(Path("run"))[0]["heldout_loss"] == row["heldout_loss"]
    (tmp_path / "points.npy").unlink()
    with pytest.raises(DataError, match=rf"no file '{tmp_path}/points.npy'.*{trial.data.sha256}"):
        evaluate_run(Path("run"))


def test_what_cannot_be_run_is_known_before_training(tmp_path, monkeypatch):
    small = {"name": "small", "family": "kan", "params": 9}
    odd = {"name": "odd", "family": "mlp", "hidden": [4], "settings": {"activatoin": "relu"}}
    for changes, message in (
        ({"models": [small]}, "budget of 9 is too small"),
        ({"models": [odd]}, "activatoin"),
        ({"data": [{"path": str(tmp_path / "missing.csv")}]}, "no file"),
    ):
        with refused(message):
            run_study(_study(**changes), tmp_path / "run")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(RunFolderError, match="MB free and this run may write 3 MB"):
        run_study(_study(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_built_on_a_data_set_is_left_out_with_one_warning(tmp_path, caplog):
    data = [{"toy": toy, "num_points": 50} for toy in ("moons", "mixture-32d")]
    given = {
        "data": data, "models": [{"family": "kan"}, {"family": "mlp"}],
        "training": {"steps": 2, "batch_size": 8}, "budget": {"amount": 600},
    }  # fmt: skip
    results = run_study(study(**given), tmp_path / "run", executor=one_by_one)
    (warning,) = (text for text in caplog.messages if "left out" in text)
    assert "'KAN' on 'mixture-32d' (a budget of 600 is too small" in warning
    read = load_study(tmp_path / "run")
    for rows in (results.rows, read.rows):
        trained = list(zip(rows["data"], rows["name"], strict=True))
        assert trained == [("moons", "KAN"), ("moons", "MLP"), ("mixture-32d", "MLP")]
        assert rows["error"].isna().all()
    # What a user leaves out stays out, and what is not in the study is no name.
    by_hand = {**given, "models": [*given["models"], {"family": "gated-mlp"}]}
    config = study(**by_hand, unfit={"moons": ["MLP"]})
    assert Study.open(config, tmp_path / "by-hand").config.unfit["moons"] == ("MLP",)
    wrong = config.model_copy(update={"unfit": {"moons": ("MLPs",)}})
    (tmp_path / "study.yaml").write_text(wrong.to_yaml())
    with refused("unknown model 'MLPs', did you mean 'MLP'"):
        read_study(tmp_path / "study.yaml")
    with refused("model 'KAN' on 'mixture-32d': a budget of 600 is too small"):
        run_study(study(**given).only(data=["mixture-32d"]), tmp_path / "other")
    # Each model can be built on a data set, and on none two of them.
    pair = [{"name": "narrow", "family": "mlp", "params": 600}, {"family": "dit", "hidden": [8, 8]}]
    with refused("no data set of study 'tiny' has two models that can be built on it"):
        run_study(study(data=[data[0], {"pictures": "digits"}], models=pair), tmp_path / "other")
    assert not (tmp_path / "other").exists()
