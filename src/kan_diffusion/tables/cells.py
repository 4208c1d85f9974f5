"""Cells of text files: what a column of text holds, with every cell checked.

A cell that is empty or says NA, NaN, null, None, n/a or one of the words for gaps that a user gives
is a gap. A column has the first of these types that fits all its other cells: numbers, truth
values (True and False, as pandas writes them), dates in ISO 8601, text. Spaces around a cell belong
to text alone.

**Text that looks like numbers.** Codes are no amounts: whole numbers of which some are padded with
zeros (01234), begin with a plus and ten digits or more (+491701234567), have one letter E among
their digits (12E4) or take more than 64 bits. Dates that would be written in another format, such
as 2013-01-01 06:00 or 20201114, and times of day are text, too, which a model reads as what they
are (:mod:`kan_diffusion.tables.dates`).

**Words among numbers** are judged by their share, whatever the order of rows. Words in more than
half of the cells, or codes with letters (250, V57) in a tenth, make the column text; fewer are an
error that names the commonest.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kan_diffusion.data.amounts import MOST_DECIMALS, Amount
from kan_diffusion.errors import DataError
from kan_diffusion.tables.dates import form_of_digits, formats_of

logger = logging.getLogger("kan_diffusion.tables")

# A pattern may match a cell in one way alone, or a long cell takes the square of its time.
_NUMBER = r"^(?i:[+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?|inf(?:inity)?))$"
_GAPS = [
    "", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "NULL", "Null", "null", "None", "<NA>", "#N/A",
]  # fmt: skip
_NUMERIC_GAPS = [*{word.lower() for word in _GAPS}, "+nan"]  # in any case, but for text
_DIGITS = r"^[+-]?[0-9]+(?:[eE][0-9]+)?$"
_NO_AMOUNT = r"^(?:[+-]?0[0-9]+|\+[0-9]{10,}|[0-9]+[eE][0-9]+)$"  # among digits
_GROUPED = r"^[+-]?[1-9][0-9]{{0,2}}(?:{mark}[0-9]{{3}})+(?:[.,][0-9]*)?$"  # by marks of thousands
_THOUSANDS = r"^[+-]?[1-9][0-9]{0,2}(?:[.,][0-9]{3})+$"
_LARGE = r"^[+-]?[0-9]{4}"  # without marks of thousands
_MARKED = (  # with marks of thousands, or with a comma where columns are separated by commas
    r"^[+-]?(?:[0-9]+,[0-9]+|[0-9]{1,3}"
    r"(?:(?:\.[0-9]{3})+(?:,[0-9]+)?|(?:,[0-9]{3})+(?:\.[0-9]+)?))$"
)
_MARKS = " '_\u2019"  # of thousands, which mark no decimals
_SPACES = "[ \u00a0\u202f]"  # which look alike
_SPACED = rf"^[+-]?[1-9][0-9]{{0,2}}(?:(?:{_SPACES}|[{_MARKS}])[0-9]{{3}})+(?:[.,][0-9]+)?$"
_AMOUNT_DIGITS = r"[+-]?[0-9][0-9.,]*"
_CODE = r"^[A-Za-z./_-]*[0-9][0-9A-Za-z./_-]*$"
_REWRITTEN = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(?: [0-9]{2}:[0-9]{2}:[0-9]{2})?$"  # by moments
_WHOLE = [pa.int64(), pa.uint64()]
_MOMENTS = [pa.timestamp(unit, zone) for zone in (None, "UTC") for unit in ("s", "us", "ns")]
_TRUTHS = ("True", "False")
_TYPED = (None, "number", "date", "time", "truth")
"""Kinds of columns whose cells may be other than text; truth values may be in any case."""

_GLANCE = 100  # cells that are no dates in most columns
_MANY_WORDS, _MANY_CODES = 0.5, 0.1
"""Shares of cells that make a column of numbers one of text."""


class Typed(NamedTuple):
    """A column of a text file.

    Attributes:
        cells: Its cells; gaps are null.
        amount: How its numbers are written, if not as Python does.
        grouped: A number such as 1.234 if all with points may have marks of thousands; else "".
    """

    cells: pa.ChunkedArray
    amount: Amount | None = None
    grouped: str = ""


@dataclass(frozen=True)
class CellReader:
    """Converts columns of text.

    Attributes:
        where: The file, for errors.
        missing: Words for gaps beside the usual ones, in any case.
        thousands: Mark of thousands in numbers; "" if they have none.
        commas: Whether numbers may have decimal commas.
    """

    where: str
    missing: Sequence[str] = ()
    thousands: str = ""
    commas: bool = False

    def typed(self, name: str, cells: pa.ChunkedArray, kind: str | None = None) -> Typed:
        """Converts a column.

        Args:
            name: Its name, for errors.
            cells: Its cells, text.
            kind: Its kind if that is known: cells of kinds that are no numbers, dates or times
                stay text.

        Raises:
            DataError: The column mixes numbers and words, or it is unclear whether commas mark
                decimals or thousands.
        """
        trimmed = pc.utf8_trim_whitespace(cells)
        lower, words = pc.utf8_lower(trimmed), [word.strip().lower() for word in self.missing]
        nothing = pa.scalar(None, pa.string())
        text = pc.if_else(pc.or_(_are(trimmed, _GAPS), _are(lower, words)), nothing, cells)
        known = pc.if_else(_are(lower, [*_NUMERIC_GAPS, *words]), nothing, trimmed)
        count = len(known) - known.null_count
        if kind not in _TYPED or (count == 0 and text.null_count < len(text)):
            return Typed(text)
        if count == 0:
            return Typed(pa.chunked_array([pa.nulls(len(text), pa.float64())]))
        written, thousands = known, ""
        if self.thousands:
            mark = _mark(self.thousands)
            marked = pc.match_substring_regex(known, _GROUPED.format(mark=mark))
            written = pc.if_else(marked, pc.replace_substring_regex(known, mark, ""), known)
            if _count(marked) and not pc.any(pc.match_substring_regex(known, _LARGE)).as_py():
                thousands = re.findall(mark, known.filter(marked)[0].as_py())[0]
        pointed = pc.replace_substring(written, ",", ".") if self.commas else written
        numbers = pc.match_substring_regex(pointed, _NUMBER)
        if _count(numbers) == count:
            if kind in (None, "date") and _all_are(
                lambda texts: form_of_digits(texts) is not None, known
            ):
                return Typed(known)
            if kind is None and _are_codes(pointed):
                return Typed(text)
            point = "," if self._has_commas(name, written) else "."
            read = _numbers(pointed)
            is_real = pa.types.is_floating(read.type)
            decimals = _decimals(pointed) if is_real else 0
            has_plus = pc.starts_with(known, "+")
            plus = _count(has_plus) and pc.all(pc.equal(has_plus, pc.greater(read, 0))).as_py()
            amount = Amount(thousands=thousands, point=point, decimals=decimals, plus=bool(plus))
            plain = Amount(decimals=int(is_real))
            return Typed(read, None if amount == plain else amount, _grouped(written, "."))
        truths = pc.utf8_lower(known)
        spelled = _are(truths, ("true", "false")) if kind == "truth" else _are(known, _TRUTHS)
        if _count(spelled) == count:
            return Typed(truths.cast(pa.bool_()))
        moments = _cast(known, _MOMENTS)
        are_dates = _all_are(lambda texts: formats_of(texts)[1], known)
        same = pc.all(pc.match_substring_regex(known, _REWRITTEN)).as_py()
        if moments is not None and (same or not are_dates):
            return Typed(moments)
        if are_dates and (moments is not None or pc.any(pc.not_equal(known, cells)).as_py()):
            return Typed(known)
        if kind != "number" or not _all_are(Amount.of, known):
            self._require_text(name, known, numbers, kind)
        return Typed(text)

    def _has_commas(self, name: str, cells: pa.ChunkedArray) -> bool:
        """Tells whether numbers have decimal commas, which may not all be marks of thousands."""
        if not self.thousands and (grouped := _grouped(cells, ",")):
            raise DataError(
                f"{self.where} has numbers such as '{grouped}' in column '{name}', where the "
                "comma may mark decimals or thousands; write them with decimal points, or name the "
                "mark of thousands ','"
            )
        return bool(pc.any(pc.match_substring(cells, ",")).as_py())

    def _require_text(
        self, name: str, cells: pa.ChunkedArray, numbers: pa.ChunkedArray, kind: str | None
    ) -> None:
        """Refuses a few cells that are no numbers; warns of codes that make a column text."""
        count = len(cells) - cells.null_count
        marked = pc.and_(pc.match_substring_regex(cells, _MARKED), pc.invert(numbers))
        words = pc.invert(pc.or_(numbers, marked))
        if pc.all(pc.match_substring_regex(cells.filter(words), _SPACED)).as_py():
            marked = pc.or_(marked, words)
            words = pc.invert(pc.or_(numbers, marked))
        codes = pc.and_(words, pc.match_substring_regex(cells, _CODE))
        if kind != "number" and _count(words) > _MANY_WORDS * count:
            return
        if kind != "number" and _count(codes) >= max(_MANY_CODES * count, 1):
            row = pc.index(codes, value=True).as_py()
            shown = _shown(cells[row].as_py())
            logger.warning(
                f"{self.where}: column '{name}' is read as text, since row {row + 1} holds "
                f"'{shown}'"
            )
            return
        odd = cells.filter(words if _count(words) else marked)
        counts = pc.value_counts(odd).to_pylist()
        cell = max(counts, key=lambda each: each["counts"])["values"]  # of several the first
        row, shown = pc.index(cells, value=cell).as_py(), _shown(cell)
        which = "the cell" if len(odd) == 1 else f"the {len(odd):,} such cells"
        marks = [*_MARKS, "." if self.commas else ","]
        grouped = (m for m in marks if re.match(_GROUPED.format(mark=_mark(m)), cell))
        if (mark := next(grouped, None)) is not None:
            remedy = f"name the mark of thousands '{mark}'"
        elif re.fullmatch(rf"\({_AMOUNT_DIGITS}\)", cell):
            remedy = "write what is below zero with a minus"
        elif _count(words) > _MANY_WORDS * count:
            remedy = "remove what is no part of its number, such as a unit"
        elif _count(words):
            remedy = f"call '{shown}' a word for gaps ('missing')"
        else:
            remedy = "write decimal points or separate cells by semicolons"
        raise DataError(
            f"{self.where} mixes numbers and text: column '{name}', row {row + 1} holds '{shown}'; "
            f"correct {which} (numbers have decimal points and no marks of thousands), {remedy}, "
            "or call the column a category (a header line has no number in any cell)"
        )


def _mark(thousands: str) -> str:
    """Returns the pattern of a mark of thousands; a space is any."""
    return _SPACES if thousands.isspace() else re.escape(thousands)


def is_number(cell: str) -> bool:
    """Whether a cell is a number with digits, and a decimal point or comma."""
    has_digits = re.search("[0-9]", cell) is not None
    return has_digits and re.match(_NUMBER, cell.replace(",", ".")) is not None


def _shown(cell: str) -> str:
    shown = " ".join(cell.split())
    return shown if len(shown) <= 40 else shown[:37] + "..."


def _are(cells: pa.ChunkedArray, words: Sequence[str]) -> pa.ChunkedArray:
    return pc.is_in(cells, pa.array(words, pa.string()))


def _count(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask, min_count=0).as_py())


def _are_codes(numbers: pa.ChunkedArray) -> bool:
    """Whether numbers are no amounts."""
    if not pc.all(pc.match_substring_regex(numbers, _DIGITS)).as_py():
        return False
    odd = pc.any(pc.match_substring_regex(numbers, _NO_AMOUNT)).as_py()
    return odd or _cast(pc.utf8_ltrim(numbers, "+"), _WHOLE) is None


def _decimals(numbers: pa.ChunkedArray) -> int:
    """Returns the fewest decimals of numbers, of which zeros are some, or else at most one."""
    parts = pc.replace_substring_regex(numbers, r"^[^.]*\.?", "")
    fewest: int = pc.min(pc.utf8_length(parts)).as_py()
    if pc.any(pc.match_substring_regex(numbers, "[^0-9.+-]")).as_py():  # 1e-5
        return 1
    if fewest < 2:
        return fewest
    are_filled = pc.any(pc.match_substring_regex(parts, f"^[0-9]{{{fewest - 1}}}0$")).as_py()
    return fewest if are_filled and fewest <= MOST_DECIMALS else 1


def _grouped(cells: pa.ChunkedArray, mark: str) -> str:
    """Returns the first number with a mark if all that have it may be in thousands; else ""."""
    marked = cells.filter(pc.match_substring(cells, mark))
    are_grouped = len(marked) and pc.all(pc.match_substring_regex(marked, _THOUSANDS)).as_py()
    return str(marked[0]) if are_grouped else ""


def _all_are(test: Callable[[np.ndarray], object], cells: pa.ChunkedArray) -> bool:
    """Whether all cells but gaps pass a test, which most columns fail at the first ones."""
    known = cells.drop_null()
    some = (known.slice(0, _GLANCE), known)
    return all(test(part.unique().to_numpy(zero_copy_only=False)) for part in some)


def _cast(cells: pa.ChunkedArray, types: Sequence[pa.DataType]) -> pa.ChunkedArray | None:
    """Converts text to the first type that holds all of it."""
    for each in types:
        try:
            return cells.cast(each)
        except pa.ArrowInvalid:
            continue
    return None


def _numbers(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Converts text to integers, or to floats if some numbers are not whole or are too large."""
    numbers = _cast(pc.utf8_ltrim(cells, "+"), [*_WHOLE, pa.float64()])
    if numbers is not None:
        return numbers
    # Some versions of Arrow do not read 1e400.
    return pa.chunked_array([[None if cell is None else float(cell) for cell in cells.to_pylist()]])
