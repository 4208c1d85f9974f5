"""Learned functions against scipy and as modules; test_kernels.py has their kernel."""

import math

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn.functional import silu

from helpers import assert_same_state, refused, scrambled, seeded
from kan_diffusion.kan import LearnedFunctions
from kan_diffusion.kan.functions import INITIAL_FUNCTIONS, waves
from kan_diffusion.kan.piecewise import _multiplied

SINGLE, DOUBLE = torch.float32, torch.float64
GROUPS = [0, 1, 2, 0, 1]


def _module(in_features=4, functions=1, groups=None, dtype=DOUBLE, seed=0, **settings):
    """One with normal coefficients and, where its basis has one, a grid of its own a group."""
    settings = {"grid_size": 5, "initial": [torch.zeros_like] * functions, **settings}
    module = LearnedFunctions(in_features, functions, groups, dtype=dtype, **settings)
    return scrambled(module, seed)


def _points(module, *shape, seed=1, reach=2.0):
    """Points inside and up to ``reach`` widths beyond the grids."""
    x = torch.rand(*shape, module.in_features, generator=seeded(seed), dtype=DOUBLE)
    x = (2 * reach + 1) * x - reach
    grid_of = module.group.tolist()
    low, high = module.basis.grid_origin[grid_of], module.basis.grid_end[grid_of]
    return (low + (high - low) * x).to(module.coefficients.dtype)


# What they compute


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
def test_one_is_the_spline_of_scipy_and_its_tangent(dtype, scipy_basis):
    low, high = -1.5, 2.0
    for size in (1, 2, 5, 8):
        settings = {"grid_size": size, "grid_range": (low, high), "initial": [torch.zeros_like]}
        module = LearnedFunctions(3, dtype=dtype, **settings)
        module.coefficients.detach().normal_(generator=seeded(0))
        width = high - low
        x = torch.linspace(low - 2 * width, high + 2 * width, 501, dtype=dtype)
        y = module(x.unsqueeze(1).expand(-1, 3))
        functions = scipy_basis(x.double().numpy(), low, width / size, size, 3, "linear")
        expected = torch.from_numpy(functions) @ module.coefficients[0].detach().double().T
        inside = (x >= low) & (x <= high)
        # A place is rounded the more, the more intervals there are.
        tolerance = 1e-12 if dtype == DOUBLE else 1e-6 * max(1, size // 4)
        torch.testing.assert_close(y[inside].double(), expected[inside], rtol=0, atol=tolerance)
        # Outside, what rounds is the place, times the slope.
        torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=10 * tolerance)


def test_sums_by_products_as_on_a_gpu_are_those_by_addition():
    for inputs, functions, groups in ((5, 3, 2), (4, 1, 4), (3, 2, 1)):
        module = _module(inputs, functions, groups)
        cells = module.grid_size + 2
        cell = torch.randint(cells, (50, inputs), generator=seeded(1))
        terms = torch.randn(50, inputs, functions, 4, generator=seeded(2), dtype=DOUBLE)
        table = torch.zeros(groups * cells, functions, 4, dtype=DOUBLE)
        expected = table.clone()
        for row, (each, group) in enumerate(zip(cell, [module.group] * 50, strict=True)):
            for i in range(inputs):
                expected[group[i] * cells + each[i]] += terms[row, i]
        torch.testing.assert_close(_multiplied(terms, cell, table, cells), expected)


@pytest.mark.parametrize("extrapolation", ["linear", "clamp"])
def test_several_of_a_group_are_the_splines_of_scipy(extrapolation, scipy_basis):
    module = _module(5, 3, 3, extrapolation=extrapolation)
    assert module.coefficients.shape == (3, 3, 8)
    x = _points(module, 200)
    y = module(x).unflatten(1, (5, 3))
    for i, group in enumerate(GROUPS):
        grid = float(module.basis.grid_origin[group]), float(module.basis.grid_step[group])
        basis = torch.from_numpy(scipy_basis(x[:, i].numpy(), *grid, 5, 3, extrapolation))
        expected = basis @ module.coefficients[:, group].detach().T
        torch.testing.assert_close(y[:, i], expected, rtol=1e-11, atol=1e-11)


# Where they start


def test_one_starts_as_silu_with_a_little_noise():
    for order, bound in ((1, 3e-2), (2, 2e-3), (3, 4e-4), (4, 1e-4), (5, 4e-5)):
        x = torch.linspace(-3, 3, 1001, dtype=DOUBLE).unsqueeze(1).expand(-1, 20)
        module = LearnedFunctions(20, order=order, dtype=DOUBLE)
        module.reset_parameters(seeded(0))
        noise = torch.empty_like(module.coefficients).detach().normal_(0, 1e-3, generator=seeded(0))
        module.coefficients.detach().sub_(noise)
        with forward_ad.dual_level():  # where no kernel is compiled for its order
            assert float((module(x) - silu(x)).detach().abs().max()) < bound


