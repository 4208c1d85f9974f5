import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import kstest, multivariate_normal, norm

from density_contract import FEW, require_density
from helpers import randn, refused, seeded
from kan_diffusion.data.densities import CurveDensity, GaussianMixture, UniformBoxes
from kan_diffusion.data.toys import make_toy
from kan_diffusion.errors import DataError

MIXTURE = make_toy("mixture-8d")
BOXES = UniformBoxes([[0.0, 0.0], [0.5, -1.0]], [[1.0, 2.0], [3.0, 1.0]], weights=[1.0, 3.0])


def _line(noise, end=3.0):
    """Along the first axis from -1 to its end."""
    return CurveDensity([(lambda u: torch.stack([u, 0 * u], dim=1), -1.0, end)], noise)


@pytest.mark.parametrize("density", [BOXES, *map(make_toy, FEW)])
def test_score_mass_moments_units_and_posterior_mean_belong_together(density):
    require_density(density)


@pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 0.0), (0.6, 0.8)])
def test_mixtures_and_straight_lines_have_their_closed_forms(alpha, sigma):
    x, noise = 2 * randn(50, 8), sigma**2 * torch.eye(8).double()
    parts = zip(MIXTURE.weights.tolist(), MIXTURE.means, MIXTURE.covariances, strict=True)
    expected = sum(
        weight * multivariate_normal(alpha * mean, alpha**2 * spread + noise).pdf(x)
        for weight, mean, spread in parts
    )
    np.testing.assert_allclose(MIXTURE.log_density(x, alpha, sigma).exp(), expected, rtol=1e-9)
    # Uniform on [-1, 3] plus N(0, s^2) is a difference of normal distribution functions.
    x = torch.linspace(-1.5, 3, 200, dtype=torch.float64)
    spread = math.hypot(alpha * 0.15, sigma)
    along = (norm.cdf((x + alpha) / spread) - norm.cdf((x - 3 * alpha) / spread)) / (4 * alpha)
    expected = np.log(along) + norm.logpdf(0.1, scale=spread)
    points = torch.stack([x, 0.1 * torch.ones_like(x)], dim=1)
    ours = _line(noise=0.15).log_density(points, alpha, sigma)
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["swiss-roll", "pinwheel"])
def test_quadrature_has_converged(name, monkeypatch):
    density = make_toy(name)
    monkeypatch.setattr("kan_diffusion.data.densities.PANEL_LENGTH", 2.5)
    finer = make_toy(name)
    x = density.sample(500, seeded())
    x = torch.cat([x, x + 0.5 * torch.randn(x.shape, generator=seeded(1))])
    for ours, theirs in (
        (density.log_density(x), finer.log_density(x)),
        (density.posterior_mean(x, 0.9, 0.3), finer.posterior_mean(x, 0.9, 0.3)),
    ):
        assert not torch.equal(ours, theirs)  # the finer one has other nodes
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


@given(centre=st.floats(-30, 30), half=st.floats(1e-4, 1.0) | st.floats(1.0, 20.0))
def test_a_noised_box_matches_integration(centre, half):
    # x_0 given x = 0 is a normal of this spread truncated to the box, here in units of it and from
    # its mode; beyond `reach` the integrand is below 1e-16 of its largest value.
    alpha, sigma = 0.8, 0.5
    ends, spread = np.array([centre - half, centre + half]), sigma / alpha
    mode = float(np.clip(0.0, *ends))
    reach = 10.0 / max(1.0, abs(mode) / 4)
    inside = np.clip(ends - mode, -reach, reach)
    mass, first = (
        quad(lambda z, n=n: z**n * math.exp(-z * (mode + z / 2)), *inside, epsrel=1e-11, limit=200)
        for n in (0, 1)
    )
    box, x = UniformBoxes(spread * ends[:1, None], spread * ends[1:, None]), torch.zeros(1, 1)
    expected = math.log(mass[0] / (2 * half * sigma)) + norm.logpdf(mode)
    assert float(box.log_density(x, alpha, sigma)) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    place = (float(box.posterior_mean(x, alpha, sigma)) / spread - centre) / half
    expected = (first[0] / mass[0] + mode - centre) / half
    assert place == pytest.approx(expected, rel=1e-8, abs=1e-8)


def test_samples_are_uniform_over_boxes_and_along_curves():
    box = UniformBoxes([[-1.0, 2.0]], [[3.0, 2.5]]).sample(5000, seeded()).numpy()
    # With almost no noise, samples snapped to quadrature nodes would repeat their places.
    along = _line(noise=1e-3).sample(5000, seeded())[:, 0].numpy()
    for values, low, width in ((box[:, 0], -1, 4), (box[:, 1], 2, 0.5), (along, -1, 4)):
        assert kstest(values, "uniform", args=(low, width)).pvalue > 1e-3
    assert np.unique(along.round(7)).size > 4500


def test_unusable_arguments_are_refused_in_one_line():
    moons, far = make_toy("moons"), torch.tensor([1.0, 0.0])
    for make, words in (
        (lambda: GaussianMixture([[0.0]]), "exactly one of"),
        (lambda: GaussianMixture([0.0], variances=1.0), r"means must have shape \(k, d\)"),
        (lambda: GaussianMixture([[0.0, 1.0]], [[[1.0, 0.5], [0.0, 1.0]]]), "symmetric"),
        (lambda: GaussianMixture([[0.0, 1.0]], [[[1.0, 2.0], [2.0, 1.0]]]), "positive definite"),
        (lambda: CurveDensity(moons.curves, 0.1, [-1.0, 1.0]), "weights must be positive"),
        (lambda: GaussianMixture([[math.nan]], variances=1.0), "means must be finite, got nan"),
        (lambda: UniformBoxes([[0.0, 0.0]], [[1.0, 0.0]]), "above its lower"),
        (lambda: CurveDensity([], 0.1), "at least one curve"),
        (lambda: _line(0.1, end=-1.0), "least u below its largest"),
        (lambda: _line(-1.0), "noise must be a positive number"),
        (lambda: make_toy("swiss-roll", noise=1e-6), "use at least"),
        (lambda: moons.rescaled(torch.zeros(2), far), "positive"),
        (lambda: moons.score(torch.zeros(3, 3), 1, 1), r"shape \(n, 2\), got \(3, 3\)"),
        (lambda: moons.score(torch.zeros(3, 2), torch.ones(2), 1), r"alpha .*\(3,\)"),
        (lambda: moons.score(torch.zeros(3, 2), 1.0, -0.5), "at least 0, got -0.5"),
        (lambda: moons.score(torch.zeros(3, 2), 0.0, 0.0), "both 0"),
    ):
        with refused(words, DataError):
            make()
