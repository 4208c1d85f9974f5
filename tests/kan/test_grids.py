"""Grids that move under a function that stays."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd import forward_ad

from helpers import assert_same_state, randn, random_layer, refused, scrambled, seeded
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan import (
    KAN,
    KANLinear,
    LearnedFunctions,
    out_of_range_fractions,
    refine,
    update_grid,
)
from kan_diffusion.kan.bases import RBF, Chebyshev

DOUBLE = torch.float64
UNEVEN = [0, 1, 0, 0, 2]
by_torch = forward_ad.dual_level
"""Where no kernel is compiled for an order."""
each_basis = pytest.mark.parametrize("basis", ["bspline", "rbf", "chebyshev"])


def _change(before, after):
    return float((after - before).detach().abs().max())


def _inside(layer, rows=200):
    """Points on every input's grid, its ends and knots among them."""
    u = layer.grid_size * torch.rand(rows, 3, generator=seeded(1), dtype=DOUBLE)
    u[: layer.grid_size + 1] = torch.arange(layer.grid_size + 1.0).unsqueeze(1)
    return layer.grid_origin + u * layer.grid_step


def _around(layer):
    """Points on every input's grid and as far again to either side."""
    middle = (layer.grid_origin + layer.basis.grid_end) / 2
    return middle + 3 * (_inside(layer) - middle)


@given(
    order=st.integers(1, 5),
    mode=st.sampled_from(["linear", "clamp", "zero"]),
    intervals=st.integers(1, 6),
    parts=st.integers(1, 5),
    edge_scale=st.booleans(),
    seed=st.integers(0, 999),
)
def test_knots_between_knots_leave_the_function_as_it_is(
    order, mode, intervals, parts, edge_scale, seed
):
    with by_torch():
        layer = random_layer(
            order=order, grid_size=intervals, extrapolation=mode, edge_scale=edge_scale, seed=seed
        )
        x = _inside(layer) if mode == "zero" else _around(layer)
        before = layer(x)
        ends = layer.grid_origin.clone(), layer.basis.grid_end
        change = layer.refine(parts * intervals)
        assert layer.grid_size == parts * intervals
        assert layer.weight.shape == (2, 3 * (1 + parts * intervals + order))
        assert torch.equal(layer.grid_origin, ends[0])
        torch.testing.assert_close(layer.basis.grid_end, ends[1], rtol=0, atol=1e-15)
        scale = max(1.0, float(before.detach().abs().max()))
        assert _change(before, layer(x)) < 1e-12 * scale
        assert change < 1e-12 * scale


def test_in_float32_a_refined_function_is_the_same_to_1e6():
    for intervals, parts in itertools.product((1, 3, 5), (2, 3, 13)):
        network = KAN([3, 4, 2], grid_size=intervals)
        network.reset_parameters(seeded(0))
        x = 2 * torch.randn(300, 3, generator=seeded(1))
        before = network(x)
        change = network.refine(parts * intervals, x)
        assert change == _change(before, network(x))
        assert change < 1e-6 * max(1.0, float(before.detach().abs().max()))


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_other_knots_are_fitted_the_better_the_more_there_are(order):
    with by_torch():
        changes = []
        for intervals in (7, 14, 28, 56):
            layer = random_layer(order=order, grid_size=5)
            x = _inside(layer, 1000)
            before = layer(x)
            returned = layer.refine(intervals, x)
            changes.append(_change(before, layer(x)))
            assert returned == changes[-1]
        scale = float(before.detach().abs().max())
        assert changes[0] < scale
        for coarse, fine in itertools.pairwise(changes):
            assert 1e-10 < fine < coarse
        # The derivative of degree k jumps at the old knots, so that the error falls as h^k.
        assert changes[3] < 4 * 8.0**-order * changes[0]


@pytest.mark.parametrize("mode", ["linear", "clamp"])
def test_refining_and_coarsening_gives_the_weights_back(mode):
    layer = random_layer(grid_size=4, extrapolation=mode)
    weight, x = layer.weight.detach().clone(), _around(layer)
    layer.refine(12)
    assert layer.refine(4, x) < 1e-10
    torch.testing.assert_close(layer.weight.detach(), weight, rtol=1e-9, atol=1e-9)


