"""The score of one coordinate with a form for each coefficient, and its fit to noised points.

A score is a :class:`~kan_diffusion.formulas.combination.Combination`; here each of its coefficients
is a function of the signal level (:mod:`.forms`) with constants, all of which are fitted together
by Levenberg-Marquardt to the averaged targets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
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

__all__ = ["CoordinateFormula", "Slot", "first_formula"]

Array = NDArray[np.float64]

_NEGLIGIBLE = 0.02
"""Effect on the prediction below which a coefficient counts as 0."""


@dataclass
class Slot:
    """A coefficient somewhere in the score of one coordinate.

    Attributes:
        holder: The combination it is in.
        atom: The atom it multiplies; None for the constant.
        role: Kind of that atom and its place, in words; coefficients of one role tend to have the
            same form.
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
        terms[replace(atom, inner=inner)] = numbers
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
    """Computes the root mean square change of the prediction per change of a coefficient, (L,)."""
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
        ties: Index of the value of each constant; constants that are tied share a value.
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
        """Goes through the coefficients, with their forms and the places of their constants."""
        start = 0
        for slot, form in zip(self.slots, self.forms, strict=True):
            yield slot, form, slice(start, start + form.size)
            start += form.size

    @property
    def num_constants(self) -> int:
        """Number of different constants."""
        return int(self.ties.max()) + 1 if len(self.ties) else 0

    def predict(self, points: AveragedPoints, process: Process) -> Array:
        """Predicts its coordinate, with shape (n,)."""
        x, alpha, sigma, _ = points.arrays
        values = {
            (id(slot.holder), slot.atom): form.values(alpha, self.constants[place])
            for slot, form, place in self._places()
        }
        score = self.score.fold(
            np.zeros(len(x)),
            lambda part, atom: values.get((id(part), atom)),
            lambda coordinate: x[:, coordinate],
            Atom.apply,
        )
        a, b = process.noise_coefficients(alpha, sigma)
        return np.asarray((-sigma * score - b * x[:, self.coordinate]) / a)

    def values(self) -> Array:
        """Gives the different constants."""
        return np.array([self.constants[self.ties == k].mean() for k in range(self.num_constants)])

    def _errors(self, points: AveragedPoints, process: Process) -> Array:
        return self.predict(points, process) - points.arrays[-1][:, self.coordinate]

    def fit(self, points: AveragedPoints, process: Process) -> None:
        """Fits its constants to noised points."""
        if self.num_constants == 0:
            return

        def residuals(p: Array) -> Array:
            self.constants = p[self.ties]
            left = self._errors(points, process)
            return np.asarray(np.where(np.isfinite(left), left, 1e3))

        limits = {"max_nfev": 40, "xtol": 1e-6, "ftol": 1e-7}
        self.constants = least_squares(residuals, self.values(), method="lm", **limits).x[self.ties]

    def loss(self, points: AveragedPoints, process: Process) -> float:
        """Computes the mean squared error of its prediction; infinite where it is not a number."""
        loss = float(np.mean(self._errors(points, process) ** 2))
        return loss if np.isfinite(loss) else float("inf")

    def changed(
        self, picks: list[int], anew: Collection[int], without: int | None = None
    ) -> CoordinateFormula:
        """Makes a formula of other forms, without tied constants.

        Args:
            picks: The form of each coefficient.
            anew: Coefficients whose constants start from the network's numbers.
            without: A coefficient that is set to 0.
        """
        parts = [
            (slot, pick, slot.starts[pick] if number in anew else self.constants[place])
            for number, ((slot, _, place), pick) in enumerate(
                zip(self._places(), picks, strict=True)
            )
            if number != without
        ]
        joined = np.concatenate([*(constants for _, _, constants in parts), np.zeros(0)])
        return replace(
            self,
            slots=[slot for slot, _, _ in parts],
            picks=[pick for _, pick, _ in parts],
            constants=joined,
            ties=np.arange(len(joined)),
        )

    def expression(self, symbols: Sequence[sympy.Symbol]) -> sympy.Expr:
        """Writes the score in SymPy, with a symbol for each constant; tied ones may share it."""
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
