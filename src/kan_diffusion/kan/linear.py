r"""``KANLinear``: the drop-in for ``nn.Linear`` whose every edge is a learned function.

.. math:: y_o = \beta_o + \sum_i \phi_{o,i}(x_i), \qquad
    \phi_{o,i}(x) = w_{o,i}\,\mathrm{silu}(x) + s_{o,i} \sum_g c_{o,i,g}\, B_g(x).

All edges that leave input i share its basis values, so a layer is one evaluation of (1 + G + k)
features an input and one matrix product with the packed weight (out, in x (1 + G + k)). The
scale s is redundant; it is there to match networks that have it (``edge_scale=True``).
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError, unknown_name
from kan_diffusion.kan.bases import MAX_ORDER
from kan_diffusion.kan.kernels import EdgeBasis, edge_features

__all__ = ["Extrapolation", "Initialization", "KANLinear"]

Extrapolation = Literal["linear", "clamp", "zero"]
Initialization = Literal["glorot", "noise"]


def _require_known(kind: str, name: str | None, known: tuple[str, ...]) -> None:
    if name not in known:
        raise unknown_name(kind, str(name), known)


class KANLinear(nn.Module):
    r"""A layer of learned univariate functions, used where ``nn.Linear`` would be.

    Args:
        in_features: Size of the last dimension of the input.
        out_features: Size of the last dimension of the output.
        bias: Whether to add a learned constant to each output.
        basis: ``"bspline"``.
        grid_size: Number G of intervals of the grid.
        order: Degree k of the splines, 1 to 5.
        grid_range: Ends of the grid, the same for every input at the start.
        extrapolation: What happens outside the grid: ``"linear"`` (the tangent at the end),
            ``"clamp"`` (the value at the end) or ``"zero"`` (functions run out to zero).
        base_activation: ``"silu"``, or None to leave the base branch out.
        edge_scale: Adds one trainable scale an edge to the spline, as pykan and efficient-KAN have.
        init: ``"glorot"`` draws every weight with variance 2 / (fan_in + fan_out), where the spline
            branch counts as one more input with unit power; ``"noise"`` starts from the base
            branch, U(-1/sqrt(in), 1/sqrt(in)), plus spline coefficients U(-0.05, 0.05) / G, about
            what efficient-KAN starts from.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Attributes:
        weight: Packed weight with shape (out, in * (1 + G + k)): for each input first the base
            weight, then the spline coefficients.
        scale: Edge scales with shape (out, in), or None.
        bias: Constants with shape (out,), or None.
        grid_origin: Buffer with shape (in,): left end of each input's grid.
        grid_step: Buffer with shape (in,): width of an interval of each input's grid.

    Raises:
        KanDiffusionError: A size, a range or a name is not usable.
    """

    grid_origin: Tensor
    grid_step: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        basis: Literal["bspline"] = "bspline",
        grid_size: int = 5,
        order: int = 3,
        grid_range: tuple[float, float] = (-1.0, 1.0),
        extrapolation: Extrapolation = "linear",
        base_activation: Literal["silu"] | None = "silu",
        edge_scale: bool = False,
        init: Initialization = "glorot",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _require_known("basis", basis, ("bspline",))
        _require_known("extrapolation", extrapolation, get_args(Extrapolation))
        _require_known("init", init, get_args(Initialization))
        if base_activation is not None:
            _require_known("base_activation", base_activation, ("silu",))
        if in_features < 1 or out_features < 1:
            raise KanDiffusionError(
                f"a KANLinear needs at least one input and one output, not {in_features} and "
                f"{out_features}"
            )
        if grid_size < 1 or not 1 <= order <= MAX_ORDER:
            raise KanDiffusionError(
                f"grid_size must be at least 1 and order 1 to {MAX_ORDER}, not {grid_size} and "
                f"{order}"
            )
        low, high = grid_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise KanDiffusionError(
                f"grid_range must be two finite numbers, the lower first, not {grid_range}"
            )
        self.in_features = in_features
        self.out_features = out_features
        self.basis = basis
        self.grid_size = grid_size
        self.order = order
        self.extrapolation = extrapolation
        self.base_activation = base_activation
        self.init = init

        num_features = in_features * self.features_per_input
        self.weight = nn.Parameter(
            torch.empty(out_features, num_features, device=device, dtype=dtype)
        )
        self.scale = (
            nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
            if edge_scale
            else None
        )
        self.bias = (
            nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None
        )
        step = (high - low) / grid_size
        self.register_buffer(
            "grid_origin", torch.full((in_features,), float(low), device=device, dtype=dtype)
        )
        self.register_buffer(
            "grid_step", torch.full((in_features,), step, device=device, dtype=dtype)
        )
        self.reset_parameters()

    @property
    def features_per_input(self) -> int:
        """Number of features an input is expanded into: base activation and splines."""
        return int(self.base_activation is not None) + self.grid_size + self.order

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one row of input.

        The packed product counts two an entry; the basis is evaluated once an input on its k + 1
        non-zero pieces (2k a polynomial, 3 to locate the cell) and SiLU counts 4.
        """
        basis = (self.order + 1) * 2 * self.order + 3 + 4 * int(self.base_activation is not None)
        scale = 0 if self.scale is None else self.in_features * (self.grid_size + self.order)
        return (
            2 * self.weight.numel()
            + self.in_features * basis
            + scale * self.out_features
            + (self.out_features if self.bias is not None else 0)
        )

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh parameters by the layer's ``init`` scheme.

        Args:
            generator: Where the draws come from; torch's default generator when None.
        """
        first = int(self.base_activation is not None)
        edges = self.weight.view(self.out_features, self.in_features, self.features_per_input)
        base, splines = edges[..., :first], edges[..., first:]
        if self.init == "noise":
            bound = 1 / math.sqrt(self.in_features)
            base.uniform_(-bound, bound, generator=generator)
            noise = 0.05 / self.grid_size
            splines.uniform_(-noise, noise, generator=generator)
            if self.scale is not None:
                self.scale.uniform_(-bound, bound, generator=generator)
        else:
            # silu and the spline branch both carry about a third of a unit normal's power.
            std = math.sqrt(2 / (self.in_features + self.out_features))
            base.normal_(0, std, generator=generator)
            splines.normal_(0, std, generator=generator)
            if self.scale is not None:
                self.scale.fill_(1)
        if self.bias is not None:
            self.bias.zero_()

    def _packed_weight(self) -> Tensor:
        """The weight with the edge scales multiplied in: (out, in * features_per_input)."""
        if self.scale is None:
            return self.weight
        edges = self.weight.view(self.out_features, self.in_features, self.features_per_input)
        scale = self.scale.unsqueeze(-1)
        if self.base_activation is None:
            return (edges * scale).flatten(1)
        return torch.cat([edges[..., :1], edges[..., 1:] * scale], dim=-1).flatten(1)

    @property
    def _edge_basis(self) -> EdgeBasis:
        return EdgeBasis(
            self.grid_size, self.order, self.extrapolation, self.base_activation is not None
        )

    def forward(self, input: Tensor) -> Tensor:
        """Maps (*, in_features) to (*, out_features).

        Raises:
            KanDiffusionError: The input has another last dimension.
        """
        if input.ndim == 0 or input.shape[-1] != self.in_features:
            raise KanDiffusionError(
                f"this KANLinear takes inputs with shape (*, {self.in_features}), not "
                f"{tuple(input.shape)}"
            )
        rows = input.reshape(-1, self.in_features)
        features = edge_features(rows, self.grid_origin, self.grid_step, self._edge_basis)
        output = nn.functional.linear(features.flatten(1), self._packed_weight(), self.bias)
        return output.view(*input.shape[:-1], self.out_features)

    @torch.no_grad()
    def edge_curve(self, i: int, j: int, x: Tensor) -> Tensor:
        """The learned function of one edge, base branch and scale included, bias left out.

        Args:
            i: Index of the input the edge leaves.
            j: Index of the output the edge enters.
            x: Where to evaluate, with any shape.

        Returns:
            phi_{j,i}(x) with the shape of x.

        Raises:
            IndexError: There is no such edge.
        """
        if not (0 <= i < self.in_features and 0 <= j < self.out_features):
            raise IndexError(
                f"edge ({i}, {j}) does not exist in a layer with {self.in_features} inputs and "
                f"{self.out_features} outputs"
            )
        features = edge_features(
            x.reshape(-1, 1),
            self.grid_origin[i : i + 1],
            self.grid_step[i : i + 1],
            self._edge_basis,
        )
        edges = self._packed_weight().view(self.out_features, self.in_features, -1)
        return (features[:, 0] @ edges[j, i]).view(x.shape)

    def extra_repr(self) -> str:
        """The settings that differ between layers, for ``print``."""
        return (
            f"{self.in_features}, {self.out_features}, grid_size={self.grid_size}, "
            f"order={self.order}, extrapolation={self.extrapolation!r}, "
            f"base_activation={self.base_activation!r}, edge_scale={self.scale is not None}, "
            f"bias={self.bias is not None}"
        )
