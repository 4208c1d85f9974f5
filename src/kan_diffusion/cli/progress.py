"""Progress of studies and explanations, on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from rich.progress import Progress, TaskID

from kan_diffusion.data.sources import Source, load_dataset
from kan_diffusion.evaluation.denoising import draw_noised_points, floor
from kan_diffusion.processes import Process
from kan_diffusion.progress import TrainingBar, progress_bars
from kan_diffusion.randomness import torch_generator
from kan_diffusion.study.config import TrialConfig
from kan_diffusion.study.executors import TrialEvent
from kan_diffusion.study.folder import RESULT, TRIALS


@lru_cache
def known_floor(data: Source, process: Process) -> float | None:
    """Estimates the loss of the best possible denoiser; None where the density is not known."""
    if data.density is None:
        return None
    generator = torch_generator("floor", data.name)
    return floor(draw_noised_points(load_dataset(data), process, 4000, generator), process)


class StudyProgress:
    """Progress of a study, or of the search for its settings, with the time left.

    On a terminal: one bar for the whole study and one for each running trial. Elsewhere: a line
    for each finished trial.

    Args:
        name: What is being done.
        folder: The run folder.
        bars: Where the bars are drawn.
    """

    def __init__(self, name: str, folder: Path, bars: Progress) -> None:
        self._bars, self._folder = bars, folder
        self._trials: dict[str, TrialConfig] = {}
        self._running: dict[str, TrainingBar] = {}
        self._shares: dict[str, float] = {}
        self._num_finished = 0
        self._whole = bars.add_task(name, total=None, status="")

    def start(self, trials: Sequence[TrialConfig], missing: Sequence[TrialConfig]) -> None:
        """Adds trials, some of them missing, and announces them; may be called with others."""
        finished = len(trials) - len(missing)
        if finished and not self._trials:
            self._say(
                f"{finished} of {len(trials)} trials are finished and are not run again; after a "
                "change of code give another --out"
            )
        trained = sum((self._folder / TRIALS / trial.id / RESULT).exists() for trial in missing)
        for number, what in ((len(missing) - trained, "train"), (trained, "judge again")):
            if number:
                self._say(f"{number} trials to {what}")
        self._trials |= {trial.id: trial for trial in trials}
        self._num_finished += finished
        self._shares |= {trial.id: 0.0 for trial in missing}
        self._show()

    def move(self, event: TrialEvent) -> None:
        """Shows an event of a trial."""
        trial = self._trials[event.trial]
        steps = trial.training.steps
        if event.finished:
            self._shares[trial.id] = 1.0
            self._num_finished += 1
            if trial.id in self._running:
                self._running.pop(trial.id).remove()
            if event.error is not None:
                self._say(f"{trial.label}: {event.error}", style="red")
            elif self._bars.disable:
                self._say(f"{self._status}: {trial.label}")
        else:
            self._shares[trial.id] = event.step / steps
            if trial.id not in self._running:
                floor = None if self._bars.disable else known_floor(trial.data, trial.process)
                self._running[trial.id] = TrainingBar(self._bars, f"  {trial.label}", steps, floor)
            self._running[trial.id].move(event.step, event.loss)
        self._show()

    def draw(self) -> None:
        """Shows that all trials are over and the report is being drawn."""
        self._bars.update(self._whole, status="drawing")

    def _say(self, text: str, style: str = "") -> None:
        self._bars.console.print(text, style=style, markup=False, soft_wrap=True)

    @property
    def _status(self) -> str:
        return f"{self._num_finished} of {len(self._trials)} trials"

    def _show(self) -> None:
        done, total = sum(self._shares.values()), len(self._shares)
        self._bars.update(self._whole, total=total, completed=done, status=self._status)


@contextmanager
def show_phases(name: str) -> Iterator[Callable[[str, str, float], None]]:
    """Shows a bar for each phase of a task, with the time left in it.

    Args:
        name: What is being done.

    Yields:
        The callback that takes the phase, what was just done in it, and the share of it that is
        done, from 0 to 1.
    """
    with progress_bars() as bars:
        tasks: dict[str, TaskID] = {}

        def move(phase: str, what: str, done: float) -> None:
            for before in tasks.keys() - {phase}:
                bars.update(tasks[before], completed=1.0, status="")
            if phase not in tasks:
                tasks[phase] = bars.add_task(f"{name}: {phase}", total=1.0)
            bars.update(tasks[phase], completed=done, status=what)

        yield move
