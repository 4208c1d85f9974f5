"""Processes that kill or interrupt themselves at one of their writes.

Every file is renamed into its place when it is whole (`kan_diffusion.files`), so the moments at
which a kill can tell are those before each renaming.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from commands import context, hear_interrupts
from kan_diffusion.report.gather import runs_contents
from kan_diffusion.report.study import write_report
from kan_diffusion.study.config import StudyConfig
from kan_diffusion.study.executors.base import TrialEvent, attempt
from kan_diffusion.study.results.rows import read_runs
from kan_diffusion.study.run import run_study
from kan_diffusion.symbolic.explain import ExplainOptions, explain_run
from one_by_one import OneByOne
from troubles import PACE

WAIT = 300.0
"""Seconds after which a process that should have ended has not."""


def run_until(write: int, call: Callable[..., object], *arguments: object) -> int:
    """Calls a function in a process of its own that is killed before one of its writes.

    Returns:
        The exit code: -SIGKILL, or 0 where it had fewer writes.
    """
    return _run(write, signal.SIGKILL, "", call, arguments)


def run_until_kept(name: str, times: int, call: Callable[..., object], *arguments: object) -> int:
    """Calls a function in a process that is interrupted right after a file was written.

    Args:
        name: Name of the file.
        times: How often it is written before that.
        call: The function.
        *arguments: Its arguments.

    Returns:
        The exit code: 130, or 0 where it was not written so often.
    """
    return _run(times, signal.SIGINT, name, call, arguments)


def _run(
    write: int,
    kind: signal.Signals,
    name: str,
    call: Callable[..., object],
    arguments: tuple[object, ...],
) -> int:
    process = context.Process(target=_with_troubles, args=(write, kind, name, call, arguments))
    process.start()
    process.join(WAIT)
    assert process.exitcode is not None
    return process.exitcode


def _with_troubles(
    write: int,
    kind: signal.Signals,
    name: str,
    call: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    rename, done = Path.replace, 0

    def replace(path: Path, target: Path) -> Path:
        nonlocal done
        if kind == signal.SIGKILL and done == write:
            os.kill(os.getpid(), kind)
        renamed = rename(path, target)
        done += name in ("", Path(target).name)
        if kind == signal.SIGINT and done == write + 1 and Path(target).name == name:
            os.kill(os.getpid(), kind)
        return renamed

    hear_interrupts()
    Path.replace = replace  # type: ignore[method-assign]  # in this process alone
    try:
        call(*arguments)
    except KeyboardInterrupt:
        sys.exit(130)


class Noting(OneByOne):
    """Notes the trial of every training that comes to its end in a file.

    Args:
        log: The file.
        steps: Steps of a training.
    """

    def __init__(self, log: Path, steps: int) -> None:
        super().__init__(workers=1, device="cpu")
        self.log, self.steps = log, steps

    def collect(self) -> Iterable[TrialEvent]:
        def note(event: TrialEvent) -> None:
            if (event.kind, event.step) == ("progressed", self.steps):
                with self.log.open("a") as file:
                    file.write(f"{event.trial}\n")

        return [attempt(self.tasks.pop(), self.device, tell=note)]


def drive(study: StudyConfig, folder: Path, log: Path) -> None:
    """Runs a study of families of `troubles` slowly, and notes the trial of every training."""
    os.environ[PACE] = "0.05"
    results = run_study(study, folder, executor=Noting(log, study.training.steps))
    assert results.failures == {}
    assert results.rows["error"].isna().all()
    assert len(results.trials) == len(study.trials())


def compare(study: StudyConfig, folder: Path) -> None:
    """Runs a study, one trial after another."""
    run_study(study, folder, executor=OneByOne(workers=1, device="cpu"))


def report(run: Path) -> None:
    """Makes the page of a run."""
    write_report(runs_contents(read_runs([run]), "again"), run, figures=False)


def explain(run: Path, out: Path) -> None:
    """Explains a run."""
    explain_run(run, out, ExplainOptions(formulas=False, tune_steps=5, num_samples=20))
