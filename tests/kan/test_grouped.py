"""Layers whose edges share learned functions."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from helpers import refused, seeded
from kan_diffusion.kan import GroupedKANLinear


def test_weights_and_constants_are_drawn_as_those_of_a_linear_layer():
    layer = GroupedKANLinear(4, 50, functions=3, groups=2)
    layer.reset_parameters(seeded(0))
    bound = 1 / 12**0.5
    for parameter in (layer.weight.detach(), layer.bias.detach()):
        assert 0.9 * bound < float(parameter.abs().max()) <= bound
    again = GroupedKANLinear(4, 50, functions=3, groups=2)
    again.reset_parameters(seeded(0))
    assert torch.equal(again.weight, layer.weight)
    assert torch.equal(again.coefficients, layer.coefficients)


def test_operations_are_those_of_the_product_and_the_functions():
    layer = GroupedKANLinear(5, 7, functions=3, groups=[0, 1, 0, 0, 1])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        nn.functional.linear(torch.zeros(1, 15), layer.weight)
    assert counter.get_total_flops() == 2 * 7 * 15
    assert layer.flops == counter.get_total_flops() + 7 + 5 * (3 + 3 * 2 * 3)
    assert GroupedKANLinear(5, 7, bias=False).flops == 2 * 7 * 5 + 5 * 9


def test_what_does_not_fit_is_refused():
    for arguments, message in (
        ({"in_features": 0}, "a GroupedKANLinear needs at least one input and one function"),
        ({"out_features": 0}, "a GroupedKANLinear needs at least one output, not 0"),
        ({"functions": 12}, "a GroupedKANLinear has at most as many functions .* raise grid_size"),
        ({"groups": 3}, "groups must divide the 2 inputs, and 3 does not; choose one of 1, 2"),
    ):
        with refused(message):
            GroupedKANLinear(**{"in_features": 2, "out_features": 2, **arguments})
    layer = GroupedKANLinear(5, 3, functions=4, groups=[0, 1, 0, 0, 2])
    for i, j in ((5, 0), (0, 3), (-1, 0)):
        with pytest.raises(IndexError, match="5 inputs and 3 outputs"):
            layer.edge_curve(i, j, torch.zeros(1))
    assert "5, 3, functions=4, groups=3, bias=True" in repr(layer)
