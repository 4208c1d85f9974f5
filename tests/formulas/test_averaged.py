import pytest
import torch

from helpers import randn, seeded
from kan_diffusion.data.toys import make_toy
from kan_diffusion.formulas.averaged import draw_averaged
from kan_diffusion.processes import get_process

PROCESS = get_process("cosine").model_copy(update={"num_timesteps": 100})


def test_averages_are_near_what_is_best_and_single_targets_farther_by_their_spread():
    density, num = make_toy("two-modes"), 16_000
    drawn = draw_averaged(density.sample(20_000, seeded()), PROCESS, num, seeded(1))
    levels = drawn.alpha, drawn.sigma

    def best(noised):
        mean = density.posterior_mean(noised, drawn.alpha[:, 0], drawn.sigma[:, 0])
        return PROCESS.prediction_of_mean(mean, noised, *levels)

    off = drawn.target - best(drawn.noised)
    assert float(off.square().mean()) < drawn.spread / 50
    clean = density.sample(num, seeded(2))
    noise = randn(*clean.shape, seed=3)
    single = PROCESS.target(clean, noise, *levels)
    far = single - best(drawn.alpha * clean + drawn.sigma * noise)
    assert drawn.spread == pytest.approx(float(far.square().mean()), rel=0.06)


def test_every_point_is_as_often_the_source_and_in_no_batch_twice():
    points = torch.arange(10, dtype=torch.float64)[:, None] * 1e6
    drawn = draw_averaged(points, PROCESS, 40, seeded(), batch=4, num_timesteps=90)
    source = (drawn.noised / drawn.alpha / 1e6).round().long()[:, 0]
    assert torch.bincount(source).tolist() == [4] * 10
    for batch in source.split(4):
        assert len(batch.unique()) == 4
    # As far apart as they are, each is its own average.
    assert drawn.spread == pytest.approx(0.0, abs=1e-9)
    assert drawn.num_clean == 10
    assert draw_averaged(points, PROCESS, 3, seeded(), batch=2, num_noised=1).num_clean == 6


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_of_a_single_point_the_average_is_its_own_target(kind):
    process = PROCESS.model_copy(update={"prediction_type": kind})
    point = torch.tensor([[0.3, -1.2]])
    drawn = draw_averaged(point, process, 50, seeded())
    noise = (drawn.noised - drawn.alpha * point.double()) / drawn.sigma
    wanted = process.target(point.double().expand(50, 2), noise, drawn.alpha, drawn.sigma)
    torch.testing.assert_close(drawn.target, wanted)
    assert noise.std() == pytest.approx(1.0, abs=0.3)


def test_few_points_are_averaged_over_all_of_them():
    points = torch.tensor([[-1.0], [1.0], [4.0]])
    drawn = draw_averaged(points, PROCESS, 200, seeded())
    assert len(drawn.noised) == 200
    for row in range(0, 200, 17):
        a, s = drawn.alpha[row], drawn.sigma[row]
        weights = torch.exp(-((drawn.noised[row] - a * points[:, 0]) ** 2) / (2 * s**2)).double()
        mean = (weights * points[:, 0]).sum() / weights.sum()
        noise = (drawn.noised[row] - a * mean) / s
        torch.testing.assert_close(drawn.target[row], a * noise - s * mean, rtol=1e-6, atol=1e-8)
