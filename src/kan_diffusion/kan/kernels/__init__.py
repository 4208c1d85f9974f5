"""Evaluation of a layer's edge features, behind one function."""

from kan_diffusion.kan.kernels.dispatch import edge_features
from kan_diffusion.kan.kernels.reference import EdgeBasis

__all__ = ["EdgeBasis", "edge_features"]
