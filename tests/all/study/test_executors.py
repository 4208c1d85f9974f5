"""Trials in trouble, in processes of this machine and on Ray."""

import multiprocessing
import os
from collections import defaultdict

import pytest

from helpers import refused
from kan_diffusion.study.executors import EXECUTORS, Task, get_executor
from kan_diffusion.study.trial import run_trial
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


@pytest.fixture
def ray():
    """Ray, which leaves this process connected to no cluster."""
    ray = pytest.importorskip("ray")
    yield ray
    ray.shutdown()


@pytest.fixture(params=EXECUTORS)
def kind(request):
    if request.param == "ray":
        request.getfixturevalue("ray")
    return request.param


def test_trials_in_trouble_say_so_disturb_no_other_and_end_as_in_this_process(kind, here, tmp_path):
    folder, troubles = tmp_path / "run", tmp_path / "troubles"
    folder.mkdir()
    troubles.mkdir()
    trials = _trials()
    in_the_way = folder / trials["in the way"].id
    in_the_way.write_text("a file where a folder belongs")
    news = defaultdict(list)
    tasks = [Task(trial, folder / trial.id) for trial in trials.values()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(troubles))
        if kind == "ray":
            patch.setenv(PACE, str(SLOWLY))
        for event in get_executor(kind, device="cpu", workers=2)(tasks):
            news[event.trial].append(event)
    assert multiprocessing.active_children() == []
    last = {name: news[trial.id][-1] for name, trial in trials.items()}
    for name, trial in trials.items():
        *running, end = news[trial.id]
        assert end.kind == ("failed" if name == "in the way" else "finished")
        assert not any(event.finished for event in running)

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

    # This process goes on with what is left, and all end as if nothing had been.
    in_the_way.unlink()
    for name, trial in trials.items():
        run_trial(trial, folder / trial.id, device="cpu")
        assert trial_content(folder / trial.id) == trial_content(here / trial.id), name


@pytest.mark.usefixtures("ray")
def test_a_cluster_out_of_reach_is_one_line():
    with refused("Ray cannot be reached at 'nowhere'"):
        next(get_executor("ray", address="nowhere")([]))
