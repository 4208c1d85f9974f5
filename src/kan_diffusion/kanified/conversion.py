r"""``kanify`` replaces the feed-forward blocks of a network by KAN layers.

``"grouped"``: the activation of the hidden units becomes a few learned functions that the units
share by turns, so that an edge of the second map is a multiple of a learned function,

.. math:: y_o = \beta_o + \sum_i w_{o,i}\, f_{\gamma(i)}(z_i), \qquad z = W_1 x + b_1,

the form of :class:`~kan_diffusion.kan.KANLinear` with shared functions (with gates q:
:math:`v_i f(q_i)`). The linear maps stay. ``"full"``: both maps become
:class:`~kan_diffusion.kan.KANLinear`, in which every edge is a function; activation and gates are
removed.

At equal parameters the hidden width is

.. math:: h = \frac{P - P_0}{P_1}, \qquad P(h) = P_0 + P_1 h,

rounded, for the P parameters of the block; P(h) is counted on layers of the meta device.

To keep the network's function, the learned functions are fitted to the activation by least squares
on the smallest of a few grids with a small largest error. GELU and SiLU are straight beyond them,
as the tangents are by which splines go on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, TypeVar

import torch
from torch import nn

from kan_diffusion.errors import KanDiffusionError, require_known, valid_settings
from kan_diffusion.kanified.blocks import Block, find_blocks
from kan_diffusion.kanified.recipe import Kind, LearnedActivation, Recipe, build, install
from kan_diffusion.kanified.saving import remember

__all__ = ["KanifyReport", "Replacement", "kanify"]

Layers = str | Sequence[str] | Callable[[str, nn.Module], bool] | None
"""Blocks: a pattern of paths such as ``"*.ff"``, several, or a function of path and owner."""

_TOLERANCE = 0.02
"""Largest relative difference in parameters between a block and the one it replaces."""
_FIT = 1e-4
"""Largest error of a learned function that keeps the activation."""
_HALVES, _CHECKED = (4.0, 8.0, 16.0), 32.0
"""Half-widths of the grids tried to keep a function, and of the range on which it is compared."""
_MOST_INTERVALS = 256
_NOISE = 1e-3
"""Standard deviation of the noise added to the coefficients of fresh functions."""
_INTERVALS = {"grouped": 8, "full": 5}
_WHOLE = "(the module)"


@dataclass(frozen=True)
class Replacement:
    """A block that was replaced.

    Attributes:
        recipe: Recipe of what stands there now.
        before: The block before, in words.
        after: The block now, in words.
        parameters_before: Parameters of the block before.
        parameters_after: Parameters of the block now.
        fit_error: Largest difference of the learned functions from the activation; None for a block
            that does not keep its function.
    """

    recipe: Recipe
    before: str
    after: str
    parameters_before: int
    parameters_after: int
    fit_error: float | None = None


@dataclass(frozen=True)
class KanifyReport:
    """Replaced and refused blocks of a network; ``str()`` is a table.

    Attributes:
        replaced: The blocks that are made of KAN layers now, in the order of the network.
        refused: Reasons why other blocks were not replaced, by path.
    """

    replaced: tuple[Replacement, ...]
    refused: dict[str, str]

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """Recipe of each replacement: enough to build the network again."""
        return tuple(one.recipe for one in self.replaced)

    def __str__(self) -> str:
        rows = [("path", "before", "after", "parameters", "now", "fit error")]
        for one in self.replaced:
            counts = f"{one.parameters_before:,}", f"{one.parameters_after:,}"
            error = "" if one.fit_error is None else f"{one.fit_error:.1e}"
            rows.append((one.recipe.path or _WHOLE, one.before, one.after, *counts, error))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if place < 3 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        lines += [f"not replaced: {path or _WHOLE}: {why}" for path, why in self.refused.items()]
        return "\n".join(lines)


Network = TypeVar("Network", bound=nn.Module)


def kanify(
    module: Network,
    *,
    layers: Layers = None,
    kind: Kind = "grouped",
    basis: str = "bspline",
    match: Literal["params"] | None = "params",
    keep_function: bool = False,
    functions: int = 8,
    grid_size: int | None = None,
    order: int = 3,
    generator: torch.Generator | None = None,
) -> tuple[Network, KanifyReport]:
    """Replaces the feed-forward blocks of a network by KAN layers, in place.

    Args:
        module: The network: of diffusers, of transformers, or any module with such blocks
            (:mod:`kan_diffusion.kanified.blocks`).
        layers: Blocks to replace: a pattern of their paths such as ``"transformer_blocks.*"``,
            several, or a function of a path and the module there; None for all. Blocks that embed
            timesteps or captions stay, unless a pattern matches only these or a function does.
        kind: ``"grouped"``: the linear maps stay and the activation becomes learned functions that
            hidden units share; ``"full"``: the maps become layers with a function for each edge.
        basis: Basis of the learned functions, by name.
        match: ``"params"``: the hidden width is chosen so that a block keeps its number of
            parameters within 2 %; None: the hidden width stays.
        keep_function: Whether the network keeps its function: the linear maps stay whatever
            ``match`` is, and the learned functions are fitted to the activation; for ``"grouped"``.
        functions: Number of functions that hidden units share by turns; for ``"grouped"``.
        grid_size: Number of intervals of the grids; None for 8 (``"grouped"``) or 5 (``"full"``),
            or for as many as keep the function. At equal parameters None takes the nearest
            number with which a width is within 2 %.
        order: Degree of the splines, 1 to 5.
        generator: Where fresh parameters come from; torch's default generator when None.

    Returns:
        The network itself, and a report of what was replaced in it and what was not.

    Raises:
        KanDiffusionError: There is no such block, also for one of several patterns, none can be
            replaced, or a setting is not usable. The network is then as it was.
    """
    require_known("kind", kind, _INTERVALS)
    if match not in ("params", None):
        raise KanDiffusionError(f"match must be 'params' or None, not {match!r}")
    if keep_function and kind == "full":
        raise KanDiffusionError(
            "kind='full' replaces the linear maps, so that the function cannot be kept; take "
            "kind='grouped', or keep_function=False"
        )
    blocks, refused = _chosen(module, layers)
    taken: set[tuple[nn.Module, str]] = set()
    changes: list[tuple[Block, dict[str, nn.Module]]] = []
    replaced: list[Replacement] = []
    for block in blocks:
        with valid_settings("kanify"):
            recipe = Recipe(
                path=block.path,
                kind=kind,
                hidden=block.hidden,
                basis=basis,
                functions=functions,
                grid_size=grid_size or _INTERVALS[kind],
                order=order,
            )
        error: float | None = None
        try:
            if keep_function:
                recipe, error = _fitted(block, recipe, grid_size is not None)
            elif match is not None:
                recipe = _matched(block, recipe, grid_size is not None)
            noise = 0.0 if keep_function else _NOISE
            parts = build(block, recipe, noise=noise, generator=generator)
        except KanDiffusionError as reason:
            refused[block.path] = str(reason)
            continue
        slots = {(block.owner, slot) for slot in parts}
        if slots & taken:
            refused[block.path] = "one of its maps belongs to the block before, which was replaced"
            continue
        taken |= slots
        changes.append((block, parts))
        sizes = block.up.in_features, recipe.hidden, block.down.out_features
        after = "{}-{}-{}".format(*sizes)
        after += f", {functions} functions" if kind == "grouped" else " of KANLinear"
        replaced.append(
            Replacement(
                recipe,
                f"{block.label} {sizes[0]}-{block.hidden}-{sizes[2]}",
                f"{after}, {recipe.grid_size} intervals",
                _count(block),
                _count(block, parts),
                error,
            )
        )
    if not replaced:
        path, why = next(iter(refused.items()))
        raise KanDiffusionError(
            f"no feed-forward block of {type(module).__name__} can be replaced: "
            f"{_named(path)}: {why}"
        )
    for block, parts in changes:
        install(module, block, parts)
    report = KanifyReport(tuple(replaced), refused)
    remember(module, report.recipes)
    return module, report


def _chosen(module: nn.Module, layers: Layers) -> tuple[list[Block], dict[str, str]]:
    """Selects the blocks to replace, and gives reasons for those that cannot be."""
    found = find_blocks(module)
    name = type(module).__name__
    unknown: list[Layers] = []
    if layers is None:
        chosen = [block for block in found.values() if not block.embedding]
    elif callable(layers):
        chosen = [block for block in found.values() if layers(block.path, block.owner)]
    else:
        patterns = [layers] if isinstance(layers, str) else list(layers)
        matching = {pattern: _matching(found, pattern) for pattern in patterns}
        unknown = [pattern for pattern, paths in matching.items() if not paths]
        named = {path for paths in matching.values() for path in paths}
        chosen = [block for path, block in found.items() if path in named]
    if not found or (not chosen and layers is None):
        parts = Counter(
            type(part).__name__
            for part in module.modules()
            if any(True for _ in part.parameters(recurse=False))
        )
        held = ", ".join(f"{count} {kind}" for kind, count in parts.most_common(6)) or "no weights"
        embeddings = " and ".join(f"'{path}'" for path in found)
        hint = "choose another network"
        if found:
            hint = f"{embeddings} embeds what it is given: name it in layers to replace it"
        raise KanDiffusionError(f"{name} has no feed-forward block, it has {held}; {hint}")
    if unknown or not chosen:
        wrong, known = (unknown or [layers])[0], ", ".join(_named(path) for path in found)
        raise KanDiffusionError(f"layers={wrong!r} is no block of {name}; there are {known}")
    refused = {block.path: block.refusal for block in chosen}
    blocks = [block for block in chosen if refused[block.path] is None]
    return blocks, {path: why for path, why in refused.items() if why is not None}


def _matching(found: Mapping[str, Block], pattern: str) -> list[str]:
    """Returns the paths that match a pattern, and embeddings only if there are no others."""
    paths = [path for path in found if fnmatchcase(path, pattern)]
    return [path for path in paths if not found[path].embedding] or paths


def _matched(block: Block, recipe: Recipe, fixed: bool) -> Recipe:
    """Finds the recipe, of some width and intervals, that keeps a block's number of parameters."""
    wanted = _count(block)
    unit = recipe.functions
    own = recipe.grid_size
    sizes = [own] if fixed else sorted(range(1, 2 * own + 1), key=lambda size: abs(size - own))

    def count(made: Recipe) -> int:
        return _count(block, build(block, made, device=torch.device("meta")))

    nearest: tuple[int, Recipe] | None = None
    for size in sizes:
        sized = recipe.model_copy(update={"grid_size": size})
        few, many = (count(sized.model_copy(update={"hidden": times * unit})) for times in (1, 2))
        width = (wanted - 2 * few + many) * unit / (many - few)
        widths = [round(width)]
        if recipe.kind == "grouped":  # the maps stay if they can, else units are shared evenly
            widths = [block.hidden, unit * round(width / unit), *widths]
        for hidden in widths:
            tried = sized.model_copy(update={"hidden": max(hidden, 1)})
            off = abs(count(tried) - wanted)
            if off <= _TOLERANCE * wanted:
                return tried
            if nearest is None or off < nearest[0]:
                nearest = off, tried
    assert nearest is not None
    raise KanDiffusionError(
        f"no hidden width comes within {_TOLERANCE:.0%} of its {wanted:,} parameters: "
        f"{nearest[1].hidden} has {count(nearest[1]):,}; give another grid_size, or match=None"
    )


