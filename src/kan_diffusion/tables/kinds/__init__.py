"""Kinds of columns, and how the kind of a column is found."""

from __future__ import annotations

import re
from typing import Annotated

import pandas as pd
from pydantic import AfterValidator, SerializeAsAny

from kan_diffusion.errors import DataError, require_known
from kan_diffusion.settings import of_kind
from kan_diffusion.tables.dates import DATE_FORMAT
from kan_diffusion.tables.dtypes import Storage
from kan_diffusion.tables.kinds.base import Cells, Kind
from kan_diffusion.tables.kinds.category import Category, Constant
from kan_diffusion.tables.kinds.identifier import Identifier
from kan_diffusion.tables.kinds.number import Date, Number, Time
from kan_diffusion.tables.numbers import Scaling

__all__ = ["KINDS", "Column", "Kind", "KindName", "fit_column"]

KINDS: dict[str, type[Kind]] = {
    "constant": Constant,
    "identifier": Identifier,
    "time": Time,
    "date": Date,
    "category": Category,
    "number": Number,
}
"""Kinds by name; the first one that suits a column is its kind, if nobody says what it is."""


def split_kind(given: str) -> tuple[str, str]:
    """Splits what a user says of a kind into its name and a format, "" if there is none.

    Raises:
        KanDiffusionError: The kind is unknown.
        DataError: It has no format, or the format is not one of dates.
    """
    name, _, form = given.partition(":")
    require_known("kind", name, KINDS)
    if form and (not issubclass(KINDS[name], Date) or not re.fullmatch(DATE_FORMAT, form)):
        raise DataError(f"'{given}' is no kind; a format is that of a date, such as date:%m/%d/%Y")
    return name, form


KindName = Annotated[str, AfterValidator(lambda given: ":".join(filter(None, split_kind(given))))]
"""A kind as users say it: its name, or that of a date with its format, "date:%m/%d/%Y"."""


Column = Annotated[SerializeAsAny[Kind], of_kind("kind", KINDS)]
"""A column of any kind, which a file tells by its name."""


def fit_column(
    name: str | int, series: pd.Series, given: str | None = None, scaling: Scaling = "normal"
) -> Kind:
    """Fits a column to cells (n,), n > 0: finds its kind, if none is given, and what to keep.

    Raises:
        DataError: Its dtype is not supported, it mixes types, a value is infinite, or the kind does
            not fit the cells.
    """
    asked, form = (None, "") if given is None else split_kind(given)
    storage = Storage.of(series, name, asked, form)
    cells = Cells(name, storage, *storage.read(series, name), scaling)
    by_itself = next(kind for kind, of in KINDS.items() if of.suits(cells))
    kind = asked or by_itself
    if len(cells.present) == 0:
        kind = "constant"
    elif problem := KINDS[kind].problem(cells):
        raise DataError(
            f"column '{name}' cannot be of kind '{kind}': it {problem}; by itself it is "
            f"'{by_itself}'"
        )
    if by_itself == "constant" and kind not in ("identifier", "category"):
        kind = "constant"
    about = {"name": name, "storage": storage, "kind": kind}
    missing = float(f"{cells.missing.mean():.4g}")
    return KINDS[kind].model_validate(about | {"missing": missing} | KINDS[kind].fitted(cells))
