"""Tables as points: each row of a data frame becomes d coordinates, about N(0, 1) or -1 and +1.

A column with gaps has a coordinate of -1 or +1 ("age is missing"). A value has one coordinate: -1
or +1 for one of two categories, about normal for other values; constants and identifiers have none
(:mod:`kan_diffusion.tables.kinds`). What holds between columns in all rows holds in every decoded
row, too; what holds in most has a coordinate of -1 or +1, so that it holds as often
(:mod:`kan_diffusion.tables.rules`).

The map x -> z of a number is smooth but for jumps, so densities follow from log p(x) = log p(z) +
log |dz/dx|. Whole numbers, decimals and dates are first spread evenly over their step. Decoding
restores them within the precision of float32: in a column with more than a hundred thousand steps
within its bulk, a value may come back one step off.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
import pandas as pd
from annotated_types import Len
from pandas.api.types import is_float_dtype
from pydantic import FailFast, model_validator

from kan_diffusion.data.amounts import Thousands
from kan_diffusion.data.coordinates import CoordinateMap
from kan_diffusion.data.frames import TextForm
from kan_diffusion.errors import DataError, listed, valid_settings
from kan_diffusion.limits import MOST_CODES, MOST_COLUMNS, MOST_RULES
from kan_diffusion.settings import Settings
from kan_diffusion.tables.files import (
    named_like,
    read_table,
    require_distinct,
    require_size,
)
from kan_diffusion.tables.kinds import Column, Kind, fit_column
from kan_diffusion.tables.numbers import Scaling
from kan_diffusion.tables.rules import AnyRule, Rows, beyond, find_rules, obey, settle
from kan_diffusion.tables.seriation import arranged

logger = logging.getLogger("kan_diffusion.tables")

if TYPE_CHECKING:  # torch takes seconds to import, which a description of a file need not pay
    from torch import Tensor


class TableCodec(Settings):
    """Describes a table's columns, and maps its rows to coordinates and back.

    Attributes:
        columns: The columns, in the frame's order.
        rules: What holds between columns, in every row or in most.
        missing: Words for gaps in text files of such rows, beside the usual ones.
        thousands: Mark of thousands in text files of such rows.
        form: How the text file of the rows is written; None of rows that came otherwise.
        array: Dtype of the array that rows came in, whose columns are numbered; None of a frame.
    """

    columns: Annotated[tuple[Column, ...], FailFast(), Len(1, MOST_COLUMNS)]
    rules: Annotated[tuple[AnyRule, ...], FailFast(), Len(0, MOST_RULES)] = ()
    missing: Annotated[tuple[str, ...], FailFast()] = ()
    thousands: Thousands = ""
    form: TextForm | None = None
    array: str | None = None

    @model_validator(mode="after")
    def _require_parts(self) -> Self:
        require_distinct("the table", [column.name for column in self.columns])
        if (listing := sum(rule.size for rule in self.rules)) > MOST_CODES:
            raise DataError(f"rules list {listing:,} cells, and may list {MOST_CODES:,}")
        for rule in self.rules:
            if not rule.fits(self.columns):
                places = listed(map(str, rule.places[:6]))
                raise DataError(f"the rule '{rule.kind}' of {places} does not fit the columns")
        return self

    def __eq__(self, other: object) -> bool:
        # Compare the fields alone, not which were given, nor the cached properties.
        return isinstance(other, TableCodec) and self.to_dict() == other.to_dict()

    @classmethod
    def fit(
        cls,
        frame: pd.DataFrame,
        kinds: Mapping[str, str] | None = None,
        without: Collection[str] = (),
        scaling: Scaling = "normal",
    ) -> Self:
        """Fits a codec to a frame: finds the kind of each column and what to keep of it.

        Args:
            frame: Shape (n, columns), n > 0.
            kinds: Kinds of columns by name; the kinds of other columns are inferred.
            without: Rules that rows need not keep, such as "start<=end".
            scaling: What coordinates numbers become.

        Raises:
            DataError: The frame is empty, a name is invalid or occurs twice, a dtype is not
                supported, a column mixes types or is infinite, a kind does not fit its column, or
                there is no rule of such a name.
        """
        require_frame(frame)
        given = {str(name): kind for name, kind in (kinds or {}).items()}
        names = [str(name) for name in frame.columns]
        if unknown := [name for name in given if name not in names]:
            raise DataError(
                f"there is no column '{unknown[0]}' to have a kind; known: {listed(names)}"
            )
        columns, cells = [], []
        for label, series in frame.items():
            name = int(label) if isinstance(label, int | np.integer) else str(label)
            column = fit_column(name, series, given.get(str(name), ""), scaling, warned=True)
            columns.append(column)
            cells.append(column.read(series))
        ordered = arranged(tuple(columns), frame)
        return cls(columns=ordered, rules=find_rules(Rows(ordered, cells), {*without}))

    def column(self, name: object) -> Kind:
        """Returns the column of this name.

        Raises:
            DataError: There is no such column.
        """
        return self.columns[self._place(name)]

    def _place(self, name: object) -> int:
        known = list(self._parts)
        if str(name) not in known:
            raise DataError(f"there is no column '{name}'; known: {listed(known)}")
        return known.index(str(name))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates: "age", "age is missing", "net+tax=gross is kept"."""
        of_columns = (name for column in self.columns for name in column.coordinates)
        of_rules = (rule.coordinate(self.columns) for rule in self.rules if rule.is_told)
        return (*of_columns, *of_rules)

    @property
    def maps(self) -> tuple[CoordinateMap, ...]:
        """How each of the coordinates follows from a row."""
        of_columns = (each for column in self.columns for each in column.maps)
        return (*of_columns, *(rule.map(self.columns) for rule in self.rules if rule.is_told))

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        return len(self.names)

    def read(self, path: Path) -> tuple[pd.DataFrame, TextForm | None]:
        """Reads a file of rows like those trained on, with the same words for gaps, and its form.

        What was text stays text, and columns without names get those of this table.

        Raises:
            DataError: It cannot be read.
        """
        kinds = {}
        for column in self.columns:
            if column.storage.holds == "truth":
                kinds[str(column.name)] = "truth"
            elif column.storage.is_text:
                kinds[str(column.name)] = "category"
        frame, form = read_table(path, self.missing, kinds, self.thousands)
        named = named_like(path, frame, list(self._parts))
        if form is not None:
            form = form.renamed(dict(zip(map(str, frame), map(str, named), strict=True)))
            # Whole numbers and gaps do not tell how decimals are written.
            told = {str(n) for n in named if is_float_dtype(named[n]) and (named[n] % 1 > 0).any()}
            told |= {name for name, amount in form.amounts.items() if amount.point == ","}
            form = form.completed(self.form, told)
        return named, form

    def encode(
        self,
        frame: pd.DataFrame,
        generator: np.random.Generator | None = None,
        *,
        some: bool = False,
        gaps: Collection[object] = (),
    ) -> Tensor:
        """Encodes a frame's rows as coordinates.

        Args:
            frame: Shape (n, columns): the columns trained on, in any order.
            generator: Spreads numbers over their step and fills the coordinates of cells without a
                value. None takes the middle of each step and zeros.
            some: Whether there may be only some of the columns, and some of their cells: absent
                columns and missing cells are unknown, NaN, and sampling fills them with a value.
            gaps: Names of columns whose missing cells are known to be gaps all the same.

        Returns:
            Shape (n, d), float32.

        Raises:
            DataError: Columns are missing or new, or a cell does not fit its column.
        """
        import torch

        self.require_columns(frame, some)
        unknown = set(self._parts) - set(map(str, gaps)) if some else set()
        rows = np.full((len(frame), self.dim), np.nan, dtype=np.float32)
        for name, cells in frame.items():
            column, span = self._parts[str(name)]
            rows[:, span] = column.encode(cells, generator, str(name) in unknown)
        if self.dim > self._learned:
            table = self._read(frame.items(), len(frame), missing=True)
            told = [rule for rule in self.rules if rule.is_told]
            for place, rule in enumerate(told, self._learned):
                silent = ~table.known(rule.places) & (some or not rule.is_of_gaps)
                rows[:, place] = np.where(silent, np.nan, rule.tell(table, generator))
            if not some:  # as the values of gaps
                silent = np.isnan(rows)
                rows[silent] = 0 if generator is None else generator.standard_normal(silent.sum())
        return torch.from_numpy(rows)

    def decode(
        self,
        rows: Tensor | np.ndarray,
        given: pd.DataFrame | None = None,
        gaps: Collection[object] = (),
    ) -> pd.DataFrame:
        """Decodes coordinates into rows of the table, which obey its rules.

        Args:
            rows: Shape (n, d), finite.
            given: Cells of the rows that are to stay, shape (n, any columns); missing ones are
                decoded.
            gaps: As in :meth:`encode`.

        Returns:
            Shape (n, columns), with the columns, order and dtypes of the frame trained on.

        Raises:
            DataError: The shape is wrong, a coordinate is not finite, or given cells do not fit.
        """
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise DataError(f"rows must have shape (n, {self.dim}), got {tuple(rows.shape)}")
        coordinates = rows if isinstance(rows, np.ndarray) else rows.float().numpy(force=True)
        if not np.isfinite(coordinates).all():
            row = int(np.argmax(~np.isfinite(coordinates).all(axis=1)))
            raise DataError(f"row {row + 1} has coordinates that are NaN or infinite")
        cells = [column.decode(coordinates[:, span]) for column, span in self._parts.values()]
        fixed = np.zeros((len(rows), len(cells)), dtype=bool)
        known_gaps = fixed.copy()
        given = pd.DataFrame() if given is None else given.reset_index(drop=True)
        for name, series in given.items():
            place = self._place(name)
            (drawn, gaps_drawn), (known, missing) = cells[place], self.columns[place].read(series)
            cells[place] = np.where(missing, drawn, known), gaps_drawn & missing
            fixed[:, place], known_gaps[:, place] = ~missing | (name in gaps), True
        table, told = Rows(self.columns, cells), self._told(coordinates)
        self._warn_of(obey(table, self.rules, told, fixed, known_gaps), table, fixed)
        parts = zip(self.columns, cells, strict=True)
        frame = pd.concat([column.restore(*values) for column, values in parts], axis=1)
        frame.columns = pd.Index([column.name for column in self.columns])
        for name, series in given.items():
            column = frame.columns[self._place(name)]
            if series.dtype == frame[column].dtype:  # of two equal wall times it is this one
                frame[column] = series.where(series.notna(), frame[column])
        return frame

    def _read(self, cells: Iterable[tuple[object, pd.Series]], num: int, *, missing: bool) -> Rows:
        """Reads cells (n,) of columns by name; those of others are placeholders, or ``missing``."""
        read = [(column.storage.empty(num), np.full(num, missing)) for column in self.columns]
        for name, series in cells:
            read[self._place(name)] = self.column(name).read(series)
        return Rows(self.columns, read)

    def _warn_of(self, broken: Mapping[str, int], table: Rows, given: np.ndarray) -> None:
        """Warns of rows whose given cells, (n, columns), do not go together."""
        said = []
        of_gaps = [rule.names(self.columns)[0] for rule in self.rules if rule.is_of_gaps]
        for name, count in broken.items():
            how = "which cannot be kept beside their given cells, or not easily"
            if name in of_gaps:
                how = "since it is given which of these cells have a value"
            said.append((count, f"break {name}, {how}"))
        outside = beyond(table)
        # A given number may be beyond its range, and what follows from it, too. Where no cell is
        # given, a number beyond is one of the data that fewer than five rows have.
        outside &= given.any(axis=1, keepdims=True) & ~(outside & given).any(axis=1, keepdims=True)
        for place in np.flatnonzero(outside.any(axis=0)).tolist():
            column, values = self.columns[place], table.values(place)[outside[:, place]]
            low, high, shown = column.texts(np.append(column.reach[[0, -1]], values[:1]))
            how = f"which follows from their given cells and is not from {low} to {high}"
            said.append((len(values), f"have {column.name} = {shown} or so, {how}"))
        for count, what in said:
            logger.warning(
                f"{count:,} of {len(given):,} rows {what}; give cells that occur together"
            )

    def _told(self, coordinates: np.ndarray) -> np.ndarray:
        """Returns those of coordinates (n, d) that rules have, (n, rules); else +1, "is kept"."""
        told = np.ones((len(coordinates), len(self.rules)))
        told[:, [rule.is_told for rule in self.rules]] = coordinates[:, self._learned :]
        return told

    def tempered(self, rows: Tensor) -> Tensor:
        """Returns drawn coordinates (n, d) in which no rare value comes more often than it did."""
        import torch

        cells = rows.numpy(force=True).copy()
        for column, span in self._parts.values():
            cells[:, span] = column.tempered(cells[:, span])
        return torch.from_numpy(cells)

    def as_trained(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Returns rows (n, some of the columns) in the dtypes trained on; gaps may be any cells."""
        result = frame.copy()
        for name, series in frame.items():
            column = self.column(name)
            cells = column.restore(*column.read(series)).set_axis(frame.index)
            result[name] = series if series.dtype == cells.dtype else cells
        return result

    def require_consistent(
        self, given: Mapping[str | int, pd.Series], filled: Collection[object] = ()
    ) -> None:
        """Refuses cells of one row, each of shape (1,), that no row of the table can have together.

        Args:
            given: The cells by column.
            filled: Columns that have some value there.

        Raises:
            DataError: They contradict a rule.
        """
        rows = self._read(given.items(), 1, missing=False)
        is_given = np.zeros((1, len(self.columns)), dtype=bool)
        is_given[0, [self._place(name) for name in given]] = True
        is_filled = is_given.copy()[0]
        is_filled[[self._place(name) for name in filled]] = True
        exact = [rule for rule in self.rules if rule.kept == 1]
        settled = settle(rows, exact, is_given)[0]
        for rule in exact:
            known = is_filled if rule.is_of_gaps else settled
            if known[[*rule.places]].all() and not rule.holds(rows).all():
                cells_given = ((name, series.iloc[0]) for name, series in given.items())
                shown = listed(
                    [
                        *(f"{n} {'missing' if pd.isna(c) else f'= {c}'}" for n, c in cells_given),
                        *(f"some {name}" for name in filled),
                    ]
                )
                raise DataError(
                    f"no row has {shown}: all rows keep {', '.join(rule.names(self.columns))}; "
                    "give cells that occur together"
                )

    def continuous(self, frame: pd.DataFrame) -> tuple[Tensor, Tensor, np.ndarray]:
        """Encodes rows, each number in the middle of its step, and tells which are continuous.

        With the third result, log p(x) = log p(z) + sum log |dz/dx|, where x is in the units of its
        column, and counts steps if the column holds levels, dates or time spans. Categories,
        constants and missing cells add nothing.

        Returns:
            Coordinates, and a mask that is True for those of numbers and False for those of
            categories, gaps and cells without a value, both with shape (n, d); and the sum of
            log |dz/dx| over the numbers of each row, shape (n,), float64.

        Raises:
            DataError: As in :meth:`encode`.
        """
        rows = self.encode(frame)
        numbers = rows.isnan()  # none is
        for column, span in self._parts.values():
            if column.is_learned and not column.is_discrete:
                valued = (rows[:, span.start : span.stop - 1] < 0).all(dim=1)
                numbers[:, span.stop - 1] = valued
        scales = [self.column(name).log_scale(cells) for name, cells in frame.items()]
        return rows, numbers, np.sum(scales, axis=0)

    @cached_property
    def _learned(self) -> int:
        """Number of coordinates of columns, which come before those of rules."""
        return sum(len(column.coordinates) for column in self.columns)

    @cached_property
    def _parts(self) -> dict[str, tuple[Kind, slice]]:
        """Each column with the span of its coordinates, by name."""
        stops = np.cumsum([len(column.coordinates) for column in self.columns]).tolist()
        spans = (slice(*ends) for ends in zip([0, *stops[:-1]], stops, strict=True))
        return {str(c.name): (c, span) for c, span in zip(self.columns, spans, strict=True)}

    def summary(self, title: str) -> str:
        """Describes each column in a line under a title, and then each rule in one."""
        lines = [title]
        for column in self.columns:
            gaps = f"; {column.missing:.1%} gaps" if column.missing else ""
            lines.append(f"  {column.name}: {column.kind}, {column.words()}{gaps}")
        if self.rules:
            lines.append("Rules:")
        for rule in self.rules:
            often = "always" if rule.kept == 1 else f"{rule.kept:.2%} of rows"
            lines += [f"  {name}: {often}" for name in rule.names(self.columns)]
        return "\n".join(lines)

    @property
    def always(self) -> tuple[str, ...]:
        """Names of the rules that all rows obey: "city->region", "start<=end", "net+tax=gross"."""
        exact = (rule for rule in self.rules if rule.kept == 1)
        return tuple(name for rule in exact for name in rule.names(self.columns))

    @property
    def mostly(self) -> dict[str, float]:
        """Shares of the rows that keep rules with exceptions, by name."""
        rules = [rule for rule in self.rules if rule.kept < 1]
        return {name: rule.kept for rule in rules for name in rule.names(self.columns)}

    def to_dict(self) -> dict[str, object]:
        """Returns the codec as a dictionary of JSON values."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def from_dict(cls, content: Mapping[str, object]) -> Self:
        """Makes a codec from the dictionary of :meth:`to_dict` and checks every value.

        Raises:
            KanDiffusionError: A value is missing, unknown or invalid.
        """
        with valid_settings("codec"):
            codec = cls.model_validate(content)
        rows, decoded = np.linspace(-9, 9, 19)[:, None] * np.ones(codec.dim), []
        for column, span in codec._parts.values():
            cells = rows[:, span]
            try:  # whether the parts of the column fit together, with a gap and without
                for sign in (-1, 1):
                    cells[:, : int(column.has_gaps)] = sign
                    column.encode(column.restore(*column.decode(cells)), None, partial=True)
                column.words()
                decoded.append(column.decode(cells))
            except Exception as error:
                raise DataError(
                    f"codec: column '{column.name}' of kind '{column.kind}' cannot be decoded "
                    f"({type(error).__name__}: {error}); fit the codec anew"
                ) from error
        try:
            free = np.zeros((len(rows), len(decoded)), dtype=bool)
            known, told = Rows(codec.columns, decoded), codec._told(rows)
            obey(known, codec.rules, told, free, free, rounds=2)
            for column, values in zip(codec.columns, decoded, strict=True):
                column.restore(*values)
        except DataError:
            pass  # these rows are too far away for a dtype
        except Exception as error:
            raise DataError(
                f"codec: its rules cannot be kept ({type(error).__name__}: {error}); fit it anew"
            ) from error
        return codec

    def require_columns(self, frame: pd.DataFrame, some: bool = False) -> None:
        """Refuses a frame with other columns than those trained on, or without ``some`` of them.

        Raises:
            DataError: A column is missing or new.
        """
        require_frame(frame)
        known, given = list(self._parts), [str(name) for name in frame.columns]
        if new := [name for name in given if name not in known]:
            raise DataError(f"column '{new[0]}' is new; leave it out (known: {listed(known)})")
        if not some and (absent := [name for name in known if name not in given]):
            raise DataError(f"column '{absent[0]}' of the rows trained on is missing; add it")


def require_frame(frame: pd.DataFrame) -> None:
    """Refuses an object that is not a usable data frame.

    Raises:
        DataError: It is no frame, is empty or too large, or a name is invalid or occurs twice.
    """
    if not isinstance(frame, pd.DataFrame):
        raise DataError(f"a table is a pandas DataFrame, got {type(frame).__name__}")
    require_size("the table", *frame.shape)
    for name in frame.columns:
        if isinstance(name, bool) or not isinstance(name, str | int | np.integer):
            raise DataError(f"column name {name!r} is no text and no whole number; rename it")
    require_distinct("the table", list(frame.columns))
