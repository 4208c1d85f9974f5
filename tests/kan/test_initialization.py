"""What the schemes say of the weights they draw, measured on large layers."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from helpers import assert_same_state, seeded
from kan_diffusion.kan import KAN, KANLinear
from kan_diffusion.kan.initialization import INITIALIZATIONS

each_scheme = pytest.mark.parametrize("init", INITIALIZATIONS)
each_basis = pytest.mark.parametrize("basis", ["bspline", "rbf", "chebyshev"])
INPUTS, OUTPUTS = 60, 80


def _wide_layer(init, **own):
    own = {"base_activation": "silu", "dtype": torch.float64, **own}
    layer = KANLinear(INPUTS, OUTPUTS, init=init, **own)
    layer.reset_parameters(seeded(0))
    return layer


def _parts(layer):
    """Base weights (out, in) and coefficients (out, in, functions)."""
    edges = layer.weight.detach().view(layer.out_features, layer.in_features, -1)
    first = int(layer.base_activation is not None)
    return edges[..., :first], edges[..., first:]


def _assert_normal(values, std):
    """Mean and spread within five standard errors; not bounded as uniform draws are."""
    count = values.numel()
    assert abs(float(values.mean())) < 5 * std / math.sqrt(count)
    assert float(values.std()) == pytest.approx(std, rel=5 / math.sqrt(2 * count))
    assert float(values.abs().max()) > 3 * std


def _mean_of_silu_squared():
    """For unit normal inputs."""

    def integrand(z):
        return (z / (1 + math.exp(-z))) ** 2 * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    return quad(integrand, -30, 30)[0]


def _glorot_std(power):
    """The spread of coefficients whose functions have this mean sum of squares."""
    return math.sqrt(2 / (INPUTS + OUTPUTS) * _mean_of_silu_squared() / power)


def _power(basis, size, scipy_basis):
    """The mean over the grid of the functions' sum of squares, without the package."""
    u = (np.arange(20_000) + 0.5) / 20_000 * size
    if basis == "bspline":
        functions = scipy_basis(u, 0.0, 1.0, size, 3, "linear")
    elif basis == "rbf":
        functions = np.exp(-((u[:, None] - np.arange(size + 1)) ** 2))
    else:
        functions = np.cos(np.arange(size + 1) * np.arccos(2 * u / size - 1)[:, None])
    return float((functions**2).sum(-1).mean())


def _assert_uniform(values, bound):
    """Within the bound, near to it, and as spread as uniform draws are."""
    count = values.numel()
    assert (1 - 20 / count) * bound < float(values.abs().max()) <= bound * (1 + 1e-9)
    assert abs(float(values.mean())) < 5 * bound / math.sqrt(3 * count)
    assert float(values.std()) == pytest.approx(bound / math.sqrt(3), rel=5 / math.sqrt(count))


@each_basis
def test_glorot_carries_the_variance_through_silu(basis, scipy_basis):
    for size in (3, 12):
        own = {"basis": basis, "grid_size": size, "grid_range": (-2.0, 3.0)}
        layer = _wide_layer("glorot", **own)
        base, coefficients = _parts(layer)
        _assert_normal(base, math.sqrt(2 / (INPUTS + OUTPUTS)))
        _assert_normal(coefficients, _glorot_std(_power(basis, size, scipy_basis)))
    # Without a base branch it is the one there is, and the default.
    expected = _glorot_std(_power(basis, 5, scipy_basis))
    for init in ("glorot", None):
        layer = _wide_layer(init, basis=basis, base_activation=None, grid_range=(-1.0, 1.0))
        base, coefficients = _parts(layer)
        assert (layer.init, base.numel()) == ("glorot", 0)
        _assert_normal(coefficients, expected)


def test_glorot_keeps_the_order_of_magnitude_from_layer_to_layer():
    network = KAN([50, 60, 70, 80, 40], init="glorot", grid_range=(-3.0, 3.0))
    network.reset_parameters(seeded(0))
    x = torch.randn(500, 50, generator=seeded(1))
    for layer in network.layers:
        x = layer(x).detach()
        assert 0.2 < float(x.std()) < 2


def test_noise_keeps_within_its_bounds_and_reaches_them():
    for grid_size in (3, 12):
        layer = _wide_layer("noise", grid_size=grid_size, edge_scale=True)
        base, coefficients = _parts(layer)
        _assert_uniform(base, 1 / math.sqrt(INPUTS))
        _assert_uniform(coefficients, 0.05 / grid_size)
        _assert_uniform(layer.scale.detach(), 1 / math.sqrt(INPUTS))
        without = _parts(_wide_layer("noise", grid_size=grid_size))
        _assert_uniform(without[1], 0.05 / grid_size)


def test_original_splines_have_small_values_at_the_knots(scipy_basis):
    for order in range(1, 6):
        size = 7
        layer = _wide_layer("original", grid_size=size, order=order, edge_scale=True)
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
        scale = 1 / math.sqrt(INPUTS)
        torch.testing.assert_close(layer.scale.detach(), torch.full_like(layer.scale, scale))
        without = _parts(_wide_layer("original", grid_size=size, order=order))[1]
        torch.testing.assert_close(without, coefficients * scale)


def test_power_law_shrinks_with_the_weights_of_an_output():
    base, coefficients = _parts(_wide_layer("power-law", grid_size=7))
    _assert_normal(base, (INPUTS * 11) ** -0.25)
    _assert_normal(coefficients, (INPUTS * 11) ** -1.75)


@each_basis
def test_a_generator_decides_every_parameter_and_what_was_learned_is_forgotten(basis):
    for init, base in [*((init, "silu") for init in INITIALIZATIONS), ("glorot", None)]:
        own = {"init": init, "basis": basis, "base_activation": base, "edge_scale": True}
        layer, twin = (KANLinear(4, 3, **own) for _ in range(2))
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
def test_scales_and_biases_start_as_said(init):
    layer = _wide_layer(init, edge_scale=True)
    assert (layer.bias == 0).all()
    if init in ("glorot", "power-law"):
        assert (layer.scale == 1).all()
    else:
        assert float(layer.scale.detach().abs().max()) <= 1


@each_scheme
def test_layers_are_drawn_from_the_global_stream_in_any_precision_and_not_without_memory(init):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layer, other = (KANLinear(4, 3, init=init).weight for _ in range(2))
        torch.manual_seed(3)
        assert torch.equal(KANLinear(4, 3, init=init).weight, layer)
        assert not torch.equal(other, layer)
        state = torch.get_rng_state()
        assert KANLinear(4, 3, init=init, device="meta").weight.is_meta
        assert torch.equal(state, torch.get_rng_state())
    for dtype in (torch.float16, torch.bfloat16):
        half = KANLinear(4, 3, init=init, dtype=dtype)
        assert all(p.isfinite().all() for p in half.parameters())
        assert float(half.weight.detach().float().std()) < 10 * float(layer.detach().std())
