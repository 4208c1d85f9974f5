"""Six forms of the compiled CPU kernels against torch's operations; tests/all has the rest."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from helpers import seeded
from kan_diffusion.kan import BSpline, KANLinear
from kernel_suite import (
    DOUBLE,
    FORMS,
    SINGLE,
    Behaviour,
    ByTorch,
    Case,
    Numbers,
    Places,
    is_fused,
    over,
)

CUBIC = FORMS[0]


@over([replace(case, dtype=dtype) for case in FORMS for dtype in (SINGLE, DOUBLE)])
class TestNumbers(Numbers):
    pass


@over(FORMS)
class TestBehaviour(Behaviour):
    pass


@over(FORMS)
class TestByTorch(ByTorch):
    pass


@over([case for case in FORMS if not case.is_gated])
class TestPlaces(Places):
    pass


def test_the_third_derivative_is_that_of_the_cubic():
    for mode in ("linear", "clamp", "zero"):
        layer = Case("bspline", mode).build(outputs=1)
        edges = layer.weight.detach().view(3, -1)
        edges[:, 0] = 0  # no SiLU
        cells = torch.tensor([[0.3, 1.6, 3.5]], dtype=DOUBLE)
        x = (layer.basis.grid_origin + layer.basis.grid_step * cells).requires_grad_()
        (slope,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        (third,) = torch.autograd.grad(curvature.sum(), x)
        # B_c, ..., B_{c+3} have third derivatives -1, 3, -3, 1 in units of the grid.
        signs = torch.tensor([-1, 3, -3, 1], dtype=DOUBLE)
        for i, cell in enumerate((0, 1, 3)):
            expected = (edges[i, 1 + cell : 5 + cell] * signs).sum() / layer.basis.grid_step[i] ** 3
            assert float(third[0, i]) == pytest.approx(float(expected), rel=1e-9)


def test_silu_of_the_most_negative_numbers_is_zero():
    for dtype in (SINGLE, DOUBLE):
        layer = Case("bspline", "zero", dtype).build(1, 2, bias=False)
        lowest = torch.finfo(dtype).min
        x = torch.tensor([[lowest], [lowest / 16]], dtype=dtype)
        torch.testing.assert_close(layer(x), torch.zeros(2, 2, dtype=dtype))


# Stepping aside


def test_negated_numbers_that_memory_holds_with_the_other_sign_are_torchs():
    module = CUBIC.build()
    x = CUBIC.points(module, 10)
    negated = torch._neg_view(x)  # as z.conj().imag is
    assert not is_fused(module(negated))
    torch.testing.assert_close(module(negated), module(-x))


def test_a_basis_of_ones_own_is_left_to_torch():
    class Wider(BSpline):
        def values(self, u):
            return super().values(u / 2)

        def slopes(self, u):
            return super().slopes(u / 2) / 2

    layer = KANLinear(2, 3, basis=Wider)
    x = torch.randn(5, 2, generator=seeded(0))
    assert not is_fused(layer(x))
    features = layer.features(x).flatten(1)
    torch.testing.assert_close(layer(x), linear(features, layer.weight, layer.bias))


def test_autocast_keeps_the_place_on_the_grid():
    for mode in ("linear", "clamp", "zero"):
        case = Case("bspline", mode, SINGLE)
        layer = case.build(outputs=4, size=64)
        x = case.points(layer, 200)
        features = layer.features(x)
        full = linear(features.flatten(1), layer.weight, layer.bias)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(layer.features(x), features)
            output = layer(x)
            narrow = layer.features(x.bfloat16())
        assert not is_fused(output)
        assert output.dtype == torch.bfloat16
        assert torch.equal(narrow, layer.features(x.bfloat16().float()))
        # Products of bfloat16 numbers: 2**-8 of the magnitudes that are added up.
        magnitude = linear(features.abs().flatten(1), layer.weight.abs(), layer.bias.abs())
        assert ((output.float() - full).abs() <= 2**-7 * magnitude).all()


def test_autocast_gives_gradients_in_the_dtypes_of_their_leaves():
    case = Case("bspline", dtype=SINGLE)
    layer = case.build()
    x = case.points(layer, 20).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).float().square().sum().backward()
    assert x.grad.dtype == torch.bfloat16
    assert layer.weight.grad.dtype == SINGLE
    expected = torch.autograd.grad(layer(x.detach().float()).square().sum(), layer.weight)[0]
    error = (layer.weight.grad - expected).norm() / expected.norm()
    assert error < 0.02


def test_a_bias_of_another_dtype_is_not_read_as_if_it_were_the_weights():
    case = Case("bspline", dtype=SINGLE)
    layer = case.build()
    x = case.points(layer, 10)
    expected = layer(x)
    layer.bias = nn.Parameter(layer.bias.detach().double())
    with pytest.raises(RuntimeError, match="dtype"):  # as nn.Linear does
        torch.testing.assert_close(layer(x).float(), expected)
