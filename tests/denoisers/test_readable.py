import copy

import numpy as np
import pytest
import torch

from helpers import refused, seeded
from kan_diffusion.denoisers import NetworkDenoiser
from kan_diffusion.denoisers.edges import CURVE, Edge, Match
from kan_diffusion.denoisers.library import LIBRARY
from kan_diffusion.denoisers.readable import ReadableDenoiser, readable
from kan_diffusion.symbolic.match import match_curve
from networks import T, batch, kan, moved_kan, network, stir

KINDS = {
    "plain": {},
    "raw time, no bias": {"time_encoding": "raw", "bias": False},
    "all of it": {"modulated": True, "scaled_inputs": True, "num_input_frequencies": 2},
    "scaled edges": {"edge_scale": True, "modulated": True, "basis": "chebyshev"},
    "rbf": {"basis": "rbf", "grid_size": 7},
    "order 2": {"order": 2},
}


def _same(one, two, dim=2):
    points, steps = batch(dim)
    torch.testing.assert_close(
        one(points, steps).sample, two(points, steps).sample, atol=1e-10, rtol=1e-8
    )
    torch.testing.assert_close(one(points, 7).sample, two(points, 7).sample, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_a_kan_taken_apart_and_made_compact_is_the_same_function(settings):
    denoiser = kan(**settings)
    taken = readable(denoiser)
    assert taken is not denoiser
    assert taken.dtype == torch.float64
    _same(taken, denoiser)
    points, steps = batch()
    halved = taken.with_edges(taken.edges[::2])
    assert not torch.allclose(halved(points, steps).sample, denoiser(points, steps).sample)
    if denoiser.num_trainable == taken.num_constants:  # no scales, and biases everywhere
        assert taken.flops == denoiser.flops
    # What it sees step by step is what it gives.
    *_, (_, _, _, last) = taken.walk(points, steps)
    torch.testing.assert_close(last, denoiser(points, steps).sample)
    # Unit 1 of the first layer leads nowhere; then unit 2 of the second, which others enter.
    left = taken.with_edges([e for e in taken.edges if (e.layer, e.input) not in ((1, 1), (2, 2))])
    stir(left, 1)
    small = left.compact()
    assert small.compact() is small
    assert list(small.config.hidden) == [3, 2]
    assert len(small.edges) < len(left.edges)
    assert small.dtype == torch.float64
    _same(small, left)


def test_a_moved_and_refined_grid_is_taken_along():
    denoiser = moved_kan()
    _same(readable(denoiser), denoiser)
    assert readable(readable(denoiser)).config.curves["grid_size"] == 9


def test_what_has_no_edges_to_read_is_refused_in_one_line():
    for make, message in (
        (lambda: readable(kan(residual=True)), "passes the layers of a residual KAN by is no edge"),
        (lambda: readable(kan(num_classes=3)), "classes cannot be taken apart; train one without"),
        (lambda: readable(NetworkDenoiser(2)), "only KANs have edges to read; train family 're"),
        (
            lambda: readable(NetworkDenoiser(2, gated=True, learned_functions=True)),
            "not read one at a time; train family 'readable-kan'",
        ),
        (lambda: network([[(3, 0, CURVE, False)], []], [2]), "no edge from 3 to 0"),
        (lambda: network([[(0, 0, CURVE, False)]], [2]), "2 layers of edges, not 1"),
        (lambda: network([[(0, 0, "tahn", False)], []], [2]), "function 'tahn', did you mean 'tan"),
    ):
        with refused(message):
            make()


MIXED = [
    [(0, 0, CURVE, False), (0, 1, "tanh", True), (1, 1, "linear", True), (2, 2, "sin", False)],
    [(0, 0, "linear", True), (1, 0, "tanh", False), (1, 1, CURVE, False), (2, 1, "square", True)],
]


@pytest.mark.parametrize("settings", [{}, {"modulated": True, "time_encoding": "fourier"}])
def test_a_layer_is_the_sum_of_its_edges(settings):
    edges = MIXED
    if settings:
        edges = [[edge for edge in MIXED[0] if edge[0] < 2], MIXED[1]]
    denoiser = network(edges, [3], **settings)
    points, steps = batch()
    state = denoiser.features(points, steps)
    for number, layer in enumerate(denoiser.layers):
        expected = layer.bias.detach().repeat(len(state), 1)
        single = torch.zeros(len(state), layer.out_features, layer.in_features).double()
        for edge in layer.edges:
            x = state[:, edge.input].detach()
            slope = layer.slope[edge.output, edge.input].detach()
            value = torch.zeros_like(x)
            if edge.kind == CURVE:
                value = layer.curves.edge_curve(edge.input, edge.output, x)
            if edge.kind == "linear" or edge.has_slope:
                value = value + slope * x
            applied = layer.function_of(edge)
            if applied is not None:
                _, a, b, c = applied
                value = value + c * LIBRARY[edge.kind].values(a * x + b)
            single[:, edge.output, edge.input] = value
        torch.testing.assert_close(layer.edge_outputs(state), single)
        torch.testing.assert_close(layer(state), expected + single.sum(2))
        state = layer(state)
        if number == 0 and settings:
            scales, shifts, _ = denoiser.modulations(steps)
            state = scales[0] * state + shifts[0]
    torch.testing.assert_close(denoiser(points, steps).sample, state)


def test_constants_are_counted_by_hand():
    denoiser = network(MIXED, [3], grid_size=4, order=3)
    curve = 1 + 4 + 3  # SiLU and the splines
    first = 3 + curve + (3 + 1) + 1 + 3
    second = 2 + 1 + 3 + curve + (3 + 1)
    assert denoiser.num_constants == first + second
    edges = [[edge for edge in MIXED[0] if edge[0] < 2], MIXED[1]]
    modulated = network(edges, [3], grid_size=4, order=3, modulated=True, scaled_inputs=True)
    of_time = (1 + 1) * (2 * 3 + 2)  # weight and bias of raw time: two a unit, one an input
    assert modulated.num_constants == first - 3 + second + of_time


def test_gradients_reach_the_constants_that_have_an_effect_and_no_other():
    denoiser = network(MIXED, [3])
    points, steps = batch()
    denoiser(points, steps).sample.square().sum().backward()
    for layer in denoiser.layers:
        for group in layer.groups:
            for parameter in (group.inner, group.shift, group.outer):
                assert bool((parameter.grad != 0).all())
        assert bool((layer.slope.grad[layer.slope_mask == 0] == 0).all())
        assert bool((layer.slope.grad[layer.slope_mask == 1] != 0).all())
        assert bool((layer.bias.grad != 0).all())


def test_a_network_with_formulas_is_saved_and_loaded(tmp_path):
    edges = [[edge for edge in MIXED[0] if edge[0] < 2], MIXED[1]]
    denoiser = network(edges, [3], modulated=True, scaled_inputs=True).float()
    with torch.no_grad():
        for layer in denoiser.layers:
            layer.curves.basis.grid_origin.add_(0.3)
    denoiser.save_pretrained(tmp_path)
    loaded = ReadableDenoiser.from_pretrained(tmp_path)
    points, steps = batch()
    assert torch.equal(loaded(points.float(), steps).sample, denoiser(points.float(), steps).sample)
    assert loaded.edges == denoiser.edges
    assert loaded.num_constants == denoiser.num_constants


def _with_a_constant_unit(kind):
    return [
        [(0, 0, CURVE, False), (1, 0, "sin", False), (2, 2, "tanh", False)],
        [(0, 0, CURVE, False), (1, 0, *kind), (1, 1, *kind), (2, 1, CURVE, False)],
    ]


IDLE_CHAIN = [  # the only way out of unit 1 of the first layer is unit 1 of the second
    [(0, 0, CURVE, False), (1, 1, CURVE, False)],
    [(0, 0, "tanh", True), (1, 1, "tanh", False)],
    [(0, 0, CURVE, False), (0, 1, "linear", True)],
]
NO_WAY_IN = [  # but the timestep moves the second unit; the third leads nowhere
    [(0, 0, CURVE, False), (1, 0, "sin", False)],
    [(0, 0, CURVE, False), (1, 0, "tanh", False), (1, 1, "tanh", False)],
]


@pytest.mark.parametrize(
    ("edges", "hidden", "settings", "left", "num_edges"),
    [
        (IDLE_CHAIN, [2, 2], {}, [1, 1], 4),
        (_with_a_constant_unit((CURVE, False)), [3], {}, [2], 5),
        (_with_a_constant_unit(("linear", True)), [3], {}, [2], 5),
        (_with_a_constant_unit(("tanh", True)), [3], {}, [2], 5),
        (NO_WAY_IN, [3], {"modulated": True, "scaled_inputs": True}, [2], 5),
    ],
)
def test_compact_turns_constants_into_biases_and_drops_what_leads_nowhere(
    edges, hidden, settings, left, num_edges
):
    denoiser = network(edges, hidden, **settings)
    before = copy.deepcopy(denoiser)
    small = denoiser.compact()
    assert list(small.config.hidden) == left
    assert len(small.edges) == num_edges
    _same(small, denoiser)
    _same(before, denoiser)  # the network that was given is left as it is


@pytest.mark.parametrize("settings", [{}, {"modulated": True, "scaled_inputs": True}])
def test_compact_leaves_idle_inputs_out(settings):
    taken = readable(kan(num_input_frequencies=1, **settings))
    left = taken.with_edges([e for e in taken.edges if e.layer or e.input in (1, 4, 5)])
    small = left.compact()
    assert small.input_index.tolist() == [1, 4, 5]
    assert small.unit_names()[0] == ["x1", "sin 0.25π x0", "sin 0.25π x1"]
    _same(small, left)


def test_inputs_are_called_what_they_are():
    taken = readable(kan(num_input_frequencies=2, num_time_frequencies=2))
    points, steps = batch()
    t = (steps + 1) / T
    features = taken.features(points, steps)
    for number, name in enumerate(taken.unit_names()[0]):
        *wave, what = name.split(" ")
        value = t if what == "t" else points[:, int(what[1:])]
        if wave:
            angle = float(wave[1].removesuffix("π")) * np.pi * value
            value = angle.cos() if wave[0] == "cos" else angle.sin()
        torch.testing.assert_close(features[:, number], value.double(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "values", "place"),
    [
        ("linear", lambda x: 0.7 * x - 0.4, (0, 1, 2)),
        ("tanh", lambda x: -1.3 * torch.tanh(0.8 * x + 0.3) + 0.25 * x + 0.6, (2, 0, 1)),
    ],
)
def test_a_match_in_the_place_of_a_curve_keeps_the_function(name, values, place):
    made = kan(grid_size=60, grid_range=(-6.0, 6.0))
    layer = made.kan_layers[place[0]]
    x = torch.linspace(-6, 6, 2001, dtype=torch.float64)
    functions = layer.basis(x[:, None].expand(-1, layer.in_features))[:, place[1]]
    with torch.no_grad():  # the function, as nearly as the grid lets it be
        layer._edges[place[2], place[1], 0] = 0  # without SiLU
        layer._edges[place[2], place[1], 1:] = torch.linalg.lstsq(functions, values(x)).solution
    denoiser = readable(made)
    points, steps = batch(num=2000)
    inputs = [input for _, input, _, _ in denoiser.walk(points, steps)]
    x = inputs[place[0]][:, place[1]].numpy()
    layer = denoiser.layers[place[0]]
    y = layer.curves.edge_curve(place[1], place[2], torch.from_numpy(x)).numpy()
    match = next(m for m in match_curve(x, y, {name: LIBRARY[name]}) if m.has_slope)
    assert match.r2 > 1 - 1e-5
    edge = Edge(*place, name, True)
    others = [other for other in denoiser.edges if other.place != place]
    made = denoiser.with_edges([*others, edge])
    made.set_match(edge, match)
    with torch.no_grad():
        expected, found = denoiser(points, steps).sample, made(points, steps).sample
    spread, change = expected.std(), (found - expected).abs().max()
    assert float(change / spread) < 5e-3


def test_a_match_moves_the_bias_and_no_other_edge():
    denoiser = network(MIXED, [3])
    edge = Edge(1, 1, 0, "tanh", False)
    match = Match("tanh", False, 2.0, -1.0, 3.0, 0.0, 0.5, 1.0, 3)
    points, steps = batch()
    before = [layer.edge_outputs(x).detach() for layer, x, _, _ in denoiser.walk(points, steps)]
    bias = denoiser.layers[1].bias.detach().clone()
    denoiser.set_match(edge, match)
    *_, (layer, x, _, _) = denoiser.walk(points, steps)
    after = layer.edge_outputs(x).detach()
    torch.testing.assert_close(after[:, 0, 1], 3 * torch.tanh(2 * x[:, 1] - 1))
    after[:, 0, 1] = before[1][:, 0, 1]
    torch.testing.assert_close(after, before[1])
    torch.testing.assert_close(layer.bias.detach() - bias, torch.tensor([0.5, 0.0]).double())


def test_resetting_draws_curves_and_leaves_nothing_of_formulas():
    edges = [[(0, 0, "tanh", False), (2, 1, "sin", False)], [(0, 0, "tanh", False)]]
    denoiser = network(edges, [2])
    denoiser.reset_parameters(seeded(0))
    points, steps = batch()
    assert torch.equal(denoiser(points, steps).sample, torch.zeros_like(points))
