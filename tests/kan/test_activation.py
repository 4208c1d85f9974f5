"""Learned activations against scipy, a KAN layer, and the kernel against torch's operations."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import functional_call, hessian, jacrev, vmap
from torch.nn.functional import silu

from helpers import seeded
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan import KANLinear, SplineActivation, activation
from kan_diffusion.kan.kernels import cpu, units

SINGLE, DOUBLE = torch.float32, torch.float64
# Each costs seconds of compilation, once.
KERNELS = ((3, SINGLE), *((order, DOUBLE) for order in range(1, 6)))
each_kernel = pytest.mark.parametrize(("order", "dtype"), KERNELS)
each_dtype = pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
RANGE = (-1.5, 2.0)


def _activation(
    num_units: int = 4,
    order: int = 3,
    dtype: torch.dtype = DOUBLE,
    grid_size: int = 5,
    seed: int = 0,
    grid_range: tuple[float, float] = RANGE,
) -> SplineActivation:
    """One with normal coefficients."""
    module = SplineActivation(
        num_units, grid_size=grid_size, order=order, grid_range=grid_range, dtype=dtype
    )
    module.coefficients.detach().normal_(generator=seeded(seed))
    return module


def _points(module: SplineActivation, *shape: int, seed: int = 1, reach: int = 7) -> Tensor:
    """Points inside and up to ``reach`` intervals beyond the grid, none near a knot."""
    size = (*shape, module.num_units)
    cells = torch.randint(-reach, module.grid_size + reach, size, generator=seeded(seed))
    place = 0.02 + 0.96 * torch.rand(size, generator=seeded(seed + 1), dtype=DOUBLE)
    low, high = module.grid_range
    x = low + (high - low) / module.grid_size * (cells + place)
    return x.to(module.coefficients.dtype)


def _reference(module: SplineActivation, x: Tensor) -> Tensor:
    """The activation in torch's operations."""
    low, per_x, pieces = module.grid_range[0], module._per_x, module._pieces
    return activation._reference(x, module.coefficients, low, per_x, pieces)


def _run(
    function: Callable[[Tensor], Tensor], module: SplineActivation, x: Tensor, seed: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """Output and the gradients of x and the coefficients, in a direction drawn by ``seed``."""
    leaf = x.detach().clone().requires_grad_()
    output = function(leaf)
    direction = torch.randn(output.shape, generator=seeded(seed), dtype=output.dtype)
    return output.detach(), *torch.autograd.grad(output, [leaf, module.coefficients], direction)


def _is_fused(output: Tensor) -> bool:
    return "FusedSplines" in type(output.grad_fn).__name__


def _compare(module: SplineActivation, x: Tensor) -> None:
    """Values and gradients of the kernel are those of torch's operations."""
    assert _is_fused(module(x))
    ours = _run(module, module, x)
    theirs = _run(lambda x: _reference(module, x), module, x)
    tolerance = 50 * (8 + module.grid_size) * torch.finfo(x.dtype).eps
    for one, other in zip(ours, theirs, strict=True):
        scale = max(1.0, float(other.abs().max())) if other.numel() else 1.0
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * scale)


# What it computes


@each_kernel
@pytest.mark.parametrize("path", ["kernel", "torch"])
def test_it_is_the_spline_of_scipy_and_its_tangent(
    order: int,
    dtype: torch.dtype,
    path: str,
    scipy_basis: Callable[..., np.ndarray],
) -> None:
    module = _activation(3, order, dtype)
    low, high = RANGE
    width = high - low
    x = torch.linspace(low - 2 * width, high + 2 * width, 501, dtype=dtype)
    y = (module if path == "kernel" else lambda x: _reference(module, x))(
        x.unsqueeze(1).expand(-1, 3)
    )
    functions = scipy_basis(x.double().numpy(), low, width / 5, 5, order, "linear")
    expected = torch.from_numpy(functions) @ module.coefficients.detach().double().T
    inside = (x >= low) & (x <= high)
    tolerance = 1e-12 if dtype == DOUBLE else 1e-6
    torch.testing.assert_close(y[inside].double(), expected[inside], rtol=0, atol=tolerance)
    # Outside, what rounds is the place, times the slope.
    torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=10 * tolerance)


