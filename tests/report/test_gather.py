from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from command_line import SMALL, few_steps, few_trees
from html_page import Page, leave_files_empty
from kan_diffusion.data.datasets import load_dataset
from kan_diffusion.errors import RunFolderError
from kan_diffusion.processes import get_process
from kan_diffusion.report import gather
from kan_diffusion.report.contents import CURVE_COLUMNS, LEVEL_COLUMNS, smoothed_curve
from kan_diffusion.report.gather import report_contents
from kan_diffusion.report.study import write_report
from kan_diffusion.study.config import EvaluationConfig, SamplingConfig, StudyConfig, read_preset
from kan_diffusion.study.folder import load_points
from kan_diffusion.study.run import StudyResults, load_study, run_study
from one_by_one import OneByOne
from tiny import tiny_study

EVALUATION = EvaluationConfig(**SMALL)


def _run(study: StudyConfig, folder: Path) -> StudyResults:
    """Runs a study in this process, judged by little."""
    with few_trees(), few_steps():
        run_study(study, folder, executor=OneByOne(workers=1, device="cpu"))
    return load_study(folder)


def _tiny(**changes: object) -> StudyConfig:
    settings = {
        "data": [{"toy": "moons", "num_points": 100}],
        "training": {"steps": 20, "batch_size": 64},
        "models": [{"name": "MLP", "family": "mlp", "params": 300}],
        "sampling": {"steps": 3},
        "evaluation": EVALUATION.model_dump(),
    }
    return tiny_study(**{**settings, **changes})


