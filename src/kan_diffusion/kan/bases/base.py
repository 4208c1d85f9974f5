r"""The interface of all bases.

A basis expands an input x into functions :math:`B_0(x), B_1(x), \dots`; an edge is a weighted sum
of them (and of a base activation, see :mod:`kan_diffusion.kan.linear`). A basis with a grid places
its functions by :math:`u = (x - x_0) / h`, which runs from 0 to G over the grid of each input.
Outside the grid, :math:`u_e` is the nearer end and

* ``"linear"`` continues every function by its tangent, :math:`B(u_e) + B'(u_e)\,(u - u_e)`:
  continuous with a continuous first derivative;
* ``"clamp"`` keeps every function at :math:`B(u_e)`;
* ``"zero"`` evaluates functions that run out to zero by themselves;
* ``"periodic"`` evaluates periodic functions as they are.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError, unknown_name

__all__ = ["Basis", "Extrapolation", "GridBasis"]

Extrapolation = Literal["linear", "clamp", "zero", "periodic"]
"""Ways to continue functions outside the grid."""


class Basis(nn.Module, ABC):
    """Expands each input into functions: (N, in) -> (N, in, num_functions).

    Derive your own basis from this class, or from :class:`GridBasis` if a grid places its
    functions, and pass an object of it to ``KANLinear(..., basis=...)``.

    Attributes:
        name: Name in options and configurations.
        local: Whether each function vanishes away from its centre, or all vanish at the ends of
            the grid. An edge then needs a base activation as well; SiLU is the default.
        in_features: Number of inputs.
        num_functions: Number of functions per input, and so of parameters per edge.
        num_active: Largest number of an input's functions that differ from zero at once.
        flops_per_input: Floating-point operations to evaluate the functions of one input; an
            elementary function (exp, sin, a division) counts as four.
    """

    name: ClassVar[str] = "custom"
    local: ClassVar[bool] = False
    in_features: int
    num_functions: int
    num_active: int
    flops_per_input: int

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Evaluates the functions (N, in, num_functions) at inputs (N, in); differentiable in x."""

    @abstractmethod
    def one_input(self, i: int) -> Basis:
        """Copies the basis for input ``i`` alone; the copy shares no parameters."""

    def for_inputs(self, in_features: int) -> Basis:
        """Makes a freshly initialised basis of this kind for a number of inputs.

        ``KAN`` calls this to make the basis of each layer from one object. A basis with parameters
        for each input overrides it.

        Raises:
            KanDiffusionError: The basis is made for another number of inputs and does not override
                this method.
        """
        if in_features != self.in_features:
            raise KanDiffusionError(
                f"the basis is made for {self.in_features} inputs, not for {in_features}; "
                f"define for_inputs in {type(self).__name__}"
            )
        other = copy.deepcopy(self)
        other.reset_parameters()
        return other

    def outside(self, x: Tensor) -> Tensor:
        """Tells which inputs lie outside the range of the functions: (N, in), bool."""
        return torch.zeros_like(x, dtype=torch.bool)

    def reset_parameters(self) -> None:
        """Resets the basis's own parameters, where it has any, to their initial values."""


def _require_intervals(num_intervals: int) -> None:
    if num_intervals < 1:
        raise KanDiffusionError(f"grid_size must be at least 1, not {num_intervals}")