def _fitted(block: Block, recipe: Recipe, fixed: bool) -> tuple[Recipe, float]:
    """Finds the recipe whose grid lets a learned function keep the activation, and the error."""
    sizes = [recipe.grid_size]
    while not fixed and sizes[-1] < _MOST_INTERVALS:
        sizes.append(2 * sizes[-1])
    count = 20 * _MOST_INTERVALS + 1
    x = torch.linspace(-_CHECKED, _CHECKED, count, dtype=torch.float64, device="cpu")
    target = block.activation(x.clone())
    smallest = math.inf
    for size in sizes:
        for half in _HALVES:
            tried = recipe.model_copy(update={"grid_range": (-half, half), "grid_size": size})
            settings = tried.model_dump(include={"basis", "grid_size", "order", "grid_range"})
            try:
                # As it will be in float32.
                curve = LearnedActivation(
                    1, initial=[block.activation], noise=0.0, device="cpu", dtype=torch.float32,
                    **settings,
                )  # fmt: skip
            except KanDiffusionError:  # so few intervals that the fit is refused
                continue
            with torch.no_grad():
                found = curve.double()(x.unsqueeze(1))[:, 0]
            error = float((found - target).abs().max())
            if error <= _FIT:
                return tried, error
            smallest = min(smallest, error)
    raise KanDiffusionError(
        f"{block.label} is kept to {smallest:.1e} from {-_CHECKED:g} to {_CHECKED:g} and "
        f"{_FIT:.0e} is needed; give {'another grid_size' if fixed else 'another network'}, or "
        "keep_function=False"
    )


def _count(block: Block, parts: Mapping[str, nn.Module] | None = None) -> int:
    """Counts the parameters of a block as it is, or with other parts."""
    held = {**block.parts, **(parts or {})}
    modules = [part for part in held.values() if isinstance(part, nn.Module)]
    own = {parameter for part in modules for parameter in part.parameters()}
    return sum(parameter.numel() for parameter in own)


def _named(path: str) -> str:
    return f"'{path}'" if path else _WHOLE
