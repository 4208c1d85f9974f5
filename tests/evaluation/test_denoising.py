from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor, nn

from exact_denoiser import ExactDenoiser
from helpers import seeded
from kan_diffusion.data.datasets import Dataset, PictureData, TableData, ToyData, load_dataset
from kan_diffusion.data.densities import GaussianMixture
from kan_diffusion.evaluation.denoising import (
    draw_noised_points,
    measure_denoising,
)
from kan_diffusion.evaluation.oracles import SceneOracle
from kan_diffusion.processes import Process, expand, get_process, noise_of_mean

each_kind = pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow"])


class ZeroPredictor(ExactDenoiser):
    """Predicts zero."""

    def forward(self, sample: Tensor, *_: object, **__: object) -> tuple[Tensor]:
        return (torch.zeros_like(sample),)


def _process(kind: str = "v_prediction", **other: object) -> Process:
    schedule = "flow" if kind == "flow" else "squaredcos_cap_v2"
    return Process(name="x", schedule=schedule, prediction_type=kind, **other)


@pytest.fixture(scope="module")
def toy() -> Dataset:
    return load_dataset(ToyData(toy="gaussian-mixture", num_points=10), 0, 0)


@pytest.fixture(scope="module")
def by_references(toy: Dataset) -> Dataset:
    """The same density as if it came from a file: nothing but rows."""
    heldout, first, second = toy.density.sample(17_000, seeded(5)).split([1000, 8000, 8000])
    return Dataset(
        toy.name, toy.columns, toy.standardizer, toy.train, None, heldout, (first, second)
    )


@each_kind
def test_oracle_has_no_excess_and_the_floor_as_loss(toy: Dataset, kind: str) -> None:
    process = _process(kind)
    draw = draw_noised_points(toy, process, 500, seeded())
    scores = measure_denoising(ExactDenoiser(process, toy.density), draw, process)
    assert 0 <= scores.excess < 1e-10
    assert scores.heldout_loss == pytest.approx(scores.floor, rel=1e-9)
    assert scores.floor > 0.01


@each_kind
@pytest.mark.parametrize("offset", [0.1, -3.0])
def test_constant_offset_of_the_noise_has_its_square_as_excess(
    toy: Dataset, kind: str, offset: float
) -> None:
    process = _process(kind)
    draw = draw_noised_points(toy, process, 500, seeded())
    scores = measure_denoising(ExactDenoiser(process, toy.density, offset=offset), draw, process)
    assert scores.excess == pytest.approx(offset**2, rel=1e-8)
    assert scores.excess_se < 1e-7
    assert all(level.excess == pytest.approx(offset**2, rel=1e-8) for level in scores.levels)


def test_loss_is_floor_plus_excess_in_squared_error(toy: Dataset) -> None:
    process = _process("epsilon")
    num, offset = 20_000, 0.5
    draw = draw_noised_points(toy, process, num, seeded())
    scores = measure_denoising(ExactDenoiser(process, toy.density, offset=offset), draw, process)
    # The cross term 2 c (eps - E eps) has mean 0; its standard error per coordinate mean:
    error = 2 * offset * scores.floor**0.5 / num**0.5
    assert abs(scores.heldout_loss - scores.floor - scores.excess) < 4.5 * error


def test_draw_is_shared_and_every_timestep_equally_frequent(toy: Dataset) -> None:
    process = _process()
    first, second = (draw_noised_points(toy, process, 3000, seeded(3)) for _ in range(2))
    assert torch.equal(first.noised, second.noised)
    assert torch.equal(torch.bincount(first.timesteps), torch.full((1000,), 3))
    assert first.oracle == "exact"
    # The oracle judges the float32 points that networks see.
    assert torch.equal(first.noised, first.noised.float().double())
    expected = first.alpha[:, None] * first.clean + first.sigma[:, None] * first.noise
    torch.testing.assert_close(first.noised, expected, rtol=1e-6, atol=1e-6)


def test_levels_average_to_the_total_and_find_the_error(toy: Dataset) -> None:
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


def test_losses_by_level_average_to_the_total(toy: Dataset) -> None:
    process = _process("v_prediction")
    draw = draw_noised_points(toy, process, 1000, seeded())
    scores = measure_denoising(ZeroPredictor(process, toy.density), draw, process, num_levels=4)
    losses = [level.heldout_loss for level in scores.levels]
    assert np.mean(losses) == pytest.approx(scores.heldout_loss, rel=1e-12)
    # Of predicting zero the loss is the mean square of what is to be predicted.
    target = draw.alpha[:, None] * draw.noise - draw.sigma[:, None] * draw.clean
    expected = target.square().mean(1).view(4, 250).mean(1)
    assert losses == pytest.approx(expected.tolist(), rel=1e-9)


