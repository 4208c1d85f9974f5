r"""The search for the form of each coefficient, judged by the loss of the whole formula.

Coefficients of one score can stand in for each other (a nearly straight tanh is nearly linear), so
the numbers of a network suggest no more than a start. If a density has one variance, all its
coefficients have the same denominator. So the search begins with forms of one denominator and
changes the forms of all coefficients of a role (a function, a coordinate within a function, ...)
together, from several starts and on few points. From the best results, forms change one by one;
then needless coefficients are removed, and nearly equal constants are merged.

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
import time
from dataclasses import replace
from operator import itemgetter

import numpy as np

from kan_diffusion.formulas.averaged import AveragedPoints
from kan_diffusion.formulas.context import Amounts
from kan_diffusion.formulas.levels.coordinate import CoordinateFormula
from kan_diffusion.formulas.levels.forms import LevelForm
from kan_diffusion.processes import Process

__all__ = ["best_forms", "tie_constants"]

_SCREENED = 8
"""The search from several starts uses one of this many points."""
_PRICE = 1.0
"""Decrease of the loss that a constant must bring, in units of S / N."""
_CLOSE = 0.06
"""Relative difference below which two constants may become one."""
_LIKELY = 12
"""Number of moves tried on all points: those that are best on few."""

Halves = tuple[AveragedPoints, AveragedPoints]
"""Points of one half of the data and of the other."""
Move = dict[int, int]
"""New picks, by the number of the coefficient."""
Found = tuple[float, CoordinateFormula]
"""The cost of a formula and the formula."""
_by_cost = itemgetter(0)


class _Judge:
    """Fits formulas and computes their cost: the loss and the price of the constants."""

    def __init__(self, halves: Halves, process: Process, until: float) -> None:
        self._halves = halves
        self._process = process
        self._until = until
        spread = sum(half.spread for half in halves) / 2
        self.price = _PRICE * spread / sum(half.num_clean for half in halves)

    @property
    def is_over(self) -> bool:
        """Whether the time budget is used up."""
        return time.monotonic() > self._until

    def cost(self, formula: CoordinateFormula) -> float:
        """Fits a formula in place and gives its cost; infinite if the fit fails or has a pole."""
        loss = 0.0
        for fitted, judged in (self._halves, self._halves[::-1]):
            try:
                formula.fit(fitted, self._process)
            except (ValueError, np.linalg.LinAlgError):
                return float("inf")
            if not formula.is_regular:
                return float("inf")
            loss += formula.loss(judged, self._process) / 2
        return loss + self.price * formula.num_constants


def _moved(formula: CoordinateFormula, move: Move) -> CoordinateFormula | None:
    """Makes a move; None where it changes nothing."""
    picks = [move.get(k, pick) for k, pick in enumerate(formula.picks)]
    return None if picks == formula.picks else formula.changed(picks, move)


def _climb(found: Found, moves: list[Move], judge: _Judge, sweeps: int) -> Found:
    """Makes every move that lowers the cost, until none does, in so many sweeps at most."""
    for _ in range(sweeps):
        before = found[0]
        for move in moves:
            changed = None if judge.is_over else _moved(found[1], move)
            if changed is not None:
                found = min(found, (judge.cost(changed), changed), key=_by_cost)
        if found[0] > before - judge.price:
            break
    return found


def _pick(forms: list[LevelForm], below: tuple[int, ...], power: int, numerator: bool) -> int:
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


def _likely_moves(formula: CoordinateFormula, few: _Judge) -> list[Move]:
    """Lists the moves that cost least on few points."""
    costs = []
    for move in _moves_one_by_one(formula):
        changed = None if few.is_over else _moved(formula, move)
        if changed is not None:
            costs.append((few.cost(changed), move))
    return [move for _, move in sorted(costs, key=_by_cost)[:_LIKELY]]


def best_forms(
    formula: CoordinateFormula,
    halves: Halves,
    process: Process,
    until: float,
    sweeps: int = Amounts.formula_sweeps,
) -> CoordinateFormula:
    """Chooses the forms of a formula's coefficients.

    Args:
        formula: A formula with the forms that its numbers suggest.
        halves: Points of each half of the data, independent of the other's.
        process: The process.
        until: Time to stop at, by the monotonic clock.
        sweeps: Most rounds of changes, and of starts that are followed further.

    Returns:
        The formula with the forms found, its constants fitted.
    """
    few = _Judge((halves[0].every(_SCREENED), halves[1].every(_SCREENED)), process, until)
    everything = range(len(formula.slots))
    first = formula.changed(formula.picks, everything)
    ends = [(few.cost(first), first)]
    for below, inner, outer in itertools.product(((2,), (4,)), (0, 1), (1, 2)):
        if few.is_over:
            break
        picks = []
        for slot in formula.slots:
            power = inner if slot.role.endswith("inside") else outer
            picks.append(_pick(slot.forms, below, 0 if slot.forms[0].own else power, False))
        start = formula.changed(picks, everything)
        ends.append(_climb((few.cost(start), start), _moves_of_roles(start, below), few, sweeps))
    ends = sorted(ends, key=_by_cost)[:sweeps]
    climbed = (_climb(end, _moves_one_by_one(end[1]), few, sweeps) for end in ends)
    _, best = min(climbed, key=_by_cost)
    judge = _Judge(halves, process, until)
    found = _climb((judge.cost(best), best), _likely_moves(best, few), judge, sweeps)
    return _without_idle(found, judge)[1]


def _smaller(formula: CoordinateFormula) -> list[CoordinateFormula]:
    """Removes each coefficient in turn; that of a point's own coordinate becomes -1 instead."""
    made = []
    for k, (slot, form) in enumerate(zip(formula.slots, formula.forms, strict=True)):
        if not form.own:
            made.append(formula.changed(formula.picks, [], without=k))
        elif form.size:
            plain = next(i for i, other in enumerate(slot.forms) if other.size == 0)
            made.append(formula.changed([*formula.picks[:k], plain, *formula.picks[k + 1 :]], [k]))
    return made


def _without_idle(found: Found, judge: _Judge) -> Found:
    """Removes coefficients as long as the cost does not rise."""
    while np.isfinite(found[0]):
        smaller = (formula for formula in _smaller(found[1]) if not judge.is_over)
        tried = [(judge.cost(formula), formula) for formula in smaller]
        best = min(tried, key=_by_cost, default=None)
        if best is None or best[0] > found[0]:
            break
        found = best
    return found


def tie_constants(
    formula: CoordinateFormula, halves: Halves, process: Process, until: float
) -> CoordinateFormula:
    """Merges nearly equal constants of a fitted formula where the cost does not rise.

    The arguments are those of :func:`best_forms`.
    """
    judge = _Judge(halves, process, until)
    formula = formula.changed(formula.picks, [])
    cost = judge.cost(formula)
    refused: set[tuple[int, int]] = set()
    while not judge.is_over:
        values = formula.values().tolist()
        pairs = [
            (abs(a - b) / max(abs(a), abs(b), 1e-9), i, j)
            for (i, a), (j, b) in itertools.combinations(enumerate(values), 2)
            if (i, j) not in refused
        ]
        pairs = [pair for pair in pairs if pair[0] < _CLOSE]
        if not pairs:
            break
        _, i, j = min(pairs)
        ties = formula.ties.copy()
        ties[ties == j] = i
        ties[ties > j] -= 1
        tied = replace(formula, constants=formula.constants.copy(), ties=ties)
        new = judge.cost(tied)
        if new <= cost:
            formula, cost = tied, new
            refused.clear()
        else:
            refused.add((i, j))
    return formula
