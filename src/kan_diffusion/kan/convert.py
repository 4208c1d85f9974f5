r"""Converts networks of other KAN packages.

Efficient-KAN and pykan define the function of an edge as this package does, under other names:

.. math:: \phi_{o,i}(x) = w_{o,i}\,\mathrm{silu}(x) + s_{o,i} \sum_{g=0}^{G+k-1} c_{o,i,g}\,B_g(x),

on G + 2k + 1 knots: those of G intervals and of k more at either end, beyond which the functions
are zero (``extrapolation="zero"`` here). In efficient-KAN w is ``base_weight``, c
``spline_weight`` and s ``spline_scaler``. In pykan they are ``scale_base``, ``coef`` and
``scale_sp``, times a ``mask`` per edge; its layers then apply two affine maps per output,

.. math:: y_o = n_o \bigl(a_o \textstyle\sum_i m_{o,i}\,\phi_{o,i}(x_i) + b_o\bigr) + d_o,

which are folded into w, s and a bias. Both packages may place knots at uneven distances, which a
grid here cannot have; such networks are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.linear import KAN, KANLinear

if TYPE_CHECKING:
    from kan.KANLayer import KANLayer
    from kan.MultKAN import MultKAN

__all__ = ["from_efficient_kan", "from_pykan"]

_GRID_TOLERANCE = 1e-4
"""How far, in steps, a knot may be from its place on a uniform grid."""
_KEY = re.compile(r"layers\.(\d+)\.(base_weight|spline_weight|grid|spline_scaler)")
_EXPECTED = (
    "layers.<n>.base_weight (out, in), .spline_weight (out, in, G + k), .grid (in, G + 2k + 1) and "
    "perhaps .spline_scaler (out, in) of every layer"
)


@dataclass(frozen=True)
class _Edges:
    """One layer of another package, with the output dimension first as here."""

    name: str
    base: Tensor  # (out, in)
    spline: Tensor  # (out, in, G + k)
    scale: Tensor | None  # (out, in)
    bias: Tensor | None  # (out,)
    knots: Tensor  # (in, G + 2k + 1)

    @property
    def sizes(self) -> tuple[int, int]:
        """Intervals and order."""
        order = self.knots.shape[1] - self.spline.shape[2] - 1
        return self.spline.shape[2] - order, order

    def grid(self) -> tuple[Tensor, Tensor]:
        """Origin and step of each input's grid, both (in,), if its knots are even."""
        knots = self.knots.detach().double().cpu()
        count = knots.shape[1]
        step = (knots[:, -1] - knots[:, 0]) / (count - 1)
        even = knots[:, :1] + step[:, None] * torch.arange(count, device="cpu")
        error = (knots - even).abs().amax(1)
        # Knots far from zero cannot be more even than their dtype can represent.
        rounding = 4 * torch.finfo(self.knots.dtype).eps * knots.abs().amax(1)
        usable = (step > 0) & step.isfinite() & (error <= _GRID_TOLERANCE * step + rounding)
        if not usable.all():
            raise KanDiffusionError(
                f"{self.name}: the knots of input {int(usable.int().argmin())} are no even grid of "
                "finite numbers, which a grid here is; train on one (in pykan, with grid_eps=1)"
            )
        return knots[:, 0] + self.sizes[1] * step, step


