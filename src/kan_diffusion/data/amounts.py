"""Amounts in text, such as $1,234.50, 13.5% and 12 kg: how a column writes them, there and back.

All cells of a column have one unit or none: a sign of a currency before the number, or after it a
sign, a word in small letters or one that a space parts from it. They have the decimals that a
number needs, filled up with zeros to a smallest count; a point or a comma before them; marks of
thousands in each number that is large enough, or in none; a minus or, as accountants write,
parentheses; and a plus in all above zero, or in none.

A column is read as amounts where this writes every cell as it was, so that codes stay text: A12,
12A, 007 kg. Without a unit there have to be parentheses or marks of thousands, which points and
spaces alone are not. Where commas may mark decimals or thousands they mark thousands; points mark
decimals, unless each number either has three of them or is too small for a mark of thousands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from kan_diffusion.settings import Settings

_CURRENCY = r"(?:[A-Z]{0,3}[$\u00a2-\u00a5\u0e3f\u20a0-\u20cf]\s?)?"
_UNIT = r"(?:(?:[^\w.,+/()-]|[a-zµ])[^0-9()]{0,19})?"
_DIGITS = r"[0-9](?:[0-9.,'\u2019 \u00a0\u202f]*[0-9])?"
_AMOUNT = re.compile(rf"[-+(]?({_CURRENCY})[-+]?{_DIGITS}({_UNIT})\)?")
_TELLING = {",", "'", "\u2019"}  # marks of thousands that make amounts of numbers without a unit
_LARGEST = 1e15  # to which a number is its text

MOST_DECIMALS = 9
"""Most decimals that zeros fill up to."""

Thousands = Annotated[str, Field(pattern=r"^[,.' _\u2019\u00a0\u202f]?$")]
"""A mark of thousands, or none."""

Unit = Annotated[str, Field(max_length=20)]
"""A unit, with the space between it and the number."""


class Amount(Settings):
    """How amounts are written.

    Attributes:
        before: Unit before the number.
        after: Unit after the number.
        thousands: Mark of thousands; "" if there is none.
        point: Mark of decimals.
        decimals: Fewest decimals.
        negative: Example of an amount below zero.
        plus: Whether amounts above zero have a plus.
    """

    before: Unit = ""
    after: Unit = ""
    thousands: Thousands = ""
    point: Literal[".", ","] = "."
    decimals: Annotated[int, Field(ge=0, le=MOST_DECIMALS)] = 0
    negative: Literal["-$5", "$-5", "($5)"] = "-$5"
    plus: bool = False

    @classmethod
    def of(cls, texts: np.ndarray) -> Amount | None:
        """Finds how texts, shape (n,), n > 0, write amounts; None if they are none."""
        if (unit := unit_of(texts)) is None:
            return None
        before, after = unit
        negative = "-$5"
        if any(text.startswith("(") for text in texts):
            negative = "($5)"
        elif before and any(text.startswith((f"{before}-", f"{before}+")) for text in texts):
            negative = "$-5"
        plus = negative != "($5)" and any("+" in text for text in texts)
        about = {"before": before, "after": after, "negative": negative, "plus": plus}
        numbers = [re.sub(r"^[^0-9]+|[^0-9]+$", "", text) for text in texts]
        for form in _forms(numbers):
            amount = form.model_copy(update=about)
            has_unit = before or after or negative == "($5)"
            has_marks = amount.thousands in _TELLING or (amount.thousands and amount.decimals)
            if (has_unit or has_marks) and amount._fits(texts):
                return amount
        return None

    @property
    def example(self) -> str:
        """An amount."""
        return self._text(1234 if self.decimals == 0 else 1234.5)

    def bare(self, text: str) -> str:
        """Returns the number that a text says as this writes it; another text as it is."""
        number = self._number(text)
        return text if np.isnan(number) else str(number).removesuffix(".0")

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        before, after = (re.escape(unit.strip()) for unit in (self.before, self.after))
        mark, point = re.escape(self.thousands), re.escape(self.point)
        grouped = rf"[0-9]{{1,3}}(?:{mark}[0-9]{{3}})+|" if mark else ""
        number = rf"(?P<whole>{grouped}[0-9]+)(?:{point}(?P<part>[0-9]+))?"
        unit = rf"(?:{before})?\s?"
        return re.compile(rf"(?P<sign>[-+(]?){unit}(?P<inner>[-+]?){number}\s?(?:{after})?\)?")

    def _fits(self, texts: np.ndarray) -> bool:
        numbers = self.read(texts)
        return not np.isnan(numbers).any() and bool((self.write(numbers) == texts).all())

    def read(self, texts: np.ndarray) -> np.ndarray:
        """Reads texts, shape (n,), as float64; what is no such amount is NaN.

        Units and marks of thousands may be absent.
        """
        place, distinct = pd.factorize(texts)
        numbers = np.array([self._number(text) for text in distinct])
        return np.asarray(numbers[place])

    def _number(self, text: str) -> float:
        match = self._pattern.fullmatch(text.strip())
        if match is None or (match["sign"] and match["inner"]):
            return np.nan
        whole = match["whole"].replace(self.thousands, "")
        number = float(f"{whole}.{match['part'] or 0}")
        if number > _LARGEST or (match["sign"] == "(") != text.strip().endswith(")"):
            return np.nan
        return -number if {match["sign"], match["inner"]} & {"-", "("} else number

    def write(self, numbers: np.ndarray) -> np.ndarray:
        """Writes numbers, shape (n,), as objects."""
        distinct, place = np.unique(numbers, return_inverse=True)
        return np.array([self._text(number) for number in distinct.tolist()], dtype=object)[place]

    def _text(self, number: float) -> str:
        whole, _, part = str(abs(number)).partition(".")
        if "e" in part or not whole.isdecimal():  # 1e+20
            size = str(abs(number)).replace(".", self.point)
        else:
            part = part.rstrip("0").ljust(self.decimals, "0")
            grouped = f"{int(whole):,}".replace(",", self.thousands)
            size = f"{grouped}{part and self.point}{part}"
        sign = "-" if number < 0 else "+" * (self.plus and number > 0)
        if sign and self.negative == "$-5":
            return f"{self.before}{sign}{size}{self.after}"
        if sign and self.negative == "($5)":
            return f"({self.before}{size}{self.after})"
        return f"{sign}{self.before}{size}{self.after}"


def unit_of(texts: np.ndarray) -> tuple[str, str] | None:
    """Returns what stands before and after each number, if all texts (n,) have the same there."""
    unit: tuple[str, str] | None = None
    for text in texts:
        match = _AMOUNT.fullmatch(text.strip())
        if match is None or unit not in (None, (match[1], match[2])):
            return None
        unit = match[1], match[2]
    return unit


def _forms(numbers: Sequence[str]) -> list[Amount]:
    """Returns possible marks and decimals of numbers, the likeliest first."""
    marks, forms = {*re.sub("[0-9]", "", "".join(numbers))}, {}
    for point in (".", ","):
        if len(thousands := marks - {point}) < 2:
            counts = {len(number.partition(point)[2]) for number in numbers}
            decimals = min(min(counts), MOST_DECIMALS)
            amount = Amount(thousands="".join(thousands), point=point, decimals=decimals)
            forms[len(counts) > 1, point] = amount  # 999 beside 1.234 has marks of thousands
    return [forms[key] for key in sorted(forms, key=lambda key: (key[0], key[1] == ","))]
