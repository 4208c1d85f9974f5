"""What is said of a model that does not fit, and that nothing is said of one that does."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import seeded
from kan_diffusion.denoisers import build_denoiser
from kan_diffusion.evaluation.doubts import training_doubt
from kan_diffusion.processes import get_process
from kan_diffusion.sampling import PointDiffusionPipeline, make_scheduler
from kan_diffusion.training import TrainingConfig, TrainingResult, train
from kan_diffusion.training.defaults import suggested


def _rows(num: int, seed: int, dim: int = 3) -> Tensor:
    """Two clusters, with columns that depend on each other."""
    first = torch.randn(num, 1, generator=seeded(seed))
    rest = first.sin() + 0.2 * torch.randn(num, dim - 1, generator=seeded(seed + 100))
    side = torch.randint(2, (num, 1), generator=seeded(seed + 200)) * 2.0 - 1
    return (torch.cat([first, rest], dim=1) * 0.4 + side) / 1.1


def _doubt(rows: Tensor, **changes: object) -> str | None:
    heldout = _rows(600, 1, rows.shape[1])
    size = changes.pop("params", None)
    table = suggested(len(rows), rows.shape[1], "full-kan", size)
    config = TrainingConfig(
        **{
            "steps": table.steps,
            "batch_size": table.batch_size,
            "learning_rate": table.learning_rate,
            "patience": table.patience,
            **changes,
        }
    )
    process = get_process("cosine")
    denoiser = build_denoiser(
        "full-kan",
        rows.shape[1],
        num_train_timesteps=process.num_timesteps,
        params=table.params,
        generator=seeded(3),
        at_most=True,
    )
    result = train(denoiser, process, rows, config, seed=4, heldout=heldout, device="cpu")
    pipeline = PointDiffusionPipeline(denoiser, make_scheduler(None, process.scheduler()))
    drawn = pipeline(600, 20, generator=seeded(5)).samples
    random = np.random.default_rng(6)
    return training_doubt(result, config, denoiser.num_trainable, drawn, heldout, random)


def test_nothing_is_said_of_a_model_that_fits() -> None:
    assert _doubt(_rows(3000, 0), steps=800) is None


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"steps": 60}, "it has not converged; raise steps from 60 to 240"),
        ({"steps": 90_000, "max_seconds": 0.03}, "max_seconds=0.03 ended .* raise it"),
        ({"processor_seconds": 0.05}, "processor_seconds=0.05 ended .* raise it"),
    ],
)
def test_a_model_that_does_not_fit_is_told_with_its_remedy(
    changes: dict[str, object], remedy: str
) -> None:
    doubt = _doubt(_rows(3000, 0), **changes)
    assert doubt.startswith("the model does not fit the table well: ")
    assert "\n" not in doubt
    assert re.search(remedy, doubt), doubt


def test_a_network_that_is_too_small_is_told_to_grow() -> None:
    doubt = _doubt(_rows(3000, 0, dim=8), params=250, steps=1000)
    assert "it is too small; raise params from" in doubt


def _ended(*looks: tuple[int, float]) -> TrainingResult:
    """What 2,000 steps with these losses on held-out rows give."""
    return TrainingResult(
        losses=np.full(2000, 0.5),
        learning_rates=np.full(2000, 0.01),
        heldout_losses=looks,
        best_step=min(looks, key=lambda look: look[1])[0],
        ending="finished",
        seconds=1.0,
        cpu_seconds=1.0,
        threads=1,
        resumed_from=0,
        out_of_range={},
    )


def test_a_loss_that_halves_fell_by_half() -> None:
    result, config = _ended((500, 2.0), (1000, 0.8), (2000, 0.4)), TrainingConfig(steps=2000)
    rows = _rows(300, 2), _rows(300, 1)
    doubt = training_doubt(result, config, 1234, *rows, np.random.default_rng(0))
    assert "the held-out loss fell by 50% in the second half of the steps" in doubt


def test_a_loss_that_rises_again_is_that_of_rows_learned_by_heart() -> None:
    result = _ended((500, 0.9), (1000, 0.8), (2000, 0.9))
    config, heldout = TrainingConfig(steps=2000), _rows(300, 1)
    doubts = [
        training_doubt(result, config, 1234, drawn, heldout, np.random.default_rng(0))
        for drawn in (_rows(300, 2), heldout + 1)
    ]
    assert doubts[0] is None
    assert "by heart; give it more rows, or fewer params than 1,234" in doubts[1]
