r"""``SplineActivation``: an activation whose every unit is a learned spline.

.. math:: y_u = \sum_g c_{u,g}\, B_g(x_u),

with the B-splines of :mod:`kan_diffusion.kan.bases.spline` on one uniform grid for all units,
continued by its tangent outside. Between linear layers it makes a network of learned activations
(Bohra et al. 2020, "Learning activation functions in deep (spline) neural networks"): a unit has
one function, where a KAN has one for every edge.

With m the cell of x and f its place there, a unit is the polynomial

.. math:: \sum_d f^d \sum_{j=0}^{k} c_{u,m+j}\, p_{j,d}

of the pieces :math:`p_j(f) = \sum_d p_{j,d} f^d`. The inner sums are made once a batch.

What evaluates it is chosen as in :mod:`kan_diffusion.kan.kernels.dispatch`: the compiled kernel of
:mod:`kan_diffusion.kan.kernels.units` takes plain float32 and float64 tensors on the CPU; torch's
own operations, which differentiate as often as wanted, do the rest. Inside torch.compile the kernel
is the operator ``torch.ops.kan_diffusion.spline_activation``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.functional import silu

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.bases import BSpline
from kan_diffusion.kan.bases.spline import piece_coefficients
from kan_diffusion.kan.kernels import dispatch
from kan_diffusion.kan.kernels.dispatch import (
    _DTYPES,
    _HAS_NUMBA,
    _is_plain,
    _transforms_are_active,
)

__all__ = ["SplineActivation"]

_NOISE = 1e-3
"""Standard deviation of what is added to the coefficients of SiLU, by which units differ."""

_POINTS = 16
"""Points an interval at which SiLU is fitted."""

Pieces = tuple[tuple[float, ...], ...]


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
            KanDiffusionError: The input has another last dimension.
        """
        if input.ndim == 0 or input.shape[-1] != self.num_units:
            raise KanDiffusionError(
                f"this SplineActivation takes inputs with shape (*, {self.num_units}), not "
                f"{tuple(input.shape)}"
            )
        # The place in a cell is told in no less than the precision of the coefficients.
        x = input.to(torch.promote_types(input.dtype, self.coefficients.dtype))
        return _unit_splines(x, self.coefficients, self.grid_range[0], self._per_x, self._pieces)

    def extra_repr(self) -> str:
        """The settings that differ between activations, for ``print``."""
        return (
            f"{self.num_units}, grid_size={self.grid_size}, order={self.order}, "
            f"grid_range={self.grid_range}"
        )


@cache
def _kernel() -> ModuleType | None:
    """The compiled kernel, or None where numba does not work."""
    if not _HAS_NUMBA or dispatch._kernel() is None:  # which says so
        return None
    from kan_diffusion.kan.kernels import units

    return units


def _require_kernel() -> ModuleType:
    kernel = _kernel()
    if kernel is None:
        raise KanDiffusionError(
            "numba is installed but does not import; repair or uninstall it and compile again"
        )
    return kernel


def _takes(x: Tensor, coefficients: Tensor) -> bool:
    """Whether the compiled kernel is for these."""
    return (
        x.dtype in _DTYPES
        and _is_plain(x, x.dtype)
        and _is_plain(coefficients, x.dtype)
        and not _transforms_are_active()
        and forward_ad._current_level < 0
        and not torch._C._get_tracing_state()
        and _kernel() is not None
    )


def _takes_traced(x: Tensor, coefficients: Tensor) -> bool:
    """The same, of what torch.compile traces."""
    return (
        _HAS_NUMBA
        and not torch.compiler.is_exporting()
        and x.device.type == "cpu"
        and x.dtype in _DTYPES
        and x.dtype == coefficients.dtype
        and not _transforms_are_active()
    )


def _unit_splines(
    x: Tensor, coefficients: Tensor, low: float, per_x: float, pieces: Pieces
) -> Tensor:
    """The spline of each unit at its inputs.

    Args:
        x: Inputs with shape (*, units).
        coefficients: Coefficients with shape (units, G + k).
        low: Left end of the grid.
        per_x: Intervals in a unit of x, the inverse of the grid's step.
        pieces: Coefficients of the pieces of a B-spline of order k, k + 1 rows.

    Returns:
        Outputs with the shape of x, differentiable twice in x and the coefficients.
    """
    if torch.compiler.is_compiling():
        if _takes_traced(x, coefficients):
            compiled: Tensor = _operator(x, coefficients, low, per_x, len(pieces) - 1)
            return compiled
    elif _takes(x, coefficients):
        fused: Tensor = _FusedSplines.apply(x, coefficients, low, per_x, pieces)
        return fused
    return _reference(x, coefficients, low, per_x, pieces)


