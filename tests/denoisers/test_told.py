"""Denoisers told some coordinates: what they are given, learn, draw and how likely it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm
from torch import Tensor

from exact_denoiser import ExactDenoiser
from helpers import refused, seeded
from kan_diffusion import FAMILIES, PointDiffusionPipeline
from kan_diffusion.data.densities import GaussianMixture
from kan_diffusion.denoisers import Denoiser, build_denoiser
from kan_diffusion.likelihood import first_noise, log_likelihood
from kan_diffusion.processes import get_process
from kan_diffusion.sampling import make_scheduler
from kan_diffusion.training import TrainingConfig, train
from kan_diffusion.training.batches import TOLD_SHARE, Batches

BLOCKS = (1, 2, 1)
NAN = torch.nan


def _build(family: str, **options: object) -> Denoiser:
    settings = {"hidden": (16, 16), "blocks": BLOCKS, "generator": seeded(), **options}
    denoiser = build_denoiser(family, 4, num_train_timesteps=100, **settings)
    with torch.no_grad():  # as after training: nothing is zero
        for parameter in denoiser.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=seeded(1)))
    return denoiser.eval()


def _predicted(denoiser: Denoiser, sample: Tensor, observed: Tensor | None = None) -> Tensor:
    return denoiser(sample, 30, observed=observed, return_dict=False)[0].detach()


@pytest.mark.parametrize("family", FAMILIES)
def test_told_coordinates_take_the_place_of_noised_ones(family: str, tmp_path: Path) -> None:
    denoiser = _build(family)
    sample = torch.randn(3, 4, generator=seeded(2))
    untold = _predicted(denoiser, sample)
    torch.testing.assert_close(_predicted(denoiser, sample, torch.full((3, 4), NAN)), untold)
    told = torch.tensor([[0.3, NAN, NAN, NAN], [NAN, 0.5, 0.1, NAN], [NAN, NAN, NAN, NAN]])
    prediction = _predicted(denoiser, sample, told)
    torch.testing.assert_close(prediction[2], untold[2])
    assert not torch.isclose(prediction[:2], untold[:2]).any()
    # What stood in a told place does not matter, what is told does; and so does that it is told.
    other = torch.where(told.isnan(), sample, 7.0)
    torch.testing.assert_close(_predicted(denoiser, other, told), prediction)
    assert not torch.isclose(_predicted(denoiser, sample, told + 0.2)[:2], prediction[:2]).any()
    inserted = torch.where(told.isnan(), sample, told)
    assert not torch.isclose(_predicted(denoiser, inserted)[:2], prediction[:2]).any()
    denoiser.save_pretrained(tmp_path)
    again = type(denoiser).from_pretrained(tmp_path)
    torch.testing.assert_close(_predicted(again.eval(), sample, told), prediction)


@pytest.mark.parametrize(
    ("blocks", "observed", "words"),
    [
        ((), torch.zeros(3, 4), "not built to be told"),
        (BLOCKS, torch.zeros(2, 4), "must have the shape"),
        ((1, 2), None, "sum to data_dim = 4, not"),
        ((4, 0), None, "widths of at least 1"),
    ],
)
def test_what_cannot_be_told_is_refused(
    blocks: tuple[int, ...], observed: Tensor | None, words: str
) -> None:
    with refused(words):
        _predicted(_build("mlp", blocks=blocks), torch.zeros(3, 4), observed)


def test_whole_blocks_are_told_clean_and_in_every_combination() -> None:
    points = torch.arange(1.0, 401.0).reshape(100, 4)
    batches = Batches(
        points,
        {},
        {},
        get_process("cosine"),
        batch_size=2000,
        batches="replacement",
        seed=0,
        device=torch.device("cpu"),
        blocks=BLOCKS,
    )
    observed = batches.at(0).observed
    assert observed is not None
    told = ~observed.isnan()
    assert torch.equal(told[:, 1], told[:, 2])
    assert ((observed - 1) % 4 == torch.arange(4.0))[told].all()
    assert float(told.float().mean()) == pytest.approx(TOLD_SHARE, abs=0.03)
    combinations = told[:, [0, 1, 3]].int() @ torch.tensor([1, 2, 4], dtype=torch.int32)
    counts = torch.bincount(combinations, minlength=8) / len(told)
    assert counts[0] > 0.5
    assert (counts[1:] > 0.02).all()


def _gaussian(correlation: float = 0.8) -> GaussianMixture:
    covariance = torch.tensor([[1, correlation], [correlation, 1]], dtype=torch.float64)
    return GaussianMixture(torch.zeros(1, 2, dtype=torch.float64), covariances=covariance[None])


@pytest.fixture(scope="module")
def conditional() -> Denoiser:
    """An MLP trained on two correlated coordinates, either of which it may be told."""
    process = get_process("cosine")
    denoiser = build_denoiser(
        "mlp", 2, num_train_timesteps=1000, hidden=(32, 32), blocks=(1, 1), generator=seeded()
    )
    points = _gaussian().sample(20_000, seeded(1)).float()
    config = TrainingConfig(steps=1500, batch_size=512, learning_rate=1e-2)
    train(denoiser, process, points, config, seed=0, device="cpu")
    return denoiser


def test_it_draws_from_the_conditional_and_still_from_the_whole(conditional: Denoiser) -> None:
    scheduler = make_scheduler(None, get_process("cosine").scheduler())
    pipeline = PointDiffusionPipeline(conditional, scheduler)
    whole = pipeline(4000, generator=seeded(2)).samples
    assert np.corrcoef(whole.T)[0, 1] == pytest.approx(0.8, abs=0.05)
    observed = torch.tensor([[1.2, NAN]]).repeat(4000, 1)
    drawn = pipeline(4000, observed=observed, generator=seeded(3)).samples
    assert (drawn[:, 0] == np.float32(1.2)).all()
    assert float(drawn[:, 1].mean()) == pytest.approx(0.8 * 1.2, abs=0.06)
    assert float(drawn[:, 1].std()) == pytest.approx(0.6, abs=0.06)
    with refused(r"observed must have shape \(5, 2\)"):
        pipeline(5, observed=observed)


def test_densities_of_one_coordinate_given_the_other_are_those_of_the_gaussian(
    conditional: Denoiser,
) -> None:
    process = get_process("cosine")
    points = _gaussian().sample(200, seeded(4))
    observed = torch.stack([points[:, 0], torch.full((200,), NAN)], dim=1)
    ours = log_likelihood(conditional, process, points, observed=observed)
    exact = norm.logpdf(points[:, 1], 0.8 * points[:, 0], 0.6)
    assert float(np.abs(ours.numpy() - exact).mean()) < 0.05
    both = log_likelihood(conditional, process, points)
    exact = multivariate_normal.logpdf(points, cov=[[1, 0.8], [0.8, 1]])
    assert float(np.abs(both.numpy() - exact).mean()) < 0.05
    told = log_likelihood(conditional, process, points, observed=points)
    torch.testing.assert_close(told, torch.zeros_like(told))


def test_random_signs_estimate_the_divergence_without_bias() -> None:
    process, density = get_process("cosine"), _gaussian()
    points = density.sample(20, seeded()).repeat(10, 1)  # each with other signs
    denoiser = ExactDenoiser(process, density)
    exact = density.log_density(points, 1.0, first_noise(process))
    estimates = log_likelihood(denoiser, process, points, num_probes=4, generator=seeded())
    error = estimates - exact
    assert 0.05 < float(error.std()) < 2
    assert float(error.mean().abs()) < 4 * float(error.std()) / error.numel() ** 0.5
