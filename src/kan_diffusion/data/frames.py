"""Frames of rows, written to files; :mod:`kan_diffusion.tables.files` reads them back."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from itertools import chain
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype
from pydantic import Field

from kan_diffusion.data.amounts import Amount
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.files import whole_file
from kan_diffusion.settings import Settings

logger = logging.getLogger(__name__)

ENDINGS = (".csv", ".csv.gz", ".tsv", ".parquet", ".npy")
"""Endings of files of rows."""


class TextForm(Settings):
    """How a text file writes a table; rows like its own are written alike.

    Attributes:
        ending: Its ending, without that of a packed file.
        delimiter: What separates cells.
        amounts: How it writes the numbers of columns by name, if not as Python does.
        headers: Names of columns as it writes them, with spaces at their ends or empty, by name.
        has_mark: Whether the file begins with the mark of UTF-8.
    """

    ending: Literal[".csv", ".tsv"] = ".csv"
    delimiter: Literal[",", ";", "\t", "|"] = ","
    amounts: dict[str, Amount] = Field(default_factory=dict)
    headers: dict[str, str] = Field(default_factory=dict)
    has_mark: bool = False

    def renamed(self, names: Mapping[str, str]) -> Self:
        """Returns the form with other names of columns."""
        amounts = {names[name]: amount for name, amount in self.amounts.items()}
        return self.model_copy(update={"amounts": amounts})

    def completed(self, other: Self | None, told: Collection[str]) -> Self:
        """Returns the form with all columns but those told as another form has them.

        Nothing is taken from one that writes a told column with another mark of decimals.
        """
        if other is None or self.delimiter != other.delimiter:
            return self
        plain = Amount()
        for name in told:
            ours, theirs = (form.amounts.get(name, plain) for form in (self, other))
            if ours.point != theirs.point:
                return self
        amounts = {name: amount for name, amount in other.amounts.items() if name not in told}
        return self.model_copy(update={"amounts": self.amounts | amounts})

    def applied(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Returns rows with the cells and names that are written."""
        written = frame.copy(deep=False)
        for place, name in enumerate(frame):
            cells, amount = frame.iloc[:, place], self.amounts.get(str(name))
            if amount is not None and is_numeric_dtype(cells.dtype):
                known = cells.dropna()
                texts = pd.Series(amount.write(known.to_numpy()), known.index, dtype=object)
                written.isetitem(place, texts.reindex(cells.index).array)
        return written.set_axis([self.headers.get(str(name), name) for name in frame], axis=1)


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
            logger.warning("'%s' has the text %r, %s", path.name, text[:80], remedy)
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
