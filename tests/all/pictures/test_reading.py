import numpy as np
import pytest
import torch

from helpers import refused, seeded
from kan_diffusion.data.sources import load_dataset
from kan_diffusion.errors import DataError
from kan_diffusion.pictures.reading import ClassJudge, score_scenes
from kan_diffusion.pictures.scenes import caption, draw_scenes, render
from kan_diffusion.pictures.sources import PictureData


@pytest.mark.parametrize(
    ("size", "noise", "at_least"), [(32, 0.0, 1.0), (16, 0.3, 0.94), (32, 0.3, 0.99)]
)
def test_the_judge_reads_noisy_scenes(size, noise, at_least):
    # docs/pictures.md has the shares of 2,000 scenes: these are three standard errors below.
    scenes = draw_scenes(100, np.random.default_rng(1), "all")
    samples = render(scenes, size)
    samples += noise * torch.randn(samples.shape, generator=seeded())
    scores = score_scenes(samples, [caption(scene) for scene in scenes])
    assert scores["all"] >= at_least


@pytest.fixture(scope="module")
def digits():
    dataset = load_dataset(PictureData(pictures="digits", holdout=0.3))
    labels, others = dataset.class_labels, dataset.heldout_class_labels
    judge = ClassJudge.fit(dataset.train, labels, dataset.heldout, others)
    return judge, dataset.heldout, others


def test_real_digits_are_read_as_what_they_are(digits):
    judge, pictures, labels = digits
    scores = judge.score(pictures, labels)
    assert scores.right == judge.accuracy >= 0.97
    assert scores.spread == pytest.approx(1.0, abs=0.05)
    assert judge.score(pictures, (labels + 1) % 10).right < 0.02


def test_narrowed_digits_have_less_spread(digits):
    judge, pictures, labels = digits
    means = torch.stack([pictures[labels == label].mean(dim=0) for label in range(10)])
    narrow = means[labels] + 0.6 * (pictures - means[labels])
    whole = judge.score(pictures, labels).spread
    assert judge.score(narrow, labels).spread == pytest.approx(0.6 * whole, rel=1e-4)
    # Classes that were not asked for have no spread.
    some = labels < 3
    few = [judge.score(pictures[labels == label], labels[labels == label]) for label in range(3)]
    expected = np.mean([each.spread for each in few])
    assert judge.score(pictures[some], labels[some]).spread == pytest.approx(expected)
    with refused("labels must be 2 numbers from 0 to 9", DataError):
        judge.score(pictures[:2], torch.tensor([3, 10]))
