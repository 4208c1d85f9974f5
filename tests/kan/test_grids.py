"""New layers on other grids: the function stays."""

import copy
import itertools
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import remove_parametrizations

from helpers import assert_same_state, randn, random_layer, refused, scrambled, seeded
from kan_diffusion.kan import (
    KAN,
    KANLinear,
    LearnedFunctions,
    SharedKANLinear,
    moved,
    out_of_range_fractions,
    pruned,
    refined,
)
from kan_diffusion.kan.bases import BASES

SINGLE, DOUBLE = torch.float32, torch.float64
each_basis = pytest.mark.parametrize("basis", BASES)


def _functions(count, **own):
    """Shared functions of five inputs in three groups."""
    own = {"initial": [torch.zeros_like] * count, "dtype": DOUBLE, **own}
    return scrambled(LearnedFunctions(5, count, 3, **own))


def _change(before, after):
    return float((after - before).detach().abs().max())


def _inside(layer, rows=1000):
    """Points on every input's grid, its ends and knots among them."""
    shape = rows, layer.in_features
    size = layer.basis.num_intervals
    u = size * torch.rand(shape, generator=seeded(1), dtype=DOUBLE)
    u[: size + 1] = torch.arange(size + 1.0).unsqueeze(1)
    origin, step = (grid[layer.group] for grid in layer.basis.grid)
    return (origin + u * step).to(step.dtype)


def _around(layer):
    """Points on every input's grid and as far again to either side."""
    middle = ((layer.basis.grid_origin + layer.basis.grid_end) / 2)[layer.group]
    return middle + 3 * (_inside(layer) - middle)


# Other numbers of intervals


def _spline(order, mode):
    return partial(random_layer, order=order, extrapolation=mode, edge_scale=True)


KEPT = [
    # Knots between knots.
    *(
        (_spline(order, "linear"), sizes, _around, 1e-12)
        for order, sizes in itertools.product(range(1, 6), ((1, 5), (6, 6), (5, 10)))
    ),
    *((_spline(order, "zero"), (3, 6), _inside, 1e-12) for order in range(1, 6)),
    *((partial(_functions, 3), sizes, _around, 1e-12) for sizes in ((5, 10), (5, 15))),
    (partial(_functions, 3, dtype=SINGLE), (5, 15), _around, 1e-6),
    # Fits, which give back what they can.
    (partial(random_layer), (4, 12, 4), _inside, 1e-9),
    (partial(random_layer, basis="chebyshev"), (3, 8), _around, 1e-11),
    (partial(random_layer, basis="chebyshev"), (3, 8, 3), _inside, 1e-9),
    (partial(random_layer, basis="rbf"), (5, 5), _inside, 1e-12),
    (partial(random_layer), (5, 56), _inside, 0.01),
    # Narrow Gaussians have no slope at the ends of the grid.
    (partial(random_layer, basis="rbf"), (5, 10), _inside, 0.05),
    (partial(random_layer, basis="rbf"), (5, 40), _inside, 0.05),
]


@pytest.mark.parametrize(("make", "sizes", "places", "bound"), KEPT)
def test_a_function_is_kept_as_well_as_the_new_grid_has_it(make, sizes, places, bound):
    with forward_ad.dual_level():  # where no kernel is compiled for an order
        made = layer = make(grid_size=sizes[0])
        state, x = copy.deepcopy(layer.state_dict()), places(layer)
        for size in sizes[1:]:
            made = refined(made, size)
        assert_same_state(layer, state)
        assert made.basis.num_intervals == sizes[-1]
        assert torch.equal(made.basis.grid_origin, layer.basis.grid_origin)
        end = layer.basis.grid_end
        rounding = 5 * torch.finfo(end.dtype).eps
        torch.testing.assert_close(made.basis.grid_end, end, rtol=0, atol=rounding)
        assert _change(layer(x), made(x)) < bound * float(layer(x).detach().abs().max())


def test_half_precision_and_what_is_frozen_are_kept():
    layer = KANLinear(2, 2, grid_size=4, dtype=torch.bfloat16).requires_grad_(False)
    x = torch.rand(50, 2, generator=seeded(0)).bfloat16()
    for made in (refined(layer, 8), moved(layer, x)):
        torch.testing.assert_close(made(x), layer(x), rtol=0, atol=0.1)
        assert {t.dtype for t in made.state_dict().values()} == {torch.bfloat16}
        assert not any(p.requires_grad for p in made.parameters())


# Other ranges


