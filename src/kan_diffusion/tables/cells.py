"""Types of the text cells of a file: numbers, truth values, dates in ISO 8601, or text.

Spaces around a cell are ignored, and a cell that is empty or says NA, NaN, null, None, n/a or one
of the words that are told is a gap. A column has the first of these types that fits all its other
cells. Codes are text: whole numbers of which some are padded with zeros (01234), and numbers among
which some have letters or marks (250, V57). Dates in another format are text, too, which a model
reads as dates (:mod:`kan_diffusion.tables.dtypes`).

If at least half of the cells are numbers, a word among them would turn the whole column into text.
This is an error, which names the cell.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from kan_diffusion.errors import DataError

__all__ = ["is_number", "typed"]

logger = logging.getLogger(__name__)

_NUMBER = r"^(?i:[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|inf(?:inity)?))$"
_GAPS = [
    "", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "NULL", "Null", "null", "None", "<NA>", "#N/A",
]  # fmt: skip
_NUMERIC_GAPS = [*{word.lower() for word in _GAPS}, "+nan"]  # in any case, but for text
_WHOLE = r"^[+-]?[0-9]+$"
_PADDED = r"^[+-]?0[0-9]"
_THOUSANDS = r"^[+-]?[1-9][0-9]{0,2}(?:,[0-9]{3})+$"
_MARKED = (  # with marks of thousands, or with a comma where columns are separated by commas
    r"^[+-]?(?:[0-9]+,[0-9]+|[0-9]{1,3}"
    r"(?:(?:\.[0-9]{3})+(?:,[0-9]+)?|(?:,[0-9]{3})+(?:\.[0-9]+)?))$"
)
_CODE = r"^[0-9A-Za-z./_-]*[0-9][0-9A-Za-z./_-]*$"
_MOMENTS = [pa.timestamp(unit, zone) for zone in (None, "UTC") for unit in ("s", "us", "ns")]


def is_number(cell: str) -> bool:
    """Tells whether a cell is a number, with a decimal point or comma."""
    return re.match(_NUMBER, cell.strip().replace(",", ".")) is not None


def _count(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask, min_count=0).as_py())


def _are(cells: pa.ChunkedArray, words: Sequence[str]) -> pa.ChunkedArray:
    return pc.is_in(cells, pa.array(words, pa.string()))


def _with_points(path: Path, name: str, cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Replaces decimal commas by points where all cells, or nulls, are then numbers.

    Raises:
        DataError: It is unclear whether the commas mark decimals or thousands.
    """
    pointed = pc.replace_substring(cells, ",", ".")
    commas = cells.filter(pc.match_substring(cells, ","))
    if commas and pc.all(pc.match_substring_regex(commas, _THOUSANDS)).as_py():
        raise DataError(
            f"'{path}' has numbers such as '{commas[0]}' in column '{name}', where the comma may "
            "mark decimals or thousands; write them with decimal points"
        )
    return pointed if pc.all(pc.match_substring_regex(pointed, _NUMBER)).as_py() else cells


def typed(
    path: Path,
    name: str,
    column: pa.ChunkedArray,
    kind: str | None = None,
    missing: Sequence[str] = (),
    commas: bool = False,
) -> pa.ChunkedArray:
    """Converts a text column to the type of its cells.

    Args:
        path: The file.
        name: Name of the column.
        column: Its cells.
        kind: Its kind, if that is told: cells of other kinds than "number" and "date" stay text.
        missing: Words for gaps beside the usual ones, in any case.
        commas: Whether numbers may have decimal commas.

    Returns:
        The column as whole numbers, other numbers, truth values, dates or text; gaps are null.

    Raises:
        DataError: Numbers are mixed with words, or it is unclear what commas mean.
    """
    cells = pc.utf8_trim_whitespace(column)
    lower, told = pc.utf8_lower(cells), [word.strip().lower() for word in missing]
    nothing = pa.scalar(None, pa.string())
    text = pc.if_else(pc.or_(_are(cells, _GAPS), _are(lower, told)), nothing, cells)
    known = pc.if_else(_are(lower, [*_NUMERIC_GAPS, *told]), nothing, cells)
    count = len(known) - known.null_count
    if kind not in (None, "number", "date"):
        return text
    if count == 0:
        empty = text.null_count == len(text)
        return pa.chunked_array([pa.nulls(len(text), pa.float64())]) if empty else text
    known = _with_points(path, name, known) if commas else known
    numbers = pc.match_substring_regex(known, _NUMBER)
    if _count(numbers) == count:
        whole = pc.all(pc.match_substring_regex(known, _WHOLE)).as_py()
        padded = whole and pc.any(pc.match_substring_regex(known, _PADDED)).as_py()
        return text if padded and kind is None else _numbers(known)
    truths = pc.utf8_lower(known)
    if _count(_are(truths, ("true", "false"))) == count:
        return truths.cast(pa.bool_())
    for moment in _MOMENTS:
        try:
            return known.cast(moment)
        except pa.ArrowInvalid:
            continue
    alike = pc.or_(numbers, pc.match_substring_regex(known, _MARKED))
    if kind != "number" and 2 * _count(alike) < count:
        return text
    row = pc.index(numbers, value=False).as_py()
    cell = str(known[row])
    shown = " ".join(cell.split())
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    if kind == "number" or not (re.match(_CODE, cell) or re.match(_MARKED, cell)):
        raise DataError(
            f"'{path}' mixes numbers and text: column '{name}', row {row + 1} holds '{shown}'; "
            "correct the cell, call it a word for gaps (missing), or call the column a category (a "
            "header line has no number in any cell)"
        )
    logger.warning(
        "'%s': column '%s' is read as text, since row %d holds '%s'; numbers have decimal points "
        "and no marks of thousands",
        path,
        name,
        row + 1,
        shown,
    )
    return text


def _numbers(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Converts text to integers, or to floats if some numbers are not whole or are too large."""
    cells = pc.utf8_ltrim(cells, "+")
    for kind in (pa.int64(), pa.float64()):
        try:
            return cells.cast(kind)
        except pa.ArrowInvalid:
            continue
    return pa.chunked_array(  # some versions of Arrow do not read 1e400
        [pa.array([None if cell is None else float(cell) for cell in cells.to_pylist()])]
    )
