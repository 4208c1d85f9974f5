"""What holds for every density, and for every toy."""

import math

import numpy as np
import torch

from helpers import randn, seeded
from kan_diffusion.data.densities import CurveDensity, UniformBoxes
from kan_diffusion.data.toys import make_toy
from kan_diffusion.evaluation.oracles import reference_mean


def noised(density, num, seed=1):
    """Points x_t with a noise level of their own each, half of them of flow matching."""
    generator = seeded(seed)
    angle = torch.rand(num, generator=generator, dtype=torch.float64) * 1.54 + 0.02
    alpha, sigma = angle.cos(), angle.sin()
    alpha[::2] = 1 - sigma[::2]
    clean = density.sample(num, generator)
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    return alpha[:, None] * clean + sigma[:, None] * noise, alpha, sigma


def require_density(density):
    """Its score, and with it the posterior mean, its moments and units belong to its density."""
    x, alpha, sigma = noised(density, 300)
    score = density.score(x, alpha, sigma)
    (gradient,) = torch.autograd.grad(
        density.log_density(x.requires_grad_(), alpha, sigma).sum(), x
    )
    torch.testing.assert_close(score, gradient, rtol=1e-7, atol=1e-8)
    num = 100_000
    points = density.sample(num, seeded(5))
    error = density.std / math.sqrt(num)
    assert ((points.mean(dim=0) - density.mean).abs() < 5 * error).all()
    torch.testing.assert_close(points.std(dim=0), density.std, rtol=0.015, atol=0)

    rng = np.random.default_rng(2)
    shift = torch.from_numpy(rng.normal(size=density.dim))
    scale = torch.from_numpy(rng.uniform(0.3, 3.0, size=density.dim))
    # Two steps, so that rescaling what was rescaled is tested too.
    half = density.rescaled(shift, scale.sqrt())
    rescaled = half.rescaled(torch.zeros_like(shift), scale.sqrt())
    assert type(rescaled) is type(density)
    own = density.sample(200, seeded(2))
    expected = density.log_density(own) + scale.log().sum()
    moved = rescaled.log_density((own - shift) / scale)
    torch.testing.assert_close(moved, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(rescaled.mean, (density.mean - shift) / scale)
    torch.testing.assert_close(rescaled.std, density.std / scale)
    torch.testing.assert_close(rescaled.sample(200, seeded(2)) * scale + shift, own)


def require_mass_one(density):
    """In two dimensions it integrates to one, without noise and with noise.

    The midpoint rule is spectral for a smooth function that vanishes at the edge: a Gaussian whose
    standard deviation is the step is integrated to 1e-8.
    """
    if isinstance(density, UniformBoxes):
        fine = 0.25  # divides the fields, so that no cell of the grid lies on an edge
    elif isinstance(density, CurveDensity):
        fine = density.noise
    else:
        fine = float(torch.linalg.eigvalsh(density.covariances).min().sqrt())
    standard = density.rescaled(density.mean, density.std)
    for each, step, alpha, sigma in ((density, fine, 1.0, 0.0), (standard, 0.2, 0.8, 0.3)):
        sample = alpha * each.sample(5000, seeded())
        low, high = (sample.amin(0) / step).floor() - 12, (sample.amax(0) / step).ceil() + 12
        axes = [step * (torch.arange(*ends).double() + 0.5) for ends in zip(low, high, strict=True)]
        mass = each.log_density(torch.cartesian_prod(*axes), alpha, sigma).exp().sum() * step**2
        assert abs(float(mass) - 1) < 1e-6


# Noise at which at least tens of the reference points are near any noised point.
LEVELS = {1: (0.8, 0.6), 2: (0.8, 0.6), 8: (0.6, 0.8), 16: (0.8, 0.6), 32: (0.3, 0.954)}


def require_toy(name):
    """Its posterior mean is that of many of its samples."""
    density = make_toy(name)
    density = density.rescaled(density.mean, density.std)
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
