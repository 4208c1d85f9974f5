"""Evaluation: oracles and, against them, the excess of a denoiser."""

from kan_diffusion.evaluation.oracles import (
    ExactOracle,
    Oracle,
    ReferenceOracle,
    excess_by_pair,
    noise_from_mean,
)

__all__ = ["ExactOracle", "Oracle", "ReferenceOracle", "excess_by_pair", "noise_from_mean"]
