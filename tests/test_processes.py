from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from helpers import refused, seeded
from kan_diffusion.processes import (
    PROCESSES,
    SIGNAL_LIMIT,
    Process,
    get_process,
    signal_left,
    signal_warning,
)

each_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
each_diffusion = pytest.mark.parametrize(
    "process", [process for process in PROCESSES.values() if not process.is_flow]
)
KINDS = [Process(name=kind, prediction_type=kind) for kind in ("epsilon", "v_prediction", "sample")]
each_type = pytest.mark.parametrize("process", KINDS, ids=lambda process: process.name)
every_kind = pytest.mark.parametrize(
    "process", [*KINDS, get_process("flow")], ids=lambda process: process.name
)


def _drawn(
    process: Process, dtype: torch.dtype, shape: tuple[int, ...] = (3,)
) -> tuple[torch.Tensor, ...]:
    """Clean samples, noise, timesteps (every one), alpha and sigma."""
    num = process.num_timesteps
    clean = torch.randn(num, *shape, generator=seeded(0), dtype=dtype)
    noise = torch.randn(num, *shape, generator=seeded(1), dtype=dtype)
    alpha, sigma = (level.to(dtype) for level in process.levels())
    return clean, noise, torch.arange(num), alpha, sigma


@each_process
def test_signal_turns_into_noise_step_by_step(process: Process) -> None:
    alpha, sigma = process.levels()
    assert alpha.shape == sigma.shape == (process.num_timesteps,)
    assert alpha.dtype == torch.float64
    whole = alpha + sigma if process.is_flow else alpha**2 + sigma**2
    torch.testing.assert_close(whole, torch.ones_like(alpha), rtol=1e-14, atol=0)
    assert ((alpha / sigma).diff() < 0).all()
    # The first index has already seen noise.
    assert sigma[0] > 0


@each_diffusion
def test_noising_is_that_of_diffusers(process: Process) -> None:
    clean, noise, timesteps, alpha, sigma = _drawn(process, torch.float32)
    scheduler = process.scheduler()
    expected = scheduler.add_noise(clean, noise, timesteps)
    noised = alpha[:, None] * clean + sigma[:, None] * noise
    torch.testing.assert_close(noised, expected, rtol=1e-5, atol=2e-6)
    velocity = scheduler.get_velocity(clean, noise, timesteps)
    target = Process(**{**process.model_dump(), "prediction_type": "v_prediction"}).target(
        clean, noise, alpha, sigma
    )
    torch.testing.assert_close(target, velocity, rtol=1e-5, atol=2e-6)


def test_flow_noising_is_that_of_diffusers() -> None:
    clean, noise, _, alpha, sigma = _drawn(get_process("flow"), torch.float32)
    scheduler = get_process("flow").scheduler()  # whose timesteps go from T down to 1
    expected = scheduler.scale_noise(clean, scheduler.timesteps.flip(0), noise)
    noised = alpha[:, None] * clean + sigma[:, None] * noise
    torch.testing.assert_close(noised, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4)], ids=["points", "pictures"])
@every_kind
def test_predictions_turn_into_each_other_exactly(process: Process, shape: tuple[int, ...]) -> None:
    clean, noise, _, alpha, sigma = _drawn(process, torch.float64, shape)
    a, s = (level.view(-1, *(1 for _ in shape)) for level in (alpha, sigma))
    noised = a * clean + s * noise
    target = process.target(clean, noise, alpha, sigma)
    exact = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(
        process.predicted_noise(target, noised, alpha, sigma), noise, **exact
    )
    torch.testing.assert_close(
        process.prediction_of_mean(clean, noised, alpha, sigma), target, **exact
    )
    # Any mean, not only the true sample: the noise it implies is (x - alpha m) / sigma.
    mean = torch.randn(clean.shape, generator=seeded(2), dtype=torch.float64)
    prediction = process.prediction_of_mean(mean, noised, alpha, sigma)
    torch.testing.assert_close(
        process.predicted_noise(prediction, noised, alpha, sigma), (noised - a * mean) / s, **exact
    )
    # One level for all samples counts as the same for each.
    torch.testing.assert_close(
        process.target(clean, noise, alpha[5], sigma[5]),
        process.target(clean, noise, alpha[5].expand(len(clean)), sigma[5].expand(len(clean))),
    )


