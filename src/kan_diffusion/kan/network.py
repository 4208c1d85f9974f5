r"""``KAN``: a stack of :class:`~kan_diffusion.kan.linear.KANLinear` layers.

.. math:: \mathrm{KAN}(x) = (\Phi_L \circ \dots \circ \Phi_1)(x),

where each :math:`\Phi` is a layer of learned functions, without activations between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.bases import BasisKind, Extrapolation
from kan_diffusion.kan.initialization import Initialization
from kan_diffusion.kan.linear import BaseActivation, KANLinear

__all__ = ["KAN"]


class KAN(nn.Module):
    """A Kolmogorov-Arnold network: (*, widths[0]) -> (*, widths[-1]).

    Args:
        widths: Sizes of the input, the hidden layers and the output, at least two.
        bias: Whether each layer adds a learned constant to its outputs.
        basis: The functions an edge is made of. This and all arguments that follow are those of
            :class:`KANLinear`.
        grid_size: Number of intervals.
        order: Degree of the splines.
        grid_range: Ends of the grid.
        extrapolation: What happens outside the grid.
        base_activation: ``"silu"``, None or ``"auto"``.
        edge_scale: Whether every edge has a scale of its own.
        init: Initialisation by name.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Attributes:
        layers: The layers, an ``nn.ModuleList``.
    """

    def __init__(
        self,
        widths: Sequence[int],
        bias: bool = True,
        *,
        basis: BasisKind = "bspline",
        grid_size: int = 5,
        order: int = 3,
        grid_range: tuple[float, float] = (-1.0, 1.0),
        extrapolation: Extrapolation = "linear",
        base_activation: BaseActivation = "auto",
        edge_scale: bool = False,
        init: Initialization | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if len(widths) < 2:
            raise KanDiffusionError(f"a KAN needs at least two widths, not {list(widths)}")
        self.layers = nn.ModuleList(
            KANLinear(
                fan_in,
                fan_out,
                bias,
                basis=basis,
                grid_size=grid_size,
                order=order,
                grid_range=grid_range,
                extrapolation=extrapolation,
                base_activation=base_activation,
                edge_scale=edge_scale,
                init=init,
                device=device,
                dtype=dtype,
            )
            for fan_in, fan_out in pairwise(widths)
        )

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one row of input."""
        return sum(layer.flops for layer in self.layers if isinstance(layer, KANLinear))

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh parameters in every layer."""
        for layer in self.layers:
            assert isinstance(layer, KANLinear)
            layer.reset_parameters(generator)

    def forward(self, input: Tensor) -> Tensor:
        """Applies the layers one after another."""
        output = input
        for layer in self.layers:
            output = layer(output)
        return output
