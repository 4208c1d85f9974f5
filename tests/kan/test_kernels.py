"""The compiled CPU kernels against torch's own operations, and when they step aside.

Everything that holds for one kernel holds for all, so that the suite is one: it runs over cases, a
module with a kernel in one configuration each. The other path is the same module without kernels.
"""

from __future__ import annotations

import copy
import itertools
import math
import multiprocessing
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap
from torch.nn.functional import linear

from helpers import assert_as_exact, is_fused, scattered, seeded
from kan_diffusion.kan import KAN, RBF, GroupedKANLinear, KANLinear, LearnedFunctions, kernels
from kan_diffusion.kan.kernels import fused, runtime, simd, team
from kan_diffusion.kan.kernels.edges import edge_features

SINGLE, DOUBLE = torch.float32, torch.float64


@dataclass(frozen=True)
class Case:
    """A module with a kernel; each that differs in more than its mode costs seconds to compile."""

    kind: str  # a basis, "functions" of each input, or some that groups share: "shared", "grouped"
    mode: str = "linear"
    dtype: torch.dtype = DOUBLE
    order: int = 3
    base: bool = True

    def __str__(self) -> str:
        words = [self.kind, self.mode, str(self.dtype).removeprefix("torch.float"), str(self.order)]
        return "-".join(words + ["silu"] * self.base)

    @property
    def is_learned(self) -> bool:
        """Whether the module learns its functions, and casts its input."""
        return self.kind in ("functions", "shared", "grouped")

    @property
    def is_layer(self) -> bool:
        """Whether outputs are sums over inputs."""
        return self.kind not in ("functions", "shared")

    def build(
        self, inputs: int = 3, outputs: int = 5, size: int = 4, bias: bool = True, seed: int = 0
    ) -> nn.Module:
        """The module with normal parameters and a grid of its own for each input or group.

        Groups are uneven, and where functions are shared there are ``outputs`` of an input.
        """
        generator = seeded(seed)
        shared = {"grid_size": size, "order": self.order, "dtype": self.dtype}
        module: nn.Module
        if self.is_learned:
            known = size + self.order
            groups = [i if i < 3 else (i * i) % 3 for i in range(inputs)]
            own = {"extrapolation": self.mode, "start": [torch.zeros_like]}
            if self.kind == "functions":
                module = LearnedFunctions(inputs, **own, **shared)
            elif self.kind == "shared":
                own["start"] *= min(outputs, known)
                module = LearnedFunctions(inputs, min(outputs, known), groups, **own, **shared)
            else:
                own["start"] *= min(5, known)
                several = {"functions": min(5, known), "groups": groups}
                module = GroupedKANLinear(inputs, outputs, bias, **several, **own, **shared)
        else:
            activation = "silu" if self.base else None
            own = {"extrapolation": self.mode, "base_activation": activation}
            module = KANLinear(inputs, outputs, bias, basis=self.kind, **own, **shared)
        for parameter in module.parameters():
            parameter.detach().normal_(generator=generator)
        module.grid.grid_origin.uniform_(-2, 1, generator=generator)
        module.grid.grid_step.uniform_(0.1, 1, generator=generator)
        return module

    def points(self, module: nn.Module, rows: int, seed: int = 1, reach: int = 7) -> Tensor:
        """Points inside and up to ``reach`` intervals beyond each grid, none near a knot."""
        size = module.grid_size
        shape = rows, module.in_features
        cells = torch.randint(-reach, size + reach, shape, generator=seeded(seed))
        u = cells + 0.02 + 0.96 * torch.rand(shape, generator=seeded(seed + 1), dtype=DOUBLE)
        return self.places(module, u)

    def places(self, module: nn.Module, u: Tensor) -> Tensor:
        """The inputs at places u of the grids."""
        grid_of = list(module.group_of) if self.is_learned else list(range(module.in_features))
        grid = module.grid
        return (grid.grid_origin[grid_of] + grid.grid_step[grid_of] * u).to(self.dtype)


