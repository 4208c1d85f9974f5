r"""Converts networks of other KAN packages.

Efficient-KAN and pykan define the function of an edge as this package does, under other names:

.. math:: \phi_{o,i}(x) = w_{o,i}\,\mathrm{silu}(x) + s_{o,i} \sum_{g=0}^{G+k-1} c_{o,i,g}\,B_g(x),

on G + 2k + 1 knots: those of G intervals and of k more at either end, beyond which the functions
are zero (``extrapolation="zero"`` here). In efficient-KAN w is ``base_weight``, c
``spline_weight`` and s ``spline_scaler``. In pykan they are ``scale_base``, ``coef`` and
``scale_sp``, times a ``mask`` per edge; its layers then apply two affine maps per output,

.. math:: y_o = n_o \bigl(a_o \textstyle\sum_i m_{o,i}\,\phi_{o,i}(x_i) + b_o\bigr) + d_o,

which are folded into w, s and a bias. So a layer of pykan is first written as one of efficient-KAN
with a bias. Both packages lay knots at uneven distances where a grid follows data (pykan's ``fit``,
``update_grid`` of efficient-KAN), which a grid here cannot have. With ``fit=True`` the functions of
such a layer are fitted by least squares on an even grid from the first knot of an input to its
last, with up to 32 times as many intervals.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, overload

import torch
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.bases import BSpline
from kan_diffusion.kan.linear import KAN, EdgeSettings, KANLinear

if TYPE_CHECKING:
    from kan.MultKAN import MultKAN

_GRID_TOLERANCE = 1e-4
"""How far, in steps, a knot may be from its place on a uniform grid."""
_FIT_TOLERANCE = 1e-3
"""Largest error of fitted functions, relative to the largest in the layer, without a warning."""
_REFINEMENTS, _POINTS = (2, 4, 8, 16, 32), 8
"""Intervals of the even grids tried for each one of an uneven grid, and points in an interval."""
_KEY = re.compile(r"layers\.(\d+)\.(base_weight|spline_weight|grid|spline_scaler)")
_EXPECTED = (
    "layers.<n>.base_weight (out, in), .spline_weight (out, in, G + k), .grid (in, G + 2k + 1) and "
    "perhaps .spline_scaler (out, in) of every layer"
)


def _step(name: str, knots: Tensor, fit: bool) -> tuple[Tensor, bool]:
    """Finds the mean step of each input's knots (in, G + 2k + 1), and whether all are even.

    Raises:
        KanDiffusionError: Knots are not finite or do not increase, or are uneven without ``fit``.
    """
    eps, count = torch.finfo(knots.dtype).eps, knots.shape[1]
    knots = knots.double()
    step = (knots[:, -1] - knots[:, 0]) / (count - 1)
    even = knots[:, :1] + step[:, None] * torch.arange(count, device="cpu")
    error = (knots - even).abs().amax(1)
    # Knots far from zero cannot be more even than their dtype can represent.
    rounding = 4 * eps * knots.abs().amax(1)
    increasing = (step > 0) & step.isfinite() & (knots.diff() >= 0).all(1)
    usable = error <= _GRID_TOLERANCE * step + rounding
    if not increasing.all():
        raise KanDiffusionError(
            f"{name}: the knots of input {int(increasing.int().argmin())} are no finite numbers "
            "that increase; train the network again"
        )
    if not fit and not usable.all():
        raise KanDiffusionError(
            f"{name}: the knots of input {int(usable.int().argmin())} are no even grid, which a "
            "grid here is; give fit=True, or train on one (in pykan, with grid_eps=1)"
        )
    return step, bool(usable.all())


def _splines(x: Tensor, knots: Tensor, order: int) -> Tensor:
    """Evaluates the B-splines on any knots, (n + k + 1,), at x (P,): (P, n), by de Boor's rule."""
    x = x.unsqueeze(1)
    values = ((x >= knots[:-1]) & (x < knots[1:])).to(x)
    for degree in range(1, order + 1):
        width = (knots[degree:] - knots[:-degree]).unsqueeze(0)
        # Of knots that coincide, the quotient counts as zero.
        rising = torch.where(width > 0, (x - knots[:-degree]) / width, 0)
        values = rising[:, :-1] * values[:, :-1] + (1 - rising[:, 1:]) * values[:, 1:]
    return values


