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
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd
import torch
from PIL import Image, ImageOps
from torch import Tensor

from kan_diffusion.errors import DataError
from kan_diffusion.limits import MOST_VALUES
from kan_diffusion.pictures.codec import Mode, PictureCodec, squared

__all__ = ["Pictures", "holds_pictures", "list_folder", "read_folder", "require_room"]

_FEWEST = 10
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_ENDINGS = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"
)  # fmt: skip
_METADATA = ("metadata.csv", "metadata.jsonl")
_TRAIN = {"train", "training"}
_HELD_OUT = {"validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"}


def holds_pictures(path: Path) -> bool:
    """Tells whether a path is a folder with pictures, or their captions."""
    files = path.rglob("*") if path.is_dir() else ()
    return any(file.suffix.lower() in _ENDINGS or file.name in _METADATA for file in files)


@dataclass(frozen=True)
class Pictures:
    """Pictures that are there, before they are split.

    Attributes:
        codec: The map between pictures and samples.
        samples: Shape (n, C, S, S), float32, from -1 to 1.
        labels: A row for each: its ``caption``, or else the name of its class, empty where nothing
            is said; and its ``class``, a categorical without categories where there are none.
        heldout: Which of them are held out, with shape (n,), bool; None if the split is free.
        sha256: Digest of the names and contents of the files.
    """

    codec: PictureCodec
    samples: Tensor
    labels: pd.DataFrame
    heldout: Tensor | None = None
    sha256: str = ""


def list_folder(root: Path) -> tuple[tuple[str, int, int], ...]:
    """Lists the pictures of a folder and the tables of their captions; none is opened yet.

    Returns:
        Their names, times and sizes, which change whenever the folder changes.

    Raises:
        DataError: There is no such folder, it has too few pictures, or a link leads out of it.
    """
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(f"'{root}' {what}; give a folder of pictures")
    found, num = [], 0
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if any(part.startswith(".") for part in name.split("/")):
            continue
        if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
            raise DataError(
                f"'{name}' in '{root}' is a link that leads elsewhere; put a copy in its place"
            )
        is_picture = path.suffix.lower() in _ENDINGS
        if path.is_file() and (is_picture or path.name in _METADATA):
            found.append((name, path.stat().st_mtime_ns, path.stat().st_size))
            num += is_picture
    if num < _FEWEST:
        raise DataError(
            f"'{root}' has {num} pictures (files that end in {', '.join(_ENDINGS)}); at least "
            f"{_FEWEST} are needed to train on some and judge with others"
        )
    return tuple(found)


@lru_cache(maxsize=1)
def read_folder(
    root: Path, files: tuple[tuple[str, int, int], ...], size: int, mode: Mode | None
) -> Pictures:
    """Reads the pictures of a folder; keeps the last one in memory until its files change.

    Args:
        root: The folder.
        files: Its files, as `list_folder` lists them.
        size: Side of the samples in pixels.
        mode: Channels; when None the mode that all pictures share, and else colour.

    Raises:
        DataError: A picture is damaged, of another format, or too large; they are too many; only
            some have a class; or a table of captions is damaged, names a picture twice, names one
            that is missing, or leaves one out.
    """
    names = [name for name, *_ in files if Path(name).name not in _METADATA]
    tables = [name for name, *_ in files if Path(name).name in _METADATA]
    require_room(len(names), size)
    heldout, classes = _parts(root, names)
    labels = pd.DataFrame({"class": classes})
    said = _captions(root, names, tables) if tables else labels["class"].astype(object).fillna("")
    labels.insert(0, "caption", said)
    pictures = [_opened(root, name, size) for name in names]
    modes = {picture.mode for picture in pictures}
    shared = modes.pop() if len(modes) == 1 else "RGB"
    codec = PictureCodec.model_validate({"size": size, "mode": mode or shared})
    digests = [_sha256((root / name).read_bytes()) for name in (*names, *tables)]
    lines = zip((*names, *tables), digests, strict=True)
    sha256 = _sha256("".join(f"{name}\0{digest}\n" for name, digest in lines).encode())
    return Pictures(codec, codec.encode(pictures), labels, heldout, sha256)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def require_room(num: int, size: int) -> None:
    """Checks that so many pictures in colour fit into memory.

    Raises:
        DataError: They do not.
    """
    values = 3 * num * size**2
    if values > MOST_VALUES:
        raise DataError(
            f"{num:,} pictures of {size} pixels a side are {values:,} values; at most "
            f"{MOST_VALUES:,} fit, take fewer pictures or a smaller size"
        )


def _opened(root: Path, name: str, size: int) -> Image.Image:
    """Reads a picture, upright and in its final size."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(root / name, formats=_FORMATS) as picture:
                return squared(ImageOps.exif_transpose(picture), size)
    except DataError as error:
        raise DataError(f"'{name}': {error}") from error
    except Exception as error:  # Pillow's parsers raise errors of many kinds
        raise DataError(
            f"'{name}' is no picture that can be read ({error}); save it again as PNG, smaller if "
            "it is very large, or remove it"
        ) from error


def _captions(root: Path, names: list[str], tables: list[str]) -> list[str]:
    """Reads the caption of each picture from the tables of captions."""
    texts = dict.fromkeys(names, "")
    for table in tables:
        for file_name, text in _lines(root, table):
            name = posixpath.normpath(posixpath.join(posixpath.dirname(table), file_name))
            problem = "" if name in texts else "is no picture of the folder; put it there or"
            if texts.get(name):
                problem = "has a caption already;"
            if problem:
                raise DataError(f"'{table}': '{file_name}' {problem} remove the line")
            texts[name] = " ".join(text.split())
    without = [name for name, text in texts.items() if not text]
    if without:
        more = f" and {len(without) - 1:,} more pictures" if len(without) > 1 else ""
        raise DataError(
            f"'{tables[0]}' has no caption for '{without[0]}'{more}; add lines with a text for "
            "them or remove the pictures"
        )
    return list(texts.values())


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
        lines = list(zip(frame["file_name"], frame["text"], strict=True))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"'{table}' cannot be read as UTF-8 ({error}); {remedy}") from error
    except KeyError as error:
        raise DataError(
            f"'{table}' must have the columns file_name and text; it has no {error}"
        ) from error
    for line in lines:
        if not all(isinstance(value, str) for value in line):
            raise DataError(f"'{table}': {line} must be a file_name and a text; {remedy}")
    return lines


def _parts(root: Path, names: list[str]) -> tuple[Tensor | None, pd.Categorical[str]]:
    """Finds the held-out pictures, and the class of each picture, from the folders."""
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
    classes = pd.Categorical([folder[-1] if folder else "" for folder in folders])
    if len(classes.categories) < 2:
        return heldout, classes.set_categories([])
    if "" in classes.categories:
        raise DataError(
            f"'{names[list(classes).index('')]}' lies beside the folders of classes; put it into "
            "one of them"
        )
    return heldout, classes
