from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from scipy.stats import ks_2samp
from sklearn import datasets

from kan_diffusion.data import TOYS, CurveDensity, Density, UniformBoxes, make_toy
from kan_diffusion.errors import DataError, KanDiffusionError
from kan_diffusion.evaluation import ReferenceOracle


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _standardised(name: str) -> Density:
    density = make_toy(name)
    return density.rescaled(density.mean, density.std)


def _grid_integral(density: Density, alpha: float, sigma: float, step: float) -> float:
    """Mass on [-4.8, 4.8]^2 by the midpoint rule.

    The rule is spectral for a smooth function that vanishes at the edge: a Gaussian of standard
    deviation ``step`` is integrated to 1e-8.
    """
    axis = step * (torch.arange(-round(4.8 / step), round(4.8 / step)).double() + 0.5)
    points = torch.cartesian_prod(axis, axis)
    return float(density.log_density(points, alpha, sigma).exp().sum()) * step**2


@pytest.mark.parametrize("name", TOYS)
def test_noised_density_integrates_to_one(name: str) -> None:
    assert _grid_integral(_standardised(name), 0.8, 0.3, 0.2) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", TOYS)
def test_clean_density_integrates_to_one(name: str) -> None:
    density = make_toy(name)
    if isinstance(density, UniformBoxes):
        step = 0.25  # divides the fields, so that no cell of the grid lies on an edge
    elif isinstance(density, CurveDensity):
        step = density.noise
    else:
        step = float(torch.linalg.eigvalsh(density.covariances).min().sqrt())
    sample = density.sample(5000, _generator())
    low = (sample.amin(dim=0) / step).floor() - 12
    high = (sample.amax(dim=0) / step).ceil() + 12
    axes = [
        step * (torch.arange(int(low[place]), int(high[place])).double() + 0.5)
        for place in range(2)
    ]
    mass = density.log_density(torch.cartesian_prod(*axes)).exp().sum() * step**2
    assert float(mass) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", TOYS)