def _build(layers: Sequence[_Edges], base_activation: bool) -> KAN:
    """Builds the KAN with these edges, their dtype and their device."""
    first = layers[0]
    for before, after in pairwise(layers):
        if before.base.shape[0] != after.base.shape[1] or before.sizes != after.sizes:
            raise KanDiffusionError(
                f"{before.name} and {after.name} do not follow each other: the outputs of one must "
                "be the inputs of the next, with as many intervals and the same order"
            )
    grid_size, order = first.sizes
    # The constructor's draws are overwritten and must not advance the caller's random stream.
    with torch.random.fork_rng(devices=[]):
        network = KAN(
            [first.base.shape[1], *(edges.base.shape[0] for edges in layers)],
            first.bias is not None,
            grid_size=grid_size,
            order=order,
            extrapolation="zero",
            base_activation="silu" if base_activation else None,
            edge_scale=first.scale is not None,
            device="cpu",
            dtype=first.base.dtype,
        )
    for layer, edges in zip(network.layers, layers, strict=True):
        assert isinstance(layer, KANLinear)
        parts = [edges.base.unsqueeze(-1)] * base_activation + [edges.spline]
        origin, step = edges.grid()
        state = {"weight": torch.cat(parts, dim=-1).flatten(1), "scale": edges.scale}
        state |= {"bias": edges.bias, "basis.grid_origin": origin, "basis.grid_step": step}
        layer.load_state_dict({name: one for name, one in state.items() if one is not None})
    return network.to(first.base.device)


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
        if not (base is None or isinstance(base, nn.SiLU) or base is nn.functional.silu):
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
    scaled = any("spline_scaler" in tensors for tensors in layers.values())
    names = ("base_weight", "spline_weight", "grid", *["spline_scaler"] * scaled)
    found: list[_Edges] = []
    for index in range(max(layers, default=0) + 1):
        tensors = [layers.get(index, {}).get(name) for name in names]
        given = [tensor for tensor in tensors if tensor is not None]
        if len(given) < len(names) or not _fit(*given):
            raise KanDiffusionError(
                f"layers.{index} of an efficient-KAN is not whole or has other shapes; pass "
                f"{_EXPECTED}"
            )
        base, spline, knots, *scale = given
        own = scale[0] if scale else None
        found.append(_Edges(f"layers.{index}", base, spline, own, None, knots))
    return _build(found, True)


def _fit(base: Tensor, spline: Tensor, knots: Tensor, scale: Tensor | None = None) -> bool:
    """Tells whether the shapes of a layer's tensors go together, with an order of at least 0."""
    if base.ndim != 2 or spline.shape[:-1] != base.shape or not base.numel() or knots.ndim != 2:
        return False
    functions, count = spline.shape[2], knots.shape[1]
    on_grid = len(knots) == base.shape[1] and functions < count <= 2 * functions
    return on_grid and (scale is None or scale.shape == base.shape)


def _has_silu(act: KANLayer, index: int) -> bool:
    """Tells whether a pykan layer's base function is SiLU; any other must contribute nothing."""
    if isinstance(act.base_fun, nn.SiLU) or act.base_fun is nn.functional.silu:
        return True
    used = bool((act.scale_base * act.mask).any())
    if used and act.base_fun(torch.linspace(-5, 5, 11).to(act.coef)).any():
        raise KanDiffusionError(
            f"act_fun[{index}].base_fun of the pykan network is neither 'silu' nor 'zero' but "
            f"{act.base_fun}; train with one of these, or with scale_base at zero"
        )
    return False


def _pykan_edges(model: MultKAN, index: int) -> _Edges:
    """Reads one layer and folds its mask and affine maps in."""
    act, symbolic = model.act_fun[index], model.symbolic_fun[index]
    # pykan's forward pass reads these lists, not the attributes with similar names.
    gain = model.node_scale[index] * model.subnode_scale[index]
    bias = model.node_scale[index] * model.subnode_bias[index] + model.node_bias[index]
    for j, i in symbolic.mask.nonzero().tolist() if model.symbolic_enabled else []:
        formula = symbolic.funs_name[j][i]
        if formula != "0":
            raise KanDiffusionError(
                f"edge ({index}, {i}, {j}) of the pykan network is the formula '{formula}', not a "
                f"spline; turn it back into one with model.unfix_symbolic({index}, {i}, {j})"
            )
        # An edge fixed to the formula 0 is c * 0 + d.
        bias[j] += gain[j] * symbolic.mask[j, i] * symbolic.affine[j, i, 3]
    gains = gain[:, None] * act.mask.T
    base = act.scale_base.T * gains
    return _Edges(
        f"act_fun[{index}]",
        base if _has_silu(act, index) else torch.zeros_like(base),
        act.coef.permute(1, 0, 2),
        act.scale_sp.T * gains,
        bias,
        act.grid,
    )


@torch.no_grad()
def from_pykan(model: MultKAN) -> KAN:
    """Builds a network from a pykan network of splines on even grids.

    Masks and affine maps are folded into the weights, so an edge that a mask keeps at zero in pykan
    starts at zero here, and is trained like any other. Every layer has a bias and edge scales.

    Args:
        model: The pykan network, which is not changed; it determines dtype and device.

    Returns:
        The network, with ``extrapolation="zero"``: its outputs are equal everywhere. It has
        ``base_activation=None`` where pykan's ``base_fun`` is ``"zero"``.

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
    layers = [_pykan_edges(model, index) for index in range(model.depth)]
    silu = any(_has_silu(act, index) for index, act in enumerate(model.act_fun))
    return _build(layers, silu)
