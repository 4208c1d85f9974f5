r"""One formula for all noise levels: the coefficients as functions of the signal level.

A network read at many levels gives numbers for each coefficient of its score, one a level. What
they are as a function of :math:`\alpha` (:math:`\sigma` is then known too) is looked for among

.. math:: c\,\alpha^p\,\frac{1 + n \alpha^2}{1 + b \alpha^2 + e \alpha^4}

with p from 0 to 3 and n, b and e there or not. Where all signal is gone the data are N(0, I)
whatever they were, so the score is -x exactly: the coefficient of a point's own coordinate is
looked for with c = -1 and p = 0, and all other terms vanish there, p >= 1, which keeps the formula
right where a sampler begins.

Coefficients of one score stand in for each other (a tanh that is nearly straight is nearly linear),
so a network's numbers alone do not tell their forms. They are a start: forms are chosen one after
another by the loss of the whole formula on noised points that it was not fitted to, its constants
fitted by Levenberg-Marquardt each time; what it is fitted to are averaged targets
(:mod:`.averaged`). At the end constants that come out nearly equal are made
one, again as long as the loss stays.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares

from kan_diffusion.processes import Process
from kan_diffusion.randomness import torch_generator
from kan_diffusion.symbolic.averaged import draw_averaged
from kan_diffusion.symbolic.combination import Atom, Combination, compose, score_of
from kan_diffusion.symbolic.context import Context
from kan_diffusion.symbolic.formula import SMALLEST_SIGNAL, FormulaDenoiser, formula_denoiser
from kan_diffusion.symbolic.level_forms import LevelForm, first_fit, forms_of
from kan_diffusion.symbolic.readable import ReadableDenoiser

if TYPE_CHECKING:
    import sympy

__all__ = ["LevelForm", "formula_over_levels", "reading_levels"]

Array = NDArray[np.float64]

_NUM_LEVELS = 64
_SAMPLES = 256
_SEARCH_POINTS = 16_384
_FINAL_POINTS = 131_072
_PRICE = 3e-5
"""Loss that a constant is worth when forms are compared."""
_NEGLIGIBLE = 0.02
"""Effect on the prediction below which a coefficient is taken to be 0."""
_CLOSE = 0.06
"""Relative difference below which two constants may be one."""
_SWEEPS = 3


def reading_levels(process: Process) -> NDArray[np.int64]:
    """Timesteps at which a network is read."""
    last = process.num_timesteps - 1
    places = np.linspace(0.01, 0.98, _NUM_LEVELS) * last
    return np.unique(places.round().astype(np.int64))


@dataclass(frozen=True)
class _Points:
    """Noised points and what should be predicted, one coordinate at a time.

    Attributes:
        x: Noised points with shape (1, n, d).
        alpha: Signal levels with shape (n,).
        sigma: Noise levels with shape (n,).
        target: What should be predicted, with shape (n, d).
    """

    x: Array
    alpha: Array
    sigma: Array
    target: Array


def _draw(context: Context, num: int, purpose: str) -> _Points:
    process = context.process
    usable = int((process.levels()[0] >= 10 * SMALLEST_SIGNAL).sum())
    generator = torch_generator("points for a formula", context.seed, purpose)
    drawn = draw_averaged(context.dataset.train, process, num, generator, num_timesteps=usable)
    alpha, sigma = (level[:, 0].numpy() for level in (drawn.alpha, drawn.sigma))
    return _Points(drawn.noised.numpy()[None], alpha, sigma, drawn.target.numpy())


@dataclass
class _Slot:
    """A coefficient somewhere in the score of one coordinate.

    Attributes:
        holder: The combination it is in.
        atom: What it is the coefficient of; None for the constant.
        forms: What it may be.
        starts: Constants of these, fitted to the network's numbers.
    """

    holder: Combination
    atom: Atom | None
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


def _slots(part: Combination, coordinate: int | None) -> list[_Slot]:
    least = 0 if coordinate is None else 1
    found = [_Slot(part, None, forms_of(False, least))]
    for atom in part.terms:
        own = coordinate is not None and atom.coordinate == coordinate
        found.append(_Slot(part, atom, forms_of(own, least)))
        if atom.inner is not None:
            found += _slots(atom.inner, None)
    return found


def _effect(slot: _Slot, score: Combination, x: Array, factor: Array) -> Array:
    """Root mean square change of the prediction for a unit change of a coefficient: (L,)."""
    numbers = slot.numbers
    step = 1e-4 * (1 + np.abs(numbers))
    before = score.values(x)
    slot.put(numbers + step)
    change = ((score.values(x) - before) ** 2).mean(1)
    slot.put(numbers)
    return np.asarray(np.sqrt(change) / step * factor)


@dataclass
class _Formula:
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
    slots: list[_Slot]
    picks: list[int]
    constants: Array
    ties: NDArray[np.int64]

    @property
    def forms(self) -> list[LevelForm]:
        """The form of each coefficient."""
        return [slot.forms[pick] for slot, pick in zip(self.slots, self.picks, strict=True)]

    def predict(self, points: _Points, process: Process) -> Array:
        """The prediction of its coordinate, with shape (n,)."""
        values = {}
        start = 0
        for slot, form in zip(self.slots, self.forms, strict=True):
            part = self.constants[start : start + form.size]
            values[id(slot.holder), slot.atom] = form.values(points.alpha, part)
            start += form.size

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

    def fit(self, points: _Points, process: Process, max_steps: int = 12) -> None:
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
            residuals, first, method="lm", max_nfev=max_steps * (count + 1), xtol=1e-6, ftol=1e-7
        )
        self.constants = found.x[self.ties]

    def loss(self, points: _Points, process: Process) -> float:
        """Mean squared error of its prediction; infinite where it is not a number."""
        left = self.predict(points, process) - points.target[:, self.coordinate]
        loss = float(np.mean(left**2))
        return loss if np.isfinite(loss) else float("inf")

    def changed(self, picks: list[int], anew: Sequence[int]) -> _Formula:
        """With other forms; the slots ``anew`` start from the network's numbers."""
        constants, start = [], 0
        for number, (slot, form) in enumerate(zip(self.slots, self.forms, strict=True)):
            own = self.constants[start : start + form.size]
            start += form.size
            constants.append(slot.starts[picks[number]] if number in anew else own)
        joined = np.concatenate([*constants, np.zeros(0)])
        return _Formula(
            self.coordinate, self.score, self.slots, picks, joined, np.arange(len(joined))
        )

    def expression(self, symbols: Sequence[sympy.Symbol]) -> sympy.Expr:
        """The score of its coordinate in SymPy; ``symbols`` are its constants, before ties."""
        import sympy

        alpha = sympy.Symbol("alpha", real=True)
        factors = {}
        start = 0
        for slot, form in zip(self.slots, self.forms, strict=True):
            part = symbols[start : start + form.size]
            factors[id(slot.holder), slot.atom] = form.expression(alpha, part)
            start += form.size

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


