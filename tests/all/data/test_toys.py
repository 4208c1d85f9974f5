import pytest
import torch

from density_contract import require_density, require_mass_one, require_toy
from helpers import randn, seeded
from kan_diffusion.data import TOYS, make_toy
from kan_diffusion.data.datasets import ToyData, load_dataset


@pytest.mark.parametrize("name", TOYS)
def test_every_toy_is_a_density_and_its_samples_follow_it(name):
    density = make_toy(name)
    require_density(density)
    if density.dim == 2:
        require_mass_one(density)
    require_toy(name)


def test_a_toy_with_classes_is_the_mixture_of_its_components():
    dataset = load_dataset(ToyData(toy="moons", num_points=100, conditional=True))
    density, x = dataset.density, randn(40, 2)
    told = [torch.full((40,), label) for label in (0, 1)]
    joint = torch.stack([density.log_density(x, 0.8, 0.6, label) for label in told], dim=1)
    joint += density.weights.log()
    torch.testing.assert_close(density.log_density(x, 0.8, 0.6), joint.logsumexp(dim=1))
    labels = dataset.draw_conditions(1000, seeded())["class_labels"]
    assert 400 < int(labels.sum()) < 600
