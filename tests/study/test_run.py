from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kan_diffusion.errors import KanDiffusionError, RunFolderError
from kan_diffusion.study.config import StudyConfig, read_study
from kan_diffusion.study.executors import TrialEvent
from kan_diffusion.study.folder import load_points
from kan_diffusion.study.run import (
    StudyResults,
    load_study,
    plan_study,
    run_study,
)
from kan_diffusion.study.trial import run_trial

STEPS = 400


def _study(**changes: object) -> StudyConfig:
    return StudyConfig.model_validate(
        {
            "name": "tiny",
            "title": "Tiny",
            "seeds": 1,
            "data": [{"toy": "gaussian-mixture", "num_points": 500}],
            "training": {"steps": STEPS, "batch_size": 64, "checkpoint_every": 50},
            "models": [
                {"name": "diverging", "family": "mlp", "params": 300, "learning_rate": 1e30},
                {"name": "KAN", "family": "kan", "params": 600},
                {"name": "MLP", "family": "mlp", "params": 600},
            ],
            "sampling": {"steps": 5},
            "evaluation": {
                "num_noised": 200,
                "num_samples": 100,
                "num_real_pairs": 1,
                "num_drawn": 50,
            },
            **changes,
        }
    )


def _files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def _numbers(folder: Path) -> list[dict[str, object]]:
    """The results without what a clock decides, or where the folder lies."""
    text = (folder / "results.json").read_text().replace(str(folder), "RUN")
    return [
        {key: value for key, value in row.items() if not key.endswith("_seconds")}
        for row in json.loads(text)
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    """A study of three trials, the first of which diverges; its trials run in this process."""
    folder = tmp_path_factory.mktemp("study") / "run"
    for trial in _study().trials():
        run_trial(trial, folder / "trials" / trial.id, device="cpu")
    (folder / "study.yaml").write_text(_study().to_yaml())
    return run_study(_study(), folder)


def test_rows_say_what_diverged(undisturbed: StudyResults) -> None:
    assert undisturbed.failures == {}
    errors = dict(zip(undisturbed.rows["name"], undisturbed.rows["error"], strict=True))
    assert "lower the learning rate" in errors.pop("diverging")
    assert errors == {"KAN": None, "MLP": None}
    assert undisturbed.rows["excess"].notna().tolist() == [False, True, True]


def test_everything_a_run_folder_holds(undisturbed: StudyResults) -> None:
    folder = undisturbed.folder
    assert {path.name for path in folder.iterdir()} == {
        "study.yaml",
        "environment.json",
        "trials",
        "results.json",
        "results.parquet",
    }
    assert {path.name for path in (folder / "trials").iterdir()} == {
        trial.id for trial in _study().trials()
    }
    assert read_study(folder / "study.yaml") == _study().pinned()
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["python"] == sys.version.split()[0]
    assert {"torch", "diffusers", "numba", "kan-diffusion"} <= set(environment)


def test_results_are_the_same_in_both_files(undisturbed: StudyResults) -> None:
    folder = undisturbed.folder
    rows = json.loads((folder / "results.json").read_text())
    table = pd.read_parquet(folder / "results.parquet")
    assert list(table.columns) == list(rows[0])
    for row, record in zip(rows, table.to_dict("records"), strict=True):
        for key, value in row.items():
            if value is None:
                assert pd.isna(record[key]), key
            else:
                assert record[key] == value, key
    assert rows[1]["parameters"] == pytest.approx(600, rel=0.02)
    # One draw of points is shared: the floor is the same for all.
    assert rows[1]["floor"] == rows[2]["floor"]


def test_study_is_read_back(undisturbed: StudyResults) -> None:
    again = load_study(undisturbed.folder)
    assert again.config == undisturbed.config
    assert again.trials == undisturbed.trials
    pd.testing.assert_frame_equal(again.rows, undisturbed.rows)


def test_a_finished_study_is_not_run_again(undisturbed: StudyResults) -> None:
    before = _files(undisturbed.folder / "trials")
    events: list[TrialEvent] = []
    again = run_study(_study(), undisturbed.folder, workers=1, on_event=events.append)
    assert events == []
    assert _files(undisturbed.folder / "trials") == before
    pd.testing.assert_frame_equal(again.rows, undisturbed.rows)


@pytest.mark.slow
def test_a_killed_study_goes_on_to_the_same_results(
    undisturbed: StudyResults, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    study = tmp_path / "tiny.yaml"
    study.write_text(_study().to_yaml())
    command = [sys.executable, "-m", "kan_diffusion", "compare", str(study)]
    process = subprocess.Popen(
        [*command, "--out", str(folder), "--device", "cpu", "--workers", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    checkpoint = folder / "trials" / _study().trials()[1].id / "checkpoint.safetensors"
    while not checkpoint.exists():  # the KAN is in training
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    # Its worker holds the same pipes: they close when the worker, an orphan now, has ended too.
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not (checkpoint.parent / "trial.json").exists()
    assert checkpoint.exists()
    assert not (folder / "results.json").exists()

    stood = {path.parent.name for path in (folder / "trials").glob("*/trial.json")}
    events: list[TrialEvent] = []
    run_study(read_study(study), folder, device="cpu", workers=1, on_event=events.append)
    # What had finished stands; the others are taken up, and tell how it goes.
    finished = {event.trial for event in events if event.finished}
    assert finished == {trial.id for trial in _study().trials()} - stood
    assert any(event.step > 0 and math.isfinite(event.loss) for event in events)
    assert _numbers(folder) == _numbers(undisturbed.folder)
    for there in (undisturbed.folder / "trials").rglob("*.safetensors"):
        here = folder / there.relative_to(undisturbed.folder)
        if there.name == "checkpoint.safetensors":
            assert here.exists()  # the state that is kept of the trial that diverged
        elif there.parent.name == "denoiser":
            assert here.read_bytes() == there.read_bytes()
        else:
            np.testing.assert_array_equal(load_points(here), load_points(there))


@pytest.mark.slow
def test_a_study_may_grow_and_a_killed_worker_is_replaced(
    undisturbed: StudyResults, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed.folder, folder)
    before = _files(folder / "trials")
    more = _study(seeds=2)

    killed: list[int] = []

    def kill_worker(event: TrialEvent) -> None:
        if event.trial == more.trials()[4].id and not killed:
            (worker,) = multiprocessing.active_children()
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
            killed.append(worker.pid)

    extended = run_study(more, folder, device="cpu", workers=1, on_event=kill_worker)
    assert killed
    assert extended.failures == {}
    assert extended.rows["seed"].tolist() == [0, 0, 0, 1, 1, 1]
    assert extended.rows["excess"].notna().tolist() == [False, True, True] * 2
    # What the shorter study had finished was read, not run again.
    after = _files(folder / "trials")
    assert {path: after[path] for path in before} == before
    pd.testing.assert_frame_equal(
        extended.rows.iloc[:3], undisturbed.rows, check_dtype=False, check_names=False
    )


@pytest.mark.slow
def test_an_interrupt_keeps_the_running_trial_and_starts_no_other(tmp_path: Path) -> None:
    models = [{"name": name, "family": "mlp", "params": 300} for name in ("first", "second")]
    study = _study(models=models, training={"steps": 10**6, "batch_size": 64})
    first, second = (tmp_path / "trials" / trial.id for trial in study.trials())

    def interrupt(event: TrialEvent) -> None:
        if event.step > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(study, tmp_path, device="cpu", workers=1, on_event=interrupt)
    assert multiprocessing.active_children() == []
    assert (first / "checkpoint.safetensors").stat().st_size > 0
    assert not second.exists()


def test_a_study_in_the_way_is_refused(undisturbed: StudyResults, tmp_path: Path) -> None:
    folder = undisturbed.folder
    before = _files(folder)

    def refused(message: str, study: StudyConfig, folder: Path) -> None:
        with pytest.raises(RunFolderError, match=message) as caught:
            run_study(study, folder, device="cpu", workers=1)
        assert "\n" not in str(caught.value)
        assert "--out" in str(caught.value)

    refused(r"holds another study \(other seed\)", _study(seed=1), folder)
    refused(r"\(other training\)", _study(training={"steps": 3}), folder)
    refused(r"\(other data\)", _study(data=[{"toy": "moons"}]), folder)
    assert _files(folder) == before
    (tmp_path / "notes.txt").write_text("mine")
    refused("holds other files and no study", _study(), tmp_path)
    refused("is a file", _study(), tmp_path / "notes.txt")
    with pytest.raises(RunFolderError, match=r"holds no study \(there is no study\.yaml"):
        load_study(tmp_path)


def test_a_file_that_was_moved_is_the_same_study(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 2))
    models = [{"name": "diverging", "family": "mlp", "params": 300, "learning_rate": 1e30}]

    def study(place: str) -> StudyConfig:
        path = tmp_path / place / "points.npy"
        path.parent.mkdir()
        np.save(path, rows)
        return _study(data=[{"path": str(path)}], models=models).pinned()

    config, folder = study("here"), tmp_path / "run"
    run_trial(config.trials()[0], folder / "trials" / config.trials()[0].id)
    (folder / "study.yaml").write_text(config.to_yaml())
    results = run_study(study("there"), folder)  # the only trial is finished
    assert results.rows["data"].tolist() == ["points"]
    np.save(tmp_path / "there" / "points.npy", rows + 1)
    with pytest.raises(RunFolderError, match="other data"):
        run_study(_study(data=[{"path": str(tmp_path / "there" / "points.npy")}]), folder)


def test_what_cannot_be_run_is_known_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = [{"name": "small", "family": "kan", "params": 9}]
    with pytest.raises(KanDiffusionError, match="budget of 9 is too small"):
        run_study(_study(models=small), tmp_path / "run")
    odd = [{"name": "odd", "family": "mlp", "hidden": [4], "settings": {"activatoin": "relu"}}]
    with pytest.raises(KanDiffusionError, match="activatoin"):
        run_study(_study(models=odd), tmp_path / "run")
    with pytest.raises(KanDiffusionError, match="no file"):
        run_study(_study(data=[{"path": str(tmp_path / "missing.csv")}]), tmp_path / "run")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(RunFolderError, match="MB free and this run may write 3 MB"):
        run_study(_study(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_parameters_are_counted_for_each_data_set(tmp_path: Path) -> None:
    path = tmp_path / "wide.npy"
    np.save(path, np.random.default_rng(0).normal(size=(40, 6)))
    models = [{"name": "fitted", "family": "mlp", "params": 900}]
    models += [
        {"name": "fixed", "family": "mlp", "hidden": [10], "settings": {"time_encoding": "raw"}}
    ]
    study = _study(data=[{"toy": "moons"}, {"path": str(path)}], models=models)
    plan = plan_study(study, tmp_path / "run")
    counts = {(t.data.name, t.model.name): plan.parameters[t.id] for t in plan.trials}
    # (inputs + 1 for time + 1 for bias) x 10 + (10 + 1) x outputs
    assert counts["moons", "fixed"] == 4 * 10 + 11 * 2
    assert counts["wide", "fixed"] == 8 * 10 + 11 * 6
    for data in ("moons", "wide"):
        assert abs(counts[data, "fitted"] - 900) <= 18
