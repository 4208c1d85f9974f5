import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import randn
from kan_diffusion.kan.importance import attribution, edge_sizes, layer_entropy, sparsity_penalty

seeds = st.integers(0, 10_000)
widths = st.integers(1, 4)


def test_sizes_and_entropy_by_hand():
    outputs = torch.tensor([[[1.0, 5.0]], [[3.0, 5.0]], [[2.0, 5.0]], [[6.0, 5.0]]])
    # The mean of 1, 3, 2, 6 is 3: deviations 2, 0, 1, 3.
    assert edge_sizes(outputs).tolist() == [[1.5, 0.0]]
    assert float(layer_entropy(torch.tensor([[1.0, 3.0]]))) == pytest.approx(
        -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    )
    assert float(layer_entropy(torch.tensor([[0.0, 3.0]]))) == 0
    assert float(layer_entropy(torch.zeros(2, 3))) == 0


@given(seeds, widths, widths, st.floats(0.01, 100), st.floats(-50, 50))
def test_sizes_scale_and_do_not_see_constants(seed, fan_out, fan_in, factor, constant):
    outputs = randn(20, fan_out, fan_in, seed=seed)
    sizes = edge_sizes(outputs)
    torch.testing.assert_close(edge_sizes(-factor * outputs + constant), factor * sizes)
    still = torch.full_like(outputs, constant)
    torch.testing.assert_close(edge_sizes(still), torch.zeros_like(sizes))
    entropy = float(layer_entropy(sizes))
    assert -1e-9 <= entropy <= math.log(fan_out * fan_in) + 1e-9
    assert float(layer_entropy(factor * sizes)) == pytest.approx(entropy, abs=1e-9)
    alike = float(layer_entropy(torch.full((fan_out, fan_in), factor)))
    assert alike == pytest.approx(math.log(fan_out * fan_in), abs=1e-6)


def test_the_penalty_is_the_sum_over_layers_and_has_a_finite_gradient():
    first, second = randn(30, 4, 3), randn(30, 2, 4, seed=1)
    expected = sum(
        edge_sizes(part).sum() + layer_entropy(edge_sizes(part)) for part in (first, second)
    )
    torch.testing.assert_close(sparsity_penalty([first, second]), expected)
    # Dead edges and a dead layer are where logarithms and quotients go wrong.
    first[:, 1] = 0
    second[:] = 2
    first.requires_grad_()
    second.requires_grad_()
    sparsity_penalty([first, second]).backward()
    assert bool(first.grad.isfinite().all())
    assert bool(second.grad.isfinite().all())


def _attribution_by_loop(layers, units):
    """The definition, number by number."""

    def spread(values):
        mean = sum(values) / len(values)
        return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))

    of_units = [1.0] * layers[-1].shape[1]
    all_edges, all_units = [], []
    for outputs, entered in zip(layers[::-1], units[::-1], strict=True):
        _, fan_out, fan_in = outputs.shape
        edges = [[0.0] * fan_in for _ in range(fan_out)]
        for o in range(fan_out):
            for i in range(fan_in):
                whole = spread(entered[:, o].tolist())
                edges[o][i] = of_units[o] * spread(outputs[:, o, i].tolist()) / whole
        of_units = [sum(edges[o][i] for o in range(fan_out)) for i in range(fan_in)]
        all_edges.insert(0, edges)
        all_units.insert(0, of_units)
    return all_edges, all_units


@given(seeds, st.lists(widths, min_size=2, max_size=4))
def test_attribution_is_its_definition(seed, sizes):
    layers = [
        randn(9, fan_out, fan_in, seed=seed + k)
        for k, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes))
    ]
    units = [part.sum(2) + 7 for part in layers]
    found = attribution(layers, units)
    edges, of_units = _attribution_by_loop(layers, units)
    for mine, theirs in zip(found.edges, edges, strict=True):
        torch.testing.assert_close(mine, torch.tensor(theirs, dtype=torch.float64))
    for mine, theirs in zip(found.units, of_units, strict=True):
        torch.testing.assert_close(mine, torch.tensor(theirs, dtype=torch.float64))
    # Other units for hidden numbers and outputs change nothing.
    factors = [10.0**k for k in range(len(layers))]
    scaled = attribution(
        [f * part for f, part in zip(factors, layers, strict=True)],
        [f * part - f for f, part in zip(factors, units, strict=True)],
    )
    for mine, theirs in zip(scaled.edges, found.edges, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_large_edge_into_a_unit_nobody_listens_to_has_no_attribution():
    first = torch.stack([torch.stack([100 * randn(50), 0 * randn(50)], -1)] * 2, 1)
    first[:, 1] = randn(50, 2, seed=1)
    second = torch.stack([torch.zeros(50, dtype=torch.float64), first[:, 1].sum(-1)], -1)[:, None]
    found = attribution([first, second], [first.sum(2), second.sum(2)])
    assert float(edge_sizes(first)[0, 0]) > 50
    assert float(found.edges[0][0, 0]) == 0
    assert found.units[1].tolist() == pytest.approx([0, 1])


def test_edges_that_cancel_pass_nothing_on():
    x = randn(40)
    outputs = torch.stack([x, -x], -1)[:, None]
    found = attribution([outputs], [outputs.sum(2)])
    assert found.edges[0].tolist() == [[0, 0]]
