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

The categories of all columns together, of many the 400 most frequent, are then clustered by average
linkage, and the clusters are laid out so that neighbours are as close as possible (optimal leaf
ordering, Bar-Joseph et al. 2001, by SciPy). Each column takes its order from this common one, so
that cities are sorted by their regions, and regions in the same way as their cities; unless the way
from category to category is more than a tenth longer than in an order of the column alone.
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

__all__ = ["arranged"]

_MOST_ROWS = 20_000
_AXES = 16
_ROUNDS = 20
_DETOUR = 1.1  # longest way through the common order, in ways through the column's own
_MOST = 400  # categories that are clustered; each other one is laid beside the nearest of them


def arranged(columns: tuple[Kind, ...], frame: pd.DataFrame) -> tuple[Kind, ...]:
    """Orders the categories of columns that have no order of their own, by at most 20,000 rows."""
    random = np.random.default_rng(0)
    rows = np.sort(random.choice(len(frame), min(len(frame), _MOST_ROWS), replace=False))
    parts = [_span(column, frame.iloc[rows, place]) for place, column in enumerate(columns)]
    spans = {place: span for place, span in enumerate(parts) if span is not None}
    free = [place for place, span in spans.items() if span.shape[1] > 2]
    if len(spans) < 2 or not free:
        return columns
    axes = _axes([*spans.values()], random)
    counts = [spans[place].sum(axis=0) for place in free]
    points = [
        (spans[place].T @ axes) / np.maximum(count, 1)[:, None]
        for place, count in zip(free, counts, strict=True)
    ]
    common = _ranks(np.concatenate(points), np.concatenate(counts))
    result = list(columns)
    for place, alone, count in zip(free, points, counts, strict=True):
        rank, common = np.split(common, [len(count)])
        orders = [np.argsort(each, kind="stable") for each in (rank, _ranks(alone, count))]
        ways = [np.linalg.norm(np.diff(alone[order], axis=0), axis=1).sum() for order in orders]
        column = columns[place]
        assert isinstance(column, Category)
        result[place] = column.in_order(orders[int(ways[0] > _DETOUR * ways[1])])
    return tuple(result)


def _span(column: Kind, cells: pd.Series) -> csr_array | None:
    """Returns the vectors that a column's projection is on, (n, 1 or number of categories)."""
    if column.is_discrete:
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


def _ranks(points: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns where each category is in an order of near ones, shape (m,), m at least 3."""
    often = np.sort(np.argsort(-counts, kind="stable")[:_MOST])
    place = np.argsort(leaves_list(linkage(points[often], "average", optimal_ordering=True)))
    # Those beside the same one follow the strongest axis, in the direction of the whole.
    along = points[:, -1] * np.sign(((place - place.mean()) * points[often, -1]).sum() or 1)
    near = place[cKDTree(points[often]).query(points)[1]]
    return np.argsort(np.lexsort((along, near)))
