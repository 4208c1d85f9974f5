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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter, itemgetter

import numpy as np

from kan_diffusion.formulas.averaged import AveragedPoints
from kan_diffusion.formulas.levels.coordinate import CoordinateFormula, Slot
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
Move = Mapping[Slot, LevelForm]
"""New forms of some coefficients."""
_by_cost = attrgetter("cost")


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

    def __call__(self, formula: CoordinateFormula) -> CoordinateFormula:
        """Fits a formula in place; its cost is infinite if the fit fails or has a pole."""
        formula.cost = self.price * len(formula.constants)
        for fitted, judged in (self._halves, self._halves[::-1]):
            try:
                formula.fit(fitted, self._process)
                is_good = formula.is_regular
            except (ValueError, np.linalg.LinAlgError):
                is_good = False
            if not is_good:
                formula.cost = math.inf
                break
            formula.cost += formula.loss(judged, self._process) / 2
        return formula

    def moved(self, formula: CoordinateFormula, move: Move) -> list[CoordinateFormula]:
        """Makes a move; the list is empty where it changes nothing or the time is over."""
        forms = {**formula.forms, **move}
        idle = forms == formula.forms or self.is_over
        return [] if idle else [self(formula.changed(forms, move))]

    def climb(
        self, best: CoordinateFormula, moves: Sequence[Move], sweeps: int
    ) -> CoordinateFormula:
        """Makes every move that lowers the cost, until none does, in so many sweeps at most."""
        for _ in range(sweeps):
            before = best.cost
            for move in moves:
                best = min([best, *self.moved(best, move)], key=_by_cost)
            if best.cost > before - self.price:
                break
        return best


def _form(slot: Slot, below: tuple[int, ...], power: int, numerator: bool) -> LevelForm:
    """Finds a form by its parts; without a numerator if there is none with it."""
    diagonal = slot.role.startswith("diagonal")
    form = LevelForm(diagonal, 0 if diagonal else power, numerator, below)
    return form if form in slot.starts else replace(form, numerator=False)


def _moves_of_roles(formula: CoordinateFormula, below: tuple[int, ...]) -> list[Move]:
    """Lists moves that give all coefficients of a role one form with a given denominator."""
    moves: list[Move] = []
    for role in dict.fromkeys(slot.role for slot in formula.forms):
        alike = [slot for slot in formula.forms if slot.role == role]
        moves += [
            {slot: _form(slot, below, form.power, form.numerator) for slot in alike}
            for form in alike[0].starts
            if form.denominator == (2,)
        ]
    return moves


def _moves_one_by_one(formula: CoordinateFormula) -> list[Move]:
    return [{slot: form} for slot in formula.forms for form in slot.starts]


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
    ends = [few(formula.changed(formula.forms, formula.forms))]
    for below, inner, outer in itertools.product(((2,), (4,)), (0, 1), (1, 2)):
        if few.is_over:
            break
        forms = {
            slot: _form(slot, below, inner if slot.role.endswith("inside") else outer, False)
            for slot in formula.forms
        }
        start = few(formula.changed(forms, forms))
        ends.append(few.climb(start, _moves_of_roles(start, below), sweeps))
    ends = sorted(ends, key=_by_cost)[:sweeps]
    best = min((few.climb(end, _moves_one_by_one(end), sweeps) for end in ends), key=_by_cost)
    judge = _Judge(halves, process, until)
    tried = [(end.cost, move) for move in _moves_one_by_one(best) for end in few.moved(best, move)]
    likely = sorted(tried, key=itemgetter(0))[:_LIKELY]
    best = judge.climb(judge(best), [move for _, move in likely], sweeps)
    return _tied(_without_idle(best, judge), judge)


def _smaller(formula: CoordinateFormula) -> Iterator[CoordinateFormula]:
    """Removes each coefficient in turn; that of the coordinate itself becomes -1 instead."""
    for slot, form in formula.forms.items():
        if not form.diagonal:
            yield formula.changed({s: f for s, f in formula.forms.items() if s is not slot})
        elif form.size:
            plain = replace(form, numerator=False, denominator=())
            yield formula.changed({**formula.forms, slot: plain}, [slot])


def _without_idle(best: CoordinateFormula, judge: _Judge) -> CoordinateFormula:
    """Removes coefficients as long as the cost does not rise."""
    while np.isfinite(best.cost):
        tried = [judge(formula) for formula in _smaller(best) if not judge.is_over]
        smaller = min(tried, key=_by_cost, default=None)
        if smaller is None or smaller.cost > best.cost:
            break
        best = smaller
    return best


def _tied(best: CoordinateFormula, judge: _Judge) -> CoordinateFormula:
    """Makes nearly equal constants one where the cost does not rise."""
    refused: set[tuple[int, int]] = set()
    while not judge.is_over:
        values = best.constants.tolist()
        pairs = [
            (abs(a - b) / max(abs(a), abs(b), 1e-9), i, j)
            for (i, a), (j, b) in itertools.combinations(enumerate(values), 2)
            if (i, j) not in refused
        ]
        distance, i, j = min(pairs, default=(math.inf, 0, 0))
        if distance >= _CLOSE:
            break
        tied = judge(best.tied(i, j))
        if tied.cost <= best.cost:
            best = tied
            refused.clear()
        else:
            refused.add((i, j))
    return best
