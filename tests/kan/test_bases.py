from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from kan_diffusion.kan.bases import MAX_ORDER, piece_coefficients
from kan_diffusion.kan.kernels import EdgeBasis, edge_features

MODES = ("linear", "clamp", "zero")
orders = st.integers(1, MAX_ORDER)


@st.composite
def grids(draw: st.DrawFn) -> tuple[float, float, int, int]:
    """Left end, step, number of intervals and order."""
    width = draw(st.floats(0.1, 10))
    low = width * draw(st.floats(-2, 2))
    num_intervals = draw(st.integers(1, 12))
    return low, width / num_intervals, num_intervals, draw(orders)


def _positions(grid: tuple[float, float, int, int], margin: float, seed: int) -> np.ndarray:
    """Points up to ``margin`` intervals beyond the grid, none within 1/100 of a knot."""
    low, step, num_intervals, _ = grid
    generator = np.random.default_rng(seed)
    cells = generator.integers(-margin, num_intervals + margin, 50)
    return low + step * (cells + generator.uniform(0.01, 0.99, 50))


def _features(
    x: np.ndarray, grid: tuple[float, float, int, int], mode: str, dtype: torch.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, G + k) and their derivatives, both of the tensors' own dtype."""
    low, step, num_intervals, order = grid
    points = torch.from_numpy(x).to(dtype).unsqueeze(-1).requires_grad_()
    origin, width = (torch.tensor([value], dtype=dtype) for value in (low, step))
    values = edge_features(points, origin, width, EdgeBasis(num_intervals, order, mode, False))
    slopes = [
        torch.autograd.grad(values[:, 0, g].sum(), points, retain_graph=True)[0][:, 0]
        for g in range(values.shape[-1])
    ]
    return values[:, 0].detach().numpy(), torch.stack(slopes, dim=-1).numpy()


@pytest.mark.parametrize("order", range(MAX_ORDER + 1))
def test_pieces_are_the_b_spline_on_the_integers(order: int) -> None:
    spline = BSpline.basis_element(np.arange(order + 2.0), extrapolate=False)
    f = np.linspace(0.001, 0.999, 31)
    for derivative in range(order + 1):
        for piece, row in enumerate(piece_coefficients(order, derivative)):
            # Piece j is what the function that started k - j cells ago does in this cell.
            expected = spline(f + order - piece, nu=derivative)
            polynomial = np.polynomial.Polynomial(row)(f)
            np.testing.assert_allclose(polynomial, expected, rtol=1e-11, atol=1e-13)
    assert all(c == 0 for row in piece_coefficients(order, order + 1) for c in row)


@given(grids(), st.sampled_from(MODES), st.integers(0, 999))
def test_features_and_slopes_are_scipys_inside_and_beyond_the_grid(
    scipy_basis: Callable[..., np.ndarray],
    grid: tuple[float, float, int, int],
    mode: str,
    seed: int,
) -> None:
    x = _positions(grid, margin=grid[-1] + 2, seed=seed)
    values, slopes = _features(x, grid, mode, torch.float64)
    # 1e-12 of the largest entry: the tangent makes values grow with the distance from the grid.
    for ours, derivative in ((values, 0), (slopes, 1)):
        expected = scipy_basis(x, *grid, mode, derivative)
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=2e-12 * np.abs(expected).max())


