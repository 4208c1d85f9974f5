"""Rules that hold in every row trained on, and are kept in every row that is drawn.

**A category implies that of another column**, as a city its region. The categories (or levels) of
one column, the determinant, each occur with a single one of another, the dependent. The dependent
cell follows from the determinant; where it is given, the determinant takes the nearest category
that agrees with it. Few rows can agree by chance: of n rows, those beyond the first of each
category of the determinant could contradict, and with shares p of the dependent's categories, each
of them would with a probability of 1 - sum(p^2) if the columns were independent. At least 20 must
be expected to.

**a <= b** of two dates or two numbers of equal resolution, and **a + b = c** of three numbers, in
at least 200 rows in which no cell is missing. No row may break the rule, and if one column's cells
were shuffled, at least 5 % would. A row that breaks a <= b has the two swapped; where one of them
is given, the other is set to it. The sum c follows from a and b; where c is given and one of them
as well, the other is what is left, and else both are scaled.

A network learns all this only nearly. Given cells are never changed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import combinations, permutations
from typing import TYPE_CHECKING, Annotated

import numpy as np
from annotated_types import Len
from pydantic import Field

from kan_diffusion.errors import DataError, listed
from kan_diffusion.limits import MOST_CATEGORIES
from kan_diffusion.settings import Settings
from kan_diffusion.tables.columns import Column
from kan_diffusion.tables.numbers import decimals

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Rule", "find_rules", "obey", "obeying"]

_EVIDENCE = 20.0
_GLANCE, _FEW = 1_000, 5  # rows that most pairs, and most triples, contradict
_FEWEST_ROWS = 200
_BROKEN = 0.05  # least share of shuffled rows that break a rule
_MOST_COLUMNS = 60  # whose numbers are compared
_MOST_ROUNDS = 20  # in which a repair may break what another one has repaired
_ROUNDING = 1e-9  # of sums in float64, relative to their terms

Place = Annotated[int, Field(ge=0)]


class Rule(Settings):
    """What holds between the cells of two or three columns: a -> b, a <= b, or a + b = c.

    Attributes:
        columns: Places of a and b, or of a, b and c.
        implied: For each category of a, that of b, -1 if unknown; None unless a implies b.
    """

    columns: Annotated[tuple[Place, ...], Len(2, 3)]
    implied: Annotated[tuple[Annotated[int, Field(ge=-1)], ...], Len(1, MOST_CATEGORIES)] | None = (
        None
    )

    def name(self, names: Sequence[str]) -> str:
        """Writes the rule, such as "city->region", "start<=end" or "net+tax=gross"."""
        named = [names[place] for place in self.columns]
        if len(named) == 3:
            return f"{named[0]}+{named[1]}={named[2]}"
        return ("<=" if self.implied is None else "->").join(named)

    def fits(self, columns: Sequence[Column]) -> bool:
        """Whether the columns have such categories, numbers or dates."""
        if max(self.columns) >= len(columns) or len(set(self.columns)) < len(self.columns):
            return False
        of = [columns[place] for place in self.columns]
        if self.implied is not None:
            counts = [len(column.categories) for column in of]
            known = len(self.implied) == counts[0] and max(self.implied) < counts[-1]
            return len(counts) == 2 and min(counts) >= 2 and known
        kinds = [_resolution(column) for column in of]
        if len(kinds) == 2:
            return kinds[0] == kinds[1] is not None
        return all(kind is not None and kind[0] in ("whole", "real") for kind in kinds)

    def holds(self, cells: Sequence[np.ndarray]) -> np.ndarray:
        """Tells where an order or a sum holds, (n,); ``cells`` of each column have this shape."""
        return _add_up(*cells) if len(cells) == 3 else np.asarray(cells[0] <= cells[1])

    def repaired(
        self, cells: Sequence[np.ndarray], fixed: np.ndarray, columns: Sequence[Column]
    ) -> list[np.ndarray]:
        """Returns values that obey an order or a sum in place of cells (n,) that do not.

        Those that are ``fixed``, (n, columns of the rule), stay; ``columns`` are all of the table.
        """
        if len(cells) == 2:
            (low, high), (left, right) = cells, fixed.T
            return [np.where(left, low, high), np.where(right, high, low)]
        a, b, c = (each.astype(np.float64) for each in cells)
        left, right, total = fixed.T
        kept = left | ~total, right | ~total, total
        share = np.divide(c, a + b, out=np.ones(len(a)), where=(a + b != 0))
        a = np.where(
            kept[0], a, _rounded(np.where(right, c - b, a * share), columns[self.columns[0]])
        )
        made = a, np.where(kept[1], b, c - a), np.where(total, c, a + b)
        return [
            np.where(stays, own, _rounded(cell, columns[place]).astype(own.dtype))
            for cell, own, stays, place in zip(made, cells, kept, self.columns, strict=True)
        ]


def _decimals(column: Column) -> int | None:
    """Returns the decimals of a column's numbers; None if they are as fine as float64."""
    if column.lattice is None:
        return decimals(column.known.astype(np.float64))
    return None if column.lattice.fine else round(math.log10(column.lattice.per))


