import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers import refused
from kan_diffusion.errors import DataError
from kan_diffusion.pictures.codec import PictureCodec, squared


def _noise(mode, width, height, seed=0):
    channels = (3,) if mode == "RGB" else ()
    values = np.random.default_rng(seed).integers(0, 256, (height, width, *channels))
    return Image.fromarray(values.astype(np.uint8))


@given(mode=st.sampled_from(["L", "RGB"]), size=st.integers(4, 24), seed=st.integers(0, 99))
def test_pictures_of_the_codecs_size_and_mode_come_back_exactly(mode, size, seed):
    codec = PictureCodec(size=size, mode=mode)
    pictures = [_noise(mode, size, size, seed + k) for k in range(3)]
    samples = codec.encode(pictures)
    assert samples.shape == (3, *codec.shape)
    assert PictureCodec.of(samples.shape[1:]) == codec
    assert samples.dtype == torch.float32
    assert float(samples.abs().max()) <= 1
    # Values in between go to the nearest level, values outside to the nearest end.
    near = samples + 0.49 / 127.5 * torch.rand(samples.shape).sub(0.5).mul(2)
    for drawn in (samples, near):
        back = codec.decode(drawn)
        assert [picture.mode for picture in back] == [mode] * 3
        assert [p.tobytes() for p in back] == [p.tobytes() for p in pictures]
    ends = np.asarray(codec.decode(7 * torch.ones(1, *codec.shape))[0])
    assert (ends == 255).all()


@pytest.mark.parametrize(("width", "height"), [(90, 30), (30, 90)])
def test_the_middle_square_is_kept_and_scaled_down_by_averages(width, height):
    picture = _noise("RGB", width, height)
    scaled = picture.resize((width // 3, height // 3), Image.Resampling.LANCZOS)
    left, top = (scaled.width - 10) // 2, (scaled.height - 10) // 2
    middle = scaled.crop((left, top, left + 10, top + 10))
    assert squared(picture, 10).tobytes() == middle.tobytes()


def test_modes_are_converted():
    colour, grey = PictureCodec(size=8, mode="RGB"), PictureCodec(size=8, mode="L")
    plain, red = Image.new("RGB", (8, 8), (0, 255, 51)), Image.new("RGB", (8, 8), "red")
    clear, half = (Image.new("RGBA", (8, 8), (255, 0, 0, alpha)) for alpha in (0, 51))
    for codec, picture, value in (
        (colour, plain, [-1.0, 1.0, -0.6]),
        (colour, clear, [1.0, 1.0, 1.0]),
        (colour, half, [1.0, 0.6, 0.6]),
        (grey, red, [round(0.299 * 255) / 127.5 - 1]),  # luma of ITU-R 601-2
    ):
        found = codec.encode([picture])[0]
        expected = torch.tensor(value)[:, None, None].expand_as(found)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    for mode, kept in (("1", "L"), ("LA", "RGB"), ("P", "RGB"), ("CMYK", "RGB")):
        assert squared(Image.new(mode, (8, 8)), 8).mode == kept


def test_what_is_no_picture_is_refused():
    codec = PictureCodec(size=8)
    for call, message in (
        (lambda: codec.encode([]), "no picture to encode"),
        (lambda: codec.encode([Image.new("F", (8, 8))]), "32 bits; save it with 8 bits"),
        (lambda: codec.encode([Image.new("I;16", (8, 8))]), "16 or 32 bits; save it with 8 b"),
        (lambda: codec.decode(torch.zeros(1, 1, 8, 8)), r"shape \(n, 3, 8, 8\), got"),
        (lambda: codec.decode(torch.full((1, 3, 8, 8), np.nan)), "not finite"),
    ):
        with refused(message, DataError):
            call()
    with refused(r"pictures of shape \(2, 8, 8\): mode = None"):
        PictureCodec.of((2, 8, 8))
