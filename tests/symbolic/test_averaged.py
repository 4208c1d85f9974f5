"""Averaged targets against exact posterior means and against single targets."""

from __future__ import annotations

import pytest
import torch

from kan_diffusion.data.toys import make_toy
from kan_diffusion.evaluation.oracles import ExactOracle
from kan_diffusion.processes import get_process
from kan_diffusion.symbolic.averaged import draw_averaged

PROCESS = get_process("cosine").model_copy(update={"num_timesteps": 100})
USED = 90


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_averages_have_the_mean_of_single_targets_and_a_small_part_of_their_variance(kind) -> None:
    process = PROCESS.model_copy(update={"prediction_type": kind})
    density = make_toy("two-modes")
    points = density.sample(100_000, _generator())
    drawn = draw_averaged(points, process, 20_000, _generator(1), num_timesteps=USED)
    assert int(drawn.timesteps.max()) == USED - 1
    alpha, sigma = drawn.alpha[:, 0], drawn.sigma[:, 0]
    mean = ExactOracle(density).posterior_mean(drawn.noised, alpha, sigma)
    exact = process.prediction_of_mean(mean, drawn.noised, drawn.alpha, drawn.sigma)
    off = drawn.target - exact
    generator = _generator(2)
    clean = density.sample(20_000, generator)
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    noised = drawn.alpha * clean + drawn.sigma * noise
    mean = ExactOracle(density).posterior_mean(noised, alpha, sigma)
    single = process.target(clean, noise, drawn.alpha, drawn.sigma)
    single = single - process.prediction_of_mean(mean, noised, drawn.alpha, drawn.sigma)
    assert float(off.square().mean()) < float(single.square().mean()) / 50
    # The same mean everywhere: nothing is left of either side, sign or size of the points.
    for weight in (torch.ones_like(off), drawn.noised, drawn.noised.abs(), drawn.noised.tanh()):
        product = off * weight
        # Points of a batch share their errors, so there are as many of them as batches.
        of_batches = torch.stack([part.mean() for part in product.split(2048)[:9]])
        assert abs(float(of_batches.mean())) < 4 * float(of_batches.std()) / 3


def test_of_a_single_point_the_average_is_its_own_target() -> None:
    point = torch.tensor([[0.3, -1.2]])
    drawn = draw_averaged(point, PROCESS, 50, _generator())
    noise = (drawn.noised - drawn.alpha * point.double()) / drawn.sigma
    wanted = PROCESS.target(point.double().expand(50, 2), noise, drawn.alpha, drawn.sigma)
    torch.testing.assert_close(drawn.target, wanted)
    assert noise.std() == pytest.approx(1.0, abs=0.3)


def test_few_points_are_averaged_over_all_of_them() -> None:
    points = torch.tensor([[-1.0], [1.0], [4.0]])
    drawn = draw_averaged(points, PROCESS, 200, _generator())
    assert len(drawn.noised) == 200
    for row in range(0, 200, 17):
        a, s = drawn.alpha[row], drawn.sigma[row]
        weights = torch.exp(-((drawn.noised[row] - a * points[:, 0]) ** 2) / (2 * s**2)).double()
        mean = (weights * points[:, 0]).sum() / weights.sum()
        noise = (drawn.noised[row] - a * mean) / s
        torch.testing.assert_close(drawn.target[row], a * noise - s * mean, rtol=1e-6, atol=1e-8)
