"""Trials of a study before and while they are run: what there is to do, and who does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kan_diffusion.data.datasets import load_dataset
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.study.calibration import shared_calibration
from kan_diffusion.study.config import StudyConfig, TrialConfig
from kan_diffusion.study.executors import Executor, TrialEvent
from kan_diffusion.study.folder import TrialResult, load_trial
from kan_diffusion.study.trial import build

__all__ = ["StudyPlan", "finished_trial", "plan_study", "run_plan"]

_TRIALS = "trials"


@dataclass(frozen=True)
class StudyPlan:
    """The trials of a study before it is run.

    Attributes:
        trials: All of them.
        parameters: Number of trainable parameters, by trial id.
        finished: Ids of those that are finished.
        workers: Number of trials that run at once.
        seconds: Estimate of the wall-clock time the others take; None where there is none.
    """

    trials: tuple[TrialConfig, ...]
    parameters: dict[str, int]
    finished: frozenset[str]
    workers: int = 1
    seconds: float | None = None

    @property
    def to_run(self) -> list[TrialConfig]:
        """The trials that are not finished, in the order to run them.

        Seed after seed, so that an interrupted study has whole comparisons; the longest of a seed
        first, so that no worker starts one when the others are done.
        """
        todo = [trial for trial in self.trials if trial.id not in self.finished]
        return sorted(todo, key=lambda t: (t.seed, -t.training.steps * self.parameters[t.id]))


def finished_trial(folder: Path, trial: TrialConfig, verify: bool) -> TrialResult | None:
    """Reads a trial of a study; None where it is not finished."""
    return load_trial(folder / _TRIALS / trial.id, trial, verify=verify)


def plan_study(
    config: StudyConfig, folder: Path, workers: int = 1, *, verify: bool = True
) -> StudyPlan:
    """Lists a study's trials, and finds models that cannot be built before any training.

    Args:
        config: The study.
        folder: Its run folder. The calibration of a budget of time is taken from it, or made and
            kept there.
        workers: Number of trials that will run side by side.
        verify: Whether to refuse finished trials whose files have changed.

    Raises:
        DataError: A data set cannot be used.
        KanDiffusionError: A model cannot be built.
    """
    config = config.pinned()
    datasets = {data.name: load_dataset(data, config.seed, 0) for data in config.data}
    counts: dict[tuple[str, str], int] = {}
    for trial in config.trials():
        if _sized(trial) not in counts:
            try:
                counts[_sized(trial)] = build(trial, datasets[trial.data.name]).num_trainable
            except KanDiffusionError as error:
                raise KanDiffusionError(
                    f"model '{trial.model.name}' on '{trial.data.name}': {error}"
                ) from error
    trials = config.trials(shared_calibration(config, folder, workers))
    return StudyPlan(
        trials=tuple(trials),
        parameters={trial.id: counts[_sized(trial)] for trial in trials},
        finished=frozenset(
            trial.id for trial in trials if finished_trial(folder, trial, verify) is not None
        ),
        workers=workers,
    )


def _sized(trial: TrialConfig) -> tuple[str, str]:
    """A trial's data set and its model in JSON: its number of parameters follows from them."""
    return trial.data.name, trial.model.model_dump_json()


def run_plan(
    plan: StudyPlan,
    folder: Path,
    executor: Executor,
    on_event: Callable[[TrialEvent], None] | None = None,
) -> dict[str, str]:
    """Runs the trials of a plan that are not finished.

    A trial that another driver is running is left to it and looked at again in the end.

    Args:
        plan: The plan.
        folder: Run folder of its study.
        executor: Executor of the trials.
        on_event: Told the news of each trial.

    Returns:
        Ids of the trials that could not be run, with the reason.
    """
    failures = {}
    for event in executor.run(plan.to_run, folder / _TRIALS):
        if event.kind == "failed":
            failures[event.trial] = str(event.error)
        if on_event is not None:
            on_event(event)
    return failures
