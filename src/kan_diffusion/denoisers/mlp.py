"""The MLP denoiser, linear layers with an activation between them, and its families."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn

from kan_diffusion.denoisers.base import ModelMixin
from kan_diffusion.denoisers.family import Family, IntRange, Range, Setting, Space
from kan_diffusion.denoisers.features import TimeEncoding
from kan_diffusion.denoisers.flops import linear_flops, linear_flops_per_edge
from kan_diffusion.denoisers.stacks import Stack, StackDenoiser
from kan_diffusion.errors import require_known

__all__ = ["MLP_FAMILIES", "MLPDenoiser", "MLPInitialization", "ModelMixin", "draw_linears"]

MLPInitialization = Literal["torch", "xavier"]

_ACTIVATIONS: dict[str, tuple[type[nn.Module], int, int]] = {
    "relu": (nn.ReLU, 1, 1),
    "silu": (nn.SiLU, 4, 5),
}
"""Module of each activation, and its operations by this package's and by Yu et al.'s count."""


@torch.no_grad()
def draw_linears(
    linears: Iterable[nn.Linear],
    init: MLPInitialization = "torch",
    generator: torch.Generator | None = None,
) -> None:
    """Draws the weights and biases of linear layers.

    Args:
        linears: The layers, drawn in this order.
        init: ``"torch"`` or ``"xavier"``, see :class:`MLPDenoiser`.
        generator: Where the draws come from; torch's default generator when None.
    """
    for linear in linears:
        if init == "xavier":
            nn.init.xavier_uniform_(linear.weight, generator=generator)
            linear.bias.fill_(0.01)
        else:
            bound = 1 / math.sqrt(linear.in_features)
            linear.weight.uniform_(-bound, bound, generator=generator)
            if linear.bias is not None:
                linear.bias.uniform_(-bound, bound, generator=generator)


class MLPDenoiser(StackDenoiser):
    """A denoiser made of linear layers.

    Args:
        data_dim: Number d of coordinates of a point.
        hidden: Widths of the hidden layers.
        num_train_timesteps: Number T of steps of the process.
        time_encoding: ``"raw"`` or ``"fourier"``, see :mod:`kan_diffusion.denoisers.features`.
        num_time_frequencies: Number of frequencies of ``"fourier"``.
        num_classes: Number of class labels, 0 for an unconditional model.
        activation: ``"silu"`` or ``"relu"``.
        init: ``"torch"``, the initialisation of ``nn.Linear``, or ``"xavier"``, uniform Glorot
            weights with biases of 0.01 as in the original notebook.
        num_input_frequencies: Number of frequencies of the points' own Fourier features
            (:mod:`kan_diffusion.denoisers.features`), 0 for the points alone.
        residual: Whether hidden layers after the first add their input to their output, see
            :mod:`kan_diffusion.denoisers.stacks`.
        modulated: Whether the timestep scales and shifts the hidden units, before their activation,
            instead of being an input.
        blocks: Widths of the blocks of coordinates that it may be told; empty for none.

    Raises:
        KanDiffusionError: The activation or the initialisation is unknown.
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
        num_input_frequencies: int = 0,
        residual: bool = False,
        modulated: bool = False,
        blocks: Sequence[int] = (),
    ) -> None:
        super().__init__()
        require_known("activation", activation, _ACTIVATIONS)
        require_known("init", init, get_args(MLPInitialization))
        num_inputs, num_time_features = self._setup_stack()
        make_activation, self._activation_flops, self._activation_flops_per_edge = _ACTIVATIONS[
            activation
        ]
        self._init: MLPInitialization = init
        linears = [nn.Linear(a, b) for a, b in pairwise([num_inputs, *hidden, data_dim])]
        if residual or modulated or blocks:
            self.network = Stack(
                linears,
                hidden,
                activation=make_activation(),
                residual=residual,
                num_time_features=num_time_features,
                num_blocks=len(blocks),
            )
        else:
            layers: list[nn.Module] = []
            for linear in linears:
                layers += [linear, make_activation()]
            self.network = nn.Sequential(*layers[:-1])
        self.reset_parameters()

    def _linears(self) -> list[nn.Linear]:
        layers = self.network.children() if self.stack is None else self.stack.layers
        return [layer for layer in layers if isinstance(layer, nn.Linear)]

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one point."""
        activations = sum(self.config.hidden) * self._activation_flops
        return linear_flops(self._linears()) + activations + self._extra_flops

    @property
    def flops_per_edge(self) -> int:
        """``flops`` by the convention of Yu et al. 2024 (arXiv:2407.16674)."""
        activations = sum(self.config.hidden) * self._activation_flops_per_edge
        return linear_flops_per_edge(self._linears()) + activations + self._extra_flops

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh parameters from ``generator`` (torch's default one when None)."""
        draw_linears(self._linears(), self._init, generator)
        if self.stack is not None:
            self.stack.reset_parameters()


_SPACE: Space = {
    "learning_rate": Range(5e-3, 5e-2, log=True),
    "depth": IntRange(3, 7),
    "num_time_frequencies": IntRange(2, 5),
}


def _family(
    name: str,
    title: str,
    settings: dict[str, Setting],
    depth: int = 5,
    learning_rate: float = 2e-2,
    **more: IntRange,
) -> Family:
    """A family of MLPs."""
    settings = {"num_time_frequencies": 3, **settings}
    space = {**_SPACE, **more}
    return Family(name, MLPDenoiser, depth, learning_rate, settings, "mlp", title, space)


MLP_FAMILIES: tuple[Family, ...] = (
    # The tuned values of all these families are in tuned.json.
    _family("mlp", "MLP", {}, depth=6, learning_rate=2.2e-2),
    _family("mlp-relu", "MLP ReLU", {"activation": "relu"}),
    _family(
        "mlp-fourier-inputs",
        "MLP Fourier inputs",
        {"num_input_frequencies": 2},
        num_input_frequencies=IntRange(2, 5),
    ),
    _family("residual-mlp", "residual MLP", {"residual": True}),
    _family("modulated-mlp", "modulated MLP", {"modulated": True}),
)
"""MLPs with several activations and several ways to take their inputs."""
