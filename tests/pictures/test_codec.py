import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers import refused
from kan_diffusion.errors import DataError
from kan_diffusion.pictures.codec import decode, encode, squared


def _noise(mode, width, height, seed=0):
    channels = (3,) if mode == "RGB" else ()
    values = np.random.default_rng(seed).integers(0, 256, (height, width, *channels))
    return Image.fromarray(values.astype(np.uint8))


@given(mode=st.sampled_from(["L", "RGB"]), size=st.integers(4, 24), seed=st.integers(0, 99))
def test_pictures_of_the_codecs_size_and_mode_come_back_exactly(mode, size, seed):
    pictures = [_noise(mode, size, size, seed + k) for k in range(3)]
    samples = encode(pictures, size)
    assert samples.shape == (3, len(mode), size, size)
    assert samples.dtype == torch.float32
    assert float(samples.abs().max()) <= 1
    # Values in between go to the nearest level, values outside to the nearest end.
    near = samples + 0.49 / 127.5 * torch.rand(samples.shape).sub(0.5).mul(2)
    for drawn in (samples, near):
        back = decode(drawn)
        assert [picture.mode for picture in back] == [mode] * 3
        assert [p.tobytes() for p in back] == [p.tobytes() for p in pictures]
    ends = np.asarray(decode(7 * torch.ones_like(samples))[0])
    assert (ends == 255).all()


@pytest.mark.parametrize(("width", "height"), [(90, 30), (30, 90)])
def test_the_middle_square_is_kept_and_scaled_down_by_averages(width, height):
    picture = _noise("RGB", width, height)
    scaled = picture.resize((width // 3, height // 3), Image.Resampling.LANCZOS)
    left, top = (scaled.width - 10) // 2, (scaled.height - 10) // 2
    middle = scaled.crop((left, top, left + 10, top + 10))
    assert squared(picture, 10).tobytes() == middle.tobytes()


def test_modes_are_converted():
    plain, red = Image.new("RGB", (8, 8), (0, 255, 51)), Image.new("RGB", (8, 8), "red")
    clear, half = (Image.new("RGBA", (8, 8), (255, 0, 0, alpha)) for alpha in (0, 51))
    for mode, picture, value in (
        ("RGB", plain, [-1.0, 1.0, -0.6]),
        ("RGB", clear, [1.0, 1.0, 1.0]),
        ("RGB", half, [1.0, 0.6, 0.6]),
        ("L", Image.new("LA", (8, 8), (0, 51)), [0.6]),
        ("L", red, [round(0.299 * 255) / 127.5 - 1]),  # luma of ITU-R 601-2
    ):
        found = encode([picture], 8, mode)[0]
        expected = torch.tensor(value)[:, None, None].expand_as(found)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    for mode, kept in (("1", "L"), ("LA", "L"), ("P", "RGB"), ("CMYK", "RGB")):
        assert squared(Image.new(mode, (8, 8)), 8).mode == kept


def test_what_is_no_picture_is_refused():
    for call, message in (
        (lambda: encode([], 8), "no picture to encode"),
        (lambda: encode([Image.new("F", (8, 8))], 8), "32 bits; save it with 8 bits"),
        (lambda: encode([Image.new("I;16", (8, 8))], 8), "16 or 32 bits; save it with 8 b"),
        (lambda: decode(torch.zeros(1, 2, 8, 8)), r"\(n, 3, S, S\), got \(1, 2, 8, 8"),
        (lambda: decode(torch.full((1, 3, 8, 8), np.nan)), "not finite"),
    ):
        with refused(message, DataError):
            call()