@each_dtype
@pytest.mark.parametrize("grid_size", [1, 2, 8])
def test_it_is_a_layer_whose_only_edges_are_the_diagonal(
    grid_size: int, dtype: torch.dtype
) -> None:
    module = _activation(6, grid_size=grid_size, dtype=dtype)
    layer = KANLinear(
        6,
        6,
        grid_size=grid_size,
        grid_range=RANGE,
        extrapolation="linear",
        base_activation=None,
        dtype=dtype,
    )
    edges = layer.weight.detach().view(6, 6, -1)
    edges.zero_()
    for unit in range(6):
        edges[unit, unit] = module.coefficients.detach()[unit]
    x = _points(module, 200)
    tolerance = 2e-5 if dtype == SINGLE else 1e-13
    torch.testing.assert_close(module(x), layer(x), rtol=0, atol=tolerance)
    for unit in range(6):
        curve = layer.edge_curve(unit, unit, x[:, unit])
        torch.testing.assert_close(module(x)[:, unit], curve, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("order", "bound"), [(1, 3e-2), (2, 2e-3), (3, 4e-4), (4, 1e-4), (5, 4e-5)]
)
def test_it_starts_as_silu_with_a_little_noise(
    order: int, bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.linspace(-3, 3, 1001, dtype=DOUBLE).unsqueeze(1).expand(-1, 20)
    noisy = SplineActivation(20, order=order, dtype=DOUBLE)
    monkeypatch.setattr(activation, "_NOISE", 0.0)
    exact = SplineActivation(20, order=order, dtype=DOUBLE)
    assert float((exact(x) - silu(x)).detach().abs().max()) < bound
    noise = noisy.coefficients - exact.coefficients
    assert 0.8e-3 < float(noise.detach().std()) < 1.25e-3
    most = noise.detach().abs().amax(1)
    assert ((noisy(x) - exact(x)).detach().abs().amax(0) <= most + 1e-12).all()


def test_a_generator_decides_where_it_starts() -> None:
    one, other = SplineActivation(5), SplineActivation(5)
    one.reset_parameters(seeded(3))
    other.reset_parameters(seeded(3))
    assert torch.equal(one.coefficients, other.coefficients)
    other.reset_parameters(seeded(4))
    assert not torch.equal(one.coefficients, other.coefficients)
    state = torch.get_rng_state()
    one.reset_parameters(seeded(5))
    assert torch.equal(torch.get_rng_state(), state)


def test_units_do_not_see_each_other() -> None:
    module = _activation(7)
    x = _points(module, 30)
    output = module(x)
    order = torch.randperm(7, generator=seeded(0))
    permuted = _activation(7)
    permuted.coefficients.data = module.coefficients.detach()[order]
    assert torch.equal(permuted(x[:, order]), output[:, order])


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 3)])
def test_leading_dimensions_are_rows(shape: tuple[int, ...]) -> None:
    module = _activation()
    x = _points(module, *shape)
    output = module(x)
    assert output.shape == x.shape
    assert torch.equal(output.reshape(-1, 4), module(x.reshape(-1, 4)))
    torch.testing.assert_close(output, _reference(module, x))


def test_state_dicts_and_copies_carry_everything() -> None:
    module, other = _activation(seed=1), _activation(seed=2)
    x = _points(module, 10)
    assert list(module.state_dict()) == ["coefficients"]
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(x), module(x))
    assert torch.equal(copy.deepcopy(module)(x), module(x))
    single = copy.deepcopy(module).float()
    torch.testing.assert_close(single(x.float()).double(), module(x), rtol=1e-5, atol=1e-4)
    # The pieces do not lose digits on the way through another dtype.
    restored = single.double()
    restored.load_state_dict(module.state_dict())
    assert torch.equal(restored(x), module(x))


