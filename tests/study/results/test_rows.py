import itertools
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from html_page import Page
from helpers import refused
from kan_diffusion.errors import DataError, RunFolderError
from kan_diffusion.report.study import curves_of, write_report
from kan_diffusion.study.config import EvaluationConfig
from kan_diffusion.study.folder import Judged, Trained, TrialResult, keep_trial, load_trial
from kan_diffusion.study.named import single_trial
from kan_diffusion.study.results.rows import Results, read_results, read_runs
from kan_diffusion.study.results.verdicts import decide
from kan_diffusion.study.results.wording import say
from make import reseal
from runs import copied
from synthetic_study import rows_of

SMALL = EvaluationConfig(num_noised=100, num_samples=50, num_drawn=20, moments=(), effort="quick")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Makes runs as they are kept, each with an excess of its own; none is trained."""
    place, numbers = tmp_path_factory.mktemp("side-by-side"), itertools.count(1)

    def run(name, *, data="two-modes", evaluation=SMALL, number=0, **settings):
        folder = place / name
        if not folder.exists():
            given = {"family": "mlp", "params": 60, "steps": 5, "batch_size": 32, **settings}
            changes = {"evaluation": evaluation, "seed": number}
            config = single_trial(data, **given).model_copy(update=changes)
            excess = 0.01 * next(numbers)
            scores = {"floor": 1.0, "heldout_loss": 1 + excess, "excess": excess, "excess_se": 0.0}
            trained = Trained(row={**config.keys, "parameters": given["params"], "error": None})
            judged = Judged(row={"oracle": "exact", **scores}, levels=[], versions={})
            steps = np.arange(1, given["steps"] + 1)
            columns = dict.fromkeys(("loss", "learning_rate", "heldout_loss"), 1 / steps)
            curves = pd.DataFrame({"step": steps, **columns})
            keep_trial(TrialResult(config, folder, trained, judged), curves=curves)
        return folder

    return run


def made_rows(**changes):
    """Two seeds of a KAN and an MLP, the last of which failed."""
    values = {"KAN": [0.1, 0.2], "MLP": [0.3, None]}
    return rows_of({"moons": values}, match=None, budget=None).assign(**changes)


@pytest.mark.parametrize(
    ("match", "budget", "amount"),
    [
        (None, None, ""),
        ("time", 6.0, "6 s of training"),
        ("time", 600.0, "10 min of training"),
        ("flops", 20_000.0, "20,000 FLOPs a point"),
        ("params", 2_300.0, "2,300 parameters"),
    ],
)
def test_data_sets_come_in_order_and_have_one_budget(match, budget, amount):
    rows = [made_rows(match=match, budget=budget, data=data) for data in ("moons", "circles")]
    results = Results.of(pd.concat(rows))
    assert results.data_sets() == ["moons", "circles"]
    assert set(results.of_data("circles")["data"]) == {"circles"}
    assert (results.match, results.amount) == (match, amount)
    with pytest.raises(DataError, match="of several budgets"):
        Results.of(pd.concat([*rows, made_rows(match="params", budget=7.0, data="rings")]))


def test_models_are_judged_by_excess_only_where_all_oracles_are_exact():
    assert Results.of(made_rows()).judged("moons") == "excess"
    for oracle in ("none", ["exact", "none", "exact", "exact"], None):
        assert Results.of(made_rows(oracle=oracle)).judged("moons") == "heldout_loss"
    # A failed trial has no say.
    assert Results.of(made_rows(oracle=["exact"] * 3 + [None])).judged("moons") == "excess"


def test_rows_are_completed_and_failed_trials_have_no_measurements():
    results = Results.of(made_rows(excess=[0.1, "0.2", math.inf, 0.4], note="kept"))
    assert results.rows["excess"].tolist()[:2] == [0.1, 0.2]
    assert results.rows["excess"][2:].isna().all()
    assert results.rows["failed"].tolist() == [False, False, False, True]
    assert results.rows["c2st"].isna().all()
    assert results.metrics == {}
    assert results.models() == {"KAN": "kan", "MLP": "mlp"}
    again = Results.of(results.rows)
    pd.testing.assert_frame_equal(again.rows, results.rows)


def test_rows_without_what_they_must_have_are_refused(made):
    with pytest.raises(DataError, match="no column 'seed'"):
        Results.of(made_rows().drop(columns="seed"))
    with pytest.raises(DataError, match="'KAN' has seed 0 twice"):
        Results.of(pd.concat([made_rows(), made_rows()]))
    with refused("two-modes: 'MLP' has seed 0 twice; give each once"):
        Results.of(read_runs([made("mlp")] * 2).rows)
    empty = Results.of(pd.DataFrame())
    assert empty.data_sets() == []
    assert decide(empty).verdicts == {}


def test_the_results_of_a_folder_are_read_or_refused(tmp_path):
    committed = Path(__file__).parents[3] / "results" / "swiss-roll"
    results = read_results(committed)
    assert set(results.metrics) == {"energy", "sliced_w2", "c2st"}
    assert all(say(verdict) for verdict in decide(results).verdicts.values())
    with refused(r"no study\.yaml", RunFolderError):
        read_results(tmp_path)
    shutil.copy(committed / "study.yaml", tmp_path)
    with refused(r"environment\.json' is not a list of versions .*; run the study", RunFolderError):
        read_results(tmp_path)
    shutil.copy(committed / "environment.json", tmp_path)
    reseal(tmp_path)
    with refused("no trial of the study in .* is finished", RunFolderError):
        read_results(tmp_path)


def test_models_and_seeds_of_runs_make_a_study(made, tmp_path):
    kan = {"family": "full-kan", "params": 126, "steps": 7}
    folders = [
        made("mlp"),
        made("mlp-1", number=1),
        made("kan", **kan),
        made("kan-1", **kan, number=1),
    ]
    results = read_runs(folders)
    assert (results.config.title, results.config.seeds) == ("Runs side by side", 2)
    assert [model.name for model in results.config.models] == ["MLP", "full KAN"]
    assert list(results.rows["name"]) == ["MLP", "MLP", "full KAN", "full KAN"]
    assert list(results.rows["seed"]) == [0, 1, 0, 1]
    for folder, excess in zip(folders, results.rows["excess"], strict=True):
        assert excess == load_trial(folder).row["excess"]
    # The losses of all steps, as the runs kept them.
    curves = curves_of(results.trials)
    assert max(steps.max() for steps, _ in curves["full KAN"]) <= 7
    assert set(curves) == {"MLP", "full KAN"}
    page = Page(write_report(results, tmp_path, "again", figures=False, runs=True).read_text())
    for words in ("steps 5, batch_size 32", "steps 7, batch_size 32", "Run it again again"):
        assert words in page.said
    assert "Environment" not in page.said
    assert read_runs(folders[:1]).config.title == "two-modes · MLP · seed 0"


def test_seeds_given_to_train(made):
    folders = [made("mlp"), made("mlp-of-5", seed=5), made("larger-of-5", params=200, seed=5)]
    results = read_runs(folders)
    assert results.rows["seed"].tolist() == [0, 5, 5]
    assert [trial.config.seed for trial in results.trials] == [0, 5, 5]
    # The first seed is the one whose data are drawn again for the figures.
    assert results.config.seed == 0
    with refused("do not have the same number within their studies"):
        read_runs([*folders, made("mlp-1", number=1)])


def test_a_model_of_another_size_or_training_is_another(made):
    folders = [made("mlp"), made("mlp-1", number=1), made("longer", steps=9, number=1)]
    folders += [made("larger", params=200, number=1), made("faster", learning_rate=0.1)]
    results = read_runs(folders)
    names = [f"MLP ({name})" for name in ("mlp", "mlp", "longer", "larger", "faster")]
    assert list(results.rows["name"]) == names
    assert [model.name for model in results.config.models] == names[1:]
    assert results.config.seeds == 1  # of the second
    alike = [made("old/mlp"), made("new/mlp", params=200, number=1)]  # of one folder name
    assert list(read_runs(alike).rows["name"]) == [f"MLP ({folder})" for folder in alike]


def test_a_file_is_the_same_wherever_it_lies(made, tmp_path):
    points = np.random.default_rng(0).standard_normal((300, 2))
    folders = []
    for number, place in enumerate(("here", "there", "other")):
        path = tmp_path / place / "points.csv"
        path.parent.mkdir()
        pd.DataFrame(points + (place == "other"), columns=["x", "y"]).to_csv(path, index=False)
        folders.append(made(place, data=str(path), number=number))
    assert len(read_runs(folders[:2]).config.data) == 1
    with refused("do not have the same content or held-out part of 'points'") as caught:
        read_runs(folders)
    assert str(folders[2]) in str(caught.value)


def test_stages_on_rows_that_chose_them_are_said_to_be(runs, tmp_path):
    plain = runs("points")
    stage = copied(plain, tmp_path / "stage")
    trial = load_trial(stage)
    model = trial.config.model.model_copy(update={"name": "MLP, formula"})
    config = trial.config.model_copy(update={"model": model})
    keep_trial(trial.changed(config, **config.keys, stage="formula"))
    for folders, said in (([plain, stage], True), ([plain], False)):
        path = write_report(read_runs(folders), tmp_path, figures=False, runs=True)
        assert ("MLP, formula came about by choices" in path.read_text()) == said


def test_runs_that_were_not_judged_alike(made):
    fewer, fully = ({"num_samples": 40}, {"effort": "full"})
    for other, what in (
        (made("ddpm", process="ddpm"), "process"),
        (made("fewer", evaluation=SMALL.model_copy(update=fewer)), "way of judging"),
        (made("fully", evaluation=SMALL.model_copy(update=fully), number=7), "way of judging"),
    ):
        with refused(f"do not have the same {what}"):
            read_runs([made("mlp"), other])
    # Moments that were recorded do not matter.
    recorded = SMALL.model_copy(update={"moments": (0.0,), "num_drawn": 5})
    results = read_runs([made("mlp"), made("recorded", number=2, evaluation=recorded)])
    assert len(results.trials) == 2


def test_what_is_no_finished_run(made, tmp_path):
    with refused("holds no finished run: train one", RunFolderError):
        read_runs([tmp_path])
    (tmp_path / "study.yaml").touch()
    with refused("it is a study; give one of its trials"):
        read_runs([made("mlp"), tmp_path])
    (tmp_path / "study.yaml").unlink()
    trial = load_trial(made("mlp"))
    config = trial.config.model_copy(update={"seed": 5})
    trial = replace(trial.changed(config, **config.keys), folder=tmp_path)
    for kept, message in (
        (replace(trial.changed(error="it diverged"), judged=None), "failed: it diverged"),
        (replace(trial, judged=None), "was not judged; hold rows out"),
    ):
        keep_trial(kept)
        with refused(message):
            read_runs([made("mlp"), tmp_path])
