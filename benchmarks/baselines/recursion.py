r"""A KAN layer whose splines are evaluated by the Cox-de Boor recursion, in the usual way.

On knots :math:`t_0 < t_1 < \dots` (the grid extended by k intervals at both ends) the functions of
order 0 are the indicators of the intervals, and those of order p follow from those of order p - 1:

.. math:: B_{i,0}(x) = [t_i \le x < t_{i+1}], \qquad
    B_{i,p}(x) = \frac{x - t_i}{t_{i+p} - t_i} B_{i,p-1}(x)
    + \frac{t_{i+p+1} - x}{t_{i+p+1} - t_{i+1}} B_{i+1,p-1}(x).

Every order is a tensor over all inputs and all functions, kept for the backward pass: the form of
the textbook (C. de Boor, A Practical Guide to Splines, 1978), and of most KAN layers in use.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from baselines.contender import ORDER, Case, Contender, NetworkWorkload
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan import KANLinear
from kan_diffusion.kan.bases.spline import BSpline

__all__ = ["RECURSION", "RecursionKANLinear", "cox_de_boor", "replace_layers"]


def cox_de_boor(x: Tensor, knots: Tensor, order: int) -> Tensor:
    """All B-splines of an order at x, by the recursion.

    Args:
        x: Where to evaluate, with shape (N, in).
        knots: Knots of each input, increasing, with shape (in, m).
        order: Degree k of the splines.

    Returns:
        Values with shape (N, in, m - 1 - k).
    """
    x = x.unsqueeze(-1)
    values = ((x >= knots[:, :-1]) & (x < knots[:, 1:])).to(x.dtype)
    for p in range(1, order + 1):
        rising = (x - knots[:, : -p - 1]) / (knots[:, p:-1] - knots[:, : -p - 1])
        falling = (knots[:, p + 1 :] - x) / (knots[:, p + 1 :] - knots[:, 1:-p])
        values = rising * values[..., :-1] + falling * values[..., 1:]
    return values


class RecursionKANLinear(nn.Module):
    """A drop-in for :class:`kan_diffusion.KANLinear` on the recursion.

    It takes the same arguments, starts from the same parameters when drawn by the same generator,
    and then computes the same function; outside the grid it has the classical behaviour only.

    Args:
        in_features: Size of the last dimension of the input.
        out_features: Size of the last dimension of the output.
        bias: Whether to add a learned constant to each output.
        basis: ``"bspline"``.
        grid_size: Number G of intervals of the grid.
        order: Degree k of the splines.
        grid_range: Ends of the grid.
        extrapolation: ``"zero"``.
        base_activation: ``"silu"``, ``"auto"`` (the same) or None.
        edge_scale: Whether every edge has a scale of its own.
        init: Initialisation by name, as ``KANLinear`` has them.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Attributes:
        base_weight: Weights of the base branch with shape (out, in), or None.
        spline_weight: Spline coefficients with shape (out, in, G + k).
        spline_scale: Edge scales with shape (out, in), or None.
        bias: Constants with shape (out,), or None.
        knots: Buffer with the extended knots, shape (in, G + 2k + 1).

    Raises:
        KanDiffusionError: Another basis or another behaviour outside the grid is asked for.
    """

    knots: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        basis: str = "bspline",
        grid_size: int = 5,
        order: int = 3,
        grid_range: tuple[float, float] = (-1.0, 1.0),
        extrapolation: str = "zero",
        base_activation: str | None = "silu",
        edge_scale: bool = False,
        init: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        chosen = {} if init is None else {"init": init}
        self._adopt(
            KANLinear(
                in_features, out_features, bias,
                basis=basis, grid_size=grid_size, order=order, grid_range=grid_range,
                extrapolation=extrapolation, base_activation=base_activation,
                edge_scale=edge_scale, device=device, dtype=dtype, **chosen,
            )
        )  # fmt: skip

    @classmethod
    def from_layer(cls, layer: KANLinear) -> RecursionKANLinear:
        """A layer on the recursion with the function of ``layer``, sharing no parameter with it.

        Raises:
            KanDiffusionError: The layer has another basis or another behaviour outside the grid.
        """
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made._adopt(layer)
        return made

    @torch.no_grad()
    def _adopt(self, layer: KANLinear) -> None:
        """Takes over sizes, grid and parameters of a layer."""
        splines = layer.basis
        if not isinstance(splines, BSpline) or splines.extrapolation != "zero":
            raise KanDiffusionError(
                "the recursion knows basis 'bspline' with extrapolation 'zero', not "
                f"'{splines.name}' with '{getattr(splines, 'extrapolation', None)}'; set both"
            )
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.grid_size, self.order = splines.num_intervals, splines.order
        self.base_activation, self.init = layer.base_activation, layer.init
        self.flops = layer.flops
        origin, step = splines.grid_origin, splines.grid_step
        places = torch.arange(-self.order, self.grid_size + self.order + 1).to(origin)
        self.register_buffer("knots", torch.outer(step, places) + origin.unsqueeze(-1))
        first = int(self.base_activation is not None)
        edges = layer.weight.unflatten(1, (self.in_features, -1))
        self.base_weight = nn.Parameter(edges[..., 0].clone()) if first else None
        self.spline_weight = nn.Parameter(edges[..., first:].clone())
        self.spline_scale = _copy(layer.scale)
        self.bias = _copy(layer.bias)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh parameters: those that ``KANLinear`` draws from the same generator."""
        like = KANLinear(
            self.in_features, self.out_features, self.bias is not None,
            grid_size=self.grid_size, order=self.order, extrapolation="zero",
            base_activation=self.base_activation, edge_scale=self.spline_scale is not None,
            init=self.init, device=self.spline_weight.device, dtype=self.spline_weight.dtype,
        )  # fmt: skip
        like.reset_parameters(generator)
        drawn = RecursionKANLinear.from_layer(like)
        for own, fresh in zip(self.parameters(), drawn.parameters(), strict=True):
            own.copy_(fresh)

    def forward(self, input: Tensor) -> Tensor:
        """Maps (*, in_features) to (*, out_features)."""
        rows = input.reshape(-1, self.in_features)
        weight = self.spline_weight
        if self.spline_scale is not None:
            weight = weight * self.spline_scale.unsqueeze(-1)
        values = cox_de_boor(rows, self.knots, self.order)
        output = nn.functional.linear(values.flatten(1), weight.flatten(1), self.bias)
        if self.base_weight is not None:
            output = output + nn.functional.linear(nn.functional.silu(rows), self.base_weight)
        return output.view(*input.shape[:-1], self.out_features)


def _copy(parameter: Tensor | None) -> nn.Parameter | None:
    return None if parameter is None else nn.Parameter(parameter.detach().clone())


def replace_layers(module: nn.Module) -> int:
    """Puts every :class:`kan_diffusion.KANLinear` inside ``module`` on the recursion, in place.

    The functions stay what they are; parameters become new ones, so an optimiser is made after it.

    Returns:
        How many layers were replaced.
    """
    replaced = 0
    for name, child in list(module.named_children()):
        if isinstance(child, KANLinear):
            setattr(module, name, RecursionKANLinear.from_layer(child))
            replaced += 1
        else:
            replaced += replace_layers(child)
    return replaced


def _build(case: Case, device: torch.device) -> NetworkWorkload:
    layers = [
        RecursionKANLinear(
            fan_in, fan_out, bias=False, grid_size=case.grid_size, order=ORDER, edge_scale=True
        )
        for fan_in, fan_out in pairwise(case.widths)
    ]
    return NetworkWorkload(nn.Sequential(*layers).to(device), case, device)


RECURSION = Contender(
    "recursion",
    "Cox-de Boor recursion",
    "A KAN layer written in the usual way: the recursion on tensors of all functions.",
    _build,
    try_small=True,
)
