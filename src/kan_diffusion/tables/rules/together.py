r"""Cells of two columns or more that occur together: a category implies others, or pairs exist.

**What implies.** Values of one column occur nearly always with a single one of another, each such
pair in at least five rows, as a city with its region. Of n rows with such a value, those beyond the
first of each could differ, and with shares p of the other's values each would with a probability of
:math:`1 - \sum p^2` if the columns were independent. At least 20 rows must be expected to, and four
times as many as do. Of two categories 80 % of the rows need to agree, else 99 %.

**What exists.** One of two columns has categories. With one column shuffled, a quarter of the rows
of one half or more would have a pair that the other half has not; at most a fifth as many have one.
Columns that make such pairs with some of a rule are added to it if what all have together exists in
this sense, too.

A table of combinations, each of at least five rows, is kept if 85 % of the rows have one. A row
with another one takes the nearest: cells that have to stay, then those of the columns in their
order, are kept where there is such a combination, and else become the nearest that there is with
those before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Annotated, Self

import numpy as np
import pandas as pd
from annotated_types import Len

from kan_diffusion.limits import MOST_COLUMNS
from kan_diffusion.tables.kinds import Kind
from kan_diffusion.tables.kinds.category import Category
from kan_diffusion.tables.numbers import SHARING
from kan_diffusion.tables.rules.base import Broken, Places, Rows, Rule, is_beyond_chance, share_kept
from kan_diffusion.tables.rules.coded import (
    COVERED,
    MOST_COMBINATIONS,
    Coded,
    Codes,
    are_held,
    coded_columns,
    codes_of,
    nearest,
    values_of,
)

_GLANCE, _MOST_COMPARED = 2_000, 10_000  # rows of a half, which most pairs do not survive
_MOST_DIFFERING = 0.2  # share of rows in which a category implies another one in vain
_NEW_BY_CHANCE = 0.25  # share of a half's rows with a pair that the other has not
_FEWER, _FEW = 0.8, 0.2  # times as many as by chance, at a glance and in the end
_FEWEST_VALUES = 3  # of columns whose pairs exist
_LISTED = 0.85  # share of rows whose combination at least five rows have
_LESS = 0.02  # by which this share may fall when a column is added


class Together(Rule):
    """Cells of two or more columns occur in some combinations only.

    Attributes:
        cells: For each column what it has in each combination: the place of a category among those
            of its column, or a number in whole steps.
    """

    cells: Annotated[tuple[Codes, ...], Len(2, MOST_COLUMNS)]

    @property
    def size(self) -> int:
        """Number of cells of all combinations."""
        return sum(map(len, self.cells))

    def names(self, columns: Sequence[Kind]) -> list[str]:
        """Writes it, such as "carrier&flight"."""
        return ["&".join(str(columns[place].name) for place in self.places)]

    def fits(self, columns: Sequence[Kind]) -> bool:
        """Whether there are such columns, and as many cells of each."""
        counts = {len(codes) for codes in self.cells}
        if not super().fits(columns) or len(counts) > 1 or len(self.cells) != len(self.places):
            return False
        return all(
            are_held(columns[place], codes)
            for place, codes in zip(self.places, self.cells, strict=True)
        )

    @classmethod
    def find(cls, rows: Rows) -> Iterator[Self]:
        """Finds the combinations that exist, those that most rows have first."""
        coded = coded_columns(rows)
        several = [place for place, each in coded.items() if each.num >= _FEWEST_VALUES]
        random = np.random.default_rng(0)
        some = random.permutation(len(rows.values(0)))[: 2 * _MOST_COMPARED]
        few = {place: Coded(each.codes, each.dense[some]) for place, each in coded.items()}
        pairs: dict[Places, Self] = {}
        for pair in combinations(several, 2):
            both = [coded[place] for place in pair]
            is_named = any(isinstance(rows.columns[place], Category) for place in pair)
            if not is_named or not _exist([few[p] for p in pair], random) or _is_function(*both):
                continue
            if (existing := cls._existing(rows, pair)) is not None:
                pairs[pair] = existing
        said: set[Places] = set()
        for first, rule in sorted(pairs.items(), key=lambda each: -each[1].kept):
            if first in said:
                continue
            for place in several:
                places = tuple(sorted({*rule.places, place}, key=several.index))
                beside = {*combinations(places, 2)} - {*combinations(rule.places, 2)}
                if beside & {*pairs} and _exist([few[p] for p in places], random):
                    wider = cls._existing(rows, places)
                    if wider is not None and wider.kept >= rule.kept - _LESS:
                        rule = wider
            inside = (each for each in combinations(rule.places, 2) if each in pairs)
            said |= {each for each in inside if pairs[each].kept <= rule.kept + _LESS}
            yield rule

    @classmethod
    def _existing(cls, rows: Rows, places: Sequence[int]) -> Self | None:
        """Makes the rule of combinations that at least five rows have; None if too few keep it."""
        known = rows.known(places)
        table = pd.DataFrame({place: codes_of(rows, place)[0][known] for place in places})
        counts = table.value_counts(sort=False)
        often = counts[counts >= SHARING]
        cells = tuple(zip(*often.index.tolist(), strict=True))
        kept = share_kept(int(counts.sum() - often.sum()), int(counts.sum()))
        if kept < _LISTED or len(often) > MOST_COMBINATIONS:
            return None
        return cls(kind="together", places=tuple(places), cells=cells, kept=kept)

    def holds(self, rows: Rows) -> np.ndarray:
        """Tells where there is such a combination, or a cell is missing."""
        codes, missing = self._codes(rows)
        agree = self._nearest(codes, range(len(self.places))) == codes
        return agree.all(axis=1) | missing.any(axis=1)

    def _codes(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Returns its cells as whole numbers, and which are missing, both (n, k)."""
        codes, missing = zip(*(codes_of(rows, place) for place in self.places), strict=True)
        return np.stack(codes, axis=1), np.stack(missing, axis=1)

    def untell(self, rows: Rows, broken: Broken) -> None:
        """Takes the nearest combination with the cells that have to stay."""
        codes, missing = self._codes(rows.take(broken.rows, self.places))
        fixed = broken.stays[:, self.places] & ~missing
        for pattern in np.unique(fixed, axis=0):
            some = np.flatnonzero((fixed == pattern).all(axis=1))
            order = [*np.flatnonzero(pattern), *np.flatnonzero(~pattern)]
            combination = self._nearest(codes[some], order)
            for i in np.flatnonzero(~pattern):
                changed = combination[:, i] != codes[some, i]
                values = values_of(rows.columns[self.places[i]], combination[changed, i])
                rows.change(self.places[i], broken.rows[some[changed]], values)

    def _nearest(self, codes: np.ndarray, order: Sequence[int]) -> np.ndarray:
        """Returns the combinations (m, k) nearest to ``codes`` (m, k), by columns in an order."""
        result = np.empty_like(codes)
        group, chosen = np.zeros(len(self.cells[0]), int), np.zeros(len(codes), int)
        for i in order:
            known, ranks = np.unique(np.array(self.cells[i]), return_inverse=True)
            pairs, group = np.unique(group * len(known) + ranks, return_inverse=True)
            rank = nearest(known, codes[:, i])
            after = np.searchsorted(pairs, chosen * len(known) + rank)
            sides = np.stack([after, after - 1]).clip(0, len(pairs) - 1)
            lead, ranks = np.divmod(pairs[sides], len(known))
            off = np.where(lead == chosen, np.abs(ranks - rank), 2 * len(known))
            chosen = sides[off.argmin(axis=0), np.arange(len(codes))]
            result[:, i] = known[pairs[chosen] % len(known)]
        return result


