"""A denoiser that knows the answer, so that nothing but the code under test is measured."""

import math

import numpy as np
import torch
from torch import nn

from helpers import seeded
from kan_diffusion.data import make_toy
from kan_diffusion.denoisers import PointDenoiser
from kan_diffusion.diffusion.likelihood import first_noise, log_likelihood


class ExactDenoiser(PointDenoiser):
    """Predicts from the exact posterior mean, at whole and fractional timesteps.

    Its only parameter has the dtype that samplers take as theirs. The offset is added to the
    predicted noise of timesteps before ``until``.
    """

    def __init__(self, process, density, dtype=torch.float64, offset=0.0, until=math.inf):
        super().__init__()
        self.data_dim = density.dim
        self.anchor = nn.Parameter(torch.zeros((), dtype=dtype))
        self.process, self.density, self.offset, self.until = process, density, offset, until

    def _levels(self, steps):
        """Levels by another way than the process's own: the angle of signal and noise."""
        num = self.process.num_timesteps
        if self.process.is_flow:
            sigma = (steps + 1) / num
            return torch.from_numpy(1 - sigma), torch.from_numpy(sigma)
        alpha, sigma = (level.numpy() for level in self.process.levels())
        angle = np.arctan(np.exp(np.interp(steps, np.arange(num), np.log(sigma / alpha))))
        return torch.from_numpy(np.cos(angle)), torch.from_numpy(np.sin(angle))

    def _predict(self, points, steps, mask):
        steps = np.broadcast_to(steps.double().numpy(), (len(points),))
        alpha, sigma = self._levels(steps)
        mean = self.density.posterior_mean(points, alpha, sigma)
        a, s = alpha[:, None], sigma[:, None]
        noise = (points - a * mean) / s
        if self.offset:
            noise = noise + self.offset * torch.from_numpy(steps < self.until).double()[:, None]
            mean = (points - s * noise) / a
        prediction = {
            "epsilon": noise,
            "sample": mean,
            "v_prediction": a * noise - s * mean,
            "flow": noise - mean,
        }[self.process.prediction_type]
        return prediction.to(points.dtype)


def errors_of_density(toy, process, num, **options):
    """Errors of the exact denoiser's log-density of points of a toy, and the exact one, (num,)."""
    density = make_toy(toy)
    density = density.rescaled(density.mean, density.std)
    points = density.sample(num, seeded(1))
    exact = density.log_density(points, 1.0, first_noise(process))
    found = log_likelihood(ExactDenoiser(process, density), process, points, **options)
    return (found - exact).abs(), exact
