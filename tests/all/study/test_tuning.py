"""Searches of free sizes and of several budgets, in databases, and from rows alone."""

import math
import os
import shutil
import socket

import numpy as np
import optuna
import pandas as pd
import pytest

from helpers import refused
from kan_diffusion.cli.console import show_tuned
from kan_diffusion.errors import RunFolderError
from kan_diffusion.study import tuning
from kan_diffusion.study.folder import load_trial
from kan_diffusion.study.tuning import apply_tuned, tune
from make import study
from runs import copied

ONE = {"models": [{"family": "mlp"}], "data": [{"toy": "moons", "num_points": 300}]}
"""Settings of a study of one family on one data set."""


def _study(**changes):
    """Two families with one budget on two data sets."""
    data = [{"toy": toy, "num_points": 300} for toy in ("gaussian-mixture", "eight-gaussians")]
    models = [{"family": "kan"}, {"family": "mlp"}]
    training = {"steps": 20, "batch_size": 64}
    given = {"data": data, "models": models, "budgets": [{"amount": 900}], "training": training}
    return study(**{**given, **changes})


@pytest.fixture(scope="module")
def found(tmp_path_factory, executor):
    return tune(_study(), tmp_path_factory.mktemp("tuning"), tries=3, executor=executor)


def test_a_free_size_is_tuned_like_other_settings(executor, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "SIZES", (900, 2300))
    config = _study(**ONE, budgets=[{"match": "time", "amount": 1.0}])
    found = tune(config, tmp_path, tries=4, executor=executor)
    tried = found.tries["settings"].tolist()
    assert tried[0]["params"] == 2300
    assert {each["params"] for each in tried} == {900, 2300}
    best = found.best["mlp"].params
    assert [trial.model.params for trial in apply_tuned(config, found.best).trials()] == [best]
    # A study that gives sizes itself keeps them.
    sized = config.model_copy(update={"budgets": _study().budgets})
    assert [trial.model.params for trial in apply_tuned(sized, found.best).trials()] == [900]


def test_a_search_goes_on_from_its_rows_alone(found, executor, tmp_path):
    tune(_study(), tmp_path, tries=1, executor=executor, keep_rows=True)
    # Of what a search leaves, its rows alone are carried to another machine.
    for path in tmp_path.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "results.parquet":
            path.unlink()
    events = []
    again = tune(
        _study(), tmp_path, tries=3, executor=executor, on_event=events.append, keep_rows=True
    )
    # It ends as one that was never interrupted, and the first try is not trained again.
    pd.testing.assert_frame_equal(again.tries, found.tries)
    assert again.best == found.best
    trained = {trial for row in found.tries.to_dict("records") for trial in row["trials"]}
    first = {t for row in found.tries[found.tries["try"] == 0].to_dict("records")
             for t in row["trials"]}  # fmt: skip
    assert {event.trial for event in events} == trained - first


def _search(folder):
    """The only search of a folder, as its database has it."""
    storage = f"sqlite:///{folder / 'tuning.db'}"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


@pytest.mark.parametrize("host", ["elsewhere", socket.gethostname()])
def test_a_try_whose_driver_died_is_taken_up(host, tmp_path, executor):
    config = _study(**ONE)
    tune(config, tmp_path, tries=1, executor=executor)
    lost = _search(tmp_path).ask(
        {
            "learning_rate": optuna.distributions.FloatDistribution(5e-3, 5e-2, log=True),
            "depth": optuna.distributions.IntDistribution(3, 7),
        }
    )
    lost.set_user_attr("host", host)
    lost.set_user_attr("pid", os.getppid())  # of a program that took its number
    lost.set_user_attr("seen", 0.0)
    rows = tune(config, tmp_path, tries=2, executor=executor).tries
    assert rows["try"].tolist() == [0, 1]
    # With six digits, so that another processor's last ones make no other trial.
    rate = float(f"{lost.params['learning_rate']:.6g}")
    assert rows["settings"].tolist()[1]["learning_rate"] == rate


def test_a_training_that_was_changed_is_no_try_that_failed(found, tmp_path, executor):
    folder = copied(found.path.parent, tmp_path / "copy")
    for file in (folder / "trials").glob("*/curves.parquet"):
        file.write_bytes(b"")
    (folder / "tuning.db").unlink()
    with refused("is not what the run wrote .*--unverified", RunFolderError):
        tune(_study(), folder, tries=3, executor=executor)
    again = tune(_study(), folder, tries=3, executor=executor, verify=False)
    pd.testing.assert_frame_equal(again.tries, found.tries)


def test_the_first_of_several_budgets_is_searched_and_that_is_said(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with refused("is a file"):
        tune(_study(budgets=[{"amount": 900}, {"amount": 600}]), tmp_path / "file")
    assert caplog.messages == [
        "of the 2 budgets of study 'tiny' the search is at the first alone: params, 900"
    ]


def test_models_that_the_budget_is_not_for_are_not_searched(tmp_path, executor, caplog):
    budgets = [{"amount": 900, "models": ["KAN"]}, {"amount": 600, "models": ["MLP"]}]
    config = _study(data=[{"toy": "moons", "num_points": 300}], budgets=budgets)
    tries = tune(config, tmp_path, tries=1, executor=executor).tries
    assert tries["family"].tolist() == ["kan"]
    assert "the first budget of study 'tiny' is not for 'MLP': nothing is" in caplog.messages[1]


def test_a_data_set_may_be_called_like_a_column(tmp_path, executor, capsys):
    points = tmp_path / "value.npy"
    np.save(points, np.random.default_rng(0).normal(size=(100, 2)))
    config = _study(models=[{"family": "mlp"}], data=[{"path": str(points)}])
    tries = tune(config, tmp_path / "run", tries=1, executor=executor).tries
    (row,) = tries.to_dict("records")
    assert row["value"] == pytest.approx(math.log(row["value (data)"]))
    show_tuned(tries)
    assert "value (data)" in capsys.readouterr().out


def test_a_database_that_cannot_be_used_is_one_line(tmp_path):
    with refused("the database 'nonsense' cannot be used"):
        tune(_study(), tmp_path, tries=1, storage="nonsense")


def test_a_search_at_another_budget_in_the_same_folder_is_another(tmp_path, executor):
    sizes = []
    for amount in (900, 600):
        config = _study(**ONE, budgets=[{"amount": amount}], process=["cosine", "flow"])
        (row,) = tune(config, tmp_path, tries=1, executor=executor).tries.to_dict("records")
        trials = [load_trial(tmp_path / "trials" / trial) for trial in row["trials"]]
        sizes.append(trials[0].row["parameters"])
        # A try on two processes has a value for each.
        logs = [math.log(row[f"moons, {trial.config.process.name}"]) for trial in trials]
        assert row["value"] == pytest.approx(sum(logs) / 2)
    assert sizes == pytest.approx([900, 600], rel=0.02)
