"""Grids that move under a function that stays, with its averages and its optimiser.

What holds for the grids of every basis is in basis_suite.py.
"""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from diffusers.training_utils import EMAModel
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from basis_suite import around, inside
from helpers import assert_same_state, randn, random_layer, refused, seeded
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan import KAN, KANLinear, out_of_range_fractions, refine, update_grid
from kan_diffusion.kan.bases import RBF, Chebyshev
from kan_diffusion.kan.grids import MovingGrids

DOUBLE = torch.float64
by_torch = forward_ad.dual_level
"""Where no kernel is compiled for an order."""


def _change(before, after):
    return float((after - before).detach().abs().max())


def _assert_unchanged(module, state):
    assert_same_state(module, state)
    assert not any(part._forward_pre_hooks for part in module.modules())


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
        x = inside(layer) if mode == "zero" else around(layer)
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
            x = inside(layer, 1000)
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
    weight, x = layer.weight.detach().clone(), around(layer)
    layer.refine(12)
    assert layer.refine(4, x) < 1e-10
    torch.testing.assert_close(layer.weight.detach(), weight, rtol=1e-9, atol=1e-9)


def test_more_polynomials_change_nothing():
    layer = random_layer(basis="chebyshev", grid_size=3)
    x, weight = around(layer), layer.weight.detach().clone().view(2, 3, -1)
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
        x = inside(layer, 1000)
        before = layer(x)
        change = layer.refine(intervals, x)
        assert change == _change(before, layer(x))
        # Not to any precision: narrow Gaussians have no slope at the ends of the grid.
        assert change < bound * float(before.detach().abs().max())


def test_without_inputs_the_change_is_that_over_the_grids():
    network = KAN([3, 4, 2], dtype=torch.float64)
    network.reset_parameters(seeded(0))
    layers = [copy.deepcopy(layer) for layer in network.layers]
    change = network.refine(7)
    measured = []
    for old, new in zip(layers, network.layers, strict=True):
        x = torch.linspace(-1, 1, 2001, dtype=torch.float64).unsqueeze(1)
        x = x.expand(-1, old.in_features)
        measured.append(_change(old(x), new(x)))
    # Over other points of the same curve.
    assert 0.9 * max(measured) < change <= 1.001 * max(measured)


@pytest.mark.parametrize(("basis", "bound"), [("bspline", 1e-3), ("rbf", 0.05)])
def test_a_move_within_the_old_grid_changes_little_where_there_are_intervals(basis, bound):
    changes = []
    for intervals in (5, 40):
        layer = random_layer(basis=basis, grid_size=5, grid_range=(-4.0, 4.0))
        layer.refine(intervals)
        x = 4 * torch.rand(200, 3, generator=seeded(2), dtype=torch.float64) - 2
        before = layer(x)
        changes.append(layer.update_grid(x) / float(before.detach().abs().max()))
    assert changes[1] < bound
    assert basis == "rbf" or changes[1] < changes[0] / 4


def test_a_polynomial_is_the_same_on_any_grid_however_small_the_move():
    for low, width in ((-1.0, 2.0), (1000.0, 1.0), (0.0, 1e-9)):
        layer = KANLinear(
            1, 1, basis="chebyshev", grid_range=(low, low + width), dtype=torch.float64
        )
        layer.weight.detach().normal_(generator=seeded(0))
        origin, size = layer.grid_origin.clone(), layer.basis.grid_end - layer.grid_origin
        for share in (0.99, 0.5):
            x = origin + share * size * torch.linspace(0, 1, 200, dtype=torch.float64).unsqueeze(1)
            before = layer(x)
            assert layer.update_grid(x, margin=0.0) < 1e-8
            assert _change(before, layer(x)) < 1e-8


def test_the_data_place_the_grid_and_do_not_enter_the_fit():
    few, many = random_layer(), random_layer()
    ends = torch.tensor([[-2.0, -1.0, 0.0], [2.0, 3.0, 0.5]], dtype=torch.float64)
    share = torch.rand(100, 3, generator=seeded(0), dtype=torch.float64)
    few.update_grid(ends)
    many.update_grid(torch.cat([ends, ends[0] + share * (ends[1] - ends[0])]))
    torch.testing.assert_close(few.weight, many.weight, rtol=1e-10, atol=1e-10)
    assert torch.equal(few.grid_step, many.grid_step)