def test_more_polynomials_change_nothing():
    layer = random_layer(basis="chebyshev", grid_size=3)
    x, weight = _around(layer), layer.weight.detach().clone().view(2, 3, -1)
    before = layer(x)
    assert layer.refine(8, x) < 1e-11
    assert _change(before, layer(x)) < 1e-11
    edges = layer.weight.detach().view(2, 3, -1)
    kept, added = edges.split([weight.shape[-1], edges.shape[-1] - weight.shape[-1]], dim=-1)
    assert torch.equal(kept, weight)
    assert (added == 0).all()
    # And back, which is a fit.
    assert layer.refine(3, x) < 1e-9
    torch.testing.assert_close(layer.weight.detach().view(2, 3, -1), weight)


def test_gaussians_are_fitted_by_narrower_ones():
    for intervals, bound in ((5, 1e-12), (10, 0.05), (40, 0.05)):
        layer = random_layer(basis="rbf", grid_size=5)
        x = _inside(layer, 1000)
        before = layer(x)
        change = layer.refine(intervals, x)
        assert change == _change(before, layer(x))
        # Not to any precision: narrow Gaussians have no slope at the ends of the grid.
        assert change < bound * float(before.detach().abs().max())


@pytest.mark.parametrize(("basis", "bound"), [("bspline", 1e-3), ("rbf", 0.05)])
def test_a_move_within_the_old_grid_changes_little_where_there_are_intervals(basis, bound):
    changes = []
    for intervals in (5, 40):
        layer = random_layer(basis=basis, grid_size=5, grid_range=(-4.0, 4.0))
        layer.refine(intervals)
        x = 4 * torch.rand(200, 3, generator=seeded(2), dtype=DOUBLE) - 2
        before = layer(x)
        changes.append(layer.update_grid(x) / float(before.detach().abs().max()))
    assert changes[1] < bound
    assert basis == "rbf" or changes[1] < changes[0] / 4


def test_a_polynomial_is_the_same_on_any_grid_however_small_the_move():
    for low, width in ((-1.0, 2.0), (1000.0, 1.0), (0.0, 1e-9)):
        layer = KANLinear(1, 1, basis="chebyshev", grid_range=(low, low + width), dtype=DOUBLE)
        layer.weight.detach().normal_(generator=seeded(0))
        origin, size = layer.grid_origin.clone(), layer.basis.grid_end - layer.grid_origin
        for share in (0.99, 0.5):
            x = origin + share * size * torch.linspace(0, 1, 200, dtype=DOUBLE).unsqueeze(1)
            before = layer(x)
            assert layer.update_grid(x, margin=0.0) < 1e-8
            assert _change(before, layer(x)) < 1e-8


def test_the_data_place_the_grid_and_do_not_enter_the_fit():
    few, many = random_layer(), random_layer()
    ends = torch.tensor([[-2.0, -1.0, 0.0], [2.0, 3.0, 0.5]], dtype=DOUBLE)
    share = torch.rand(100, 3, generator=seeded(0), dtype=DOUBLE)
    few.update_grid(ends)
    many.update_grid(torch.cat([ends, ends[0] + share * (ends[1] - ends[0])]))
    torch.testing.assert_close(few.weight, many.weight, rtol=1e-10, atol=1e-10)
    assert torch.equal(few.grid_step, many.grid_step)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_knots_between_knots_leave_functions_of_groups_as_they_are(dtype):
    for parts in (1, 2, 3):
        own = {"grid_size": 5, "start": [torch.zeros_like] * 3, "dtype": dtype}
        module = scrambled(LearnedFunctions(5, 3, UNEVEN, **own))
        x = 3 * randn(200, 5, dtype=dtype)
        before = module(x)
        change = module.refine(5 * parts)
        assert module.coefficients.shape == (3, 3, 5 * parts + 3)
        bound = (1e-6 if dtype == torch.float32 else 1e-12) * _change(0, before)
        assert max(change, _change(before, module(x))) < bound


def test_half_precision_is_kept():
    layer = KANLinear(2, 2, grid_size=4, dtype=torch.bfloat16)
    x = torch.rand(50, 2, generator=seeded(0)).bfloat16()
    before = layer(x)
    layer.refine(8)
    torch.testing.assert_close(layer(x), before, rtol=0, atol=0.1)
    layer.update_grid(x)
    assert {t.dtype for t in layer.state_dict().values()} == {torch.bfloat16}


