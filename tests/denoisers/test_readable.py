import copy

import numpy as np
import pytest
import sympy
import torch

from helpers import refused, seeded
from kan_cases import by_torch
from kan_diffusion.denoisers import NetworkDenoiser
from kan_diffusion.denoisers.edges import CURVE, Edge, Match
from kan_diffusion.denoisers.formula import formula_denoiser
from kan_diffusion.denoisers.library import LIBRARY
from kan_diffusion.denoisers.readable import readable
from kan_diffusion.processes import get_process
from networks import T, batch, kan, network, stir

KINDS = {
    "raw time, no bias": {"time_encoding": "raw", "bias": False},
    "all of it": {"modulated": True, "scaled_inputs": True, "num_input_frequencies": 2},
    "scaled edges": {"edge_scale": True, "modulated": True, "basis": "chebyshev"},
    "rbf": {"basis": "rbf", "grid_size": 7},
    "order 2": {"order": 2},
}


def _same(one, two):
    points, steps = batch()
    for when in (steps, 7):
        with by_torch():  # which compiles no kernel of another order
            found, expected = one(points, when).sample, two(points, when).sample
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_a_kan_taken_apart_and_made_compact_is_the_same_function(settings):
    denoiser = kan(**settings)
    for layer in denoiser.kan_layers:  # grids that have moved are taken along
        layer.basis.grid_origin.add_(torch.rand(layer.in_features, generator=seeded(1)))
    taken = readable(denoiser)
    assert readable(taken) is taken
    assert taken.dtype == torch.float64
    _same(taken, denoiser)
    halved = taken.with_edges(taken.edges[::2])
    with pytest.raises(AssertionError):
        _same(halved, denoiser)
    if denoiser.num_trainable == taken.num_trainable:  # no scales, and biases everywhere
        assert taken.flops == denoiser.flops
    # Nothing enters the first unit of the first layer, which is constant without modulation. Its
    # second leads to the last of the second layer alone, and that one nowhere.
    idle = {(0, i, 0) for i in range(20)} | {(1, 1, 0), (1, 1, 1), (2, 2, 0), (2, 2, 1)}
    left = taken.with_edges([edge for edge in taken.edges if edge.place not in idle])
    stir(left, 1)
    before = copy.deepcopy(left)
    small = left.compact()
    assert small.compact() is small
    assert list(small.config.hidden) == [3 if settings.get("modulated") else 2, 2]
    assert len(small.edges) < len(left.edges)
    assert small.dtype == torch.float64
    _same(small, left)
    _same(before, left)  # the network that was given is left as it is


def test_what_has_no_edges_to_read_is_refused_in_one_line():
    gated = NetworkDenoiser(2, gated=True, learned_functions=True)
    formula = formula_denoiser([-sympy.Symbol("x0")], {}, get_process("cosine"))
    for make, message in (
        (lambda: readable(kan(residual=True)), "a residual state adds is no edge; train"),
        (lambda: readable(formula), "a formula has no edges that are left to be read"),
        (lambda: readable(NetworkDenoiser(2)), "only KANs have edges to read; train family 're"),
        (lambda: readable(gated), "not read one at a time; train family 'readable-kan'"),
        (lambda: network([[(3, 0, CURVE, False)], []], [2]), "no edge from 3 to 0 in layer 0"),
        (lambda: network([[], [(0, 2, CURVE, False)]], [2]), "no edge from 0 to 2 in layer 1"),
        (lambda: network([[], [], [(0, 0, CURVE, False)]], [2]), "from 0 to 0 in layer 2"),
        (lambda: network([[(0, 0, "tahn", False)], []], [2]), "function 'tahn', did you mean 'tan"),
    ):
        with refused(message):
            make()


def test_kept_edges_are_kept_by_a_network_that_was_built_without_values():
    denoiser = network(MIXED, [3])
    with torch.device("meta"):
        other = NetworkDenoiser.from_config(denoiser.config)
    other.to_empty(device="cpu").load_state_dict(denoiser.state_dict())
    points, steps = batch()
    found = other.double()(points, steps).sample
    torch.testing.assert_close(found, denoiser(points, steps).sample)


MIXED = [
    [(0, 0, CURVE, False), (0, 1, "tanh", True), (1, 1, "linear", True), (2, 2, "sin", False)],
    [(0, 0, "linear", True), (1, 0, "tanh", False), (1, 1, CURVE, False), (2, 1, "square", True)],
]
TWO_INPUTS = [[edge for edge in MIXED[0] if edge[0] < 2], MIXED[1]]
MODULATED = {"modulated": True, "scaled_inputs": True}


