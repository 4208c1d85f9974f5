"""Fourier's basis and rational functions, against a formula of their own."""

import math

import numpy as np
import torch

from helpers import randn, seeded
from kan_diffusion.kan import KAN
from kan_diffusion.kan.bases import Fourier, Rational


def test_harmonics_are_numpys_and_repeat():
    basis = Fourier(3, 7, extrapolation="periodic", dtype=torch.float64)
    width = basis.grid_end - basis.grid_origin
    x = basis.grid_origin + width * torch.rand(40, 3, generator=seeded(2), dtype=torch.float64)
    angle = (2 * math.pi * (x - basis.grid_origin) / width).numpy()[..., None]
    values = basis(x)
    np.testing.assert_allclose(values[..., 0::2], np.cos(np.arange(1, 8) * angle), atol=1e-11)
    np.testing.assert_allclose(values[..., 1::2], np.sin(np.arange(1, 8) * angle), atol=1e-11)
    torch.testing.assert_close(basis(x - 3 * width), values, rtol=0, atol=1e-10)


def test_rational_functions_start_as_silu_and_a_network_of_them_has_derivatives():
    x = torch.linspace(-4, 4, 801, dtype=torch.float64).unsqueeze(1)
    silu = torch.nn.functional.silu(x)
    assert float((Rational(1, dtype=torch.float64)(x)[..., 0] - silu).abs().max().detach()) < 2e-5
    network = KAN([3, 5, 2], basis="rational", dtype=torch.float64)
    network.reset_parameters(seeded(0))
    assert torch.autograd.gradcheck(network, randn(3, 3).requires_grad_())
