r"""Converts networks from and to other KAN packages, and layers to and from shared functions.

Efficient-KAN and pykan define the function of an edge as this package does, under other names:

.. math:: \phi_{o,i}(x) = w_{o,i}\,\mathrm{silu}(x) + s_{o,i} \sum_{g=0}^{G+k-1} c_{o,i,g}\,B_g(x),

on G + 2k + 1 knots: those of G intervals and of k more at either end, beyond which the functions
are zero (``extrapolation="zero"`` here). In efficient-KAN w is ``base_weight``, c
``spline_weight`` and s ``spline_scaler``. In pykan they are ``scale_base``, ``coef`` and
``scale_sp``, times a ``mask`` per edge; its layers then apply two affine maps per output,

.. math:: y_o = n_o \bigl(a_o \textstyle\sum_i m_{o,i}\,\phi_{o,i}(x_i) + b_o\bigr) + d_o,

which are folded into w, s and a bias.

Both packages may place knots at uneven distances, which a grid here cannot have. Such splines are
fitted on finer, even knots by least squares over the whole support of the splines,

.. math:: \min_{c'} \sum_n \Bigl( \sum_h c'_h\, B'_h(x_n) - \sum_g c_g\, B_g(x_n) \Bigr)^2,

with the same number of points :math:`x_n` in each old interval, and in each new one. The grid
covers the whole support, and functions that reach beyond it have coefficient zero, so that the fit,
too, is zero outside. Its largest error is logged.

A layer whose edges share functions (:mod:`kan_diffusion.kan.grouped`) is a KAN layer with
coefficients :math:`C_{b,(o,i)} = \sum_r c_{r,b}\,a_{o,i,r}`, a matrix of rank R for each group of
inputs. In the other direction, C holds the coefficients of the edges of a group, which has one
grid, and SiLU is replaced by its projection P silu onto the basis. With the Gram matrix M of the
basis, averaged over the grid, the R functions

.. math:: M_{b,d} = \frac{1}{G h} \int B_b\,B_d\,dx = (L L^\top)_{b,d}, \qquad
    L^\top C = U \Sigma V^\top, \qquad c^\top = L^{-\top} U_R, \qquad a^\top = U_R^\top L^\top C

are orthonormal and optimal (Eckart & Young 1936): the mean squared errors of the edges over the
grid sum to

.. math:: \sum_{o,i} \| \phi_{o,i} - \phi'_{o,i} \|^2 = \sum_{r > R} \sigma_r^2
    + \sum_{o,i} w_{o,i}^2\, \| \mathrm{silu} - P\,\mathrm{silu} \|^2.

Integrals are Gauss-Legendre sums over each interval, in float64. :math:`L^\top` is the triangular
QR factor of the basis at the quadrature points times the square roots of their weights.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.bases import BASES, BSpline
from kan_diffusion.kan.grouped import GroupedKANLinear
from kan_diffusion.kan.kernels.edges import edge_features
from kan_diffusion.kan.linear import KANLinear
from kan_diffusion.kan.network import KAN

if TYPE_CHECKING:
    from kan.KANLayer import KANLayer
    from kan.MultKAN import MultKAN
    from scipy.sparse import csr_array

__all__ = [
    "FitError",
    "from_efficient_kan",
    "from_kan_linear",
    "from_pykan",
    "random_states_kept",
    "to_kan_linear",
    "to_pykan",
]

logger = logging.getLogger(__name__)

# How far, in steps, a knot may be from its place on a uniform grid.
_GRID_TOLERANCE = 1e-4
# The largest error of a fit that is accepted, as a fraction of its layer's largest value; and the
# largest number of new intervals per old one, on average.
_FIT_TOLERANCE = 1e-4
_MOST_PARTS = 16
_POINTS_PER_INTERVAL = 8
_QUADRATURE_POINTS = 16  # per interval
_NAMES = ("base_weight", "spline_weight", "grid", "spline_scaler")  # the last is optional
_EXPECTED = "layers.<n>.base_weight, .spline_weight, .grid and perhaps .spline_scaler"
_KEY = re.compile(rf"(?P<prefix>(.+\.)?)layers\.(?P<index>\d+)\.(?P<name>{'|'.join(_NAMES)})")


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


def _uniform_grid(edges: _Edges) -> tuple[Tensor, Tensor] | None:
    """Finds origin and step of each input's grid, both (in,); None if its knots are not uniform."""
    knots = edges.knots.detach().double().cpu()
    count = knots.shape[1]
    width = knots[:, -1] - knots[:, 0]
    usable = (knots.diff(dim=1) >= 0).all(1) & (width > 0) & width.isfinite()
    if not usable.all():
        raise KanDiffusionError(
            f"{edges.name}: the knots of input {int(usable.int().argmin())} are no grid: they must "
            "be finite numbers that do not fall; lay it anew, with update_grid"
        )
    step = width / (count - 1)
    even = knots[:, :1] + step[:, None] * torch.arange(count, device="cpu")
    error = (knots - even).abs().amax(1)
    # Knots far from zero cannot be more even than their dtype can represent.
    rounding = 4 * torch.finfo(edges.knots.dtype).eps * knots.abs().amax(1)
    if not (error <= _GRID_TOLERANCE * step + rounding).all():
        return None
    return knots[:, 0] + edges.sizes[1] * step, step


