"""The evaluation of a layer: torch's own operations, or a compiled kernel."""

from kan_diffusion.kan.kernels.edges import (
    autocasts,
    edge_features,
    edge_linear,
    in_full_precision,
    with_grid,
)

__all__ = ["autocasts", "edge_features", "edge_linear", "in_full_precision", "with_grid"]
