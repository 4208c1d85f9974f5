import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import kstest, multivariate_normal, norm

from density_contract import noised, require_density, require_mass_one
from helpers import refused, seeded
from kan_diffusion.data import densities
from kan_diffusion.data.densities import (
    CurveDensity,
    CurveSegment,
    GaussianMixture,
    UniformBoxes,
)
from kan_diffusion.data.toys import make_toy
from kan_diffusion.errors import DataError


def _full_mixture(dim=8):
    rng = np.random.default_rng(3)
    roots = rng.normal(size=(3, dim, dim))
    covariances = torch.from_numpy(roots @ roots.transpose(0, 2, 1) / dim)
    covariances = covariances + 0.05 * torch.eye(dim, dtype=torch.float64)
    means = torch.from_numpy(rng.normal(size=(3, dim)))
    return GaussianMixture(means, covariances, weights=[1.0, 2.0, 5.0])


def _along_the_axis(u):
    return torch.stack([u, 0 * u], dim=1)


def _line(noise):
    """Along the first axis from -1 to 3."""
    return CurveDensity([CurveSegment(_along_the_axis, -1.0, 3.0)], noise)


MIXTURE = _full_mixture()
BOXES = UniformBoxes([[0.0, 0.0], [0.5, -1.0]], [[1.0, 2.0], [3.0, 1.0]], weights=[1.0, 3.0])
KINDS = {"mixture": MIXTURE, "curve": make_toy("swiss-roll"), "boxes": BOXES}
one_of_each = pytest.mark.parametrize("density", KINDS.values(), ids=KINDS)


@one_of_each
def test_score_moments_units_limits_and_rows_belong_to_the_density(density, monkeypatch):
    require_density(density)
    if density.dim == 2:
        require_mass_one(density)
    x = density.sample(50, seeded())
    torch.testing.assert_close(density.posterior_mean(x, 1.0, 0.0), x)
    for alpha, close in ((0.0, 1e-9), (1e-9, 1e-5)):  # nothing is known, or nearly
        mean = density.posterior_mean(x, alpha, 1.0)
        torch.testing.assert_close(mean, density.mean.expand_as(x), rtol=close, atol=close)
    for alpha, sigma in ((5e-5, 1.0), (1.0, 0.01), (1.0, 1e-5), (0.0, 1.0)):
        near = alpha * x + sigma * torch.randn(x.shape, generator=seeded(4))
        points = torch.cat([near, 30 * near, 1000 * torch.ones(1, density.dim)])
        for function in (density.log_density, density.score, density.posterior_mean):
            assert function(points, alpha, sigma).isfinite().all()
    # Rows do not see each other, nor chunks, and come in any dtype and number.
    x, *levels = noised(density, 100)
    together = density.posterior_mean(x, *levels)
    for row in range(20):
        alone = density.posterior_mean(x[row : row + 1], *(float(each[row]) for each in levels))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-10, atol=1e-12)
    monkeypatch.setattr("kan_diffusion.data.densities.CHUNK_ELEMENTS", 100)
    torch.testing.assert_close(density.posterior_mean(x, *levels), together, rtol=1e-10, atol=1e-12)
    assert density.posterior_mean(x.float(), 0.5, 0.5).dtype == torch.float64
    assert density.log_density(torch.empty(0, density.dim)).shape == (0,)
    assert density.sample(0, seeded()).shape == (0, density.dim)
    copy = pickle.loads(pickle.dumps(density))
    assert torch.equal(density.sample(10, seeded(7)), copy.sample(10, seeded(7)))
    assert not torch.equal(density.sample(10, seeded(7)), density.sample(10, seeded(8)))


def test_mixtures_and_straight_lines_have_their_closed_forms():
    x = np.random.default_rng(0).normal(size=(50, 8)) * 2
    of_parts = MIXTURE.weights, MIXTURE.means, MIXTURE.covariances
    parts = list(zip(*(part.numpy() for part in of_parts), strict=True))
    for alpha, sigma in ((1.0, 0.0), (0.6, 0.8)):
        noise = sigma**2 * np.eye(8)
        expected = sum(
            float(weight) * multivariate_normal(alpha * mean, alpha**2 * spread + noise).pdf(x)
            for weight, mean, spread in parts
        )
        ours = MIXTURE.log_density(torch.from_numpy(x), alpha, sigma).exp().numpy()
        np.testing.assert_allclose(ours, expected, rtol=1e-9)
    # Uniform on [-1, 3] plus N(0, s^2) is a difference of normal distribution functions.
    x = torch.linspace(-1.5, 3, 200, dtype=torch.float64)
    points = torch.stack([x, 0.1 * torch.ones_like(x)], dim=1)
    alpha, sigma = 0.7, 0.2
    spread = math.hypot(alpha * 0.15, sigma)
    along = (norm.cdf((x + alpha) / spread) - norm.cdf((x - 3 * alpha) / spread)) / (4 * alpha)
    expected = np.log(along) + norm.logpdf(0.1, scale=spread)
    ours = _line(noise=0.15).log_density(points, alpha, sigma)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["swiss-roll", "pinwheel"])
