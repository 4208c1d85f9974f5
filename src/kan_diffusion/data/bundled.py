"""The tables that come with scikit-learn: real measurements that need no network.

Their continuous columns, in their own units and under their own names:

* ``iris``: 150 flowers, 4 lengths and widths (Fisher 1936; Anderson 1935);
* ``wine``: 178 wines, 13 chemical measurements (Forina et al. 1988, PARVUS);
* ``breast-cancer``: 569 tumours, 30 measurements of cell nuclei (Street, Wolberg and Mangasarian
  1993);
* ``diabetes``: 442 patients, age and 8 measurements without the column ``sex`` (Efron et al. 2004,
  "Least angle regression").

What each table is usually made to predict, a class or the course of a disease, is left out. Values
are rounded as they were written down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from kan_diffusion.errors import look_up

__all__ = ["TABLES", "bundled_table"]

Rows = tuple[np.ndarray, tuple[str, ...]]


def _rows(loader: str, left_out: tuple[str, ...] = (), **options: bool) -> Rows:
    """The rows and column names that a loader of ``sklearn.datasets`` gives."""
    from sklearn import datasets

    table = getattr(datasets, loader)(**options)
    kept = [place for place, name in enumerate(table.feature_names) if name not in left_out]
    return table.data[:, kept], tuple(str(table.feature_names[place]) for place in kept)


TABLES: Mapping[str, Callable[[], Rows]] = {
    "iris": partial(_rows, "load_iris"),
    "wine": partial(_rows, "load_wine"),
    "breast-cancer": partial(_rows, "load_breast_cancer"),
    "diabetes": partial(_rows, "load_diabetes", left_out=("sex",), scaled=False),
}
"""Readers of the tables, by the name a user writes."""


def bundled_table(name: str) -> Rows:
    """Reads a table.

    Args:
        name: One of `TABLES`.

    Returns:
        Values with shape (n, d), float64, and d names.

    Raises:
        KanDiffusionError: There is no table of that name.
    """
    values, columns = look_up("table", name, TABLES)()
    return np.asarray(values, dtype=np.float64), columns
