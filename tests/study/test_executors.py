from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

from helpers import refused
from kan_diffusion.study.config import TrialConfig
from kan_diffusion.study.executors import EXECUTORS, Task, TrialEvent, open_executor
from kan_diffusion.study.executors.ray import task_needs
from kan_diffusion.study.trial import run_trial
from one_by_one import OneByOne
from tiny import EVALUATION, tiny_study, trial_content
from troubles import CALM, FOLDER, PACE

EVERY = 50
LONG, SLOWLY = 600, 0.004
"""Steps, and seconds of one, of a trial with news while it runs: on Ray it comes once a second."""
assert EVERY < CALM < 2 * EVERY  # trouble comes after the first checkpoint and before the second
FAMILIES = {
    "killed": "KILLED",
    "out of space": "OUT_OF_SPACE",
    "in the way": "UNDISTURBED",
    "undisturbed": "UNDISTURBED",
}
"""Of each trial, in ``troubles.py``."""


def _trials(families: dict[str, str] = FAMILIES) -> dict[str, TrialConfig]:
    models = [
        {"name": name, "family": f"troubles:{family}", "params": 600}
        for name, family in families.items()
    ]
    models[0]["steps"] = LONG
    study = tiny_study(
        training={"steps": 150, "batch_size": 64, "checkpoint_every": EVERY},
        models=models,
        # So that training writes checkpoints alone, and is soon judged.
        evaluation={**EVALUATION, "moments": [], "num_samples": 0, "num_likelihood": 0},
    )
    return {trial.model.name: trial for trial in study.trials()}


class Scripted(OneByOne):
    """Ends the attempts at each trial as its script says, without running anything."""

    def __init__(self, script: dict[str, list[str]], workers: int) -> None:
        super().__init__(workers=workers)
        self.script = script
        self.submitted: list[Task] = []
        self.closed = False

    def room(self) -> int:
        return self.workers - len(self.tasks)

    def submit(self, task: Task) -> None:
        super().submit(task)
        self.submitted.append(task)
        assert len(self.tasks) <= self.workers

    def collect(self) -> Iterable[TrialEvent]:
        trial = self.tasks.pop(0).config.id
        kind = self.script[trial].pop(0)
        error = None if kind == "finished" else "SIGKILL"
        late = TrialEvent("progressed", trial, 2)  # on a cluster news may come after the end
        return [TrialEvent("progressed", trial, 1), TrialEvent(kind, trial, error=error), late]

    def close(self) -> None:
        self.closed = True


