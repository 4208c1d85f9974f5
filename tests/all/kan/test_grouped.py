"""Layers with shared functions from and to layers without."""

import torch

from helpers import randn, random_layer, scrambled
from kan_diffusion.kan import GroupedKANLinear, from_kan_linear, to_kan_linear


def test_to_a_kan_layer_and_back_and_to_fewer_functions():
    own = {"functions": 3, "groups": [0, 1, 0, 0, 2], "dtype": torch.float64}
    layer = scrambled(GroupedKANLinear(5, 3, start=[torch.zeros_like] * 3, **own))
    again, error = from_kan_linear(to_kan_linear(layer), 3, layer.group_of)
    x = 3 * randn(60, 5, seed=1)
    torch.testing.assert_close(again(x), layer(x), rtol=1e-9, atol=1e-9)
    assert error.largest < 1e-13
    _, error = from_kan_linear(random_layer(5, 3), 2)
    assert 0 < error.root_mean_square < 1
