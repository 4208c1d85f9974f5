from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import refused, seeded
from kan_diffusion.data.datasets import PictureData, load_dataset
from kan_diffusion.data.shapes import Scene, Thing, draw_scenes, renderings, scene_samples
from kan_diffusion.errors import DataError
from kan_diffusion.evaluation.reading import ClassJudge, accuracy, read_scenes, score_scenes


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _as_sets(scenes: list[Scene]) -> list[tuple[frozenset[Thing], str]]:
    return [(frozenset(scene.things), scene.background) for scene in scenes]


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("objects", [1, 2, 3])
def test_real_scenes_are_read_exactly(size: int, objects: int) -> None:
    scenes = draw_scenes(60, _rng(objects), objects, "all", fewest=objects)
    readings = read_scenes(scene_samples(scenes, size))
    assert _as_sets([reading.scene for reading in readings]) == _as_sets(scenes)
    assert max(reading.distance for reading in readings) < 1e-4


def _nearest_of_all(samples: Tensor) -> tuple[list[Scene], Tensor]:
    """The nearest rendering of one thing, by the distance to each."""
    known = renderings(samples.shape[2])
    flat = samples.flatten(1).double()
    best = torch.full((len(flat),), torch.inf, dtype=torch.float64)
    scenes: list[Scene | None] = [None] * len(flat)
    for shade, background in zip(known.backgrounds, ("black", "white"), strict=True):
        for colour, level in enumerate(known.colours):
            masks = known.masks[:, None, :].double()
            pictures = shade[:, None].double() + masks * (level - shade)[:, None].double()
            nearest = torch.cdist(flat, pictures.flatten(1)).min(dim=1)
            for row in (nearest.values < best).nonzero()[:, 0].tolist():
                best[row] = nearest.values[row]
                thing = known.thing(int(nearest.indices[row]), colour)
                scenes[row] = Scene((thing,), background)
    return [scene for scene in scenes if scene is not None], best


@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_one_thing_is_the_nearest_of_all_renderings(noise: float) -> None:
    samples = scene_samples(draw_scenes(40, _rng(1)), 16)
    samples += noise * torch.randn(samples.shape, generator=seeded())
    nearest, distances = _nearest_of_all(samples)
    readings = read_scenes(samples, most=1)
    assert [reading.scene for reading in readings] == nearest
    found = torch.tensor([reading.distance for reading in readings], dtype=torch.float64)
    torch.testing.assert_close(found, distances, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("objects", [2, 3])
def test_what_is_read_is_no_farther_than_the_truth(objects: int) -> None:
    scenes = draw_scenes(150, _rng(2), objects, fewest=objects)
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
def test_the_judge_reads_noisy_scenes(size: int, at_least: float) -> None:
    # docs/pictures.md has the shares of 2,000 scenes: these are three standard errors below.
    for objects in (1, 2, 3):
        scores = accuracy(100, size, _rng(objects), objects, "all", noise=0.3)
        assert scores.all >= at_least
        assert scores.count == 1.0


_RED = Thing("circle", "red", "small", 8 / 32, 8 / 32)
_BLUE = Thing("square", "blue", "large", 22 / 32, 22 / 32)
_GREEN = Thing("star", "green", "small", 24 / 32, 6 / 32)


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
def test_a_picture_is_judged_by_what_was_asked(prompt: str, wrong: set[str]) -> None:
    scores = score_scenes(scene_samples([Scene((_RED, _BLUE), "white")], 16), [prompt])
    kinds = ("count", "shape", "colour", "size", "place", "background")
    assert {kind for kind in kinds if getattr(scores, kind) == 0.0} == wrong
    assert all(getattr(scores, kind) in (0.0, 1.0, None) for kind in kinds)
    assert scores.all == float(not wrong)
    assert scores.combination == float(not wrong & {"count", "shape", "colour", "size"})


def test_scores_are_shares_of_those_that_were_asked() -> None:
    scenes = [Scene((_RED,), "white"), Scene((_BLUE,), "white"), Scene((_GREEN,), "black")]
    pictures = scene_samples(scenes, 16)
    scores = score_scenes(pictures, ["a red circle", "a red square", "a star on black"])
    assert scores.num == 3
    assert scores.shape == scores.count == 1.0
    assert scores.colour == 0.5
    assert scores.background == 1.0
    assert scores.size is scores.place is None
    assert scores.all == scores.combination == pytest.approx(2 / 3)


def test_a_second_thing_counts_unless_one_is_read() -> None:
    pictures = scene_samples([Scene((_BLUE, _GREEN), "white")], 16)
    assert score_scenes(pictures, ["a large blue square"]).count == 0.0
    assert score_scenes(pictures, ["a large blue square"], most=1).all == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: read_scenes(torch.zeros(2, 1, 16, 16)), r"shape \(n, 3, S, S\)"),
        (lambda: read_scenes(torch.zeros(2, 3, 20, 20)), "16 or 32 pixels"),
        (lambda: read_scenes(torch.full((1, 3, 16, 16), torch.nan)), "not finite"),
        (lambda: read_scenes(torch.zeros(1, 3, 16, 16), 4), "1 to 3 things, not 4"),
        (lambda: score_scenes(torch.zeros(1, 3, 16, 16), []), "a prompt for each picture"),
        (
            lambda: score_scenes(torch.zeros(1, 3, 16, 16), ["a star and a star"], most=1),
            "more than 1 things",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(call: object, message: str) -> None:
    with refused(message, DataError):
        call()


@pytest.fixture(scope="module")
def digits() -> tuple[ClassJudge, Tensor, Tensor]:
    dataset = load_dataset(PictureData(pictures="digits", holdout=0.3))
    labels, others = dataset.class_labels, dataset.heldout_class_labels
    judge = ClassJudge.fit(dataset.train, labels, dataset.heldout, others)
    return judge, dataset.heldout, others


def test_real_digits_are_read_as_what_they_are(digits: tuple[ClassJudge, Tensor, Tensor]) -> None:
    judge, pictures, labels = digits
    scores = judge.score(pictures, labels)
    assert scores.right == scores.real == judge.accuracy >= 0.97
    assert scores.spread == pytest.approx(1.0, abs=0.05)
    assert np.average(scores.by_class, weights=labels.bincount().numpy()) == pytest.approx(
        scores.right
    )
    assert judge.score(pictures, (labels + 1) % 10).right < 0.02


def test_narrowed_digits_have_less_spread(digits: tuple[ClassJudge, Tensor, Tensor]) -> None:
    judge, pictures, labels = digits
    means = torch.stack([pictures[labels == label].mean(dim=0) for label in range(10)])
    narrow = means[labels] + 0.6 * (pictures - means[labels])
    whole = judge.score(pictures, labels).spread
    assert judge.score(narrow, labels).spread == pytest.approx(0.6 * whole, rel=1e-4)
    some = labels < 3
    assert np.isnan(judge.score(pictures[some], labels[some]).by_class[3:]).all()
    with refused("labels must be 2 numbers from 0 to 9", DataError):
        judge.score(pictures[:2], torch.tensor([3, 10]))


def test_a_judge_needs_two_classes() -> None:
    pictures, labels = torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)
    with refused("needs two at least", DataError):
        ClassJudge.fit(pictures, labels, pictures, labels)
