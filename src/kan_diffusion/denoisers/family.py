"""A family: a kind of denoiser with one free size, and the space its tuning searches."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.errors import KanDiffusionError, require_known

__all__ = ["Family", "Range", "Setting", "Space"]

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

    Raises:
        KanDiffusionError: The space has a key that is neither ``"learning_rate"``, ``"depth"`` nor
            ``"optimizer"`` nor a setting of the class.
    """

    name: str
    denoiser_class: type[Denoiser]
    depth: int
    learning_rate: float
    settings: Mapping[str, Setting] = field(default_factory=dict)
    kind: Literal["kan", "mlp", "other"] = "other"
    title: str = ""
    space: Space = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", self.title or self.name)
        of_class = inspect.signature(self.denoiser_class).parameters
        for key in self.space:
            what = f"setting in the space of family '{self.name}'"
            require_known(what, key, {"learning_rate", "depth", "optimizer", *of_class})
