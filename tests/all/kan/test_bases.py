"""Fourier's basis and rational functions, each against a formula of its own and as all bases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from basis_suite import OTHER, Bases, Grids, over, with_grids
from helpers import randn, refused, seeded
from kan_diffusion.kan import KAN, KANLinear
from kan_diffusion.kan.bases import Fourier, Rational


@over(OTHER)
class TestBases(Bases):
    pass


@with_grids(OTHER)
class TestGrids(Grids):
    pass


@pytest.mark.parametrize("basis", [Fourier(9, 3, (-3.0, 3.0), "periodic"), Rational(9, 2)])
def test_every_layer_gets_a_basis_like_the_object(basis):
    network = KAN([3, 5, 2], basis=basis, dtype=torch.float64)
    for layer, fan_in in zip(network.layers, (3, 5), strict=True):
        assert type(layer.basis) is type(basis)
        assert (layer.basis.in_features, layer.basis.extra_repr()) == (fan_in, basis.extra_repr())


@given(num=st.integers(1, 20), seed=st.integers(0, 999))
def test_harmonics_are_numpys_and_repeat(num, seed):
    basis = Fourier(3, num, extrapolation="periodic", dtype=torch.float64)
    basis.grid_origin.uniform_(-2, 2, generator=seeded(seed))
    basis.grid_step.uniform_(0.1, 1, generator=seeded(seed + 1))
    width = basis.grid_end - basis.grid_origin
    x = basis.grid_origin + width * torch.rand(40, 3, generator=seeded(seed + 2))
    angle = (2 * math.pi * (x - basis.grid_origin) / width).numpy()[..., None]
    harmonics = np.arange(1, num + 1)
    values = basis(x)
    np.testing.assert_allclose(values[..., 0::2].numpy(), np.cos(harmonics * angle), atol=1e-11)
    np.testing.assert_allclose(values[..., 1::2].numpy(), np.sin(harmonics * angle), atol=1e-11)
    for periods in (-3, 1, 7):
        torch.testing.assert_close(basis(x + periods * width), values, rtol=0, atol=1e-10)


def test_rational_functions_start_as_silu_and_follow_their_formula():
    basis = Rational(6, num_groups=3, dtype=torch.float64)
    x = torch.linspace(-4, 4, 801, dtype=torch.float64).unsqueeze(1).expand(-1, 6)
    silu = torch.nn.functional.silu(x).unsqueeze(-1)
    assert float((basis(x) - silu).abs().max().detach()) < 2e-5
    for parameter in basis.parameters():
        parameter.detach().normal_(generator=seeded(0))
    a, b = basis.numerator.detach().numpy(), basis.denominator.detach().numpy()
    values = basis(3 * x).detach().numpy()[..., 0]
    z = 3 * x[:, 0].numpy()
    for i, group in enumerate([0, 0, 1, 1, 2, 2]):
        above = np.polynomial.Polynomial(a[group])(z)
        below = np.polynomial.Polynomial([0, *b[group]])(z)
        np.testing.assert_allclose(values[:, i], above / (1 + np.abs(below)), rtol=1e-10)


@given(st.integers(1, 20), st.integers(1, 20))
def test_inputs_of_a_group_are_neighbours_that_share_coefficients(inputs, num_groups):
    basis = Rational(inputs, num_groups, dtype=torch.float64)
    assert basis.num_groups == min(num_groups, inputs)
    with torch.no_grad():
        basis.numerator[:, 0] = torch.arange(basis.num_groups)  # B(0) = a_0
    group = basis(torch.zeros(1, inputs, dtype=torch.float64))[0, :, 0].detach().numpy()
    assert (np.diff(group) >= 0).all()
    sizes = np.bincount(group.astype(int), minlength=basis.num_groups)
    assert len(sizes) == basis.num_groups
    assert sizes.max() - sizes.min() <= 1
    assert sizes.min() >= 1


def test_rational_functions_learn_their_coefficients():
    layer = KANLinear(1, 1, basis="rational", dtype=torch.float64)
    x = torch.linspace(-3, 3, 200, dtype=torch.float64).unsqueeze(1)
    target = torch.tanh(2 * x)
    optimizer = torch.optim.LBFGS(layer.basis.parameters(), line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        error = (layer(x) - target).square().mean()
        error.backward()
        return error

    first = float(loss().detach())
    for _ in range(10):
        optimizer.step(loss)
    assert float(loss().detach()) < 1e-3 * first
    layer.reset_parameters(seeded(0))
    silu = torch.nn.functional.silu(x)
    torch.testing.assert_close(layer.basis(x)[..., 0], silu, rtol=0, atol=2e-5)


def test_a_layer_with_more_inputs_has_as_many_groups_as_were_asked_for():
    network = KAN([3, 32, 5, 1], basis=Rational(3, num_groups=8))
    assert [layer.basis.num_groups for layer in network.layers] == [3, 8, 5]


def test_a_rational_function_may_start_as_the_identity():
    x = torch.linspace(-50, 50, 1001, dtype=torch.float64).unsqueeze(1)
    basis = Rational(1, start="identity", dtype=torch.float64)
    torch.testing.assert_close(basis(x)[..., 0], x, rtol=1e-14, atol=1e-14)
    # Its denominator is not stuck where |.| has no slope.
    basis(x).square().sum().backward()
    assert basis.denominator.grad is not None
    assert (basis.denominator.grad != 0).all()
    basis.numerator.detach().mul_(2)
    basis.reset_parameters()
    torch.testing.assert_close(basis(x)[..., 0], x, rtol=1e-14, atol=1e-14)
    with refused("did you mean 'silu'"):
        Rational(1, start="sulu")
    # A network's first layer does, and is linear.
    network = KAN([3, 5, 5, 2], basis="rational", dtype=torch.float64)
    first, points = network.layers[0], randn(20, 3)
    torch.testing.assert_close(first(points), points @ first.weight.T)
    assert [layer.basis.start for layer in network.layers] == ["identity", "silu", "silu"]


def test_second_derivatives_of_rational_functions():
    network = KAN([3, 5, 2], basis="rational", dtype=torch.float64)
    network.reset_parameters(seeded(0))
    x = randn(3, 3).requires_grad_()
    assert torch.autograd.gradcheck(network, x)
    assert torch.autograd.gradgradcheck(network, x)
