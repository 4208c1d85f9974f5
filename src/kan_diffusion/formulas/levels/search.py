r"""The search for the form of each coefficient, judged by the loss of the whole formula.

Coefficients of one score can stand in for each other (a nearly straight tanh is nearly linear), so
the numbers of a network suggest no more than a start. If a density has one variance, all its
coefficients have the same denominator. So the search begins with forms of one denominator and
changes the forms of all coefficients of a role (a function, a coordinate within a function, ...)
together, from several starts and on few points. From the best results, forms change one by one;
then needless coefficients are removed, and nearly equal constants are made one.

A formula is fitted to one half of the data and judged on the other, and the other way round. A
needless constant makes it better there by chance only. Averaged targets hold no more than the N
clean points behind them (:mod:`.averaged`), so by chance a constant changes the loss by at most
about :math:`S / N`, where S is the variance of single targets, and by less where most of that
variance is at noise levels at which the constant has little effect. The cost of a formula with k
constants and a loss L is

.. math:: L + k S / N,

at which a needless constant passes in one of seven tries at most.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from operator import itemgetter

import numpy as np

from kan_diffusion.formulas.averaged import AveragedPoints
from kan_diffusion.formulas.levels.coordinate import CoordinateFormula
from kan_diffusion.formulas.levels.forms import LevelForm
from kan_diffusion.processes import Process

_SCREENED = 8
"""The search from several starts uses one of this many points."""
_CLOSE = 0.06
"""Relative difference below which two constants may become one."""
_LIKELY = 12
"""Number of moves tried on all points: those that are best on few."""

Halves = tuple[AveragedPoints, AveragedPoints]
"""Points of one half of the data and of the other."""
Move = dict[int, int]
"""New picks, by the number of the coefficient."""
Judged = tuple[float, CoordinateFormula]
"""The cost of a formula and the formula."""
_by_cost = itemgetter(0)


class _Judge:
    """Fits formulas and computes their cost: the loss and the price of the constants."""

    def __init__(self, halves: Halves, process: Process, until: float) -> None:
        self._halves = halves
        self._process = process
        self._until = until
        spread = sum(half.spread for half in halves) / 2
        self.price = spread / sum(half.num_clean for half in halves)

    @property
    def is_over(self) -> bool:
        """Whether the time budget is used up."""
        return time.monotonic() > self._until

    def __call__(self, formula: CoordinateFormula) -> Judged:
        """Fits a formula in place; its cost is infinite if the fit fails or has a pole."""
        cost = self.price * len(formula.constants)
        for fitted, judged in (self._halves, self._halves[::-1]):
            try:
                formula.fit(fitted, self._process)
            except (ValueError, np.linalg.LinAlgError):
                return float("inf"), formula
            if not formula.is_regular:
                return float("inf"), formula
            cost += formula.loss(judged, self._process) / 2
        return cost, formula

    def moved(self, formula: CoordinateFormula, move: Move) -> list[Judged]:
        """Makes a move; the list is empty where it changes nothing or the time is over."""
        picks = [move.get(k, pick) for k, pick in enumerate(formula.picks)]
        idle = picks == formula.picks or self.is_over
        return [] if idle else [self(formula.changed(picks, move))]

    def climb(self, best: Judged, moves: Sequence[Move], sweeps: int) -> Judged:
        """Makes every move that lowers the cost, until none does, in so many sweeps at most."""
        for _ in range(sweeps):
            before = best[0]
            for move in moves:
                best = min([best, *self.moved(best[1], move)], key=_by_cost)
            if best[0] > before - self.price:
                break
        return best


def _pick(forms: Sequence[LevelForm], below: tuple[int, ...], power: int, numerator: bool) -> int:
    """Finds a form by its parts; without a numerator if there is none with it."""
    alike = [k for k, f in enumerate(forms) if (f.denominator, f.power) == (below, power)]
    return next((k for k in alike if forms[k].numerator == numerator), alike[0])


def _moves_of_roles(formula: CoordinateFormula, below: tuple[int, ...]) -> list[Move]:
    """Lists moves that give all coefficients of a role one form with a given denominator."""
    moves = []
    for role in dict.fromkeys(slot.role for slot in formula.slots):
        forms = {k: slot.forms for k, slot in enumerate(formula.slots) if slot.role == role}
        moves += [
            {k: _pick(others, below, form.power, form.numerator) for k, others in forms.items()}
            for form in next(iter(forms.values()))
            if form.denominator == (2,)
        ]
    return moves


def _moves_one_by_one(formula: CoordinateFormula) -> list[Move]:
    return [{k: pick} for k, slot in enumerate(formula.slots) for pick in range(len(slot.forms))]


def best_forms(
    formula: CoordinateFormula, halves: Halves, process: Process, until: float, sweeps: int = 3
) -> CoordinateFormula:
    """Chooses the forms of a formula's coefficients.

    Args:
        formula: A formula with the forms that its numbers suggest.
        halves: Points of each half of the data, independent of the other's.
        process: The process.
        until: Time to stop at, by the monotonic clock.
        sweeps: Most rounds of changes, and of starts that are followed further.

    Returns:
        The formula with the best forms, its constants fitted.
    """
    few = _Judge((halves[0].every(_SCREENED), halves[1].every(_SCREENED)), process, until)
    everything = range(len(formula.slots))
    ends = [few(formula.changed(formula.picks, everything))]
    for below, inner, outer in itertools.product(((2,), (4,)), (0, 1), (1, 2)):
        if few.is_over:
            break
        picks = []
        for slot in formula.slots:
            power = inner if slot.role.endswith("inside") else outer
            picks.append(_pick(slot.forms, below, 0 if slot.forms[0].diagonal else power, False))
        start = formula.changed(picks, everything)
        ends.append(few.climb(few(start), _moves_of_roles(start, below), sweeps))
    ends = sorted(ends, key=_by_cost)[:sweeps]
    climbed = (few.climb(end, _moves_one_by_one(end[1]), sweeps) for end in ends)
    _, best = min(climbed, key=_by_cost)
    judge = _Judge(halves, process, until)
    tried = [(few.moved(best, move), move) for move in _moves_one_by_one(best)]
    likely = sorted(((end[0][0], move) for end, move in tried if end), key=_by_cost)[:_LIKELY]
    end = judge.climb(judge(best), [move for _, move in likely], sweeps)
    return _tied(_without_idle(end, judge), judge)


def _smaller(formula: CoordinateFormula) -> list[CoordinateFormula]:
    """Removes each coefficient in turn; that of the coordinate itself becomes -1 instead."""
    smaller = []
    for k, (slot, form, _) in enumerate(formula.parts()):
        if not form.diagonal:
            smaller.append(formula.changed(formula.picks, [], without=k))
        elif form.size:
            plain = next(i for i, other in enumerate(slot.forms) if other.size == 0)
            picks = [*formula.picks[:k], plain, *formula.picks[k + 1 :]]
            smaller.append(formula.changed(picks, [k]))
    return smaller


def _without_idle(best: Judged, judge: _Judge) -> Judged:
    """Removes coefficients as long as the cost does not rise."""
    while np.isfinite(best[0]):
        tried = [judge(formula) for formula in _smaller(best[1]) if not judge.is_over]
        smaller = min(tried, key=_by_cost, default=None)
        if smaller is None or smaller[0] > best[0]:
            break
        best = smaller
    return best


def _tied(best: Judged, judge: _Judge) -> CoordinateFormula:
    """Makes nearly equal constants one where the cost does not rise."""
    refused: set[tuple[int, int]] = set()
    while not judge.is_over:
        values = best[1].constants.tolist()
        pairs = [
            (abs(a - b) / max(abs(a), abs(b), 1e-9), i, j)
            for (i, a), (j, b) in itertools.combinations(enumerate(values), 2)
            if (i, j) not in refused
        ]
        distance, i, j = min(pairs, default=(math.inf, 0, 0))
        if distance >= _CLOSE:
            break
        tied = judge(best[1].tied(i, j))
        if tied[0] <= best[0]:
            best = tied
            refused.clear()
        else:
            refused.add((i, j))
    return best[1]
