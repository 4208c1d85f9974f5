"""The MLP denoiser: linear layers with an activation between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn

from kan_diffusion.denoisers.base import Denoiser, ModelMixin
from kan_diffusion.denoisers.time import TimeEncoding
from kan_diffusion.errors import unknown_name

__all__ = ["MLPDenoiser", "ModelMixin"]

MLPInitialization = Literal["torch", "xavier"]

_ACTIVATIONS: dict[str, tuple[type[nn.Module], int]] = {"relu": (nn.ReLU, 1), "silu": (nn.SiLU, 4)}
"""Each activation with the floating-point operations it counts for."""


class MLPDenoiser(Denoiser):
    """A denoiser made of linear layers.

    Args:
        data_dim: Number d of coordinates of a point.
        hidden: Widths of the hidden layers.
        num_train_timesteps: Number T of steps of the process.
        time_encoding: ``"raw"`` or ``"fourier"``, see :mod:`kan_diffusion.denoisers.time`.
        num_time_frequencies: Number of frequencies of ``"fourier"``.
        num_classes: Number of class labels, 0 for an unconditional model.
        activation: ``"silu"`` or ``"relu"``.
        init: ``"torch"``, the initialisation ``nn.Linear`` has, or ``"xavier"``, uniform Glorot
            weights with biases of 0.01, the seed notebook's.

    Raises:
        KanDiffusionError: An activation or initialisation of an unknown name.
    """

    @register_to_config
    def __init__(
        self,
        data_dim: int,
        hidden: Sequence[int] = (32, 32, 32),
        num_train_timesteps: int = 1000,
        time_encoding: TimeEncoding = "fourier",
        num_time_frequencies: int = 3,
        num_classes: int = 0,
        activation: Literal["silu", "relu"] = "silu",
        init: MLPInitialization = "torch",
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise unknown_name("activation", activation, _ACTIVATIONS)
        if init not in get_args(MLPInitialization):
            raise unknown_name("init", init, get_args(MLPInitialization))
        num_inputs = self._setup_inputs(
            data_dim, num_train_timesteps, time_encoding, num_time_frequencies, num_classes
        )
        make_activation, self._activation_flops = _ACTIVATIONS[activation]
        self._init = init
        widths = [num_inputs, *hidden, data_dim]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), make_activation()]
        self.network = nn.Sequential(*layers[:-1])
        self.reset_parameters()

    def _linears(self) -> list[nn.Linear]:
        return [layer for layer in self.network.modules() if isinstance(layer, nn.Linear)]

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one point."""
        linears = self._linears()
        hidden = sum(linear.out_features for linear in linears[:-1])
        products = sum(2 * linear.weight.numel() + linear.out_features for linear in linears)
        return products + hidden * self._activation_flops

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh parameters from ``generator`` (torch's default one when None)."""
        for linear in self._linears():
            if self._init == "xavier":
                nn.init.xavier_uniform_(linear.weight, generator=generator)
                linear.bias.fill_(0.01)
            else:
                bound = 1 / math.sqrt(linear.in_features)
                linear.weight.uniform_(-bound, bound, generator=generator)
                linear.bias.uniform_(-bound, bound, generator=generator)
