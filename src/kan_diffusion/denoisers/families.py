r"""Families: kinds of denoisers with one free size; those there are, and how one is built.

A family is a row: a class, settings of it, and the space that tuning searches. The settings of the
rows were found by equal search (docs/families.md, docs/verdict.md).

*One count of operations* (``denoiser.flops``) follows what this package computes for one sample: a
linear layer costs :math:`2 nm + m`, bias included; a KAN layer evaluates the functions of an input
once for all its edges, and each edge costs two for each function that differs from zero
(``KANLinear.flops``); an elementary function, such as SiLU, costs four and ReLU one. Fourier
features of the points, residual sums and modulation are counted; features of the timestep, which
are looked up, are not.

*Sizes*: the one free size of a family, its widths, is fitted to a budget. Single layers may differ
in width, because at 2,300 parameters one more unit in every layer means a quarter more parameters.
Models that are compared need equal sizes, within ``BUDGET_TOLERANCE``; for a single model a budget
is an upper bound. A search starts from the widest equal widths within the budget and then widens
single layers as long as the count stays within it; the nearest count seen wins. If it misses the
budget by more than the tolerance, each layer in turn is held a few units narrower.
"""

from __future__ import annotations

import inspect
import math
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Literal

import torch

from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.denoisers.network import NetworkDenoiser
from kan_diffusion.errors import (
    BudgetError,
    KanDiffusionError,
    look_up,
    require_known,
    require_whole,
)
from kan_diffusion.imports import find_object, is_place
from kan_diffusion.kan.initialization import INITIALIZATIONS
from kan_diffusion.limits import MOST_LAYERS, MOST_PARAMETERS, MOST_UNITS

BUDGET_TOLERANCE = 0.02
"""Largest distance of a fitted denoiser from its budget, as a fraction of the budget."""

_LOPSIDED = 6
"""Most units by which one layer is held narrower when nearly equal widths miss the budget."""

COUNTABLES: Mapping[str, tuple[Callable[[Denoiser], int], str]] = {
    "params": (lambda denoiser: denoiser.num_trainable, ""),
    "flops": (lambda denoiser: denoiser.flops, " FLOPs"),
}
"""For each quantity of a budget, the function that counts it and its unit in errors."""

