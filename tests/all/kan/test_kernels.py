"""Other orders and modes of the kernels, large units, forked processes and operators."""

import multiprocessing
import sys
from dataclasses import replace

import pytest
import torch

from kan_cases import DOUBLE, FORMS, SINGLE, Case, direction_of, operands_of, over, run
from kernel_suite import Derivatives, Numbers, Places, compare, threads_of

CUBIC = FORMS[0]
SPLINES = [Case("bspline", mode, order=k) for mode in ("linear", "zero") for k in range(1, 6)]
SPLINES.remove(CUBIC)
OTHERS = [
    *SPLINES,
    *(Case("functions", order=order) for order in (1, 2, 4, 5)),
    *(Case("shared", order=order) for order in (1, 4)),
    *(Case("gated", order=order) for order in (1, 5)),
]


@over([*OTHERS, *(replace(case, dtype=SINGLE) for case in SPLINES if case.order == 3)])
class TestNumbers(Numbers):
    pass


@over(OTHERS)
class TestDerivatives(Derivatives):
    pass


@over([case for case in OTHERS if not case.is_gated])
class TestPlaces(Places):
    pass


@over(
    [Case("functions"), Case("grouped")]
    + [replace(case, dtype=SINGLE) for case in FORMS if case.is_gated]
)
def test_more_units_than_a_tile_of_rows(case):
    # So large a weight is multiplied by torch, and not by the kernel.
    module = case.build(1100, 11)
    compare(module, case.points(module, 5))


# Processes


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


# The operators


# Both are of what torch's own check does.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@over([replace(case, dtype=d) for case in FORMS[:4] for d in (SINGLE, DOUBLE)])
def test_the_operators_are_what_torch_takes_them_for(case):
    module = case.build(3, 10)
    own, grid = [getattr(module, name, None) for name in ("weight", "bias")], module.basis.grid
    name, operands = "spline", [*own, *grid]
    settings = case.order, True
    if case.is_learned:
        name, operands = "units", [None, None, None, module.coefficients, *own, *grid]
        settings = case.order, False
    forward = getattr(torch.ops.kan_diffusion, name).default
    backward = getattr(torch.ops.kan_diffusion, f"{name}_backward").default
    for rows in (0, 9):
        x = case.points(module, rows).requires_grad_()
        found = forward(x, *operands, *settings)
        output = found[0] if case.is_learned else found  # units have a state, which none asks for
        direction = direction_of(output)
        gradients = torch.autograd.grad(output, operands_of(module, x), direction)
        assert all(map(torch.equal, [output, *gradients], run(module, x)))
    torch.library.opcheck(forward, (x, *operands, *settings))
    kept = [operand if operand is None else operand.detach() for operand in (x, *operands)]
    directions = (direction, direction.new_empty(0)) if case.is_learned else (direction,)
    torch.library.opcheck(backward, (*directions, *kept, *settings))

    def backend(graph, _):
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    targets = []
    torch.compiler.reset()
    traced = torch.compile(module, fullgraph=True, backend=backend)(x)
    torch.compiler.reset()
    assert torch.equal(traced, module(x))
    assert sum(f"kan_diffusion.{name}" in target for target in targets) == 1
