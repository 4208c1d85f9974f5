"""A denoiser that knows the answer, so that nothing but the code under test is measured."""

import math

import torch

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
