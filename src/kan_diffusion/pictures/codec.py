r"""Pictures as samples: 8-bit values v of C channels become x = v / 127.5 - 1 in [-1, 1].

:class:`PictureCodec` makes pictures square: it scales the short side to S pixels, crops the middle
and converts the channels. A picture that already has this size and mode comes back unchanged,
``decode(encode(p)) == p``, since float32 resolves v / 127.5 - 1 far more finely than 256 steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from pydantic import Field
from torch import Tensor

from kan_diffusion.errors import DataError
from kan_diffusion.limits import MOST_SIDE
from kan_diffusion.pictures.folder import Mode, plain, plain_mode
from kan_diffusion.settings import Settings

__all__ = ["PictureCodec"]

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
