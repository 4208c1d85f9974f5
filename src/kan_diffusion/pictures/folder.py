r"""A folder of pictures in the convention of Hugging Face's ``imagefolder``.

* Picture files that Pillow reads, at any depth; hidden files and other files are ignored.
* ``metadata.csv`` or ``metadata.jsonl``, at the top or in any folder, with ``file_name`` (relative
  to the folder it lies in) and ``text``: the captions, of all pictures or of none.
* Folders ``train`` and ``test`` (or ``validation``) at the top define the split.
* If pictures lie in two folders or more, each folder is a class, named like the folder.

Nothing outside of the folder is read, and errors name the file.
"""

from __future__ import annotations

import hashlib
import posixpath
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pandas as pd
import torch
from PIL import Image, ImageOps
from torch import Tensor

from kan_diffusion.errors import DataError
from kan_diffusion.pictures.codec import squared

__all__ = ["ImageFolder", "holds_pictures"]

_FEWEST = 10
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_ENDINGS = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"
)  # fmt: skip
_METADATA = ("metadata.csv", "metadata.jsonl")
_TRAIN = {"train", "training"}
_HELD_OUT = {"validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"}


def holds_pictures(path: Path) -> bool:
    """Tells whether a path is a folder with pictures, or their captions, and no Parquet files."""
    names = [file.name for file in path.rglob("*")] if path.is_dir() else []
    endings = {Path(name).suffix.lower() for name in names}
    return bool(endings & {*_ENDINGS} or {*names} & {*_METADATA}) and ".parquet" not in endings


@dataclass(frozen=True)
class ImageFolder:
    """The files of a folder of pictures with their captions and classes; none is opened yet.

    Attributes:
        root: The folder.
        names: Names of the n pictures, relative to the folder.
        tables: Names of the files with captions.
        captions: A caption for each picture; None where there are none.
        heldout: Which pictures are held out, shape (n,), bool; None if the folders define no
            split.
        labels: Indices into ``classes``, shape (n,), int64; None where there are no classes.
        classes: Names of the classes, which are folders.
    """

    root: Path
    names: tuple[str, ...]
    tables: tuple[str, ...]
    captions: tuple[str, ...] | None
    heldout: Tensor | None
    labels: Tensor | None
    classes: tuple[str, ...]

    @classmethod
    def of(cls, root: Path) -> Self:
        """Lists the pictures of a folder with their captions and classes.

        Raises:
            DataError: There is no such folder, it has too few pictures, only some have a class, a
                link leads out of it, or a table of captions is damaged, names a picture twice,
                names one that is missing, or leaves one out.
        """
        if not root.is_dir():
            what = "is a file, not a folder" if root.exists() else "does not exist"
            raise DataError(f"'{root}' {what}; give a folder of pictures")
        names, tables = list[str](), list[str]()
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if any(part.startswith(".") for part in name.split("/")):
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
                raise DataError(
                    f"'{name}' in '{root}' is a link that leads elsewhere; put a copy in its place"
                )
            if path.is_file() and path.suffix.lower() in _ENDINGS:
                names.append(name)
            elif path.is_file() and path.name in _METADATA:
                tables.append(name)
        if len(names) < _FEWEST:
            raise DataError(
                f"'{root}' has {len(names)} pictures (files that end in {', '.join(_ENDINGS)}); at "
                f"least {_FEWEST} are needed to train on some and judge with others"
            )
        captions = _captions(root, names, tables) if tables else None
        return cls(root, tuple(names), tuple(tables), captions, *_parts(root, names))

    @property
    def stamp(self) -> tuple[tuple[str, int, int], ...]:
        """Names, times and sizes of all files, which change whenever the folder changes."""
        every = [(name, (self.root / name).stat()) for name in (*self.names, *self.tables)]
        return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in every)

    def sha256(self) -> str:
        """Digest of the names and contents of all files.

        Raises:
            DataError: A file cannot be read.
        """
        sums = hashlib.sha256()
        for name in (*self.names, *self.tables):
            try:
                content = hashlib.sha256((self.root / name).read_bytes()).hexdigest()
            except OSError as error:
                raise DataError(
                    f"'{name}' cannot be read ({error.strerror}); change its permissions"
                ) from error
            sums.update(f"{name}\0{content}\n".encode())
        return sums.hexdigest()

    def pictures(self, size: int) -> Iterator[tuple[tuple[int, int], Image.Image]]:
        """Reads one picture after another.

        Args:
            size: Side in pixels.

        Yields:
            Width and height of each picture in the order of ``names``, and the picture upright, of
            ``size`` pixels and the mode that holds all that it shows.

        Raises:
            DataError: A picture is damaged, of another format, or too large.
        """
        for name in self.names:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    warnings.simplefilter("error", Image.DecompressionBombWarning)
                    with Image.open(self.root / name, formats=_FORMATS) as picture:
                        upright = ImageOps.exif_transpose(picture)
                        small = squared(upright, size)
            except DataError as error:
                raise DataError(f"'{name}': {error}") from error
            except Exception as error:  # Pillow's parsers raise errors of many kinds
                raise DataError(
                    f"'{name}' is no picture that can be read ({error}); save it again as PNG, "
                    "smaller if it is very large, or remove it"
                ) from error
            yield upright.size, small