def test_score_is_the_numerical_gradient(name: str) -> None:
    density = _standardised(name)
    alpha, sigma = 0.9, 0.2
    x = alpha * density.sample(100, _generator()) + sigma * torch.randn(
        100, 2, generator=_generator(1), dtype=torch.float64
    )
    step = 1e-5
    for place in range(2):
        offset = torch.zeros(2, dtype=torch.float64)
        offset[place] = step
        slope = (
            density.log_density(x + offset, alpha, sigma)
            - density.log_density(x - offset, alpha, sigma)
        ) / (2 * step)
        torch.testing.assert_close(
            density.score(x, alpha, sigma)[:, place], slope, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("name", TOYS)
def test_posterior_mean_is_that_of_a_large_reference_sample(name: str) -> None:
    density = _standardised(name)
    reference = density.sample(60_000, _generator(2))
    sigma, alpha = 0.6, 0.8
    x = alpha * density.sample(60, _generator(3)) + sigma * torch.randn(
        60, 2, generator=_generator(4), dtype=torch.float64
    )
    exact = density.posterior_mean(x, alpha, sigma)
    # Standard error of the self-normalised mean over the reference points, row by row.
    distance = (x[:, None] - alpha * reference).square().sum(dim=2)
    shares = (-distance / (2 * sigma**2)).softmax(dim=1)
    spread = (reference - exact[:, None]).square()
    error = (shares.square()[:, :, None] * spread).sum(dim=1).sqrt()
    difference = ReferenceOracle(reference).posterior_mean(x, alpha, sigma) - exact
    z = difference / error
    assert float(z.abs().max()) < 6
    assert 0.2 < float(z.square().mean()) < 3  # rows share the reference points
    assert float(error.max()) < 0.05


@pytest.mark.parametrize("name", TOYS)
def test_samples_follow_the_density(name: str) -> None:
    # E[score(x)] = 0 and E[x score(x)^T] = -I under the density itself.
    density = _standardised(name)
    num, alpha, sigma = 10_000, 0.9, 0.3
    x = alpha * density.sample(num, _generator(5)) + sigma * torch.randn(
        num, 2, generator=_generator(6), dtype=torch.float64
    )
    score = density.score(x, alpha, sigma)
    products = x[:, :, None] * score[:, None, :] + torch.eye(2)
    for values in (score, products.flatten(1)):
        z = values.mean(dim=0) / values.std(dim=0) * num**0.5
        assert float(z.abs().max()) < 5


@pytest.mark.parametrize("name", TOYS)
def test_moments_are_those_of_a_large_sample(name: str) -> None:
    density = make_toy(name)
    num = 100_000
    points = density.sample(num, _generator(7))
    z = (points.mean(dim=0) - density.mean) / density.std * num**0.5
    assert float(z.abs().max()) < 5
    torch.testing.assert_close(points.std(dim=0), density.std, rtol=0.015, atol=0)


SKLEARN = {
    "swiss-roll": lambda n: datasets.make_swiss_roll(n, noise=0.2, random_state=0)[0][:, [0, 2]],
    "moons": lambda n: datasets.make_moons(n, noise=0.1, random_state=0)[0],
    "circles": lambda n: datasets.make_circles(n, noise=0.08, factor=0.5, random_state=0)[0],
    "s-curve": lambda n: datasets.make_s_curve(n, noise=0.1, random_state=0)[0][:, [0, 2]],
}


@pytest.mark.parametrize("name", SKLEARN)
def test_agrees_with_scikit_learns_generator(name: str) -> None:
    theirs = SKLEARN[name](5000)
    density = make_toy(name)
    ours = density.sample(5000, _generator(8)).numpy()
    for angle in np.linspace(0, np.pi, 8, endpoint=False):
        direction = np.array([np.cos(angle), np.sin(angle)])
        assert ks_2samp(ours @ direction, theirs @ direction).pvalue > 1e-3
    # Projections see little of a thin curve; the log-density of their points does.
    mine = density.log_density(torch.from_numpy(ours)).numpy()
    other = density.log_density(torch.from_numpy(theirs)).numpy()
    assert ks_2samp(mine, other).pvalue > 1e-3


@pytest.mark.parametrize("name", TOYS)
def test_toys_are_neither_trivial_nor_one_another(name: str) -> None:
    """No toy is a standard normal in disguise: its sliced distance to one is far above chance."""
    density = _standardised(name)
    points = density.sample(2000, _generator(9)).numpy()
    fresh = density.sample(2000, _generator(10)).numpy()
    normal = np.random.default_rng(0).normal(size=(2000, 2))
    distance = ot.sliced_wasserstein_distance(points, normal, n_projections=64, seed=0)
    chance = ot.sliced_wasserstein_distance(points, fresh, n_projections=64, seed=0)
    assert distance > 2 * chance


def test_checkerboard_alternates() -> None:
    board = make_toy("checkerboard", squares=4, width=1.0)
    centres = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    filled = board.log_density(centres - 1.5).isfinite()
    assert filled.tolist() == [int(i + j) % 2 == 0 for i, j in centres.tolist()]


def test_options_reach_the_builder() -> None:
    assert make_toy("rings", count=2).std[0] < make_toy("rings", count=4).std[0]
    narrow, wide = (make_toy("swiss-roll", noise=noise) for noise in (0.1, 0.8))
    on_curve = torch.tensor([[0.0, 4.5 * np.pi]], dtype=torch.float64)
    assert narrow.log_density(on_curve) > wide.log_density(on_curve)


@pytest.mark.parametrize(
    ("name", "options", "kind", "words"),
    [
        ("swiss-rol", {}, KanDiffusionError, "unknown toy 'swiss-rol', did you mean 'swiss-roll'"),
        ("moons", {"nois": 0.1}, KanDiffusionError, "option of toy 'moons' 'nois', did you mean"),
        ("moons", {"noise": -1.0}, DataError, "noise must be a positive number"),
        ("circles", {"factor": 1.5}, DataError, "factor must lie between 0 and 1"),
        ("checkerboard", {"squares": 1}, DataError, "squares >= 2"),
        ("pinwheel", {"arms": 0}, DataError, "at least one arm"),
        ("rings", {"count": 0}, DataError, "at least 1"),
        ("eight-gaussians", {"std": 0.0}, DataError, "must be positive"),
    ],
)
def test_wrong_names_and_options_are_refused(name, options, kind, words) -> None:
    with pytest.raises(kind, match=words):
        make_toy(name, **options)
