import pytest

from density_contract import require_density, require_mass_one, require_toy
from kan_diffusion.data.toys import TOYS, make_toy


@pytest.mark.parametrize("name", TOYS)
def test_every_toy_is_a_density_and_its_samples_follow_it(name):
    density = make_toy(name)
    require_density(density)
    if density.dim == 2:
        require_mass_one(density)
    require_toy(name)
