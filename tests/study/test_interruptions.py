"""Whole commands that are killed, interrupted and run twice at once, and what they leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from safetensors import SafetensorError, safe_open

import troubles
from kan_diffusion.sampling import PointDiffusionPipeline
from kan_diffusion.study.config import StudyConfig
from kan_diffusion.study.executors import EXECUTORS
from kan_diffusion.study.run import run_study
from kan_diffusion.study.trial import run_trial
from troubles import PACE

EVERY = 50
PATIENCE = 300.0
SLOWLY = 0.005
"""Seconds of a step of a trial that is to be found at work: it then takes 7.5 at least."""

STUDY = StudyConfig.model_validate(
    {
        "name": "tiny",
        "title": "Tiny",
        "seeds": 2,
        "data": [{"toy": "gaussian-mixture", "num_points": 500}],
        "training": {"steps": 1500, "batch_size": 64, "checkpoint_every": EVERY},
        "models": [
            {"name": "KAN", "family": "troubles:UNDISTURBED_KAN", "params": 600},
            {"name": "MLP", "family": "troubles:UNDISTURBED", "params": 600},
        ],
        "sampling": {"steps": 5},
        "evaluation": {
            "num_noised": 200,
            "num_samples": 100,
            "num_likelihood": 10,
            "num_real_pairs": 1,
            "num_drawn": 50,
        },
    }
).pinned()

needs_processes = pytest.mark.skipif(os.name != "posix", reason="needs signals and process groups")


def _result(folder: Path) -> dict[str, object]:
    """What a trial left, without what a clock decides."""
    content = json.loads((folder / "trial.json").read_text())
    content["row"] = {k: v for k, v in content["row"].items() if not k.endswith("_seconds")}
    weights = folder / "denoiser" / "diffusion_pytorch_model.safetensors"
    return content | {"weights": weights.read_bytes()}


def _files(folders: list[Path]) -> dict[Path, int]:
    """What finished trials have written for good, and when."""
    return {
        path: path.stat().st_mtime_ns
        for folder in folders
        for path in folder.rglob("[!.]*")
        if path.is_file() and path.name != "checkpoint.safetensors"
    }


def _step(checkpoint: Path) -> int | None:
    """Number of steps that a checkpoint holds; None when it has just been replaced."""
    try:
        with safe_open(checkpoint, framework="np") as file:
            return int(json.loads(file.metadata()["progress"])["step"])
    except (OSError, SafetensorError):
        return None


Found = TypeVar("Found")


def _wait(process: subprocess.Popen[str], look: Callable[[], Found | None]) -> Found:
    """Waits until there is something to be found while a process runs."""
    until = time.monotonic() + PATIENCE
    while (found := look()) is None:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.002)
    return found


def _hear_interrupts() -> None:
    """Undoes what a shell does to jobs in the background, where these tests may run."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Command:
    """``kan-diffusion compare`` on one folder, as often as wanted."""

    def __init__(self, place: Path) -> None:
        self.folder = place / "run"
        self._study = place / "tiny.yaml"
        self._study.write_text(STUDY.to_yaml())

    def start(
        self, executor: str, *, file_size: int | None = None, pace: float = 0.0
    ) -> subprocess.Popen[str]:
        """Starts it in a process group of its own, as a shell does.

        Args:
            executor: Where its trials run.
            file_size: Largest size of a file it can write, which is how its disk is full.
            pace: The least seconds that a step takes.
        """
        command = [sys.executable, "-m", "kan_diffusion", "compare", str(self._study)]
        options = {"out": self.folder, "device": "cpu", "workers": 1, "executor": executor}
        command += [word for key, value in options.items() for word in (f"--{key}", str(value))]
        if file_size is not None:
            command = ["sh", "-c", f'ulimit -f {file_size // 512}; exec "$@"', "sh", *command]
        path = os.pathsep.join([str(Path(troubles.__file__).parent), *sys.path])
        return subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": path, PACE: str(pace)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_hear_interrupts,
        )

    def finished(self) -> list[Path]:
        return sorted(path.parent for path in self.folder.glob("trials/*/trial.json"))

    def training(self) -> Path | None:
        """The checkpoint of a trial that has trained for a while and has a while to go."""
        for path in self.folder.glob("trials/*/checkpoint.safetensors"):
            if (path.parent / "trial.json").exists():
                continue
            step = _step(path)
            if step is not None and EVERY <= step < STUDY.training.steps // 2:
                return path
        return None

    def wait_for_training(self, process: subprocess.Popen[str], since: int) -> Path:
        """Waits until a trial is finished and another is in the middle of training again.

        Args:
            process: The driver.
            since: Nanosecond after which it has kept its state.
        """
        return _wait(process, lambda: self._in_training(since) if self.finished() else None)

    def _in_training(self, since: int) -> Path | None:
        checkpoint = self.training()
        try:
            fresh = checkpoint is not None and checkpoint.stat().st_mtime_ns > since
        except FileNotFoundError:
            return None  # it has just been finished
        return checkpoint if fresh else None

    def wait_for_workers(self, process: subprocess.Popen[str], since: int) -> None:
        """Waits until the driver has planned its study and is about to start its workers."""
        written = self.folder / "environment.json"
        _wait(process, lambda: True if written.stat().st_mtime_ns > since else None)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's trials, run in this process."""
    folder = tmp_path_factory.mktemp("here")
    for trial in STUDY.trials():
        run_trial(trial, folder / trial.id, device="cpu")
    return folder


