from __future__ import annotations

import itertools
import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kan_diffusion.kan import kernels
from kan_diffusion.kan.kernels import EdgeBasis, cpu, edge_features, reference

MODES = ("linear", "clamp", "zero")
each_mode = pytest.mark.parametrize("mode", MODES)
each_base = pytest.mark.parametrize("has_base", [True, False])
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _grid(dtype: torch.dtype, inputs: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    origin = torch.tensor([-1.0, -2.0, 0.5], dtype=dtype)[:inputs]
    step = torch.tensor([0.4, 1.0, 0.25], dtype=dtype)[:inputs]
    return origin, step


def _points(basis: EdgeBasis, dtype: torch.dtype, seed: int, rows: int = 300) -> torch.Tensor:
    """Points inside and up to six intervals beyond each grid, none near a knot."""
    origin, step = _grid(dtype)
    low, high = -6, basis.num_intervals + 6
    cells = torch.randint(low, high, (rows, 3), generator=_generator(seed))
    place = 0.02 + 0.96 * torch.rand(rows, 3, generator=_generator(seed + 1), dtype=dtype)
    return origin + step * (cells + place)


@each_dtype
@each_base
@each_mode
@settings(max_examples=10)
@given(num_intervals=st.integers(1, 9), seed=st.integers(0, 999))
def test_the_compiled_kernel_equals_the_reference(
    mode: str, has_base: bool, dtype: torch.dtype, num_intervals: int, seed: int
) -> None:
    basis = EdgeBasis(num_intervals, cpu.ORDER, mode, has_base)
    origin, step = _grid(dtype)
    x = _points(basis, dtype, seed, rows=40)
    ends = torch.stack([origin, origin + num_intervals * step])
    x = torch.cat([x, ends, x[:2] * 1e4])
    grad = torch.randn(*x.shape, basis.width, generator=_generator(seed), dtype=dtype)
    far = (x.abs() / step).max()
    tolerance = 30 * torch.finfo(dtype).eps
    torch.testing.assert_close(
        cpu.features(x, origin, step, basis),
        reference.features(x, origin, step, basis),
        rtol=tolerance,
        atol=float(tolerance * max(1, far if mode == "linear" else 10)),
    )
    torch.testing.assert_close(
        cpu.features_backward(grad, x, origin, step, basis)[:-4],
        reference.features_backward(grad, x, origin, step, basis)[:-4],
        rtol=tolerance,
        atol=60 * tolerance,
    )


@each_base
@each_mode
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_first_and_second_gradients(order: int, mode: str, has_base: bool) -> None:
    basis = EdgeBasis(3, order, mode, has_base)
    origin, step = _grid(torch.float64)
    x = _points(basis, torch.float64, seed=order, rows=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: edge_features(x, origin, step, basis), x)
    assert torch.autograd.gradgradcheck(lambda x: edge_features(x, origin, step, basis), x)


@each_mode
def test_a_second_derivative_is_that_of_the_cubic(mode: str) -> None:
    basis = EdgeBasis(4, 3, mode, False)
    origin, step = _grid(torch.float64)
    x = (origin + step * torch.tensor([[0.3, 1.6, 3.5]], dtype=torch.float64)).requires_grad_()
    coefficients = torch.randn(3, basis.width, generator=_generator(0), dtype=torch.float64)
    value = (edge_features(x, origin, step, basis) * coefficients).sum()
    (slope,) = torch.autograd.grad(value, x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    (third,) = torch.autograd.grad(curvature.sum(), x)
    # B_c, ..., B_{c+3} have third derivatives -1, 3, -3, 1 in units of the grid.
    for i, cell in enumerate((0, 1, 3)):
        signs = torch.tensor([-1, 3, -3, 1], dtype=torch.float64)
        expected = (coefficients[i, cell : cell + 4] * signs).sum() / step[i] ** 3
        assert float(third[0, i]) == pytest.approx(float(expected), rel=1e-9)


@each_dtype
@each_base
@each_mode
@pytest.mark.parametrize("order", [2, 3])
def test_nan_in_one_input_makes_that_input_nan_and_no_other(
    order: int, mode: str, has_base: bool, dtype: torch.dtype
) -> None:
    basis = EdgeBasis(4, order, mode, has_base)
    origin, step = _grid(dtype)
    x = _points(basis, dtype, seed=3, rows=6)
    x[2, 1] = math.nan
    x.requires_grad_()
    values = edge_features(x, origin, step, basis)
    values.sum().backward()
    hit = torch.zeros(6, 3, dtype=torch.bool)
    hit[2, 1] = True
    assert torch.equal(values.isnan().any(-1), hit)
    assert x.grad is not None
    assert torch.equal(x.grad.isnan(), hit)


@each_dtype
@each_base
@each_mode
def test_infinite_inputs_are_the_limit_or_not_finite(
    mode: str, has_base: bool, dtype: torch.dtype
) -> None:
    basis = EdgeBasis(4, cpu.ORDER, mode, has_base)
    origin, step = _grid(dtype)
    far = torch.tensor([[1.0], [-1.0]], dtype=dtype).expand(2, 3) * 1e30
    x = far * math.inf
    grad = torch.ones(2, 3, basis.width, dtype=dtype)
    for kernel in (cpu, reference):
        values = kernel.features(x, origin, step, basis)[..., int(has_base) :]
        slopes = kernel.features_backward(grad, x, origin, step, basis)
        if mode == "linear":
            assert not values.isfinite().all(-1).any()
        else:
            limit = kernel.features(far, origin, step, basis)[..., int(has_base) :]
            torch.testing.assert_close(values, limit)
            assert has_base or (slopes == 0).all()
    torch.testing.assert_close(
        cpu.features_backward(grad, x, origin, step, basis),
        reference.features_backward(grad, x, origin, step, basis),
        equal_nan=True,
    )


def test_subnormal_huge_and_zero_inputs_stay_in_the_row() -> None:
    basis = EdgeBasis(5, 3, "clamp", True)
    origin, step = _grid(torch.float32)
    values = [0.0, -0.0, 1e-45, -1e-45, 3.4e38, -3.4e38, 88.0, -88.0, -104.0, 1e10]
    x = torch.tensor(values).unsqueeze(-1).expand(-1, 3)
    torch.testing.assert_close(
        cpu.features(x, origin, step, basis), reference.features(x, origin, step, basis)
    )


def test_without_numba_the_reference_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    basis = EdgeBasis(5, 3, "linear", True)
    origin, step = _grid(torch.float32)
    x = _points(basis, torch.float32, seed=0)
    compiled = edge_features(x, origin, step, basis)
    monkeypatch.delattr(kernels, "cpu")
    monkeypatch.setitem(sys.modules, "kan_diffusion.kan.kernels.cpu", None)
    assert torch.equal(
        edge_features(x, origin, step, basis), reference.features(x, origin, step, basis)
    )
    torch.testing.assert_close(
        edge_features(x, origin, step, basis), compiled, atol=1e-5, rtol=1e-5
    )


@each_mode
@pytest.mark.parametrize("order", [2, 3])
def test_autocast_leaves_the_features_their_precision(order: int, mode: str) -> None:
    basis = EdgeBasis(5, order, mode, True)
    origin, step = _grid(torch.float32)
    x = _points(basis, torch.float32, seed=1).bfloat16()
    plain = edge_features(x.float(), origin, step, basis)
    leaf = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        cast = edge_features(leaf, origin, step, basis)
        cast.sum().backward()
    assert torch.equal(cast, plain)
    assert leaf.grad is not None
    assert leaf.grad.dtype == torch.bfloat16
    assert leaf.grad.isfinite().all()


def test_forward_mode_and_batched_transforms_agree_with_reverse_mode() -> None:
    basis = EdgeBasis(4, 3, "linear", True)
    origin, step = _grid(torch.float64)
    x = _points(basis, torch.float64, seed=5, rows=6)

    def row(point: torch.Tensor) -> torch.Tensor:
        return edge_features(point.unsqueeze(0), origin, step, basis)[0].sum(0)

    batched = torch.func.vmap(torch.func.jacrev(row))(x)
    single = torch.stack([torch.autograd.functional.jacobian(row, point) for point in x])
    torch.testing.assert_close(batched, single)
    hessians = torch.func.vmap(torch.func.jacrev(torch.func.jacrev(row)))(x)
    for n, i, j in itertools.product(range(6), range(3), range(3)):
        if i != j:  # edges do not mix inputs
            assert (hessians[n, :, i, j] == 0).all()