def test_quadrature_has_converged(name, monkeypatch):
    density = make_toy(name)
    monkeypatch.setattr(densities, "PANEL_LENGTH", densities.PANEL_LENGTH / 2)
    monkeypatch.setattr(densities, "MIN_PANELS", 2 * densities.MIN_PANELS)
    finer = make_toy(name)
    x = density.sample(500, seeded())
    x = torch.cat([x, x + 0.5 * torch.randn(x.shape, generator=seeded(1))])
    for ours, theirs in (
        (density.log_density(x), finer.log_density(x)),
        (density.posterior_mean(x, 0.9, 0.3), finer.posterior_mean(x, 0.9, 0.3)),
    ):
        assert not torch.equal(ours, theirs)  # the finer one has other nodes
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


@given(
    centre=st.floats(-30, 30),
    half=st.one_of(st.floats(1e-4, 1.0), st.floats(0.45, 0.55), st.floats(1.0, 20.0)),
)
def test_a_noised_box_matches_integration(centre, half):
    # x_0 given x = 0 is a normal of this spread truncated to the box, here in units of it.
    alpha, sigma = 0.8, 0.5
    spread, low, high = sigma / alpha, centre - half, centre + half
    box, x = UniformBoxes([[low * spread]], [[high * spread]]), torch.zeros(1, 1)
    mode = min(max(0.0, low), high)

    def weight(z):
        return math.exp((mode**2 - z**2) / 2)

    # Outside of this much of the interval the integrand is below 1e-16 of its largest value.
    reach = 10.0 / max(1.0, abs(mode) / 4)
    low, high = max(low, mode - reach), min(high, mode + reach)
    mass = quad(weight, low, high, epsabs=0, epsrel=1e-11, limit=200)[0]
    first = quad(lambda z: (z - mode) * weight(z), low, high, epsrel=1e-11, limit=200)[0]
    expected = math.log(mass / (2 * half * sigma)) - mode**2 / 2 - 0.5 * math.log(2 * math.pi)
    place = float(box.posterior_mean(x, alpha, sigma)) / spread - centre
    assert float(box.log_density(x, alpha, sigma)) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert place / half == pytest.approx((first / mass + mode - centre) / half, rel=1e-8, abs=1e-8)


def test_samples_are_uniform_over_boxes_and_along_curves_and_clean_boxes_have_edges():
    box = UniformBoxes([[-1.0, 2.0]], [[3.0, 2.5]]).sample(5000, seeded()).numpy()
    # With almost no noise, samples snapped to quadrature nodes would repeat their places.
    along = _line(noise=1e-3).sample(5000, seeded())[:, 0].numpy()
    for values, low, width in ((box[:, 0], -1, 4), (box[:, 1], 2, 0.5), (along, -1, 4)):
        assert kstest(values, "uniform", args=(low, width)).pvalue > 1e-3
    assert np.unique(along.round(7)).size > 4500
    boxes = UniformBoxes([[0.0, 0.0], [2.0, 0.0]], [[1.0, 1.0], [4.0, 1.0]])
    x = torch.tensor([[0.5, 0.5], [1.5, 0.5], [3.0, 0.5]], dtype=torch.float64)
    third = -math.log(3.0)  # the union has area 3
    assert boxes.log_density(x).tolist() == pytest.approx([third, -math.inf, third])
    mixed = boxes.log_density(x, 1.0, torch.tensor([0.0, 0.5, 0.5]))
    torch.testing.assert_close(mixed[1:], boxes.log_density(x, 1.0, 0.5)[1:])


def test_unusable_arguments_are_refused_in_one_line():
    moons, far = make_toy("moons"), torch.tensor([1.0, 0.0])
    for make, words in (
        (lambda: GaussianMixture([[0.0]]), "exactly one of"),
        (lambda: GaussianMixture([0.0], variances=1.0), r"means must have shape \(k, d\)"),
        (lambda: GaussianMixture([[0.0, 1.0]], [[[1.0, 0.5], [0.0, 1.0]]]), "symmetric"),
        (lambda: GaussianMixture([[0.0, 1.0]], [[[1.0, 2.0], [2.0, 1.0]]]), "positive definite"),
        (lambda: GaussianMixture([[0.0]], variances=1.0, weights=[-1.0]), "weights must be"),
        (lambda: GaussianMixture([[math.nan]], variances=1.0), "means must be finite, got nan"),
        (lambda: UniformBoxes([[0.0, 0.0]], [[1.0, 0.0]]), "above its lower"),
        (lambda: UniformBoxes([[0.0]], [[1.0, 2.0]]), r"upper must have shape \(1, 1\), got"),
        (lambda: CurveDensity([], 0.1), "at least one segment"),
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