@pytest.mark.parametrize("loss", ["mse", "huber"])
@each_kind
def test_without_an_oracle_there_is_the_loss_alone(toy: Dataset, kind: str, loss: str) -> None:
    """The same points as with an exact oracle have the same loss, in total and by level."""
    process = _process(kind, loss=loss)
    heldout = toy.density.sample(60, seeded(3))
    rows = Dataset(toy.name, toy.columns, toy.standardizer, toy.train, None, heldout)
    assert rows.oracle == "none"
    draw = draw_noised_points(rows, process, 600, seeded())
    assert draw.oracle == "none"
    assert draw.means == ()
    mean = toy.density.posterior_mean(draw.noised, draw.alpha, draw.sigma)
    known = replace(draw, means=(mean,))
    denoiser = ExactDenoiser(process, toy.density, offset=0.3)
    without, with_oracle = (measure_denoising(denoiser, d, process) for d in (draw, known))
    assert without.heldout_loss == with_oracle.heldout_loss
    assert (without.floor, without.excess, without.excess_se) == (None, None, None)
    assert with_oracle.excess == pytest.approx(0.09, rel=1e-6)
    blank = [replace(level, excess=None, standard_error=None) for level in with_oracle.levels]
    assert list(without.levels) == blank
    assert len(blank) == 10


def test_rows_of_a_table_are_noised_many_times() -> None:
    process = _process()
    dataset = load_dataset(TableData(table="iris"), 0, 0)
    draw = draw_noised_points(dataset, process, 4500, seeded())
    density = GaussianMixture(torch.zeros(1, 4), variances=1.0)
    scores = measure_denoising(ExactDenoiser(process, density), draw, process)
    assert scores.excess is None
    # The best denoiser of a standard normal predicts v = 0, whatever it is given.
    target = draw.alpha[:, None] * draw.noise - draw.sigma[:, None] * draw.clean
    assert scores.heldout_loss == pytest.approx(float(target.square().mean()), rel=1e-6)


def test_standard_error_is_that_of_repeated_draws(toy: Dataset) -> None:
    process = _process("epsilon", num_timesteps=50)
    # An error that varies from row to row: predicting zero.
    denoiser = ZeroPredictor(process, toy.density)
    scores = [
        measure_denoising(denoiser, draw_noised_points(toy, process, 400, seeded(seed)), process)
        for seed in range(60)
    ]
    excesses = torch.tensor([score.excess for score in scores])
    claimed = sum(score.excess_se for score in scores) / 60
    # Timesteps are stratified in a draw, which the claimed error leaves out: it may be too large.
    assert 0.6 < float(excesses.std()) / claimed < 1.3


def test_two_references_are_free_of_their_variance(toy: Dataset, by_references: Dataset) -> None:
    process = _process("epsilon")
    num = 2000
    draw = draw_noised_points(by_references, process, num, seeded())
    assert draw.oracle == "estimated"
    oracle = ExactDenoiser(process, toy.density)
    scores = measure_denoising(oracle, draw, process)
    assert abs(scores.excess) < 4 * scores.excess_se
    # One reference sample alone would charge the oracle for the sample's variance.
    naive = measure_denoising(oracle, replace(draw, means=draw.means[:1]), process)
    assert naive.excess > 4 * abs(scores.excess)


def test_two_reference_floor_agrees_with_the_exact_one(
    toy: Dataset, by_references: Dataset
) -> None:
    process = _process("epsilon")
    draw = draw_noised_points(by_references, process, 2000, seeded())
    levels = draw.alpha, draw.sigma
    exact, first, second = (
        noise_of_mean(mean, draw.noised, *levels)
        for mean in (toy.density.posterior_mean(draw.noised, *levels), *draw.means)
    )
    floor = float((draw.noise - exact).square().mean())
    rows = ((draw.noise - first) * (draw.noise - second) - (draw.noise - exact).square()).mean(1)
    estimated = measure_denoising(ExactDenoiser(process, toy.density), draw, process).floor
    assert abs(estimated - floor) < 4 * float(rows.std()) / len(rows) ** 0.5
    assert estimated == pytest.approx(floor, rel=0.15)


def test_large_references_measure_an_offset(toy: Dataset, by_references: Dataset) -> None:
    process = _process("epsilon")
    draw = draw_noised_points(by_references, process, 2000, seeded())
    scores = measure_denoising(ExactDenoiser(process, toy.density, offset=0.5), draw, process)
    assert abs(scores.excess - 0.25) < 4 * scores.excess_se
    assert scores.excess_se < 0.1


