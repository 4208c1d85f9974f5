"""Trials in trouble, in processes of this machine and on Ray, and two drivers of one study."""

import multiprocessing
import os
from collections import defaultdict
from contextlib import suppress
from types import SimpleNamespace

import psutil
import pytest

from commands import context
from helpers import refused
from kan_diffusion.study.executors import EXECUTORS, Task, get_executor
from kan_diffusion.study.trial import run_trial
from kills import WAIT, drive
from make import EVALUATION, study, trial_content
from troubles import CALM, FOLDER, PACE

EVERY = 50
LONG, SLOWLY = 600, 0.004
"""Steps, and seconds of one, of a trial with news while it runs: on Ray it comes once a second."""
assert EVERY < CALM < 2 * EVERY  # trouble comes after the first checkpoint and before the second
FAMILIES = {
    "killed": "KILLED",
    "in the way": "UNDISTURBED",
    "undisturbed": "UNDISTURBED",
}
"""Of each trial, in ``troubles.py``."""


def _trials():
    models = [
        {"name": name, "family": f"troubles:{family}", "params": 600}
        for name, family in FAMILIES.items()
    ]
    models[0]["steps"] = LONG
    made = study(
        training={"steps": 150, "batch_size": 64, "checkpoint_every": EVERY},
        models=models,
        # So that training writes checkpoints alone, and is soon judged.
        evaluation={**EVALUATION, "moments": [], "num_samples": 0, "num_likelihood": 0},
    )
    return {trial.model.name: trial for trial in made.trials()}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Every trial, run in this process."""
    folder = tmp_path_factory.mktemp("here")
    for trial in _trials().values():
        run_trial(trial, folder / trial.id, device="cpu")
    return folder


def _listening():
    """Addresses of this machine at which this process and those that it started listen."""
    this = psutil.Process()
    addresses = []
    for process in (this, *this.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            sockets = process.net_connections("tcp")
            addresses += [each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN]
    return addresses


@pytest.fixture(scope="module", params=EXECUTORS)
def run(request, tmp_path_factory):
    """The trials run by an executor: its kind, their folder, troubles, events and addresses."""
    folder, troubles = (tmp_path_factory.mktemp(name) for name in ("run", "troubles"))
    kind, trials, news, addresses = request.param, _trials(), defaultdict(list), []
    (folder / trials["in the way"].id).write_text("a file where a folder belongs")
    tasks = [Task(trial, folder / trial.id) for trial in trials.values()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(troubles))
        if kind == "ray":
            patch.setenv(PACE, str(SLOWLY))
        workers = 1 if kind == "ray" else 2  # there each of them imports everything
        for event in get_executor(kind, device="cpu", workers=workers)(tasks):
            addresses = addresses or _listening()
            news[event.trial].append(event)
    assert multiprocessing.active_children() == []
    if kind == "ray":
        import ray

        ray.shutdown()
    return SimpleNamespace(
        kind=kind, folder=folder, troubles=troubles, trials=trials, news=news, addresses=addresses
    )


def test_no_other_machine_reaches_what_an_executor_starts(run):
    assert {each.removeprefix("::ffff:") for each in run.addresses} <= {"127.0.0.1", "::1"}
    assert bool(run.addresses) == (run.kind == "ray")


def test_trials_in_trouble_say_so_disturb_no_other_and_end_as_in_this_process(run, here):
    trials, folder, news = run.trials, run.folder, run.news
    last = {name: news[trial.id][-1] for name, trial in trials.items()}
    for name, trial in trials.items():
        *running, end = news[trial.id]
        assert end.kind == ("failed" if name == "in the way" else "finished")
        assert not any(event.finished for event in running)

    # A trial goes on from its checkpoint when its worker is killed.
    (killed,) = run.troubles.iterdir()
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

    # This process goes on with what is left, and all end as if nothing had been.
    (folder / trials["in the way"].id).unlink()
    for name, trial in trials.items():
        run_trial(trial, folder / trial.id, device="cpu")
        assert trial_content(folder / trial.id) == trial_content(here / trial.id), name


def test_a_cluster_out_of_reach_is_one_line(monkeypatch):
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # read once, for both tests
    with refused("Ray cannot be reached at 'nowhere'"):
        next(get_executor("ray", address="nowhere")([]))


def test_two_drivers_train_no_trial_twice(tmp_path):
    models = [
        {"name": name, "family": f"troubles:{family}", "params": 600}
        for name, family in (("KAN", "UNDISTURBED_KAN"), ("MLP", "UNDISTURBED"))
    ]
    training = {"steps": 12, "batch_size": 64, "checkpoint_every": 4}
    config = study(seeds=2, training=training, models=models).pinned()
    folder, log = tmp_path / "run", tmp_path / "log"
    drivers = [context.Process(target=drive, args=(config, folder, log)) for _ in range(2)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join(WAIT)
        assert driver.exitcode == 0
    assert sorted(log.read_text().split()) == sorted(trial.id for trial in config.trials())
