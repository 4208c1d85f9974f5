import copy

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from helpers import refused
from kan_diffusion import devices
from kan_diffusion.training import TrainingConfig, loop
from short_training import POINTS, SHORT, after_each_step, small, trained


def _fp16_on_the_cpu(*_):
    """What accelerate makes on a GPU for fp16, which it refuses to make on a CPU."""
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    accelerator.state._mixed_precision = "fp16"
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    return accelerator


def test_scaled_gradients_are_unscaled_before_they_are_clipped(monkeypatch):
    # No gradient reaches the limit, and every one would if it were still scaled.
    denoiser, plain = small(), small()
    config = TrainingConfig(**SHORT, max_grad_norm=5.0)
    norms = []
    try:
        with after_each_step(lambda grads: norms.append(float(grads[0].norm()))):
            expected = trained(plain, config).losses
            monkeypatch.setattr(loop, "make_accelerator", _fp16_on_the_cpu)
            losses = trained(denoiser, config).losses
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert losses == pytest.approx(expected, rel=0.02)
    assert (losses != expected).any()
    assert norms[40:] == pytest.approx(norms[:40], rel=0.02)
    assert 0.05 < min(norms) < max(norms) < 5


@pytest.mark.parametrize("family", ["kan", "mlp"])
def test_mixed_precision_trains_and_leaves_an_ordinary_denoiser(family):
    denoiser, plain = small(family), small(family)
    config = TrainingConfig(**SHORT, mixed_precision="bf16")
    losses = trained(denoiser, config).losses
    expected = trained(plain).losses
    assert losses == pytest.approx(expected, rel=0.1)
    assert (losses != expected).any()
    # Once trained, it computes in the precision of its weights and can be copied.
    twin = small(family)
    twin.load_state_dict(denoiser.state_dict())
    x = POINTS[:5]
    assert torch.equal(denoiser(x, 3).sample, twin(x, 3).sample)
    assert torch.equal(copy.deepcopy(denoiser)(x, 3).sample, twin(x, 3).sample)


def test_losses_and_out_of_range_inputs_are_logged(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    narrow = small("full-kan", settings={"grid_range": (-0.5, 0.5)})
    result = trained(narrow, log_folder=tmp_path)
    (event_file,) = tmp_path.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(event_file.parent)).Reload()
    values = {f"out_of_range/{name}": share for name, share in result.out_of_range.items()}
    for name, value in {"loss": float(result.losses[-1]), **values}.items():
        logged = events.Scalars(name)[-1]
        assert (logged.step, logged.value) == (40, pytest.approx(value))
    assert len(values) == 2
    assert events.Scalars("learning_rate")[-1].step == 40


def test_a_log_that_nothing_would_write_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "is_tensorboard_available", lambda: False)
    with refused(r"logs of training need 'tensorboard'; .* pip install '\.\[tensorboard\]'"):
        trained(small(), log_folder=tmp_path)
