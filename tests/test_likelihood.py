from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from exact_denoiser import ExactDenoiser
from helpers import refused, seeded
from kan_diffusion.data.densities import Density, GaussianMixture
from kan_diffusion.data.toys import make_toy
from kan_diffusion.denoisers.registry import build_denoiser
from kan_diffusion.errors import DataError, KanDiffusionError
from kan_diffusion.likelihood import first_noise, log_likelihood
from kan_diffusion.processes import Process, get_process


def _toy(name: str) -> Density:
    density = make_toy(name)
    return density.rescaled(density.mean, density.std)


SCHEDULES, TYPES = ("squaredcos_cap_v2", "linear"), ("epsilon", "v_prediction", "sample")
PROCESSES = [*itertools.product(SCHEDULES, TYPES), ("flow", "flow")]


@pytest.mark.parametrize(
    ("schedule", "kind", "name", "num", "tolerance"),
    [
        *((*process, "gaussian-mixture", 40, (1e-3, 2e-3)) for process in PROCESSES),
        ("squaredcos_cap_v2", "v_prediction", "mixture-8d", 20, (0, 5e-3)),
        ("squaredcos_cap_v2", "v_prediction", "swiss-roll-16d", 4, (0, 5e-3)),
    ],
)
def test_exact_denoiser_has_the_exact_density(
    schedule: str, kind: str, name: str, num: int, tolerance: tuple[float, float]
) -> None:
    process = Process(name="x", schedule=schedule, prediction_type=kind)
    density = _toy(name)
    points = density.sample(num, seeded())
    ours = log_likelihood(ExactDenoiser(process, density), process, points)
    exact = density.log_density(points, 1.0, first_noise(process))
    torch.testing.assert_close(ours, exact, rtol=tolerance[0], atol=tolerance[1])


@pytest.mark.parametrize("process_name", ["cosine", "flow"])
@pytest.mark.parametrize("name", ["gaussian-mixture", "swiss-roll"])
def test_fifty_steps_are_enough_and_more_are_better(name: str, process_name: str) -> None:
    process, density = get_process(process_name), _toy(name)
    points = density.sample(40, seeded(1))
    denoiser = ExactDenoiser(process, density)
    exact = density.log_density(points, 1.0, first_noise(process))
    error, finer = (
        (log_likelihood(denoiser, process, points, num_steps=steps) - exact).abs()
        for steps in (50, 100)
    )
    assert float(error.max()) < (0.02 if process.is_flow else 0.01)  # flow begins at less noise
    assert float(finer.max()) < float(error.max()) / 6  # or a sixteenth, once steps are small


def test_gaussian_closed_form_where_noise_is_not_reached() -> None:
    """There the prior is not that of the data, so that every term has to be right.

    The flow of N(m, v) takes a coordinate from m + z sqrt(v + s_0^2) to m + z sqrt(v + s_T^2), in
    units of clean points.
    """
    process = get_process("notebook")
    mean = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    variance = torch.tensor([0.5, 1.0, 0.02], dtype=torch.float64)
    density = GaussianMixture(mean.unsqueeze(0), variances=variance.unsqueeze(0))
    points = 2 * torch.randn(20, 3, generator=seeded(), dtype=torch.float64)
    alpha, sigma = (float(level[-1]) for level in process.levels())
    growth = ((variance + (sigma / alpha) ** 2) / (variance + first_noise(process) ** 2)).sqrt()
    end = alpha * (mean + growth * (points - mean))  # x at the last timestep, from N(0, 1)
    expected = norm.logpdf(end.numpy()).sum(1) + float((alpha * growth).log().sum())
    ours = log_likelihood(ExactDenoiser(process, density), process, points)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-6, atol=1e-6)
    # The data's own density is another one.
    assert np.abs(expected - density.log_density(points).numpy()).max() > 1


@pytest.mark.parametrize("family", ["mlp", "kan"])
@pytest.mark.parametrize("process", ["cosine", "notebook", "flow"])
def test_density_of_any_network_integrates_to_one(family: str, process: str) -> None:
    """Any network's prediction leads to a density, also that of one that was not trained."""
    chosen = get_process(process)
    denoiser = build_denoiser(
        family, 2, num_train_timesteps=chosen.num_timesteps, params=600, generator=seeded(2)
    )
    step = 0.15
    axis = step * (torch.arange(-32, 32).double() + 0.5)
    points = torch.cartesian_prod(axis, axis)
    mass = log_likelihood(denoiser, chosen, points, num_steps=12).exp().sum() * step**2
    assert float(mass) == pytest.approx(1.0, abs=2e-3)


def test_order_and_batches_do_not_matter() -> None:
    process = get_process("cosine")
    denoiser = build_denoiser("mlp", 3, num_train_timesteps=1000, params=900).double()
    points = torch.randn(30, 3, generator=seeded(), dtype=torch.float64)
    order = torch.randperm(30, generator=seeded(1))
    whole = log_likelihood(denoiser, process, points, num_steps=5)
    shuffled = log_likelihood(denoiser, process, points[order], num_steps=5, batch_rows=7)
    torch.testing.assert_close(shuffled, whole[order], rtol=1e-10, atol=1e-10)
    assert whole.dtype == torch.float64


def test_trained_state_is_left_alone() -> None:
    process = get_process("cosine")
    denoiser = build_denoiser("mlp", 2, num_train_timesteps=1000, params=600)
    points = torch.zeros(3, 2)
    with torch.no_grad():
        inside = log_likelihood(denoiser, process, points, num_steps=2)
    outside = log_likelihood(denoiser, process, points.requires_grad_(), num_steps=2)
    assert torch.equal(inside, outside)
    assert not outside.requires_grad
    assert all(parameter.grad is None for parameter in denoiser.parameters())
    assert all(parameter.requires_grad for parameter in denoiser.parameters())
    assert log_likelihood(denoiser, process, torch.empty(0, 2)).shape == (0,)


@pytest.mark.parametrize(
    ("points", "settings", "kind", "words"),
    [
        (torch.zeros(4, 3), {}, DataError, r"shape \(4, 3\) and the denoiser takes 2 coordinates"),
        (torch.zeros(2), {}, DataError, r"give points of shape \(n, 2\)"),
        (torch.tensor([[0.0, math.nan]]), {}, DataError, "points must be finite"),
        (torch.zeros(1, 2), {"num_steps": 0}, KanDiffusionError, "at least 1 step"),
        (torch.zeros(1, 2), {"batch_rows": 0}, KanDiffusionError, "1 probe, not 50, 0"),
    ],
)
def test_unusable_arguments_are_refused_in_one_line(points, settings, kind, words) -> None:
    denoiser = build_denoiser("mlp", 2, num_train_timesteps=1000, params=600)
    with refused(words, kind):
        log_likelihood(denoiser, get_process("cosine"), points, **settings)


def test_likelihood_under_a_class_is_that_of_the_class() -> None:
    process, density = get_process("cosine"), _toy("oblique-modes")
    labels = density.draw_components(12, seeded(2))
    points = density.sample_given(labels, seeded(3))
    denoiser = ExactDenoiser(process, density.component(0), density.component(1), density)
    ours = log_likelihood(denoiser, process, points, class_labels=labels, batch_rows=8)
    exact = density.log_density(points, 1.0, first_noise(process), labels)
    torch.testing.assert_close(ours, exact, rtol=1e-3, atol=5e-3)
    with refused("must be one a sample, 12, not 2"):
        log_likelihood(denoiser, process, points, class_labels=labels[:2])
