import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, multivariate_normal, norm
from sklearn import datasets

from density_contract import require_toy
from helpers import refused, seeded
from kan_diffusion.data import make_toy
from kan_diffusion.errors import DataError, KanDiffusionError

SOME = ("swiss-roll", "moons", "checkerboard", "gaussian-mixture", "two-modes", "mixture-8d")


@pytest.mark.parametrize("name", SOME)
def test_samples_follow_the_density_and_its_posterior_mean(name):
    require_toy(name)


SKLEARN = {
    "swiss-roll": lambda n: datasets.make_swiss_roll(n, noise=0.2, random_state=0)[0][:, [0, 2]],
    "moons": lambda n: datasets.make_moons(n, noise=0.1, random_state=0)[0],
    "circles": lambda n: datasets.make_circles(n, noise=0.08, factor=0.5, random_state=0)[0],
    "s-curve": lambda n: datasets.make_s_curve(n, noise=0.1, random_state=0)[0][:, [0, 2]],
}


@pytest.mark.parametrize("name", SKLEARN)
def test_agrees_with_scikit_learns_generator(name):
    theirs = SKLEARN[name](5000)
    density = make_toy(name)
    ours = density.sample(5000, seeded(8)).numpy()
    for angle in np.linspace(0, np.pi, 8, endpoint=False):
        direction = np.array([np.cos(angle), np.sin(angle)])
        assert ks_2samp(ours @ direction, theirs @ direction).pvalue > 1e-3
    # Projections see little of a thin curve; the log-density of their points does.
    mine = density.log_density(torch.from_numpy(ours)).numpy()
    other = density.log_density(torch.from_numpy(theirs)).numpy()
    assert ks_2samp(mine, other).pvalue > 1e-3


def test_embedded_roll_is_the_flat_one_in_a_plane_plus_noise():
    """Along its plane it has the flat roll's density, across it that of the noise."""
    noise, alpha, sigma = 0.4, 0.8, 0.3
    flat, embedded = (make_toy(name, noise=noise) for name in ("swiss-roll", "swiss-roll-16d"))
    # Three points of the curve and the origin span the plane; a basis of it and of the rest:
    on_curve = embedded.segments[0].curve(torch.linspace(5.0, 14.0, 50, dtype=torch.float64))
    singular, basis = torch.linalg.svd(on_curve)[1:]
    assert float(singular[2]) < 1e-10 * float(singular[1])
    # Turned in the plane, so that the curve begins where the flat one begins.
    start = embedded.segments[0].curve(torch.tensor([2 * np.pi, 2.5 * np.pi], dtype=torch.float64))
    plane = start / start.norm(dim=1, keepdim=True)
    torch.testing.assert_close(plane @ plane.T, torch.eye(2).double(), rtol=0, atol=1e-12)
    x = alpha * embedded.sample(50, seeded()) + sigma * torch.randn(
        50, 16, generator=seeded(1), dtype=torch.float64
    )
    along, across = x @ plane.T, x @ basis[2:].T
    spread = float(np.hypot(alpha * noise, sigma))
    expected = flat.log_density(along, alpha, sigma) + torch.from_numpy(
        norm.logpdf(across.numpy(), scale=spread).sum(axis=1)
    )
    torch.testing.assert_close(embedded.log_density(x, alpha, sigma), expected)
    score = flat.score(along, alpha, sigma) @ plane - across @ basis[2:] / spread**2
    torch.testing.assert_close(embedded.score(x, alpha, sigma), score)


@pytest.mark.parametrize("name", ["mixture-8d", "mixture-32d"])
def test_mixtures_are_clearly_multimodal_and_not_aligned(name):
    mixture = make_toy(name)
    mixture = mixture.rescaled(mixture.mean, mixture.std)
    # scipy's densities as the second path, of points whose component is known.
    rng = np.random.default_rng(0)
    components = [
        (mean.numpy(), covariance.numpy())
        for mean, covariance in zip(mixture.means, mixture.covariances, strict=True)
    ]
    points = np.concatenate([rng.multivariate_normal(*c, size=1000) for c in components])
    truth = np.repeat(np.arange(len(components)), 1000)

    def mistaken(noise):
        noised = points + noise * rng.normal(size=points.shape)
        logits = [
            multivariate_normal(mean, covariance + noise**2 * np.eye(mixture.dim)).logpdf(noised)
            + np.log(float(weight))
            for (mean, covariance), weight in zip(components, mixture.weights, strict=True)
        ]
        density = mixture.log_density(torch.from_numpy(noised), 1.0, noise).numpy()
        np.testing.assert_allclose(density, np.logaddexp.reduce(logits), rtol=1e-9, atol=1e-9)
        wrong = np.argmax(logits, axis=0) != truth
        return float(wrong.reshape(-1, 1000).mean(axis=1) @ mixture.weights.numpy())

    assert mistaken(0.0) < 0.02  # clearly several
    assert 0.03 < mistaken(1.0) < mistaken(2.0) < 0.6  # but not several problems side by side
    deviations = torch.linalg.eigvalsh(mixture.covariances).sqrt()
    assert bool((deviations.amax(dim=1) > 2 * deviations.amin(dim=1)).all())
    spreads = torch.diagonal(mixture.covariances, dim1=1, dim2=2).sqrt()
    correlations = mixture.covariances / spreads[:, :, None] / spreads[:, None, :]
    assert bool((correlations - torch.eye(mixture.dim)).abs().amax(dim=(1, 2)).gt(0.3).all())


def test_random_parts_of_the_toys_are_fixed():
    # The numbers are part of the toys' definition: a comparison on another machine has them, too.
    first = [float(make_toy(name).mean[0]) for name in ("mixture-8d", "mixture-32d")]
    assert first == pytest.approx([-0.05102355037565143, 0.13830099226616888], rel=1e-9)
    assert float(make_toy("swiss-roll-16d").std[0]) == pytest.approx(0.5941599429643374, rel=1e-9)
    few, many = (make_toy("mixture-8d", components=count) for count in (3, 10))
    assert torch.equal(few.means, many.means[:3])
    quiet, loud = (make_toy("mixture-8d", noise=noise) for noise in (0.1, 0.5))
    torch.testing.assert_close(
        loud.covariances - quiet.covariances, 0.24 * torch.eye(8).double().expand(10, 8, 8)
    )


def test_checkerboard_alternates():
    board = make_toy("checkerboard", squares=4, width=1.0)
    centres = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    filled = board.log_density(centres - 1.5).isfinite()
    assert filled.tolist() == [int(i + j) % 2 == 0 for i, j in centres.tolist()]


def test_wrong_names_and_options_are_refused():
    for name, options, kind, words in (
        ("swiss-rol", {}, KanDiffusionError, "unknown toy 'swiss-rol', did you mean 'swiss-roll'"),
        ("moons", {"nois": 0.1}, KanDiffusionError, "option of toy 'moons' 'nois', did you mean"),
        ("moons", {"noise": -1.0}, DataError, "noise must be a positive number"),
        ("circles", {"factor": 1.5}, DataError, "factor must lie between 0 and 1"),
        ("checkerboard", {"squares": 1}, DataError, "squares >= 2"),
        ("pinwheel", {"arms": 0}, DataError, "at least one arm"),
        ("rings", {"count": 0}, DataError, "at least 1"),
        ("eight-gaussians", {"std": 0.0}, DataError, "must be positive"),
        ("mixture-8d", {"noise": 0.0}, DataError, "noise > 0 and at least one component"),
    ):
        with refused(words, kind):
            make_toy(name, **options)