ORDERS = range(1, 6)
SPLINES = [
    replace(case, mode=mode)
    for case in (
        *(Case("bspline", order=order) for order in ORDERS),
        Case("bspline", dtype=SINGLE),
        Case("bspline", base=False),
    )
    for mode in ("linear", "clamp", "zero")
]
DENSE = [
    Case(kind, mode, dtype)
    for kind, modes in {
        "rbf": ("linear", "clamp", "zero"),
        "chebyshev": ("linear", "clamp"),
        "fourier": ("linear", "clamp", "periodic"),
    }.items()
    for mode in modes
    for dtype in (SINGLE, DOUBLE)
]
FUNCTIONS = [
    *(Case("functions", order=order, base=False) for order in ORDERS),
    Case("functions", dtype=SINGLE, base=False),
]
SHARED = [
    *(Case("shared", order=order, base=False) for order in (1, 3, 4)),
    Case("shared", dtype=SINGLE, base=False),
    *(Case("grouped", dtype=dtype, base=False) for dtype in (SINGLE, DOUBLE)),
]
ALL = [*SPLINES, *DENSE, *FUNCTIONS, *SHARED]
CUBIC = Case("bspline")
KERNELS = [
    CUBIC,
    *(Case(kind) for kind in ("rbf", "chebyshev", "fourier")),
    *(Case(kind, base=False) for kind in ("functions", "shared", "grouped")),
]


