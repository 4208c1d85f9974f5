import pytest

from density_contract import FEW, require_density
from kan_diffusion.data.toys import TOYS, make_toy


@pytest.mark.parametrize("name", [name for name in TOYS if name not in FEW])
def test_every_other_toy_is_a_density_and_its_samples_follow_it(name):
    require_density(make_toy(name))
