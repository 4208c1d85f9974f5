"""Data sets: the samples that a denoiser is trained on and judged with.

A data set comes from a toy density, which has unlimited fresh points and an exact oracle; from a
file; from a table of scikit-learn; or from pictures. The rows of files and tables are split, and
so are pictures: some are trained on, the others are held out.

Each trial seed has its own split, which all models of a seed share (pictures may bring their split
along), so that a comparison over seeds is also one over splits of the rows. The posterior mean of
held-out rows is not known: models are judged by their loss on these rows. Of pictures, scenes have
an exact oracle.

Toys are standardised with the moments of the density. Rows of files and tables are encoded by a
codec (:mod:`kan_diffusion.tables.codec`). It is fitted to all rows, since it has to know every
category and whether there are gaps. If a file has more than `MOST_TO_FIT` rows, it is fitted to
that many random rows, and to rows that show all categories and the extremes of numbers. Its draws
derive from the study's seed, so that all trials of a study see the same coordinates.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import pandas as pd
import torch
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from pydantic import BeforeValidator, Discriminator, Field, PlainSerializer, Tag, model_validator
from torch import Tensor

from kan_diffusion.data.densities import Density
from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.data.toys import TOYS, make_toy
from kan_diffusion.errors import (
    DataError,
    KanDiffusionError,
    require_known,
    unknown_name,
    valid_settings,
)
from kan_diffusion.limits import MOST_POINTS
from kan_diffusion.pictures.codec import PICTURES, PictureCodec, PictureData, read_pictures
from kan_diffusion.pictures.folder import holds_pictures
from kan_diffusion.randomness import numpy_generator, torch_generator
from kan_diffusion.settings import Settings, require_name
from kan_diffusion.tables.codec import TableCodec
from kan_diffusion.tables.columns import Kind
from kan_diffusion.tables.files import TABLES, FrameFile, read_frame

__all__ = [
    "MOST_HELDOUT",
    "MOST_TO_FIT",
    "PICTURES",
    "TABLES",
    "DataConfig",
    "Dataset",
    "FileData",
    "OracleKind",
    "PictureData",
    "TableData",
    "ToyData",
    "data_from_name",
    "fit_codec",
    "fresh_dataset",
    "load_dataset",
    "split_frames",
]

MOST_TO_FIT = 200_000
"""Most random rows that a codec is fitted to."""

MOST_HELDOUT = 100_000
"""Most rows that are held out, or that judge a model."""

OracleKind = Literal["exact", "none"]
"""Whether the posterior mean is known."""

_FEWEST_ROWS = 10
_COORDINATES = ("x", "y", "z")


class ToyData(Settings):
    """Points of a built-in toy density.

    Attributes:
        toy: Name of the toy, a key of ``TOYS``.
        noise: Its noise, in the toy's own units; None for the toy's default.
        num_points: Size of the training set.
        divide_by: Scale that points are divided by instead of being standardised.
    """

    toy: str
    noise: float | None = Field(None, ge=1e-6, le=1e6)
    num_points: int = Field(50_000, ge=1, le=MOST_POINTS)
    divide_by: float | None = Field(None, ge=1e-6, le=1e6)

    @model_validator(mode="after")
    def _known(self) -> Self:
        require_known("toy", self.toy, TOYS)
        return self

    @property
    def name(self) -> str:
        """Name of the data set in tables and figures."""
        return self.toy

    def density(self) -> Density:
        """The density in its own units."""
        return make_toy(self.toy, **({} if self.noise is None else {"noise": self.noise}))


def _pairs(kinds: object) -> object:
    return tuple(kinds.items()) if isinstance(kinds, Mapping) else kinds


Kinds = Annotated[
    tuple[tuple[str, Kind], ...], BeforeValidator(_pairs), PlainSerializer(dict, dict[str, str])
]
"""Kinds of columns by name; a mapping in files and arguments."""


class FileData(Settings):
    """Rows of a file.

    Attributes:
        path: A file of a table, or a folder of Parquet files: see
            :func:`kan_diffusion.tables.files.read_frame`.
        sha256: Digest of the file when the run was set up, see :meth:`pinned`; a file that has
            changed since is refused.
        holdout: Fraction of the rows that is held out, at most `MOST_HELDOUT` rows.
        kinds: Kinds of columns by name; the kinds of other columns are inferred.
        missing: Words for gaps in a text file beside the usual ones.
    """

    path: Path
    sha256: str = ""
    holdout: float = Field(0.2, gt=0, lt=1)
    kinds: Kinds = ()
    missing: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _named(self) -> Self:
        require_name(self.name)
        return self

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
        digest = self.sha256
        if not digest:
            file = _read_rows(self)
            fit_codec(file, self)
            digest = file.sha256
        return self.model_copy(update={"sha256": digest, "path": self.path.absolute()})


class TableData(Settings):
    """Rows of a table that is part of scikit-learn.

    Attributes:
        table: Name of the table, a key of ``TABLES``.
        holdout: Fraction of the rows that is not trained on.
    """

    table: str
    holdout: float = Field(0.3, gt=0, lt=1)

    @model_validator(mode="after")
    def _known(self) -> Self:
        require_known("table", self.table, TABLES)
        return self

    @property
    def name(self) -> str:
        """Name of the data set in tables and figures."""
        return self.table


_SOURCES = {"toy": "toy", "path": "file", "table": "table", "pictures": "pictures"}
"""Sources by their key; each data set has exactly one of these keys."""


def _kind(data: object) -> str:
    """Finds the source of a data set, so that errors are about the keys of that source."""
    keys = data if isinstance(data, Mapping) else getattr(type(data), "model_fields", {})
    return next((kind for key, kind in _SOURCES.items() if key in keys), "toy")


def _require_source(data: object) -> object:
    if isinstance(data, Mapping) and not set(_SOURCES) & set(data):
        others = f", not only {', '.join(map(str, data))}" if data else ""
        *first, last = _SOURCES
        known = f"{', '.join(first)} and {last}"
        raise DataError(f"a data set has one of the keys {known}{others}")
    return data


DataConfig = Annotated[
    Annotated[ToyData, Tag("toy")]
    | Annotated[FileData, Tag("file")]
    | Annotated[TableData, Tag("table")]
    | Annotated[PictureData, Tag("pictures")],
    Discriminator(_kind),
    BeforeValidator(_require_source),
]
"""Source of samples: a toy, a file, a table or pictures."""


@dataclass(frozen=True)
class Dataset:
    """Samples to train on and to judge with: points, standardised or encoded, or pictures.

    Attributes:
        name: Name of the data set.
        columns: Names of the coordinates; empty for pictures.
        standardizer: The map between the data's own units and standardised units; the identity for
            encoded rows and pictures.
        train: Training samples with shape (N, *shape), float32; pictures from -1 to 1.
        density: The exact density of a toy's standardised points; None for other data.
        heldout: Held-out samples to noise, with shape (m, *shape), points in float64; None for a
            toy, which has unlimited fresh points.
        codec: The map between rows of a file or table, or pictures, and samples; None for a toy.
        captions: A caption for each training picture; None where there are none.
        heldout_captions: Captions of the held-out pictures.
        class_labels: Indices into ``classes`` of the training pictures, with shape (N,), int64;
            None where there are no classes.
        heldout_class_labels: Class labels of the held-out pictures, with shape (m,).
        classes: Names of the classes of pictures; empty where there are none.
        scenes: Whether samples are scenes in colour, whose posterior mean is known exactly.
        report: How pictures were changed to make them samples; empty if they were not.
    """

    name: str
    columns: tuple[str, ...]
    standardizer: Standardizer
    train: Tensor
    density: Density | None = None
    heldout: Tensor | None = None
    codec: TableCodec | PictureCodec | None = None
    captions: tuple[str, ...] | None = None
    heldout_captions: tuple[str, ...] | None = None
    class_labels: Tensor | None = None
    heldout_class_labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    scenes: bool = False
    report: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample: (d,) for points, (C, S, S) for pictures."""
        return tuple(self.train.shape[1:])

    @property
    def dim(self) -> int:
        """Number of coordinates of a point, or of values of a picture."""
        return math.prod(self.shape)

    @property
    def oracle(self) -> OracleKind:
        """Whether the posterior mean is known."""
        return "exact" if self.density is not None or self.scenes else "none"

    @property
    def split_by_seed(self) -> bool:
        """Whether seeds hold out different rows; each trial is then judged on its own rows."""
        return self.oracle == "none"

    def points_to_noise(self, num: int, generator: torch.Generator) -> Tensor:
        """Returns points with shape (num, d), float64, that no denoiser was trained on.

        These are fresh draws of the density, or the held-out rows in random order, each equally
        often.
        """
        if self.density is not None:
            return self.density.sample(num, generator)
        assert self.heldout is not None
        return self.heldout[self.heldout_rows(num, generator)]

    def heldout_rows(self, num: int, generator: torch.Generator) -> Tensor:
        """Returns indices (num,) of held-out samples in random order, each equally often."""
        assert self.heldout is not None
        rows = torch.arange(num) % len(self.heldout)
        return rows[torch.randperm(num, generator=generator)]

    def fresh_pair(self, num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Returns two disjoint samples of points that no denoiser was trained on, float64.

        Each has ``num`` points, or half of the held-out rows if they are fewer than twice ``num``.
        """
        if self.density is not None:
            points = self.density.sample(2 * num, generator)
        else:
            assert self.heldout is not None
            points = self.heldout[torch.randperm(len(self.heldout), generator=generator)]
            num = min(num, len(points) // 2)
        return points[:num], points[num : 2 * num]

    def fresh(self, num: int, generator: torch.Generator) -> Tensor:
        """Returns at most ``num`` points that no denoiser was trained on, float64.

        If the held-out rows are fewer than twice ``num``, it returns half of them, as many as each
        sample of :meth:`fresh_pair` has, so that metrics of both are comparable.
        """
        if self.density is not None:
            return self.density.sample(num, generator)
        return self.fresh_pair(num, generator)[0]


def data_from_name(
    name: str,
    kinds: Mapping[str, Kind] | None = None,
    missing: Sequence[str] = (),
    *,
    pinned: bool = True,
    **options: float | str | None,
) -> DataConfig:
    """Makes the configuration of a toy, a table or pictures from a name, or of files from a path.

    Args:
        name: What the user wrote.
        kinds: Kinds of a file's columns; the kinds of other columns are inferred.
        missing: Words for gaps in a text file.
        pinned: Whether to read a file or folder in order to pin its content.
        **options: Settings of :class:`ToyData`, :class:`TableData`, :class:`FileData` or
            :class:`PictureData`.

    Raises:
        DataError: The file or folder cannot be used.
        KanDiffusionError: The name is no toy, table, pictures or file, or kinds are given without a
            file.
    """
    of_pictures = name in PICTURES or holds_pictures(Path(name))
    if (kinds or missing) and (name in {*TOYS, *TABLES} or of_pictures):
        what = "kinds are" if kinds else "words for gaps are"
        raise KanDiffusionError(f"{what} for the columns of a file, and '{name}' is none")
    if name in TOYS:
        return ToyData(toy=name, **options)
    if name in TABLES:
        return TableData(table=name, **options)
    if of_pictures:
        with valid_settings("data"):
            pictures = PictureData.model_validate({"pictures": name, **options})
        return pictures.pinned() if pinned else pictures
    if Path(name).suffix or Path(name).exists() or "/" in name:
        with valid_settings("data"):
            told = {"kinds": tuple((kinds or {}).items()), "missing": tuple(missing)}
            file = FileData.model_validate({"path": Path(name), **told, **options})
        return file.pinned() if pinned else file
    known = [*TOYS, *TABLES, *PICTURES]
    raise unknown_name("data set (neither toy, table, pictures nor file)", name, known)


def load_dataset(
    config: DataConfig | str | Path, study_seed: int = 0, trial_seed: int = 0
) -> Dataset:
    """Loads a data set.

    Args:
        config: Source of samples, or the name of a toy, a table or pictures, or the path of a file
            or folder.
        study_seed: All draws derive from it.
        trial_seed: Training points of a toy, training pictures that are drawn, and splits also
            derive from it.

    Raises:
        DataError: The file or folder cannot be used, or has changed since the run was set up.
        KanDiffusionError: The name is unknown.
    """
    if isinstance(config, str | Path):
        config = data_from_name(str(config))
    if isinstance(config, ToyData):
        return _load_toy(config, study_seed, trial_seed)
    if isinstance(config, TableData):
        return _load_table(config, study_seed, trial_seed)
    if isinstance(config, PictureData):
        return _load_pictures(config, study_seed, trial_seed)
    files = config.path.rglob("*") if config.path.is_dir() else [config.path]
    stats = [file.stat() for file in sorted(files) if file.is_file()]
    stamp = tuple((stat.st_mtime_ns, stat.st_size) for stat in stats)
    return _load_file(config, study_seed, trial_seed, stamp)


def _load_toy(config: ToyData, study_seed: int, trial_seed: int) -> Dataset:
    density = config.density()
    dim = density.dim
    if config.divide_by is None:
        standardizer = Standardizer.from_density(density)
    else:
        standardizer = Standardizer((0.0,) * dim, (config.divide_by,) * dim)
    standardised = standardizer.rescale(density)
    generator = torch_generator("training points", study_seed, trial_seed, config.toy)
    numbered = tuple(f"x{index}" for index in range(1, dim + 1))
    return Dataset(
        name=config.name,
        columns=_COORDINATES[:dim] if dim <= len(_COORDINATES) else numbered,
        standardizer=standardizer,
        train=standardised.sample(config.num_points, generator).float(),
        density=standardised,
    )


def _load_table(config: TableData, study_seed: int, trial_seed: int) -> Dataset:
    frame = TABLES[config.table]()
    codec = TableCodec.fit(frame)
    rows = codec.encode(frame, numpy_generator("encoding", study_seed))
    return _split(config, codec, rows, study_seed, trial_seed)


def _load_pictures(config: PictureData, study_seed: int, trial_seed: int) -> Dataset:
    read = read_pictures(config, study_seed, trial_seed)
    if read.heldout is None:
        order = torch.randperm(
            len(read.samples), generator=torch_generator("split", study_seed, trial_seed)
        )
        num = _num_held_out(config.holdout, len(read.samples))
        heldout, train = order[:num], order[num:]
    else:
        heldout, train = read.heldout.nonzero()[:, 0], (~read.heldout).nonzero()[:, 0]

    def captions(rows: Tensor) -> tuple[str, ...] | None:
        return read.captions and tuple(read.captions[row] for row in rows.tolist())

    labels = read.labels
    return Dataset(
        name=config.name,
        columns=(),
        standardizer=Standardizer.identity(math.prod(read.codec.shape)),
        train=read.samples[train],
        heldout=read.samples[heldout],
        codec=read.codec,
        captions=captions(train),
        heldout_captions=captions(heldout),
        class_labels=None if labels is None else labels[train],
        heldout_class_labels=None if labels is None else labels[heldout],
        classes=read.classes,
        scenes=read.scenes,
        report=read.report,
    )


def _num_held_out(share: float, count: int) -> int:
    """Returns the number of samples to hold out of ``count``."""
    # Real-against-real compares two samples, each of at least two.
    return min(max(round(share * count), 4), count - 2)


def _read_rows(config: FileData) -> FrameFile:
    """Reads a file to train on, and refuses one with too few rows."""
    file = read_frame(config.path, config.missing, dict(config.kinds))
    _require_rows(file, "train on some and judge with others")
    return file


def _require_rows(file: FrameFile, purpose: str) -> None:
    """Refuses a file with too few rows for a purpose."""
    if file.num_rows < _FEWEST_ROWS:
        count = f"{file.num_rows} rows" if file.num_rows > 1 else "a single row"
        raise DataError(
            f"'{file.path}' has {count}; at least {_FEWEST_ROWS} are needed to {purpose}"
        )


def fit_codec(file: FrameFile, config: FileData) -> TableCodec:
    """Fits a codec to a file: the kinds of its columns and how their cells become coordinates.

    Raises:
        DataError: A column cannot be used or does not fit its given kind, or no column can be
            learned.
    """
    frame = file.sample(MOST_TO_FIT, numpy_generator("codec"))
    with _about(file.path):
        codec = TableCodec.fit(frame, dict(config.kinds))
        codec.require_content()
        return codec.model_copy(update={"missing": config.missing})


@contextmanager
def _silent() -> Iterator[None]:
    """Suppresses the warnings of a file and its codec."""
    logger = logging.getLogger("kan_diffusion.tables")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Puts a file's name before errors about its rows."""
    try:
        yield
    except DataError as error:
        raise DataError(f"'{path}': {error}") from error


def _encoded(file: FrameFile, codec: TableCodec, seed: int) -> Tensor:
    """Encodes the rows of a file, a batch at a time, with shape (n, d), float32."""
    generator = numpy_generator("encoding", seed)
    rows = torch.empty(file.num_rows, codec.dim)
    start = 0
    with _about(file.path):
        for batch in file.batches():
            rows[start : start + len(batch)] = codec.encode(batch, generator)
            start += len(batch)
    return rows


@lru_cache(maxsize=1)
def _load_file(
    config: FileData, study_seed: int, trial_seed: int, _stamp: tuple[tuple[int, int], ...]
) -> Dataset:
    """Reads, encodes and splits a file; keeps the last one in memory until its files change."""
    file = _own_file(config)
    with _silent() if config.sha256 else nullcontext():
        codec = fit_codec(file, config)
    return _split(config, codec, _encoded(file, codec, study_seed), study_seed, trial_seed)


def _own_file(config: FileData) -> FrameFile:
    """Reads the file that a run was set up with."""
    if config.sha256 and not config.path.exists():
        raise DataError(
            f"there is no file '{config.path}', which this run was set up with; put it there again "
            f"(its SHA-256 is {config.sha256})"
        )
    with _silent() if config.sha256 else nullcontext():  # it warned when the run was set up
        file = _read_rows(config)
    if config.sha256 and file.sha256 != config.sha256:
        raise DataError(
            f"'{config.path}' has changed since this run was set up; put the file back as it was "
            "or start a new run in another folder with --out"
        )
    return file


def split_frames(
    config: FileData | TableData,
    study_seed: int,
    trial_seed: int,
    most: int,
    num_ending: Callable[[int], int] = lambda _: 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Splits the rows of a file or table, not encoded, as :func:`load_dataset` does.

    Args:
        config: Source of the rows.
        study_seed: As in :func:`load_dataset`.
        trial_seed: As in :func:`load_dataset`.
        most: Most rows of each part; the first ones in the split are taken.
        num_ending: Tells how many of the first of so many rows decide when training ends. These
            are in neither part.

    Returns:
        Rows that are trained on, and rows that are held out.

    Raises:
        DataError: The file cannot be used, or has changed since the run was set up.
    """
    file = _own_file(config) if isinstance(config, FileData) else None
    frame = TABLES[config.table]() if isinstance(config, TableData) else pd.DataFrame()
    num_rows = len(frame) if file is None else file.num_rows
    order, num_heldout = _order(num_rows, config, study_seed, trial_seed)
    start = num_heldout + num_ending(num_rows - num_heldout)
    train, heldout = (np.sort(part[:most].numpy()) for part in (order[start:], order[:num_heldout]))
    if file is None:
        return frame.iloc[train], frame.iloc[heldout]
    return file.take(train), file.take(heldout)


def _order(
    num_rows: int, config: FileData | TableData, study_seed: int, trial_seed: int
) -> tuple[Tensor, int]:
    """Draws an order of rows; also returns how many of the first are held out."""
    num_heldout = min(_num_held_out(config.holdout, num_rows), MOST_HELDOUT)
    stream = torch_generator("split", study_seed, trial_seed)
    return torch.randperm(num_rows, generator=stream), num_heldout


def _split(
    config: FileData | TableData,
    codec: TableCodec,
    rows: Tensor,
    study_seed: int,
    trial_seed: int,
) -> Dataset:
    """Makes a data set of encoded rows (n, d), some held out at random."""
    order, num_heldout = _order(len(rows), config, study_seed, trial_seed)
    return Dataset(
        name=config.name,
        columns=codec.names,
        standardizer=Standardizer.identity(codec.dim),
        train=rows[order[num_heldout:]],
        heldout=rows[order[:num_heldout]].double(),
        codec=codec,
    )


def fresh_dataset(
    path: Path, columns: tuple[str, ...], units: Standardizer | TableCodec, seed: int
) -> Dataset:
    """Loads a file that was not trained on, in the units of a trained model.

    Args:
        path: The file.
        columns: Names of the model's coordinates.
        units: The map from the file's columns to the model's coordinates. If both have names, the
            columns are put in the model's order.
        seed: The choice of rows, of which at most `MOST_HELDOUT` judge a model, derives from it.

    Raises:
        DataError: The file cannot be used or has other columns.
    """
    file = units.read(path) if isinstance(units, TableCodec) else read_frame(path)
    _require_rows(file, "judge a model")
    if isinstance(units, TableCodec):
        codec, standardizer = units, Standardizer.identity(units.dim)
        points = _encoded(file, units, seed).double()
    else:
        codec, standardizer = None, units
        points = units.apply_near(_numbers(file, columns), columns, f"'{path}': ")
    order = torch.randperm(len(points), generator=torch_generator("split", seed))
    points = points[order[:MOST_HELDOUT]]
    return Dataset(
        name=path.stem,
        columns=columns,
        standardizer=standardizer,
        train=torch.empty(0, len(columns)),
        heldout=points,
        codec=codec,
    )


def _numbers(file: FrameFile, columns: tuple[str, ...]) -> Tensor:
    """Returns the rows (n, d) of a file, float64, with its columns in the order of ``columns``.

    Raises:
        DataError: The file has other columns, or one has gaps or cells that are not numbers.
    """
    if len(file.columns) != len(columns):
        raise DataError(
            f"'{file.path}' has {len(file.columns)} columns and the model was trained on "
            f"{len(columns)} ({', '.join(columns)}); give a file with the same columns"
        )
    frame = file.named_like(columns).frame
    for name in columns:
        if name not in frame:
            raise DataError(
                f"'{file.path}' has no column '{name}', which the model was trained on; give a "
                f"file with the columns {', '.join(columns)}"
            )
        dtype = frame[name].dtype
        if not is_numeric_dtype(dtype) or is_bool_dtype(dtype) or frame[name].isna().any():
            raise DataError(
                f"'{file.path}' has cells without a number in column '{name}', and the model was "
                "trained on points; remove or fill them"
            )
    return torch.from_numpy(np.array(frame[list(columns)], dtype=np.float64))
