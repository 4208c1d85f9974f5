"""Pictures as sources: the handwritten digits of scikit-learn, scenes that are drawn, and folders.

Fresh shapes can always be drawn, so their held-out pictures are drawn, too, and in colour they have
an exact oracle.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import pandas as pd
import torch
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from kan_diffusion.data.datasets import Dataset, OracleKind, split
from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.data.sources import Source
from kan_diffusion.errors import DataError, KanDiffusionError, unknown_name
from kan_diffusion.limits import MOST_POINTS, MOST_SIDE
from kan_diffusion.pictures.codec import Mode, PictureCodec
from kan_diffusion.pictures.folder import (
    Pictures,
    holds_pictures,
    list_folder,
    read_folder,
    require_room,
)
from kan_diffusion.pictures.oracle import SceneOracle
from kan_diffusion.pictures.scenes import SHAPE_SIDES, captions, draw_scenes, render
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


@dataclass(frozen=True, kw_only=True)
class PictureDataset(Dataset):
    """Pictures, with values from -1 to 1.

    Attributes:
        codec: The map between pictures and samples.
        labels: A row for each training picture: its ``caption``, or else the name of its class,
            empty where nothing is said; and its ``class``, a categorical.
        heldout_labels: The same of the held-out pictures.
        scenes: Whether samples are scenes in colour, whose posterior mean is known exactly.
    """

    columns: tuple[str, ...] = ()
    codec: PictureCodec
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
        mode: Channels; None for grey digits, for the mode that all pictures of a folder share, and
            else for colour.
        num_pictures: Number of training pictures of shapes to draw; None for 20,000.
        holdout: Fraction of the pictures that is held out; of shapes, this share is drawn besides.
        sha256: Digest of a folder when the run was set up, see :meth:`pinned`; a folder that has
            changed since is refused.
    """

    task = "kan_diffusion.pictures.task:PictureTask"
    view = "kan_diffusion.pictures.view:PictureView"
    quick: ClassVar[Mapping[str, int]] = {"num_noised": 60, "num_samples": 12}

    pictures: str
    size: int | None = Field(None, ge=4, le=MOST_SIDE)
    mode: Mode | None = None
    num_pictures: int | None = Field(None, ge=1, le=MOST_POINTS)
    holdout: float = Field(0.1, gt=0, lt=1)
    sha256: str = ""

    @model_validator(mode="after")
    def _known(self) -> Self:
        require_name(self.name)
        if self.folder and "/" not in self.pictures and not self.folder.is_dir():
            raise unknown_name("pictures (none of these and no folder)", self.pictures, _SIZES)
        if self.pictures != "shapes" and self.num_pictures is not None:
            raise KanDiffusionError("num_pictures is for shapes, which are drawn; leave it out")
        if self.pictures == "shapes" and self.size not in (None, *SHAPE_SIDES):
            raise KanDiffusionError(f"shapes are drawn with 16 or 32 pixels, not {self.size}")
        return self

    @classmethod
    def known(cls) -> Collection[str]:
        """Lists the pictures that need no files."""
        return _SIZES

    @classmethod
    def accepts(cls, name: str) -> bool:
        """Whether it is such a name, or a folder of pictures."""
        return name in _SIZES or holds_pictures(Path(name))

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
        read = self._read(self.folder)
        if read.heldout is not None and not self.sha256 and "holdout" in self.model_fields_set:
            raise KanDiffusionError(
                f"'{self.pictures}' is split by its folders, such as train and test; leave "
                "holdout out"
            )
        return self.model_copy(update={"sha256": read.sha256, "pictures": str(self.folder)})

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
            read = self._read(self.folder)
        elif self.pictures == "digits":
            read = _read_digits(self, study_seed)
        else:
            read = _draw_shapes(self, study_seed, trial_seed)
        if read.heldout is None:
            train, heldout = split(len(read.samples), self.holdout, study_seed, trial_seed)
        else:
            train, heldout = (part.nonzero()[:, 0] for part in (~read.heldout, read.heldout))
        labels, others = (
            read.labels.iloc[rows.numpy()].reset_index(drop=True) for rows in (train, heldout)
        )
        return PictureDataset(
            name=self.name,
            standardizer=Standardizer.identity(math.prod(read.codec.shape)),
            train=read.samples[train],
            heldout=read.samples[heldout],
            codec=read.codec,
            labels=labels,
            heldout_labels=others,
            scenes=self.pictures == "shapes" and read.codec.mode == "RGB",
        )

    def _read(self, root: Path) -> Pictures:
        """Reads the folder that a run was set up with."""
        read = read_folder(root, list_folder(root), self.size or _FOLDER_SIZE, self.mode)
        if self.sha256 not in ("", read.sha256):
            raise DataError(
                f"'{self.pictures}' has changed since this run was set up; put its files back as "
                "they were or start a new run in another folder with --out"
            )
        return read


@lru_cache(maxsize=2)
def _draw_shapes(config: PictureData, study_seed: int, trial_seed: int) -> Pictures:
    """Draws training scenes and held-out scenes; keeps the last two results in memory."""
    num = config.num_pictures or _NUM_SHAPES
    codec = PictureCodec(size=config.size or _SIZES["shapes"], mode=config.mode or "RGB")
    require_room(num, codec.size)
    samples, told = list[Tensor](), list[str]()
    parts: list[tuple[int, tuple[str | int, ...]]] = [
        (num, ("training pictures", study_seed, trial_seed)),
        (max(4, round(config.holdout * num)), ("held-out pictures", study_seed)),
    ]
    for count, stream in parts:
        generator = numpy_generator("shapes", *stream)
        scenes = draw_scenes(count, generator)
        samples.append(render(scenes, codec.size))
        told += captions(scenes, generator)
    drawn = torch.cat(samples)
    if codec.mode != "RGB":
        drawn = codec.encode(PictureCodec(size=codec.size).decode(drawn))
    nothing = pd.Categorical([None] * len(told), [])
    labels = pd.DataFrame({"caption": told, "class": nothing})
    return Pictures(codec, drawn, labels, torch.arange(len(drawn)) >= num)


def _read_digits(config: PictureData, study_seed: int) -> Pictures:
    from sklearn.datasets import load_digits

    digits = load_digits()
    codec = PictureCodec(size=config.size or _SIZES["digits"], mode=config.mode or "L")
    values = (digits.images * (255 / 16)).round().astype(np.uint8)
    generator = numpy_generator("captions", study_seed, "digits")
    names = [_DIGITS[label] for label in digits.target]
    told = [
        wording.format(a="an" if name == "eight" else "a", name=name)
        for wording, name in zip(generator.choice(_DIGIT_WORDINGS, len(names)), names, strict=True)
    ]
    samples = codec.encode([Image.fromarray(value) for value in values])
    labels = pd.DataFrame({"caption": told, "class": pd.Categorical(names, _DIGITS)})
    return Pictures(codec, samples, labels)
