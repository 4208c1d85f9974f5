r"""A readable denoiser as a sum of coefficients times atoms, at many noise levels at once.

At one noise level, a network of lines and formulas is

.. math:: c + \sum_k a_k\, A_k, \qquad A_k = x_i \;\text{ or }\; f(c' + \sum_l a'_l A'_l),

with numbers for coefficients. The atoms are the same at all levels and the numbers are not, so a
:class:`Combination` holds an array over levels for each. Edges that leave features of the timestep
are numbers at each level, whatever they are; curves that nothing replaced are atoms of their own,
with no formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from kan_diffusion.denoisers.library import LIBRARY, LINEAR, EdgeFunction
from kan_diffusion.denoisers.readable import CURVE, Edge, ReadableDenoiser, ReadableLayer
from kan_diffusion.processes import Process

__all__ = ["Atom", "Combination", "compose", "score_of"]

Array = NDArray[np.float64]


@dataclass(eq=False)
class Atom:
    """A coordinate, or a function of a combination. Two atoms are one if they are the same object.

    Attributes:
        coordinate: Of the points; None for a function.
        name: Of the function, for curves what they connect.
        function: The function; None for a coordinate or a curve.
        inner: What it is applied to.
        curve: The values of a curve.
    """

    coordinate: int | None = None
    name: str = ""
    function: EdgeFunction | None = None
    inner: Combination | None = None
    curve: Callable[[Array], Array] | None = None

    def values(self, x: Array) -> Array:
        """Values (L, n) at points (L, n, d)."""
        if self.coordinate is not None:
            return x[..., self.coordinate]
        assert self.inner is not None
        z = self.inner.values(x)
        if self.curve is not None:
            return self.curve(z)
        assert self.function is not None
        values: Array = self.function.values(torch.from_numpy(z)).numpy()
        return values


@dataclass(eq=False)
class Combination:
    """A constant and coefficients of atoms, an array over levels each.

    Attributes:
        constant: With shape (L,).
        terms: Coefficients with shape (L,), by atom.
    """

    constant: Array
    terms: dict[Atom, Array] = field(default_factory=dict)

    def plus(self, other: Combination) -> Combination:
        """The sum."""
        terms = dict(self.terms)
        for atom, coefficient in other.terms.items():
            terms[atom] = terms[atom] + coefficient if atom in terms else coefficient
        return Combination(self.constant + other.constant, terms)

    def times(self, factor: Array | float) -> Combination:
        """The product with a number a level."""
        return Combination(
            self.constant * factor, {atom: value * factor for atom, value in self.terms.items()}
        )

    def values(self, x: Array) -> Array:
        """Values (L, n) at points (L, n, d)."""
        total = np.broadcast_to(self.constant[:, None], x.shape[:2]).copy()
        for atom, coefficient in self.terms.items():
            total += coefficient[:, None] * atom.values(x)
        return total

    def atoms(self) -> Iterator[Atom]:
        """All atoms, those within others after them."""
        for atom in self.terms:
            yield atom
            if atom.inner is not None:
                yield from atom.inner.atoms()

    @property
    def is_complete(self) -> bool:
        """Whether no curve is left in it."""
        return all(atom.curve is None for atom in self.atoms())


def _curve_of(layer: ReadableLayer, edge: Edge) -> Callable[[Array], Array]:
    def values(z: Array) -> Array:
        assert layer.curves is not None
        x = torch.from_numpy(z).to(layer.curves.weight.dtype)
        answer: Array = layer.curves.edge_curve(edge.input, edge.output, x).double().numpy()
        return answer

    return values


def _apply(
    function: EdgeFunction, argument: Combination, a: float, b: float, c: float
) -> Combination:
    """C f(a z + b), with the inside's first coefficient positive where f has a parity."""
    if function is LIBRARY["sigmoid"]:
        # 1 / (1 + exp(-z)) is (1 + tanh(z / 2)) / 2, which has a parity.
        shifted = _apply(LIBRARY["tanh"], argument, a / 2, b / 2, c / 2)
        return Combination(shifted.constant + c / 2, shifted.terms)
    inner = argument.times(a)
    inner = Combination(inner.constant + b, inner.terms)
    factor = c
    if function.parity is not None and inner.terms:
        leading = max(inner.terms.values(), key=lambda value: float(np.abs(value).mean()))
        if leading.mean() < 0:
            inner = inner.times(-1.0)
            factor = -c if function.parity == "odd" else c
    levels = len(argument.constant)
    if not inner.terms:
        constant = function.values(torch.from_numpy(inner.constant)).numpy()
        return Combination(factor * constant)
    atom = Atom(name=function.name, function=function, inner=inner)
    return Combination(np.zeros(levels), {atom: np.full(levels, factor)})


