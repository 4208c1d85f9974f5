import math
from dataclasses import replace

import pytest
import torch

from exact_denoiser import ExactDenoiser
from helpers import seeded
from kan_diffusion.data.sources import load_dataset
from kan_diffusion.data.toys import ToyData
from kan_diffusion.evaluation.denoising import draw_noised_points, floor, measure_denoising
from kan_diffusion.pictures.scenes import SceneOracle
from kan_diffusion.pictures.sources import ShapesData
from kan_diffusion.processes import get_process
from make import process


class Zero:
    """Predicts zero."""

    device, dtype = torch.device("cpu"), torch.float64

    def __call__(self, sample, *_, **__):
        return (torch.zeros_like(sample),)

    def require_process(self, _):
        """Predicts it of every process."""


@pytest.fixture(scope="module")
def toy():
    return load_dataset(ToyData(toy="gaussian-mixture", num_points=10), 0, 0)


@pytest.mark.parametrize("offset", [0.0, -3.0])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow"])
def test_an_offset_of_the_noise_has_its_square_as_excess(toy, kind, offset):
    given = get_process("flow") if kind == "flow" else process(kind)
    draw = draw_noised_points(toy, given, 500, seeded())
    scores = measure_denoising(ExactDenoiser(given, toy.density, offset=offset), draw, given)
    assert scores.excess == pytest.approx(offset**2, rel=1e-8, abs=1e-10)
    assert scores.excess >= 0
    assert scores.excess_se < 1e-7
    assert scores.floor > 0.01
    if not offset:  # the oracle has the floor as its loss
        assert scores.heldout_loss == pytest.approx(scores.floor, rel=1e-9)


def test_levels_average_to_the_total_and_find_the_error(toy):
    given, num = process("epsilon"), 20_000
    draw = draw_noised_points(toy, given, num, seeded())
    denoiser = ExactDenoiser(given, toy.density, offset=2.0, until=25)
    scores = measure_denoising(denoiser, draw, given, num_levels=10)
    levels = [level.excess for level in scores.levels]
    assert levels == pytest.approx([4, 4, 2] + [0] * 7, abs=1e-9)
    assert scores.excess == pytest.approx(1.0)
    # A quarter of the squared errors are 4, and the others 0: their standard deviation is sqrt(3).
    assert scores.excess_se == pytest.approx((3 / num) ** 0.5, rel=1e-3)
    losses = [level.heldout_loss for level in scores.levels]
    assert sum(losses) / 10 == pytest.approx(scores.heldout_loss, rel=1e-12)
    snr = [level.log_snr for level in scores.levels]
    assert snr == sorted(snr, reverse=True)
    assert [level.t_low for level in scores.levels] == pytest.approx([i / 10 for i in range(10)])
    # Loss is floor plus excess. The cross term 2 c (eps - E eps) has mean 0 and the standard error:
    error = 2 * 2.0 * scores.floor**0.5 / num**0.5
    assert abs(scores.heldout_loss - scores.floor - scores.excess) < 4.5 * error
    # Levels with a single point are left out.
    draw = draw_noised_points(toy, given, 10, seeded())
    assert measure_denoising(denoiser, draw, given, num_levels=10).levels == ()
    levels = measure_denoising(denoiser, draw, given, num_levels=5).levels
    assert len(levels) == 5
    assert all(math.isfinite(level.standard_error) for level in levels)


def test_a_draw_is_shared_and_every_timestep_equally_frequent(toy):
    given = process()
    first, second = (draw_noised_points(toy, given, 3000, seeded(3)) for _ in range(2))
    assert torch.equal(first.noised, second.noised)
    assert torch.equal(torch.bincount(first.timesteps), torch.full((100,), 30))
    # The oracle judges the float32 points that networks see.
    assert torch.equal(first.noised, first.noised.float().double())
    expected = first.alpha[:, None] * first.clean + first.sigma[:, None] * first.noise
    torch.testing.assert_close(first.noised, expected, rtol=1e-6, atol=1e-6)
    # Of predicting zero the loss is the mean square of what is to be predicted.
    scores = measure_denoising(Zero(), first, given)
    target = first.alpha[:, None] * first.noise - first.sigma[:, None] * first.clean
    assert scores.heldout_loss == pytest.approx(float(target.square().mean()), rel=1e-9)


@pytest.mark.parametrize("prompted", [False, True])
def test_pictures_are_held_out_ones_with_their_exact_means(prompted):
    scenes = load_dataset(ShapesData(num_pictures=40, holdout=0.9))
    if not prompted:
        scenes.heldout_labels["caption"] = ""
    draw = draw_noised_points(scenes, process(), 60, seeded())
    assert scenes.oracle == "exact"
    assert sorted(draw.rows.bincount().tolist()) == [1] * 12 + [2] * 24
    assert torch.equal(draw.clean, scenes.heldout[draw.rows].double())
    captions = scenes.heldout_labels["caption"][draw.rows.tolist()] if prompted else None
    given = draw.noised, draw.alpha, draw.sigma, captions
    torch.testing.assert_close(draw.mean, SceneOracle(16).posterior_mean(*given))
    alpha, sigma = (level.view(60, 1, 1, 1) for level in (draw.alpha, draw.sigma))
    off = sigma * draw.noised - (draw.noised - alpha * draw.mean) / sigma
    scores = measure_denoising(Zero(), draw, process())
    assert scores.excess == pytest.approx(float(off.square().mean()), rel=1e-9)


@pytest.mark.parametrize(("kind", "loss"), [("epsilon", "huber"), ("flow", "mse")])
def test_without_an_oracle_there_is_the_loss_alone(toy, kind, loss):
    given = get_process("flow") if kind == "flow" else process(kind, loss=loss)
    heldout = toy.density.sample(60, seeded(3))
    rows = replace(toy, density=None, heldout=heldout)
    draw = draw_noised_points(rows, given, 600, seeded())
    assert rows.oracle == "none"
    known = replace(draw, mean=toy.density.posterior_mean(draw.noised, draw.alpha, draw.sigma))
    denoiser = ExactDenoiser(given, toy.density, offset=0.3)
    without, with_oracle = (measure_denoising(denoiser, d, given) for d in (draw, known))
    assert without.heldout_loss == with_oracle.heldout_loss
    assert (without.floor, without.excess, without.excess_se) == (None, None, None)
    assert with_oracle.excess == pytest.approx(0.09, rel=1e-6)
    blank = [replace(level, excess=None, standard_error=None) for level in with_oracle.levels]
    assert list(without.levels) == blank


def test_the_floor_of_the_notebooks_experiment_is_what_was_measured_there():
    given = get_process("notebook")
    data = ToyData(toy="swiss-roll", noise=0.2, num_points=10, divide_by=10)
    draw = draw_noised_points(load_dataset(data, 0, 0), given, 20_000, seeded())
    assert floor(draw, given) == pytest.approx(0.293, abs=4 * 0.002)  # its standard error
