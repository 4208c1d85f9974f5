r"""Reads what is in generated pictures: scenes by the nearest rendering, classes by a classifier.

With coverages m of one thing, colours c and backgrounds b
(:mod:`kan_diffusion.pictures.scenes`), the squared distance of a picture x to a scene of things
that share no pixel is

    |x - b|^2 - sum_j [ 2 (c_j - b) . (m_j (x - b)) - |c_j - b|^2 |m_j|^2 ],

a constant minus one gain for each thing. With one thing, the nearest of all renderings has the
largest gain, and one matrix product of pictures with coverages finds it. With several things, a
scene is built on each background: the thing with the largest gain that keeps its distance to the
others is added, as long as the gain is positive. The nearer scene is refined by taking each thing
out and putting the best one in, as long as this changes the scene. The distance never rises, and no
number of things is favoured. The search may miss the nearest scene of all; `accuracy` measures how
often real scenes are read right.

Classes are read by a support vector machine with a Gaussian kernel, fitted to training pictures;
its accuracy on held-out real pictures stands beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from kan_diffusion.errors import DataError
from kan_diffusion.pictures.scenes import (
    BACKGROUNDS,
    MOST_THINGS,
    Asked,
    Combinations,
    Renderings,
    Scene,
    Thing,
    caption,
    draw_scenes,
    parse,
    related,
    renderings,
    scene_samples,
)

if TYPE_CHECKING:
    from sklearn.svm import SVC

__all__ = [
    "ClassJudge",
    "ClassScores",
    "Reading",
    "SceneScores",
    "accuracy",
    "read_scenes",
    "score_scenes",
]

_PICTURES = 128
"""Number of pictures that are read at a time."""
_SWEEPS = 4


@dataclass(frozen=True)
class Reading:
    """The scene that a picture was read as.

    Attributes:
        scene: The scene.
        distance: Euclidean distance of the picture to the scene's rendering, values in [-1, 1].
    """

    scene: Scene
    distance: float


def read_scenes(samples: Tensor, most: int = MOST_THINGS) -> list[Reading]:
    """Reads pictures as scenes.

    Args:
        samples: Shape (n, 3, S, S) with values in [-1, 1] and S of 16 or 32.
        most: Largest number of things in a scene; with 1, the nearest scene of all is found.

    Raises:
        DataError: The shape is wrong, a value is not finite, or ``most`` is out of range.
    """
    if samples.ndim != 4 or samples.shape[1] != 3 or samples.shape[2] != samples.shape[3]:
        raise DataError(f"pictures must have shape (n, 3, S, S), got {tuple(samples.shape)}")
    if not bool(samples.isfinite().all()):
        raise DataError("pictures have values that are not finite; sample again or train longer")
    if not 1 <= most <= MOST_THINGS:
        raise DataError(f"a scene has 1 to {MOST_THINGS} things, not {most}")
    finder = _Finder(renderings(samples.shape[2]), most)
    pictures = samples.detach().to("cpu", torch.float32).flatten(2)
    return [reading for part in pictures.split(_PICTURES) for reading in finder.read(part)]


class _Finder:
    """Looks for the nearest scene, a batch of pictures at a time."""

    def __init__(self, known: Renderings, most: int) -> None:
        self.known, self.most = known, most
        self.areas = known.masks.sum(dim=1)
        self.squares = known.masks.square().sum(dim=1)
        if most > 1:
            self.overlaps = known.masks @ known.masks.T
            self.far_enough = known.far_enough()

    def read(self, pictures: Tensor) -> list[Reading]:
        """Reads pictures (n, 3, pixels)."""
        # One product of two matrices is ten times as fast as one for each picture.
        seen = (pictures.flatten(0, 1) @ self.known.masks.T).unflatten(0, pictures.shape[:2])
        found = [self._build(pictures, seen, each) for each in range(len(BACKGROUNDS))]
        nearer = torch.stack([distance for distance, _, _ in found]).argmin(dim=0)
        readings: list[Reading] = [None] * len(pictures)  # type: ignore[list-item]  # all are filled
        for background, (_, masks, colours) in enumerate(found):
            rows = (nearer == background).nonzero()[:, 0]
            masks, colours = masks[rows], colours[rows]
            self._refine(seen[rows], background, masks, colours)
            distances = self._distances(pictures[rows], seen[rows], background, masks, colours)
            for row, *chosen, distance in zip(
                rows.tolist(), masks.tolist(), colours.tolist(), distances.tolist(), strict=True
            ):
                things = tuple(
                    self.known.thing(mask, colour)
                    for mask, colour in zip(*chosen, strict=True)
                    if mask >= 0
                )
                scene = Scene(things, tuple(BACKGROUNDS)[background])
                readings[row] = Reading(scene, distance)
        return readings

    def _build(
        self, pictures: Tensor, seen: Tensor, background: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Builds scenes: distances (n,), coverages and colours (n, most), -1 for no thing."""
        count = len(pictures)
        masks = torch.full((count, self.most), -1)
        colours = masks.clone()
        rows = torch.arange(count)
        for place in range(self.most):
            gain, mask, colour = self._best(seen, background, masks, colours, rows, place)
            if place:
                kept = gain > 0
                rows, mask, colour = rows[kept], mask[kept], colour[kept]
            masks[rows, place], colours[rows, place] = mask, colour
        return self._distances(pictures, seen, background, masks, colours), masks, colours

    def _refine(self, seen: Tensor, background: int, masks: Tensor, colours: Tensor) -> None:
        """Moves one thing after another to where it is best given the others, in place."""
        open_ = torch.arange(len(masks))
        for _ in range(_SWEEPS):
            changed = torch.zeros(len(masks), dtype=torch.bool)
            for place in range(self.most):
                # A single thing is the best one already.
                rows = open_[(masks[open_] >= 0).sum(dim=1) > 1]
                before = masks[rows, place].clone(), colours[rows, place].clone()
                masks[rows, place] = colours[rows, place] = -1
                gain, mask, colour = self._best(seen, background, masks, colours, rows, place)
                none = gain <= 0
                mask[none] = colour[none] = -1
                masks[rows, place], colours[rows, place] = mask, colour
                changed[rows] |= (mask != before[0]) | (colour != before[1])
            open_ = changed.nonzero()[:, 0]
            if not len(open_):
                return

    def _best(
        self,
        seen: Tensor,
        background: int,
        masks: Tensor,
        colours: Tensor,
        rows: Tensor,
        place: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Finds the largest gain of one more thing in each row, its coverage and colour, (r,)."""
        shade = self.known.backgrounds[background]
        steps = self.known.colours - shade
        left = seen[rows] - shade[:, None] * self.areas
        forbidden = torch.zeros(len(rows), len(self.areas), dtype=torch.bool)
        for other in range(self.most):
            there = masks[rows, other] >= 0
            if other == place or not bool(there.any()):
                continue
            chosen = masks[rows[there], other]
            step = steps[colours[rows[there], other]]
            left[there] -= step[:, :, None] * self.overlaps[chosen][:, None, :]
            forbidden[there] |= ~self.far_enough[chosen]
        gains = (2 * steps) @ left - steps.square().sum(dim=1)[:, None] * self.squares
        if self.most > 1:
            gains.masked_fill_(forbidden[:, None, :], -torch.inf)
        best, at = gains.flatten(1).max(dim=1)
        return best, at % len(self.areas), at // len(self.areas)

    def _distances(
        self, pictures: Tensor, seen: Tensor, background: int, masks: Tensor, colours: Tensor
    ) -> Tensor:
        shade = self.known.backgrounds[background]
        steps = self.known.colours - shade
        scenes = shade[:, None].expand(len(pictures), 3, pictures.shape[2]).clone()
        for place in range(self.most):
            rows = (masks[:, place] >= 0).nonzero()[:, 0]
            step = steps[colours[rows, place]]
            scenes[rows] += step[:, :, None] * self.known.masks[masks[rows, place]][:, None, :]
        return (pictures - scenes).square().sum(dim=(1, 2)).sqrt()


@dataclass(frozen=True)
class SceneScores:
    """Shares of pictures that are as their prompts ask, each from 0 to 1.

    A share is over the pictures whose prompts say something about it; None where none does.

    Attributes:
        num: Number of pictures that were read.
        count: As many things as asked.
        shape: All things have the shapes asked for.
        colour: All have the colours asked for.
        size: All have the sizes asked for.
        place: All are where asked, in the picture and relative to each other.
        background: The background is as asked.
        combination: The number of things, their shapes, colours and sizes are as asked.
        all: Everything is as asked.
        distance: Median Euclidean distance to the rendering of the scene that was read.
    """

    num: int
    count: float
    shape: float
    colour: float | None
    size: float | None
    place: float | None
    background: float | None
    combination: float
    all: float
    distance: float


_KINDS = ("shape", "colour", "size", "place")


def score_scenes(samples: Tensor, prompts: Sequence[str], most: int = MOST_THINGS) -> SceneScores:
    """Judges pictures by what their prompts ask for.

    Things asked for are matched with things read so that as much as possible is right.

    Args:
        samples: Shape (n, 3, S, S) with values in [-1, 1] and S of 16 or 32.
        prompts: A prompt for each picture; see :func:`kan_diffusion.pictures.scenes.parse`.
        most: Largest number of things to read in a picture. With 1, the nearest of all renderings
            is read, and a picture of several things is read as one of them.

    Raises:
        DataError: The numbers of pictures and prompts differ, a prompt cannot be read, or one asks
            for more than ``most`` things.
    """
    if len(samples) != len(prompts) or not len(prompts):
        raise DataError(
            f"{len(samples)} pictures and {len(prompts)} prompts; give a prompt for each picture"
        )
    asked = {prompt: parse(prompt) for prompt in dict.fromkeys(prompts)}
    for prompt, each in asked.items():
        if len(each.things) > most:
            raise DataError(f"'{prompt}' asks for more than {most} things; read as many")
    readings = read_scenes(samples, most)
    right = [
        _right(asked[prompt], reading.scene)
        for prompt, reading in zip(prompts, readings, strict=True)
    ]

    def share(kind: str) -> float | None:
        said = [each[kind] for each in right if kind in each]
        return float(np.mean(said)) if said else None

    return SceneScores(
        num=len(right),
        count=float(np.mean([each["count"] for each in right])),
        shape=float(np.mean([each["shape"] for each in right])),
        colour=share("colour"),
        size=share("size"),
        place=share("place"),
        background=share("background"),
        combination=float(
            np.mean(
                [all(each.get(kind, True) for kind in ("count", *_KINDS[:3])) for each in right]
            )
        ),
        all=float(np.mean([all(each.values()) for each in right])),
        distance=float(np.median([reading.distance for reading in readings])),
    )


def _right(asked: Asked, scene: Scene) -> dict[str, bool]:
    """Tells of each kind of property in a prompt whether the scene has it."""
    best: dict[str, bool] = {}
    padded: list[Thing | None] = [*scene.things]
    padded += [None] * (len(asked.things) - len(padded))
    points = -1
    for chosen in permutations(padded, len(asked.things)):
        right: dict[str, bool] = {}
        held = 0
        for want, thing in zip(asked.things, chosen, strict=True):
            for kind in _KINDS:
                value = getattr(want, kind)
                if value is not None:
                    holds = thing is not None and getattr(thing, kind) == value
                    right[kind] = right.get(kind, True) and holds
                    held += holds
        for i, relation, j in asked.relations:
            one, other = chosen[i], chosen[j]
            holds = one is not None and other is not None and relation in related(one, other)
            right["place"] = right.get("place", True) and holds
            held += holds
        if held > points:
            best, points = right, held
    best["count"] = len(scene.things) == len(asked.things)
    if asked.background is not None:
        best["background"] = scene.background == asked.background
    return best


def accuracy(
    num: int,
    size: int,
    generator: np.random.Generator,
    objects: int = 1,
    combinations: Combinations = "seen",
    noise: float = 0.0,
) -> SceneScores:
    """Measures the judge itself, on real scenes under their first captions.

    Args:
        num: Number of fresh scenes, each of exactly ``objects`` things.
        size: Pixels of a side, 16 or 32.
        generator: Source of scenes and noise.
        objects: Number of things in each scene.
        combinations: Which combinations there may be.
        noise: Standard deviation of noise on values in [-1, 1].
    """
    scenes = draw_scenes(num, generator, objects, combinations, fewest=objects)
    samples = scene_samples(scenes, size)
    if noise:
        samples += noise * torch.from_numpy(generator.standard_normal(samples.shape)).float()
    return score_scenes(samples, [caption(scene) for scene in scenes])


@dataclass(frozen=True)
class ClassScores:
    """How often generated pictures are of the classes asked for.

    Attributes:
        right: Share of generated pictures that the judge reads as asked.
        real: Share of held-out real pictures that it reads right: the judge's own accuracy.
        by_class: The same share for each class; NaN for a class that was not asked for.
        spread: Root mean square distance of generated pictures to the mean of their class, over
            that of training pictures. Guidance lowers it; 1 is as diverse as real pictures.
    """

    right: float
    real: float
    by_class: tuple[float, ...]
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
        classifier = SVC(C=10.0).fit(_flat(train), labels.numpy())
        right = classifier.predict(_flat(heldout)) == heldout_labels.numpy()
        return cls(classifier, float(right.mean()), _spreads(train, labels, len(counts)))

    def score(self, samples: Tensor, labels: Tensor) -> ClassScores:
        """Judges generated pictures.

        Args:
            samples: Shape (n, C, S, S).
            labels: The class that was asked for each, shape (n,).

        Raises:
            DataError: The shapes do not fit, or a class is unknown.
        """
        known = len(self._spreads)
        if labels.shape != (len(samples),) or not bool(((labels >= 0) & (labels < known)).all()):
            raise DataError(f"labels must be {len(samples)} numbers from 0 to {known - 1}")
        right = torch.from_numpy(self._classifier.predict(_flat(samples)) == labels.cpu().numpy())
        spreads = _spreads(samples, labels.cpu(), known) / self._spreads
        return ClassScores(
            right=float(right.double().mean()),
            real=self.accuracy,
            by_class=tuple(
                float(right[labels.cpu() == label].double().mean()) for label in range(known)
            ),
            spread=float(spreads.nanmean()),
        )


def _flat(samples: Tensor) -> np.ndarray:
    return samples.detach().cpu().double().flatten(1).numpy()


def _spreads(samples: Tensor, labels: Tensor, count: int) -> Tensor:
    """Computes root mean square distances to the mean of each class, unbiased, (count,).

    NaN for a class of fewer than two pictures.
    """
    flat = samples.detach().cpu().double().flatten(1)
    spreads = torch.full((count,), torch.nan, dtype=torch.float64)
    for label in range(count):
        own = flat[labels == label]
        if len(own) > 1:
            spreads[label] = own.var(dim=0).sum().sqrt()
    return spreads
