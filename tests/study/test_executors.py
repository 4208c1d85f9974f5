from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.study.config import StudyConfig, TrialConfig
from kan_diffusion.study.executors import EXECUTORS, TrialEvent, run_trials
from kan_diffusion.study.executors import ray as ray_executor
from kan_diffusion.study.folder import load_trial
from kan_diffusion.study.trial import run_trial
from troubles import CALM, FOLDER

STEPS = 1500
LONG = 5000
"""Steps of a trial that there is news of while it runs: on Ray it comes once a second."""
EVERY = 50
assert EVERY < CALM < 2 * EVERY  # trouble comes after the first checkpoint and before the second
FAMILIES = {
    "doomed": "DOOMED",
    "killed": "KILLED",
    "out of space": "OUT_OF_SPACE",
    "diverging": "UNDISTURBED",
    "in the way": "UNDISTURBED",
    "undisturbed": "UNDISTURBED",
}
"""Of each trial, in ``troubles.py``."""
NAMES = tuple(FAMILIES)[1:]
"""Of those that can be gone on with."""

executors = pytest.mark.parametrize(
    "executor", [pytest.param(name, marks=pytest.mark.slow) for name in EXECUTORS], scope="module"
)


def _trials() -> dict[str, TrialConfig]:
    models = [
        {"name": name, "family": f"troubles:{family}", "params": 600}
        for name, family in FAMILIES.items()
    ]
    models[1]["steps"] = LONG
    models[3]["learning_rate"] = 1e30
    study = StudyConfig.model_validate(
        {
            "name": "tiny",
            "title": "Tiny",
            "seeds": 1,
            "data": [{"toy": "gaussian-mixture", "num_points": 500}],
            "training": {"steps": STEPS, "batch_size": 64, "checkpoint_every": EVERY},
            "models": models,
            "sampling": {"steps": 5},
            "evaluation": {
                "moments": [],  # so that a checkpoint is all there is to write during training
                "num_noised": 200,
                "num_samples": 100,
                "num_likelihood": 10,
                "num_real_pairs": 1,
                "num_drawn": 50,
            },
        }
    )
    return {trial.model.name: trial for trial in study.trials()}


def _files(folder: Path) -> dict[Path, int]:
    return {
        path.relative_to(folder): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file()
    }


