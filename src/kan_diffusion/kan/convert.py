r"""Converts networks of other KAN packages.

Efficient-KAN and pykan define the function of an edge as this package does, under other names:

.. math:: \phi_{o,i}(x) = w_{o,i}\,\mathrm{silu}(x) + s_{o,i} \sum_{g=0}^{G+k-1} c_{o,i,g}\,B_g(x),

on G + 2k + 1 knots: those of G intervals and of k more at either end, beyond which the functions
are zero (``extrapolation="zero"`` here). In efficient-KAN w is ``base_weight``, c
``spline_weight`` and s ``spline_scaler``. In pykan they are ``scale_base``, ``coef`` and
``scale_sp``, times a ``mask`` per edge; its layers then apply two affine maps per output,

.. math:: y_o = n_o \bigl(a_o \textstyle\sum_i m_{o,i}\,\phi_{o,i}(x_i) + b_o\bigr) + d_o,

which are folded into w, s and a bias. So a pykan network is first written as the state dict of an
efficient-KAN with biases. Both packages may place knots at uneven distances, which a grid here
cannot have; such networks are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.linear import KAN, KANLinear

if TYPE_CHECKING:
    from kan.MultKAN import MultKAN

__all__ = ["from_efficient_kan", "from_pykan"]

_GRID_TOLERANCE = 1e-4
"""How far, in steps, a knot may be from its place on a uniform grid."""
_KEY = re.compile(r"layers\.(\d+)\.(base_weight|spline_weight|grid|spline_scaler)")
_EXPECTED = (
    "layers.<n>.base_weight (out, in), .spline_weight (out, in, G + k), .grid (in, G + 2k + 1) and "
    "perhaps .spline_scaler (out, in) of every layer"
)


def _grid(name: str, knots: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """Finds origin and step of each input's grid, (in,) each, if its knots are even."""
    knots, eps = knots.detach().double().cpu(), torch.finfo(knots.dtype).eps
    count = knots.shape[1]
    step = (knots[:, -1] - knots[:, 0]) / (count - 1)
    even = knots[:, :1] + step[:, None] * torch.arange(count, device="cpu")
    error = (knots - even).abs().amax(1)
    # Knots far from zero cannot be more even than their dtype can represent.
    rounding = 4 * eps * knots.abs().amax(1)
    usable = (step > 0) & step.isfinite() & (error <= _GRID_TOLERANCE * step + rounding)
    if not usable.all():
        raise KanDiffusionError(
            f"{name}: the knots of input {int(usable.int().argmin())} are no even grid of "
            "finite numbers, which a grid here is; train on one (in pykan, with grid_eps=1)"
        )
    return knots[:, 0] + order * step, step


def _build(prefix: str, layers: Sequence[Mapping[str, Tensor]]) -> KAN:
    """Builds the KAN with the tensors of an efficient-KAN's layers, their dtype and device."""
    shapes = [(*layer["spline_weight"].shape, layer["grid"].shape[1]) for layer in layers]
    for index, (before, after) in enumerate(pairwise(shapes)):
        if before[0] != after[1] or before[2:] != after[2:]:
            raise KanDiffusionError(
                f"{prefix.format(index)} and {prefix.format(index + 1)} do not follow each other: "
                "the outputs of one must be the inputs of the next, with as many intervals and the "
                "same order"
            )
    _, inputs, functions, knots = shapes[0]
    order = knots - functions - 1
    like = layers[0]["base_weight"]
    # The constructor's draws are overwritten and must not advance the caller's random stream.
    with torch.random.fork_rng(devices=[]):
        network = KAN(
            [inputs, *(shape[0] for shape in shapes)],
            "bias" in layers[0],
            grid_size=functions - order,
            order=order,
            extrapolation="zero",
            edge_scale="spline_scaler" in layers[0],
            device="cpu",
            dtype=like.dtype,
        )
    for index, (made, given) in enumerate(zip(network.layers, layers, strict=True)):
        assert isinstance(made, KANLinear)
        origin, step = _grid(prefix.format(index), given["grid"], order)
        edges = torch.cat([given["base_weight"].unsqueeze(-1), given["spline_weight"]], dim=-1)
        state = {"weight": edges.flatten(1), "basis.grid_origin": origin, "basis.grid_step": step}
        names = {"spline_scaler": "scale", "bias": "bias"}
        state |= {name: given[own] for own, name in names.items() if own in given}
        made.load_state_dict(state)
    return network.to(like.device)