@every_kind
def test_noise_coefficients_are_the_same_for_arrays(process: Process) -> None:
    levels = process.levels()
    for tensor, array in zip(
        process.noise_coefficients(*levels),
        process.noise_coefficients(*(level.numpy() for level in levels)),
        strict=True,
    ):
        assert tensor.shape == levels[0].shape
        np.testing.assert_array_equal(array, tensor.numpy())


@each_type
def test_a_denoising_step_of_diffusers_reads_the_target_the_same_way(process: Process) -> None:
    clean, noise, timesteps, alpha, sigma = _drawn(process, torch.float32)
    scheduler = process.scheduler()
    for t in (0, 300, 900):
        row = slice(t, t + 1)
        noised = alpha[row, None] * clean[row] + sigma[row, None] * noise[row]
        target = process.target(clean[row], noise[row], alpha[row], sigma[row])
        step = scheduler.step(target, int(timesteps[t]), noised, generator=seeded(0))
        torch.testing.assert_close(step.pred_original_sample, clean[row], rtol=1e-3, atol=1e-3)


def test_one_flow_step_along_the_target_ends_at_the_clean_samples() -> None:
    process = get_process("flow")
    clean, noise, _, alpha, sigma = _drawn(process, torch.float32)
    scheduler = process.scheduler()
    scheduler.set_timesteps(1)
    target = process.target(clean, noise, alpha, sigma)
    step = scheduler.step(target, scheduler.timesteps[0], noise)
    torch.testing.assert_close(step.prev_sample, clean, rtol=1e-5, atol=1e-5)


def test_the_seeds_process_keeps_most_of_its_signal_and_says_so() -> None:
    process = get_process("notebook")
    alpha, _ = process.levels()
    beta = 0.025**2
    steps = torch.arange(1, 251, dtype=torch.float64)
    torch.testing.assert_close(alpha**2, (1 - beta) ** steps, rtol=1e-5, atol=0)
    assert float(alpha[-1] ** 2) == pytest.approx(0.855, abs=5e-4)
    scheduler = process.scheduler()
    assert signal_left(scheduler) == pytest.approx(math.sqrt((1 - beta) ** 250), rel=1e-5)
    warning = signal_warning(scheduler)
    assert "92.5% of the signal is left" in warning
    assert "--process cosine" in warning
    assert (process.loss, process.prediction_type) == ("huber", "epsilon")


@pytest.mark.parametrize("name", ["cosine", "ddpm", "flow"])
def test_processes_that_reach_noise_give_no_warning(name: str) -> None:
    scheduler = get_process(name).scheduler()
    assert 0 <= signal_left(scheduler) < SIGNAL_LIMIT
    assert signal_warning(scheduler) is None


@each_diffusion
def test_schedulers_do_not_clip_and_start_at_the_last_step(process: Process) -> None:
    scheduler = process.scheduler()
    far = torch.full((1, 2), 50.0)
    alpha, sigma = (level[10].float() for level in process.levels())
    target = process.target(far, torch.zeros(1, 2), alpha, sigma)
    step = scheduler.step(target, 10, alpha * far, generator=seeded(0))
    torch.testing.assert_close(step.pred_original_sample, far, rtol=1e-3, atol=0)
    scheduler.set_timesteps(10)
    assert int(scheduler.timesteps[0]) == process.num_timesteps - 1


def test_huber_loss_is_quadratic_near_and_linear_far() -> None:
    process = get_process("notebook")
    error = torch.linspace(-4, 4, 41, dtype=torch.float64).unsqueeze(-1)
    each = process.loss_of(error, torch.zeros_like(error), reduction="none")
    expected = torch.where(error.abs() <= 1, error**2 / 2, error.abs() - 0.5)
    torch.testing.assert_close(each, expected)
    mean = process.loss_of(error, torch.zeros_like(error))
    assert float(mean) == pytest.approx(float(expected.mean()))
    squared = get_process("cosine").loss_of(error, torch.zeros_like(error), reduction="none")
    torch.testing.assert_close(squared, error**2)


def test_unknown_names_and_fields_are_refused() -> None:
    with refused("did you mean 'cosine'"):
        get_process("cosin")
    for wrong in (
        {"num_timesteps": 1},
        {"beta_start": 0.0},
        {"loss": "l1"},
        {"sigma": 1},
        {"schedule": "flow"},
        {"prediction_type": "flow"},
    ):
        with pytest.raises(ValidationError):
            Process(name="x", **wrong)
    with pytest.raises(ValidationError):
        get_process("cosine").num_timesteps = 5
