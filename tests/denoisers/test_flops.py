import pytest

from kan_diffusion.denoisers import GatedDenoiser, KANDenoiser, MLPDenoiser, SplineMLPDenoiser

# Inputs of all: 2 coordinates and raw time; layers 3-4-5-2.
LINEAR = 3 * 4 + 4 * 5 + 5 * 2
HIDDEN = {"hidden": (4, 5), "time_encoding": "raw"}


# By edge, a KAN layer's edge of order k and G intervals costs 9 k (G + 1.5 k) + 2 G - 2.5 k + 3, as
# arXiv:2407.16674 counts it; the spline of a unit 4 less.
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
        "kan",
        "gated-mlp",
    ],
)
def test_a_small_network_counted_by_hand(denoiser, flops, flops_per_edge):
    assert (denoiser.flops, denoiser.flops_per_edge) == (flops, flops_per_edge)
    assert type(denoiser.flops) is type(denoiser.flops_per_edge) is int
