"""How many threads a run computes with: the faster number, as its first steps show.

Small networks are faster on one thread, large batches on all that torch has, and where another
program runs beside, all may be slower by far. So the first steps are taken by turns, two on all and
two on one, and the second of each two is timed; all threads must then save a tenth of a step's
time, or else one is enough.

Sums over a batch depend, in the last bits, on how many threads they are taken by. Which steps are
taken by how many follows from the step alone until a number is chosen, and what was chosen is kept
in the checkpoint, so that a resumed run goes on with the same bits. Where torch has one thread
nothing is chosen, and all runs of a seed end with the same bits.
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
"""Time of a step on all threads, in that on one, from which on down they are used."""


class Threads:
    """The threads of a run, which sets the number that torch uses until :meth:`release`.

    Args:
        choosing: Whether to measure; else the number is torch's own.

    Attributes:
        most: The number that torch had.
        chosen: The number in use, None while it is not settled.
    """

    def __init__(self, choosing: bool) -> None:
        self._before = self.most = torch.get_num_threads()
        self.chosen = None if choosing and self.most > 1 else self.most
        self._seconds: dict[int, list[float]] = {1: [], self.most: []}

    def use(self, step: int) -> int:
        """Makes torch use the number of threads of a step; returns it."""
        number = self.chosen or (1 if step // 2 % 2 else self.most)
        if torch.get_num_threads() != number:
            torch.set_num_threads(number)
        return number

    @contextmanager
    def taking(self, step: int) -> Iterator[None]:
        """Uses the threads of a step, which is taken in it, and times it while none is chosen."""
        number, started = self.use(step), time.perf_counter()
        yield
        if self.chosen is None and step >= _COLD_STEPS and step % 2:
            self._seconds[number].append(time.perf_counter() - started)
        if step + 1 >= _TRIED_STEPS:
            self.choose()

    def choose(self) -> None:
        """Chooses by what was measured so far, one where nothing was, unless a number is chosen."""
        if self.chosen is not None:
            return
        # Nothing was measured where a run was stopped in between.
        one, all_ = (median(self._seconds[number] or [math.inf]) for number in (1, self.most))
        self.chosen = self.most if all_ < _WORTHWHILE * one < math.inf else 1
        logger.info(
            "training on %d of %d threads: a step took %.2f ms on one and %.2f ms on all",
            *(self.chosen, self.most, 1e3 * one, 1e3 * all_),
        )

    def state(self) -> list[int | None]:
        """Numbers of threads in use and chosen, which a resumed run goes on with."""
        return [self.most, self.chosen]

    def load(self, state: list[int | None], step: int) -> None:
        """Goes on as the run that had this state after so many steps."""
        most, self.chosen = state
        assert most is not None
        self.most, self._seconds = most, {1: [], most: []}
        self.use(step - 1)

    def release(self) -> None:
        """Gives torch back the number that it had."""
        torch.set_num_threads(self._before)
