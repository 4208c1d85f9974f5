r"""``KANLinear``: a drop-in for ``nn.Linear`` in which every edge is a learned function.

.. math:: y_o = \beta_o + \sum_i \phi_{o,i}(x_i), \qquad
    \phi_{o,i}(x) = w_{o,i}\,\mathrm{silu}(x) + s_{o,i} \sum_g c_{o,i,g}\, B_g(x).

All edges that leave input i share the functions :math:`B_g` of a basis
(:mod:`kan_diffusion.kan.bases`), so a layer is the functions of its inputs times the packed weight
(out, in x (1 + functions)). The scale s is redundant; ``edge_scale=True`` adds it to match networks
that have it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.module import _has_any_global_hook

from kan_diffusion.errors import KanDiffusionError, unknown_name
from kan_diffusion.kan.bases import BASES, Basis, BasisName, Extrapolation, make_basis
from kan_diffusion.kan.grids import WeightedEdges
from kan_diffusion.kan.initialization import Initialization, initialize
from kan_diffusion.kan.inputs import must_be_called
from kan_diffusion.kan.kernels.edges import Edges, edge_chain, edge_features, edge_linear

__all__ = ["BaseActivation", "KANLinear", "in_one_go"]

BaseActivation = Literal["silu", "auto"] | None
"""SiLU, none, or the choice that suits the basis."""

_SILU_FLOPS = 4


class KANLinear(WeightedEdges):
    r"""A layer of learned univariate functions, used where ``nn.Linear`` would be.

    Args:
        in_features: Size of the last dimension of the input.
        out_features: Size of the last dimension of the output.
        bias: Whether to add a learned constant to each output.
        basis: The functions an edge is made of: ``"bspline"``, ``"rbf"``, ``"chebyshev"``,
            ``"fourier"``, ``"rational"`` or any other name in ``BASES``; or an object, such as
            ``Rational(in_features, num_groups=4)`` or a :class:`~kan_diffusion.kan.bases.Basis`
            of your own. The layer gets a copy of an object, as it is; ``grid_size``, ``order``,
            ``grid_range`` and ``extrapolation`` are then ignored.
        grid_size: Number G of intervals of the grid; the degree of ``"chebyshev"``, the number of
            harmonics of ``"fourier"``; ``"rational"`` has no grid.
        order: Degree k of the splines, 1 to 5.
        grid_range: Ends of the grid, the same for every input at the start.
        extrapolation: What happens outside the grid: ``"linear"`` (the tangent at the end),
            ``"clamp"`` (the value at the end), ``"zero"`` (functions run out to zero; splines and
            Gaussians) or ``"periodic"`` (Fourier).
        base_activation: ``"silu"``; None to leave the base branch out; ``"auto"`` is SiLU for the
            local functions (splines and Gaussians) and None for the others, as in their papers.
        edge_scale: Whether each edge has a trainable scale of its functions, as in pykan and
            efficient-KAN.
        init: Initialisation by name, see :mod:`kan_diffusion.kan.initialization`.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Attributes:
        basis: The functions, with the buffers ``grid_origin`` and ``grid_step`` where they have a
            grid.
        weight: Packed weight with shape (out, in * (1 + functions)): for each input first the base
            weight, then the coefficients.
        scale: Edge scales with shape (out, in), or None.
        bias: Constants with shape (out,), or None.

    Raises:
        KanDiffusionError: A size, a range or a name is not usable.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
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
        if init not in get_args(Initialization):
            raise unknown_name("init", str(init), get_args(Initialization))
        if base_activation not in (None, "silu", "auto"):
            raise unknown_name("base_activation", str(base_activation), ("silu", "auto", "None"))
        if in_features < 1 or out_features < 1:
            raise KanDiffusionError(
                f"a KANLinear needs at least one input and one output, not {in_features} and "
                f"{out_features}"
            )
        if isinstance(basis, str):
            basis = make_basis(
                basis,
                in_features,
                grid_size=grid_size,
                order=order,
                grid_range=grid_range,
                extrapolation=extrapolation,
                device=device,
                dtype=dtype,
            )
        elif not isinstance(basis, Basis):
            raise KanDiffusionError(
                f"basis must be a name or a Basis object, not {basis!r}; known: {', '.join(BASES)}"
            )
        elif basis.in_features != in_features:
            raise KanDiffusionError(
                f"the basis is made for {basis.in_features} inputs, not for {in_features}"
            )
        else:
            basis = copy.deepcopy(basis).to(device=device, dtype=dtype)
        if base_activation == "auto":
            base_activation = "silu" if basis.local else None
        self.in_features = in_features
        self.out_features = out_features
        self.basis = basis
        self.base_activation = base_activation
        self.init: Initialization = init
        width = in_features * self.features_per_input
        self.weight = nn.Parameter(torch.empty(out_features, width, device=device, dtype=dtype))
        new = self.weight.new_empty
        self.scale = nn.Parameter(new(out_features, in_features)) if edge_scale else None
        self.bias = nn.Parameter(new(out_features)) if bias else None
        self._draw()

    @property
    def grid_origin(self) -> Tensor:
        """Left end of each input's grid, with shape (in,)."""
        return self.grid.grid_origin

    @property
    def grid_step(self) -> Tensor:
        """Width of an interval of each input's grid, with shape (in,)."""
        return self.grid.grid_step

    @property
    def _has_base(self) -> bool:
        return self.base_activation is not None

    @property
    def features_per_input(self) -> int:
        """Number of features an input is expanded into: base activation and functions."""
        return int(self._has_base) + self.basis.num_functions

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one row of input.

        As in the CPU kernel, an edge costs 2 for each function that differs from zero (k + 1 for
        B-splines) and 2 for its base activation. The functions are evaluated once per input, and
        SiLU counts 4. A scale is multiplied into the weight once per batch and not counted.
        """
        constants = self.out_features if self.bias is not None else 0
        edges = self.out_features * self.flops_per_curve
        return self.in_features * (edges + self.flops_per_input) + constants

    @property
    def flops_per_curve(self) -> int:
        """Operations of one edge, as counted in :attr:`flops`."""
        return 2 * (self.basis.num_active + int(self._has_base))

    @property
    def flops_per_input(self) -> int:
        """Operations of the functions of one input, which all of its edges share."""
        return self.basis.flops_per_input + _SILU_FLOPS * int(self._has_base)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh parameters by the layer's ``init`` scheme.

        A grid that was moved goes back to the ``grid_range`` of the basis.

        Args:
            generator: Where the draws come from; torch's default generator when None.
        """
        self.basis.reset_parameters()
        self._draw(generator)

    def _draw(self, generator: torch.Generator | None = None) -> None:
        """Draws weights and leaves the basis as it is."""
        initialize(
            self.init, self._edges.detach(), self.scale, self.basis, self._has_base, generator
        )
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def _edges(self) -> Tensor:
        """The packed weight by edge: (out, in, features_per_input), a view."""
        return self.weight.view(self.out_features, self.in_features, self.features_per_input)

    def _edge_weights(self) -> Tensor:
        """The weight by edge, with the edge scales multiplied in."""
        if self.scale is None:
            return self._edges
        first = int(self._has_base)
        base, coefficients = self._edges[..., :first], self._edges[..., first:]
        return torch.cat([base, coefficients * self.scale.unsqueeze(-1)], dim=-1)

    def _features(self, rows: Tensor) -> Tensor:
        return edge_features(rows, self.basis, self._has_base)

    def _features_of(self, i: int, x: Tensor) -> Tensor:
        return edge_features(x, self.basis.one_input(i), self._has_base)[:, 0]

    def _outputs(self, rows: Tensor) -> Tensor:
        return edge_linear(rows, self.edges())

    def edges(self) -> Edges:
        """Returns the layer in the form of kernels, with the edge scales multiplied in."""
        weight = self.weight if self.scale is None else self._edge_weights().flatten(1)
        return Edges(weight, self.bias, self.basis, self._has_base)

    def masked(self, input: Tensor, mask: Tensor) -> Tensor:
        """Computes the layer, bias included, with some of its edges left out.

        Args:
            input: Inputs with shape (n, in_features).
            mask: 1 for the edges that stay, 0 for the others, with shape (out, in).

        Returns:
            Outputs with shape (n, out_features). Differentiable.
        """
        kept = (self._edge_weights() * mask.unsqueeze(-1)).flatten(1)
        edges = Edges(kept, self.bias, self.basis, self._has_base)
        return edge_linear(self._rows(input), edges)

    def extra_repr(self) -> str:
        """The settings that differ between layers, for ``print``."""
        return (
            f"{self.in_features}, {self.out_features}, "
            f"base_activation={self.base_activation!r}, edge_scale={self.scale is not None}, "
            f"bias={self.bias is not None}"
        )


def in_one_go(layers: Iterable[nn.Module], input: Tensor) -> Tensor | None:
    """Computes layers one after another, without the cost of calling each.

    Args:
        layers: The layers in order.
        input: Input of the first layer.

    Returns:
        The output with shape (n, out), or None if the layers have to be called, for example because
        one is another module, has hooks or its own ``forward``, or does not fit the one before.
    """
    if (
        torch.compiler.is_compiling()
        or isinstance(input, Proxy)
        or input.ndim != 2
        or not input.is_floating_point()
        or _has_any_global_hook()
    ):
        return None
    chain: list[Edges] = []
    width = input.shape[1]
    for layer in layers:
        if type(layer) is not KANLinear or layer.in_features != width or must_be_called(layer):
            return None
        chain.append(layer.edges())
        width = chain[-1].weight.shape[0]
    return edge_chain(input, chain)
