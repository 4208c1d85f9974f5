"""Averaged targets against exact posterior means, by many draws."""

import pytest
import torch

from helpers import seeded
from kan_diffusion.data.toys import make_toy
from kan_diffusion.formulas.averaged import draw_averaged
from kan_diffusion.processes import get_process

PROCESS = get_process("cosine").model_copy(update={"num_timesteps": 100})


def test_averages_of_a_few_points_are_right_because_the_source_is_among_them():
    """Of batches of three, one noised point each, so that all errors are independent."""
    density = make_toy("two-modes")
    points = density.sample(36_000, seeded())
    drawn = draw_averaged(points, PROCESS, 12_000, seeded(1), batch=3, num_noised=1)
    assert drawn.num_clean == 36_000
    levels = drawn.alpha, drawn.sigma

    def best(noised):
        mean = density.posterior_mean(noised, drawn.alpha[:, 0], drawn.sigma[:, 0])
        return PROCESS.prediction_of_mean(mean, noised, *levels)

    off = drawn.target - best(drawn.noised)
    for weight in (torch.ones_like(off), drawn.noised, drawn.noised**3, drawn.noised.tanh()):
        product = off * weight
        assert abs(float(product.mean())) < 4 * float(product.std()) / 12_000**0.5
    # What a single target has more of it is their distance.
    clean = density.sample(len(off), seeded(2))
    noise = torch.randn(clean.shape, generator=seeded(3), dtype=torch.float64)
    noised = drawn.alpha * clean + drawn.sigma * noise
    single = PROCESS.target(clean, noise, *levels) - best(noised)
    expected = float(single.square().mean())
    assert float(off.square().mean()) + drawn.spread == pytest.approx(expected, rel=0.06)
