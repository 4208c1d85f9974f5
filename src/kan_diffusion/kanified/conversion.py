r"""``kanify`` replaces the feed-forward blocks of a network by KAN layers.

``"grouped"``: the activation of the hidden units becomes a few learned functions that the units
share by turns, so that an edge of the second map is a multiple of a learned function,

.. math:: y_o = \beta_o + \sum_i w_{o,i}\, f_{\gamma(i)}(z_i), \qquad z = W_1 x + b_1,

the form of :class:`~kan_diffusion.kan.GroupedKANLinear` (with gates q: :math:`v_i f(q_i)`). The
linear maps stay. ``"full"``: both maps become :class:`~kan_diffusion.kan.KANLinear`, in which every
edge is a function; activation and gates are removed.

At equal parameters the hidden width is

.. math:: h = \frac{P - P_0}{P_1}, \qquad P(h) = P_0 + P_1 h,

rounded, for the P parameters of the block; P(h) is counted on layers of the meta device.

To keep the network's function, the learned functions are fitted to the activation by least squares
over the range of its inputs, on the fewest intervals (8, 16, 32, ...) with a small largest error.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError, require_known, valid_settings
from kan_diffusion.kan.bases import GridBasis
from kan_diffusion.kanified.blocks import Block, find_blocks
from kan_diffusion.kanified.calls import Samples, outputs, run_calls, watched
from kan_diffusion.kanified.layers import LearnedActivation
from kan_diffusion.kanified.recipe import Kind, Parts, Recipe, build, install
from kan_diffusion.kanified.saving import remember
from kan_diffusion.kanified.tables import aligned

__all__ = ["KanifyReport", "Replacement", "kanify"]

Layers = str | Sequence[str] | Callable[[str, nn.Module], bool] | None
"""Blocks: a pattern of paths such as ``"*.ff"``, several, or a function of path and owner."""

_TOLERANCE = 0.02
"""Largest relative difference in parameters between a block and the one it replaces."""

_FIT = 1e-4
"""Largest error of a learned function that keeps the activation."""

_AGREEMENT = 1e-3
"""Largest change of a network's outputs, as a share of their root mean square, when its function is
kept. It is not required in 16 bits, where another rounding of one number changes them by more."""

_MOST_INTERVALS = 256
_NARROWEST = 1e-3
"""Least room of a grid around its numbers."""
_NOISE = 1e-3
"""Standard deviation of the noise added to the coefficients of fresh functions."""

_HALVES = 4.0, 8.0, 16.0, math.inf
"""Half-widths of the ranges tried to keep a function: GELU and SiLU are straight beyond."""
_WIDE = -16.0, 16.0
"""Range of an activation's inputs that is assumed without samples."""

_FRESH = {"grouped": (8, (-3.0, 3.0)), "full": (5, (-3.0, 3.0))}
"""Intervals and ends of the grid of a fresh layer."""


@dataclass(frozen=True)
class Replacement:
    """A block that was replaced.

    Attributes:
        recipe: Recipe of what stands there now.
        before: The block before, in words.
        after: The block now, in words.
        parameters_before: Parameters of the block before.
        parameters_after: Parameters of the block now.
        fit_error: Largest difference of the learned functions from the activation, over their
            range; None for a block that does not keep its function.
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
        output_error: Change of the network's outputs on the samples, as a share of their root mean
            square; None without samples or ``keep_function``.
    """

    replaced: tuple[Replacement, ...]
    refused: dict[str, str]
    output_error: float | None = None

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """Recipe of each replacement: enough to build the network again."""
        return tuple(one.recipe for one in self.replaced)

    def __str__(self) -> str:
        head = ("path", "before", "after", "parameters", "now", "fit error")
        rows = [head, *map(_row, self.replaced)]
        before = sum(one.parameters_before for one in self.replaced)
        after = sum(one.parameters_after for one in self.replaced)
        count = len(self.replaced)
        rows.append((f"{count} block{'s' * (count > 1)}", "", "", f"{before:,}", f"{after:,}", ""))
        lines = aligned(rows, words=3)
        lines += [f"not replaced: {path or _WHOLE}: {why}" for path, why in self.refused.items()]
        if self.output_error is not None:
            lines.append(f"outputs changed by {self.output_error:.1e} of their root mean square")
        return "\n".join(lines)


_WHOLE = "(the module)"


