import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import assert_same_state, randn, refused, scrambled
from kan_diffusion.kan import KAN, KANLinear, SharedKANLinear, moved, pruned, sparsity_penalty
from kan_diffusion.kan.importance import attribution, edge_penalty, edge_sizes, layer_entropy


def test_sizes_and_entropy_by_hand():
    outputs = torch.tensor([[[1.0, 5.0]], [[3.0, 5.0]], [[2.0, 5.0]], [[6.0, 5.0]]])
    # The mean of 1, 3, 2, 6 is 3: deviations 2, 0, 1, 3.
    assert edge_sizes(outputs).tolist() == [[1.5, 0.0]]
    assert float(layer_entropy(torch.tensor([[1.0, 3.0]]))) == pytest.approx(
        -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    )
    assert float(layer_entropy(torch.tensor([[0.0, 3.0]]))) == 0
    assert float(layer_entropy(torch.zeros(2, 3))) == 0


def test_dead_edges_and_a_dead_layer_have_a_finite_gradient():
    first, second = randn(30, 4, 3), torch.full((30, 2, 4), 2.0)
    first[:, 1] = 0
    layers = [first.requires_grad_(), second.requires_grad_()]
    for gradient in torch.autograd.grad(edge_penalty(layers), layers):
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
        torch.testing.assert_close(found[k], edges)


def test_what_a_unit_does_not_pass_on_has_no_attribution():
    # A large edge into a unit that nobody listens to.
    first = torch.stack([torch.stack([100 * randn(50), 0 * randn(50)], -1)] * 2, 1)
    first[:, 1] = randn(50, 2, seed=1)
    second = torch.stack([torch.zeros(50, dtype=torch.float64), first[:, 1].sum(-1)], -1)[:, None]
    found = attribution([first, second], [first.sum(2), second.sum(2)])
    assert float(edge_sizes(first)[0, 0]) > 50
    assert float(found[0][0, 0]) == 0
    assert found[1].sum(0).tolist() == pytest.approx([0, 1])
    # Edges that cancel.
    outputs = torch.stack([randn(40), -randn(40)], -1)[:, None]
    assert attribution([outputs], [outputs.sum(2)])[0].tolist() == [[0, 0]]


# Networks


def test_the_penalty_of_a_network_is_the_sum_over_its_layers():
    first, second = KANLinear(3, 4), SharedKANLinear(4, 2, functions=2)
    x = randn(50, 3).float()
    sizes = [edge_sizes(first.edge_outputs(x)), edge_sizes(second.edge_outputs(first(x)))]
    expected = sum(each.sum() + layer_entropy(each) for each in sizes)
    penalty = sparsity_penalty(torch.nn.Sequential(first, second), x)
    torch.testing.assert_close(penalty, expected)
    penalty.backward()
    assert float(first.weight.grad.abs().sum()) > 0


def _silence(layer, edges):
    """Makes edges (output, input) constants: functions of a basis sum to one."""
    for o, i in edges:
        layer._edges.detach()[o, i, 0] = 0
        layer._edges.detach()[o, i, 1:] = 0.25 * (o + i + 1)


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"edge_scale": True}])
def test_edges_that_pass_nothing_on_are_pruned_with_their_units(options):
    network = KAN([3, 4, 2], **options, dtype=torch.float64)
    first, second = network.layers
    scrambled(first, 1)
    scrambled(second, 2)
    # Unit 1 is constant, unit 3 goes nowhere; one edge between units that stay is constant, too.
    _silence(first, [(1, 0), (1, 1), (1, 2), (0, 2)])
    _silence(second, [(0, 3), (1, 3)])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = randn(300, 3)
    small = pruned(network, x, share=1e-6)
    assert [layer.in_features for layer in small.layers] == [3, 2]
    assert small.layers[1].out_features == 2
    assert not small.layers[0]._edges[0, 2].any()
    torch.testing.assert_close(small(x), network(x), rtol=1e-8, atol=1e-8)
    assert moved(small, x).layers[1].in_features == 2
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(each.requires_grad for each in small.parameters())
    frozen = pruned(network.requires_grad_(False), x, share=1e-6)
    assert not any(each.requires_grad for each in frozen.parameters())


def test_what_remains_is_what_matters_and_the_ends_stay():
    network, x = KAN([4, 8, 1]), randn(300, 4).float()
    nothing, most = pruned(network, x, share=0), pruned(network, x, share=0.1)
    torch.testing.assert_close(nothing(x), network(x))
    assert most(x).shape == (300, 1)
    assert_same_state(most, pruned(network, x.view(3, 100, 4), share=0.1))
    first, second = network.layers
    units = first(x)
    outputs = [first.edge_outputs(x), second.edge_outputs(units)]
    shares = attribution(outputs, [units, second(units)])
    kept = (most.layers[0]._edges != 0).any(2).sum()
    assert 0 < int(kept) <= int((shares[0] >= 0.1).sum())
    first.weight.detach().zero_()
    constant = pruned(network, x)
    assert constant.layers[1].in_features == 1
    torch.testing.assert_close(constant(x), network(x))


def test_what_cannot_be_pruned_is_refused():
    x = randn(5, 3).float()
    with refused("share must be from 0 to 1, not 2"):
        pruned(KAN([3, 1]), x, share=2)
    with refused("at least two inputs .* of 1 given, 1 are such"):
        pruned(KAN([3, 1]), x[:1])
    with refused("of 5 given, 4 are such"):
        pruned(KAN([3, 1]), x.index_fill(0, torch.tensor([2]), math.nan))
    with refused("nn.Sequential of KANLinear is needed, not a Sequential of SharedKANLinear"):
        pruned(torch.nn.Sequential(SharedKANLinear(3, 1, functions=1)), x)
    with refused("edges are measured on inputs and none is given"):
        sparsity_penalty(KAN([3, 1]), x[:0])
