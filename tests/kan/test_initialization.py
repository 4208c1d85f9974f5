"""What the schemes say of the weights they draw, measured on large layers.

Of Glorot's scheme and of generators, basis_suite.py has what holds for every basis.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from basis_suite import INPUTS, assert_normal, parts, wide_layer
from helpers import seeded
from kan_diffusion.kan import KAN, KANLinear
from kan_diffusion.kan.initialization import INITIALIZATIONS

each_scheme = pytest.mark.parametrize("init", INITIALIZATIONS)


def _assert_uniform(values, bound):
    """Within the bound, near to it, and as spread as uniform draws are."""
    count = values.numel()
    assert (1 - 20 / count) * bound < float(values.abs().max()) <= bound * (1 + 1e-9)
    assert abs(float(values.mean())) < 5 * bound / math.sqrt(3 * count)
    assert float(values.std()) == pytest.approx(bound / math.sqrt(3), rel=5 / math.sqrt(count))


def test_glorot_keeps_the_order_of_magnitude_from_layer_to_layer():
    network = KAN([50, 60, 70, 80, 40], init="glorot", grid_range=(-3.0, 3.0))
    network.reset_parameters(seeded(0))
    x = torch.randn(500, 50, generator=seeded(1))
    for layer in network.layers:
        x = layer(x).detach()
        assert 0.2 < float(x.std()) < 2


def test_noise_keeps_within_its_bounds_and_reaches_them():
    for grid_size in (3, 12):
        layer = wide_layer("noise", grid_size=grid_size, edge_scale=True)
        base, coefficients = parts(layer)
        _assert_uniform(base, 1 / math.sqrt(INPUTS))
        _assert_uniform(coefficients, 0.05 / grid_size)
        _assert_uniform(layer.scale.detach(), 1 / math.sqrt(INPUTS))
        without = parts(wide_layer("noise", grid_size=grid_size))
        _assert_uniform(without[1], 0.05 / grid_size)


def test_original_splines_have_small_values_at_the_knots(scipy_basis):
    for order in range(1, 6):
        size = 7
        layer = wide_layer("original", grid_size=size, order=order, edge_scale=True)
        base, coefficients = parts(layer)
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
        without = parts(wide_layer("original", grid_size=size, order=order))[1]
        torch.testing.assert_close(without, coefficients * scale)


def test_power_law_shrinks_with_the_weights_of_an_output():
    for basis, functions in (("bspline", 10), ("fourier", 14), ("rational", 1)):
        base, coefficients = parts(wide_layer("power-law", basis=basis, grid_size=7))
        assert coefficients.shape[-1] == functions
        assert_normal(base, (INPUTS * (functions + 1)) ** -0.25)
        assert_normal(coefficients, (INPUTS * (functions + 1)) ** -1.75)


@each_scheme
def test_scales_and_biases_start_as_said(init):
    for base_activation in ("silu", None):
        layer = wide_layer(init, base_activation=base_activation, edge_scale=True)
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
