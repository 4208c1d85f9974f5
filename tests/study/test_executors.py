from __future__ import annotations

import math
import multiprocessing
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.study.config import TrialConfig
from kan_diffusion.study.executors import EXECUTORS, Executor, Task, TrialEvent, open_executor
from kan_diffusion.study.executors.ray import task_needs
from kan_diffusion.study.trial import run_trial
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
        evaluation={**EVALUATION, "moments": []},  # so that training writes checkpoints alone
    )
    return {trial.model.name: trial for trial in study.trials()}


class Scripted(Executor):
    """Ends the attempts at each trial as its script says, without running anything."""

    def __init__(self, script: dict[str, list[str]], workers: int) -> None:
        super().__init__(workers=workers)
        self.script = script
        self.submitted: list[Task] = []
        self.closed = False
        self._running: list[str] = []

    def room(self) -> int:
        return self.workers - len(self._running)

    def submit(self, task: Task) -> None:
        self.submitted.append(task)
        self._running.append(task.config.id)
        assert len(self._running) <= self.workers

    def collect(self) -> Iterable[TrialEvent]:
        trial = self._running.pop(0)
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


@dataclass
class Disturbed:
    """Trials that made trouble in an executor; this process went on from there.

    Attributes:
        folder: Has a folder a trial, by the trial's id.
        trials: The trials, by name.
        news: The events of each trial, by its id.
        troubles: Folder in which trials left the ids of their processes when they made trouble.
        left: Files of the trial that ran out of space, as it left them.
        began: When all this began, in seconds since the epoch.
    """

    folder: Path
    trials: dict[str, TrialConfig]
    news: dict[str, list[TrialEvent]]
    troubles: Path
    left: list[str]
    began: float

    def events(self, name: str) -> list[TrialEvent]:
        return self.news[self.trials[name].id]

    def workers(self, name: str) -> list[int]:
        """The processes in which a trial made trouble."""
        return [int(path.name) for path in (self.troubles / name).iterdir()]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every trial, run in this process."""
    folder = tmp_path_factory.mktemp("here")
    for trial in _trials().values():
        run_trial(trial, folder / trial.id, device="cpu")
    return folder


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.slow) for name in EXECUTORS]
)
def disturbed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Disturbed:
    if request.param == "ray":
        pytest.importorskip("ray")
    folder, troubles = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("troubles")
    trials = _trials()
    in_the_way = folder / trials["in the way"].id
    in_the_way.write_text("a file where a folder belongs")
    news: dict[str, list[TrialEvent]] = defaultdict(list)
    began = time.time()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(troubles))
        patch.setenv(PACE, str(SLOWLY))
        with open_executor(request.param, device="cpu", workers=2) as executor:
            for event in executor.run(list(trials.values()), folder):
                news[event.trial].append(event)
    left = [path.name for path in (folder / trials["out of space"].id).rglob("*")]
    in_the_way.unlink()
    for trial in trials.values():
        run_trial(trial, folder / trial.id, device="cpu")
    return Disturbed(folder, trials, news, troubles, left, began)


def test_results_are_those_of_this_process(disturbed: Disturbed, here: Path) -> None:
    assert multiprocessing.active_children() == []
    for name, trial in disturbed.trials.items():
        assert trial_content(disturbed.folder / trial.id) == trial_content(here / trial.id), name


def test_a_trial_goes_on_from_its_checkpoint_when_its_worker_is_killed(
    disturbed: Disturbed,
) -> None:
    (killed,) = disturbed.workers("killed")
    *_, last = disturbed.events("killed")
    assert (last.kind, last.error) == ("finished", None)
    assert str(last.worker).rpartition(":")[2] != str(killed)
    later = [e.step for e in disturbed.events("killed") if e.worker == last.worker and e.step > 0]
    assert min(later) > EVERY


def test_an_exception_in_a_trial_is_one_line_and_its_worker_goes_on(disturbed: Disturbed) -> None:
    for name in FAMILIES:
        *running, last = disturbed.events(name)
        fails = name in ("out of space", "in the way")
        assert last.kind == ("failed" if fails else "finished")
        assert not any(event.finished for event in running)
        assert last.seconds > 0
        assert last.started > disturbed.began
    error = str(disturbed.events("in the way")[-1].error)
    assert disturbed.trials["in the way"].id in error
    assert "\n" not in error


def test_a_full_disk_is_said_and_leaves_files_whole(disturbed: Disturbed) -> None:
    assert len(disturbed.workers("out of space")) == 1
    error = str(disturbed.events("out of space")[-1].error)
    assert "checkpoint.safetensors'" in error
    assert "too large" in error  # how a limit on a file's size puts it
    assert "free some space" in error
    # That the trial goes on from what is left: test_results_are_those_of_this_process.
    assert "checkpoint.safetensors" in disturbed.left
    assert not [name for name in disturbed.left if ".tmp" in name]


@pytest.mark.slow
def test_leaving_an_executor_interrupts_the_running_trial_and_keeps_its_state(
    tmp_path: Path,
) -> None:
    first, second = tiny_study(seeds=2, training={"steps": 10**6, "batch_size": 64}).trials()[1::2]

    def run() -> None:
        with open_executor("local", workers=1, device="cpu") as executor:
            for event in executor.run([first, second], tmp_path):
                if event.step > 0:
                    assert math.isfinite(event.loss)
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert multiprocessing.active_children() == []
    assert (tmp_path / first.id / "checkpoint.safetensors").stat().st_size > 0
    assert not (tmp_path / second.id).exists()


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
    with pytest.raises(KanDiffusionError, match=r"'cuda' needs a GPU .* choose --device cpu"):
        task_needs("cuda", cpus, 2)


def test_an_executor_that_cannot_be_opened_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KanDiffusionError, match="unknown executor 'rai', did you mean 'ray'"):
        open_executor("rai")
    with pytest.raises(KanDiffusionError, match=r"'auto' .* add --executor ray"):
        open_executor("local", address="auto")
    monkeypatch.setitem(sys.modules, "ray", None)  # as Python itself marks what is not there
    with pytest.raises(KanDiffusionError, match=r"pip install ray"):
        open_executor("ray")


def test_a_cluster_out_of_reach_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with (
        open_executor("ray", address="nowhere") as executor,
        pytest.raises(KanDiffusionError, match="Ray cannot be reached at 'nowhere'") as caught,
    ):
        list(executor.run(list(_trials().values()), tmp_path))
    assert "\n" not in str(caught.value)
