"""All forms, modes and orders of the kernels, as operators, on threads and where numba is not."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from helpers import seeded
from kernel_suite import (
    DOUBLE,
    FORMS,
    SINGLE,
    Behaviour,
    Case,
    Numbers,
    Places,
    compare,
    direction_of,
    operands_of,
    over,
    run,
    threads_of,
)

CUBIC = FORMS[0]
FOURIER = Case("fourier")
# The dense kernels of other bases and of Fourier's, with all they do beyond their grids.
DENSE = [
    replace(Case(kind), mode=mode)
    for kind, modes in {
        "rbf": ("linear", "clamp", "zero"),
        "chebyshev": ("linear", "clamp"),
        "fourier": ("linear", "clamp", "periodic"),
    }.items()
    for mode in modes
]
SPLINES = [
    replace(case, mode=mode)
    for case in (
        *(Case("bspline", order=order) for order in range(1, 6)),
        replace(CUBIC, base=False),
    )
    for mode in ("linear", "clamp", "zero")
]
OTHERS = [case for case in [*SPLINES, *DENSE] if case not in FORMS]
LEARNED = [
    *(Case("functions", order=order) for order in (1, 2, 4, 5)),
    *(Case("shared", order=order) for order in (1, 4)),
    *(Case("gated", order=order) for order in (1, 5)),
]
WITHOUT_SILU = [Case(kind, base=False) for kind in ("rbf", "fourier", "functions", "grouped")]
each_form = over([*FORMS, FOURIER])


@over([*OTHERS, *LEARNED, *(replace(case, dtype=SINGLE) for case in OTHERS if case.order == 3)])
class TestNumbers(Numbers):
    pass


@over([*OTHERS, *LEARNED])
class TestBehaviour(Behaviour):
    pass


@over([case for case in [*OTHERS, *LEARNED] if not case.is_gated])
class TestPlaces(Places):
    pass


@over(WITHOUT_SILU)
def test_without_a_base_activation_and_with_more_units_than_a_tile(case):
    # So large a weight is multiplied by torch, and not by the kernel.
    module = case.build(1100 if case.is_learned else 9, 11)
    compare(module, case.points(module, 40))


@over([replace(case, dtype=SINGLE) for case in FORMS if case.is_gated])
def test_gated_layers_of_more_units_than_a_tile_of_rows(case):
    module = case.build(1100)
    compare(module, case.points(module, 5))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("periods", [0, 1, 1000, 10**6])
def test_harmonics_far_outside_are_those_of_whole_periods_nearer(sign, periods):
    layer = Case("fourier", "periodic", SINGLE, base=False).build(size=8)
    layer.grid_origin.zero_()
    layer.grid_step.fill_(1 / 8)  # a period is 1
    near = torch.randint(0, 16, (64, 3), generator=seeded(0)) / 16
    expected = run(layer.double(), near.double(), fused=False)
    for one, other in zip(run(layer.float(), near + sign * periods), expected, strict=True):
        scale = float(other.abs().max())
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-6 * scale)


@over([replace(case, dtype=SINGLE) for case in DENSE])
@given(size=st.integers(1, 8), seed=st.integers(0, 999))
def test_float32_functions_are_those_of_float64(case, size, seed):
    # Outputs that pick single functions; places on the grid that float32 tells exactly.
    layer = case.build(1, size=size, bias=False, seed=seed)
    width = layer.features_per_input
    layer.weight = nn.Parameter(torch.eye(width))
    layer.out_features = width
    layer.grid_origin.fill_(1)
    layer.grid_step.fill_(0.5)
    x = torch.randint(-3 * 512, 7 * 512, (300, 1), generator=seeded(seed)) / 512
    values = layer(x).double()
    expected = layer.double()(x.double())
    scale = expected.abs().amax(0).clamp(min=1)
    torch.testing.assert_close(values / scale, expected / scale, rtol=0, atol=4e-6)
    if (case.kind, case.mode) == ("rbf", "zero"):  # small values too, but for denormal numbers
        seen = expected > 2e-38
        torch.testing.assert_close(values[seen], expected[seen], rtol=1e-5, atol=0)


# Threads and processes


@each_form
def test_callers_on_several_threads_do_not_disturb_each_other(case, monkeypatch):
    threads_of(monkeypatch)(2)
    module = case.build(9, 11)
    batches = [case.points(module, 50, seed) for seed in range(12)]

    def gradients(x):
        return torch.autograd.grad(module(x).square().sum(), list(module.parameters()))

    expected = [gradients(x) for x in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(gradients, batches))
    assert all(all(map(torch.equal, *pair)) for pair in zip(found, expected, strict=True))


def _total(layer, x, results):
    with torch.no_grad():
        results.put(float(layer(x).sum()))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_waits_for_no_threads_of_its_parent(monkeypatch):
    threads_of(monkeypatch)(2)
    layer = CUBIC.build()
    x = CUBIC.points(layer, 20)
    expected = float(layer(x).detach().sum())
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_total, args=(layer, x, results), daemon=True)
    child.start()
    try:
        assert results.get(timeout=60) == expected
    finally:
        child.kill()
        child.join()


@pytest.mark.parametrize(
    "reason", ["numba is absent", "numba does not import", "numba does not compile"]
)
def test_where_numba_does_not_work_everything_does(reason):
    before = {
        "numba is absent": 'sys.modules["numba"] = sys.modules["llvmlite"] = None',
        "numba does not import": 'sys.modules["kan_diffusion.kan.kernels.gated"] = None',
        "numba does not compile": "",
    }[reason]
    program = f"""
        import sys
        {before}
        import torch
        from kan_diffusion.kan import KAN, GatedLinear, LearnedFunctions
        network = torch.nn.Sequential(KAN([2, 3]), LearnedFunctions(3), KAN([3, 1], basis="rbf"))
        x = torch.randn(5, 2)
        eager = network(x)
        eager.sum().backward()
        compiled = torch.compile(network, fullgraph=True, backend="aot_eager")(x)
        compiled.sum().backward()
        torch.testing.assert_close(compiled, eager)
        network[0].refine(10)
        layer = GatedLinear(2, 3, functions=LearnedFunctions(2))
        output, state = layer(torch.randn(5, 4))
        (output.sum() + state.sum()).backward()
        print(type(output.grad_fn).__name__)
    """
    jit = {"NUMBA_DISABLE_JIT": "1"} if reason == "numba does not compile" else {}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        env={**os.environ, **jit},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "AddmmBackward0"
    told = "without their compiled kernel" in result.stderr
    assert told == (reason != "numba is absent")


# The operators


def _operator(case, module):
    """The operator of a module, its operands after x, and its settings."""
    if case.is_learned:
        grid, settings = module.grid, (module.group_of, case.order)
        places = grid.grid_origin, grid.grid_step
        with_weight = case.kind == "grouped"
        name = "grouped_linear" if with_weight else "learned_functions"
        factors = (module.weight, module.bias) if with_weight else (None, None)
        return name, (module.coefficients, *factors, *places), settings
    bias = module.weight.new_zeros(module.out_features) if module.bias is None else module.bias
    operands = (module.weight, bias, module.grid_origin, module.grid_step)
    if case.kind == "bspline":
        return "bspline_linear", operands, (case.base, case.order, case.mode)
    return "dense_linear", operands, (True, case.kind, case.mode)


OPERATORS = [case for case in [*FORMS, FOURIER] if not case.is_gated]


@pytest.mark.parametrize(
    ("case", "bias"),
    [
        *((replace(case, dtype=dtype), True) for case in OPERATORS for dtype in (SINGLE, DOUBLE)),
        (Case("grouped"), False),  # whose operator may have none
    ],
    ids=str,
)
def test_the_operators_are_what_torch_takes_them_for(case, bias):
    module = case.build(3, 10, bias=bias)
    name, operands, settings = _operator(case, module)
    forward = getattr(torch.ops.kan_diffusion, name).default
    backward = getattr(torch.ops.kan_diffusion, f"{name}_backward").default
    for rows in (0, 9):
        x = case.points(module, rows).requires_grad_()
        output = forward(x, *operands, *settings)
        direction = direction_of(output)
        gradients = torch.autograd.grad(output, operands_of(module, x), direction)
        assert all(map(torch.equal, [output, *gradients], run(module, x)))
    torch.library.opcheck(forward, (x, *operands, *settings))
    kept = [operand if operand is None else operand.detach() for operand in (x, *operands)]
    torch.library.opcheck(backward, (direction, *kept, *settings))


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@over(OPERATORS)
def test_a_kernel_is_an_operator_of_the_traced_graph(case):
    module = case.build(3, 3)
    x = case.points(module, 6)
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    traced = torch.compile(module, fullgraph=True, backend=backend)(x)
    torch.compiler.reset()
    assert torch.equal(traced, module(x))
    name, *_ = _operator(case, module)
    targets = [str(node.target) for graph in graphs for node in graph.graph.nodes]
    assert sum(f"kan_diffusion.{name}" in target for target in targets) == 1