def _splines(x: NDArray[np.float64], knots: NDArray[np.float64], order: int) -> csr_array:
    """Evaluates B-splines (n, functions) at points (n,) between the first and the last knot."""
    from scipy.interpolate import BSpline as Splines

    # SciPy evaluates only between knot k and the last but k, so k knots are added at either end.
    reach = (knots[-1] - knots[0]) * np.arange(1, order + 1)
    longer = np.concatenate([knots[0] - reach[::-1], knots, knots[-1] + reach])
    return Splines.design_matrix(x, longer, order)[:, order : len(longer) - 2 * order - 1]


def _between(knots: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places points evenly inside each interval."""
    share = (np.arange(_POINTS_PER_INTERVAL) + 0.5) / _POINTS_PER_INTERVAL
    return (knots[:-1] + np.multiply.outer(share, np.diff(knots))).ravel()


def _fitted(edges: _Edges, parts: int) -> tuple[_Edges, float]:
    """Fits a layer on ``parts`` times as many intervals, which divide its whole range evenly.

    Returns:
        The layer, and the largest error of an edge as a fraction of the layer's largest value.
    """
    order, knots = edges.sizes[1], edges.knots.detach().double().cpu().numpy()
    num_intervals = parts * (knots.shape[1] - 1)
    scale = 1 if edges.scale is None else edges.scale.unsqueeze(-1)
    spline = edges.spline.detach().double().cpu().numpy()
    actual = (edges.spline * scale).detach().double().cpu().numpy()
    number = np.arange(-order, num_intervals + order + 1)
    fitted = np.zeros((*spline.shape[:2], num_intervals + order))
    even = np.empty((len(knots), len(number)))
    error = largest = 0.0
    for i, old in enumerate(knots):
        even[i] = old[0] + (old[-1] - old[0]) / num_intervals * number
        inside = even[i, order : len(number) - order]
        x = np.concatenate([_between(old), _between(inside)])
        before, after = _splines(x, old, order), _splines(x, inside, order)
        moved = np.linalg.solve((after.T @ after).toarray(), (after.T @ before).toarray())
        fitted[:, i, order:num_intervals] = spline[:, i] @ moved.T
        curves = before @ actual[:, i].T
        error = max(error, float(np.abs(after @ (moved @ actual[:, i].T) - curves).max()))
        largest = max(largest, float(np.abs(curves).max()))
    layer = replace(
        edges,
        spline=torch.from_numpy(fitted).to(edges.spline),
        knots=torch.from_numpy(even).to(edges.spline),
    )
    return layer, error / largest if largest else 0.0


def _on_uniform_grids(layers: Sequence[_Edges]) -> Sequence[_Edges]:
    """Returns the layers as they are or, if any grid is not uniform, all of them fitted."""
    uneven = [edges.name for edges in layers if _uniform_grid(edges) is None]
    if not uneven:
        return layers
    parts = 1
    while True:
        fits, errors = zip(*(_fitted(edges, parts) for edges in layers), strict=True)
        if max(errors) <= _FIT_TOLERANCE or parts == _MOST_PARTS:
            break
        parts *= 2
    logger.warning(
        "the grids of %s are not uniform: every spline was fitted on %d uniform intervals, and is "
        "off by at most %.2g %% of the largest value in its layer",
        " and ".join(uneven),
        fits[0].sizes[0],
        100 * max(errors),
    )
    return fits


def _build(layers: Sequence[_Edges], base_activation: bool) -> KAN:
    """Builds the KAN with these edges, their dtype and their device."""
    first = layers[0]
    for edges in layers[1:]:
        if edges.sizes != first.sizes:
            raise KanDiffusionError(
                "{} has {} intervals and order {}, but {} {} and {}; a KAN has one of each".format(
                    edges.name, *edges.sizes, first.name, *first.sizes
                )
            )
    layers = _on_uniform_grids(layers)
    first = layers[0]
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
    with torch.no_grad():
        for layer, edges in zip(network.layers, layers, strict=True):
            assert isinstance(layer, KANLinear)
            packed = layer.weight.view(layer.out_features, layer.in_features, -1)
            packed[..., int(base_activation) :].copy_(edges.spline)
            if base_activation:
                packed[..., 0].copy_(edges.base)
            for own, other in ((layer.scale, edges.scale), (layer.bias, edges.bias)):
                if own is not None and other is not None:
                    own.copy_(other)
            grid = _uniform_grid(edges)
            assert grid is not None
            origin, step = grid
            layer.grid_origin.copy_(origin)
            layer.grid_step.copy_(step)
    return network.to(first.base.device)


def _efficient_state(
    network: nn.Module | Mapping[str, Tensor], base_activation: str | None
) -> Mapping[str, Tensor]:
    """Returns the state dict; checks, as far as possible, that the base activation is SiLU."""
    if isinstance(network, nn.Module):
        for name, part in network.named_modules():
            base = getattr(part, "base_activation", None)
            if (
                base is not None
                and not isinstance(base, nn.SiLU)
                and base is not nn.functional.silu
            ):
                raise KanDiffusionError(
                    f"{name or 'the layer'} has the base activation {base}, and a KAN's is SiLU; "
                    "train with base_activation=torch.nn.SiLU"
                )
        return network.state_dict()
    if not isinstance(network, Mapping):
        raise KanDiffusionError(
            f"from_efficient_kan takes a network or its state dict, not a "
            f"{type(network).__name__}; read a file with torch.load(path, weights_only=True) first"
        )
    if base_activation is None:
        logger.warning(
            "a state dict does not name its base activation, which is taken to be SiLU: pass "
            "base_activation='silu' if it is, or the network itself to have it checked"
        )
    elif base_activation != "silu":
        raise KanDiffusionError(
            f"base_activation = {base_activation!r} has no equal, a KAN's is SiLU; train with "
            "base_activation=torch.nn.SiLU"
        )
    return network


def _efficient_layers(state_dict: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Sorts the tensors by layer and last name; checks the keys, but not the shapes."""
    bare = set(state_dict) <= set(_NAMES)
    layers: dict[int, dict[str, Tensor]] = {0: {}}
    prefix: str | None = None
    for key, value in state_dict.items():
        match = _KEY.fullmatch(f"layers.0.{key}" if bare else str(key))
        prefix = match["prefix"] if match is not None and prefix is None else prefix
        if match is None or match["prefix"] != prefix:
            raise KanDiffusionError(
                f"unexpected key '{key}' in an efficient-KAN's state dict; pass {_EXPECTED} of one "
                "network only"
            )
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise KanDiffusionError(
                f"'{key}' is not a floating-point tensor; pass the state dict as it was saved"
            )
        layers.setdefault(int(match["index"]), {})[match["name"]] = value
    scaled = any("spline_scaler" in tensors for tensors in layers.values())
    for index in range(max(layers) + 1):
        for name in _NAMES if scaled else _NAMES[:3]:
            if name not in layers.get(index, {}):
                raise KanDiffusionError(
                    f"layers.{index}.{name} is missing from an efficient-KAN's state dict; pass "
                    f"{_EXPECTED} of every layer"
                )
    return [layers[index] for index in range(len(layers))]


def _efficient_edges(index: int, tensors: Mapping[str, Tensor]) -> _Edges:
    """Reads one layer and checks its shapes."""
    base, spline, knots = (tensors[name] for name in _NAMES[:3])
    scale = tensors.get("spline_scaler")
    num_outputs, num_inputs = base.shape if base.ndim == 2 and base.numel() else (0, 0)
    num_functions, num_knots = (t.shape[-1] if t.ndim else 0 for t in (spline, knots))
    # k = knots - functions - 1 must be at least 0, and G = functions - k at least 1.
    fits = num_functions < num_knots <= 2 * num_functions and len(knots) == num_inputs
    known = f"({num_outputs}, {num_inputs}"
    for name, right, shape in (
        ("base_weight", num_inputs > 0, "(out, in)"),
        ("spline_weight", spline.shape[:-1] == base.shape, f"{known}, G + k)"),
        ("spline_scaler", scale is None or scale.shape == base.shape, f"{known})"),
        ("grid", fits and knots.ndim == 2, f"({num_inputs}, {num_functions} + k + 1)"),
    ):
        if not right:
            found = tuple(tensors[name].shape)
            raise KanDiffusionError(
                f"layers.{index}.{name} must have the shape {shape}, not {found}"
            )
    return _Edges(f"layers.{index}", base, spline, scale, None, knots)


def from_efficient_kan(
    network: nn.Module | Mapping[str, Tensor], base_activation: Literal["silu"] | None = None
) -> KAN:
    """Builds a network from an efficient-KAN.

    Order and number of intervals are read off the shapes. The spline scaler, where there is one,
    stays a separate parameter (``edge_scale=True``); there is no bias. Splines on uneven knots are
    fitted as in :func:`from_pykan`.

    Args:
        network: The network, or its state dict: ``layers.<n>.base_weight`` (out, in),
            ``.spline_weight`` (out, in, G + k), ``.grid`` (in, G + 2k + 1) and perhaps
            ``.spline_scaler`` (out, in), all with one prefix or none; or the names of a single
            layer, without ``layers.<n>.``. The tensors are copied and determine dtype and device.
        base_activation: Base activation of the trained network; for a state dict, which does not
            name it. When None, SiLU, that package's default, is assumed and a warning is logged.

    Returns:
        The network, with ``extrapolation="zero"``: its outputs are equal everywhere, where grids
        are uniform to rounding.

    Raises:
        KanDiffusionError: Keys or shapes are not as above, knots are not a grid, or the base
            activation is not SiLU.
    """
    tensors = _efficient_layers(_efficient_state(network, base_activation))
    layers = [_efficient_edges(index, of_layer) for index, of_layer in enumerate(tensors)]
    for before, after in pairwise(layers):
        if before.base.shape[0] != after.base.shape[1]:
            raise KanDiffusionError(
                f"{before.name} has {before.base.shape[0]} outputs, {after.name} "
                f"{after.base.shape[1]} inputs; pass the layers of one network"
            )
    return _build(layers, True)


def _multkan() -> type[MultKAN]:
    try:
        # The module is imported, because a folder called "kan" would pass for the package.
        from kan.MultKAN import MultKAN
    except ImportError as error:
        raise KanDiffusionError(
            f"pykan cannot be imported ({error}); pip install pykan tqdm"
        ) from error
    return MultKAN


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
    """Builds a network from a pykan network without formulas and multiplication.

    Masks and affine maps are folded into the weights, so an edge that a mask keeps at zero in pykan
    starts at zero here, and is trained like any other. Every layer has a bias and edge scales.

    If a grid is not uniform, as after pykan's ``update_grid`` unless ``grid_eps`` is 1, the splines
    of all layers are fitted on m (G + 2k) uniform intervals over all knots. The factor m is the
    first of 1, 2, 4, 8 and 16 for which no fit is off by more than 0.01 % of the largest value in
    its layer, or else 16. A warning states the largest error.

    Args:
        model: The pykan network, which is not changed; it determines dtype and device.

    Returns:
        The network, with ``extrapolation="zero"``: its outputs are equal everywhere, where grids
        are uniform to rounding. It has ``base_activation=None`` where pykan's ``base_fun`` is
        ``"zero"``.

    Raises:
        KanDiffusionError: pykan is not installed, or the network has multiplication nodes, edges
            that are formulas, a base function other than SiLU, columns of its input selected,
            several grid sizes or knots that are not a grid.
    """
    if not isinstance(model, _multkan()):
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


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Restores global random states: pykan seeds them all, and its imports draw from Python's."""
    seed, started = torch.initial_seed(), torch.cuda.is_initialized()
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    mps_state = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count()) if started else []):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        if mps_state is not None:
            torch.mps.set_rng_state(mps_state)
        if not started:
            # Before CUDA starts, its random state is only the last seed that was set.
            torch.cuda.manual_seed_all(seed)


