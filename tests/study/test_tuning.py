import json
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
from kan_diffusion.denoisers.registry import get_family, untuned_family
from kan_diffusion.errors import RunFolderError
from kan_diffusion.study import tuning
from kan_diffusion.study.folder import load_trial
from kan_diffusion.study.tuning import TunedSettings, apply_tuned, read_tuned, tune
from tiny import tiny_study, written

ONE = {"models": [{"family": "mlp"}], "data": [{"toy": "moons", "num_points": 300}]}
"""Settings of a study of one family on one data set."""


def _study(**changes):
    """Two families with one budget on two data sets."""
    data = [{"toy": toy, "num_points": 300} for toy in ("gaussian-mixture", "eight-gaussians")]
    models = [{"family": "kan"}, {"family": "mlp"}]
    return tiny_study(**{"data": data, "models": models, "budgets": [{"amount": 900}], **changes})


@pytest.fixture(scope="module")
def found(tmp_path_factory, executor):
    return tune(_study(), tmp_path_factory.mktemp("tuning"), tries=3, executor=executor)


def test_every_family_gets_as_many_tries_and_the_best_one_wins(found):
    assert found.tries.groupby("family")["try"].apply(list).to_dict() == {
        "kan": [0, 1, 2],
        "mlp": [0, 1, 2],
    }
    good = found.tries[found.tries["error"].isna()]
    for family, chosen in found.best.items():
        rows = good[good["family"] == family]
        best = rows.loc[rows["value"].astype(float).idxmin(), "settings"]
        assert chosen.learning_rate == best["learning_rate"]
        assert chosen.depth == best["depth"]
        # Also those that are the family's own: they take the place of a study's.
        for key, value in best.items():
            if key not in ("learning_rate", "depth"):
                assert list_of(chosen.settings[key]) == list_of(value)


def test_optimizers_and_batches_are_tuned_like_other_settings(executor, tmp_path):
    study = _study(**ONE)
    names, sizes = ("soap", "muon"), (8, 16)
    found = tune(study, tmp_path, tries=3, optimizers=names, batch_sizes=sizes, executor=executor)
    for row in found.tries.to_dict("records"):
        (trial,) = (load_trial(tmp_path / "trials" / trial) for trial in row["trials"])
        assert trial.config.training.optimizer == row["settings"]["optimizer"]
        assert trial.config.training.optimizer in names
        assert trial.config.training.batch_size == row["settings"]["batch_size"]
        assert trial.config.training.batch_size in sizes
    tuned = apply_tuned(study, read_tuned(found.path)).trials()[0]
    assert tuned.training.optimizer == found.best["mlp"].optimizer
    assert tuned.training.batch_size == found.best["mlp"].batch_size
    # A search without that choice in the same folder is another one.
    plain = tune(study, tmp_path, tries=1, executor=executor)
    assert plain.best["mlp"].optimizer == "adam"
    assert plain.best["mlp"].batch_size is None
    with refused("unknown optimizer 'sgd'"):
        tune(study, tmp_path, tries=1, optimizers=["sgd"])


def test_a_free_size_is_tuned_like_other_settings(executor, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "SIZES", (900, 2300))
    study = _study(**ONE, budgets=[{"match": "time", "amount": 0.05}])
    found = tune(study, tmp_path, tries=4, executor=executor)
    tried = found.tries["settings"].tolist()
    assert tried[0]["params"] == 2300
    assert {each["params"] for each in tried} == {900, 2300}
    best = found.best["mlp"].params
    assert [trial.model.params for trial in apply_tuned(study, found.best).trials()] == [best]
    # A study that gives sizes itself keeps them.
    sized = study.model_copy(update={"budgets": _study().budgets})
    assert [trial.model.params for trial in apply_tuned(sized, found.best).trials()] == [900]


def list_of(value):
    return list(value) if isinstance(value, (tuple, list)) else value


