"""Layers with shared functions from and to layers without, and their derivatives by torch."""

from __future__ import annotations

import pytest
import torch

from basis_suite import UNEVEN
from helpers import randn, random_layer, refused, scrambled, seeded
from kan_diffusion.errors import NoGridError
from kan_diffusion.kan import BSpline, GroupedKANLinear, KANLinear, from_kan_linear, to_kan_linear
from kan_diffusion.kan.bases import BASES

DOUBLE = torch.float64


def _layer(in_features=5, out_features=3, seed=0, **settings):
    """A float64 layer with normal parameters and a grid of its own a group."""
    functions = 1 if settings.get("basis") == "rational" else 4
    start = [torch.zeros_like] * settings.get("functions", functions)
    shared = {"functions": functions, "groups": UNEVEN, "grid_size": 4, "dtype": DOUBLE}
    layer = GroupedKANLinear(in_features, out_features, start=start, **{**shared, **settings})
    return scrambled(layer, seed)


# From and to layers of which each edge is a function of its own


def _on_groups(full):
    """The layer with one grid a group, that of its first input."""
    first = [UNEVEN.index(group) for group in UNEVEN]
    full.grid_origin.copy_(full.grid_origin[first].clone())
    full.grid_step.copy_(full.grid_step[first].clone())
    return full


with_grids = pytest.mark.parametrize("basis", [name for name in BASES if name != "rational"])


@with_grids
def test_to_a_kan_layer_and_back(basis):
    settings = {} if basis == "fourier" else {"extrapolation": "clamp", "order": 2}
    layer, x = _layer(functions=3, basis=basis, **settings), 5 * randn(60, 5, seed=1)
    assert bool((layer.out_of_range_per_input(x) > 0).all())
    stream = torch.get_rng_state()
    full = to_kan_linear(layer)
    again, error = from_kan_linear(full, 3, UNEVEN)
    assert torch.equal(torch.get_rng_state(), stream)
    expected = layer.edge_outputs(x)
    for made in (full, again):
        torch.testing.assert_close(made.edge_outputs(x), expected, rtol=1e-9, atol=1e-9)
        assert torch.equal(made.bias, layer.bias)
    assert max(error.root_mean_square, error.largest) < 1e-13
    assert again.group_of == layer.group_of
    assert again.grid.sizes() == full.grid.sizes() == layer.grid.sizes()
    for grid in (again.grid, full.grid):
        assert grid.extrapolation == layer.grid.extrapolation


@with_grids
@pytest.mark.parametrize("edge_scale", [False, True])
def test_as_many_functions_as_the_basis_are_exact(basis, edge_scale):
    full = random_layer(5, 3, basis=basis, grid_size=6, base_activation=None, edge_scale=edge_scale)
    x = 5 * randn(60, 5, seed=1)
    for groups, fitted in ((None, full), (UNEVEN, _on_groups(full))):
        layer, error = from_kan_linear(fitted, full.basis.num_functions, groups)
        torch.testing.assert_close(layer(x), full(x), rtol=1e-9, atol=1e-9)
        assert max(error.root_mean_square, error.largest) < 1e-13


@pytest.mark.parametrize("base", [None, "silu"])
@pytest.mark.parametrize("functions", [1, 2, 4])
def test_no_functions_are_nearer(base, functions):
    full = _on_groups(random_layer(5, 3, base_activation=base, edge_scale=True))
    layer, error = from_kan_linear(full, functions, UNEVEN)
    least, squares, largest = 0.0, torch.zeros(2, dtype=DOUBLE), torch.zeros(2, dtype=DOUBLE)
    for group in range(3):
        members = [i for i, own in enumerate(UNEVEN) if own == group]
        alone = full.grid.one_input(members[0])
        # The midpoint rule, the Gram matrix and its Cholesky factor: another path to the bound.
        u = 5 * (torch.arange(20_000, dtype=DOUBLE) + 0.5) / 20_000
        x = alone.grid_origin + alone.grid_step * u
        design = alone(x[:, None])[:, 0]
        places = [(i, o) for i in members for o in range(3)]
        curves = torch.stack([full.edge_curve(i, o, x) for i, o in places], dim=1)
        lower = torch.linalg.cholesky(design.T @ design / len(x))
        moments = design.T @ curves / len(x)
        singular = torch.linalg.svdvals(torch.linalg.solve_triangular(lower, moments, upper=False))
        beside = curves - design @ torch.cholesky_solve(moments, lower)  # what SiLU leaves over
        least += float(singular[functions:].square().sum() + beside.square().mean(0).sum())
        found = torch.stack([layer.edge_curve(i, o, x) for i, o in places], dim=1)
        both = torch.stack([found - curves, curves])
        squares += both.square().mean(1).sum(1)
        largest = largest.maximum(both.abs().amax((1, 2)))
        # The functions are orthonormal in the mean over the grid.
        gram = layer.coefficients[:, group] @ (lower @ lower.T) @ layer.coefficients[:, group].T
        torch.testing.assert_close(
            gram.detach(), torch.eye(functions, dtype=DOUBLE), atol=1e-6, rtol=0
        )
    assert float(squares[0]) == pytest.approx(least, rel=1e-5)
    assert error.root_mean_square == pytest.approx(float(squares[0] / squares[1]) ** 0.5, rel=1e-5)
    assert error.largest == pytest.approx(float(largest[0] / largest[1]), rel=0.02)


