"""The number of threads of a run: one or all, whichever its first steps show to be faster.

Small networks are faster on one thread and large batches on all that torch has; if another program
is running, all may be slower by far. The first steps therefore alternate, two on all threads and
two on one, and the second of each two is timed. If all threads save a tenth of a step's time they
are used, otherwise one.

The last bits of sums over a batch depend on the number of threads. Until a number is chosen, that
of a step follows from the step alone, and the choice is saved in the checkpoint, so that a resumed
run continues with the same bits. If torch has one thread there is nothing to choose, and all runs
of a seed end with the same bits.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import torch

__all__ = ["Threads"]

logger = logging.getLogger(__name__)

_COLD_STEPS, _TRIED_STEPS = 4, 20
"""The steps between these two are timed."""

_WORTHWHILE = 0.9
"""All threads are used if a step on them takes less than this share of its time on one."""


class Threads:
    """Sets the number of threads that torch uses in a run, until :meth:`release`.

    Args:
        choosing: Whether to measure and choose; if not, torch's own number is kept.

    Attributes:
        most: The number of threads that torch had.
        chosen: The chosen number; None before the choice.
    """

    def __init__(self, choosing: bool) -> None:
        self._before = self.most = torch.get_num_threads()
        self.chosen = None if choosing and self.most > 1 else self.most
        self._seconds: dict[int, list[float]] = {1: [], self.most: []}

    def use(self, step: int) -> int:
        """Sets torch's number of threads for a step and returns it."""
        number = self.chosen or (1 if step // 2 % 2 else self.most)
        if torch.get_num_threads() != number:
            torch.set_num_threads(number)
        return number

    @contextmanager
    def taking(self, step: int) -> Iterator[None]:
        """Takes a step on its number of threads, and times it while no number is chosen."""
        number, started = self.use(step), time.perf_counter()
        yield
        if self.chosen is None and step >= _COLD_STEPS and step % 2:
            self._seconds[number].append(time.perf_counter() - started)
        if step + 1 >= _TRIED_STEPS:
            self.choose()

    def choose(self) -> None:
        """Chooses a number, unless one is chosen, by the times so far; one thread without any."""
        if self.chosen is not None:
            return
        # A run that was stopped in between may have no times.
        one, all_ = (median(self._seconds[number] or [math.inf]) for number in (1, self.most))
        self.chosen = self.most if all_ < _WORTHWHILE * one < math.inf else 1
        logger.info(
            "training on %d of %d threads: a step took %.2f ms on one and %.2f ms on all",
            *(self.chosen, self.most, 1e3 * one, 1e3 * all_),
        )

    def state(self) -> list[int | None]:
        """``most`` and ``chosen``, from which a resumed run continues."""
        return [self.most, self.chosen]

    def load(self, state: list[int | None], step: int) -> None:
        """Continues like the run that had this state after ``step`` steps."""
        most, self.chosen = state
        assert most is not None
        self.most, self._seconds = most, {1: [], most: []}
        self.use(step - 1)

    def release(self) -> None:
        """Restores the number of threads that torch had."""
        torch.set_num_threads(self._before)
