"""Fitting a family's one free size, its widths, to a budget.

Widths are found by :func:`widths_for_budget`; single layers may differ in width, because at 2,300
parameters one unit more in every layer is a quarter more parameters. Networks are counted on the
meta device, where parameters have shapes and no values, and what was found is remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Literal

import torch

from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.denoisers.family import Family, Setting
from kan_diffusion.errors import KanDiffusionError

__all__ = [
    "BUDGET_TOLERANCE",
    "Countable",
    "fitted_widths",
    "make_denoiser",
    "widths_for_budget",
]

BUDGET_TOLERANCE = 0.02
"""Largest distance of a fitted denoiser from its budget, as a fraction."""

Countable = Literal["params", "flops", "flops_per_edge"]
"""Quantities a budget can be counted in."""

_LOPSIDED = 6
"""Most units a layer may be held narrower when nearly equal widths miss the budget."""

_COUNTS: Mapping[Countable, Callable[[Denoiser], int]] = {
    "params": lambda denoiser: denoiser.num_trainable,
    "flops": lambda denoiser: denoiser.flops,
    "flops_per_edge": lambda denoiser: denoiser.flops_per_edge,
}
_UNITS: Mapping[Countable, str] = {
    "params": "",
    "flops": " FLOPs",
    "flops_per_edge": " FLOPs per edge",
}


def _widened(
    count: Callable[[tuple[int, ...]], int],
    start: tuple[int, ...],
    budget: int,
    fixed: int | None = None,
) -> tuple[int, ...]:
    """Widens one layer at a time, the narrowest that still fits first; returns the nearest seen.

    The layer ``fixed``, if any, keeps its width.
    """
    widths = best = start
    grown = True
    while grown:
        grown = False
        for layer in sorted(range(len(start)), key=lambda index: widths[index]):
            if layer == fixed:
                continue
            wider = tuple(width + (index == layer) for index, width in enumerate(widths))
            if abs(count(wider) - budget) < abs(count(best) - budget):
                best = wider
            if count(wider) <= budget:
                widths, grown = wider, True
                break
    return best


def _layers(depth: int) -> str:
    return f"{depth} hidden layer{'s' if depth != 1 else ''}"


def widths_for_budget(
    count: Callable[[Sequence[int]], int],
    depth: int,
    budget: int,
    name: str = "network",
    unit: str = "",
) -> tuple[int, ...]:
    """Widths of ``depth`` hidden layers whose count comes nearest to a budget.

    Starts from the widest equal widths within the budget and then widens single layers as long as
    the count stays within it; the nearest count seen wins. Where that misses the budget by more
    than ``BUDGET_TOLERANCE``, one layer is held up to six units narrower, each in turn.

    Args:
        count: The count (of parameters, say) of given hidden widths; must grow with each width.
        depth: Number of hidden layers, at least 1.
        budget: What the count should come to.
        name: What to call the network in an error.
        unit: What is counted, in an error, with a space before it; nothing for parameters.

    Returns:
        The hidden widths.

    Raises:
        KanDiffusionError: Even one unit a layer is over the budget, no widths come within
            ``BUDGET_TOLERANCE`` of it, or the count does not grow with a width.
    """
    counted: Callable[[tuple[int, ...]], int] = cache(count)
    ones = (1,) * depth
    smallest = counted(ones)
    if smallest > budget:
        raise KanDiffusionError(
            f"a budget of {budget:,}{unit} is too small for the {name} with {_layers(depth)}: its "
            f"smallest has {smallest:,}; raise the budget or make it shallower"
        )
    for layer in range(depth):
        if counted((*ones[:layer], 2, *ones[layer + 1 :])) <= smallest:
            raise KanDiffusionError(
                f"the {name} cannot be fitted to {budget:,}{unit or ' parameters'}: their number "
                f"does not grow with hidden layer {layer + 1}; give hidden widths instead"
            )
    low, high = 1, 2
    while counted((high,) * depth) <= budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if counted((middle,) * depth) <= budget:
            low = middle
        else:
            high = middle
    best = _widened(counted, (low,) * depth, budget)
    # Steps of one unit are coarse in a KAN: hold one layer narrower, as little as will do, and
    # widen the others.
    for width in range(low - 1, max(0, low - 1 - _LOPSIDED), -1):
        if abs(counted(best) - budget) <= BUDGET_TOLERANCE * budget:
            break
        for layer in range(depth):
            start = tuple(width if index == layer else low for index in range(depth))
            candidate = _widened(counted, start, budget, fixed=layer)
            if abs(counted(candidate) - budget) < abs(counted(best) - budget):
                best = candidate
    miss = abs(counted(best) - budget) / budget
    if miss > BUDGET_TOLERANCE:
        raise KanDiffusionError(
            f"no {name} with {_layers(depth)} comes within {BUDGET_TOLERANCE:.0%} of a budget of "
            f"{budget:,}{unit}: the nearest has {counted(best):,}; try a budget of "
            f"{counted(best):,} or another depth"
        )
    return best


def make_denoiser(
    family: Family,
    data_dim: int,
    hidden: Sequence[int],
    *,
    num_train_timesteps: int,
    num_classes: int = 0,
    settings: Mapping[str, Setting],
) -> Denoiser:
    """Builds a denoiser of given widths, with torch's default generator.

    Args:
        family: Its family; only its class and name are looked at.
        data_dim: Number of coordinates of a point.
        hidden: Widths of the hidden layers.
        num_train_timesteps: Number of steps of the process.
        num_classes: Number of class labels.
        settings: Settings of the class, the family's own included.

    Raises:
        KanDiffusionError: The class does not take such settings.
    """
    try:
        return family.denoiser_class(
            data_dim=data_dim,
            hidden=tuple(hidden),
            num_train_timesteps=num_train_timesteps,
            num_classes=num_classes,
            **settings,
        )
    except TypeError as error:
        raise KanDiffusionError(f"settings of family '{family.name}': {error}") from error


def _frozen(value: object) -> object:
    """A value with its lists, which a file has where a program has tuples, as tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


