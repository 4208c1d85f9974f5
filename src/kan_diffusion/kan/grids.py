r"""New layers from old: the same function on finer, coarser or moved grids.

On a new grid, with functions :math:`B'`, a layer has the coefficients :math:`c' = A c`. A is found
for each grid from the two grids alone: exactly, where every old function is a sum of new ones
(knots inserted between knots), and otherwise by least squares,

.. math:: A = \arg\min_A \int \big| B'(u)^\top A - B(x(u))^\top \big|^2 \, d\theta, \qquad
    u = \tfrac{G}{2} (1 - \cos\theta), \quad \theta \in [0, \pi],

over the new grid, in float64. The data determine a moved grid but do not enter the fit. The fit is
therefore as well conditioned as the basis, whatever the data are, even if inputs are constant or
fewer than the functions. A is also the same for all weights on the old grid, so that a moving
average of a layer's weights stays an average of the same functions.
"""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.bases import Basis
from kan_diffusion.kan.functions import BasisLayer
from kan_diffusion.kan.linear import KANLinear, plain_layers_of, with_layers

Layer = TypeVar("Layer", bound=BasisLayer)
Network = TypeVar("Network", bound=nn.Module)

_POINTS_PER_FUNCTION = 16


def _coefficient_map(old: Basis, new: Basis) -> Tensor:
    """Computes the matrices A: (grids, new functions, old functions), in float64."""
    ends, new_ends = (torch.stack([grid.grid_origin, grid.grid_end]) for grid in (old, new))
    rounding = 4 * torch.finfo(ends.dtype).eps * ends.abs().amax(0)
    same_range = bool(((ends - new_ends).abs() <= rounding).all())
    exact = old.exact_refinement(new.num_intervals) if same_range else None
    if exact is not None:
        return exact.expand(old.in_features, *exact.shape)
    old, new = (copy.deepcopy(basis).cpu().double() for basis in (old, new))
    count = _POINTS_PER_FUNCTION * max(old.num_functions, new.num_functions)
    angle = torch.linspace(0, math.pi, count, dtype=torch.float64)
    u = (1 - angle.cos()) * (new.num_intervals / 2)
    design = new.values(u)
    targets = old(new.grid_origin + u.unsqueeze(1) * new.grid_step)  # (count, grids, old functions)
    solution = torch.linalg.lstsq(design, targets.flatten(1)).solution
    return solution.unflatten(1, targets.shape[1:]).transpose(0, 1)


def _on_basis(layer: Layer, basis: Basis) -> Layer:
    """Copies a layer and carries its coefficients over to another basis of the same kind."""
    with torch.device("cpu"):  # the matrices are small, and not every device has float64
        maps = _coefficient_map(layer.basis, basis)
    packed = layer.coefficients
    if packed is None:
        assert isinstance(layer, KANLinear)
        packed = layer.weight
    edges = packed.detach().view(packed.shape[0], layer.basis.in_features, -1)
    first = edges.shape[2] - maps.shape[2]
    carried = torch.einsum("gfh,rgh->rgf", maps, edges[..., first:].cpu().double())
    whole = torch.cat([edges[..., :first], carried.to(edges)], dim=-1)
    copied: Layer = copy.deepcopy(layer)
    copied.basis = basis
    fresh = nn.Parameter(whole.reshape(*packed.shape[:-1], -1), packed.requires_grad)
    setattr(copied, "weight" if layer.coefficients is None else "coefficients", fresh)
    return copied


@torch.no_grad()
def refined(network: Network, grid_size: int) -> Network:
    """Makes a layer or network with other numbers of intervals, and with the same function.

    The function is kept exactly for splines with a multiple of the old number of intervals (with
    ``"zero"`` only inside the grid); otherwise it is fitted by least squares.

    Args:
        network: A ``KANLinear`` or ``LearnedFunctions``, a ``KAN``, or an ``nn.Sequential`` of such
            layers, which is not changed.
        grid_size: Number of intervals of every grid.

    Returns:
        The new layer or network, which shares nothing with the old one.

    Raises:
        KanDiffusionError: The number is less than 1, a layer has more functions than the basis
            would have, or the network has other parts, or parameters that are made of others.

    Example:
        >>> from kan_diffusion.kan import KAN, refined
        >>> fine = refined(KAN([2, 5, 1], grid_size=5), 10)
        >>> fine.layers[0].basis.num_intervals
        10
    """
    layers = plain_layers_of(network, BasisLayer)
    return with_layers(network, [_refined(layer, grid_size) for layer in layers])


def _refined(layer: Layer, grid_size: int) -> Layer:
    basis = layer.basis.with_intervals(grid_size)
    if layer.functions is not None and layer.functions > basis.num_functions:
        raise KanDiffusionError(
            f"the layer has {layer.functions} functions an input and a basis with "
            f"grid_size={grid_size} has {basis.num_functions}; take a larger grid_size"
        )
    return _on_basis(layer, basis)


