"""Progress of studies and explanations, on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import Progress, TaskID

from kan_diffusion.progress import TrainingBar, progress_bars
from kan_diffusion.study.config import TrialConfig
from kan_diffusion.study.executors import TrialEvent
from kan_diffusion.study.run import StudyPlan

__all__ = ["StudyProgress", "show_phases", "show_study_progress"]

_FIXED_COST = 3_000
"""Share of a step's time that is the same for every model, in parameters."""

_JUDGING_STEPS = 400
"""Number of training steps that take about as long as judging a finished trial."""


class StudyProgress:
    """Progress of a study with the time left.

    On a terminal: one bar for the whole study and one for each running trial. Elsewhere: a line
    for each finished trial.

    Args:
        name: What is being done.
        bars: Where the bars are drawn.
    """

    def __init__(self, name: str, bars: Progress) -> None:
        self._name = name
        self._bars = bars
        self._trials: dict[str, TrialConfig] = {}
        self._cost: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._running: dict[str, TrainingBar] = {}
        self._completed = 0
        self._num_finished = 0
        self._whole: TaskID | None = None

    def start(self, plan: StudyPlan) -> None:
        """Takes up what is to be done; may be called again when there is more."""
        self._trials |= {trial.id: trial for trial in plan.trials}
        self._num_finished += len(plan.finished)
        self._cost |= {
            trial.id: _FIXED_COST + plan.parameters[trial.id]
            for trial in plan.trials
            if trial.id not in plan.finished
        }
        total = sum(cost * self._length(trial) for trial, cost in self._cost.items())
        if self._whole is None:
            self._whole = self._bars.add_task(f"[bold]{self._name}", total=total, status="")
        self._bars.update(self._whole, total=total, status=self._status())

    def move(self, event: TrialEvent) -> None:
        """Takes up the news of a trial."""
        trial = self._trials[event.trial]
        if event.finished:
            self._finish(trial, event.error)
        else:
            self._done[trial.id] = event.step
            if trial.id not in self._running:
                bar = TrainingBar(self._bars, f"  {trial.label}", trial.training.steps)
                self._running[trial.id] = bar
            self._running[trial.id].move(event.step, event.loss)
        if self._whole is not None:
            running = sum(self._cost[name] * steps for name, steps in self._done.items())
            self._bars.update(
                self._whole, completed=self._completed + running, status=self._status()
            )

    def _finish(self, trial: TrialConfig, error: str | None) -> None:
        self._done.pop(trial.id, None)
        self._completed += self._cost[trial.id] * self._length(trial.id)
        self._num_finished += 1
        bar = self._running.pop(trial.id, None)
        if bar is not None:
            bar.remove()
        if error is not None:
            self._bars.console.print(f"{trial.label}: {error}", style="red", markup=False)
        elif self._bars.disable:
            self._bars.console.print(f"{self._status()}: {trial.label}", markup=False)

    def _length(self, trial: str) -> int:
        return self._trials[trial].training.steps + _JUDGING_STEPS

    def _status(self) -> str:
        return f"{self._num_finished} of {len(self._trials)} trials"


@contextmanager
def show_study_progress(name: str) -> Iterator[StudyProgress]:
    """Shows the progress of a study, or of the search for its settings.

    Args:
        name: What is being done.

    Yields:
        What is to be told the plan and the news of each trial.
    """
    with progress_bars() as bars:
        yield StudyProgress(name, bars)


@contextmanager
def show_phases(name: str) -> Iterator[Callable[[str, str, float], None]]:
    """Shows a bar for each phase of something, with the time left in it.

    Args:
        name: What is being done.

    Yields:
        The callback to be told the phase, what was just done in it, and the share of it that is
        done, from 0 to 1.
    """
    with progress_bars() as bars:
        tasks: dict[str, TaskID] = {}

        def move(phase: str, what: str, done: float) -> None:
            if phase not in tasks:
                for task in tasks.values():
                    bars.update(task, completed=1.0, status="")
                tasks[phase] = bars.add_task(f"{name}: {phase}", total=1.0, status="")
            bars.update(tasks[phase], completed=done, status=what)

        yield move
