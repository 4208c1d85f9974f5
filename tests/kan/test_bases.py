"""Every basis against a formula of its own, and what layers of any basis compute."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import chebyshev
from scipy.interpolate import BSpline as ScipySpline
from torch.func import functional_call

from helpers import function_by_function, randn, random_layer, refused, scrambled, seeded
from kan_diffusion.kan import KAN, KANLinear, LearnedFunctions
from kan_diffusion.kan.bases import (
    BASES,
    MAX_ORDER,
    RBF,
    Basis,
    BSpline,
    Chebyshev,
    make_basis,
    piece_coefficients,
)

DOUBLE = torch.float64
MODES = ("linear", "clamp", "zero")
NAMES = ("bspline", "rbf", "chebyshev")
each_basis = pytest.mark.parametrize("basis", NAMES)


def _make(name, in_features, **settings):
    defaults = {"grid_size": 4, "order": 3, "extrapolation": "linear", "dtype": DOUBLE}
    return make_basis(name, in_features, grid_range=(-1.0, 1.0), **{**defaults, **settings})


def _placed(basis, grids):
    """The basis with a grid of its own for each input."""
    origins, steps = zip(*grids, strict=True)
    basis.grid_origin.copy_(torch.tensor(origins))
    basis.grid_step.copy_(torch.tensor(steps))
    return basis


@st.composite
def grids(draw, num_intervals):
    """Grids of three inputs."""
    widths = [draw(st.floats(0.1, 10)) for _ in range(3)]
    return [(width * draw(st.floats(-2, 2)), width / num_intervals) for width in widths]


@st.composite
def placed_bases(draw, mode="linear"):
    """A basis with a grid, of any kind and size, with grids that differ between its inputs."""
    name = draw(st.sampled_from([name for name in NAMES if mode in BASES[name].extrapolations]))
    size, order = draw(st.integers(1, 12)), draw(st.integers(1, MAX_ORDER))
    basis = _make(name, 3, grid_size=size, order=order, extrapolation=mode)
    return _placed(basis, draw(grids(size)))


@st.composite
def splines(draw):
    num_intervals = draw(st.integers(1, 12))
    order, mode = draw(st.integers(1, MAX_ORDER)), draw(st.sampled_from(MODES))
    basis = BSpline(3, num_intervals, order, extrapolation=mode, dtype=DOUBLE)
    return _placed(basis, draw(grids(num_intervals)))


def _inside(basis, seed, rows=40):
    """Points on the grids, none within 1/100 of a knot."""
    return _between_knots(basis, seed, rows, reach=0)


def _between_knots(basis, seed, rows=40, reach=7):
    """Points on the grids and up to ``reach`` intervals beyond, none within 1/100 of a knot."""
    shape = (rows, basis.in_features)
    cells = torch.randint(-reach, basis.num_intervals + reach, shape, generator=seeded(seed))
    place = 0.01 + 0.98 * torch.rand(shape, generator=seeded(seed + 1), dtype=DOUBLE)
    return basis.grid_origin + basis.grid_step * (cells + place)


def _slopes(basis, x):
    """Derivatives (N, in, functions) of the functions with respect to their input."""
    x = x.clone().requires_grad_()
    values = basis(x)
    columns = [
        torch.autograd.grad(values[..., g].sum(), x, retain_graph=True)[0]
        for g in range(values.shape[-1])
    ]
    return torch.stack(columns, dim=-1)


def _scipys(scipy_basis, basis, x, derivative=0):
    """What scipy has for each input, (N, in, functions)."""
    columns = [
        scipy_basis(
            x[:, i].double().numpy(),
            basis.grid_origin[i].item(),
            basis.grid_step[i].item(),
            basis.num_intervals,
            basis.order,
            basis.extrapolation,
            derivative,
        )
        for i in range(basis.in_features)
    ]
    return np.stack(columns, axis=1)


def test_pieces_are_the_b_spline_on_the_integers():
    for order in range(MAX_ORDER + 1):
        spline = ScipySpline.basis_element(np.arange(order + 2.0), extrapolate=False)
        f = np.linspace(0.001, 0.999, 31)
        for derivative in range(order + 1):
            for piece, row in enumerate(piece_coefficients(order, derivative)):
                # Piece j is what the function that started k - j cells ago does in this cell.
                expected = spline(f + order - piece, nu=derivative)
                polynomial = np.polynomial.Polynomial(row)(f)
                np.testing.assert_allclose(polynomial, expected, rtol=1e-11, atol=1e-13)
        assert all(c == 0 for row in piece_coefficients(order, order + 1) for c in row)


@given(basis=splines(), seed=st.integers(0, 999))
def test_splines_and_their_slopes_are_scipys_inside_and_beyond_the_grid(scipy_basis, basis, seed):
    x = _between_knots(basis, seed)
    for derivative, ours in enumerate((basis(x), _slopes(basis, x))):
        # In units of the grid, and of an input's largest entry, as tangents grow with distance.
        steps = basis.grid_step[:, None].double().numpy() ** derivative
        expected = _scipys(scipy_basis, basis, x, derivative) * steps
        scale = np.maximum(1, np.abs(expected).max(axis=(0, 2)))[:, None]
        np.testing.assert_allclose(
            ours.numpy() * steps / scale, expected / scale, rtol=0, atol=1e-12
        )


@given(splines())
def test_splines_are_scipys_at_knots_and_ends(scipy_basis, basis):
    knots = torch.arange(-7, basis.num_intervals + 8).unsqueeze(1)
    x = basis.grid_origin + basis.grid_step * knots
    expected = _scipys(scipy_basis, basis, x)
    np.testing.assert_allclose(basis(x).numpy(), expected, rtol=1e-12, atol=1e-12)
    if basis.order > 1:  # the slope of a polygon is of either side at its corners
        u = knots[7:-7].double().expand(-1, 3)
        slopes = basis.slopes(u).numpy()
        x = basis.grid_origin + basis.grid_step * u
        expected = _scipys(scipy_basis, basis, x, 1) * basis.grid_step[:, None].numpy()
        np.testing.assert_allclose(slopes, expected, rtol=0, atol=1e-12)


@given(
    num_intervals=st.integers(1, 12),
    order=st.integers(1, MAX_ORDER),
    mode=st.sampled_from(MODES),
    scale=st.integers(-4, 4),
    seed=st.integers(0, 999),
)
def test_float32_splines_are_scipys_to_1e6(scipy_basis, num_intervals, order, mode, scale, seed):
    basis = BSpline(3, num_intervals, order, extrapolation=mode)
    # Origins and points are multiples of 2**-12 steps and a step is a power of two, so that the
    # place on the grid is told exactly and what is left is the error of the functions.
    step = 2.0**scale
    origins = torch.randint(-40, 40, (3,), generator=seeded(seed)) * step
    _placed(basis, [(float(origin), step) for origin in origins])
    places = torch.randint(-7 * 4096, (num_intervals + 7) * 4096, (60, 3), generator=seeded(1))
    x = origins + step * torch.where(places % 4096 == 0, places + 1, places) / 4096
    assert x.dtype == torch.float32
    for derivative, ours in enumerate((basis(x), _slopes(basis, x))):
        assert ours.dtype == torch.float32
        expected = _scipys(scipy_basis, basis, x, derivative) * step**derivative
        ours = ours.numpy() * step**derivative
        np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)


@given(placed_bases(), st.integers(0, 999))
def test_slopes_are_the_derivatives_of_the_values(basis, seed):
    u = (_inside(basis, seed) - basis.grid_origin) / basis.grid_step
    u.requires_grad_()
    values = basis.values(u)
    slopes = basis.slopes(u).detach()
    for g in range(basis.num_functions):
        (expected,) = torch.autograd.grad(values[..., g].sum(), u, retain_graph=True)
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(slopes[..., g], expected, rtol=1e-10, atol=1e-12 * scale)


@given(placed_bases(), st.floats(0.1, 30), st.sampled_from([0, 1]))
def test_linear_extrapolation_is_affine(basis, distance, side):
    end = (basis.grid_origin, basis.grid_end)[side]
    outwards = (2 * side - 1) * basis.grid_step
    x = torch.stack([end, end + distance * outwards, end + 2 * distance * outwards])
    values, slopes = basis(x), _slopes(basis, x)
    scale = float(values.abs().max())
    torch.testing.assert_close(2 * values[1], values[0] + values[2], rtol=0, atol=1e-11 * scale)
    torch.testing.assert_close(slopes[1], slopes[2], rtol=1e-11, atol=1e-11)
    # Along the tangent: the slope at the end itself.
    u = torch.full((3,), float(side * basis.num_intervals), dtype=DOUBLE)
    tangent = basis.slopes(u) / basis.grid_step[:, None]
    torch.testing.assert_close(
        slopes[2], tangent, rtol=1e-10, atol=1e-10 * float(tangent.abs().max())
    )


@given(placed_bases("clamp"), st.floats(0.1, 1e6), st.sampled_from([0, 1]))
def test_clamp_holds_the_value_at_the_end(basis, distance, side):
    end = (basis.grid_origin, basis.grid_end)[side]
    beyond = end + (2 * side - 1) * basis.grid_step * distance
    values = basis(torch.stack([end, beyond]))
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=1e-11)
    assert (_slopes(basis, beyond.unsqueeze(0)) == 0).all()


@given(placed_bases("zero"), st.floats(30, 1e6), st.integers(0, 999))
def test_zero_leaves_nothing_far_away(basis, distance, seed):
    side = torch.randint(0, 2, (5, 3), generator=seeded(seed)) * 2 - 1
    middle = (basis.grid_origin + basis.grid_end) / 2
    far = middle + side * (basis.num_intervals + distance) * basis.grid_step
    assert basis(far).abs().max() < 1e-15
    assert (_slopes(basis, far) * basis.grid_step[:, None]).abs().max() < 1e-14
    assert (basis(middle.unsqueeze(0)).amax(-1) > 0.1).all()


@given(st.integers(1, 20), st.data(), st.sampled_from(MODES), st.integers(0, 999))
def test_gaussians_are_where_the_knots_are(num_intervals, data, mode, seed):
    basis = RBF(3, num_intervals, extrapolation=mode, dtype=DOUBLE)
    _placed(basis, data.draw(grids(num_intervals)))
    x = _inside(basis, seed).numpy()
    low, step = basis.grid_origin.numpy(), basis.grid_step.numpy()
    centres = low[:, None] + step[:, None] * np.arange(num_intervals + 1)
    expected = np.exp(-(((x[:, :, None] - centres) / step[:, None]) ** 2))
    np.testing.assert_allclose(basis(torch.from_numpy(x)).numpy(), expected, rtol=1e-11, atol=1e-13)


@given(st.integers(1, 20), st.data(), st.integers(0, 999))
def test_chebyshev_polynomials_are_numpys(degree, data, seed):
    basis = Chebyshev(3, degree, dtype=DOUBLE)
    _placed(basis, data.draw(grids(degree)))
    x = _inside(basis, seed)
    width = basis.grid_end - basis.grid_origin
    z = (2 * (x - basis.grid_origin) / width - 1).numpy()
    np.testing.assert_allclose(basis(x).numpy(), chebyshev.chebvander(z, degree), atol=1e-11)
    derivatives = [chebyshev.chebval(z, chebyshev.chebder(row)) for row in np.eye(degree + 1)]
    slopes = _slopes(basis, x) * width[:, None] / 2
    np.testing.assert_allclose(slopes.numpy(), np.stack(derivatives, -1), atol=1e-10 * degree**2)


@given(placed_bases(), st.integers(0, 999))
def test_outside_is_beyond_either_end_of_an_inputs_own_grid(basis, seed):
    layer = LearnedFunctions(basis.in_features)
    layer.basis = basis
    assert not layer.outside(_inside(basis, seed)).any()
    width = basis.grid_end - basis.grid_origin
    share = torch.tensor([[-0.1], [-1e-6], [1e-6], [1 - 1e-6], [1 + 1e-6], [9.0]])
    outside = layer.outside(basis.grid_origin + share.double() * width)
    assert (outside == ((share < 0) | (share > 1))).all()


class Powers(Basis):
    """1, x and x squared on the grid, with a learned factor."""

    name = "powers"

    def __init__(self, *args):
        super().__init__(*args)
        self.factor = torch.nn.Parameter(torch.tensor(2.0, dtype=DOUBLE))

    def sizes(self):
        return 3, 3, 2

    def values(self, u):
        return torch.stack([torch.ones_like(u), self.factor * u, u * u], dim=-1)

    def slopes(self, u):
        return torch.stack([torch.zeros_like(u), self.factor.expand_as(u), 2 * u], dim=-1)


def test_a_basis_of_ones_own_makes_a_layer():
    own = {"basis": Powers, "grid_size": 4, "grid_range": (0.0, 4.0), "dtype": DOUBLE}
    layer = KANLinear(2, 3, **own)
    assert layer.base_activation is None
    assert layer.flops == 2 * (3 * 2 * 3 + 2) + 3
    x = 4 * torch.rand(7, 2, generator=seeded(0), dtype=DOUBLE)
    c = layer.weight.view(3, 2, 3)
    expected = c[..., 0].sum(1) + x @ (2 * c[..., 1].T) + (x * x) @ c[..., 2].T
    torch.testing.assert_close(layer(x), expected)
    curves = [sum(layer.edge_curve(i, j, x[:, i]) for i in range(2)) for j in range(3)]
    torch.testing.assert_close(torch.stack(curves, -1), layer(x))
    layer(x).square().sum().backward()
    assert layer.basis.factor.grad != 0
    assert KANLinear(2, 3, base_activation="silu", **own).weight.shape == (3, 8)


def test_a_basis_of_no_inputs_is_refused():
    with refused("at least one input"):
        _make("chebyshev", in_features=0)


# Layers of any basis


def _assert_close(ours, theirs, tolerance=1e-10):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@each_basis
def test_a_nan_reaches_the_functions_of_its_own_input_only(basis):
    for dtype in (torch.float32, DOUBLE):
        own = KANLinear(3, 1, basis=basis, grid_size=4, dtype=dtype).basis
        x = randn(6, 3, dtype=dtype)
        clean = own(x)
        x[2, 1] = math.nan
        values = own(x)
        assert values.dtype == dtype
        hit = torch.zeros(6, 3, dtype=torch.bool)
        hit[2, 1] = True
        assert torch.equal(values.isnan().any(-1), hit)
        assert torch.equal(values[~hit], clean[~hit])


@each_basis
@given(
    own=st.fixed_dictionaries(
        {
            "grid_size": st.integers(1, 8),
            "grid_range": st.sampled_from([(-1.0, 1.0), (-2.5, 0.5), (3.0, 4.0)]),
            "extrapolation": st.sampled_from(["linear", "clamp"]),
            "base_activation": st.sampled_from(["silu", None, "auto"]),
            "edge_scale": st.booleans(),
            "bias": st.booleans(),
        }
    ),
    widths=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 999),
)
def test_a_layer_is_the_double_loop_over_its_edges(basis, own, widths, seed):
    layer = random_layer(*widths, seed=seed, basis=basis, **own)
    fan_in, fan_out = widths
    low, high = own["grid_range"]
    share = torch.rand(7, fan_in, generator=seeded(seed), dtype=DOUBLE)
    x = low + (high - low) * (3 * share - 1)
    functions = layer.basis(x)
    edges = layer.weight.view(fan_out, fan_in, -1)
    # In their papers the global functions stand alone; the local ones come with SiLU.
    default = "silu" if basis in ("bspline", "rbf") else None
    activation = own["base_activation"]
    first = int((default if activation == "auto" else activation) is not None)
    curves = torch.zeros(7, fan_out, fan_in, dtype=DOUBLE)
    for o, i in itertools.product(range(fan_out), range(fan_in)):
        scale = 1.0 if layer.scale is None else layer.scale[o, i]
        curves[:, o, i] = scale * (functions[:, i] @ edges[o, i, first:])
        if first:
            curves[:, o, i] += edges[o, i, 0] * x[:, i] / (1 + torch.exp(-x[:, i]))
        torch.testing.assert_close(layer.edge_curve(i, o, x[:, i]), curves[:, o, i])
    torch.testing.assert_close(layer.edge_outputs(x), curves)
    expected = curves.sum(2) if layer.bias is None else curves.sum(2) + layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)
    places = x.reshape(7, 1, fan_in)  # of any shape
    torch.testing.assert_close(layer.edge_curve(0, 0, places[..., 0]), curves[:, :1, 0])


@each_basis
def test_a_kan_is_the_composition_of_its_layers(basis):
    options = {"bias": False, "basis": basis, "grid_size": 4, "order": 3, "edge_scale": True}
    options |= {"grid_range": (-2.0, 2.0), "extrapolation": "clamp", "init": "noise"}
    options |= {"base_activation": "silu", "dtype": DOUBLE}
    network = KAN([3, 5, 4, 2], **options)
    x = expected = 2 * randn(2, 6, 3)
    for layer in network.layers:
        twin = KANLinear(layer.in_features, layer.out_features, **options)
        twin.load_state_dict(layer.state_dict())
        assert (layer.init, repr(layer)) == ("noise", repr(twin))
        expected = twin(expected)
    assert torch.equal(network(x), expected)
    assert network.flops == sum(layer.flops for layer in network.layers)


@each_basis
def test_learned_functions_are_evaluated_one_by_one(basis):
    for groups, group_of in (
        (None, (0, 1, 2, 3, 4, 5)),
        (2, (0, 1, 0, 1, 0, 1)),
        (1, (0, 0, 0, 0, 0, 0)),
        (4, (0, 1, 2, 3, 0, 1)),
    ):
        own = {"basis": basis, "initial": [torch.zeros_like] * 4, "dtype": DOUBLE}
        module = scrambled(LearnedFunctions(6, 4, groups, **own))
        assert (tuple(module.group.tolist()), module.groups) == (group_of, len(set(group_of)))
        x = randn(50, 6, seed=1).requires_grad_()
        found, expected = module(x), function_by_function(module, x).flatten(1)
        _assert_close([found], [expected])
        direction, operands = randn(50, 24, seed=2), [x, module.coefficients]
        _assert_close(
            torch.autograd.grad(found, operands, direction),
            torch.autograd.grad(expected, operands, direction),
        )


@each_basis
def test_a_layer_of_shared_functions_is_the_double_loop_over_its_edges(basis):
    for bias in (True, False):
        own = {"functions": 4, "groups": 3, "grid_size": 4, "dtype": DOUBLE}
        own["initial"] = [torch.zeros_like] * 4
        layer = scrambled(KANLinear(5, 3, bias, basis=basis, **own))
        x = randn(40, 5, seed=1).requires_grad_()
        edges = layer.weight.view(3, 5, 4)
        curves = torch.einsum("nir,oir->noi", function_by_function(layer, x), edges)
        expected = curves.sum(2) + (0 if layer.bias is None else layer.bias)
        found = layer(x)
        _assert_close([found, layer.edge_outputs(x)], [expected, curves])
        for o, i in itertools.product(range(3), range(5)):
            curve = layer.edge_curve(i, o, x[:, i].detach())
            _assert_close([curve], [curves[:, o, i].detach()])
        places = x.detach().view(40, 1, 5)[..., 0]  # of any shape
        _assert_close([layer.edge_curve(0, 0, places)], [curves[:, :1, 0].detach()])
        own = (layer.coefficients, layer.weight, layer.bias)[: 2 + bias]
        direction, operands = randn(40, 3, seed=2), [x, *own]
        _assert_close(
            torch.autograd.grad(found, operands, direction),
            torch.autograd.grad(expected, operands, direction),
            1e-9,
        )


@each_basis
def test_a_masked_layer_is_one_whose_weights_are_zero(basis):
    layer = random_layer(seed=1, basis=basis, base_activation="silu", edge_scale=True)
    x = (3 * randn(12, 3)).requires_grad_()
    mask = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], dtype=DOUBLE)
    masked = layer.masked(x, mask)
    torch.testing.assert_close(masked, (layer.edge_outputs(x) * mask).sum(2) + layer.bias)
    zeroed = copy.deepcopy(layer)
    zeroed.weight.detach().view(2, 3, -1).mul_(mask.unsqueeze(-1))
    torch.testing.assert_close(masked, zeroed(x))
    masked.square().sum().backward()
    gradient = layer.weight.grad.view(2, 3, -1)
    assert bool((gradient[mask == 0] == 0).all())
    assert bool((gradient[mask == 1].abs().amax(-1) > 0).all())
    torch.testing.assert_close(layer.masked(x, torch.ones_like(mask)), layer(x))


@each_basis
def test_first_and_second_derivatives_of_layers(basis):
    own = {"basis": basis, "grid_size": 4, "dtype": DOUBLE}
    shared = {"functions": 4, "groups": 3, "initial": [torch.zeros_like] * 4}
    for layer in (random_layer(5, 3, **own), scrambled(KANLinear(5, 3, **shared, **own))):
        names = [name for name, _ in layer.named_parameters()]
        leaves = [value.detach().clone().requires_grad_() for value in layer.parameters()]

        def function(x, *parameters, layer=layer, names=names):
            return functional_call(layer, dict(zip(names, parameters, strict=True)), x)

        x = randn(2, 5, seed=3).abs().requires_grad_()
        assert torch.autograd.gradcheck(function, [x, *leaves])
        assert torch.autograd.gradgradcheck(function, [x, *leaves])