@pytest.mark.parametrize(("order", "per_unit"), [(1, 5), (3, 9), (5, 13)])
def test_operations_are_those_of_horner(order: int, per_unit: int) -> None:
    assert SplineActivation(7, order=order).flops == 7 * per_unit


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_units": 0}, "at least one unit, not 0"),
        ({"grid_size": 0}, "grid_size must be at least 1, not 0"),
        ({"order": 0}, "order must be 1 to 5, not 0"),
        ({"order": 6}, "order must be 1 to 5, not 6"),
        ({"grid_range": (1.0, 1.0)}, "the lower first"),
        ({"grid_range": (0.0, math.inf)}, "two finite numbers"),
        ({"grid_range": (math.nan, 1.0)}, "two finite numbers"),
    ],
)
def test_unusable_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(KanDiffusionError, match=message):
        SplineActivation(**{"num_units": 3, **arguments})


@pytest.mark.parametrize("shape", [(), (3,), (4, 3)])
def test_inputs_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(KanDiffusionError, match=r"shape \(\*, 4\)"):
        _activation()(torch.zeros(shape, dtype=DOUBLE))


def test_a_model_on_the_meta_device_has_no_numbers() -> None:
    module = SplineActivation(3, device="meta")
    assert module(torch.empty(5, 3, device="meta")).is_meta
    assert "3, grid_size=8, order=3, grid_range=(-3.0, 3.0)" in repr(module)


# The kernel


@each_kernel
@settings(max_examples=15)
@given(
    num_units=st.sampled_from([1, 2, 5, 16, 22, 33, 1100]),
    rows=st.sampled_from([0, 1, 3, 7, 47, 130]),
    grid_size=st.sampled_from([1, 2, 3, 8, 64]),
    low=st.floats(-5, 5),
    width=st.floats(0.1, 10),
    seed=st.integers(0, 999),
)
def test_the_kernel_is_what_torch_computes(
    order: int,
    dtype: torch.dtype,
    num_units: int,
    rows: int,
    grid_size: int,
    low: float,
    width: float,
    seed: int,
) -> None:
    # In float32 a place is only as exact as x, which must not be far from zero on a fine grid.
    grid_range = (low, low + width) if dtype == DOUBLE else (-width / 3, width)
    module = _activation(num_units, order, dtype, grid_size, seed, grid_range)
    _compare(module, _points(module, rows, seed=seed))


@each_kernel
def test_knots_and_ends_are_where_they_are(order: int, dtype: torch.dtype) -> None:
    # A grid of numbers that a float can hold, so that every x is its knot.
    module = _activation(19, order, dtype, 8, grid_range=(-3.0, 1.0))
    knots = torch.arange(-4.0, 13).unsqueeze(1).expand(-1, 19)
    _compare(module, (-3 + 0.5 * knots).to(dtype))
    for end in (-3.0, 1.0):
        x = torch.full((1, 19), end, dtype=dtype)
        beyond = torch.nextafter(x, torch.full_like(x, math.copysign(9, end)))
        tolerance = {"rtol": 0, "atol": 100 * torch.finfo(dtype).eps}
        torch.testing.assert_close(module(beyond), module(x), **tolerance)


@each_kernel
def test_it_is_straight_however_far_outside(order: int, dtype: torch.dtype) -> None:
    module = _activation(4, order, dtype)
    far = torch.tensor([1e6, -1e6, 1e20, -1e20, 1e37, -1e37], dtype=dtype)
    x = far.unsqueeze(1).expand(-1, 4)
    for row in x:
        _compare(module, row)
    output, slope, gradient = _run(module, module, x)
    assert output.isfinite().all()
    assert slope.isfinite().all()
    assert gradient.isfinite().all()
    torch.testing.assert_close(module(2 * x), 2 * output, rtol=1e-4, atol=0)