def _fitted(knots: Tensor, coefficients: Tensor, order: int) -> tuple[Tensor, float]:
    """Fits splines on uneven knots by splines on even ones.

    Args:
        knots: Knots of each input, (in, G + 2k + 1).
        coefficients: Coefficients of the splines, (out, in, G + k).
        order: Degree k of the splines.

    Returns:
        The coefficients of the coarsest even grid that is within the tolerance, or of the finest
        one, and the largest error of a function relative to the largest function.
    """
    knots, coefficients = knots.double(), coefficients.double()
    for refinement in _REFINEMENTS:
        intervals = refinement * (knots.shape[1] - 1)
        count = _POINTS * intervals
        u = (torch.arange(count, dtype=torch.float64) + 0.5) / _POINTS - order
        design = BSpline(1, intervals - 2 * order, order, extrapolation="zero").values(u)
        factor = torch.linalg.cholesky(design.T @ design)  # of a basis, well conditioned
        columns, error, largest = [], 0.0, 0.0
        for places, curves in zip(knots, coefficients.unbind(1), strict=False):
            x = places[0] + (u + order) * ((places[-1] - places[0]) / intervals)
            target = _splines(x, places, order) @ curves.T
            columns.append(torch.cholesky_solve(design.T @ target, factor))
            error = max(error, float((design @ columns[-1] - target).abs().max()))
            largest = max(largest, float(target.abs().max()))
        error = error / largest if largest else 0.0
        if error <= _FIT_TOLERANCE:
            break
    return torch.stack(columns, dim=1).transpose(0, 2), error


