"""Denoisers that know the answer, so that nothing but the code under test is measured."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from kan_diffusion.data import Density
from kan_diffusion.denoisers import UNLABELLED, DenoiserOutput, PointDenoiser
from kan_diffusion.denoisers.base import ModelMixin
from kan_diffusion.processes import Process

__all__ = ["ExactDenoiser", "ModelMixin"]


class ExactDenoiser(PointDenoiser):
    """Predicts from the exact posterior mean, at whole and fractional timesteps.

    Args:
        process: The process.
        *densities: One density; or one for each class and then that of unlabelled points.
        dtype: Dtype of the only parameter, which samplers take as theirs.
        offset: Added to the predicted noise.
        until: Timestep from which on nothing is added.
    """

    def __init__(
        self,
        process: Process,
        *densities: Density,
        dtype: torch.dtype = torch.float64,
        offset: float = 0.0,
        until: int | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = len(densities) - 1
        self.data_dim = densities[0].dim
        self.anchor = nn.Parameter(torch.zeros((), dtype=dtype))
        self.process, self.densities = process, densities
        self.offset, self.until = offset, math.inf if until is None else until

    def _levels(self, steps: np.ndarray) -> tuple[Tensor, Tensor]:
        """Levels by another way than the process's own: the angle of signal and noise."""
        num = self.process.num_timesteps
        if self.process.is_flow:
            sigma = (steps + 1) / num
            return torch.from_numpy(1 - sigma), torch.from_numpy(sigma)
        alpha, sigma = (level.numpy() for level in self.process.levels())
        angle = np.arctan(np.exp(np.interp(steps, np.arange(num), np.log(sigma / alpha))))
        return torch.from_numpy(np.cos(angle)), torch.from_numpy(np.sin(angle))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        observed: Tensor | None = None,
        return_dict: bool = True,
    ) -> DenoiserOutput | tuple[Tensor]:
        steps = np.broadcast_to(np.asarray(timestep, dtype=np.float64), (len(sample),))
        alpha, sigma = self._levels(steps)
        mean = self.densities[UNLABELLED].posterior_mean(sample, alpha, sigma)
        if class_labels is not None:
            for label in range(self.num_classes):
                rows = class_labels == label
                levels = alpha[rows], sigma[rows]
                mean[rows] = self.densities[label].posterior_mean(sample[rows], *levels)
        a, s = alpha[:, None], sigma[:, None]
        noise = (sample - a * mean) / s
        if self.offset:
            noise = noise + self.offset * torch.from_numpy(steps < self.until).double()[:, None]
            mean = (sample - s * noise) / a
        kind = self.process.prediction_type
        prediction = {
            "epsilon": noise,
            "sample": mean,
            "v_prediction": a * noise - s * mean,
            "flow": noise - mean,
        }[kind].to(sample.dtype)
        return DenoiserOutput(sample=prediction) if return_dict else (prediction,)
