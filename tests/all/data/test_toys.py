import pytest

from density_contract import require_density
from kan_diffusion.data.toys import TOYS, make_toy


@pytest.mark.parametrize("name", TOYS)
def test_every_toy_is_a_density_and_its_samples_follow_it(name):
    require_density(make_toy(name))
