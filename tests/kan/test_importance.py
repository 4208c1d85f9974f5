import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import randn
from kan_diffusion.kan.importance import attribution, edge_sizes, layer_entropy, sparsity_penalty


def test_sizes_and_entropy_by_hand():
    outputs = torch.tensor([[[1.0, 5.0]], [[3.0, 5.0]], [[2.0, 5.0]], [[6.0, 5.0]]])
    # The mean of 1, 3, 2, 6 is 3: deviations 2, 0, 1, 3.
    assert edge_sizes(outputs).tolist() == [[1.5, 0.0]]
    assert float(layer_entropy(torch.tensor([[1.0, 3.0]]))) == pytest.approx(
        -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    )
    assert float(layer_entropy(torch.tensor([[0.0, 3.0]]))) == 0
    assert float(layer_entropy(torch.zeros(2, 3))) == 0


def test_the_penalty_is_the_sum_over_layers_and_has_a_finite_gradient():
    first, second = randn(30, 4, 3), randn(30, 2, 4, seed=1)
    expected = sum(
        edge_sizes(part).sum() + layer_entropy(edge_sizes(part)) for part in (first, second)
    )
    torch.testing.assert_close(sparsity_penalty([first, second]), expected)
    # Dead edges and a dead layer are where logarithms and quotients go wrong.
    first[:, 1] = 0
    second[:] = 2
    layers = [first.requires_grad_(), second.requires_grad_()]
    for gradient in torch.autograd.grad(sparsity_penalty(layers), layers):
        assert bool(gradient.isfinite().all())


@given(st.integers(0, 10_000), st.lists(st.integers(1, 4), min_size=2, max_size=4))
def test_attribution_is_its_definition_number_by_number(seed, sizes):
    layers = [
        randn(9, fan_out, fan_in, seed=seed + k)
        for k, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes))
    ]
    units = [part.sum(2) + 7 for part in layers]
    found = attribution(layers, units)
    of_units = torch.ones(sizes[-1], dtype=torch.float64)
    for k in reversed(range(len(layers))):
        edges = torch.empty(layers[k].shape[1:], dtype=torch.float64)
        for o, i in itertools.product(range(sizes[k + 1]), range(sizes[k])):
            edges[o, i] = of_units[o] * layers[k][:, o, i].std() / units[k][:, o].std()
        of_units = torch.stack([edges[:, i].sum() for i in range(sizes[k])])
        torch.testing.assert_close(found.edges[k], edges)
        torch.testing.assert_close(found.units[k], of_units)


def test_what_a_unit_does_not_pass_on_has_no_attribution():
    # A large edge into a unit that nobody listens to.
    first = torch.stack([torch.stack([100 * randn(50), 0 * randn(50)], -1)] * 2, 1)
    first[:, 1] = randn(50, 2, seed=1)
    second = torch.stack([torch.zeros(50, dtype=torch.float64), first[:, 1].sum(-1)], -1)[:, None]
    found = attribution([first, second], [first.sum(2), second.sum(2)])
    assert float(edge_sizes(first)[0, 0]) > 50
    assert float(found.edges[0][0, 0]) == 0
    assert found.units[1].tolist() == pytest.approx([0, 1])
    # Edges that cancel.
    outputs = torch.stack([randn(40), -randn(40)], -1)[:, None]
    assert attribution([outputs], [outputs.sum(2)]).edges[0].tolist() == [[0, 0]]
