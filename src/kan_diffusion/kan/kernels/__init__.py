"""The evaluation of a layer: torch's own operations, or a compiled kernel."""

from kan_diffusion.kan.kernels.edges import (
    Edges,
    autocasts,
    edge_chain,
    edge_features,
    edge_linear,
    in_full_precision,
    with_grid,
)

__all__ = [
    "Edges",
    "autocasts",
    "edge_chain",
    "edge_features",
    "edge_linear",
    "in_full_precision",
    "with_grid",
]