def test_a_try_is_worth_the_mean_log_of_what_its_trials_measured(found):
    folder = found.path.parent
    for row in found.tries[found.tries["error"].isna()].to_dict("records"):
        trials = [load_trial(folder / "trials" / trial) for trial in row["trials"]]
        excesses = [trial.row["excess"] for trial in trials]
        assert row["value"] == pytest.approx(sum(math.log(e) for e in excesses) / 2)
        assert {trial.config.data.name for trial in trials} == {
            "gaussian-mixture",
            "eight-gaussians",
        }
        # Neither seeds nor draws are those of a reported study.
        assert {trial.config.study_seed for trial in trials} == {1_000_000}
        for trial in trials:
            assert trial.config.model.learning_rate == row["settings"]["learning_rate"]
            assert trial.row["parameters"] == pytest.approx(900, rel=0.02)


def test_a_finished_search_is_not_run_again_and_a_longer_one_goes_on(found, executor, tmp_path):
    events = []
    folder = shutil.copytree(found.path.parent, tmp_path / "copy")
    again = tune(_study(), folder, tries=3, executor=executor, on_event=events.append)
    assert events == []
    assert again.best == found.best
    longer = tune(_study(models=[{"family": "mlp"}]), folder, tries=4, executor=executor)
    assert longer.tries["try"].tolist() == [0, 1, 2, 3]
    assert longer.tries["value"].tolist()[:3] == (
        found.tries[found.tries["family"] == "mlp"]["value"].tolist()
    )


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


def test_a_study_or_other_files_in_the_way_are_refused(tmp_path):
    for name, content, message in (
        ("study.yaml", _study().to_yaml(), r"holds another study \(other seed"),
        ("notes.txt", "mine", "holds other files and no study"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text(content)
        before = written(folder)
        with refused(f"{message}.*--out", RunFolderError):
            tune(_study(), folder, tries=1)
        assert written(folder) == before


def _search(folder):
    """The only search of a folder, as its database has it."""
    storage = f"sqlite:///{folder / 'tuning.db'}"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


@pytest.mark.parametrize("host", ["elsewhere", socket.gethostname()])
def test_a_try_whose_driver_died_is_taken_up(host, tmp_path, executor):
    study = _study(**ONE)
    tune(study, tmp_path, tries=1, executor=executor)
    lost = _search(tmp_path).ask(
        {
            "learning_rate": optuna.distributions.FloatDistribution(5e-3, 5e-2, log=True),
            "depth": optuna.distributions.IntDistribution(3, 7),
        }
    )
    lost.set_user_attr("host", host)
    lost.set_user_attr("pid", os.getppid())  # of a program that took its number
    lost.set_user_attr("seen", 0.0)
    rows = tune(study, tmp_path, tries=2, executor=executor).tries
    assert rows["try"].tolist() == [0, 1]
    # With six digits, so that another processor's last ones make no other trial.
    rate = float(f"{lost.params['learning_rate']:.6g}")
    assert rows["settings"].tolist()[1]["learning_rate"] == rate


def test_a_try_whose_driver_died_as_it_drew_its_settings_gets_all_of_them(
    found, tmp_path, executor
):
    study = _study(models=[{"family": "mlp"}])
    tune(study, tmp_path, tries=1, executor=executor)
    _search(tmp_path).ask()
    again = tune(study, tmp_path, tries=3, executor=executor).tries
    # They are those of a search that was never interrupted.
    whole = found.tries[found.tries["family"] == "mlp"].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, whole)


def test_a_training_that_was_changed_is_no_try_that_failed(found, tmp_path, executor):
    folder = shutil.copytree(found.path.parent, tmp_path / "copy")
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
    study = _study(data=[{"toy": "moons", "num_points": 300}], budgets=budgets)
    tries = tune(study, tmp_path, tries=1, executor=executor).tries
    assert tries["family"].tolist() == ["kan"]
    assert "the first budget of study 'tiny' is not for 'MLP': nothing is" in caplog.messages[1]


def test_a_data_set_may_be_called_like_a_column(tmp_path, executor, capsys):
    points = tmp_path / "value.npy"
    np.save(points, np.random.default_rng(0).normal(size=(100, 2)))
    study = _study(models=[{"family": "mlp"}], data=[{"path": str(points)}])
    tries = tune(study, tmp_path / "run", tries=1, executor=executor).tries
    (row,) = tries.to_dict("records")
    assert row["value"] == pytest.approx(math.log(row["value (data)"]))
    show_tuned(tries)
    assert "value (data)" in capsys.readouterr().out


def test_a_try_that_fails_counts_and_says_why(tmp_path):
    # 40 parameters are too few for most depths.
    study = _study(**ONE, budgets=[{"amount": 3}])
    with refused(r"no try of 'MLP' gave a result; .*too small"):
        tune(study, tmp_path, tries=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budgets": [], "models": [{"family": "kan", "params": 900}]}, "no budget"),
        ({"models": [{"family": "kan"}, {"family": "kan", "name": "b"}]}, "more than once"),
    ],
    ids=["budgets", "twice"],
)
def test_what_cannot_be_tuned_is_one_line(tmp_path, changes, message):
    with refused(message):
        tune(_study(**changes), tmp_path, tries=1)


