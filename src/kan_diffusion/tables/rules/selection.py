"""Which of the rules that rows keep a table takes, and which column each of them tells.

Each column depends on others by one rule at most, and not on itself. Then rules come in an order in
which columns come before those that depend on them, and a rule that follows from others has no
column left to tell. The surest come first.

Whether the others follow is tried: rows whose columns have no relation are drawn and mended by the
rules that are taken. A rule that all or nearly all rows of the data keep and more of these break
comes before all others, if fewer rows break rules then.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from itertools import chain

import numpy as np

from kan_diffusion.limits import MOST_CODES, MOST_RULES
from kan_diffusion.tables.rules.base import Places, Rows, Rule
from kan_diffusion.tables.rules.mending import obey
from kan_diffusion.tables.rules.together import Together, joined

logger = logging.getLogger("kan_diffusion.tables")

_DRAWN, _LUCK = 1_000, 0.01  # rows that tell whether rules follow, and share of what is luck
_MOST_TRIED = 8  # rules that come before all others


class Selection:
    """Rules that are taken, and what columns follow from by them.

    Attributes:
        rules: The rules by their number, with the columns that they tell.
        left_out: How many rules there was no room for.
        behind: What each dependent column follows from, and that in turn.
        roots: What each column follows from in nearly all rows, and that exactly; itself if from
            nothing.
    """

    def __init__(self, num: int) -> None:
        self.rules: dict[int, Rule] = {}
        self.left_out = 0
        self.behind: dict[int, set[int]] = {}
        self.roots = {place: {place} for place in range(num)}

    @property
    def likely(self) -> list[Rule]:
        """What holds between cells of all or nearly all rows."""
        return [rule for rule in self.rules.values() if _is_between(rule) and not rule.is_weak]

    def take(self, number: int, rule: Rule, choices: Iterable[Places]) -> None:
        """Takes a rule, which tells the first of its choices that is free, if there is one."""
        for dependent in choices:
            parts = {*rule.places}.difference(dependent)
            behind = self._all_behind(parts)
            if self.behind.keys().isdisjoint(dependent) and behind.isdisjoint(dependent):
                break
        else:
            return
        if not _has_room(self.rules.values(), rule):
            self.left_out += 1
            return
        self.rules[number] = rule.model_copy(update={"dependent": dependent})
        _follow(self.behind, dependent, behind)
        if not (rule.is_weak or rule.is_rounded):
            _follow(self.roots, dependent, self._all_roots(parts))
            for place, roots in self.roots.items():
                self.roots[place] = roots.difference(dependent)

    def is_known(self, rule: Rule) -> bool:
        """Whether a rule says nothing new beside those that are taken."""
        if not rule.is_relation:
            return not self.behind.keys().isdisjoint(rule.places)
        return self._is_of_one(rule) or (rule.is_weak and self._is_in_another(rule))

    def is_beside(self, rule: Rule) -> bool:
        """Whether the columns of a rule follow from one, or are all in another rule."""
        return self._is_of_one(rule) or self._is_in_another(rule)

    def _is_of_one(self, rule: Rule) -> bool:
        return len(self._all_roots(rule.places)) < 2

    def _is_in_another(self, rule: Rule) -> bool:
        return any(each.dependent and {*rule.places} <= {*each.places} for each in self.likely)

    def is_of_followers(self, rule: Rule) -> bool:
        """Whether what a rule tells follows from columns that depend on others."""
        return not self.behind.keys().isdisjoint({*rule.places}.difference(rule.dependent))

    def in_order(self) -> list[Rule]:
        """Returns rules of columns that nothing tells, or fewer do, before those of others."""

        def order(rule: Rule) -> int:
            behind = self._all_behind(rule.places)
            adapts = rule.dependent or rule.is_loose or behind != {*rule.places}
            return len(behind) if adapts else 0

        return sorted(joined(self.rules[number] for number in sorted(self.rules)), key=order)

    def _all_behind(self, places: Collection[int]) -> set[int]:
        """Returns columns and all that they follow from."""
        return {*places}.union(*(self.behind.get(place, ()) for place in places))

    def _all_roots(self, places: Collection[int]) -> set[int]:
        return set().union(*(self.roots[place] for place in places))


def select(found: Iterable[Rule], rows: Rows) -> list[Rule]:
    """Takes of the rules of rows those that do not follow from others.

    Returns:
        The rules in the order in which they are mended, with the columns that they tell.
    """
    found = sorted(found, key=_order_found)
    choices = cache(lambda number: found[number].choices(rows))
    # What tells no column is taken at last.
    telling = [n for n, rule in enumerate(found) if not _is_between(rule) or choices(n)[0]]
    likely = [n for n in telling if _is_between(found[n]) and not found[n].is_weak]

    def taken(order: Iterable[int]) -> tuple[Selection, np.ndarray]:
        """Takes rules in an order, and tells how much more often than by the data all break."""
        selection, late = Selection(len(rows.columns)), list[int]()
        for number in chain(order, late):
            rule = found[number]
            if rule.dependent and number not in late and selection.is_of_followers(rule):
                late.append(number)
            elif rule.is_of_gaps or not selection.is_known(rule):
                selection.take(number, rule, choices(number))
        return selection, _lost(found, selection.likely, rows)

    order, tried = telling, set[int]()
    selection, lost = taken(order)
    for _ in range(_MOST_TRIED):
        untried = [n for n in likely if lost[n] and n not in tried]
        if not untried:
            break
        first = max(untried, key=lambda n: lost[n])
        tried.add(first)
        other_order = [first, *(n for n in order if n != first)]
        other, lost_then = taken(other_order)
        if lost_then[likely].sum() < lost[likely].sum():
            order, selection, lost = other_order, other, lost_then
    for number in sorted({*range(len(found))}.difference(telling)):
        rule = found[number]
        if lost[number] or not selection.is_beside(rule):
            selection.take(number, rule, choices(number))
    if selection.left_out:
        logger.warning(f"{selection.left_out:,} rules more than a table may have are left out")
    return selection.in_order()


def _is_between(rule: Rule) -> bool:
    return rule.is_relation and not rule.is_of_gaps


def _lost(found: Sequence[Rule], kept: Sequence[Rule], rows: Rows) -> np.ndarray:
    """Returns which share of rows that keep others break each rule, beyond that of the data.

    What all rows keep has to follow from what all keep, also where cells are missing.
    """
    lost = np.zeros(len(found))
    for is_exact in (True, False):
        drawn = _drawn(rows, [rule for rule in kept if rule.kept == 1 or not is_exact], is_exact)
        for number, rule in enumerate(found):
            if _is_between(rule) and (rule.kept == 1) == is_exact:
                more = rule.kept - rule.holds(drawn).mean()
                lost[number] = more if is_exact or more > _LUCK else 0
    return lost


def _drawn(rows: Rows, kept: Sequence[Rule], with_gaps: bool) -> Rows:
    """Draws rows whose columns have no relation, and mends them by some rules."""
    random = np.random.default_rng(0)
    cells = []
    for column, (known, missing) in zip(rows.columns, rows.cells, strict=True):
        values, gaps = column.decode(random.standard_normal((_DRAWN, len(column.coordinates))))
        if column.is_discrete and not missing.all():  # categories are points, and not normal
            values = random.choice(known[~missing], _DRAWN)
        cells.append((values, gaps & with_gaps))
    drawn, none = Rows(rows.columns, cells), np.zeros((_DRAWN, len(cells)), dtype=bool)
    obey(drawn, kept, np.ones((_DRAWN, len(kept))), none, none)
    return drawn


def _order_found(rule: Rule) -> tuple[bool, ...]:
    """Sorts relations first, of these what all or nearly all rows keep, and that exactly.

    What cells imply comes last, as many different sums imply their parts by chance.
    """
    has_exceptions = rule.kept < 1
    is_less, is_listed = has_exceptions and rule.is_rounded, isinstance(rule, Together)
    order = rule.is_weak, is_less, is_listed, rule.is_rounded, has_exceptions
    return not rule.is_relation, *order


def _has_room(rules: Collection[Rule], rule: Rule) -> bool:
    """Whether one more rule is not too many, nor are the cells that all list."""
    if len(rules) >= MOST_RULES:
        return False
    return not rule.size or sum(each.size for each in [*rules, rule]) <= MOST_CODES


def _follow(those: dict[int, set[int]], dependent: Collection[int], parts: set[int]) -> None:
    """Lets columns follow from ``parts``, and so do all that follow from these columns."""
    for place, others in those.items():
        if not others.isdisjoint(dependent):
            those[place] = others | parts
    those |= dict.fromkeys(dependent, parts)
