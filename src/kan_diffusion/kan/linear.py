r"""``KANLinear``: a drop-in for ``nn.Linear`` in which every edge is a learned function.

.. math:: y_o = \beta_o + \sum_i \phi_{o,i}(x_i), \qquad
    \phi_{o,i}(x) = w_{o,i}\,\mathrm{silu}(x) + s_{o,i} \sum_g c_{o,i,g}\, B_g(x).

All edges that leave input i share the functions :math:`B_g` of a basis
(:mod:`kan_diffusion.kan.bases`), so a layer is the functions of its inputs times the packed weight
(out, in x (1 + functions)). SiLU stands beside local functions alone, splines and Gaussians. The
scale s is redundant; ``edge_scale=True`` adds it to match networks that have it.

In a ``SharedKANLinear`` an edge has R numbers instead, the weights of a few learned functions that
the inputs of a group share (:mod:`kan_diffusion.kan.functions`),

.. math:: \phi_{o,i}(x) = \sum_{r \le R} a_{o,i,r}\, f_{\gamma(i),r}(x).

With R = 1 each input has one learned function, as a unit of an MLP has its activation; with as many
as there are splines and one group per input, they span all that the splines do.

``KAN`` is a stack of such layers without activations between them,
:math:`\mathrm{KAN}(x) = (\Phi_L \circ \dots \circ \Phi_1)(x)`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from typing import TypedDict, TypeVar, Unpack, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu
from torch.nn.utils.parametrize import is_parametrized

from kan_diffusion.errors import KanDiffusionError, require_known, require_whole
from kan_diffusion.kan.bases import BASES, BasisKind, BSpline, Extrapolation, Grid, basis_class
from kan_diffusion.kan.functions import BasisLayer, InitialFunctions, draw_linear, group_count
from kan_diffusion.kan.initialization import INITIALIZATIONS, Initialization, initialize
from kan_diffusion.kan.kernels.fused import (
    autocasts,
    by_reference,
    hides_operations,
    in_full_precision,
)
from kan_diffusion.kan.kernels.operators import SPLINE

Layer = TypeVar("Layer", bound=BasisLayer)
Network = TypeVar("Network", bound=nn.Module)

_SILU_FLOPS = 4

_BUILT_IN = tuple(BASES.values())
"""Bases of which each input's functions follow from that input alone."""

_FEATURES, _ROWS = (2**18, 2**24), 512
"""Features of a block on a CPU and elsewhere, and the least rows of a block of not all inputs."""


