import numpy as np
import pytest
import torch

from helpers import seeded
from kan_diffusion.denoisers import build_denoiser
from kan_diffusion.diffusion.sampling import PointDiffusionPipeline
from kan_diffusion.evaluation.doubts import training_doubt
from kan_diffusion.processes import get_process
from kan_diffusion.training import TrainingConfig, train
from kan_diffusion.training.defaults import suggested


def _rows(num, seed, dim):
    """Two clusters, with columns that depend on each other."""
    first = torch.randn(num, 1, generator=seeded(seed))
    rest = first.sin() + 0.2 * torch.randn(num, dim - 1, generator=seeded(seed + 100))
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
def test_what_is_said_of_a_model(dim, params, steps, remedy):
    rows, heldout, process = _rows(3000, 0, dim), _rows(600, 1, dim), get_process("cosine")
    table = suggested(3000, dim, "full-kan", params)
    config = TrainingConfig(
        steps=steps,
        batch_size=table.batch_size,
        learning_rate=table.learning_rate,
        patience=table.patience,
    )
    denoiser = build_denoiser(
        "full-kan",
        dim,
        num_train_timesteps=process.num_timesteps,
        params=table.params,
        generator=seeded(3),
        at_most=True,
    )
    result = train(denoiser, process, rows, config, seed=4, heldout=heldout, device="cpu")
    pipeline = PointDiffusionPipeline(denoiser, process)
    drawn = pipeline(600, 20, generator=seeded(5)).samples
    random = np.random.default_rng(6)
    doubt = training_doubt(result, config, denoiser.num_trainable, drawn, heldout, random)
    assert doubt is None if remedy is None else remedy in doubt