def _edge(layer: ReadableLayer, edge: Edge, source: Combination, name: str) -> Combination:
    """What an edge gives."""
    slope = float(layer.slope[edge.output, edge.input] * layer.slope_mask[edge.output, edge.input])
    given = source.times(slope)
    if edge.kind == CURVE:
        curve = _curve_of(layer, edge)
        if not source.terms:
            return Combination(curve(source.constant))
        atom = Atom(name=name, inner=source, curve=curve)
        levels = len(source.constant)
        return Combination(np.zeros(levels), {atom: np.ones(levels)})
    for group in layer.groups():
        for index, other in enumerate(group.edges):
            if other.place == edge.place:
                numbers = (float(p[index]) for p in (group.inner, group.shift, group.outer))
                return given.plus(_apply(group.function, source, *numbers))
    assert edge.kind == LINEAR
    return given


@torch.no_grad()
def compose(denoiser: ReadableDenoiser, timesteps: NDArray[np.int64]) -> list[Combination]:
    """A denoiser's prediction as combinations, one a coordinate.

    Args:
        denoiser: The network.
        timesteps: Levels, with shape (L,).
    """
    steps = torch.from_numpy(timesteps)
    levels = len(timesteps)
    time = denoiser.time_features(steps, torch.float64).numpy()
    zeros, ones = np.zeros(levels), np.ones(levels)
    coordinates = [Combination(zeros, {Atom(coordinate=i): ones}) for i in range(denoiser.data_dim)]
    inputs = list(coordinates)
    count = denoiser.config.num_input_frequencies
    for shift in (np.pi / 2, 0.0) if count else ():
        inputs += [
            _apply(LIBRARY["sin"], coordinate, float(np.pi * 2.0 ** (m - 2)), shift, 1.0)
            for coordinate in coordinates
            for m in range(count)
        ]
    if denoiser.modulation is None:
        inputs += [Combination(feature) for feature in time.T]
    state = [inputs[index] for index in denoiser.input_index.tolist()]
    scales, shifts, of_inputs = denoiser.modulations(steps)
    if of_inputs is not None:
        state = [
            unit.times(factor)
            for unit, factor in zip(state, of_inputs.double().numpy().T, strict=True)
        ]
    names = denoiser.unit_names()
    for number, layer in enumerate(denoiser.layers):
        units = [Combination(np.full(levels, float(bias))) for bias in layer.bias]
        for edge in layer.edges:
            name = f"{names[number][edge.input]} to {names[number + 1][edge.output]}"
            given = _edge(layer, edge, state[edge.input], name)
            units[edge.output] = units[edge.output].plus(given)
        if number < len(scales):
            factors, moves = (part[number].double().numpy().T for part in (scales, shifts))
            units = [
                unit.times(factor).plus(Combination(move))
                for unit, factor, move in zip(units, factors, moves, strict=True)
            ]
        state = units
    return state


def score_of(
    prediction: list[Combination], process: Process, alpha: Array, sigma: Array
) -> list[Combination]:
    """The score as combinations: minus the predicted noise, divided by sigma.

    Args:
        prediction: The prediction, one combination a coordinate.
        process: What was predicted.
        alpha: Signal levels with shape (L,).
        sigma: Noise levels with shape (L,).
    """
    scores = []
    for coordinate, predicted in enumerate(prediction):
        atom = next(
            (a for part in prediction for a in part.atoms() if a.coordinate == coordinate),
            Atom(coordinate=coordinate),
        )
        if process.prediction_type == "epsilon":
            scores.append(predicted.times(-1 / sigma))
            continue
        own = {"v_prediction": -np.ones_like(alpha), "sample": -1 / sigma**2}
        factor = {"v_prediction": -alpha / sigma, "sample": alpha / sigma**2}
        kind = process.prediction_type
        itself = Combination(np.zeros_like(alpha), {atom: own[kind]})
        scores.append(predicted.times(factor[kind]).plus(itself))
    return scores