def _exportable_layers(network: KAN) -> list[tuple[KANLinear, BSpline]]:
    """Returns the layers with their bases; refuses those that pykan has no equivalent of."""
    if not isinstance(network, KAN):
        raise KanDiffusionError(
            f"to_pykan takes a KAN, not a {type(network).__name__}; make one of its layers' widths"
        )
    layers: list[tuple[KANLinear, BSpline]] = []
    settings: list[tuple[int, int, str | None]] = []
    for index, layer in enumerate(network.layers):
        basis = getattr(layer, "basis", None)
        if not isinstance(layer, KANLinear) or not isinstance(basis, BSpline):
            raise KanDiffusionError(
                f"layers[{index}] is '{getattr(basis, 'name', type(layer).__name__)}', but pykan "
                "has only KAN layers of B-splines; train with basis='bspline'"
            )
        layers.append((layer, basis))
        settings.append((basis.num_intervals, basis.order, layer.base_activation))
        if settings[-1] != settings[0]:
            raise KanDiffusionError(
                f"layers[{index}] has {settings[-1]} for grid size, order and base activation, "
                f"layers[0] {settings[0]}, but a pykan network has one of each; train with one"
            )
    return layers


@torch.no_grad()
def to_pykan(network: KAN) -> MultKAN:
    """Builds a pykan network with the same outputs.

    pykan's functions run out to zero outside the grid. So outputs are equal everywhere for a
    network with ``extrapolation="zero"``; for any other they are equal only where the inputs of
    every layer are inside its grid, and a warning is logged. Biases become ``node_bias``, edge
    scales ``scale_sp``; where the network has none, pykan's are not trained. No file is written.

    Args:
        network: The network, with B-splines in every layer; it is not changed.

    Returns:
        The ``kan.MultKAN``, with the network's dtype and device.

    Raises:
        KanDiffusionError: pykan is not installed, or has no equivalent of these layers.
    """
    layers = _exportable_layers(network)
    first, splines = layers[0]
    outside = sorted({basis.extrapolation for _, basis in layers} - {"zero"})
    if outside:
        logger.warning(
            "pykan's splines run out to zero outside the grid: with extrapolation='%s' the outputs "
            "agree only where every layer's inputs are inside its grid",
            "' and '".join(outside),
        )
    base = first.base_activation is not None
    with random_states_kept():
        model: MultKAN = _multkan()(
            width=[first.in_features, *(layer.out_features for layer, _ in layers)],
            grid=splines.num_intervals,
            k=splines.order,
            base_fun="silu" if base else "zero",
            grid_range=[float(splines.grid_origin[0]), float(splines.grid_end[0])],
            sp_trainable=any(layer.scale is not None for layer, _ in layers),
            sb_trainable=base,
            seed=0,
            auto_save=False,
        )
    # pykan's own ``to`` takes its argument for a device, even if it is a dtype.
    nn.Module.to(model, dtype=first.weight.dtype)
    for (layer, basis), act, bias in zip(layers, model.act_fun, model.node_bias, strict=True):
        edges = layer.weight.view(layer.out_features, layer.in_features, -1).transpose(0, 1)
        act.scale_base.copy_(edges[..., 0]) if base else act.scale_base.zero_()
        act.coef.copy_(edges[..., int(base) :])
        act.scale_sp.fill_(1) if layer.scale is None else act.scale_sp.copy_(layer.scale.T)
        if layer.bias is not None:
            bias.copy_(layer.bias).requires_grad_()
        number = torch.arange(-basis.order, basis.num_intervals + basis.order + 1).to(layer.weight)
        act.grid.copy_(basis.grid_origin[:, None] + basis.grid_step[:, None] * number)
    return model.to(first.weight.device)


