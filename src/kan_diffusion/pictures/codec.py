r"""Pictures as samples: 8-bit values v of C channels become x = v / 127.5 - 1 in [-1, 1].

:class:`PictureCodec` makes pictures square: it scales the short side to S pixels, crops the middle
and converts the channels. A picture that already has this size and mode comes back unchanged,
``decode(encode(p)) == p``, since float32 resolves v / 127.5 - 1 far more finely than 256 steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from pydantic import Field
from torch import Tensor

from kan_diffusion.errors import DataError
from kan_diffusion.limits import MOST_SIDE
from kan_diffusion.settings import Settings

__all__ = ["Mode", "PictureCodec", "squared"]

Mode = Literal["L", "RGB", "RGBA"]
"""Grey, colour, or colour and opacity, as Pillow names them."""

_CHANNELS: dict[Mode, int] = {"L": 1, "RGB": 3, "RGBA": 4}


def squared(picture: Image.Image, size: int) -> Image.Image:
    """Scales a picture to a square of ``size`` pixels, of the mode that holds all that it shows.

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
    if picture.size == (size, size):
        return picture
    return ImageOps.fit(picture, (size, size), method=Image.Resampling.LANCZOS)


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
        """Turns pictures into samples; transparent parts become white where there is no opacity.

        Args:
            pictures: The n pictures, of any size and mode.

        Returns:
            Shape (n, C, S, S), float32, from -1 to 1.

        Raises:
            DataError: There is no picture, or one has values of more than 8 bits.
        """
        if not len(pictures):
            raise DataError("there is no picture to encode; give at least one")
        samples = []
        for picture in pictures:
            square = squared(picture, self.size)
            if square.mode == "RGBA" and self.mode != "RGBA":
                white = Image.new("RGBA", square.size, "white")
                square = Image.alpha_composite(white, square).convert("RGB")
            values = np.array(square.convert(self.mode), dtype=np.float32)
            samples.append(torch.from_numpy(values).view(self.size, self.size, -1))
        return (torch.stack(samples) / 127.5 - 1).permute(0, 3, 1, 2).contiguous()

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
