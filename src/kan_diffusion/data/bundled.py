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

import numpy as np

from kan_diffusion.errors import unknown_name

__all__ = ["TABLES", "bundled_table"]

Rows = tuple[np.ndarray, tuple[str, ...]]


def _iris() -> Rows:
    from sklearn.datasets import load_iris

    table = load_iris()
    return table.data, tuple(table.feature_names)


def _wine() -> Rows:
    from sklearn.datasets import load_wine

    table = load_wine()
    return table.data, tuple(table.feature_names)


def _breast_cancer() -> Rows:
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    return table.data, tuple(str(name) for name in table.feature_names)


def _diabetes() -> Rows:
    from sklearn.datasets import load_diabetes

    table = load_diabetes(scaled=False)
    kept = [place for place, name in enumerate(table.feature_names) if name != "sex"]
    return table.data[:, kept], tuple(table.feature_names[place] for place in kept)


TABLES: Mapping[str, Callable[[], Rows]] = {
    "iris": _iris,
    "wine": _wine,
    "breast-cancer": _breast_cancer,
    "diabetes": _diabetes,
}
"""What reads each table, by the name a user writes."""


def bundled_table(name: str) -> Rows:
    """The rows of a table and the names of its columns.

    Args:
        name: One of `TABLES`.

    Returns:
        Values with shape (n, d), float64, and d names.

    Raises:
        KanDiffusionError: There is no table of that name.
    """
    if name not in TABLES:
        raise unknown_name("table", name, TABLES)
    values, columns = TABLES[name]()
    return np.asarray(values, dtype=np.float64), columns