@needs_processes
@pytest.mark.slow
@pytest.mark.parametrize("executor", list(EXECUTORS))
def test_a_study_that_is_killed_interrupted_and_run_twice_at_once(
    executor: str, command: Command, undisturbed: Path
) -> None:
    if executor == "ray":
        pytest.importorskip("ray")
    started = time.time_ns()
    killed = command.start(executor, pace=SLOWLY)
    checkpoint = command.wait_for_training(killed, started)
    killed.kill()
    # Local workers hold the same pipes: they close when those, orphans now, have ended too.
    killed.communicate(timeout=PATIENCE)
    assert killed.returncode == -signal.SIGKILL
    assert checkpoint.exists()
    finished = _files(command.finished())
    assert finished
    assert not (command.folder / "results.json").exists()

    started = time.time_ns()
    interrupted = command.start(executor, pace=SLOWLY)
    # By now Ray's workers of the first driver have ended, too: it takes them a second or so.
    command.wait_for_workers(interrupted, started)
    checkpoint = command.wait_for_training(interrupted, time.time_ns())
    saved = _step(checkpoint)
    time.sleep(20 * SLOWLY)  # some more steps
    os.killpg(interrupted.pid, signal.SIGINT)  # as Ctrl-C does
    _, said = interrupted.communicate(timeout=PATIENCE)
    assert interrupted.returncode == 130, said
    assert "what is finished is kept: give the same command again" in said
    assert "Traceback" not in said
    # The running trial has kept its state, and not only what it keeps every so often.
    kept = _step(checkpoint)
    assert saved is not None
    assert kept is not None
    assert kept > saved
    assert finished.items() <= _files(command.finished()).items()
    finished = _files(command.finished())

    started = time.time_ns()
    driver = command.start(executor)
    command.wait_for_workers(driver, started)
    results = run_study(STUDY, command.folder, device="cpu", workers=1)  # another driver
    assert results.failures == {}
    assert results.rows["error"].isna().all()
    _, said = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, said
    assert "Traceback" not in said
    assert finished.items() <= _files(command.finished()).items()
    assert len(command.finished()) == len(STUDY.trials())
    for folder in command.finished():
        assert _result(folder) == _result(undisturbed / folder.name)
        PointDiffusionPipeline.from_pretrained(folder)


@needs_processes
@pytest.mark.slow
def test_a_full_disk_is_one_line_and_trials_go_on_when_there_is_room(
    command: Command, undisturbed: Path
) -> None:
    full = command.start("local", file_size=10_240)
    _, said = full.communicate(timeout=PATIENCE)
    assert full.returncode == 1, said
    assert "Traceback" not in said
    *_, last = said.strip().splitlines()
    assert last.startswith("error: ")
    assert "cannot write" in last
    assert "free some space" in last
    assert command.finished() == []
    assert not [path for path in command.folder.rglob("*") if ".tmp" in path.name]
    for trial in STUDY.trials():
        run_trial(trial, command.folder / "trials" / trial.id, device="cpu")
    for folder in command.finished():
        assert _result(folder) == _result(undisturbed / folder.name)
