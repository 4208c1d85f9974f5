"""Processes that kill or interrupt themselves at one of their writes.

Every file is renamed into its place when it is whole (`kan_diffusion.files`), so the moments at
which a kill can tell are those before each renaming.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import call_command, few_points, few_steps, few_trees, hardly_tuned
from commands import context, hear_interrupts
from html_page import draw_nothing
from kan_diffusion.study import trial
from kan_diffusion.study.config import StudyConfig, TrialConfig
from kan_diffusion.study.run import run_study
from kan_diffusion.symbolic.explain import ExplainOptions, explain_run
from kan_diffusion.training import TrainingResult, train
from one_by_one import OneByOne

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


def train_and_judge(config: TrialConfig, folder: Path) -> None:
    """Runs a trial whose samples are told apart by small forests."""
    with few_trees():
        trial.run_trial(config, folder, device="cpu")


def drive(study: StudyConfig, folder: Path, log: Path) -> None:
    """Runs a study slowly, and notes the trial and the number of steps of every training."""

    def slowly(*arguments: object, **options: object) -> TrainingResult:
        checkpoint = options.get("checkpoint")
        if checkpoint is not None:  # that of a warm-up is None
            options["on_progress"] = lambda step, loss: time.sleep(0.1)
        result = train(*arguments, **options)
        if checkpoint is not None:
            with log.open("a") as file:
                steps = len(result.losses) - result.resumed_from
                file.write(f"{Path(str(checkpoint)).parent.name} {steps}\n")
        return result

    trial.train = slowly  # in this process alone
    with few_trees():
        results = run_study(study, folder, executor=OneByOne(workers=1, device="cpu"))
    assert results.failures == {}
    assert results.rows["error"].isna().all()
    assert len(results.trials) == len(study.trials())


def report(run: Path) -> None:
    """Makes the page of a run whose pictures are empty; as many files are written as always."""
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        assert call_command("report", run) == 0


def explain(run: Path, out: Path) -> None:
    """Explains a run as quickly as can be."""
    with few_points(), few_steps(), few_trees(), hardly_tuned():
        explain_run(run, out, ExplainOptions(formulas=False, tune_steps=5, num_samples=20))