def test_every_layer_of_a_network_follows_its_own_inputs():
    network = KAN([3, 4, 2], grid_size=30, grid_range=(-5.0, 5.0), dtype=torch.float64)
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


class Twice(nn.Module):
    """Uses one layer for two inputs, the wider one first, the other by keyword."""

    def __init__(self):
        super().__init__()
        self.layer = KANLinear(2, 2, dtype=torch.float64)

    def forward(self, x):
        return self.layer(10 * x) + self.layer(input=x)


def test_a_layer_that_is_used_twice_covers_all_it_sees():
    module = Twice()
    x = torch.tensor([[0.5, 0.5], [-0.5, 0.2]], dtype=torch.float64)
    assert out_of_range_fractions(module, x) == {"layer": 0.5}  # four of eight values
    update_grid(module, x)
    seen = torch.cat([x, 10 * x])
    assert (module.layer.out_of_range_per_input(seen) == 0).all()
    assert out_of_range_fractions(module, x) == {"layer": 0.0}


def _broken(value):
    x = torch.randn(20, 3, generator=seeded(0))
    x[4, 1] = value
    return x


class Break(nn.Module):
    """Passes its input on with one NaN."""

    def forward(self, x):
        x = x.clone()
        x[-1:, -1] = math.nan
        return x


UNMOVED = [
    (lambda m: update_grid(m, _broken(math.nan)), r"input 1 of '0\.layers\.0' has a NaN"),
    (lambda m: update_grid(m, _broken(-math.inf)), r"input 1 of '0\.layers\.0' has a NaN"),
    (lambda m: update_grid(m[0].layers[0], _broken(math.nan)), "input 1 of 'the layer'"),
    # On the way, where the first layers could have moved.
    (lambda m: update_grid(m, torch.randn(5, 3, generator=seeded(0))), "input 1 of '2'"),
    (lambda m: update_grid(m, torch.zeros(0, 3)), r"no inputs reach '0\.layers\.0'"),
    (lambda m: update_grid(m, torch.ones(9, 3), margin=-0.1), "zero or more, not -0.1"),
    (lambda m: update_grid(m, torch.ones(9, 3), margin=math.nan), "zero or more, not nan"),
    (lambda m: update_grid(m, torch.ones(9, 3), margin=math.inf), "zero or more, not inf"),
    (lambda m: refine(m, 0), "at least 1, not 0"),
    (lambda m: refine(m, 9, torch.zeros(0, 3)), "inputs are empty: give some, or none to"),
]


def test_moves_that_cannot_be_made_are_refused_and_nothing_has_moved():
    module = nn.Sequential(KAN([3, 4, 2]), Break(), KANLinear(2, 1))
    state = copy.deepcopy(module.state_dict())
    for move, message in UNMOVED:
        with refused(message):
            move(module)
        _assert_unchanged(module, state)


def test_weights_that_cannot_follow_a_grid_are_refused_and_nothing_has_moved():
    tied, pruned = (KAN([3, 3, 3], dtype=DOUBLE) for _ in range(2))
    tied.layers[1].weight = tied.layers[0].weight
    prune.l1_unstructured(pruned.layers[1], "weight", 0.5)
    computed = (
        "the weight of layer 'layers.1' is computed from other parameters, as by torch's prun"
    )
    shared = "the weight of layer 'layers.1' is that of 'layers.0', too"
    for network, message in ((tied, shared), (pruned, computed)):
        state = copy.deepcopy(network.state_dict())
        for move in (lambda m: refine(m, 9), lambda m: update_grid(m, randn(9, 3))):
            with refused(message):
                move(network)
            assert_same_state(network, state)


class Idle(KANLinear):
    """Passes its inputs by its layer, as far as hooks can tell: like what torch.compile makes."""

    def __call__(self, x):
        return self.forward(x)


