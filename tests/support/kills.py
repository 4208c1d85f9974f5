"""Processes that kill themselves at one of their writes.

Every file is renamed into its place when it is whole (`kan_diffusion.files`), so the moments at
which a kill can tell are those before each renaming.
"""

import os
import signal
from pathlib import Path

from commands import context
from kan_diffusion.formulas.explain import ExplainOptions, explain_run
from kan_diffusion.study.executors.base import attempt
from kan_diffusion.study.run import run_study
from one_by_one import OneByOne
from troubles import PACE

WAIT = 300.0
"""Seconds after which a process that should have ended has not."""


def run_until(write, call, *arguments):
    """Calls a function in a process of its own that is killed before one of its writes.

    Returns:
        The exit code: -SIGKILL, or 0 where it had fewer writes.
    """
    process = context.Process(target=_killed_at, args=(write, call, arguments))
    process.start()
    process.join(WAIT)
    assert process.exitcode is not None
    return process.exitcode


def _killed_at(write, call, arguments):
    rename, done = Path.replace, 0

    def replace(path, target):
        nonlocal done
        if done == write:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1
        return rename(path, target)

    Path.replace = replace  # in this process alone
    call(*arguments)


class Noting(OneByOne):
    """Notes the trial of every training that comes to its last step in a file."""

    def __init__(self, log, steps):
        super().__init__(workers=1, device="cpu")
        self.log, self.steps = log, steps

    def collect(self):
        def note(event):
            if (event.kind, event.step) == ("progressed", self.steps):
                with self.log.open("a") as file:
                    file.write(f"{event.trial}\n")

        return [attempt(self.tasks.pop(), self.device, tell=note)]


def drive(study, folder, log):
    """Runs a study of families of `troubles` slowly, and notes the trial of every training."""
    os.environ[PACE] = "0.05"
    results = run_study(study, folder, executor=Noting(log, study.training.steps))
    assert results.failures == {}
    assert results.rows["error"].isna().all()
    assert len(results.trials) == len(study.trials())


def compare(study, folder):
    run_study(study, folder, executor=OneByOne(workers=1, device="cpu"))


def explain(run, out):
    explain_run(run, out, ExplainOptions(formulas=False, tune_steps=5, num_samples=20))
