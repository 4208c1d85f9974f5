"""Denoisers that know the answer, so that nothing but the code under test is measured."""

import math

import numpy as np
import torch
from torch import nn

from helpers import seeded
from kan_diffusion.data import make_toy
from kan_diffusion.denoisers import UNLABELLED, DenoiserOutput, PointDenoiser
from kan_diffusion.denoisers.base import ModelMixin
from kan_diffusion.diffusion.likelihood import first_noise, log_likelihood

__all__ = ["ExactDenoiser", "ModelMixin", "errors_of_density", "require_fourth_order"]


class ExactDenoiser(PointDenoiser):
    """Predicts from the exact posterior mean, at whole and fractional timesteps.

    Args:
        process: The process.
        *densities: One density; or one for each class and then that of unlabelled points.
        dtype: Dtype of the only parameter, which samplers take as theirs.
        offset: Added to the predicted noise.
        until: Timestep from which on nothing is added.
    """

    def __init__(self, process, *densities, dtype=torch.float64, offset=0.0, until=None):
        super().__init__()
        self.num_classes = len(densities) - 1
        self.data_dim = densities[0].dim
        self.anchor = nn.Parameter(torch.zeros((), dtype=dtype))
        self.process, self.densities = process, densities
        self.offset, self.until = offset, math.inf if until is None else until

    def _levels(self, steps):
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
        sample,
        timestep,
        class_labels=None,
        encoder_hidden_states=None,
        observed=None,
        return_dict=True,
    ):
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


def errors_of_density(toy, process, num, *num_steps):
    """Errors of the exact denoiser's log-density of points of a toy, for each number of steps.

    Args:
        toy: Name of the toy.
        process: The process.
        num: Number of points.
        *num_steps: Numbers of steps; the library's own when there are none.

    Returns:
        The absolute errors, (num,) for each number of steps, and the exact log-density.
    """
    density = make_toy(toy)
    density = density.rescaled(density.mean, density.std)
    points = density.sample(num, seeded(1))
    exact = density.log_density(points, 1.0, first_noise(process))
    options = [{"num_steps": steps} for steps in num_steps] or [{}]
    denoiser = ExactDenoiser(process, density)
    found = [log_likelihood(denoiser, process, points, **each) for each in options]
    return (*((each - exact).abs() for each in found), exact)


def require_fourth_order(toy, process, num):
    """Fifty steps are enough for a density, and twice as many are better."""
    error, finer, _ = errors_of_density(toy, process, num, 50, 100)
    assert float(error.max()) < (0.02 if process.is_flow else 0.01)  # flow begins at less noise
    assert float(finer.max()) < float(error.max()) / 6  # or a sixteenth, once steps are small