_FOUND: dict[tuple[object, ...], tuple[int, ...]] = {}
"""Widths found so far, by all that they depend on."""


def fitted_widths(
    family: Family,
    data_dim: int,
    countable: Countable,
    amount: int,
    *,
    num_train_timesteps: int,
    depth: int | None = None,
    num_classes: int = 0,
    settings: Mapping[str, Setting],
) -> tuple[int, ...]:
    """The widths with which a family comes nearest to a budget, remembered from call to call.

    Args:
        family: The family.
        data_dim: Number of coordinates of a point.
        countable: What is counted.
        amount: What it should come to, within ``BUDGET_TOLERANCE``.
        num_train_timesteps: Number of steps of the process.
        depth: Number of hidden layers; the family's own when None.
        num_classes: Number of class labels.
        settings: Settings of the class, the family's own included.

    Raises:
        KanDiffusionError: The budget cannot be met, or the class does not take such settings.
    """
    layers = family.depth if depth is None else depth
    if layers < 1:
        raise KanDiffusionError(f"a fitted denoiser needs at least 1 hidden layer, not {layers}")

    def count(hidden: Sequence[int]) -> int:
        with torch.device("meta"):
            denoiser = make_denoiser(
                family,
                data_dim,
                hidden,
                num_train_timesteps=num_train_timesteps,
                num_classes=num_classes,
                settings=settings,
            )
        return _COUNTS[countable](denoiser)

    # As written: a setting of 1 is not one of True, which would be equal.
    written = repr(sorted((name, _frozen(value)) for name, value in settings.items()))
    sizes = data_dim, num_train_timesteps, num_classes
    key = family.name, family.denoiser_class, *sizes, written, countable, layers, amount
    if key not in _FOUND:
        name = f"family '{family.name}'"
        _FOUND[key] = widths_for_budget(count, layers, amount, name, _UNITS[countable])
    return _FOUND[key]
