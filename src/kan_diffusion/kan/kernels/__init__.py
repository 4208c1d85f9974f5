"""The evaluation of a layer: torch's own operations, or a compiled kernel."""

from kan_diffusion.kan.kernels.edges import Edges, edge_chain, edge_features, edge_linear

__all__ = ["Edges", "edge_chain", "edge_features", "edge_linear"]
