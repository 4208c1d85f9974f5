import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, kstest
from sklearn import datasets

from helpers import refused, seeded
from kan_diffusion.data.toys import make_toy


@pytest.mark.parametrize(
    ("name", "noise"),
    [("swiss-roll", 0.2), ("moons", 0.1), ("circles", 0.08), ("s-curve", 0.1)],
)
def test_agrees_with_scikit_learns_generator(name, noise):
    settings = {"factor": 0.5} if name == "circles" else {}
    draw = getattr(datasets, f"make_{name.replace('-', '_')}")
    theirs = draw(5000, noise=noise, random_state=0, **settings)[0][:, [0, -1]]
    density = make_toy(name)
    ours = density.sample(5000, seeded(8)).numpy()
    for angle in np.linspace(0, np.pi, 8, endpoint=False):
        direction = np.array([np.cos(angle), np.sin(angle)])
        assert ks_2samp(ours @ direction, theirs @ direction).pvalue > 1e-3
    # Projections see little of a thin curve; the log-density of their points does.
    logs = [density.log_density(torch.from_numpy(points)).numpy() for points in (ours, theirs)]
    assert ks_2samp(*logs).pvalue > 1e-3


def test_arms_turn_as_they_say_and_are_evenly_filled():
    for name, arms, turn, power, ends in (
        ("pinwheel", 5, lambda r: np.exp(r) / 4, 1, (0.3, 2.0)),
        ("two-spirals", 2, lambda r: r, 2, (np.pi**2 / 4, 9 * np.pi**2)),
    ):
        points = make_toy(name, noise=0.004).sample(2000, seeded()).numpy() @ [1, 1j]
        arm = (np.angle(points) - turn(abs(points))) * arms / (2 * np.pi)
        assert np.abs(arm - arm.round()).max() < 0.05
        assert {*arm.round() % arms} == {*range(arms)}
        assert kstest(abs(points) ** power, "uniform", args=(ends[0], np.ptp(ends))).pvalue > 1e-3


def test_random_parts_of_the_toys_are_fixed_and_noise_is_added_to_a_mixture():
    # The numbers are part of the toys' definition: a comparison on another machine has them, too.
    for name, *moments in (
        ("mixture-8d", -0.05102355037565143, 1.1960879031874185),
        ("mixture-32d", 0.13830099226616888, 0.8241822855536015),
        ("swiss-roll-16d", -0.16782184733328584, 0.5941599429643374),
    ):
        toy = make_toy(name)
        assert [float(toy.mean[0]), float(toy.std[0])] == pytest.approx(moments, rel=1e-9), name
    # A rotation keeps the sum of variances; there is noise in the other 14 coordinates, too.
    flat, rolled = (make_toy(name).std for name in ("swiss-roll", "swiss-roll-16d"))
    assert float((rolled**2).sum() - (flat**2).sum()) == pytest.approx(14 * 0.2**2)
    quiet, loud = (make_toy("mixture-8d", noise).covariances for noise in (0.1, 0.5))
    torch.testing.assert_close(loud - quiet, 0.24 * torch.eye(8).double().expand(10, 8, 8))


def test_checkerboard_alternates_and_has_edges():
    fields = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    heights = [0.0 if (i + j) % 2 else 1 / 32 for i, j in fields.tolist()]
    for place in (-0.99, 0.99):
        points = 2 * fields - 3 + place * torch.tensor([1.0, -1.0])
        assert make_toy("checkerboard").log_density(points).exp().tolist() == pytest.approx(heights)


def test_wrong_names_and_options_are_refused():
    for name, noise, words in (
        ("swiss-rol", None, "unknown toy 'swiss-rol', did you mean 'swiss-roll"),
        ("checkerboard", 0.1, "toy 'checkerboard' has no noise to set"),
        ("two-modes", -1.0, "noise must be a positive number"),
        ("two-modes", float("nan"), "noise must be a positive number"),
    ):
        with refused(words):
            make_toy(name, noise)
