r"""A readable denoiser as a sum of coefficients times atoms, at many noise levels at once.

At one noise level, a network of lines and formulas is

.. math:: c + \sum_k a_k\, A_k, \qquad A_k = x_i \;\text{ or }\; f(c' + \sum_l a'_l A'_l),

with numbers as coefficients. The atoms are the same at all levels, but the numbers are not, so a
:class:`Combination` holds an array over levels for each number. Edges that leave features of the
timestep are numbers at each level, whatever their kind; remaining curves are atoms without formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from kan_diffusion.denoisers.edges import CURVE, Edge, ReadableLayer
from kan_diffusion.denoisers.library import LIBRARY, EdgeFunction
from kan_diffusion.denoisers.readable import ReadableDenoiser
from kan_diffusion.processes import Process

if TYPE_CHECKING:
    import sympy

Array = NDArray[np.float64]
Value = TypeVar("Value", Array, "sympy.Expr")


@dataclass(eq=False)
class Atom:
    """A coordinate, or a function of a combination. Atoms are equal if they are the same object.

    Attributes:
        coordinate: Number of the coordinate; None for a function.
        inner: Argument of the function or curve.
        function: The function; None for a coordinate or a curve.
        curve: Evaluates a curve.
    """

    coordinate: int | None = None
    inner: Combination | None = None
    function: EdgeFunction | None = None
    curve: Callable[[Array], Array] | None = None

    def apply(self, z: Array) -> Array:
        """Evaluates the function or curve."""
        if self.curve is not None:
            return self.curve(z)
        assert self.function is not None
        return np.asarray(self.function.values(torch.from_numpy(z)).numpy())

    def write(self, z: sympy.Expr) -> sympy.Expr:
        """Writes the function in SymPy."""
        assert self.function is not None
        return self.function.expression(z)


@dataclass(eq=False)
class Combination:
    """Coefficients of atoms, each an array over levels.

    Attributes:
        terms: Coefficients with shape (L,), by atom, the constant first; its atom is None.
    """

    terms: dict[Atom | None, Array]

    def plus(self, other: Combination) -> Combination:
        """Adds another combination."""
        terms = dict(self.terms)
        for atom, coefficient in other.terms.items():
            terms[atom] = terms.get(atom, 0.0) + coefficient
        return Combination(terms)

    def times(self, factor: Array | float) -> Combination:
        """Multiplies by a number at each level."""
        return Combination({atom: value * factor for atom, value in self.terms.items()})

    def fold(
        self,
        zero: Value,
        number: Callable[[Combination, Atom | None], Value | None],
        coordinate: Callable[[int], Value],
        function: Callable[[Atom, Value], Value],
    ) -> Value:
        """Computes the sum of numbers times atoms, in arrays or in expressions.

        Args:
            zero: Start of the sum.
            number: Gives the coefficient of an atom, or for None the constant of a combination; the
                result None leaves the term out.
            coordinate: Gives a coordinate of the points.
            function: Applies the function of an atom to a value.
        """
        total = zero
        for atom in self.terms:
            factor = number(self, atom)
            if factor is None:
                continue
            if atom is None:
                total = total + factor
            elif atom.coordinate is not None:
                total = total + factor * coordinate(atom.coordinate)
            elif atom.inner is not None:
                inner = atom.inner.fold(zero, number, coordinate, function)
                total = total + factor * function(atom, inner)
        return total

    def values(self, x: Array) -> Array:
        """Evaluates it at points (L, n, d).

        Returns:
            Values with shape (L, n).
        """
        return self.fold(
            np.zeros(x.shape[:2]),
            lambda part, atom: part.terms[atom][:, None],
            lambda coordinate: x[..., coordinate],
            Atom.apply,
        )

    def atoms(self) -> Iterator[Atom]:
        """Iterates over all atoms, each followed by the atoms inside it."""
        for atom in filter(None, self.terms):
            yield atom
            if atom.inner is not None:
                yield from atom.inner.atoms()

    @property
    def is_complete(self) -> bool:
        """Whether no curve is left in it."""
        return all(atom.curve is None for atom in self.atoms())


def _constant(number: Array) -> Combination:
    return Combination({None: number})


def _apply(
    argument: Combination, function: EdgeFunction, a: float, b: float, c: float
) -> Combination:
    """Builds c f(a z + b), the argument's largest coefficient positive where f has a parity."""
    levels = np.ones_like(argument.terms[None])
    if function is LIBRARY["sigmoid"]:
        # 1 / (1 + exp(-z)) is (1 + tanh(z / 2)) / 2, which has a parity.
        shifted = _apply(argument, LIBRARY["tanh"], a / 2, b / 2, c / 2)
        return shifted.plus(_constant(c / 2 * levels))
    inner = argument.times(a).plus(_constant(b * levels))
    slopes = [value for atom, value in inner.terms.items() if atom is not None]
    if function.parity is not None and slopes:
        leading = max(slopes, key=lambda value: float(np.abs(value).mean()))
        if leading.mean() < 0:
            inner = inner.times(-1.0)
            c = -c if function.parity == "odd" else c
    return _one(Atom(inner=inner, function=function), c)


