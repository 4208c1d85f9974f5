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

__all__ = ["have_names", "typed", "with_points"]

logger = logging.getLogger(__name__)

_NUMBER = r"^(?i:[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|inf(?:inity)?))$"
_GAPS = [
    "", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "NULL", "Null", "null", "None", "<NA>", "#N/A",
]  # fmt: skip
_NUMERIC_GAPS = [*{word.lower() for word in _GAPS}, "+nan"]  # in any case, but for text
_WHOLE = r"^[+-]?[0-9]+$"
_PADDED = r"^[+-]?0[0-9]"
_COMMAS = r"^[+-]?(?:[0-9]+(?:,[0-9]*)+|,[0-9]+)(?:[eE][+-]?[0-9]+)?$"
_THOUSANDS = r"^[+-]?[1-9][0-9]{0,2}(?:,[0-9]{3})+$"
_MARKED = (  # with marks of thousands, or with a comma where columns are separated by commas
    r"^[+-]?(?:[0-9]+,[0-9]+|[0-9]{1,3}"
    r"(?:(?:\.[0-9]{3})+(?:,[0-9]+)?|(?:,[0-9]{3})+(?:\.[0-9]+)?))$"
)
_CODE = r"^[0-9A-Za-z./_-]*[0-9][0-9A-Za-z./_-]*$"
_MOMENTS = [pa.timestamp(unit, zone) for zone in (None, "UTC") for unit in ("s", "us", "ns")]


def have_names(columns: Sequence[pa.ChunkedArray]) -> bool:
    """Tells whether the first cells of columns of text are their names.

    They are if none of them is a number, or if a word among them stands above numbers alone. A
    misplaced cell looks the same, so names must then differ and numbers among them must be whole.
    """
    first = [column[0].as_py().strip() for column in columns]
    numbers = [re.match(_NUMBER, cell.replace(",", ".")) is not None for cell in first]
    if not any(numbers):
        return True
    whole = all(re.match(_WHOLE, cell) for cell, is_number in zip(first, numbers, strict=True)
                if is_number)  # fmt: skip
    if not whole or len(set(first)) < len(first):
        return False
    for cell, column in zip(first, columns, strict=True):
        if re.search(r"[^\W\d_]", cell) and cell.lower() not in _NUMERIC_GAPS:
            cells = pc.utf8_trim_whitespace(column.slice(1))
            known = len(cells) - _count(_are(pc.utf8_lower(cells), _NUMERIC_GAPS))
            if 0 < known == _count(pc.match_substring_regex(cells, _NUMBER)):
                return True
    return False


def _count(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask, min_count=0).as_py())


def _are(cells: pa.ChunkedArray, words: Sequence[str]) -> pa.ChunkedArray:
    return pc.is_in(cells, pa.array(words, pa.string()))


def with_points(path: Path, columns: Sequence[pa.ChunkedArray]) -> list[pa.ChunkedArray]:
    """Replaces decimal commas by decimal points, unless some numbers have points already.

    Args:
        path: The file, whose columns are not separated by commas.
        columns: Its columns of text.

    Raises:
        DataError: It is unclear whether the commas mark decimals or thousands.
    """
    made, found = list(columns), []
    for place, column in enumerate(columns):
        cells = pc.utf8_trim_whitespace(column)
        plain = pc.match_substring_regex(cells, _NUMBER)
        comma = pc.match_substring_regex(cells, _COMMAS)
        count = len(cells) - _count(_are(pc.utf8_lower(cells), _NUMERIC_GAPS))
        if 2 * (_count(plain) + _count(comma)) < count:
            continue
        if _count(pc.and_(plain, pc.match_substring(cells, "."))):
            return list(columns)
        if _count(comma):
            made[place] = pc.if_else(comma, pc.replace_substring(cells, ",", "."), cells)
            found.append(cells.filter(comma))
    if found and all(pc.all(pc.match_substring_regex(each, _THOUSANDS)).as_py() for each in found):
        raise DataError(
            f"'{path}' has numbers such as '{found[0][0]}', where the comma may mark decimals or "
            "thousands; write them with decimal points"
        )
    return made


def typed(
    path: Path,
    name: str,
    column: pa.ChunkedArray,
    kind: str | None = None,
    missing: Sequence[str] = (),
    note: str = "",
) -> pa.ChunkedArray:
    """Converts a text column to the type of its cells.

    Args:
        path: The file.
        name: Name of the column.
        column: Its cells.
        kind: Its kind, if that is told: cells of other kinds than "number" and "date" stay text.
        missing: Words for gaps beside the usual ones, in any case.
        note: Text appended to an error about the first row.

    Returns:
        The column as whole numbers, other numbers, truth values, dates or text; gaps are null.

    Raises:
        DataError: Numbers are mixed with words.
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
            f"correct the cell, call it a word for gaps (missing), or call the column a category"
            f"{'' if row else note}"
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