@pytest.mark.parametrize(("basis", "bound"), [("bspline", 1e-3), ("rbf", 0.05)])
def test_a_move_within_the_old_grid_changes_little_where_there_are_intervals(basis, bound):
    changes = []
    for intervals in (5, 40):
        layer = refined(random_layer(basis=basis, grid_range=(-4.0, 4.0)), intervals)
        x = 4 * torch.rand(200, 3, generator=seeded(2), dtype=DOUBLE) - 2
        before = layer(x)
        changes.append(_change(before, moved(layer, x)(x)) / float(before.detach().abs().max()))
    assert changes[1] < bound
    assert basis == "rbf" or changes[1] < changes[0] / 4


@each_basis
@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
def test_a_moved_grid_covers_the_data_and_not_much_more(basis, dtype):
    for margin, centre, spread in itertools.product(
        (0.0, 0.01, 0.5), (-100.0, 0.3, 40.0), (1e-3, 1.0, 100.0)
    ):
        layer = KANLinear(3, 2, basis=basis, dtype=dtype)
        x = (centre + spread * randn(50, 3)).to(dtype)
        made = moved(layer, x, margin)
        assert not made.outside(x).any()
        low, high = x.amin(0), x.amax(0)
        room = margin * (high - low) + 1e-5 * (high.abs() + low.abs())
        assert (made.basis.grid_origin >= low - 1.001 * room).all()
        assert (made.basis.grid_end <= high + 1.001 * room).all()


def test_a_grid_of_a_group_covers_all_its_inputs():
    module = _functions(2, grid_size=1)
    x = randn(100, 5, seed=3) * torch.tensor([1.0, 0.5, 2.0, 0.3, 1.0]) + module.group
    wide = moved(module, x, margin=0.5)
    made = moved(wide, x, margin=0.0)
    torch.testing.assert_close(made(x), wide(x))  # a polynomial is the same on any grid
    for group in range(3):
        seen = x[:, module.group == group]
        torch.testing.assert_close(made.basis.grid_origin[group], seen.min())
        torch.testing.assert_close(made.basis.grid_end[group], seen.max())


def test_constant_inputs_keep_the_width_of_their_grid():
    layer = KANLinear(4, 2, grid_range=(-1.0, 1.0), dtype=DOUBLE)
    x = torch.tensor([[0.3, 1.7, -5.0, 0.0]], dtype=DOUBLE).repeat(50, 1)
    x[:, 3] = torch.linspace(-2, 2, 50)
    made = moved(layer, x, margin=0.0)
    width = made.basis.grid_end - made.basis.grid_origin
    torch.testing.assert_close(width, torch.tensor([2.0, 2.0, 2.0, 4.0], dtype=DOUBLE))
    expected = torch.tensor([-1.0, -0.3, -5.0, -2.0], dtype=DOUBLE)
    torch.testing.assert_close(made.basis.grid_origin, expected)
    assert not made.outside(x).any()


@each_basis
def test_weights_move_by_a_linear_map_that_the_grids_alone_decide(basis):
    one, other, mixed = (random_layer(basis=basis, seed=seed) for seed in (0, 1, 2))
    other.basis, mixed.basis = copy.deepcopy(one.basis), copy.deepcopy(one.basis)
    mixed.weight.detach().copy_(0.3 * one.weight + 0.7 * other.weight)
    ends = torch.tensor([[-2.0, -1.0, 0.0], [2.0, 3.0, 0.5]], dtype=DOUBLE)
    share = torch.rand(100, 3, generator=seeded(0), dtype=DOUBLE)
    x = torch.cat([ends, ends[0] + share * (ends[1] - ends[0])])
    # Of each layer other numbers, but for the ends.
    one, other, mixed = moved(one, ends), moved(other, x[:50]), moved(mixed, x)
    expected = 0.3 * one.weight + 0.7 * other.weight
    torch.testing.assert_close(mixed.weight, expected, rtol=1e-10, atol=1e-10)


BROKEN = torch.tensor([[0.0, 1.0, 2.0], [1.0, math.nan, 3.0]])
HUGE = torch.tensor([[-3e38, 0.0, 0.0], [3e38, 1.0, 1.0]])
REFUSED = [
    (lambda m: moved(m, BROKEN), "input 1 has a NaN or an infinite value"),
    (lambda m: moved(m, BROKEN.nan_to_num(-math.inf)), "input 1 has a NaN or an infinite value"),
    (lambda m: moved(m, HUGE), "float32 cannot divide into 5 intervals; scale them"),
    (lambda m: moved(m, torch.zeros(0, 3)), "there are no inputs"),
    (lambda m: moved(m, torch.ones(9, 3), margin=-0.1), "or more, not -0.1"),
    (lambda m: moved(m, torch.ones(9, 3), margin=math.nan), "more, not nan"),
    (lambda m: refined(m, 0), "from 1 to 10,000, not 0"),
    (lambda m: refined(m, 7.5), "grid_size must be a whole number, from 1 to 10,000, not 7.5"),
    (
        lambda m: refined(SharedKANLinear(3, 2, functions=8, initial="waves", grid_size=16), 4),
        "grid_size=4 has 7; take a larger",
    ),
]


