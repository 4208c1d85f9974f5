r"""``LearnedFunctions``: a few learned functions of each input, shared by groups of inputs.

.. math:: h_{i,r} = f_{\gamma(i),r}(x_i), \qquad f_{g,r}(x) = \sum_b c_{r,g,b}\, B_b(x),
    \qquad r = 1, \dots, R,

with :math:`\gamma(i)` the group of input i and B the B-splines on one grid per group
(:mod:`kan_diffusion.kan.bases`). With R = 1 this is an activation that each unit learns (Bohra et
al. 2020, "Learning activation functions in deep (spline) neural networks"); with more, a learned
expansion of the inputs. Multiplied by a weight it is a layer (:mod:`kan_diffusion.kan.linear`).

The functions start as a least-squares fit to given ones over the grid, and go on by their tangents
outside it. On a CPU a compiled kernel evaluates them (:mod:`kan_diffusion.kan.kernels.units`),
elsewhere piecewise polynomials in torch's own operations (:mod:`kan_diffusion.kan.piecewise`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from kan_diffusion.errors import KanDiffusionError, look_up, require_whole
from kan_diffusion.kan.bases import Basis, BSpline, Constants
from kan_diffusion.kan.kernels.fused import autocasts
from kan_diffusion.kan.kernels.operators import UNITS
from kan_diffusion.kan.piecewise import evaluate

Function = Callable[[Tensor], Tensor]
"""An elementwise function of a tensor."""

InitialFunctions = str | Sequence[Function]
"""A name in ``INITIAL_FUNCTIONS``, or R functions."""

_POINTS = 16
"""Points of a fit per function of the basis."""

_WORST_FIT = 0.1
"""Largest root mean square error of a fit, relative to the function it is fitted to."""


def _waves(functions: int, width: float) -> list[Function]:
    """Makes the identity, then cosines and sines by turns, each pair of twice the frequency."""

    def wave(index: int) -> Function:
        function, turns = (torch.cos, torch.sin)[index % 2], 1 / width * 2 ** (index // 2)
        return lambda x: function(2 * math.pi * turns * x)

    return [torch.clone, *(wave(index) for index in range(functions - 1))]


INITIAL_FUNCTIONS: Mapping[str, Callable[[int, float], list[Function]]] = {
    "silu": lambda functions, width: [silu] * functions,
    "waves": _waves,
}
"""Initial functions by name, given R and the width of the grid: SiLU; or the input, then cosines
and sines, of which the first pair has one period over the grid."""


def require_input(layer: nn.Module, input: Tensor, width: int) -> None:
    """Checks the input of a layer.

    Raises:
        KanDiffusionError: It is no tensor, its shape is not (*, width), or its dtype is not
            floating-point.
    """
    name = type(layer).__name__
    if not isinstance(input, Tensor) or input.is_nested:
        raise KanDiffusionError(
            f"this {name} takes a plain tensor with shape (*, {width}), no list and no nested one; "
            "make one with torch.tensor or torch.cat"
        )
    if input.ndim == 0 or input.shape[-1] != width:
        raise KanDiffusionError(
            f"this {name} takes inputs with shape (*, {width}), not {tuple(input.shape)}"
        )
    if not input.is_floating_point():
        raise KanDiffusionError(
            f"this {name} takes floating-point numbers, as nn.Linear does, not {input.dtype}; "
            "convert them with .float()"
        )


@torch.no_grad()
def draw_linear(
    weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None
) -> None:
    """Draws the parameters of a linear map, (out, n) and (out,), as ``nn.Linear`` does."""
    bound = 1 / math.sqrt(weight.shape[1])
    for drawn in (weight, bias):
        if drawn is not None:
            drawn.uniform_(-bound, bound, generator=generator)


def group_count(in_features: int, groups: int | None) -> int:
    """Returns the number of groups of inputs; None stands for one each.

    Raises:
        KanDiffusionError: There are no groups, or more than inputs.
    """
    require_whole("in_features", in_features)
    if groups is None:
        return in_features
    require_whole(f"groups of {in_features} inputs", groups, 1, in_features)
    return groups


class BasisLayer(Constants):
    """Base of the layers whose functions are sums over a basis.

    Attributes:
        in_features: Size of the last dimension of the input.
        basis: The functions of the basis, with one grid for each input or group of inputs.
        group: Buffer with shape (in,): group of each input, which are assigned by turns.
        functions: Number R of functions that inputs share; None where an edge has its own.
        coefficients: Coefficients of shared functions with shape (R, groups, functions of the
            basis), or None.
        rate: Learning rate of the coefficients relative to that of other parameters.
    """

    in_features: int
    basis: Basis
    group: Tensor
    coefficients: nn.Parameter | None
    functions: int | None
    rate: float

    def _set_basis(self, in_features: int, basis: Basis) -> None:
        """Sets the sizes of the input and a basis with one grid for each input or group."""
        self.in_features, self.basis = in_features, basis
        group = torch.arange(in_features, device="cpu") % basis.in_features
        self.constant("group", group, basis.grid_step.device)

    def _share(self, functions: int, initial: InitialFunctions, noise: float, rate: float) -> None:
        """Takes R functions of the basis for each group; they have no values yet.

        Raises:
            KanDiffusionError: The basis has fewer functions, or the rate is not positive.
        """
        basis = self.basis
        raised = f"; or raise grid_size={basis.num_intervals}, which gives no more"
        require_whole("functions", functions, 1, basis.num_functions, raised)
        if not 0 < rate < math.inf:
            raise KanDiffusionError(f"rate must be a positive number, not {rate}")
        self.functions, self.noise, self.rate = functions, noise, rate
        self.initial = initial if isinstance(initial, str) else tuple(initial)
        shape = functions, basis.in_features, basis.num_functions
        self.coefficients = nn.Parameter(basis.grid_step.new_empty(shape))

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh parameters, and lays the grids over the ``grid_range`` of the basis.

        Args:
            generator: Where the draws come from; torch's default generator when None.

        Raises:
            KanDiffusionError: The basis does not fit an initial function to within 10 %.
        """
        self.basis.reset_parameters()
        self._draw(generator)

    @torch.no_grad()
    def _draw(self, generator: torch.Generator | None = None) -> None:
        """Draws the parameters: fits shared functions to the initial ones and adds the noise."""
        if self.coefficients is None or self.functions is None or self.coefficients.is_meta:
            return
        fitted = self._fitted(self.functions)
        self.coefficients.normal_(0, self.noise, generator=generator)
        self.coefficients.add_(fitted.unsqueeze(1).to(self.coefficients))

    def _fitted(self, functions: int) -> Tensor:
        """Fits coefficients (R, functions of the basis) to initial functions by least squares.

        Raises:
            KanDiffusionError: There are not R functions, or the basis does not fit one of them.
        """
        (low, high), initial = self.basis.grid_range, self.initial
        if isinstance(initial, str):
            known = look_up("initial functions", initial, INITIAL_FUNCTIONS)
            chosen = tuple(known(functions, high - low))
        else:
            chosen = initial
        if len(chosen) != functions:
            raise KanDiffusionError(
                f"initial is {len(chosen)} functions and there are {functions}; give one for each"
            )
        grid = self.basis.num_intervals, self.basis.order, self.basis.grid_range
        basis = BSpline(1, *grid, device="cpu", dtype=torch.float64)
        points = _POINTS * basis.num_functions + 1
        x = torch.linspace(low, high, points, dtype=torch.float64, device="cpu")
        design = basis(x.unsqueeze(1))[:, 0]
        targets = torch.stack([function(x.clone()) for function in chosen], dim=1)
        if not bool(targets.isfinite().all()):
            raise KanDiffusionError(
                f"a function of initial={initial!r} is not finite from {low:g} to {high:g}; choose "
                "another or another grid_range"
            )
        solution = torch.linalg.lstsq(design, targets, driver="gelsd").solution
        errors = (design @ solution - targets).square().mean(0).sqrt()
        sizes = targets.square().mean(0).sqrt()
        worst = int((errors - _WORST_FIT * sizes).argmax())
        if errors[worst] > _WORST_FIT * sizes[worst]:
            raise KanDiffusionError(
                f"{basis.num_functions} splines cannot start as function {worst + 1} of "
                f"initial={initial!r}: they are off by {float(errors[worst] / sizes[worst]):.0%}; "
                "raise grid_size or choose another function"
            )
        return solution.T

    @property
    def flops(self) -> int:
        """Operations of shared functions for one row of input.

        An input costs 3 to find its cell and its place there, and each spline of it 2k, for a
        polynomial of degree k in k steps of Horner's scheme. The polynomials of the cells are
        computed once per batch and not counted.
        """
        return self.in_features * (3 + 2 * self.basis.order * (self.functions or 0))

    def outside(self, rows: Tensor) -> Tensor:
        """Tells which inputs lie outside their grid: (N, in_features), bool."""
        low, high = self.basis.grid_origin[self.group], self.basis.grid_end[self.group]
        return (rows < low) | (rows > high)

    def forward(self, input: Tensor) -> Tensor:
        """Maps inputs (*, in_features) to the outputs (*, m) of the layer.

        Raises:
            KanDiffusionError: The input has another last dimension, or is not floating-point:
                integers are refused for any basis, as by ``nn.Linear``.
        """
        output = self._outputs(self._rows(input))
        return output if input.ndim == 2 else output.view(*input.shape[:-1], output.shape[1])

    def _rows(self, input: Tensor) -> Tensor:
        """Checks inputs (*, in_features) and makes rows (N, in_features) of them.

        Rows of shared functions have at least the precision of the coefficients, in which places on
        a grid are found, also under autocast.
        """
        require_input(self, input, self.in_features)
        rows = input if input.ndim == 2 else input.reshape(-1, self.in_features)
        if self.coefficients is None:
            return rows
        return rows.to(torch.promote_types(rows.dtype, self.coefficients.dtype))

    def _outputs(self, rows: Tensor) -> Tensor:
        """Computes the layer for rows of inputs."""
        return self._shared(rows)

    def _shared(
        self, rows: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """Evaluates shared functions (N, in * R), those of an input side by side, or a layer."""
        operands = rows, None, None, None, self.coefficients, weight, bias, *self.basis.grid
        # Autocast chooses the precision of a product, not that of functions.
        fused = weight is None or not autocasts(rows)
        return UNITS(operands, (self.basis.order, False), self._by_torch, fused)[0]

    def _by_torch(self, rows: Tensor, *operands: Tensor | None) -> tuple[Tensor, Tensor]:
        """Computes what the kernel does in torch's own operations; the state is the rows."""
        coefficients, weight, bias, *grid = operands[3:]
        h = evaluate(rows, coefficients, self.basis, grid, self.group)  # type: ignore[arg-type]
        return h if weight is None else linear(h, weight, bias), rows


class LearnedFunctions(BasisLayer):
    """Learned functions of each input: (*, in_features) -> (*, in_features * functions).

    They are evaluated in the precision of their coefficients, or more; outputs have the dtype of
    inputs.

    Args:
        in_features: Size of the last dimension of the input.
        functions: Number R of functions per input, at most as many as the basis has.
        groups: Number of groups that share functions, to which inputs are assigned by turns; None
            for one group per input.
        grid_size: Number G of intervals of the grid.
        order: Degree k of the splines, 1 to 5.
        grid_range: Ends of the grid, the same for every group at the start.
        initial: The functions that the learned ones start as: ``"silu"``, ``"waves"`` (the input,
            then cosines and sines), or R functions of a tensor.
        noise: Standard deviation of the noise added to each coefficient at the start, so that
            functions with the same start differ.
        rate: Learning rate of the coefficients relative to that of other parameters, for training
            loops that ask for it (:class:`~kan_diffusion.training.optimization.ParameterVector`).
        device: Device of the coefficients.
        dtype: Floating dtype of the coefficients.

    Raises:
        KanDiffusionError: A size, a range or a name is not usable; there are more functions than
            splines, or more groups than inputs; or splines cannot be fitted to the initial
            functions.

    Example:
        >>> from kan_diffusion.kan import LearnedFunctions
        >>> activation = LearnedFunctions(32, groups=4)  # four functions that start as SiLU
        >>> block = torch.nn.Sequential(torch.nn.Linear(8, 32), activation, torch.nn.Linear(32, 8))
        >>> block(torch.zeros(10, 8)).shape
        torch.Size([10, 8])
    """

    coefficients: nn.Parameter
    functions: int

    def __init__(
        self,
        in_features: int,
        functions: int = 1,
        groups: int | None = None,
        *,
        grid_size: int = 8,
        order: int = 3,
        grid_range: tuple[float, float] = (-3.0, 3.0),
        initial: InitialFunctions = "silu",
        noise: float = 1e-3,
        rate: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        count = group_count(in_features, groups)
        basis = BSpline(count, grid_size, order, grid_range, device=device, dtype=dtype)
        self._set_basis(in_features, basis)
        self._share(functions, initial, noise, rate)
        self._draw()

    def forward(self, input: Tensor) -> Tensor:
        """Applies the functions; raises what :meth:`BasisLayer.forward` does."""
        return super().forward(input).to(input.dtype)

    def extra_repr(self) -> str:
        """The settings that differ between modules, for ``print``."""
        return f"{self.in_features}, functions={self.functions}, groups={self.basis.in_features}"