def test_levels_with_a_single_point_are_left_out(toy: Dataset) -> None:
    process = _process()
    draw = draw_noised_points(toy, process, 10, seeded())
    scores = measure_denoising(ExactDenoiser(process, toy.density), draw, process, num_levels=10)
    assert scores.levels == ()
    scores = measure_denoising(ExactDenoiser(process, toy.density), draw, process, num_levels=5)
    assert len(scores.levels) == 5
    assert all(math.isfinite(level.standard_error) for level in scores.levels)


def test_huber_floor_of_the_seeds_experiment() -> None:
    """The posterior mean scores 0.293 there (standard error 0.002), predicting zero 0.42."""
    process = get_process("notebook")
    data = ToyData(toy="swiss-roll", noise=0.2, num_points=10, divide_by=10)
    dataset = load_dataset(data, 0, 0)
    draw = draw_noised_points(dataset, process, 20_000, seeded())
    scores = measure_denoising(ZeroPredictor(process, dataset.density), draw, process)
    assert scores.floor == pytest.approx(0.293, abs=4 * 0.002)

    def huber(z: float) -> float:
        return (z * z / 2 if abs(z) < 1 else abs(z) - 0.5) * float(stats.norm.pdf(z))

    expected = 2 * sum(integrate.quad(huber, *ends)[0] for ends in ((0, 1), (1, 12)))
    assert expected == pytest.approx(0.42, abs=0.005)
    assert scores.heldout_loss == pytest.approx(expected, abs=4 * 0.002)


class ExactPainter(nn.Module):
    """Predicts from the exact posterior mean of scenes of one thing, plus an offset of the noise.

    Conditions are places in a list of captions.
    """

    def __init__(self, process: Process, captions: Sequence[str] = (), offset: float = 0.0) -> None:
        super().__init__()
        self.process, self.captions, self.offset = process, captions, offset
        self.oracle = SceneOracle(16)
        self.device, self.dtype = torch.device("cpu"), torch.float64

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> tuple[Tensor]:
        told = None if class_labels is None else [self.captions[i] for i in class_labels.tolist()]
        alpha, sigma = (level[timestep] for level in self.process.levels())
        mean = self.oracle.posterior_mean(sample, alpha, sigma, told)
        noise = noise_of_mean(mean, sample, alpha, sigma) + self.offset
        mean = (sample - expand(sigma, sample) * noise) / expand(alpha, sample)
        return (self.process.prediction_of_mean(mean, sample, alpha, sigma),)


@pytest.mark.parametrize("prompted", [False, True])
def test_pictures_have_an_exact_floor_and_excess(prompted: bool) -> None:
    scenes = load_dataset(PictureData(pictures="shapes", num_pictures=40, holdout=0.9))
    process = _process("v_prediction")
    draw = draw_noised_points(scenes, process, 60, seeded(), told=prompted)
    assert draw.oracle == "exact"
    assert sorted(draw.rows.bincount().tolist()) == [1] * 12 + [2] * 24
    assert torch.equal(draw.clean, scenes.heldout[draw.rows].double())
    conditions = {"class_labels": draw.rows} if prompted else {}
    captions = scenes.heldout_captions or ()
    exact = measure_denoising(ExactPainter(process, captions), draw, process, 4, conditions)
    assert exact.heldout_loss == pytest.approx(exact.floor, rel=1e-9)
    assert exact.excess == pytest.approx(0.0, abs=1e-12)
    off = measure_denoising(ExactPainter(process, captions, 0.1), draw, process, 4, conditions)
    assert off.excess == pytest.approx(0.01, rel=1e-9)
    assert len(off.levels) == 4


def test_other_pictures_have_a_loss_alone() -> None:
    several = load_dataset(PictureData(pictures="shapes", objects=2, num_pictures=20))
    draw = draw_noised_points(several, _process(), 10, seeded())
    assert draw.oracle == "none"
    scores = measure_denoising(ExactPainter(_process()), draw, _process(), 2)
    assert scores.floor is scores.excess is None
    assert scores.heldout_loss > 0


def test_oracle_of_a_conditional_toy_is_that_of_each_points_class() -> None:
    dataset = load_dataset(ToyData(toy="moons", num_points=10, conditional=True), 0, 0)
    process, density = _process(), dataset.density
    draw = draw_noised_points(dataset, process, 2000, seeded())
    told = ExactDenoiser(process, density.component(0), density.component(1), density)
    scores = measure_denoising(told, draw, process)
    assert 0 <= scores.excess < 1e-10
    assert scores.heldout_loss == pytest.approx(scores.floor, rel=1e-9)
    # Who is not told has the floor of all classes together, which is higher.
    deaf = measure_denoising(ExactDenoiser(process, density, density, density), draw, process)
    assert deaf.excess > 5 * deaf.excess_se > 0
    assert deaf.heldout_loss > 1.1 * scores.floor
