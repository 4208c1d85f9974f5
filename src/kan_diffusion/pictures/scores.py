r"""Scores of the pictures that a model draws: as asked, varied and not copied.

A model is asked for captions of pictures that it was not trained on. Pictures drawn
without guidance are samples of its :math:`p(x) = E_c\, p(x \mid c)`; their distances to the nearest
training pictures tell copies. Pictures drawn with guidance are read: scenes by the nearest
rendering (:mod:`kan_diffusion.pictures.scenes`), with combinations that are trained on and with
held-out ones, and classes by a support vector machine. All models of a seed start from the same
noise, and each score stands beside that of real pictures.

The share of drawn pictures that are nearer to one of m training pictures than to m held-out ones is
1/2 for a perfect model without conditions. A model that is conditioned on what held-out pictures
show draws them as they are, class by class; with K classes that are well apart, and n of one class
among the training and n' among the held-out pictures, a perfect model has

.. math:: E \sum_{k=1}^K \frac{n'_k}{m} \frac{n_k}{n_k + n'_k} \approx \frac12 - \frac{K - 1}{4 m},

and far less where each picture has a caption of its own. A share of 1/2 may then be due to copies;
the share of real pictures, which are asked for nothing, has the mean 1/2.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kan_diffusion.evaluation.metrics import Measure
from kan_diffusion.evaluation.privacy import copies
from kan_diffusion.pictures.codec import decode, encode
from kan_diffusion.pictures.pipeline import PictureDiffusionPipeline
from kan_diffusion.pictures.scenes import Combinations, captions, draw_scenes, render, score_scenes
from kan_diffusion.pictures.sources import PictureDataset
from kan_diffusion.randomness import numpy_generator, torch_generator
from kan_diffusion.study.config import TrialConfig
from kan_diffusion.study.folder import Row

EACH = 4
"""Number of pictures of each prompt that are kept to be shown."""

_MOST_SHOWN = 128
"""Most prompts whose pictures are shown: a pipeline draws as many at once, and a page has room."""

_KINDS = ("shape", "colour", "size", "all")
"""Properties of scenes that are scored; prompts of scenes name no place and no background."""

_ASKED = "pictures as asked"
_PARTS: tuple[tuple[str, Combinations, str], ...] = (
    ("seen", "seen", "combinations trained on"),
    ("unseen", "held-out", "held-out combinations"),
)

_TITLES = [
    ("nearest", "nearest", "distance to the nearest training picture", Measure.group),
    ("closer", "closer", "share nearer to a training picture than to a new one", Measure.group),
    ("read_plain", "unguided", "as asked, without guidance", _ASKED),
    ("read", "class", "classes as asked", _ASKED),
    ("spread", "spread", "spread within a class", _ASKED),
    *(
        (f"{part}_{kind}", kind, f"{kind} as asked, {said}", f"{_ASKED}: {said}")
        for part, _, said in _PARTS
        for kind in _KINDS
    ),
]
PICTURE_MEASURES: dict[str, Measure] = {
    key: Measure(key, label, "lower" if key == "closer" else "higher", title=title, group=group)
    for key, label, title, group in _TITLES
}
"""All measures of pictures, by their column in a study's rows; some apply to some data only."""


class ClassJudge:
    """Reads classes by a support vector machine with a Gaussian kernel, which is deterministic.

    Args:
        train: Training pictures, shape (N, C, S, S).
        classes: Their N classes, a categorical; of two at least there are pictures.
    """

    def __init__(self, train: Tensor, classes: pd.Series) -> None:
        from sklearn.svm import SVC

        self._classifier = SVC(C=10.0).fit(_flat(train), classes.cat.codes)
        self._spreads = _spreads(train, classes)

    def score(self, samples: Tensor, classes: pd.Series) -> tuple[float, float]:
        """Judges pictures.

        Args:
            samples: Shape (n, C, S, S).
            classes: The class that was asked for each, a categorical like those of training.

        Returns:
            The share of the pictures that are read as asked; and their spread, the root mean square
            distance to the mean of their class, over that of training pictures. Guidance lowers
            it; 1 is as diverse as real pictures.
        """
        right = self._classifier.predict(_flat(samples)) == classes.cat.codes
        spreads = _spreads(samples, classes) / self._spreads
        return float(right.mean()), float(np.nanmean(spreads))


def _flat(samples: Tensor) -> np.ndarray:
    return samples.detach().cpu().double().flatten(1).numpy()


def _spreads(samples: Tensor, classes: pd.Series) -> np.ndarray:
    """Computes root mean square distances to the mean of each class; NaN of fewer than two."""
    flat, codes = torch.from_numpy(_flat(samples)), torch.tensor(classes.cat.codes.to_numpy())
    each = [flat[codes == code] for code in range(len(classes.cat.categories))]
    return np.array([float(c.var(dim=0).sum().sqrt()) if len(c) > 1 else np.nan for c in each])


