r"""Orders of categories in which neighbours occur together with similar other cells.

The rows' scores are the axes of a multiple correspondence analysis with numbers among the columns
(Greenacre 1984; Pagès 2004). With the projections :math:`P_q` of the rows on the indicators of
column q's categories, or on its normal scores (0 without a value), they
are the leading eigenvectors of the mean of the Q projections,
:math:`\frac 1Q \sum_q P_q u_k = \lambda_k u_k`, without the constant one. An axis that one column
has to itself has :math:`\lambda = 1/Q` and says nothing about dependence; so axis k counts by what
exceeds that, and a category is at

.. math:: g_k = \frac{\bar u_k}{\sqrt{\lambda_k}} \cdot \frac Q{Q-1} \max(\lambda_k - 1/Q, 0),

where :math:`\bar u_k` is the mean over its rows (Benzécri 1979). Categories that imply each other,
such as a country and its only currency, are at the same place.

The categories of a column, of many the 400 most frequent, are then clustered by average linkage,
and the clusters are laid out so that neighbours are as close as possible (optimal leaf ordering,
Bar-Joseph et al. 2001, by SciPy), in the direction of the strongest axis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.sparse import csr_array, hstack
from scipy.spatial import cKDTree

from kan_diffusion.tables.kinds.category import Category

if TYPE_CHECKING:
    import pandas as pd

    from kan_diffusion.tables.kinds import Kind

_MOST_ROWS = 20_000
_AXES = 16
_ROUNDS = 20
_MOST = 400  # categories that are clustered; each other one is laid beside the nearest of them


def arranged(columns: tuple[Kind, ...], frame: pd.DataFrame) -> tuple[Kind, ...]:
    """Orders the categories of columns that have no order of their own, by at most 20,000 rows."""
    random = np.random.default_rng(0)
    rows = np.sort(random.choice(len(frame), min(len(frame), _MOST_ROWS), replace=False))
    parts = [_span(column, frame.iloc[rows, place]) for place, column in enumerate(columns)]
    spans = [span for span in parts if span is not None]
    if len(spans) < 2 or all(span.shape[1] < 3 for span in spans):
        return columns
    axes, result = _axes(spans, random), [*columns]
    for place, (column, span) in enumerate(zip(columns, parts, strict=True)):
        if isinstance(column, Category) and span is not None and span.shape[1] > 2:
            counts = span.sum(axis=0)
            result[place] = column.in_order(
                _order(span.T @ axes / np.maximum(counts, 1)[:, None], counts)
            )
    return tuple(result)


def _span(column: Kind, cells: pd.Series) -> csr_array | None:
    """Returns the vectors that a column's projection is on, (n, 1 or number of categories)."""
    if column.is_discrete and not column.storage.ordered:
        codes = column.codes(*column.read(cells))
        rows = np.flatnonzero(codes >= 0)
        entries = np.ones(len(rows)), (rows, codes[rows])
        return csr_array(entries, shape=(len(cells), len(column.known)))
    value = column.encode(cells, None, partial=True)[:, int(column.has_gaps) :]
    return csr_array(np.nan_to_num(value)) if value.shape[1] else None


def _axes(spans: list[csr_array], random: np.random.Generator) -> np.ndarray:
    """Returns the rows' scores on the leading axes by their weight, (n, K), the strongest last.

    Axes are found by subspace iteration.
    """
    stacked = hstack(spans, format="csr")
    norms = np.sqrt(stacked.power(2).sum(axis=0))
    unit = stacked / np.where(norms > 0, norms, 1)
    scores = random.standard_normal((unit.shape[0], min(_AXES, *unit.shape)))
    for _ in range(_ROUNDS):
        scores, _ = np.linalg.qr(scores - scores.mean(axis=0))
        scores = unit @ (unit.T @ scores)
    scores, _ = np.linalg.qr(scores - scores.mean(axis=0))
    parts = unit.T @ scores
    inertia, turn = np.linalg.eigh(parts.T @ parts / len(spans))
    weights = np.maximum(inertia - 1 / len(spans), 0) / np.sqrt(np.maximum(inertia, 1e-12))
    return scores @ turn * np.sqrt(len(scores)) * weights


def _order(points: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns an order of m categories, at least 3, in which near ones are neighbours, (m,)."""
    often = np.sort(np.argsort(-counts, kind="stable")[:_MOST])
    place = np.argsort(leaves_list(linkage(points[often], "average", optimal_ordering=True)))
    if (place - place.mean()) @ points[often, -1] < 0:
        place = len(place) - 1 - place
    # Those beside the same one follow the strongest axis.
    near = place[cKDTree(points[often]).query(points)[1]]
    return np.lexsort((points[:, -1], near))
