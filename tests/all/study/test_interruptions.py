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
from hostile import set_traps
from kan_diffusion.study.run import run_study
from kan_diffusion.study.trial import run_trial
from make import EVALUATION, study, trial_content
from one_by_one import one_by_one
from troubles import JUDGED, PACE, STEPPED

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
            return int(json.loads(file.metadata()["state"])["step"])
    except (OSError, SafetensorError):
        return None


def _start(place, executor, **variables):
    """Starts ``kan-diffusion compare``, slowly."""
    (place / "tiny.yaml").write_text(STUDY.to_yaml())
    words = f"compare tiny.yaml --out run --device cpu --workers 1 --executor {executor}".split()
    path = os.pathsep.join([str(Path(troubles.__file__).parent), *sys.path])
    environment = {"PYTHONPATH": path, PACE: str(SLOWLY), **variables}
    return Running(*words, folder=place, environment=environment)


def _wait_for(command, found):
    """Waits while a command runs until something is found there, and returns that."""
    until = time.monotonic() + PATIENCE
    while not (there := found()):
        assert command.process.is_alive(), command.wait(PATIENCE)
        assert time.monotonic() < until
        time.sleep(0.002)
    return there


def _finished(place):
    results = place.glob("run/trials/*/trial.json")
    return sorted(path.parent for path in results if json.loads(path.read_text())["judged"])


def _in_training(place, since):
    """The checkpoint of a trial that was written since a nanosecond and is not at its end."""
    for path in place.glob("run/trials/*/checkpoint.safetensors"):
        step = _step(path)
        if (path.parent / "trial.json").exists() or step is None:
            continue
        try:
            if EVERY <= step < STEPS - EVERY and path.stat().st_mtime_ns > since:
                return path
        except FileNotFoundError:
            continue  # it has just been finished
    return None


# Ctrl-C, the end of a batch job and of a terminal.
SIGNALS = ((signal.SIGINT, os.killpg), (signal.SIGTERM, os.killpg), (signal.SIGHUP, os.kill))


@pytest.mark.parametrize("kind", ["local", "ray"])
def test_a_study_that_is_killed_and_interrupted_goes_on(kind, tmp_path):
    set_traps(tmp_path)
    stepped = tmp_path / "stepped"
    finished = {}
    if kind == "local":
        started = time.time_ns()
        killed = _start(tmp_path, kind)
        _wait_for(killed, lambda: _finished(tmp_path))
        checkpoint = _wait_for(killed, lambda: _in_training(tmp_path, started))
        killed.process.kill()
        killed.wait(PATIENCE)  # its workers are orphans now, and end, too
        assert killed.process.exitcode == -signal.SIGKILL
        assert checkpoint.exists()
        finished = _files(_finished(tmp_path))
        assert finished
        assert not (tmp_path / "run" / "results.parquet").exists()

    for number, send in SIGNALS:  # in the middle of a trial
        started = time.time_ns()
        interrupted = _start(tmp_path, kind, **{STEPPED: str(stepped)})
        checkpoint = _wait_for(interrupted, lambda since=started: _in_training(tmp_path, since))
        saved = _step(checkpoint)
        taken = stepped.stat().st_size
        _wait_for(interrupted, lambda since=taken: stepped.stat().st_size > since + 1)  # a step
        send(interrupted.process.pid, number)
        said = interrupted.wait(PATIENCE)
        codes = {number} if kind == "local" else {number, signal.SIGINT}  # Ray has a handler, too
        assert interrupted.process.exitcode - 128 in codes, said
        assert "what is finished is kept: give the same command again" in said
        assert "Traceback" not in said
        # Of then, and not only what it keeps every so often.
        assert _step(checkpoint) > saved, f"signal {number}"
        assert finished.items() <= _files(_finished(tmp_path)).items()
        finished = _files(_finished(tmp_path))

    run_study(STUDY, tmp_path / "run", executor=one_by_one)
    assert finished.items() <= _files(_finished(tmp_path)).items()
    assert len(_finished(tmp_path)) == len(STUDY.trials())
    for trial in STUDY.trials():  # all end as if nothing had been
        run_trial(trial, tmp_path / trial.id, device="cpu")
        wanted = trial_content(tmp_path / trial.id)
        assert trial_content(tmp_path / "run" / "trials" / trial.id) == wanted
    # No worker has imported from a stranger's folder.
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()


@pytest.mark.parametrize(
    ("number", "send"), [(signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill)]
)
def test_a_trial_that_is_judged_is_interrupted_at_once(number, send, tmp_path):
    judged = tmp_path / "judged"
    interrupted = _start(tmp_path, "local", **{PACE: "0", JUDGED: str(judged)})
    _wait_for(interrupted, judged.exists)
    send(interrupted.process.pid, number)
    said = interrupted.wait(PATIENCE)
    assert interrupted.process.exitcode == 128 + number, said
    assert "Traceback" not in said
