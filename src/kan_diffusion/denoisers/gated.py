r"""The gated denoiser, as a grouped KAN and as an MLP of the same structure, and their families.

With p features of the points and the timestep, L linear maps, :math:`\tau` a fraction of time, and
scales s and shifts b that are linear in a code of a few functions of :math:`\tau`,

.. math::
    (y_1, q_1) &= L_1\,p(x, \tau), \qquad
    (y_{k+1}, q_{k+1}) = L_{k+1}\big(f_k(z_k) \odot q_k\big), \\
    z_k &= (1 + s_k(\tau)) \odot y_k + b_k(\tau) + z_{k-1}, \qquad
    \mathrm{prediction} = L_{n+1}\big(f_n(z_n) \odot q_n\big).

In the *grouped KAN*, p, the code and f are learned splines, and an edge is a weighted sum of few of
them (:mod:`kan_diffusion.kan.grouped`, :mod:`kan_diffusion.kan.gated`). Each coordinate and the
timestep have a few functions, which start as the input and waves of it; each layer has a few, which
its units share in turn and which start as SiLU. In the *gated MLP*, p are fixed waves
(:mod:`kan_diffusion.denoisers.features`), the code is a linear map of waves, and f is SiLU.
Both clamp the coordinates to [-4, 4], where nearly all standardised and noised points lie: over the
layers, products of values and gates grow as a power of the inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from kan_diffusion.denoisers.base import ModelMixin, SavedGrids
from kan_diffusion.denoisers.family import Choice, Family, IntRange, Range, Space
from kan_diffusion.denoisers.flops import linear_flops, linear_flops_per_edge, spline_flops_per_edge
from kan_diffusion.denoisers.mlp import draw_linears
from kan_diffusion.denoisers.points import PointDenoiser
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.bases import BSpline
from kan_diffusion.kan.functions import LearnedFunctions
from kan_diffusion.kan.gated import GatedLinear, gated_chain
from kan_diffusion.kan.grouped import GroupedKANLinear

__all__ = ["GATED_FAMILIES", "GatedDenoiser", "ModelMixin"]

_NOISE = 0.05
"""Standard deviation of the noise by which functions that start as SiLU differ."""

_FEATURES, _MOST_FREQUENCIES = 21, 3
"""Default limits on the features of all inputs and on the frequencies of one input."""

_INPUT_RANGE = -4.0, 4.0
"""Grid of learned features: nearly all standardised and noised points lie in it."""

_SILU_PER_UNIT = 5
"""Operations of SiLU by the convention of Yu et al."""


def _frequencies(data_dim: int) -> int:
    """Default frequencies per input: as many as keep all inputs within ``_FEATURES``, or 0."""
    functions = _FEATURES // (data_dim + 1)
    return max(0, min(_MOST_FREQUENCIES, (functions - 1) // 2))


class _GatedNetwork(nn.Module):
    """Features of points and timestep, then gated layers.

    Args:
        first: The first layer, from inputs or their features to values and gates.
        code: Maps the timestep, or its features, to the code that modulates the layers; None for no
            modulation.
        layers: The gated layers.
        num_told: Number of labels and told blocks, which shift the first layer's output.
        residual: Whether each layer adds the state of the previous layer to its own.
    """

    def __init__(
        self,
        first: GroupedKANLinear | nn.Linear,
        code: LearnedFunctions | nn.Linear | None,
        layers: Sequence[GatedLinear],
        num_told: int,
        residual: bool,
    ) -> None:
        super().__init__()
        self.first = first
        self.code = code
        self.layers = nn.ModuleList(layers)
        self.told = nn.Linear(num_told, first.out_features, bias=False) if num_told else None
        self.residual = residual

    def forward(self, inputs: Tensor, time: Tensor, told: Tensor | None) -> Tensor:
        """Maps inputs (B, n) and inputs of the code, (B, m) or (1, m), to (B, d)."""
        code = None if self.code is None else self.code(time).expand(inputs.shape[0], -1)
        layers = self.gated_layers
        if self.residual and told is None and isinstance(self.first, GroupedKANLinear):
            return gated_chain(layers, inputs, code, self.first)
        output: Tensor = self.first(inputs)
        if self.told is not None and told is not None:
            output = output + self.told(told)
        if self.residual:
            return gated_chain(layers, output, code)
        for layer in layers:
            output, _ = layer(output, None, code)
        return output

    @property
    def gated_layers(self) -> list[GatedLinear]:
        """The gated layers, inputs first."""
        return [layer for layer in self.layers if isinstance(layer, GatedLinear)]


class GatedDenoiser(PointDenoiser, SavedGrids):
    """A denoiser of gated layers with learned functions (a grouped KAN) or fixed ones.

    Args:
        data_dim: Number d of coordinates of a point.
        hidden: Widths of the hidden layers.
        num_train_timesteps: Number T of steps of the process.
        num_classes: Number of class labels, 0 for an unconditional model.
        learned_inputs: Whether the features of points and timestep are learned.
        num_input_frequencies: Number of frequencies of each coordinate, and of the timestep if its
            features are learned; None for at most three, with about twenty features, and at
            least one of learned features if there are blocks.
        num_time_frequencies: Number of frequencies of fixed features of the timestep.
        input_grid_size: Number of intervals of the grids of learned features.
        learned_functions: Whether the layers' functions are learned.
        num_functions: Number of functions that the units of a layer share.
        grid_size: Number of intervals of the layers' grids.
        order: Degree of the layers' splines.
        grid_range: Ends of the layers' grids.
        function_rate: Learning rate of all learned functions relative to that of other parameters.
        gated: Whether hidden layers have gates.
        residual: Whether hidden layers after the first add their input to their output, see
            :mod:`kan_diffusion.denoisers.stacks`.
        rank: Size of the code of the timestep that scales and shifts the hidden units; None for no
            modulation.
        blocks: Widths of the blocks of coordinates that it may be told; empty for none.
    """

    grid_settings = "grid_size", "input_grid_size"

    @register_to_config
    def __init__(
        self,
        data_dim: int,
        hidden: Sequence[int] = (16, 16, 16),
        num_train_timesteps: int = 1000,
        num_classes: int = 0,
        learned_inputs: bool = True,
        num_input_frequencies: int | None = None,
        num_time_frequencies: int = 4,
        input_grid_size: int = 16,
        learned_functions: bool = True,
        num_functions: int = 4,
        grid_size: int = 8,
        order: int = 3,
        grid_range: tuple[float, float] = (-4.0, 4.0),
        function_rate: float = 3.0,
        gated: bool = True,
        residual: bool = True,
        rank: int | None = 3,
        blocks: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if num_input_frequencies is None:
            # Alone, the function of an input of two values learns what takes the noise off it,
            # which is zero at both values, and loses which of them it is.
            num_input_frequencies = max(
                _frequencies(data_dim), int(learned_inputs and bool(blocks))
            )
        if not hidden:
            raise KanDiffusionError(
                "a gated denoiser needs at least one hidden layer; give hidden one width or more"
            )
        if num_functions < 1 or rank == 0:
            raise KanDiffusionError(
                f"a gated denoiser needs num_functions and rank of at least 1, not {num_functions} "
                f"and {rank}; give rank=None for no modulation"
            )
        low, high = grid_range
        layers = []
        for index, units in enumerate(hidden):
            last = index == len(hidden) - 1
            fan_out = data_dim if last else (1 + int(gated)) * hidden[index + 1]
            functions = None
            if learned_functions:
                functions = LearnedFunctions(
                    units,
                    groups=[unit % num_functions for unit in range(units)],
                    grid_size=grid_size,
                    order=order,
                    grid_range=(low, high),
                    noise=_NOISE,
                    rate=function_rate,
                )
            layer = GatedLinear(units, fan_out, gated=gated, rank=rank, functions=functions)
            layers.append(layer)
        num_told = num_classes + len(blocks)
        frequencies = 0 if learned_inputs else num_input_frequencies
        num_features = self._setup_inputs(
            data_dim,
            num_train_timesteps,
            "raw" if learned_inputs else "fourier",
            num_time_frequencies,
            num_classes,
            frequencies,
            blocks,
        )
        num_features -= num_told
        first: GroupedKANLinear | nn.Linear
        code: LearnedFunctions | nn.Linear | None = None
        width = (1 + int(gated)) * hidden[0]
        if learned_inputs:
            waves: dict[str, Any] = {
                "grid_size": input_grid_size,
                "grid_range": _INPUT_RANGE,
                "start": "waves",
                "noise": 0.0,
                "rate": function_rate,
            }
            functions_per_input = 1 + 2 * num_input_frequencies
            first = GroupedKANLinear(num_features, width, functions=functions_per_input, **waves)
            if rank is not None:
                code = LearnedFunctions(1, rank, **waves)
        else:
            first = nn.Linear(num_features, width)
            if rank is not None:
                code = nn.Linear(self.time_features.num_features, rank, bias=False)
        self.network = _GatedNetwork(first, code, layers, num_told, residual)
        self.reset_parameters()

    @property
    def _network(self) -> _GatedNetwork:
        assert isinstance(self.network, _GatedNetwork)
        return self.network

    def _features(self, sample: Tensor) -> Tensor:
        return super()._features(sample.clamp(*_INPUT_RANGE))

    def _predict(self, points: Tensor, steps: Tensor, labels: Tensor | None) -> Tensor:
        time = self.time_features(steps, points.dtype)
        if isinstance(self._network.first, GroupedKANLinear):
            low, high = _INPUT_RANGE
            time = low + (high - low) * time
        inputs = torch.cat([points, time.expand(points.shape[0], -1)], dim=-1)
        return self._network(inputs, time, labels)

    @property
    def _linears(self) -> list[nn.Linear]:
        network = self._network
        parts = network.first, network.code, network.told
        return [part for part in parts if isinstance(part, nn.Linear)]

    def _learned(self) -> list[LearnedFunctions]:
        return [part for part in self.modules() if isinstance(part, LearnedFunctions)]

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one point."""
        network = self._network
        total = linear_flops(self._linears) + self._input_flops
        for part in (network.first, network.code):
            total += part.flops if isinstance(part, LearnedFunctions) else 0
        return total + sum(layer.flops for layer in network.gated_layers)

    @property
    def flops_per_edge(self) -> int:
        """``flops``, counted as if the recursion evaluated every function of every input."""
        network = self._network
        total = linear_flops_per_edge(self._linears) + self._input_flops
        for part in self._learned():
            assert isinstance(part.basis, BSpline)
            spline = spline_flops_per_edge(part.grid_size, part.basis.order)
            total += part.in_features * part.functions * spline
        if isinstance(network.first, GroupedKANLinear):
            total += 2 * network.first.weight.numel()
        for layer in network.gated_layers:
            fixed = _SILU_PER_UNIT * layer.in_features * (layer.functions is None)
            total += 2 * layer.weight.numel() + layer.flops_of_states + fixed
        return total

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh parameters from ``generator`` (torch's default one when None)."""
        network = self._network
        for part in (network.first, network.code, *network.gated_layers):
            if isinstance(part, LearnedFunctions | GatedLinear):
                part.reset_parameters(generator)
        draw_linears(self._linears, generator=generator)
        if network.told is not None:
            nn.init.zeros_(network.told.weight)


_SPACE: Space = {
    "learning_rate": Range(5e-3, 5e-2, log=True),
    "depth": IntRange(2, 4),
}

GATED_FAMILIES: tuple[Family, ...] = (
    Family(
        "kan",
        GatedDenoiser,
        depth=3,
        learning_rate=2e-2,
        settings={
            "num_functions": 4,
            "grid_size": 8,
            "grid_range": (-4.0, 4.0),
            "function_rate": 3.0,
        },
        kind="kan",
        title="KAN",
        space={
            **_SPACE,
            "num_functions": IntRange(2, 8),
            "grid_size": IntRange(4, 16),
            "grid_range": Choice(((-3.0, 3.0), (-4.0, 4.0))),
            "function_rate": Range(1.0, 6.0, log=True),
        },
    ),
    Family(
        "gated-mlp",
        GatedDenoiser,
        depth=3,
        learning_rate=2e-2,
        settings={
            "learned_inputs": False,
            "learned_functions": False,
            "num_time_frequencies": 4,
        },
        kind="mlp",
        title="gated MLP",
        space={**_SPACE, "num_time_frequencies": IntRange(2, 5)},
    ),
)
"""The KAN of the comparisons, and its twin with fixed functions."""