Setting = bool | int | float | str | None | Sequence[int] | Sequence[float]
"""A value in a denoiser's configuration, of a type that JSON can hold."""


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included, spread evenly; whole ones if both are.

    Attributes:
        low: The smallest.
        high: The largest.
        log: Whether they are spread evenly on a logarithmic scale.

    Raises:
        KanDiffusionError: The range is empty or not finite, or has no logarithm.

    Example:
        >>> from kan_diffusion.denoisers import Range
        >>> Range(2, 5).whole, Range(1e-3, 1e-1, log=True).whole
        (True, False)
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf or (self.log and self.low <= 0):
            raise KanDiffusionError(
                f"a Range needs two finite numbers, the lower first and positive where log is set, "
                f"not {self.low} and {self.high}"
            )

    @property
    def whole(self) -> bool:
        """Whether the numbers are whole."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Space = Mapping[str, Range | tuple[Setting, ...]]
"""Search space of tuning: values of ``"learning_rate"``, ``"depth"``, ``"optimizer"`` or settings
of the class, from a range or a few to choose from."""


@dataclass(frozen=True)
class Family:
    """A kind of denoiser.

    Attributes:
        name: Name in code, options and study files.
        denoiser_class: The class that is built.
        depth: Default number of hidden layers.
        learning_rate: Peak learning rate that suits the family at about 2,300 parameters.
        settings: Settings of the denoiser class that suit the family.
        kind: ``"kan"`` and ``"mlp"`` are the two sides of a comparison, ``"other"`` is neither.
        title: Name in tables and figures; ``name`` when empty.
        space: Search space of tuning; empty for none.
        is_for_reading: Whether it is trained in order to read a formula.

    Raises:
        KanDiffusionError: The space has a key that is neither ``"learning_rate"``, ``"depth"`` nor
            ``"optimizer"`` nor a setting of the class.

    Example:
        >>> from kan_diffusion.denoisers import Family, NetworkDenoiser
        >>> relu = {"activation": "relu"}
        >>> Family("relu-mlp", NetworkDenoiser, depth=3, learning_rate=1e-2, settings=relu).title
        'relu-mlp'
    """

    name: str
    denoiser_class: type[Denoiser]
    depth: int
    learning_rate: float
    settings: Mapping[str, Setting] = field(default_factory=dict)
    kind: Literal["kan", "mlp", "other"] = "other"
    title: str = ""
    space: Space = field(default_factory=dict)
    is_for_reading: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", self.title or self.name)
        of_class = inspect.signature(self.denoiser_class).parameters
        for key in self.space:
            what = f"setting in the space of family '{self.name}'"
            require_known(what, key, {"learning_rate", "depth", "optimizer", *of_class})


_RATES = Range(5e-3, 5e-2, log=True)
_TIMES = Range(2, 5)
_RANGES = ((-2.0, 2.0), (-3.0, 3.0), (-4.0, 4.0))

_GATED: Mapping[str, Setting] = {
    "gated": True, "residual": True, "rank": 3, "num_input_frequencies": None,
}  # fmt: skip
_EDGES: Mapping[str, Setting] = {
    "edges": True, "num_time_frequencies": 4, "grid_size": 4, "grid_range": (-3.0, 3.0),
    "init": "power-law",
}  # fmt: skip
_EDGES_SPACE: Space = {
    "learning_rate": _RATES, "depth": Range(2, 5), "num_time_frequencies": _TIMES,
    "grid_range": _RANGES, "grid_size": Range(3, 10), "init": tuple(INITIALIZATIONS),
}  # fmt: skip
_MLP_SPACE: Space = {
    "learning_rate": _RATES, "depth": Range(3, 7), "num_time_frequencies": _TIMES,
}  # fmt: skip

_row = partial(Family, denoiser_class=NetworkDenoiser)

_ROWS: tuple[Family, ...] = (
    _row(
        "kan", title="KAN", kind="kan", depth=3, learning_rate=2e-2,
        settings={
            **_GATED, "learned_inputs": True, "learned_functions": True, "num_functions": 4,
            "grid_size": 8, "grid_range": (-4.0, 4.0), "function_rate": 3.0,
        },
        space={
            "learning_rate": _RATES, "depth": Range(2, 4), "num_functions": Range(2, 8),
            "grid_size": Range(4, 16), "grid_range": ((-3.0, 3.0), (-4.0, 4.0)),
            "function_rate": Range(1.0, 6.0, log=True),
        },
    ),
    _row(
        "gated-mlp", title="gated MLP", kind="mlp", depth=3, learning_rate=2e-2,
        settings={**_GATED, "num_time_frequencies": 4},
        space={**_MLP_SPACE, "depth": Range(2, 4)},
    ),
    _row(
        "full-kan", title="full KAN", kind="kan", depth=4, learning_rate=2.3e-2,
        settings=_EDGES, space=_EDGES_SPACE,
    ),
    _row(
        "residual-kan", title="residual KAN", kind="kan", depth=4,
        learning_rate=0.03549850914449257,
        settings={**_EDGES, "residual": True, "num_time_frequencies": 3}, space=_EDGES_SPACE,
    ),
    _row(
        "modulated-kan", title="modulated KAN", kind="kan", depth=2,
        learning_rate=0.00942952214922745,
        settings={
            **_EDGES, "modulated": True, "num_time_frequencies": 3, "grid_size": 5,
            "grid_range": (-2.0, 2.0), "init": "original",
        },
        space=_EDGES_SPACE,
    ),
    _row(
        "mlp", title="MLP", kind="mlp", depth=5, learning_rate=0.015651165579053515,
        settings={"num_time_frequencies": 3}, space=_MLP_SPACE,
    ),
    _row(
        "mlp-fourier-inputs", title="MLP Fourier inputs", kind="mlp", depth=5, learning_rate=2e-2,
        settings={"num_time_frequencies": 3, "num_input_frequencies": 2},
        space={**_MLP_SPACE, "num_input_frequencies": Range(2, 5)},
    ),
    _row(
        "residual-mlp", title="residual MLP", kind="mlp", depth=7,
        learning_rate=0.04051938243780878,
        settings={"residual": True, "carries_values": True, "num_time_frequencies": 5},
        space=_MLP_SPACE,
    ),
    # A control: the functions are learned as in a KAN, but there is one per unit and not one per
    # edge. Where it does as well as a KAN, it is the splines that help (Yu et al. 2024,
    # arXiv:2407.16674).
    _row(
        "spline-mlp", title="spline-MLP", depth=3, learning_rate=0.01918819052678987,
        settings={
            "learned_functions": True, "num_functions": None, "function_rate": 1.0,
            "num_time_frequencies": 3, "grid_size": 12, "grid_range": (-2.0, 2.0),
        },
        space={
            **_MLP_SPACE, "depth": Range(2, 5), "grid_size": Range(4, 12),
            "grid_range": _RANGES,
        },
    ),
)  # fmt: skip

FAMILIES: dict[str, Family] = {family.name: family for family in _ROWS}
"""Families of points by name, as comparisons use them."""

# One hidden layer, which the timestep only scales and shifts: few edges, none of them about time.
# It is meant to be read (kan_diffusion.formulas); its sizes are too coarse to compare.
_READABLE = _row(
    "readable-kan", title="readable KAN", kind="kan", depth=1, learning_rate=2e-2,
    settings={
        **_EDGES, "modulated": True, "scaled_inputs": True, "num_time_frequencies": 5,
        "grid_size": 8,
    },
    space={**_EDGES_SPACE, "depth": Range(1, 2)}, is_for_reading=True,
)  # fmt: skip

_OTHERS = "kan_diffusion.pictures.denoisers:PICTURE_FAMILIES"
"""Place of the families of other samples than points, by name; loaded when one is looked up."""

_FOUND: dict[str, tuple[int, ...]] = {}
"""Widths found so far, by everything they depend on."""


def get_family(name: str, *, importing: bool = False) -> Family:
    """Looks up a family.

    Args:
        name: The name of a family of the package, or ``"package.module:NAME"`` for a
            :class:`Family` that a module defines.
        importing: Whether to import that module; if not, it must be imported already.

    Raises:
        KanDiffusionError: There is no such family; the message lists all families, or says what is
            wrong with the module.
    """
    if is_place(name):
        return find_object(name, "family", Family, importing=importing)
    known = {**FAMILIES, _READABLE.name: _READABLE}
    if name not in known:
        known |= find_object(_OTHERS, "families", dict, importing=True)
    return look_up("family", name, known)


def _widths_for_budget(
    count: Callable[[Sequence[int]], int],
    depth: int,
    budget: int,
    name: str = "network",
    unit: str = "",
    at_most: bool = False,
) -> tuple[int, ...]:
    """Finds the widths of ``depth`` hidden layers whose count comes nearest to a budget."""
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
        free = [layer for layer in range(depth) if layer != fixed]
        widths, grown = start, True
        while grown:
            grown = False
            for layer in sorted(free, key=widths.__getitem__):
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


def build_denoiser(
    family: str,
    shape: int | Sequence[int],
    *,
    num_train_timesteps: int,
    params: int | None = None,
    flops: int | None = None,
    hidden: Sequence[int] | None = None,
    depth: int | None = None,
    observable: bool = False,
    settings: Mapping[str, Setting] | None = None,
    generator: torch.Generator | None = None,
    at_most: bool = False,
) -> Denoiser:
    """Builds a denoiser of a family, fitted to a budget or of given widths.

    Exactly one of ``params``, ``flops`` and ``hidden`` is given.

    Args:
        family: Name of the family, see :func:`get_family`.
        shape: Number of coordinates of a point, or the shape of a sample.
        num_train_timesteps: Number of steps of the process.
        params: Number of trainable parameters to fit, within ``BUDGET_TOLERANCE``.
        flops: Operations to fit, of a forward pass for one sample.
        hidden: Widths of the hidden layers.
        depth: Number of hidden layers when fitting; the family's own when None.
        observable: Whether coordinates may be observed.
        settings: Settings of the denoiser class that override the family's.
        generator: Where the initial parameters come from; torch's default when None.
        at_most: Whether the size to fit is an upper bound: then the nearest size up to it is taken,
            however much smaller.

    Returns:
        A freshly initialised denoiser.

    Raises:
        BudgetError: The family's smallest denoiser of this depth is over the budget.
        KanDiffusionError: Unknown family or setting, a family of samples of another shape, no size
            or more than one, or a budget that cannot be met.
    """
    kind = get_family(family)
    options: dict[str, object] = {
        **kind.settings,
        **(settings or {}),
        **({"observable": True} if observable else {}),
    }
    sample = (shape,) if isinstance(shape, int) else tuple(shape)
    try:
        size = kind.denoiser_class.size_of(sample)
    except KanDiffusionError as error:
        raise KanDiffusionError(f"family '{kind.name}': {error}") from error
    if repeated := sorted(size.keys() & options.keys()):
        raise KanDiffusionError(
            f"settings of family '{kind.name}': {repeated[0]} follows from the shape; leave it out"
        )
    of_class = inspect.signature(kind.denoiser_class).parameters
    for name in options:
        known = of_class.keys() - {*size, "hidden", "num_train_timesteps"}
        require_known(f"setting of family '{kind.name}'", name, sorted(known))
    options |= size
    needed = kind.denoiser_class.without_effect(options)
    if idle := sorted(needed.keys() & (settings or {}).keys()):  # others are the family's own
        raise KanDiffusionError(
            f"settings of family '{kind.name}': {idle[0]} needs {needed[idle[0]]}; set it, too, or "
            f"leave out {idle[0]}"
        )
    given = {key: size for key, size in (("params", params), ("flops", flops)) if size is not None}
    if len(given) + (hidden is not None) != 1:
        raise KanDiffusionError(
            "give one size of a denoiser: params, flops or the hidden widths, not "
            f"{'more than one' if given else 'none'}"
        )
    layers = len(hidden) if hidden is not None else kind.depth if depth is None else depth
    require_whole("the number of hidden layers", layers, 1, MOST_LAYERS)

    def make(widths: Sequence[int]) -> Denoiser:
        if max(widths) > MOST_UNITS:
            raise KanDiffusionError(
                f"a hidden layer has at most {MOST_UNITS:,} units, and one of family "
                f"'{kind.name}' would have {max(widths):,}; take a smaller size or more layers"
            )
        try:
            return kind.denoiser_class(
                hidden=tuple(widths),
                num_train_timesteps=num_train_timesteps,
                **options,
            )
        except TypeError as error:
            raise KanDiffusionError(f"settings of family '{kind.name}': {error}") from error

    with torch.device("meta"):  # where parameters have shapes and no values
        if hidden is None:
            ((countable, amount),) = given.items()
            count, unit = COUNTABLES[countable]
            # As text, because a setting of 1 is not a setting of True, though 1 == True.
            key = repr((kind, num_train_timesteps, options, countable, layers, amount, at_most))
            if key not in _FOUND:
                name = f"family '{kind.name}'"
                _FOUND[key] = _widths_for_budget(
                    lambda widths: count(make(widths)), layers, amount, name, unit, at_most
                )
            hidden = _FOUND[key]
        num_trainable = make(hidden).num_trainable
    if num_trainable > MOST_PARAMETERS:
        raise KanDiffusionError(
            f"family '{kind.name}' would have {num_trainable:,} parameters with hidden widths "
            f"{', '.join(map(str, hidden))}; a denoiser has at most {MOST_PARAMETERS:,}"
        )
    denoiser = make(hidden)
    if generator is not None:
        denoiser.reset_parameters(generator)
    return denoiser
