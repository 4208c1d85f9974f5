"""Every basis against a formula of its own, and what layers of any basis compute."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import chebyshev

from helpers import function_by_function, randn, random_layer, seeded
from kan_cases import Case
from kan_diffusion.kan import KAN, BSpline, KANLinear
from kan_diffusion.kan.bases import BASES, MAX_ORDER
from kernel_suite import require_derivatives
from splines import scipy_splines

SINGLE, DOUBLE = torch.float32, torch.float64
each_basis = pytest.mark.parametrize("basis", BASES)


def _slopes(functions, x):
    """Derivatives (N, in, functions) of functions with respect to their input."""
    x = x.clone().requires_grad_()
    values = functions(x)
    columns = [
        torch.autograd.grad(values[..., g].sum(), x, retain_graph=True)[0]
        for g in range(values.shape[-1])
    ]
    return torch.stack(columns, dim=-1)


@given(
    num_intervals=st.integers(1, 12),
    order=st.integers(1, MAX_ORDER),
    mode=st.sampled_from(["linear", "zero"]),
    scale=st.integers(-4, 4),
    precision=st.sampled_from([(SINGLE, 1e-6), (DOUBLE, 1e-12)]),
    seed=st.integers(0, 999),
)
def test_splines_and_their_slopes_are_scipys_inside_and_beyond_the_grid(
    num_intervals, order, mode, scale, precision, seed
):
    dtype, tolerance = precision
    basis = BSpline(3, num_intervals, order, extrapolation=mode, dtype=dtype)
    # Origins and points are multiples of 2**-12 steps and a step is a power of two, so that the
    # place on the grid is told exactly and what is left is the error of the functions.
    step = 2.0**scale
    origins = torch.randint(-40, 40, (3,), generator=seeded(seed)) * step
    basis.grid_origin.copy_(origins)
    basis.grid_step.fill_(step)
    knots = origins.double()[:, None] + step * torch.arange(-order, num_intervals + order + 1)
    places = torch.randint(-7 * 4096, (num_intervals + 7) * 4096, (60, 3), generator=seeded(1))
    between = torch.where(places % 4096 == 0, places + 1, places) / 4096
    at_knots = torch.arange(-7, num_intervals + 8).unsqueeze(1).expand(-1, 3)
    for u, derivative in ((between, 0), (between, 1), (at_knots, 0)):
        x = (origins + step * u).to(dtype)
        ours = _slopes(basis, x) if derivative else basis(x)
        assert ours.dtype == dtype
        columns = [
            scipy_splines(x[:, i].double().numpy(), knots[i].numpy(), order, mode, derivative)
            for i in range(3)
        ]
        expected = np.stack(columns, axis=1) * step**derivative
        np.testing.assert_allclose(
            ours.numpy() * step**derivative, expected, rtol=tolerance, atol=tolerance
        )


FORMULAS = {
    "rbf": lambda u, size: np.exp(-((u[..., None] - np.arange(size + 1)) ** 2)),
    "chebyshev": lambda u, size: chebyshev.chebvander(2 * u / size - 1, size),
}


OTHERS = sorted(BASES.keys() - {"bspline"})  # SciPy has the B-splines


@pytest.mark.parametrize("name", OTHERS)
def test_functions_are_what_their_formulas_say(name):
    for size in (1, 2, 5, 20):
        basis = BASES[name](1, size, grid_range=(-3.0, 7.0), dtype=DOUBLE)
        x = torch.linspace(-3, 7, 101, dtype=DOUBLE)
        expected = FORMULAS[name]((x.numpy() + 3) * size / 10, size)
        found = basis(x.unsqueeze(1))[:, 0].numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "mode"), [(name, mode) for name in BASES for mode in BASES[name].extrapolations]
)
def test_beyond_the_grid_functions_go_on_by_their_tangents_or_vanish(name, mode):
    for size, order in itertools.product((1, 5, 12), (1, 3, 5)):
        basis = BASES[name](3, size, order, extrapolation=mode, dtype=DOUBLE)
        basis.grid_origin.copy_(torch.tensor([-20.0, 0.3, 5.0]))
        basis.grid_step.copy_(torch.tensor([10.0, 1.0, 0.1]) / size)
        for side, distance in itertools.product(
            (0, 1), (30.0, 1e6) if mode == "zero" else (0.1, 1e6)
        ):
            end = torch.full((1, 3), float(side * size), dtype=DOUBLE)
            outwards = (2 * side - 1) * distance
            x = basis.grid_origin + basis.grid_step * (end + outwards)
            tangents = _slopes(basis.values, end) * (mode == "linear")
            expected = basis.values(end) * (mode != "zero") + outwards * tangents
            tolerance = 1e-15 if mode == "zero" else 1e-11 * max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(basis(x), expected, rtol=0, atol=tolerance)
            slopes = _slopes(basis, x) * basis.grid_step[:, None]
            tolerance = max(1e-14, 1e-10 * float(tangents.abs().max()))
            torch.testing.assert_close(slopes, tangents, rtol=1e-10, atol=tolerance)


# Layers of any basis

SHARED = {"functions": 2, "initial": [torch.zeros_like] * 2}
OWN = [
    {"edge_scale": True, "grid_range": (-2.5, 0.5)},
    {"edge_scale": True, "grid_size": 1},
    {"grid_range": (3.0, 4.0), "grid_size": 8, "bias": False},
]
LAYERS = [{"basis": basis, **own} for basis, own in itertools.product(BASES, OWN)]
LAYERS += [{**SHARED, "groups": 3}, {**SHARED, "groups": 1, "bias": False}]
LAYERS += [{**SHARED, "grid_size": 1}]


@pytest.mark.parametrize("own", LAYERS)
def test_a_layer_is_the_double_loop_over_its_edges(own):
    layer, x = random_layer(4, 3, **own), 3 * randn(7, 4)
    # In their papers, local functions come with SiLU.
    first = int("functions" not in own and layer.basis.local)
    assert layer.group.tolist() == [i % own.get("groups", 4) for i in range(4)]
    functions = function_by_function(layer, x) if "functions" in own else layer.basis(x)
    edges = layer.weight.view(3, 4, -1)
    curves = torch.zeros(7, 3, 4, dtype=DOUBLE)
    for o, i in itertools.product(range(3), range(4)):
        scale = 1.0 if layer.scale is None else layer.scale[o, i]
        curves[:, o, i] = scale * (functions[:, i] @ edges[o, i, first:])
        if first:
            curves[:, o, i] += edges[o, i, 0] * x[:, i] / (1 + torch.exp(-x[:, i]))
        torch.testing.assert_close(layer.edge_curve(i, o, x[:, i]), curves[:, o, i])
    torch.testing.assert_close(layer.edge_outputs(x), curves)
    bias = 0 if layer.bias is None else layer.bias
    torch.testing.assert_close(layer(x), curves.sum(2) + bias, rtol=1e-10, atol=1e-10)
    places = x.reshape(7, 1, 4)  # of any shape
    torch.testing.assert_close(layer.edge_curve(0, 0, places[..., 0]), curves[:, :1, 0])
    for i, j in ((4, 0), (0, 3)):
        with pytest.raises(IndexError):
            layer.edge_curve(i, j, x)


@each_basis
def test_a_kan_is_the_composition_of_its_layers(basis):
    options = {"bias": False, "basis": basis, "grid_size": 4, "order": 3, "edge_scale": True}
    options |= {"grid_range": (-2.0, 2.0), "init": "glorot", "dtype": DOUBLE}
    network = KAN([3, 5, 4, 2], **options)
    x = expected = 2 * randn(2, 6, 3)
    for layer in network.layers:
        twin = KANLinear(layer.in_features, layer.out_features, **options)
        twin.load_state_dict(layer.state_dict())
        assert (layer.init, repr(layer)) == ("glorot", repr(twin))
        expected = twin(expected)
    assert torch.equal(network(x), expected)


@pytest.mark.parametrize("basis", OTHERS)  # kernel_suite has those of splines
def test_first_and_second_derivatives_of_layers(basis):
    require_derivatives(Case(basis), has_kernel=False)
