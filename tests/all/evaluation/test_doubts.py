import numpy as np
import pytest
import torch

from helpers import randn, seeded
from kan_diffusion import PointDiffusionPipeline, TrainingConfig, get_process, train
from kan_diffusion.evaluation.doubts import training_doubt
from kan_diffusion.training.defaults import suggested
from make import denoiser


def _rows(num, seed, dim):
    """Two clusters, with columns that depend on each other."""
    first = randn(num, 1, seed=seed, dtype=torch.float32)
    rest = first.sin() + 0.2 * randn(num, dim - 1, seed=seed + 100, dtype=torch.float32)
    side = torch.randint(2, (num, 1), generator=seeded(seed + 200)) * 2.0 - 1
    return (torch.cat([first, rest], dim=1) * 0.4 + side) / 1.1


@pytest.mark.parametrize(
    ("dim", "params", "steps", "remedy"),
    [
        (3, None, 800, None),
        (3, None, 60, "it has not converged; raise steps from 60 to 240"),
        (8, 250, 1000, "it is too small; raise params from"),
    ],
)
def test_what_is_said_of_a_trained_model(dim, params, steps, remedy):
    rows, heldout, process = _rows(3000, 0, dim), _rows(600, 1, dim), get_process("cosine")
    table = suggested(3000, dim, "full-kan", params)
    settings = {name: getattr(table, name) for name in ("batch_size", "learning_rate", "patience")}
    config = TrainingConfig(steps=steps, **settings)
    size = {"num_train_timesteps": 1000, "params": table.params, "at_most": True}
    made = denoiser("full-kan", dim, seed=3, **size)
    result = train(made, process, rows, config, seed=4, heldout=heldout, device="cpu")
    drawn = PointDiffusionPipeline(made, process)(600, 20, generator=seeded(5)).samples
    random = np.random.default_rng(6)
    doubt = training_doubt(result, config, made.num_trainable, drawn, heldout, random)
    assert doubt is None if remedy is None else remedy in doubt