@pytest.fixture(scope="module")
def notebook_study(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    """The notebook's experiment with 200 points, 12 epochs of two batches and 10 sampling steps."""
    study = read_preset("notebook")
    (data,) = study.data
    study = study.model_copy(
        update={
            "data": (data.model_copy(update={"num_points": 200}),),
            "training": study.training.model_copy(update={"batch_size": 128, "steps": 24}),
            "sampling": SamplingConfig(scheduler="ddpm", steps=10),
            "evaluation": EVALUATION,
        }
    )
    return _run(study, tmp_path_factory.mktemp("report") / "notebook")


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _run(_tiny(), tmp_path_factory.mktemp("report") / "tiny").folder


@pytest.fixture
def one_trial(tiny_folder: Path, tmp_path: Path) -> StudyResults:
    """A study of one trial, to be changed at will."""
    return load_study(Path(shutil.copytree(tiny_folder, tmp_path / "tiny")))


def test_report_holds_every_picture_of_the_notebook(
    notebook_study: StudyResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_files_empty(monkeypatch)
    contents = report_contents(notebook_study, "kan-diffusion compare notebook")
    page = write_report(contents, notebook_study.folder)
    models = ["KAN 32-32-32", "MLP 32-32-32", "KAN 32"]
    figures = {path.stem for path in (notebook_study.folder / "figures").glob("*.png")}
    assert figures >= {
        "data-swiss-roll",
        "corruption-swiss-roll",
        "samples-swiss-roll",
        "loss-swiss-roll",
        "forest",
        "excess-by-level",
        "metrics-swiss-roll",
        *(f"reverse-swiss-roll-{name.lower().replace(' ', '-')}" for name in models),
    }
    read = Page(page.read_text())
    assert len(read.images) == len(figures) + 2  # of what moves there are stills
    assert all(load.startswith("data:image/") for load in read.loads)
    text = " ".join(read.text)
    assert "could not be drawn" not in text
    assert "92.5% of the signal is left" in text
    assert "Huber loss does not aim at the posterior mean" in text
    assert "kan-diffusion compare notebook" in text
    assert all(name in text for name in models)


def test_contents_are_what_the_trials_left(notebook_study: StudyResults) -> None:
    contents = report_contents(notebook_study, "again")
    assert contents.warnings[0].startswith("This process does not reach noise: 92.5% of the signal")
    assert set(contents.excess_by_level.columns) >= set(LEVEL_COLUMNS)
    assert set(contents.curves.columns) >= set(CURVE_COLUMNS)
    by_level = contents.excess_by_level.groupby("name")["excess"].mean()
    for _, row in notebook_study.rows.iterrows():
        assert by_level[row["name"]] == pytest.approx(row["excess"])
        assert contents.floors["swiss-roll"] == row["floor"]
        key = ("swiss-roll", row["name"])
        assert contents.samples[key].shape == (50, 2)
        labels, panels = zip(*contents.trajectories[key], strict=True)
        assert labels == ("epoch 0", "epoch 3", "epoch 6", "epoch 9", "epoch 12")
        for moment in panels:
            times, states = zip(*moment, strict=True)
            assert times == pytest.approx(np.linspace(1, 0, 11))
            assert len(states) == 11
            # All start from the same noise.
            np.testing.assert_array_equal(states[0], panels[0][0][1])
        times, exact = zip(*contents.exact["swiss-roll"], strict=True)
        assert times == pytest.approx(np.linspace(1, 0, 11))
        np.testing.assert_array_equal(exact[0], panels[0][0][1])
    settings = dict(contents.settings)
    assert settings["training"].startswith("steps: 24, batch_size: 128, batches: epochs")
    assert settings["data"].startswith("toy: swiss-roll, noise: 0.2, num_points: 200")


def test_corruption_is_the_process_on_the_drawn_points(notebook_study: StudyResults) -> None:
    contents = report_contents(notebook_study, "again")
    panels = contents.corruption["swiss-roll"]
    assert [time for time, _ in panels] == pytest.approx(np.linspace(0, 1, 11))
    np.testing.assert_array_equal(panels[0][1], contents.originals["swiss-roll"])
    alpha, sigma = get_process("notebook").levels()
    noise = (panels[-1][1] - float(alpha[-1]) * panels[0][1]) / float(sigma[-1])
    assert abs(noise.mean()) < 0.5
    assert noise.std() == pytest.approx(1, abs=0.3)
    # Step 125 of 250 with the very same noise.
    expected = float(alpha[124]) * panels[0][1] + float(sigma[124]) * noise
    np.testing.assert_allclose(panels[5][1], expected, atol=1e-9)


def test_originals_are_points_no_model_was_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "table.npy"
    rows = np.random.default_rng(0).normal([5, -5, 0], [1, 2, 3], (60, 3))
    np.save(path, rows)
    # In epochs, whose length a file does not say.
    training = {"steps": 5, "batch_size": 64, "batches": "epochs"}
    study = _tiny(data=[{"path": str(path), "holdout": 0.5}], training=training)
    results = _run(study, tmp_path / "run")
    contents = report_contents(results, "again")
    assert dict(contents.settings)["training"].startswith("steps: 5, batch_size: 64")
    dataset = load_dataset(results.config.data[0], results.config.seed, 0)
    untrained = set(map(tuple, dataset.untrained().numpy()))
    assert len(contents.originals["table"]) == 30
    assert set(map(tuple, contents.originals["table"])) == untrained
    assert any("No oracle is known for" in line for line in contents.warnings)
    assert not any("does not reach noise" in line for line in contents.warnings)
    assert contents.columns["table"] == ["column_1", "column_2", "column_3"]


def test_study_in_which_everything_failed_is_reported(tmp_path: Path) -> None:
    models = [{"name": "M", "family": "mlp", "params": 300, "learning_rate": 1e30}]
    results = _run(_tiny(models=models), tmp_path)
    page = write_report(report_contents(results, "again"), tmp_path)
    assert "lower the learning rate" in page.read_text()


def test_trials_that_were_not_run_are_said(one_trial: StudyResults) -> None:
    folder = one_trial.folder
    (folder / "study.yaml").write_text(_tiny(seeds=2).pinned().to_yaml())
    with pytest.raises(RunFolderError, match=r"study\.yaml' is not what the run wrote"):
        load_study(folder)
    more = load_study(folder, verify=False)
    assert more.rows["error"].tolist() == [None, "not run"]
    assert report_contents(more, "again").results.rows["failed"].tolist() == [False, True]
    pd.testing.assert_series_equal(more.rows["excess"][:1], one_trial.rows["excess"])


def test_too_few_seeds_to_call_a_difference_are_said_only_where_they_are() -> None:
    said = ", and an exact paired test needs more to call a difference."
    for seeds, num, needs_more in ((5, 1, True), (6, 1, False), (6, 2, True), (9, 6, False)):
        study = _tiny(seeds=seeds)
        study = study.model_copy(update={"data": study.data * num})
        (warning,) = gather._warnings(study, (), {})
        assert warning.startswith(f"{seeds} seeds a model: intervals are wide")
        assert warning.endswith(said) == needs_more


def test_environment_is_that_of_the_run(one_trial: StudyResults) -> None:
    path = one_trial.folder / "environment.json"
    path.write_text(json.dumps({"processor": "an abacus"}))
    assert report_contents(one_trial, "again").environment == {"processor": "an abacus"}
    path.write_text("[")
    with pytest.raises(RunFolderError, match=r"environment\.json' is not a list of versions"):
        report_contents(one_trial, "again")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("curves.parquet", lambda path: path.write_bytes(b"no")),
        ("curves.parquet", lambda path: path.unlink()),
        ("samples.safetensors", lambda path: path.write_bytes(b"no")),
        ("reverse/0.safetensors", lambda path: path.write_bytes(b"no")),
    ],
)
def test_damaged_files_of_a_trial_are_named(
    one_trial: StudyResults, name: str, damage: Callable[[Path], object]
) -> None:
    damage(one_trial.trials[0].folder / name)
    with pytest.raises(RunFolderError, match=f"{name}' cannot be read") as caught:
        report_contents(one_trial, "again")
    assert "\n" not in str(caught.value)


