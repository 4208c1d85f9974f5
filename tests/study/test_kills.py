"""Processes that are killed or interrupted at their writes, and two drivers of one study."""

from __future__ import annotations

import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest

from command_line import call_quietly
from commands import context
from kan_diffusion.study.config import TrialConfig
from kan_diffusion.study.folder import load_trial
from kan_diffusion.study.tuning import tune
from kills import WAIT, drive, explain, report, run_until, run_until_kept, train_and_judge
from one_by_one import OneByOne
from tiny import tiny_study, trial_content

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="needs signals"),
    pytest.mark.slow,
]
KILLED = -signal.SIGKILL


def _trial() -> TrialConfig:
    """A trial of 20 steps with a checkpoint at each tenth and pictures of two moments."""
    training = {"steps": 20, "batch_size": 64, "checkpoint_every": 10}
    evaluation = {
        "num_noised": 100, "num_samples": 20, "num_likelihood": 0, "num_real_pairs": 1,
        "num_drawn": 20, "moments": [0.0, 0.75],
    }  # fmt: skip
    return tiny_study(training=training, evaluation=evaluation).trials()[0]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    train_and_judge(_trial(), folder)
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    """The files of a finished trial, but for those that hold what a clock decides."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("trial.json", "SHA256SUMS")
    }


def _require_same(folder: Path, undisturbed: Path) -> None:
    assert trial_content(folder) == trial_content(undisturbed)
    assert _files(folder) == _files(undisturbed)


def test_a_trial_killed_before_each_of_its_writes_ends_the_same(
    tmp_path: Path, undisturbed: Path
) -> None:
    # What a kill leaves is where the next attempt begins: it finds the first n files.
    write = 0
    while (code := run_until(write, train_and_judge, _trial(), tmp_path)) == KILLED:
        assert load_trial(tmp_path) is None  # a trial is finished with its last file, or not at all
        write += 1
    assert code == 0
    assert write > 10
    _require_same(tmp_path, undisturbed)


def test_a_trial_interrupted_after_a_checkpoint_ends_the_same(
    tmp_path: Path, undisturbed: Path
) -> None:
    for _ in range(2):
        code = run_until_kept("checkpoint.safetensors", 1, train_and_judge, _trial(), tmp_path)
        assert code in (130, 0)
    train_and_judge(_trial(), tmp_path)
    _require_same(tmp_path, undisturbed)


def test_a_report_that_is_killed_leaves_the_old_page(tmp_path: Path, undisturbed: Path) -> None:
    run = shutil.copytree(undisturbed, tmp_path / "run")
    report(run)
    page = (run / "report.html").read_bytes()
    for write in (0, 2, 5):
        assert run_until(write, report, run) == KILLED
        assert (run / "report.html").read_bytes() == page
    assert load_trial(run) is not None
    report(run)
    assert (run / "report.html").read_bytes() == page


def test_a_search_that_is_killed_loses_no_try(tmp_path: Path) -> None:
    study = tiny_study(
        models=[{"family": "mlp"}],
        budgets=[{"amount": 300}],
        training={"steps": 10, "batch_size": 64},
    )
    search = partial(tune, tries=2, executor=OneByOne(workers=1, device="cpu"))
    for write in (3, 6, 9, 12):
        assert run_until(write, search, study, tmp_path) == KILLED
        assert not (tmp_path / "tuned.json").exists()
    rows = search(study, tmp_path).tries
    assert rows["try"].tolist() == [0, 1]
    assert rows["error"].isna().all()
    for trial in (trial for trials in rows["trials"] for trial in trials):
        assert load_trial(tmp_path / "trials" / trial) is not None


def test_an_explanation_that_is_killed_is_made_again(tmp_path: Path) -> None:
    words = "train two-modes --family readable-kan --params 60 --steps 20 --batch-size 64 --out"
    assert call_quietly(*words.split(), tmp_path / "run") == 0
    explain(tmp_path / "run", tmp_path / "undisturbed")
    write, out = 0, tmp_path / "out"
    while (code := run_until(write, explain, tmp_path / "run", out)) == KILLED:
        write += 5
    assert code == 0
    assert write > 5
    made, wanted = (
        json.loads((place / "formulas.json").read_text())
        for place in (out, tmp_path / "undisturbed")
    )
    assert made == wanted
    assert trial_content(out / "simplified") == trial_content(
        tmp_path / "undisturbed" / "simplified"
    )


def test_two_drivers_train_no_trial_twice(tmp_path: Path) -> None:
    training = {"steps": 12, "batch_size": 64, "checkpoint_every": 4}
    study = tiny_study(seeds=2, training=training).pinned()
    folder, log = tmp_path / "run", tmp_path / "log"
    drivers = [context.Process(target=drive, args=(study, folder, log)) for _ in range(2)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join(WAIT)
        assert driver.exitcode == 0
    steps = study.training.steps
    assert sorted(log.read_text().splitlines()) == sorted(f"{t.id} {steps}" for t in study.trials())
