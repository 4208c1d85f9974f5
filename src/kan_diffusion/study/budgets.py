"""Budgets: the resources held equal between the models of a comparison.

- ``params``: trainable parameters;
- ``flops``: floating-point operations of a forward pass for one point, as this package computes it,
  with one evaluation of the basis per input;
- ``time``: seconds of processor time for training, on one thread.

The widths of the hidden layers are chosen to meet the first two within 2 %. A budget of time is
met by the number of steps, which each trial determines by its own clock. The size of a model is
then given with the budget, found by a search (:mod:`.tuning`), or :data:`USUAL_SIZE`. The row of a
trial says what it really used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.limits import MOST_OPERATIONS, MOST_PARAMETERS, MOST_SECONDS
from kan_diffusion.settings import Settings

__all__ = ["MATCHES", "SIZES", "USUAL_SIZE", "Budget", "Match"]

Match = Literal["params", "flops", "time"]
MATCHES: tuple[str, ...] = get_args(Match)
"""The resources that can be held equal."""

_MOST: Mapping[Match, int] = {
    "params": MOST_PARAMETERS,
    "flops": MOST_OPERATIONS,
    "time": MOST_SECONDS,
}

SIZES = (1_100, 2_300, 5_600, 12_000, 28_000)
"""Numbers of parameters that a search chooses from where a budget of time leaves the size free."""

USUAL_SIZE = 2_300
"""Number of parameters where nothing gives one; the settings of families were found for it."""


class Budget(Settings):
    """An amount of a resource that all models get.

    Attributes:
        match: Resource held equal.
        amount: Number of parameters, operations, or seconds.
        params: With ``time``, the number of parameters of models that have no size of their own;
            None leaves the size to a search, or to :data:`USUAL_SIZE`.
    """

    match: Match = "params"
    amount: float = Field(gt=0, allow_inf_nan=False)
    params: int | None = Field(None, ge=1, le=MOST_PARAMETERS)

    @model_validator(mode="after")
    def _whole_and_sized(self) -> Self:
        if self.match != "time":
            if self.params is not None:
                raise KanDiffusionError(f"a budget of {self.match} has no params beside it")
            if self.amount != int(self.amount):
                raise KanDiffusionError(f"a budget of {self.match} is a whole number")
        if self.amount > _MOST[self.match]:
            raise KanDiffusionError(
                f"a budget of {self.match} is at most {_MOST[self.match]:,}; lower it"
            )
        return self

    @property
    def size(self) -> dict[str, int]:
        """The size it gives to a model without its own size, as settings of the model."""
        if self.match == "time":
            return {} if self.params is None else {"params": self.params}
        return {self.match: int(self.amount)}
