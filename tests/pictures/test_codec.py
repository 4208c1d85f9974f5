import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from sklearn.datasets import load_digits

from helpers import refused
from kan_diffusion.data.sources import load_dataset
from kan_diffusion.errors import DataError
from kan_diffusion.pictures.codec import PictureCodec, squared
from kan_diffusion.pictures.oracle import score_scenes
from kan_diffusion.pictures.sources import PictureData


def _noise(mode, width, height, seed=0):
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (height, width, *channels))
    return Image.fromarray(values.astype(np.uint8))


@given(mode=st.sampled_from(["L", "RGB", "RGBA"]), size=st.integers(4, 24), seed=st.integers(0, 99))
def test_pictures_of_the_codecs_size_and_mode_come_back_exactly(mode, size, seed):
    codec = PictureCodec(size=size, mode=mode)
    assert PictureCodec.model_validate_json(codec.model_dump_json()) == codec
    pictures = [_noise(mode, size, size, seed + k) for k in range(3)]
    samples = codec.encode(pictures)
    assert samples.shape == (3, *codec.shape)
    assert samples.dtype == torch.float32
    assert float(samples.abs().max()) <= 1
    back = codec.decode(samples)
    assert [picture.mode for picture in back] == [mode] * 3
    assert [p.tobytes() for p in back] == [p.tobytes() for p in pictures]
    # Values in between go to the nearest level, values outside to the nearest end.
    step = 1 / 127.5
    near = codec.decode(samples + 0.49 * step * torch.rand(samples.shape).sub(0.5).mul(2))
    assert [p.tobytes() for p in near] == [p.tobytes() for p in pictures]
    ends = np.asarray(codec.decode(7 * torch.ones(1, *codec.shape))[0])
    assert (ends == 255).all()


def test_black_is_minus_one_and_white_is_one():
    picture = Image.new("RGB", (8, 8), (0, 255, 51))
    sample = PictureCodec(size=8).encode([picture])[0]
    expected = torch.tensor([-1.0, 1.0, -0.6])
    torch.testing.assert_close(sample.mean(dim=(1, 2)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("width", "height"), [(90, 30), (30, 90)])
def test_the_middle_square_is_kept(width, height):
    picture = _noise("RGB", width, height)
    codec = PictureCodec(size=10)
    scaled = picture.resize((width // 3, height // 3), Image.Resampling.LANCZOS)
    left, top = (scaled.width - 10) // 2, (scaled.height - 10) // 2
    middle = scaled.crop((left, top, left + 10, top + 10))
    assert codec.decode(codec.encode([picture]))[0].tobytes() == middle.tobytes()


def test_resizing_averages():
    # A chequered picture becomes grey: no pixel is taken for its neighbours.
    values = np.indices((64, 64)).sum(axis=0) % 2 * 255
    sample = PictureCodec(size=8, mode="L").encode([Image.fromarray(values.astype(np.uint8))])
    assert float(sample[..., 1:-1, 1:-1].abs().max()) < 0.02


def test_modes_are_converted():
    colour, grey = PictureCodec(size=8, mode="RGB"), PictureCodec(size=8, mode="L")
    red = Image.new("RGB", (8, 8), "red")
    clear, half = (Image.new("RGBA", (8, 8), (255, 0, 0, alpha)) for alpha in (0, 51))
    for codec, picture, value in (
        (colour, clear, [255, 255, 255]),
        (colour, half, [255, 204, 204]),
        (grey, red, round(0.299 * 255)),  # luma of ITU-R 601-2
    ):
        found = np.asarray(codec.decode(codec.encode([picture]))[0])
        assert (found == value).all()
    palette = Image.new("P", (8, 8))
    palette.info["transparency"] = 0
    for picture, mode in (
        (half, "RGBA"),
        (palette, "RGBA"),
        (Image.new("1", (8, 8)), "L"),
        (Image.new("CMYK", (8, 8)), "RGB"),
    ):
        assert squared(picture, 8).mode == mode


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


def test_digits_are_split_and_their_captions_name_them():
    dataset = load_dataset("digits")
    assert dataset.train.shape[1:] == (1, 8, 8)
    exact = torch.from_numpy(load_digits().images / 8 - 1).float()[:, None]
    joined = torch.cat([dataset.train, dataset.heldout])
    assert len(joined) == len(exact) == len({sample.numpy().tobytes() for sample in joined})
    # 17 levels in 256: each is off by half a level of 8 bits at most.
    order, other = (s.flatten(1).sum(dim=1).sort()[0] for s in (joined, exact))
    torch.testing.assert_close(order, other, rtol=0, atol=64 * 0.5 / 127.5)
    for labels in (dataset.labels, dataset.heldout_labels):
        assert labels["caption"].str.split().str[-1].tolist() == labels["class"].tolist()
    assert {"an eight", "a seven", "seven", "the digit seven"} <= {*dataset.labels["caption"]}


def test_pictures_follow_from_the_seeds():
    def same(data, *seeds):
        one, other = load_dataset(data), load_dataset(data, *seeds)
        return torch.equal(one.train, other.train), torch.equal(one.heldout, other.heldout)

    shapes = PictureData(pictures="shapes", num_pictures=50, holdout=0.5)
    assert same(shapes) == same("digits") == (True, True)
    # What shapes are judged with is one for all trials of a study, as of toys.
    assert same(shapes, 0, 1) == (False, True)
    assert same(shapes, 1) == same("digits", 0, 1) == (False, False)


def test_shapes_are_as_their_captions_say():
    dataset = load_dataset(PictureData(pictures="shapes", num_pictures=60))
    scores = score_scenes(dataset.train, dataset.labels["caption"].tolist())
    assert scores["all"] == 1.0
    assert scores["distance"] < 1e-4


def test_sizes_and_modes_are_as_asked():
    dataset = load_dataset(PictureData(pictures="digits", size=16, mode="RGB"))
    assert dataset.train.shape[1:] == dataset.codec.shape == (3, 16, 16)
    dataset = load_dataset(PictureData(pictures="shapes", mode="L", num_pictures=5))
    assert dataset.train.shape == (5, 1, 16, 16)
    assert len(dataset.heldout) == 4


def test_settings_that_do_not_fit_are_refused():
    for settings, message in (
        ({"pictures": "shapse"}, "unknown pictures .*'shapse', did you mean 'shapes'"),
        ({"pictures": "shapes", "size": 20}, "16 or 32 pixels, not 20"),
        ({"pictures": "digits", "sise": 8}, "unknown key 'sise', did you mean 'size'"),
    ):
        with pytest.raises(ValidationError, match=message):
            PictureData(**settings)
