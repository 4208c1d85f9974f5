import copy
import sys

import pytest
import torch

from helpers import refused
from kan_diffusion.training.callbacks import TensorBoard
from kan_diffusion.training.config import TrainingConfig
from short_training import POINTS, SHORT, small, trained


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
    outside = {}

    def watch(run):
        if run.batch is not None:
            outside.update(run.out_of_range(run.batch))

    result = trained(narrow, callbacks=[TensorBoard(tmp_path), watch])
    (event_file,) = tmp_path.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(event_file.parent)).Reload()
    values = {f"out_of_range/{name}": share for name, share in outside.items()}
    for name, value in {"loss": float(result.losses[-1]), **values}.items():
        logged = events.Scalars(name)[-1]
        assert (logged.step, logged.value) == (40, pytest.approx(value))
    assert len(values) == 2
    assert events.Scalars("learning_rate")[-1].step == 40


def test_a_log_that_nothing_would_write_is_refused(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with refused(r"logs of training need 'tensorboard'; .* pip install '\.\[tensorboard\]'"):
        trained(small(), callbacks=[TensorBoard(tmp_path)])
