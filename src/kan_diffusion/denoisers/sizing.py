"""Fitting a family's one free size, its widths, to a budget.

:func:`widths_for_budget` finds the widths. Single layers may differ in width, because at 2,300
parameters one more unit in every layer means a quarter more parameters. Models that are compared
need equal sizes, within ``BUDGET_TOLERANCE``; for a single model a budget is an upper bound.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.errors import BudgetError, KanDiffusionError
from kan_diffusion.limits import MOST_UNITS

__all__ = ["BUDGET_TOLERANCE", "COUNTABLES", "widths_for_budget"]

BUDGET_TOLERANCE = 0.02
"""Largest distance of a fitted denoiser from its budget, as a fraction of the budget."""

_LOPSIDED = 6
"""Most units by which one layer is held narrower when nearly equal widths miss the budget."""

COUNTABLES: Mapping[str, tuple[Callable[[Denoiser], int], str]] = {
    "params": (lambda denoiser: denoiser.num_trainable, ""),
    "flops": (lambda denoiser: denoiser.flops, " FLOPs"),
}
"""For each quantity of a budget, the function that counts it and its unit in errors."""


def widths_for_budget(
    count: Callable[[Sequence[int]], int],
    depth: int,
    budget: int,
    name: str = "network",
    unit: str = "",
    at_most: bool = False,
) -> tuple[int, ...]:
    """Finds the widths of ``depth`` hidden layers whose count comes nearest to a budget.

    Starts from the widest equal widths within the budget and then widens single layers as long as
    the count stays within it; the nearest count seen wins. If it misses the budget by more than
    ``BUDGET_TOLERANCE``, each layer in turn is held up to six units narrower.

    Args:
        count: The count (of parameters, say) of given hidden widths; must grow with each width.
        depth: Number of hidden layers, at least 1.
        budget: Target of the count.
        name: Name of the network in errors.
        unit: Unit of the count in errors, after a space; empty for parameters.
        at_most: Whether the budget is an upper bound, however far below it the nearest count is.

    Returns:
        The hidden widths.

    Raises:
        BudgetError: Even one unit per layer is over the budget.
        KanDiffusionError: No widths come within ``BUDGET_TOLERANCE`` of a budget that is not an
            upper bound, or the count does not grow with a width.
    """
    counted: Callable[[tuple[int, ...]], int] = cache(count)

    def fits(widths: tuple[int, ...]) -> bool:
        return counted(widths) <= budget

    def miss(widths: tuple[int, ...]) -> float:
        if at_most and not fits(widths):
            return math.inf
        return abs(counted(widths) - budget) / budget

    def tried(start: tuple[int, ...], fixed: int | None = None) -> Iterator[tuple[int, ...]]:
        """Widens one layer at a time, but ``fixed``, the narrowest that fits first; all tries."""
        yield start
        widths, grown = start, True
        while grown:
            grown = False
            for layer in sorted(
                set(range(depth)) - {fixed}, key=lambda layer: (widths[layer], layer)
            ):
                wider = tuple(width + (index == layer) for index, width in enumerate(widths))
                yield wider
                if grown := fits(wider):
                    widths = wider
                    break

    layers = f"{depth} hidden layer{'s' if depth != 1 else ''}"
    ones = (1,) * depth
    smallest = counted(ones)
    if smallest > budget:
        raise BudgetError(
            f"a budget of {budget:,}{unit} is too small for the {name} with {layers}: its smallest "
            f"has {smallest:,}; raise the budget or make it shallower"
        )
    for layer in range(depth):
        if counted((*ones[:layer], 2, *ones[layer + 1 :])) <= smallest:
            raise KanDiffusionError(
                f"the {name} cannot be fitted to {budget:,}{unit or ' parameters'}: their number "
                f"does not grow with hidden layer {layer + 1}; give hidden widths instead"
            )
    low = bisect(range(1, MOST_UNITS), budget, key=lambda width: counted((width,) * depth))
    best = min(tried((low,) * depth), key=miss)
    # Steps of one unit are coarse in a KAN: hold one layer narrower, as little as will do, and
    # widen the others.
    for width in range(low - 1, max(0, low - 1 - _LOPSIDED), -1):
        if miss(best) <= BUDGET_TOLERANCE:
            break
        for layer in range(depth):
            start = tuple(width if index == layer else low for index in range(depth))
            best = min(best, *tried(start, fixed=layer), key=miss)
    if miss(best) > BUDGET_TOLERANCE and not at_most:
        raise KanDiffusionError(
            f"no {name} with {layers} comes within {BUDGET_TOLERANCE:.0%} of a budget of "
            f"{budget:,}{unit}: the nearest has {counted(best):,}; try a budget of "
            f"{counted(best):,} or another depth"
        )
    return best
