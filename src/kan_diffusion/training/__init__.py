"""Training: the loop, the batches of its steps and the updates of parameters."""

from kan_diffusion.training.loop import Callback, ProgressCallback, TrainingResult, train
from kan_diffusion.training.run import MomentCallback, TrainingConfig, read_checkpoint_identity

__all__ = [
    "Callback",
    "MomentCallback",
    "ProgressCallback",
    "TrainingConfig",
    "TrainingResult",
    "read_checkpoint_identity",
    "train",
]