def _row(one: Replacement) -> tuple[str, ...]:
    return (
        one.recipe.path or _WHOLE,
        one.before,
        one.after,
        f"{one.parameters_before:,}",
        f"{one.parameters_after:,}",
        "" if one.fit_error is None else f"{one.fit_error:.1e}",
    )


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
    samples: Samples | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Network, KanifyReport]:
    """Replaces the feed-forward blocks of a network by KAN layers, in place.

    The class of a diffusers or transformers model becomes a subclass, ``Kanified...``, which saves
    and loads the replaced blocks (:mod:`kan_diffusion.kanified.saving`). A pipeline remembers the
    class of each part, so assign the network again:
    ``pipeline.unet, report = kanify(pipeline.unet)``.

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
        samples: Calls of the network: a tensor, a tuple of arguments, a dictionary of them by name,
            or a list of such calls. The grids are laid over the numbers that reach the blocks, and
            a kept function is checked; a block that nothing reaches stays. Without samples a range
            is assumed.
        generator: Where fresh parameters come from; torch's default generator when None.

    Returns:
        The network itself, and a report of what was replaced in it and what was not.

    Raises:
        KanDiffusionError: There is no such block, also for one of several patterns, none can be
            replaced, a setting is not usable, or the function cannot be kept. The network is then
            as it was.
    """
    require_known("kind", kind, _FRESH)
    if match not in ("params", None):
        raise KanDiffusionError(f"match must be 'params' or None, not {match!r}")
    if keep_function and kind == "full":
        raise KanDiffusionError(
            "kind='full' replaces the linear maps, so that the function cannot be kept; take "
            "kind='grouped', or keep_function=False and distill"
        )
    blocks, refused = _chosen(module, layers)
    seen: dict[str, _Spread] = {}
    before: list[Tensor] = []
    if samples is not None:
        seen, before = _measured(module, blocks, samples, kind)
    intervals, usual = _FRESH[kind]
    taken: set[tuple[nn.Module, str]] = set()
    changes: list[tuple[Block, Parts]] = []
    replaced: list[Replacement] = []
    for block in blocks:
        spread = seen.get(block.path)
        if samples is not None and spread is None:
            refused[block.path] = "the samples do not reach it; give others, or none"
            continue
        with valid_settings("kanify"):
            recipe = Recipe(
                path=block.path,
                kind=kind,
                hidden=block.hidden,
                basis=basis,
                functions=functions,
                grid_size=intervals if grid_size is None else grid_size,
                order=order,
                grid_range=usual if spread is None else spread.typical,
            )
        error: float | None = None
        try:
            if keep_function:
                recipe, error = _fitted(block, recipe, spread, grid_size is not None)
            elif match is not None:
                recipe = _matched(block, recipe, grid_size is not None)
            parts = build(
                block, recipe, noise=0.0 if keep_function else _NOISE, generator=generator
            )
        except KanDiffusionError as reason:
            refused[block.path] = str(reason)
            continue
        slots = {(block.owner, slot) for slot in parts.by_slot}
        if slots & taken:
            refused[block.path] = "one of its maps belongs to the block before, which was replaced"
            continue
        taken |= slots
        changes.append((block, parts))
        replaced.append(_replacement(block, parts, recipe, error))
    if not replaced:
        path, why = next(iter(refused.items()))
        raise KanDiffusionError(
            f"no feed-forward block of {type(module).__name__} can be replaced: "
            f"{_named(path)}: {why}"
        )
    change: float | None = None
    undo = [install(module, block, parts) for block, parts in changes]
    try:
        if keep_function and samples is not None:
            change = _agreement(before, outputs(run_calls(module, samples)))
    except BaseException:
        for put_back in reversed(undo):
            put_back()
        raise
    report = KanifyReport(tuple(replaced), refused, change)
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
            hint = f"{embeddings} embeds what it is told: name it in layers to replace it"
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


@dataclass(frozen=True)
class _Spread:
    """The ends, mean and standard deviation of numbers."""

    low: float
    high: float
    mean: float
    deviation: float

    @property
    def typical(self) -> tuple[float, float]:
        """Three standard deviations on both sides of the mean."""
        half = max(3 * self.deviation, _NARROWEST)
        return self.mean - half, self.mean + half

    @property
    def whole(self) -> tuple[float, float]:
        """The whole range, with room for a tenth more on both sides."""
        room = max(0.1 * (self.high - self.low), _NARROWEST)
        return self.low - room, self.high + room


