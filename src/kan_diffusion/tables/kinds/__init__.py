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
from kan_diffusion.tables.kinds.category import Category
from kan_diffusion.tables.kinds.constant import Constant
from kan_diffusion.tables.kinds.date import Date
from kan_diffusion.tables.kinds.identifier import Identifier
from kan_diffusion.tables.kinds.number import Number
from kan_diffusion.tables.kinds.time import Time

__all__ = ["KINDS", "Cells", "Column", "Kind", "KindName", "fit_column", "found_kind", "split_kind"]

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


def _known_kind(given: str) -> str:
    split_kind(given)
    return given


KindName = Annotated[str, AfterValidator(_known_kind)]
"""A kind as users say it: its name, or that of a date with its format, "date:%m/%d/%Y"."""


Column = Annotated[SerializeAsAny[Kind], of_kind("kind", KINDS)]
"""A column of any kind, which a file tells by its name."""


def found_kind(series: pd.Series, name: str | int, given: str | None = None) -> tuple[Cells, str]:
    """Reads cells (n,): how they are kept, their values, and what kind they are by themselves.

    Args:
        series: The cells.
        name: Name of their column, for errors.
        given: The kind that somebody says they are, which decides whether text is dates.

    Raises:
        DataError: Their dtype is not supported, they mix types, or a value is infinite.
    """
    kind, form = (None, "") if given is None else split_kind(given)
    storage = Storage.of(series, name, kind, form)
    cells = Cells(name, storage, *storage.read(series, name))
    return cells, next(kind for kind, of in KINDS.items() if of.suits(cells))


def fit_column(name: str | int, series: pd.Series, kind: str | None = None) -> Kind:
    """Fits a column to cells (n,), n > 0: finds its kind, if none is given, and what to keep.

    Raises:
        DataError: Its dtype is not supported, or the kind does not fit the cells.
    """
    cells, by_itself = found_kind(series, name, kind)
    kind = by_itself if kind is None else split_kind(kind)[0]
    if len(cells.present) == 0:
        kind = "constant"
    elif problem := KINDS[kind].problem(cells):
        raise DataError(
            f"column '{name}' cannot be of kind '{kind}': it {problem}; by itself it is "
            f"'{by_itself}'"
        )
    if by_itself == "constant" and kind not in ("identifier", "category"):
        kind = "constant"
    about = {"name": name, "storage": cells.storage, "kind": kind}
    missing = float(f"{cells.missing.mean():.4g}")
    return KINDS[kind].model_validate(about | {"missing": missing} | KINDS[kind].fitted(cells))
