r"""Pictures as samples: 8-bit values v of C channels become x = v / 127.5 - 1 in [-1, 1].

:class:`PictureCodec` makes pictures square: it scales the short side to S pixels, crops the middle
and converts the channels. A picture that already has this size and mode comes back unchanged,
``decode(encode(p)) == p``, since float32 resolves v / 127.5 - 1 far more finely than 256 steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
import torch
from PIL import Image, ImageOps
from pydantic import Field
from torch import Tensor

from kan_diffusion.errors import DataError, valid_settings
from kan_diffusion.limits import MOST_SIDE
from kan_diffusion.settings import Settings

__all__ = ["Mode", "PictureCodec", "squared"]

Mode = Literal["L", "RGB"]
"""Grey or colour, as Pillow names them."""


def squared(picture: Image.Image, size: int) -> Image.Image:
    """Scales a picture to a square of ``size`` pixels: grey if it is grey, else in colour.

    What is behind transparent parts is white.

    Raises:
        DataError: Its values have more than 8 bits.
    """
    if picture.mode[0] in "IF":
        raise DataError(
            f"a picture of mode {picture.mode} has values of 16 or 32 bits; save it with 8 bits a "
            "channel"
        )
    mode = "L" if picture.mode in ("L", "1") else "RGB"
    picture = picture.convert("RGBA" if picture.has_transparency_data else mode)
    if picture.size != (size, size):
        picture = ImageOps.fit(picture, (size, size), method=Image.Resampling.LANCZOS)
    if picture.mode != "RGBA":
        return picture
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


class PictureCodec(Settings):
    """Turns pictures into samples and back.

    Attributes:
        size: Side S in pixels.
        mode: Channels, as Pillow names them: ``"L"`` or ``"RGB"``.
    """

    size: int = Field(ge=4, le=MOST_SIDE)
    mode: Mode = "RGB"

    @classmethod
    def of(cls, shape: Sequence[int]) -> Self:
        """Returns the codec of samples with a shape (C, S, S).

        Raises:
            KanDiffusionError: C is neither 1 nor 3, or S is out of range.
        """
        mode = {1: "L", 3: "RGB"}.get(shape[0])
        with valid_settings(f"pictures of shape {tuple(shape)}"):
            return cls.model_validate({"size": shape[-1], "mode": mode})

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, S, S) of a sample."""
        return 1 if self.mode == "L" else 3, self.size, self.size

    def encode(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Turns pictures into samples.

        Args:
            pictures: The n pictures, of any size and mode.

        Returns:
            Shape (n, C, S, S), float32, from -1 to 1.

        Raises:
            DataError: There is no picture, or one has values of more than 8 bits.
        """
        if not len(pictures):
            raise DataError("there is no picture to encode; give at least one")
        squares = (squared(picture, self.size).convert(self.mode) for picture in pictures)
        values = torch.stack([torch.from_numpy(np.array(each, np.float32)) for each in squares])
        samples = values.view(len(pictures), self.size, self.size, -1) / 127.5 - 1
        return samples.permute(0, 3, 1, 2).contiguous()

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
        levels = ((samples.detach().cpu().double() + 1) * 127.5).round().clamp(0, 255)
        values = levels.to(torch.uint8).permute(0, 2, 3, 1).numpy()
        # Pillow infers the mode: grey for two dimensions, else from the number of channels.
        return [Image.fromarray(value[..., 0] if self.mode == "L" else value) for value in values]
