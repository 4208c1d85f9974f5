"""Training: settings, the loop and its callbacks, batches of its steps, updates of parameters."""

from kan_diffusion.training.config import TrainingConfig

__all__ = ["TrainingConfig"]
