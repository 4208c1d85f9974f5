"""Scenes of several things and digits are read as what they are."""

import numpy as np
import pytest
import torch

from helpers import refused, seeded
from kan_diffusion.data.datasets import PictureData, load_dataset
from kan_diffusion.data.shapes import Scene, Thing, draw_scenes, scene_samples
from kan_diffusion.errors import DataError
from kan_diffusion.evaluation.reading import ClassJudge, accuracy, read_scenes, score_scenes

RED = Thing("circle", "red", "small", 8 / 32, 8 / 32)
BLUE = Thing("square", "blue", "large", 22 / 32, 22 / 32)


def _as_sets(scenes):
    return [(frozenset(scene.things), scene.background) for scene in scenes]


@pytest.mark.parametrize(("size", "objects"), [(16, 2), (32, 1), (32, 3)])
def test_real_scenes_are_read_exactly(size, objects):
    scenes = draw_scenes(60, np.random.default_rng(objects), objects, "all", fewest=objects)
    readings = read_scenes(scene_samples(scenes, size))
    assert _as_sets([reading.scene for reading in readings]) == _as_sets(scenes)
    assert max(reading.distance for reading in readings) < 1e-4


@pytest.mark.parametrize("objects", [2, 3])
def test_what_is_read_is_no_farther_than_the_truth(objects):
    scenes = draw_scenes(150, np.random.default_rng(2), objects, fewest=objects)
    clean = scene_samples(scenes, 16)
    samples = clean + 0.5 * torch.randn(clean.shape, generator=seeded(1))
    truth = (samples - clean).flatten(1).norm(dim=1)
    readings = read_scenes(samples)
    found = torch.tensor([reading.distance for reading in readings])
    assert bool((found <= truth + 1e-3).all())
    again = scene_samples([reading.scene for reading in readings], 16)
    torch.testing.assert_close(
        (samples - again).flatten(1).norm(dim=1), found, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("size", "at_least"), [(16, 0.94), (32, 0.99)])
def test_the_judge_reads_noisy_scenes(size, at_least):
    # docs/pictures.md has the shares of 2,000 scenes: these are three standard errors below.
    for objects in (1, 2, 3):
        scores = accuracy(100, size, np.random.default_rng(objects), objects, "all", noise=0.3)
        assert scores.all >= at_least
        assert scores.count == 1.0


@pytest.mark.parametrize(
    ("prompt", "wrong"),
    [
        ("a small red circle and a large blue square", set()),
        ("a large blue square below a small red circle on white", set()),
        ("a red circle at the top left and a square", set()),
        ("a small red circle right of a large blue square", {"place"}),
        ("a red circle at the bottom and a square", {"place"}),
        ("a small red star and a blue square", {"shape"}),
        ("a green circle and a blue square", {"colour"}),
        ("a large red circle and a blue square", {"size"}),
        ("a red square and a blue circle", {"colour"}),
        ("a large red square and a small blue circle", {"colour"}),
        ("a red circle and a blue square on black", {"background"}),
        ("a red circle", {"count"}),
        ("a red circle and a blue square, and a star", {"count", "shape"}),
    ],
)
def test_a_picture_is_judged_by_what_was_asked(prompt, wrong):
    scores = score_scenes(scene_samples([Scene((RED, BLUE), "white")], 16), [prompt])
    kinds = ("count", "shape", "colour", "size", "place", "background")
    assert {kind for kind in kinds if getattr(scores, kind) == 0.0} == wrong
    assert all(getattr(scores, kind) in (0.0, 1.0, None) for kind in kinds)
    assert scores.all == float(not wrong)
    assert scores.combination == float(not wrong & {"count", "shape", "colour", "size"})


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