def shown(dataset: PictureDataset, num: int) -> tuple[tuple[str, ...], Tensor]:
    """Chooses what a report asks for: one picture of each class, or scenes, half of them held out.

    Args:
        dataset: The pictures.
        num: Largest number of prompts; more than 128 are never chosen.

    Returns:
        The prompts, and a real picture of each, (num, C, S, S).
    """
    num = min(num, _MOST_SHOWN)
    if dataset.scenes:
        halves = zip((num - num // 2, num // 2), _PARTS, strict=True)
        scenes = np.concatenate([
            draw_scenes(count, numpy_generator("shown", which), which)
            for count, (_, which, _) in halves
        ])  # fmt: skip
        return captions(scenes), render(scenes, dataset.shape[-1])
    labels = dataset.heldout_labels
    if dataset.classes:
        labels = labels.drop_duplicates("class").sort_values("class")
    return tuple(labels["caption"][:num]), dataset.heldout[labels.index[:num].tolist()]


def score_pictures(
    config: TrialConfig, dataset: PictureDataset, pipeline: PictureDiffusionPipeline
) -> tuple[Row, Tensor]:
    """Draws pictures and scores them.

    Args:
        config: The trial, which says how many pictures are drawn, and how.
        dataset: The pictures; held-out ones are asked for and stand for real ones.
        pipeline: The trained model.

    Returns:
        The seconds that it takes, and scores by the keys of `PICTURE_MEASURES`, where those of real
        pictures, which need no model, have the suffix ``_real``; and `EACH` pictures of each prompt
        that a report shows.
    """
    started = time.perf_counter()
    names, sampling = (config.study_seed, config.seed, dataset.name), config.sampling
    num, guidance = config.judging.num_samples, sampling.guidance

    def drawn(prompts: Sequence[str], scale: float, *stream: str | int, each: int = 1) -> Tensor:
        samples: Tensor = pipeline(
            prompts,
            sampling.steps,
            num_images_per_prompt=each,
            guidance_scale=scale,
            generator=torch_generator(*stream),
            output_type="pt",
        ).images
        return samples.cpu()

    rows = dataset.heldout_rows(num, torch_generator("asked", *names))
    asked, real = dataset.heldout_labels.iloc[rows.numpy()], dataset.heldout[rows]
    prompts = asked["caption"].tolist()
    plain = drawn(prompts, 1.0, "samples", "plain", *names)
    row: Row = {**_copied(dataset, plain, num, names)}
    if dataset.scenes:
        for part, combinations, _ in _PARTS:
            scenes = draw_scenes(num, numpy_generator("asked", part, *names), combinations)
            texts = captions(scenes)  # they name shape, colour and size, which may be held out
            guided = drawn(texts, guidance, "samples", part, *names)
            for end, judged in (("", guided), ("_real", render(scenes, dataset.shape[-1]))):
                scores = score_scenes(judged, texts)
                row |= {f"{part}_{kind}{end}": scores[kind] for kind in _KINDS}
        for end, judged in (("", plain), ("_real", real)):
            row[f"read_plain{end}"] = score_scenes(judged, prompts)["all"]
    # A class may have no picture to train a judge with.
    if dataset.labels["class"].nunique() == len(dataset.classes) > 0:
        judge = ClassJudge(dataset.train, dataset.labels["class"])
        guided = drawn(prompts, guidance, "samples", "guided", *names)
        row["read"], row["spread"] = judge.score(guided, asked["class"])
        row["read_plain"], _ = judge.score(plain, asked["class"])
        row["read_real"], _ = judge.score(dataset.heldout, dataset.heldout_labels["class"])
        row["read_plain_real"] = row["read_real"]
        _, row["spread_real"] = judge.score(real, asked["class"])
    row["sample_seconds"] = time.perf_counter() - started
    to_show, _ = shown(dataset, config.judging.num_drawn)
    return row, drawn(to_show, guidance, "shown", config.study_seed, each=EACH)


def _copied(
    dataset: PictureDataset, plain: Tensor, num: int, names: tuple[int, int, str]
) -> dict[str, float]:
    """Compares drawn pictures (n, C, S, S), and real ones, with training pictures."""
    samples = encode(decode(plain), plain.shape[-1])  # rounded to 8 bits, as they are shown
    train, heldout = _flat(dataset.train), _flat(dataset.heldout[: len(plain)])
    measured = copies(_flat(samples), train, heldout, numpy_generator("copies", *names))
    one, other = map(_flat, dataset.fresh_pair(num, torch_generator("real pairs", *names)))
    of_real = copies(one, train, other, numpy_generator("real pairs", *names))
    return {
        "nearest": measured.nearest,
        "nearest_real": measured.nearest_real,
        "closer": measured.closest.value,
        "closer_real": of_real.closest.value,
    }
