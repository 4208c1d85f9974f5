"""Whole commands that are killed, interrupted and run twice at once."""

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
from kan_diffusion.study.executors import Executor
from kan_diffusion.study.run import run_study
from kan_diffusion.study.trial import run_trial
from tiny import tiny_study, trial_content
from troubles import PACE

EVERY = 50
STEPS = 200
PATIENCE = 300.0
SLOWLY = 0.01
"""Seconds of a step of a trial that is to be found at work: it then takes 2 at least."""

STUDY = tiny_study(
    seeds=2,
    training={"steps": STEPS, "batch_size": 64, "checkpoint_every": EVERY},
    models=[
        {"name": "KAN", "family": "troubles:UNDISTURBED_KAN", "params": 600},
        {"name": "MLP", "family": "troubles:UNDISTURBED", "params": 600},
    ],
).pinned()

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="needs signals and process groups"),
    pytest.mark.slow,
]


def _files(folders: list[Path]) -> dict[Path, int]:
    """The files that finished trials have written for good, and when."""
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

    def __init__(self, place: Path, study: StudyConfig) -> None:
        self.folder = place / "run"
        self.study = study
        self._file = place / "tiny.yaml"
        self._file.write_text(study.to_yaml())

    def start(
        self, executor: str, *, file_size: int | None = None, pace: float = 0.0
    ) -> subprocess.Popen[str]:
        """Starts it in a process group of its own, as a shell does.

        Args:
            executor: Where its trials run.
            file_size: Largest size of a file it can write, which is how its disk is full.
            pace: The least seconds that a step takes.
        """
        command = [sys.executable, "-m", "kan_diffusion", "compare", str(self._file)]
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

    def wait_for_training(
        self, process: subprocess.Popen[str], since: int, finished: int = 0
    ) -> Path:
        """Waits until a trial has trained for a while since a nanosecond and has a while to go.

        Args:
            process: The driver.
            since: Nanosecond after which it has kept its state.
            finished: Number of trials that are finished then at least.
        """

        def look() -> Path | None:
            for path in self.folder.glob("trials/*/checkpoint.safetensors"):
                if (path.parent / "trial.json").exists():
                    continue
                step = _step(path)
                if step is None or not EVERY <= step < STEPS - EVERY:
                    continue
                try:
                    if path.stat().st_mtime_ns > since:
                        return path
                except FileNotFoundError:
                    continue  # it has just been finished
            return None

        return _wait(process, lambda: look() if len(self.finished()) >= finished else None)

    def interrupt(self, process: subprocess.Popen[str], checkpoint: Path) -> None:
        """Interrupts a command as Ctrl-C does; checks what it says, and that it keeps its state."""
        saved = _step(checkpoint)
        time.sleep(20 * SLOWLY)  # some more steps
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, said
        assert "what is finished is kept: give the same command again" in said
        assert "Traceback" not in said
        # The running trial has kept its state, and not only what it keeps every so often.
        kept = _step(checkpoint)
        assert saved is not None
        assert kept is not None
        assert kept > saved


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's trials, run in this process."""
    folder = tmp_path_factory.mktemp("here")
    for trial in STUDY.trials():
        run_trial(trial, folder / trial.id, device="cpu")
    return folder


def _require_same(command: Command, undisturbed: Path) -> None:
    assert len(command.finished()) == len(command.study.trials())
    for folder in command.finished():
        assert trial_content(folder) == trial_content(undisturbed / folder.name)
        PointDiffusionPipeline.from_pretrained(folder)


def test_a_study_that_is_killed_interrupted_and_run_twice_at_once(
    tmp_path: Path, undisturbed: Path, executor: Executor
) -> None:
    command = Command(tmp_path, STUDY)
    started = time.time_ns()
    killed = command.start("local", pace=SLOWLY)
    checkpoint = command.wait_for_training(killed, started, finished=1)
    killed.kill()
    # Its workers hold the same pipes: they close when those, orphans now, have ended too.
    killed.communicate(timeout=PATIENCE)
    assert killed.returncode == -signal.SIGKILL
    assert checkpoint.exists()
    finished = _files(command.finished())
    assert finished
    assert not (command.folder / "results.parquet").exists()

    started = time.time_ns()
    interrupted = command.start("local", pace=SLOWLY)
    command.interrupt(interrupted, command.wait_for_training(interrupted, started))
    assert finished.items() <= _files(command.finished()).items()
    finished = _files(command.finished())

    started = time.time_ns()
    driver = command.start("local")
    planned = command.folder / "environment.json"  # written before the workers are started
    _wait(driver, lambda: True if planned.stat().st_mtime_ns > started else None)
    results = run_study(STUDY, command.folder, executor=executor)  # another driver
    assert results.failures == {}
    assert results.rows["error"].isna().all()
    _, said = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, said
    assert "Traceback" not in said
    assert finished.items() <= _files(command.finished()).items()
    _require_same(command, undisturbed)


def test_a_study_that_is_interrupted_on_ray_goes_on_here(
    tmp_path: Path, undisturbed: Path, executor: Executor
) -> None:
    pytest.importorskip("ray")
    command = Command(tmp_path, STUDY.model_copy(update={"seeds": 1}))
    started = time.time_ns()
    interrupted = command.start("ray", pace=SLOWLY)
    command.interrupt(interrupted, command.wait_for_training(interrupted, started))
    run_study(command.study, command.folder, executor=executor)
    _require_same(command, undisturbed)


def test_a_full_disk_is_one_line_and_trials_go_on_when_there_is_room(
    tmp_path: Path, undisturbed: Path
) -> None:
    command = Command(tmp_path, STUDY.with_families(["troubles:UNDISTURBED"]))
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
    for trial in command.study.trials():
        run_trial(trial, command.folder / "trials" / trial.id, device="cpu")
    _require_same(command, undisturbed)