class Implied(Together):
    """The cells of one column, the first, imply those of the others."""

    def names(self, columns: Sequence[Kind]) -> list[str]:
        """Writes "city->region" for each that is implied."""
        here, *others = (columns[place].name for place in self.places)
        return [f"{here}->{other}" for other in others]

    @classmethod
    def find(cls, rows: Rows) -> Iterator[Self]:
        """Finds what implies what, first in all rows; of two columns the one with more values."""
        coded, found = coded_columns(rows), []
        for one, other in combinations(coded, 2):
            are_named = all(isinstance(rows.columns[p], Category) for p in (one, other))
            most = _MOST_DIFFERING if are_named else 1 - cls.least
            found.append(cls._implied(coded[one], coded[other], (one, other), most))
        yield from sorted((rule for rule in found if rule), key=lambda rule: -round(rule.kept, 2))

    @classmethod
    def _implied(
        cls, one: Coded, other: Coded, places: tuple[int, int], most: float
    ) -> Self | None:
        """Returns what one column implies of another; None if that is nothing, or chance."""
        for some in (slice(_GLANCE), slice(None)):
            given, follows = one.dense[some], other.dense[some]
            both = (given >= 0) & (follows >= 0)
            given, follows = given[both], follows[both]
            if len(given) == 0:
                return None
            keys, counts = np.unique(given * other.num + follows, return_counts=True)
            best = np.lexsort((counts, keys // other.num))
            last = np.append(np.diff(keys[best] // other.num) > 0, True)
            best, rows = best[last], np.bincount(given, minlength=one.num)
            if some.stop and 1 - counts[best].sum() / len(given) > most + 0.05:
                return None
        # What fewer rows have would give them away.
        best = best[counts[best] >= SHARING]
        num = rows[keys[best] // other.num].sum()
        shares = np.bincount(follows) / len(follows)
        differ = num - counts[best].sum()
        by_chance = (num - len(best)) * (1 - (shares**2).sum())
        if not len(best) or differ > most * num or num < COVERED * len(given):
            return None
        if not is_beyond_chance(differ, by_chance):
            return None
        here, there = np.divmod(keys[best], other.num)
        cells = one.codes[here].tolist(), other.codes[there].tolist()
        kept = share_kept(int(differ), int(num))
        return cls(kind="implied", places=places, dependent=places[1:], cells=cells, kept=kept)

    def choices(self, rows: Rows) -> Sequence[Places]:
        """Returns what is implied."""
        return [self.dependent]

    def holds(self, rows: Rows) -> np.ndarray:
        """Tells where a cell is what is implied or missing, or what implies is rare or missing."""
        codes, missing = self._codes(rows)
        agree = (self._nearest(codes, range(len(self.places))) == codes) | missing
        return agree.all(axis=1) | missing[:, 0] | ~np.isin(codes[:, 0], self.cells[0])


def joined(rules: Iterable[Rule]) -> list[Rule]:
    """Joins rules of what the same cells of a column imply, so that they are kept together."""
    result: list[Rule] = []
    for rule in rules:
        at = next((i for i, each in enumerate(result) if _is_joined(each, rule)), None)
        if at is None:
            result.append(rule)
            continue
        one = result[at]
        assert isinstance(one, Implied)
        assert isinstance(rule, Implied)
        order = dict(zip(rule.cells[0], zip(*rule.cells[1:], strict=True), strict=True))
        cells = (*one.cells, *zip(*(order[code] for code in one.cells[0]), strict=True))
        places, dependent = one.places + rule.dependent, one.dependent + rule.dependent
        both = {"places": places, "dependent": dependent, "cells": cells}
        result[at] = one.model_copy(update=both)
    return result


def _is_joined(one: Rule, other: Rule) -> bool:
    """Whether the same cells of one column imply what two rules say."""
    return (
        isinstance(one, Implied)
        and isinstance(other, Implied)
        and one.kept == other.kept == 1
        and one.places[0] == other.places[0]
        and {*one.cells[0]} == {*other.cells[0]}
    )


def _exist(coded: Sequence[Coded], random: np.random.Generator) -> bool:
    """Whether few rows of one half, in any order, have combinations that the other half has not."""
    known = np.all([each.dense >= 0 for each in coded], axis=0)
    for most, fewer in ((_GLANCE, _FEWER), (_MOST_COMPARED, _FEW)):
        taken = [each.dense[known][: 2 * most] for each in coded]
        half = len(taken[0]) // 2
        new = _new(taken, coded, half)
        for ranks in taken:
            shuffled = np.append(ranks[:half], random.permutation(ranks[half:]))
            others = [shuffled if each is ranks else each for each in taken]
            by_chance = _new(others, coded, half)
            if by_chance < _NEW_BY_CHANCE or new > fewer * by_chance:
                return False
    return True


def _is_function(one: Coded, other: Coded) -> bool:
    """Whether one of two columns implies the other."""
    known = (one.dense >= 0) & (other.dense >= 0)
    pairs = np.unique((one.dense * other.num + other.dense)[known])
    return len(pairs) <= max(one.num, other.num)


def _new(dense: Sequence[np.ndarray], coded: Sequence[Coded], half: int) -> float:
    """Returns the share of rows beyond the first half with a combination that is not in it."""
    keys = np.zeros(len(dense[0]), dtype=np.int64)
    for ranks, each in zip(dense, coded, strict=True):
        keys = keys * each.num + ranks
    return float((~np.isin(keys[half:], keys[:half])).mean()) if len(keys) else 1.0