def test_more_functions_than_edges_and_edges_of_zero():
    full, x = random_layer(1, 2, base_activation=None), 3 * randn(40, 1, seed=1)
    layer, error = from_kan_linear(full, 5)
    torch.testing.assert_close(layer(x), full(x), rtol=1e-9, atol=1e-9)
    assert error.largest < 1e-13
    assert bool((layer.coefficients.abs().amax(2) > 0).all())  # none that cannot be learned
    full.weight.detach().zero_()
    layer, error = from_kan_linear(full, 1)
    assert (error.root_mean_square, error.largest) == (0, 0)
    torch.testing.assert_close(layer(x), full(x))


def test_layers_keep_their_dtype_and_do_without_a_bias():
    full = random_layer(dtype=torch.float32, bias=False, extrapolation="clamp")
    layer, error = from_kan_linear(full, 8)
    assert 0 < error.root_mean_square < error.largest < 1e-3  # SiLU alone is fitted
    share = torch.rand(40, 3, generator=seeded(1))
    x = full.grid_origin + full.grid_step * full.grid_size * share
    expected = full.edge_outputs(x).detach()
    for made in (layer, to_kan_linear(layer)):
        assert (made.weight.dtype, made.bias) == (torch.float32, None)
        furthest = (made.edge_outputs(x) - expected).detach().abs().max()
        assert float(furthest) < 1.2 * error.largest * float(expected.abs().max()) + 1e-5


class _Own(BSpline):
    """A basis that has no name."""


def test_what_has_no_layer_of_the_other_kind_is_refused():
    full = random_layer(5, 3)
    for arguments, message in (
        ((full, 2, [0, 1, 0, 0, 1]), "inputs 0 and 2 are in group 0 .* different grids; .*=None"),
        ((full, 9), "at most as many functions an input as its basis, 8"),
        ((full, 2, 3), "groups must divide the 5 inputs"),
        ((_layer(), 2), "from_kan_linear takes a KANLinear, not a GroupedKANLinear"),
        ((KANLinear(5, 3, basis=_Own(5, 4)), 2), "by its name in BASES, and _Own has none"),
    ):
        with refused(message):
            from_kan_linear(*arguments)
    with refused("to_kan_linear takes a GroupedKANLinear, not a KANLinear"):
        to_kan_linear(full)
    with refused("basis 'rational' has no grid", NoGridError):
        to_kan_linear(_layer(basis="rational"))
    with refused("basis 'rational' has no grid", NoGridError):
        from_kan_linear(random_layer(basis="rational"), 1)
    full.weight.detach()[0, 3] = torch.nan
    with refused("weights that are not finite"):
        from_kan_linear(full, 2)


# Derivatives


@pytest.mark.parametrize("basis", [name for name in BASES if name != "bspline"])
def test_first_and_second_derivatives(basis):
    layer = _layer(basis=basis)
    names = ["coefficients", "weight", "bias"]
    leaves = [getattr(layer, name).detach().clone().requires_grad_() for name in names]
    x = (layer.grid.grid_origin[UNEVEN] if basis != "rational" else 0) + randn(2, 5, seed=3).abs()

    def function(x, *parameters):
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(layer, given, x)

    operands = [x.detach().requires_grad_(), *leaves]
    assert torch.autograd.gradcheck(function, operands)
    assert torch.autograd.gradgradcheck(function, operands)