@given(grids(), st.sampled_from(MODES), st.integers(0, 999))
def test_float32_features_are_scipys_to_its_own_rounding(
    scipy_basis: Callable[..., np.ndarray],
    grid: tuple[float, float, int, int],
    mode: str,
    seed: int,
) -> None:
    low, step, num_intervals, order = grid
    low, step = float(np.float32(low)), float(np.float32(step))
    x = _positions((low, step, num_intervals, order), 2, seed).astype(np.float32)
    values, slopes = _features(x, (low, step, num_intervals, order), mode, torch.float32)
    # u = (x - low) / step inherits the rounding of x - low, which grows with the cells per unit.
    place = np.finfo(np.float32).eps * (np.abs(x).max() + abs(low)) / step
    tolerance = 1e-6 + 4 * place
    for ours, derivative in ((values, 0), (slopes * step, 1)):
        expected = scipy_basis(x.astype(float), low, step, num_intervals, order, mode, derivative)
        expected = expected * step**derivative
        np.testing.assert_allclose(
            ours, expected, rtol=1e-6, atol=tolerance * max(1, np.abs(expected).max())
        )


@given(grids(), st.sampled_from(MODES), st.integers(0, 999))
def test_inside_the_grid_the_functions_are_a_partition_of_unity(
    grid: tuple[float, float, int, int], mode: str, seed: int
) -> None:
    low, step, num_intervals, order = grid
    inside = np.random.default_rng(seed).uniform(0, num_intervals, 40)
    knots = np.arange(num_intervals + 1.0)
    values, slopes = _features(
        low + step * np.concatenate([inside, knots]), grid, mode, torch.float64
    )
    assert values.min() >= -1e-14
    np.testing.assert_allclose(values.sum(-1), 1, rtol=1e-12)
    np.testing.assert_allclose(slopes[:40].sum(-1) * step, 0, atol=1e-12)
    assert ((values > 1e-14).sum(-1) <= order + 1).all()


@given(grids(), st.floats(0.1, 30), st.sampled_from([-1, 1]))
def test_linear_extrapolation_is_affine_and_joins_smoothly(
    grid: tuple[float, float, int, int], distance: float, side: int
) -> None:
    low, step, num_intervals, _ = grid
    end = low if side < 0 else low + num_intervals * step
    tiny = 1e-9 * step * num_intervals
    x = np.array([end - side * tiny, end + side * tiny])
    values, slopes = _features(x, grid, "linear", torch.float64)
    np.testing.assert_allclose(values[0], values[1], atol=1e-7)
    np.testing.assert_allclose(slopes[0] * step, slopes[1] * step, atol=1e-6)
    # Affine: any point beyond lies on the line through two others.
    x = end + side * step * np.array([0.0, distance, 2 * distance])
    values, slopes = _features(x, grid, "linear", torch.float64)
    np.testing.assert_allclose(values[1] * 2, values[0] + values[2], atol=1e-10 * (1 + distance))
    np.testing.assert_allclose(slopes[1] * step, slopes[2] * step, atol=1e-10)
    # The functions still sum to one, each being continued by its tangent.
    np.testing.assert_allclose(values.sum(-1), 1, atol=1e-10 * (1 + distance))


@given(grids(), st.floats(0.1, 1e6), st.sampled_from([-1, 1]))
def test_clamp_holds_the_value_at_the_end(
    grid: tuple[float, float, int, int], distance: float, side: int
) -> None:
    low, step, num_intervals, _ = grid
    end = low if side < 0 else low + num_intervals * step
    values, slopes = _features(
        np.array([end, end + side * step * distance]), grid, "clamp", torch.float64
    )
    np.testing.assert_allclose(values[0], values[1], atol=1e-12)
    assert (slopes[1] == 0).all()


@given(grids(), st.floats(1e-6, 1e6), st.sampled_from([-1, 1]))
def test_zero_runs_out_after_as_many_intervals_as_the_order(
    grid: tuple[float, float, int, int], distance: float, side: int
) -> None:
    low, step, num_intervals, order = grid
    end = low - order * step if side < 0 else low + (num_intervals + order) * step
    x = np.array([end + side * step * distance, end - side * step * 0.5])
    values, slopes = _features(x, grid, "zero", torch.float64)
    np.testing.assert_allclose(values[0], 0, atol=1e-13)
    np.testing.assert_allclose(slopes[0] * step, 0, atol=1e-13)
    assert values[1].max() > 0
