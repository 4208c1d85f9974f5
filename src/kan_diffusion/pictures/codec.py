r"""Pictures as samples: 8-bit values v of C channels become x = v / 127.5 - 1 in [-1, 1].

:class:`PictureCodec` makes pictures square: it scales the short side to S pixels, crops the middle
and converts the channels. A picture that already has this size and mode comes back unchanged,
``decode(encode(p)) == p``, since float32 resolves v / 127.5 - 1 far more finely than 256 steps.

:func:`read_pictures` reads three sources of pictures: the handwritten ``digits`` of scikit-learn,
the ``shapes`` that :mod:`kan_diffusion.pictures.scenes` draws, and a folder
(:mod:`kan_diffusion.pictures.folder`). Fresh shapes can always be drawn, so their held-out pictures
are drawn, too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image, ImageOps
from pydantic import Field, model_validator
from torch import Tensor

from kan_diffusion.errors import DataError, KanDiffusionError, unknown_name
from kan_diffusion.limits import MOST_POINTS, MOST_SIDE, MOST_VALUES
from kan_diffusion.pictures.folder import ImageFolder, Mode, plain, plain_mode
from kan_diffusion.pictures.scenes import SHAPE_SIDES, caption, draw_scenes, render
from kan_diffusion.randomness import numpy_generator
from kan_diffusion.settings import Settings, require_name

__all__ = ["PICTURES", "PictureCodec", "PictureData", "Pictures", "read_pictures"]

PICTURES = ("digits", "shapes")
"""Names of the pictures that need no files."""

_CHANNELS: dict[Mode, int] = {"L": 1, "RGB": 3, "RGBA": 4}
_WHITE = (255, 255, 255, 255)
_SIZES = {"digits": 8, "shapes": 16}
_FOLDER_SIZE = 32
_NUM_SHAPES = 20_000
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DIGIT_WORDINGS = ("{a} {name}", "the digit {name}", "{name}", "a handwritten {name}")


class PictureCodec(Settings):
    """Turns pictures into samples and back.

    Attributes:
        size: Side S in pixels.
        mode: Channels, as Pillow names them: ``"L"``, ``"RGB"`` or ``"RGBA"``.
    """

    size: int = Field(ge=4, le=MOST_SIDE)
    mode: Mode = "RGB"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, S, S) of a sample."""
        return _CHANNELS[self.mode], self.size, self.size

    def encode(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Turns pictures into samples; :meth:`changes` says how that changes them.

        Args:
            pictures: The n pictures, of any size and mode.

        Returns:
            Shape (n, C, S, S), float32, from -1 to 1.

        Raises:
            DataError: There is no picture, or one has 32-bit values.
        """
        if not len(pictures):
            raise DataError("there is no picture to encode; give at least one")
        return torch.stack([self._sample(picture) for picture in pictures])

    def decode(self, samples: Tensor) -> list[Image.Image]:
        """Turns samples into pictures; values are clipped to [-1, 1].

        Args:
            samples: Shape (n, C, S, S).

        Raises:
            DataError: The shape is wrong, or a value is not finite.
        """
        if samples.ndim != 4 or samples.shape[1:] != self.shape:
            wanted = ", ".join(map(str, self.shape))
            raise DataError(f"samples must have shape (n, {wanted}), got {tuple(samples.shape)}")
        if not bool(samples.isfinite().all()):
            raise DataError("samples have values that are not finite; sample again or train longer")
        values = _levels(samples).to(torch.uint8).permute(0, 2, 3, 1).numpy()
        # Pillow infers the mode: grey for two dimensions, else from the number of channels.
        return [Image.fromarray(value[..., 0] if self.mode == "L" else value) for value in values]

    def rounded(self, samples: Tensor) -> Tensor:
        """Rounds samples (n, C, S, S) as :meth:`decode` and :meth:`encode` do, float32."""
        return _levels(samples).float() / 127.5 - 1

    def changes(self, picture: Image.Image) -> list[str]:
        """Lists what :meth:`encode` changes, such as ``"put on white"``; empty for nothing."""
        mode = plain_mode(picture)
        possible = {
            f"resized to {self.size} pixels": min(picture.size) != self.size,
            "cropped to the middle square": picture.width != picture.height,
            "put on white": mode == "RGBA" and self.mode != "RGBA",
            f"converted from {mode} to {self.mode}": mode != self.mode,
        }
        return [change for change, made in possible.items() if made]

    def _sample(self, picture: Image.Image) -> Tensor:
        picture = plain(picture)
        if picture.mode == "RGBA" and self.mode != "RGBA":
            white = Image.new("RGBA", picture.size, _WHITE)
            picture = Image.alpha_composite(white, picture).convert("RGB")
        if picture.mode != self.mode:
            picture = picture.convert(self.mode)
        if picture.size != (self.size, self.size):
            picture = ImageOps.fit(picture, (self.size, self.size), method=Image.Resampling.LANCZOS)
        values = np.array(picture, dtype=np.float32).reshape(self.size, self.size, -1)
        return torch.from_numpy(values / np.float32(127.5) - 1).permute(2, 0, 1).contiguous()


def _levels(samples: Tensor) -> Tensor:
    """Rounds samples to whole values from 0 to 255, float64."""
    return ((samples.detach().cpu().double() + 1) * 127.5).round().clamp(0, 255)


def _require_room(num: int, codec: PictureCodec) -> None:
    values = num * math.prod(codec.shape)
    if values > MOST_VALUES:
        raise DataError(
            f"{num:,} pictures of {codec.size} pixels a side are {values:,} values; at most "
            f"{MOST_VALUES:,} fit, take fewer pictures or a smaller size"
        )


class PictureData(Settings):
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

    pictures: str
    size: int | None = Field(None, ge=4, le=MOST_SIDE)
    mode: Mode | None = None
    num_pictures: int | None = Field(None, ge=1, le=MOST_POINTS)
    holdout: float = Field(0.1, gt=0, lt=1)
    sha256: str = ""

    @model_validator(mode="after")
    def _known(self) -> Self:
        require_name(self.name)
        if self.is_folder and "/" not in self.pictures and not Path(self.pictures).is_dir():
            raise unknown_name("pictures (none of these and no folder)", self.pictures, PICTURES)
        if self.pictures != "shapes" and self.num_pictures is not None:
            raise KanDiffusionError("num_pictures is for shapes, which are drawn; leave it out")
        if self.pictures == "shapes" and self.size not in (None, *SHAPE_SIDES):
            raise KanDiffusionError(f"shapes are drawn with 16 or 32 pixels, not {self.size}")
        if self.sha256 and not self.is_folder:
            raise KanDiffusionError("a digest is for a folder; leave sha256 out")
        return self

    @property
    def is_folder(self) -> bool:
        """Whether the pictures are files of a folder."""
        return self.pictures not in PICTURES

    @property
    def name(self) -> str:
        """Name of the data set in tables and figures."""
        return Path(self.pictures).absolute().name if self.is_folder else self.pictures

    def pinned(self) -> Self:
        """Returns a copy with the digest and the absolute path of a folder.

        Raises:
            DataError: The folder or a file in it cannot be used, or are not those of ``sha256``.
        """
        if not self.is_folder:
            return self
        path = str(Path(self.pictures).absolute())
        return self.model_copy(update={"sha256": read_pictures(self).sha256, "pictures": path})


@dataclass(frozen=True)
class Pictures:
    """Samples of pictures, with captions and classes.

    Attributes:
        codec: The map between pictures and samples.
        samples: Shape (n, C, S, S), float32, from -1 to 1.
        captions: A caption for each; None where there are none.
        labels: Indices into ``classes``, with shape (n,), int64; None where there are no classes.
        classes: Names of the classes; empty where there are none.
        heldout: Which samples are held out, with shape (n,), bool; None if the split is free.
        scenes: Whether the samples are scenes in colour.
        report: How the pictures were changed to make them samples; empty if they were not.
        sha256: Digest of a folder's files; empty for other pictures.
    """

    codec: PictureCodec
    samples: Tensor
    captions: tuple[str, ...] | None = None
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    heldout: Tensor | None = None
    scenes: bool = False
    report: str = ""
    sha256: str = ""


def read_pictures(config: PictureData, study_seed: int = 0, seed: int = 0) -> Pictures:
    """Reads or draws pictures.

    Args:
        config: Which pictures.
        study_seed: All draws derive from it.
        seed: The training pictures of shapes derive from it as well.

    Raises:
        DataError: A folder or a file in it cannot be used, or has changed since the run was set up.
    """
    if config.pictures == "shapes":
        return _draw_shapes(config, study_seed, seed)
    if config.pictures == "digits":
        return _read_digits(config, study_seed)
    folder = ImageFolder.of(Path(config.pictures))
    # A run pins a folder by its absolute path: the same files need not be read again.
    read = _read_folder(folder.root.absolute(), config.size, config.mode, folder.stamp)
    if config.sha256 not in ("", read.sha256):
        raise DataError(
            f"'{config.pictures}' has changed since this run was set up; put its files back as "
            "they were or start a new run in another folder with --out"
        )
    return read


@lru_cache(maxsize=2)
def _draw_shapes(config: PictureData, study_seed: int, seed: int) -> Pictures:
    """Draws training scenes and held-out scenes; keeps the last two results in memory."""
    num = config.num_pictures or _NUM_SHAPES
    codec = PictureCodec(size=config.size or _SIZES["shapes"], mode=config.mode or "RGB")
    _require_room(num, codec)
    samples, captions = [], []
    for stream, count in (
        (("training pictures", study_seed, seed), num),
        (("held-out pictures", study_seed), max(4, round(config.holdout * num))),
    ):
        generator = numpy_generator("shapes", *stream)
        scenes = draw_scenes(count, generator)
        samples.append(render(scenes, codec.size))
        captions += [caption(scene, generator) for scene in scenes]
    pictures, in_colour = torch.cat(samples), codec.mode == "RGB"
    if not in_colour:
        pictures = codec.encode(PictureCodec(size=codec.size).decode(pictures))
    heldout = torch.arange(len(pictures)) >= num
    return Pictures(codec, pictures, tuple(captions), heldout=heldout, scenes=in_colour)


def _read_digits(config: PictureData, study_seed: int) -> Pictures:
    from sklearn.datasets import load_digits

    digits = load_digits()
    codec = PictureCodec(size=config.size or _SIZES["digits"], mode=config.mode or "L")
    values = (digits.images * (255 / 16)).round().astype(np.uint8)
    generator = numpy_generator("captions", study_seed, "digits")
    names = [_DIGITS[label] for label in digits.target]
    captions = tuple(
        wording.format(a="an" if name == "eight" else "a", name=name)
        for wording, name in zip(generator.choice(_DIGIT_WORDINGS, len(names)), names, strict=True)
    )
    samples = codec.encode([Image.fromarray(value) for value in values])
    return Pictures(codec, samples, captions, torch.from_numpy(digits.target).long(), _DIGITS)


@lru_cache(maxsize=1)
def _read_folder(
    root: Path, size: int | None, mode: Mode | None, _stamp: tuple[tuple[str, int, int], ...]
) -> Pictures:
    """Reads the pictures of a folder; keeps the last one in memory until its files change."""
    folder = ImageFolder.of(root)
    modes = folder.modes()
    if mode is None:
        mode = next(iter(modes)) if len(modes) == 1 else "RGB"
    codec = PictureCodec(size=size or _FOLDER_SIZE, mode=mode)
    _require_room(len(folder.names), codec)
    samples, done = [], Counter[str]()
    for picture in folder.pictures():
        done.update(codec.changes(picture))
        samples.append(codec.encode([picture])[0])
    notes = [f"{count:,} {change}" for change, count in done.items()]
    if len(modes) > 1:
        some = " and ".join(f"'{name}' is {each}" for each, name in modes.items())
        notes.append(f"{some}: all are read as {mode}, mode chooses another")
    return Pictures(
        codec,
        torch.stack(samples),
        folder.captions,
        folder.labels,
        folder.classes,
        folder.heldout,
        report=f"of {len(samples):,} pictures, {'; '.join(notes)}" if notes else "",
        sha256=folder.sha256(),
    )
