"""Chains of gated layers that are computed in one go, where hooks and other classes forbid it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from gated_layers import DOUBLE, chain_of, layer_of, one_by_one
from helpers import randn
from kan_diffusion.kan import GatedLinear, LearnedFunctions
from kan_diffusion.kan.gated import gated_chain

each_kind = pytest.mark.parametrize("order", [0, 3], ids=["silu", "spline"])


@each_kind
def test_a_chain_is_differentiated_twice(order):
    layers = [layer_of(order, 2, 4, seed=1, rank=1), layer_of(order, 2, 1, seed=2, rank=1)]
    x, code = randn(2, 4).requires_grad_(), randn(2, 1, seed=1).requires_grad_()

    def chain(x, code, *_):
        return gated_chain(layers, x, code)

    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    assert torch.autograd.gradcheck(chain, (x, code, *parameters))
    assert torch.autograd.gradgradcheck(chain, (x, code, *parameters))


@each_kind
def test_every_kind_of_hook_on_a_chain_is_called(order):
    layers = chain_of(order)
    x, code = randn(5, 16).requires_grad_(), randn(5, 2, seed=1)
    expected = gated_chain(layers, x, code)
    seen = []
    handle = layers[1].register_forward_hook(lambda *call: seen.append(call[2][1].shape))
    torch.testing.assert_close(gated_chain(layers, x, code), expected)
    assert seen == [(5, 11)]
    handle.remove()
    handles = [
        layer.functions.register_forward_hook(lambda *call: seen.append(call[2].shape))
        for layer in layers
        if layer.functions is not None
    ]
    torch.testing.assert_close(gated_chain(layers, x, code), expected)
    assert seen[1:] == ([(5, 8), (5, 11), (5, 9)] if order else [])
    for handle in handles:
        handle.remove()
    watched = layers[1] if layers[2].functions is None else layers[2].functions
    handle = watched.register_full_backward_hook(lambda *_: seen.append("backward"))
    gated_chain(layers, x, code).sum().backward()
    assert seen[-1] == "backward"
    handle.remove()
    handle = nn.modules.module.register_module_forward_hook(lambda part, *_: seen.append(part))
    gated_chain(layers, x, code)
    assert set(layers) <= set(seen)
    handle.remove()
    layers[1].forward = lambda *given: (
        seen.append("own") or type(layers[1]).forward(layers[1], *given)
    )
    torch.testing.assert_close(gated_chain(layers, x, code), expected)
    assert seen[-1] == "own"


@pytest.mark.parametrize("basis", ["rbf", "rational"])
def test_a_chain_with_functions_that_have_no_kernel_is_torchs(basis):
    layers = chain_of(3)
    functions = LearnedFunctions(11, 1, [0] * 5 + [1] * 6, basis=basis, dtype=DOUBLE)
    layers[1] = GatedLinear(11, 18, rank=2, functions=functions, dtype=DOUBLE)
    x, code = randn(20, 16).requires_grad_(), randn(20, 2, seed=1)
    output = gated_chain(layers, x, code)
    with forward_ad.dual_level():
        expected = one_by_one(layers, x, code)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(
        torch.autograd.grad(output.sum(), x), torch.autograd.grad(expected.sum(), x)
    )
