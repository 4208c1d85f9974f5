"""Prints, and shows progress on a terminal: phase, time left, and loss with its floor.

A terminal obeys nothing that stands in the names and cells of strangers' files.

Bars are drawn on a terminal and in a notebook with ipywidgets; anywhere else nothing is shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeft
from rich.segment import Segment

from kan_diffusion.errors import printable

_SMOOTHING = 0.9
"""Weight of past losses in the loss that is shown; a single batch's loss is noisy."""


class TextConsole(Console):
    """A console that escapes texts; only what rich itself adds has codes, such as colours."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Renders an object, as every printed object is."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)

    def say(self, text: str) -> None:
        """Prints a text without wrapping its lines."""
        self.print(text, soft_wrap=True)


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Opens a display of bars, each with a status, the elapsed time and the time left.

    Yields:
        The display. Its tasks need a field ``status``; its console is standard error.
    """
    console = TextConsole(stderr=True)
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
