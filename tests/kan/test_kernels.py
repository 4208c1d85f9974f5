"""The compiled CPU kernel against the layer in torch's own operations, and when it steps aside."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap
from torch.nn.functional import linear

from helpers import seeded
from kan_diffusion.kan import KAN, KANLinear, kernels
from kan_diffusion.kan.kernels import cpu, dispatch, edge_features

MODES = ("linear", "clamp", "zero")


class Kernel(NamedTuple):
    """One of the functions that numba compiles; each costs seconds, so they are few."""

    order: int
    base_activation: str | None
    dtype: torch.dtype


KERNELS = (
    *(Kernel(order, "silu", torch.float64) for order in range(1, 6)),
    Kernel(3, "silu", torch.float32),
    Kernel(2, None, torch.float64),
)
CUBIC = Kernel(3, "silu", torch.float64)
SINGLE = Kernel(3, "silu", torch.float32)
each_kernel = pytest.mark.parametrize(
    "kernel", KERNELS, ids=[f"{k.order}-{k.base_activation}-{k.dtype}" for k in KERNELS]
)
each_mode = pytest.mark.parametrize("mode", MODES)


def _layer(
    kernel: Kernel = CUBIC,
    mode: str = "linear",
    *,
    inputs: int = 3,
    outputs: int = 5,
    intervals: int = 4,
    bias: bool = True,
    edge_scale: bool = False,
    seed: int = 0,
) -> KANLinear:
    """A layer with normal parameters and a grid of its own for each input."""
    layer = KANLinear(
        inputs,
        outputs,
        bias,
        grid_size=intervals,
        order=kernel.order,
        extrapolation=mode,
        base_activation=kernel.base_activation,
        edge_scale=edge_scale,
        dtype=kernel.dtype,
    )
    generator = seeded(seed)
    for parameter in layer.parameters():
        parameter.detach().normal_(generator=generator)
    layer.grid_origin.uniform_(-2, 1, generator=generator)
    layer.grid_step.uniform_(0.1, 1, generator=generator)
    return layer


def _points(layer: KANLinear, rows: int, seed: int = 1, reach: int = 7) -> Tensor:
    """Points inside and up to ``reach`` intervals beyond each grid, none near a knot."""
    shape = (rows, layer.in_features)
    cells = torch.randint(-reach, layer.grid_size + reach, shape, generator=seeded(seed))
    place = 0.02 + 0.96 * torch.rand(shape, generator=seeded(seed + 1), dtype=torch.float64)
    x = layer.grid_origin + layer.grid_step * (cells + place)
    return x.to(layer.weight.dtype)


def _reference(layer: KANLinear, x: Tensor) -> Tensor:
    """The layer as its docstring has it, by torch."""
    features = edge_features(x, layer.basis, layer.base_activation is not None)
    return linear(features.flatten(1), layer.weight, layer.bias)


def _is_fused(output: Tensor) -> bool:
    return "FusedLinear" in type(output.grad_fn).__name__


def _operands(layer: KANLinear, x: Tensor) -> list[Tensor]:
    return [x, *layer.parameters()]


def _compare(
    layer: KANLinear, x: Tensor, seed: int = 2, function: Callable[[Tensor], Tensor] | None = None
) -> None:
    """Values and gradients of the kernel, or of ``function``, are those of the reference."""
    x = x.detach().requires_grad_()
    ours = (function or layer)(x)
    assert function is not None or _is_fused(ours)
    expected = _reference(layer, x)
    direction = torch.randn(ours.shape, generator=seeded(seed), dtype=ours.dtype)
    # The place on a grid of G intervals is rounded to G units of the last place.
    tolerance = 50 * (8 + layer.grid_size) * torch.finfo(x.dtype).eps
    pairs = [(ours, expected)]
    pairs += zip(
        torch.autograd.grad(ours, _operands(layer, x), direction),
        torch.autograd.grad(expected, _operands(layer, x), direction),
        strict=True,
    )
    for one, other in pairs:
        scale = max(1.0, float(other.detach().abs().max())) if other.numel() else 1.0
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * scale)


@each_kernel
@each_mode
@settings(max_examples=12)
@given(
    inputs=st.sampled_from([1, 2, 3, 5, 9, 33, 40]),
    outputs=st.sampled_from([1, 2, 7, 8, 11, 16, 31, 32, 33, 45, 70]),
    intervals=st.sampled_from([1, 2, 3, 5, 8, 64]),
    rows=st.sampled_from([0, 1, 7, 300]),
    bias=st.booleans(),
    seed=st.integers(0, 999),
)
def test_the_kernel_is_the_product_of_features_and_weight(
    kernel: Kernel,
    mode: str,
    inputs: int,
    outputs: int,
    intervals: int,
    rows: int,
    bias: bool,
    seed: int,
) -> None:
    layer = _layer(
        kernel, mode, inputs=inputs, outputs=outputs, intervals=intervals, bias=bias, seed=seed
    )
    _compare(layer, _points(layer, rows, seed))


@each_mode
@pytest.mark.parametrize("kernel", [CUBIC, SINGLE])
def test_knots_and_ends_are_where_they_are(kernel: Kernel, mode: str) -> None:
    layer = _layer(kernel, mode, inputs=33, outputs=7)
    knots = torch.arange(-8.0, 4 + 9).unsqueeze(1)
    x = (layer.grid_origin + layer.grid_step * knots).to(kernel.dtype)
    if mode == "clamp":  # the slope is of either side at the ends
        x = x[(knots[:, 0] != 0) & (knots[:, 0] != 4)]
    _compare(layer, x)


@each_mode
def test_huge_inputs_extrapolate(mode: str) -> None:
    layer = _layer(SINGLE, mode, inputs=4, outputs=9, bias=False)
    far = torch.tensor([1e10, -1e10, 1e30, -1e30, 88.0, -88.0, -104.0, 1e-45, -0.0])
    x = far.unsqueeze(1).expand(-1, 4).contiguous()
    output = layer(x)
    expected = _reference(layer, x)
    scale = expected.abs().amax(1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(output / scale, expected / scale, rtol=0, atol=2e-5)
    if mode == "linear":  # twice as far, twice as much
        torch.testing.assert_close(layer(2 * x[:4]), 2 * output[:4], rtol=1e-5, atol=0)


@pytest.mark.parametrize("kernel", [CUBIC, SINGLE])
def test_silu_of_the_most_negative_numbers_is_zero(kernel: Kernel) -> None:
    layer = _layer(kernel, "zero", inputs=1, outputs=2, bias=False)
    lowest = torch.finfo(kernel.dtype).min
    x = torch.tensor([[lowest], [lowest / 16]], dtype=kernel.dtype)
    torch.testing.assert_close(layer(x), torch.zeros(2, 2, dtype=kernel.dtype))


@each_kernel
@each_mode
def test_nan_stays_in_its_row_and_in_the_weights_of_its_input(kernel: Kernel, mode: str) -> None:
    layer = _layer(kernel, mode, inputs=35, outputs=11)
    x = _points(layer, 40)
    direction = torch.randn(40, 11, generator=seeded(3), dtype=kernel.dtype)

    def run(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = x.clone().requires_grad_()
        output = layer(x)
        assert _is_fused(output)
        return output.detach(), *torch.autograd.grad(output, _operands(layer, x), direction)

    for row, column in ((0, 0), (17, 33), (39, 34)):
        poisoned = x.clone()
        poisoned[row, column] = math.nan
        clean, hit = run(x), run(poisoned)
        output, gradient, weight, bias = hit
        here = torch.zeros_like(x, dtype=torch.bool)
        here[row, column] = True
        assert torch.equal(output.isnan(), here.any(1, keepdim=True).expand(-1, 11))
        assert torch.equal(gradient.isnan(), here)
        # What is not NaN is what it was, to the bit.
        others = ~here.any(1)
        assert torch.equal(output[others], clean[0][others])
        assert torch.equal(gradient[~here], clean[1][~here])
        elsewhere = torch.arange(35) != column
        edges, were = (w.view(11, 35, -1)[:, elsewhere] for w in (weight, clean[2]))
        assert torch.equal(edges, were)
        assert weight.isnan().any()
        assert torch.equal(bias, clean[3])


@each_mode
@pytest.mark.parametrize("value", [math.inf, -math.inf])
@pytest.mark.parametrize("kernel", [CUBIC, SINGLE, KERNELS[-1]])
def test_infinite_inputs_are_the_limit_or_not_finite(
    kernel: Kernel, mode: str, value: float
) -> None:
    layer = _layer(kernel, mode, inputs=3, outputs=9)
    x = _points(layer, 20)
    clean = layer(x)
    x[4, 1] = value
    x.requires_grad_()
    output = layer(x)
    assert torch.equal(output[:4], clean[:4])
    assert torch.equal(output[5:], clean[5:])
    if mode == "linear" or kernel.base_activation:
        assert not output[4].isfinite().any()
    else:
        limit = x.detach().clone()
        limit[4, 1] = math.copysign(1e30, value)
        torch.testing.assert_close(output[4], layer(limit)[4])
    (gradient,) = torch.autograd.grad(output[torch.arange(20) != 4].sum(), x)
    assert gradient[torch.arange(20) != 4].isfinite().all()


def test_a_nan_in_the_gradient_stays_in_its_row() -> None:
    layer = _layer(inputs=35, outputs=11)
    x = _points(layer, 40).requires_grad_()
    direction = torch.ones(40, 11, dtype=torch.float64)
    direction[8, 3] = math.nan
    gradient, weight, bias = torch.autograd.grad(layer(x), _operands(layer, x), direction)
    assert torch.equal(gradient.isnan().any(1), torch.arange(40) == 8)
    hit = torch.arange(11) == 3
    assert torch.equal(weight.isnan().any(1), hit)
    assert torch.equal(bias.isnan(), hit)


@each_mode
def test_nothing_is_written_but_the_results(mode: str) -> None:
    layer = _layer(SINGLE, mode, inputs=35, outputs=45)
    whole = torch.randn(64, 37, generator=seeded(4))
    x = whole[10:51, 1:36]
    wide = torch.randn(64, 47, generator=seeded(5))
    direction = wide[10:51, 1:46]
    before = [t.clone() for t in (whole, wide, layer.grid_origin, layer.grid_step, layer.weight)]
    output = layer(x.requires_grad_())
    torch.autograd.grad(output, _operands(layer, x), direction)
    after = (whole, wide, layer.grid_origin, layer.grid_step, layer.weight)
    assert all(map(torch.equal, after, before))


def _scattered(tensor: Tensor) -> Tensor:
    """The same numbers with others between them in memory."""
    room = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), math.nan, dtype=tensor.dtype)
    room[..., ::2] = tensor
    return room[..., ::2]


@each_mode
def test_operands_need_not_be_contiguous(mode: str) -> None:
    layer = _layer(mode=mode, inputs=9, outputs=11)
    x = _points(layer, 30)
    direction = torch.randn(30, 11, generator=seeded(3), dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    output = layer(leaf)
    expected = torch.autograd.grad(output, _operands(layer, leaf), direction)

    def check(layer: KANLinear, x: Tensor, direction: Tensor) -> None:
        leaf = x.detach().requires_grad_()
        again = layer(leaf)
        assert _is_fused(again)
        assert torch.equal(again, output)
        found = torch.autograd.grad(again, _operands(layer, leaf), direction)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)

    check(layer, x.T.contiguous().T, direction)
    check(layer, _scattered(x), direction.T.contiguous().T)
    check(layer, x, _scattered(direction))
    for name in ("grid_origin", "grid_step"):
        setattr(layer.basis, name, _scattered(getattr(layer.basis, name)))
    check(layer, x, direction)
    for name in ("weight", "bias"):
        scattered = _scattered(getattr(layer, name).detach())
        assert not scattered.is_contiguous()
        setattr(layer, name, torch.nn.Parameter(scattered))
    check(layer, x, direction)
    # A gradient that is one number everywhere, as sum() makes it.
    leaf = x[:1].expand(30, 9).requires_grad_()
    (ones,) = torch.autograd.grad(layer(leaf).sum(), leaf)
    (explicit,) = torch.autograd.grad(layer(leaf), leaf, torch.ones(30, 11, dtype=torch.float64))
    assert torch.equal(ones, explicit)


@pytest.mark.parametrize("needed", list(itertools.product([True, False], repeat=3)))
def test_gradients_are_given_where_they_are_wanted(needed: tuple[bool, ...]) -> None:
    layer = _layer(inputs=3, outputs=5)
    x = _points(layer, 10)
    operands = _operands(layer, x)
    for tensor, need in zip(operands, needed, strict=True):
        tensor.requires_grad_(need)
    output, expected = layer(x), _reference(layer, x)
    assert output.requires_grad == any(needed)
    if any(needed):
        wanted = list(itertools.compress(operands, needed))
        for create_graph in (False, True):
            ours = torch.autograd.grad(
                output.square().sum(), wanted, retain_graph=True, create_graph=create_graph
            )
            theirs = torch.autograd.grad(expected.square().sum(), wanted, retain_graph=True)
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("edge_scale", [True, False])
def test_every_parameter_gets_its_gradient(bias: bool, edge_scale: bool) -> None:
    layer = _layer(bias=bias, edge_scale=edge_scale)
    x = _points(layer, 10).requires_grad_()
    layer(x).square().sum().backward()
    ours = [leaf.grad.clone() for leaf in _operands(layer, x)]
    features = edge_features(x, layer.basis, True)
    edges = layer.weight.view(5, 3, -1)
    coefficients = edges[..., 1:] * layer.scale.unsqueeze(-1) if edge_scale else edges[..., 1:]
    packed = torch.cat([edges[..., :1], coefficients], -1)
    expected = torch.einsum("nif,oif->no", features, packed)
    expected = expected if layer.bias is None else expected + layer.bias
    theirs = torch.autograd.grad(expected.square().sum(), _operands(layer, x))
    torch.testing.assert_close(tuple(ours), theirs)


@each_mode
@pytest.mark.parametrize("kernel", [k for k in KERNELS if k.dtype == torch.float64])
def test_first_and_second_derivatives(kernel: Kernel, mode: str) -> None:
    layer = _layer(kernel, mode, inputs=2, outputs=2, intervals=3)
    names = [name for name, _ in layer.named_parameters()]
    cells = torch.tensor([[0.3, 2.6], [-1.4, 3.7]], dtype=torch.float64)
    x = layer.grid_origin + layer.grid_step * cells

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(layer, dict(zip(names, parameters, strict=True)), x)

    leaves = [t.detach().clone().requires_grad_() for t in _operands(layer, x)]
    assert _is_fused(function(*leaves))
    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@each_mode
def test_the_third_derivative_is_that_of_the_cubic(mode: str) -> None:
    layer = _layer(mode=mode, outputs=1)
    edges = layer.weight.detach().view(3, -1)
    edges[:, 0] = 0  # no SiLU
    cells = torch.tensor([[0.3, 1.6, 3.5]], dtype=torch.float64)
    x = (layer.grid_origin + layer.grid_step * cells).requires_grad_()
    (slope,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    (third,) = torch.autograd.grad(curvature.sum(), x)
    # B_c, ..., B_{c+3} have third derivatives -1, 3, -3, 1 in units of the grid.
    signs = torch.tensor([-1, 3, -3, 1], dtype=torch.float64)
    for i, cell in enumerate((0, 1, 3)):
        expected = (edges[i, 1 + cell : 5 + cell] * signs).sum() / layer.grid_step[i] ** 3
        assert float(third[0, i]) == pytest.approx(float(expected), rel=1e-9)


@pytest.fixture
def several_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two threads, however little there is to do."""
    monkeypatch.setattr(cpu, "_PARALLEL_WORK", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@each_mode
@pytest.mark.parametrize("kernel", [CUBIC, SINGLE])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 301])
@pytest.mark.usefixtures("several_threads")
def test_two_threads_do_what_one_does(kernel: Kernel, mode: str, rows: int) -> None:
    layer = _layer(kernel, mode, inputs=9, outputs=11)
    x = _points(layer, rows).requires_grad_()
    direction = torch.randn(rows, 11, generator=seeded(3), dtype=kernel.dtype)

    def run() -> list[Tensor]:
        output = layer(x)
        return [output, *torch.autograd.grad(output, _operands(layer, x), direction)]

    several, again = run(), run()
    torch.set_num_threads(1)
    alone = run()
    assert all(map(torch.equal, several, again))
    assert torch.equal(several[0], alone[0])
    assert torch.equal(several[1], alone[1])
    # Only sums over the batch may be rounded otherwise.
    tolerance = 1e-5 if kernel.dtype == torch.float32 else 1e-13
    for one, other in zip(several[2:], alone[2:], strict=True):
        scale = float(other.abs().max()) + 1
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [0, 1, 2, 5, 64])
def test_a_batch_is_split_into_parts_that_meet(
    threads: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(cpu, "_PARALLEL_WORK", 1)
    layer = _layer()
    _compare(layer, _points(layer, rows))


@pytest.mark.usefixtures("several_threads")
def test_callers_on_several_threads_do_not_disturb_each_other() -> None:
    layer = _layer(inputs=9, outputs=11)
    batches = [_points(layer, 50, seed) for seed in range(24)]

    def gradients(x: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))

    expected = [gradients(x) for x in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(gradients, batches))
    assert all(
        torch.equal(a, b)
        for one, other in zip(found, expected, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def _total(layer: KANLinear, x: Tensor, results: multiprocessing.Queue[float]) -> None:
    with torch.no_grad():
        results.put(float(layer(x).sum()))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_starts_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(cpu, "_PARALLEL_WORK", 1)
    layer = _layer()
    x = _points(layer, 20)
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


def test_without_the_compiled_kernel_the_layer_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = _layer()
    x = _points(layer, 10)
    compiled = layer(x)
    assert _is_fused(compiled)
    monkeypatch.delattr(kernels, "cpu")
    monkeypatch.setitem(sys.modules, "kan_diffusion.kan.kernels.cpu", None)
    dispatch._kernel.cache_clear()
    try:
        alone = layer(x)
        assert not _is_fused(alone)
        assert torch.equal(alone, _reference(layer, x))
        torch.testing.assert_close(alone, compiled)
    finally:
        monkeypatch.undo()
        dispatch._kernel.cache_clear()
    assert _is_fused(layer(x))


def test_without_numba_everything_works_and_nothing_imports_it() -> None:
    program = """
        import sys
        sys.modules["numba"] = sys.modules["llvmlite"] = None
        import torch
        from kan_diffusion.kan import KAN
        network = KAN([2, 3, 1])
        x = torch.randn(5, 2)
        eager = network(x)
        eager.sum().backward()
        compiled = torch.compile(network, fullgraph=True, backend="aot_eager")(x)
        compiled.sum().backward()
        torch.testing.assert_close(compiled, eager)
        network.refine(10)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_layers_work_in_their_precision(dtype: torch.dtype) -> None:
    layer = KANLinear(3, 5, grid_size=4)  # a grid that half precision tells exactly
    layer.reset_parameters(seeded(0))
    x = torch.randn(40, 3, generator=seeded(1)).to(dtype)
    half = KANLinear(3, 5, grid_size=4, dtype=dtype)
    half.load_state_dict(layer.state_dict())
    leaf = x.clone().requires_grad_()
    output = half(leaf)
    assert not _is_fused(output)
    assert output.dtype == dtype
    output.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    tolerance = 40 * torch.finfo(dtype).eps
    torch.testing.assert_close(output.float(), layer(x.float()), rtol=0, atol=tolerance)


@each_mode
def test_autocast_keeps_the_place_on_the_grid(mode: str) -> None:
    layer = _layer(SINGLE, mode, intervals=64, outputs=4, inputs=3)
    x = _points(layer, 200)
    full = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        features = edge_features(x, layer.basis, True)
        output = layer(x)
        narrow = edge_features(x.bfloat16(), layer.basis, True)
    assert not _is_fused(output)
    assert output.dtype == torch.bfloat16
    assert torch.equal(features, edge_features(x, layer.basis, True))
    assert torch.equal(narrow, edge_features(x.bfloat16().float(), layer.basis, True))
    # Products of bfloat16 numbers: 2**-8 of the magnitudes that are added up.
    magnitude = linear(features.abs().flatten(1), layer.weight.abs(), layer.bias.abs())
    assert ((output.float() - full).abs() <= 2**-7 * magnitude).all()


def test_autocast_gives_gradients_in_the_dtypes_of_their_leaves() -> None:
    layer = _layer(SINGLE)
    x = _points(layer, 20).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).float().square().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    assert layer.weight.grad.dtype == torch.float32
    expected = torch.autograd.grad(layer(x.detach().float()).square().sum(), layer.weight)[0]
    error = (layer.weight.grad - expected).norm() / expected.norm()
    assert error < 0.02


def test_a_layer_takes_the_wider_of_two_dtypes() -> None:
    layer = _layer(CUBIC)
    x = _points(layer, 10).float()
    output = layer(x)
    assert output.dtype == torch.float64
    torch.testing.assert_close(output, layer(x.double()), rtol=0, atol=1e-4)


def test_a_bias_of_another_dtype_is_not_read_as_if_it_were_the_weights() -> None:
    layer = _layer(SINGLE)
    x = _points(layer, 10)
    expected = layer(x)
    layer.bias = torch.nn.Parameter(layer.bias.detach().double())
    try:
        output = layer(x)
    except RuntimeError:
        return  # as nn.Linear does
    torch.testing.assert_close(output.float(), expected)


# What torch does when it first differentiates forwards.
forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


@pytest.fixture
def cubic() -> KANLinear:
    return _layer()


@pytest.fixture
def x(cubic: KANLinear) -> Tensor:
    return _points(cubic, 6)


@each_mode
def test_jacobians_of_single_rows(mode: str) -> None:
    layer = _layer(mode=mode, edge_scale=True)
    x = _points(layer, 6)
    batched = vmap(jacrev(layer))(x)
    single = torch.stack([torch.autograd.functional.jacobian(layer, row) for row in x])
    torch.testing.assert_close(batched, single)
    vectorized = torch.autograd.functional.jacobian(layer, x, vectorize=True)
    for n, m in itertools.product(range(6), repeat=2):
        expected = single[n] if n == m else torch.zeros_like(single[n])
        torch.testing.assert_close(vectorized[n, :, m], expected)


@forward_mode
def test_second_derivatives_through_transforms_do_not_mix_inputs(
    cubic: KANLinear, x: Tensor
) -> None:
    hessians = vmap(hessian(lambda row: cubic(row).sum()))(x)
    leaf = x.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(cubic(leaf).sum(), leaf, create_graph=True)
    (curvatures,) = torch.autograd.grad(slopes.sum(), leaf)
    torch.testing.assert_close(hessians, torch.diag_embed(curvatures))


def test_gradients_of_single_rows_and_of_ensembles(cubic: KANLinear, x: Tensor) -> None:
    parameters = {name: value.detach() for name, value in cubic.named_parameters()}

    def loss(parameters: dict[str, Tensor], row: Tensor) -> Tensor:
        return functional_call(cubic, parameters, row).square().sum()

    gradients = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for n, row in enumerate(x):
        expected = torch.autograd.grad(cubic(row).square().sum(), list(cubic.parameters()))
        for name, value in zip(parameters, expected, strict=True):
            torch.testing.assert_close(gradients[name][n], value)
    members = [_layer(seed=seed) for seed in range(4)]
    for member in members:
        member.basis = cubic.basis
    stacked, _ = torch.func.stack_module_state(members)
    outputs = vmap(lambda p: functional_call(cubic, p, x))(stacked)
    torch.testing.assert_close(outputs, torch.stack([member(x) for member in members]))


def test_a_transform_of_the_bias_alone(cubic: KANLinear, x: Tensor) -> None:
    biases = torch.randn(4, 5, generator=seeded(0), dtype=torch.float64)
    outputs = vmap(lambda bias: functional_call(cubic, {"bias": bias}, x))(biases)
    expected = cubic(x) - cubic.bias + biases.unsqueeze(1)
    torch.testing.assert_close(outputs, expected)


def test_a_transform_of_the_backward_pass_alone(cubic: KANLinear, x: Tensor) -> None:
    x.requires_grad_()
    output = cubic(x)
    assert _is_fused(output)
    directions = torch.randn(4, 6, 5, generator=seeded(0), dtype=torch.float64)
    operands = _operands(cubic, x)
    expected = [torch.autograd.grad(output, operands, d, retain_graph=True) for d in directions]
    expected = [torch.stack(gradients) for gradients in zip(*expected, strict=True)]
    batched = vmap(lambda d: torch.autograd.grad(output, operands, d, retain_graph=True))
    for found in (
        batched(directions),
        torch.autograd.grad(output, operands, directions, is_grads_batched=True),
    ):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)


def test_a_transform_of_something_else(cubic: KANLinear, x: Tensor) -> None:
    weights = torch.ones(6, 5, dtype=torch.float64)
    gradient = grad(lambda weights: (cubic(x) * weights).sum())(weights)
    torch.testing.assert_close(gradient, cubic(x))


@forward_mode
def test_forward_mode(cubic: KANLinear, x: Tensor) -> None:
    tangent = torch.randn(x.shape, generator=seeded(0), dtype=x.dtype)
    expected = torch.einsum("noi,ni->no", vmap(jacrev(cubic))(x), tangent)
    torch.testing.assert_close(jvp(cubic, (x,), (tangent,))[1], expected)
    with forward_ad.dual_level():
        output = forward_ad.unpack_dual(cubic(forward_ad.make_dual(x, tangent)))
        torch.testing.assert_close(output.tangent, expected)


def test_a_grid_that_wants_a_gradient_gets_one(cubic: KANLinear, x: Tensor) -> None:
    step = cubic.grid_step.clone().requires_grad_()
    output = functional_call(cubic, {"basis.grid_step": step}, x)
    (ours,) = torch.autograd.grad(output.sum(), step)
    for i in range(3):
        moved = [cubic.grid_step.clone() for _ in range(2)]
        moved[0][i] += 1e-6
        moved[1][i] -= 1e-6
        above, below = (functional_call(cubic, {"basis.grid_step": m}, x).sum() for m in moved)
        assert float(ours[i]) == pytest.approx(float((above - below).detach()) / 2e-6, rel=1e-5)


def test_a_graph_can_be_gone_through_twice(cubic: KANLinear, x: Tensor) -> None:
    output = cubic(x)
    once = torch.autograd.grad(output.sum(), cubic.weight, retain_graph=True)
    assert torch.equal(once[0], torch.autograd.grad(output.sum(), cubic.weight)[0])


def test_a_grid_moved_before_the_backward_pass_is_refused(cubic: KANLinear, x: Tensor) -> None:
    output = cubic(x)
    cubic.grid_origin.add_(0.3)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(output.sum(), cubic.weight)


def test_no_graph_is_kept_where_none_is_wanted(cubic: KANLinear, x: Tensor) -> None:
    expected = cubic(x).detach()
    with torch.no_grad():
        assert not cubic(x).requires_grad
    with torch.inference_mode():
        assert torch.equal(cubic(x), expected)


def test_devices_without_a_kernel_are_left_to_torch() -> None:
    network = KAN([3, 4, 2], device="meta")
    output = network(torch.empty(7, 3, device="meta"))
    assert output.device.type == "meta"
    assert output.shape == (7, 2)


def test_the_pieces_of_the_kernel_are_those_of_the_features() -> None:
    # One output that picks a single function: the kernel's B_g is the basis's.
    layer = _layer(CUBIC, "zero", inputs=1, outputs=1 + 4 + 3, bias=False)
    layer.weight.detach().copy_(torch.eye(8))
    x = _points(layer, 200)
    expected = edge_features(x, layer.basis, True)[:, 0]
    torch.testing.assert_close(layer(x), expected, rtol=1e-13, atol=1e-14)
