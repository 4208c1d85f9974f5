"""The evaluation of a layer: torch's own operations, or a compiled kernel."""

from kan_diffusion.kan.kernels.edges import edge_features, edge_linear

__all__ = ["edge_features", "edge_linear"]
