import sys

from helpers import refused
from kan_diffusion.study.executors import TrialEvent, open_executor
from kan_diffusion.study.executors.ray import task_needs
from make import study
from one_by_one import OneByOne


class Scripted(OneByOne):
    """Ends the attempts at each trial as its script says, without running anything."""

    def __init__(self, script, workers):
        super().__init__(workers=workers)
        self.script = script
        self.submitted = []
        self.closed = False

    def room(self):
        return self.workers - len(self.tasks)

    def submit(self, task):
        super().submit(task)
        self.submitted.append(task)
        assert len(self.tasks) <= self.workers

    def collect(self):
        trial = self.tasks.pop(0).config.id
        kind = self.script[trial].pop(0)
        error = None if kind == "finished" else "SIGKILL"
        late = TrialEvent("progressed", trial, 2)  # on a cluster news may come after the end
        return [TrialEvent("progressed", trial, 1), TrialEvent(kind, trial, error=error), late]

    def close(self):
        self.closed = True


def test_a_lost_trial_is_tried_three_times_and_disturbs_no_other(tmp_path):
    trials = study(seeds=2).trials()
    doomed, killed, failing, calm = (trial.id for trial in trials)
    script = {
        doomed: ["lost", "lost", "lost"],
        killed: ["lost", "finished"],
        failing: ["failed"],
        calm: ["finished"],
    }
    with Scripted(script, workers=2) as executor:
        events = list(executor.run(trials, tmp_path))
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
    with refused(r"'cuda' needs a GPU .* choose --device cpu"):
        task_needs("cuda", cpus, 2)


def test_an_executor_that_cannot_be_opened_is_one_line(monkeypatch):
    with refused("unknown executor 'rai', did you mean 'ray'"):
        open_executor("rai")
    with refused(r"'auto' .* add --executor ray"):
        open_executor("local", address="auto")
    with refused(r"cluster at 'auto' decides how many trials run at once; leave --workers out"):
        open_executor("ray", workers=2, address="auto")
    monkeypatch.setitem(sys.modules, "ray", None)  # as Python itself marks what is not there
    with refused(r"trials on a cluster need 'ray'.* pip install '\.\[ray\]'"):
        open_executor("ray")
