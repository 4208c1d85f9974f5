import pytest
import torch
from pydantic import ValidationError
from sklearn.datasets import load_digits

from kan_diffusion.data.sources import load_dataset
from kan_diffusion.pictures.oracle import score_scenes
from kan_diffusion.pictures.sources import PictureData


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


def test_shapes_are_as_their_captions_say_and_sizes_and_modes_as_asked():
    dataset = load_dataset(PictureData(pictures="shapes", num_pictures=60))
    scores = score_scenes(dataset.train, dataset.labels["caption"])
    assert scores["all"] == 1.0
    assert scores["distance"] < 1e-4
    dataset = load_dataset(PictureData(pictures="shapes", mode="L", num_pictures=5))
    assert (dataset.train.shape, len(dataset.heldout)) == ((5, 1, 16, 16), 4)
    dataset = load_dataset(PictureData(pictures="digits", size=16, mode="RGB"))
    assert dataset.shape == dataset.codec.shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pictures": "shapse"}, "unknown pictures .*'shapse', did you mean 'shapes'"),
        ({"pictures": "shapes", "size": 20}, "16 or 32 pixels, not 20"),
        ({"pictures": "digits", "sise": 8}, "unknown key 'sise', did you mean 'size'"),
        ({"pictures": "digits", "num_pictures": 8}, "num_pictures is for shapes"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        PictureData(**settings)
