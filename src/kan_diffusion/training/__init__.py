"""Training: the loop, what each step draws, and what becomes of a gradient."""

from kan_diffusion.training.loop import (
    MomentCallback,
    ProgressCallback,
    TrainingConfig,
    TrainingResult,
    read_checkpoint_identity,
    train,
)

__all__ = [
    "MomentCallback",
    "ProgressCallback",
    "TrainingConfig",
    "TrainingResult",
    "read_checkpoint_identity",
    "train",
]
