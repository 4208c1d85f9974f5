"""What a gated layer is; test_kernels.py compares its kernel with torch."""

import pytest
import torch
from torch import nn
from torch.nn.functional import pad, silu

from helpers import function_by_function, is_fused, randn, refused, scrambled, seeded
from kan_diffusion.kan import GatedLinear, LearnedFunctions

DOUBLE = torch.float64
each_kind = pytest.mark.parametrize("order", [0, 3], ids=["silu", "spline"])


def _layer_of(order, units, **own):
    """A layer of SiLU (order 0) or of splines, in uneven groups with grids of their own."""
    functions = None
    if order:
        functions = scrambled(LearnedFunctions(units, 1, 3, grid_size=4, order=order, dtype=DOUBLE))
    layer = GatedLinear(units, 3, functions=functions, dtype=DOUBLE, **own)
    for seed, parameter in enumerate(layer.parameters()):
        parameter.detach().normal_(generator=seeded(seed))
    return layer


@each_kind
@pytest.mark.parametrize(
    ("gated", "rank", "reach"),
    [(True, 2, 6), (False, 2, 2), (True, None, 4), (True, 0, None), (False, None, None)],
)
def test_a_layer_is_what_it_is_said_to_be(order, gated, rank, reach):
    layer = _layer_of(order, 4, gated=gated, rank=rank)
    x = randn(5, 4 * (1 + gated))
    carried = None if reach is None else randn(5, reach, seed=1)
    code = None if rank is None else randn(5, rank, seed=2)
    output, state = layer(x, carried, code)
    # Of SiLU and a linear map alone, torch's own operations are as fast.
    assert is_fused(output) == (order > 0 or gated or rank is not None)
    expected = x[:, :4]
    if rank is not None:
        scale, shift = (
            layer.modulation[-1] + torch.tensordot(code, layer.modulation[:-1], 1)
        ).unbind(1)
        expected = (1 + scale) * expected + shift
    if reach is not None:
        expected = expected + pad(carried, (0, 4 - reach))
    torch.testing.assert_close(state, expected)
    h = silu(state)
    if layer.functions is not None:
        h = function_by_function(layer.functions, state)[..., 0]
    gates = x[:, 4:] if gated else 1.0
    torch.testing.assert_close(output, (h * gates) @ layer.weight.T + layer.bias)


@each_kind
def test_an_output_and_a_state_have_gradients_of_their_own(order):
    layer, x, code = _layer_of(order, 9, rank=2), randn(8, 18), randn(8, 2, seed=1)
    operands = [x.requires_grad_(), *layer.parameters()]
    outputs = layer(x, x[:, :4], code)

    def gradients(total):
        own = {"allow_unused": True, "materialize_grads": True}
        return torch.autograd.grad(total, operands, retain_graph=True, **own)

    alone = [gradients(output.sum()) for output in outputs]
    both = gradients(outputs[0].sum() + outputs[1].sum())
    for whole, *parts in zip(both, *alone, strict=True):
        torch.testing.assert_close(whole, sum(parts))
    assert bool((alone[1][1] == 0).all())  # of the weight, which no state sees


@each_kind
def test_gradients_of_a_shared_input_and_of_a_weight_alone_are_differentiated_again(order):
    layer = _layer_of(order, 9, gated=False)
    x, weight = randn(6, 9).requires_grad_(), layer.weight
    for leaf, given in ((x, (x, x)), (weight, (x.detach(),))):
        layer.requires_grad_(False)
        leaf.requires_grad_()
        total = sum(output.square().sum() for output in layer(*given))
        once = torch.autograd.grad(total, leaf, retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(total, leaf, create_graph=True), once)


class Doubled(LearnedFunctions):
    """Twice the learned functions."""

    def forward(self, input):
        return 2 * super().forward(input)


@pytest.mark.parametrize("kind", [LearnedFunctions, Doubled])
def test_functions_without_a_kernel_or_with_hooks_are_called(kind):
    layer = GatedLinear(4, 3, False, functions=kind(4, dtype=DOUBLE), dtype=DOUBLE)
    x, seen = randn(5, 8), []
    output, state = layer(x)
    expected = nn.functional.linear(layer.functions(state) * x[:, 4:], layer.weight)
    torch.testing.assert_close(output, expected)
    for register in (
        layer.functions.register_forward_hook,
        layer.functions.register_full_backward_hook,
        layer.functions.register_full_backward_pre_hook,
    ):
        handle = register(lambda *call: seen.append(call))
        found = layer(x.requires_grad_())[0]
        torch.testing.assert_close(found, expected)
        found.sum().backward()
        handle.remove()
    assert len(seen) == 3


@pytest.mark.parametrize("gated", [True, False])
def test_functions_keep_their_precision_under_autocast_without_a_modulation(gated):
    layer = GatedLinear(8, 4, gated=gated, functions=LearnedFunctions(8))
    x = randn(64, 8 * (1 + gated)).bfloat16()  # as the linear map before it gives

    def gradients(x):
        return torch.autograd.grad(layer(x)[0].float().square().sum(), list(layer.parameters()))

    expected = gradients(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(x)
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).norm()) <= 0.1 * float(other.norm())


@each_kind
def test_a_layer_starts_as_one_of_silu_that_nothing_modulates(order):
    functions = LearnedFunctions(20) if order else None
    layer = GatedLinear(20, 30, rank=2, functions=functions)
    layer.reset_parameters(seeded(0))
    x, code = randn(50, 40, dtype=torch.float32), randn(50, 2, dtype=torch.float32)
    output, state = layer(x, None, code)
    assert torch.equal(state, x[:, :20])
    expected = (silu(state) * x[:, 20:]) @ layer.weight.T + layer.bias
    torch.testing.assert_close(output, expected, rtol=0, atol=0.02)


REFUSED = [
    ({}, ((4, 5), None, None), r"takes inputs with shape \(\*, 10\), not \(4, 5\)"),
    ({"gated": False}, ((4, 10), None, None), r"takes inputs with shape \(\*, 5\)"),
    ({}, ((10,), None, None), r"input must have shape \(N, 10\), not \(10,\); make rows of it"),
    ({}, ((4, 10), (3, 5), None), r"carried must have shape \(4, m\), not \(3, 5\)"),
    ({}, ((4, 10), None, (4, 2)), "a layer with rank=None takes no code"),
    ({"rank": 2}, ((4, 10), None, None), "a layer with rank=2 takes a code"),
    ({"rank": 2}, ((4, 10), None, (1, 2)), r"code must have shape \(4, 2\), not \(1, 2\)"),
    ({"rank": -1}, (), "rank must be a whole number, at least 0, not -1"),
    ({"rank": 1.5}, (), "rank must be a whole number, at least 0, not 1.5"),
    ({"in_features": 0}, (), "in_features must be a whole number, at least 1, not 0"),
    ({"out_features": 2.5}, (), "out_features must be a whole number, at least 1, not 2.5"),
    ({"functions": LearnedFunctions(4)}, (), "of 5 units needs one function"),
    ({"functions": LearnedFunctions(5, 2)}, (), "function for each, not 2"),
]


def test_settings_and_inputs_that_do_not_fit_are_refused_before_a_kernel_reads_them():
    for own, shapes, message in REFUSED:
        given = [None if shape is None else torch.zeros(shape) for shape in shapes]
        with refused(message):
            GatedLinear(**{"in_features": 5, "out_features": 2, **own})(*given)
