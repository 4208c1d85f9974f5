"""Gated layers by kernel against torch's own operations, and what a chain of them is."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.functional import silu
from torch.utils.flop_counter import FlopCounterMode

from helpers import (
    assert_as_exact,
    assert_same_state,
    function_by_function,
    is_fused,
    randn,
    refused,
    scattered,
    scrambled,
    seeded,
)
from kan_diffusion.kan import GatedLinear, GroupedKANLinear, LearnedFunctions, refine, update_grid
from kan_diffusion.kan.gated import gated_chain
from kan_diffusion.kan.kernels import runtime

SINGLE, DOUBLE = torch.float32, torch.float64
# An order (0 for SiLU), a dtype and a length of vectors (1, 8 or 16 units) cost seconds each.
CASES = [
    *((order, DOUBLE, (1, 5, 8, 15)) for order in (0, 3)),
    *((order, SINGLE, (16, 19, 40)) for order in (0, 3)),
    (3, DOUBLE, (19,)),
    *((order, DOUBLE, (8, 11)) for order in (1, 5)),
]
each_kind = pytest.mark.parametrize("order", [0, 3], ids=["silu", "spline"])
by_torch = forward_ad.dual_level
"""Where kernels step aside, and nothing else changes."""


def _layer(
    order: int,
    units: int,
    outputs: int = 3,
    *,
    seed: int = 0,
    dtype: torch.dtype = DOUBLE,
    **own: object,
) -> GatedLinear:
    """A layer with normal parameters and, with splines, uneven groups with grids of their own."""
    functions = None
    if order:
        count = min(3, units)
        groups = [i if i < count else (i * i) % count for i in range(units)]
        settings = {"grid_size": 4, "order": order, "start": [torch.zeros_like]}
        functions = scrambled(LearnedFunctions(units, 1, groups, dtype=dtype, **settings), seed)
    layer = GatedLinear(units, outputs, functions=functions, dtype=dtype, **own)
    for place, parameter in enumerate(layer.parameters()):
        parameter.detach().normal_(generator=seeded(100 * seed + place))
    return layer


@dataclass(frozen=True)
class Given:
    """A layer and what it is called with."""

    layer: GatedLinear
    input: Tensor
    carried: Tensor | None
    code: Tensor | None

    @classmethod
    def draw(
        cls, layer: GatedLinear, rows: int = 6, reach: int | None = None, seed: int = 0
    ) -> Given:
        """Normal inputs, with a state of ``reach`` units carried in."""
        dtype = layer.weight.dtype
        width = (1 + layer.gated) * layer.in_features
        carried = None if reach is None else randn(rows, reach, seed=seed + 1, dtype=dtype)
        code = None if layer.rank is None else randn(rows, layer.rank, seed=seed + 2, dtype=dtype)
        return cls(layer, randn(rows, width, seed=seed, dtype=dtype), carried, code)

    @property
    def inputs(self) -> list[Tensor]:
        return [x for x in (self.input, self.carried, self.code) if x is not None]

    def double(self) -> Given:
        given = (None if x is None else x.double() for x in (self.input, self.carried, self.code))
        return Given(copy.deepcopy(self.layer).double(), *given)

    def run(self, fused: bool = True, of: Sequence[int] = (0, 1)) -> list[Tensor]:
        """Outputs, and gradients of all operands given those of the outputs ``of``."""
        inputs = [x.detach().requires_grad_() for x in self.inputs]
        spread = iter(inputs)
        arguments = [
            None if x is None else next(spread) for x in (self.input, self.carried, self.code)
        ]
        with nullcontext() if fused else by_torch():
            outputs = self.layer(*arguments)
        assert is_fused(outputs[0]) == fused
        chosen = [outputs[place] for place in of]
        directions = [
            randn(*output.shape, seed=50 + place, dtype=output.dtype)
            for place, output in zip(of, chosen, strict=True)
        ]
        operands = [*inputs, *self.layer.parameters()]
        gradients = torch.autograd.grad(
            chosen, operands, directions, allow_unused=True, materialize_grads=True
        )
        return [*(output.detach() for output in outputs), *gradients]


def _compare(given: Given, of: Sequence[int] = (0, 1)) -> None:
    """Values and gradients are torch's in double precision, as exactly as torch's are or nearly."""
    ours, theirs = given.run(of=of), given.run(fused=False, of=of)
    exact = theirs if given.input.dtype == DOUBLE else given.double().run(fused=False, of=of)
    tolerance = 500 * torch.finfo(given.input.dtype).eps
    assert_as_exact(ours, theirs, exact, tolerance)


# What they compute


@each_kind
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("rank", [None, 0, 2])
@pytest.mark.parametrize("reach", [None, 2, 4, 6])
def test_a_layer_is_what_it_is_said_to_be(
    order: int, gated: bool, rank: int | None, reach: int | None
) -> None:
    given = Given.draw(_layer(order, 4, gated=gated, rank=rank), 5, reach)
    layer = given.layer
    output, state = layer(given.input, given.carried, given.code)
    for n, u in itertools.product(range(5), range(4)):
        value = given.input[n, u]
        if rank is not None:
            modulation = layer.modulation[..., u]
            code = [] if given.code is None else given.code[n].tolist()
            scale, shift = 1 + modulation[-1, 0], modulation[-1, 1]
            for number, (own_scale, own_shift) in zip(code, modulation[:-1], strict=True):
                scale, shift = scale + number * own_scale, shift + number * own_shift
            value = scale * value + shift
        if reach is not None and u < reach:
            value = value + given.carried[n, u]
        torch.testing.assert_close(state[n, u], value)
    h = silu(state)
    if layer.functions is not None:
        h = function_by_function(layer.functions, state)[..., 0]
    gates = given.input[:, 4:] if gated else 1.0
    torch.testing.assert_close(output, (h * gates) @ layer.weight.T + layer.bias)


@pytest.mark.parametrize(("order", "dtype", "widths"), CASES)
@settings(max_examples=30)
@given(data=st.data())
def test_a_kernel_computes_what_torch_does(
    order: int, dtype: torch.dtype, widths: Sequence[int], data: st.DataObject
) -> None:
    units = data.draw(st.sampled_from(widths), "units")
    own = {
        "gated": data.draw(st.booleans(), "gated"),
        "rank": data.draw(st.sampled_from([None, 0, 3]), "rank"),
        "bias": data.draw(st.booleans(), "bias"),
    }
    reach = data.draw(st.sampled_from([None, max(1, units - 3), units, units + 5]), "reach")
    rows = data.draw(st.sampled_from([0, 1, 7, 63, 300]), "rows")
    of = data.draw(st.sampled_from([(0, 1), (0,), (1,)]), "of")
    seed = data.draw(st.integers(0, 999), "seed")
    _compare(Given.draw(_layer(order, units, seed=seed, dtype=dtype, **own), rows, reach, seed), of)


@each_kind
def test_more_units_than_a_tile_of_rows(order: int) -> None:
    _compare(Given.draw(_layer(order, 1100, rank=2, dtype=SINGLE), 5, 1101))


# Derivatives


@each_kind
@pytest.mark.parametrize("path", ["kernel", "torch"])
def test_first_and_second_derivatives(order: int, path: str) -> None:
    given = Given.draw(_layer(order, 2, 2, rank=1), 2, 1, seed=3)
    layer, names = given.layer, [name for name, _ in given.layer.named_parameters()]
    leaves = [x.detach().clone().requires_grad_() for x in (*given.inputs, *layer.parameters())]

    def function(*operands: Tensor) -> tuple[Tensor, ...]:
        return functional_call(layer, dict(zip(names, operands[3:], strict=True)), operands[:3])

    with by_torch() if path == "torch" else nullcontext():
        assert is_fused(function(*leaves)[0]) == (path == "kernel")
        assert torch.autograd.gradcheck(function, leaves)
        assert torch.autograd.gradgradcheck(function, leaves)


@each_kind
def test_an_input_that_is_carried_too_has_one_gradient_to_differentiate_again(order: int) -> None:
    layer, x = _layer(order, 9, gated=False), randn(6, 9).requires_grad_()
    total = sum(output.square().sum() for output in layer(x, x))
    once = torch.autograd.grad(total, x, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(total, x, create_graph=True), once)


@each_kind
def test_gradients_are_given_where_they_are_wanted(order: int) -> None:
    given = Given.draw(_layer(order, 9, rank=2), 8, 4)
    operands = [*given.inputs, *given.layer.parameters()]
    for operand in operands:
        operand.requires_grad_()
    expected = torch.autograd.grad(given.layer(*given.inputs)[0].square().sum(), operands)
    for place, operand in enumerate(operands):
        for other in operands:
            other.requires_grad_(other is operand)
        output, state = given.layer(*given.inputs)
        assert output.requires_grad
        (gradient,) = torch.autograd.grad(output.square().sum(), operand)
        torch.testing.assert_close(gradient, expected[place])
    for operand in operands:
        operand.requires_grad_(False)
    output, state = given.layer(*given.inputs)
    assert not output.requires_grad
    assert not state.requires_grad


# Numbers that are not finite, memory, threads


@each_kind
@pytest.mark.parametrize(("units", "dtype"), [(15, DOUBLE), (16, SINGLE)])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_in_its_row(
    order: int, units: int, dtype: torch.dtype, value: float
) -> None:
    given = Given.draw(_layer(order, units, rank=2, dtype=dtype), 40, units)
    clean = given.run()
    for tensor, row, column in (
        (given.input, 0, 0),
        (given.input, 17, units - 1),
        (given.input, 20, units + 3),  # a gate
        (given.carried, 38, 9),
        (given.code, 39, 1),
    ):
        assert tensor is not None
        before = float(tensor[row, column])
        tensor[row, column] = value
        others = torch.arange(40) != row
        found, theirs = given.run(), given.run(fused=False)
        for one, other in zip(found[:5], clean[:5], strict=True):  # of rows
            assert torch.equal(one[others], other[others])
        if math.isnan(value):
            assert found[0][row].isnan().all()
            names = [""] * 5 + [name for name, _ in given.layer.named_parameters()]
            for name, *both in zip(names, found, theirs, strict=True):
                one, other = (tensor.isnan() for tensor in both)
                if name == "functions.coefficients":  # of one cell of its group, not of all
                    one, other = one.any(-1), other.any(-1)
                assert torch.equal(one, other)
        tensor[row, column] = before


@each_kind
def test_operands_need_not_be_contiguous_and_are_not_written(order: int) -> None:
    given = Given.draw(_layer(order, 9, rank=2), 30, 5)
    expected = given.run()
    for holder in given.layer.modules():
        for name, parameter in list(holder.named_parameters(recurse=False)):
            setattr(holder, name, nn.Parameter(scattered(parameter.detach())))
    apart = Given(given.layer, *(scattered(x) for x in given.inputs))
    tensors = [*apart.inputs, *given.layer.parameters(), *given.layer.buffers()]
    before = [tensor.detach().clone() for tensor in tensors]
    for one, other in zip(apart.run(), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert all(map(torch.equal, tensors, before))


@each_kind
@pytest.mark.parametrize("rows", [0, 1, 5, 301])
def test_several_threads_do_what_one_does(
    order: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "PARALLEL_WORK", 1)
    given = Given.draw(_layer(order, 11, rank=2), rows, 16)
    results = []
    for threads in (1, 3, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(given.run())
    alone, several, again = results
    assert all(map(torch.equal, several, again))
    # Only sums over the batch may be rounded otherwise.
    assert all(map(torch.equal, several[1:5], alone[1:5]))
    for one, other in zip(several, alone, strict=True):
        scale = float(other.abs().max()) + 1 if other.numel() else 1.0
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13 * scale)


# One after another


def _chain(order: int, **own: object) -> list[GatedLinear]:
    own = {"rank": 2, "gated": True, **own}
    wide = 1 + bool(own["gated"])
    widths = (8, wide * 11), (11, wide * 9), (9, 2)
    layers = [_layer(order, *pair, seed=seed, **own) for seed, pair in enumerate(widths)]
    for layer in layers:
        layer.weight.detach().div_(layer.in_features)
    return layers


def _one_by_one(layers: Sequence[GatedLinear], input: Tensor, code: Tensor | None) -> Tensor:
    state = None
    for layer in layers:
        input, state = layer(input, state, code)
    return input


@each_kind
@pytest.mark.parametrize("own", [{}, {"rank": None}, {"gated": False, "bias": False}], ids=str)
@pytest.mark.parametrize("rows", [0, 20])
def test_a_chain_is_its_layers_one_by_one(order: int, own: dict[str, object], rows: int) -> None:
    layers = _chain(order, **own)
    x = randn(rows, (1 + layers[0].gated) * 8).requires_grad_()
    code = None if layers[0].rank is None else randn(rows, 2, seed=1).requires_grad_()
    operands = [x, *([] if code is None else [code])]
    for layer in layers:
        operands += layer.parameters()
    chain, apart = gated_chain(layers, x, code), _one_by_one(layers, x, code)
    assert is_fused(chain)
    assert len(chain.grad_fn.next_functions) > len(apart.grad_fn.next_functions)
    assert torch.equal(chain, apart)
    direction = randn(rows, 2, seed=4)
    for one, other in zip(
        torch.autograd.grad(chain, operands, direction),
        torch.autograd.grad(apart, operands, direction),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("own", "width", "code", "line"),
    [
        ({}, 15, (20, 2), r"this GatedLinear takes inputs with shape \(\*, 16\), not \(20, 15\)"),
        ({}, 16, (20, 3), r"code must have shape \(20, 2\), not \(20, 3\)"),
        ({}, 16, (1, 2), r"code must have shape \(20, 2\), not \(1, 2\)"),
        ({}, 16, None, "a layer with rank=2 takes a code"),
        ({"rank": None}, 16, (20, 2), "a layer with rank=None takes no code"),
    ],
)
def test_a_chain_checks_shapes_before_a_kernel_reads_them(
    own: dict[str, object], width: int, code: tuple[int, ...] | None, line: str
) -> None:
    with refused(line):
        gated_chain(_chain(3, **own), randn(20, width), None if code is None else randn(*code))


def test_layers_of_a_chain_have_to_fit_each_other() -> None:
    layers, code = _chain(3), randn(20, 2)
    with refused(r"takes inputs with shape \(\*, 18\), not \(20, 22\)"):
        gated_chain([layers[0], layers[2]], randn(20, 16), code)
    first = GroupedKANLinear(3, 16, dtype=DOUBLE)
    assert gated_chain(layers, randn(20, 3), code, first).shape == (20, 2)
    with refused(r"this GroupedKANLinear takes inputs with shape \(\*, 3\), not \(20, 2\)"):
        gated_chain(layers, randn(20, 2), code, first)
    with refused(r"this GatedLinear takes inputs with shape \(\*, 22\), not \(20, 16\)"):
        gated_chain(layers[1:], randn(20, 3), code, first)


@each_kind
def test_a_chain_is_differentiated_twice(order: int) -> None:
    layers = [_layer(order, 2, 4, seed=1, rank=1), _layer(order, 2, 1, seed=2, rank=1)]
    x, code = randn(2, 4).requires_grad_(), randn(2, 1, seed=1).requires_grad_()

    def chain(x: Tensor, code: Tensor, *_: Tensor) -> Tensor:
        return gated_chain(layers, x, code)

    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    assert torch.autograd.gradcheck(chain, (x, code, *parameters))
    assert torch.autograd.gradgradcheck(chain, (x, code, *parameters))


@each_kind
def test_layers_of_a_chain_with_hooks_are_called(order: int) -> None:
    layers = _chain(order)
    x, code = randn(5, 16), randn(5, 2, seed=1)
    expected = gated_chain(layers, x, code)
    seen: list[tuple[int, ...]] = []
    handle = layers[1].register_forward_hook(lambda *call: seen.append(call[2][1].shape))
    torch.testing.assert_close(gated_chain(layers, x, code), expected)
    assert seen == [(5, 11)]
    handle.remove()
    gated_chain(layers, x, code)
    assert len(seen) == 1
    for layer in layers:
        if layer.functions is not None:
            layer.functions.register_forward_hook(lambda *call: seen.append(call[2].shape))
    torch.testing.assert_close(gated_chain(layers, x, code), expected)
    assert seen[1:] == ([(5, 8), (5, 11), (5, 9)] if order else [])


@each_kind
def test_every_kind_of_hook_on_a_chain_is_called(order: int) -> None:
    layers = _chain(order)
    x, code = randn(5, 16).requires_grad_(), randn(5, 2, seed=1)
    expected = gated_chain(layers, x, code)
    seen: list[object] = []
    watched = layers[1] if layers[2].functions is None else layers[2].functions
    handle = watched.register_full_backward_hook(lambda *_: seen.append("backward"))
    gated_chain(layers, x, code).sum().backward()
    assert seen == ["backward"]
    handle.remove()
    handle = nn.modules.module.register_module_forward_hook(lambda part, *_: seen.append(part))
    gated_chain(layers, x, code)
    assert set(layers) <= set(seen)
    handle.remove()
    layers[1].forward = lambda *given: (
        seen.append("own") or type(layers[1]).forward(layers[1], *given)
    )
    torch.testing.assert_close(gated_chain(layers, x, code), expected)
    assert seen[-1] == "own"


class Doubled(LearnedFunctions):
    """Twice the learned functions."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def test_functions_of_ones_own_class_are_called() -> None:
    functions = Doubled(4, dtype=DOUBLE)
    layer = GatedLinear(4, 3, bias=False, functions=functions, dtype=DOUBLE)
    x = randn(5, 8)
    output, state = layer(x)
    expected = nn.functional.linear(functions(state) * x[:, 4:], layer.weight)
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("basis", ["rbf", "rational"])
def test_a_chain_with_functions_that_have_no_kernel_is_torchs(basis: str) -> None:
    layers = _chain(3)
    functions = LearnedFunctions(11, 1, [0] * 5 + [1] * 6, basis=basis, dtype=DOUBLE)
    layers[1] = GatedLinear(11, 18, rank=2, functions=functions, dtype=DOUBLE)
    x, code = randn(20, 16).requires_grad_(), randn(20, 2, seed=1)
    output = gated_chain(layers, x, code)
    with by_torch():
        expected = _one_by_one(layers, x, code)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(
        torch.autograd.grad(output.sum(), x), torch.autograd.grad(expected.sum(), x)
    )


