"""What the schemes say of the weights they draw, measured on large layers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from torch import Tensor

from helpers import assert_same_state, seeded
from kan_diffusion.kan import KAN, KANLinear
from kan_diffusion.kan.bases import BASES
from kan_diffusion.kan.initialization import INITIALIZATIONS, Initialization

INPUTS, OUTPUTS = 60, 80
each_scheme = pytest.mark.parametrize("init", INITIALIZATIONS)
each_basis = pytest.mark.parametrize("basis", BASES)


def _layer(init: Initialization, **settings: object) -> KANLinear:
    settings = {"base_activation": "silu", "dtype": torch.float64, **settings}
    layer = KANLinear(INPUTS, OUTPUTS, init=init, **settings)
    layer.reset_parameters(seeded(0))
    return layer


def _parts(layer: KANLinear) -> tuple[Tensor, Tensor]:
    """Base weights (out, in) and coefficients (out, in, functions)."""
    edges = layer.weight.detach().view(layer.out_features, layer.in_features, -1)
    first = int(layer.base_activation is not None)
    return edges[..., :first], edges[..., first:]


def _assert_normal(values: Tensor, std: float) -> None:
    """Mean and spread within five standard errors; not bounded as uniform draws are."""
    count = values.numel()
    assert abs(float(values.mean())) < 5 * std / math.sqrt(count)
    assert float(values.std()) == pytest.approx(std, rel=5 / math.sqrt(2 * count))
    assert float(values.abs().max()) > 3 * std


def _assert_uniform(values: Tensor, bound: float) -> None:
    """Within the bound, near to it, and as spread as uniform draws are."""
    count = values.numel()
    assert (1 - 20 / count) * bound < float(values.abs().max()) <= bound * (1 + 1e-9)
    assert abs(float(values.mean())) < 5 * bound / math.sqrt(3 * count)
    assert float(values.std()) == pytest.approx(bound / math.sqrt(3), rel=5 / math.sqrt(count))


def _glorot_std(power: float) -> float:
    """The spread of coefficients whose functions have this mean sum of squares."""

    def integrand(z: float) -> float:
        return (z / (1 + math.exp(-z))) ** 2 * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    silu = quad(integrand, -30, 30)[0]
    return math.sqrt(2 / (INPUTS + OUTPUTS) * silu / power)


def _power(basis: str, size: int, scipy_basis: Callable[..., np.ndarray]) -> float:
    """The mean over the grid of the functions' sum of squares, without the package where it can be.

    Rational functions, which have no grid and start as SiLU: the mean for unit normal inputs.
    """
    u = (np.arange(20_000) + 0.5) / 20_000 * size
    if basis == "bspline":
        functions = scipy_basis(u, 0.0, 1.0, size, 3, "linear")
    elif basis == "rbf":
        functions = np.exp(-((u[:, None] - np.arange(size + 1)) ** 2))
    elif basis == "chebyshev":
        functions = np.cos(np.arange(size + 1) * np.arccos(2 * u / size - 1)[:, None])
    elif basis == "fourier":
        return float(size)  # cos^2 + sin^2, for each harmonic
    elif basis == "rational":
        density = stats.norm.pdf
        return quad(lambda z: (z / (1 + np.exp(-z))) ** 2 * density(z), -12, 12)[0]
    else:
        functions = BASES[basis](1, size, (0.0, float(size))).values(torch.from_numpy(u)).numpy()
    return float((functions**2).sum(-1).mean())


@each_basis
@pytest.mark.parametrize("grid_size", [3, 12])
def test_glorot_carries_the_variance_through_silu(
    basis: str, grid_size: int, scipy_basis: Callable[..., np.ndarray]
) -> None:
    layer = _layer("glorot", basis=basis, grid_size=grid_size, grid_range=(-2.0, 3.0))
    base, coefficients = _parts(layer)
    _assert_normal(base, math.sqrt(2 / (INPUTS + OUTPUTS)))
    if basis != "rational":  # whose power is told over another range than the grid's
        _assert_normal(coefficients, _glorot_std(_power(basis, grid_size, scipy_basis)))


def test_glorot_keeps_the_order_of_magnitude_from_layer_to_layer() -> None:
    network = KAN([50, 60, 70, 80, 40], init="glorot", grid_range=(-3.0, 3.0))
    network.reset_parameters(seeded(0))
    x = torch.randn(500, 50, generator=seeded(1))
    for layer in network.layers:
        x = layer(x).detach()
        assert 0.2 < float(x.std()) < 2


@pytest.mark.parametrize("grid_size", [3, 12])
def test_noise_keeps_within_its_bounds_and_reaches_them(grid_size: int) -> None:
    layer = _layer("noise", grid_size=grid_size, edge_scale=True)
    base, coefficients = _parts(layer)
    _assert_uniform(base, 1 / math.sqrt(INPUTS))
    _assert_uniform(coefficients, 0.05 / grid_size)
    assert layer.scale is not None
    _assert_uniform(layer.scale.detach(), 1 / math.sqrt(INPUTS))
    without = _parts(_layer("noise", grid_size=grid_size))
    _assert_uniform(without[1], 0.05 / grid_size)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_original_splines_have_small_values_at_the_knots(
    order: int, scipy_basis: Callable[..., np.ndarray]
) -> None:
    size = 7
    layer = _layer("original", grid_size=size, order=order, edge_scale=True)
    base, coefficients = _parts(layer)
    _assert_uniform(base, 1 / math.sqrt(INPUTS))
    knots = scipy_basis(np.arange(size + 1.0), 0.0, 1.0, size, order, "linear")
    # Inside of the ends, where scipy's last knot would be left out.
    knots[-1] = scipy_basis(np.array([size - 1e-12]), 0.0, 1.0, size, order, "linear")[0]
    values = coefficients @ torch.from_numpy(knots).T
    _assert_uniform(values, 0.15 / size)
    # The smallest of all coefficients with these values.
    smallest = values @ torch.from_numpy(np.linalg.pinv(knots)).T
    torch.testing.assert_close(coefficients, smallest, rtol=1e-6, atol=1e-8)
    # The scale is a factor of the functions, whether or not it is a parameter.
    assert layer.scale is not None
    scale = 1 / math.sqrt(INPUTS)
    torch.testing.assert_close(layer.scale.detach(), torch.full_like(layer.scale, scale))
    without = _parts(_layer("original", grid_size=size, order=order))[1]
    torch.testing.assert_close(without, coefficients * scale)


@pytest.mark.parametrize(
    ("basis", "functions"), [("bspline", 10), ("fourier", 14), ("rational", 1)]
)
def test_power_law_shrinks_with_the_weights_of_an_output(basis: str, functions: int) -> None:
    layer = _layer("power-law", basis=basis, grid_size=7)
    base, coefficients = _parts(layer)
    assert coefficients.shape[-1] == functions
    _assert_normal(base, (INPUTS * (functions + 1)) ** -0.25)
    _assert_normal(coefficients, (INPUTS * (functions + 1)) ** -1.75)


@each_scheme
@each_basis
def test_without_a_base_branch_every_scheme_spreads_as_glorot(
    init: Initialization, basis: str, scipy_basis: Callable[..., np.ndarray]
) -> None:
    layer = _layer(init, basis=basis, base_activation=None, grid_range=(-1.0, 1.0))
    base, coefficients = _parts(layer)
    assert base.numel() == 0
    _assert_normal(coefficients, _glorot_std(_power(basis, 5, scipy_basis)))


@each_scheme
@pytest.mark.parametrize("base_activation", ["silu", None])
def test_scales_and_biases_start_as_said(init: Initialization, base_activation: str | None) -> None:
    layer = _layer(init, base_activation=base_activation, edge_scale=True)
    assert layer.bias is not None
    assert (layer.bias == 0).all()
    assert layer.scale is not None
    if init in ("glorot", "power-law"):
        assert (layer.scale == 1).all()
    else:
        assert float(layer.scale.detach().abs().max()) <= 1


@each_scheme
@each_basis
@pytest.mark.parametrize("base_activation", ["silu", None])
def test_a_generator_decides_every_parameter_and_what_was_learned_is_forgotten(
    init: Initialization, basis: str, base_activation: str | None
) -> None:
    settings = {"init": init, "basis": basis, "base_activation": base_activation}
    layer, twin = (KANLinear(4, 3, edge_scale=True, **settings) for _ in range(2))
    for parameter in twin.parameters():
        parameter.detach().fill_(math.nan)
    state = torch.get_rng_state()
    for each in (layer, twin):
        each.reset_parameters(seeded(5))
    assert torch.equal(state, torch.get_rng_state())
    assert_same_state(layer, twin)
    assert all(parameter.isfinite().all() for parameter in layer.parameters())
    twin.reset_parameters(seeded(6))
    assert not torch.equal(layer.weight, twin.weight)


@each_scheme
def test_without_a_generator_the_global_one_decides(init: Initialization) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layer, other = (KANLinear(4, 3, init=init).weight for _ in range(2))
        torch.manual_seed(3)
        assert torch.equal(KANLinear(4, 3, init=init).weight, layer)
        assert not torch.equal(other, layer)


@each_scheme
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_layers_can_be_made(init: Initialization, dtype: torch.dtype) -> None:
    layer = KANLinear(4, 3, init=init, dtype=dtype)
    exact = KANLinear(4, 3, init=init)
    for module in (layer, exact):
        assert all(p.isfinite().all() for p in module.parameters())
    assert float(layer.weight.detach().float().std()) < 10 * float(exact.weight.detach().std())


@each_scheme
def test_layers_without_memory_are_not_drawn(init: Initialization) -> None:
    state = torch.get_rng_state()
    layer = KANLinear(4, 3, init=init, device="meta")
    assert torch.equal(state, torch.get_rng_state())
    assert layer.weight.is_meta
