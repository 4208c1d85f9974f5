"""Every basis against a formula of its own; basis_suite.py has what all have in common."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import chebyshev
from scipy.interpolate import BSpline as ScipySpline

from basis_suite import USUAL, Bases, Grids, over, with_grids
from helpers import randn, refused, seeded
from kan_diffusion.kan import KANLinear
from kan_diffusion.kan.bases import (
    BASES,
    MAX_ORDER,
    RBF,
    Basis,
    BSpline,
    Chebyshev,
    GridBasis,
    Rational,
    make_basis,
    piece_coefficients,
)

MODES = ("linear", "clamp", "zero")
GRID_BASES = [kind for kind in BASES.values() if issubclass(kind, GridBasis)]


@over(USUAL)
class TestBases(Bases):
    pass


@with_grids(USUAL)
class TestGrids(Grids):
    pass


def _make(name, in_features, **settings):
    defaults = {"grid_size": 4, "order": 3, "extrapolation": "linear", "dtype": torch.float64}
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
    name = draw(st.sampled_from([kind.name for kind in GRID_BASES if mode in kind.extrapolations]))
    size, order = draw(st.integers(1, 12)), draw(st.integers(1, MAX_ORDER))
    basis = _make(name, 3, grid_size=size, order=order, extrapolation=mode)
    assert isinstance(basis, GridBasis)
    return _placed(basis, draw(grids(size)))


@st.composite
def splines(draw):
    num_intervals = draw(st.integers(1, 12))
    order, mode = draw(st.integers(1, MAX_ORDER)), draw(st.sampled_from(MODES))
    basis = BSpline(3, num_intervals, order, extrapolation=mode, dtype=torch.float64)
    placed = _placed(basis, draw(grids(num_intervals)))
    assert isinstance(placed, BSpline)
    return placed


def _inside(basis, seed, rows=40):
    """Points on the grids, none within 1/100 of a knot."""
    return _between_knots(basis, seed, rows, reach=0)


def _between_knots(basis, seed, rows=40, reach=7):
    """Points on the grids and up to ``reach`` intervals beyond, none within 1/100 of a knot."""
    shape = (rows, basis.in_features)
    cells = torch.randint(-reach, basis.num_intervals + reach, shape, generator=seeded(seed))
    place = 0.01 + 0.98 * torch.rand(shape, generator=seeded(seed + 1), dtype=torch.float64)
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
    u = torch.full((3,), float(side * basis.num_intervals), dtype=torch.float64)
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
    basis = RBF(3, num_intervals, extrapolation=mode, dtype=torch.float64)
    _placed(basis, data.draw(grids(num_intervals)))
    x = _inside(basis, seed).numpy()
    low, step = basis.grid_origin.numpy(), basis.grid_step.numpy()
    centres = low[:, None] + step[:, None] * np.arange(num_intervals + 1)
    expected = np.exp(-(((x[:, :, None] - centres) / step[:, None]) ** 2))
    np.testing.assert_allclose(basis(torch.from_numpy(x)).numpy(), expected, rtol=1e-11, atol=1e-13)


@given(st.integers(1, 20), st.data(), st.integers(0, 999))
def test_chebyshev_polynomials_are_numpys(degree, data, seed):
    basis = Chebyshev(3, degree, dtype=torch.float64)
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
    assert not basis.outside(_inside(basis, seed)).any()
    width = basis.grid_end - basis.grid_origin
    share = torch.tensor([[-0.1], [-1e-6], [1e-6], [1 - 1e-6], [1 + 1e-6], [9.0]])
    outside = basis.outside(basis.grid_origin + share.double() * width)
    assert (outside == ((share < 0) | (share > 1))).all()


class Powers(Basis):
    """1, x and x squared, with a learned factor."""

    name = "powers"

    def __init__(self, in_features):
        super().__init__()
        self.in_features = in_features
        self.num_functions = self.num_active = 3
        self.flops_per_input = 2
        self.factor = torch.nn.Parameter(torch.full((in_features,), 2.0, dtype=torch.float64))

    def forward(self, x):
        return torch.stack([torch.ones_like(x), self.factor * x, x * x], dim=-1)

    def one_input(self, i):
        alone = Powers(1)
        alone.factor = torch.nn.Parameter(self.factor[i : i + 1].detach().clone())
        return alone


def test_a_basis_of_ones_own_makes_a_layer():
    layer = KANLinear(2, 3, basis=Powers(2), dtype=torch.float64)
    assert layer.base_activation is None
    assert layer.flops == 2 * (3 * 2 * 3 + 2) + 3
    x = randn(7, 2)
    c = layer.weight.view(3, 2, 3)
    expected = c[..., 0].sum(1) + x @ (2 * c[..., 1].T) + (x * x) @ c[..., 2].T
    torch.testing.assert_close(layer(x), expected)
    curves = [sum(layer.edge_curve(i, j, x[:, i]) for i in range(2)) for j in range(3)]
    torch.testing.assert_close(torch.stack(curves, -1), layer(x))
    layer(x).square().sum().backward()
    assert layer.basis.factor.grad is not None
    assert (layer.basis.factor.grad != 0).all()
    with_silu = KANLinear(2, 3, basis=Powers(2), base_activation="silu", dtype=torch.float64)
    assert with_silu.weight.shape == (3, 8)


class Lower(RBF):
    """Gaussians of a height of one's own."""

    def __init__(self, in_features, num_intervals, height):
        super().__init__(in_features, num_intervals, dtype=torch.float64)
        self.height = height

    def values(self, u):
        return self.height * super().values(u)

    def slopes(self, u):
        return self.height * super().slopes(u)


def test_settings_of_ones_own_go_with_a_basis_everywhere():
    layer = KANLinear(2, 1, basis=Lower(2, 6, height=0.5), dtype=torch.float64)
    layer.weight.detach().normal_(generator=seeded(0))
    x = 2 * torch.rand(50, 2, generator=seeded(1), dtype=torch.float64) - 1
    curves = layer.edge_curve(0, 0, x[:, 0]) + layer.edge_curve(1, 0, x[:, 1]) + layer.bias
    torch.testing.assert_close(layer(x)[:, 0], curves)
    layer.update_grid(x)
    layer.refine(9)
    assert layer.basis.height == 0.5
    assert layer.basis.num_functions == 10


def test_bases_of_no_inputs_or_no_groups_are_refused():
    with refused("at least one input"):
        _make("chebyshev", in_features=0)
    with refused("num_groups must be at least 1, not 0"):
        Rational(3, num_groups=0)