def _layer(
    name: str,
    fit: bool,
    base_weight: Tensor,
    spline_weight: Tensor,
    grid: Tensor,
    spline_scaler: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[KANLinear, float]:
    """Builds a layer with the tensors of one of efficient-KAN, of their dtype and on their device.

    Torch's own errors say that the shapes of the tensors do not go together.

    Returns:
        The layer, and the largest relative error of its functions; 0 where the grid is even.
    """
    outputs, inputs, functions = spline_weight.shape
    order, knots, error = grid.shape[1] - functions - 1, grid.detach().cpu(), 0.0
    settings: EdgeSettings = {"order": order, "extrapolation": "zero", "device": "cpu"}
    settings |= {"edge_scale": spline_scaler is not None, "dtype": base_weight.dtype}

    def build(functions: int) -> KANLinear:
        settings["grid_size"] = functions - order
        # The constructor's draws are overwritten and must not advance the caller's random stream.
        with torch.random.fork_rng(devices=[]):
            return KANLinear(inputs, outputs, bias is not None, **settings)

    layer = build(functions)
    step, even = _step(name, knots, fit)
    if not even:
        with torch.device("cpu"):
            fitted, error = _fitted(knots, spline_weight.detach().cpu(), order)
        step = step * ((functions + order) / (fitted.shape[2] + order))
        layer, spline_weight = build(fitted.shape[2]), fitted.to(spline_weight)
    weight = torch.cat([base_weight.unsqueeze(-1), spline_weight], dim=-1)
    grids = {"basis.grid_origin": knots[:, 0].double() + order * step, "basis.grid_step": step}
    state = {"weight": weight.flatten(1), "scale": spline_scaler, "bias": bias, **grids}
    layer.load_state_dict({key: value for key, value in state.items() if value is not None})
    return layer.to(base_weight.device), error


def _network(prefix: str, layers: Sequence[Mapping[str, Tensor]], fit: bool) -> tuple[KAN, float]:
    """Builds the network with the tensors of an efficient-KAN's layers; returns its error, too."""
    converted: list[KANLinear] = []
    largest = 0.0
    for index, tensors in enumerate(layers):
        name = prefix.format(index)
        try:
            layer, error = _layer(name, fit, **tensors)
        except (IndexError, RuntimeError, TypeError) as problem:
            raise KanDiffusionError(
                f"{name} is not whole or has tensors of other shapes; pass {_EXPECTED}"
            ) from problem
        converted.append(layer)
        if index and converted[-2].out_features != converted[-1].in_features:
            raise KanDiffusionError(
                f"{prefix.format(index - 1)} and {name} do not follow each other: the outputs of "
                "one must be the inputs of the next"
            )
        largest = max(largest, error)
        if error > _FIT_TOLERANCE:
            warnings.warn(
                f"{name}: functions on its uneven knots are fitted with an error of {error:.1%} "
                "of the largest; train the network on an even grid for equal outputs",
                stacklevel=4,
            )
    network = KAN(
        [converted[0].in_features, *(layer.out_features for layer in converted)], device="meta"
    )
    network.layers = nn.Sequential(*converted)
    return network, largest


@overload
def from_efficient_kan(state: Mapping[str, Tensor], *, fit: Literal[False] = False) -> KAN: ...
@overload
def from_efficient_kan(state: Mapping[str, Tensor], *, fit: Literal[True]) -> tuple[KAN, float]: ...
def from_efficient_kan(
    state: Mapping[str, Tensor], *, fit: bool = False
) -> KAN | tuple[KAN, float]:
    """Builds a network from an efficient-KAN whose base activation is SiLU, the default there.

    Order and number of intervals are read off the shapes. The spline scaler, where there is one,
    stays a separate parameter (``edge_scale=True``); there is no bias.

    Args:
        state: The network's state dict: ``layers.<n>.base_weight`` (out, in), ``.spline_weight``
            (out, in, G + k), ``.grid`` (in, G + 2k + 1) and perhaps ``.spline_scaler`` (out, in).
            The tensors are copied and determine dtype and device. It does not name the base
            activation.
        fit: Whether functions on uneven knots are fitted on an even grid; refused if not.

    Returns:
        The network, with ``extrapolation="zero"``: on even knots its outputs are equal everywhere.
        With ``fit``, also the largest error of a function relative to the largest function of its
        layer, of which a warning tells above 0.1 %.

    Raises:
        KanDiffusionError: Keys, tensors or shapes are not as above, knots do not increase, or they
            are no even grid and ``fit`` is not set.

    Example:
        >>> state = {
        ...     "layers.0.base_weight": torch.ones(1, 2),
        ...     "layers.0.spline_weight": torch.ones(1, 2, 8),
        ...     "layers.0.grid": torch.linspace(-2.2, 2.2, 12).expand(2, 12),
        ... }
        >>> from_efficient_kan(state)(torch.zeros(4, 2)).shape
        torch.Size([4, 1])
    """
    if not isinstance(state, Mapping):
        raise KanDiffusionError(
            f"from_efficient_kan takes the state dict of a network, not a {type(state).__name__}; "
            "pass network.state_dict(), or torch.load(path, weights_only=True)"
        )
    layers: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        match = _KEY.fullmatch(key)
        if match is None or not isinstance(value, Tensor) or not value.is_floating_point():
            raise KanDiffusionError(
                f"'{key}' is no tensor of floats of an efficient-KAN; pass {_EXPECTED}, and no more"
            )
        layers.setdefault(int(match[1]), {})[match[2]] = value
    read = [layers.get(index, {}) for index in range(max(layers, default=0) + 1)]
    network, error = _network("layers.{}", read, fit)
    return (network, error) if fit else network


def _folded(model: MultKAN, index: int) -> dict[str, Tensor]:
    """Reads a layer of a pykan network and folds its mask and affine maps in."""
    act, symbolic = model.act_fun[index], model.symbolic_fun[index]
    base = act.base_fun
    if not isinstance(base, nn.SiLU) and base is not nn.functional.silu:
        raise KanDiffusionError(
            f"act_fun[{index}].base_fun of the pykan network is not 'silu' but {base}; "
            "train with it"
        )
    for j, i in symbolic.mask.nonzero().tolist() if model.symbolic_enabled else []:
        raise KanDiffusionError(
            f"edge ({index}, {i}, {j}) of the pykan network is the formula "
            f"'{symbolic.funs_name[j][i]}', not a spline; turn it back into one with "
            f"model.unfix_symbolic({index}, {i}, {j})"
        )
    # pykan's forward pass reads these lists, not the attributes with similar names.
    gains = (model.node_scale[index] * model.subnode_scale[index])[:, None] * act.mask.T
    return {
        "base_weight": act.scale_base.T * gains,
        "spline_weight": act.coef.permute(1, 0, 2),
        "spline_scaler": act.scale_sp.T * gains,
        "grid": act.grid,
        "bias": model.node_scale[index] * model.subnode_bias[index] + model.node_bias[index],
    }


@overload
def from_pykan(model: MultKAN, *, fit: Literal[False] = False) -> KAN: ...
@overload
def from_pykan(model: MultKAN, *, fit: Literal[True]) -> tuple[KAN, float]: ...
@torch.no_grad()
def from_pykan(model: MultKAN, *, fit: bool = False) -> KAN | tuple[KAN, float]:
    """Builds a network from a pykan network of splines.

    Masks and affine maps are folded into the weights, so an edge that a mask keeps at zero in pykan
    starts at zero here, and is trained like any other. Every layer has a bias and edge scales.

    Args:
        model: The pykan network, which is not changed; it determines dtype and device.
        fit: Whether functions on uneven knots are fitted on an even grid; refused if not.

    Returns:
        The network, with ``extrapolation="zero"``: on even knots its outputs are equal everywhere.
        With ``fit``, also the largest error of a function relative to the largest function of its
        layer, of which a warning tells above 0.1 %.

    Raises:
        KanDiffusionError: It is no pykan network, or has multiplication nodes, edges that are
            formulas, a base function other than SiLU, columns of its input selected, or knots that
            are no even grid where ``fit`` is not set.

    Example:
        >>> from kan import KAN as PykanKAN  # doctest: +SKIP
        >>> model = PykanKAN(width=[2, 5, 1], grid=5, k=3)  # doctest: +SKIP
        >>> network, error = from_pykan(model, fit=True)  # doctest: +SKIP
    """
    if not all(hasattr(model, name) for name in ("act_fun", "symbolic_fun", "node_bias")):
        raise KanDiffusionError(
            f"from_pykan takes a pykan network (kan.MultKAN), not a {type(model).__name__}"
        )
    if any(num_products for _, num_products in model.width):
        raise KanDiffusionError(
            f"the pykan network has multiplication nodes (width={model.width}: [sums, products] of "
            "each layer), which a KAN has not; train one of sums only"
        )
    columns = model.input_id.tolist()
    if columns != list(range(len(columns))):
        raise KanDiffusionError(
            f"the pykan network selects columns {columns} of its input; select them in the data "
            f"and set model.input_id = torch.arange({len(columns)})"
        )
    layers = [_folded(model, index) for index in range(model.depth)]
    network, error = _network("act_fun[{}]", layers, fit)
    return (network, error) if fit else network
