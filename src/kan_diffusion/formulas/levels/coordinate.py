"""The score of one coordinate with a form for each coefficient, and its fit to noised points.

A score is a :class:`~kan_diffusion.formulas.combination.Combination`; here each of its coefficients
is a function of the signal level (:mod:`.forms`) with constants, all of which are fitted together
by Levenberg-Marquardt to the averaged targets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from kan_diffusion.formulas.averaged import AveragedPoints
from kan_diffusion.formulas.combination import Atom, Combination
from kan_diffusion.formulas.levels.forms import LevelForm, first_fit, forms_of
from kan_diffusion.processes import Process

if TYPE_CHECKING:
    import sympy

Array = NDArray[np.float64]
Key = tuple[int, Atom | None]
"""A coefficient: the identity of its combination, and its atom; None for the constant."""

_NEGLIGIBLE = 0.02
"""Effect on the prediction below which a coefficient counts as 0."""


@dataclass(frozen=True)
class Slot:
    """A coefficient somewhere in the score of one coordinate.

    Attributes:
        key: Which one it is.
        numbers: Its values in the network, with shape (L,).
        role: Kind of its atom and where it is, in words; coefficients of one role tend to have the
            same form.
        forms: Forms it may have.
        starts: Constants of each form, fitted to the numbers.
    """

    key: Key
    numbers: Array
    role: str
    forms: Sequence[LevelForm]
    starts: Sequence[Array] = ()


def _copy(part: Combination) -> Combination:
    """Copies a combination and all atoms in it, so that no coefficient is in two places."""
    terms = {}
    for atom, numbers in part.terms.items():
        inner = None if atom.inner is None else _copy(atom.inner)
        terms[replace(atom, inner=inner)] = numbers
    return Combination(part.constant, terms)


def _slots(part: Combination, coordinate: int | None) -> Iterator[Slot]:
    """Goes through the coefficients of a score, or, without a coordinate, of an argument in it."""
    outer = coordinate is not None
    least, where = (1, "outside") if outer else (0, "inside")
    yield Slot((id(part), None), part.constant, f"constant {where}", forms_of(False, least))
    for atom, numbers in part.terms.items():
        diagonal = outer and atom.coordinate == coordinate
        kind = "function" if atom.coordinate is None else "diagonal" if diagonal else "coordinate"
        yield Slot((id(part), atom), numbers, f"{kind} {where}", forms_of(diagonal, least))
        if atom.inner is not None:
            yield from _slots(atom.inner, None)


@dataclass
class CoordinateFormula:
    """The score of one coordinate with a form for each coefficient.

    Attributes:
        coordinate: Number of the coordinate.
        score: The combination; its numbers are not used here.
        slots: Its coefficients; others are 0.
        picks: Number of the form of each coefficient.
        constants: The different constants.
        ties: Index of each constant of all forms, one after another, among the different ones.
    """

    coordinate: int
    score: Combination
    slots: list[Slot]
    picks: list[int]
    constants: Array
    ties: NDArray[np.int64]

    def parts(self) -> Iterator[tuple[Slot, LevelForm, slice]]:
        """Goes through the coefficients, with their forms and where the forms' constants are."""
        start = 0
        for slot, pick in zip(self.slots, self.picks, strict=True):
            form = slot.forms[pick]
            yield slot, form, slice(start, start + form.size)
            start += form.size

    @property
    def is_regular(self) -> bool:
        """Whether no coefficient has a pole between signal levels 0 and 1."""
        every = self.constants[self.ties]
        return all(form.is_regular(every[where]) for _, form, where in self.parts())

    def predict(self, points: AveragedPoints, process: Process) -> Array:
        """Predicts its coordinate, with shape (n,)."""
        x, alpha, sigma, _ = points.arrays
        every = self.constants[self.ties]
        values = {slot.key: form.values(alpha, every[where]) for slot, form, where in self.parts()}
        score = self.score.fold(
            np.zeros(len(x)),
            lambda part, atom: values.get((id(part), atom)),
            lambda coordinate: x[:, coordinate],
            Atom.apply,
        )
        a, b = process.noise_coefficients(alpha, sigma)
        return np.asarray((-sigma * score - b * x[:, self.coordinate]) / a)

    def _errors(self, points: AveragedPoints, process: Process) -> Array:
        return self.predict(points, process) - points.arrays[-1][:, self.coordinate]

    def fit(self, points: AveragedPoints, process: Process) -> None:
        """Fits its constants to noised points."""
        if not len(self.constants):
            return

        def residuals(p: Array) -> Array:
            self.constants = p
            left = self._errors(points, process)
            return np.asarray(np.where(np.isfinite(left), left, 1e3))

        limits = {"max_nfev": 40, "xtol": 1e-6, "ftol": 1e-7}
        self.constants = least_squares(residuals, self.constants, method="lm", **limits).x

    def loss(self, points: AveragedPoints, process: Process) -> float:
        """Computes the mean squared error of its prediction; infinite where it is not a number."""
        loss = float(np.mean(self._errors(points, process) ** 2))
        return loss if np.isfinite(loss) else float("inf")

    def changed(
        self, picks: Sequence[int], anew: Collection[int], without: int | None = None
    ) -> CoordinateFormula:
        """Makes a formula of other forms, without tied constants.

        Args:
            picks: The form of each coefficient.
            anew: Coefficients whose constants start from the network's numbers.
            without: A coefficient that is set to 0.
        """
        every = self.constants[self.ties]
        parts = [
            (slot, pick, slot.starts[pick] if number in anew else every[where])
            for number, ((slot, _, where), pick) in enumerate(zip(self.parts(), picks, strict=True))
            if number != without
        ]
        constants = np.concatenate([*(constants for _, _, constants in parts), np.zeros(0)])
        return replace(
            self,
            slots=[slot for slot, _, _ in parts],
            picks=[pick for _, pick, _ in parts],
            constants=constants,
            ties=np.arange(len(constants)),
        )

    def tied(self, one: int, other: int) -> CoordinateFormula:
        """Makes a formula in which two of the different constants are one, their mean."""
        constants = self.constants.copy()
        constants[one] = (constants[one] + constants[other]) / 2
        ties = np.where(self.ties == other, one, self.ties)
        ties = np.where(ties > other, ties - 1, ties)
        return replace(self, constants=np.delete(constants, other), ties=ties)

    def expression(self, symbols: Sequence[sympy.Symbol]) -> sympy.Expr:
        """Writes the score in SymPy, with a symbol for each of the different constants."""
        import sympy

        alpha = sympy.Symbol("alpha", real=True)
        every = [symbols[index] for index in self.ties]
        factors = {
            slot.key: form.expression(alpha, every[where]) for slot, form, where in self.parts()
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
    every = list(_slots(score, coordinate))
    numbers = {slot.key: slot.numbers for slot in every}

    def values(changed: dict[Key, Array]) -> Array:
        return score.values(x, lambda part, atom: changed[id(part), atom])

    slots, picks = [], []
    for slot in every:
        step = 1e-4 * (1 + np.abs(slot.numbers))
        change = values(numbers | {slot.key: slot.numbers + step}) - values(numbers)
        effect = np.sqrt((change**2).mean(1)) / step * factor  # on the prediction, at each level
        size = float(np.sqrt(np.mean((effect * slot.numbers) ** 2)))
        if size < _NEGLIGIBLE and not slot.forms[0].diagonal:
            numbers[slot.key] = np.zeros_like(slot.numbers)
            continue
        weights = effect / max(size, 1e-9)
        starts = [first_fit(form, alpha, slot.numbers, weights) for form in slot.forms]
        costs = [
            float(np.mean((weights * (form.values(alpha, p) - slot.numbers)) ** 2))
            + 3e-3 * form.size
            for form, p in zip(slot.forms, starts, strict=True)
        ]
        slots.append(replace(slot, starts=starts))
        picks.append(int(np.argmin(costs)))
    none = np.zeros(0, dtype=np.int64)
    empty = CoordinateFormula(coordinate, score, slots, picks, np.zeros(0), none)
    return empty.changed(picks, range(len(slots)))