def _result(folder: Path) -> dict[str, object]:
    """What a trial left, without what a clock decides, or where the folder lies."""
    content = json.loads((folder / "trial.json").read_text().replace(str(folder), "RUN"))
    content["row"] = {k: v for k, v in content["row"].items() if not k.endswith("_seconds")}
    weights = folder / "denoiser" / "diffusion_pytorch_model.safetensors"
    content["weights"] = weights.read_bytes() if weights.exists() else None
    return content


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every trial, run in this process."""
    folder = tmp_path_factory.mktemp("here")
    trials = _trials()
    for name in NAMES:
        run_trial(trials[name], folder / name, device="cpu")
    return folder


def _worker(event: TrialEvent) -> int:
    assert event.worker is not None
    return int(event.worker.rpartition(":")[2])


@dataclass
class Disturbed:
    """A call of ``run_trials`` whose trials made trouble; this process went on from there.

    Attributes:
        folder: Has a folder a trial, by the trial's name.
        trials: The trials, by name.
        news: The events of each trial, by its id.
        troubles: Where trials left the ids of their processes when they made trouble.
        failures: What ``run_trials`` returned.
        before: Files and when they were written, as ``run_trials`` left them.
        began: When all this began, in seconds since the epoch.
    """

    folder: Path
    trials: dict[str, TrialConfig]
    news: dict[str, list[TrialEvent]]
    troubles: Path
    failures: dict[str, str]
    before: dict[Path, int]
    began: float

    def events(self, name: str) -> list[TrialEvent]:
        return self.news[self.trials[name].id]

    def failure(self, name: str) -> str:
        return self.failures[self.trials[name].id]

    def workers(self, name: str) -> list[int]:
        """The processes in which a trial made trouble."""
        return [int(path.name) for path in (self.troubles / name).iterdir()]


@pytest.fixture(scope="module")
def disturbed(executor: str, tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    if executor == "ray":
        pytest.importorskip("ray")
    folder, troubles = tmp_path_factory.mktemp(executor), tmp_path_factory.mktemp("troubles")
    trials = _trials()
    names = {trial.id: name for name, trial in trials.items()}
    (folder / "in the way").write_text("a file where a folder belongs")
    news = defaultdict(list)

    began = time.time()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(troubles))
        failures = run_trials(
            list(trials.values()),
            lambda trial: folder / names[trial.id],
            device="cpu",
            workers=2,
            on_event=lambda event: news[event.trial].append(event),
            executor=executor,
        )
    assert multiprocessing.active_children() == []
    before = _files(folder)
    (folder / "in the way").unlink()
    for name in NAMES:
        run_trial(trials[name], folder / name, device="cpu")
    return Disturbed(folder, trials, news, troubles, failures, before, began)


@executors
def test_results_are_those_of_this_process(disturbed: Disturbed, here: Path) -> None:
    for name in NAMES:
        assert _result(disturbed.folder / name) == _result(here / name), name


@executors
def test_a_trial_is_tried_again_when_its_worker_is_killed(disturbed: Disturbed) -> None:
    (killed,) = disturbed.workers("killed")
    assert disturbed.trials["killed"].id not in disturbed.failures
    *_, last = disturbed.events("killed")
    assert last.finished
    assert last.error is None
    assert _worker(last) != killed
    # It went on from its checkpoint: no step that was saved was taken twice.
    later = [e.step for e in disturbed.events("killed") if e.worker == last.worker and e.step > 0]
    assert min(later) > EVERY


@executors
def test_a_trial_that_always_takes_its_worker_with_it_fails_alone(disturbed: Disturbed) -> None:
    assert len(disturbed.workers("doomed")) == 3
    error = disturbed.failure("doomed")
    assert "its worker process died 3 times" in error
    assert "fewer --workers" in error
    assert "\n" not in error
    assert [event.error for event in disturbed.events("doomed") if event.finished] == [error]
    finished = [name for name in NAMES if load_trial(disturbed.folder / name) is not None]
    assert "undisturbed" in finished


@executors
def test_what_a_trial_raises_is_one_line_and_its_worker_goes_on(disturbed: Disturbed) -> None:
    failed = ("doomed", "out of space", "in the way")
    assert set(disturbed.failures) == {disturbed.trials[name].id for name in failed}
    error = disturbed.failure("in the way")
    assert "in the way" in error
    assert "\n" not in error
    for name in NAMES:
        *running, last = disturbed.events(name)
        assert last.finished
        assert not any(event.finished for event in running)
        assert last.error == disturbed.failures.get(last.trial) or name == "diverging"
        assert last.seconds > 0
        assert last.started > disturbed.began
    # A trial that diverges has a result and is not among those that could not be run.
    assert "lower the learning rate" in str(disturbed.events("diverging")[-1].error)


@executors
def test_a_full_disk_is_said_and_the_trial_goes_on_when_there_is_room(
    disturbed: Disturbed,
) -> None:
    assert len(disturbed.workers("out of space")) == 1
    error = disturbed.failure("out of space")
    assert "checkpoint.safetensors'" in error
    assert "too large" in error  # how a limit on a file's size puts it
    assert "free some space" in error
    # What was there before the disk was full is whole: test_results_are_those_of_this_process.
    left = [path for path in disturbed.before if path.parts[0] == "out of space"]
    assert Path("out of space") / "checkpoint.safetensors" in left
    assert not [path for path in left if ".tmp" in path.name]


@executors
def test_finished_trials_are_not_touched(disturbed: Disturbed) -> None:
    after = _files(disturbed.folder)
    for name in ("killed", "undisturbed", "diverging"):
        files = {path for path in disturbed.before if path.parts[0] == name}
        assert files
        assert {path: after[path] for path in files} == {
            path: disturbed.before[path] for path in files
        }


def test_on_ray_a_trial_asks_for_a_core_and_for_its_share_of_the_gpus() -> None:
    cpus = {"CPU": 8.0}
    gpus = cpus | {"GPU": 2.0}
    assert ray_executor._needs("cpu", gpus, None) == {"num_cpus": 1}
    assert ray_executor._needs("auto", cpus, 8) == {"num_cpus": 1}
    for device in ("auto", "cuda", "cuda:1"):
        # A cluster gives each trial a GPU; on this machine as many as asked for share them.
        assert ray_executor._needs(device, gpus, None) == {"num_cpus": 1, "num_gpus": 1}
        assert ray_executor._needs(device, gpus, 8) == {"num_cpus": 1, "num_gpus": 0.25}
        assert ray_executor._needs(device, gpus, 1) == {"num_cpus": 1, "num_gpus": 1}
    with pytest.raises(KanDiffusionError, match=r"'cuda' needs a GPU .* choose --device cpu"):
        ray_executor._needs("cuda", cpus, 2)


def _run_none(executor: str, address: str | None = None, device: str = "cpu") -> None:
    def never(_: object) -> Path:
        raise AssertionError("no trial is to be run")

    trials = [_trials()["undisturbed"]]
    run_trials(
        trials,
        never,
        device=device,
        workers=1,
        on_event=never,
        executor=executor,
        address=address,
    )


def test_an_unknown_executor_is_named() -> None:
    with pytest.raises(KanDiffusionError, match="unknown executor 'rai', did you mean 'ray'"):
        _run_none("rai")


def test_an_address_needs_ray() -> None:
    with pytest.raises(KanDiffusionError, match=r"'auto' .* add --executor ray"):
        _run_none("local", "auto")


def test_ray_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as Python itself marks what is not there
    with pytest.raises(KanDiffusionError, match=r"install 'kan-diffusion\[ray\]'"):
        _run_none("ray")


def test_a_cluster_out_of_reach_is_one_line() -> None:
    pytest.importorskip("ray")
    with pytest.raises(KanDiffusionError, match="Ray cannot be reached at 'nowhere'") as caught:
        _run_none("ray", "nowhere")
    assert "\n" not in str(caught.value)