def test_a_lost_trial_is_tried_three_times_and_disturbs_no_other(tmp_path: Path) -> None:
    trials = _trials()
    doomed, killed, failing, calm = (trial.id for trial in trials.values())
    script = {
        doomed: ["lost", "lost", "lost"],
        killed: ["lost", "finished"],
        failing: ["failed"],
        calm: ["finished"],
    }
    with Scripted(script, workers=2) as executor:
        events = list(executor.run(list(trials.values()), tmp_path))
    assert executor.closed
    assert not any(script.values())  # each trial was tried as often as it should be
    assert executor.submitted[0].folder == tmp_path / doomed
    last = {event.trial: event for event in events if event.finished}
    assert {trial: event.kind for trial, event in last.items()} == {
        doomed: "failed",
        killed: "finished",
        failing: "failed",
        calm: "finished",
    }
    assert "its worker process died 3 times (SIGKILL)" in str(last[doomed].error)
    assert "fewer --workers" in str(last[doomed].error)
    assert len([event for event in events if event.finished]) == len(trials)
    assert {event.step for event in events if event.kind == "progressed"} == {1}
    assert not [event for event in events if event.kind == "lost"]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every trial, run in this process."""
    folder = tmp_path_factory.mktemp("here")
    for trial in _trials().values():
        run_trial(trial, folder / trial.id, device="cpu")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXECUTORS)
def test_trials_in_trouble_say_so_disturb_no_other_and_end_as_in_this_process(
    kind: str, here: Path, tmp_path: Path
) -> None:
    if kind == "ray":
        pytest.importorskip("ray")
    folder, troubles = tmp_path / "run", tmp_path / "troubles"
    folder.mkdir()
    troubles.mkdir()
    trials = _trials()
    in_the_way = folder / trials["in the way"].id
    in_the_way.write_text("a file where a folder belongs")
    news: dict[str, list[TrialEvent]] = defaultdict(list)
    began = time.time()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(troubles))
        if kind == "ray":
            patch.setenv(PACE, str(SLOWLY))
        with open_executor(kind, device="cpu", workers=2) as executor:
            for event in executor.run(list(trials.values()), folder):
                news[event.trial].append(event)
    assert multiprocessing.active_children() == []
    last = {name: news[trial.id][-1] for name, trial in trials.items()}
    for name, trial in trials.items():
        *running, end = news[trial.id]
        assert end.kind == ("failed" if name in ("out of space", "in the way") else "finished")
        assert not any(event.finished for event in running)
        assert end.seconds > 0
        assert end.started > began

    # A trial goes on from its checkpoint when its worker is killed.
    (killed,) = (troubles / "killed").iterdir()
    end = last["killed"]
    assert end.error is None
    assert str(end.worker).rpartition(":")[2] != killed.name
    assert killed.read_text() == str(os.nice(0))  # no worker gives way to other processes
    later = [e.step for e in news[end.trial] if e.worker == end.worker and e.step > 0]
    assert min(later) > EVERY

    # An exception is one line.
    error = str(last["in the way"].error)
    assert trials["in the way"].id in error
    assert "\n" not in error

    # A full disk is said, and leaves files whole.
    assert len(list((troubles / "out of space").iterdir())) == 1
    error = str(last["out of space"].error)
    assert "checkpoint.safetensors'" in error
    assert "too large" in error  # how a limit on a file's size puts it
    assert "free some space" in error
    left = [path.name for path in (folder / trials["out of space"].id).rglob("*")]
    assert "checkpoint.safetensors" in left
    assert not [name for name in left if ".tmp" in name]

    # This process goes on with what is left, and all end as if nothing had been.
    in_the_way.unlink()
    for name, trial in trials.items():
        run_trial(trial, folder / trial.id, device="cpu")
        assert trial_content(folder / trial.id) == trial_content(here / trial.id), name


def test_on_ray_a_trial_asks_for_a_core_and_for_its_share_of_the_gpus() -> None:
    cpus = {"CPU": 8.0}
    gpus = cpus | {"GPU": 2.0}
    assert task_needs("cpu", gpus, None) == {"num_cpus": 1}
    assert task_needs("auto", cpus, 8) == {"num_cpus": 1}
    for device in ("auto", "cuda", "cuda:1"):
        # A cluster gives each trial a GPU; on this machine as many as asked for share them.
        assert task_needs(device, gpus, None) == {"num_cpus": 1, "num_gpus": 1}
        assert task_needs(device, gpus, 8) == {"num_cpus": 1, "num_gpus": 0.25}
        assert task_needs(device, gpus, 1) == {"num_cpus": 1, "num_gpus": 1}
    with refused(r"'cuda' needs a GPU .* choose --device cpu"):
        task_needs("cuda", cpus, 2)


def test_an_executor_that_cannot_be_opened_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with refused("unknown executor 'rai', did you mean 'ray'"):
        open_executor("rai")
    with refused(r"'auto' .* add --executor ray"):
        open_executor("local", address="auto")
    monkeypatch.setitem(sys.modules, "ray", None)  # as Python itself marks what is not there
    with refused(r"pip install ray"):
        open_executor("ray")


def test_a_cluster_out_of_reach_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with (
        open_executor("ray", address="nowhere") as executor,
        refused("Ray cannot be reached at 'nowhere'"),
    ):
        list(executor.run(list(_trials().values()), tmp_path))