def _one(atom: Atom, factor: float) -> Combination:
    """Builds a factor times an atom; a number at each level if the atom's argument is one."""
    assert atom.inner is not None
    constant = atom.inner.terms[None]
    if len(atom.inner.terms) == 1:
        return _constant(factor * atom.apply(constant))
    return Combination({None: np.zeros_like(constant), atom: np.full_like(constant, factor)})


def _edge(layer: ReadableLayer, edge: Edge, source: Combination) -> Combination:
    """Builds the value of an edge."""
    if edge.kind == CURVE:

        def curve(z: Array) -> Array:
            x = torch.from_numpy(z).to(layer.weight.dtype)
            values = layer.edge_curve(edge.input, edge.output, x)
            return np.asarray(values.double().numpy())

        return _one(Atom(inner=source, curve=curve), 1.0)
    function, a, b, c, slope = layer.formula_of(edge)
    line = source.times(slope)
    return line if function is None else line.plus(_apply(source, function, a, b, c))


@torch.no_grad()
def compose(denoiser: ReadableDenoiser, timesteps: NDArray[np.int64]) -> list[Combination]:
    """Writes a denoiser's prediction at timesteps (L,) as a combination for each coordinate."""
    steps, levels = torch.from_numpy(timesteps), len(timesteps)
    of_time = denoiser.time_features(steps, torch.float64).numpy().T
    time = dict(zip(denoiser.time_inputs(), of_time, strict=True))
    zeros, ones = np.zeros(levels), np.ones(levels)
    atoms = [Atom(coordinate=i) for i in range(denoiser.data_dim)]
    coordinates = [Combination({None: zeros, atom: ones}) for atom in atoms]
    state = []
    for feature in denoiser.input_features():
        if feature.coordinate is None:
            state.append(_constant(time[feature]))
            continue
        unit = coordinates[feature.coordinate]
        if feature.wave:
            shift = np.pi / 2 if feature.wave == "cos" else 0.0
            unit = _apply(unit, LIBRARY["sin"], np.pi * feature.frequency, shift, 1.0)
        state.append(unit)
    modulations = denoiser.modulations(steps, denoiser.dtype)
    (of_inputs, _), *of_layers = ([p.double().numpy().T for p in pair] for pair in modulations)
    state = [unit.times(factor) for unit, factor in zip(state, of_inputs, strict=True)]
    for layer, (factors, shifts) in zip(denoiser.kan_layers, of_layers, strict=True):
        units = [_constant(np.full(levels, float(bias))) for bias in layer.bias]
        for edge in layer.edges:
            value = _edge(layer, edge, state[edge.input])
            units[edge.output] = units[edge.output].plus(value)
        state = [
            unit.times(factor).plus(_constant(shift))
            for unit, factor, shift in zip(units, factors, shifts, strict=True)
        ]
    return state


def score_of(
    prediction: list[Combination], process: Process, alpha: Array, sigma: Array
) -> list[Combination]:
    """Writes the score at levels (L,): minus the predicted noise, divided by sigma."""
    a, b = process.noise_coefficients(alpha, sigma)
    coordinates = {atom.coordinate: atom for part in prediction for atom in part.atoms()}
    scores = []
    for number, predicted in enumerate(prediction):
        score = predicted.times(-a / sigma)
        if b.any():
            atom = coordinates.get(number) or Atom(coordinate=number)
            score = score.plus(Combination({atom: -b / sigma}))
        scores.append(score)
    return scores
