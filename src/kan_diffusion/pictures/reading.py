r"""Reads what is in generated pictures: scenes by the nearest rendering, classes by a classifier.

With coverages m of an object, colours c and backgrounds b (:mod:`kan_diffusion.pictures.scenes`),
the squared distance of a picture x to a scene is

    |x - b|^2 - [ 2 (c - b) . (m (x - b)) - |c - b|^2 |m|^2 ],

a constant minus a gain. The nearest of all renderings on a background has the largest gain, and one
matrix product of pictures with coverages finds it.

Classes are read by a support vector machine with a Gaussian kernel, fitted to training pictures;
its accuracy on held-out real pictures stands beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from kan_diffusion.errors import DataError
from kan_diffusion.pictures.scenes import (
    BACKGROUNDS,
    COLOURS,
    COVERAGES,
    Scene,
    coverages,
    in_samples,
    parse,
)

if TYPE_CHECKING:
    from sklearn.svm import SVC

__all__ = ["ClassJudge", "ClassScores", "Reading", "read_scenes", "score_scenes"]

_PICTURES = 128
"""Number of pictures that are read at a time."""


@dataclass(frozen=True)
class Reading:
    """The scene that a picture was read as.

    Attributes:
        scene: The scene.
        distance: Euclidean distance of the picture to the scene's rendering, values in [-1, 1].
    """

    scene: Scene
    distance: float


def read_scenes(samples: Tensor) -> list[Reading]:
    """Reads each picture as the nearest scene of all.

    Args:
        samples: Shape (n, 3, S, S) with values in [-1, 1] and S of 16 or 32.

    Raises:
        DataError: The shape is wrong, or a value is not finite.
    """
    if samples.ndim != 4 or samples.shape[1] != 3 or samples.shape[2] != samples.shape[3]:
        raise DataError(f"pictures must have shape (n, 3, S, S), got {tuple(samples.shape)}")
    if not bool(samples.isfinite().all()):
        raise DataError("pictures have values that are not finite; sample again or train longer")
    known = coverages(samples.shape[2])
    pictures = samples.detach().to("cpu", torch.float32).flatten(2)
    return [reading for part in pictures.split(_PICTURES) for reading in _nearest(part, known)]


def _nearest(pictures: Tensor, known: Tensor) -> list[Reading]:
    """Finds the nearest scenes of pictures (n, 3, pixels), with known coverages (m, pixels)."""
    # One product of two matrices is ten times as fast as one for each picture.
    seen = (pictures.flatten(0, 1) @ known.T).unflatten(0, pictures.shape[:2])
    areas, squares = known.sum(dim=1), known.square().sum(dim=1)
    found = []
    for shade in in_samples(BACKGROUNDS.values()):
        steps = in_samples(COLOURS.values()) - shade
        gains = (2 * steps) @ (seen - shade[:, None] * areas)
        gains -= steps.square().sum(dim=1)[:, None] * squares
        best = gains.flatten(1).argmax(dim=1)
        colours, rows = best // len(known), best % len(known)
        drawn = shade[:, None] + steps[colours][:, :, None] * known[rows][:, None]
        found.append((colours, rows, (pictures - drawn).square().sum(dim=(1, 2)).sqrt()))
    colours, rows, distances = (torch.stack(values) for values in zip(*found, strict=True))
    names, readings = tuple(COLOURS), []
    for number, nearer in enumerate(distances.argmin(dim=0).tolist()):
        place = nearer, number
        shape, size, x, y = COVERAGES[int(rows[place])]
        scene = Scene(shape, names[int(colours[place])], size, x, y, tuple(BACKGROUNDS)[nearer])
        readings.append(Reading(scene, float(distances[place])))
    return readings


def score_scenes(samples: Tensor, prompts: Sequence[str]) -> dict[str, float | None]:
    """Judges pictures by what their prompts ask for.

    Args:
        samples: Shape (n, 3, S, S) with values in [-1, 1] and S of 16 or 32.
        prompts: A prompt for each picture; see :func:`kan_diffusion.pictures.scenes.parse`.

    Returns:
        Shares from 0 to 1 of the pictures whose ``"shape"``, ``"colour"``, ``"size"``, ``"place"``
        and ``"background"`` are as asked, each of those whose prompts say something about it, None
        where none does; the share in which ``"all"`` is as asked; and the median ``"distance"`` to
        the scene that was read.

    Raises:
        DataError: The numbers of pictures and prompts differ, or a prompt cannot be read.
    """
    if len(samples) != len(prompts) or not len(prompts):
        raise DataError(
            f"{len(samples)} pictures and {len(prompts)} prompts; give a prompt for each picture"
        )
    asked = {prompt: parse(prompt) for prompt in dict.fromkeys(prompts)}
    readings = read_scenes(samples)
    met = [
        asked[prompt].met(reading.scene) for prompt, reading in zip(prompts, readings, strict=True)
    ]
    scores: dict[str, float | None] = {}
    for kind in ("shape", "colour", "size", "place", "background"):
        said = [each[kind] for each in met if kind in each]
        scores[kind] = float(np.mean(said)) if said else None
    scores["all"] = float(np.mean([all(each.values()) for each in met]))
    scores["distance"] = float(np.median([reading.distance for reading in readings]))
    return scores


@dataclass(frozen=True)
class ClassScores:
    """How pictures are of the classes asked for.

    Attributes:
        right: Share of the pictures that the judge reads as asked.
        spread: Root mean square distance of the pictures to the mean of their class, over that of
            training pictures. Guidance lowers it; 1 is as diverse as real pictures.
    """

    right: float
    spread: float


class ClassJudge:
    """A classifier of pictures with a known accuracy.

    Attributes:
        accuracy: Share of held-out pictures that it reads right.
    """

    def __init__(self, classifier: SVC, accuracy: float, spreads: Tensor) -> None:
        self._classifier, self.accuracy, self._spreads = classifier, accuracy, spreads

    @classmethod
    def fit(cls, train: Tensor, labels: Tensor, heldout: Tensor, heldout_labels: Tensor) -> Self:
        """Fits the classifier, which is deterministic.

        Args:
            train: Training pictures, shape (N, C, S, S).
            labels: Their classes, shape (N,), from 0.
            heldout: Pictures to measure its accuracy with, shape (M, C, S, S).
            heldout_labels: Their classes, shape (M,).

        Raises:
            DataError: There is only one class, or a class has no training picture.
        """
        from sklearn.svm import SVC

        counts = labels.bincount()
        if len(counts) < 2 or not bool((counts > 0).all()):
            raise DataError("a judge of classes needs two at least, each with training pictures")
        classifier = SVC(C=10.0).fit(_flat(train).numpy(), labels.numpy())
        right = classifier.predict(_flat(heldout).numpy()) == heldout_labels.numpy()
        return cls(classifier, float(right.mean()), _spreads(train, labels, len(counts)))

    def score(self, samples: Tensor, labels: Tensor) -> ClassScores:
        """Judges pictures.

        Args:
            samples: Shape (n, C, S, S).
            labels: The class that was asked for each, shape (n,).

        Raises:
            DataError: The shapes do not fit, or a class is unknown.
        """
        known, labels = len(self._spreads), labels.cpu()
        if labels.shape != (len(samples),) or not bool(((labels >= 0) & (labels < known)).all()):
            raise DataError(f"labels must be {len(samples)} numbers from 0 to {known - 1}")
        right = self._classifier.predict(_flat(samples).numpy()) == labels.numpy()
        spreads = _spreads(samples, labels, known) / self._spreads
        return ClassScores(float(right.mean()), float(spreads.nanmean()))


def _flat(samples: Tensor) -> Tensor:
    return samples.detach().cpu().double().flatten(1)


def _spreads(samples: Tensor, labels: Tensor, count: int) -> Tensor:
    """Computes root mean square distances to the mean of each class, unbiased, (count,).

    NaN for a class of fewer than two pictures.
    """
    flat = _flat(samples)
    classes = [flat[labels == label] for label in range(count)]
    spreads = [float(c.var(dim=0).sum().sqrt()) if len(c) > 1 else torch.nan for c in classes]
    return torch.tensor(spreads, dtype=torch.float64)
