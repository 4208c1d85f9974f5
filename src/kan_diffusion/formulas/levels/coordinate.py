"""The score of one coordinate with a form for each coefficient, and its fit to noised points.

A score is a :class:`~kan_diffusion.formulas.combination.Combination`; here each of its coefficients
is a function of the signal level (:mod:`.forms`) with constants, all of which are fitted together
by Levenberg-Marquardt to the averaged targets.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
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

Key = tuple[Combination, Atom | None]
"""A coefficient: its combination, and its atom; None for the constant."""

_NEGLIGIBLE = 0.02
"""Effect on the prediction below which a coefficient counts as 0."""


@dataclass(frozen=True, eq=False)
class Slot:
    """A coefficient somewhere in the score of one coordinate.

    Attributes:
        key: Which one it is.
        role: Kind of its atom and where it is, in words; coefficients of one role tend to have the
            same form.
        starts: Forms it may have, with constants fitted to its numbers in the network.
    """

    key: Key
    role: str
    starts: Mapping[LevelForm, Array]


def _copy(part: Combination) -> Combination:
    """Copies a combination and all atoms in it, so that no coefficient is in two places."""
    terms: dict[Atom | None, Array] = {}
    for atom, numbers in part.terms.items():
        if atom is not None:
            atom = replace(atom, inner=atom.inner and _copy(atom.inner))
        terms[atom] = numbers
    return Combination(terms)


def _roles(part: Combination, coordinate: int | None) -> Iterator[tuple[Key, str]]:
    """Names the roles of a score's coefficients, or, without a coordinate, of an argument's."""
    where = "inside" if coordinate is None else "outside"
    for atom in part.terms:
        kind = "constant"
        if atom is not None and atom.coordinate is None:
            kind = "function"
        elif atom is not None:
            kind = "diagonal" if atom.coordinate == coordinate else "coordinate"
        yield (part, atom), f"{kind} {where}"
        if atom is not None and atom.inner is not None:
            yield from _roles(atom.inner, None)


@dataclass
class CoordinateFormula:
    """The score of one coordinate with a form for each coefficient.

    Attributes:
        coordinate: Number of the coordinate.
        score: The combination; its numbers are not used here.
        forms: Its coefficients with their forms; others are 0.
        constants: The different constants.
        ties: Index of each constant of all forms, one after another, among the different ones.
        cost: What a search makes of it; the least is best.
    """

    coordinate: int
    score: Combination
    forms: Mapping[Slot, LevelForm]
    constants: Array
    ties: NDArray[np.int64]
    cost: float = math.inf

    def parts(self) -> Iterator[tuple[Slot, LevelForm, NDArray[np.int64]]]:
        """Goes through the coefficients, with their forms and the indices of the constants."""
        start = 0
        for slot, form in self.forms.items():
            yield slot, form, self.ties[start : start + form.size]
            start += form.size

    @property
    def is_regular(self) -> bool:
        """Whether no coefficient has a pole between signal levels 0 and 1."""
        return all(form.is_regular(self.constants[ties]) for _, form, ties in self.parts())

    def predict(self, points: AveragedPoints, process: Process) -> Array:
        """Predicts its coordinate, with shape (n,)."""
        x, alpha, sigma, _ = points.arrays
        values = {
            slot.key: form.values(alpha, self.constants[ties]) for slot, form, ties in self.parts()
        }
        score = self.score.fold(
            np.zeros(len(x)),
            lambda *key: values.get(key),
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
        return loss if np.isfinite(loss) else math.inf

    def changed(
        self, forms: Mapping[Slot, LevelForm], anew: Collection[Slot] = ()
    ) -> CoordinateFormula:
        """Makes a formula of other forms, without tied constants.

        Args:
            forms: The form of each coefficient; those that are left out are 0.
            anew: Coefficients whose constants start from the network's numbers.
        """
        before = {slot: self.constants[ties] for slot, _, ties in self.parts()}
        parts = (
            slot.starts[form] if slot in anew else before[slot] for slot, form in forms.items()
        )
        constants = np.concatenate([*parts, np.zeros(0)])
        return replace(self, forms=forms, constants=constants, ties=np.arange(len(constants)))

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
        factors = {
            slot.key: form.expression(alpha, [symbols[index] for index in ties])
            for slot, form, ties in self.parts()
        }
        return self.score.fold(
            sympy.Integer(0),
            lambda *key: factors.get(key),
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
    forms: dict[Slot, LevelForm] = {}
    for key, role in _roles(score, coordinate):
        (part, atom), is_own = key, role == "diagonal outside"
        numbers, before = part.terms[atom], score.values(x)
        step = 1e-4 * (1 + np.abs(numbers))
        part.terms[atom] = numbers + step
        change = score.values(x) - before
        effect = np.sqrt((change**2).mean(1)) / step * factor  # on the prediction, at each level
        size = float(np.sqrt(np.mean((effect * numbers) ** 2)))
        is_kept = size >= _NEGLIGIBLE or is_own
        part.terms[atom] = numbers * is_kept
        if not is_kept:
            continue
        weights = effect / max(size, 1e-9)
        starts = {
            form: first_fit(form, alpha, numbers, weights)
            for form in forms_of(is_own, int(role.endswith("outside")))
        }
        costs = {
            form: np.mean((weights * (form.values(alpha, p) - numbers)) ** 2) + 3e-3 * form.size
            for form, p in starts.items()
        }
        forms[Slot(key, role, starts)] = min(costs, key=costs.__getitem__)
    none = np.zeros(0, dtype=np.int64)
    return CoordinateFormula(coordinate, score, {}, np.zeros(0), none).changed(forms, forms)
