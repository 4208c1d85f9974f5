from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from helpers import seeded
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.processes import (
    PROCESSES,
    SIGNAL_LIMIT,
    Process,
    get_process,
    signal_left,
    signal_warning,
)

each_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
each_type = pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])


def _drawn(process: Process, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Clean points, noise, timesteps (every one), alpha and sigma."""
    num = process.num_timesteps
    clean = torch.randn(num, 3, generator=seeded(0), dtype=dtype)
    noise = torch.randn(num, 3, generator=seeded(1), dtype=dtype)
    alpha, sigma = (level.to(dtype).unsqueeze(-1) for level in process.levels())
    return clean, noise, torch.arange(num), alpha, sigma


@each_process
def test_signal_turns_into_noise_step_by_step(process: Process) -> None:
    alpha, sigma = process.levels()
    assert alpha.shape == sigma.shape == (process.num_timesteps,)
    assert alpha.dtype == torch.float64
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha), rtol=1e-14, atol=0)
    ratio = (alpha / sigma).square()
    assert (ratio.diff() < 0).all()
    # The first index has already seen noise.
    assert sigma[0] > 0


@each_process
def test_noising_is_that_of_diffusers(process: Process) -> None:
    clean, noise, timesteps, alpha, sigma = _drawn(process, torch.float32)
    scheduler = process.scheduler()
    expected = scheduler.add_noise(clean, noise, timesteps)
    torch.testing.assert_close(alpha * clean + sigma * noise, expected, rtol=1e-5, atol=2e-6)
    velocity = scheduler.get_velocity(clean, noise, timesteps)
    target = Process(**{**process.model_dump(), "prediction_type": "v_prediction"}).target(
        clean, noise, alpha, sigma
    )
    torch.testing.assert_close(target, velocity, rtol=1e-5, atol=2e-6)


@each_process
@each_type
def test_predictions_turn_into_each_other_exactly(process: Process, prediction_type: str) -> None:
    process = Process(**{**process.model_dump(), "prediction_type": prediction_type})
    clean, noise, _, alpha, sigma = _drawn(process, torch.float64)
    noised = alpha * clean + sigma * noise
    target = process.target(clean, noise, alpha, sigma)
    exact = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(
        process.predicted_noise(target, noised, alpha, sigma), noise, **exact
    )
    torch.testing.assert_close(
        process.prediction_of_mean(clean, noised, alpha, sigma), target, **exact
    )
    # Any mean, not only the true point: the noise it implies is (x - alpha m) / sigma.
    mean = torch.randn(clean.shape, generator=seeded(2), dtype=torch.float64)
    prediction = process.prediction_of_mean(mean, noised, alpha, sigma)
    torch.testing.assert_close(
        process.predicted_noise(prediction, noised, alpha, sigma),
        (noised - alpha * mean) / sigma,
        **exact,
    )


@each_type
def test_a_denoising_step_of_diffusers_reads_the_target_the_same_way(prediction_type: str) -> None:
    process = Process(name="x", prediction_type=prediction_type)
    clean, noise, timesteps, alpha, sigma = _drawn(process, torch.float32)
    scheduler = process.scheduler()
    for t in (0, 300, 900):
        row = slice(t, t + 1)
        noised = alpha[row] * clean[row] + sigma[row] * noise[row]
        target = process.target(clean[row], noise[row], alpha[row], sigma[row])
        step = scheduler.step(target, int(timesteps[t]), noised, generator=seeded(0))
        torch.testing.assert_close(step.pred_original_sample, clean[row], rtol=1e-3, atol=1e-3)


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
    assert warning is not None
    assert "92.5% of the signal is left" in warning
    assert "--process cosine" in warning
    assert (process.loss, process.prediction_type) == ("huber", "epsilon")


@pytest.mark.parametrize("name", ["cosine", "ddpm"])
def test_processes_that_reach_noise_give_no_warning(name: str) -> None:
    scheduler = get_process(name).scheduler()
    assert 0 <= signal_left(scheduler) < SIGNAL_LIMIT
    assert signal_warning(scheduler) is None


@each_process
def test_schedulers_do_not_clip_and_start_at_the_last_step(process: Process) -> None:
    scheduler = process.scheduler()
    far = torch.full((1, 2), 50.0)
    alpha, sigma = (float(level[10]) for level in process.levels())
    target = process.target(far, torch.zeros(1, 2), torch.tensor(alpha), torch.tensor(sigma))
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
    with pytest.raises(KanDiffusionError, match="did you mean 'cosine'"):
        get_process("cosin")
    for wrong in ({"num_timesteps": 1}, {"beta_start": 0.0}, {"loss": "l1"}, {"sigma": 1}):
        with pytest.raises(ValidationError):
            Process(name="x", **wrong)
    with pytest.raises(ValidationError):
        get_process("cosine").num_timesteps = 5