def test_layers_that_cannot_be_made_are_refused():
    for make, message in REFUSED:
        with refused(message):
            make(KANLinear(3, 2))


# How much is outside


class Idle(KANLinear):
    """Passes its inputs by its layer, as far as hooks can tell: like what torch.compile makes."""

    def __call__(self, x):
        return self.forward(x)


def test_fractions_outside_are_told_by_the_names_of_the_layers():
    module = nn.Sequential(KANLinear(2, 2), nn.Identity(), KAN([2, 1, 1]))
    for layer, output in zip((module[0], *module[2].layers), (3.0, 0.5, 3.0), strict=True):
        layer.weight.detach().zero_()
        layer.bias.detach().fill_(output)
    x = torch.tensor([[0.0, 2.0], [-1.0, 1.0], [0.5, -1.5], [9.0, 0.1]])
    fractions = out_of_range_fractions(module, x)
    assert fractions == {"0": 3 / 8, "2.layers.0": 1.0, "2.layers.1": 0.0}
    assert math.isnan(out_of_range_fractions(KANLinear(2, 2), x[:0])[""])
    assert out_of_range_fractions(nn.Sequential(nn.Linear(2, 4), nn.SiLU()), x) == {}
    # Of shared functions each value once, in any group.
    shared = LearnedFunctions(3, 1, 2, grid_range=(0.0, 1.0))
    shared.basis.grid_origin.copy_(torch.tensor([0.0, 10.0]))
    y = torch.tensor([[0.0, 0.5, 2.0], [0.5, 10.5, 3.0], [1.5, 11.0, 0.5], [1.0, 11.0, -1.0]])
    assert out_of_range_fractions(shared, y) == {"": 5 / 12}
    with refused("no KAN layer of Idle was called; if torch.compile made it or a part of it"):
        out_of_range_fractions(Idle(2, 2), x)


# Networks


@pytest.mark.parametrize("kind", [KAN, nn.Sequential])
def test_a_network_is_refined_and_moved_layer_by_layer(kind):
    made, x = KAN([3, 4, 2], grid_size=4, dtype=DOUBLE), 3 * randn(200, 3)
    network = made if kind is KAN else nn.Sequential(*made.layers)
    before = copy.deepcopy(network)
    fine = refined(network, 8)
    torch.testing.assert_close(fine(x), network(x), rtol=1e-9, atol=1e-9)
    wide = moved(network, x)
    assert type(fine) is type(wide) is kind
    layers = list(fine.layers if kind is KAN else fine)
    assert [layer.basis.num_intervals for layer in layers] == [8, 8]
    assert max(out_of_range_fractions(network, x).values()) > 0
    assert set(out_of_range_fractions(wide, x).values()) == {0.0}
    assert_same_state(network, before)


def test_a_network_with_other_parts_is_refused():
    for network, held in (
        (nn.Sequential(KANLinear(3, 2), nn.ReLU()), "Sequential of KANLinear, ReLU"),
        (nn.Linear(3, 2), "Linear"),
        (nn.Sequential(), "Sequential"),
    ):
        with refused(
            f"nn.Sequential of BasisLayer is needed, not a {held}; give such layers alone"
        ):
            refined(network, 8)
        with refused("is needed, not a"):
            moved(network, randn(5, 3))


@pytest.mark.parametrize(
    "made",
    [weight_norm, partial(prune.random_unstructured, name="weight", amount=0.3)],
    ids=["weight_norm", "prune"],
)
def test_a_layer_whose_weight_is_made_of_others_is_refused_until_it_has_one(made):
    layer, x = made(KANLinear(3, 2, grid_size=4)), randn(50, 3).float()
    for change in (lambda: refined(layer, 8), lambda: moved(layer, x), lambda: pruned(layer, x)):
        with refused("made of others, .*give it a value of its own with torch.nn.utils"):
            change()
    if made is weight_norm:
        remove_parametrizations(layer, "weight")
    else:
        prune.remove(layer, "weight")
    torch.testing.assert_close(refined(layer, 8)(x), layer(x))
