"""Settings of training; this module imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import ConfigDict, Field, model_validator

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.limits import MOST_POINTS, MOST_SECONDS, MOST_STEPS
from kan_diffusion.settings import Settings

OptimizerName = Literal["adam", "soap", "muon"]
OPTIMIZERS: tuple[OptimizerName, ...] = get_args(OptimizerName)
"""The optimisers by name, see :mod:`kan_diffusion.training.optimization`."""

Timesteps = Literal["uniform", "logit-normal"]
"""Distributions of timesteps by name, see :mod:`kan_diffusion.training.batches`."""

Step = Annotated[int, Field(ge=0, le=MOST_STEPS)]
"""A number of steps in a file."""

_ENOUGH_HELD_OUT, _MOST_HELD_OUT = 50, 5_000
_FEWEST_ROWS = 10
"""Rows below which none is held out: too few would be left to learn from."""


def num_held_out(num_rows: int) -> int:
    """Number of rows to hold out of training, so that it can stop early.

    A tenth, at most 5,000; of few rows up to a fifth, since the loss on ten rows is luck.
    """
    if num_rows < _FEWEST_ROWS:
        return 0
    return min(max(num_rows // 10, min(num_rows // 5, _ENOUGH_HELD_OUT)), _MOST_HELD_OUT)


class TrainingConfig(Settings):
    """Settings of training."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    steps: int = Field(2500, ge=1, le=MOST_STEPS)
    """Number of optimiser steps."""
    batch_size: int = Field(2048, ge=1, le=MOST_POINTS)
    """Samples per step; drawn with replacement, they may be more than there are."""
    batches: Literal["replacement", "epochs"] = "replacement"
    """'replacement' draws every batch afresh; 'epochs' goes through the data in random order, and
    the last batch of an epoch holds the rest."""
    timesteps: Timesteps = "uniform"
    """'logit-normal' draws timesteps in the middle more often than others."""
    optimizer: OptimizerName = "adam"
    """Optimiser."""
    learning_rate: float = Field(5e-3, gt=0, allow_inf_nan=False)
    """Peak learning rate, in the size that suits Adam."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """'cosine' decays to zero after the warm-up, 'constant' stays at the peak."""
    warmup_steps: int = Field(100, ge=0, le=MOST_STEPS)
    """Steps over which the learning rate rises linearly from zero, at most a quarter of all."""
    ema_decay: float | None = Field(0.999, gt=0, lt=1)
    """Decay of the moving average of the parameters, which itself warms up as (1 + k) / (10 + k);
    None for no average."""
    max_grad_norm: float | None = Field(1.0, gt=0)
    """Norm to which the gradient is clipped; None for no clipping."""
    checkpoint_every: int = Field(1000, ge=1, le=MOST_STEPS)
    """Steps between checkpoints."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """'bf16' computes what the network computes in bfloat16 where torch's autocast does; 'no' in
    float32."""
    sparsify: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Weight of a penalty, added to the loss, on sizes and entropies of the edges of KAN layers
    other than gated ones; 0 for none."""
    patience: float | None = Field(None, gt=0, le=1)
    """Training stops when the held-out loss has not improved for this fraction of the steps; None
    never stops early. Needs held-out points."""
    max_seconds: float | None = Field(None, gt=0, le=MOST_SECONDS)
    """Wall-clock seconds that training may take, with what comes before and after it. The number of
    steps then follows from the machine's speed, so that two runs of one seed differ, and is at most
    'steps'; by default there is no limit."""
    processor_seconds: float | None = Field(None, gt=0, le=MOST_SECONDS)
    """Seconds of the processor, or GPU, that training takes. The number of steps then follows from
    the machine's speed, so that two runs of one seed differ, and not from 'steps'; None for
    'steps'."""

    @model_validator(mode="after")
    def _one_clock(self) -> Self:
        if self.max_seconds is not None and self.processor_seconds is not None:
            raise KanDiffusionError(
                "max_seconds and processor_seconds both settle the number of steps; give one"
            )
        return self
