"""Types of text columns: whole numbers, other numbers, dates, truth values or text.

Spaces around a cell are ignored, and a cell that is empty or says NA, NaN, null, None or n/a is a
gap. A column has the first of these types that fits all its other cells:

* whole numbers; if some are padded with zeros (01234) they are codes, and codes are text;
* other numbers;
* dates or times in ISO 8601 (2024-05-31, 2024-05-31 10:30, 2024-05-31T10:30:00Z);
* True and False in upper, lower or mixed case;
* text.

If at least half of the cells are numbers, or dates, but not all, a misplaced cell would turn the
whole column into text. This is an error, which names the cell.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from kan_diffusion.errors import DataError

__all__ = ["NUMBER", "are_names_of_numbers", "typed", "with_points"]

logger = logging.getLogger(__name__)

NUMBER = r"^(?i:[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|inf(?:inity)?))$"
"""Regular expression of a number."""

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
_DATE = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?(?:Z|[+-][0-9]{2}:?[0-9]{2})?)?$"
)


def with_points(
    path: Path, columns: list[pa.ChunkedArray], delimiter: str
) -> list[pa.ChunkedArray]:
    """Replaces decimal commas by decimal points in the columns that have them.

    Raises:
        DataError: It is unclear whether the commas mark decimals or thousands.
    """
    commas: dict[int, pa.ChunkedArray] = {}
    for number, column in enumerate(columns):
        cells = pc.utf8_trim_whitespace(column)
        plain = pc.match_substring_regex(cells, NUMBER)
        comma = pc.match_substring_regex(cells, _COMMAS)
        count = len(cells) - _count(_are_gaps(cells))
        if 2 * (_count(plain) + _count(comma)) < count:
            continue
        if _count(pc.and_(plain, pc.match_substring(cells, "."))):
            return columns
        if _count(comma):
            commas[number] = comma
    found = [columns[number].filter(comma) for number, comma in commas.items()]
    trimmed = [pc.utf8_trim_whitespace(cells) for cells in found]
    if found and all(
        pc.all(pc.match_substring_regex(cells, _THOUSANDS)).as_py() for cells in trimmed
    ):
        raise DataError(
            f"'{path}' separates columns by '{delimiter}' and has numbers such as "
            f"'{trimmed[0][0]}', where the comma may mark decimals or thousands; write them with "
            "decimal points"
        )
    return [
        pc.if_else(commas[number], pc.replace_substring(column, ",", "."), column)
        if number in commas
        else column
        for number, column in enumerate(columns)
    ]


def _count(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask, min_count=0).as_py())


def _are(cells: pa.ChunkedArray, words: Sequence[str]) -> pa.ChunkedArray:
    return pc.is_in(cells, pa.array(words, pa.string()))


def _are_gaps(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    return _are(pc.utf8_lower(cells), _NUMERIC_GAPS)


def are_names_of_numbers(first: Sequence[str], columns: Sequence[pa.ChunkedArray]) -> bool:
    """Tells whether a first line with numbers is one of names.

    It is if some text in it stands above numbers alone, or two of its numbers, such as years, above
    text alone. A misplaced cell looks the same, so names must differ and numbers must be whole.

    Args:
        first: Cells of the line.
        columns: Columns of text, whose first cells these are.
    """
    names = [name.strip() for name in first]
    numbers = {name for name in names if re.match(NUMBER, name.replace(",", "."))}
    words = {name for name in names if re.search(r"[^\W\d_]", name)} - numbers
    words = {word for word in words if word.lower() not in _NUMERIC_GAPS}
    whole = all(re.match(_WHOLE, number) for number in numbers)
    if not words or not whole or len(set(names)) < len(names):
        return False
    above_numbers = above_text = 0
    for name, column in zip(names, columns, strict=True):
        cells = pc.utf8_trim_whitespace(column.slice(1))
        count = _count(pc.match_substring_regex(cells, NUMBER))
        values = len(cells) - _count(_are_gaps(cells))
        above_numbers += name in words and 0 < count == values
        above_text += name in numbers and 0 == count < values
    return above_numbers > 0 or above_text > 1


def typed(
    path: Path, name: str, column: pa.ChunkedArray, place: Callable[[int], str], note: str
) -> pa.ChunkedArray:
    """Converts a text column to the type of its cells.

    Args:
        path: The file.
        name: Name of the column.
        column: Its cells.
        place: Names a row in errors; rows are counted from 0.
        note: Text appended to an error about the first row.

    Returns:
        The column as whole numbers, other numbers, truth values, dates or text; gaps are null.

    Raises:
        DataError: Numbers or dates are mixed with text.
    """

    def without(cells: pa.ChunkedArray, gaps: pa.ChunkedArray) -> pa.ChunkedArray:
        return pc.if_else(gaps, pa.scalar(None, pa.string()), cells)

    cells = pc.utf8_trim_whitespace(column)
    known = without(cells, _are_gaps(cells))
    count = len(known) - known.null_count
    text = without(cells, _are(cells, _GAPS))
    if count == 0:
        nothing = text.null_count == len(text)
        return pa.chunked_array([pa.nulls(len(text), pa.float64())]) if nothing else text
    numbers = pc.match_substring_regex(known, NUMBER)
    if _count(numbers) == count:
        return text if _are_codes(known) else _numbers(known)
    dates = pc.match_substring_regex(known, _DATE)
    made, odd = _dates(known) if _count(dates) == count else (None, None)
    if made is not None:
        return made
    for kind, fits in (("number", numbers), ("date", dates)):
        if 2 * _count(fits) < count:
            continue
        row = pc.index(fits, value=False).as_py() if odd is None else odd
        shown = " ".join(str(known[row]).split())
        shown = shown if len(shown) <= 40 else shown[:37] + "..."
        raise DataError(
            f"'{path}' mixes {kind}s and text: column '{name}', {place(row)} holds '{shown}'; "
            f"replace it by a {kind} or leave the column out{'' if row else note}"
        )
    truths = pc.utf8_lower(known)
    if _count(_are(truths, ("true", "false"))) == count:
        return truths.cast(pa.bool_())
    marked = pc.match_substring_regex(known, _MARKED)
    if 2 * (_count(numbers) + _count(marked)) >= count:
        logger.warning(
            "'%s': column '%s' is read as text, since it has numbers such as '%s'; write them "
            "without marks of thousands and with decimal points to have numbers",
            path,
            name,
            known[pc.index(marked, value=True).as_py()],
        )
    return text


def _are_codes(cells: pa.ChunkedArray) -> bool:
    """Tells whether numbers are codes: whole, and some padded with zeros."""
    whole = pc.all(pc.match_substring_regex(cells, _WHOLE)).as_py()
    return whole and pc.any(pc.match_substring_regex(cells, _PADDED)).as_py()


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


def _dates(cells: pa.ChunkedArray) -> tuple[pa.ChunkedArray | None, int | None]:
    """Converts text to dates, or returns None and the first row that cannot be converted."""
    kinds = [pa.timestamp(unit, zone) for zone in (None, "UTC") for unit in ("s", "us", "ns")]

    def fits(part: pa.ChunkedArray | pa.Scalar) -> pa.ChunkedArray | pa.Scalar | None:
        for kind in kinds:
            try:
                return part.cast(kind)
            except pa.ArrowInvalid:
                continue
        return None

    if (made := fits(cells)) is not None:
        return made, None
    zoned = next(fits(cell) for cell in cells if cell.is_valid)
    return None, next(
        (
            row
            for row, cell in enumerate(cells)
            if (date := fits(cell)) is None
            or (cell.is_valid and zoned is not None and date.type.tz != zoned.type.tz)
        ),
        0,
    )
