r"""Changes grids and keeps the function of a layer.

On a new grid, with functions :math:`B'`, a layer has the coefficients :math:`c' = A c`. A is found
for each input from the two grids alone: exactly, where every old function is a sum of new ones
(knots inserted between knots, a higher degree, more harmonics), and otherwise by least squares,

.. math:: A = \arg\min_A \int \big| B'(u)^\top A - B(x(u))^\top \big|^2 \, d\theta, \qquad
    u = \tfrac{G}{2} (1 - \cos\theta), \quad \theta \in [0, \pi],

over the new grid, in float64. The data determine the new grid but do not enter the fit. The fit is
therefore as well conditioned as the basis, whatever the data are, even if inputs are constant or
fewer than the functions. A is also the same for all weights on the old grid, so that moving
averages of the weights are carried over and stay averages of the same functions. An optimiser's
moments cannot be carried over: they are reset for the layers that moved, if the optimiser is given.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.optim.swa_utils import AveragedModel

from kan_diffusion.errors import KanDiffusionError, NoGridError
from kan_diffusion.kan.bases import Basis, GridBasis
from kan_diffusion.kan.inputs import leaf, require_edge, require_input

__all__ = [
    "Average",
    "EdgeLayer",
    "MovingGrids",
    "WeightedEdges",
    "out_of_range_fractions",
    "refine",
    "update_grid",
]

logger = logging.getLogger(__name__)

_WORST_CONDITION = 1e8
"""Condition number from which half the digits of a fit are lost; our own bases stay far below."""
_POINTS_PER_FUNCTION = 16


class ShadowParameters(Protocol):
    """A moving average of parameters, such as diffusers' ``EMAModel``."""

    shadow_params: list[Tensor]


Average = nn.Module | ShadowParameters
"""An ``AveragedModel`` or other copy of the module, or averages in the order of its parameters."""


def _edge_layers(module: nn.Module) -> dict[str, EdgeLayer]:
    return {name: part for name, part in module.named_modules() if isinstance(part, EdgeLayer)}


def _grid_layers(module: nn.Module) -> dict[str, EdgeLayer]:
    layers = {
        name: layer
        for name, layer in _edge_layers(module).items()
        if isinstance(layer.basis, GridBasis)
    }
    if not layers:
        raise KanDiffusionError(f"{type(module).__name__} has no KAN layer with a grid to change")
    return layers


def _coefficient_map(old: GridBasis, new: GridBasis) -> Tensor:
    """Computes the matrices A: (in, new functions, old functions), in float64."""
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
    condition = float(torch.linalg.cond(design))
    if not condition < _WORST_CONDITION:
        raise KanDiffusionError(
            f"basis '{new.name}' with {new.num_intervals} intervals has a condition number of "
            f"{condition:.1e}: coefficients cannot be carried over to it; take fewer intervals"
        )
    targets = old(new.grid_origin + u.unsqueeze(1) * new.grid_step)  # (count, in, old functions)
    solution = torch.linalg.lstsq(design, targets.flatten(1)).solution
    return solution.unflatten(1, targets.shape[1:]).transpose(0, 1)


def _carried_over(weight: Tensor, layer: EdgeLayer, matrices: Tensor) -> Tensor:
    """Carries a packed weight, or an average of one, over to the new grid."""
    edges = weight.detach().view(weight.shape[0], layer.basis.in_features, -1)
    first = edges.shape[2] - matrices.shape[2]
    coefficients = torch.einsum("ifg,oig->oif", matrices, edges[..., first:].cpu().double())
    moved = torch.cat([edges[..., :first], coefficients.to(weight)], dim=-1)
    return moved.reshape(*weight.shape[:-1], -1)


