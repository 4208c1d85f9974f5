"""Functional dependencies: a category that always implies that of another column.

A city implies its region, a code its label. In the rows trained on, the categories (or levels) of
one column, the determinant, each occur with a single one of another, the dependent. A network
learns this only nearly, so rows that are drawn are made to obey it: the dependent cell follows from
the determinant; where it is told, the determinant takes the nearest category that agrees with it.

Few rows can agree by chance. Of n rows, those beyond the first of each category of the determinant
could contradict; with shares p of the dependent's categories, each of them would do so with a
probability of 1 - sum(p^2) if the columns were independent. A dependency is accepted if no row
contradicts it, although at least 20 would then be expected to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from annotated_types import Len
from pydantic import Field

from kan_diffusion.settings import Settings
from kan_diffusion.tables.columns import MOST_CATEGORIES, Column

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Dependency", "find_dependencies", "nearest_agreeing"]

_EVIDENCE = 20.0
_GLANCE = 1_000


class Dependency(Settings):
    """A dependency of one column on another.

    Attributes:
        determinant: Place of the column that decides.
        dependent: Place of the column that follows.
        places: For each category of the determinant, that of the dependent; -1 if unknown.
    """

    determinant: Annotated[int, Field(ge=0)]
    dependent: Annotated[int, Field(ge=0)]
    places: Annotated[tuple[Annotated[int, Field(ge=-1)], ...], Len(1, MOST_CATEGORIES)]


def find_dependencies(columns: tuple[Column, ...], frame: pd.DataFrame) -> tuple[Dependency, ...]:
    """Finds the dependencies between columns of categories or levels.

    A column follows from one other at most, the one with the most categories of those that follow
    from none; of two columns with equally many categories, the later follows from the earlier.

    Args:
        columns: The columns.
        frame: Rows trained on.

    Returns:
        The dependencies; no determinant is itself a dependent.
    """
    codes = {
        place: column.codes(frame.iloc[:, place])
        for place, column in enumerate(columns)
        if len(column.categories) > 1
    }
    order = sorted(codes, key=lambda place: -len(columns[place].categories))
    found: list[Dependency] = []
    for number, dependent in enumerate(order):
        followers = {each.dependent for each in found}
        for determinant in (place for place in order[:number] if place not in followers):
            count = len(columns[determinant].categories)
            places = _implied(codes[determinant], codes[dependent], count)
            if places is not None:
                found.append(
                    Dependency(determinant=determinant, dependent=dependent, places=places)
                )
                break
    return tuple(found)


def _implied(given: np.ndarray, other: np.ndarray, count: int) -> tuple[int, ...] | None:
    """Returns what each of ``count`` given codes implies; None if they imply nothing."""
    both = (given >= 0) & (other >= 0)
    given, other = given[both], other[both]
    implied = np.full(count, -1)
    for rows in (slice(_GLANCE), slice(None)):  # most columns contradict each other at once
        implied[given[rows]] = other[rows]
        if (implied[given[rows]] != other[rows]).any():
            return None
    shares = np.bincount(other) / max(len(other), 1)
    possible = len(other) - int((implied >= 0).sum())
    if possible * (1 - (shares**2).sum()) < _EVIDENCE:
        return None
    return tuple(implied.tolist())


def nearest_agreeing(places: np.ndarray, implied: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns the nearest category of a determinant that implies what is wanted.

    Args:
        places: Category of the determinant, shape (n,).
        implied: What its categories imply in m dependents, shape (m, K).
        wanted: Category of each dependent, shape (m, n); -1 if any will do.

    Returns:
        Shape (n,); unchanged where no category agrees with all that is wanted.
    """
    result = places.copy()
    for each in np.unique(wanted, axis=1).T:
        asked = each >= 0
        agreeing = np.flatnonzero((implied[asked] == each[asked, None]).all(axis=0))
        if len(agreeing):
            rows = np.flatnonzero((wanted == each[:, None]).all(axis=0))
            above = np.searchsorted(agreeing, places[rows]).clip(1, max(len(agreeing) - 1, 1))
            sides = agreeing[np.stack([above - 1, np.minimum(above, len(agreeing) - 1)])]
            nearer = np.abs(sides - places[rows]).argmin(axis=0)
            result[rows] = np.take_along_axis(sides, nearer[None], axis=0)[0]
    return result
