r"""True constants of scores that are known, and what a formula has in their place.

With :math:`C = \alpha^2 \Sigma + \sigma^2 I`, the score of a Gaussian about 0 is
:math:`-C^{-1} x`. Two Gaussians of one covariance with means :math:`\bar\mu \pm \delta` and
weights :math:`w_+` and :math:`w_-` have

.. math:: -C^{-1} (x - \alpha \bar\mu) + \alpha\, C^{-1} \delta\, \tanh\!\left(
    \alpha\, \delta^\top C^{-1} (x - \alpha \bar\mu) + \tfrac12 \log \frac{w_+}{w_-} \right),

and where these lie at :math:`\pm m` on a line, :math:`(-x + \alpha m \tanh(\alpha m x / v)) / v`
with the variance v. A formula is taken for one of these only if it has no other terms, and is
compared coefficient by coefficient; one that is missing is off by all of its size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kan_diffusion.data.densities import GaussianMixture
from kan_diffusion.data.toys import make_toy
from kan_diffusion.denoisers.formula import FormulaDenoiser
from kan_diffusion.processes import Process

if TYPE_CHECKING:
    import sympy

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


def standardised(toy: str) -> GaussianMixture:
    """Returns the density of a toy's standardised points, with Gaussians of one covariance."""
    density = make_toy(toy)
    scaled = density.rescaled(density.mean, density.std)
    assert isinstance(scaled, GaussianMixture)
    return scaled


def _true(density: GaussianMixture, output: int, a: float, s: float) -> dict[str, float]:
    """Coefficients of one coordinate of the score at a signal and a noise level."""
    means, weights = density.means.numpy(), density.weights.numpy()
    covariance = density.covariances[0].numpy()
    inverse = np.linalg.inv(a**2 * covariance + s**2 * np.eye(len(covariance)))
    middle, half = (means.max(axis=0) + means.min(axis=0)) / 2, (means[-1] - means[0]) / 2
    if len(means) > 2:  # four modes: each coordinate has two of its own
        half = np.eye(len(half))[output] * half
    bend, half_log = a * inverse @ half, 0.5 * np.log(weights[-1] / weights[0])
    outer = {f"coefficient of x{i}": -inverse[output, i] for i in range(len(half))}
    inner = {f"coefficient of x{i} within tanh": bend[i] for i in range(len(half))}
    return {
        "constant": a * (inverse @ middle)[output],
        **outer,
        "factor of tanh": bend[output],
        "constant within tanh": half_log - a * bend @ middle,
        **inner,
    }


def _affine(part: sympy.Expr, points: Sequence[sympy.Symbol]) -> list[float] | None:
    """Constant and slopes of an expression; None where it is not a sum of these."""
    slopes = [part.diff(x) for x in points]
    if not all(slope.is_number for slope in slopes):
        return None
    return [float(part.subs(dict.fromkeys(points, 0))), *map(float, slopes)]


def _read(part: sympy.Expr, points: Sequence[sympy.Symbol]) -> list[float] | None:
    """Coefficients as :func:`_true` orders them, the tanh with a positive factor, if it has any."""
    import sympy

    part = sympy.expand(part)
    atoms = part.atoms(sympy.tanh)
    if len(atoms) > 1:
        return None
    factor, inner = sympy.Integer(0), [0.0] * (1 + len(points))
    for atom in atoms:
        factor, within = part.coeff(atom), _affine(atom.args[0], points)
        part = sympy.expand(part - factor * atom)
        if within is None or not factor.is_number:
            return None
        inner = within
    outer = _affine(part, points)
    return None if outer is None else [*outer, float(factor), *inner]


def recovered_constants(
    formula: FormulaDenoiser, toy: str, process: Process, timesteps: Sequence[int]
) -> tuple[bool, list[Recovered]]:
    """Compares a formula with the truth.

    Args:
        formula: The formula.
        toy: The density it is of, one of the lab's that have constants.
        process: The process.
        timesteps: Levels to compare at.

    Returns:
        Whether it has the form of the truth, and its constants at each level if so.
    """
    import sympy

    density, recovered = standardised(toy), []
    points = [sympy.Symbol(f"x{i}", real=True) for i in range(formula.data_dim)]
    alpha, sigma = (sympy.Symbol(name, real=True) for name in ("alpha", "sigma"))
    levels = [level.numpy() for level in process.levels()]
    for t in timesteps:
        a, s = (float(level[t]) for level in levels)
        for output, part in enumerate(formula.expressions()):
            true = _true(density, output, a, s)
            values = _read(part.subs({alpha: a, sigma: s}), points)
            if values is None or (values[1 + len(points)] == 0) != (true["factor of tanh"] == 0):
                return False, []
            found = dict(zip(true, values, strict=True))
            if found["factor of tanh"] * true["factor of tanh"] < 0:  # tanh is odd
                found |= {name: -value for name, value in found.items() if "tanh" in name}
            constants = _compared(true, found, output, s)
            if constants is None:
                return False, []
            recovered += constants
    return True, recovered


def _compared(
    true: Mapping[str, float], found: Mapping[str, float], output: int, sigma: float
) -> list[Recovered] | None:
    """Pairs true and found coefficients; None if there is one that should not be."""
    largest = max(map(abs, true.values()))
    absent = [name for name, value in true.items() if abs(value) <= 1e-9]
    if any(abs(found[name]) > _ABSENT * largest for name in absent):
        return None
    return [
        Recovered(f"{name}, score {output}", sigma, float(value), found[name])
        for name, value in true.items()
        if name not in absent
    ]
