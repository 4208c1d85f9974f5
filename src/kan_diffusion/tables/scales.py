r"""How the cells of a column are compared and drawn: numbers on a line, or names of categories.

The cells that are compared are numbers whatever the column holds: a number is itself, a date is
days since 1970, a time span seconds, a category its place in a list, and a gap is NaN.

For distances, cells become points. A number becomes its normal score among the real rows,

    z(x) = Φ⁻¹((#{r < x} + #{r = x} / 2) / n), interpolated linearly between real values,

and a category becomes one-hot, so that two categories are √2 apart, as two independent normal
numbers are in root mean square. A gap among numbers is the middle of its column, and √2 away in an
extra coordinate; a gap among categories is one more category.

Numbers are drawn in bins of equal width between the 0.5 % and 99.5 % quantiles of the real values,
or between their extremes where these are near. Bins are of equal ratio if positive values span more
than two decades and most lie in the lowest tenth. Where values have a fixed step, each bin holds
equally many steps, so that whole numbers leave no comb. Of more than 9 categories, all but the 8
most frequent are one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import ks_2samp, rankdata

from kan_diffusion.tables.dtypes import Storage, place_among

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Array = NDArray[np.float64]

_BINS = 30
_BARS = 9
_DECADES = 100.0
_DAY = 86_400.0  # Matplotlib counts dates in days
_PAIR_BINS = 10
_MOST_COORDINATES = 64  # for the categories of a column


class Scale:
    """Numbers on a line; cells are numbers, NaN for a gap."""

    is_named: ClassVar[bool] = False
    """Whether cells are categories, whose numbers are places among known ones."""

    num_classes: ClassVar[int] = 4
    """Number of classes in which cells are predicted, such as quarters; 0 if they are not."""

    def numbers(self, values: np.ndarray) -> _Array:
        """Converts values (n,), as a kind parses them, to numbers (n,), time spans to seconds."""
        if values.dtype.kind in "mM":
            values = values.astype(f"{values.dtype.kind}8[us]").astype(np.int64) / 1e6
        return values.astype(np.float64)

    def similarity(self, real: _Array, other: _Array) -> float:
        """Computes how alike samples without gaps are, 0 to 1: 1 minus Kolmogorov-Smirnov's D."""
        return 1.0 - float(ks_2samp(real, other, method="asymp").statistic)

    def codes(self, cells: _Array, real: _Array, most: int) -> NDArray[np.int64]:
        """Cuts cells (n,) into ten bins of equal width over real ones; a gap is ``most - 1``."""
        edges = np.histogram_bin_edges(real[~np.isnan(real)], _PAIR_BINS)[1:-1]
        return np.where(np.isnan(cells), most - 1, np.digitize(cells, edges)).astype(np.int64)

    def points(self, cells: _Array, real: _Array) -> _Array:
        """Turns cells (n,) into points (n, k) by real ones (m,): normal scores, and √2 for gaps."""
        gaps = np.isnan(cells)
        values, counts = np.unique(real[~np.isnan(real)], return_counts=True)
        scores = ndtri((np.cumsum(counts) - counts / 2) / max(counts.sum(), 1))
        # Without a real value, all are in the middle.
        z = np.interp(cells, values, scores) if len(values) else np.zeros(len(cells))
        return np.column_stack([np.where(gaps, 0.0, z), np.sqrt(2.0) * gaps])

    def bins(self, real: _Array) -> tuple[_Array, bool]:
        """Returns rising ends of at most 30 bins, and whether these are of equal ratio.

        Without real values there is a single bin.
        """
        distinct = np.unique(real) if len(real) else np.zeros(1)
        low, high = distinct[0], distinct[-1]
        if low == high:
            margin = 0.5 * max(abs(low), 1.0)
            return np.array([low - margin, high + margin]), False
        inner = np.quantile(real, [0.005, 0.995])
        if 0 < 1.5 * (inner[1] - inner[0]) < high - low:
            low, high = inner
        if low > 0 and high / low > _DECADES and np.median(real) < high / 10:
            return np.geomspace(low, high, _BINS + 1), True
        inside = distinct[(distinct >= low) & (distinct <= high)]
        step = float(np.diff(inside).min()) if len(inside) > 1 else high - low
        steps = round((high - low) / step) + 1
        if steps > 20 * _BINS:
            return np.linspace(low, high, _BINS + 1), False
        # Each bin holds equally many possible values.
        each = -(-steps // _BINS)
        return low - step / 2 + each * step * np.arange(-(-steps // each) + 1), False

    def label(self, axes: Axes, log: bool) -> str:
        """Sets the ticks of the axis of values, and returns its label."""
        from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

        if log:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        locator = LogLocator(numticks=6) if log else MaxNLocator(5, steps=[1, 2, 5, 10])
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter("{x:,.6g}")  # further digits are noise
        return "value (log axis)" if log else "value"


class Dates(Scale):
    """Dates, which are no targets of predictions; cells count days."""

    num_classes = 0

    def numbers(self, values: np.ndarray) -> _Array:
        """Converts dates (n,) to days since 1970."""
        return super().numbers(values) / _DAY

    def label(self, axes: Axes, log: bool) -> str:
        """Writes dates."""
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        dates = AutoDateLocator(minticks=2, maxticks=7)
        axes.xaxis.set_major_locator(dates)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(dates))
        return "date"


@dataclass(frozen=True)
class Names(Scale):
    """Categories.

    Attributes:
        known: Their values, shape (K,): in their own order, text the most frequent one first.
    """

    is_named: ClassVar[bool] = True

    known: np.ndarray

    @classmethod
    def of(cls, storage: Storage, present: np.ndarray) -> Names:
        """Lists the categories among values (n,) of all tables."""
        known, counts = np.unique(present, return_counts=True)
        if storage.holds == "text":
            known = known[np.argsort(-counts, kind="stable")]
        if storage.ordered and storage.values is not None:
            declared = storage.from_scalars(storage.values)
            known = np.append(declared, known[place_among(declared, known) < 0])
        return cls(known)

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """Number of categories."""
        return len(self.known)

    def numbers(self, values: np.ndarray) -> _Array:
        """Returns the places of categories."""
        return place_among(self.known, values.astype(self.known.dtype)).astype(np.float64)

    def similarity(self, real: _Array, other: _Array) -> float:
        """Computes 1 minus the total variation distance."""
        size = len(self.known)
        return similarity(*(np.bincount(c.astype(int), minlength=size) for c in (real, other)))

    def codes(self, cells: _Array, real: _Array, most: int) -> NDArray[np.int64]:
        """Codes categories by their frequency among real cells, the most frequent as 0.

        If there are too many, the rarest share a code.
        """
        known = real[~np.isnan(real)].astype(np.int64)
        counts = np.bincount(known, minlength=len(self.known))
        codes = np.minimum(rankdata(-counts, method="ordinal") - 1, most - 2).astype(np.int64)
        return np.where(np.isnan(cells), most - 1, codes[np.nan_to_num(cells).astype(np.int64)])

    def points(self, cells: _Array, real: _Array) -> _Array:
        """Returns one-hot coordinates; rare categories beyond 64 share one."""
        most = min(len(self.known), _MOST_COORDINATES) + 1
        return np.eye(most)[self.codes(cells, real, most)]

    def drawn(self, *sides: _Array) -> tuple[Names, Sequence[_Array]]:
        """Puts all but the most frequent of many categories, in the first side, into one."""
        if len(self.known) <= _BARS:
            return self, sides
        places = self.codes(np.arange(float(len(self.known))), sides[0], _BARS + 1)
        names = self.known[np.argsort(places, kind="stable")[: _BARS - 1]].astype(str)
        fewer = Names(np.array([*names, f"{len(self.known) - _BARS + 1:,} others"], object))
        return fewer, [places[side.astype(np.int64)].astype(np.float64) for side in sides]

    def bins(self, real: _Array) -> tuple[_Array, bool]:
        """Gives each category a bar."""
        return np.arange(len(self.known) + 1.0) - 0.5, False

    def label(self, axes: Axes, log: bool) -> str:
        """Writes the categories."""
        from kan_diffusion.report.style import shortened

        axes.set_yticks(np.arange(len(self.known)), [shortened(str(name)) for name in self.known])
        return ""


def similarity(*counts: NDArray[np.int64]) -> float:
    """Computes 1 minus the total variation distance of two samples, given their counts."""
    one, other = (each / each.sum() for each in counts)
    return 1.0 - float(np.abs(one - other).sum()) / 2
