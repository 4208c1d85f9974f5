"""The score of one coordinate with a form for each coefficient, and its fit to noised points.

A score is a :class:`~kan_diffusion.symbolic.combination.Combination`; here each of its coefficients
is a function of the signal level (:mod:`.forms`) with constants, all of which are fitted together
by Levenberg-Marquardt to the averaged targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from kan_diffusion.processes import Process
from kan_diffusion.symbolic.combination import Atom, Combination
from kan_diffusion.symbolic.levels.forms import LevelForm, first_fit, forms_of

if TYPE_CHECKING:
    import sympy

__all__ = ["CoordinateFormula", "LevelPoints", "Slot", "first_formula"]

Array = NDArray[np.float64]

_NEGLIGIBLE = 0.02
"""Effect on the prediction below which a coefficient counts as 0."""


@dataclass(frozen=True)
class LevelPoints:
    """Noised points with averaged targets, as arrays.

    Attributes:
        x: Noised points with shape (n, d).
        alpha: Signal levels with shape (n,).
        sigma: Noise levels with shape (n,).
        target: Averaged targets with shape (n, d).
        spread: Variance of single targets about these.
        num_clean: Number of clean points behind them.
    """

    x: Array
    alpha: Array
    sigma: Array
    target: Array
    spread: float
    num_clean: int

    def every(self, step: int) -> LevelPoints:
        """Takes one in ``step`` points."""
        parts = {name: getattr(self, name)[::step] for name in ("x", "alpha", "sigma", "target")}
        return replace(self, **parts)


@dataclass
class Slot:
    """A coefficient somewhere in the score of one coordinate.

    Attributes:
        holder: The combination it is in.
        atom: The atom it multiplies; None for the constant.
        role: Kind of that atom and its place, in words; coefficients of one role tend to have one
            form.
        forms: Forms it may have.
        starts: Constants of each form, fitted to the network's numbers.
    """

    holder: Combination
    atom: Atom | None
    role: str
    forms: list[LevelForm]
    starts: list[Array] = field(default_factory=list)

    @property
    def numbers(self) -> Array:
        """Its values in the network, with shape (L,)."""
        return self.holder.constant if self.atom is None else self.holder.terms[self.atom]

    def put(self, numbers: Array) -> None:
        """Changes its values."""
        if self.atom is None:
            self.holder.constant = numbers
        else:
            self.holder.terms[self.atom] = numbers


def _copy(part: Combination) -> Combination:
    """Copies a combination and all atoms in it."""
    terms = {}
    for atom, numbers in part.terms.items():
        inner = None if atom.inner is None else _copy(atom.inner)
        terms[Atom(atom.coordinate, atom.name, atom.function, inner, atom.curve)] = numbers
    return Combination(part.constant, terms)


def _slots(part: Combination, coordinate: int | None) -> list[Slot]:
    outer = coordinate is not None
    least, where = (1, "outside") if outer else (0, "inside")
    found = [Slot(part, None, f"constant {where}", forms_of(False, least))]
    for atom in part.terms:
        own = outer and atom.coordinate == coordinate
        what = "function" if atom.coordinate is None else "own" if own else "coordinate"
        found.append(Slot(part, atom, f"{what} {where}", forms_of(own, least)))
        if atom.inner is not None:
            found += _slots(atom.inner, None)
    return found


def _effect(slot: Slot, score: Combination, x: Array, factor: Array) -> Array:
    """Computes how far (root mean square) the prediction moves with a coefficient: (L,)."""
    numbers = slot.numbers
    step = 1e-4 * (1 + np.abs(numbers))
    before = score.values(x)
    slot.put(numbers + step)
    change = ((score.values(x) - before) ** 2).mean(1)
    slot.put(numbers)
    return np.asarray(np.sqrt(change) / step * factor)


@dataclass
class CoordinateFormula:
    """The score of one coordinate with a form for each coefficient.

    Attributes:
        coordinate: Number of the coordinate.
        score: The combination; its numbers are not used here.
        slots: Its coefficients.
        picks: Number of the form of each coefficient.
        constants: Constants of all forms, one after another.
        ties: For each constant the number of its value; nearly equal constants share one.
    """

    coordinate: int
    score: Combination
    slots: list[Slot]
    picks: list[int]
    constants: Array
    ties: NDArray[np.int64]

    @property
    def forms(self) -> list[LevelForm]:
        """The form of each coefficient."""
        return [slot.forms[pick] for slot, pick in zip(self.slots, self.picks, strict=True)]

    @property
    def is_regular(self) -> bool:
        """Whether no coefficient has a pole between signal levels 0 and 1."""
        return all(form.is_regular(self.constants[place]) for _, form, place in self._places())

    def _places(self) -> Iterator[tuple[Slot, LevelForm, slice]]:
        """Goes through the coefficients.

        Yields:
            A coefficient, its form, and the place of its constants.
        """
        start = 0
        for slot, form in zip(self.slots, self.forms, strict=True):
            yield slot, form, slice(start, start + form.size)
            start += form.size

    @property
    def num_constants(self) -> int:
        """Number of different constants."""
        return int(self.ties.max()) + 1 if len(self.ties) else 0

    def predict(self, points: LevelPoints, process: Process) -> Array:
        """Predicts its coordinate, with shape (n,)."""
        values = {
            (id(slot.holder), slot.atom): form.values(points.alpha, self.constants[place])
            for slot, form, place in self._places()
        }
        score = self.score.fold(
            np.zeros(len(points.x)),
            lambda part, atom: values.get((id(part), atom)),
            lambda coordinate: points.x[:, coordinate],
            Atom.apply,
        )
        a, b = process.noise_coefficients(points.alpha, points.sigma)
        return np.asarray((-points.sigma * score - b * points.x[:, self.coordinate]) / a)

    def values(self) -> Array:
        """Gives the different constants."""
        count = self.num_constants
        return np.array([self.constants[self.ties == k].mean() for k in range(count)])

    def fit(self, points: LevelPoints, process: Process, max_steps: int = 40) -> None:
        """Fits its constants to noised points."""
        if self.num_constants == 0:
            return
        first = self.values()
        target = points.target[:, self.coordinate]

        def residuals(p: Array) -> Array:
            self.constants = p[self.ties]
            left = self.predict(points, process) - target
            return np.asarray(np.where(np.isfinite(left), left, 1e3))

        found = least_squares(
            residuals, first, method="lm", max_nfev=max_steps, xtol=1e-6, ftol=1e-7
        )
        self.constants = found.x[self.ties]

    def loss(self, points: LevelPoints, process: Process) -> float:
        """Computes the mean squared error of its prediction; infinite where it is not a number."""
        left = self.predict(points, process) - points.target[:, self.coordinate]
        loss = float(np.mean(left**2))
        return loss if np.isfinite(loss) else float("inf")

    def _with(
        self, slots: list[Slot], picks: list[int], constants: Sequence[Array]
    ) -> CoordinateFormula:
        """Replaces coefficients, their forms and constants; no constants are tied."""
        joined = np.concatenate([*constants, np.zeros(0)])
        return replace(
            self, slots=slots, picks=picks, constants=joined, ties=np.arange(len(joined))
        )

    def changed(self, picks: list[int], anew: Sequence[int]) -> CoordinateFormula:
        """Takes other forms; the coefficients ``anew`` start from the network's numbers."""
        constants = [
            slot.starts[picks[number]] if number in anew else self.constants[place]
            for number, (slot, _, place) in enumerate(self._places())
        ]
        return self._with(self.slots, picks, constants)

    def without(self, number: int) -> CoordinateFormula:
        """Sets a coefficient to 0."""
        kept = [k for k in range(len(self.slots)) if k != number]
        places = [place for _, _, place in self._places()]
        return self._with(
            [self.slots[k] for k in kept],
            [self.picks[k] for k in kept],
            [self.constants[places[k]] for k in kept],
        )

    def expression(self, symbols: Sequence[sympy.Symbol]) -> sympy.Expr:
        """Writes the score of its coordinate in SymPy.

        Args:
            symbols: A symbol for each constant; tied constants may share one.
        """
        import sympy

        alpha = sympy.Symbol("alpha", real=True)
        factors = {
            (id(slot.holder), slot.atom): form.expression(alpha, symbols[place])
            for slot, form, place in self._places()
        }
        return self.score.fold(
            sympy.Integer(0),
            lambda part, atom: factors.get((id(part), atom)),
            lambda coordinate: sympy.Symbol(f"x{coordinate}", real=True),
            Atom.write,
        )


