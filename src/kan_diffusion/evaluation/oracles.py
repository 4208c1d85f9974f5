"""The oracle: the posterior mean E[x_0 | x_t], which no denoiser beats in squared error.

A density is its own oracle (:meth:`kan_diffusion.data.densities.Density.posterior_mean`).
`OracleDenoiser` makes a denoiser of it: samplers with it show what the best one would do. It works
on standardised points.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from kan_diffusion.data.densities import Density
from kan_diffusion.denoisers.base import PointDenoiser
from kan_diffusion.processes import Process


class OracleDenoiser(PointDenoiser):
    """The exact denoiser of a density, the best that any network can become.

    Levels between two timesteps of the process are interpolated: linearly in log(sigma / alpha) for
    diffusion, in sigma for flow matching.

    Args:
        density: The density of clean points, standardised.
        process: The noising process.
    """

    def __init__(self, density: Density, process: Process) -> None:
        super().__init__()
        self.density, self.process = density, process
        self._levels = tuple(level.numpy() for level in process.levels())
        self.register_to_config(data_dim=density.dim)
        # Has the dtype of trained networks, so that samplers start from the same noise.
        self.anchor = nn.Parameter(torch.zeros(()), requires_grad=False)

    def _predict(self, points: Tensor, steps: Tensor, mask: Tensor | None) -> Tensor:
        noised, num = points.double(), len(points)
        alpha, sigma = (level.to(points.device).expand(num) for level in self._levels_at(steps))
        mean = self.density.posterior_mean(noised, alpha, sigma)
        return self.process.prediction_of_mean(mean, noised, alpha, sigma).to(points.dtype)

    def _levels_at(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Interpolates the signal and noise levels of timesteps, float64 with their shape."""
        alphas, sigmas = self._levels
        known, wanted = np.arange(len(sigmas)), steps.cpu().double().numpy()
        if self.process.is_flow:
            sigma = np.interp(wanted, known, sigmas)
            return torch.from_numpy(1 - sigma), torch.from_numpy(sigma)
        ratio = np.exp(np.interp(wanted, known, np.log(sigmas / alphas)))
        alpha = 1 / np.hypot(1.0, ratio)
        return torch.from_numpy(alpha), torch.from_numpy(ratio * alpha)