@each_basis
def test_a_grid_made_without_memory_is_there_after_a_reset(basis):
    layer = nn.utils.skip_init(KANLinear, 4, 3, basis=basis, grid_range=(-2.0, 3.0))
    for buffer in layer.buffers():
        buffer.fill_(math.nan)
    layer.reset_parameters()
    torch.testing.assert_close(layer.grid_origin, torch.full((4,), -2.0))
    torch.testing.assert_close(layer.basis.grid_end, torch.full((4,), 3.0))
    assert layer(torch.zeros(5, 4)).isfinite().all()


@each_basis
@given(
    margin=st.sampled_from([0.0, 0.01, 0.5]),
    centre=st.floats(-100, 100),
    spread=st.floats(1e-3, 100),
    seed=st.integers(0, 999),
)
def test_a_moved_grid_covers_the_data(basis, margin, centre, spread, seed):
    for dtype in (torch.float32, DOUBLE):
        layer = KANLinear(3, 2, basis=basis, dtype=dtype)
        x = (centre + spread * randn(50, 3, seed=seed)).to(dtype)
        before = layer(x)
        change = layer.update_grid(x, margin=margin)
        assert (layer.out_of_range_per_input(x) == 0).all()
        assert change == _change(before, layer(x))
        # And not much more than the data.
        low, high = x.amin(0), x.amax(0)
        room = margin * (high - low) + 1e-5 * (high.abs() + low.abs())
        assert (layer.grid_origin >= low - 1.001 * room).all()
        assert (layer.basis.grid_end <= high + 1.001 * room).all()


@each_basis
def test_constant_inputs_keep_the_width_of_their_grid(basis):
    layer = KANLinear(4, 2, basis=basis, grid_range=(-1.0, 1.0), dtype=DOUBLE)
    x = torch.tensor([[0.3, 1.7, -5.0, 0.0]], dtype=DOUBLE).repeat(50, 1)
    x[:, 3] = torch.linspace(-2, 2, 50)
    layer.update_grid(x, margin=0.0)
    width = layer.basis.grid_end - layer.grid_origin
    torch.testing.assert_close(width, torch.tensor([2.0, 2.0, 2.0, 4.0], dtype=DOUBLE))
    expected = torch.tensor([-1.0, -0.3, -5.0, -2.0], dtype=DOUBLE)
    torch.testing.assert_close(layer.grid_origin, expected)
    assert (layer.out_of_range_per_input(x) == 0).all()


@each_basis
def test_few_or_repeated_rows_are_no_trouble(basis):
    for rows, copies in itertools.product((1, 2, 3), (1, 20)):
        layer = random_layer(basis=basis)
        x = randn(rows, 3, seed=rows).repeat(copies, 1)
        before, largest = layer(x), float(layer.weight.detach().abs().max())
        change = layer.update_grid(x)
        assert change == _change(before, layer(x))
        assert (layer.out_of_range_per_input(x) == 0).all()
        # A fit to the rows alone would be free to take any coefficients.
        assert float(layer.weight.detach().abs().max()) < 20 * largest
        if rows == 1:
            most = 1e-9 if basis == "chebyshev" else float(before.detach().abs().max()) + 9
            assert change < most


@each_basis
def test_weights_move_by_a_linear_map_that_the_grids_alone_decide(basis):
    one, other, mixed = (random_layer(basis=basis, seed=seed) for seed in (0, 1, 2))
    other.basis, mixed.basis = copy.deepcopy(one.basis), copy.deepcopy(one.basis)
    mixed.weight.detach().copy_(0.3 * one.weight + 0.7 * other.weight)
    x = _around(one)
    for layer in (one, other, mixed):
        layer.update_grid(x)
    expected = 0.3 * one.weight + 0.7 * other.weight
    torch.testing.assert_close(mixed.weight, expected, rtol=1e-10, atol=1e-10)


