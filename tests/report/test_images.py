"""Contact sheets: every pixel of every picture, where it belongs."""

from __future__ import annotations

import numpy as np
from PIL import Image

from kan_diffusion.report.images import contact_sheet


def test_every_pixel_of_a_picture_is_a_square_in_its_cell() -> None:
    values = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    pictures = [Image.fromarray(value) for value in values]
    sheet = np.array(contact_sheet([pictures[:3], pictures[3:]]))
    assert sheet.shape == (2 * 68, 3 * 68, 3)
    grey = np.array(Image.new("RGB", (1, 1), "grey"))[0, 0]
    for index, value in enumerate(values):
        y, x = divmod(index, 3)
        cell = sheet[68 * y : 68 * (y + 1), 68 * x : 68 * (x + 1)]
        expected = value.repeat(8, 0).repeat(8, 1)[..., None]
        assert (cell[2:-2, 2:-2] == expected).all()
        assert (cell[:2] == grey).all()
    assert (sheet[68:, 2 * 68 :] == grey).all()
