import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from exact_denoiser import ExactDenoiser
from helpers import seeded
from kan_diffusion.data.datasets import Dataset, ToyData, load_dataset
from kan_diffusion.evaluation.denoising import draw_noised_points, measure_denoising
from kan_diffusion.processes import Process, get_process

each_kind = pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow"])


class ZeroPredictor(ExactDenoiser):
    """Predicts zero."""

    def forward(self, sample, *_, **__):
        return (torch.zeros_like(sample),)


def _process(kind="v_prediction", **other):
    schedule = "flow" if kind == "flow" else "squaredcos_cap_v2"
    return Process(name="x", schedule=schedule, prediction_type=kind, **other)


@pytest.fixture(scope="module")
def toy():
    return load_dataset(ToyData(toy="gaussian-mixture", num_points=10), 0, 0)


@each_kind
@pytest.mark.parametrize("offset", [0.0, -3.0])
def test_an_offset_of_the_noise_has_its_square_as_excess(toy, kind, offset):
    process = _process(kind)
    draw = draw_noised_points(toy, process, 500, seeded())
    scores = measure_denoising(ExactDenoiser(process, toy.density, offset=offset), draw, process)
    assert scores.excess == pytest.approx(offset**2, rel=1e-8, abs=1e-10)
    assert scores.excess >= 0
    assert scores.excess_se < 1e-7
    levels = [level.excess for level in scores.levels]
    assert levels == pytest.approx([offset**2] * len(levels), rel=1e-8, abs=1e-10)
    assert scores.floor > 0.01
    if not offset:  # the oracle has the floor as its loss
        assert scores.heldout_loss == pytest.approx(scores.floor, rel=1e-9)


def test_loss_is_floor_plus_excess_in_squared_error(toy):
    process = _process("epsilon")
    num, offset = 20_000, 0.5
    draw = draw_noised_points(toy, process, num, seeded())
    scores = measure_denoising(ExactDenoiser(process, toy.density, offset=offset), draw, process)
    # The cross term 2 c (eps - E eps) has mean 0; its standard error per coordinate mean:
    error = 2 * offset * scores.floor**0.5 / num**0.5
    assert abs(scores.heldout_loss - scores.floor - scores.excess) < 4.5 * error


def test_draw_is_shared_and_every_timestep_equally_frequent(toy):
    process = _process()
    first, second = (draw_noised_points(toy, process, 3000, seeded(3)) for _ in range(2))
    assert torch.equal(first.noised, second.noised)
    assert torch.equal(torch.bincount(first.timesteps), torch.full((1000,), 3))
    assert first.oracle == "exact"
    # The oracle judges the float32 points that networks see.
    assert torch.equal(first.noised, first.noised.float().double())
    expected = first.alpha[:, None] * first.clean + first.sigma[:, None] * first.noise
    torch.testing.assert_close(first.noised, expected, rtol=1e-6, atol=1e-6)


def test_levels_average_to_the_total_and_find_the_error(toy):
    process = _process("epsilon")
    draw = draw_noised_points(toy, process, 1000, seeded())
    denoiser = ExactDenoiser(process, toy.density, offset=2.0, until=250)
    scores = measure_denoising(denoiser, draw, process, num_levels=10)
    assert len(scores.levels) == 10
    levels = [level.excess for level in scores.levels]
    assert sum(levels) / 10 == pytest.approx(scores.excess, rel=1e-12)
    assert levels == pytest.approx([4, 4, 2] + [0] * 7, abs=1e-9)
    assert scores.excess == pytest.approx(1.0)
    snr = [level.log_snr for level in scores.levels]
    assert snr == sorted(snr, reverse=True)
    assert [level.t_low for level in scores.levels] == pytest.approx([i / 10 for i in range(10)])


def test_losses_by_level_average_to_the_total(toy):
    process = _process("v_prediction")
    draw = draw_noised_points(toy, process, 1000, seeded())
    scores = measure_denoising(ZeroPredictor(process, toy.density), draw, process, num_levels=4)
    losses = [level.heldout_loss for level in scores.levels]
    assert np.mean(losses) == pytest.approx(scores.heldout_loss, rel=1e-12)
    # Of predicting zero the loss is the mean square of what is to be predicted.
    target = draw.alpha[:, None] * draw.noise - draw.sigma[:, None] * draw.clean
    expected = target.square().mean(1).view(4, 250).mean(1)
    assert losses == pytest.approx(expected.tolist(), rel=1e-9)


@pytest.mark.parametrize(("kind", "loss"), [("epsilon", "huber"), ("flow", "mse")])
def test_without_an_oracle_there_is_the_loss_alone(toy, kind, loss):
    """The same points as with an exact oracle have the same loss, in total and by level."""
    process = _process(kind, loss=loss)
    heldout = toy.density.sample(60, seeded(3))
    rows = Dataset(toy.name, toy.columns, toy.standardizer, toy.train, None, heldout)
    assert rows.oracle == "none"
    draw = draw_noised_points(rows, process, 600, seeded())
    assert draw.oracle == "none"
    assert draw.mean is None
    mean = toy.density.posterior_mean(draw.noised, draw.alpha, draw.sigma)
    known = replace(draw, mean=mean)
    denoiser = ExactDenoiser(process, toy.density, offset=0.3)
    without, with_oracle = (measure_denoising(denoiser, d, process) for d in (draw, known))
    assert without.heldout_loss == with_oracle.heldout_loss
    assert (without.floor, without.excess, without.excess_se) == (None, None, None)
    assert with_oracle.excess == pytest.approx(0.09, rel=1e-6)
    blank = [replace(level, excess=None, standard_error=None) for level in with_oracle.levels]
    assert list(without.levels) == blank
    assert len(blank) == 10


def test_levels_with_a_single_point_are_left_out(toy):
    process = _process()
    draw = draw_noised_points(toy, process, 10, seeded())
    scores = measure_denoising(ExactDenoiser(process, toy.density), draw, process, num_levels=10)
    assert scores.levels == ()
    scores = measure_denoising(ExactDenoiser(process, toy.density), draw, process, num_levels=5)
    assert len(scores.levels) == 5
    assert all(math.isfinite(level.standard_error) for level in scores.levels)


def test_huber_floor_of_the_seeds_experiment():
    """The posterior mean scores 0.293 there (standard error 0.002), predicting zero 0.42."""
    process = get_process("notebook")
    data = ToyData(toy="swiss-roll", noise=0.2, num_points=10, divide_by=10)
    dataset = load_dataset(data, 0, 0)
    draw = draw_noised_points(dataset, process, 20_000, seeded())
    scores = measure_denoising(ZeroPredictor(process, dataset.density), draw, process)
    assert scores.floor == pytest.approx(0.293, abs=4 * 0.002)

    def huber(z):
        return (z * z / 2 if abs(z) < 1 else abs(z) - 0.5) * float(stats.norm.pdf(z))

    expected = 2 * sum(integrate.quad(huber, *ends)[0] for ends in ((0, 1), (1, 12)))
    assert expected == pytest.approx(0.42, abs=0.005)
    assert scores.heldout_loss == pytest.approx(expected, abs=4 * 0.002)
