"""Shows progress on a terminal: phase, time left, and loss with its floor.

Bars are drawn on a terminal and in a notebook with ipywidgets; anywhere else nothing is shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["TrainingBar", "progress_bars", "show_training"]

_SMOOTHING = 0.9
"""Weight of past losses in the loss that is shown; a single batch's loss is noisy."""


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Opens a display of bars, each with a status, the elapsed time and the time left.

    Yields:
        The display. Its tasks need a field ``status``; its console is standard error.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    console = Console(stderr=True, highlight=False)
    in_notebook = console.is_jupyter and find_spec("ipywidgets") is not None
    with Progress(
        TextColumn("{task.description}", markup=False),  # names may have brackets
        BarColumn(bar_width=20),
        TextColumn("{task.fields[status]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeLeft(elapsed_when_finished=False),
        console=console,
        disable=not (console.is_terminal or in_notebook),
        transient=True,
        speed_estimate_period=120,
    ) as bars:
        yield bars


class TrainingBar:
    """The bar of one training run.

    Args:
        bars: Where it is drawn.
        label: What is trained.
        steps: Number of training steps.
        floor: Loss of the best possible denoiser, where it is known.
    """

    def __init__(self, bars: Progress, label: str, steps: int, floor: float | None = None) -> None:
        self._bars = bars
        self._steps = steps
        self._floor = "" if floor is None else f", floor {floor:.4f}"
        self._loss = math.nan
        self._task = bars.add_task(label, total=steps, status="compiling")

    def move(self, step: int, loss: float) -> None:
        """Shows the progress after ``step`` steps.

        Args:
            step: Number of finished steps: compiling comes before the first, judging after the
                last.
            loss: Latest loss; NaN when there is none yet.
        """
        if not math.isnan(loss):
            past = loss if math.isnan(self._loss) else self._loss
            self._loss = _SMOOTHING * past + (1 - _SMOOTHING) * loss
        phase = "compiling" if step == 0 else "training" if step < self._steps else "judging"
        shown = "" if math.isnan(self._loss) else f", loss {self._loss:.4f}{self._floor}"
        self._bars.update(self._task, completed=step, status=phase + shown)

    def remove(self) -> None:
        """Takes the bar away."""
        self._bars.remove_task(self._task)


@contextmanager
def show_training(
    label: str, steps: int, floor: float | None = None
) -> Iterator[Callable[[int, float], None]]:
    """Shows one training run.

    Args:
        label: What is trained.
        steps: Number of training steps.
        floor: Loss of the best possible denoiser, where it is known.

    Yields:
        A callback that takes the number of finished steps and the loss.
    """
    with progress_bars() as bars:
        yield TrainingBar(bars, label, steps, floor).move