def test_layers_that_nobody_sees_are_not_taken_for_none():
    module = Idle(3, 2)
    state = copy.deepcopy(module.state_dict())
    for look in (update_grid, out_of_range_fractions):
        with refused("no KAN layer of Idle was called; if torch.compile made it or a part of it"):
            look(module, torch.ones(5, 3))
        _assert_unchanged(module, state)


def test_ranges_that_a_float_cannot_divide_are_refused():
    for high in (1e-44, 3e38):
        layer = KANLinear(2, 2)
        state = copy.deepcopy(layer.state_dict())
        x = torch.tensor([[-high, 0.0], [high, 1.0]])
        try:
            layer.update_grid(x)
        except KanDiffusionError as error:
            assert "\n" not in str(error)  # noqa: PT017
            _assert_unchanged(layer, state)
        else:  # or a grid that works
            assert layer(torch.tensor([[high / 2, 0.5]])).isfinite().all()


def test_modules_without_a_grid_are_refused_and_layers_without_one_passed_over():
    for module in (KANLinear(2, 2, basis="rational"), nn.Linear(2, 2)):
        x = 5 * torch.randn(30, 2, generator=seeded(0))
        for change in (lambda m: refine(m, 10), lambda m, x=x: update_grid(m, x)):
            with refused("no KAN layer with a grid"):
                change(module)
        state = copy.deepcopy(module.state_dict())
        together = nn.Sequential(KANLinear(2, 2), module)
        refine(together, 10)
        update_grid(together, x)
        _assert_unchanged(module, state)
        assert (together[0].out_of_range_per_input(x) == 0).all()
        assert together[0].grid_size == 10


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
    layer = KANLinear(1, 2, basis=Fitted(1, 4), dtype=torch.float64)
    x = torch.linspace(-2, 2, 200, dtype=torch.float64).unsqueeze(1)
    assert layer.refine(9, x) < 1e-10
    before = layer(x)
    assert layer.update_grid(x) == _change(before, layer(x))
    assert (layer.out_of_range_per_input(x) == 0).all()


def test_an_ill_conditioned_fit_is_refused_and_nothing_has_moved():
    bad = KANLinear(1, 2, basis=Alike(1, 4), dtype=torch.float64)
    module = nn.Sequential(KANLinear(2, 1, dtype=torch.float64), bad)
    average = copy.deepcopy(module)
    optimizer = torch.optim.Adam(module.parameters())
    x = randn(50, 2)
    module(x).sum().backward()
    optimizer.step()
    state, average_state = copy.deepcopy(module.state_dict()), copy.deepcopy(average.state_dict())
    for change in (
        lambda **keywords: refine(module, 10, **keywords),
        lambda **keywords: update_grid(module, x, **keywords),
    ):
        with refused("condition number"):
            change(optimizer=optimizer, averages=[average])
        _assert_unchanged(module, state)
        _assert_unchanged(average, average_state)
        assert module[0].weight in optimizer.state


