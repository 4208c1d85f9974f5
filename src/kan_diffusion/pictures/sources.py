"""Pictures as sources: the handwritten digits of scikit-learn, scenes that are drawn, and folders.

Fresh shapes can always be drawn, so their held-out pictures are drawn, too, and they have an exact
oracle. A folder follows the convention of Hugging Face's ``imagefolder``:

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
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps
from pydantic import Field, model_validator
from torch import Tensor

from kan_diffusion.data.datasets import Dataset, OracleKind, split
from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.data.sources import Source
from kan_diffusion.errors import DataError, KanDiffusionError, listed, unknown_name
from kan_diffusion.files import stamp
from kan_diffusion.limits import MOST_SIDE, MOST_VALUES
from kan_diffusion.pictures.codec import Mode, encode, squared
from kan_diffusion.pictures.scenes import SHAPE_SIDES, SceneOracle, captions, draw_scenes, render
from kan_diffusion.randomness import numpy_generator
from kan_diffusion.settings import require_name

__all__ = ["PictureData", "PictureDataset"]

_SIZES = {"digits": 8, "shapes": 16}
"""Sides of the pictures that need no files."""
_FOLDER_SIZE = 32
_NUM_SHAPES = 20_000
_STUDY_HOLDOUT = 0.3
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DIGIT_WORDINGS = ("{a} {name}", "the digit {name}", "{name}", "a handwritten {name}")

_FEWEST = 10
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_ENDINGS = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"
)  # fmt: skip
_METADATA = ("metadata.csv", "metadata.jsonl")
_TRAIN = {"train", "training"}
_HELD_OUT = {"validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"}


@dataclass(frozen=True, kw_only=True)
class PictureDataset(Dataset):
    """Pictures, with values from -1 to 1.

    Attributes:
        labels: A row for each training picture: its ``caption``, or else the name of its class,
            empty where nothing is said; and its ``class``, a categorical.
        heldout_labels: The same of the held-out pictures.
        scenes: Whether samples are scenes, whose posterior mean is known exactly.
    """

    columns: tuple[str, ...] = ()
    heldout: Tensor = field()
    labels: pd.DataFrame
    heldout_labels: pd.DataFrame
    scenes: bool = False

    @property
    def classes(self) -> list[str]:
        """Names of the classes; empty where there are none."""
        return list(self.labels["class"].cat.categories)

    @property
    def oracle(self) -> OracleKind:
        """Whether the posterior mean is known."""
        return "exact" if self.scenes else "none"

    def posterior_mean(
        self, noised: Tensor, alpha: Tensor, sigma: Tensor, rows: Tensor | None
    ) -> Tensor | None:
        """Returns the posterior mean of scenes, given their captions."""
        if not self.scenes:
            return None
        told = None if rows is None else self.heldout_labels["caption"][rows.numpy()].tolist()
        return SceneOracle(self.shape[-1]).posterior_mean(noised, alpha, sigma, told)


class PictureData(Source):
    """Pictures that are built in, or those of a folder.

    Attributes:
        pictures: ``"digits"``, ``"shapes"``, or the path of a folder.
        size: Side in pixels; None for 8 (digits), 16 (shapes) or 32 (a folder).
        mode: Channels; None for grey if all pictures are grey, and else for colour.
        num_pictures: Number of training pictures of shapes to draw; None for 20,000.
        holdout: Fraction of the pictures that is held out; of shapes, this share is drawn besides.
        sha256: Digest of a folder when the run was set up, see :meth:`pinned`; a folder that has
            changed since is refused.
    """

    task = "kan_diffusion.pictures.task:PictureTask"
    view = "kan_diffusion.pictures.view:PictureView"
    known = _SIZES
    quick: ClassVar[Mapping[str, int]] = {"num_noised": 60, "num_samples": 12}

    pictures: str
    size: int | None = Field(None, ge=4, le=MOST_SIDE)
    mode: Mode | None = None
    num_pictures: int | None = Field(None, ge=1)
    holdout: float = Field(0.1, gt=0, lt=1)
    sha256: str = ""

    @model_validator(mode="after")
    def _known(self) -> Self:
        require_name(self.name)
        if self.folder and "/" not in self.pictures and not self.folder.is_dir():
            raise unknown_name("pictures (none of these and no folder)", self.pictures, _SIZES)
        if self.pictures != "shapes" and self.num_pictures is not None:
            raise KanDiffusionError("num_pictures is for shapes, which are drawn; leave it out")
        if self.pictures == "shapes" and (self.side not in SHAPE_SIDES or self.mode == "L"):
            raise KanDiffusionError("shapes are drawn in colour, with 16 or 32 pixels a side")
        _require_room(self.num_pictures or 0, self.side)
        return self

    @property
    def side(self) -> int:
        """Side in pixels."""
        return self.size or _SIZES.get(self.pictures, _FOLDER_SIZE)

    @classmethod
    def accepts(cls, name: str) -> bool:
        """Whether it is such a name, or a folder with pictures or their captions."""
        files = Path(name).rglob("*") if Path(name).is_dir() else ()
        return name in _SIZES or any(
            file.suffix.lower() in _ENDINGS or file.name in _METADATA for file in files
        )

    @property
    def folder(self) -> Path | None:
        """Absolute path of the folder; None of pictures that need no files."""
        return None if self.pictures in _SIZES else Path(self.pictures).absolute()

    @property
    def name(self) -> str:
        """Name of the data set in tables and figures."""
        return self.folder.name if self.folder else self.pictures

    def pinned(self) -> Self:
        """Returns a copy with the digest and the absolute path of a folder.

        Raises:
            DataError: The folder or a file in it cannot be used, or are not those of ``sha256``.
            KanDiffusionError: A share to hold out is given for a folder that is split already.
        """
        if self.folder is None:
            return self
        _, labels, sha256 = self._read(self.folder)
        if "held_out" in labels and not self.sha256 and "holdout" in self.model_fields_set:
            raise KanDiffusionError(
                f"'{self.pictures}' is split by its folders, such as train and test; leave "
                "holdout out"
            )
        return self.model_copy(update={"sha256": sha256, "pictures": str(self.folder)})

    def for_study(self) -> Self:
        """Returns a copy that holds out more pictures, where they cannot be drawn."""
        if self.pictures == "shapes":
            return self
        return self.model_copy(update={"holdout": _STUDY_HOLDOUT})

    def identity(self) -> dict[str, object]:
        """As of any source; a folder counts by its name and content."""
        return {**super().identity(), "pictures": self.name}

    def is_same(self, other: Source) -> bool:
        """Whether ``other`` are the same pictures; files are compared when they are read."""
        if not isinstance(other, PictureData):
            return False
        return (other.name, other.folder) == (self.name, self.folder)

    def load(self, study_seed: int = 0, trial_seed: int = 0) -> PictureDataset:
        """Reads or draws pictures, and splits them."""
        if self.folder:
            samples, labels, _ = self._read(self.folder)
        elif self.pictures == "digits":
            samples, labels = _read_digits(self, study_seed)
        else:
            samples, labels = _draw_shapes(self, study_seed, trial_seed)
        if "held_out" in labels:
            held_out = torch.from_numpy(labels["held_out"].to_numpy(copy=True))
            train, heldout = (part.nonzero()[:, 0] for part in (~held_out, held_out))
        else:
            train, heldout = split(len(samples), self.holdout, study_seed, trial_seed)
        told, others = (
            labels.iloc[rows.numpy()].reset_index(drop=True) for rows in (train, heldout)
        )
        return PictureDataset(
            name=self.name,
            standardizer=Standardizer.identity(samples[0].numel()),
            train=samples[train],
            heldout=samples[heldout],
            labels=told,
            heldout_labels=others,
            scenes=self.pictures == "shapes",
        )

    def _read(self, root: Path) -> tuple[Tensor, pd.DataFrame, str]:
        """Reads the folder that a run was set up with: samples, labels and the digest."""
        if not root.is_dir():
            raise DataError(f"'{root}' is no folder; give a folder of pictures")
        found, tables = [], []
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if any(part.startswith(".") for part in name.split("/")):
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
                raise DataError(
                    f"'{name}' in '{root}' is a link that leads elsewhere; put a copy in its place"
                )
            if path.is_file():
                file = name, stamp(path)
                if path.suffix.lower() in _ENDINGS:
                    found.append(file)
                elif path.name in _METADATA:
                    tables.append(file)
        if len(found) < _FEWEST:
            raise DataError(
                f"'{root}' has {len(found)} pictures (files that end in {', '.join(_ENDINGS)}); at "
                f"least {_FEWEST} are needed to train on some and judge with others"
            )
        _require_room(len(found), self.side)
        read = _read_files(root, tuple(found), tuple(tables), self.side, self.mode)
        if self.sha256 not in ("", read[2]):
            raise DataError(
                f"'{self.pictures}' has changed since this run was set up; put its files back as "
                "they were or start a new run in another folder with --out"
            )
        return read


def _require_room(num: int, side: int) -> None:
    """Checks that so many pictures in colour fit into memory."""
    values = 3 * num * side**2
    if values > MOST_VALUES:
        raise DataError(
            f"{num:,} pictures of {side} pixels a side are {values:,} values; at most "
            f"{MOST_VALUES:,} fit, take fewer pictures or a smaller size"
        )


@lru_cache(maxsize=2)
def _draw_shapes(
    config: PictureData, study_seed: int, trial_seed: int
) -> tuple[Tensor, pd.DataFrame]:
    """Draws scenes to train on, then held-out ones; keeps the last two results in memory."""
    num = config.num_pictures or _NUM_SHAPES
    samples, told = list[Tensor](), list[str]()
    parts: list[tuple[int, tuple[str | int, ...]]] = [
        (num, ("training pictures", study_seed, trial_seed)),
        (max(4, round(config.holdout * num)), ("held-out pictures", study_seed)),
    ]
    for count, stream in parts:
        generator = numpy_generator("shapes", *stream)
        scenes = draw_scenes(count, generator)
        samples.append(render(scenes, config.side))
        told += captions(scenes, generator)
    labels = pd.DataFrame({"caption": told, "class": pd.Categorical([None] * len(told), [])})
    return torch.cat(samples), labels.assign(held_out=labels.index >= num)


def _read_digits(config: PictureData, study_seed: int) -> tuple[Tensor, pd.DataFrame]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    values = (digits.images * (255 / 16)).round().astype(np.uint8)
    generator = numpy_generator("captions", study_seed, "digits")
    names = [_DIGITS[label] for label in digits.target]
    told = [
        wording.format(a="an" if name == "eight" else "a", name=name)
        for wording, name in zip(generator.choice(_DIGIT_WORDINGS, len(names)), names, strict=True)
    ]
    samples = encode([Image.fromarray(value) for value in values], config.side, config.mode)
    return samples, pd.DataFrame({"caption": told, "class": pd.Categorical(names, _DIGITS)})


_File = tuple[str, tuple[int, ...]]
"""Name of a file, and what changes whenever it changes."""


@lru_cache(maxsize=1)
def _read_files(
    root: Path, found: tuple[_File, ...], tables: tuple[_File, ...], size: int, mode: Mode | None
) -> tuple[Tensor, pd.DataFrame, str]:
    """Reads pictures and tables of captions; the last ones stay in memory until they change."""
    names, texts = ([name for name, *_ in files] for files in (found, tables))
    labels = _labels(root, names)
    said = _captions(root, names, texts) if texts else labels["class"].astype(object).fillna("")
    labels.insert(0, "caption", said)
    pictures = [_opened(root, name, size) for name in names]
    digests = [(name, _sha256((root / name).read_bytes())) for name in (*names, *texts)]
    sha256 = _sha256("".join(f"{name}\0{digest}\n" for name, digest in digests).encode())
    return encode(pictures, size, mode), labels, sha256


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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
            if name not in texts or texts[name]:
                problem = "is no picture of the folder; put it there or"
                problem = "has a caption already;" if name in texts else problem
                raise DataError(f"'{table}': '{file_name}' {problem} remove the line")
            texts[name] = " ".join(text.split())
    if without := [name for name, text in texts.items() if not text]:
        raise DataError(
            f"'{tables[0]}' has no caption for {listed(without, 3)}; add a line with a text for "
            "each or remove the pictures"
        )
    return list(texts.values())


def _lines(root: Path, table: str) -> list[tuple[str, str]]:
    """Reads the file name and the text of each line of a table of captions."""
    path = root / table
    try:
        if table.endswith(".csv"):
            # The head is read as a line, so that no line may have more cells than the head.
            cells = pd.read_csv(
                path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig"
            )
            frame = cells.iloc[1:].set_axis(list(cells.iloc[0]), axis=1)
        else:
            frame = pd.read_json(path, lines=True, dtype=False)
        if not {"file_name", "text"} <= {*frame}:
            has = listed(map(str, frame))
            raise DataError(f"'{table}' must have the columns file_name and text; it has {has}")
        lines = list(zip(frame["file_name"], frame["text"], strict=True))
        if wrong := [line for line in lines if not all(isinstance(each, str) for each in line)]:
            raise ValueError(f"{wrong[0]} are no two texts")
    except (OSError, ValueError, LookupError, RecursionError) as error:
        raise DataError(
            f"'{table}' cannot be read as UTF-8 ({error}); in CSV put text with commas in double "
            "quotes, in JSON write one object with file_name and text a line"
        ) from error
    return lines


def _labels(root: Path, names: list[str]) -> pd.DataFrame:
    """Finds the class of each picture, and whether it is held out, from its folders."""
    folders = [name.split("/")[:-1] for name in names]
    tops = [folder[0].lower() if folder else "" for folder in folders]
    labels = pd.DataFrame(index=range(len(names)))
    if {*tops} & _TRAIN and {*tops} <= _TRAIN | _HELD_OUT:
        folders = [folder[1:] for folder in folders]
        if {*tops} & _HELD_OUT:
            labels["held_out"] = [top in _HELD_OUT for top in tops]
            if labels["held_out"].value_counts().min() < 2:
                raise DataError(
                    f"'{root}' has fewer than 2 pictures to train on or to judge with; put more "
                    "into its folders"
                )
    classes = pd.Categorical([folder[-1] if folder else "" for folder in folders])
    if len(classes.categories) < 2:
        return labels.assign(**{"class": classes.set_categories([])})
    if "" in classes.categories:
        raise DataError(
            f"'{names[list(classes).index('')]}' lies beside the folders of classes; put it into "
            "one of them"
        )
    return labels.assign(**{"class": classes})