def cases(chosen: Sequence[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", chosen, ids=str)


each_case = cases(ALL)
each_double = cases([case for case in ALL if case.dtype == DOUBLE])
each_kernel = cases(KERNELS)
by_torch = forward_ad.dual_level
"""Where kernels step aside, and nothing else changes."""
# What torch says when it first differentiates forwards.
forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


def _operands(module: nn.Module, x: Tensor) -> list[Tensor]:
    return [x, *module.parameters()]


def _direction(output: Tensor, seed: int = 2) -> Tensor:
    direction = torch.randn(output.shape, generator=seeded(seed), dtype=DOUBLE)
    return direction.to(output.dtype)


def _run(module: nn.Module, x: Tensor, direction: Tensor | None = None) -> list[Tensor]:
    """Output and gradients of the kernel."""
    x = x.detach().requires_grad_()
    output = module(x)
    assert is_fused(output)
    direction = _direction(output) if direction is None else direction
    return [output.detach(), *torch.autograd.grad(output, _operands(module, x), direction)]


def _run_by_torch(module: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    with by_torch():
        output = module(x)
    assert not is_fused(output)
    return [
        output.detach(),
        *torch.autograd.grad(output, _operands(module, x), _direction(output)),
    ]


def _compare(module: nn.Module, x: Tensor) -> None:
    """Values and gradients are torch's in double precision, as exactly as torch's are or nearly."""
    ours, theirs = _run(module, x), _run_by_torch(module, x)
    exact = theirs
    if x.dtype == SINGLE:
        exact = _run_by_torch(copy.deepcopy(module).double(), x.double())
    tolerance = 50 * (8 + module.grid_size) * torch.finfo(x.dtype).eps
    assert all(one.is_contiguous() for one in ours)
    assert_as_exact(ours, theirs, exact, tolerance)


# What the kernels compute


@each_case
@settings(max_examples=12)
@given(
    inputs=st.sampled_from([1, 2, 3, 5, 9, 33, 40]),
    outputs=st.sampled_from([1, 2, 7, 8, 11, 16, 31, 32, 33, 45, 70]),
    size=st.sampled_from([1, 2, 3, 5, 8, 40]),
    rows=st.sampled_from([0, 1, 7, 16, 63, 300]),
    bias=st.booleans(),
    seed=st.integers(0, 999),
)
def test_a_kernel_computes_what_torch_does(
    case: Case, inputs: int, outputs: int, size: int, rows: int, bias: bool, seed: int
) -> None:
    if case.kind == "fourier":
        size = min(size, 8) if case.dtype == SINGLE else size
    module = case.build(inputs, outputs, size, bias, seed)
    _compare(module, case.points(module, rows, seed))


@cases([Case(kind, base=False) for kind in ("rbf", "fourier", "functions", "grouped")])
def test_without_a_base_activation_and_with_more_units_than_a_tile(case: Case) -> None:
    # So large a weight is multiplied by torch, and not by the kernel.
    module = case.build(1100 if case.is_learned else 9, 11)
    _compare(module, case.points(module, 40))


@each_case
def test_knots_ends_and_zeros_are_where_they_are(case: Case) -> None:
    module = case.build(20, 7, size=8)
    # Steps and origins whose multiples are exact: an end is where both say it is.
    origin, step = module.grid.grid_origin, module.grid.grid_step
    origin.copy_(torch.arange(len(origin)) / 4 - 3)
    step.fill_(0.25)
    knots = torch.arange(-8.0, 8 + 9).unsqueeze(1).expand(-1, 20)
    if case.kind == "bspline" and case.mode == "clamp":  # the slope is of either side at the ends
        knots = knots[(knots[:, 0] != 0) & (knots[:, 0] != 8)]
    x = torch.cat([case.places(module, knots), torch.zeros(2, 20), torch.full((1, 20), -0.0)])
    _compare(module, x.to(case.dtype))


@cases([case for case in ALL if case.dtype == SINGLE])
def test_huge_inputs_extrapolate(case: Case) -> None:
    module = case.build(4, 9, bias=False)
    far = [1e6, -1e6, 88.0, -88.0, -104.0, 1e-45, -0.0]
    if case.mode in ("clamp", "zero"):
        far += [1e30, -1e30]
    elif case.kind != "fourier":
        far += [1e20, -1e20]
    if case.mode == "periodic":  # a place so far away is rounded to whole parts of a period
        module.grid_origin.zero_()
        module.grid_step.fill_(0.25)
    x = torch.tensor(far).unsqueeze(1).expand(-1, 4).contiguous()
    ours, theirs = _run(module, x), _run_by_torch(module, x)
    for place, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert torch.equal(one.isfinite(), other.isfinite())
        by_row = place < 2  # output and gradient of x
        scale = other.abs().amax(1, keepdim=True) if by_row else other.abs().max()
        scale = scale.clamp(min=1)
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=2e-5, equal_nan=True)


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
def test_silu_of_the_most_negative_numbers_is_zero(dtype: torch.dtype) -> None:
    layer = Case("bspline", "zero", dtype).build(1, 2, bias=False)
    lowest = torch.finfo(dtype).min
    x = torch.tensor([[lowest], [lowest / 16]], dtype=dtype)
    torch.testing.assert_close(layer(x), torch.zeros(2, 2, dtype=dtype))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("periods", [0, 1, 1000, 10**6])
def test_harmonics_far_outside_are_those_of_whole_periods_nearer(sign: int, periods: int) -> None:
    layer = Case("fourier", "periodic", SINGLE, base=False).build(size=8)
    layer.grid_origin.zero_()
    layer.grid_step.fill_(1 / 8)  # a period is 1
    near = torch.randint(0, 16, (64, 3), generator=seeded(0)) / 16
    expected = _run_by_torch(layer.double(), near.double())
    for one, other in zip(_run(layer.float(), near + sign * periods), expected, strict=True):
        scale = float(other.abs().max())
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-6 * scale)


@cases([case for case in DENSE if case.dtype == SINGLE])
@given(size=st.integers(1, 8), seed=st.integers(0, 999))
def test_float32_functions_are_those_of_float64(case: Case, size: int, seed: int) -> None:
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


# Numbers that are not finite


def _reached(case: Case, module: nn.Module, here: Tensor) -> list[Tensor]:
    """Outputs, inputs and numbers of each parameter whose values or gradients the marks reach."""
    columns = here.any(0)
    marked = {"bias": torch.zeros(module.out_features if case.is_layer else 0, dtype=torch.bool)}
    outputs = here.any(1, keepdim=True).expand(-1, len(marked["bias"]))
    if case.is_learned:
        groups = torch.zeros(module.groups, dtype=torch.bool)
        groups[[module.group_of[i] for i in columns.nonzero().flatten().tolist()]] = True
        marked["coefficients"] = groups.unsqueeze(1).expand_as(module.coefficients)
    if case.is_layer:
        edges = module.weight.view(module.out_features, module.in_features, -1)
        marked["weight"] = columns.view(1, -1, 1).expand_as(edges).flatten(1)
    else:
        outputs = here.repeat_interleave(module.functions, dim=1)
    return [outputs, here, *(marked[name] for name, _ in module.named_parameters())]


@each_case
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_where_it_is(case: Case, value: float) -> None:
    module = case.build(35, 11)
    x = case.points(module, 40)
    clean = _run(module, x)
    for row, column in ((0, 0), (17, 33), (39, 34)):
        poisoned = x.clone()
        poisoned[row, column] = value
        here = torch.zeros_like(x, dtype=torch.bool)
        here[row, column] = True
        found = _run(module, poisoned)
        reached = _reached(case, module, here)
        # What does not depend on it is what it was, to the bit.
        for one, other, marks in zip(found, clean, reached, strict=True):
            assert torch.equal(one[~marks], other[~marks])
        output, gradient, first, *_ = found
        outputs = reached[0]
        theirs = _run_by_torch(module, poisoned)
        if math.isnan(value):
            assert output[outputs].isnan().all()
            # The slope of order 1 does not depend on the place.
            assert gradient[here].isnan() == (not case.is_learned or case.order > 1)
            assert first.isnan().any()
        elif not case.base or case.kind == "bspline":
            finite = theirs[0][outputs].isfinite()
            assert torch.equal(output[outputs].isfinite(), finite)
            torch.testing.assert_close(
                output[outputs][finite], theirs[0][outputs][finite], rtol=1e-4, atol=1e-4
            )


@each_kernel
def test_a_nan_in_the_gradient_stays_in_its_row_and_output(case: Case) -> None:
    module = case.build(20, 20)
    x = case.points(module, 40).requires_grad_()
    output = module(x)
    direction = torch.ones_like(output)
    direction[8, 3] = math.nan
    names = [name for name, _ in module.named_parameters()]
    gradient, *found = torch.autograd.grad(output, _operands(module, x), direction)
    assert torch.equal(gradient.isnan().any(1), torch.arange(40) == 8)
    parameters = dict(zip(names, found, strict=True))
    if case.is_layer:
        expected = torch.arange(20) == 3
        assert torch.equal(parameters["weight"].isnan().any(1), expected)
        assert torch.equal(parameters["bias"].isnan(), expected)
    else:
        reached = torch.zeros(module.functions, module.groups, dtype=torch.bool)
        reached[3 % module.functions, module.group_of[3 // module.functions]] = True
        assert torch.equal(parameters["coefficients"].isnan().any(2), reached)


# Memory, gradients, threads


def _floats(holder: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The buffers of a module itself that hold places."""
    for name, buffer in holder.named_buffers(recurse=False):
        if buffer.is_floating_point():
            yield name, buffer


@each_kernel
def test_operands_need_not_be_contiguous_and_are_not_written(case: Case) -> None:
    module = case.build(9, 9)
    x = case.points(module, 30)
    direction = _direction(module(x), seed=3)
    expected = _run(module, x, direction)

    def check(x: Tensor, direction: Tensor) -> None:
        tensors = [x, direction, *module.parameters(), *module.buffers()]
        before = [tensor.detach().clone() for tensor in tensors]
        for one, other in zip(_run(module, x, direction), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        assert all(map(torch.equal, tensors, before))

    check(x.T.contiguous().T, direction)
    check(scattered(x), direction.T.contiguous().T)
    check(x, scattered(direction))
    for holder in module.modules():
        for name, buffer in list(_floats(holder)):
            setattr(holder, name, scattered(buffer))
        for name, parameter in list(holder.named_parameters(recurse=False)):
            setattr(holder, name, nn.Parameter(scattered(parameter.detach())))
            assert not getattr(holder, name).is_contiguous()
    check(x, direction)
    # A gradient that is one number everywhere, as sum() makes it.
    leaf = x[:1].expand(30, 9).requires_grad_()
    (ones,) = torch.autograd.grad(module(leaf).sum(), leaf)
    explicit = torch.ones_like(direction)
    torch.testing.assert_close(ones, torch.autograd.grad(module(leaf), leaf, explicit)[0])


@each_kernel
def test_gradients_are_given_where_they_are_wanted(case: Case) -> None:
    module = case.build()
    x = case.points(module, 10)
    operands = _operands(module, x)
    for needed in itertools.product([True, False], repeat=len(operands)):
        for tensor, need in zip(operands, needed, strict=True):
            tensor.requires_grad_(need)
        output = module(x)
        with by_torch():
            expected = module(x)
        assert output.requires_grad == any(needed)
        wanted = list(itertools.compress(operands, needed))
        for create_graph in (False, True) if wanted else ():
            ours = torch.autograd.grad(
                output.square().sum(), wanted, retain_graph=True, create_graph=create_graph
            )
            theirs = torch.autograd.grad(expected.square().sum(), wanted, retain_graph=True)
            torch.testing.assert_close(ours, theirs)


@each_double
@pytest.mark.parametrize("path", ["kernel", "torch"])
def test_first_and_second_derivatives(case: Case, path: str) -> None:
    module = case.build(2, 2, 3)
    names = [name for name, _ in module.named_parameters()]
    x = case.places(module, torch.tensor([[0.3, 2.6], [-1.4, 3.7]], dtype=DOUBLE))

    # The module only has these parameters while it is called.
    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(module, dict(zip(names, parameters, strict=True)), x)

    leaves = [t.detach().clone().requires_grad_() for t in _operands(module, x)]
    for parameter in module.parameters():
        parameter.detach().fill_(7)
    with by_torch() if path == "torch" else nullcontext():
        assert is_fused(function(*leaves)) == (path == "kernel")
        assert torch.autograd.gradcheck(function, leaves)
        assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("mode", ["linear", "clamp", "zero"])
def test_the_third_derivative_is_that_of_the_cubic(mode: str) -> None:
    layer = Case("bspline", mode).build(outputs=1)
    edges = layer.weight.detach().view(3, -1)
    edges[:, 0] = 0  # no SiLU
    cells = torch.tensor([[0.3, 1.6, 3.5]], dtype=DOUBLE)
    x = (layer.grid_origin + layer.grid_step * cells).requires_grad_()
    (slope,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    (third,) = torch.autograd.grad(curvature.sum(), x)
    # B_c, ..., B_{c+3} have third derivatives -1, 3, -3, 1 in units of the grid.
    signs = torch.tensor([-1, 3, -3, 1], dtype=DOUBLE)
    for i, cell in enumerate((0, 1, 3)):
        expected = (edges[i, 1 + cell : 5 + cell] * signs).sum() / layer.grid_step[i] ** 3
        assert float(third[0, i]) == pytest.approx(float(expected), rel=1e-9)


@pytest.fixture
def set_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the number of threads, which are used however little there is to do."""
    monkeypatch.setattr(runtime, "PARALLEL_WORK", 1)
    return lambda count: monkeypatch.setattr(torch, "get_num_threads", lambda: count)


@cases([*KERNELS, Case("bspline", "zero", SINGLE)])
@pytest.mark.parametrize("threads", [2, 3, 8])
@pytest.mark.parametrize("rows", [0, 1, 2, 5, 17, 301])
def test_several_threads_do_what_one_does(
    case: Case, threads: int, rows: int, set_threads: Callable[[int], None]
) -> None:
    module = case.build(9, 11)
    x = case.points(module, rows)
    set_threads(threads)
    several, again = _run(module, x), _run(module, x)
    set_threads(1)
    alone = _run(module, x)
    assert all(map(torch.equal, several, again))
    # Only sums over the batch may be rounded otherwise; a GEMM sums as it likes.
    exact = 2 if case.kind in ("bspline", "functions", "shared") else 0
    assert all(map(torch.equal, several[:exact], alone[:exact]))
    tolerance = 1e-5 if case.dtype == SINGLE else 1e-13
    for one, other in zip(several[exact:], alone[exact:], strict=True):
        scale = float(other.abs().max()) + 1 if other.numel() else 1.0
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * scale)


@each_kernel
def test_callers_on_several_threads_do_not_disturb_each_other(
    case: Case, set_threads: Callable[[int], None]
) -> None:
    set_threads(2)
    module = case.build(9, 11)
    batches = [case.points(module, 50, seed) for seed in range(12)]

    def gradients(x: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(module(x).square().sum(), list(module.parameters()))

    expected = [gradients(x) for x in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(gradients, batches))
    assert all(all(map(torch.equal, *pair)) for pair in zip(found, expected, strict=True))


def _total(layer: nn.Module, x: Tensor, results: multiprocessing.Queue[float]) -> None:
    with torch.no_grad():
        results.put(float(layer(x).sum()))


@cases([*SPLINES, *DENSE])
def test_inputs_without_a_gradient_change_no_other(case: Case) -> None:
    module = case.build(9, 11)
    x = case.points(module, 40)
    output = module(x)
    assert is_fused(output)
    found = torch.autograd.grad(output, list(module.parameters()), _direction(output))
    assert all(map(torch.equal, found, _run(module, x)[2:]))


@each_kernel
def test_without_openmp_the_parts_of_a_batch_follow_each_other(
    case: Case, set_threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_threads(3)
    module = case.build(9, 11)
    x = case.points(module, 50)
    together = _run(module, x)
    monkeypatch.setattr(team, "_parallel", lambda: None)
    assert all(map(torch.equal, _run(module, x), together))


@numba.njit(nogil=True)
def _note(marks_at: int, number: int, factor: float) -> None:
    marks = simd.array_at(marks_at, 100, np.float64(0))
    if number < 0:
        raise ValueError("a negative number")
    marks[number] += factor * number


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("calls", [1, 3, 100])
def test_a_team_makes_each_call_once(
    threads: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    marks = torch.zeros(100, dtype=DOUBLE)
    team.run_together(_note, [(marks.data_ptr(), number, 0.5) for number in range(calls)])
    assert torch.equal(marks[:calls], 0.5 * torch.arange(calls, dtype=DOUBLE))
    assert float(marks[calls:].abs().sum()) == 0


def test_the_reason_why_a_call_failed_is_raised() -> None:
    marks = torch.zeros(100, dtype=DOUBLE)
    with pytest.raises(ValueError, match="a negative number"):
        team.run_together(_note, [(marks.data_ptr(), number, 0.5) for number in (1, -1, 2)])


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_waits_for_no_threads_of_its_parent(
    set_threads: Callable[[int], None],
) -> None:
    set_threads(2)
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


def test_the_cache_has_a_file_for_each_kernel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # In one file, numba gives two kernels one place if two processes compile them at once.
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    def storing(value: float) -> Callable[..., None]:
        def store(at):  # type: ignore[no-untyped-def]
            simd.array_at(at, 1, value)[0] = value

        return runtime.compiled(store)

    found = torch.zeros(3, dtype=DOUBLE)
    for one, value in zip(found, (1.0, 2.0, 1.0), strict=True):
        storing(value)(one.data_ptr())
    assert found.tolist() == [1, 2, 1]
    assert len(list(tmp_path.rglob("*.nbi"))) == len(list(tmp_path.rglob("*.nbc"))) == 2
    # Nor do machines that share a folder share a file, if their processors differ.
    monkeypatch.setattr(numba.config, "CPU_NAME", "generic")
    storing(1.0)(found.data_ptr())
    assert len(list(tmp_path.rglob("*.nbi"))) == len(list(tmp_path.rglob("*.nbc"))) == 3


# Stepping aside


@each_kernel
@pytest.mark.parametrize("reason", ["not imported", "not compiling"])
def test_where_numba_does_not_work_the_module_is_torchs(
    case: Case, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = case.build()
    x = case.points(module, 10)
    compiled = module(x)
    assert is_fused(compiled)
    fused._kernel.cache_clear()
    if reason == "not compiling":
        monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    else:
        monkeypatch.delattr(kernels, "gated")
        monkeypatch.setitem(sys.modules, "kan_diffusion.kan.kernels.gated", None)
    try:
        alone = module(x)
        assert not is_fused(alone)
        torch.testing.assert_close(alone, compiled)
        assert "without their compiled kernel" in caplog.text
        if reason == "not compiling":
            traced = torch.compile(module, backend="eager", fullgraph=True)(x)
            torch.testing.assert_close(traced, compiled)
    finally:
        monkeypatch.undo()
        fused._kernel.cache_clear()
    assert is_fused(module(x))


def test_negated_numbers_that_memory_holds_with_the_other_sign_are_torchs() -> None:
    case = Case("bspline")
    module = case.build()
    x = case.points(module, 10)
    negated = torch._neg_view(x)  # as z.conj().imag is
    assert not is_fused(module(negated))
    torch.testing.assert_close(module(negated), module(-x))


def test_without_numba_everything_works_and_nothing_imports_it() -> None:
    program = """
        import sys
        sys.modules["numba"] = sys.modules["llvmlite"] = None
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
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_a_basis_of_ones_own_is_left_to_torch() -> None:
    class Wider(RBF):
        def values(self, u: Tensor) -> Tensor:
            return super().values(u / 2)

        def slopes(self, u: Tensor) -> Tensor:
            return super().slopes(u / 2) / 2

    layer = KANLinear(2, 3, basis=Wider(2, 4))
    x = torch.randn(5, 2, generator=seeded(0))
    assert not is_fused(layer(x))
    features = edge_features(x, layer.basis, True).flatten(1)
    torch.testing.assert_close(layer(x), linear(features, layer.weight, layer.bias))


@each_kernel
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_modules_work_in_their_precision(case: Case, dtype: torch.dtype) -> None:
    module = case.build()
    module.grid.grid_origin.fill_(-1)  # half precision tells the grid exactly
    module.grid.grid_step.fill_(0.5)
    for parameter in module.parameters():
        parameter.detach().div_(4)
    half = copy.deepcopy(module).to(dtype)
    x = torch.randn(40, 3, generator=seeded(1)).to(dtype)
    leaf = x.clone().requires_grad_()
    output = half(leaf)
    assert not is_fused(output)
    assert output.dtype == dtype
    output.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    expected = half.double()(x.double())
    scale = float(expected.detach().abs().max()) + 1
    tolerance = 20 * torch.finfo(dtype).eps * scale
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("mode", ["linear", "clamp", "zero"])
def test_autocast_keeps_the_place_on_the_grid(mode: str) -> None:
    case = Case("bspline", mode, SINGLE)
    layer = case.build(outputs=4, size=64)
    x = case.points(layer, 200)
    full = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        features = edge_features(x, layer.basis, True)
        output = layer(x)
        narrow = edge_features(x.bfloat16(), layer.basis, True)
    assert not is_fused(output)
    assert output.dtype == torch.bfloat16
    assert torch.equal(features, edge_features(x, layer.basis, True))
    assert torch.equal(narrow, edge_features(x.bfloat16().float(), layer.basis, True))
    # Products of bfloat16 numbers: 2**-8 of the magnitudes that are added up.
    magnitude = linear(features.abs().flatten(1), layer.weight.abs(), layer.bias.abs())
    assert ((output.float() - full).abs() <= 2**-7 * magnitude).all()


def test_autocast_gives_gradients_in_the_dtypes_of_their_leaves() -> None:
    case = Case("bspline", dtype=SINGLE)
    layer = case.build()
    x = case.points(layer, 20).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).float().square().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    assert layer.weight.grad.dtype == SINGLE
    expected = torch.autograd.grad(layer(x.detach().float()).square().sum(), layer.weight)[0]
    error = (layer.weight.grad - expected).norm() / expected.norm()
    assert error < 0.02


@each_kernel
def test_operands_of_two_dtypes_are_not_mistaken_for_one(case: Case) -> None:
    module = case.build()
    x = case.points(module, 10, reach=0)
    output = module(x.float())
    assert not is_fused(output) or case.is_learned  # which casts its input
    assert output.dtype == DOUBLE
    torch.testing.assert_close(output, module(x.float().double()), rtol=0, atol=1e-3)


def test_a_bias_of_another_dtype_is_not_read_as_if_it_were_the_weights() -> None:
    case = Case("bspline", dtype=SINGLE)
    layer = case.build()
    x = case.points(layer, 10)
    expected = layer(x)
    layer.bias = nn.Parameter(layer.bias.detach().double())
    try:
        output = layer(x)
    except RuntimeError:
        return  # as nn.Linear does
    torch.testing.assert_close(output.float(), expected)


def _setup(case: Case) -> tuple[nn.Module, Tensor]:
    module = case.build(3, 3)
    return module, case.points(module, 6)


@each_kernel
def test_jacobians_of_single_rows(case: Case) -> None:
    module, x = _setup(case)
    torch.testing.assert_close(vmap(module)(x), module(x))
    batched = vmap(jacrev(module))(x)
    single = torch.stack([torch.autograd.functional.jacobian(module, row) for row in x])
    torch.testing.assert_close(batched, single)
    vectorized = torch.autograd.functional.jacobian(module, x, vectorize=True)
    for n, m in itertools.product(range(6), repeat=2):
        expected = single[n] if n == m else torch.zeros_like(single[n])
        torch.testing.assert_close(vectorized[n, :, m], expected)


@each_kernel
@forward_mode
def test_second_derivatives_through_transforms_do_not_mix_inputs(case: Case) -> None:
    module, x = _setup(case)
    hessians = vmap(hessian(lambda row: module(row).sum()))(x)
    leaf = x.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(module(leaf).sum(), leaf, create_graph=True)
    (curvatures,) = torch.autograd.grad(slopes.sum(), leaf)
    torch.testing.assert_close(hessians, torch.diag_embed(curvatures))


@each_kernel
def test_gradients_of_single_rows_and_of_ensembles(case: Case) -> None:
    module, x = _setup(case)
    parameters = {name: value.detach() for name, value in module.named_parameters()}

    def loss(parameters: dict[str, Tensor], row: Tensor) -> Tensor:
        return functional_call(module, parameters, row).square().sum()

    gradients = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for n, row in enumerate(x):
        expected = torch.autograd.grad(module(row).square().sum(), list(module.parameters()))
        for name, value in zip(parameters, expected, strict=True):
            torch.testing.assert_close(gradients[name][n], value)
    members = [copy.deepcopy(module) for _ in range(4)]
    for seed, member in enumerate(members):
        for parameter in member.parameters():
            parameter.detach().normal_(generator=seeded(seed))
    stacked, _ = torch.func.stack_module_state(members)
    outputs = vmap(lambda p: functional_call(module, p, x))(stacked)
    torch.testing.assert_close(outputs, torch.stack([member(x) for member in members]))


@each_kernel
def test_a_transform_of_the_backward_pass_alone(case: Case) -> None:
    module, x = _setup(case)
    x.requires_grad_()
    output = module(x)
    assert is_fused(output)
    directions = torch.randn(4, *output.shape, generator=seeded(0), dtype=DOUBLE)
    operands = _operands(module, x)
    expected = [torch.autograd.grad(output, operands, d, retain_graph=True) for d in directions]
    batched: Callable[[Tensor], tuple[Tensor, ...]] = vmap(
        lambda d: torch.autograd.grad(output, operands, d, retain_graph=True)
    )
    for found in (
        batched(directions),
        torch.autograd.grad(output, operands, directions, is_grads_batched=True),
    ):
        for one, gradients in zip(found, zip(*expected, strict=True), strict=True):
            torch.testing.assert_close(one, torch.stack(gradients))


@each_kernel
@forward_mode
def test_forward_mode_and_transforms_of_something_else(case: Case) -> None:
    module, x = _setup(case)
    tangent = torch.randn(x.shape, generator=seeded(0), dtype=x.dtype)
    expected = torch.einsum("noi,ni->no", vmap(jacrev(module))(x), tangent)
    torch.testing.assert_close(jvp(module, (x,), (tangent,))[1], expected)
    with forward_ad.dual_level():
        output = forward_ad.unpack_dual(module(forward_ad.make_dual(x, tangent)))
        torch.testing.assert_close(output.tangent, expected)
    weights = torch.ones_like(module(x))
    gradient = grad(lambda weights: (module(x) * weights).sum())(weights)
    torch.testing.assert_close(gradient, module(x))


@each_kernel
def test_a_grid_that_wants_a_gradient_gets_one(case: Case) -> None:
    layer = (case if case.is_learned else replace(case, mode="clamp")).build(1)
    x = case.points(layer, 6, reach=0)

    def total(step: Tensor) -> Tensor:
        return functional_call(layer, {"basis.grid_step": step}, x).sum()

    assert torch.autograd.gradcheck(total, layer.grid.grid_step.clone().requires_grad_())


@each_kernel
def test_a_graph_is_kept_where_it_is_wanted(case: Case) -> None:
    module, x = _setup(case)
    output = module(x)
    parameter = next(module.parameters())
    once = torch.autograd.grad(output.sum(), parameter, retain_graph=True)
    assert torch.equal(once[0], torch.autograd.grad(output.sum(), parameter)[0])
    with torch.no_grad():
        assert not module(x).requires_grad
    with torch.inference_mode():
        assert torch.equal(module(x), output.detach())


@each_kernel
def test_operands_changed_before_the_backward_pass_are_refused(case: Case) -> None:
    module, x = _setup(case)
    x.requires_grad_()
    for operand in [*module.basis.buffers(), *module.parameters()]:
        output = module(x)
        operand.detach().add_(0.3)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(output.sum(), x)


@each_kernel
def test_a_basis_with_hooks_is_called(case: Case) -> None:
    module, x = _setup(case)
    expected = module(x)
    seen: list[int] = []
    module.basis.register_forward_hook(lambda *call: seen.append(call[2].shape[-1]))
    torch.testing.assert_close(module(x), expected)
    assert seen == [module.basis.num_functions]


def test_devices_without_a_kernel_are_left_to_torch() -> None:
    network = KAN([3, 4, 2], device="meta")
    output = network(torch.empty(7, 3, device="meta"))
    assert output.device.type == "meta"
    assert output.shape == (7, 2)


# The operators


def _operator(case: Case, module: nn.Module) -> tuple[str, tuple[object, ...], tuple[object, ...]]:
    """The operator of a module, its operands after x, and its settings."""
    if case.is_learned:
        grid, settings = module.grid, (module.group_of, case.order)
        places = grid.grid_origin, grid.grid_step
        name = "grouped_linear" if case.is_layer else "learned_functions"
        factors = (module.weight, module.bias) if case.is_layer else (None, None)
        return name, (module.coefficients, *factors, *places), settings
    bias = module.weight.new_zeros(module.out_features) if module.bias is None else module.bias
    operands = (module.weight, bias, module.grid_origin, module.grid_step)
    if case.kind == "bspline":
        return "bspline_linear", operands, (case.base, case.order, case.mode)
    return "dense_linear", operands, (True, case.kind, case.mode)


EACH_DTYPE = [replace(case, dtype=dtype) for case in KERNELS for dtype in (SINGLE, DOUBLE)]


@pytest.mark.parametrize(
    ("case", "bias"),
    [*((case, True) for case in EACH_DTYPE), (KERNELS[-1], False)],  # whose operator may have none
    ids=str,
)
def test_the_operators_are_what_torch_takes_them_for(case: Case, bias: bool) -> None:
    module = case.build(3, 10, bias=bias)
    name, operands, settings = _operator(case, module)
    forward = getattr(torch.ops.kan_diffusion, name).default
    backward = getattr(torch.ops.kan_diffusion, f"{name}_backward").default
    for rows in (0, 9):
        x = case.points(module, rows).requires_grad_()
        output = forward(x, *operands, *settings)
        direction = _direction(output)
        gradients = torch.autograd.grad(output, _operands(module, x), direction)
        assert all(map(torch.equal, [output, *gradients], _run(module, x)))
    torch.library.opcheck(forward, (x, *operands, *settings))
    kept = [operand if operand is None else operand.detach() for operand in (x, *operands)]
    torch.library.opcheck(backward, (direction, *kept, *settings))


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@each_kernel
def test_a_kernel_is_an_operator_of_the_traced_graph(case: Case) -> None:
    module, x = _setup(case)
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    traced = torch.compile(module, fullgraph=True, backend=backend)(x)
    torch.compiler.reset()
    assert torch.equal(traced, module(x))
    name, *_ = _operator(case, module)
    targets = [str(node.target) for graph in graphs for node in graph.graph.nodes]
    assert sum(f"kan_diffusion.{name}" in target for target in targets) == 1