@each_kernel
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_in_its_place(
    order: int, dtype: torch.dtype, value: float
) -> None:
    module = _activation(35, order, dtype)
    x = _points(module, 40)
    clean = _run(module, module, x)
    for row, unit in ((0, 0), (17, 33), (39, 34)):
        poisoned = x.clone()
        poisoned[row, unit] = value
        assert _is_fused(module(poisoned))
        hit = _run(module, module, poisoned)
        theirs = _run(lambda x: _reference(module, x), module, poisoned)
        here = torch.zeros_like(x, dtype=torch.bool)
        here[row, unit] = True
        # The functions of the first or the last cell get a gradient that is not finite.
        reached = torch.zeros_like(module.coefficients, dtype=torch.bool)
        reached[unit, slice(-order - 1, None) if value > 0 else slice(0, order + 1)] = True
        if math.isnan(value):
            assert torch.equal(hit[0].isnan(), here)
            # The slope of order 1 does not depend on the place.
            assert torch.equal(hit[1].isnan(), here & (order > 1))
        else:
            assert hit[0][row, unit].isinf()
            torch.testing.assert_close(hit[0], theirs[0])
            torch.testing.assert_close(hit[1], theirs[1], rtol=1e-4, atol=1e-4)
        for found in (hit, theirs):
            assert torch.equal(~found[0].isfinite(), here)
            assert torch.equal(~found[2].isfinite(), reached)
        # What is finite is what it was, to the bit.
        assert torch.equal(hit[0][~here], clean[0][~here])
        assert torch.equal(hit[1][~here], clean[1][~here])
        others = torch.arange(35) != unit
        assert torch.equal(hit[2][others], clean[2][others])


def test_nan_among_coefficients_and_gradients_stays_in_its_unit() -> None:
    module = _activation()
    x = _points(module, 50)
    clean = module(x)
    module.coefficients.detach()[2, 0] = math.nan
    others = torch.arange(4) != 2
    assert torch.equal(module(x)[:, others], clean[:, others])
    assert module(x)[:, 2].isnan().any()
    module = _activation()
    direction = torch.ones_like(x)
    direction[7, 1] = math.nan
    leaf = x.requires_grad_()
    found = torch.autograd.grad(module(leaf), [leaf, module.coefficients], direction)
    assert found[0].isnan().nonzero().tolist() == [[7, 1]]
    assert found[1].isnan().any(1).tolist() == [False, True, False, False]


def test_operands_need_not_be_contiguous_and_are_not_written() -> None:
    module = _activation(6)
    room = torch.randn(80, 14, generator=seeded(5), dtype=DOUBLE)
    x, direction = room[3:63:2, 1:13:2], room[4:64:2, 0:6].flip(0)
    before = room.clone()
    leaf = x.detach().requires_grad_()
    output = module(leaf)
    assert _is_fused(output)
    found = torch.autograd.grad(output, [leaf, module.coefficients], direction)
    whole = x.contiguous().requires_grad_()
    again = module(whole)
    expected = torch.autograd.grad(again, [whole, module.coefficients], direction.contiguous())
    assert torch.equal(output, again)
    assert all(map(torch.equal, found, expected))
    assert torch.equal(room, before)
    scattered = torch.empty(6, 16, dtype=DOUBLE)[:, ::2]
    module.coefficients = torch.nn.Parameter(scattered.copy_(module.coefficients.detach()))
    assert not module.coefficients.is_contiguous()
    assert torch.equal(module(x), output)


