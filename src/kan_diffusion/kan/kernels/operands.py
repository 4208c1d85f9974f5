"""What the compiled kernels compute with, and the shapes that they give."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from kan_diffusion.kan.kernels.fused import Shape


class SplineOperands(NamedTuple):
    """A layer of B-splines of each edge (:mod:`kan_diffusion.kan.kernels.spline`)."""

    x: Tensor  # (N, in)
    weight: Tensor  # (out, in * (1 + G + k))
    bias: Tensor | None  # (out,)
    origin: Tensor  # (in,): left ends of grids
    step: Tensor  # (in,): widths of an interval, positive
    order: int  # degree k, 1 to 5
    tangents: bool  # whether splines go on by their tangents, and do not run out to zero

    def output_shapes(self) -> tuple[Shape, ...]:
        """Shape of the output: (N, out)."""
        return ((self.x.shape[0], self.weight.shape[0]),)

    def sizes(self) -> tuple[int, int, int, int]:
        """Returns inputs, outputs, intervals, and over how many more of these splines reach."""
        inputs, (outputs, width) = self.x.shape[1], self.weight.shape
        return inputs, outputs, width // inputs - self.order - 1, 0 if self.tangents else self.order


class UnitsOperands(NamedTuple):
    """Units with learned functions or SiLU (:mod:`kan_diffusion.kan.kernels.units`)."""

    input: Tensor  # (N, in), or values and gates side by side, (N, 2 in)
    carried: Tensor | None  # (N, m), cut off or padded with zeros where m is not in
    code: Tensor | None  # (N, rank)
    modulation: Tensor | None  # (rank + 1, 2, in): scales, shifts; the constant ones are the last
    coefficients: Tensor | None  # (R, groups, G + k); None for SiLU
    weight: Tensor | None  # (out, in * R); None for the functions themselves
    bias: Tensor | None  # (out,)
    origin: Tensor | None  # (groups,): left ends of grids
    step: Tensor | None  # (groups,): widths of an interval
    order: int  # degree k of the splines, 1 to 5; 0 for SiLU
    has_state: bool  # whether the state is wanted, which takes a weight; gates do, too

    @property
    def units(self) -> int:
        """Number of units."""
        if self.has_state and self.weight is not None:
            return self.weight.shape[1]
        return self.input.shape[1]

    @property
    def functions(self) -> int:
        """Number R of functions of a unit."""
        return 1 if self.coefficients is None else len(self.coefficients)

    def output_shapes(self) -> tuple[Shape, ...]:
        """Shapes of the output, (N, out) or the functions' (N, in * R), and of the state.

        Functions of a unit are side by side; the state z has shape (N, in), or (0,).
        """
        rows, width = self.input.shape[0], self.units * self.functions
        width = width if self.weight is None else self.weight.shape[0]
        return (rows, width), (rows, self.units) if self.has_state else (0,)