def _rounded(numbers: np.ndarray, column: Column) -> np.ndarray:
    """Rounds numbers to the decimals of a column."""
    places = _decimals(column)
    return numbers if places is None else np.round(numbers, places)


def _add_up(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Tells where a + b is c, but for the rounding of float64; also where one of them is NaN."""
    a, b, c = (each.astype(np.float64) for each in (a, b, c))
    return ~(np.abs(a + b - c) > _ROUNDING * (np.abs(a) + np.abs(b) + np.abs(c)))


def _resolution(column: Column) -> tuple[object, ...] | None:
    """Returns what the numbers or dates of a column are; None if it has none."""
    if column.kind not in ("number", "date") or column.is_discrete:
        return None
    storage, calendar = column.storage, column.lattice and column.lattice.calendar
    if storage.holds in ("whole", "real"):
        return storage.holds, _decimals(column), storage.holds == "real" and storage.limits
    return storage.holds, storage.unit, storage.zone, calendar


def find_rules(
    columns: Sequence[Column], frame: pd.DataFrame, without: Collection[str] = ()
) -> tuple[Rule, ...]:
    """Finds the rules that all rows of a frame obey, but for those with a name in ``without``.

    Raises:
        DataError: There is no rule of such a name.
    """
    found = _implications(columns, frame)
    found += _constraints(columns, frame, {place for rule in found for place in rule.columns})
    names = [str(column.name) for column in columns]
    named = {rule.name(names): rule for rule in found}
    for name in without:
        if name not in named:
            raise DataError(f"no rule '{name}' holds in all rows; known: {listed(named)}")
    return tuple(rule for name, rule in named.items() if name not in without)


def _constraints(
    columns: Sequence[Column], frame: pd.DataFrame, taken: Collection[int]
) -> list[Rule]:
    """Finds sums, and orders beside them, of columns that are not taken."""
    found = ((place, _resolution(column)) for place, column in enumerate(columns))
    kinds = {place: kind for place, kind in found if kind is not None and place not in taken}
    cells = {place: columns[place].read(frame.iloc[:, place]) for place in [*kinds][:_MOST_COLUMNS]}
    random = np.random.default_rng(0)

    def always(rule: Rule) -> bool:
        for some in (slice(_GLANCE), slice(None)):
            known = ~np.any([cells[place][1][some] for place in rule.columns], axis=0)
            values = [cells[place][0][some][known] for place in rule.columns]
            if not rule.holds(values).all():
                return False
        if len(values[0]) < _FEWEST_ROWS or (values[0] == values[1]).all():
            return False
        shuffled = [*values[:-1], random.permutation(values[-1])]
        return bool((~rule.holds(shuffled)).mean() >= _BROKEN)

    places = [place for place in cells if kinds[place][0] in ("whole", "real")]
    few = np.array([
        np.where(missing[:_FEW], np.nan, values[:_FEW].astype(np.float64))
        for values, missing in (cells[place] for place in places)
    ])  # fmt: skip
    triples = (
        (places[a], places[b], places[c])
        for a, b in combinations(range(len(places)), 2)
        for c in np.flatnonzero(_add_up(few[a], few[b], few).all(axis=1))
        if c not in (a, b)
    )
    sums = [rule for triple in triples if always(rule := Rule(columns=triple))]
    totals = {rule.columns[2] for rule in sums}
    related = {frozenset(pair) for rule in sums for pair in combinations(rule.columns, 2)}
    return sums + [
        rule
        for pair in permutations(cells, 2)
        if kinds[pair[0]] == kinds[pair[1]] and frozenset(pair) not in related
        if not totals.issuperset(pair) and always(rule := Rule(columns=pair))
    ]


def _implications(columns: Sequence[Column], frame: pd.DataFrame) -> list[Rule]:
    """Finds which columns of categories or levels imply others.

    A column follows from one other at most, the one with the most categories of those that follow
    from none; of two columns with equally many categories, the later follows from the earlier.
    """
    codes = {
        place: column.codes(frame.iloc[:, place])
        for place, column in enumerate(columns)
        if len(column.categories) > 1
    }
    order = sorted(codes, key=lambda place: -len(columns[place].categories))
    found: dict[int, Rule] = {}
    for pair in combinations(order, 2):
        if found.keys().isdisjoint(pair):
            count = len(columns[pair[0]].categories)
            implied = _implied(codes[pair[0]], codes[pair[1]], count)
            if implied is not None:
                found[pair[1]] = Rule(columns=pair, implied=implied)
    return list(found.values())


def _implied(given: np.ndarray, other: np.ndarray, count: int) -> tuple[int, ...] | None:
    """Returns what each of ``count`` given codes implies; None if they imply nothing."""
    both = (given >= 0) & (other >= 0)
    given, other = given[both], other[both]
    implied = np.full(count, -1)
    for rows in (slice(_GLANCE), slice(None)):
        implied[given[rows]] = other[rows]
        if (implied[given[rows]] != other[rows]).any():
            return None
    shares = np.bincount(other) / max(len(other), 1)
    possible = len(other) - int((implied >= 0).sum())
    if possible * (1 - (shares**2).sum()) < _EVIDENCE:
        return None
    return tuple(implied.tolist())


def obey(
    frame: pd.DataFrame, columns: Sequence[Column], rules: Sequence[Rule], given: np.ndarray
) -> None:
    """Changes cells of rows (n, columns) that are not ``given``, so that rows obey all rules."""
    implications = [rule for rule in rules if rule.implied is not None]
    constraints = [rule for rule in rules if rule.implied is None]
    involved = {place for rule in rules for place in rule.columns}
    cells = {place: columns[place].read(frame.iloc[:, place]) for place in involved}
    before = {place: values.copy() for place, (values, _) in cells.items()}
    codes = np.full(given.shape, -1)
    bound = {place for rule in implications for place in rule.columns}
    for place in bound:
        codes[:, place] = columns[place].codes(frame.iloc[:, place])
    obeyed = obeying(codes, given, implications)
    for place in bound:
        changed = obeyed[:, place] != codes[:, place]
        cells[place][0][changed] = columns[place].known[obeyed[changed, place]]
    held = given.copy()  # sums follow from their terms, not from orders
    held[:, [rule.columns[2] for rule in constraints if len(rule.columns) == 3]] = True
    for _ in range(_MOST_ROUNDS):
        broken = 0
        for rule in constraints:
            places = list(rule.columns)
            fixed = (held if len(places) == 2 else given)[:, places]
            known = ~np.any([cells[place][1] for place in places], axis=0) & ~fixed.all(axis=1)
            rows = np.flatnonzero(known)
            rows = rows[~rule.holds([cells[place][0][rows] for place in places])]
            made = rule.repaired([cells[place][0][rows] for place in places], fixed[rows], columns)
            for place, values in zip(places, made, strict=True):
                cells[place][0][rows] = values
            broken += len(rows)
        if not broken:
            break
    for place, (values, missing) in cells.items():
        if (values != before[place]).any():
            frame.isetitem(place, columns[place].storage.restore(values, missing).array)


def obeying(codes: np.ndarray, given: np.ndarray, implications: Sequence[Rule]) -> np.ndarray:
    """Returns the places of categories, (n, columns), so that they obey all implications.

    A place is -1 without a value, and stays where it is given, (n, columns). Where no category of a
    determinant agrees with all that is given, it keeps its own.
    """
    codes = codes.copy()
    for determinant in dict.fromkeys(rule.columns[0] for rule in implications):
        followers = [rule for rule in implications if rule.columns[0] == determinant]
        own, others = codes[:, determinant], [rule.columns[1] for rule in followers]
        implied = np.array([rule.implied for rule in followers]).T
        asked = np.where(given[:, others], codes[:, others], -1)
        wrong = (own >= 0) & ~given[:, determinant]
        wrong &= ((asked >= 0) & (implied[own] != asked)).any(axis=1)
        codes[wrong, determinant] = own[wrong] = _agreeing(own[wrong], implied, asked[wrong])
        follows = implied[own]
        bound = (own >= 0)[:, None] & (codes[:, others] >= 0) & (follows >= 0) & ~given[:, others]
        codes[:, others] = np.where(bound, follows, codes[:, others])
    return codes


def _agreeing(places: np.ndarray, implied: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Returns the category nearest to ``places`` (n,) of a determinant that implies what is asked.

    That is a category of each of m dependents, (n, m), or -1; its own K categories imply (K, m).
    Where none agrees with all that is asked for, it stays.
    """
    result = places.copy()
    for each in np.unique(asked, axis=0):
        agreeing = np.flatnonzero(((implied == each) | (each < 0)).all(axis=1))
        rows = (asked == each).all(axis=1)
        if len(agreeing):
            middles = (agreeing[1:] + agreeing[:-1]) / 2
            result[rows] = agreeing[np.searchsorted(middles, places[rows])]
    return result
