r"""``LearnedFunctions``: a few learned functions of each input, shared by groups of inputs.

.. math:: h_{i,r} = f_{\gamma(i),r}(x_i), \qquad f_{g,r}(x) = \sum_b c_{r,g,b}\, B_b(x),
    \qquad r = 1, \dots, R,

with :math:`\gamma(i)` the group of input i and B the functions of a basis, on one grid per group
(:mod:`kan_diffusion.kan.bases`). With R = 1 this is an activation that each unit learns (Bohra et
al. 2020, "Learning activation functions in deep (spline) neural networks"); with more, a learned
expansion of the inputs. Multiplied by a weight it is a layer (:mod:`kan_diffusion.kan.grouped`).

The functions start as a least-squares fit to given ones over the grid. On a CPU a compiled kernel
evaluates splines (:mod:`kan_diffusion.kan.kernels.functions` says how). Elsewhere torch's own
operations do (:mod:`kan_diffusion.kan.kernels.fused` says when); they evaluate large inputs in
parts and keep only the inputs for the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu
from torch.utils.checkpoint import checkpoint

from kan_diffusion.errors import KanDiffusionError, look_up
from kan_diffusion.kan.bases import (
    Basis,
    BasisName,
    BSpline,
    Extrapolation,
    GridBasis,
    make_basis,
)
from kan_diffusion.kan.grids import EdgeLayer
from kan_diffusion.kan.inputs import has_hooks
from kan_diffusion.kan.kernels.edges import in_full_precision, with_grid
from kan_diffusion.kan.kernels.fused import FusedFunction, Step, run

__all__ = ["STARTS", "LearnedFunctions", "Start", "waves"]

Function = Callable[[Tensor], Tensor]
"""An elementwise function of a tensor."""

Start = str | Sequence[Function]
"""A name in ``STARTS``, or R functions."""

_POINTS = 16
"""Points of a fit per function of the basis."""

_MOST_VALUES = 2**22
"""Largest number of values of basis functions that torch's operations compute at once."""

_transforms_are_active = torch._C._are_functorch_transforms_active

_WORST_FIT = 0.1
"""Largest root mean square error of a start, relative to the function it is fitted to."""


def _wave(function: Function, turns: float, x: Tensor) -> Tensor:
    return function(2 * math.pi * turns * x)