@each_basis
def test_a_grid_of_a_group_covers_all_its_inputs(basis):
    own = {"basis": basis, "grid_size": 5, "start": [torch.zeros_like] * 2, "dtype": DOUBLE}
    module = scrambled(LearnedFunctions(5, 2, UNEVEN, **own))
    x = randn(100, 5, seed=3) * torch.tensor([1.0, 0.5, 2.0, 0.3, 1.0]) + torch.tensor(UNEVEN)
    module.update_grid(x, margin=0.5)
    before = module(x)
    module.update_grid(x, margin=0.0)
    if basis == "chebyshev":  # a polynomial is the same on any grid
        torch.testing.assert_close(module(x), before)
    for group in range(3):
        seen = x[:, [i for i, g in enumerate(UNEVEN) if g == group]]
        torch.testing.assert_close(module.grid.grid_origin[group], seen.min())
        torch.testing.assert_close(module.grid.grid_end[group], seen.max())
    assert float(module.out_of_range_per_input(x).max()) == 0


def test_every_layer_of_a_network_follows_its_own_inputs():
    network = KAN([3, 4, 2], grid_size=30, grid_range=(-5.0, 5.0), dtype=DOUBLE)
    network.reset_parameters(seeded(0))
    x = randn(300, 3)
    before, hidden = network(x), network.layers[0](x).detach()
    change = network.update_grid(x)
    assert change == _change(before, network(x))
    assert change < 1e-3
    for layer, seen in zip(network.layers, (x, hidden), strict=True):
        spread = seen.amax(0) - seen.amin(0)
        torch.testing.assert_close(layer.grid_origin, seen.amin(0) - 0.01 * spread)
        torch.testing.assert_close(layer.basis.grid_end, seen.amax(0) + 0.01 * spread)
    assert set(network.out_of_range_fractions(x).values()) == {0.0}


def test_averages_and_the_optimiser_follow_the_weights():
    network = KAN([2, 3, 1])
    x = torch.randn(200, 2, generator=seeded(1))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    average = copy.deepcopy(network)
    network(x).square().mean().backward()
    optimizer.step()
    before, of_average = network(x), average(x)
    refine(network, 10, optimizer=optimizer, averages=[average])
    assert _change(before, network(x)) < 1e-5
    assert _change(of_average, average(x)) < 1e-5
    before = network(x)
    network(x).square().mean().backward()
    optimizer.step()
    assert _change(before, network(x)) > 1e-4


# How much is outside


class Twice(nn.Module):
    """Uses one layer for two inputs, the second by keyword."""

    def __init__(self):
        super().__init__()
        self.layer = KANLinear(2, 2)

    def forward(self, x):
        return self.layer(10 * x) + self.layer(input=x)


def test_fractions_outside_are_told_by_the_names_of_the_layers():
    module = nn.Sequential(KANLinear(2, 2), nn.Identity(), KAN([2, 1, 1]))
    for layer in (module[0], *module[2].layers):
        layer.weight.detach().zero_()
        layer.bias.detach().fill_(3.0)
    module[2].layers[0].bias.detach().fill_(0.5)
    x = torch.tensor([[0.0, 2.0], [-1.0, 1.0], [0.5, -1.5], [9.0, 0.1]])
    fractions = out_of_range_fractions(module, x)
    assert fractions == {"0": 3 / 8, "2.layers.0": 1.0, "2.layers.1": 0.0}
    assert KANLinear(2, 2).out_of_range_fractions(x) == {"": 3 / 8}
    assert out_of_range_fractions(nn.Sequential(nn.Linear(2, 4), nn.SiLU()), x) == {}
    assert not any(part._forward_pre_hooks for part in module.modules())
    # Of a layer that is used twice, four of eight values.
    twice = torch.tensor([[0.5, 0.5], [-0.5, 0.2]])
    assert out_of_range_fractions(Twice(), twice) == {"layer": 0.5}


def test_the_fraction_outside_is_told_for_each_input():
    layer = KANLinear(3, 2)
    layer.grid_origin.copy_(torch.tensor([-1.0, 0.0, 10.0]))
    x = torch.tensor([[-1.0, -0.1, 9.0], [1.0, 0.0, 9.0], [1.5, 2.0, 10.0], [0.0, 1.0, 13.0]])
    shared = LearnedFunctions(3, 1, [0, 1, 0], grid_range=(0.0, 1.0))
    shared.grid.grid_origin.copy_(torch.tensor([0.0, 10.0]))
    y = torch.tensor([[0.0, 0.5, 2.0], [0.5, 10.5, 3.0], [1.5, 11.0, 0.5], [1.0, 11.0, -1.0]])
    expected = torch.tensor([0.25, 0.25, 0.75])
    for module, inputs in ((layer, x), (shared, y)):
        assert torch.equal(module.out_of_range_per_input(inputs), expected)
        assert torch.equal(module.out_of_range_per_input(inputs.view(2, 2, 3)), expected)
        assert module.out_of_range_per_input(inputs[:0]).isnan().all()
    assert shared.out_of_range_fractions(y) == {"": 5 / 12}  # each value once, in any group


