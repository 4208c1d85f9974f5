import pytest

from kan_diffusion.denoisers import GatedDenoiser, KANDenoiser, MLPDenoiser, SplineMLPDenoiser

# Inputs of all: 2 coordinates and raw time; layers 3-4-5-2.
LINEAR = 3 * 4 + 4 * 5 + 5 * 2
FIXED = {"learned_inputs": False, "learned_functions": False, "num_time_frequencies": 1}
HIDDEN = {"hidden": (4, 5), "time_encoding": "raw"}


@pytest.mark.parametrize(
    ("denoiser", "flops"),
    [
        # Functions of each input once: 4 pieces of 6, 3 for the cell, SiLU; an edge 2 x 5.
        (
            KANDenoiser(2, grid_size=5, **HIDDEN),
            LINEAR * 10 + (3 + 4 + 5) * (4 * 6 + 3 + 4) + (4 + 5 + 2),
        ),
        (MLPDenoiser(2, **HIDDEN), 2 * LINEAR + (4 + 5 + 2) + (4 + 5) * 4),
        # Four features more: an angle, a cosine and a sine for each coordinate.
        (
            MLPDenoiser(2, activation="relu", num_input_frequencies=1, **HIDDEN),
            2 * (LINEAR + 4 * 4) + (4 + 5 + 2) + (4 + 5) + 2 * 9,
        ),
        # No time at the input; 2 x 9 outputs of one feature and a bias, 3 a unit, 4 sums.
        (
            MLPDenoiser(2, residual=True, modulated=True, **HIDDEN),
            2 * (LINEAR - 4) + 11 + 9 * 4 + (2 * 18 + 18) + 3 * 9 + 4,
        ),
        (SplineMLPDenoiser(2, grid_size=6, **HIDDEN), 2 * LINEAR + 11 + 9 * 9),
        # Three functions of coordinates and time, two of time, one a unit; 8 and 10 values and
        # gates; a unit has 2 x 2 scales and shifts, a gate and a state.
        (
            GatedDenoiser(2, (4, 5), num_input_frequencies=1, rank=2),
            3 * 21 + 2 * 72 + 8 + 15 + (2 * 40 + 10) + (2 * 10 + 2) + (4 + 5) * (9 + 13),
        ),
        (
            GatedDenoiser(2, (4, 5), num_input_frequencies=1, rank=2, **FIXED),
            2 * (64 + 4 + 40 + 10) + (8 + 10 + 2) + 2 * 9 + (4 + 5) * (4 + 13),
        ),
    ],
    ids=["full-kan", "mlp", "fourier-inputs", "residual-modulated", "spline-mlp", "kan", "gated"],
)
def test_a_small_network_counted_by_hand(denoiser, flops):
    assert denoiser.flops == flops
    assert type(denoiser.flops) is int


def test_by_edge_one_costs_as_arxiv_2407_16674_counts_it():
    # 9 k (G + 1.5 k) + 2 G - 2.5 k + 3 of order k and G intervals.
    assert KANDenoiser(2, grid_size=5, **HIDDEN).flops_per_edge == LINEAR * 262 + (3 + 4 + 5) * 5