# --- budgets and data without an oracle -------------------------------------------------------


@pytest.fixture(scope="module")
def budgeted(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    """Two models at two budgets on a toy and at one on a table, which has no oracle."""
    study = _tiny(
        seeds=2,
        data=[{"toy": "moons", "num_points": 100}, {"table": "iris"}],
        models=[{"name": "KAN", "family": "kan"}, {"name": "MLP", "family": "mlp"}],
        budgets=[
            {"match": "params", "amount": 600},
            {"match": "flops", "amount": 900, "data": ["moons"]},
        ],
    )
    return _run(study, tmp_path_factory.mktemp("report") / "budgeted")


def test_contents_are_told_apart_by_budget(budgeted: StudyResults) -> None:
    contents = report_contents(budgeted, "again")
    labels = [setting.label for setting in contents.results.settings()]
    assert labels == ["moons, 600 parameters", "iris, 600 parameters", "moons, 900 FLOPs a point"]
    assert set(contents.samples) == {(label, name) for label in labels for name in ("KAN", "MLP")}
    first = next(t for t in budgeted.trials if t.config.match == "flops" and t.config.seed == 0)
    np.testing.assert_array_equal(
        contents.samples["moons, 900 FLOPs a point", first.config.model.name],
        load_points(first.folder / "samples.safetensors")[:50],
    )
    for label in labels:
        rows = contents.results.of_setting(label).set_index(["name", "seed"])
        by_level = contents.levels_of(label).groupby(["name", "seed"])
        measure = "heldout_loss" if label.startswith("iris") else "excess"
        for key, levels in by_level:
            assert levels[measure].mean() == pytest.approx(rows.loc[key, measure], rel=1e-4)
        assert len(contents.curves_of(label).groupby(["name", "seed"])) == 4
    assert set(contents.floors) == {labels[0], labels[2]}
    assert ("budgets", "match: params, amount: 600.0") in contents.settings
    assert ("budgets", "match: flops, amount: 900.0, data: [moons]") in contents.settings
    assert any("No oracle is known for iris" in warning for warning in contents.warnings)


def test_rows_without_their_trials_count_and_are_said(
    budgeted: StudyResults, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(budgeted.folder, tmp_path / "budgeted"))
    for trial in budgeted.trials:
        if trial.config.seed > 0:
            shutil.rmtree(folder / "trials" / trial.config.id)
    contents, whole = (report_contents(r, "again") for r in (load_study(folder), budgeted))
    pd.testing.assert_frame_equal(contents.results.rows, whole.results.rows, check_dtype=False)
    assert set(contents.curves["seed"]) == {0}
    (said,) = [warning for warning in contents.warnings if "rows alone" in warning]
    assert said.startswith("Of 6 of 12 trials the rows alone were kept")
    assert not any("rows alone" in warning for warning in whole.warnings)


def test_curves_are_the_smoothed_losses_of_the_trials(budgeted: StudyResults) -> None:
    contents = report_contents(budgeted, "again")
    trial = budgeted.trials[0]
    raw = pd.read_parquet(trial.folder / "curves.parquet")
    assert len(raw) == 20
    label = contents.results.rows.set_index("trial").loc[trial.config.id, "setting"]
    curves = contents.curves_of(label)
    curve = curves[(curves["name"] == trial.config.model.name) & (curves["seed"] == 0)]
    steps, losses = smoothed_curve(raw["step"].to_numpy(), raw["loss"].to_numpy())
    np.testing.assert_allclose(curve["step"], steps)
    np.testing.assert_allclose(curve["loss"], losses)
