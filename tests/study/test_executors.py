import subprocess
import sys
import textwrap

import pytest

from helpers import refused
from kan_diffusion.study.executors import Task, TrialEvent, get_executor
from kan_diffusion.study.executors.base import TaskQueue
from kan_diffusion.study.executors.ray import task_needs
from make import study


def test_a_lost_trial_is_tried_three_times_and_disturbs_no_other(tmp_path):
    trials = study(seeds=2).trials()
    doomed, killed, failing, taken = (trial.id for trial in trials)
    attempts = {
        doomed: ["lost", "lost", "lost"],
        killed: ["lost", "finished"],
        failing: ["failed"],
        taken: ["taken", "taken", "finished"],
    }
    queue = TaskQueue(Task(trial, tmp_path / trial.id) for trial in trials)
    order, passed = [], []
    while (task := queue.next()) is not None:
        trial = task.config.id
        assert task.folder == tmp_path / trial
        kind = attempts[trial].pop(0)
        error = None if kind == "finished" else "SIGKILL"
        late = TrialEvent("progressed", trial, 2)  # on a cluster news may come after the end
        order.append(trial)
        for event in (
            TrialEvent("progressed", trial, 1),
            TrialEvent(kind, trial, error=error),
            late,
        ):
            passed += queue.settle(event)
    assert not any(attempts.values())  # each trial was tried as often as it should be
    # At once where a worker died, after the others where another driver has it.
    assert order == [doomed] * 3 + [killed] * 2 + [failing] + [taken] * 3
    last = {event.trial: event for event in passed if event.finished}
    kinds = {doomed: "failed", killed: "finished", failing: "failed", taken: "finished"}
    assert {trial: event.kind for trial, event in last.items()} == kinds
    assert "its worker process died 3 times (SIGKILL)" in str(last[doomed].error)
    assert "fewer workers" in str(last[doomed].error)
    assert len([event for event in passed if event.finished]) == len(trials)
    assert {event.step for event in passed if event.kind == "progressed"} == {1}
    assert {event.kind for event in passed} == {"progressed", "finished", "failed"}


def test_on_ray_a_trial_asks_for_a_core_and_for_its_share_of_the_gpus():
    cpus = {"CPU": 8.0}
    gpus = cpus | {"GPU": 2.0}
    assert task_needs("cpu", gpus, None) == {"num_cpus": 1}
    assert task_needs("auto", cpus, 8) == {"num_cpus": 1}
    for device in ("auto", "cuda", "cuda:1"):
        # A cluster gives each trial a GPU; on this machine as many as asked for share them.
        assert task_needs(device, gpus, None) == {"num_cpus": 1, "num_gpus": 1}
        assert task_needs(device, gpus, 8) == {"num_cpus": 1, "num_gpus": 0.25}
        assert task_needs(device, gpus, 1) == {"num_cpus": 1, "num_gpus": 1}
    with refused(r"'cuda' needs a GPU .* choose device 'cpu'"):
        task_needs("cuda", cpus, 2)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("rai", {}, "unknown executor 'rai', did you mean 'ray'"),
        ("local", {"address": "auto"}, r"'auto' .* choose executor 'ray'"),
        ("local", {"device": "tpu"}, "device 'tpu' cannot be used here; choose cpu or auto"),
        ("ray", {"workers": 2, "address": "auto"}, "leave the number of workers out"),
    ],
)
def test_an_executor_that_there_is_not_is_one_line(kind, settings, message):
    with refused(message):
        get_executor(kind, **settings)


def test_a_cluster_without_ray_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as Python itself marks what is not there
    with refused(r"trials on a cluster need 'ray'.* pip install '\.\[ray\]'"):
        next(get_executor("ray")([]))


def test_the_server_of_workers_keeps_nothing_frozen_at_its_end():
    """Else libraries such as triton report on a finished command's terminal what they have left."""
    program = """
        import atexit, gc
        atexit.register(lambda: print(gc.get_freeze_count()))  # after what is registered later
        import kan_diffusion.study.executors.worker
        print(gc.get_freeze_count() > 0)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert (done.stdout.split(), done.stderr) == (["True", "0"], "")
