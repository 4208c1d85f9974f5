"""Learned activations against scipy and against a KAN layer; test_kernels.py has their kernel."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from helpers import refused, seeded
from kan_diffusion.kan import SplineActivation

SINGLE, DOUBLE = torch.float32, torch.float64
# Each costs seconds of compilation, once.
KERNELS = ((3, SINGLE), *((order, DOUBLE) for order in range(1, 6)))
each_kernel = pytest.mark.parametrize(("order", "dtype"), KERNELS)
RANGE = (-1.5, 2.0)


def _activation(
    num_units: int = 4,
    order: int = 3,
    dtype: torch.dtype = DOUBLE,
    grid_size: int = 5,
    seed: int = 0,
    grid_range: tuple[float, float] = RANGE,
) -> SplineActivation:
    """One with normal coefficients."""
    module = SplineActivation(
        num_units, grid_size=grid_size, order=order, grid_range=grid_range, dtype=dtype
    )
    module.coefficients.detach().normal_(generator=seeded(seed))
    return module


def _points(module: SplineActivation, *shape: int, seed: int = 1, reach: int = 7) -> Tensor:
    """Points inside and up to ``reach`` intervals beyond the grid, none near a knot."""
    size = (*shape, module.num_units)
    cells = torch.randint(-reach, module.grid_size + reach, size, generator=seeded(seed))
    place = 0.02 + 0.96 * torch.rand(size, generator=seeded(seed + 1), dtype=DOUBLE)
    low, high = module.grid_range
    x = low + (high - low) / module.grid_size * (cells + place)
    return x.to(module.coefficients.dtype)


# What it computes


@each_kernel
@pytest.mark.parametrize("grid_size", [1, 2, 5, 8])
def test_it_is_the_spline_of_scipy_and_its_tangent(
    order: int, dtype: torch.dtype, grid_size: int, scipy_basis: Callable[..., np.ndarray]
) -> None:
    module = _activation(3, order, dtype, grid_size)
    low, high = RANGE
    width = high - low
    x = torch.linspace(low - 2 * width, high + 2 * width, 501, dtype=dtype)
    y = module(x.unsqueeze(1).expand(-1, 3))
    functions = scipy_basis(x.double().numpy(), low, width / grid_size, grid_size, order, "linear")
    expected = torch.from_numpy(functions) @ module.coefficients.detach().double().T
    inside = (x >= low) & (x <= high)
    # A place is rounded the more, the more intervals there are.
    tolerance = 1e-12 if dtype == DOUBLE else 1e-6 * max(1, grid_size // 4)
    torch.testing.assert_close(y[inside].double(), expected[inside], rtol=0, atol=tolerance)
    # Outside, what rounds is the place, times the slope.
    torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize(
    ("order", "bound"), [(1, 3e-2), (2, 2e-3), (3, 4e-4), (4, 1e-4), (5, 4e-5)]
)
def test_it_starts_as_silu_with_a_little_noise(order: int, bound: float) -> None:
    x = torch.linspace(-3, 3, 1001, dtype=DOUBLE).unsqueeze(1).expand(-1, 20)
    module = SplineActivation(20, order=order, dtype=DOUBLE)
    module.reset_parameters(seeded(0))
    noise = torch.empty_like(module.coefficients).detach().normal_(0, 1e-3, generator=seeded(0))
    module.coefficients.detach().sub_(noise)
    assert float((module(x) - silu(x)).detach().abs().max()) < bound


def test_a_generator_decides_where_it_starts() -> None:
    one, other = SplineActivation(5), SplineActivation(5)
    one.reset_parameters(seeded(3))
    other.reset_parameters(seeded(3))
    assert torch.equal(one.coefficients, other.coefficients)
    other.reset_parameters(seeded(4))
    assert not torch.equal(one.coefficients, other.coefficients)
    state = torch.get_rng_state()
    one.reset_parameters(seeded(5))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 3)])
def test_leading_dimensions_are_rows(shape: tuple[int, ...]) -> None:
    module = _activation()
    x = _points(module, *shape)
    output = module(x)
    assert output.shape == x.shape
    assert torch.equal(output.reshape(-1, 4), module(x.reshape(-1, 4)))


def test_state_dicts_and_copies_carry_everything() -> None:
    module, other = _activation(seed=1), _activation(seed=2)
    x = _points(module, 10)
    assert list(module.state_dict()) == ["coefficients"]
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(x), module(x))
    assert torch.equal(copy.deepcopy(module)(x), module(x))
    single = copy.deepcopy(module).float()
    torch.testing.assert_close(single(x.float()).double(), module(x), rtol=1e-5, atol=1e-4)
    # The pieces do not lose digits on the way through another dtype.
    restored = single.double()
    restored.load_state_dict(module.state_dict())
    assert torch.equal(restored(x), module(x))


@pytest.mark.parametrize(("order", "per_unit"), [(1, 5), (3, 9), (5, 13)])
def test_operations_are_those_of_horner(order: int, per_unit: int) -> None:
    assert SplineActivation(7, order=order).flops == 7 * per_unit


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_units": 0}, "at least one unit, not 0"),
        ({"grid_size": 0}, "grid_size must be at least 1, not 0"),
        ({"order": 0}, "order must be 1 to 5, not 0"),
        ({"order": 6}, "order must be 1 to 5, not 6"),
        ({"grid_range": (1.0, 1.0)}, "the lower first"),
        ({"grid_range": (0.0, math.inf)}, "two finite numbers"),
        ({"grid_range": (math.nan, 1.0)}, "two finite numbers"),
    ],
)
def test_unusable_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    with refused(message):
        SplineActivation(**{"num_units": 3, **arguments})


@pytest.mark.parametrize("shape", [(), (3,), (4, 3)])
def test_inputs_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    with refused(r"shape \(\*, 4\)"):
        _activation()(torch.zeros(shape, dtype=DOUBLE))


def test_a_model_on_the_meta_device_has_no_numbers() -> None:
    module = SplineActivation(3, device="meta")
    assert module(torch.empty(5, 3, device="meta")).is_meta
    assert "3, grid_size=8, order=3, grid_range=(-3.0, 3.0)" in repr(module)


def test_places_are_told_in_the_precision_of_the_coefficients() -> None:
    module = _activation(dtype=SINGLE)
    x = _points(module, 50, reach=1)
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
