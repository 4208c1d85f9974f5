"""Tables as sources: rows of a file, or of a table that scikit-learn brings along.

Rows are encoded by a codec (:mod:`kan_diffusion.tables.codec`). It is fitted to all rows, since it
has to know every category and whether there are gaps. Its draws derive from the study's seed, so
that all trials of a study see the same coordinates. A file is read and its codec fitted once, for
whatever asks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING, Self

import pandas as pd
from pydantic import Field, model_validator

from kan_diffusion.data.amounts import Thousands
from kan_diffusion.data.sources import PinnedSource, Source
from kan_diffusion.errors import DataError
from kan_diffusion.files import digest, stamp
from kan_diffusion.randomness import torch_generator
from kan_diffusion.settings import require_name
from kan_diffusion.tables.codec import TableCodec
from kan_diffusion.tables.files import TABLES, read_table
from kan_diffusion.tables.kinds import KindName
from kan_diffusion.tables.numbers import Scaling

if TYPE_CHECKING:
    from torch import Tensor

    from kan_diffusion.tables.datasets import TableDataset

MOST_HELDOUT = 100_000  # rows that judge a model
_FEWEST_ROWS = 10
_STUDY_HOLDOUT = 0.5


class _TableSource(Source):
    """Rows of a table.

    Attributes:
        holdout: Fraction of the rows that is not trained on.
        scaling: What coordinates numbers become: "normal" scores, or "standard" ones, of which a
            formula can be read.
    """

    task = "kan_diffusion.tables.task:TableTask"
    view = "kan_diffusion.tables.page:TableView"
    holdout: float = Field(0.3, gt=0, lt=1)
    scaling: Scaling = "normal"

    def content(self) -> tuple[pd.DataFrame, TableCodec]:
        """Returns the rows and their codec."""
        raise NotImplementedError

    @contextmanager
    def _about(self) -> Iterator[None]:
        """Puts the name of the table before errors about its rows."""
        try:
            yield
        except DataError as error:
            raise DataError(f"'{getattr(self, 'path', self.name)}': {error}") from error

    def load(self, study_seed: int = 0, trial_seed: int = 0) -> TableDataset:
        """Reads, encodes and splits the table."""
        from kan_diffusion.tables.datasets import encoded

        frame, codec = self.content()
        parts = self.split(len(frame), study_seed, trial_seed)
        with self._about():
            return encoded(self.name, frame, codec, parts, study_seed)

    def split(self, num: int, study_seed: int, trial_seed: int) -> tuple[Tensor, Tensor]:
        """Returns which of ``num`` rows are trained on and which are held out, as in a load."""
        from kan_diffusion.data.datasets import split

        return split(num, self.holdout, study_seed, trial_seed, MOST_HELDOUT)

    def for_reading(self) -> Self:
        """Returns a copy whose numbers are standardised, unless somebody has said how they are."""
        if "scaling" in self.model_fields_set:
            return self
        return self.model_copy(update={"scaling": "standard"})

    def describe(self, seed: int = 0) -> str:
        """Says which kinds the columns have, and which rules hold between them."""
        frame, codec = self.content()
        return codec.summary(f"{self.name}, {len(frame):,} rows")


class TableData(_TableSource):
    """Rows of a table that is part of scikit-learn.

    Attributes:
        table: Name of the table, a key of ``TABLES``.
    """

    key = "table"
    known = TABLES
    table: str

    def content(self) -> tuple[pd.DataFrame, TableCodec]:
        """Returns the rows and their codec."""
        frame = TABLES[self.table]()
        return frame, TableCodec.fit(frame, scaling=self.scaling)


class FileData(_TableSource, PinnedSource):
    """Rows of a file.

    Attributes:
        path: A file of a table, see :func:`kan_diffusion.tables.files.read_table`.
        holdout: Fraction of the rows that is held out, at most `MOST_HELDOUT` rows; 0 for none.
        kinds: Kinds of columns by name; the kinds of other columns are inferred.
        missing: Words for gaps in a text file beside the usual ones.
        thousands: Mark of thousands in the numbers of a text file.
        without: Rules between columns that need not be kept, such as "start<=end".
    """

    path: Path
    holdout: float = Field(0.2, ge=0, lt=1)
    kinds: dict[str, KindName] = Field(default_factory=dict)
    missing: tuple[str, ...] = ()
    thousands: Thousands = ""
    without: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _named(self) -> Self:
        if "\0" in str(self.path):
            raise DataError("a path has no zero bytes; give another")
        require_name(self.name)
        return self

    def __hash__(self) -> int:
        return hash((self.path, self.sha256, frozenset(self.kinds.items())))

    @classmethod
    def accepts(cls, name: str) -> bool:
        """Whether it is a path."""
        return bool(Path(name).suffix) or Path(name).exists() or "/" in name

    @property
    def name(self) -> str:
        """Name of the data set in tables and figures."""
        return self.path.name.removesuffix(".gz").rpartition(".")[0] or self.path.name

    def for_study(self) -> Self:
        """Returns a copy that holds out half of the rows."""
        return self.model_copy(update={"holdout": _STUDY_HOLDOUT})

    def is_same(self, other: Source) -> bool:
        """Whether ``other`` is a file with the same content."""
        if not (isinstance(other, FileData) and other.path.is_file()):
            return False
        own = self.sha256 or (self.path.is_file() and digest(self.path))
        return own == digest(other.path)

    def require_recorded(self) -> None:
        """As of any file; says also where the rows of a fit were not saved with their model."""
        from kan_diffusion.study.folder import TABLE  # imports torch

        if self.path.name == TABLE and not self.sha256 and not self.path.exists():
            raise DataError(
                "the run is a model that was saved without the rows it was fitted to; give a file "
                "of such rows as data, or train a model from one"
            )
        super().require_recorded()

    def content(self) -> tuple[pd.DataFrame, TableCodec]:
        """Reads the file and fits its codec, unless both are kept; warns before a run is set up."""
        if not self.path.exists() and self.sha256:
            raise DataError(
                f"there is no file '{self.path}', which this run was set up with; put it there "
                f"again (its SHA-256 is {self.sha256})"
            )
        self.require_same()
        return self._kept()[:2]

    def content_digest(self) -> str:
        """Returns the digest of the file, which is read and can be learned."""
        return self._kept()[2]

    def _kept(self) -> tuple[pd.DataFrame, TableCodec, str]:
        bare = self.model_copy(update={"sha256": "", "holdout": 0.0, "path": self.place})
        version = stamp(self.path) if self.path.exists() else None
        try:
            with self._quiet():
                return _content(bare, version)
        except DataError as error:  # names the file as the user does
            raise DataError(str(error).replace(str(self.place), str(self.path))) from error

    def for_rows(self, codec: TableCodec, seed: int) -> TableDataset:
        """Reads rows in the units of a model of another table, some of them by the seed.

        Raises:
            DataError: The file cannot be used or has other columns.
        """
        import torch

        from kan_diffusion.tables.datasets import encoded

        frame, _ = codec.read(self.path)
        _require_rows(self.path, frame)
        order = torch.randperm(len(frame), generator=torch_generator("split", seed))
        with self._about():
            return encoded(self.name, frame, codec, (order[:0], order[:MOST_HELDOUT]), seed)

    def fit_codec(self, frame: pd.DataFrame) -> TableCodec:
        """Fits a codec to rows: the kinds of the columns and how cells become coordinates.

        Raises:
            DataError: A column cannot be used or does not fit its given kind, no rule has a given
                name, or no column can be learned.
        """
        codec = TableCodec.fit(frame, self.kinds, self.without, self.scaling)
        if not codec.dim:
            raise DataError(
                "there is nothing to learn: every column is constant or identifies rows; give a "
                "column that varies"
            )
        return codec.model_copy(update={"missing": self.missing, "thousands": self.thousands})

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Suppresses this thread's warnings of tables once a run was set up, which had them."""
        here, logger = get_ident(), logging.getLogger("kan_diffusion.tables")

        def is_heard(record: logging.LogRecord) -> bool:
            return record.thread != here or not self.sha256

        logger.addFilter(is_heard)
        try:
            yield
        finally:
            logger.removeFilter(is_heard)


def _require_rows(path: Path, frame: pd.DataFrame) -> None:
    if (num := len(frame)) < _FEWEST_ROWS:
        count = f"{num} rows" if num > 1 else "a single row"
        raise DataError(f"'{path}' has {count}; at least {_FEWEST_ROWS} are needed")


@lru_cache(maxsize=1)
def _content(
    source: FileData, _version: tuple[int, ...] | None
) -> tuple[pd.DataFrame, TableCodec, str]:
    """Reads a file and fits its codec; keeps the last ones, and the digest, in memory."""
    frame, form = read_table(source.path, source.missing, source.kinds, source.thousands)
    _require_rows(source.path, frame)
    with source._about():
        codec = source.fit_codec(frame).model_copy(update={"form": form})
    return frame, codec, digest(source.path)
