r"""Converts networks of other KAN packages.

Efficient-KAN and pykan define the function of an edge as this package does, under other names:

.. math:: \phi_{o,i}(x) = w_{o,i}\,\mathrm{silu}(x) + s_{o,i} \sum_{g=0}^{G+k-1} c_{o,i,g}\,B_g(x),

on G + 2k + 1 knots: those of G intervals and of k more at either end, beyond which the functions
are zero (``extrapolation="zero"`` here). In efficient-KAN w is ``base_weight``, c
``spline_weight`` and s ``spline_scaler``. In pykan they are ``scale_base``, ``coef`` and
``scale_sp``, times a ``mask`` per edge; its layers then apply two affine maps per output,

.. math:: y_o = n_o \bigl(a_o \textstyle\sum_i m_{o,i}\,\phi_{o,i}(x_i) + b_o\bigr) + d_o,

which are folded into w, s and a bias. So a layer of pykan is first written as one of efficient-KAN
with a bias. Both packages may place knots at uneven distances, which a grid here cannot have; such
networks are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.linear import KAN, EdgeSettings, KANLinear

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


def _layer(
    name: str,
    base_weight: Tensor,
    spline_weight: Tensor,
    grid: Tensor,
    spline_scaler: Tensor | None = None,
    bias: Tensor | None = None,
) -> KANLinear:
    """Builds a layer with the tensors of one of efficient-KAN, of their dtype and on their device.

    Torch's own errors say that the shapes of the tensors do not go together.
    """
    weight = torch.cat([base_weight.unsqueeze(-1), spline_weight], dim=-1)
    outputs, inputs, functions = spline_weight.shape
    order = grid.shape[1] - functions - 1
    own: EdgeSettings = {"grid_size": functions - order, "order": order, "extrapolation": "zero"}
    own |= {"edge_scale": spline_scaler is not None, "device": "cpu", "dtype": weight.dtype}
    # The constructor's draws are overwritten and must not advance the caller's random stream.
    with torch.random.fork_rng(devices=[]):
        layer = KANLinear(inputs, outputs, bias is not None, **own)
    origin, step = _grid(name, grid, order)
    grids = {"basis.grid_origin": origin, "basis.grid_step": step}
    state = {"weight": weight.flatten(1), "scale": spline_scaler, "bias": bias, **grids}
    layer.load_state_dict({key: value for key, value in state.items() if value is not None})
    return layer.to(base_weight.device)


def _network(prefix: str, layers: Sequence[Mapping[str, Tensor]]) -> KAN:
    """Builds the network with the tensors of an efficient-KAN's layers."""
    made = []
    for index, tensors in enumerate(layers):
        name = prefix.format(index)
        try:
            made.append(_layer(name, **tensors))
        except (IndexError, RuntimeError, TypeError) as error:
            raise KanDiffusionError(
                f"{name} is not whole or has tensors of other shapes; pass {_EXPECTED}"
            ) from error
        if index and made[-2].out_features != made[-1].in_features:
            raise KanDiffusionError(
                f"{prefix.format(index - 1)} and {name} do not follow each other: the outputs of "
                "one must be the inputs of the next"
            )
    network = KAN([made[0].in_features, *(layer.out_features for layer in made)], device="meta")
    network.layers = nn.Sequential(*made)
    return network


def from_efficient_kan(state: Mapping[str, Tensor]) -> KAN:
    """Builds a network from an efficient-KAN whose base activation is SiLU, the default there.

    Order and number of intervals are read off the shapes. The spline scaler, where there is one,
    stays a separate parameter (``edge_scale=True``); there is no bias.

    Args:
        state: The network's state dict: ``layers.<n>.base_weight`` (out, in), ``.spline_weight``
            (out, in, G + k), ``.grid`` (in, G + 2k + 1) and perhaps ``.spline_scaler`` (out, in).
            The tensors are copied and determine dtype and device. It does not name the base
            activation.

    Returns:
        The network, with ``extrapolation="zero"``: its outputs are equal everywhere.

    Raises:
        KanDiffusionError: Keys or shapes are not as above, or knots are not an even grid.
    """
    if not isinstance(state, Mapping):
        raise KanDiffusionError(
            f"from_efficient_kan takes the state dict of a network, not a {type(state).__name__}; "
            "pass network.state_dict(), or torch.load(path, weights_only=True)"
        )
    layers: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        match = _KEY.fullmatch(key)
        if match is None or not value.is_floating_point():
            raise KanDiffusionError(
                f"'{key}' is no number of an efficient-KAN; pass {_EXPECTED}, and no more"
            )
        layers.setdefault(int(match[1]), {})[match[2]] = value
    found = [layers.get(index, {}) for index in range(max(layers, default=0) + 1)]
    return _network("layers.{}", found)


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
            formulas, a base function other than SiLU, columns of its input selected, or knots that
            are not an even grid.
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
    return _network("act_fun[{}]", [_folded(model, index) for index in range(model.depth)])
