import numpy as np
import pytest
import torch

from helpers import refused
from kan_diffusion.data.datasets import PictureData, load_dataset
from kan_diffusion.errors import DataError
from kan_diffusion.pictures.reading import ClassJudge, accuracy, read_scenes
from kan_diffusion.pictures.scenes import draw_scenes, scene_samples


@pytest.mark.parametrize(("size", "objects"), [(32, 1), (16, 2)])
def test_real_scenes_are_read_exactly(size, objects):
    scenes = draw_scenes(60, np.random.default_rng(objects), objects, "all", fewest=objects)
    readings = read_scenes(scene_samples(scenes, size))
    for reading, scene in zip(readings, scenes, strict=True):
        assert {*reading.scene.things} == {*scene.things}
        assert reading.scene.background == scene.background
        assert reading.distance < 1e-4


@pytest.mark.parametrize(("size", "at_least"), [(16, 0.94), (32, 0.99)])
def test_the_judge_reads_noisy_scenes(size, at_least):
    # docs/pictures.md has the shares of 2,000 scenes: these are three standard errors below.
    scores = accuracy(100, size, np.random.default_rng(1), 1, "all", noise=0.3)
    assert scores.all >= at_least
    assert scores.count == 1.0


@pytest.fixture(scope="module")
def digits():
    dataset = load_dataset(PictureData(pictures="digits", holdout=0.3))
    labels, others = dataset.class_labels, dataset.heldout_class_labels
    judge = ClassJudge.fit(dataset.train, labels, dataset.heldout, others)
    return judge, dataset.heldout, others


def test_real_digits_are_read_as_what_they_are(digits):
    judge, pictures, labels = digits
    scores = judge.score(pictures, labels)
    assert scores.right == scores.real == judge.accuracy >= 0.97
    assert scores.spread == pytest.approx(1.0, abs=0.05)
    assert np.average(scores.by_class, weights=labels.bincount().numpy()) == pytest.approx(
        scores.right
    )
    assert judge.score(pictures, (labels + 1) % 10).right < 0.02


def test_narrowed_digits_have_less_spread(digits):
    judge, pictures, labels = digits
    means = torch.stack([pictures[labels == label].mean(dim=0) for label in range(10)])
    narrow = means[labels] + 0.6 * (pictures - means[labels])
    whole = judge.score(pictures, labels).spread
    assert judge.score(narrow, labels).spread == pytest.approx(0.6 * whole, rel=1e-4)
    some = labels < 3
    assert np.isnan(judge.score(pictures[some], labels[some]).by_class[3:]).all()
    with refused("labels must be 2 numbers from 0 to 9", DataError):
        judge.score(pictures[:2], torch.tensor([3, 10]))
