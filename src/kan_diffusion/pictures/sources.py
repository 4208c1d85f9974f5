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
import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps
from pydantic import Field, model_validator
from torch import Tensor

from kan_diffusion.data.datasets import Dataset, OracleKind, split
from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.data.sources import PinnedSource, Source
from kan_diffusion.errors import DataError, KanDiffusionError, listed, unknown_name
from kan_diffusion.files import digest, stamp
from kan_diffusion.limits import MOST_SIDE, MOST_VALUES
from kan_diffusion.pictures.codec import Mode, encode, squared
from kan_diffusion.pictures.scenes import SHAPE_SIDES, SceneOracle, captions, draw_scenes, render
from kan_diffusion.randomness import numpy_generator
from kan_diffusion.settings import require_name
from kan_diffusion.study.folder import RESULT, STUDY

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
_DEEP = re.compile(r";16|'RGB', (?:25[6-9]|2[6-9][0-9]|[3-9][0-9]{2}|[0-9]{4,})\b")
"""What Pillow says of pictures in colour that it would cut to 8 bits: PNG and TIFF, and PPM."""
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
        texts = self.heldout_labels["caption"]
        prompts = None if rows is None else texts[rows.numpy()].tolist()
        return SceneOracle(self.shape[-1]).posterior_mean(noised, alpha, sigma, prompts)


class PictureData(Source):
    """Pictures; those of a kind of their own are a subclass, which :meth:`named` finds.

    Attributes:
        default_side: Side in pixels unless a size is given.
        are_scenes: Whether they are scenes, whose posterior mean is known exactly.
        pictures: ``"digits"``, ``"shapes"``, or the path of a folder.
        size: Side in pixels; None for 8 (digits), 16 (shapes) or 32 (a folder).
        mode: Channels; None for grey if all pictures are grey, and else for colour.
        num_pictures: Number of training pictures of shapes to draw; None for 20,000.
        holdout: Fraction of the pictures that is held out; of shapes, this share is drawn besides.
        sha256: Digest of a folder; none of pictures that need no files.
    """

    task = "kan_diffusion.pictures.task:PictureTask"
    view = "kan_diffusion.pictures.view:PictureView"
    key = "pictures"
    known: ClassVar[Collection[str]] = ("digits", "shapes")
    quick: ClassVar[Mapping[str, int]] = {"num_noised": 60, "num_samples": 12}
    default_side: ClassVar[int]
    are_scenes: ClassVar[bool] = False

    pictures: str
    size: int | None = Field(None, ge=4, le=MOST_SIDE)
    mode: Mode | None = None
    num_pictures: int | None = Field(None, ge=1)
    holdout: float = Field(0.1, gt=0, lt=1)
    sha256: str = ""

    @model_validator(mode="after")
    def _require_room(self) -> Self:
        require_name(self.name)
        if self.num_pictures is not None and not self.are_scenes:
            raise KanDiffusionError("num_pictures is for shapes, which are drawn; leave it out")
        _require_room(self.num_pictures or 0, self.side)
        return self

    @classmethod
    def named(cls, name: str) -> type[PictureData]:
        """Returns the class of digits, of shapes or of a folder."""
        return {"digits": DigitsData, "shapes": ShapesData}.get(name, FolderData)

    @classmethod
    def accepts(cls, name: str) -> bool:
        """Whether it is such a name, or a folder with pictures or their captions."""
        files = Path(name).rglob("*") if Path(name).is_dir() else ()
        return name in cls.known or any(
            file.suffix.lower() in _ENDINGS or file.name.lower() in _METADATA for file in files
        )

    @property
    def side(self) -> int:
        """Side in pixels."""
        return self.size or self.default_side

    def for_study(self) -> Self:
        """Returns a copy that holds out more pictures."""
        return self.model_copy(update={"holdout": _STUDY_HOLDOUT})

    def samples(self, study_seed: int, trial_seed: int) -> tuple[Tensor, pd.DataFrame]:
        """Reads or draws pictures and their labels, which may say what is held out."""
        raise NotImplementedError

    def load(self, study_seed: int = 0, trial_seed: int = 0) -> PictureDataset:
        """Reads or draws pictures, and splits them."""
        samples, labels = self.samples(study_seed, trial_seed)
        if "held_out" in labels:
            held_out = torch.from_numpy(labels["held_out"].to_numpy(copy=True))
            train, heldout = (part.nonzero()[:, 0] for part in (~held_out, held_out))
        else:
            train, heldout = split(len(samples), self.holdout, study_seed, trial_seed)
        train_labels, heldout_labels = (
            labels.iloc[rows.numpy()].reset_index(drop=True) for rows in (train, heldout)
        )
        return PictureDataset(
            name=self.name,
            standardizer=Standardizer.identity(samples[0].numel()),
            train=samples[train],
            heldout=samples[heldout],
            labels=train_labels,
            heldout_labels=heldout_labels,
            scenes=self.are_scenes,
        )

    def describe(self, seed: int = 0) -> str:
        """Says which pictures there are."""
        pictures = self.load(seed)
        (channels, *sides), caption = pictures.shape, pictures.labels["caption"][0]
        text = (
            f"{len(pictures.train):,} pictures of {' x '.join(map(str, sides))} pixels in "
            f"{'grey' if channels == 1 else 'colour'} to train on, {len(pictures.heldout):,} held "
            "out, "
        )
        text += f"with captions such as '{caption}'" if caption else "without captions"
        if pictures.classes:
            text += f", of the classes {', '.join(pictures.classes)}"
        return text


