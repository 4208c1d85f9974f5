"""New layers on other grids: the function stays."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd import forward_ad

from helpers import assert_same_state, randn, random_layer, refused, scrambled, seeded
from kan_diffusion.kan import (
    KAN,
    RBF,
    Chebyshev,
    KANLinear,
    LearnedFunctions,
    moved,
    out_of_range_fractions,
    refined,
)

DOUBLE = torch.float64
GROUPS = [0, 1, 2, 0, 1]
by_torch = forward_ad.dual_level
"""Where no kernel is compiled for an order."""
each_basis = pytest.mark.parametrize("basis", ["bspline", "rbf", "chebyshev"])


def _functions(count, **own):
    """Shared functions of five inputs in three groups."""
    own = {"grid_size": 5, "initial": [torch.zeros_like] * count, "dtype": DOUBLE, **own}
    return scrambled(LearnedFunctions(5, count, 3, **own))


def _change(before, after):
    return float((after - before).detach().abs().max())


def _inside(layer, rows=200):
    """Points on every input's grid, its ends and knots among them."""
    u = layer.grid_size * torch.rand(rows, 3, generator=seeded(1), dtype=DOUBLE)
    u[: layer.grid_size + 1] = torch.arange(layer.grid_size + 1.0).unsqueeze(1)
    return layer.basis.grid_origin + u * layer.basis.grid_step


def _around(layer):
    """Points on every input's grid and as far again to either side."""
    middle = (layer.basis.grid_origin + layer.basis.grid_end) / 2
    return middle + 3 * (_inside(layer) - middle)


# Other numbers of intervals


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
        state = copy.deepcopy(layer.state_dict())
        x = _inside(layer) if mode == "zero" else _around(layer)
        made = refined(layer, parts * intervals)
        assert_same_state(layer, state)
        assert made.grid_size == parts * intervals
        assert torch.equal(made.basis.grid_origin, layer.basis.grid_origin)
        torch.testing.assert_close(made.basis.grid_end, layer.basis.grid_end, rtol=0, atol=1e-15)
        scale = max(1.0, float(layer(x).detach().abs().max()))
        assert _change(layer(x), made(x)) < 1e-12 * scale


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_knots_between_knots_leave_functions_of_groups_as_they_are(dtype):
    module, x = _functions(3, dtype=dtype), 3 * randn(200, 5, dtype=dtype)
    bound = (1e-6 if dtype == torch.float32 else 1e-12) * _change(0, module(x))
    for parts in (1, 2, 3):
        made = refined(module, 5 * parts)
        assert made.coefficients.shape == (3, 3, 5 * parts + 3)
        assert _change(module(x), made(x)) < bound


class Fitted(Chebyshev):
    """Polynomials that do not know that they hold one another."""

    def exact_refinement(self, num_intervals):
        return None


@pytest.mark.parametrize(
    ("basis", "sizes", "bound"),
    [
        ("bspline", (4, 12, 4), 1e-9),
        ("bspline", (5, 56), 0.01),
        ("chebyshev", (3, 8), 1e-11),
        ("chebyshev", (3, 8, 3), 1e-9),
        (Fitted, (5, 9), 1e-10),
        ("rbf", (5, 5), 1e-12),
        # Not to any precision: narrow Gaussians have no slope at the ends of the grid.
        ("rbf", (5, 10), 0.05),
        ("rbf", (5, 40), 0.05),
    ],
)
def test_a_function_is_kept_as_well_as_the_new_basis_has_it(basis, sizes, bound):
    made = layer = random_layer(basis=basis, grid_size=sizes[0])
    for size in sizes[1:]:
        made = refined(made, size)
    x = _inside(layer, 1000)
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


def test_a_polynomial_is_the_same_on_any_grid_however_small_the_move():
    for low, width in ((-1.0, 2.0), (1000.0, 1.0), (0.0, 1e-9)):
        layer = KANLinear(1, 1, basis="chebyshev", grid_range=(low, low + width), dtype=DOUBLE)
        layer.weight.detach().normal_(generator=seeded(0))
        origin, size = layer.basis.grid_origin, layer.basis.grid_end - layer.basis.grid_origin
        for share in (0.99, 0.5):
            x = origin + share * size * torch.linspace(0, 1, 200, dtype=DOUBLE).unsqueeze(1)
            assert _change(layer(x), moved(layer, x, margin=0.0)(x)) < 1e-8


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
        made = moved(layer, x, margin)
        assert not made.outside(x).any()
        # And not much more than the data.
        low, high = x.amin(0), x.amax(0)
        room = margin * (high - low) + 1e-5 * (high.abs() + low.abs())
        assert (made.basis.grid_origin >= low - 1.001 * room).all()
        assert (made.basis.grid_end <= high + 1.001 * room).all()


def test_a_grid_of_a_group_covers_all_its_inputs():
    module = _functions(2, basis="chebyshev")
    x = randn(100, 5, seed=3) * torch.tensor([1.0, 0.5, 2.0, 0.3, 1.0]) + torch.tensor(GROUPS)
    wide = moved(module, x, margin=0.5)
    made = moved(wide, x, margin=0.0)
    torch.testing.assert_close(made(x), wide(x))  # a polynomial is the same on any grid
    for group in range(3):
        seen = x[:, [i for i, g in enumerate(GROUPS) if g == group]]
        torch.testing.assert_close(made.basis.grid_origin[group], seen.min())
        torch.testing.assert_close(made.basis.grid_end[group], seen.max())
    assert not made.outside(x).any()


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


class Alike(RBF):
    """Gaussians that are all the same, so that no fit is unique."""

    def values(self, u):
        return super().values(u)[..., :1].expand(*u.shape, self.num_functions)


BROKEN = torch.tensor([[0.0, 1.0, 2.0], [1.0, math.nan, 3.0]])
HUGE = torch.tensor([[-3e38, 0.0, 0.0], [3e38, 1.0, 1.0]])
REFUSED = [
    (lambda m: moved(m, BROKEN), "input 1 has a NaN or an infinite value"),
    (lambda m: moved(m, BROKEN.nan_to_num(-math.inf)), "input 1 has a NaN or an infinite value"),
    (lambda m: moved(m, HUGE), "float32 cannot divide into 5 intervals; scale them"),
    (lambda m: moved(m, torch.zeros(0, 3)), "there are no inputs"),
    (lambda m: moved(m, torch.ones(9, 3), margin=-0.1), "or more, not -0.1"),
    (lambda m: moved(m, torch.ones(9, 3), margin=math.nan), "more, not nan"),
    (lambda m: refined(m, 0), "at least 1, not 0"),
    (lambda m: refined(KANLinear(3, 2, basis=Alike, dtype=DOUBLE), 10), "condition number"),
    (
        lambda m: refined(KANLinear(3, 2, functions=8, initial="waves", grid_size=16), 4),
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
