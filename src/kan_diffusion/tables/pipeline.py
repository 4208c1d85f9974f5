r"""The pipeline of tables: rows drawn under conditions, gaps filled, densities.

The denoiser models encoded rows z (:mod:`kan_diffusion.tables.codec`), and any coordinates of them
may be observed. Rows with given cells are drawn from p(z_free given z_observed): the denoiser is
given the known cells at every step of the sampler. Gaps are filled in the same way.

Sets of values and ranges are met by rejection: rows outside them are discarded, which gives the
model's own p(z given the conditions). If almost no row meets them, fewer rows come.

With v the coordinates of numbers and dates and s those of categories and gaps, the log-density of
the continuous cells x given all others is

.. math:: \log p(x \mid s) = \log p(v \mid s) + \sum_j \log |dv_j / dx_j|,

the first term by the probability-flow ODE (:mod:`kan_diffusion.diffusion.likelihood`) of a denoiser
that observes s, the second by the codec.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Integral

import numpy as np
import pandas as pd
import torch
from diffusers import SchedulerMixin

from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.denoisers import PointDenoiser
from kan_diffusion.diffusion.likelihood import log_likelihood
from kan_diffusion.diffusion.sampling import PointDiffusionPipeline
from kan_diffusion.errors import DataError, KanDiffusionError
from kan_diffusion.processes import Process
from kan_diffusion.tables.codec import TableCodec
from kan_diffusion.tables.conditions import Condition, read_conditions

logger = logging.getLogger(__name__)

EXACT_DIMENSIONS = 16
"""Largest number of free coordinates with an exact divergence; beyond, it is estimated."""

_PROBES = 16
_AT_ONCE = 2**13  # rows that fit a cache
_MOST_TRIED = 2**18
_FEWEST_DRAWN = 4096
_MOST_DRAWN_FOR_ONE = 64


class TableDiffusionPipeline(PointDiffusionPipeline):
    """Draws rows of a table from a trained denoiser.

    A call returns encoded rows, as a pipeline of points returns points; :meth:`draw` gives frames.

    Args:
        denoiser: The trained network, with as many coordinates as the codec; conditions need one
            whose coordinates may be observed.
        process: The process the denoiser was trained for, or its settings.
        codec: The codec of the table, or what its ``to_dict`` gives.
        scheduler: Any diffusers scheduler of the process; its default when None.

    Raises:
        KanDiffusionError: The denoiser has another number of coordinates than the codec.
    """

    def __init__(
        self,
        denoiser: PointDenoiser,
        process: Process | Mapping[str, object] | None = None,
        codec: TableCodec | Mapping[str, object] | None = None,
        scheduler: SchedulerMixin | str | None = None,
    ) -> None:
        super(PointDiffusionPipeline, self).__init__()
        if codec is None:  # diffusers loads arguments without default as modules
            raise KanDiffusionError("a pipeline of tables needs the codec of its table; give it")
        self.codec = codec if isinstance(codec, TableCodec) else TableCodec.from_dict(codec)
        units = Standardizer.identity(self.codec.dim)
        self._setup(denoiser, process, scheduler, units, self.codec.names)
        self.register_to_config(codec=self.codec.to_dict())

    def draw(
        self,
        num_rows: int | None = None,
        *,
        conditions: Mapping[object, object] | None = None,
        like: pd.DataFrame | None = None,
        steps: int = 20,
        generator: torch.Generator | None = None,
        max_seconds: float | None = None,
    ) -> pd.DataFrame:
        """Draws rows.

        Args:
            num_rows: Number of rows; one for each row of ``like`` when None.
            conditions: What the cells of some columns must be, see
                :func:`kan_diffusion.tables.conditions.read_conditions`.
            like: Rows with cells of some of the columns, which are kept; gaps in them are drawn.
            steps: Steps of the sampler.
            generator: Source of the noise; torch's default generator when None.
            max_seconds: How long to look for rows that meet sets and ranges; when None, for 4,096
                draws and 64 more of each row.

        Returns:
            A frame with the columns, order and dtypes of the table, and the index of ``like``.
            Identifiers that are not given are new. There are fewer rows, and a warning, if almost
            no row meets the conditions.

        Raises:
            DataError: A column or category is not known, or no row meets the conditions.
            KanDiffusionError: A number is out of range, or the denoiser was trained without
                conditions.
            NonFiniteSamplesError: The samples became infinite or NaN.
        """
        wanted = read_conditions(conditions or {}, self.codec)
        if like is not None:
            self.codec.require_columns(like, some=True)
            like = like.set_axis([self.codec.column(name).name for name in like], axis=1)
            if num_rows not in (None, len(like)):
                raise KanDiffusionError(
                    f"a row is drawn for each of the {len(like):,} given, not {num_rows:,}; leave "
                    "the number out"
                )
            if twice := [name for name in like.columns if name in wanted]:
                raise DataError(f"column '{twice[0]}' is given twice, by a row and by a condition")
            num_rows = len(like)
        if not isinstance(num_rows, Integral) or num_rows < 1:
            raise KanDiffusionError(
                f"sampling needs at least 1 row, a whole number, not {num_rows}"
            )
        if max_seconds is not None and not max_seconds > 0:
            raise KanDiffusionError(f"max_seconds is to be above 0, not {max_seconds}")
        given = pd.DataFrame(index=range(num_rows)) if like is None else like.reset_index(drop=True)
        single = {name: each for name, each in wanted.items() if each.is_value}
        several = [each for each in wanted.values() if not each.is_value]
        for name, condition in single.items():
            given[name] = condition.cells(num_rows)
        filled = [n for n, each in wanted.items() if not (each.is_value or each.gap)]
        for column in (wanted[name].column for name in filled):
            if column.has_gaps:  # the network is told that there is some value
                empty = column.storage.empty(num_rows)
                given[column.name] = column.restore(empty, np.ones(num_rows, dtype=bool))
        gaps = [name for name, condition in single.items() if condition.gap]
        cells = {name: each.cells(1) for name, each in single.items()}
        self.codec.require_consistent(cells, filled)
        if len(given.columns) or several:
            self._require_conditions()
        if like is not None and several:
            self.codec.encode(like, some=True)  # so that an error has the right row number
        seed = int(torch.randint(2**62, (), generator=generator, dtype=torch.int64))
        random = np.random.default_rng(seed)
        sample = partial(self, num_inference_steps=steps, generator=generator, batch_size=_AT_ONCE)

        def complete(part: pd.DataFrame) -> pd.DataFrame:
            if not len(part.columns):
                drawn = sample(len(part)).samples.cpu().float()
                return self.codec.decode(self.codec.tempered(drawn))
            rows = self.codec.encode(part, random, some=True, gaps=gaps)
            free = rows.isnan().any(dim=1)
            if free.any():
                rows[free] = sample(int(free.sum()), observed=rows[free]).samples.to(rows)
            return self.codec.decode(rows, part, gaps)

        if several:
            frame = _accepted(given, complete, several, like is None, max_seconds)
        else:
            frame = complete(given)
        places = frame.index
        given, frame = given.loc[places].reset_index(drop=True), frame.reset_index(drop=True)
        for column in self.codec.columns:
            frame[column.name] = column.numbered(frame[column.name], given.get(column.name))
        return frame if like is None else frame.set_axis(like.index[places])

    def _require_conditions(self) -> None:
        if not self.denoiser.observable:
            raise KanDiffusionError(
                "this model was trained without conditions, so that it draws whole rows alone; "
                "train one with 'kan-diffusion train' or DiffusionEstimator"
            )

    def impute(
        self,
        frame: pd.DataFrame,
        draws: int = 1,
        *,
        steps: int = 20,
        generator: torch.Generator | None = None,
    ) -> list[pd.DataFrame]:
        """Fills gaps, once or several times: the spread between draws says how certain they are.

        Args:
            frame: Rows of the table with gaps; a column that is absent is a gap in all rows.
            draws: How many times to fill them.
            steps: Steps of the sampler.
            generator: Source of the noise; torch's default generator when None.

        Returns:
            One frame per draw, in the dtypes of the table and with all given cells unchanged;
            absent columns come last. Identifiers in gaps are new.

        Raises:
            DataError: A column is new, or of another type.
            KanDiffusionError: The number of draws is out of range, or the denoiser was trained
                without conditions.
            NonFiniteSamplesError: The samples became infinite or NaN.
        """
        if not isinstance(draws, Integral) or draws < 1:
            raise KanDiffusionError(f"gaps are filled at least once, not {draws} times")
        self.codec.encode(frame, some=True)  # so that an error has the right row number
        known = frame.set_axis([self.codec.column(name).name for name in frame], axis=1)
        absent = [column.name for column in self.codec.columns if column.name not in known]
        gaps = np.flatnonzero(known.isna().any(axis=1).to_numpy() | bool(absent))
        part, base = known.iloc[gaps], self.codec.as_trained(known)
        if not len(part):
            return [base.copy() for _ in range(draws)]
        changing = [name for name in part if part[name].isna().any()]
        filled: list[pd.DataFrame] = []
        while len(filled) < draws:
            times = min(draws - len(filled), max(1, _AT_ONCE // len(part)))
            like = pd.concat([part] * times, ignore_index=True)
            drawn = self.draw(like=like, steps=steps, generator=generator)
            for start in range(0, len(drawn), len(part)):
                rows, one = drawn.iloc[start : start + len(part)], base.copy(deep=False)
                for name in changing:
                    cells = base[name].copy()
                    cells.iloc[gaps] = rows[name].array
                    one[name] = cells
                for name in absent:  # in all rows
                    one[name] = rows[name].set_axis(frame.index)
                filled.append(one)
        return filled

    def log_density(
        self,
        frame: pd.DataFrame,
        *,
        generator: torch.Generator | None = None,
        num_steps: int = 50,
    ) -> np.ndarray:
        """Computes the log-density of the continuous cells of rows, given all their other cells.

        Args:
            frame: Rows with all columns of the table. Numbers on a lattice, such as whole numbers
                and dates, have the density at the middle of their cell.
            generator: Source of the estimate's directions, where there are more than
                ``EXACT_DIMENSIONS`` continuous coordinates; torch's default generator when None.
            num_steps: Steps of the ODE's solver.

        Returns:
            Natural logarithms with shape (n,), in the units of the data.

        Raises:
            DataError: A column is missing, new, or of another type, or the table has no continuous
                columns.
            KanDiffusionError: There are other cells, too, and the denoiser was trained without
                conditions.
        """
        rows, free, scale = self.codec.continuous(frame)
        if not bool(free.any()):
            raise DataError(
                "a density is that of continuous columns, and there are none in this table"
            )
        if not bool(free.all()):
            self._require_conditions()
        is_exact = int(free.sum(dim=1).max()) <= EXACT_DIMENSIONS
        density = log_likelihood(
            self.denoiser,
            self.process,
            rows,
            observed=None if bool(free.all()) else torch.where(free, torch.nan, rows),
            num_probes=None if is_exact else _PROBES,
            generator=generator,
            num_steps=num_steps,
        )
        return density.numpy() + scale


def _accepted(
    given: pd.DataFrame,
    complete: Callable[[pd.DataFrame], pd.DataFrame],
    conditions: Sequence[Condition],
    are_alike: bool,
    max_seconds: float | None,
) -> pd.DataFrame:
    """Completes rows of given cells until each meets all conditions, or there is no more time.

    If all rows have the same given cells, a draw may serve any of them. Without a time, a number of
    draws ends the search. Returns the rows that meet the conditions, numbered as they were given.

    Raises:
        DataError: No draw meets them.
    """
    waiting = np.arange(len(given))
    accepted: list[pd.DataFrame] = []
    drawn = passed = 0
    most = _MOST_DRAWN_FOR_ONE * len(given) + _FEWEST_DRAWN
    started = time.monotonic()
    used = 0.0  # share of the time, or of the draws
    while len(waiting) and used < 1:
        # As many draws for each row as it has taken so far to find one that passes.
        repeats = math.ceil(1.2 * drawn / max(passed, 1)) if drawn else 4
        left = math.ceil(drawn / used * (1 - used)) if used else _FEWEST_DRAWN
        repeats = max(1, min(repeats, -(-min(left, _MOST_TRIED) // len(waiting))))
        rows = np.repeat(waiting, repeats)
        frame = complete(given.iloc[rows].reset_index(drop=True))
        met = np.all([each.holds(frame[each.column.name]) for each in conditions], axis=0)
        drawn, passed = drawn + len(rows), passed + int(met.sum())
        frame = frame[met][: len(waiting)] if are_alike else frame[met]
        frame.index = pd.Index(waiting[: len(frame)] if are_alike else rows[met])
        accepted.append(frame.loc[~frame.index.duplicated()])
        waiting = np.setdiff1d(waiting, frame.index)
        used = drawn / most if max_seconds is None else (time.monotonic() - started) / max_seconds
    if len(waiting):
        names = ", ".join(str(condition.column.name) for condition in conditions)
        longer = "; give more time with max_seconds"
        if any(each.ends is None for each in conditions):
            longer += ", or a range in place of a list of numbers"
        if not passed:
            raise DataError(f"none of {drawn:,} rows drawn meets the conditions on {names}{longer}")
        logger.warning(
            f"{len(given) - len(waiting):,} rows come instead of {len(given):,}, since of "
            f"{drawn:,} drawn none meets the conditions on {names} for the others{longer}"
        )
    return pd.concat(accepted).sort_index()
