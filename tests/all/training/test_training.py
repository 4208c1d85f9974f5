"""Precisions, L-BFGS, what accelerate refuses, and full disks."""

import copy
import math
import os

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.optim.optimizer import register_optimizer_step_pre_hook

from helpers import refused
from kan_diffusion import devices
from kan_diffusion.errors import RunFolderError
from kan_diffusion.training import TrainingConfig, loop
from short_training import POINTS, SHORT, Stop, after_each_step, digest, small, stopped_at, trained


def _fp16_on_the_cpu(*_):
    """What accelerate makes on a GPU for fp16, which it refuses to make on a CPU."""
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    accelerator.state._mixed_precision = "fp16"
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    return accelerator


@pytest.mark.parametrize(("optimizer", "least"), [("adam", 0.05), ("muon", 0.01)])
def test_scaled_gradients_are_unscaled_before_they_are_clipped(optimizer, least, monkeypatch):
    # No gradient reaches the limit, and every one would if it were still scaled.
    denoiser, plain = small(), small()
    config = TrainingConfig(**SHORT, optimizer=optimizer, max_grad_norm=5.0)
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
    assert least < min(norms) < max(norms) < 5
    for ours, theirs in zip(denoiser.parameters(), plain.parameters(), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.1)


def test_a_resumed_run_goes_on_with_the_scale_of_its_gradients(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        loop, "make_accelerator", lambda *_: made.append(_fp16_on_the_cpu()) or made[-1]
    )
    config = TrainingConfig(**SHORT, checkpoint_every=7)
    kept = {"checkpoint": tmp_path / "state.safetensors", "identity": "a"}
    try:
        with pytest.raises(Stop):
            trained(small(), config, **kept, **stopped_at(23, Stop))
        made[0].scaler.update(2.0**12)  # of a run that is no longer there
        assert trained(small(), config, **kept, resume=True).resumed_from == 21
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    state = made[1].scaler.state_dict()
    assert (state["scale"], state["_growth_tracker"]) == (2.0**10, 40)


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


def test_a_step_by_lbfgs_is_taken_again_without_a_memory_that_spoils_it():
    calls = []

    def spoil(made, *_):
        calls.append(len(made.state))
        if len(calls) == 4:
            (state,) = made.state.values()
            state["old_dirs"][-1].fill_(math.nan)

    config = TrainingConfig(**SHORT, optimizer="lbfgs", learning_rate=1.0)
    handle = register_optimizer_step_pre_hook(spoil)
    try:
        result = trained(small("mlp"), config)
    finally:
        handle.remove()
    assert calls[:6] == [0, 1, 1, 1, 0, 1]  # the fourth step twice, the second time from nothing
    assert all(map(math.isfinite, result.losses))


def test_an_optimizer_that_cannot_train_in_a_precision_is_refused():
    denoiser = small()
    config = TrainingConfig(**SHORT, optimizer="lbfgs", mixed_precision="bf16")
    try:
        with refused("optimizer 'lbfgs' .*mixed precision bf16; choose adam, soap or muon"):
            trained(denoiser, config)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    trained(denoiser)  # unharmed


def _unsupported(**_):
    raise ValueError("bf16 mixed precision requires a supported device.")


def test_what_accelerate_refuses_has_nothing_to_do_with_logs(monkeypatch):
    monkeypatch.setattr(devices, "Accelerator", _unsupported)
    with refused(r"for device cpu and mixed precision no \(bf16 .*\); choose another of the two$"):
        trained(small())


def test_accelerate_takes_the_gpu_of_the_number_that_was_given(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    try:
        for name in ("cuda:1", "cuda", "cpu"):
            devices.make_accelerator(torch.device(name), "no", None)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert chosen == [torch.device("cuda:1")]


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
    with refused("TensorBoard is not installed; pip install tensorboard"):
        trained(small(), log_folder=tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="limits of file sizes are POSIX")
def test_a_full_disk_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    import resource

    checkpoint = tmp_path / "state.safetensors"
    config = TrainingConfig(**SHORT, checkpoint_every=7)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(*_):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))

    try:
        with refused(r"cannot write '.*state\.safetensors'", RunFolderError):
            trained(small(), config, checkpoint=checkpoint, moments=[17], on_moment=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
    undisturbed, resumed = small(), small()
    trained(undisturbed, config)
    assert trained(resumed, config, checkpoint=checkpoint, resume=True).resumed_from == 14
    assert digest(resumed) == digest(undisturbed)


def test_a_run_by_lbfgs_learns_and_resumes_to_the_same_bits(tmp_path):
    given = {**SHORT, "optimizer": "lbfgs", "learning_rate": 1.0, "batch_size": 100}
    config = TrainingConfig(**given, batches="epochs", checkpoint_every=7)
    undisturbed, resumed = small("kan"), small("kan")
    points = {"points": 0.1 * POINTS + 1, "heldout": 0.1 * POINTS + 1}
    expected = trained(undisturbed, config, **points)
    assert expected.heldout_losses[-1][1] < 0.5 * expected.losses[0]
    kept = {"checkpoint": tmp_path / "state.safetensors", **points}
    with pytest.raises(KeyboardInterrupt):
        trained(small("kan"), config, **kept, **stopped_at(23, KeyboardInterrupt))
    result = trained(resumed, config, **kept, resume=True)
    assert result.resumed_from == 23
    assert digest(resumed) == digest(undisturbed)
    assert (result.losses == expected.losses).all()
