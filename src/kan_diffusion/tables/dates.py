"""Dates and times in text: the format in which a column writes them, and cells there and back.

A format has the directives of strptime: ``%Y`` or ``%y``, ``%m``, ``%b`` (Jan) or ``%B``
(January), ``%d``, ``%H`` or ``%I`` with ``%p`` (AM), ``%M`` and ``%S``, without leading zeros
``%-m``, ``%-d``, ``%-H`` and ``%-I``, and ``%3f`` for three digits of a second. At its end there
may be ``Z`` or an offset that all cells share, such as ``+02:00``, or ``%z`` where offsets differ;
dates are then in UTC, and new ones are written so. A time of day has a format without a date, and
is a moment of the first of January 1970. Eight digits are days and six are months if all cells are,
from 1900 to 2100.

Whether the day or the month comes first is decided by the column where any cell decides it. If none
does, the day is taken to be first, with a warning. Two digits of a year stand for one of the
hundred years in whose middle those of the column lie: their largest gap, on a circle of a hundred,
is before the first and after the last, which is read as POSIX does (from 1969 to 2068).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from operator import itemgetter

import numpy as np
import pandas as pd

from kan_diffusion.errors import DataError

logger = logging.getLogger("kan_diffusion.tables")

DATE_FORMAT = r"^(?:%-?[mdHI]|%[YyMSbBp]|%[1-6]f|[-/.,:T ])+(?:%z|Z|[+-][0-9]{2}:?[0-9]{2})?$"
"""Pattern of a format."""

_CLOCK = r"[0-9]{1,2}:[0-9]{2}(?P<seconds>:[0-9]{2}(?:\.(?P<part>[0-9]{1,6}))?)?(?P<half> ?[AP]M)?"
_TIME = re.compile(_CLOCK)
_AT = rf"(?:(?P<at>[T ]){_CLOCK}(?P<zone>Z|[+-][0-9]{{2}}:?[0-9]{{2}})?)?"
_NUMBERS = re.compile(
    r"(?P<first>[0-9]{1,4})(?P<mark>[-/.])[0-9]{1,2}(?:(?P=mark)(?P<last>[0-9]{1,4}))?" + _AT
)
_NAMED = (  # with the name of a month
    re.compile(r"[0-9]{1,2}(?P<mark>[-/. ])[A-Z][a-z]{2,8}(?P=mark)(?P<last>[0-9]{2,4})" + _AT),
    re.compile(r"[A-Z][a-z]{2,8} [0-9]{1,2}(?P<mark>, )(?P<last>[0-9]{4})" + _AT),
)
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_PARTS: Mapping[str, Callable[[str], str]] = {  # of 2024-02-29T10:30:59.123456, or of NaT
    "Y": itemgetter(slice(4)), "y": itemgetter(slice(2, 4)), "m": itemgetter(slice(5, 7)),
    "d": itemgetter(slice(8, 10)), "H": itemgetter(slice(11, 13)), "M": itemgetter(slice(14, 16)),
    "S": itemgetter(slice(17, 19)), "B": lambda iso: _MONTHS[int(iso[5:7] or 1) - 1],
    "b": lambda iso: _PARTS["B"](iso)[:3],
    "I": lambda iso: f"{(int(iso[11:13] or 0) - 1) % 12 + 1:02}",
    "p": lambda iso: "AM" if iso[11:13] < "12" else "PM",
    **{f"{digits}f": itemgetter(slice(20, 20 + digits)) for digits in range(1, 7)},
}  # fmt: skip
_ZONE = re.compile(r"(?:Z|[+-][0-9]{2}:?[0-9]{2})$")
DIGITS = {8: "%Y%m%d", 6: "%Y%m"}
"""Formats of digits alone, by how many there are."""
_DIGITS = re.compile(r"(?:19[0-9]{2}|20[0-9]{2}|2100)[0-9]{2}(?:[0-9]{2})?")
_UNDATED = np.datetime64("1900-01-01")  # pandas' date of a time of day
_PIVOT = 1969  # first year that two digits stand for in POSIX
_GLANCE = 100  # cells that most formats do not fit
_MOSTLY = 0.5  # share of cells in a format that make a column one of dates


def _candidates(text: str) -> Iterator[str]:
    """Gives the formats that a cell may have, those with leading zeros and the day first."""
    if (time := _TIME.fullmatch(text)) is not None:
        yield from (_clock(time), _bare(_clock(time)))
    if _DIGITS.fullmatch(text) is not None:
        yield DIGITS[len(text)]
    for pattern in (_NUMBERS, *_NAMED):
        if (cell := pattern.fullmatch(text)) is not None:
            break
    else:
        return
    mark, last = cell["mark"], cell["last"]
    year = "%Y" if last and len(last) == 4 else "%y"
    days = []
    if pattern is not _NUMBERS:
        months = ("%b", "%B")
        days = [f"{m} %d, %Y" if mark == ", " else f"%d{mark}{m}{mark}{year}" for m in months]
    elif last is None and len(cell["first"]) == 4 and mark != ".":
        days = [f"%Y{mark}%m"]
    elif last is not None and len(cell["first"]) == 4:
        days = [f"%Y{mark}%m{mark}%d"]
    elif last is not None and (len(last) == 4 or (len(last) == 2 and mark != "-")):
        days = [f"%d{mark}%m{mark}{year}", f"%m{mark}%d{mark}{year}"]
    clock = cell["at"] + _clock(cell) if cell["at"] else ""
    zones = (cell["zone"], "%z") if cell["zone"] else ("",)
    for zone, bare_day, bare_hour, day in product(zones, (False, True), (False, True), days):
        date = re.sub("%([md])", r"%-\1", day) if bare_day else day
        yield date + (_bare(clock) if bare_hour else clock) + zone


def _clock(cell: re.Match[str]) -> str:
    """Returns the format of the time of day in a cell."""
    hours = "%I" if cell["half"] else "%H"
    part = f".%{len(cell['part'])}f" if cell["part"] else ""
    half = cell["half"][:-2] + "%p" if cell["half"] else ""
    return f"{hours}:%M" + (":%S" if cell["seconds"] else "") + part + half


def _bare(clock: str) -> str:
    """Returns a format of hours without leading zeros."""
    return re.sub("%([HI])", r"%-\1", clock)


def is_clock(form: str | None) -> bool:
    """Whether a format is that of a time of day."""
    return form is not None and re.search("%-?[Yymd]", form) is None


def form_of_digits(values: np.ndarray) -> str | None:
    """Finds the format of texts or whole numbers, shape (n,), that are all days or all months."""
    known = pd.unique(values)
    if known.dtype.kind == "i":
        if not len(known) or known.min() < 190_001 or known.max() > 21_001_231:
            return None
        known = known.astype(str).astype(object)
    form = DIGITS.get(len(known[0])) if len(known) else None
    fits = form is not None and all(map(_DIGITS.fullmatch, known)) and _fits(known, form).all()
    return form if fits else None


def format_of(values: np.ndarray, missing: np.ndarray, name: object) -> str | None:
    """Finds the format in which a column of text, shape (n,), writes dates; None if it has none.

    Raises:
        DataError: At least half of the cells are dates in one format, and some are not.
    """
    texts = pd.unique(values[~missing])
    likely, fitting = formats_of(texts)
    if not fitting:
        if likely and likely[0] not in DIGITS.values():
            odd = texts[~_fits(texts, likely[0])][0]
            said = (
                f"row {int(np.argmax(values == odd)) + 1} holds '{odd}' and most are {likely[0]}; "
                "correct the cell, name it as a word for gaps, or call the column a category"
            )
            if not is_clock(likely[0]):
                raise DataError(f"column '{name}' mixes dates and text: {said}")
            logger.warning(f"column '{name}' is read as text: {said}")  # scores look like times
        return None
    others = [form for form in fitting if _day_first(form) != _day_first(fitting[0])]
    if others:
        logger.warning(
            f"column '{name}' is read as {fitting[0]}, and {others[0]} would fit as well; if that "
            f"is right, give the column the kind 'date:{others[0]}'"
        )
    return fitting[0]


def formats_of(texts: np.ndarray) -> tuple[list[str], list[str]]:
    """Finds the formats that most of some texts, shape (n,), have, and those that all have."""
    some = texts[:_GLANCE]
    formats = dict.fromkeys(form for text in some for form in _candidates(text))
    likely = [form for form in formats if _fits(some, form).mean() >= _MOSTLY]
    return likely, [form for form in likely if _fits(texts, form).all()]


def _day_first(form: str) -> bool:
    return form.replace("-", "").find("%d") < form.replace("-", "").find("%m")


def _fits(texts: np.ndarray, form: str) -> np.ndarray:
    if form.endswith("%z"):
        bare = np.array([_ZONE.sub("", text) for text in texts], dtype=object)
        return np.asarray(_fits(bare, form[:-2]) & (bare != texts))
    return np.asarray(written_dates(read_dates(texts, form), form) == texts)


def hundred_of(texts: np.ndarray, form: str, name: object) -> int:
    """Finds the first of the hundred years that two digits stand for in dates, shape (n,)."""
    texts = texts[~np.isnat(read_dates(texts, form))]
    if not len(texts):
        return _PIVOT
    years = _years(read_dates(texts, form))
    on_circle = np.unique(years % 100)
    gaps = np.diff(on_circle, append=on_circle[0] + 100)
    widest = int(np.argmax(gaps))
    last = _PIVOT + int(on_circle[widest] - _PIVOT) % 100
    hundred = last - 100 + int(gaps[widest] + 1) // 2
    if np.isnat(read_dates(texts, form, hundred)).any():  # 1900 had no 29th of February
        hundred += 100
    years = hundred + (years - hundred) % 100
    logger.warning(
        f"column '{name}' writes years in two digits, read as {years.min()} to {years.max()}; "
        "write years in four digits if that is wrong"
    )
    return hundred


def read_dates(texts: np.ndarray, form: str, hundred: int = _PIVOT) -> np.ndarray:
    """Reads dates in a format, shape (n,); those in another one are not a time.

    Two digits of a year stand for one of the hundred years that begin with ``hundred``.
    """
    directives = re.sub("%-", "%", re.sub("%[1-6]f", "%f", form))
    bare = pd.Series(texts, dtype=object).str.strip()
    cells = pd.to_datetime(bare, format=directives, errors="coerce", utc=form.endswith("%z"))
    moments = cells.dt.tz_localize(None).to_numpy().astype("datetime64[us]")
    if is_clock(form):
        return moments - (_UNDATED - np.datetime64(0, "D"))
    if "%y" not in form:
        return moments
    years, months = _years(moments), moments.astype("M8[M]")
    moved = months + 12 * (hundred + (years - hundred) % 100 - years)
    moments = moved + (moments - months)
    return np.where(moments.astype("M8[M]") == moved, moments, np.datetime64("NaT", "us"))


def _years(moments: np.ndarray) -> np.ndarray:
    years: np.ndarray = moments.astype("M8[Y]").astype(np.int64) + 1970
    return years


def written_dates(moments: np.ndarray, form: str) -> np.ndarray:
    """Writes moments in a format, as objects, shape (n,)."""
    distinct, place = np.unique(moments, return_inverse=True)
    iso = np.datetime_as_string(distinct, "us").tolist()
    text = np.full(len(iso), "", dtype=object)
    for token in re.findall(r"%-?[A-Za-z]|%[1-6]f|[^%]", form.replace("%z", "+00:00")):
        if token[0] != "%":
            text += token
            continue
        directive, zero = token.strip("%-"), "0" if "-" in token else ""
        part = _PARTS[directive]
        text += np.array([part(cell).removeprefix(zero) for cell in iso], dtype=object)
    return text[place]