def from_efficient_kan(network: nn.Module | Mapping[str, Tensor]) -> KAN:
    """Builds a network from an efficient-KAN whose base activation is SiLU, the default there.

    Order and number of intervals are read off the shapes. The spline scaler, where there is one,
    stays a separate parameter (``edge_scale=True``); there is no bias.

    Args:
        network: The network, or its state dict: ``layers.<n>.base_weight`` (out, in),
            ``.spline_weight`` (out, in, G + k), ``.grid`` (in, G + 2k + 1) and perhaps
            ``.spline_scaler`` (out, in). The tensors are copied and determine dtype and device. A
            state dict does not name its base activation, which a network itself does.

    Returns:
        The network, with ``extrapolation="zero"``: its outputs are equal everywhere.

    Raises:
        KanDiffusionError: Keys or shapes are not as above, knots are not an even grid, or the base
            activation is not SiLU.
    """
    if not isinstance(network, nn.Module | Mapping):
        raise KanDiffusionError(
            "from_efficient_kan takes a network or its state dict, not a "
            f"{type(network).__name__}; read a file with torch.load(path, weights_only=True) first"
        )
    for name, part in network.named_modules() if isinstance(network, nn.Module) else ():
        base = getattr(part, "base_activation", None)
        if base is not None and not _is_silu(base):
            raise KanDiffusionError(
                f"{name} has the base activation {base}, and a KAN's is SiLU; train with "
                "base_activation=torch.nn.SiLU"
            )
    state = network if isinstance(network, Mapping) else network.state_dict()
    layers: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        match = _KEY.fullmatch(key)
        if match is None or not value.is_floating_point():
            raise KanDiffusionError(
                f"'{key}' is no number of an efficient-KAN; pass {_EXPECTED}, and no more"
            )
        layers.setdefault(int(match[1]), {})[match[2]] = value
    count = 3 + any("spline_scaler" in tensors for tensors in layers.values())
    found = [layers.get(index, {}) for index in range(max(layers, default=0) + 1)]
    for index, tensors in enumerate(found):
        if len(tensors) < count or not _fit(**tensors):
            raise KanDiffusionError(
                f"layers.{index} of an efficient-KAN is not whole or has other shapes; pass "
                f"{_EXPECTED}"
            )
    return _build("layers.{}", found)


def _is_silu(function: object) -> bool:
    return isinstance(function, nn.SiLU) or function is nn.functional.silu


def _fit(
    base_weight: Tensor, spline_weight: Tensor, grid: Tensor, spline_scaler: Tensor | None = None
) -> bool:
    """Tells whether the shapes of a layer's tensors go together, with an order of at least 0."""
    if (base_weight.ndim, spline_weight.ndim, grid.ndim) != (2, 3, 2) or not base_weight.numel():
        return False
    (*shape, functions), (inputs, knots) = spline_weight.shape, grid.shape
    alike = all(list(t.shape) == shape for t in (base_weight, spline_scaler) if t is not None)
    return alike and inputs == shape[1] and functions < knots <= 2 * functions


def _folded(model: MultKAN, index: int) -> dict[str, Tensor]:
    """Reads a layer of a pykan network and folds its mask and affine maps in."""
    act, symbolic = model.act_fun[index], model.symbolic_fun[index]
    if not _is_silu(act.base_fun):
        raise KanDiffusionError(
            f"act_fun[{index}].base_fun of the pykan network is not 'silu' but {act.base_fun}; "
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


@torch.no_grad()
def from_pykan(model: MultKAN) -> KAN:
    """Builds a network from a pykan network of splines on even grids.

    Masks and affine maps are folded into the weights, so an edge that a mask keeps at zero in pykan
    starts at zero here, and is trained like any other. Every layer has a bias and edge scales.

    Args:
        model: The pykan network, which is not changed; it determines dtype and device.

    Returns:
        The network, with ``extrapolation="zero"``: its outputs are equal everywhere.

    Raises:
        KanDiffusionError: It is no pykan network, or has multiplication nodes, edges that are
            formulas, a base function other than SiLU, columns of its input selected, several grid
            sizes, or knots that are not an even grid.
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
    return _build("act_fun[{}]", [_folded(model, index) for index in range(model.depth)])
