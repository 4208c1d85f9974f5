"""The KAN denoiser: a stack of KAN layers on points, time features and labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from diffusers.configuration_utils import register_to_config

from kan_diffusion.denoisers.base import Denoiser, ModelMixin
from kan_diffusion.denoisers.time import TimeEncoding
from kan_diffusion.kan import grids
from kan_diffusion.kan.bases import BasisName, Extrapolation
from kan_diffusion.kan.grids import Average, MovingGrids
from kan_diffusion.kan.initialization import Initialization
from kan_diffusion.kan.network import KAN

__all__ = ["KANDenoiser", "ModelMixin"]


class KANDenoiser(Denoiser, MovingGrids):
    """A denoiser made of KAN layers.

    Args:
        data_dim: Number d of coordinates of a point.
        hidden: Widths of the hidden layers.
        num_train_timesteps: Number T of steps of the process.
        time_encoding: ``"raw"`` or ``"fourier"``, see :mod:`kan_diffusion.denoisers.time`.
        num_time_frequencies: Number of frequencies of ``"fourier"``.
        num_classes: Number of class labels, 0 for an unconditional model.
        bias: As all that follow, handed to the layers (:class:`kan_diffusion.KANLinear`).
        basis: The functions an edge is made of, by name.
        grid_size: Number of intervals of the grid.
        order: Degree of the splines.
        grid_range: Ends of the grid, in standardised units.
        extrapolation: What happens outside the grid.
        base_activation: ``"silu"``, None, or ``"auto"``: what suits the basis.
        edge_scale: Whether every edge has a scale of its own.
        init: Initialisation by name.
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
    ) -> None:
        super().__init__()
        num_inputs = self._setup_inputs(
            data_dim, num_train_timesteps, time_encoding, num_time_frequencies, num_classes
        )
        low, high = grid_range
        self.network = KAN(
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

    def refine(
        self,
        num_intervals: int,
        *inputs: object,
        optimizer: torch.optim.Optimizer | None = None,
        averages: Iterable[Average] = (),
    ) -> float:
        """Gives every grid another number of intervals: :func:`kan_diffusion.kan.refine`.

        The configuration follows, so that the denoiser is saved and loaded as it is.
        """
        change = grids.refine(self, num_intervals, *inputs, optimizer=optimizer, averages=averages)
        self.register_to_config(grid_size=num_intervals)  # type: ignore[operator]
        return change

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one point."""
        assert isinstance(self.network, KAN)
        return self.network.flops

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh parameters from ``generator`` (torch's default one when None)."""
        assert isinstance(self.network, KAN)
        self.network.reset_parameters(generator)
