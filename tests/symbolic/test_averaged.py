"""Averaged targets against exact posterior means and against single targets."""

from __future__ import annotations

import pytest
import torch

from helpers import seeded
from kan_diffusion.data.densities import Density
from kan_diffusion.data.toys import make_toy
from kan_diffusion.processes import Process, get_process
from kan_diffusion.symbolic.averaged import AveragedPoints, draw_averaged

PROCESS = get_process("cosine").model_copy(update={"num_timesteps": 100})
USED = 90


def _best(
    density: Density, drawn: AveragedPoints, noised: torch.Tensor, process: Process = PROCESS
) -> torch.Tensor:
    """The best prediction at points of the levels of a draw."""
    mean = density.posterior_mean(noised, drawn.alpha[:, 0], drawn.sigma[:, 0])
    return process.prediction_of_mean(mean, noised, drawn.alpha, drawn.sigma)


def _single(
    density: Density, drawn: AveragedPoints, generator: torch.Generator, process: Process = PROCESS
) -> torch.Tensor:
    """Distances of single targets from what is best, at the levels of a draw."""
    clean = density.sample(len(drawn.noised), generator)
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    noised = drawn.alpha * clean + drawn.sigma * noise
    target = process.target(clean, noise, drawn.alpha, drawn.sigma)
    return target - _best(density, drawn, noised, process)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_averages_have_the_mean_of_single_targets_and_a_small_part_of_their_variance(kind) -> None:
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


def test_averages_of_a_few_points_are_right_because_the_source_is_among_them() -> None:
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


def test_every_point_is_as_often_the_source_and_in_no_batch_twice() -> None:
    points = torch.arange(10, dtype=torch.float64)[:, None] * 1e6
    drawn = draw_averaged(points, PROCESS, 40, seeded(), batch=4, num_timesteps=USED)
    source = (drawn.noised / drawn.alpha / 1e6).round().long()[:, 0]
    assert torch.bincount(source).tolist() == [4] * 10
    for batch in source.split(4):
        assert len(batch.unique()) == 4
    # As far apart as they are, each is its own average.
    assert drawn.spread == pytest.approx(0.0, abs=1e-9)
    assert drawn.num_clean == 10


def test_of_a_single_point_the_average_is_its_own_target() -> None:
    point = torch.tensor([[0.3, -1.2]])
    drawn = draw_averaged(point, PROCESS, 50, seeded())
    noise = (drawn.noised - drawn.alpha * point.double()) / drawn.sigma
    wanted = PROCESS.target(point.double().expand(50, 2), noise, drawn.alpha, drawn.sigma)
    torch.testing.assert_close(drawn.target, wanted)
    assert noise.std() == pytest.approx(1.0, abs=0.3)


def test_few_points_are_averaged_over_all_of_them() -> None:
    points = torch.tensor([[-1.0], [1.0], [4.0]])
    drawn = draw_averaged(points, PROCESS, 200, seeded())
    assert len(drawn.noised) == 200
    for row in range(0, 200, 17):
        a, s = drawn.alpha[row], drawn.sigma[row]
        weights = torch.exp(-((drawn.noised[row] - a * points[:, 0]) ** 2) / (2 * s**2)).double()
        mean = (weights * points[:, 0]).sum() / weights.sum()
        noise = (drawn.noised[row] - a * mean) / s
        torch.testing.assert_close(drawn.target[row], a * noise - s * mean, rtol=1e-6, atol=1e-8)