def _captions(root: Path, names: list[str], tables: list[str]) -> tuple[str, ...]:
    """Reads the caption of each picture from the tables of captions."""
    texts = dict.fromkeys(names, "")
    for table in tables:
        for file_name, text in _lines(root, table):
            name = posixpath.normpath(posixpath.join(posixpath.dirname(table), file_name))
            if name not in texts:
                raise DataError(
                    f"'{table}': '{file_name}' is no picture of the folder; put it there or remove "
                    "the line"
                )
            if texts[name]:
                raise DataError(
                    f"'{table}': '{file_name}' has a caption already; remove one of them"
                )
            texts[name] = " ".join(text.split())
    without = [name for name, text in texts.items() if not text]
    if without:
        more = f" and {len(without) - 1:,} more pictures" if len(without) > 1 else ""
        raise DataError(
            f"'{tables[0]}' has no caption for '{without[0]}'{more}; add lines with a text for "
            "them or remove the pictures"
        )
    return tuple(texts.values())


def _lines(root: Path, table: str) -> list[tuple[str, str]]:
    """Reads the file name and the text of each line of a table of captions."""
    path, remedy = root / table, "put text with commas in double quotes"
    try:
        if table.endswith(".csv"):
            # The head is read as a line, so that no line may have more cells than the head.
            cells = pd.read_csv(
                path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig"
            )
            frame = cells.iloc[1:].set_axis(list(cells.iloc[0]), axis=1)
        else:
            remedy = "write one object with file_name and text a line"
            frame = pd.read_json(path, lines=True, dtype=False)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"'{table}' cannot be read as UTF-8 ({error}); {remedy}") from error
    columns = list(frame.columns)
    if columns.count("file_name") != 1 or columns.count("text") != 1:
        raise DataError(
            f"'{table}' must have the columns file_name and text; it has "
            f"{', '.join(map(str, columns)) or 'none'}"
        )
    lines = list(zip(frame["file_name"], frame["text"], strict=True))
    for line in lines:
        if not all(isinstance(value, str) for value in line):
            raise DataError(f"'{table}': {line} must be a file_name and a text; {remedy}")
    return lines


def _parts(root: Path, names: list[str]) -> tuple[Tensor | None, Tensor | None, tuple[str, ...]]:
    """Finds the held-out pictures, the class labels and the classes from the folders."""
    folders = [name.split("/")[:-1] for name in names]
    tops = [folder[0].lower() if folder else "" for folder in folders]
    heldout = None
    if {*tops} & _TRAIN and {*tops} <= _TRAIN | _HELD_OUT:
        folders = [folder[1:] for folder in folders]
        if {*tops} & _HELD_OUT:
            heldout = torch.tensor([top in _HELD_OUT for top in tops])
            if min(int(heldout.sum()), int((~heldout).sum())) < 2:
                raise DataError(
                    f"'{root}' has fewer than 2 pictures to train on or to judge with; put more "
                    "into its folders"
                )
    of_each = [folder[-1] if folder else "" for folder in folders]
    classes = tuple(sorted({*of_each}))
    if len(classes) < 2:
        return heldout, None, ()
    if "" in classes:
        raise DataError(
            f"'{names[of_each.index('')]}' lies beside the folders of classes; put it into one of "
            "them"
        )
    return heldout, torch.tensor([classes.index(folder) for folder in of_each]), classes
