import pytest
import torch
from scipy.stats import multivariate_normal, norm

from family_contract import stirred
from helpers import refused, seeded
from kan_diffusion import PointDiffusionPipeline
from kan_diffusion.data.densities import GaussianMixture
from kan_diffusion.diffusion.likelihood import log_likelihood
from kan_diffusion.processes import get_process
from kan_diffusion.training.batches import OBSERVED_SHARE, Batches
from kan_diffusion.training.config import TrainingConfig
from kan_diffusion.training.loop import train
from make import denoiser, points

COSINE, NAN = get_process("cosine"), torch.nan
COVARIANCE = [[1.0, 0.8], [0.8, 1.0]]


def test_coordinates_are_observed_clean_and_in_every_combination():
    samples = torch.arange(1.0, 301.0).reshape(100, 3)
    options = {"seed": 0, "device": torch.device("cpu")}
    config, observable = TrainingConfig(batch_size=2000), denoiser(observable=True)
    batches = Batches(samples, {}, observable, COSINE, config, **options)
    observed = batches.at(0).conditions["observed"]
    known = ~observed.isnan()
    assert ((observed - 1) % 3 == torch.arange(3.0))[known].all()
    assert float(known.float().mean()) == pytest.approx(OBSERVED_SHARE, abs=0.03)
    combinations = known.int() @ torch.tensor([1, 2, 4], dtype=torch.int32)
    counts = torch.bincount(combinations, minlength=8) / len(known)
    assert counts[0] > 0.5
    assert (counts[1:] > 0.02).all()


def test_what_is_observed_is_drawn_as_it_is_and_the_density_of_the_rest_integrates_to_one():
    # As for any network, also one that was not trained.
    untrained = stirred("mlp", num_train_timesteps=1000, observable=True)
    pipeline = PointDiffusionPipeline(untrained, COSINE)
    observed = torch.tensor([[1.2, NAN]]).repeat(400, 1)
    drawn = pipeline(400, 5, observed=observed, generator=seeded(3)).samples
    assert (drawn[:, 0].float() == 1.2).all()
    assert len(drawn[:, 1].unique()) == 400
    with refused(r"observed must have shape \(5, 2\)"):
        pipeline(5, observed=observed)
    axis = 0.1 * (torch.arange(-60, 60).double() + 0.5)
    grid = torch.stack([torch.full_like(axis, 1.2), axis], dim=1)
    observed = grid.where(torch.tensor([True, False]), NAN)
    density = log_likelihood(untrained, COSINE, grid, num_steps=12, observed=observed).exp()
    assert 0.1 * float(density.sum()) == pytest.approx(1, abs=2e-3)
    all_of_it = log_likelihood(untrained, COSINE, points(9), observed=points(9))
    assert not all_of_it.any()


def test_a_trained_one_draws_from_conditionals_and_knows_their_densities_and_that_of_the_whole():
    density = GaussianMixture([[0.0, 0.0]], covariances=[COVARIANCE])
    made = denoiser("mlp", num_train_timesteps=1000, hidden=(32, 32), observable=True)
    config = TrainingConfig(steps=1500, batch_size=512, learning_rate=1e-2)
    train(made, COSINE, density.sample(20_000, seeded(1)).float(), config, seed=0, device="cpu")
    pipeline = PointDiffusionPipeline(made, COSINE)
    observed = torch.tensor([[1.2, NAN]]).repeat(4000, 1)
    drawn = pipeline(4000, observed=observed, generator=seeded(3)).samples[:, 1]
    assert float(drawn.mean()) == pytest.approx(0.8 * 1.2, abs=0.06)
    assert float(drawn.std()) == pytest.approx(0.6, abs=0.06)
    samples = density.sample(200, seeded(4))
    observed = samples.where(torch.tensor([True, False]), NAN)
    conditional = norm.logpdf(samples[:, 1], 0.8 * samples[:, 0], 0.6)
    whole = multivariate_normal.logpdf(samples, cov=COVARIANCE)
    for exact, given in ((conditional, {"observed": observed}), (whole, {})):
        error = log_likelihood(made, COSINE, samples, **given) - torch.from_numpy(exact)
        assert float(error.abs().mean()) < 0.05
