from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kan_diffusion.denoisers import (
    Denoiser,
    GatedDenoiser,
    KANDenoiser,
    MLPDenoiser,
    RBF2015Denoiser,
    SplineMLPDenoiser,
)
from kan_diffusion.denoisers.flops import kan_flops_per_edge, spline_flops_per_edge
from kan_diffusion.kan import KAN

# Inputs of all: 2 coordinates and raw time; layers 3-4-5-2.
LINEAR = 3 * 4 + 4 * 5 + 5 * 2
HIDDEN = {"hidden": (4, 5), "time_encoding": "raw"}


@given(st.integers(1, 60), st.integers(1, 5))
def test_a_spline_costs_its_recursion_and_its_sum(num_intervals: int, order: int) -> None:
    # The recursion has G + 2K - k values of degree k, each for 9; the sum has G + K terms.
    values = sum(num_intervals + 2 * order - degree for degree in range(1, order + 1))
    expected = 9 * values + 2 * (num_intervals + order) - 1
    assert spline_flops_per_edge(num_intervals, order) == expected


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 20), st.integers(1, 5))
def test_a_spline_layer_costs_what_the_paper_says(
    inputs: int, outputs: int, grid: int, order: int
) -> None:
    layers = KAN([inputs, outputs], grid_size=grid, order=order).layers
    edge = 9 * order * (grid + 1.5 * order) + 2 * grid - 2.5 * order + 3
    assert kan_flops_per_edge(layers) == 5 * inputs + inputs * outputs * edge
    bare = KAN([inputs, outputs], grid_size=grid, order=order, base_activation=None).layers
    assert kan_flops_per_edge(bare) == inputs * outputs * (edge - 2)


@pytest.mark.parametrize(
    ("basis", "evaluate", "functions", "base"),
    [
        ("rbf", 7 * 5, 5, 2),
        ("chebyshev", 3 * 4 + 2, 5, 0),
        ("fourier", 9 * 4 + 2, 8, 0),
        ("rational", 2 * 9 + 6, 1, 0),
    ],
)
def test_an_edge_of_another_basis_evaluates_its_functions(
    basis: str, evaluate: int, functions: int, base: int
) -> None:
    layers = KAN([3, 4], basis=basis, grid_size=4).layers
    edge = evaluate + 2 * functions - 1 + 2 + base
    assert kan_flops_per_edge(layers) == 3 * 4 * edge + (5 * 3 if base else 0)


@pytest.mark.parametrize(
    ("denoiser", "flops", "flops_per_edge"),
    [
        (
            # Functions of each input once: 4 pieces of 6, 3 for the cell, SiLU; an edge 2 x 5.
            KANDenoiser(2, grid_size=5, **HIDDEN),
            LINEAR * 10 + (3 + 4 + 5) * (4 * 6 + 3 + 4) + (4 + 5 + 2),
            LINEAR * 262 + (3 + 4 + 5) * 5,  # 27 (5 + 4.5) + 10 - 7.5 + 3
        ),
        (
            MLPDenoiser(2, **HIDDEN),
            2 * LINEAR + (4 + 5 + 2) + (4 + 5) * 4,
            2 * LINEAR + (4 + 5) * 5,
        ),
        (
            MLPDenoiser(2, activation="relu", num_input_frequencies=1, **HIDDEN),
            # Four features more: an angle, a cosine and a sine for each coordinate.
            2 * (LINEAR + 4 * 4) + (4 + 5 + 2) + (4 + 5) + 2 * 9,
            2 * (LINEAR + 4 * 4) + (4 + 5) + 2 * 9,
        ),
        (
            MLPDenoiser(2, residual=True, modulated=True, **HIDDEN),
            # No time at the input; 2 x 9 outputs of one feature and a bias, 3 a unit, 4 sums.
            2 * (LINEAR - 4) + 11 + 9 * 4 + (2 * 18 + 18) + 3 * 9 + 4,
            2 * (LINEAR - 4) + 9 * 5 + (2 * 18 + 18) + 3 * 9 + 4,
        ),
        (
            SplineMLPDenoiser(2, grid_size=6, **HIDDEN),
            2 * LINEAR + 11 + 9 * 9,
            2 * LINEAR + 9 * 287,  # 27 (6 + 4.5) + 12 - 7.5 - 1
        ),
        (
            RBF2015Denoiser(2, hidden=(4, 5)),
            4 * (6 + 7) + 4 + 2 * 4 * 5 * 2 + 5 * 2 + 3 * 2,
            4 * (6 + 7) + 4 + 2 * 4 * 5 * 2 + 5 * 2 + 3 * 2,
        ),
        (
            # Three functions of coordinates and time, two of time, one a unit; 8 and 10 values and
            # gates; a unit has 2 x 2 scales and shifts, a gate and a state.
            GatedDenoiser(2, (4, 5), num_input_frequencies=1, rank=2),
            3 * 21 + 2 * 72 + 8 + 15 + (2 * 40 + 10) + (2 * 10 + 2) + (4 + 5) * (9 + 13),
            # 27 (16 + 4.5) + 32 - 7.5 - 1 and 27 (8 + 4.5) + 16 - 7.5 - 1
            (9 + 2) * 577 + 2 * (72 + 40 + 10) + (4 + 5) * (345 + 13),
        ),
        (
            GatedDenoiser(
                2,
                (4, 5),
                learned_inputs=False,
                learned_functions=False,
                num_input_frequencies=1,
                num_time_frequencies=1,
                rank=2,
            ),
            2 * (64 + 4 + 40 + 10) + (8 + 10 + 2) + 2 * 9 + (4 + 5) * (4 + 13),
            2 * (64 + 4 + 40 + 10) + 2 * 9 + (4 + 5) * (5 + 13),
        ),
    ],
    ids=[
        "full-kan",
        "mlp",
        "mlp-fourier-inputs",
        "residual-modulated-mlp",
        "spline-mlp",
        "rbf-2015",
        "kan",
        "gated-mlp",
    ],
)
def test_a_small_network_counted_by_hand(
    denoiser: Denoiser, flops: int, flops_per_edge: int
) -> None:
    assert (denoiser.flops, denoiser.flops_per_edge) == (flops, flops_per_edge)
    assert type(denoiser.flops) is type(denoiser.flops_per_edge) is int
