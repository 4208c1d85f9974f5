import pytest
import torch
from torch import nn

from exact_denoiser import ExactDenoiser
from helpers import seeded
from kan_diffusion.data.datasets import PictureData, ToyData, load_dataset
from kan_diffusion.evaluation.denoising import draw_noised_points, measure_denoising
from kan_diffusion.evaluation.oracles import SceneOracle
from kan_diffusion.processes import Process, expand, noise_of_mean


def _process(kind="v_prediction", **other):
    return Process(name="x", schedule="squaredcos_cap_v2", prediction_type=kind, **other)


@pytest.fixture(scope="module")
def toy():
    return load_dataset(ToyData(toy="gaussian-mixture", num_points=10), 0, 0)


def test_standard_error_is_that_of_repeated_draws(toy):
    process = _process("epsilon", num_timesteps=50)
    # An error that varies from row to row: predicting the noise of a much wider density.
    wide = toy.density.rescaled(torch.zeros(2), torch.full((2,), 0.2))
    denoiser = ExactDenoiser(process, wide)
    scores = [
        measure_denoising(denoiser, draw_noised_points(toy, process, 400, seeded(seed)), process)
        for seed in range(60)
    ]
    excesses = torch.tensor([score.excess for score in scores])
    claimed = sum(score.excess_se for score in scores) / 60
    # Timesteps are stratified in a draw, which the claimed error leaves out: it may be too large.
    assert 0.6 < float(excesses.std()) / claimed < 1.3


class ExactPainter(nn.Module):
    """Predicts from the exact posterior mean of scenes, plus an offset of the noise.

    Conditions are places in a list of captions.
    """

    def __init__(self, process, captions=(), offset=0.0):
        super().__init__()
        self.process, self.captions, self.offset = process, captions, offset
        self.oracle = SceneOracle(16)
        self.device, self.dtype = torch.device("cpu"), torch.float64

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        told = None if class_labels is None else [self.captions[i] for i in class_labels.tolist()]
        alpha, sigma = (level[timestep] for level in self.process.levels())
        mean = self.oracle.posterior_mean(sample, alpha, sigma, told)
        noise = noise_of_mean(mean, sample, alpha, sigma) + self.offset
        mean = (sample - expand(sigma, sample) * noise) / expand(alpha, sample)
        return (self.process.prediction_of_mean(mean, sample, alpha, sigma),)


@pytest.mark.parametrize("prompted", [False, True])
def test_pictures_have_an_exact_floor_and_excess(prompted):
    scenes = load_dataset(PictureData(pictures="shapes", num_pictures=40, holdout=0.9))
    process = _process("v_prediction")
    draw = draw_noised_points(scenes, process, 60, seeded(), captioned=prompted)
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