def _require_layer(layer: nn.Module, kind: type[nn.Module], function: str) -> None:
    if not isinstance(layer, kind):
        raise KanDiffusionError(
            f"{function} takes a {kind.__name__}, not a {type(layer).__name__}; give it the layers "
            "of a network one by one"
        )


def _quadrature(num_intervals: int) -> tuple[Tensor, Tensor]:
    """Returns points from 0 to G and their weights, which sum to 1; the two ends have weight 0."""
    nodes, weights = np.polynomial.legendre.leggauss(_QUADRATURE_POINTS)
    u = np.add.outer(np.arange(num_intervals), (nodes + 1) / 2).ravel()
    shares = np.tile(weights, num_intervals) / (2 * num_intervals)
    ends = [0.0, float(num_intervals)]
    return torch.from_numpy(np.append(u, ends)), torch.from_numpy(np.append(shares, [0.0, 0.0]))


def _best_functions(
    design: Tensor, curves: Tensor, shares: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Finds the R functions whose weighted sums fit given curves best, and the weights.

    Args:
        design: The basis at the points of a quadrature, with shape (points, basis).
        curves: Curves at the same points, with shape (points, curves).
        shares: Quadrature weights of the points.
        count: Number R of functions.

    Returns:
        Coefficients with shape (basis, R) and weights with shape (R, curves).
    """
    roots = shares.sqrt()[:, None]
    orthonormal, triangle = torch.linalg.qr(roots * design)
    places = orthonormal.T @ (roots * curves)
    # The triangular factor has the same left singular vectors and is no larger than the basis. All
    # of them are computed, so that there are R even with fewer curves.
    factor = torch.linalg.qr(places.T, mode="r").R.T
    chosen = torch.linalg.svd(factor, full_matrices=True).U[:, :count]
    return torch.linalg.solve_triangular(triangle, chosen, upper=True), chosen.T @ places


@torch.no_grad()
def to_kan_linear(layer: GroupedKANLinear) -> KANLinear:
    """Builds the KAN layer with the same outputs as a layer whose edges share functions.

    Args:
        layer: The layer, which is not changed; its basis has a grid.

    Returns:
        The layer, with ``base_activation=None`` and for each input the grid of its group. Outputs
        are equal everywhere up to rounding.

    Raises:
        KanDiffusionError: It is another kind of layer, or its basis has no grid
            (:class:`NoGridError`).
    """
    _require_layer(layer, GroupedKANLinear, "to_kan_linear")
    group_of, (fan_out, fan_in) = list(layer.group_of), (layer.out_features, layer.in_features)
    with torch.random.fork_rng(devices=[]):
        full = KANLinear(
            fan_in,
            fan_out,
            layer.bias is not None,
            basis=layer.grid.for_inputs(fan_in).cpu(),
            base_activation=None,
            device="cpu",
            dtype=layer.weight.dtype,
        )
    weights = layer.weight.cpu().double().view(fan_out, fan_in, -1)
    functions = layer.coefficients[:, group_of].cpu().double()
    full.weight.copy_(torch.einsum("oir,rib->oib", weights, functions).flatten(1))
    if full.bias is not None and layer.bias is not None:
        full.bias.copy_(layer.bias)
    full.grid_origin.copy_(layer.grid.grid_origin[group_of])
    full.grid_step.copy_(layer.grid.grid_step[group_of])
    return full.to(layer.weight.device)


@dataclass(frozen=True)
class FitError:
    """Error of a fit to a layer's edges, over their grids.

    Attributes:
        root_mean_square: Root mean square of the errors over all edges and grids, as a fraction of
            the root mean square of the edges.
        largest: Largest error at the quadrature points and the ends of the grids, as a fraction of
            the largest value there.
    """

    root_mean_square: float
    largest: float


@torch.no_grad()
def from_kan_linear(
    layer: KANLinear, functions: int, groups: int | Sequence[int] | None = None
) -> tuple[GroupedKANLinear, FitError]:
    """Fits a layer whose edges share functions to a KAN layer, by least squares over the grids.

    Edge scales are multiplied in. A base activation SiLU is fitted over the grid, too; outside, the
    fit continues as the basis does. Without SiLU, and with as many functions as the basis has,
    outputs are equal everywhere up to rounding.

    Args:
        layer: The layer, which is not changed; its basis is one of ``BASES`` and has a grid.
        functions: Number R of functions per input, at most as many as the basis has.
        groups: Inputs that share functions, as in :class:`GroupedKANLinear`; the inputs of a group
            must have the same grid.

    Returns:
        The layer, whose functions are orthonormal on average over their grid, and the error of the
        fit. The layer's ``reset_parameters`` starts its functions near zero.

    Raises:
        KanDiffusionError: It is another kind of layer, or has weights that are not finite; its
            basis has no name or no grid; the grids of a group differ; or the number of functions or
            groups is not possible.
    """
    _require_layer(layer, KANLinear, "from_kan_linear")
    grid = layer.grid
    if BASES.get(grid.name) is not type(grid):
        raise KanDiffusionError(
            f"layers that share functions take a basis by its name in BASES, and "
            f"{type(grid).__name__} has none; fit a layer of another basis, such as 'bspline'"
        )
    edges = layer.edges().weight.cpu().double().unflatten(1, (layer.in_features, -1))
    if not bool(edges.isfinite().all()):
        raise KanDiffusionError(
            "the KANLinear has weights that are not finite, which nothing can be fitted to; train "
            "it anew"
        )
    with torch.random.fork_rng(devices=[]):
        grouped = GroupedKANLinear(
            layer.in_features,
            layer.out_features,
            layer.bias is not None,
            functions=functions,
            groups=groups,
            basis=grid.name,
            grid_size=grid.num_intervals,
            order=grid.order if isinstance(grid, BSpline) else 3,
            grid_range=grid.grid_range,
            extrapolation=grid.extrapolation,
            start=[torch.zeros_like] * functions,
            device="cpu",
            dtype=layer.weight.dtype,
        )
    u, shares = _quadrature(grid.num_intervals)
    weights = grouped.weight.view(layer.out_features, layer.in_features, functions)
    # Of errors, and of the edges.
    squares, largest = torch.zeros(2, 2, dtype=torch.float64, device="cpu")
    for group in range(grouped.groups):
        members = [i for i, own in enumerate(grouped.group_of) if own == group]
        grids = torch.stack([grid.grid_origin, grid.grid_step]).cpu()[:, members]
        other = (grids != grids[:, :1]).any(0)
        if other.any():
            raise KanDiffusionError(
                f"inputs {members[0]} and {members[int(other.int().argmax())]} are in group "
                f"{group} but have different grids; give groups of inputs with one grid, or "
                "groups=None"
            )
        origin, step = grids[:, 0]
        grouped.grid.grid_origin[group], grouped.grid.grid_step[group] = origin, step
        alone = grid.one_input(members[0]).cpu().double()
        x = origin.double() + u * step.double()
        features = edge_features(x[:, None], alone, layer.base_activation is not None)[:, 0]
        curves = features @ edges[:, members].flatten(0, 1).T  # (points, out * members)
        design = features[:, -grid.num_functions :]
        fitted, own = _best_functions(design, curves, shares, functions)
        grouped.coefficients[:, group] = fitted.T.to(weights)
        weights[:, members] = own.T.view(layer.out_features, len(members), -1).to(weights)
        both = torch.stack([curves - design @ fitted @ own, curves])
        squares += (both.square() * shares[:, None]).sum((1, 2))
        largest = largest.maximum(both.abs().amax((1, 2)))
    if grouped.bias is not None and layer.bias is not None:
        grouped.bias.copy_(layer.bias)
    mean, most = (
        float(error / whole) if whole else 0.0 for error, whole in (squares.sqrt(), largest)
    )
    return grouped.to(layer.weight.device), FitError(mean, most)