@pytest.fixture
def several_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two threads, however little there is to do."""
    monkeypatch.setattr(cpu, "_PARALLEL_WORK", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@each_dtype
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 301])
@pytest.mark.usefixtures("several_threads")
def test_two_threads_do_what_one_does(dtype: torch.dtype, rows: int) -> None:
    module = _activation(9, dtype=dtype)
    x = _points(module, rows)
    several, again = _run(module, module, x), _run(module, module, x)
    torch.set_num_threads(1)
    alone = _run(module, module, x)
    assert all(map(torch.equal, several, again))
    assert all(map(torch.equal, several[:2], alone[:2]))
    # Only sums over the batch may be rounded otherwise.
    tolerance = 1e-4 if dtype == SINGLE else 1e-12
    torch.testing.assert_close(several[2], alone[2], rtol=tolerance, atol=tolerance)


# Derivatives, and when the kernel steps aside


@pytest.mark.parametrize("order", range(1, 6))
@pytest.mark.parametrize("path", ["kernel", "torch"])
def test_first_and_second_derivatives(order: int, path: str) -> None:
    module = _activation(2, order, grid_size=3)
    places = torch.tensor([[0.3, 2.6], [-1.4, 3.7], [1.5, 0.9]], dtype=DOUBLE)
    x = RANGE[0] + places / module._per_x

    def function(x: Tensor, coefficients: Tensor) -> Tensor:
        if path == "kernel":
            return functional_call(module, {"coefficients": coefficients}, x)
        return activation._reference(x, coefficients, RANGE[0], module._per_x, module._pieces)

    leaves = [t.detach().clone().requires_grad_() for t in (x, module.coefficients)]
    assert _is_fused(function(*leaves)) == (path == "kernel")
    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)  # the kernel hands over to torch


@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True), (False, False)])
def test_gradients_are_given_where_they_are_wanted(needed: tuple[bool, bool]) -> None:
    module = _activation()
    operands = (_points(module, 10), module.coefficients)
    for tensor, need in zip(operands, needed, strict=True):
        tensor.requires_grad_(need)
    output, expected = module(operands[0]), _reference(module, operands[0])
    assert output.requires_grad == any(needed)
    wanted = [tensor for tensor in operands if tensor.requires_grad]
    for create_graph in (False, True) if wanted else ():
        ours = torch.autograd.grad(
            output.square().sum(), wanted, retain_graph=True, create_graph=create_graph
        )
        theirs = torch.autograd.grad(expected.square().sum(), wanted, retain_graph=True)
        torch.testing.assert_close(ours, theirs)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_transforms_do_what_loops_do() -> None:
    module = _activation(3)
    x = _points(module, 6)
    torch.testing.assert_close(vmap(module)(x), module(x))
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(module(leaf).sum(), leaf, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), leaf)
    torch.testing.assert_close(vmap(jacrev(module))(x), slope.diag_embed())
    second = vmap(hessian(lambda row: module(row).sum()))(x)
    torch.testing.assert_close(second, curvature.diag_embed())
    # Many sets of coefficients at once.
    sets = torch.randn(4, *module.coefficients.shape, generator=seeded(1), dtype=DOUBLE)
    found = vmap(lambda c: functional_call(module, {"coefficients": c}, x))(sets)
    for coefficients, output in zip(sets, found, strict=True):
        torch.testing.assert_close(
            functional_call(module, {"coefficients": coefficients}, x), output
        )


def test_places_are_told_in_the_precision_of_the_coefficients() -> None:
    module = _activation(dtype=SINGLE)
    x = _points(module, 50, reach=1)
    finer = module(x.double())
    assert finer.dtype == DOUBLE
    assert not _is_fused(finer)
    torch.testing.assert_close(finer.float(), module(x), rtol=0, atol=1e-5)
    coarse = x.bfloat16().requires_grad_()
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output, expected = module(coarse), module(coarse.detach().float())
        assert output.dtype == SINGLE
        assert torch.equal(output, expected)
        (gradient,) = torch.autograd.grad(output.sum(), coarse)
        assert gradient.dtype == torch.bfloat16
        assert gradient.isfinite().all()


def test_without_numba_it_is_the_same_function(monkeypatch: pytest.MonkeyPatch) -> None:
    module = _activation()
    x = _points(module, 20)
    ours = _run(module, module, x)
    monkeypatch.setattr(activation, "_kernel", lambda: None)
    assert not _is_fused(module(x))
    torch.testing.assert_close(_run(module, module, x), ours)


@each_dtype
@pytest.mark.parametrize("shape", [(0,), (9,), (2, 3)])
def test_the_operators_are_what_torch_takes_them_for(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    module = _activation(dtype=dtype)
    x = _points(module, *shape)
    settings = (RANGE[0], module._per_x, 3)
    forward = torch.ops.kan_diffusion.spline_activation.default
    backward = torch.ops.kan_diffusion.spline_activation_backward.default
    torch.library.opcheck(forward, (x.clone().requires_grad_(), module.coefficients, *settings))
    torch.library.opcheck(backward, (x.cos(), x, module.coefficients.detach(), *settings))
    # They are the activation, and its gradients.
    ours = _run(lambda x: forward(x, module.coefficients, *settings), module, x)
    assert all(map(torch.equal, ours, _run(module, module, x)))
    assert torch.equal(units.unit_splines(x, module.coefficients.detach(), *settings), ours[0])