# Grids that move


class Chained(nn.Module):
    """Layers with learned functions and one without, in a module of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        layers = _chain(3)
        self.layers = nn.ModuleList([layers[0], _chain(0)[1], layers[2]])

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        return gated_chain(list(self.layers), x, code)


def test_grids_of_states_are_refined_and_follow_them() -> None:
    module = Chained()
    x, code = randn(100, 16), randn(100, 2, seed=1)
    average = copy.deepcopy(module)
    before = module(x, code)
    scale = float(before.detach().abs().max())
    assert refine(module, 12, x, code, averages=[average]) < 1e-12 * scale
    assert refine(module, 24) < 1e-12 * scale  # each layer looked at by itself, over its grids
    torch.testing.assert_close(module(x, code), before, rtol=0, atol=1e-11 * scale)
    torch.testing.assert_close(average(x, code), before, rtol=0, atol=1e-11 * scale)
    update_grid(module, x, code, margin=0.0)
    functions = module.layers[0].functions
    _, state = module.layers[0](x, None, code)
    for group in range(functions.groups):
        own = state[:, [u for u, g in enumerate(functions.group_of) if g == group]].detach()
        torch.testing.assert_close(functions.grid.grid_origin[group], own.min())
        torch.testing.assert_close(functions.grid.grid_end[group], own.max())


# Settings


def _learned(units: int, outputs: int, bias: bool = True, **own: Any) -> GatedLinear:
    """A layer of units that learn a function each."""
    return GatedLinear(units, outputs, bias, functions=LearnedFunctions(units), **own)


@each_kind
def test_where_they_start(order: int) -> None:
    torch.manual_seed(0)
    kind = _learned if order else GatedLinear
    layer = kind(20, 30, rank=2)
    assert layer.modulation is not None
    assert bool((layer.modulation == 0).all())
    bound = 1 / math.sqrt(20)
    for parameter in (layer.weight.detach(), layer.bias.detach()):
        assert 0.8 * bound < float(parameter.abs().max()) <= bound
    x, code = randn(50, 40, dtype=SINGLE), randn(50, 2, dtype=SINGLE)
    output, state = layer(x, None, code)
    assert torch.equal(state, x[:, :20])
    expected = (silu(state) * x[:, 20:]) @ layer.weight.T + layer.bias
    torch.testing.assert_close(output, expected, rtol=0, atol=0.02)
    again = kind(20, 30, rank=2)
    for module in (layer, again):
        for parameter in module.parameters():
            parameter.detach().add_(1)
        module.reset_parameters(seeded(3))
    assert_same_state(layer, again)
    assert bool((layer.modulation == 0).all())


@each_kind
def test_operations_are_those_of_the_product_and_the_states(order: int) -> None:
    kind = _learned if order else GatedLinear
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        nn.functional.linear(torch.zeros(1, 5), torch.zeros(7, 5))
    product = counter.get_total_flops()
    per_unit = 3 + 2 * order if order else 4
    # Each number of a code scales and shifts; a gate and a state are one operation each.
    assert kind(5, 7, rank=2).flops == product + 7 + 5 * (per_unit + 4 * 2 + 3 + 1 + 1)
    assert kind(5, 7, False, gated=False).flops == product + 5 * (per_unit + 1)


@pytest.mark.parametrize(
    ("own", "shapes", "message"),
    [
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
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    own: dict[str, object], shapes: Sequence[tuple[int, ...] | None], message: str
) -> None:
    layer = _layer(3, 5, **own)
    given = [None if shape is None else torch.zeros(shape, dtype=DOUBLE) for shape in shapes]
    with refused(message):
        layer(*given)


def test_unusable_settings_are_refused() -> None:
    with refused("rank must be at least 0, or None, not -1"):
        GatedLinear(3, 2, rank=-1)
    with refused("a GatedLinear needs at least one input and one output, not 0 and 2"):
        GatedLinear(0, 2)
    with refused("a GatedLinear needs at least one input and one output, not 3 and 0"):
        GatedLinear(3, 0)
    assert "3, 2, gated=True, rank=2" in repr(GatedLinear(3, 2, rank=2))


@pytest.mark.parametrize("functions", [(4, 1), (3, 2)])
def test_functions_are_one_for_each_unit(functions: tuple[int, int]) -> None:
    with refused("of 3 units needs one function for each, not"):
        GatedLinear(3, 2, functions=LearnedFunctions(*functions))
