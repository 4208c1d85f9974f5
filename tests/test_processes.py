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
KINDS = [Process(name=kind, prediction_type=kind) for kind in ("epsilon", "v_prediction", "sample")]
every_kind = pytest.mark.parametrize(
    "process", [*KINDS, get_process("flow")], ids=lambda process: process.name
)


def _drawn(process, dtype, shape=(3,)):
    num = process.num_timesteps
    clean = torch.randn(num, *shape, generator=seeded(0), dtype=dtype)
    noise = torch.randn(num, *shape, generator=seeded(1), dtype=dtype)
    alpha, sigma = (level.to(dtype) for level in process.levels())
    return clean, noise, torch.arange(num), alpha, sigma


@each_process
def test_signal_turns_into_noise_step_by_step(process):
    alpha, sigma = process.levels()
    assert alpha.shape == sigma.shape == (process.num_timesteps,)
    assert alpha.dtype == torch.float64
    whole = alpha + sigma if process.is_flow else alpha**2 + sigma**2
    torch.testing.assert_close(whole, torch.ones_like(alpha), rtol=1e-14, atol=0)
    assert ((alpha / sigma).diff() < 0).all()
    # The first index has already seen noise.
    assert sigma[0] > 0


@each_process
def test_noising_is_that_of_diffusers(process):
    clean, noise, timesteps, alpha, sigma = _drawn(process, torch.float32)
    scheduler, close = process.scheduler(), {"rtol": 1e-5, "atol": 2e-6}
    if process.is_flow:  # whose timesteps go from T down to 1
        expected = scheduler.scale_noise(clean, scheduler.timesteps.flip(0), noise)
    else:
        expected = scheduler.add_noise(clean, noise, timesteps)
        velocity = process.model_copy(update={"prediction_type": "v_prediction"})
        target = velocity.target(clean, noise, alpha, sigma)
        torch.testing.assert_close(target, scheduler.get_velocity(clean, noise, timesteps), **close)
    noised = alpha[:, None] * clean + sigma[:, None] * noise
    torch.testing.assert_close(noised, expected, **close)


@every_kind
def test_predictions_turn_into_each_other_exactly(process):
    exact = {"rtol": 1e-10, "atol": 1e-10}
    for shape in ((3,), (2, 3, 4)):  # points and pictures
        clean, noise, _, alpha, sigma = _drawn(process, torch.float64, shape)
        a, s = (level.view(-1, *(1 for _ in shape)) for level in (alpha, sigma))
        noised = a * clean + s * noise
        target = process.target(clean, noise, alpha, sigma)
        given = noised, alpha, sigma
        torch.testing.assert_close(process.predicted_noise(target, *given), noise, **exact)
        torch.testing.assert_close(process.prediction_of_mean(clean, *given), target, **exact)
        # Any mean, not only the true sample: the noise it implies is (x - alpha m) / sigma.
        mean = torch.randn(clean.shape, generator=seeded(2), dtype=torch.float64)
        implied = process.predicted_noise(process.prediction_of_mean(mean, *given), *given)
        torch.testing.assert_close(implied, (noised - a * mean) / s, **exact)
    coefficients = process.noise_coefficients(alpha, sigma)
    of_arrays = process.noise_coefficients(alpha.numpy(), sigma.numpy())
    for tensor, array in zip(coefficients, of_arrays, strict=True):
        np.testing.assert_array_equal(array, tensor.numpy())


@every_kind
def test_a_denoising_step_of_diffusers_reads_the_target_the_same_way(process):
    clean, noise, timesteps, alpha, sigma = _drawn(process, torch.float32)
    scheduler = process.scheduler()
    if process.is_flow:  # one step from noise ends at the clean samples
        scheduler.set_timesteps(1)
        target = process.target(clean, noise, alpha, sigma)
        step = scheduler.step(target, scheduler.timesteps[0], noise)
        torch.testing.assert_close(step.prev_sample, clean, rtol=1e-5, atol=1e-5)
        return
    for t in (0, 300, 900):
        row = slice(t, t + 1)
        noised = alpha[row, None] * clean[row] + sigma[row, None] * noise[row]
        target = process.target(clean[row], noise[row], alpha[row], sigma[row])
        step = scheduler.step(target, int(timesteps[t]), noised, generator=seeded(0))
        torch.testing.assert_close(step.pred_original_sample, clean[row], rtol=1e-3, atol=1e-3)
    # Nothing is clipped, and sampling starts at the last step.
    far, (a, s) = torch.full((1, 2), 50.0), (alpha[10], sigma[10])
    target = process.target(far, torch.zeros(1, 2), a, s)
    step = scheduler.step(target, 10, a * far, generator=seeded(0))
    torch.testing.assert_close(step.pred_original_sample, far, rtol=1e-3, atol=0)
    scheduler.set_timesteps(10)
    assert int(scheduler.timesteps[0]) == process.num_timesteps - 1


def test_the_seeds_process_keeps_most_of_its_signal_and_says_so():
    process = get_process("notebook")
    alpha, _ = process.levels()
    beta = 0.025**2
    steps = torch.arange(1, 251, dtype=torch.float64)
    torch.testing.assert_close(alpha**2, (1 - beta) ** steps, rtol=1e-5, atol=0)
    assert float(alpha[-1] ** 2) == pytest.approx(0.855, abs=5e-4)
    assert signal_left(process) == pytest.approx(math.sqrt((1 - beta) ** 250), rel=1e-5)
    warning = signal_warning(process)
    assert "92.5% of the signal is left" in warning
    assert "--process cosine" in warning
    assert (process.loss, process.prediction_type) == ("huber", "epsilon")
    for name in ("cosine", "ddpm", "flow"):  # which reach noise
        assert 0 <= signal_left(get_process(name)) < SIGNAL_LIMIT
        assert signal_warning(get_process(name)) is None


def test_huber_loss_is_quadratic_near_and_linear_far():
    process = get_process("notebook")
    error = torch.linspace(-4, 4, 41, dtype=torch.float64).unsqueeze(-1)
    each = process.loss_of(error, torch.zeros_like(error), reduction="none")
    expected = torch.where(error.abs() <= 1, error**2 / 2, error.abs() - 0.5)
    torch.testing.assert_close(each, expected)
    mean = process.loss_of(error, torch.zeros_like(error))
    assert float(mean) == pytest.approx(float(expected.mean()))
    squared = get_process("cosine").loss_of(error, torch.zeros_like(error), reduction="none")
    torch.testing.assert_close(squared, error**2)


def test_unknown_names_and_fields_are_refused():
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