class _Weighed(torch.autograd.Function):
    """Features times a weight, of which only the operands are kept.

    Features are made for a block of rows and inputs at a time, and again in the backward pass.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,  # noqa: ANN001
        layer: KANLinear,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *grid: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias, *grid)
        ctx.layer = layer
        origin, step = grid
        output = _product_of(x, weight).new_zeros(len(x), len(weight))
        for rows, inputs, columns in _blocks(x, weight):
            block, _ = layer._block(x[rows, inputs], (origin[inputs], step[inputs]))
            output[rows] += linear(block.flatten(1), weight[:, columns])
        return output if bias is None else output + bias.to(output.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        layer, operands = ctx.layer, ctx.saved_tensors
        _, for_x, for_weight, for_bias, *_ = needed = ctx.needs_input_grad
        # Where gradients are enabled, the result is to be differentiated again.
        if torch.is_grad_enabled() or not hides_operations(grad):
            return None, *by_reference(layer._dense, operands, [grad], needed[1:])
        x, weight, bias, origin, step = operands
        grad_x = torch.empty_like(x) if for_x else None
        grad_weight = torch.zeros_like(weight) if for_weight else None
        for rows, inputs, columns in _blocks(x, weight):
            block, gradient = layer._block(x[rows, inputs], (origin[inputs], step[inputs]))
            if grad_weight is not None:
                grad_weight[:, columns] += grad[rows].t() @ block.flatten(1).to(grad.dtype)
            if grad_x is not None:
                of_block = grad[rows] @ weight[:, columns].to(grad.dtype)
                grad_x[rows, inputs] = gradient(of_block.to(block.dtype).view(block.shape))
        grad_bias = grad.sum(0).to(bias.dtype) if for_bias else None
        return None, grad_x, grad_weight, grad_bias, None, None


def _blocks(x: Tensor, weight: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Yields blocks of rows and inputs, and the columns of the weight that belong to the inputs."""
    rows, inputs = x.shape
    most, width = _FEATURES[not x.is_cpu], weight.shape[1] // inputs
    height = max(1, min(rows, max(_ROWS, most // weight.shape[1])))
    size = max(1, most // (height * width))
    for first, start in product(range(0, max(1, rows), height), range(0, inputs, size)):
        end = min(inputs, start + size)
        yield slice(first, first + height), slice(start, end), slice(start * width, end * width)


def _product_of(x: Tensor, weight: Tensor) -> Tensor:
    """Returns a number of the dtype of products with a weight, under autocast its own."""
    return linear(x.new_empty(0, 1, dtype=weight.dtype), weight[:1, :1])


class EdgeLayer(BasisLayer):
    """Base of the layers whose edges are sums of features of one input, each with a weight.

    Attributes:
        weight: Packed weight with shape (out, in * features an input).
        scale: Edge scales with shape (out, in), or None.
        bias: Constants with shape (out,), or None.
    """

    def _check_sizes(self, in_features: int, out_features: int, bias: bool) -> None:
        """Checks the sizes of the layer."""
        require_whole("in_features", in_features)
        require_whole("out_features", out_features)
        if not isinstance(bias, bool):
            raise KanDiffusionError(
                f"bias must be True or False, not {bias!r}; grid_size and others are given by name"
            )

    def _allocate(self, out_features: int, bias: bool, edge_scale: bool = False) -> None:
        """Makes the parameters of edges, which have no values yet."""
        self.out_features = out_features
        new, width = self.basis.grid_step.new_empty, self.in_features * self.features_per_input
        self.weight = nn.Parameter(new(out_features, width))
        self.scale = nn.Parameter(new(out_features, self.in_features)) if edge_scale else None
        self.bias = nn.Parameter(new(out_features)) if bias else None

    @property
    def features_per_input(self) -> int:
        """Number of features an input is expanded into, which its edges weigh."""
        raise NotImplementedError

    @property
    def _edges(self) -> Tensor:
        """The packed weight by edge: (out, in, features_per_input), a view."""
        return self.weight.view(self.out_features, self.in_features, self.features_per_input)

    def edge_weights(self) -> Tensor:
        """Returns the weights of the features by edge, (out, in, features), scales included."""
        return self._edges

    def features(self, rows: Tensor) -> Tensor:
        """Expands inputs (N, in) into the features that edges weigh: (N, in, features)."""
        raise NotImplementedError

    def edge_outputs(self, input: Tensor) -> Tensor:
        """Computes the contribution of each edge to its output, base branch and scale included.

        It holds (n, out, in) numbers at once, so it is meant for inspecting a layer. The bias is
        left out.

        Args:
            input: Inputs with shape (n, in_features).

        Returns:
            phi_{o,i}(x_i) with shape (n, out, in); summed over inputs, and with the bias, they are
            the layer's output. Differentiable.
        """
        features = self.features(self._rows(input))
        return torch.einsum("nif,oif->noi", features, self.edge_weights())

    @torch.no_grad()
    def edge_curve(self, i: int, j: int, x: Tensor) -> Tensor:
        """Evaluates the function of one edge, with base branch and scale but without the bias.

        Args:
            i: Index of the input the edge leaves.
            j: Index of the output the edge enters.
            x: Where to evaluate, with any shape.

        Returns:
            phi_{j,i}(x) with the shape of x.
        """
        rows = self._rows(x.reshape(-1, 1).expand(-1, self.in_features))
        features = self.features(rows)[:, i]
        return (features @ self.edge_weights()[j, i].to(features.dtype)).view(x.shape)


class KANLinear(EdgeLayer):
    r"""A layer of learned univariate functions, used where ``nn.Linear`` would be.

    An infinite input gives NaN or an infinite output, as the functions at its end add up.

    Args:
        in_features: Size of the last dimension of the input.
        out_features: Size of the last dimension of the output.
        bias: Whether to add a learned constant to each output.
        basis: The functions an edge is made of: ``"bspline"``, ``"rbf"``, ``"chebyshev"`` or any
            other name in ``BASES``, or a class of :class:`~kan_diffusion.kan.bases.Basis`.
        grid_size: Number G of intervals of the grid; the degree of ``"chebyshev"``.
        order: Degree k of the splines, 1 to 5.
        grid_range: Ends of the grid, the same for every input or group at the start.
        extrapolation: What happens outside the grid: ``"linear"`` (the tangent at the end),
            or ``"zero"`` (functions run out to zero; splines and Gaussians).
        edge_scale: Whether each edge has a trainable scale of its functions, as in pykan and
            efficient-KAN.
        init: Initialisation by name, see :mod:`kan_diffusion.kan.initialization`; None for
            ``"power-law"`` with a base branch and ``"glorot"`` without.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Attributes:
        basis: The functions, with the buffers ``grid_origin`` and ``grid_step``.
        weight: Packed weight with shape (out, in * (1 + functions)): for each input first the base
            weight, if there is one, then the coefficients.
        scale: Edge scales with shape (out, in), or None.
        bias: Constants with shape (out,), or None.

    Raises:
        KanDiffusionError: A size, a range or a name is not usable, or the basis has no such order
            or initialisation.

    Example:
        >>> from kan_diffusion.kan import KANLinear
        >>> layer = KANLinear(3, 2, grid_size=8)
        >>> layer(torch.zeros(10, 3)).shape, layer.edge_curve(0, 1, torch.linspace(-1, 1, 5)).shape
        (torch.Size([10, 2]), torch.Size([5]))
    """

    coefficients: None = None
    functions: None = None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        basis: BasisKind = "bspline",
        grid_size: int = 5,
        order: int = 3,
        grid_range: tuple[float, float] = (-1.0, 1.0),
        extrapolation: Extrapolation = "linear",
        edge_scale: bool = False,
        init: Initialization | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._check_sizes(in_features, out_features, bias)
        if init is not None:
            require_known("init", init, INITIALIZATIONS)
        settings = in_features, grid_size, order, grid_range, extrapolation
        self._set_basis(in_features, basis_class(basis)(*settings, device, dtype))
        kind = type(self.basis)
        if order != 3 and kind is not BSpline and kind in BASES.values():
            raise KanDiffusionError(
                f"order is the degree of splines, which basis '{self.basis.name}' has not; leave "
                "it out"
            )
        if init not in (None, "glorot") and not self.has_base:
            raise KanDiffusionError(
                f"init='{init}' starts from SiLU, which is not beside basis '{self.basis.name}'; "
                "take init='glorot'"
            )
        self.init: Initialization = init or ("power-law" if self.has_base else "glorot")
        self._allocate(out_features, bias, edge_scale)
        self._draw()

    @property
    def has_base(self) -> bool:
        """Whether each edge has a weight of SiLU, before those of its functions."""
        return self.basis.local

    @property
    def features_per_input(self) -> int:
        """Number of features an input is expanded into, which its edges weigh."""
        return int(self.has_base) + self.basis.num_functions

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one row of input.

        As in the CPU kernel, an edge costs 2 for each function that differs from zero (k + 1 for
        B-splines) and 2 for SiLU. The functions are evaluated once per input, and
        SiLU counts 4. A scale is multiplied into the weight once per batch and not counted.
        """
        constants = self.out_features if self.bias is not None else 0
        edges = self.in_features * self.out_features * self.flops_per_curve
        return edges + constants + self.in_features * self.flops_per_input

    @property
    def flops_per_curve(self) -> int:
        """Operations of one edge, as counted in :attr:`flops`."""
        return 2 * (self.basis.num_active + int(self.has_base))

    @property
    def flops_per_input(self) -> int:
        """Operations of the functions of one input, which all of its edges share."""
        return self.basis.flops_per_input + _SILU_FLOPS * int(self.has_base)

    @torch.no_grad()
    def _draw(self, generator: torch.Generator | None = None) -> None:
        """Draws weights by ``init``."""
        initialize(self.init, self._edges.detach(), self.scale, self.basis, generator)
        if self.bias is not None:
            self.bias.zero_()

    def edge_weights(self) -> Tensor:
        """Returns the weights of the features by edge, (out, in, features), scales included."""
        if self.scale is None:
            return self._edges
        first = int(self.has_base)
        base, coefficients = self._edges[..., :first], self._edges[..., first:]
        return torch.cat([base, coefficients * self.scale.unsqueeze(-1)], dim=-1)

    def features(self, rows: Tensor) -> Tensor:
        """Expands inputs (N, in) into the features that edges weigh: (N, in, features).

        Under autocast the functions keep the precision of the basis, which places on a grid need;
        autocast only makes the product with the weight cheaper.
        """
        return self._expanded(rows, self.basis.grid)

    def _expanded(self, rows: Tensor, grid: Grid) -> Tensor:
        rows = rows.to(grid[0].dtype) if autocasts(rows) else rows
        with in_full_precision(rows):
            functions: Tensor = self.basis(rows, grid)
            if not self.has_base:
                return functions
            return torch.cat([silu(rows).unsqueeze(-1), functions], dim=-1)

    def _outputs(self, rows: Tensor) -> Tensor:
        weight = self.weight if self.scale is None else self.edge_weights().flatten(1)
        return self._weighed(rows, weight)

    def _weighed(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Computes a layer of functions of each edge with a packed weight."""
        basis, operands = self.basis, (rows, weight, self.bias, *self.basis.grid)
        fused = type(basis) is BSpline and not autocasts(rows)
        settings = basis.order, basis.extrapolation == "linear"
        return SPLINE(operands, settings, self._weighed_by_torch, fused)

    def _weighed_by_torch(
        self, rows: Tensor, weight: Tensor, bias: Tensor | None, *grid: Tensor
    ) -> Tensor:
        """Does the same in torch's own operations, of which none is kept where that is possible."""
        learned = any(tensor.requires_grad for tensor in grid)
        if type(self.basis) in _BUILT_IN and not learned and hides_operations(rows, weight, *grid):
            rows = rows.to(grid[0].dtype) if autocasts(rows) else rows
            output: Tensor = _Weighed.apply(self, rows, weight, bias, *grid)
            return output
        return self._dense(rows, weight, bias, *grid)

    def _dense(self, rows: Tensor, weight: Tensor, bias: Tensor | None, *grid: Tensor) -> Tensor:
        """Multiplies all features by the weight."""
        origin, step = grid
        return linear(self._expanded(rows, (origin, step)).flatten(1), weight, bias)

    def _block(self, rows: Tensor, grid: Grid) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Makes features (N, n, features) of n inputs, and what makes their gradient that of rows.

        Autograd does not see how.
        """
        with in_full_precision(rows):
            dtype = torch.promote_types(rows.dtype, grid[0].dtype)
            features = rows.new_zeros(*rows.shape, self.features_per_input, dtype=dtype)
            if not self.has_base:
                return features, self.basis.expand(rows, grid, features)
            features[..., 0] = silu(rows)
            of_functions = self.basis.expand(rows, grid, features)

        def gradient(grad: Tensor) -> Tensor:
            sigmoid = rows.sigmoid()
            slope = sigmoid * (1 + rows * (1 - sigmoid))
            return of_functions(grad) + grad[..., 0] * slope

        return features, gradient

    def extra_repr(self) -> str:
        """The settings that differ between layers, for ``print``."""
        sizes = f"{self.in_features}, {self.out_features}"
        return f"{sizes}, edge_scale={self.scale is not None}, bias={self.bias is not None}"


class SharedKANLinear(EdgeLayer):
    r"""A layer of edges that weigh a few learned functions of their input, which edges share.

    Its functions are splines with tangents, as in
    :class:`~kan_diffusion.kan.functions.LearnedFunctions`. There is neither a base branch nor a
    scale, and weights are drawn as those of ``nn.Linear``.

    Args:
        in_features: Size of the last dimension of the input.
        out_features: Size of the last dimension of the output.
        functions: Number R of learned functions an input, at most G + k.
        bias: Whether to add a learned constant to each output.

    Other arguments are those of ``LearnedFunctions``; the grid is as a ``KANLinear`` has it.

    Attributes:
        basis: The splines, with the buffers ``grid_origin`` and ``grid_step``.
        coefficients: Coefficients with shape (R, groups, G + k).
        weight: Packed weight with shape (out, in * R).
        bias: Constants with shape (out,), or None.

    Raises:
        KanDiffusionError: A size, a range or a name is not usable, or the splines cannot be fitted
            to the initial functions.

    Example:
        >>> from kan_diffusion.kan import SharedKANLinear
        >>> layer = SharedKANLinear(64, 32, functions=2, groups=8)  # 16 learned functions
        >>> layer.weight.shape, layer.coefficients.shape
        (torch.Size([32, 128]), torch.Size([2, 8, 8]))
    """

    coefficients: nn.Parameter
    functions: int

    def __init__(
        self,
        in_features: int,
        out_features: int,
        functions: int,
        bias: bool = True,
        *,
        groups: int | None = None,
        grid_size: int = 5,
        order: int = 3,
        grid_range: tuple[float, float] = (-1.0, 1.0),
        initial: InitialFunctions = "silu",
        noise: float = 1e-3,
        rate: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._check_sizes(in_features, out_features, bias)
        settings = group_count(in_features, groups), grid_size, order, grid_range
        self._set_basis(in_features, BSpline(*settings, device=device, dtype=dtype))
        self._share(functions, initial, noise, rate)
        self._allocate(out_features, bias)
        self._draw()

    @property
    def features_per_input(self) -> int:
        """Number R of functions of an input."""
        return self.functions

    @property
    def flops(self) -> int:
        """Operations of one forward pass for one row: two a weight, and those of the functions."""
        constants = self.out_features if self.bias is not None else 0
        return 2 * self.weight.numel() + constants + super().flops

    @torch.no_grad()
    def _draw(self, generator: torch.Generator | None = None) -> None:
        """Draws the functions, then weights and constants as ``nn.Linear`` does."""
        super()._draw(generator)
        draw_linear(self.weight, self.bias, generator)

    def features(self, rows: Tensor) -> Tensor:
        """Evaluates the functions of inputs (N, in): (N, in, R)."""
        return self._shared(rows).unflatten(1, (self.in_features, -1))

    def _outputs(self, rows: Tensor) -> Tensor:
        return self._shared(rows, self.weight, self.bias)

    def extra_repr(self) -> str:
        """The settings that differ between layers, for ``print``."""
        shared = f"functions={self.functions}, groups={self.basis.in_features}"
        return f"{self.in_features}, {self.out_features}, {shared}, bias={self.bias is not None}"


class EdgeSettings(TypedDict, total=False):
    """Settings of :class:`KANLinear`."""

    basis: BasisKind
    grid_size: int
    order: int
    grid_range: tuple[float, float]
    extrapolation: Extrapolation
    edge_scale: bool
    init: Initialization | None
    device: torch.device | str | None
    dtype: torch.dtype | None


class KAN(nn.Module):
    """A Kolmogorov-Arnold network: (*, widths[0]) -> (*, widths[-1]).

    Args:
        widths: Sizes of the input, the hidden layers and the output, at least two.
        bias: Whether each layer adds a learned constant to its outputs.
        settings: The settings of every layer: ``basis``, ``grid_size``, ``order``, ``grid_range``,
            ``extrapolation``, ``edge_scale``, ``init``, ``device`` and ``dtype`` of
            :class:`KANLinear`.

    Attributes:
        layers: The layers, an ``nn.Sequential``.

    Raises:
        KanDiffusionError: There are fewer than two widths, or a layer refuses a setting.

    Example:
        >>> from kan_diffusion.kan import KAN
        >>> network = KAN([2, 5, 1], grid_size=8)
        >>> network(torch.rand(100, 2)).shape
        torch.Size([100, 1])
    """

    def __init__(
        self, widths: Sequence[int], bias: bool = True, **settings: Unpack[EdgeSettings]
    ) -> None:
        super().__init__()
        if not isinstance(widths, Sequence) or len(widths) < 2:
            raise KanDiffusionError(f"a KAN needs a list of at least two widths, not {widths}")
        layers = (KANLinear(*sizes, bias, **settings) for sizes in pairwise(widths))
        self.layers = nn.Sequential(*layers)

    def forward(self, input: Tensor) -> Tensor:
        """Applies the layers one after another."""
        output: Tensor = self.layers(input)
        return output


def layers_of(network: nn.Module, kind: type[Layer]) -> list[Layer]:
    """Returns the layers, all of one kind, of a ``KAN`` or a sequence, or a layer by itself.

    Raises:
        KanDiffusionError: It is none of them, or has a part of another kind.
    """
    if isinstance(network, kind):
        return [network]
    stack = network.layers if isinstance(network, KAN) else network
    parts = list(stack) if isinstance(stack, nn.Sequential) else []
    layers = [part for part in parts if isinstance(part, kind)]
    if not layers or len(layers) < len(parts):
        held = ", ".join(sorted({type(part).__name__ for part in parts}))
        raise KanDiffusionError(
            f"a KAN or an nn.Sequential of {kind.__name__} is needed, not a "
            f"{type(network).__name__}{held and f' of {held}'}; give such layers alone"
        )
    return layers


def plain_layers_of(network: nn.Module, kind: type[Layer]) -> list[Layer]:
    """Returns the layers as ``layers_of`` does, if their parameters can be replaced.

    Raises:
        KanDiffusionError: As there, or torch makes a parameter of a layer out of others.
    """
    layers = layers_of(network, kind)
    for layer in layers:
        if is_parametrized(layer) or any(name.endswith("_orig") for name in layer._parameters):
            raise KanDiffusionError(
                "a parameter of the network is made of others, by a parametrization such as "
                "weight_norm or by torch's pruning; give it a value of its own with "
                "torch.nn.utils.parametrize.remove_parametrizations or torch.nn.utils.prune.remove"
            )
    return layers


def with_layers(network: Network, layers: Sequence[nn.Module]) -> Network:
    """Copies what ``layers_of`` takes, with other layers in the places of its own."""
    if isinstance(network, BasisLayer):
        (layer,) = layers
        return cast("Network", layer)
    copied = copy.deepcopy(network)
    stack = copied.layers if isinstance(copied, KAN) else copied
    assert isinstance(stack, nn.Sequential)
    for index, layer in enumerate(layers):
        stack[index] = layer
    return copied
