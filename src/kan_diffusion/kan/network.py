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
from kan_diffusion.kan.bases import Basis, BasisName, Extrapolation, Rational
from kan_diffusion.kan.grids import MovingGrids
from kan_diffusion.kan.initialization import Initialization
from kan_diffusion.kan.linear import BaseActivation, KANLinear, in_one_go

__all__ = ["KAN"]


class KAN(MovingGrids):
    """A Kolmogorov-Arnold network: (*, widths[0]) -> (*, widths[-1]).

    Args:
        widths: Sizes of the input, the hidden layers and the output, at least two.
        bias: Whether each layer adds a learned constant to its outputs.
        basis: The functions an edge is made of: a name, or an object whose kind and settings each
            layer gets (:meth:`Basis.for_inputs`). This and all arguments that follow are those of
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
        basis: BasisName | Basis = "bspline",
        grid_size: int = 5,
        order: int = 3,
        grid_range: tuple[float, float] = (-1.0, 1.0),
        extrapolation: Extrapolation = "linear",
        base_activation: BaseActivation = "auto",
        edge_scale: bool = False,
        init: Initialization = "power-law",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if len(widths) < 2:
            raise KanDiffusionError(f"a KAN needs at least two widths, not {list(widths)}")

        def layer_basis(fan_in: int, index: int) -> BasisName | Basis:
            if isinstance(basis, Basis):
                return basis.for_inputs(fan_in)
            if basis == "rational" and index == 0:
                # In the first layer rational functions start as the identity, see their module.
                return Rational(fan_in, start="identity", device=device, dtype=dtype)
            return basis

        self.layers = nn.ModuleList(
            KANLinear(
                fan_in,
                fan_out,
                bias,
                basis=layer_basis(fan_in, index),
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
            for index, (fan_in, fan_out) in enumerate(pairwise(widths))
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
        joined = in_one_go(self.layers, input)
        if joined is not None:
            return joined
        output = input
        for layer in self.layers:
            output = layer(output)
        return output