def _start(coordinate: int, score: Combination, alpha: Array, x: Array, factor: Array) -> _Formula:
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
    return _Formula(coordinate, score, made, picks, joined, np.arange(len(joined)))


def _search(
    formula: _Formula, fitted: _Points, judged: _Points, process: Process, until: float
) -> _Formula:
    """Chooses the forms, one coefficient after another."""

    def tried(candidate: _Formula) -> tuple[float, _Formula]:
        try:
            candidate.fit(fitted, process)
        except (ValueError, np.linalg.LinAlgError):
            return float("inf"), candidate
        return candidate.loss(judged, process) + _PRICE * len(candidate.constants), candidate

    everything = range(len(formula.slots))
    best = tried(formula)
    # All denominators alike, as where one variance is behind them, and powers alike.
    for below, inner, outer in itertools.product(((2,), (4,)), (0, 1), (1, 2)):
        picks = []
        for slot in formula.slots:
            options = [
                index
                for index, form in enumerate(slot.forms)
                if not form.numerator
                and form.denominator == below
                and form.power == (0 if form.own else inner if slot.forms[0].power == 0 else outer)
            ]
            picks.append(options[0])
        best = min(best, tried(formula.changed(picks, everything)), key=lambda pair: pair[0])
    for _ in range(_SWEEPS):
        before = best[0]
        for number in everything:
            current = best[1]
            for pick in range(len(current.slots[number].forms)):
                if pick == current.picks[number] or time.monotonic() > until:
                    continue
                picks = [*current.picks]
                picks[number] = pick
                best = min(best, tried(current.changed(picks, [number])), key=lambda pair: pair[0])
        if best[0] > before - _PRICE:
            break
    return best[1]