def _reference(x: Tensor, coefficients: Tensor, low: float, per_x: float, pieces: Pieces) -> Tensor:
    """The same in torch's own operations."""
    order = len(pieces) - 1
    units, functions = coefficients.shape
    u = (x - low) * per_x
    inside = u.clamp(0, functions - order)
    cell = inside.detach().floor().nan_to_num(0).clamp(0, functions - order - 1)
    place = inside - cell
    # Sums and not a matrix product, which autocast would make coarser.
    windows = coefficients.unfold(1, order + 1, 1).unsqueeze(-1)  # (units, G, k + 1, 1)
    polynomials = (windows * coefficients.new_tensor(pieces)).sum(2)
    here = polynomials[torch.arange(units, device=x.device), cell.long()]  # (*, units, k + 1)
    value, slope = here[..., order], torch.zeros_like(u)
    for degree in range(order - 1, -1, -1):
        slope = slope * place + value
        value = value * place + here[..., degree]
    return value + slope * (u - inside)


class _FusedSplines(torch.autograd.Function):
    """The compiled kernel under autograd; keeps x and recomputes in the backward pass."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,  # noqa: ANN001
        x: Tensor,
        coefficients: Tensor,
        low: float,
        per_x: float,
        pieces: Pieces,
    ) -> Tensor:
        ctx.save_for_backward(x, coefficients)
        ctx.settings = low, per_x, pieces
        output: Tensor = _require_kernel().unit_splines(
            x, coefficients, low, per_x, len(pieces) - 1
        )
        return output

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        x, coefficients = ctx.saved_tensors
        low, per_x, pieces = ctx.settings
        # Gradients are only enabled here when the result is to be differentiated once more.
        if torch.is_grad_enabled() or _transforms_are_active() or not _is_plain(grad, x.dtype):
            found = _reference_gradients(
                grad, x, coefficients, low, per_x, pieces, ctx.needs_input_grad[:2]
            )
        else:
            found = _require_kernel().unit_splines_backward(
                grad, x, coefficients, low, per_x, len(pieces) - 1
            )
        return *found, None, None, None


def _reference_gradients(
    grad: Tensor,
    x: Tensor,
    coefficients: Tensor,
    low: float,
    per_x: float,
    pieces: Pieces,
    needed: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients through torch's operations, which can be differentiated where that is wanted."""
    with torch.enable_grad():
        output = _reference(x, coefficients, low, per_x, pieces)
        wanted = [t for t, need in zip((x, coefficients), needed, strict=True) if need]
        found = iter(torch.autograd.grad(output, wanted, grad, create_graph=True))
    grad_x, grad_coefficients = (next(found) if need else None for need in needed)
    return grad_x, grad_coefficients


@torch.library.custom_op("kan_diffusion::spline_activation", mutates_args=(), device_types="cpu")
def _operator(x: Tensor, coefficients: Tensor, low: float, per_x: float, order: int) -> Tensor:
    output: Tensor = _require_kernel().unit_splines(x, coefficients, low, per_x, order)
    return output


@torch.library.custom_op(
    "kan_diffusion::spline_activation_backward", mutates_args=(), device_types="cpu"
)
def _operator_backward(
    grad: Tensor, x: Tensor, coefficients: Tensor, low: float, per_x: float, order: int
) -> tuple[Tensor, Tensor]:
    grads: tuple[Tensor, Tensor] = _require_kernel().unit_splines_backward(
        grad, x, coefficients, low, per_x, order
    )
    return grads


@_operator.register_fake
def _(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


@_operator_backward.register_fake
def _(grad: Tensor, x: Tensor, coefficients: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), coefficients.new_empty(coefficients.shape)


def _save(ctx, inputs: tuple[object, ...], output: Tensor) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    x, coefficients, *settings = inputs
    ctx.save_for_backward(x, coefficients)
    ctx.settings = settings


def _differentiate(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
    backward: Callable[..., tuple[Tensor, Tensor]] = _operator_backward
    return *backward(grad, *ctx.saved_tensors, *ctx.settings), None, None, None


_operator.register_autograd(_differentiate, setup_context=_save)