def test_a_database_that_cannot_be_used_is_one_line(tmp_path):
    with refused("the database 'nonsense' cannot be used"):
        tune(_study(), tmp_path, tries=1, storage="nonsense")


def test_tuned_settings_go_into_a_study(found):
    tuned = apply_tuned(_study(), read_tuned(found.path))
    for trial in tuned.trials():
        best, model = found.best[trial.model.family], trial.model
        assert trial.training.learning_rate == best.learning_rate
        assert model.depth == best.depth
        own = {**untuned_family(model.family).settings, **best.settings}
        assert {key: list_of(value) for key, value in model.settings.items()} == {
            key: list_of(value) for key, value in own.items()
        }
    assert apply_tuned(_study(), {}) == _study()


def test_a_setting_that_a_search_left_as_it_was_stays_as_it_was(caplog):
    study = _study(models=[{"family": "modulated-kan"}, {"family": "mlp"}])
    tuned = {"modulated-kan": TunedSettings(depth=3, learning_rate=0.01, settings={"grid_size": 6})}
    model, _ = apply_tuned(study, tuned).pinned().models
    left = untuned_family("modulated-kan").settings["grid_range"]
    assert list_of(get_family("modulated-kan").settings["grid_range"]) != list_of(left)
    assert (model.settings["grid_size"], list_of(model.settings["grid_range"])) == (
        6,
        list_of(left),
    )
    assert caplog.messages == ["no tuned settings are known for MLP; left as they are"]


def test_a_search_at_another_budget_in_the_same_folder_is_another(tmp_path, executor):
    sizes = []
    for amount in (900, 600):
        study = _study(**ONE, budgets=[{"amount": amount}], process=["cosine", "flow"])
        (row,) = tune(study, tmp_path, tries=1, executor=executor).tries.to_dict("records")
        trials = [load_trial(tmp_path / "trials" / trial) for trial in row["trials"]]
        sizes.append(trials[0].row["parameters"])
        # A try on two processes has a value for each.
        logs = [math.log(row[f"moons, {trial.config.process.name}"]) for trial in trials]
        assert row["value"] == pytest.approx(sum(logs) / 2)
    assert sizes == pytest.approx([900, 600], rel=0.02)


def test_a_file_of_other_things_is_one_line(tmp_path):
    path = tmp_path / "tuned.json"
    for content in ("[1]", "{", json.dumps({"kan": {"depth": 3}})):
        path.write_text(content)
        with refused("is not a file of tuned settings"):
            read_tuned(path)
