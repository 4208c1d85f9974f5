"""Frames of rows, written to files; :mod:`kan_diffusion.tables.files` reads them back."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import pandas as pd
from annotated_types import Len
from pandas.api.types import is_numeric_dtype
from pydantic import FailFast, Field

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.files import whole_file
from kan_diffusion.limits import MOST_COLUMNS
from kan_diffusion.settings import Settings

logger = logging.getLogger(__name__)

ENDINGS = (".csv", ".csv.gz", ".tsv", ".parquet", ".npy")
"""Endings of files of rows."""


class TextForm(Settings):
    """How a text file writes a table; rows like its own are written alike.

    Attributes:
        ending: Its ending, without that of a packed file.
        delimiter: What separates cells.
        decimal_commas: Names of columns whose numbers have decimal commas.
        decimals: Decimals that all numbers of a column have, some of them zeros at the end, by its
            name.
        unnamed: Names given to columns without one, such as an index of pandas.
        has_mark: Whether the file begins with the mark of UTF-8.
    """

    ending: Literal[".csv", ".tsv"] = ".csv"
    delimiter: Literal[",", ";", "\t", "|"] = ","
    decimal_commas: Annotated[tuple[str, ...], FailFast(), Len(0, MOST_COLUMNS)] = ()
    decimals: dict[str, Annotated[int, Field(ge=1, le=9)]] = Field(default_factory=dict)
    unnamed: Annotated[tuple[str, ...], FailFast(), Len(0, MOST_COLUMNS)] = ()
    has_mark: bool = False

    def renamed(self, names: Mapping[str, str]) -> Self:
        """Returns the form with other names of columns."""
        commas = tuple(names[name] for name in self.decimal_commas)
        decimals = {names[name]: count for name, count in self.decimals.items()}
        return self.model_copy(update={"decimal_commas": commas, "decimals": decimals})

    def completed(self, other: Self | None, names: Collection[str]) -> Self:
        """Returns the form with some columns, which it does not tell, as another one has them.

        Nothing is taken from one that writes the columns that both tell in another way.
        """
        if other is None or self.delimiter != other.delimiter:
            return self
        commas = {*other.decimal_commas}
        if commas.difference(names) != {*self.decimal_commas}.difference(names):
            return self
        decimals = {name: count for name, count in other.decimals.items() if name in names}
        return self.model_copy(
            update={"decimal_commas": tuple(sorted(commas)), "decimals": self.decimals | decimals}
        )

    def applied(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Returns rows with the cells and names that are written."""
        written = frame.copy(deep=False)
        for place, name in enumerate(frame):
            cells = frame.iloc[:, place]
            if (count := self.decimals.get(str(name))) and is_numeric_dtype(cells.dtype):
                fixed = cells.map(f"{{:.{count}f}}".format, na_action="ignore").astype("string")
                cells = fixed.where(fixed.astype("Float64") == cells, cells.astype("string"))
            if str(name) in self.decimal_commas:
                cells = cells.astype("string").str.replace(".", ",", regex=False)
            written.isetitem(place, cells.array)
        return written.set_axis(
            ["" if str(name) in self.unnamed else name for name in frame], axis=1
        )


def ending_of(path: Path) -> str:
    """Returns the ending of a file's name in lower case, with both parts of ``.csv.gz``."""
    endings = [part.lower() for part in path.suffixes[-2:]]
    return ".csv.gz" if endings == [".csv", ".gz"] else endings[-1] if endings else ""


def require_writable_ending(path: Path) -> None:
    """Checks that a table can be written to a file of this name.

    Raises:
        KanDiffusionError: The ending is unknown.
    """
    if ending_of(path) not in ENDINGS:
        raise KanDiffusionError(
            f"cannot write rows to '{path}': the ending must be {', '.join(ENDINGS)}"
        )


def write_frame(path: Path, frame: pd.DataFrame, form: TextForm | None = None) -> None:
    """Writes a table to a file, whole or not at all.

    :func:`kan_diffusion.tables.files.read_table` reads the same values back, and from Parquet the
    same dtypes (but dates in milliseconds if they were in seconds). Text files cannot tell a text
    such as "1" or "None" from a number or a gap, nor numbers as names of columns from a row.

    A cell or name that a spreadsheet would take for a formula stays as it is, with a warning.

    Args:
        path: A .csv, .csv.gz, .tsv, .parquet or .npy file.
        frame: The table; a .npy file takes only numbers, without names.
        form: How to write a text file of the same ending; with commas or tabs when None.

    Raises:
        KanDiffusionError: The ending is unknown, or text or dates are to go into a .npy file.
        RunFolderError: The file cannot be written.
    """
    require_writable_ending(path)
    ending = ending_of(path)
    array = _numeric_array(path, frame) if ending == ".npy" else None
    with whole_file(path) as temporary, temporary.open("wb") as file:
        if ending == ".parquet":
            frame.to_parquet(file, index=False)
        elif array is not None:
            np.save(file, array, allow_pickle=False)
        else:
            _warn_of_formulas(path, frame)
            own = ending.removesuffix(".gz")
            if form is None or form.ending != own:
                form = TextForm(delimiter="\t" if own == ".tsv" else ",")
            packed = {"method": "gzip", "filename": "", "mtime": 0}  # the same bytes every time
            form.applied(frame).to_csv(
                file,
                index=False,
                sep=form.delimiter,
                encoding="utf-8-sig" if form.has_mark else "utf-8",
                na_rep="NA" if frame.shape[1] == 1 else "",  # an empty line is no row
                compression=packed if ending == ".csv.gz" else None,
            )


def _warn_of_formulas(path: Path, frame: pd.DataFrame) -> None:
    """Warns of the first name or text that begins as a spreadsheet's formulas do."""
    columns = (frame.iloc[:, place] for place in range(frame.shape[1]))
    texts = (column.unique() for column in columns if not pd.api.types.is_numeric_dtype(column))
    for text in chain(frame, *texts):
        if isinstance(text, str) and text.startswith(("=", "+", "-", "@", "\t", "\r")):
            remedy = "which a spreadsheet runs as a formula; import the columns as text there"
            logger.warning("'%s' has the text %r, %s", path, text[:80], remedy)
            return


def _numeric_array(path: Path, frame: pd.DataFrame) -> np.ndarray:
    """Makes an array of whole numbers if all of them are, and else of floating-point numbers."""
    for name, dtype in frame.dtypes.items():
        if not pd.api.types.is_numeric_dtype(dtype):
            raise KanDiffusionError(
                f"cannot write column '{name}' to '{path}', which takes numbers only; choose "
                "another ending"
            )
    integers = all(pd.api.types.is_integer_dtype(kind) for kind in frame.dtypes)
    if integers and not frame.isna().to_numpy().any():
        return frame.to_numpy(dtype=np.int64)
    return frame.to_numpy(dtype=np.float64, na_value=np.nan)
