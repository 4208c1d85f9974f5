"""Six forms of the compiled CPU kernels against torch's operations; tests/all has the rest."""

from dataclasses import replace

import torch
from torch.nn.functional import linear

from helpers import is_fused, randn
from kan_cases import DOUBLE, FORMS, SINGLE, Case, over
from kan_diffusion.kan import BSpline, KANLinear
from kernel_suite import Behaviour, Numbers, Places


@over([replace(case, dtype=dtype) for case in FORMS for dtype in (SINGLE, DOUBLE)])
class TestNumbers(Numbers):
    pass


@over(FORMS)
class TestBehaviour(Behaviour):
    pass


@over([case for case in FORMS if not case.is_gated])
class TestPlaces(Places):
    pass


# Stepping aside


def test_negated_numbers_that_memory_holds_with_the_other_sign_are_torchs():
    case = Case("bspline")
    module = case.build()
    x = case.points(module, 10)
    negated = torch._neg_view(x)  # as z.conj().imag is
    assert not is_fused(module(negated))
    torch.testing.assert_close(module(negated), module(-x))


class Wider(BSpline):
    """Splines on half of the grid."""

    def values(self, u):
        return super().values(u / 2)

    def slopes(self, u):
        return super().slopes(u / 2) / 2


def test_a_basis_of_ones_own_is_left_to_torch():
    layer, x = KANLinear(2, 3, basis=Wider), randn(5, 2, dtype=SINGLE)
    assert not is_fused(layer(x))
    features = layer.features(x).flatten(1)
    torch.testing.assert_close(layer(x), linear(features, layer.weight, layer.bias))
