"""Training: the loop, what each step draws, and what becomes of a gradient."""

from kan_diffusion.training.loop import ProgressCallback, TrainingResult, train
from kan_diffusion.training.run import MomentCallback, TrainingConfig, read_checkpoint_identity

__all__ = [
    "MomentCallback",
    "ProgressCallback",
    "TrainingConfig",
    "TrainingResult",
    "read_checkpoint_identity",
    "train",
]