each_move = pytest.mark.parametrize(
    "move",
    [
        lambda network, x, **keywords: refine(network, 10, **keywords),
        lambda network, x, **keywords: update_grid(network, x, **keywords),
    ],
    ids=["refine", "update_grid"],
)


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda p: torch.optim.Adam(p, lr=0.02, fused=True),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    ],
    ids=["adam", "momentum"],
)
@each_move
def test_training_goes_on_after_a_move(make_optimizer, move):
    network = KAN([2, 3, 1])
    network.reset_parameters(seeded(0))
    x = torch.randn(200, 2, generator=seeded(1))
    y = torch.sin(2 * x[:, :1]) * x[:, 1:]
    weights = [layer.weight for layer in network.layers]
    biases = [layer.bias for layer in network.layers]
    optimizer = make_optimizer([{"params": weights, "lr": 0.01}, {"params": biases}])

    def train(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            loss = (network(x) - y).square().mean()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    train(60)
    kept = {bias: copy.deepcopy(optimizer.state[bias]) for bias in biases}
    move(network, x, optimizer=optimizer)
    moved = [layer.weight for layer in network.layers]
    for group, expected in zip(optimizer.param_groups, (moved, biases), strict=True):
        assert len(group["params"]) == 2
        assert all(a is b for a, b in zip(group["params"], expected, strict=True))
    assert optimizer.param_groups[0]["lr"] == 0.01
    # What was remembered of the weights is forgotten, the rest is not.
    assert set(optimizer.state) == set(biases)
    for bias in biases:
        for name, value in kept[bias].items():
            assert torch.equal(torch.as_tensor(optimizer.state[bias][name]), torch.as_tensor(value))
    before = (network(x) - y).square().mean().item()
    copies = [weight.detach().clone() for weight in moved]
    assert train(60) < 0.9 * before
    assert all(not torch.equal(a, b) for a, b in zip(copies, moved, strict=True))
    optimizer.load_state_dict(optimizer.state_dict())


@each_move
def test_a_quasi_newton_method_goes_on_with_the_new_weights(move):
    network = KAN([2, 3, 1], dtype=torch.float64)
    network.reset_parameters(seeded(0))
    x = randn(200, 2, seed=1)
    y = torch.sin(2 * x[:, :1]) * x[:, 1:]
    optimizer = torch.optim.LBFGS(network.parameters(), line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = (network(x) - y).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    move(network, x, optimizer=optimizer)
    before = float(closure().detach())
    optimizer.step(closure)
    assert float(closure().detach()) < 0.9 * before


def test_a_moved_weight_is_the_same_parameter_where_its_shape_is_and_stays_frozen():
    layer = random_layer()
    weight = layer.weight.requires_grad_(False)
    layer.update_grid(around(layer))
    assert layer.weight is weight
    layer.refine(10)
    assert layer.weight is not weight
    assert isinstance(layer.weight, nn.Parameter)
    assert not layer.weight.requires_grad


def test_half_precision_is_kept():
    layer = KANLinear(2, 2, grid_size=4, dtype=torch.bfloat16)
    x = torch.rand(50, 2, generator=seeded(0)).bfloat16()
    before = layer(x)
    layer.refine(8)
    torch.testing.assert_close(layer(x), before, rtol=0, atol=0.1)
    layer.update_grid(x)
    assert {t.dtype for t in layer.state_dict().values()} == {torch.bfloat16}


def _nested():
    """KAN layers among others, so that parameters are not told by their place alone."""
    settings = {"grid_size": 6, "grid_range": (-4.0, 4.0)}
    module = nn.Sequential(
        nn.Linear(3, 3), KAN([3, 4, 3], **settings), nn.LayerNorm(3), KANLinear(3, 2, **settings)
    ).double()
    for seed, parameter in enumerate(module.parameters()):
        parameter.detach().normal_(0, 0.5, generator=seeded(seed))
    return module


def _wander(module, seed):
    """What training does to the weights, for all a grid knows."""
    for place, parameter in enumerate(module.parameters()):
        noise = torch.randn(parameter.shape, generator=seeded(100 * seed + place))
        parameter.detach().add_(0.1 * noise)


class Averaged:
    """A module with three kinds of averages after some steps of training."""

    def __init__(self, steps):
        self.module = _nested()
        self.ema = EMAModel(self.module.parameters(), decay=0.7)
        self.swa = AveragedModel(self.module, multi_avg_fn=get_ema_multi_avg_fn(0.7))
        self.twin = copy.deepcopy(self.module)
        self.all = [self.ema, self.swa, self.twin]
        for seed in range(1, 1 + steps):
            _wander(self.module, seed)
            self.step()

    def step(self):
        self.ema.step(self.module.parameters())
        self.swa.update_parameters(self.module)

    def outputs(self, x):
        """Of the module and of its averages, which all differ."""
        averaged = copy.deepcopy(self.module)
        self.ema.copy_to(averaged.parameters())
        found = [each(x) for each in (self.module, averaged, self.swa.module, self.twin)]
        assert all(_change(found[a], found[b]) > 1e-2 for a, b in ((0, 1), (0, 2), (0, 3), (1, 3)))
        return found


@pytest.mark.parametrize("intervals", [6, 18])
def test_averages_are_refined_to_the_same_function(intervals):
    averaged = Averaged(steps=3)
    module, ema, x = averaged.module, averaged.ema, randn(100, 3, seed=5)
    before = averaged.outputs(x)
    refine(module, intervals, averages=averaged.all)
    for one, other in zip(before, averaged.outputs(x), strict=True):
        assert _change(one, other) < 1e-11
    # Averaging goes on, and is what it is said to be.
    shadow, live = ema.shadow_params[2].clone(), module[1].layers[0].weight.detach()
    averaged.step()
    decay = ema.get_decay(ema.optimization_step)
    torch.testing.assert_close(ema.shadow_params[2], decay * shadow + (1 - decay) * live)
    for layer, other in zip(module[1].layers, averaged.swa.module[1].layers, strict=True):
        assert torch.equal(layer.grid_step, other.grid_step)
        assert layer.basis is not other.basis


def test_averages_follow_a_moved_grid_by_the_map_of_the_weights():
    averaged = Averaged(steps=2)
    module, x = averaged.module, 0.5 * randn(200, 3, seed=5)
    refine(module, 48, averages=averaged.all)
    before = averaged.outputs(x)
    # Wide enough for what reaches the layers of the averages too.
    change = update_grid(module, x, margin=0.5, averages=averaged.all)
    after = averaged.outputs(x)
    assert change == _change(before[0], after[0])
    for one, other in zip(before, after, strict=True):
        assert _change(one, other) < 5e-3 * float(one.detach().abs().max())
    for average in (averaged.twin, averaged.swa.module):
        for layer, other in ((module[3], average[3]), (module[1].layers[0], average[1].layers[0])):
            assert torch.equal(layer.grid_origin, other.grid_origin)
            assert torch.equal(layer.grid_step, other.grid_step)
    averaged.step()


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


class Denoiser(MovingGrids):
    """A module with two inputs, the second by name, that returns more than a tensor."""

    def __init__(self, wrap):
        super().__init__()
        self.kan = KAN([3, 4, 2], grid_size=20, dtype=torch.float64)
        self.kan.reset_parameters(seeded(0))
        self.wrap = wrap

    def forward(self, sample, *, time):
        return self.wrap(self.kan(torch.cat([sample, time.unsqueeze(-1)], -1)))


def test_modules_with_other_inputs_and_outputs():
    for wrap in (lambda y: y, lambda y: (y,), lambda y: {"sample": y}, lambda y: [(y, None)]):
        module = Denoiser(wrap)
        sample, time = 3 * randn(50, 2), torch.linspace(0, 1, 50, dtype=torch.float64)
        whole = torch.cat([sample, time.unsqueeze(-1)], -1)
        before = module.kan(whole)
        change = module.update_grid(sample, time=time)
        assert change == _change(before, module.kan(whole)) > 0
        names = {"kan.layers.0", "kan.layers.1"}
        assert set(module.out_of_range_fractions(sample=sample, time=time)) == names
        before = module.kan(whole)
        change = module.refine(25, sample=sample, time=time)
        assert change == _change(before, module.kan(whole)) > 0


def test_moves_draw_nothing_and_keep_no_graph():
    network = KAN([2, 3, 1])
    x = torch.randn(50, 2, generator=seeded(0))
    state = torch.get_rng_state()
    network.refine(10, x)
    network.update_grid(x)
    network.out_of_range_fractions(x)
    assert torch.equal(torch.get_rng_state(), state)
    for tensor in (*network.parameters(), *network.buffers()):
        assert tensor.grad_fn is None


def test_an_average_that_missed_a_move_is_refused_and_nothing_has_moved():
    layer = random_layer()
    stale, other = copy.deepcopy(layer), nn.Linear(3, 2)
    layer.update_grid(around(layer))
    state = copy.deepcopy(layer.state_dict())
    for average in (stale, other):
        with refused("has not the grid"):
            layer.refine(12, averages=[average])
        _assert_unchanged(layer, state)
