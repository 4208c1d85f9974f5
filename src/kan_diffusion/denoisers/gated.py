r"""The gated denoiser: a grouped KAN, and its twin, an MLP with the same tricks; and their families.

With p the features of the points and :math:`\tau` those of the timestep, L linear maps, and scales
s and shifts b of the modulation (a linear map of low rank of :math:`\tau`),

.. math::
    (y_1, q_1) &= L_1(p, \tau), \qquad (y_{k+1}, q_{k+1}) = L_{k+1}\big(f_k(z_k) \odot q_k\big), \\
    z_k &= (1 + s_k(\tau)) \odot y_k + b_k(\tau) + z_{k-1}, \qquad
    \mathrm{prediction} = L_{n+1}\big(f_n(z_n) \odot q_n\big).

In the *grouped KAN* p, :math:`\tau` and f are learned splines: a few of each coordinate and of the
timestep, which start as the coordinate and as waves, and a few of each layer, shared by its units
by turns, which start as SiLU. An edge then is a weighted sum of few functions
(:mod:`kan_diffusion.kan.grouped`). In the *gated MLP* they are fixed at these starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from kan_diffusion.denoisers.base import Denoiser, ModelMixin
from kan_diffusion.denoisers.family import Choice, Family, IntRange, Range, Space
from kan_diffusion.denoisers.features import TimeEncoding
from kan_diffusion.denoisers.flops import linear_flops, linear_flops_per_edge, spline_flops_per_edge
from kan_diffusion.denoisers.mlp import draw_linears
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.functions import LearnedFunctions
from kan_diffusion.kan.gated import GatedKANLinear, GatedLinear, gated_chain
from kan_diffusion.kan.grids import MovingGrids

__all__ = ["GATED_FAMILIES", "GatedDenoiser", "ModelMixin"]

_NOISE = 0.05
"""Standard deviation of what is added to the coefficients of SiLU, by which functions differ."""

_SILU_PER_UNIT = 5
"""Operations of SiLU by the convention of Yu et al."""


class _GatedNetwork(nn.Module):
    """The linear map of the features, then gated layers.

    Args:
        num_inputs: Number of features of points and labels.
        num_time_features: Number of features of the timestep.
        layers: The gated layers.
        rank: How many numbers of the timestep modulate the layers; None for no modulation.
        residual: Whether layers add the state of the layer before to theirs.
    """

    def __init__(
        self,
        num_inputs: int,
        num_time_features: int,
        layers: Sequence[GatedKANLinear | GatedLinear],
        rank: int | None,
        residual: bool,
    ) -> None:
        super().__init__()
        self.residual = residual
        first = layers[0]
        self.first = nn.Linear(num_inputs, (1 + int(first.gated)) * first.in_features)
        self.code = None if rank is None else nn.Linear(num_time_features, rank, bias=False)
        self.layers = nn.ModuleList(layers)

    def forward(self, inputs: Tensor, time: Tensor) -> Tensor:
        """Maps features (B, n) and those of the timestep, (B, m) or (1, m), to (B, d)."""
        code = None if self.code is None else self.code(time).expand(len(inputs), -1)
        output: Tensor = self.first(inputs)
        if self.residual:
            return gated_chain(list(self.layers), output, code)
        for layer in self.layers:
            output, _ = layer(output, None, code)
        return output


class GatedDenoiser(Denoiser, MovingGrids):
    """A denoiser of gated layers with learned functions (a grouped KAN) or fixed ones.

    Args:
        data_dim: Number d of coordinates of a point.
        hidden: Widths of the hidden layers.
        num_train_timesteps: Number T of steps of the process.
        time_encoding: ``"learned"`` or ``"fourier"``, see :mod:`kan_diffusion.denoisers.features`.
        num_time_frequencies: Number of frequencies of the timestep.
        num_classes: Number of class labels, 0 for an unconditional model.
        learned_inputs: Whether the features of the points are learned.
        num_input_frequencies: Number of frequencies of the points' features.
        learned_functions: Whether the layers' functions are learned.
        num_functions: Number of functions that the units of a layer share.
        grid_size: Number of intervals of their grids.
        order: Degree of their splines.
        grid_range: Ends of their grids.
        gated: Whether hidden layers give gates.
        residual: Whether hidden layers after the first add their input to their output, see
            :mod:`kan_diffusion.denoisers.stacks`.
        rank: How many numbers of the timestep scale and shift the hidden units, too; None for no
            modulation.
        blocks: Widths of the blocks of coordinates that it may be told; empty for none.
    """

    @register_to_config
    def __init__(
        self,
        data_dim: int,
        hidden: Sequence[int] = (16, 16, 16),
        num_train_timesteps: int = 1000,
        time_encoding: TimeEncoding = "learned",
        num_time_frequencies: int = 4,
        num_classes: int = 0,
        learned_inputs: bool = True,
        num_input_frequencies: int = 2,
        learned_functions: bool = True,
        num_functions: int = 4,
        grid_size: int = 8,
        order: int = 3,
        grid_range: tuple[float, float] = (-4.0, 4.0),
        gated: bool = True,
        residual: bool = True,
        rank: int | None = 3,
        blocks: Sequence[int] = (),
    ) -> None:
        super().__init__()
        num_inputs = self._setup_inputs(
            data_dim,
            num_train_timesteps,
            time_encoding,
            num_time_frequencies,
            num_classes,
            num_input_frequencies,
            blocks,
            learned_inputs,
        )
        if not hidden:
            raise KanDiffusionError(
                "a gated denoiser needs at least one hidden layer; give hidden one width or more"
            )
        low, high = grid_range
        layers: list[GatedKANLinear | GatedLinear] = []
        for index, (units, following) in enumerate(pairwise([*hidden, data_dim])):
            fan_out = following if index == len(hidden) - 1 else (1 + int(gated)) * following
            if learned_functions:
                layer = GatedKANLinear(
                    units,
                    fan_out,
                    gated=gated,
                    rank=rank,
                    groups=[unit % num_functions for unit in range(units)],
                    grid_size=grid_size,
                    order=order,
                    grid_range=(low, high),
                    noise=_NOISE,
                )
            else:
                layer = GatedLinear(units, fan_out, gated=gated, rank=rank)
            layers.append(layer)
        num_time_features = self.time_features.num_features
        self.network = _GatedNetwork(num_inputs, num_time_features, layers, rank, residual)
        self.reset_parameters()

    @property
    def _network(self) -> _GatedNetwork:
        assert isinstance(self.network, _GatedNetwork)
        return self.network

    @property
    def layers(self) -> list[GatedKANLinear | GatedLinear]:
        """The gated layers, inputs first."""
        layers = self._network.layers
        return [layer for layer in layers if isinstance(layer, GatedKANLinear | GatedLinear)]

    def _predict(self, points: Tensor, steps: Tensor, labels: Tensor | None) -> Tensor:
        time = self.time_features(steps, points.dtype)
        parts = [points, time.expand(len(points), -1)] + [labels] * (labels is not None)
        return self._network(torch.cat(parts, dim=-1), time)

    @property
    def _linears(self) -> list[nn.Linear]:
        network = self._network
        return [network.first] + [network.code] * (network.code is not None)

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one point."""
        return linear_flops(self._linears) + sum(layer.flops for layer in self.layers) + self._input_flops

    @property
    def flops_per_edge(self) -> int:
        """The same where every unit evaluates its spline by the recursion."""
        spline = spline_flops_per_edge(self.config.grid_size, self.config.order)
        layers = sum(
            2 * layer.weight.numel()
            + layer.in_features * (spline if isinstance(layer, GatedKANLinear) else _SILU_PER_UNIT)
            + layer.flops_of_states
            for layer in self.layers
        )
        return linear_flops_per_edge(self._linears) + layers + self._input_flops

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh parameters from ``generator`` (torch's default one when None)."""
        for part in self.modules():
            if isinstance(part, LearnedFunctions | GatedLinear):
                part.reset_parameters(generator)
        draw_linears(self._linears, generator=generator)


_SPACE: Space = {
    "learning_rate": Range(5e-3, 5e-2, log=True),
    "depth": IntRange(2, 4),
    "num_time_frequencies": IntRange(2, 5),
    "num_input_frequencies": IntRange(1, 4),
}

GATED_FAMILIES: tuple[Family, ...] = (
    Family(
        "grouped-kan",
        GatedDenoiser,
        depth=3,
        learning_rate=2e-2,
        kind="kan",
        title="grouped KAN",
        space={
            **_SPACE,
            "num_functions": IntRange(2, 8),
            "grid_size": IntRange(4, 12),
            "grid_range": Choice(((-3.0, 3.0), (-4.0, 4.0))),
        },
    ),
    Family(
        "gated-mlp",
        GatedDenoiser,
        depth=3,
        learning_rate=2e-2,
        settings={"time_encoding": "fourier", "learned_inputs": False, "learned_functions": False},
        kind="mlp",
        title="gated MLP",
        space=_SPACE,
    ),
)
"""The grouped KAN and its twin with fixed functions."""
