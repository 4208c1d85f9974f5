import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from exact_denoiser import ExactDenoiser
from helpers import refused, seeded
from kan_diffusion.data.densities import GaussianMixture
from kan_diffusion.data.toys import make_toy
from kan_diffusion.diffusion.likelihood import first_noise, log_likelihood
from kan_diffusion.errors import DataError, KanDiffusionError
from kan_diffusion.processes import Process, get_process
from make import denoiser, points

COSINE = get_process("cosine")


@pytest.mark.parametrize(
    ("toy", "schedule", "kind", "num", "bound"),
    [
        ("gaussian-mixture", "squaredcos_cap_v2", "v_prediction", 10, 2e-3),
        ("gaussian-mixture", "linear", "epsilon", 10, 2e-3),
        ("gaussian-mixture", "linear", "sample", 10, 2e-3),
        ("gaussian-mixture", "flow", "flow", 10, 2e-3),
        ("mixture-8d", "squaredcos_cap_v2", "v_prediction", 20, 5e-3),
        ("swiss-roll", "squaredcos_cap_v2", "v_prediction", 40, 0.01),
        ("swiss-roll", "flow", "flow", 40, 0.02),  # which begins at less noise
    ],
)
def test_exact_denoiser_has_the_exact_density(toy, schedule, kind, num, bound):
    process = Process(name="x", schedule=schedule, prediction_type=kind)
    density = make_toy(toy)
    density = density.rescaled(density.mean, density.std)
    samples = density.sample(num, seeded(1))
    exact = density.log_density(samples, 1.0, first_noise(process))
    found = log_likelihood(ExactDenoiser(process, density), process, samples)
    assert float((found - exact).abs().max()) < bound


def test_gaussian_closed_form_where_noise_is_not_reached():
    # There the prior is not that of the data, so that every term has to be right. The flow of
    # N(m, v) takes a coordinate from m + z sqrt(v + s_0^2) to m + z sqrt(v + s_T^2), in units of
    # clean points.
    process = get_process("notebook")
    mean = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    variance = torch.tensor([0.5, 1.0, 0.02], dtype=torch.float64)
    density = GaussianMixture(mean.unsqueeze(0), covariances=variance.diag().unsqueeze(0))
    samples = 2 * points(20, 3, dtype=torch.float64)
    alpha, sigma = (float(level[-1]) for level in process.levels())
    growth = ((variance + (sigma / alpha) ** 2) / (variance + first_noise(process) ** 2)).sqrt()
    end = alpha * (mean + growth * (samples - mean))  # x at the last timestep, from N(0, 1)
    expected = norm.logpdf(end.numpy()).sum(1) + float((alpha * growth).log().sum())
    ours = log_likelihood(ExactDenoiser(process, density), process, samples)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-6, atol=1e-6)
    # The data's own density is another one.
    assert np.abs(expected - density.log_density(samples).numpy()).max() > 1


@pytest.mark.parametrize(("family", "name"), [("mlp", "cosine"), ("kan", "notebook")])
def test_density_of_any_network_integrates_to_one(family, name):
    # Any network's prediction leads to a density, also that of one that was not trained.
    process = get_process(name)
    made = denoiser(family, params=600, num_train_timesteps=process.num_timesteps, seed=2)
    axis = 0.15 * (torch.arange(-32, 32).double() + 0.5)
    grid = torch.cartesian_prod(axis, axis)
    mass = log_likelihood(made, process, grid, num_steps=12).exp().sum() * 0.15**2
    assert float(mass) == pytest.approx(1.0, abs=2e-3)


def test_order_and_batches_do_not_matter_and_trained_state_is_left_alone():
    made = denoiser(dim=3, params=900, num_train_timesteps=1000).double()
    samples = points(30, 3, dtype=torch.float64)
    order = torch.randperm(30, generator=seeded(1))
    whole = log_likelihood(made, COSINE, samples.requires_grad_(), num_steps=5)
    assert whole.dtype == torch.float64
    assert not whole.requires_grad
    with torch.no_grad():
        shuffled = log_likelihood(made, COSINE, samples[order], num_steps=5, batch_rows=7)
    torch.testing.assert_close(shuffled, whole[order], rtol=1e-10, atol=1e-10)
    assert all(p.grad is None and p.requires_grad for p in made.parameters())
    assert log_likelihood(made, COSINE, torch.empty(0, 3)).shape == (0,)


def test_random_signs_estimate_the_divergence_without_bias():
    density = GaussianMixture([[0.0, 0.0]], covariances=[[[1.0, 0.8], [0.8, 1.0]]])
    samples = density.sample(20, seeded()).repeat(10, 1)  # each with other signs
    options = {"num_steps": 25, "num_probes": 4, "generator": seeded()}
    estimates = log_likelihood(ExactDenoiser(COSINE, density), COSINE, samples, **options)
    error = estimates - density.log_density(samples, 1.0, first_noise(COSINE))
    assert 0.05 < float(error.std()) < 2
    assert float(error.mean().abs()) < 4 * float(error.std()) / error.numel() ** 0.5


def test_unusable_arguments_are_refused_in_one_line():
    made, one = denoiser(num_train_timesteps=1000), torch.zeros(1, 2)
    for samples, settings, kind, words in (
        (torch.zeros(4, 3), {}, DataError, r"points must have shape \(4, 2\), got \(4, 3\)"),
        (torch.zeros(2), {}, DataError, r"points must have shape \(2, 2\), got \(2,\)"),
        (one * math.nan, {}, DataError, "points must be finite"),
        (one, {"observed": torch.zeros(1, 3)}, DataError, r"observed has shape \(1, 3\)"),
        (one, {"num_steps": 0}, KanDiffusionError, "num_steps must be .* at least 1, not 0"),
        (one, {"batch_rows": 0}, KanDiffusionError, "batch_rows must be .* at least 1, not 0"),
        (one, {"num_probes": 0.5}, KanDiffusionError, "num_probes must be .* at least 1, not 0.5"),
    ):
        with refused(words, kind):
            log_likelihood(made, COSINE, samples, **settings)
