"""Toys whose points have classes: labels, and what is known exactly of one class."""

import pytest
import torch

from helpers import randn, refused, seeded
from kan_diffusion.data import CLASSES, TOYS, make_toy
from kan_diffusion.data.datasets import ToyData, load_dataset
from kan_diffusion.errors import DataError, valid_settings
from kan_diffusion.evaluation.oracles import OracleDenoiser
from kan_diffusion.processes import get_process
from kan_diffusion.sampling import PointDiffusionPipeline, make_scheduler


def _conditional(toy, num=4_000):
    return load_dataset(ToyData(toy=toy, num_points=num, conditional=True), 0, 0)


@pytest.mark.parametrize("name", CLASSES)
def test_a_density_is_the_mixture_of_its_components(name):
    # p(x) = sum_c w_c p(x | c), E[x_0 | x] = sum_c p(c | x) E[x_0 | x, c], and so the score.
    toy = make_toy(name)
    density = toy.rescaled(toy.mean, toy.std)
    num = len(density.weights)
    assert float(density.weights.sum()) == pytest.approx(1)
    alpha, sigma = 0.8, 0.6
    x = alpha * density.sample(40, seeded()) + sigma * randn(40, density.dim)
    alone = [torch.full((40,), each) for each in range(num)]
    joint = torch.stack([density.log_density(x, alpha, sigma, each) for each in alone], dim=1)
    joint += density.weights.log()
    shares = joint.softmax(dim=1)
    torch.testing.assert_close(density.log_density(x, alpha, sigma), joint.logsumexp(dim=1))
    for function in (density.posterior_mean, density.score):
        each_alone = torch.stack([function(x, alpha, sigma, each) for each in alone], dim=1)
        whole = (shares[:, :, None] * each_alone).sum(dim=1)
        torch.testing.assert_close(function(x, alpha, sigma), whole)
        mixed = torch.randint(num, (40,), generator=seeded(1))  # answers in the order of the points
        of_each = each_alone[torch.arange(40), mixed]
        torch.testing.assert_close(function(x, alpha, sigma, mixed), of_each)


def test_points_are_those_of_the_toy_and_labels_say_which_component():
    with_classes, without = (
        load_dataset(ToyData(toy="rings", num_points=2_000, conditional=told), 0, 0)
        for told in (True, False)
    )
    assert torch.equal(with_classes.train, without.train)
    assert without.class_labels is None
    assert without.draw_conditions(5, seeded()) == {}
    assert with_classes.classes == ("0", "1", "2", "3")
    radius = with_classes.standardizer.invert(with_classes.train.double()).norm(dim=1)
    nearest = (radius.round() - 1).clamp(0, 3)
    assert (nearest == with_classes.class_labels).float().mean() > 0.99
    told = with_classes.draw_conditions(4_000, seeded(1))
    shares = told["class_labels"].bincount(minlength=4) / 4_000
    assert shares.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.03)
    pair = with_classes.fresh_pair(4_000, seeded(2), told)
    for points in (*pair, with_classes.points_to_noise(4_000, seeded(3), told)):
        radius = with_classes.standardizer.invert(points).norm(dim=1)
        assert ((radius.round() - 1).clamp(0, 3) == told["class_labels"]).float().mean() > 0.99


def test_toys_without_classes_are_refused_and_those_with_are_named():
    for name in TOYS.keys() - CLASSES.keys():
        message = f"toy '{name}' has no classes .* moons, circles"
        with refused(message), valid_settings("data"):
            ToyData(toy=name, conditional=True)
    density = make_toy("moons")
    x = torch.zeros(2, 2)
    with refused(r"shape \(2,\), one for each point, got \(1,\)", DataError):
        density.posterior_mean(x, 0.5, 0.5, torch.zeros(1).long())
    with refused("there is no component 2; they go from 0 to 1", DataError):
        density.posterior_mean(x, 0.5, 0.5, torch.tensor([0, 2]))


def test_the_exact_denoiser_draws_points_of_the_class_it_is_told():
    dataset, process = _conditional("two-modes", 10), get_process("cosine")
    oracle = OracleDenoiser(dataset.density, process)
    pipeline = PointDiffusionPipeline(oracle, make_scheduler("ddim", process.scheduler()))
    labels = torch.arange(40) % 2
    drawn = pipeline(40, 10, generator=seeded(), class_labels=labels).samples[:, 0]
    assert (drawn[labels == 0] < 0).double().mean() > 0.9
    assert (drawn[labels == 1] > 0).double().mean() > 0.9
    free = pipeline(40, 10, generator=seeded(), class_labels=-1).samples
    torch.testing.assert_close(free, pipeline(40, 10, generator=seeded()).samples)
    with refused("the exact denoiser knows no conditions but classes"):
        oracle(drawn[:, None], 3, observed=drawn[:, None])
