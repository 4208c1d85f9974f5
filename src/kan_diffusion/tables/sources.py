"""Tables as sources: rows of a file, or of a table that scikit-learn brings along.

Rows are encoded by a codec (:mod:`kan_diffusion.tables.codec`). It is fitted to all rows, since it
has to know every category and whether there are gaps. Its draws derive from the study's seed, so
that all trials of a study see the same coordinates.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Self

import pandas as pd
import torch
from pydantic import Field, model_validator
from torch import Tensor

from kan_diffusion.data.datasets import Dataset, split
from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.data.sources import Source
from kan_diffusion.errors import DataError, require_known
from kan_diffusion.files import digest, stamp
from kan_diffusion.randomness import numpy_generator, torch_generator
from kan_diffusion.settings import require_name
from kan_diffusion.tables.codec import TableCodec
from kan_diffusion.tables.files import TABLES, read_frame
from kan_diffusion.tables.kinds import KindName

__all__ = ["MOST_HELDOUT", "FileData", "TableData", "TableDataset"]

MOST_HELDOUT = 100_000  # rows that judge a model
_FEWEST_ROWS = 10
_STUDY_HOLDOUT = 0.5


@dataclass(frozen=True, kw_only=True)
class TableDataset(Dataset):
    """Encoded rows of a table.

    Attributes:
        codec: The map between rows and encoded rows.
    """

    codec: TableCodec
    heldout: Tensor = field()


class _TableSource(Source):
    """Rows of a table, which :meth:`rows` of a subclass reads and :meth:`fit_codec` describes.

    Attributes:
        holdout: Fraction of the rows that is not trained on.
    """

    task = "kan_diffusion.tables.task:TableTask"
    view = "kan_diffusion.tables.page:TableView"
    holdout: float = Field(0.3, gt=0, lt=1)

    def rows(self) -> pd.DataFrame:
        """Reads the rows."""
        raise NotImplementedError

    def fit_codec(self, frame: pd.DataFrame) -> TableCodec:
        """Fits a codec to rows."""
        return TableCodec.fit(frame)

    def load(self, study_seed: int = 0, trial_seed: int = 0) -> TableDataset:
        """Reads, encodes and splits the table."""
        frame = self.rows()
        return self.encoded(frame, self.fit_codec(frame), study_seed, trial_seed)

    def encoded(
        self, frame: pd.DataFrame, codec: TableCodec, study_seed: int, trial_seed: int
    ) -> TableDataset:
        """Encodes rows, and holds some out at random; arguments and errors are those of a load."""
        rows = codec.encode(frame, numpy_generator("encoding", study_seed))
        return self._dataset(codec, rows, *self.split(len(rows), study_seed, trial_seed))

    def split(self, num: int, study_seed: int, trial_seed: int) -> tuple[Tensor, Tensor]:
        """Returns which of ``num`` rows are trained on and which are held out, as in a load."""
        return split(num, self.holdout, study_seed, trial_seed, MOST_HELDOUT)

    def _dataset(
        self, codec: TableCodec, rows: Tensor, train: Tensor, heldout: Tensor
    ) -> TableDataset:
        return TableDataset(
            name=self.name,
            columns=codec.names,
            standardizer=Standardizer.identity(codec.dim),
            train=rows[train],
            heldout=rows[heldout].double(),
            codec=codec,
        )


class TableData(_TableSource):
    """Rows of a table that is part of scikit-learn.

    Attributes:
        table: Name of the table, a key of ``TABLES``.
    """

    known = TABLES
    table: str

    @model_validator(mode="after")
    def _known(self) -> Self:
        require_known("table", self.table, TABLES)
        return self

    @property
    def name(self) -> str:
        """Name of the data set in tables and figures."""
        return self.table

    def rows(self) -> pd.DataFrame:
        """Reads the rows."""
        return TABLES[self.table]()


class FileData(_TableSource):
    """Rows of a file.

    Attributes:
        path: A file of a table, see :func:`kan_diffusion.tables.files.read_frame`.
        sha256: Digest of the file when the run was set up, see :meth:`pinned`; a file that has
            changed since is refused.
        holdout: Fraction of the rows that is held out, at most `MOST_HELDOUT` rows; 0 for none.
        kinds: Kinds of columns by name; the kinds of other columns are inferred.
        missing: Words for gaps in a text file beside the usual ones.
        without: Rules that hold in all rows and need not be kept, such as "start<=end".
    """

    path: Path
    sha256: str = ""
    holdout: float = Field(0.2, ge=0, lt=1)
    kinds: dict[str, KindName] = Field(default_factory=dict)
    missing: tuple[str, ...] = ()
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

    def pinned(self) -> Self:
        """Returns a copy with the digest and the absolute path of the file.

        Warns of columns that the codec has doubts about.

        Raises:
            DataError: The file cannot be used.
        """
        if not self.sha256:
            frame = self._read()
            with self._about():
                self.fit_codec(frame)
        known = {"sha256": self.sha256 or digest(self.path), "path": self.path.absolute()}
        return self.model_copy(update=known)

    def for_study(self) -> Self:
        """Returns a copy that holds out half of the rows."""
        return self.model_copy(update={"holdout": _STUDY_HOLDOUT})

    def identity(self) -> dict[str, object]:
        """As of any table; the file counts by its name and content."""
        return {**super().identity(), "path": self.name}

    def is_same(self, other: Source) -> bool:
        """Whether ``other`` is a file with the same content."""
        if not (isinstance(other, FileData) and other.path.is_file()):
            return False
        own = self.sha256 or (self.path.is_file() and digest(self.path))
        return own == digest(other.path)

    def rows(self) -> pd.DataFrame:
        """Reads the file that a run was set up with."""
        if not self.path.exists():
            known = f" (its SHA-256 is {self.sha256})" if self.sha256 else ""
            raise DataError(
                f"there is no file '{self.path}', which this run was set up with; put it there "
                f"again{known}"
            )
        with self._quiet():
            frame = self._read()
        if self.sha256 and digest(self.path) != self.sha256:
            raise DataError(
                f"'{self.path}' has changed since this run was set up; put the file back as it "
                "was or start a new run in another folder with --out"
            )
        return frame

    def load(self, study_seed: int = 0, trial_seed: int = 0) -> TableDataset:
        """Reads, encodes and splits the file, or takes it from memory while it has not changed."""
        version = stamp(self.path) if self.path.exists() else None
        return _loaded(self, study_seed, trial_seed, version)

    def for_rows(self, codec: TableCodec, seed: int) -> TableDataset:
        """Reads rows in the units of a model of another table, at most `MOST_HELDOUT` by the seed.

        Raises:
            DataError: The file cannot be used or has other columns.
        """
        frame = self._read(codec)
        with self._about():
            rows = codec.encode(frame, numpy_generator("encoding", seed))
        order = torch.randperm(len(rows), generator=torch_generator("split", seed))
        return self._dataset(codec, rows, order[:0], order[:MOST_HELDOUT])

    def fit_codec(self, frame: pd.DataFrame) -> TableCodec:
        """Fits a codec to rows: the kinds of the columns and how cells become coordinates.

        Raises:
            DataError: A column cannot be used or does not fit its given kind, no rule has a given
                name, or no column can be learned.
        """
        with self._quiet():
            codec = TableCodec.fit(frame, self.kinds, without=self.without)
        if not codec.dim:
            raise DataError(
                "there is nothing to learn: every column is constant or identifies rows; give a "
                "column that varies"
            )
        return codec.model_copy(update={"missing": self.missing})

    def _read(self, codec: TableCodec | None = None) -> pd.DataFrame:
        """Reads the file, with enough rows, as text of a codec's table is read if there is one."""
        if codec is None:
            frame = read_frame(self.path, self.missing, self.kinds)
        else:
            frame = codec.read(self.path)
        if (num := len(frame)) < _FEWEST_ROWS:
            count = f"{num} rows" if num > 1 else "a single row"
            raise DataError(f"'{self.path}' has {count}; at least {_FEWEST_ROWS} are needed")
        return frame

    @contextmanager
    def _about(self) -> Iterator[None]:
        """Puts the file's name before errors about its rows."""
        try:
            yield
        except DataError as error:
            raise DataError(f"'{self.path}': {error}") from error

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Suppresses the warnings of a file and its codec once a run was set up, which had them."""
        logger = logging.getLogger("kan_diffusion.tables")
        level = logger.level
        if self.sha256:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


@lru_cache(maxsize=1)
def _loaded(
    source: FileData, study_seed: int, trial_seed: int, _version: tuple[int, ...] | None
) -> TableDataset:
    """Keeps the last file in memory."""
    frame = source.rows()
    with source._about():
        return source.encoded(frame, source.fit_codec(frame), study_seed, trial_seed)