class DigitsData(PictureData):
    """Handwritten digits of scikit-learn."""

    default_side = 8
    pictures: Literal["digits"] = "digits"

    def samples(self, study_seed: int, trial_seed: int) -> tuple[Tensor, pd.DataFrame]:
        """Reads the digits, and words their captions."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        values = (digits.images * (255 / 16)).round().astype(np.uint8)
        generator = numpy_generator("captions", study_seed, "digits")
        names = [_DIGITS[label] for label in digits.target]
        texts = [
            wording.format(a="an" if name == "eight" else "a", name=name)
            for wording, name in zip(
                generator.choice(_DIGIT_WORDINGS, len(names)), names, strict=True
            )
        ]
        samples = encode([Image.fromarray(value) for value in values], self.side, self.mode)
        return samples, pd.DataFrame({"caption": texts, "class": pd.Categorical(names, _DIGITS)})


class ShapesData(PictureData):
    """Scenes that are drawn, of which there are as many fresh ones as are asked for."""

    default_side = 16
    are_scenes = True
    pictures: Literal["shapes"] = "shapes"

    @model_validator(mode="after")
    def _drawn(self) -> Self:
        if self.side not in SHAPE_SIDES or self.mode == "L":
            raise KanDiffusionError("shapes are drawn in colour, with 16 or 32 pixels a side")
        return self

    def for_study(self) -> Self:
        """Returns itself: held-out scenes are drawn besides."""
        return self

    def samples(self, study_seed: int, trial_seed: int) -> tuple[Tensor, pd.DataFrame]:
        """Draws scenes to train on, and then held-out ones."""
        num = self.num_pictures or _NUM_SHAPES
        num_held_out = max(4, round(self.holdout * num))
        train = _scenes(num, self.side, "training pictures", study_seed, trial_seed)
        heldout = _scenes(num_held_out, self.side, "held-out pictures", study_seed)
        samples, texts = torch.cat([train[0], heldout[0]]), train[1] + heldout[1]
        labels = pd.DataFrame({"caption": texts, "class": pd.Categorical([None] * len(texts), [])})
        return samples, labels.assign(held_out=labels.index >= num)


class FolderData(PictureData, PinnedSource):
    """Pictures of a folder."""

    known = ()
    default_side = 32

    @model_validator(mode="after")
    def _known(self) -> Self:
        if "/" not in self.pictures and not self.place.is_dir():
            kinds = "pictures (none of these and no folder)"
            raise unknown_name(kinds, self.pictures, PictureData.known)
        return self

    @property
    def name(self) -> str:
        """Name of the data set in tables and figures."""
        return self.place.name

    def pinned(self) -> Self:
        """Returns a copy with the digest and the absolute path of the folder.

        Raises:
            DataError: The folder or a file in it cannot be used, or are not those of ``sha256``.
            KanDiffusionError: A share to hold out is given for a folder that is split already.
        """
        self.require_same()
        _, labels, _ = self._read()
        if "held_out" in labels and not self.sha256 and "holdout" in self.model_fields_set:
            raise KanDiffusionError(
                f"'{self.pictures}' is split by its folders, such as train and test; leave "
                "holdout out"
            )
        return super().pinned()

    def is_same(self, other: Source) -> bool:
        """Whether ``other`` is the same folder; files are compared when they are read."""
        return isinstance(other, FolderData) and other.place == self.place

    def content_digest(self) -> str:
        """Returns the digest of the pictures and their captions."""
        return self._read()[2]

    def samples(self, study_seed: int, trial_seed: int) -> tuple[Tensor, pd.DataFrame]:
        """Reads the folder that a run was set up with."""
        self.require_same()
        samples, labels, _ = self._read()
        return samples, labels

    def _read(self) -> tuple[Tensor, pd.DataFrame, str]:
        """Reads samples, labels and the digest, or takes them from memory."""
        root = self.place
        if not root.is_dir():
            raise DataError(f"'{root}' is no folder; give a folder of pictures")
        pictures, tables = [], []
        # What a model has drawn lies in the folder of its run, and is no data.
        runs = {path.parent for name in (RESULT, STUDY) for path in root.rglob(name)} - {root}
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if any(part.startswith(".") for part in name.split("/")) or runs & {*path.parents}:
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
                raise DataError(
                    f"'{name}' in '{root}' is a link that leads elsewhere; put a copy in its place"
                )
            if path.is_file():
                file = name, stamp(path)
                if path.suffix.lower() in _ENDINGS:
                    pictures.append(file)
                elif path.name.lower() in _METADATA:
                    tables.append(file)
        if len(pictures) < _FEWEST:
            raise DataError(
                f"'{root}' has {len(pictures)} pictures (files that end in {', '.join(_ENDINGS)}); "
                f"at least {_FEWEST} are needed to train on some and judge with others"
            )
        _require_room(len(pictures), self.side)
        return _read_files(root, tuple(pictures), tuple(tables), self.side, self.mode)


def _require_room(num: int, side: int) -> None:
    """Checks that so many pictures in colour fit into memory."""
    values = 3 * num * side**2
    if values > MOST_VALUES:
        raise DataError(
            f"{num:,} pictures of {side} pixels a side are {values:,} values; at most "
            f"{MOST_VALUES:,} fit, take fewer pictures or a smaller size"
        )


@lru_cache(maxsize=4)
def _scenes(num: int, side: int, *stream: str | int) -> tuple[Tensor, tuple[str, ...]]:
    """Draws scenes and their captions; the last four results stay in memory."""
    generator = numpy_generator("shapes", *stream)
    scenes = draw_scenes(num, generator)
    return render(scenes, side), captions(scenes, generator)


_File = tuple[str, tuple[int, ...]]
"""Name of a file, and what changes whenever it changes."""


@lru_cache(maxsize=1)
def _read_files(
    root: Path, pictures: tuple[_File, ...], tables: tuple[_File, ...], size: int, mode: Mode | None
) -> tuple[Tensor, pd.DataFrame, str]:
    """Reads pictures and tables of captions; the last ones stay in memory until they change."""
    names, texts = ([name for name, *_ in files] for files in (pictures, tables))
    labels = _labels(root, names)
    said = _captions(root, names, texts) if texts else labels["class"].astype(object).fillna("")
    labels.insert(0, "caption", said)
    opened = [_opened(root, name, size) for name in names]
    content = "".join(f"{name}\0{digest(root / name)}\n" for name in (*names, *texts))
    return encode(opened, size, mode), labels, hashlib.sha256(content.encode()).hexdigest()


def _opened(root: Path, name: str, size: int) -> Image.Image:
    """Reads a picture, upright and in its final size."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(root / name, formats=_FORMATS) as picture:
                if any(_DEEP.search(str(tile[-1])) for tile in picture.tile):
                    raise DataError("has values of 16 or 32 bits; save it with 8 bits a channel")
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
        if table.lower().endswith(".csv"):
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
    except DataError:
        raise
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
    while all(folders) and len({folder[-1] for folder in folders}) == 1:
        folders = [folder[:-1] for folder in folders]  # such as cat/images and dog/images
    classes = pd.Categorical([folder[-1] if folder else "" for folder in folders])
    if len(classes.categories) < 2:
        return labels.assign(**{"class": classes.set_categories([])})
    if "" in classes.categories:
        raise DataError(
            f"'{names[list(classes).index('')]}' lies beside the folders of classes; put it into "
            "one of them"
        )
    return labels.assign(**{"class": classes})