def _tie(formula: _Formula, fitted: _Points, judged: _Points, process: Process) -> _Formula:
    """Makes nearly equal constants one, up to their sign, as long as the loss stays."""
    loss = formula.loss(judged, process)
    refused: set[tuple[int, int]] = set()
    while True:
        count = int(formula.ties.max()) + 1 if len(formula.ties) else 0
        values = [float(formula.constants[formula.ties == k].mean()) for k in range(count)]
        pairs = [
            (abs(a - b) / max(abs(a), abs(b), 1e-9), i, j)
            for (i, a), (j, b) in itertools.combinations(enumerate(values), 2)
            if (i, j) not in refused
        ]
        pairs = [pair for pair in pairs if pair[0] < _CLOSE]
        if not pairs:
            return formula
        _, i, j = min(pairs)
        ties = formula.ties.copy()
        ties[ties == j] = i
        ties[ties > j] -= 1
        tied = _Formula(
            formula.coordinate,
            formula.score,
            formula.slots,
            formula.picks,
            formula.constants.copy(),
            ties,
        )
        tied.fit(fitted, process)
        new = tied.loss(judged, process)
        if new <= loss + _PRICE:
            formula, loss = tied, min(loss, new)
            refused.clear()
        else:
            refused.add((i, j))


def formula_over_levels(
    denoiser: ReadableDenoiser,
    context: Context,
    *,
    tolerance: float,
    seconds: float = 120.0,
    on_progress: Callable[[str], None] | None = None,
) -> FormulaDenoiser | None:
    """Looks for one formula that holds at all noise levels.

    Args:
        denoiser: A network without curves in the points' part.
        context: Where formulas are judged.
        tolerance: By how much the loss may exceed the network's.
        seconds: Time budget of the choice of forms.
        on_progress: Told a line a coordinate and what came of it.

    Returns:
        The formula; None where no form fits within the tolerance.
    """
    process = context.process
    timesteps = reading_levels(process)
    alpha, sigma = (level.numpy()[timesteps] for level in process.levels())
    scores = score_of(compose(denoiser, timesteps), process, alpha, sigma)
    if not all(score.is_complete for score in scores):
        return None
    # By how much the prediction moves with the score.
    factors = {"epsilon": sigma, "v_prediction": sigma / alpha, "sample": sigma**2 / alpha}
    factor = factors[process.prediction_type]
    x = _points(context, timesteps)
    fitted, judged = (_draw(context, _SEARCH_POINTS, name) for name in ("fit", "judge"))
    final = _draw(context, _FINAL_POINTS, "final")
    formulas = []
    for coordinate, score in enumerate(scores):
        until = time.monotonic() + seconds / len(scores)
        formula = _start(coordinate, score, alpha, x, factor)
        formula = _search(formula, fitted, judged, process, until)
        formula.fit(final, process)
        formula = _tie(formula, final, judged, process)
        formulas.append(formula)
        if on_progress is not None:
            count = len(set(formula.ties.tolist()))
            on_progress(f"coordinate x{coordinate}: a formula of {count} constants")
    made = _joined(formulas, process)
    limit, loss = context.loss(denoiser) + tolerance, context.loss(made)
    if on_progress is not None:
        on_progress(f"one formula for all levels: loss {loss:.5f}, at most {limit:.5f} is allowed")
    return made if loss <= limit else None


def _joined(formulas: list[_Formula], process: Process) -> FormulaDenoiser:
    import sympy

    constants: dict[sympy.Symbol, float] = {}
    expressions = []
    for formula in formulas:
        groups: dict[int, sympy.Symbol] = {}
        for value, group in zip(formula.constants, formula.ties, strict=True):
            if group not in groups:
                groups[group] = sympy.Symbol(f"c{len(constants)}", real=True)
                constants[groups[group]] = float(value)
        expressions.append(formula.expression([groups[group] for group in formula.ties]))
    return formula_denoiser(expressions, constants, process)


def _points(context: Context, timesteps: NDArray[np.int64]) -> Array:
    """Noised points as they occur at each level: (L, n, d)."""
    clean = context.draw.clean[:_SAMPLES].numpy()
    noise = context.draw.noise[-_SAMPLES:].numpy()
    alpha, sigma = (level.numpy()[timesteps, None, None] for level in context.process.levels())
    points: Array = alpha * clean + sigma * noise
    return points
