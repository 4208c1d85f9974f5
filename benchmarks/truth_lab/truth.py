r"""True constants of scores that are known, and what a formula has in their place.

With :math:`C = \alpha^2 \Sigma + \sigma^2 I`, the score of a Gaussian about 0 is
:math:`-C^{-1} x`. Two Gaussians of one covariance with means :math:`\bar\mu \pm \delta` and
weights :math:`w_+` and :math:`w_-` have

.. math:: -C^{-1} (x - \alpha \bar\mu) + \alpha\, C^{-1} \delta\, \tanh\!\left(
    \alpha\, \delta^\top C^{-1} (x - \alpha \bar\mu) + \tfrac12 \log \frac{w_+}{w_-} \right),

and where these lie at :math:`\pm m` on a line, :math:`(-x + \alpha m \tanh(\alpha m x / v)) / v`
with the variance v. A formula is taken for one of these only if it has no other terms, and is
compared constant by constant; one that is missing is off by all of its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from kan_diffusion.data.densities import GaussianMixture
from kan_diffusion.data.toys import make_toy
from kan_diffusion.denoisers.formula import FormulaDenoiser
from kan_diffusion.processes import Process

if TYPE_CHECKING:
    import sympy

__all__ = ["Recovered", "recovered_constants"]

_OFFSET = 0.05
"""Even part of a score, which should be odd, from which it has another form."""
_ABSENT = 0.01
"""Share of the largest true coefficient below which one that should be 0 counts as absent."""


@dataclass(frozen=True)
class Recovered:
    """A constant at one noise level.

    Attributes:
        name: What it is.
        sigma: The noise level.
        true: What it is in truth.
        found: What was recovered.
    """

    name: str
    sigma: float
    true: float
    found: float

    @property
    def error(self) -> float:
        """Relative error."""
        return abs(self.found - self.true) / abs(self.true)


Answer = tuple[bool, list[Recovered]]


def _is_odd(formula: FormulaDenoiser, process: Process, timesteps: Sequence[int]) -> bool:
    """Whether a score is odd, as that of a symmetric density is."""
    steps = torch.tensor(list(timesteps))
    alpha, sigma = (level[steps] for level in process.levels())
    for point in (0.0, 0.7):
        x = torch.full((len(steps), formula.data_dim), point, dtype=torch.float64)
        with torch.no_grad():
            even = formula.score(x, alpha, sigma) + formula.score(-x, alpha, sigma)
        if float(even.abs().max()) > 2 * _OFFSET:
            return False
    return True


def _linear(
    formula: FormulaDenoiser, toy: str, process: Process, timesteps: Sequence[int]
) -> Answer:
    """Coefficients of a score that should be linear."""
    import sympy

    if not _is_odd(formula, process, timesteps):
        return False, []
    coordinates = [sympy.Symbol(f"x{i}", real=True) for i in range(formula.data_dim)]
    parts = formula.expressions()
    if any(sympy.diff(part, a, b) != 0 for part in parts for a in coordinates for b in coordinates):
        return False, []
    density = make_toy(toy)
    covariance = np.asarray(getattr(density, "covariances")[0])  # noqa: B009
    scale = density.std.numpy()
    covariance = covariance / np.outer(scale, scale)
    found = []
    alphas, sigmas = (level.numpy() for level in process.levels())
    for t in timesteps:
        a, s = float(alphas[t]), float(sigmas[t])
        true = -np.linalg.inv(a**2 * covariance + s**2 * np.eye(len(covariance)))
        point = torch.cat([torch.zeros(1, formula.data_dim), torch.eye(formula.data_dim)]).double()
        with torch.no_grad():
            score = formula.score(point, torch.tensor([a]), torch.tensor([s])).numpy()
        for o in range(formula.data_dim):
            for i in range(formula.data_dim):
                name = f"coefficient of x{i} in score {o}"
                found.append(
                    Recovered(name, s, float(true[o, i]), float(score[1 + i, o] - score[0, o]))
                )
    return True, found


def _two_modes(
    formula: FormulaDenoiser, toy: str, process: Process, timesteps: Sequence[int]
) -> Answer:
    """The m and v of scores that should be (-x + a m tanh(a m x / v)) / v."""
    import sympy

    if not _is_odd(formula, process, timesteps):
        return False, []
    alpha, sigma = sympy.Symbol("alpha", real=True), sympy.Symbol("sigma", real=True)
    spread = float(make_toy(toy).std[0])
    m, s2 = 1 / spread, 1 - 1 / spread**2
    found = []
    alphas, sigmas = (level.numpy() for level in process.levels())
    for o, part in enumerate(formula.expressions()):
        x = sympy.Symbol(f"x{o}", real=True)
        for t in timesteps:
            a, s = float(alphas[t]), float(sigmas[t])
            at = sympy.expand(part.subs({alpha: a, sigma: s}))
            atoms = at.atoms(sympy.tanh)
            if len(atoms) != 1 or at.free_symbols != {x}:
                return False, []
            (bend,) = atoms
            slope = sympy.diff(bend.args[0], x)
            amplitude = at.coeff(bend)
            own = sympy.diff(at - sympy.expand(amplitude * bend), x)
            if own == 0 or any(not term.is_number for term in (slope, amplitude, own)):
                return False, []
            v = -1 / float(own)
            found += [
                Recovered(f"v of coordinate {o}", s, a**2 * s2 + s**2, v),
                Recovered(f"m before tanh, coordinate {o}", s, m, float(amplitude) * v / a),
                Recovered(f"m within tanh, coordinate {o}", s, m, float(slope) * v / a),
            ]
    return True, found


def _affine(
    part: sympy.Expr, coordinates: Sequence[sympy.Symbol]
) -> tuple[list[float], float] | None:
    """Slopes and offset; None where it is not a sum of these."""
    slopes = [part.diff(x) for x in coordinates]
    if not all(slope.is_number for slope in slopes):
        return None
    return [float(slope) for slope in slopes], float(part.subs(dict.fromkeys(coordinates, 0)))


def _true_mixture(toy: str) -> tuple[NDArray[np.float64], ...]:
    """Covariance, middle and half distance of the means, and half the log ratio of weights."""
    density = make_toy(toy)
    assert isinstance(density, GaussianMixture)
    standardised = density.rescaled(density.mean, density.std)
    assert isinstance(standardised, GaussianMixture)
    first, second = standardised.means.numpy()
    weights = standardised.weights.numpy()
    covariance = standardised.covariances[0].numpy()
    half_log = 0.5 * np.log(weights[1] / weights[0])
    return covariance, (first + second) / 2, (second - first) / 2, half_log


def _mixture_of_two(
    formula: FormulaDenoiser, toy: str, process: Process, timesteps: Sequence[int]
) -> Answer:
    """All constants of the score of two Gaussians of one covariance."""
    import sympy

    covariance, middle, half, half_log = _true_mixture(toy)
    symbols = [sympy.Symbol(name, real=True) for name in ("alpha", "sigma")]
    coordinates = [sympy.Symbol(f"x{i}", real=True) for i in range(formula.data_dim)]
    found: list[Recovered] = []
    levels = [level.numpy() for level in process.levels()]
    for t in timesteps:
        a, s = (float(level[t]) for level in levels)
        inverse = np.linalg.inv(a**2 * covariance + s**2 * np.eye(len(covariance)))
        bend = a * inverse @ half
        inner_offset = half_log - a * bend @ middle
        for o, part in enumerate(formula.expressions()):
            at = sympy.expand(part.subs(dict(zip(symbols, (a, s), strict=True))))
            atoms = at.atoms(sympy.tanh)
            if len(atoms) != 1:
                return False, []
            (atom,) = atoms
            factor = at.coeff(atom)
            outer = _affine(sympy.expand(at - factor * atom), coordinates)
            inner = _affine(atom.args[0], coordinates)
            if outer is None or inner is None or not factor.is_number:
                return False, []
            sign = 1.0 if float(factor) * bend[o] > 0 else -1.0
            pairs = {
                f"factor of tanh, score {o}": (bend[o], sign * float(factor)),
                f"constant, score {o}": (a * (inverse @ middle)[o], outer[1]),
                f"constant within tanh, score {o}": (inner_offset, sign * inner[1]),
            }
            for i in range(len(coordinates)):
                pairs[f"coefficient of x{i}, score {o}"] = -inverse[o, i], outer[0][i]
                pairs[f"coefficient of x{i} within tanh, score {o}"] = bend[i], sign * inner[0][i]
            largest = max(abs(true) for true, _ in pairs.values())
            for name, (true, value) in pairs.items():
                if abs(true) > 1e-9:
                    found.append(Recovered(name, s, float(true), value))
                elif abs(value) > _ABSENT * largest:
                    return False, []
    return True, found


def recovered_constants(
    formula: FormulaDenoiser, toy: str, process: Process, timesteps: Sequence[int]
) -> Answer:
    """Compares a formula with the truth.

    Args:
        formula: The formula.
        toy: The density it is of, one of the lab's that have constants.
        process: The process.
        timesteps: Levels to compare at.

    Returns:
        Whether it has the form of the truth, and its constants at each level if so.
    """
    return _READERS[toy](formula, toy, process, timesteps)


_READERS = {
    "correlated-gaussian": _linear,
    "two-modes": _two_modes,
    "four-modes": _two_modes,
    "narrow-modes": _two_modes,
    "uneven-modes": _mixture_of_two,
    "oblique-modes": _mixture_of_two,
}
