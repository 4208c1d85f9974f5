"""Averaged targets against exact posterior means and against single targets, by many draws."""

import pytest
import torch

from helpers import seeded
from kan_diffusion.data.toys import make_toy
from kan_diffusion.processes import get_process
from kan_diffusion.symbolic.averaged import draw_averaged

PROCESS = get_process("cosine").model_copy(update={"num_timesteps": 100})
USED = 90


def _best(density, drawn, noised, process=PROCESS):
    """The best prediction at points of the levels of a draw."""
    mean = density.posterior_mean(noised, drawn.alpha[:, 0], drawn.sigma[:, 0])
    return process.prediction_of_mean(mean, noised, drawn.alpha, drawn.sigma)


def _single(density, drawn, generator, process=PROCESS):
    """Distances of single targets from what is best, at the levels of a draw."""
    clean = density.sample(len(drawn.noised), generator)
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    noised = drawn.alpha * clean + drawn.sigma * noise
    target = process.target(clean, noise, drawn.alpha, drawn.sigma)
    return target - _best(density, drawn, noised, process)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_averages_have_the_mean_of_single_targets_and_a_small_part_of_their_variance(kind):
    process = PROCESS.model_copy(update={"prediction_type": kind})
    density = make_toy("two-modes")
    points = density.sample(100_000, seeded())
    drawn = draw_averaged(points, process, 20_000, seeded(1), num_timesteps=USED)
    assert int(drawn.timesteps.max()) == USED - 1
    off = drawn.target - _best(density, drawn, drawn.noised, process)
    single = _single(density, drawn, seeded(2), process)
    assert float(off.square().mean()) < float(single.square().mean()) / 50
    # The same mean everywhere: nothing is left of either side, sign or size of the points.
    for weight in (torch.ones_like(off), drawn.noised, drawn.noised.abs(), drawn.noised.tanh()):
        product = off * weight
        # Points of a batch share their errors, so there are as many of them as batches.
        of_batches = torch.stack([part.mean() for part in product.split(2048)[:9]])
        assert abs(float(of_batches.mean())) < 4 * float(of_batches.std()) / 3


def test_averages_of_a_few_points_are_right_because_the_source_is_among_them():
    """Of batches of three, one noised point each, so that all errors are independent."""
    density = make_toy("two-modes")
    points = density.sample(36_000, seeded())
    drawn = draw_averaged(points, PROCESS, 12_000, seeded(1), batch=3, num_noised=1)
    assert drawn.num_clean == 36_000
    off = drawn.target - _best(density, drawn, drawn.noised)
    for weight in (torch.ones_like(off), drawn.noised, drawn.noised**3, drawn.noised.tanh()):
        product = off * weight
        assert abs(float(product.mean())) < 4 * float(product.std()) / 12_000**0.5
    # What a single target has more of it is their distance.
    single = _single(density, drawn, seeded(2))
    expected = float(single.square().mean())
    assert float(off.square().mean()) + drawn.spread == pytest.approx(expected, rel=0.06)