@pytest.mark.parametrize(
    ("start", "functions", "settings", "bound"),
    [
        ("identity", 2, {}, 1e-12),  # splines and their tangents hold the line
        ("silu", 3, {"basis": "chebyshev", "grid_size": 10}, 0.01),
        ("silu", 2, {"basis": "rbf", "grid_size": 10}, 0.05),
        ("waves", 5, {"grid_size": 16}, 0.02),
        ([torch.tanh, torch.square], 2, {"grid_size": 12}, 0.01),
        ([lambda x: x.tanh_(), lambda x: x.square_()], 2, {"grid_size": 12}, 0.01),
    ],
)
def test_functions_start_as_they_are_told(start, functions, settings, bound):
    low, high = -1.0, 4.0
    settings = {"grid_range": (low, high), "noise": 0.0, "dtype": DOUBLE, **settings}
    module = LearnedFunctions(3, functions, 2, initial=start, **settings)
    targets = INITIAL_FUNCTIONS[start](functions, high - low) if isinstance(start, str) else start
    x = torch.linspace(low, high, 501, dtype=DOUBLE)
    y = module(x.unsqueeze(1).expand(-1, 3)).detach().unflatten(1, (3, functions))
    for r, target in enumerate(targets):
        wanted = target(x.clone()).unsqueeze(1)
        error = (y[:, :, r] - wanted).square().mean().sqrt()
        assert float(error) < bound * float(wanted.square().mean().sqrt())


def test_waves_are_cosines_and_sines_of_doubled_frequencies():
    x = torch.linspace(-2, 2, 101, dtype=DOUBLE)
    for index, function in enumerate(waves(5, 0.25)):
        angle = 2 * math.pi * 0.25 * 2 ** (index // 2) * x
        torch.testing.assert_close(function(x), angle.cos() if index % 2 == 0 else angle.sin())


def test_a_generator_decides_where_they_start_and_a_reset_lays_grids_where_they_were():
    one, other = LearnedFunctions(3, 2, 2), LearnedFunctions(3, 2, 2)
    state = torch.get_rng_state()
    scrambled(other)
    for module in (one, other):
        module.reset_parameters(seeded(3))
    assert_same_state(one, other)
    other.reset_parameters(seeded(4))
    assert not torch.equal(one.coefficients, other.coefficients)
    assert torch.equal(torch.get_rng_state(), state)


def test_functions_of_one_kind_are_fitted_once(monkeypatch):
    fits = []
    lstsq = torch.linalg.lstsq
    monkeypatch.setattr(torch.linalg, "lstsq", lambda *a, **o: fits.append(a) or lstsq(*a, **o))
    for _ in range(3):
        LearnedFunctions(3, grid_size=7, grid_range=(-2.5, 2.5)).reset_parameters(seeded(0))
    assert len(fits) == 1


# As modules


def test_places_are_told_in_the_precision_of_the_coefficients():
    module = _module(dtype=SINGLE)
    x = _points(module, 50, reach=0.2)
    finer = module(x.double())
    assert finer.dtype == DOUBLE
    torch.testing.assert_close(finer.float(), module(x), rtol=0, atol=1e-5)
    coarse = x.bfloat16().requires_grad_()
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output, expected = module(coarse), module(coarse.detach().float())
        assert output.dtype == SINGLE
        assert torch.equal(output, expected)
        (gradient,) = torch.autograd.grad(output.sum(), coarse)
        assert gradient.dtype == torch.bfloat16
        assert gradient.isfinite().all()


def test_operations_are_those_of_horner():
    for order, per_unit in ((1, 5), (3, 9), (5, 13)):
        assert LearnedFunctions(7, order=order).flops == 7 * per_unit
        # The cell and the place in it are found once for all functions.
        assert LearnedFunctions(7, 3, order=order).flops == 7 * (3 + 3 * (per_unit - 3))


# What is refused

REFUSED = [
    ({"in_features": 0}, "at least one input, not 0"),
    ({"functions": 0}, "at least one function, not 0"),
    ({"grid_range": (math.nan, 1.0)}, "two finite numbers"),
    ({"basis": "bsplin"}, "unknown basis 'bsplin', did you mean 'bspline'"),
    ({"functions": 12}, "as its basis, 11 with grid_size=8, not 12; raise grid_size"),
    ({"groups": 0}, "groups must be 1 to 3, the inputs, not 0"),
    ({"groups": 4}, "groups must be 1 to 3, the inputs, not 4"),
    ({"initial": "sillu"}, "unknown initial functions 'sillu', did you mean 'silu'"),
    ({"initial": [silu, silu]}, "initial is 2 functions and there are 1; give one for each"),
    (
        {"initial": "waves", "functions": 9},
        "'bspline' with 11 functions cannot start as function 9 .*; raise grid_size or choose",
    ),
    ({"initial": [torch.log]}, "is not finite from -3 to 3; choose another or another grid_range"),
]


def test_unusable_settings_are_refused():
    for arguments, message in REFUSED:
        with refused(message):
            LearnedFunctions(**{"in_features": 3, **arguments})