@torch.no_grad()
def moved(network: Network, input: Tensor, margin: float = 0.01) -> Network:
    """Makes a layer or network with its grids over the range of data and nearly the same function.

    The grids of each layer of a network are laid over what the moved layers before it give. The
    grid of a constant input keeps its width and is shifted just enough to contain the value.

    Args:
        network: A ``KANLinear`` or ``LearnedFunctions``, a ``KAN``, or an ``nn.Sequential`` of such
            layers, which is not changed.
        input: Its inputs, with shape (*, in_features).
        margin: How much wider than the data a grid becomes at each end, as a fraction of their
            range.

    Returns:
        The new layer or network, which shares nothing with the old one.

    Raises:
        KanDiffusionError: The inputs are empty or not finite, or have a range that the grid's dtype
            cannot divide; the margin is negative; or the network has other parts, or parameters
            that are made of others.

    Example:
        >>> from kan_diffusion.kan import KAN, moved
        >>> x = torch.linspace(0, 10, 100).unsqueeze(1)
        >>> network = moved(KAN([1, 3, 1]), x)  # x outside [-1, 1] had no splines before
        >>> network.layers[0].basis.grid_end.item() > 10
        True
    """
    layers: list[BasisLayer] = []
    for layer in plain_layers_of(network, BasisLayer):
        input = layers[-1](input) if layers else input
        layers.append(_moved(layer, input, margin))
    return with_layers(network, layers)


def _moved(layer: Layer, input: Tensor, margin: float) -> Layer:
    if not 0 <= margin < math.inf:
        raise KanDiffusionError(f"margin must be zero or more, not {margin}")
    rows, basis = layer._rows(input), layer.basis
    if len(rows) == 0:
        raise KanDiffusionError("there are no inputs: a grid cannot be laid over no data")
    if not bool(torch.isfinite(rows).all()):
        bad = int((~torch.isfinite(rows)).any(0).nonzero()[0])
        raise KanDiffusionError(f"input {bad} has a NaN or an infinite value; leave such rows out")
    # The range of a group is that of all its inputs.
    none, group = torch.full_like(basis.grid_origin, math.inf, dtype=rows.dtype), layer.group
    low = none.scatter_reduce(0, group, rows.amin(0), "amin")
    high = (-none).scatter_reduce(0, group, rows.amax(0), "amax")
    spread, eps = high - low, torch.finfo(low.dtype).eps
    resolution = eps * torch.maximum(low.abs(), high.abs())
    room = margin * spread + 4 * resolution  # keeps the ends inside after rounding
    width = basis.grid_end - basis.grid_origin
    safe = 4 * eps * (basis.grid_end.abs() + high.abs())
    shifted = torch.clamp(basis.grid_origin, high - width + safe, low - safe)
    constant = spread <= 100 * resolution
    new = basis.with_intervals(basis.num_intervals)
    new.grid_origin.copy_(torch.where(constant, shifted, low - room))
    new.grid_step.copy_(torch.where(constant, width, spread + 2 * room) / basis.num_intervals)
    usable = torch.isfinite(new.grid_end) & (new.grid_step > 0) & torch.isfinite(1 / new.grid_step)
    if not bool(usable.all()):
        bad = int((~usable).nonzero()[0])
        raise KanDiffusionError(
            f"the inputs of grid {bad} run from {float(low[bad]):g} to {float(high[bad]):g}, which "
            f"{str(new.grid_step.dtype).removeprefix('torch.')} cannot divide into "
            f"{basis.num_intervals} intervals; scale them"
        )
    return _on_basis(layer, new)


@torch.no_grad()
def out_of_range_fractions(
    module: nn.Module, *inputs: object, **options: object
) -> dict[str, float]:
    """Computes the fraction of each KAN layer's input values that lie outside its grid.

    Args:
        module: Any module that contains KAN layers.
        inputs: Positional arguments of its call.
        options: Keyword arguments of its call.

    Returns:
        Fractions from 0 to 1 by name of layer (a NaN counts as inside; the fraction of an empty
        input is NaN); empty if there is no KAN layer.

    Raises:
        KanDiffusionError: The call reached none of the KAN layers.
    """
    layers = {name: part for name, part in module.named_modules() if isinstance(part, BasisLayer)}
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}

    def watch(name: str, layer: BasisLayer) -> torch.utils.hooks.RemovableHandle:
        def see(_: nn.Module, arguments: tuple[Tensor, ...], keywords: dict[str, Tensor]) -> None:
            (input,) = (*arguments, *keywords.values())
            seen[name].append(layer.outside(layer._rows(input.detach())))

        return layer.register_forward_pre_hook(see, with_kwargs=True)

    handles = [watch(name, layer) for name, layer in layers.items()]
    try:
        module(*inputs, **options)
    finally:
        for handle in handles:
            handle.remove()
    if layers and not any(seen.values()):
        raise KanDiffusionError(
            f"no KAN layer of {type(module).__name__} was called; if torch.compile made it or a "
            "part of it, give the module that was compiled"
        )
    outside = {name: torch.cat(parts) for name, parts in seen.items() if parts}
    return {name: int(o.sum()) / o.numel() if len(o) else math.nan for name, o in outside.items()}