def _measured(
    module: nn.Module, blocks: Sequence[Block], samples: Samples, kind: Kind
) -> tuple[dict[str, _Spread], list[Tensor]]:
    """Measures the inputs of each block's learned functions, and the outputs of the network."""
    parts: dict[str, list[Tensor]] = {}

    def watch(block: Block) -> Callable[[Tensor, Tensor], None]:
        def see(input: Tensor, output: Tensor) -> None:
            if kind == "grouped":
                input = output[..., output.shape[-1] - block.hidden :]
            x = input.double() if input.device.type != "mps" else input.float()
            moments = [x.min(), x.max(), x.mean(), x.square().mean()]
            parts.setdefault(block.path, []).append(torch.stack(moments).cpu())

        return see

    with watched((block.up, watch(block)) for block in blocks):  # blocks may share a map
        before = outputs(run_calls(module, samples))
    seen: dict[str, _Spread] = {}
    for path, found in parts.items():
        low, high, mean, square = torch.stack(found).T
        if not bool(torch.isfinite(square).all()):
            raise KanDiffusionError(
                f"with these samples {_named(path)} has infinite inputs or no numbers; give others"
            )
        middle = float(mean.mean())
        deviation = max(float(square.mean()) - middle**2, 0.0) ** 0.5
        seen[path] = _Spread(float(low.min()), float(high.max()), middle, deviation)
    return seen, before


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


def _fitted(
    block: Block, recipe: Recipe, spread: _Spread | None, fixed: bool
) -> tuple[Recipe, float]:
    """Finds the recipe whose grid lets a learned function keep the activation, and the error."""
    low, high = _WIDE if spread is None else spread.whole
    checked = (low, high) if spread is not None else (2 * low, 2 * high)
    ranges = [(max(low, -half), min(high, half)) for half in _HALVES]
    sizes = [recipe.grid_size]
    while not fixed and sizes[-1] < _MOST_INTERVALS:
        sizes.append(2 * sizes[-1])
    x = torch.linspace(*checked, 20 * _MOST_INTERVALS + 1, dtype=torch.float64, device="cpu")
    target = block.activation(x.clone())
    most = _FIT * min(1.0, float(target.abs().max()))
    smallest = math.inf
    for size in sizes:
        for ends in dict.fromkeys(ranges):
            if not ends[0] < ends[1]:
                continue
            tried = recipe.model_copy(update={"grid_range": ends, "grid_size": size})
            try:
                error = float((_curve(block, tried, x) - target).abs().max())
            except KanDiffusionError:  # so few intervals that the fit is refused
                continue
            if error <= most:
                return tried, error
            smallest = min(smallest, error)
    raise KanDiffusionError(
        f"{block.label} is kept to {smallest:.1e} from {checked[0]:.3g} to {checked[1]:.3g} and "
        f"{most:.0e} is needed; give {'another grid_size' if fixed else 'samples'}, or "
        "keep_function=False"
    )


def _curve(block: Block, recipe: Recipe, x: Tensor) -> Tensor:
    """Evaluates one learned function, fitted to the activation, as it will be in float32."""
    curve = LearnedActivation(
        1,
        basis=recipe.basis,
        grid_size=recipe.grid_size,
        order=recipe.order,
        grid_range=recipe.grid_range,
        start=[block.activation],
        noise=0.0,
        device="cpu",
        dtype=torch.float32,
    )
    with torch.no_grad():
        return curve.double()(x.unsqueeze(1))[:, 0]


def _count(block: Block, parts: Parts | None = None) -> int:
    """Counts the parameters of a block as it is, or with other parts."""
    held = {**block.parts, **({} if parts is None else parts.by_slot)}
    modules = [part for part in held.values() if isinstance(part, nn.Module)]
    own = {parameter for part in modules for parameter in part.parameters()}
    return sum(parameter.numel() for parameter in own)


def _replacement(block: Block, parts: Parts, recipe: Recipe, error: float | None) -> Replacement:
    inputs, outputs = block.up.in_features, block.down.out_features
    if recipe.kind == "grouped":
        after = f"{inputs}-{recipe.hidden}-{outputs}, {recipe.functions} functions"
    else:
        after = f"KANLinear {inputs}-{recipe.hidden}-{outputs}"
    if parts.curves is None or isinstance(parts.curves.basis, GridBasis):
        after += f", {recipe.grid_size} intervals"
    return Replacement(
        recipe,
        f"{block.label} {inputs}-{block.hidden}-{outputs}",
        after,
        _count(block),
        _count(block, parts),
        error,
    )


def _agreement(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Computes the root mean square change as a share of the outputs'; refuses a large one."""
    pairs = list(zip(before, after, strict=True))
    moved = sum(float((b.double() - a.double()).square().sum()) for b, a in pairs)
    size = sum(float(b.double().square().sum()) for b in before)
    change = (moved / size) ** 0.5 if size else math.inf if moved else 0.0
    exact = all(torch.finfo(tensor.dtype).bits > 16 for tensor in before)
    if exact and not change <= _AGREEMENT:
        raise KanDiffusionError(
            f"the outputs would change by {change:.1e} of their root mean square, more than "
            f"{_AGREEMENT:g}, although the activations are kept to {_FIT:g}; keep fewer of them, "
            "by layers"
        )
    return change


def _named(path: str) -> str:
    return f"'{path}'" if path else _WHOLE
