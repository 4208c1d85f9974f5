r"""The score of one coordinate with a form for each coefficient, and its fit to noised points.

A score is a :class:`~kan_diffusion.symbolic.combination.Combination`; here each of its coefficients
is a function of the signal level (:mod:`.level_forms`) with constants, all of which are fitted
together by Levenberg-Marquardt to what should be predicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares

from kan_diffusion.processes import Process
from kan_diffusion.symbolic.combination import Atom, Combination
from kan_diffusion.symbolic.level_forms import LevelForm, first_fit, forms_of

if TYPE_CHECKING:
    import sympy

__all__ = ["CoordinateFormula", "LevelPoints", "Slot", "first_formula"]

Array = NDArray[np.float64]

_NEGLIGIBLE = 0.02
"""Effect on the prediction below which a coefficient is taken to be 0."""


@dataclass(frozen=True)
class LevelPoints:
    """Noised points and what should be predicted, one coordinate at a time.

    Attributes:
        x: Noised points with shape (1, n, d).
        alpha: Signal levels with shape (n,).
        sigma: Noise levels with shape (n,).
        target: What should be predicted, with shape (n, d).
        spread: Variance of single targets about these.
        num_clean: How many clean points are behind them.
    """

    x: Array
    alpha: Array
    sigma: Array
    target: Array
    spread: float
    num_clean: int

    def every(self, step: int) -> LevelPoints:
        """Every so many of them."""
        return replace(
            self,
            x=self.x[:, ::step],
            alpha=self.alpha[::step],
            sigma=self.sigma[::step],
            target=self.target[::step],
        )


@dataclass
class Slot:
    """A coefficient somewhere in the score of one coordinate.

    Attributes:
        holder: The combination it is in.
        atom: What it is the coefficient of; None for the constant.
        role: What that is, in words; coefficients of one role tend to have one form.
        forms: What it may be.
        starts: Constants of these, fitted to the network's numbers.
    """

    holder: Combination
    atom: Atom | None
    role: str
    forms: list[LevelForm]
    starts: list[Array] = field(default_factory=list)

    @property
    def numbers(self) -> Array:
        """What it is in the network, with shape (L,)."""
        return self.holder.constant if self.atom is None else self.holder.terms[self.atom]

    def put(self, numbers: Array) -> None:
        """Changes it."""
        if self.atom is None:
            self.holder.constant = numbers
        else:
            self.holder.terms[self.atom] = numbers


def _copy(part: Combination) -> Combination:
    """A combination with atoms of its own, all the way down."""
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
    """Root mean square change of the prediction for a unit change of a coefficient: (L,)."""
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
        coordinate: Which.
        score: The combination; what its numbers are does not matter here.
        slots: Its coefficients.
        picks: The form of each.
        constants: Their constants one after another, before ties.
        ties: For each constant which value it has; nearly equal ones share one.
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
        """Coefficients with their forms and where their constants are."""
        start = 0
        for slot, form in zip(self.slots, self.forms, strict=True):
            yield slot, form, slice(start, start + form.size)
            start += form.size

    def predict(self, points: LevelPoints, process: Process) -> Array:
        """The prediction of its coordinate, with shape (n,)."""
        values = {
            (id(slot.holder), slot.atom): form.values(points.alpha, self.constants[place])
            for slot, form, place in self._places()
        }

        def total(part: Combination) -> Array:
            result = np.zeros(points.x.shape[1])
            if (id(part), None) in values:
                result = result + values[id(part), None]
            for atom in part.terms:
                factor = values.get((id(part), atom))
                if factor is None:
                    continue
                if atom.coordinate is not None:
                    result = result + factor * points.x[0, :, atom.coordinate]
                    continue
                assert atom.function is not None
                assert atom.inner is not None
                z = torch.from_numpy(total(atom.inner))
                result = result + factor * atom.function.values(z).numpy()
            return result

        noise = -points.sigma * total(self.score)
        x = points.x[0, :, self.coordinate]
        if process.prediction_type == "v_prediction":
            return np.asarray((noise - points.sigma * x) / points.alpha)
        if process.prediction_type == "sample":
            return np.asarray((x - points.sigma * noise) / points.alpha)
        return noise

    def fit(self, points: LevelPoints, process: Process, max_steps: int = 40) -> None:
        """Fits its constants to noised points."""
        count = int(self.ties.max()) + 1 if len(self.ties) else 0
        if count == 0:
            return
        first = np.array([self.constants[self.ties == k].mean() for k in range(count)])
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
        """Mean squared error of its prediction; infinite where it is not a number."""
        left = self.predict(points, process) - points.target[:, self.coordinate]
        loss = float(np.mean(left**2))
        return loss if np.isfinite(loss) else float("inf")

    def changed(self, picks: list[int], anew: Sequence[int]) -> CoordinateFormula:
        """With other forms; the slots ``anew`` start from the network's numbers."""
        constants = [
            slot.starts[picks[number]] if number in anew else self.constants[place]
            for number, (slot, _, place) in enumerate(self._places())
        ]
        joined = np.concatenate([*constants, np.zeros(0)])
        return CoordinateFormula(
            self.coordinate, self.score, self.slots, picks, joined, np.arange(len(joined))
        )

    def without(self, number: int) -> CoordinateFormula:
        """With a coefficient of 0."""
        constants = np.delete(self.constants, [*self._places()][number][2])
        slots, picks = [*self.slots], [*self.picks]
        del slots[number], picks[number]
        return CoordinateFormula(
            self.coordinate, self.score, slots, picks, constants, np.arange(len(constants))
        )

    def expression(self, symbols: Sequence[sympy.Symbol]) -> sympy.Expr:
        """The score of its coordinate in SymPy; ``symbols`` are its constants, before ties."""
        import sympy

        alpha = sympy.Symbol("alpha", real=True)
        factors = {
            (id(slot.holder), slot.atom): form.expression(alpha, symbols[place])
            for slot, form, place in self._places()
        }

        def build(part: Combination) -> sympy.Expr:
            total = factors.get((id(part), None), sympy.Integer(0))
            for atom in part.terms:
                factor = factors.get((id(part), atom))
                if factor is None:
                    continue
                if atom.coordinate is not None:
                    value: sympy.Expr = sympy.Symbol(f"x{atom.coordinate}", real=True)
                else:
                    assert atom.function is not None
                    assert atom.inner is not None
                    value = atom.function.expression(build(atom.inner))
                total = total + factor * value
            return total

        return build(self.score)


def first_formula(
    coordinate: int, score: Combination, alpha: Array, x: Array, factor: Array
) -> CoordinateFormula:
    """A score with what matters of its coefficients, each in the form its numbers suggest."""
    score = _copy(score)
    slots = []
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
        slots.append((slot, int(np.argmin(costs))))
    picks = [pick for _, pick in slots]
    made = [slot for slot, _ in slots]
    constants = [slot.starts[pick] for slot, pick in slots]
    joined = np.concatenate([*constants, np.zeros(0)])
    return CoordinateFormula(coordinate, score, made, picks, joined, np.arange(len(joined)))
