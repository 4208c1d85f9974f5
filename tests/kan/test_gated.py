"""What a gated layer is; test_kernels.py compares its kernel with torch."""

import itertools
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import silu
from torch.utils.flop_counter import FlopCounterMode

from helpers import (
    assert_same_state,
    function_by_function,
    is_fused,
    randn,
    refused,
    scrambled,
    seeded,
)
from kan_diffusion.kan import GatedLinear, LearnedFunctions

DOUBLE = torch.float64
each_kind = pytest.mark.parametrize("order", [0, 3], ids=["silu", "spline"])


def _layer_of(order, units, outputs=3, *, seed=0, **own):
    """A layer of SiLU (order 0) or of splines, in uneven groups with grids of their own."""
    functions = None
    if order:
        groups = min(3, units)
        settings = {"grid_size": 4, "order": order, "initial": [torch.zeros_like]}
        functions = scrambled(LearnedFunctions(units, 1, groups, dtype=DOUBLE, **settings), seed)
    layer = GatedLinear(units, outputs, functions=functions, dtype=DOUBLE, **own)
    for place, parameter in enumerate(layer.parameters()):
        parameter.detach().normal_(generator=seeded(100 * seed + place))
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
    for n, u in itertools.product(range(5), range(4)):
        value = x[n, u]
        if rank is not None:
            modulation = layer.modulation[..., u]
            scale, shift = 1 + modulation[-1, 0], modulation[-1, 1]
            for number, (own_scale, own_shift) in zip(code[n], modulation[:-1], strict=True):
                scale, shift = scale + number * own_scale, shift + number * own_shift
            value = scale * value + shift
        if reach is not None and u < reach:
            value = value + carried[n, u]
        torch.testing.assert_close(state[n, u], value)
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
    both = torch.autograd.grad(
        outputs[0].sum() + outputs[1].sum(), operands, retain_graph=True, materialize_grads=True
    )
    alone = [
        torch.autograd.grad(
            output.sum(), operands, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for output in outputs
    ]
    for whole, *parts in zip(both, *alone, strict=True):
        torch.testing.assert_close(whole, sum(parts))
    assert bool((alone[1][1] == 0).all())  # of the weight, which no state sees


@each_kind
def test_an_input_that_is_carried_too_has_one_gradient_to_differentiate_again(order):
    layer, x = _layer_of(order, 9, gated=False), randn(6, 9).requires_grad_()
    total = sum(output.square().sum() for output in layer(x, x))
    once = torch.autograd.grad(total, x, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(total, x, create_graph=True), once)


def test_a_weight_alone_has_a_gradient_to_differentiate_again():
    layer = _layer_of(0, 9).requires_grad_(False)
    layer.weight.requires_grad_()
    total = sum(output.square().sum() for output in layer(randn(6, 18)))
    again = torch.autograd.grad(total, layer.weight, create_graph=True, retain_graph=True)
    torch.testing.assert_close(again, torch.autograd.grad(total, layer.weight))


class Doubled(LearnedFunctions):
    """Twice the learned functions."""

    def forward(self, input):
        return 2 * super().forward(input)


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize(
    "kind", [LearnedFunctions, Doubled, partial(LearnedFunctions, basis="rbf")]
)
def test_functions_without_a_kernel_or_with_hooks_are_called(kind, hooked):
    layer = GatedLinear(4, 3, False, functions=kind(4, dtype=DOUBLE), dtype=DOUBLE)
    x, seen = randn(5, 8), []
    if hooked:
        layer.functions.register_forward_hook(lambda *call: seen.append(call))
    output, state = layer(x)
    assert len(seen) == hooked
    expected = nn.functional.linear(layer.functions(state) * x[:, 4:], layer.weight)
    torch.testing.assert_close(output, expected)


# Settings


@each_kind
def test_where_they_start_and_what_they_cost(order):
    def make(inputs, outputs, *bias, **own):
        functions = LearnedFunctions(inputs) if order else None
        return GatedLinear(inputs, outputs, *bias, functions=functions, **own)

    layer = make(20, 30, rank=2)
    layer.reset_parameters(seeded(0))
    bound = 1 / math.sqrt(20)
    for parameter in (layer.weight.detach(), layer.bias.detach()):
        assert 0.8 * bound < float(parameter.abs().max()) <= bound
    x, code = randn(50, 40, dtype=torch.float32), randn(50, 2, dtype=torch.float32)
    output, state = layer(x, None, code)
    assert torch.equal(state, x[:, :20])
    expected = (silu(state) * x[:, 20:]) @ layer.weight.T + layer.bias
    torch.testing.assert_close(output, expected, rtol=0, atol=0.02)
    again = make(20, 30, rank=2)
    for module in (layer, again):
        for parameter in module.parameters():
            parameter.detach().add_(1)
        module.reset_parameters(seeded(3))
    assert_same_state(layer, again)
    assert bool((layer.modulation == 0).all())

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        nn.functional.linear(torch.zeros(1, 5), torch.zeros(7, 5))
    product = counter.get_total_flops()
    per_unit = 3 + 2 * order if order else 4
    # Each number of a code scales and shifts; a gate is one operation, and a state is not counted.
    assert make(5, 7, rank=2).flops == product + 7 + 5 * (per_unit + 4 * 2 + 3 + 1)
    assert make(5, 7, False, gated=False).flops == product + 5 * per_unit


REFUSED = [
    ({}, ((4, 5), None, None), r"takes inputs with shape \(\*, 10\), not \(4, 5\)"),
    ({"gated": False}, ((4, 10), None, None), r"takes inputs with shape \(\*, 5\)"),
    ({}, ((10,), None, None), r"input must have shape \(N, 10\), not \(10,\); make rows of it"),
    ({"rank": 2}, ((4, 4, 10), None, (4, 2)), r"shape \(N, 10\), not \(4, 4, 10\)"),
    ({}, ((4, 10), (3, 5), None), r"carried must have shape \(4, m\), not \(3, 5\)"),
    ({}, ((4, 10), (5,), None), r"carried must have shape \(4, m\), not \(5,\)"),
    ({}, ((4, 10), None, (4, 2)), "a layer with rank=None takes no code"),
    ({"rank": 2}, ((4, 10), None, None), "a layer with rank=2 takes a code"),
    ({"rank": 2}, ((4, 10), None, (4, 3)), r"code must have shape \(4, 2\), not \(4, 3\)"),
    ({"rank": 2}, ((4, 10), None, (1, 2)), r"code must have shape \(4, 2\), not \(1, 2\)"),
]


def test_inputs_that_do_not_fit_are_refused_before_a_kernel_reads_them():
    for own, shapes, message in REFUSED:
        layer = _layer_of(3, 5, **own)
        given = [None if shape is None else torch.zeros(shape, dtype=DOUBLE) for shape in shapes]
        with refused(message):
            layer(*given)


def test_unusable_settings_are_refused():
    for make, message in (
        (lambda: GatedLinear(3, 2, rank=-1), "rank must be at least 0, or None, not -1"),
        (lambda: GatedLinear(0, 2), "at least one input and one output, not 0 and 2"),
        (lambda: GatedLinear(3, 0), "at least one input and one output, not 3 and 0"),
        (lambda: GatedLinear(3, 2, functions=LearnedFunctions(4)), "of 3 units needs one function"),
        (lambda: GatedLinear(3, 2, functions=LearnedFunctions(3, 2)), "function for each, not 2"),
    ):
        with refused(message):
            make()
    assert "3, 2, gated=True, rank=2" in repr(GatedLinear(3, 2, rank=2))
