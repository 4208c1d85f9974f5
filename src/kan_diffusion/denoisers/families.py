"""Families: kinds of denoiser with one free size, so that each can be fitted to a budget.

A family is one entry of :data:`FAMILIES`: the denoiser class, how many hidden layers it has unless
told otherwise, the settings that suit it, and the learning rate that suits it. Widths are then
found by :func:`widths_for_budget`; single layers may differ in width, because at 2,300 parameters
one unit more in every layer is a quarter more parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.denoisers.kan import KANDenoiser
from kan_diffusion.denoisers.mlp import MLPDenoiser
from kan_diffusion.errors import KanDiffusionError, unknown_name

__all__ = [
    "BUDGET_TOLERANCE",
    "FAMILIES",
    "Family",
    "Setting",
    "build_denoiser",
    "get_family",
    "widths_for_budget",
]

Setting = bool | int | float | str | None | Sequence[int] | Sequence[float]
"""A value of a denoiser's configuration, as JSON has it."""

BUDGET_TOLERANCE = 0.02
"""How far, as a fraction, a fitted denoiser may lie from its budget."""

_LOPSIDED = 6
"""How many units narrower a layer may be held when nearly equal widths miss the budget."""


@dataclass(frozen=True)
class Family:
    """A kind of denoiser.

    Attributes:
        name: What users write.
        denoiser_class: The class that is built.
        depth: Number of hidden layers when nothing else is asked for.
        learning_rate: Peak learning rate that suits the family at about 2,300 parameters.
        settings: Settings of the denoiser class that suit the family.
    """

    name: str
    denoiser_class: type[Denoiser]
    depth: int
    learning_rate: float
    settings: Mapping[str, Setting] = field(default_factory=dict)


# The best of 16 settings each on the swiss roll: benchmarks/tune_defaults.py, results/tuning/; the
# initialisation of the KAN is the best of benchmarks/initializations.py, results/initializations/.
FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family(
            "kan",
            KANDenoiser,
            depth=4,
            learning_rate=2.3e-2,
            settings={
                "num_time_frequencies": 4,
                "grid_size": 4,
                "grid_range": (-3.0, 3.0),
                "init": "power-law",
            },
        ),
        Family(
            "mlp",
            MLPDenoiser,
            depth=6,
            learning_rate=2.2e-2,
            settings={"num_time_frequencies": 3},
        ),
    )
}


def get_family(name: str) -> Family:
    """Looks a family up by name.

    Raises:
        KanDiffusionError: There is no such family; the message lists those there are.
    """
    if name not in FAMILIES:
        raise unknown_name("family", name, FAMILIES)
    return FAMILIES[name]


def _widened(
    count: Callable[[Sequence[int]], int],
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


def widths_for_budget(
    count: Callable[[Sequence[int]], int], depth: int, budget: int, name: str = "network"
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

    Returns:
        The hidden widths.

    Raises:
        KanDiffusionError: Even one unit a layer is over the budget, or no widths come within
            ``BUDGET_TOLERANCE`` of it.
    """
    smallest = count((1,) * depth)
    if smallest > budget:
        raise KanDiffusionError(
            f"a budget of {budget:,} is too small for the {name} with {depth} hidden layer"
            f"{'s' if depth != 1 else ''}: its smallest has {smallest:,}; raise the budget or make "
            "it shallower"
        )
    low, high = 1, 2
    while count((high,) * depth) <= budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if count((middle,) * depth) <= budget:
            low = middle
        else:
            high = middle
    best = _widened(count, (low,) * depth, budget)
    # Steps of one unit are coarse in a KAN: hold one layer narrower, as little as will do, and
    # widen the others.
    for width in range(low - 1, max(0, low - 1 - _LOPSIDED), -1):
        if abs(count(best) - budget) <= BUDGET_TOLERANCE * budget:
            break
        for layer in range(depth):
            start = tuple(width if index == layer else low for index in range(depth))
            candidate = _widened(count, start, budget, fixed=layer)
            if abs(count(candidate) - budget) < abs(count(best) - budget):
                best = candidate
    miss = abs(count(best) - budget) / budget
    if miss > BUDGET_TOLERANCE:
        raise KanDiffusionError(
            f"no {name} with {depth} hidden layer{'s' if depth != 1 else ''} comes within "
            f"{BUDGET_TOLERANCE:.0%} of a budget of {budget:,}: the nearest has "
            f"{count(best):,}; try a budget of {count(best):,} or another depth"
        )
    return best


def build_denoiser(
    family: str,
    data_dim: int,
    *,
    num_train_timesteps: int,
    params: int | None = None,
    hidden: Sequence[int] | None = None,
    depth: int | None = None,
    num_classes: int = 0,
    settings: Mapping[str, Setting] | None = None,
    generator: torch.Generator | None = None,
) -> Denoiser:
    """Builds a denoiser of a family, fitted to a number of parameters or of given widths.

    Args:
        family: Name of the family.
        data_dim: Number of coordinates of a point.
        num_train_timesteps: Number of steps of the process.
        params: Number of trainable parameters to fit, within ``BUDGET_TOLERANCE``.
        hidden: Widths of the hidden layers, instead of ``params``.
        depth: Number of hidden layers when fitting; the family's own when None.
        num_classes: Number of class labels.
        settings: Settings of the denoiser class that override the family's.
        generator: Where the initial parameters come from; torch's default when None.

    Returns:
        A freshly initialised denoiser.

    Raises:
        KanDiffusionError: Unknown family or setting, both or neither size, or a budget that
            cannot be met.
    """
    kind = get_family(family)
    if (params is None) == (hidden is None):
        raise KanDiffusionError("give either the number of parameters or the hidden widths")
    options = {**kind.settings, **(settings or {})}

    def make(widths: Sequence[int]) -> Denoiser:
        try:
            return kind.denoiser_class(
                data_dim=data_dim,
                hidden=tuple(widths),
                num_train_timesteps=num_train_timesteps,
                num_classes=num_classes,
                **options,
            )
        except TypeError as error:
            raise KanDiffusionError(f"settings of family '{family}': {error}") from error

    def count(widths: Sequence[int]) -> int:
        with torch.device("meta"):
            return make(widths).num_trainable

    if params is not None:
        layers = kind.depth if depth is None else depth
        if layers < 1:
            raise KanDiffusionError(
                f"a fitted denoiser needs at least 1 hidden layer, not {layers}"
            )
        hidden = widths_for_budget(count, layers, params, f"family '{family}'")
    assert hidden is not None
    denoiser = make(hidden)
    denoiser.reset_parameters(generator)
    return denoiser
