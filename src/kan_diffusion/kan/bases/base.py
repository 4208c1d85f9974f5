r"""The interface of all bases.

A basis expands an input x into functions :math:`B_0(x), B_1(x), \dots`; an edge is a weighted sum
of them (and of a base activation, see :mod:`kan_diffusion.kan.linear`). A uniform grid for each
input places the functions by :math:`u = (x - x_0) / h`, which runs from 0 to G over the grid.
Outside the grid, :math:`u_e` is the nearer end and

* ``"linear"`` continues every function by its tangent, :math:`B(u_e) + B'(u_e)\,(u - u_e)`:
  continuous with a continuous first derivative;
* ``"clamp"`` keeps every function at :math:`B(u_e)`;
* ``"zero"`` evaluates functions that run out to zero by themselves.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError, unknown_name

__all__ = ["Basis", "Extrapolation", "Grid"]

Extrapolation = Literal["linear", "clamp", "zero"]
"""Ways to continue functions outside the grid."""
Grid = tuple[Tensor, Tensor]
"""Left ends and widths of an interval of the grids of inputs, (in,) each."""


class Basis(nn.Module, ABC):
    """Functions on a uniform grid for each input: (N, in) -> (N, in, num_functions).

    Your own basis defines ``name``, ``sizes``, ``values`` and ``slopes``, and the class is passed
    to ``KANLinear(..., basis=...)``. If its functions do not run out to zero faster than any power,
    its ``extrapolations`` leave out ``"zero"`` (the tests of all bases look as far as a million
    intervals away).

    Args:
        in_features: Number of inputs.
        num_intervals: Number G of intervals.
        order: Degree k of splines; other bases have none.
        grid_range: Ends of the grid, the same for every input at the start.
        extrapolation: What happens outside the grid.
        device: Device of the grid.
        dtype: Floating dtype of the grid.

    Attributes:
        name: Name in options and configurations.
        local: Whether each function vanishes away from its centre. An edge then needs a base
            activation as well; SiLU is the default.
        in_features: Number of inputs.
        num_functions: Number of functions per input, and so of parameters per edge.
        num_active: Largest number of an input's functions that differ from zero at once.
        flops_per_input: Floating-point operations to evaluate the functions of one input; an
            elementary function (exp, sin, a division) counts as four.
        grid_origin: Buffer with shape (in,): left end of each input's grid.
        grid_step: Buffer with shape (in,): width of an interval of each input's grid, positive.

    Raises:
        KanDiffusionError: A size or range is not usable, or the extrapolation is not one of
            ``extrapolations``.
    """

    name: ClassVar[str] = "custom"
    local: ClassVar[bool] = False
    extrapolations: ClassVar[tuple[Extrapolation, ...]] = ("linear", "clamp", "zero")
    grid_origin: Tensor
    grid_step: Tensor

    def __init__(
        self,
        in_features: int,
        num_intervals: int = 5,
        order: int = 3,
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
        if num_intervals < 1:
            raise KanDiffusionError(f"grid_size must be at least 1, not {num_intervals}")
        low, high = grid_range
        if not (float("-inf") < low < high < float("inf")):
            raise KanDiffusionError(
                f"grid_range must be two finite numbers, the lower first, not {grid_range}"
            )
        self.in_features = in_features
        self.num_intervals = num_intervals
        self.order = order
        self.extrapolation: Extrapolation = extrapolation
        self.grid_range = float(low), float(high)
        for buffer in ("grid_origin", "grid_step"):
            self.register_buffer(buffer, torch.empty(in_features, device=device, dtype=dtype))
        self.num_functions, self.num_active, self.flops_per_input = self.sizes()
        self.reset_parameters()

    @property
    def grid_end(self) -> Tensor:
        """Right end of each input's grid, with shape (in,)."""
        return self.grid_origin + self.num_intervals * self.grid_step

    @abstractmethod
    def sizes(self) -> tuple[int, int, int]:
        """Returns ``num_functions``, ``num_active`` and ``flops_per_input``."""

    def constants(self) -> dict[str, list[list[list[int]]]]:
        """Returns numbers to keep beside the grid as buffers, by name, so that none is copied."""
        return {}

    @abstractmethod
    def values(self, u: Tensor) -> Tensor:
        """Evaluates the functions (*, num_functions) at grid coordinates u (*).

        u is from 0 to G; with ``"zero"`` it may be any number.
        """

    @abstractmethod
    def slopes(self, u: Tensor) -> Tensor:
        """Computes the derivatives of the functions with respect to u, (*, num_functions)."""

    @property
    def grid(self) -> Grid:
        """``grid_origin`` and ``grid_step``."""
        return self.grid_origin, self.grid_step

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Evaluates the functions (N, in, num_functions) at inputs (N, in).

        Args:
            x: The inputs.
            grid: Left ends and widths of an interval of other grids, one for each input.
        """
        origin, step = grid or self.grid
        u = (x - origin) / step
        if self.extrapolation == "zero":
            return self.values(u)
        inside = u.clamp(0, self.num_intervals)
        values = self.values(inside)
        if self.extrapolation == "linear":
            values = values + (u - inside).unsqueeze(-1) * self.slopes(inside)
        return values

    def with_intervals(self, num_intervals: int) -> Self:
        """Copies the basis with another number of intervals over the same range.

        Raises:
            KanDiffusionError: ``num_intervals`` is less than 1.
        """
        if num_intervals < 1:
            raise KanDiffusionError(f"grid_size must be at least 1, not {num_intervals}")
        other = copy.deepcopy(self)
        other.num_intervals = num_intervals
        other.grid_step = self.grid_step * (self.num_intervals / num_intervals)
        other.num_functions, other.num_active, other.flops_per_input = other.sizes()
        return other

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Resets every grid to ``grid_range``."""
        low, high = self.grid_range
        self.grid_origin.fill_(low)
        self.grid_step.fill_((high - low) / self.num_intervals)
        for buffer, numbers in self.constants().items():
            self.register_buffer(buffer, self.grid_step.new_tensor(numbers), persistent=False)

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
