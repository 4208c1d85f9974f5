"""Short trainings of small denoisers, what interrupts them, and a look into their steps."""

import hashlib
from contextlib import contextmanager

from torch.optim.optimizer import register_optimizer_step_post_hook

from kan_diffusion.processes import get_process
from kan_diffusion.training.callbacks import Snapshots
from kan_diffusion.training.config import TrainingConfig
from kan_diffusion.training.loop import train
from make import denoiser, points

# 100 points in batches of 32 are epochs of four steps, the last of 4 points.
SHORT = {"steps": 40, "batch_size": 32, "warmup_steps": 5, "ema_decay": 0.9}
POINTS = points(100, seed=1)


def small(family="mlp", hidden=(8,), **options):
    """An untrained denoiser of points in the plane for the cosine process."""
    return denoiser(family, **{"hidden": hidden, "num_train_timesteps": 1000, **options})


def trained(denoiser, config=None, **options):
    """Trains a denoiser for a few steps on the CPU, unless options say otherwise."""
    given = {"seed": 7, "device": "cpu", **options}
    samples, process = given.pop("points", POINTS), given.pop("process", get_process("cosine"))
    return train(denoiser, process, samples, config or TrainingConfig(**SHORT), **given)


def digest(denoiser):
    """A digest of all weights."""
    values = [value.numpy().tobytes() for value in denoiser.state_dict().values()]
    return hashlib.sha256(b"".join(values)).hexdigest()


class Stop(Exception):  # noqa: N818
    """Not an error: a way out of the loop."""


def never(step, loss):
    """Progress of a trial that should take no step."""
    raise AssertionError("it trains")


def stopped_at(step, error=Stop):
    """Options that end a training with an error at a step."""

    def callback(at, _):
        if at == step:
            raise error

    return {"callbacks": [Snapshots([step], callback)]}


@contextmanager
def after_each_step(look):
    """Shows the optimiser when the weights have moved and the step is not counted."""
    handle = register_optimizer_step_post_hook(lambda optimizer, *_: look(optimizer))
    try:
        yield
    finally:
        handle.remove()
