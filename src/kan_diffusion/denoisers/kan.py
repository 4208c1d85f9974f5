"""The KAN denoiser, a stack of KAN layers on points, time features and labels; its families."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from diffusers.configuration_utils import register_to_config

from kan_diffusion.denoisers.base import ModelMixin, SavedGrids
from kan_diffusion.denoisers.family import Choice, Family, IntRange, Range, Setting, Space
from kan_diffusion.denoisers.features import TimeEncoding
from kan_diffusion.denoisers.flops import kan_flops_per_edge
from kan_diffusion.denoisers.stacks import Stack, StackDenoiser
from kan_diffusion.kan.bases import BasisName, Extrapolation
from kan_diffusion.kan.initialization import INITIALIZATIONS, Initialization
from kan_diffusion.kan.linear import KANLinear
from kan_diffusion.kan.network import KAN

__all__ = ["KAN_FAMILIES", "KANDenoiser", "ModelMixin"]


class KANDenoiser(StackDenoiser, SavedGrids):
    """A denoiser made of KAN layers.

    Args:
        data_dim: Number d of coordinates of a point.
        hidden: Widths of the hidden layers.
        num_train_timesteps: Number T of steps of the process.
        time_encoding: ``"raw"`` or ``"fourier"``, see :mod:`kan_diffusion.denoisers.features`.
        num_time_frequencies: Number of frequencies of ``"fourier"``.
        num_classes: Number of class labels, 0 for an unconditional model.
        bias: Passed to the layers (:class:`kan_diffusion.KANLinear`), as all up to ``init``.
        basis: Name of the basis of the edges' functions.
        grid_size: Number of intervals of the grid.
        order: Degree of the splines.
        grid_range: Ends of the grid, in standardised units.
        extrapolation: What happens outside the grid.
        base_activation: ``"silu"``, None, or ``"auto"``: what suits the basis.
        edge_scale: Whether every edge has a scale of its own.
        init: Name of the initialisation.
        num_input_frequencies: Number of frequencies of the points' own Fourier features
            (:mod:`kan_diffusion.denoisers.features`), 0 for the points alone.
        residual: Whether hidden layers after the first add their input to their output, see
            :mod:`kan_diffusion.denoisers.stacks`.
        modulated: Whether the timestep scales and shifts the hidden layers' outputs instead of
            being an input.
        scaled_inputs: Whether, in a modulated denoiser, the timestep scales the inputs, too.
        blocks: Widths of the blocks of coordinates that it may be told; empty for none.
    """

    @register_to_config
    def __init__(
        self,
        data_dim: int,
        hidden: Sequence[int] = (16,),
        num_train_timesteps: int = 1000,
        time_encoding: TimeEncoding = "fourier",
        num_time_frequencies: int = 3,
        num_classes: int = 0,
        bias: bool = True,
        basis: BasisName = "bspline",
        grid_size: int = 5,
        order: int = 3,
        grid_range: tuple[float, float] = (-2.0, 2.0),
        extrapolation: Extrapolation = "linear",
        base_activation: Literal["silu", "auto"] | None = "auto",
        edge_scale: bool = False,
        init: Initialization = "power-law",
        num_input_frequencies: int = 0,
        residual: bool = False,
        modulated: bool = False,
        scaled_inputs: bool = False,
        blocks: Sequence[int] = (),
    ) -> None:
        super().__init__()
        num_inputs, num_time_features = self._setup_stack()
        low, high = grid_range
        network = KAN(
            [num_inputs, *hidden, data_dim],
            bias,
            basis=basis,
            grid_size=grid_size,
            order=order,
            grid_range=(low, high),
            extrapolation=extrapolation,
            base_activation=base_activation,
            edge_scale=edge_scale,
            init=init,
        )
        self.network = network
        if residual or modulated or scaled_inputs or blocks:
            self.network = Stack(
                list(network.layers),
                hidden,
                residual=residual,
                num_time_features=num_time_features,
                num_scaled_inputs=num_inputs if scaled_inputs else 0,
                num_blocks=len(blocks),
            )

    @property
    def layers(self) -> list[KANLinear]:
        """The layers, inputs first."""
        assert isinstance(self.network, KAN | Stack)
        return [layer for layer in self.network.layers if isinstance(layer, KANLinear)]

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one point."""
        return sum(layer.flops for layer in self.layers) + self._extra_flops

    @property
    def flops_per_edge(self) -> int:
        """``flops``, counted as if every edge evaluated its own functions."""
        return kan_flops_per_edge(self.layers) + self._extra_flops

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh parameters from ``generator`` (torch's default one when None)."""
        for layer in self.layers:
            layer.reset_parameters(generator)
        if self.stack is not None:
            self.stack.reset_parameters()


_SPACE: Space = {
    "learning_rate": Range(5e-3, 5e-2, log=True),
    "depth": IntRange(2, 5),
    "num_time_frequencies": IntRange(2, 5),
}
# Without a base activation all initialisations are the same, so there is none to choose.
_GLOBAL_SPACE: Space = {**_SPACE, "grid_range": Choice(((-2.0, 2.0), (-3.0, 3.0), (-4.0, 4.0)))}
_LOCAL_SPACE: Space = {
    **_GLOBAL_SPACE,
    "grid_size": IntRange(3, 10),
    "init": Choice(tuple(INITIALIZATIONS)),
}
_TIME: dict[str, Setting] = {"num_time_frequencies": 4}
_GLOBAL: dict[str, Setting] = {**_TIME, "grid_size": 4, "grid_range": (-3.0, 3.0)}
_LOCAL: dict[str, Setting] = {**_GLOBAL, "init": "power-law"}


def _family(
    name: str,
    title: str,
    space: Space,
    settings: dict[str, Setting],
    depth: int = 4,
    learning_rate: float = 2e-2,
    compared: bool = True,
) -> Family:
    """A family of KANs."""
    return Family(name, KANDenoiser, depth, learning_rate, settings, "kan", title, space, compared)


KAN_FAMILIES: tuple[Family, ...] = (
    # The initialisation is the best of benchmarks/initializations.py, results/initializations/. The
    # tuned values of all these families are in tuned.json.
    _family("full-kan", "full KAN", _LOCAL_SPACE, _LOCAL, learning_rate=2.3e-2),
    _family("kan-rbf", "KAN RBF", _LOCAL_SPACE, {**_LOCAL, "basis": "rbf"}),
    _family(
        "kan-chebyshev",
        "KAN Chebyshev",
        {**_GLOBAL_SPACE, "grid_size": IntRange(3, 7)},
        {**_GLOBAL, "basis": "chebyshev"},
    ),
    _family(
        "kan-fourier",
        "KAN Fourier",
        {**_GLOBAL_SPACE, "grid_size": IntRange(2, 5)},
        {**_TIME, "basis": "fourier", "grid_size": 3, "grid_range": (-4.0, 4.0)},
    ),
    _family("kan-rational", "KAN rational", _SPACE, {**_TIME, "basis": "rational"}),
    _family(
        "kan-fourier-inputs",
        "KAN Fourier inputs",
        {**_LOCAL_SPACE, "num_input_frequencies": IntRange(2, 5)},
        {**_LOCAL, "num_input_frequencies": 2},
        depth=3,
    ),
    _family("residual-kan", "residual KAN", _LOCAL_SPACE, {**_LOCAL, "residual": True}),
    _family("modulated-kan", "modulated KAN", _LOCAL_SPACE, {**_LOCAL, "modulated": True}),
    # One hidden layer, which the timestep only scales and shifts: few edges, none of them about
    # time. It is meant to be read (kan_diffusion.symbolic); its sizes are too coarse to compare.
    _family(
        "readable-kan",
        "readable KAN",
        {**_LOCAL_SPACE, "depth": IntRange(1, 2)},
        {
            **_LOCAL,
            "num_time_frequencies": 5,
            "grid_size": 8,
            "modulated": True,
            "scaled_inputs": True,
        },
        depth=1,
        compared=False,
    ),
)
"""KANs on several bases and with several ways to take their inputs."""