@pytest.mark.parametrize(("edges", "settings"), [(MIXED, {}), (TWO_INPUTS, MODULATED)])
def test_a_layer_is_the_sum_of_its_edges_and_a_walk_goes_through_the_network(edges, settings):
    denoiser = network(edges, [3], **settings)
    points, steps = batch()
    _, *modulations = denoiser.modulations(steps, points.dtype)
    walk = denoiser.walk(points, steps)
    for (layer, seen, factor, units), modulation in zip(walk, modulations, strict=True):
        single = torch.zeros(len(seen), layer.out_features, layer.in_features).double()
        for edge in layer.edges:
            x = seen[:, edge.input]
            function, a, b, c, slope = layer.formula_of(edge)
            value = slope * x
            assert (slope != 0) == edge.has_slope
            if edge.kind == CURVE:
                value = value + layer.edge_curve(edge.input, edge.output, x)
            if function is not None:
                value = value + c * LIBRARY[edge.kind].values(a * x + b)
            single[:, edge.output, edge.input] = value
        torch.testing.assert_close(layer.edge_outputs(seen), single)
        assert torch.equal(factor, modulation[0])
        expected = factor * (layer.bias + single.sum(2)) + modulation[1]
        torch.testing.assert_close(units, expected)
    # Of the network, test_network has the formula.
    torch.testing.assert_close(denoiser(points, steps).sample, units)


@pytest.mark.parametrize(("edges", "settings"), [(MIXED, {}), (TWO_INPUTS, MODULATED)])
def test_parameters_that_are_counted_have_gradients_and_no_other(edges, settings):
    denoiser = network(edges, [3], grid_size=4, grid_range=(-0.2, 0.2), **settings)
    denoiser(*batch(num=2000)).sample.square().sum().backward()  # points in every interval
    gradients = [p.grad for p in denoiser.parameters() if p.grad is not None]
    assert denoiser.num_trainable == sum(int((grad != 0).sum()) for grad in gradients)


@pytest.mark.parametrize("settings", [{}, MODULATED])
def test_inputs_are_called_what_they_are_and_idle_ones_are_left_out(settings):
    taken = readable(kan(num_input_frequencies=2, num_time_frequencies=2, **settings))
    points, steps = batch()
    names = taken.unit_names()[0]
    assert names[4:6] == ["cos 0.25π x1", "cos 0.5π x1"]
    if not settings:
        _, inputs, _, _ = next(taken.walk(points, steps))
        for number, name in enumerate(names):
            *wave, what = name.split(" ")
            value = (steps + 1) / T if what == "t" else points[:, int(what[1:])]
            if wave:
                angle = float(wave[1].removesuffix("π")) * np.pi * value
                value = angle.cos() if wave[0] == "cos" else angle.sin()
            found = inputs[:, number].detach()
            torch.testing.assert_close(found, value.double(), atol=1e-6, rtol=1e-6)
    left = taken.with_edges([e for e in taken.edges if e.layer or e.input in (1, 4, 5)])
    small = left.compact()
    assert small.config.kept_inputs == [1, 4, 5]
    assert small.unit_names()[0] == [names[i] for i in (1, 4, 5)]
    _same(small, left)


def test_a_match_changes_its_edge_and_the_bias_and_edges_of_another_kind_start_at_zero():
    denoiser = network(MIXED, [3])
    line, (x, _) = Edge(1, 1, 0, "sin", True), batch(dim=3)
    changed = denoiser.with_edges([line if e.place == line.place else e for e in denoiser.edges])
    expected = denoiser.kan_layers[1].edge_outputs(x).detach()
    expected[:, 0, 1] = 0
    torch.testing.assert_close(changed.kan_layers[1].edge_outputs(x).detach(), expected)
    changed.set_match(line, Match("sin", True, 2.0, -1.0, 3.0, 0.7, 0.5, 1.0, 3))
    expected[:, 0, 1] = 3 * torch.sin(2 * x[:, 1] - 1) + 0.7 * x[:, 1]
    torch.testing.assert_close(changed.kan_layers[1].edge_outputs(x).detach(), expected)
    moved = changed.kan_layers[1].bias - denoiser.kan_layers[1].bias
    torch.testing.assert_close(moved.detach(), torch.tensor([0.5, 0.0]).double())
