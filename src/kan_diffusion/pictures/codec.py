r"""Pictures as samples: 8-bit values v of C channels become x = v / 127.5 - 1 in [-1, 1].

:func:`encode` makes pictures square: it scales the short side to S pixels, crops the middle and
converts the channels. A picture that already has this size and mode comes back unchanged,
``decode(encode([p], S)) == [p]``, since float32 resolves v / 127.5 - 1 far more finely than 256
steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from kan_diffusion.errors import DataError

Mode = Literal["L", "RGB"]
"""Grey or colour, as Pillow names them."""
_SIDE, _GAP = 64, 2
"""Least longer side of a picture in a contact sheet, and the margin around it, in pixels."""


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
    mode = "L" if picture.mode in ("L", "LA", "La", "1") else "RGB"
    picture = picture.convert("RGBA" if picture.has_transparency_data else mode)
    if picture.size != (size, size):
        picture = ImageOps.fit(picture, (size, size), method=Image.Resampling.LANCZOS)
    if picture.mode != "RGBA":
        return picture
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert(mode)


def encode(pictures: Sequence[Image.Image], size: int, mode: Mode | None = None) -> Tensor:
    """Turns pictures into samples.

    Args:
        pictures: The n pictures, of any size and mode.
        size: Side S of the samples in pixels.
        mode: Channels; when None grey if all pictures are grey, and else colour.

    Returns:
        Shape (n, C, S, S), float32, from -1 to 1, with C = 1 for grey and 3 for colour.

    Raises:
        DataError: There is no picture, one has values of more than 8 bits, or there is no such mode
            or size.
    """
    if not len(pictures):
        raise DataError("there is no picture to encode; give at least one")
    if size < 1 or mode not in (None, *get_args(Mode)):
        raise DataError(
            f"pictures have modes L and RGB and a side of 1 or more, not {mode}, {size}"
        )
    squares = [squared(picture, size) for picture in pictures]
    mode = mode or ("L" if all(square.mode == "L" for square in squares) else "RGB")
    values = np.stack([np.array(square.convert(mode), np.float32) for square in squares])
    samples = torch.from_numpy(values).view(len(squares), size, size, -1) / 127.5 - 1
    return samples.permute(0, 3, 1, 2).contiguous()


def decode(samples: Tensor) -> list[Image.Image]:
    """Turns samples into pictures; values are clipped to [-1, 1].

    Args:
        samples: Shape (n, 1, S, S) of grey pictures, or (n, 3, S, S).

    Raises:
        DataError: The shape is wrong, or a value is not finite.
    """
    if samples.ndim != 4 or samples.shape[1] not in (1, 3):
        raise DataError(
            f"samples must have shape (n, 1, S, S) or (n, 3, S, S), got {tuple(samples.shape)}"
        )
    if not bool(samples.isfinite().all()):
        raise DataError("samples have values that are not finite; sample again or train longer")
    levels = ((samples.detach().cpu().double() + 1) * 127.5).round().clamp(0, 255)
    values = levels.to(torch.uint8).permute(0, 2, 3, 1).numpy()
    # Pillow infers the mode: grey for two dimensions, else from the number of channels.
    return [Image.fromarray(value.squeeze(2) if value.shape[2] == 1 else value) for value in values]


def contact_sheet(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Puts pictures side by side, small ones enlarged so that their pixels show.

    Args:
        rows: Pictures of one size, row by row from the left; at least one.

    Returns:
        One picture, RGB, on grey, with white behind transparent parts.
    """
    width, height = rows[0][0].size
    times = -(-_SIDE // max(width, height))
    across, down = times * width + 2 * _GAP, times * height + 2 * _GAP
    sheet = Image.new("RGB", (across * max(map(len, rows)), down * len(rows)), "grey")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            opaque = picture.convert("RGBA")
            opaque = Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque)
            large = opaque.convert("RGB").resize(
                (times * width, times * height), Image.Resampling.NEAREST
            )
            sheet.paste(large, (x * across + _GAP, y * down + _GAP))
    return sheet
