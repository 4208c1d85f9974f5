"""The spline MLP: linear layers whose units each have a learned spline as their activation.

It is a control between MLPs and KANs: its functions are learned as in a KAN, but there is one per
unit and not one per edge. Where it does as well as a KAN, it is the splines that help; where it
does not, it is the edges (the ablation of Yu et al. 2024, arXiv:2407.16674).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn

from kan_diffusion.denoisers.base import ModelMixin, SavedGrids
from kan_diffusion.denoisers.family import Choice, Family, IntRange, Range
from kan_diffusion.denoisers.features import TimeEncoding
from kan_diffusion.denoisers.flops import (
    linear_flops,
    linear_flops_per_edge,
    spline_flops_per_edge,
)
from kan_diffusion.denoisers.mlp import draw_linears
from kan_diffusion.denoisers.points import PointDenoiser
from kan_diffusion.kan.bases import BSpline
from kan_diffusion.kan.functions import LearnedFunctions

__all__ = ["SPLINE_MLP", "ModelMixin", "SplineMLPDenoiser"]


class SplineMLPDenoiser(PointDenoiser, SavedGrids):
    """A denoiser made of linear layers with a learned spline at each hidden unit.

    Args:
        data_dim: Number d of coordinates of a point.
        hidden: Widths of the hidden layers.
        num_train_timesteps: Number T of steps of the process.
        time_encoding: ``"raw"`` or ``"fourier"``, see :mod:`kan_diffusion.denoisers.features`.
        num_time_frequencies: Number of frequencies of ``"fourier"``.
        num_classes: Number of class labels, 0 for an unconditional model.
        grid_size: Number of intervals of each spline.
        order: Degree of the splines.
        grid_range: Ends of their grids.
        num_input_frequencies: Number of frequencies of the points' own Fourier features
            (:mod:`kan_diffusion.denoisers.features`), 0 for the points alone.
        blocks: Widths of the blocks of coordinates that it may be told; empty for none.
    """

    @register_to_config
    def __init__(
        self,
        data_dim: int,
        hidden: Sequence[int] = (24, 24, 24),
        num_train_timesteps: int = 1000,
        time_encoding: TimeEncoding = "fourier",
        num_time_frequencies: int = 3,
        num_classes: int = 0,
        grid_size: int = 8,
        order: int = 3,
        grid_range: tuple[float, float] = (-3.0, 3.0),
        num_input_frequencies: int = 0,
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
        )
        low, high = grid_range
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise([num_inputs, *hidden]):
            layers.append(nn.Linear(fan_in, fan_out))
            layers.append(
                LearnedFunctions(fan_out, grid_size=grid_size, order=order, grid_range=(low, high))
            )
        layers.append(nn.Linear([num_inputs, *hidden][-1], data_dim))
        self.network = nn.Sequential(*layers)
        self.reset_parameters()

    def _linears(self) -> list[nn.Linear]:
        return [layer for layer in self.network.children() if isinstance(layer, nn.Linear)]

    def _activations(self) -> list[LearnedFunctions]:
        return [layer for layer in self.network.children() if isinstance(layer, LearnedFunctions)]

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one point."""
        splines = sum(activation.flops for activation in self._activations())
        return linear_flops(self._linears()) + splines + self._input_flops

    @property
    def flops_per_edge(self) -> int:
        """``flops``, counted as if every unit evaluated its spline by the recursion."""
        total = linear_flops_per_edge(self._linears()) + self._input_flops
        for part in self._activations():
            assert isinstance(part.basis, BSpline)
            total += part.in_features * spline_flops_per_edge(part.grid_size, part.basis.order)
        return total

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh parameters from ``generator`` (torch's default one when None)."""
        draw_linears(self._linears(), generator=generator)
        for activation in self._activations():
            activation.reset_parameters(generator)


SPLINE_MLP = Family(
    "spline-mlp",
    SplineMLPDenoiser,
    depth=3,
    learning_rate=2e-2,
    settings={"num_time_frequencies": 4, "grid_size": 8, "grid_range": (-3.0, 3.0)},
    kind="other",
    title="spline-MLP",
    space={
        "learning_rate": Range(5e-3, 5e-2, log=True),
        "depth": IntRange(2, 5),
        "num_time_frequencies": IntRange(2, 5),
        "grid_size": IntRange(4, 12),
        "grid_range": Choice(((-2.0, 2.0), (-3.0, 3.0), (-4.0, 4.0))),
    },
)
"""The control between KAN and MLP."""
