"""A denoiser that knows the answer, so that nothing but the code under test is measured."""

import math

import torch

from helpers import seeded
from kan_diffusion.data.toys import make_toy
from kan_diffusion.diffusion.likelihood import first_noise, log_likelihood
from kan_diffusion.evaluation.oracles import OracleDenoiser


class Off:
    """A density whose posterior mean is off: the noise that it implies by a constant.

    It is off at signal levels above ``least``.
    """

    def __init__(self, density, offset, least):
        self.dim, self.density, self.offset, self.least = density.dim, density, offset, least

    def posterior_mean(self, x, alpha, sigma):
        off = self.offset * (sigma / alpha) * (alpha > self.least)
        return self.density.posterior_mean(x, alpha, sigma) - off[:, None]


def ExactDenoiser(process, density, dtype=torch.float64, offset=0.0, until=math.inf):  # noqa: N802
    """The oracle, with an offset of the predicted noise of timesteps before ``until``."""
    if offset:
        alpha = process.levels()[0]
        density = Off(density, offset, -1 if until == math.inf else float(alpha[until]))
    exact = OracleDenoiser(density, process)
    exact.anchor.data = exact.anchor.data.to(dtype)
    return exact


def errors_of_density(toy, process, num, **options):
    """Errors of the exact denoiser's log-density of points of a toy, and the exact one, (num,)."""
    density = make_toy(toy)
    density = density.rescaled(density.mean, density.std)
    points = density.sample(num, seeded(1))
    exact = density.log_density(points, 1.0, first_noise(process))
    found = log_likelihood(ExactDenoiser(process, density), process, points, **options)
    return (found - exact).abs(), exact
