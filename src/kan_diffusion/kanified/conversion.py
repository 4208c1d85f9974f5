r"""``kanify`` replaces the feed-forward blocks of a network by KAN layers.

``"grouped"``: the hidden units share a few learned functions in place of their activation, so that
an edge of the second map is a multiple of a learned function,

.. math:: y_o = \beta_o + \sum_i w_{o,i}\, f_{\gamma(i)}(z_i), \qquad z = W_1 x + b_1,

or, with gates q, :math:`v_i f(q_i)`. ``"full"``: both maps become
:class:`~kan_diffusion.kan.KANLinear`, in which every edge is a function. At equal parameters the
hidden width is (P - P_0) / P_1 for the P parameters of the block, where a block of KAN layers has
P_0 + P_1 h. A function that is kept is fitted by least squares on the smallest of a few grids with
a small largest error; beyond them splines go on by their tangents, as GELU and SiLU do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product
from typing import Literal, TypeVar

import pandas as pd
import torch
from torch import nn

from kan_diffusion.errors import KanDiffusionError, look_up, valid_settings
from kan_diffusion.kan import LearnedFunctions
from kan_diffusion.kanified.blocks import Block, find_blocks
from kan_diffusion.kanified.recipe import Recipe, Slot, build, draw, install

Network = TypeVar("Network", bound=nn.Module)
_TOLERANCE = 0.02
"""Largest relative difference in parameters between a block and the one it replaces."""
_FIT = 1e-4
"""Largest error of a learned function that keeps the activation."""
_SIZES, _HALVES, _CHECKED = (8, 16, 32, 64, 128, 256), (4.0, 8.0, 16.0), 32.0
"""Intervals and half-widths of the grids tried to keep a function, and half of the range on which
it is compared."""
_INTERVALS = {"grouped": 8, "full": 5}
_WHOLE, _TIED = "(the module)", "other layers share its linear maps, which stay"


@dataclass(frozen=True, eq=False)
class KanifyReport:
    """Replaced and refused blocks of a network; ``str()`` is a table.

    Attributes:
        recipes: Recipe of each replacement: enough to build the network again.
        replaced: A row for each block that is made of KAN layers now, by path, in the order of the
            network: ``before`` and ``after`` in words, its ``parameters`` before and ``now``, and
            ``fit_error``, the largest difference of the learned functions from the activation, NaN
            for a block that does not keep its function.
        refused: Reasons why other blocks were not replaced, by path.

    Example:
        >>> from kan_diffusion.kanified import kanify
        >>> layer = torch.nn.TransformerEncoderLayer(16, 2, 64, activation="gelu")
        >>> layer, report = kanify(layer, keep_function=True)
        >>> bool(report.replaced["fit_error"].max() < 1e-4)
        True
    """

    recipes: tuple[Recipe, ...]
    replaced: pd.DataFrame
    refused: dict[str, str]

    def __str__(self) -> str:
        shown = self.replaced.rename(index=lambda path: path or _WHOLE).dropna(axis=1, how="all")
        counts = dict.fromkeys(("parameters", "now"), "{:,}".format)
        lines = [shown.to_string(formatters={**counts, "fit_error": "{:.1e}".format})]
        lines += [f"not replaced: {path or _WHOLE}: {why}" for path, why in self.refused.items()]
        return "\n".join(lines)


def kanify(
    module: Network,
    *,
    layers: str | Sequence[str] | None = None,
    kind: Literal["grouped", "full"] = "grouped",
    keep_function: bool = False,
    functions: int = 8,
    grid_size: int | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Network, KanifyReport]:
    """Replaces the feed-forward blocks of a network by KAN layers, in place.

    Args:
        module: The network: of diffusers, of transformers, or any module with such blocks
            (:mod:`kan_diffusion.kanified.blocks`).
        layers: Blocks to replace: a pattern of their paths such as ``"transformer_blocks.*"``,
            or several; None for all. Blocks that embed timesteps or captions stay, unless a pattern
            matches only these.
        kind: ``"grouped"``: the activation becomes learned functions that hidden units share;
            ``"full"``: the linear maps become layers with a function for each edge.
        keep_function: Whether the network keeps its function: the linear maps stay, and the learned
            functions are fitted to the activation; for ``"grouped"``. Otherwise the hidden width is
            chosen so that a block keeps its number of parameters within 2 %.
        functions: Number of functions that hidden units share by turns; for ``"grouped"``.
        grid_size: Number of intervals of the grids; None for as many as keep the function or, at
            equal parameters, for the number nearest to 8 (``"grouped"``) or 5 (``"full"``) with
            which a width is within 2 %.
        generator: Where fresh parameters come from; torch's default generator when None.

    Returns:
        The network itself, and a report of what was replaced in it and what was not.

    Raises:
        KanDiffusionError: There is no such block, also for one of several patterns, none can be
            replaced, or a setting is not usable. The network is then as it was.
    """
    intervals = look_up("kind", kind, _INTERVALS)
    if keep_function and kind == "full":
        raise KanDiffusionError("kind='full' cannot keep the function; take kind='grouped'")
    fixed, size = grid_size is not None, intervals if grid_size is None else grid_size
    with valid_settings("kanify"):
        common = Recipe(path="", kind=kind, hidden=1, grid_size=size, functions=functions)
    refused: dict[str, str] = {}
    recipes: list[Recipe] = []
    replaced: dict[str, tuple[str, str, int, int, float]] = {}
    changes: dict[Slot, nn.Module] = {}
    chosen = _chosen(module, layers)
    held = Counter(
        id(part)
        for owner in module.modules()
        for part in (*owner._modules.values(), *owner._parameters.values())
    )
    for block in chosen:
        recipe = common.model_copy(update={"path": block.path, "hidden": block.hidden})
        error = math.nan
        try:
            if block.refusal is not None:
                raise KanDiffusionError(block.refusal)
            maps = block.up, block.down
            tied = any(held[id(part)] > 1 for one in maps for part in (one, *one.parameters()))
            if tied and kind == "full":
                raise KanDiffusionError(f"{_TIED}; take kind='grouped'")
            if keep_function:
                recipe, error = _fitted(block, recipe, fixed)
            else:
                recipe = _matched(block, recipe, fixed, tied)
            parts = build(block, recipe, "meta", 0.0 if keep_function else 1e-3)
            draw(block, parts, generator)
            new = {slot: part for slot, part in parts.items() if part not in maps}
            if new.keys() & changes.keys():
                raise KanDiffusionError("one of its maps was replaced with the block before")
        except KanDiffusionError as reason:
            refused[block.path] = str(reason)
            continue
        changes |= new
        inputs, outputs = block.up.in_features, block.down.out_features
        num_functions = min(functions, recipe.hidden)
        shared = f", {num_functions} functions" if kind == "grouped" else " of KANLinear"
        before = f"{block.label} {inputs}-{block.hidden}-{outputs}"
        after = f"{inputs}-{recipe.hidden}-{outputs}{shared}, {recipe.grid_size} intervals"
        counts = _count(block.up, block.down), _count(*parts.values())
        recipes.append(recipe)
        replaced[block.path] = before, after, *counts, error
    if not replaced:
        name, (path, why) = type(module).__name__, next(iter(refused.items()))
        raise KanDiffusionError(
            f"no feed-forward block of {name} can be replaced: {_named(path)}: {why}"
        )
    columns = ["before", "after", "parameters", "now", "fit_error"]
    frame = pd.DataFrame.from_dict(replaced, orient="index", columns=columns)
    report = KanifyReport(tuple(recipes), frame, refused)
    install(module, changes, report.recipes)
    return module, report


def _chosen(module: nn.Module, layers: str | Sequence[str] | None) -> list[Block]:
    """Selects the blocks to replace, some of which perhaps cannot be."""
    blocks = find_blocks(module)
    proper = {path for path, block in blocks.items() if not block.embedding}
    wanted = [layers] if isinstance(layers, str) else ["*"] if layers is None else layers
    chosen: set[str] = set()
    for pattern in wanted or [""]:
        paths = {path for path in blocks if path == pattern or fnmatchcase(path, pattern)}
        paths = paths & proper or paths
        if not paths or (layers is None and not proper):
            weighty = (part for part in module.modules() if list(part.parameters(recurse=False)))
            parts = Counter(type(part).__name__ for part in weighty).most_common(6)
            held = ", ".join(f"{count} {kind}" for kind, count in parts) or "no weights"
            what = f" for layers={pattern!r}" if layers else ""
            known = f"layers may name {', '.join(map(_named, blocks))}"
            raise KanDiffusionError(
                f"{type(module).__name__} has no feed-forward block{what}, it has {held}; "
                f"{known if blocks else 'choose another network'}"
            )
        chosen |= paths
    return [block for path, block in blocks.items() if path in chosen]


def _matched(block: Block, recipe: Recipe, fixed: bool, tied: bool) -> Recipe:
    """Finds the recipe, of some width and intervals, that keeps a block's number of parameters.

    The maps of a block that shares them stay, and with them its width.
    """

    def count(size: int, hidden: int) -> int:
        variant = recipe.model_copy(update={"grid_size": size, "hidden": hidden})
        return _count(*build(block, variant, "meta").values())

    wanted, usual, unit = _count(block.up, block.down), recipe.grid_size, recipe.functions
    tried: list[tuple[int, int, int]] = []
    for size in (
        [usual] if fixed else sorted(range(1, 2 * usual + 1), key=lambda size: abs(size - usual))
    ):
        few, many = count(size, unit), count(size, 2 * unit)
        width = round(unit * (1 + (wanted - few) / (many - few)))
        # Maps of a grouped block stay if they can.
        for hidden in (block.hidden,) if tied else (block.hidden, max(width, 1)):
            off = abs(count(size, hidden) - wanted)
            if off <= _TOLERANCE * wanted:
                return recipe.model_copy(update={"grid_size": size, "hidden": hidden})
            tried.append((off, hidden, size))
    _, hidden, size = min(tried)
    none = f"{_TIED}, and no grid" if tied else "no hidden width"
    raise KanDiffusionError(
        f"{none} comes within {_TOLERANCE:.0%} of its {wanted:,} parameters: {hidden} has "
        f"{count(size, hidden):,}; give another grid_size or kind, or keep_function=True"
    )


def _fitted(block: Block, recipe: Recipe, fixed: bool) -> tuple[Recipe, float]:
    """Finds the recipe whose grid lets a learned function keep the activation, and the error."""
    x = torch.linspace(-_CHECKED, _CHECKED, 5121, dtype=torch.float64, device="cpu")
    target = block.activation(x.clone())
    smallest = math.inf
    for size, half in product([recipe.grid_size] if fixed else _SIZES, _HALVES):
        tried = recipe.model_copy(update={"grid_range": (-half, half), "grid_size": size})
        try:
            curve = LearnedFunctions(
                1, initial=[block.activation], noise=0.0, device="cpu", **tried.grid
            )
        except KanDiffusionError:  # so few intervals that the fit is refused
            continue
        error = float((curve.double()(x.unsqueeze(1))[:, 0] - target).detach().abs().max())
        if error <= _FIT:
            return tried, error
        smallest = min(smallest, error)
    raise KanDiffusionError(
        f"{block.label} is kept to {smallest:.1e} from {-_CHECKED:g} to {_CHECKED:g} and "
        f"{_FIT:.0e} is needed; give {'another grid_size' if fixed else 'another network'}, or "
        "keep_function=False"
    )


def _count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for parameter in nn.ModuleList(modules).parameters())


def _named(path: str) -> str:
    return f"'{path}'" if path else _WHOLE
