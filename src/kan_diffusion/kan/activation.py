r"""``SplineActivation``: an activation whose every unit is a learned spline.

.. math:: y_u = \sum_g c_{u,g}\, B_g(x_u),

with the B-splines of :mod:`kan_diffusion.kan.bases.spline` on one uniform grid for all units,
continued by its tangent outside. Between linear layers it makes a network of learned activations
(Bohra et al. 2020, "Learning activation functions in deep (spline) neural networks"): a unit has
one function, where a KAN has one for every edge.

A compiled kernel evaluates it on a CPU (:mod:`kan_diffusion.kan.kernels.units` says how), elsewhere
torch's own operations (:mod:`kan_diffusion.kan.kernels.fused` says when).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.functional import silu

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.bases import BSpline, piece_coefficients
from kan_diffusion.kan.inputs import leaf, require_input
from kan_diffusion.kan.kernels.fused import FusedFunction

__all__ = ["SplineActivation"]

_NOISE = 1e-3
"""Standard deviation of what is added to the coefficients of SiLU, by which units differ."""

_POINTS = 16
"""Points an interval at which SiLU is fitted."""

_KERNEL = FusedFunction(
    "spline_activation",
    "units",
    "Tensor x, Tensor coefficients",
    "float low, float per_x, int order",
    num_gradients=2,
    output_shape=lambda x, *_: tuple(x.shape),
)


class SplineActivation(nn.Module):
    """A learned B-spline for each unit: (*, num_units) -> (*, num_units).

    Args:
        num_units: Size of the last dimension of input and output.
        grid_size: Number G of intervals of the grid.
        order: Degree k of the splines, 1 to 5.
        grid_range: Ends of the grid, the same for every unit; beyond them a unit is continued by
            its tangent.
        device: Device of the coefficients.
        dtype: Floating dtype of the coefficients.

    Attributes:
        coefficients: Coefficients with shape (num_units, grid_size + order).

    Raises:
        KanDiffusionError: A size, the order or the range is not usable.
    """

    def __init__(
        self,
        num_units: int,
        *,
        grid_size: int = 8,
        order: int = 3,
        grid_range: tuple[float, float] = (-3.0, 3.0),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_units < 1:
            raise KanDiffusionError(f"a SplineActivation needs at least one unit, not {num_units}")
        self.num_units = num_units
        self.grid_size = grid_size
        self.order = order
        self.grid_range = float(grid_range[0]), float(grid_range[1])
        self._basis()  # its errors are ours
        self._per_x = grid_size / (self.grid_range[1] - self.grid_range[0])
        # Numbers and not a call in the forward pass, for the sake of torch.compile.
        self._pieces = piece_coefficients(order)
        self.coefficients = nn.Parameter(
            torch.empty(num_units, grid_size + order, device=device, dtype=dtype)
        )
        self.reset_parameters()

    def _basis(self) -> BSpline:
        """The functions of one unit, in float64 on the CPU."""
        return BSpline(
            1, self.grid_size, self.order, self.grid_range, device="cpu", dtype=torch.float64
        )

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Makes every unit SiLU, as near as the spline comes to it, plus a little noise.

        The fit is by least squares over the grid, within 4e-4 of SiLU with the default grid. The
        noise of a coefficient is normal with standard deviation 1e-3.

        Args:
            generator: Where the noise comes from; torch's default generator when None.
        """
        if self.coefficients.is_meta:
            return
        x = torch.linspace(
            *self.grid_range, _POINTS * self.grid_size + 1, device="cpu", dtype=torch.float64
        )
        functions = self._basis()(x.unsqueeze(1))[:, 0]
        fit = torch.linalg.lstsq(functions, silu(x).unsqueeze(1)).solution[:, 0]
        self.coefficients.normal_(0, _NOISE, generator=generator)
        self.coefficients.add_(fit.to(self.coefficients))

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one row of input.

        A unit costs 3 to find its cell and the place in it, and 2k for the polynomial of degree k
        in k steps of Horner's scheme. The polynomials of the cells are made once a batch and not
        counted.
        """
        return self.num_units * (3 + 2 * self.order)

    def forward(self, input: Tensor) -> Tensor:
        """Maps (*, num_units) to (*, num_units).

        Raises:
            KanDiffusionError: The input has another last dimension, or is no floating-point tensor.
        """
        if isinstance(input, Proxy):
            return leaf(self, input)
        require_input(self, input, self.num_units)
        # The place in a cell is told in no less than the precision of the coefficients.
        x = input.to(torch.promote_types(input.dtype, self.coefficients.dtype))
        operands = x, self.coefficients
        if _KERNEL.takes(operands):
            return _KERNEL(operands, (self.grid_range[0], self._per_x, self.order), self._splines)
        return self._splines(*operands)

    def _splines(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """The spline of each unit in torch's own operations."""
        units, functions = coefficients.shape
        order = self.order
        u = (x - self.grid_range[0]) * self._per_x
        inside = u.clamp(0, functions - order)
        cell = inside.detach().floor().nan_to_num(0).clamp(0, functions - order - 1)
        place = inside - cell
        reach = torch.arange(order + 1, device=x.device)
        first = torch.arange(functions - order, device=x.device)
        windows = coefficients[:, first.unsqueeze(1) + reach].unsqueeze(-1)  # (units, G, k + 1, 1)
        # Sums and not a matrix product, which autocast would make coarser.
        polynomials = (windows * coefficients.new_tensor(self._pieces)).sum(2)
        here = polynomials[torch.arange(units, device=x.device), cell.long()]  # (*, units, k + 1)
        value, slope = here[..., order], torch.zeros_like(u)
        for degree in range(order - 1, -1, -1):
            slope = slope * place + value
            value = value * place + here[..., degree]
        return value + slope * (u - inside)

    def extra_repr(self) -> str:
        """The settings that differ between activations, for ``print``."""
        return (
            f"{self.num_units}, grid_size={self.grid_size}, order={self.order}, "
            f"grid_range={self.grid_range}"
        )
