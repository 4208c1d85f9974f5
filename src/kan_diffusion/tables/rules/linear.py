r"""Sums: w_1 x_1 + ... + w_k x_k = c with whole weights, of two to six columns.

Among them are equality, a constant offset or factor, sums and differences, and a date plus days. In
units that are coarser than those of the others, such a sum may hold but for rounding.

Candidates come from up to 2,000 rows.

- *Two columns*: the commonest difference, which 30 % of the rows have; the commonest ratio of
  differences of two rows, which half of the pairs have; or the slope of a line that nine in ten
  rows are on but for rounding.
- *Two dates and a number* of days, hours, minutes or seconds: their difference, in 75 % of rows.
- *Three to six columns*: with random u and differences of rows :math:`d_r`, each column has a hash
  :math:`h = \sum_r u_r d_r(x)`. Signed columns whose sum is constant have hashes that sum to zero.
  All signed sums of up to three hashes are sorted, and equal neighbours are two sides of a
  candidate. Eight rows of the fewest gaps make a hash, and eight hashes bear with exceptions.

A candidate grows by a column that equals its remainder wherever that is not zero, such as the area
of a third floor that few houses have.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import chain, combinations, product
from typing import Annotated, Self

import numpy as np
from annotated_types import Len
from pydantic import Field, FiniteFloat

from kan_diffusion.tables.kinds import Kind
from kan_diffusion.tables.kinds.number import Number
from kan_diffusion.tables.rules.base import Rows
from kan_diffusion.tables.rules.numeric import NumericRule, furthest, largest, numbers, real, scale

_SAMPLE, _PAIRED = 2_000, 500  # rows that candidates come from
_MODE, _PAIRS, _DATED = 0.3, 0.5, 0.75  # shares of rows that make candidates, see above
_NEAR, _NEAR_RATIO = 1e-9, 5e-3  # differences and ratios that are equal
_ROUNDED_SPREAD, _ROUNDED_OFF = 5, 0.6  # steps that a rounded copy varies by, and may be off
_HASHES, _HASHED_ROWS = 8, 8
_NEAR_HASH, _NEAR_SINGLE = 1e-11, 1e-6
_MOST_SUMS = 800_000  # that are sorted, of all signed columns
_MOST_CANDIDATES = 50_000  # of a hash
_MOST_PARTS = 6
_REMAINING = 0.5  # share of the other rows in which a part is the remainder
_DENOMINATORS = (1, 10, 12, 60, 100)  # of simple factors, beside decimals and their inverses
_AS_GOOD = 5e-4  # by which fewer rows may keep a simple factor than the best, if not all do
_AS_TIGHT = 1.1  # times as loose as another, a simple factor is good enough
_CLOCK = (1, 24, 1_440, 86_400)  # units of a number of which a day has so many
_RARELY = 0.1  # share of rows that may break a sum of more than two columns
_TIMES_KEPT = 5  # as often as by chance, an equation between two columns is kept

Terms = Mapping[int, Fraction]

_Weight = Annotated[int, Field(ge=-(2**60), le=2**60)] | FiniteFloat


class Linear(NumericRule):
    """A sum of columns is constant.

    Attributes:
        weights: Weights of whole steps, or of numbers and days where a column is fine.
        total: What the sum is.
        slack: How far from it a sum may be, since it is rounded.
    """

    least = _MODE

    weights: Annotated[tuple[_Weight, ...], Len(2, _MOST_PARTS)]
    total: _Weight = 0
    slack: Annotated[int, Field(ge=0, le=2**60)] = 0

    @property
    def is_rounded(self) -> bool:
        """Whether sums may be off by less than a step of one of the columns."""
        return self.slack > 0

    @property
    def looseness(self) -> float:
        """How far sums may be off, in steps of the coarsest column."""
        return self.slack / max(map(abs, self.weights))

    def following(self, columns: Sequence[Kind]) -> dict[int, set[int]]:
        """Returns for each of its columns all others, where these leave one value alone."""
        follows = super().following(columns)
        single = (
            place
            for place, weight in zip(self.places, self.weights, strict=True)
            if abs(weight) >= 2 * self.slack
        )
        return {place: follows[place] for place in single}

    def fits(self, columns: Sequence[Kind]) -> bool:
        """Whether there are as many columns as weights, whole ones but for fine columns."""
        if not super().fits(columns) or len(self.weights) != len(self.places):
            return False
        numbers = (*self.weights, self.total)
        parts = self.parts(columns)
        if any(part.lattice.fine for part in parts):
            return all(self.weights)
        are_whole = not any(isinstance(number, float) for number in numbers)
        return all(self.weights) and are_whole and _is_exact(self.weights, parts)

    def is_kept(self, x: Sequence[np.ndarray], tolerance: float) -> np.ndarray:
        """Tells where the sum is right."""
        terms = [weight * each for weight, each in zip(self.weights, x, strict=True)]
        off = np.abs(sum(terms) - self.total)
        if not tolerance:
            return np.asarray(off <= self.slack)
        return np.asarray(off <= tolerance * np.sum(np.abs(terms), axis=0))

    def solved(self, x: Sequence[np.ndarray], which: int) -> np.ndarray:
        """Returns what is left for one column, rounded to its steps.

        Where rounding leaves it several values, it keeps the digits that the others lack.
        """
        others = (
            w * each for i, (w, each) in enumerate(zip(self.weights, x, strict=True)) if i != which
        )
        rest, weight = np.asarray(self.total - sum(others)), self.weights[which]
        if isinstance(weight, float) or rest.dtype.kind == "f":
            return np.asarray(rest / weight)
        rest, weight = np.sign(weight) * rest, abs(weight)
        if weight >= 2 * self.slack:
            return np.asarray((rest + weight // 2) // weight)
        low, high = -((self.slack - rest) // weight), (rest + self.slack) // weight
        return np.asarray(low + (x[which] - low) % (high - low + 1))

    def is_evident(self, broken: float, chances: np.ndarray, num: int) -> bool:
        """Whether so few rows break it; of two columns also if it is kept far more often."""
        if broken <= _RARELY:
            return super().is_evident(broken, chances, num)
        return len(self.places) == 2 and 1 - chances.min() <= (1 - broken) / _TIMES_KEPT

    def names(self, columns: Sequence[Kind]) -> list[str]:
        """Writes it with what has one sign on the left, and the last or the lonely sign right.

        Of two columns the one stands right that makes the factor short.
        """
        parts = self.parts(columns)
        is_real = any(part.lattice.fine for part in parts)
        units = [Fraction(1) if is_real else scale(part) for part in parts]
        shares = [
            Fraction(weight).limit_denominator(10**9) / unit
            for weight, unit in zip(self.weights, units, strict=True)
        ]
        signs = np.sign([float(share) for share in shares])
        lonely = [i for i in range(len(signs)) if (signs == signs[i]).sum() == 1]
        result = lonely[-1] if lonely else len(parts) - 1
        if len(parts) == 2:
            result = min(1, 0, key=lambda i: len(_times(abs(shares[1 - i] / shares[i]), "")))
        unit = -shares[result]
        left: list[str] = []
        right = [str(parts[result].name)]
        for i, (part, share) in enumerate(zip(parts, shares, strict=True)):
            if i != result:
                ratio = share / unit
                (left if ratio > 0 else right).append(_times(abs(ratio), str(part.name)))
        total, cut = self.total, 2 * (self.slack + 1)
        if self.slack and cut in map(abs, self.weights) and math.gcd(*map(int, self.weights)) == 2:
            total += self.slack if total % cut > cut / 2 else -self.slack  # digits are cut off
        constant = -float(total / float(unit))
        if constant:
            (left if constant > 0 else right).append(f"{abs(constant):g}")
        return [f"{'+'.join(left) or 0}={'+'.join(right)}"]

    @classmethod
    def find(cls, rows: Rows) -> Iterator[Self]:
        """Finds sums among all columns of numbers and dates.

        Of two columns that are always equal but for an offset, the later one is left out of further
        sums; if they are so but for rounding, that of fewer digits.

        Yields:
            Those of fewer columns first.
        """
        random = np.random.default_rng(0)
        columns = numbers(rows)
        sample = rows.sample(_SAMPLE, random)
        if len(columns) < 2:
            return
        cells = np.array([real(column, *sample.cells[p]) for p, column in columns.items()])
        search = _Search([*columns], [*columns.values()], cells)
        seen: set[object] = set()
        for alternatives in search.candidates(random):
            fits: list[tuple[Self, Terms]] = []
            for grown in chain.from_iterable(map(search.grown, alternatives)):
                if {frozenset(grown), frozenset(grown.items())} & seen:
                    continue
                seen.add(frozenset(grown.items()))
                fitted = cls._fitted(grown, rows, sample, random)
                if fitted is not None:
                    fits.append((fitted, grown))
                    if len(alternatives) == 1:
                        break
            if not fits:
                continue
            best = max(rule.kept for rule, _ in fits)
            enough = best - _AS_GOOD * (best < 1)
            fits = [fit for fit in fits if fit[0].kept >= enough]
            least = _AS_TIGHT * min(rule.looseness for rule, _ in fits)
            rule, grown = next(fit for fit in fits if fit[0].looseness <= least)
            yield rule
            seen.add(frozenset(grown))
            are_equal = len(grown) == 2 and {*map(abs, grown.values())} == {1}
            if are_equal and rule.kept == 1:
                _, coarsest = max(zip(map(abs, rule.weights), rule.places, strict=True))
                search.leave_out(coarsest if rule.is_rounded else max(grown))

    @classmethod
    def _fitted(
        cls, terms: Terms, rows: Rows, sample: Rows, random: np.random.Generator
    ) -> Self | None:
        """Finds what a sum is, exactly or but for rounding, and tests it."""
        places = tuple(sorted(terms))
        parts = [column for p in places if isinstance(column := rows.columns[p], Number)]
        is_real = any(part.lattice.fine for part in parts)
        shares = [
            terms[p] * (1 if is_real else scale(c)) for p, c in zip(places, parts, strict=True)
        ]
        weights: tuple[int | float, ...] = tuple(map(float, shares))
        if not is_real:
            common = math.lcm(*(share.denominator for share in shares))
            whole = [int(share * common) for share in shares]
            weights = tuple(each // math.gcd(*whole) for each in whole)
            if not _is_exact([2 * weight for weight in weights], parts):
                return None
        rule = cls(kind="linear", places=places, weights=weights)
        known = np.flatnonzero(sample.known(places))
        x = rule._amounts(sample.take(known, places))
        sums = np.asarray(sum(w * each for w, each in zip(weights, x, strict=True)))
        if not len(sums):
            return None
        if is_real:
            total = _mode(np.sort(sums), _MODE) or 0.0
            near = _NEAR_SINGLE * np.max(np.abs(x)) * max(map(abs, weights))
            total = 0.0 if abs(total) <= near else total
            return rule.model_copy(update={"total": total}).tested(rows, random)
        values, counts = np.unique(sums, return_counts=True)
        exact = rule.model_copy(update={"total": int(values[counts.argmax()])}).tested(rows, random)
        most = int(max(map(abs, weights)))
        if most == 1 or (exact and exact.kept == 1):
            return exact
        ways: list[dict[str, object]] = []
        for weight in sorted({int(abs(each)) for each in weights} - {1}):  # of a rounded column
            middle = float(np.median(sums)) / weight
            ways.append({"total": round(middle) * weight, "slack": weight // 2})
            # Digits are cut off, so that there are as many below a middle as above it.
            odd = 2 * math.floor(middle) + 1
            for end in sorted((odd - 1, odd + 1), key=abs):
                ways.append({"total": odd * weight + end - odd, "slack": weight - 1})
                ways[-1]["weights"] = tuple(2 * each for each in weights)
        tests = [rule.model_copy(update=way).tested(rows, random) for way in ways]
        loose = max(filter(None, tests), key=lambda each: each.kept, default=None)
        return loose if loose and (not exact or loose.kept > exact.kept + 0.005) else exact


def _is_exact(weights: Sequence[float], parts: Sequence[Number]) -> bool:
    """Whether whole numbers of 64 bits have room for weighted sums of columns."""
    most = sum(abs(w) * furthest(part) for w, part in zip(weights, parts, strict=True))
    return most < largest(parts)


def _times(ratio: Fraction, name: str) -> str:
    """Writes a multiple of a column."""
    if ratio == 1:
        return name
    return f"{name}/{ratio.denominator}" if ratio.numerator == 1 else f"{float(ratio):g}*{name}"


def _mode(ordered: np.ndarray, share: float, near: float = _NEAR) -> float | None:
    """Returns what a share of sorted numbers (n,), NaN last, has but for rounding; else None."""
    ordered = ordered[: len(ordered) - int(np.isnan(ordered).sum())]
    width = math.ceil(share * len(ordered)) - 1
    if width < 4:
        return None
    gaps = ordered[width:] - ordered[:-width]
    least = int(gaps.argmin())
    size = max(abs(ordered[0]), abs(ordered[-1])) if near == _NEAR else abs(ordered[least])
    return float(ordered[least + width // 2]) if gaps[least] <= near * size else None


class _Search:
    """Searches real numbers of columns (k, n), NaN where missing, for sums that are constant."""

    def __init__(self, places: list[int], columns: list[Number], cells: np.ndarray) -> None:
        self.places, self.columns, self.cells = places, columns, cells
        self.zones = [
            c.storage.zone or "" if c.storage.holds == "moment" else None for c in columns
        ]
        self.is_used = np.ones(len(places), dtype=bool)

    def leave_out(self, place: int) -> None:
        """Leaves a column out of further candidates."""
        self.is_used[self.places.index(place)] = False

    def _used(self, is_date: bool) -> list[int]:
        used = np.flatnonzero(self.is_used).tolist()
        return [i for i in used if (self.zones[i] is not None) == is_date]

    def candidates(self, random: np.random.Generator) -> Iterator[list[Terms]]:
        """Gives candidates, those of fewer columns first, each with what it may be instead."""
        for one, other in combinations(range(len(self.places)), 2):
            if self.is_used[[one, other]].all() and self.zones[one] == self.zones[other]:
                a, b = self.cells[[one, other], :_PAIRED]
                if _mode(np.sort(b - a), _MODE) is not None:
                    yield [self._terms({one: 1, other: -1})]
                elif self.zones[one] is None:
                    yield [self._terms({one: f, other: -1}) for f in self._factors(one, other)]
        dates, amounts = self._used(True), self._used(False)
        for one, other in combinations(dates, 2):
            if self.zones[one] == self.zones[other]:
                yield from ([terms] for terms in self._dated(one, other, amounts))
        for coefficients in self._sums(np.array(amounts, int), random):
            if self.is_used[[*coefficients]].all():
                yield [self._terms(coefficients)]

    def _terms(self, coefficients: Mapping[int, Fraction | int]) -> Terms:
        return {self.places[i]: Fraction(share) for i, share in coefficients.items()}

    def _factors(self, one: int, other: int) -> list[Fraction]:
        """Returns factors, simple ones first, by which one column may be another."""
        a, b = self.cells[[one, other]][:, np.argsort(self.cells[one])]
        half = (len(a) - int(np.isnan(a).sum())) // 2
        one_more, other_more = a[half : 2 * half] - a[:half], b[half : 2 * half] - b[:half]
        with np.errstate(all="ignore"):  # numbers may be as large or as small as there are
            ratios = other_more / one_more
        ratios[~np.isfinite(ratios) | (ratios == 0)] = np.nan
        some = ratios[:: max(1, len(ratios) // _PAIRED)]
        middle = _mode(np.sort(some), _PAIRS, _NEAR_RATIO)
        near = ~np.isnan(ratios)
        if middle is not None:
            near &= np.abs(ratios / middle - 1) < 2 * _NEAR_RATIO
        size = np.abs(one_more[near]).max(initial=0)
        x, y = one_more[near] / (size or 1), other_more[near] / (size or 1)
        factor = float(x @ y / (x @ x)) if size else 0.0
        if middle is None and not self._is_rounding(one, other, factor):
            return []
        parts = [self.columns[i] for i in (one, other)]
        if any(part.lattice.fine for part in parts):
            return [Fraction(factor).limit_denominator(d) for d in (1_000, 10**6, 10**9)]
        factor = _slope(a, b, factor, [float(scale(part)) for part in parts])
        simple = [Fraction(factor).limit_denominator(d) for d in _DENOMINATORS]
        for digits in range(2, 8):
            simple.append(Fraction(f"{factor:.{digits}g}"))
            simple.append(1 / Fraction(f"{1 / factor:.{digits}g}"))
        return [each for each in dict.fromkeys(simple) if each]

    def _is_rounding(self, one: int, other: int, factor: float) -> bool:
        """Whether one column times a factor is another, but for steps of the coarser one."""
        parts = [self.columns[i] for i in (one, other)]
        if any(part.lattice.fine for part in parts):
            return False
        a, b = self.cells[[one, other], :_PAIRED]
        known = ~np.isnan(a + b)
        if not known.any():
            return False
        step = max(float(scale(parts[1])), abs(factor) * float(scale(parts[0])))
        off = b[known] - factor * a[known]
        is_near = np.abs(off - np.median(off)) <= _ROUNDED_OFF * step
        is_wide = np.std(b[known]) > _ROUNDED_SPREAD * step
        return bool(is_wide and is_near.mean() >= 1 - _RARELY)

    def _dated(self, one: int, other: int, amounts: Sequence[int]) -> Iterator[Terms]:
        """Gives numbers that two dates are apart, in any unit."""
        days = self.cells[other] - self.cells[one]
        for number, unit in product(amounts, _CLOCK):
            apart = self.cells[number] / unit
            known = ~np.isnan(days + apart)
            off = (np.abs(days) - np.abs(apart))[known]
            if known.any() and (np.abs(off) < 1e-7).mean() > _DATED and (days[known] != 0).any():
                sign = 1 if np.sum(days[known] * apart[known]) > 0 else -1
                yield self._terms({one: 1, other: -1, number: Fraction(sign, unit)})

    def _sums(self, used: np.ndarray, random: np.random.Generator) -> list[dict[int, int]]:
        """Finds signed sums of three to six columns that are constant in most rows."""
        if len(used) < 3:
            return []
        cells = self.cells[used]
        rows = np.argsort(np.isnan(cells).sum(axis=0), kind="stable")[
            : max(100, len(cells[0]) // 10)
        ]
        is_single = any(
            self.columns[i].storage.limits[1] < 1e39 for i in used if self.columns[i].lattice.fine
        )
        sides = _sides(len(used), is_single)
        found = []
        for _ in range(_HASHES):
            some = random.permutation(rows)[: _HASHED_ROWS + 1]
            moves = cells[:, some[1:]] - cells[:, some[:1]]
            hashes = np.append(moves @ random.normal(size=moves.shape[1]), 0.0)
            hashes[hashes == 0] = np.nan
            hashes[-1] = 0.0  # of no column
            sums = (hashes[sides[0]] * sides[1]).sum(axis=1)
            sums = np.where(np.isnan(sums), np.inf, sums)
            order = np.argsort(np.abs(sums))
            size = np.abs(sums[order])
            near = _NEAR_SINGLE if is_single else _NEAR_HASH
            with np.errstate(invalid="ignore"):
                (equal,) = np.nonzero(np.diff(size) <= near * size[1:])
            first, second = order[equal], order[equal + 1]
            if len(first) > _MOST_CANDIDATES:
                some = random.permutation(len(first))[:_MOST_CANDIDATES]
                first, second = first[some], second[some]
            turn = np.where(np.sign(sums[first]) == np.sign(sums[second]), -1, 1)
            shares = np.zeros((len(first), len(hashes)), dtype=np.int8)
            for members, signs in ((first, 1), (second, turn)):
                for i in range(3):
                    at = np.arange(len(first)), sides[0][members, i]
                    shares[at] += (sides[1][members, i] * signs).astype(np.int8)
            found.append(self._likely(shares[:, :-1], cells, random))
        shares = np.unique(np.concatenate(found), axis=0)
        order = np.argsort(np.abs(shares).sum(axis=1), kind="stable")
        return [{int(used[i]): int(row[i]) for i in np.flatnonzero(row)} for row in shares[order]]

    def _likely(
        self, shares: np.ndarray, cells: np.ndarray, random: np.random.Generator
    ) -> np.ndarray:
        """Returns those of signed sums (m, k) of three columns or more that many rows keep."""
        count = np.abs(shares).sum(axis=1)
        shares = shares[(np.abs(shares).max(axis=1, initial=0) == 1) & (count > 2)]
        first = np.take_along_axis(shares, (shares != 0).argmax(axis=1)[:, None], 1)
        shares = np.unique(shares * first, axis=0)
        some = cells[:, random.permutation(len(cells[0]))[:64]]
        gaps, filled = np.isnan(some).astype(float), np.nan_to_num(some)
        sums = np.where(np.abs(shares) @ gaps > 0, np.nan, shares @ filled)
        sizes = np.abs(shares) @ np.abs(filled)
        known = np.asarray(~np.isnan(sums))
        middle = np.nanmedian(np.where(known.any(axis=1, keepdims=True), sums, 0.0), axis=1)
        near = np.abs(sums - middle[:, None]) <= _NEAR_SINGLE * sizes
        enough = (1 - 2 * _RARELY) * np.maximum(known.sum(axis=1), 1)
        return np.asarray(shares[np.asarray(near.sum(axis=1) >= enough)])

    def grown(self, terms: Terms) -> list[Terms]:
        """Returns a candidate, and before it those that grow from it."""
        result = [terms]
        while len(terms) < _MOST_PARTS:
            chosen = [self.places.index(place) for place in terms]
            if any(self.zones[i] is not None for i in chosen):
                break
            rest = np.array([float(share) for share in terms.values()]) @ self.cells[chosen]
            total = _mode(np.sort(rest), _MODE)
            if total is None:
                break
            rest -= total
            size = np.abs(self.cells[chosen]).sum(axis=0)
            broken = np.asarray(np.abs(rest) > _NEAR_SINGLE * size)
            others = [i for i in self._used(False) if i not in chosen]
            if broken.sum() < 5 or not others:
                break
            part, rest, size = self.cells[others][:, broken], rest[broken], size[broken]
            known = np.maximum((~np.isnan(part)).sum(axis=1), 5)
            off = np.abs([rest + part, rest - part])
            equal = np.asarray((off <= _NEAR * size).sum(axis=2) / known)
            turn, which = divmod(int(equal.argmax()), len(others))
            if equal.max() < _REMAINING:
                break
            terms = {**terms, self.places[others[which]]: Fraction(1 - 2 * turn)}
            result.insert(0, terms)
        return result


def _slope(a: np.ndarray, b: np.ndarray, slope: float, steps: Sequence[float]) -> float:
    """Returns the slope about which b, (n,), is a line of a, (n,), but for rounding of one.

    All rows together leave a narrow range of slopes; where they leave none, it is as estimated.
    """
    known = ~np.isnan(a + b) & (a != 0)
    a, b = a[known], b[known]
    for half in sorted((abs(slope) * steps[0] / 2, steps[1] / 2)):
        # What is added is whole steps, or half ones where digits are cut off.
        added = round(float(np.median(b - slope * a)) / half) * half if len(a) else 0.0
        ends = np.sort([(b - added - half) / a, (b - added + half) / a], axis=0)
        low, high = ends[0].max(initial=-np.inf), ends[1].min(initial=np.inf)
        if low <= high < np.inf:
            return float(low + high) / 2
    return slope


def _sides(count: int, is_single: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns signed sums of up to three of ``count`` columns: columns and signs, each (m, 3).

    The first sign is +, and ``count`` is no column. Of many columns, and of numbers in single
    precision, there are at most two.
    """
    members, signs = [], []
    for most in (1, 2, 3):
        num = math.comb(count, most) * 2 ** (most - 1)
        if most == 3 and (is_single or num > _MOST_SUMS):
            break
        chosen = np.array([*combinations(range(count), most)]).reshape(-1, most)
        for turns in product((1, -1), repeat=most - 1):
            padded = np.full((len(chosen), 3), count)
            padded[:, :most] = chosen
            members.append(padded)
            signs.append(np.tile([1, *turns, *[1] * (3 - most)], (len(chosen), 1)))
    return np.concatenate(members), np.concatenate(signs)
