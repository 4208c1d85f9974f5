"""A denoiser that may be told coordinates learns all conditionals of a density."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm

from helpers import seeded
from kan_diffusion import PointDiffusionPipeline
from kan_diffusion.data.densities import GaussianMixture
from kan_diffusion.likelihood import log_likelihood
from kan_diffusion.processes import get_process
from kan_diffusion.sampling import make_scheduler
from kan_diffusion.training import TrainingConfig, train
from make import denoiser

COVARIANCE = [[1.0, 0.8], [0.8, 1.0]]
GAUSSIAN = GaussianMixture([[0.0, 0.0]], covariances=[COVARIANCE])
COSINE = get_process("cosine")


@pytest.fixture(scope="module")
def conditional():
    """An MLP trained on two correlated coordinates, either of which it may be told."""
    made = denoiser("mlp", num_train_timesteps=1000, hidden=(32, 32), blocks=(1, 1))
    samples = GAUSSIAN.sample(20_000, seeded(1)).float()
    config = TrainingConfig(steps=1500, batch_size=512, learning_rate=1e-2)
    train(made, COSINE, samples, config, seed=0, device="cpu")
    return made


def test_it_draws_from_the_conditional_and_still_from_the_whole(conditional):
    pipeline = PointDiffusionPipeline(conditional, make_scheduler(None, COSINE.scheduler()))
    whole = pipeline(4000, generator=seeded(2)).samples
    assert np.corrcoef(whole.T)[0, 1] == pytest.approx(0.8, abs=0.05)
    observed = torch.tensor([[1.2, torch.nan]]).repeat(4000, 1)
    drawn = pipeline(4000, observed=observed, generator=seeded(3)).samples[:, 1]
    assert float(drawn.mean()) == pytest.approx(0.8 * 1.2, abs=0.06)
    assert float(drawn.std()) == pytest.approx(0.6, abs=0.06)


def test_densities_of_one_coordinate_given_the_other_are_those_of_the_gaussian(conditional):
    samples = GAUSSIAN.sample(200, seeded(4))
    observed = torch.stack([samples[:, 0], torch.full((200,), torch.nan)], dim=1)
    ours = log_likelihood(conditional, COSINE, samples, observed=observed)
    exact = norm.logpdf(samples[:, 1], 0.8 * samples[:, 0], 0.6)
    assert float(np.abs(ours.numpy() - exact).mean()) < 0.05
    both = log_likelihood(conditional, COSINE, samples)
    exact = multivariate_normal.logpdf(samples, cov=COVARIANCE)
    assert float(np.abs(both.numpy() - exact).mean()) < 0.05
