"""Processes that kill themselves before one of the operations that change a named file."""

import os
import signal
from functools import partial

from commands import context
from disk import disturbed
from kan_diffusion.study.run import run_study
from one_by_one import one_by_one
from troubles import PACE

WAIT = 300.0
"""Seconds after which a process that should have ended has not."""


def run_until(number, folder, call, *arguments):
    """Calls a function in a process of its own that is killed before a change below a folder.

    Returns:
        The exit code: -SIGKILL, or 0 where it made fewer changes.
    """
    process = context.Process(target=_killed_at, args=(number, folder, call, arguments))
    process.start()
    process.join(WAIT)
    assert process.exitcode is not None
    return process.exitcode


def _killed_at(number, folder, call, arguments):
    with disturbed(folder, [number], lambda _: os.kill(os.getpid(), signal.SIGKILL)):
        call(*arguments)


def drive(study, folder, log):
    """Runs a study of families of `troubles` slowly, and notes the trial of every training."""
    os.environ[PACE] = "0.05"

    def note(event):
        if (event.kind, event.step) == ("progressed", study.training.steps):
            with log.open("a") as file:
                file.write(f"{event.trial}\n")

    results = run_study(study, folder, executor=partial(one_by_one, tell=note))
    assert results.rows["error"].isna().all()
    assert len(results.trials) == len(study.trials())
