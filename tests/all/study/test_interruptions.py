"""Whole commands that are killed or interrupted, and go on."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from safetensors import SafetensorError, safe_open

import troubles
from commands import Running
from kan_diffusion.study.run import run_study
from kan_diffusion.study.trial import run_trial
from make import EVALUATION, study, trial_content
from troubles import PACE

EVERY = 50
STEPS = 200
PATIENCE = 300.0
SLOWLY = 0.01
"""Seconds of a step of a trial that is to be found at work: it then takes 2 at least."""

STUDY = study(
    seeds=2,
    training={"steps": STEPS, "batch_size": 64, "checkpoint_every": EVERY},
    models=[
        {"name": "KAN", "family": "troubles:UNDISTURBED_KAN", "params": 600},
        {"name": "MLP", "family": "troubles:UNDISTURBED", "params": 600},
    ],
    evaluation={**EVALUATION, "num_samples": 0, "num_likelihood": 0, "moments": []},
).pinned()

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals and process groups")


def _files(folders):
    """The files that finished trials have written for good, and when."""
    return {
        path: path.stat().st_mtime_ns
        for folder in folders
        for path in folder.rglob("[!.]*")
        if path.is_file() and path.name != "checkpoint.safetensors"
    }


def _step(checkpoint):
    """Number of steps that a checkpoint holds; None when it has just been replaced."""
    try:
        with safe_open(checkpoint, framework="np") as file:
            return int(json.loads(file.metadata()["progress"])["step"])
    except (OSError, SafetensorError):
        return None


def _wait(command, look):
    """Waits until there is something to be found while a command runs."""
    until = time.monotonic() + PATIENCE
    while (found := look()) is None:
        assert command.process.is_alive(), command.wait(PATIENCE)
        assert time.monotonic() < until
        time.sleep(0.002)
    return found


class Command:
    """``kan-diffusion compare`` on one folder, as often as wanted."""

    def __init__(self, place):
        self.folder = place / "run"
        self._file = place / "tiny.yaml"
        self._file.write_text(STUDY.to_yaml())

    def start(self, executor="local", *, own_server):
        """Starts it, slowly."""
        words = ["--out", self.folder, "--device", "cpu", "--workers", 1, "--executor", executor]
        path = os.pathsep.join([str(Path(troubles.__file__).parent), *sys.path])
        environment = {"PYTHONPATH": path, PACE: str(SLOWLY)}
        return Running(
            "compare", self._file, *words, environment=environment, own_server=own_server
        )

    def finished(self):
        return sorted(path.parent for path in self.folder.glob("trials/*/trial.json"))

    def wait_for_training(self, driver, since, finished=0):
        """Waits until a trial has trained for a while since a nanosecond and has a while to go.

        Args:
            driver: The command.
            since: Nanosecond after which it has kept its state.
            finished: Number of trials that are finished then at least.
        """

        def look():
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

        return _wait(driver, lambda: look() if len(self.finished()) >= finished else None)

    def interrupt(self, driver, checkpoint):
        """Interrupts a command as Ctrl-C does; checks what it says, and that it keeps its state."""
        saved = _step(checkpoint)
        time.sleep(20 * SLOWLY)  # some more steps
        os.killpg(driver.process.pid, signal.SIGINT)
        said = driver.wait(PATIENCE)
        assert driver.process.exitcode == 130, said
        assert "what is finished is kept: give the same command again" in said
        assert "Traceback" not in said
        # The running trial has kept its state, and not only what it keeps every so often.
        kept = _step(checkpoint)
        assert saved is not None
        assert kept is not None
        assert kept > saved


@pytest.mark.parametrize("kind", ["local", "ray"])
def test_a_study_that_is_killed_and_interrupted_goes_on(kind, tmp_path, executor):
    command, finished = Command(tmp_path), {}
    own_server = kind == "local"
    if kind == "ray":
        pytest.importorskip("ray")
    else:
        started = time.time_ns()
        killed = command.start(own_server=True)
        checkpoint = command.wait_for_training(killed, started, finished=1)
        killed.process.kill()
        killed.wait(PATIENCE)  # its workers are orphans now, and end, too
        assert killed.process.exitcode == -signal.SIGKILL
        assert checkpoint.exists()
        finished = _files(command.finished())
        assert finished
        assert not (command.folder / "results.parquet").exists()

    started = time.time_ns()
    interrupted = command.start(kind, own_server=own_server)
    command.interrupt(interrupted, command.wait_for_training(interrupted, started))
    assert finished.items() <= _files(command.finished()).items()
    finished = _files(command.finished())

    results = run_study(STUDY, command.folder, executor=executor)
    assert results.failures == {}
    assert finished.items() <= _files(command.finished()).items()
    assert len(command.finished()) == len(STUDY.trials())
    for trial in STUDY.trials():  # all end as if nothing had been
        run_trial(trial, tmp_path / trial.id, device="cpu")
        wanted = trial_content(tmp_path / trial.id)
        assert trial_content(command.folder / "trials" / trial.id) == wanted