def waves(functions: int, lowest: float) -> list[Function]:
    """Makes cosines and sines by turns, each pair with twice the frequency of the one before.

    Args:
        functions: Number of functions.
        lowest: Frequency of the first pair, in periods per unit of x.
    """
    return [
        partial(_wave, (torch.cos, torch.sin)[index % 2], lowest * 2 ** (index // 2))
        for index in range(functions)
    ]


STARTS: Mapping[str, Callable[[int, float], list[Function]]] = {
    "silu": lambda functions, width: [silu] * functions,
    "identity": lambda functions, width: [torch.clone] * functions,
    "waves": lambda functions, width: [torch.clone, *waves(functions - 1, 1 / width)],
}
"""Starts by name, given R and the width of the grid: SiLU; the input itself; the input, then
cosines and sines, of which the first pair has one period over the grid."""

_FUNCTIONS, _LAYER = (
    FusedFunction(
        name,
        "functions",
        "Tensor x, Tensor coefficients, Tensor? weight, Tensor? bias, Tensor origin, Tensor step",
        "int[] group_of, int order",
        num_gradients=4,
        output_shapes=lambda x, coefficients, weight, *_: (
            (x.shape[0], x.shape[1] * coefficients.shape[0] if weight is None else weight.shape[0]),
        ),
    )
    for name in ("learned_functions", "grouped_linear")
)


class LearnedFunctions(EdgeLayer):
    """Learned functions of each input: (*, in_features) -> (*, in_features * functions).

    Args:
        in_features: Size of the last dimension of the input.
        functions: Number R of functions per input, at most as many as the basis has.
        groups: Number of groups that share functions, to which inputs are assigned by turns; or the
            group of each input, counted from 0; or None for one group per input.
        basis: Basis of the learned functions, by name in ``BASES``.
        grid_size: Number G of intervals of the grid, or the size that the basis has instead.
        order: Degree k of the splines, 1 to 5.
        grid_range: Ends of the grid, the same for every group at the start.
        extrapolation: What happens outside the grid, see :mod:`kan_diffusion.kan.bases.base`.
        start: The functions that the learned ones start as: ``"silu"``, ``"identity"``, ``"waves"``
            (the input, then cosines and sines), or R functions of a tensor.
        noise: Standard deviation of the noise added to each coefficient at the start, so that
            functions with the same start differ.
        rate: Learning rate of the coefficients relative to that of other parameters, for training
            loops that ask for it (:class:`~kan_diffusion.training.optimization.ParameterVector`).
        device: Device of the coefficients.
        dtype: Floating dtype of the coefficients.

    Attributes:
        coefficients: Coefficients with shape (R, groups, functions of the basis).
        basis: Basis of the learned functions, with one grid per group.
        group_of: Group of each input.

    Raises:
        KanDiffusionError: A size, a range or a name is not usable; there are more functions than
            the basis has; the groups do not divide the inputs; or the basis cannot be fitted to the
            start.
    """

    _packed: ClassVar[str] = "coefficients"
    coefficients: nn.Parameter

    def __init__(
        self,
        in_features: int,
        functions: int = 1,
        groups: int | Sequence[int] | None = None,
        *,
        basis: BasisName = "bspline",
        grid_size: int = 8,
        order: int = 3,
        grid_range: tuple[float, float] = (-3.0, 3.0),
        extrapolation: Extrapolation = "linear",
        start: Start = "silu",
        noise: float = 1e-3,
        rate: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if in_features < 1 or functions < 1:
            raise KanDiffusionError(
                f"a {name} needs at least one input and one function, not {in_features} and "
                f"{functions}"
            )
        self.in_features = in_features
        self.group_of = _assignment(in_features, groups)
        num_groups = max(self.group_of) + 1
        self.basis: Basis = make_basis(
            basis,
            num_groups,
            grid_size=grid_size,
            order=order,
            grid_range=grid_range,
            extrapolation=extrapolation,
            device=device,
            dtype=dtype,
        )
        known = self.basis.num_functions
        self.functions = functions
        self._require_room(self.basis, grid_size)
        self.start = start
        self.noise = noise
        if not 0 < rate < math.inf:
            raise KanDiffusionError(f"rate must be a positive number, not {rate}")
        self.rate = rate
        self._grid_range = float(grid_range[0]), float(grid_range[1])
        # Rows with one input of each group; a smaller group repeats its last input.
        group_of = np.array(self.group_of)
        sizes = np.bincount(group_of)
        starts = sizes.cumsum() - sizes
        by_group = np.argsort(group_of, kind="stable")
        row = np.minimum(np.arange(sizes.max())[:, None], sizes - 1)
        flat = by_group[starts + row].reshape(-1)
        self._in_turn = np.array_equal(flat, np.arange(in_features))
        # Not buffers: a network built on the meta device would have to fill them again.
        self._members: list[int] = flat.tolist()
        place = np.empty_like(by_group)
        place[by_group] = np.arange(in_features) - np.repeat(starts, sizes)
        self._places: list[int] = (place * num_groups + group_of).tolist()
        self.coefficients = nn.Parameter(
            torch.empty(functions, num_groups, known, device=device, dtype=dtype)
        )
        LearnedFunctions.reset_parameters(self)  # a subclass's own do not exist yet

    def _require_room(self, basis: Basis, grid_size: int) -> None:
        """Checks that there are at most as many functions per input as the basis has."""
        if self.functions > basis.num_functions:
            raise KanDiffusionError(
                f"a {type(self).__name__} has at most as many functions an input as its basis, "
                f"{basis.num_functions} with grid_size={grid_size}, not {self.functions}; raise "
                "grid_size or choose another basis"
            )

    def refined(self, num_intervals: int) -> GridBasis:
        """Makes a copy of the basis with another number of intervals.

        Raises:
            KanDiffusionError: The number is less than 1, or the basis would have fewer functions
                than an input has.
        """
        basis = super().refined(num_intervals)
        self._require_room(basis, num_intervals)
        return basis

    @property
    def groups(self) -> int:
        """Number of groups of inputs."""
        return self.basis.in_features

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Fits every function to its start and adds the noise.

        Args:
            generator: Where the noise comes from; torch's default generator when None.

        Raises:
            KanDiffusionError: The basis does not fit a function of the start to within 10 %.
        """
        self.basis.reset_parameters()
        if self.coefficients.is_meta:
            return
        fitted = self._fit_start()
        self.coefficients.normal_(0, self.noise, generator=generator)
        self.coefficients.add_(fitted.unsqueeze(1).to(self.coefficients))

    def _fit_start(self) -> Tensor:
        """Fits coefficients (R, basis functions) to the start, by least squares in float64."""
        low, high = self._grid_range
        start = self.start
        if isinstance(start, str):
            start = look_up("start", start, STARTS)(self.functions, high - low)
        if len(start) != self.functions:
            raise KanDiffusionError(
                f"a start of {len(start)} functions is not one of {self.functions}; give one for "
                "each"
            )
        alone = self.basis.one_input(0).cpu().double()
        count = _POINTS * self.basis.num_functions + 1
        x = torch.linspace(low, high, count, dtype=torch.float64, device="cpu")
        design = alone(x.unsqueeze(1))[:, 0]
        targets = torch.stack([function(x.clone()) for function in start], dim=1)
        if not bool(targets.isfinite().all()):
            raise KanDiffusionError(
                f"a function of start={self.start!r} is not finite from {low:g} to {high:g}; "
                "choose another start or grid_range"
            )
        solution = torch.linalg.lstsq(design, targets, driver="gelsd").solution
        errors = (design @ solution - targets).square().mean(0).sqrt()
        sizes = targets.square().mean(0).sqrt()
        worst = int((errors - _WORST_FIT * sizes).argmax())
        if errors[worst] > _WORST_FIT * sizes[worst]:
            raise KanDiffusionError(
                f"basis '{self.basis.name}' with {self.basis.num_functions} functions cannot start "
                f"as function {worst + 1} of start={self.start!r}: it is off by "
                f"{float(errors[worst] / sizes[worst]):.0%}; raise grid_size or choose another "
                "start"
            )
        return solution.T

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one row of input.

        An input costs 3 to find its cell and its place there, and each spline of it 2k, for a
        polynomial of degree k in k steps of Horner's scheme. The polynomials of the cells are made
        once per batch and not counted. Another basis costs its functions and their sums.
        """
        if isinstance(self.basis, BSpline):
            return self.in_features * (3 + 2 * self.basis.order * self.functions)
        sums = 2 * self.basis.num_active * self.functions
        return self.in_features * (self.basis.flops_per_input + sums)

    def _rows(self, input: Tensor) -> Tensor:
        """Flattens inputs to rows, in at least the precision of the coefficients."""
        rows = super()._rows(input)
        return rows.to(torch.promote_types(input.dtype, self.coefficients.dtype))

    def kernel_grid(self) -> tuple[Tensor, Tensor, int] | None:
        """Returns origins and steps of the grids and the order; None if the basis has no kernel."""
        basis = self.basis
        if type(basis) is BSpline and basis.extrapolation == "linear" and not has_hooks(basis):
            return basis.grid_origin, basis.grid_step, basis.order
        return None

    def _outputs(self, rows: Tensor) -> Tensor:
        """Evaluates the functions (N, in * R), those of an input side by side."""
        step = self._step(rows)
        return self._in_parts(rows) if step is None else run([step], rows)[0]

    def _step(
        self, rows: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
    ) -> Step | None:
        """Returns functions, or a layer of them, as a step of a kernel; None if none takes it."""
        grid = self.kernel_grid()
        if grid is None:
            return None
        *own, order = grid
        operands = self.coefficients, weight, bias, *own
        kernel = _FUNCTIONS if weight is None else _LAYER
        if not kernel.takes((rows, *operands)):
            return None
        return Step(kernel, operands, (self.group_of, order), self._reference)

    def _reference(
        self,
        x: Tensor,
        coefficients: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        *grid: Tensor,
    ) -> Tensor:
        h = self.by_torch(x, coefficients, *grid)
        return h if weight is None else linear(h, weight, bias)

    def _in_parts(self, x: Tensor) -> Tensor:
        """Evaluates the functions by torch; many of them in parts that keep only their inputs."""
        # Checked before the number of rows, which a compiler would take for a constant.
        whole = torch.compiler.is_compiling() or _transforms_are_active()
        rows = max(1, _MOST_VALUES // (x.shape[1] * self.basis.num_functions))
        if whole or len(x) <= rows:
            return self.by_torch(x, self.coefficients)
        evaluated = partial(
            checkpoint, self.by_torch, use_reentrant=False, preserve_rng_state=False
        )
        return torch.cat([evaluated(part, self.coefficients) for part in x.split(rows)])

    def by_torch(self, x: Tensor, coefficients: Tensor, *grid: Tensor) -> Tensor:
        """Evaluates the functions of rows in torch's own operations, with the parameters given."""
        basis = with_grid(self.basis, *grid) if grid else self.basis
        with in_full_precision(x):
            values = basis(self.grid_rows(x))  # (N * inputs of a group, groups, basis)
            h = torch.einsum("ngb,rgb->ngr", values, coefficients.to(values.dtype))
            h = h.reshape(x.shape[0], len(self._members), self.functions)
            if not self._in_turn:
                h = h[:, self._places]
            return h.flatten(1)

    def grid_rows(self, rows: Tensor) -> Tensor:
        """Makes rows with one input of each group, some repeated: (N, in) -> (M, groups)."""
        if not self._in_turn:
            rows = rows[:, self._members]
        return rows.reshape(rows.shape[0] * (len(self._members) // self.groups), self.groups)

    def outside(self, rows: Tensor) -> Tensor:
        """Tells which inputs lie outside the grid of their group: (N, in), bool."""
        outside = self.basis.outside(self.grid_rows(rows))
        return outside.reshape(len(rows), len(self._members))[:, self._places]

    def on_grids(self, rows: Tensor) -> Tensor:
        """Gives each input the number of its grid: rows (N, groups) -> (N, in_features)."""
        return rows[:, list(self.group_of)]

    def extra_repr(self) -> str:
        """The settings that differ between modules, for ``print``."""
        return f"{self.in_features}, functions={self.functions}, groups={self.groups}"


def _assignment(in_features: int, groups: int | Sequence[int] | None) -> tuple[int, ...]:
    """Returns the group of each input."""
    if groups is None:
        return tuple(range(in_features))
    if isinstance(groups, int):
        if groups < 1 or in_features % groups:
            raise KanDiffusionError(
                f"groups must divide the {in_features} inputs, and {groups} does not; choose one "
                "of "
                + ", ".join(str(n) for n in range(1, in_features + 1) if in_features % n == 0)
                + ", or give the group of each input"
            )
        return tuple(i % groups for i in range(in_features))
    chosen = tuple(int(group) for group in groups)
    if len(chosen) != in_features or set(chosen) != set(range(max(chosen, default=-1) + 1)):
        raise KanDiffusionError(
            f"groups must give each of the {in_features} inputs a group, 0, 1, ... without a gap, "
            f"not {list(chosen)}"
        )
    return chosen
