import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from helpers import randn, refused, seeded
from kan_diffusion.processes import PROCESSES, Process, get_process, signal_warning

KINDS = [Process(name=kind, prediction_type=kind) for kind in ("epsilon", "v_prediction", "sample")]


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_signal_turns_into_noise_step_by_step_as_in_diffusers(process):
    alpha, sigma = process.levels()
    assert alpha.shape == sigma.shape == (process.num_timesteps,)
    assert alpha.dtype == torch.float64
    whole = alpha + sigma if process.is_flow else alpha**2 + sigma**2
    torch.testing.assert_close(whole, torch.ones_like(alpha), rtol=1e-14, atol=0)
    assert ((alpha / sigma).diff() < 0).all()
    assert sigma[0] > 0  # the first index has already seen noise
    clean, noise = (randn(len(alpha), 3, seed=seed, dtype=torch.float32) for seed in (0, 1))
    scheduler, timesteps = process.scheduler(), torch.arange(len(alpha))
    close = {"rtol": 1e-5, "atol": 2e-6}
    alpha, sigma = alpha.float(), sigma.float()
    if process.is_flow:  # whose timesteps go from T down to 1
        expected = scheduler.scale_noise(clean, scheduler.timesteps.flip(0), noise)
    else:
        expected = scheduler.add_noise(clean, noise, timesteps)
        velocity = process.model_copy(update={"prediction_type": "v_prediction"})
        target = velocity.target(clean, noise, alpha, sigma)
        torch.testing.assert_close(target, scheduler.get_velocity(clean, noise, timesteps), **close)
    torch.testing.assert_close(alpha[:, None] * clean + sigma[:, None] * noise, expected, **close)


@pytest.mark.parametrize("process", [*KINDS, get_process("flow")], ids=lambda process: process.name)
def test_predictions_turn_into_each_other_and_are_those_of_diffusers(process):
    exact = {"rtol": 1e-10, "atol": 1e-10}
    alpha, sigma = process.levels()
    for shape in ((3,), (2, 3, 4)):  # points and pictures
        clean, noise, mean = (randn(len(alpha), *shape, seed=seed) for seed in range(3))
        a, s = (level.view(-1, *(1 for _ in shape)) for level in (alpha, sigma))
        noised = a * clean + s * noise
        target = process.target(clean, noise, alpha, sigma)
        given = noised, alpha, sigma
        torch.testing.assert_close(process.predicted_noise(target, *given), noise, **exact)
        torch.testing.assert_close(process.prediction_of_mean(clean, *given), target, **exact)
        # Any mean, not only the true sample: the noise it implies is (x - alpha m) / sigma.
        implied = process.predicted_noise(process.prediction_of_mean(mean, *given), *given)
        torch.testing.assert_close(implied, (noised - a * mean) / s, **exact)
    coefficients = process.noise_coefficients(alpha, sigma)
    of_arrays = process.noise_coefficients(alpha.numpy(), sigma.numpy())
    for tensor, array in zip(coefficients, of_arrays, strict=True):
        np.testing.assert_array_equal(array, tensor.numpy())

    scheduler = process.scheduler()
    scheduler.set_timesteps(1)
    assert int(scheduler.timesteps[0]) == process.num_timesteps - (not process.is_flow)
    if process.is_flow:  # one step from noise ends at the clean samples
        target = process.target(clean, noise, alpha, sigma).float()
        step = scheduler.step(target, scheduler.timesteps[0], noise.float())
        torch.testing.assert_close(step.prev_sample, clean.float(), rtol=1e-5, atol=1e-5)
        return
    scheduler = process.scheduler()
    for t, scale in ((0, 1), (300, 1), (900, 1), (10, 50)):  # and nothing is clipped
        row = slice(t, t + 1)
        far = scale * clean[row]
        noised = a[row] * far + s[row] * noise[row]
        target = process.target(far, noise[row], alpha[row], sigma[row])
        step = scheduler.step(target.float(), t, noised.float(), generator=seeded(0))
        torch.testing.assert_close(
            step.pred_original_sample, far.float(), rtol=1e-3, atol=1e-3 * scale
        )


def test_the_notebooks_process_keeps_most_of_its_signal_and_says_so():
    process, beta = get_process("notebook"), 0.025**2
    kept = (1 - beta) ** torch.arange(1, 251, dtype=torch.float64)
    torch.testing.assert_close(process.levels()[0] ** 2, kept, rtol=1e-5, atol=0)
    assert float(process.levels()[0][-1]) == pytest.approx(math.sqrt(kept[-1]), rel=1e-5)
    assert "92.5% of the signal is left" in signal_warning(process)
    assert "process 'cosine' does" in signal_warning(process)
    assert (process.loss, process.prediction_type) == ("huber", "epsilon")
    for name in ("cosine", "ddpm", "flow"):  # which reach noise
        assert 0 <= float(get_process(name).levels()[0][-1]) < 0.05
        assert signal_warning(get_process(name)) is None


@pytest.mark.parametrize(
    ("settings", "step"),
    [
        ({"num_timesteps": 10_000}, "9,9.. of 10,000"),
        ({"beta_end": 0.9}, "[3-9].. of 1,000"),
        ({"schedule": "constant", "beta_start": 0.5}, "149 of 1,000"),
        ({"beta_start": 1e-8}, "0 of 1,000"),
        ({"beta_end": 1 - 1e-9, "num_timesteps": 10}, "9 of 10"),
    ],
)
def test_levels_that_single_precision_cannot_tell_apart_are_refused(settings, step):
    process = Process(**{"name": "own", "schedule": "linear", **settings})
    with refused(f"process 'own' adds no noise at timestep {step} .*; choose betas further"):
        process.levels()


def test_losses_are_squared_or_quadratic_near_and_linear_far():
    error = torch.linspace(-4, 4, 41, dtype=torch.float64).unsqueeze(-1)
    huber = torch.where(error.abs() <= 1, error**2 / 2, error.abs() - 0.5)
    for name, expected in (("notebook", huber), ("cosine", error**2)):
        loss_of, zero = get_process(name).loss_of, torch.zeros_like(error)
        torch.testing.assert_close(loss_of(error, zero, reduction="none"), expected)
        assert float(loss_of(error, zero)) == pytest.approx(float(expected.mean()))


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