class Idle(KANLinear):
    """Passes its inputs by its layer, as far as hooks can tell: like what torch.compile makes."""

    def __call__(self, x):
        return self.forward(x)


def test_layers_that_nobody_sees_are_not_taken_for_none():
    with refused("no KAN layer of Idle was called; if torch.compile made it or a part of it"):
        out_of_range_fractions(Idle(3, 2), torch.ones(5, 3))


# What is refused


class Fitted(Chebyshev):
    """Polynomials that do not know that they hold one another."""

    name = "fitted"

    def exact_refinement(self, num_intervals):
        return None


class Alike(RBF):
    """Gaussians that are all the same, so that no fit is unique."""

    name = "alike"

    def values(self, u):
        return super().values(u)[..., :1].expand(*u.shape, self.num_functions)


def test_a_basis_of_ones_own_is_fitted():
    layer = KANLinear(1, 2, basis=Fitted(1, 4), dtype=DOUBLE)
    x = torch.linspace(-2, 2, 200, dtype=DOUBLE).unsqueeze(1)
    assert layer.refine(9, x) < 1e-10
    before = layer(x)
    assert layer.update_grid(x) == _change(before, layer(x))
    assert (layer.out_of_range_per_input(x) == 0).all()


def _broken(value):
    return torch.tensor([[0.0, 1.0, 2.0], [1.0, value, 3.0]])


ALIKE = {"basis": Alike(3, 4), "dtype": DOUBLE}
COARSE = {"functions": 8, "start": "waves", "grid_size": 16}
UNMOVED = [
    (KANLinear, {}, lambda m: m.update_grid(_broken(math.nan)), "input 1 of 'the layer' has a NaN"),
    (
        KANLinear,
        {},
        lambda m: m.update_grid(_broken(-math.inf)),
        "input 1 of 'the layer' has a NaN",
    ),
    (KANLinear, {}, lambda m: m.update_grid(torch.zeros(0, 3)), "no inputs reach 'the layer'"),
    (KANLinear, {}, lambda m: m.update_grid(torch.ones(9, 3), margin=-0.1), "or more, not -0.1"),
    (KANLinear, {}, lambda m: m.update_grid(torch.ones(9, 3), margin=math.nan), "more, not nan"),
    (KANLinear, {}, lambda m: m.refine(0), "at least 1, not 0"),
    (KANLinear, {}, lambda m: m.refine(9, torch.zeros(0, 3)), "inputs are empty: give some, or"),
    (KANLinear, ALIKE, lambda m: m.refine(10), "condition number"),
    (KANLinear, ALIKE, lambda m: m.update_grid(randn(50, 3)), "condition number"),
    (nn.Linear, {}, lambda m: refine(m, 10), "no KAN layer with a grid"),
    (nn.Linear, {}, lambda m: update_grid(m, torch.ones(9, 3)), "no KAN layer with a grid"),
    (
        LearnedFunctions,
        COARSE,
        lambda m: m.refine(4),
        "its basis, 7 with grid_size=4, not 8; raise",
    ),
]


def test_moves_that_cannot_be_made_are_refused_and_nothing_has_moved():
    for kind, own, move, message in UNMOVED:
        outputs = {} if kind is LearnedFunctions else {"out_features": 2}
        module = kind(**{"in_features": 3, **outputs, **own})
        state = copy.deepcopy(module.state_dict())
        with refused(message):
            move(module)
        assert_same_state(module, state)


def test_ranges_that_a_float_cannot_divide_are_refused():
    for high in (1e-44, 3e38):
        layer = KANLinear(2, 2)
        state = copy.deepcopy(layer.state_dict())
        x = torch.tensor([[-high, 0.0], [high, 1.0]])
        try:
            layer.update_grid(x)
        except KanDiffusionError as error:
            assert "\n" not in str(error)  # noqa: PT017
            assert_same_state(layer, state)
        else:  # or a grid that works
            assert layer(torch.tensor([[high / 2, 0.5]])).isfinite().all()
