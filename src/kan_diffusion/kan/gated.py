r"""Layers whose units have gates, a state that is carried along, and a modulation.

With y the values of the units and q their gates, which the layer before has given side by side, c
the state of that layer and k a code of a few numbers (of a timestep, say),

.. math:: z = \Big(1 + S_0 + \sum_j k_j S_j\Big) \odot y + T_0 + \sum_j k_j T_j + c, \qquad
    \mathrm{output} = W \big(f(z) \odot q\big) + \beta.

:class:`GatedKANLinear` learns f, a few splines that the units share
(:mod:`kan_diffusion.kan.grouped` with R = 1); in :class:`GatedLinear` it is SiLU. Gates are those of
Dauphin et al. 2017 (arXiv:1612.08083), the state is a residual connection (He et al. 2016,
arXiv:1512.03385), and the scales and shifts, zero at first, are those of FiLM (Perez et al. 2018,
arXiv:1709.07871), of low rank. Each layer is one call of a compiled kernel on a CPU
(:mod:`kan_diffusion.kan.kernels.gated`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.bases import BasisName, BSpline, Extrapolation
from kan_diffusion.kan.functions import Start
from kan_diffusion.kan.grouped import GroupedKANLinear
from kan_diffusion.kan.inputs import require_input
from kan_diffusion.kan.kernels import autocasts
from kan_diffusion.kan.kernels.fused import FusedFunction, Step, run

__all__ = ["GatedKANLinear", "GatedLinear", "gated_chain"]

_KERNEL = FusedFunction(
    "gated_linear",
    "gated",
    "Tensor input, Tensor? carried, Tensor? code, Tensor? modulation, Tensor? coefficients, "
    "Tensor weight, Tensor? bias, Tensor? origin, Tensor? step",
    "int[] group_of, int order",
    num_gradients=7,
    output_shapes=lambda input, a, b, c, d, weight, *_: (
        (input.shape[0], weight.shape[0]),
        (input.shape[0], weight.shape[1]),
    ),
    num_outputs=2,
)


class _Gated(nn.Module):
    """The forward pass that both layers have in common."""

    in_features: int
    out_features: int
    gated: bool
    weight: nn.Parameter
    bias: nn.Parameter | None
    modulation: nn.Parameter | None

    def _setup(
        self, gated: bool, rank: int | None, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        if rank is not None and rank < 0:
            raise KanDiffusionError(f"rank must be at least 0, or None, not {rank}")
        self.gated = gated
        self.rank = rank
        self.modulation = None
        if rank is not None:
            empty = torch.zeros(rank + 1, 2, self.in_features, device=device, dtype=dtype)
            self.modulation = nn.Parameter(empty)

    @property
    def flops_of_states(self) -> int:
        """Operations of gates, modulation and the carried state for one row of input."""
        modulated = 0 if self.rank is None else 4 * self.rank + 3
        return self.in_features * (modulated + int(self.gated) + 1)

    def forward(
        self, input: Tensor, carried: Tensor | None = None, code: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Computes the output and the state.

        Args:
            input: Values and, in a gated layer, gates beside them: (N, 2 in_features), else (N,
                in_features).
            carried: The state of the layer before with shape (N, m), or None for zero; where m is
                not in_features, it is cut off or continued by zeros.
            code: Codes with shape (N, rank); None without a modulation.

        Returns:
            The output with shape (N, out_features) and the state z with shape (N, in_features).

        Raises:
            KanDiffusionError: An input has another shape, or is no floating-point tensor.
        """
        require_input(self, input, (1 + int(self.gated)) * self.in_features)
        for name, tensor, width in (("carried", carried, "m"), ("code", code, self.rank)):
            if tensor is None:
                continue
            fits = tensor.ndim == 2 and len(tensor) == len(input)
            if not fits or (name == "code" and tensor.shape[1] != width):
                raise KanDiffusionError(
                    f"{name} must have shape ({len(input)}, {width}), not {tuple(tensor.shape)}"
                )
        if (code is None) != (self.rank is None):
            raise KanDiffusionError(
                f"a layer with rank={self.rank} takes {'no' if code is not None else 'a'} code"
            )
        step = self._step(input, carried, code)
        if step is not None:
            output, state = run([step], input, carried)
            return output, state
        return self._by_torch(input, carried, code, self.modulation, self.weight, self.bias)

    def _step(self, input: Tensor, carried: Tensor | None, code: Tensor | None) -> Step | None:
        """The layer as its kernel has it, or None where it has none for such inputs."""
        own = self._curve_operands()
        if own is None or autocasts(input):
            return None
        coefficients, grid, group_of, order = own
        operands = code, self.modulation, coefficients, self.weight, self.bias, *grid
        if not _KERNEL.takes((input, carried, *operands)):
            return None
        return Step(_KERNEL, operands, (group_of, order), self._reference)

    def _by_torch(
        self,
        input: Tensor,
        carried: Tensor | None,
        code: Tensor | None,
        modulation: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        *curves: Tensor,
    ) -> tuple[Tensor, Tensor]:
        state, gate = self._state(input, carried, code, modulation)
        h = self._curves(state, *curves)
        return linear(h if gate is None else h * gate, weight, bias), state

    def _reference(
        self,
        input: Tensor,
        carried: Tensor | None,
        code: Tensor | None,
        modulation: Tensor | None,
        coefficients: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        *grid: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        curves = [tensor for tensor in (coefficients, *grid) if tensor is not None]
        return self._by_torch(input, carried, code, modulation, weight, bias, *curves)

    def _state(
        self,
        input: Tensor,
        carried: Tensor | None,
        code: Tensor | None,
        modulation: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """The state z, and the gates."""
        state, gate = input, None
        if self.gated:
            state, gate = input.chunk(2, dim=-1)
        if modulation is not None and code is not None:
            rows = modulation[-1] + torch.einsum("nj,jsu->nsu", code, modulation[:-1])
            state = torch.addcmul(rows[:, 1], state, 1 + rows[:, 0])
        if carried is not None:
            wide = min(self.in_features, carried.shape[1])
            state = state + nn.functional.pad(carried[:, :wide], (0, self.in_features - wide))
        return state, gate

    def _curve_operands(
        self,
    ) -> tuple[Tensor | None, tuple[Tensor | None, ...], tuple[int, ...], int] | None:
        """Coefficients, grid, groups and order as the kernel takes them; None where it does not."""
        raise NotImplementedError

    def _curves(self, state: Tensor, *curves: Tensor) -> Tensor:
        """The function of each unit, with coefficients and a grid where they are given."""
        raise NotImplementedError


def gated_chain(layers: Sequence[_Gated], input: Tensor, code: Tensor | None) -> Tensor:
    """Computes the output of gated layers one after another, each of which carries its state on.

    Where all have a kernel they are computed at one go.

    Args:
        layers: The layers, each of which gives as many values as the next one takes.
        input: Values and gates of the first layer.
        code: Codes with shape (N, rank); None without a modulation.
    """
    if not any(layer._forward_pre_hooks or layer._forward_hooks for layer in layers):
        steps = [step for layer in layers if (step := layer._step(input, None, code)) is not None]
        if len(steps) == len(layers):
            return run(steps, input, None)[0]
    state: Tensor | None = None
    for layer in layers:
        input, state = layer(input, state, code)
    return input


class GatedLinear(_Gated):
    """A linear map of gated SiLU units, modulated and residual.

    Args:
        in_features: Number of units.
        out_features: Size of the last dimension of the output.
        bias: Whether to add a learned constant to each output.
        gated: Whether units have gates.
        rank: How many numbers modulate the units, beside constants; None for no modulation.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Attributes:
        weight: Weights with shape (out, in).
        bias: Constants with shape (out,), or None.
        modulation: Scales and shifts for each number of a code, then those for all, with shape
            (rank + 1, 2, in); or None.

    Raises:
        KanDiffusionError: A size or the rank is not usable.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        gated: bool = True,
        rank: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if in_features < 1 or out_features < 1:
            raise KanDiffusionError(
                f"a GatedLinear needs at least one input and one output, not {in_features} and "
                f"{out_features}"
            )
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
        self.bias = None
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        self._setup(gated, rank, device, dtype)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws weights and constants as ``nn.Linear`` does; the modulation is zero.

        Args:
            generator: Where the draws come from; torch's default generator when None.
        """
        bound = 1 / math.sqrt(self.in_features)
        for parameter in (self.weight, self.bias):
            if parameter is not None:
                parameter.uniform_(-bound, bound, generator=generator)
        if self.modulation is not None:
            self.modulation.zero_()

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one row of input; SiLU counts 4."""
        constants = self.out_features if self.bias is not None else 0
        return 2 * self.weight.numel() + constants + 4 * self.in_features + self.flops_of_states

    def _curve_operands(
        self,
    ) -> tuple[Tensor | None, tuple[Tensor | None, ...], tuple[int, ...], int]:
        return None, (None, None), (0,) * self.in_features, 0

    def _curves(self, state: Tensor, *curves: Tensor) -> Tensor:
        return silu(state)

    def extra_repr(self) -> str:
        """The settings that differ between layers, for ``print``."""
        return f"{self.in_features}, {self.out_features}, gated={self.gated}, rank={self.rank}"


class GatedKANLinear(_Gated, GroupedKANLinear):
    """A grouped KAN layer of one function a unit, with gates, modulated and residual.

    Args:
        in_features: Number of units.
        out_features: Size of the last dimension of the output.
        bias: Whether to add a learned constant to each output.
        gated: Whether units have gates.
        rank: How many numbers modulate the units, beside constants; None for no modulation.
        groups: As all that follow, see :class:`~kan_diffusion.kan.grouped.GroupedKANLinear`.
        basis: The functions that a learned one is made of.
        grid_size: Number of intervals of the grid.
        order: Degree of the splines.
        grid_range: Ends of the grid.
        extrapolation: What happens outside the grid.
        start: The function that the learned ones start as.
        noise: Standard deviation of what is added to each coefficient at the start.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Attributes:
        modulation: Scales and shifts for each number of a code, then those for all, with shape
            (rank + 1, 2, in); or None.

    Raises:
        KanDiffusionError: A size, a range, a name or the rank is not usable.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        gated: bool = True,
        rank: int | None = None,
        groups: int | Sequence[int] | None = None,
        basis: BasisName = "bspline",
        grid_size: int = 8,
        order: int = 3,
        grid_range: tuple[float, float] = (-3.0, 3.0),
        extrapolation: Extrapolation = "linear",
        start: Start = "silu",
        noise: float = 1e-3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        GroupedKANLinear.__init__(
            self,
            in_features,
            out_features,
            bias,
            groups=groups,
            basis=basis,
            grid_size=grid_size,
            order=order,
            grid_range=grid_range,
            extrapolation=extrapolation,
            start=start,
            noise=noise,
            device=device,
            dtype=dtype,
        )
        self._setup(gated, rank, device, dtype)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws the parameters of the layer; the modulation is zero.

        Args:
            generator: Where the draws come from; torch's default generator when None.
        """
        GroupedKANLinear.reset_parameters(self, generator)
        if getattr(self, "modulation", None) is not None:
            self.modulation.zero_()

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one row of input."""
        return super().flops + self.flops_of_states

    def _curve_operands(
        self,
    ) -> tuple[Tensor | None, tuple[Tensor | None, ...], tuple[int, ...], int] | None:
        grid = self._grid()
        if grid is None:
            return None
        assert isinstance(self.basis, BSpline)
        return self.coefficients, grid, self.group_of, self.basis.order

    def _curves(self, state: Tensor, *curves: Tensor) -> Tensor:
        return self._spread(state, *curves) if curves else self._functions(state)

    def grid_rows(
        self, input: Tensor, carried: Tensor | None = None, code: Tensor | None = None
    ) -> Tensor:
        """States as rows of one number a grid."""
        return self._by_group(self._state(input, carried, code, self.modulation)[0])

    def on_grids(self, rows: Tensor) -> Tensor:
        """Inputs that have the numbers of their grid's in rows (N, groups), with gates of one."""
        values = super().on_grids(rows)
        return torch.cat([values, torch.ones_like(values)], dim=-1) if self.gated else values

    def extra_repr(self) -> str:
        """The settings that differ between layers, for ``print``."""
        return f"{super().extra_repr()}, gated={self.gated}, rank={self.rank}"
