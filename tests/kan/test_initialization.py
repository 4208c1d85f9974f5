"""What the schemes say of the weights they draw, measured on large layers."""

import math
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from helpers import seeded
from kan_diffusion.kan import GatedLinear, KANLinear, LearnedFunctions, SharedKANLinear
from kan_diffusion.kan.bases import BASES
from kan_diffusion.kan.initialization import INITIALIZATIONS
from splines import scipy_splines

INPUTS, OUTPUTS = 60, 80


def _drawn(init, **own):
    """A wide layer, its base weights (out, in) and its coefficients (out, in, functions)."""
    layer = KANLinear(INPUTS, OUTPUTS, init=init, dtype=torch.float64, **own)
    layer.reset_parameters(seeded(0))
    edges = layer.weight.detach().view(OUTPUTS, INPUTS, -1)
    first = int(layer.has_base)
    return layer, edges[..., :first], edges[..., first:]


def _assert_normal(values, std):
    """Mean and spread within five standard errors; not bounded as uniform draws are."""
    count = values.numel()
    assert abs(float(values.mean())) < 5 * std / math.sqrt(count)
    assert float(values.std()) == pytest.approx(std, rel=5 / math.sqrt(2 * count))
    assert float(values.abs().max()) > 3 * std


def _assert_uniform(values, bound):
    """Within the bound, near to it, and as spread as uniform draws are."""
    count = values.numel()
    assert (1 - 20 / count) * bound < float(values.abs().max()) <= bound * (1 + 1e-9)
    assert abs(float(values.mean())) < 5 * bound / math.sqrt(3 * count)
    assert float(values.std()) == pytest.approx(bound / math.sqrt(3), rel=5 / math.sqrt(count))


def _glorot_std(basis):
    """The spread of coefficients whose functions pass on what SiLU does of unit normal inputs."""
    power = quad(lambda z: (z / (1 + math.exp(-z))) ** 2 * norm.pdf(z), -30, 30)[0]
    u = torch.linspace(0, basis.num_intervals, 20_000, dtype=torch.float64)
    power /= float(basis.values(u).square().sum(-1).mean())
    return math.sqrt(2 / (INPUTS + OUTPUTS) * power)


@pytest.mark.parametrize("basis", BASES)
def test_glorot_carries_the_variance_through_silu(basis):
    for size in (3, 12):
        own = {"basis": basis, "grid_size": size, "grid_range": (-2.0, 3.0)}
        layer, base, coefficients = _drawn("glorot", edge_scale=True, **own)
        if layer.basis.local:
            _assert_normal(base, math.sqrt(2 / (INPUTS + OUTPUTS)))
        _assert_normal(coefficients, _glorot_std(layer.basis))
        assert (layer.scale == 1).all()
        assert (layer.bias == 0).all()
    # Without a base branch it is the one there is, and the default.
    assert layer.basis.local or KANLinear(2, 2, basis=basis).init == "glorot"


def test_noise_keeps_within_its_bounds_and_reaches_them():
    for grid_size in (3, 12):
        layer, base, coefficients = _drawn("noise", grid_size=grid_size, edge_scale=True)
        _assert_uniform(base, 1 / math.sqrt(INPUTS))
        _assert_uniform(coefficients, 0.05 / grid_size)
        _assert_uniform(layer.scale.detach(), 1 / math.sqrt(INPUTS))
        _assert_uniform(_drawn("noise", grid_size=grid_size)[2], 0.05 / grid_size)


def test_original_splines_have_small_values_at_the_knots():
    for order in range(1, 6):
        size = 7
        layer, base, coefficients = _drawn("original", grid_size=size, order=order, edge_scale=True)
        _assert_uniform(base, 1 / math.sqrt(INPUTS))
        # Inside of the ends, where scipy's last knot would be left out.
        places = np.minimum(np.arange(size + 1.0), size - 1e-12)
        knots = scipy_splines(places, np.arange(-order, size + order + 1.0), order, "linear")
        values = coefficients @ torch.from_numpy(knots).T
        _assert_uniform(values, 0.15 / size)
        # The smallest of all coefficients with these values.
        smallest = values @ torch.from_numpy(np.linalg.pinv(knots)).T
        torch.testing.assert_close(coefficients, smallest, rtol=1e-6, atol=1e-8)
        # The scale is a factor of the functions, whether or not it is a parameter.
        scale = 1 / math.sqrt(INPUTS)
        torch.testing.assert_close(layer.scale.detach(), torch.full_like(layer.scale, scale))
        _, _, without = _drawn("original", grid_size=size, order=order)
        torch.testing.assert_close(without, coefficients * scale)


def test_power_law_shrinks_with_the_weights_of_an_output():
    layer, base, coefficients = _drawn("power-law", grid_size=7, edge_scale=True)
    _assert_normal(base, (INPUTS * 11) ** -0.25)
    _assert_normal(coefficients, (INPUTS * 11) ** -1.75)
    assert (layer.scale == 1).all()


def test_weights_beside_functions_are_drawn_as_those_of_a_linear_layer():
    for layer, fan_in in (
        (SharedKANLinear(4, 50, functions=3), 12),
        (GatedLinear(20, 30, rank=2), 20),
    ):
        layer.reset_parameters(seeded(0))
        bound = fan_in**-0.5
        for parameter in (layer.weight.detach(), layer.bias.detach()):
            assert 0.8 * bound < float(parameter.abs().max()) <= bound


SCALED = partial(KANLinear, 4, 3, edge_scale=True)
KINDS = [
    *(
        partial(SCALED, init=init, basis=b)
        for init, b in product(INITIALIZATIONS, ("bspline", "rbf"))
    ),
    partial(SCALED, basis="chebyshev"),
    partial(SharedKANLinear, 4, 3, functions=2, groups=2),
    partial(LearnedFunctions, 4, 2, 2),
    lambda: GatedLinear(4, 3, rank=2, functions=LearnedFunctions(4)),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_decides_every_number_and_what_was_learned_is_forgotten(kind):
    one, other = kind(), kind()
    with torch.no_grad():
        for tensor in (*other.parameters(), *other.buffers()):
            if tensor.is_floating_point():  # the groups of inputs are whole numbers, never learned
                tensor.fill_(math.nan)
    state = torch.get_rng_state()
    for each in (one, other):
        each.reset_parameters(seeded(5))
    assert torch.equal(state, torch.get_rng_state())
    numbers, again = ([*each.parameters(), *each.buffers()] for each in (one, other))
    assert all(map(torch.equal, numbers, again))
    assert all(tensor.isfinite().all() for tensor in numbers)
    other.reset_parameters(seeded(6))
    assert not all(map(torch.equal, one.parameters(), other.parameters()))


def test_layers_are_drawn_from_the_global_stream_and_not_without_memory():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        first, second = (KANLinear(4, 3).weight for _ in range(2))
        torch.manual_seed(3)
        assert torch.equal(KANLinear(4, 3).weight, first)
        assert not torch.equal(second, first)
        state = torch.get_rng_state()
        for init in INITIALIZATIONS:
            assert KANLinear(4, 3, init=init, device="meta").weight.is_meta
        assert torch.equal(state, torch.get_rng_state())
