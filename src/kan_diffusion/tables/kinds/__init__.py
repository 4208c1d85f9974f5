"""Kinds of columns, and how the kind of a column is found."""

from __future__ import annotations

import logging
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

logger = logging.getLogger("kan_diffusion.tables")

KINDS: dict[str, type[Kind]] = {
    "constant": Constant,
    "identifier": Identifier,
    "time": Time,
    "date": Date,
    "category": Category,
    "number": Number,
}
"""Kinds by name; the first one that suits a column is its kind, if nobody says what it is."""


def _require_kind(given: str) -> str:
    """Checks what a user says of a kind: its name, or that of a date with a format.

    Raises:
        KanDiffusionError: The kind is unknown.
        DataError: It has no format, or the format is not one of dates.
    """
    name, colon, form = given.partition(":")
    require_known("kind", name, KINDS)
    if colon and (not issubclass(KINDS[name], Date) or not re.fullmatch(DATE_FORMAT, form)):
        raise DataError(f"'{given}' is no kind; a format is that of a date, such as date:%m/%d/%Y")
    return given


KindName = Annotated[str, AfterValidator(_require_kind)]
"""A kind as users say it: its name, or that of a date with its format, "date:%m/%d/%Y"."""


Column = Annotated[SerializeAsAny[Kind], of_kind("kind", KINDS)]
"""A column of any kind, which a file tells by its name."""


def fit_column(
    name: str | int,
    series: pd.Series,
    given: str = "",
    scaling: Scaling = "normal",
    warned: bool = False,
) -> Kind:
    """Fits a column to cells (n,), n > 0: finds its kind, if none is given, and what to keep.

    Args:
        name: Its name.
        series: Its cells.
        given: A kind as users say it.
        scaling: What coordinates numbers become.
        warned: Whether users are warned of what they should know of the cells.

    Raises:
        DataError: Its dtype is not supported, it mixes types, a value is infinite, or the kind does
            not fit the cells.
    """
    asked, _, form = _require_kind(given).partition(":") if given else ("", "", "")
    storage = Storage.of(series, name, asked or None, form)
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
    missing = float(f"{cells.missing.mean():.4g}")
    about = {"name": name, "storage": storage, "kind": kind, "missing": missing}
    column = KINDS[kind].model_validate(about | KINDS[kind].fitted(cells))
    if warned and (warning := column.warning(cells, bool(given))):
        logger.warning(warning)
    return column
