"""Features of pictures tell spoilt pictures from real ones."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from helpers import refused, seeded
from kan_diffusion.data.datasets import PictureData, load_dataset
from kan_diffusion.errors import DataError
from kan_diffusion.evaluation.features import PictureFeatures, picture_features
from kan_diffusion.evaluation.metrics import PICTURE_METRICS, real_against_real, sample_metrics
from picture_folders import write_pictures

DIGITS = PictureData(pictures="digits", holdout=0.5)


def _scores(features, one, other):
    return sample_metrics(features(one), features(other), np.random.default_rng(0), PICTURE_METRICS)


@pytest.fixture(scope="module")
def halves():
    """Features, two halves of the real digits that were not trained on, and their scores."""
    features, heldout = picture_features(DIGITS), load_dataset(DIGITS).heldout
    one, other = heldout[: len(heldout) // 2], heldout[len(heldout) // 2 :]
    return features, one, other, _scores(features, one, other)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: x + 0.3 * torch.randn(x.shape, generator=seeded()),
        lambda x: functional.avg_pool2d(x, 3, stride=1, padding=1),
        lambda x: 0.9 * x,
        lambda x: x.flip(2),
        lambda x: x[torch.randint(20, (len(x),), generator=seeded())],
        lambda x: x.mean(dim=0, keepdim=True) + 0.5 * (x - x.mean(dim=0, keepdim=True)),
    ],
    ids=["noise", "blur", "faded", "upside down", "twenty pictures", "narrowed"],
)
def test_features_tell_spoilt_pictures_from_real_ones(halves, spoil):
    features, one, other, real = halves
    spoilt = _scores(features, spoil(one), other)
    assert spoilt["frechet"] > 2 * real["frechet"]
    assert spoilt["c2st"] > real["c2st"] + 0.1
    assert 0.4 < real["c2st"] < 0.6


def test_a_perfect_model_scores_as_real_against_real(halves):
    features, one, other, scores = halves
    real = real_against_real(
        lambda _: (features(one), features(other)), 1, np.random.default_rng(0), PICTURE_METRICS
    )
    assert real == scores


def test_features_are_standardised(halves):
    features = halves[0](load_dataset(DIGITS).train)
    assert features.dtype == torch.float64
    torch.testing.assert_close(
        features.mean(dim=0), torch.zeros(64, dtype=torch.float64), rtol=0, atol=1e-4
    )
    torch.testing.assert_close(features.std(dim=0), torch.ones(64).double(), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("channels", "size"), [(4, 4), (3, 13), (3, 48), (1, 8)])
def test_the_recipe_is_one_of_its_draws_alone(channels, size):
    pictures = torch.rand(20, channels, size, size, generator=seeded()) * 2 - 1
    torch.manual_seed(1)
    one = PictureFeatures.fit(pictures, seeded(1), 3)(pictures)
    torch.manual_seed(2)
    assert torch.equal(PictureFeatures.fit(pictures, seeded(1), 3)(pictures), one)
    assert not torch.equal(PictureFeatures.fit(pictures, seeded(2), 3)(pictures), one)


def test_the_features_of_a_folder_follow_its_pictures(tmp_path):
    data = PictureData(pictures=str(write_pictures(tmp_path / "own", "nothing")), size=8)
    before = picture_features(data, effort="quick")
    assert picture_features(data, effort="quick") is before
    next((tmp_path / "own").rglob("*.png")).unlink()
    assert picture_features(data, effort="quick") is not before


def test_other_pictures_are_refused():
    features = PictureFeatures(1, 8, seeded())
    with refused(r"features are of samples \(n, 1, 8, 8\), got \(2, 3, 8, 8\)", DataError):
        features(torch.zeros(2, 3, 8, 8))
    with refused(r"shape \(n, C, S, S\)", DataError):
        PictureFeatures.fit(torch.zeros(2, 3), seeded(), 3)
