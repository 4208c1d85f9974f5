import numpy as np
import torch

from helpers import seeded
from kan_diffusion.data.datasets import PictureData, load_dataset
from kan_diffusion.evaluation.metrics import PICTURE_METRICS, sample_metrics
from kan_diffusion.pictures.features import picture_features


def test_features_tell_spoilt_pictures_from_real_ones():
    data = PictureData(pictures="digits", holdout=0.5)
    features, heldout = picture_features(data), load_dataset(data).heldout
    one, other = heldout[: len(heldout) // 2], heldout[len(heldout) // 2 :]
    real, spoilt = (
        sample_metrics(
            features(pictures), features(other), np.random.default_rng(0), PICTURE_METRICS
        )
        for pictures in (one, one + 0.3 * torch.randn(one.shape, generator=seeded()))
    )
    assert spoilt["frechet"] > 2 * real["frechet"]
    assert spoilt["c2st"] > real["c2st"] + 0.1
    assert 0.4 < real["c2st"] < 0.6