class GridBasis(Basis):
    """A basis whose functions are placed by a uniform grid for each input.

    Your own grid basis defines ``name``, ``sizes``, ``values`` and ``slopes``. If its functions do
    not run out to zero faster than any power, its ``extrapolations`` leave out ``"zero"`` (the
    tests of all bases look as far as a million intervals away).

    Args:
        in_features: Number of inputs.
        num_intervals: Number G of intervals.
        grid_range: Ends of the grid, the same for every input at the start.
        extrapolation: What happens outside the grid.
        device: Device of the grid.
        dtype: Floating dtype of the grid.

    Attributes:
        grid_origin: Buffer with shape (in,): left end of each input's grid.
        grid_step: Buffer with shape (in,): width of an interval of each input's grid, positive.

    Raises:
        KanDiffusionError: A size or range is not usable, or the extrapolation is not one of
            ``extrapolations``.
    """

    extrapolations: ClassVar[tuple[Extrapolation, ...]] = ("linear", "clamp", "zero")
    grid_origin: Tensor
    grid_step: Tensor

    def __init__(
        self,
        in_features: int,
        num_intervals: int,
        grid_range: tuple[float, float] = (-1.0, 1.0),
        extrapolation: Extrapolation = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if extrapolation not in self.extrapolations:
            raise unknown_name(
                f"extrapolation of basis '{self.name}'", str(extrapolation), self.extrapolations
            )
        if in_features < 1:
            raise KanDiffusionError(f"a basis needs at least one input, not {in_features}")
        _require_intervals(num_intervals)
        low, high = grid_range
        if not (float("-inf") < low < high < float("inf")):
            raise KanDiffusionError(
                f"grid_range must be two finite numbers, the lower first, not {grid_range}"
            )
        self.in_features = in_features
        self.num_intervals = num_intervals
        self.extrapolation: Extrapolation = extrapolation
        self.grid_range = float(low), float(high)
        step = (high - low) / num_intervals
        self.register_buffer(
            "grid_origin", torch.full((in_features,), float(low), device=device, dtype=dtype)
        )
        self.register_buffer(
            "grid_step", torch.full((in_features,), step, device=device, dtype=dtype)
        )
        self.num_functions, self.num_active, self.flops_per_input = self.sizes()

    @property
    def grid_end(self) -> Tensor:
        """Right end of each input's grid, with shape (in,)."""
        return self.grid_origin + self.num_intervals * self.grid_step

    @abstractmethod
    def sizes(self) -> tuple[int, int, int]:
        """Returns ``num_functions``, ``num_active`` and ``flops_per_input``."""

    @abstractmethod
    def values(self, u: Tensor) -> Tensor:
        """Evaluates the functions (*, num_functions) at grid coordinates u (*).

        u is from 0 to G; with ``"zero"`` and ``"periodic"`` it may be any number.
        """

    @abstractmethod
    def slopes(self, u: Tensor) -> Tensor:
        """Computes the derivatives of the functions with respect to u, (*, num_functions)."""

    def forward(self, x: Tensor) -> Tensor:
        """Evaluates the functions (N, in, num_functions) at inputs (N, in)."""
        u = (x - self.grid_origin) / self.grid_step
        if self.extrapolation in ("zero", "periodic"):
            return self.values(u)
        inside = u.clamp(0, self.num_intervals)
        values = self.values(inside)
        if self.extrapolation == "linear":
            values = values + (u - inside).unsqueeze(-1) * self.slopes(inside)
        return values

    def outside(self, x: Tensor) -> Tensor:
        """Tells which inputs lie outside their grid: (N, in), bool."""
        return (x < self.grid_origin) | (x > self.grid_end)

    def with_intervals(self, num_intervals: int) -> Self:
        """Copies the basis with another number of intervals over the same range.

        A basis whose own parameters depend on that number overrides this.

        Raises:
            KanDiffusionError: ``num_intervals`` is less than 1.
        """
        _require_intervals(num_intervals)
        other = copy.deepcopy(self)
        other.num_intervals = num_intervals
        other.grid_step = self.grid_step * (self.num_intervals / num_intervals)
        other.num_functions, other.num_active, other.flops_per_input = other.sizes()
        return other

    def for_inputs(self, in_features: int) -> Self:
        """Makes a basis of this kind for a number of inputs, with all grids at ``grid_range``."""
        other = copy.deepcopy(self)
        other.in_features = in_features
        other.grid_origin = self.grid_origin.new_empty(in_features)
        other.grid_step = self.grid_step.new_empty(in_features)
        other.reset_parameters()
        return other

    def one_input(self, i: int) -> Self:
        """Copies the basis for input ``i`` alone.

        A basis with parameters for each input overrides this.
        """
        alone = copy.deepcopy(self)
        alone.in_features = 1
        alone.grid_origin = self.grid_origin[i : i + 1].clone()
        alone.grid_step = self.grid_step[i : i + 1].clone()
        return alone

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Resets every grid to ``grid_range``."""
        low, high = self.grid_range
        self.grid_origin.fill_(low)
        self.grid_step.fill_((high - low) / self.num_intervals)

    def exact_refinement(self, num_intervals: int) -> Tensor | None:
        """Finds the matrix that carries coefficients over to more intervals exactly.

        Returns:
            Matrix (new functions, old functions) in float64, or None if no such matrix exists and
            coefficients have to be fitted.
        """
        return None

    def extra_repr(self) -> str:
        """The settings that differ between layers, for ``print``."""
        return f"num_intervals={self.num_intervals}, extrapolation={self.extrapolation!r}"
