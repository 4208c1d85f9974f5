"""Features of pictures tell spoilt pictures from real ones."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.nn import functional

from helpers import randn, refused, seeded
from kan_diffusion.data.datasets import PictureData, load_dataset
from kan_diffusion.errors import DataError
from kan_diffusion.evaluation.features import PictureFeatures, picture_features
from kan_diffusion.evaluation.metrics import PICTURE_METRICS, frechet_distance, sample_metrics
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


def test_features_are_standardised(halves):
    features = halves[0](load_dataset(DIGITS).train)
    assert features.dtype == torch.float64
    torch.testing.assert_close(
        features.mean(dim=0), torch.zeros(64, dtype=torch.float64), rtol=0, atol=1e-4
    )
    torch.testing.assert_close(features.std(dim=0), torch.ones(64).double(), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("channels", "size"), [(3, 13), (3, 48)])
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


def test_frechet_distance_is_that_of_the_matrix_root():
    x, y = randn(300, 5), randn(400, 5, seed=1) @ randn(5, 5, seed=2) + 0.5
    s, t = (np.cov(side.numpy().T) for side in (x, y))
    means = (x.mean(dim=0) - y.mean(dim=0)).square().sum()
    direct = float(means) + np.trace(s + t - 2 * scipy.linalg.sqrtm(s @ t).real)
    assert frechet_distance(x, y) == pytest.approx(direct, rel=1e-8)
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-8)
    # Fewer points than dimensions: covariances without an inverse.
    assert frechet_distance(randn(3, 8), randn(3, 8)) == pytest.approx(0.0, abs=1e-8)


def test_frechet_distance_of_shifted_and_scaled_normals():
    x = randn(1000, 1)
    std = float(x.std())
    assert frechet_distance(x, 3 * x + 2 - 2 * x.mean()) == pytest.approx(4 + 4 * std**2, rel=1e-9)
    with refused("at least 2 points a side", DataError):
        frechet_distance(x[:1], x)