def first_formula(
    coordinate: int, score: Combination, alpha: Array, x: Array, factor: Array
) -> CoordinateFormula:
    """Keeps the coefficients of a score that matter, each in the form its numbers suggest.

    Args:
        coordinate: Number of the coordinate.
        score: Its score at L levels.
        alpha: Signal levels with shape (L,).
        x: Noised points as they occur with shape (L, n, d).
        factor: Change of the prediction for a unit change of the score, with shape (L,).
    """
    score = _copy(score)
    slots, picks = [], []
    for slot in _slots(score, coordinate):
        effect = _effect(slot, score, x, factor)
        size = float(np.sqrt(np.mean((effect * slot.numbers) ** 2)))
        own = slot.atom is not None and slot.atom.coordinate == coordinate
        if size < _NEGLIGIBLE and not (own and slot.holder is score):
            slot.put(np.zeros_like(slot.numbers))
            continue
        weights = effect / max(size, 1e-9)
        slot.starts = [first_fit(form, alpha, slot.numbers, weights) for form in slot.forms]
        costs = [
            float(np.mean((weights * (form.values(alpha, p) - slot.numbers)) ** 2))
            + 3e-3 * form.size
            for form, p in zip(slot.forms, slot.starts, strict=True)
        ]
        slots.append(slot)
        picks.append(int(np.argmin(costs)))
    empty = CoordinateFormula(coordinate, score, slots, picks, np.zeros(0), np.zeros(0, np.int64))
    return empty.changed(picks, range(len(slots)))
