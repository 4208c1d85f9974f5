"""Which columns follow from which, by the rules that a table has.

Each column depends on others by one rule at most, and not on itself. Then rules come in an order in
which columns come before those that depend on them, and a rule that follows from others has no
column left to tell.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from kan_diffusion.tables.rules.base import Places, Rows, Rule


class Dependence:
    """Rules, and what columns follow from by them.

    Attributes:
        rules: The rules, with the columns that they tell.
        behind: What each dependent column follows from, and that in turn.
        roots: What each column follows from in nearly all rows, and that exactly; itself if from
            nothing.
        known: The rules by which columns follow in nearly all rows.
    """

    def __init__(self, num: int) -> None:
        self.rules: list[Rule] = []
        self.behind: dict[int, set[int]] = {}
        self.roots = {place: {place} for place in range(num)}
        self.known: list[Rule] = []

    def add(self, rule: Rule) -> bool:
        """Adds a rule that tells what it says, if that is free, and tells whether it is."""
        dependent = rule.dependent
        if not self._is_free(rule, dependent):
            return False
        parts = {*rule.places}.difference(dependent)
        self.rules.append(rule)
        _follow(self.behind, dependent, self.all_behind(parts))
        if dependent and not rule.is_weak:
            self.known.append(rule)
            if not rule.is_rounded:
                _follow(self.roots, dependent, self._all_roots(parts))
                for place, roots in self.roots.items():
                    self.roots[place] = roots.difference(dependent)
        return True

    def extended(
        self, rule: Rule, choices: Sequence[Places], rows: Rows, may_move: bool
    ) -> Dependence | None:
        """Returns what there is with a rule that tells the first free one of choices.

        If none is free, one of the other rules may move, and tell another column. None if that does
        not help either.
        """
        for others in [self.rules, *(self._moved(rule, choices, rows) if may_move else ())]:
            for dependent in choices:
                result = Dependence(len(self.roots))
                told = rule.model_copy(update={"dependent": dependent})
                if all(map(result.add, [*others, told])):
                    return result
        return None

    def all_behind(self, places: Collection[int]) -> set[int]:
        """Returns columns and all that they follow from."""
        return {*places}.union(*(self.behind.get(place, ()) for place in places))

    def is_of_one(self, rule: Rule) -> bool:
        """Whether all columns of a rule follow from a single one."""
        return len(self._all_roots(rule.places)) < 2

    def is_of_followers(self, rule: Rule) -> bool:
        """Whether what a rule tells follows from columns that depend on others."""
        return not self.behind.keys().isdisjoint({*rule.places}.difference(rule.dependent))

    def _all_roots(self, places: Collection[int]) -> set[int]:
        return set().union(*(self.roots[place] for place in places))

    def _is_free(self, rule: Rule, dependent: Places) -> bool:
        """Whether no rule tells columns yet, and none of the others follows from them."""
        parts = self.all_behind({*rule.places} - {*dependent})
        return self.behind.keys().isdisjoint(dependent) and parts.isdisjoint(dependent)

    def _moved(self, rule: Rule, choices: Sequence[Places], rows: Rows) -> Iterator[list[Rule]]:
        """Lets one rule tell another column, so that one of choices may become free.

        Yields:
            The rules with one that tells a choice, or what its parts follow from, told otherwise.
        """
        for number, other in enumerate(self.rules):
            parts = (self.all_behind({*rule.places} - {*each}) for each in choices)
            through = (self.all_behind(each.intersection(other.dependent)) for each in parts)
            blocked = {*other.dependent}.union(*through)
            if other.dependent and any(not blocked.isdisjoint(each) for each in choices):
                for dependent in filter(None, other.choices(rows)):
                    if dependent != other.dependent:
                        moved = other.model_copy(update={"dependent": dependent})
                        yield [*self.rules[:number], moved, *self.rules[number + 1 :]]


def _follow(those: dict[int, set[int]], dependent: Collection[int], parts: set[int]) -> None:
    """Lets columns follow from ``parts``, and so do all that follow from these columns."""
    for place, others in those.items():
        if not others.isdisjoint(dependent):
            those[place] = others | parts
    those |= dict.fromkeys(dependent, parts)
