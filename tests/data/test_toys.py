import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from sklearn import datasets

from density_contract import require_toy
from helpers import refused, seeded
from kan_diffusion.data.toys import make_toy
from kan_diffusion.errors import DataError, KanDiffusionError

SOME = ("moons", "checkerboard", "gaussian-mixture", "two-modes", "mixture-8d")


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


def test_the_embedded_roll_is_the_flat_one_in_a_plane_plus_noise():
    flat, embedded = (make_toy(name, noise=0.4) for name in ("swiss-roll", "swiss-roll-16d"))
    t = torch.linspace(5.0, 14.0, 50, dtype=torch.float64)
    lower, upper = (density.segments[0].curve(t) for density in (flat, embedded))
    torch.testing.assert_close(upper @ upper.T, lower @ lower.T)
    variance = float(embedded.std.square().sum() - flat.std.square().sum())
    assert variance == pytest.approx(14 * 0.4**2)


def test_random_parts_of_the_toys_are_fixed_and_mixtures_are_not_aligned():
    # The numbers are part of the toys' definition: a comparison on another machine has them, too.
    eight, more = (make_toy(name) for name in ("mixture-8d", "mixture-32d"))
    first = [float(toy.mean[0]) for toy in (eight, more)]
    assert first == pytest.approx([-0.05102355037565143, 0.13830099226616888], rel=1e-9)
    assert float(make_toy("swiss-roll-16d").std[0]) == pytest.approx(0.5941599429643374, rel=1e-9)
    added = make_toy("mixture-8d", noise=0.5).covariances - eight.covariances
    torch.testing.assert_close(added, 0.24 * torch.eye(8).double().expand(10, 8, 8))
    for toy in (eight, more):
        deviations = torch.linalg.eigvalsh(toy.covariances).sqrt()
        assert bool((deviations.amax(dim=1) > 2 * deviations.amin(dim=1)).all())
        spreads = torch.diagonal(toy.covariances, dim1=1, dim2=2).sqrt()
        correlations = toy.covariances / spreads[:, :, None] / spreads[:, None, :]
        assert bool((correlations - torch.eye(toy.dim)).abs().amax(dim=(1, 2)).gt(0.3).all())


def test_checkerboard_alternates():
    centres = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    filled = make_toy("checkerboard").log_density(2.0 * centres - 3).isfinite()
    assert filled.tolist() == [int(i + j) % 2 == 0 for i, j in centres.tolist()]


def test_wrong_names_and_options_are_refused():
    for name, noise, kind, words in (
        ("swiss-rol", None, KanDiffusionError, "unknown toy 'swiss-rol', did you mean 'swiss-roll"),
        ("checkerboard", 0.1, KanDiffusionError, "toy 'checkerboard' has no noise to set"),
        ("moons", -1.0, DataError, "noise must be a positive number"),
        ("two-modes", float("nan"), DataError, "noise must be a positive number"),
    ):
        with refused(words, kind):
            make_toy(name, noise)