def _put(
    layer: EdgeLayer,
    basis: GridBasis,
    moved: Tensor,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Gives a layer its new grid and weight; the parameter is kept if its shape is the same."""
    layer.basis = basis
    old = layer.packed
    if moved.shape == old.shape:
        old.copy_(moved)
        new = old
    else:
        new = nn.Parameter(moved, requires_grad=old.requires_grad)
        setattr(layer, layer._packed, new)
    if optimizer is None:
        return
    optimizer.state.pop(old, None)
    for group in optimizer.param_groups:
        # In place: L-BFGS holds the list.
        group["params"][:] = [new if p is old else p for p in group["params"]]
    if isinstance(optimizer, torch.optim.LBFGS):
        # Its history is of all parameters together.
        optimizer.state.clear()
        optimizer._numel_cache = None


def _same_layer(average: nn.Module, name: str, layer: EdgeLayer) -> EdgeLayer:
    """Finds the layer of an average that corresponds to a layer of the module."""
    other = dict(average.named_modules()).get(name)
    if isinstance(other, EdgeLayer) and isinstance(other.basis, GridBasis):
        one, two = layer.grid, other.basis
        if (
            one.sizes() == two.sizes()
            and one.extrapolation == two.extrapolation
            and torch.equal(one.grid_origin, two.grid_origin.to(one.grid_origin))
            and torch.equal(one.grid_step, two.grid_step.to(one.grid_step))
        ):
            return other
    raise KanDiffusionError(
        f"an average has not the grid of layer '{name}' as the module has it; copy the module, and "
        "hand its averages to every refine and update_grid"
    )


def _move(
    module: nn.Module,
    new_bases: dict[str, GridBasis],
    optimizer: torch.optim.Optimizer | None,
    averages: Iterable[Average],
) -> None:
    """Moves the named layers to their new grids."""
    layers = _grid_layers(module)
    holders: dict[int, str] = {}
    for name in new_bases:
        packed = layers[name].packed
        what = f"the {layers[name]._packed} of layer '{name}'"
        if not isinstance(packed, nn.Parameter):
            raise KanDiffusionError(
                f"{what} is computed from other parameters, as by torch's pruning or "
                "parametrizations, and cannot follow a grid; make it a parameter again first"
            )
        if (holder := holders.setdefault(id(packed), name)) != name:
            raise KanDiffusionError(
                f"{what} is that of '{holder}', too, and cannot follow two grids; give each layer "
                "its own"
            )
    with torch.device("cpu"):  # the matrices are small, and not every device has float64
        maps = {name: _coefficient_map(layers[name].grid, new) for name, new in new_bases.items()}
    places = {id(parameter): place for place, parameter in enumerate(module.parameters())}
    # Everything that may fail comes before anything is changed.
    changes: list[Callable[[], None]] = []
    for average in averages:
        if isinstance(average, AveragedModel):
            average = average.module
        for name, new in new_bases.items():
            layer = layers[name]
            if isinstance(average, nn.Module):
                other = _same_layer(average, name, layer)
                moved = _carried_over(other.packed, other, maps[name])
                changes.append(partial(_put, other, copy.deepcopy(new), moved))
            else:
                place = places[id(layer.packed)]
                moved = _carried_over(average.shadow_params[place], layer, maps[name])
                changes.append(partial(average.shadow_params.__setitem__, place, moved))
    for name, new in new_bases.items():
        layer = layers[name]
        moved = _carried_over(layer.packed, layer, maps[name])
        changes.append(partial(_put, layer, new, moved, optimizer))
    for change in changes:
        change()


def _first_tensor(output: object) -> Tensor:
    """Returns the tensor that a module returns, or the first of several."""
    while not isinstance(output, Tensor):
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]  # type: ignore[index]
    return output


def _watch(
    module: nn.Module, *inputs: object, **options: object
) -> tuple[Tensor, dict[str, Tensor]]:
    """Runs the module; returns its output and all rows (N, in) that reach each KAN layer."""
    seen: dict[str, list[Tensor]] = {}

    def watch(name: str, layer: EdgeLayer) -> torch.utils.hooks.RemovableHandle:
        def see(_: nn.Module, arguments: tuple[Tensor, ...], keywords: dict[str, Tensor]) -> None:
            (input,) = (*arguments, *keywords.values())
            seen.setdefault(name, []).append(input.detach().reshape(-1, layer.in_features))

        return layer.register_forward_pre_hook(see, with_kwargs=True)

    handles = [watch(name, layer) for name, layer in _edge_layers(module).items()]
    try:
        output = _first_tensor(module(*inputs, **options))
    finally:
        for handle in handles:
            handle.remove()
    if handles and not seen:
        raise KanDiffusionError(
            f"no KAN layer of {type(module).__name__} was called; if torch.compile made it or a "
            "part of it, give the module that was compiled"
        )
    return output, {name: torch.cat(parts) for name, parts in seen.items()}


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
    layers = _edge_layers(module)
    _, seen = _watch(module, *inputs, **options)
    outside = {name: layers[name].outside(rows) for name, rows in seen.items()}
    return {name: int(o.sum()) / o.numel() if len(o) else math.nan for name, o in outside.items()}


@torch.no_grad()
def refine(
    module: nn.Module,
    num_intervals: int,
    *inputs: object,
    optimizer: torch.optim.Optimizer | None = None,
    averages: Iterable[Average] = (),
    **options: object,
) -> float:
    """Gives the grids another number of intervals over the same range and keeps the function.

    The function is kept exactly for splines with a multiple of the old number of intervals (with
    ``"zero"`` only inside the grid), and for more polynomials or harmonics; otherwise it is fitted
    by least squares. The weights become new parameters. Where the module, a part of it or an
    average is saved with a configuration, the configuration follows.

    Args:
        module: Any module that contains KAN layers with a grid.
        num_intervals: Number of intervals of every grid.
        inputs: Positional arguments of a call of the module that measures how far the function
            moves; by default every layer is measured by itself, over its grid.
        optimizer: Optimiser whose parameters are replaced and their moments reset. An optimiser
            that is not given keeps parameters that are no longer used.
        averages: Moving averages of the module's weights, which are carried over, too.
        options: Keyword arguments of the call.

    Returns:
        The largest change of the output on the inputs.

    Raises:
        KanDiffusionError: There is no layer with a grid, the inputs are empty, a layer has more
            functions than its basis would have, or coefficients cannot be carried over, for example
            because two layers share them.
    """
    layers = _grid_layers(module)
    new_bases = {name: layer.refined(num_intervals) for name, layer in layers.items()}
    calls: list[Callable[[], object]] = [partial(module, *inputs, **options)]
    if not inputs and not options:
        calls = [partial(each, each.on_grids(_over_grid(each.grid))) for each in layers.values()]
    before = [_first_tensor(call()) for call in calls]
    if not all(output.numel() for output in before):
        raise KanDiffusionError("the inputs are empty: give some, or none to measure each layer")
    averages = list(averages)
    _move(module, new_bases, optimizer, averages)
    for changed in (module, *averages):
        for part in changed.modules() if isinstance(changed, nn.Module) else ():
            if isinstance(part, MovingGrids):
                part._note_intervals(num_intervals)
    after = [_first_tensor(call()) for call in calls]
    return max(float((b - a).abs().max()) for a, b in zip(before, after, strict=True))


def _over_grid(basis: GridBasis) -> Tensor:
    width = basis.grid_end - basis.grid_origin
    count = 8 * basis.num_functions + 1
    share = torch.linspace(0, 1, count, dtype=torch.float64, device="cpu").to(width)
    return basis.grid_origin + share.unsqueeze(1) * width


@torch.no_grad()
def update_grid(
    module: nn.Module,
    *inputs: object,
    margin: float = 0.01,
    optimizer: torch.optim.Optimizer | None = None,
    averages: Iterable[Average] = (),
    **options: object,
) -> float:
    """Moves the grid of every input of every KAN layer to the range of its data.

    The grid of a constant input keeps its width and is shifted just enough to contain the value.

    Args:
        module: Any module that contains KAN layers with a grid.
        inputs: Positional arguments of a call of the module, from which the layers' own inputs
            follow.
        margin: How much wider than the data the grid becomes at each end, as a fraction of their
            range.
        optimizer: Optimiser whose moments of the weights are reset.
        averages: Moving averages of the module's weights, which are carried over, too.
        options: Keyword arguments of the call.

    Returns:
        The largest change of the output on the inputs.

    Raises:
        KanDiffusionError: The inputs are empty or not finite, or reach no KAN layer; the margin is
            negative; or coefficients cannot be carried over, for example because two layers share
            them.
    """
    if not 0 <= margin < math.inf:
        raise KanDiffusionError(f"margin must be zero or more, not {margin}")
    layers = _grid_layers(module)
    before, seen = _watch(module, *inputs, **options)
    new_bases = {
        name: _over_data(layer.grid, layer.grid_rows(rows), margin, name or "the layer")
        for name, rows in seen.items()
        if (layer := layers.get(name)) is not None
    }
    _move(module, new_bases, optimizer, averages)
    change = float((_first_tensor(module(*inputs, **options)) - before).abs().max())
    logger.info("moved the grids of %d KAN layers; largest change %.3g", len(new_bases), change)
    return change


def _over_data(basis: GridBasis, rows: Tensor, margin: float, name: str) -> GridBasis:
    """Returns the basis with each input's grid laid over the range of its data."""
    if len(rows) == 0:
        raise KanDiffusionError(f"no inputs reach '{name}': a grid cannot be laid over no data")
    if not bool(torch.isfinite(rows).all()):
        bad = int((~torch.isfinite(rows)).any(0).nonzero()[0])
        raise KanDiffusionError(
            f"input {bad} of '{name}' has a NaN or an infinite value; leave such rows out"
        )
    low, high = rows.amin(0), rows.amax(0)
    spread = high - low
    resolution = torch.finfo(rows.dtype).eps * torch.maximum(low.abs(), high.abs())
    constant = spread <= 100 * resolution
    old_width = basis.grid_end - basis.grid_origin
    above, below = high - basis.grid_end, basis.grid_origin - low
    shift = torch.where(above > 0, above, 0.0) - torch.where(below > 0, below, 0.0)
    shift += shift.sign() * 4 * torch.finfo(rows.dtype).eps * (basis.grid_end.abs() + high.abs())
    new = basis.with_intervals(basis.num_intervals)
    room = margin * spread + 4 * resolution  # keeps the ends inside after rounding
    new.grid_origin.copy_(torch.where(constant, basis.grid_origin + shift, low - room))
    width = torch.where(constant, old_width, spread + 2 * room)
    new.grid_step.copy_(width / basis.num_intervals)
    usable = torch.isfinite(new.grid_end) & (new.grid_step > 0) & torch.isfinite(1 / new.grid_step)
    if not bool(usable.all()):
        bad = int((~usable).nonzero()[0])
        raise KanDiffusionError(
            f"input {bad} of '{name}' runs from {float(low[bad]):g} to {float(high[bad]):g}, which "
            f"{str(new.grid_step.dtype).removeprefix('torch.')} cannot divide into "
            f"{basis.num_intervals} intervals; scale it"
        )
    return new


class MovingGrids(nn.Module):
    """A module with methods that change the grids of its KAN layers."""

    refine = refine
    update_grid = update_grid
    out_of_range_fractions = out_of_range_fractions

    def _note_intervals(self, num_intervals: int) -> None:
        """Updates the number of intervals in a configuration; here there is none."""


class EdgeLayer(MovingGrids):
    """A KAN layer; the weights of an edge end with the coefficients of the basis."""

    basis: Basis
    in_features: int
    _packed: ClassVar[str] = "weight"

    @property
    def packed(self) -> nn.Parameter:
        """The parameter with the coefficients of the basis in its last dimension."""
        parameter: nn.Parameter = getattr(self, self._packed)
        return parameter

    def forward(self, input: Tensor) -> Tensor:
        """Maps inputs (*, in_features) to the outputs (*, m) of the layer.

        Raises:
            KanDiffusionError: The input has another last dimension, or is not floating-point:
                integers are refused for any basis, as by ``nn.Linear``.
        """
        if isinstance(input, Proxy):
            return leaf(self, input)
        output = self._outputs(self._rows(input))
        return output if input.ndim == 2 else output.view(*input.shape[:-1], output.shape[1])

    def _rows(self, input: Tensor) -> Tensor:
        """Checks inputs (*, in_features) and flattens them to rows (N, in_features)."""
        require_input(self, input, self.in_features)
        return input if input.ndim == 2 else input.reshape(-1, self.in_features)

    def _outputs(self, rows: Tensor) -> Tensor:
        """Computes the layer for rows of inputs."""
        raise NotImplementedError

    def grid_rows(self, rows: Tensor) -> Tensor:
        """Makes rows with one number per grid: (N, in_features) -> (M, grids)."""
        return rows

    def outside(self, rows: Tensor) -> Tensor:
        """Tells which inputs lie outside their grid: (N, in_features), bool."""
        return self.basis.outside(rows)

    @torch.no_grad()
    def out_of_range_per_input(self, input: Tensor) -> Tensor:
        """Computes the fraction of each input's values outside its grid; NaN counts as inside.

        Args:
            input: Inputs with shape (*, in_features).

        Returns:
            Fractions with shape (in_features,), from 0 to 1; NaN for an empty input.
        """
        return self.outside(self._rows(input)).to(self.packed.dtype).mean(0)

    def on_grids(self, rows: Tensor) -> Tensor:
        """Gives each input the number of its grid: rows (N, grids) -> (N, in_features)."""
        return rows

    @property
    def grid(self) -> GridBasis:
        """The basis, where it has a grid.

        Raises:
            NoGridError: The basis has no grid.
        """
        if not isinstance(self.basis, GridBasis):
            raise NoGridError(
                f"basis '{self.basis.name}' has no grid; choose another, such as 'bspline'"
            )
        return self.basis

    @property
    def grid_size(self) -> int:
        """Number of intervals of the grid."""
        return self.grid.num_intervals

    def refined(self, num_intervals: int) -> GridBasis:
        """Makes a copy of the basis with another number of intervals.

        Raises:
            KanDiffusionError: The number is less than 1, or the layer needs more.
        """
        return self.grid.with_intervals(num_intervals)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # as in torch
        try:
            return super().__getattr__(name)
        except AttributeError:
            own = getattr(type(self), name, None)
            if isinstance(own, property) and own.fget is not None:
                return own.fget(self)  # raises its own error, which torch hides
            raise


class WeightedEdges(EdgeLayer):
    """A KAN layer whose edges are weighted sums of features of their inputs."""

    out_features: int

    def _features(self, rows: Tensor) -> Tensor:
        """Computes the features (N, in, features) of rows of inputs."""
        raise NotImplementedError

    def _features_of(self, i: int, x: Tensor) -> Tensor:
        """Computes the features (n, features) of values (n, 1) of input ``i``."""
        raise NotImplementedError

    def _edge_weights(self) -> Tensor:
        """Returns the weights of the features by edge: (out, in, features)."""
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
        return torch.einsum("nif,oif->noi", self._features(self._rows(input)), self._edge_weights())

    @torch.no_grad()
    def edge_curve(self, i: int, j: int, x: Tensor) -> Tensor:
        """Evaluates the function of one edge, with base branch and scale but without the bias.

        Args:
            i: Index of the input the edge leaves.
            j: Index of the output the edge enters.
            x: Where to evaluate, with any shape.

        Returns:
            phi_{j,i}(x) with the shape of x.

        Raises:
            IndexError: There is no such edge.
        """
        require_edge(i, j, self.in_features, self.out_features)
        features = self._features_of(i, x.reshape(-1, 1))
        return (features @ self._edge_weights()[j, i].to(features.dtype)).view(x.shape)
