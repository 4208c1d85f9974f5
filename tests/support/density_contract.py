"""What holds for every density."""

import math

import pytest
import torch

from helpers import randn, seeded
from kan_diffusion.data.densities import CurveDensity, UniformBoxes
from kan_diffusion.formulas.averaged import reference_mean

FEW = ("moons", "two-modes", "checkerboard", "swiss-roll-16d", "mixture-8d")
"""Toys that every run of the tests asks."""


def require_density(density):
    """Its score, mass, moments, units and posterior mean are those of its density and samples."""
    # Points with a noise level of their own each, half of them of flow matching.
    angle = torch.linspace(0.02, 1.56, 300, dtype=torch.float64)
    alpha, sigma = angle.cos(), angle.sin()
    alpha[::2] = 1 - sigma[::2]
    x = alpha[:, None] * density.sample(300, seeded(1)) + sigma[:, None] * randn(300, density.dim)
    logs = density.log_density(x.requires_grad_(), alpha, sigma)
    (gradient,) = torch.autograd.grad(logs.sum(), x)
    score = density.score(x, alpha, sigma)  # by the posterior mean
    torch.testing.assert_close(score, gradient, rtol=1e-7, atol=1e-8)
    with pytest.MonkeyPatch.context() as patch:  # rows do not see each other
        patch.setattr("kan_diffusion.data.densities.CHUNK_ELEMENTS", 1)
        alone = density.score(x, alpha, sigma)
    torch.testing.assert_close(alone, score, rtol=1e-9, atol=1e-9)
    _require_limits(density)

    num = 100_000
    points = density.sample(num, seeded(5))
    error = density.std / math.sqrt(num)
    assert ((points.mean(dim=0) - density.mean).abs() < 5 * error).all()
    torch.testing.assert_close(points.std(dim=0), density.std, rtol=0.015, atol=0)

    shift, scale = randn(density.dim, seed=2), randn(density.dim, seed=6).tanh().exp()
    # Two steps, so that rescaling what was rescaled is tested too.
    half, root = density.rescaled(shift / 3, scale.sqrt()), scale.sqrt()
    rescaled = half.rescaled(2 / 3 * shift / root, root)
    assert type(rescaled) is type(density)
    own = density.sample(200, seeded(2))
    expected = density.log_density(own) + scale.log().sum()
    moved = rescaled.log_density((own - shift) / scale)
    torch.testing.assert_close(moved, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(rescaled.mean, (density.mean - shift) / scale)
    torch.testing.assert_close(rescaled.std, density.std / scale)
    torch.testing.assert_close(rescaled.sample(200, seeded(2)) * scale + shift, own)

    standard = density.rescaled(density.mean, density.std)
    if density.dim == 2:
        if isinstance(density, UniformBoxes):
            fine = 0.25  # divides the fields, so that no cell of the grid lies on an edge
        elif isinstance(density, CurveDensity):
            fine = density.noise
        else:
            fine = float(torch.linalg.eigvalsh(density.covariances).min().sqrt())
        _require_mass_one(density, fine, 1.0, 0.0)
        _require_mass_one(standard, 0.2, 0.8, 0.3)
    _require_posterior_mean_of_samples(standard)


def _require_limits(density):
    """At the ends of the levels the posterior mean is exact, and near them all is finite."""
    x = density.sample(50, seeded())
    torch.testing.assert_close(density.posterior_mean(x, 1.0, 0.0), x)
    for alpha, close in ((0.0, 1e-9), (1e-9, 1e-5)):  # nothing is known, or nearly
        mean = density.posterior_mean(x, alpha, 1.0)
        torch.testing.assert_close(mean, density.mean.expand_as(x), rtol=close, atol=close)
    for alpha, sigma in ((5e-5, 1.0), (1.0, 0.01), (1.0, 1e-5), (0.0, 1.0)):
        near = alpha * x + sigma * randn(*x.shape, seed=4)
        points = torch.cat([near, 30 * near, 1000 * torch.ones(1, density.dim)])
        for function in (density.log_density, density.score, density.posterior_mean):
            assert function(points, alpha, sigma).isfinite().all()
    clean, some = torch.arange(50) % 2 == 0, x.float()
    mixed = density.log_density(some, 1.0, 0.5 * ~clean)
    apart = [density.log_density(some, 1.0, sigma) for sigma in (0.0, 0.5)]
    torch.testing.assert_close(mixed, torch.where(clean, *apart))  # in float64
    assert density.log_density(x[:0]).shape == (0,)
    assert density.sample(0, seeded()).shape == (0, density.dim)


def _require_mass_one(density, step, alpha, sigma):
    """In two dimensions it integrates to one.

    The midpoint rule is spectral for a smooth function that vanishes at the edge: a Gaussian whose
    standard deviation is the step is integrated to 1e-8.
    """
    sample = alpha * density.sample(5000, seeded())
    low, high = (sample.amin(0) / step).floor() - 12, (sample.amax(0) / step).ceil() + 12
    axes = [step * (torch.arange(*ends).double() + 0.5) for ends in zip(low, high, strict=True)]
    mass = density.log_density(torch.cartesian_prod(*axes), alpha, sigma).exp().sum() * step**2
    assert abs(float(mass) - 1) < 1e-6


# Noise at which at least tens of the reference points are near any noised point.
LEVELS = {1: (0.8, 0.6), 2: (0.8, 0.6), 8: (0.6, 0.8), 16: (0.8, 0.6), 32: (0.3, 0.954)}


def _require_posterior_mean_of_samples(density):
    """The posterior mean is that of many samples, where the density is standardised."""
    reference = density.sample(60_000, seeded(2))
    alpha, sigma = LEVELS[density.dim]
    x = alpha * density.sample(60, seeded(3)) + sigma * randn(60, density.dim, seed=4)
    exact = density.posterior_mean(x, alpha, sigma)
    # Standard error of the self-normalised mean over the reference points, row by row.
    shares = (-(torch.cdist(x, alpha * reference) ** 2) / (2 * sigma**2)).softmax(dim=1)
    squares = shares**2
    error = (
        squares @ reference**2
        - 2 * exact * (squares @ reference)
        + exact**2 * squares.sum(dim=1, keepdim=True)
    ).sqrt()
    z = (reference_mean(reference, x, alpha, sigma) - exact) / error
    assert float(z.abs().max()) < 6
    assert 0.2 < float(z.square().mean()) < 3  # rows share the reference points
    assert float(error.median()) < 0.05
