r"""Scores of the pictures that a model draws: as asked, varied and not copied.

A model is asked for captions (or classes) of pictures that it was not trained on. Pictures drawn
without guidance are samples of its :math:`p(x) = E_c\, p(x \mid c)`; their distances to the nearest
training pictures tell copies. Pictures drawn with guidance are read
(:mod:`kan_diffusion.pictures.reading`): scenes by the nearest rendering, with combinations that are
trained on and with held-out ones, and classes by a classifier. All models of a seed start from the
same noise, and each score stands beside that of real pictures.

The share of drawn pictures that are nearer to one of m training pictures than to m held-out ones is
1/2 for a perfect model without conditions. A model that is conditioned on what held-out pictures
show draws them as they are, class by class; with K classes that are well apart, and n of one class
among the training and n' among the held-out pictures, a perfect model has

.. math:: E \sum_{k=1}^K \frac{n'_k}{m} \frac{n_k}{n_k + n'_k} \approx \frac12 - \frac{K - 1}{4 m},

and far less where each picture has a caption of its own. A share of 1/2 may then be due to copies;
the share of real pictures, which are asked for nothing, has the mean 1/2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kan_diffusion.diffusion.sampling import StepCallback
from kan_diffusion.evaluation.metrics import Measure
from kan_diffusion.evaluation.privacy import closest_record, copies
from kan_diffusion.pictures.pipeline import PictureDiffusionPipeline
from kan_diffusion.pictures.reading import ClassJudge, score_scenes
from kan_diffusion.pictures.scenes import Combinations, Scene, caption, draw_scenes, render
from kan_diffusion.pictures.sources import PictureDataset
from kan_diffusion.randomness import numpy_generator, torch_generator

__all__ = ["EACH", "PICTURE_MEASURES", "Request", "draw_pictures", "score_pictures", "shown"]

EACH = 4
"""Number of pictures of each prompt or class that are kept to be shown."""

_MOST_SHOWN = 128
"""Most prompts whose pictures are shown: a pipeline draws as many at once, and a page has room."""

_KINDS = ("shape", "colour", "size", "all")
"""Properties of scenes that are scored; prompts of scenes name no place and no background."""

_ASKED = "pictures as asked"
_PARTS: tuple[tuple[str, Combinations, str], ...] = (
    ("seen", "seen", "combinations trained on"),
    ("unseen", "held-out", "held-out combinations"),
)

PICTURE_MEASURES: dict[str, Measure] = {
    measure.key: measure
    for measure in (
        Measure("nearest", "nearest", "higher", title="distance to the nearest training picture"),
        Measure(
            *("closer", "closer", "lower"),
            title="share nearer to a training picture than to a new one",
        ),
        Measure(
            *("read_plain", "unguided", "higher"), title="as asked, without guidance", group=_ASKED
        ),
        Measure("read", "class", "higher", title="classes as asked", group=_ASKED),
        Measure("spread", "spread", "higher", title="spread within a class", group=_ASKED),
        *(
            Measure(
                *(f"{part}_{kind}", kind, "higher"),
                title=f"{kind} as asked, {said}",
                group=f"{_ASKED}: {said}",
            )
            for part, _, said in _PARTS
            for kind in _KINDS
        ),
    )
}
"""All measures of pictures, by their column in a study's rows; some apply to some data only."""


@dataclass(frozen=True)
class Request:
    """A request to a model: how many pictures, and of which prompts or classes.

    Attributes:
        num: Number of pictures.
        prompts: A prompt for each picture; None where there is no text.
        labels: A class for each picture, with shape (num,); None where there are no classes.
    """

    num: int
    prompts: tuple[str, ...] | None = None
    labels: Tensor | None = None

    @classmethod
    def of(cls, dataset: PictureDataset, rows: Tensor) -> Request:
        """Asks for what the held-out pictures with given indices show."""
        captions, labels = dataset.heldout_captions, dataset.heldout_class_labels
        return cls(
            len(rows),
            captions and tuple(captions[row] for row in rows.tolist()),
            None if labels is None else labels[rows],
        )

    @classmethod
    def of_scenes(cls, scenes: Sequence[Scene]) -> Request:
        """Asks for scenes in the words of their first captions."""
        return cls(len(scenes), tuple(caption(scene) for scene in scenes))

    def words(self, classes: Sequence[str]) -> list[str]:
        """The prompt of each picture, or the name of its class."""
        if self.prompts is not None:
            return list(self.prompts)
        return [""] * self.num if self.labels is None else [classes[i] for i in self.labels]


def shown(dataset: PictureDataset, num: int) -> tuple[Request, Tensor]:
    """Chooses what a report asks for: one picture of each class, or scenes, half of them held out.

    Args:
        dataset: The pictures.
        num: Largest number of prompts or classes; more than 128 are never chosen.

    Returns:
        The request, and a real picture of each prompt or class, (num, C, S, S).
    """
    num = min(num, _MOST_SHOWN)
    if dataset.scenes:
        halves = zip((num - num // 2, num // 2), _PARTS, strict=True)
        scenes = [
            scene
            for count, (_, which, _) in halves
            for scene in draw_scenes(count, numpy_generator("shown", which), which)
        ]
        return Request.of_scenes(scenes), render(scenes, dataset.shape[-1])
    rows = torch.arange(len(dataset.heldout))
    if dataset.heldout_class_labels is not None:
        labels = dataset.heldout_class_labels.tolist()
        rows = torch.tensor([labels.index(label) for label in sorted(set(labels))])
    return Request.of(dataset, rows[:num]), dataset.heldout[rows[:num]]


def draw_pictures(
    pipeline: PictureDiffusionPipeline,
    asked: Request,
    steps: int,
    guidance: float,
    generator: torch.Generator,
    each: int = 1,
    on_step: StepCallback | None = None,
) -> Tensor:
    """Draws the pictures of a request.

    Args:
        pipeline: The model; without text and classes it is asked for a number of pictures only.
        asked: The request.
        steps: Steps of the sampler.
        guidance: Guidance scale; unused without prompts and classes.
        generator: Source of the noise.
        each: Number of pictures of each prompt or class, adjacent in the result.
        on_step: Called after each step, like diffusers' ``callback_on_step_end``.

    Returns:
        Samples with shape (num * each, C, S, S), on the CPU.
    """
    prompts = list(asked.prompts) if asked.prompts and pipeline.text_encoder is not None else None
    labels = None if prompts or asked.labels is None else asked.labels.tolist()
    conditional = prompts is not None or labels is not None
    samples = pipeline(
        prompts,
        steps,
        class_labels=labels,
        num_images_per_prompt=each if conditional else asked.num * each,
        guidance_scale=guidance if conditional else None,
        generator=generator,
        output_type="pt",
        callback_on_step_end=on_step,
    ).images
    assert isinstance(samples, Tensor)
    return samples.cpu()


def score_pictures(
    pipeline: PictureDiffusionPipeline,
    dataset: PictureDataset,
    *,
    num: int,
    steps: int,
    guidance: float,
    study_seed: int,
    seed: int,
) -> dict[str, float | None]:
    """Draws pictures and scores them.

    Args:
        pipeline: The model.
        dataset: The pictures it was trained on, and those it is judged with.
        num: Number of pictures of each kind of request.
        steps: Steps of the sampler.
        guidance: Guidance scale of the pictures that are read.
        study_seed: All draws derive from it and from ``seed``.
        seed: Number of the trial.

    Returns:
        Scores by the keys of `PICTURE_MEASURES`; scores of real pictures, which need no model, have
        the suffix ``_real``.
    """
    names = study_seed, seed, dataset.name
    rows = dataset.heldout_rows(num, torch_generator("asked", *names))
    asked, real = Request.of(dataset, rows), dataset.heldout[rows]

    def drawn(what: Request, scale: float, stream: str) -> Tensor:
        noise = torch_generator("samples", stream, *names)
        return draw_pictures(pipeline, what, steps, scale, noise)

    plain = drawn(asked, 1.0, "plain")
    found: dict[str, float | None] = {**_copied(dataset, plain, num, names)}
    if dataset.scenes:
        for part, combinations, _ in _PARTS:
            generator = numpy_generator("asked", part, *names)
            scenes = draw_scenes(num, generator, combinations)
            what = Request.of_scenes(scenes)  # names shape, colour and size, which may be held out
            for end, judged in (
                ("", drawn(what, guidance, part)),
                ("_real", render(scenes, dataset.shape[-1])),
            ):
                scores = score_scenes(judged, what.prompts or ())
                found |= {f"{part}_{kind}{end}": scores[kind] for kind in _KINDS}
        for end, judged in (("", plain), ("_real", real)):
            found[f"read_plain{end}"] = score_scenes(judged, asked.prompts or ())["all"]
    elif (judge := _class_judge(dataset)) is not None and asked.labels is not None:
        guided = judge.score(drawn(asked, guidance, "guided"), asked.labels)
        found |= {"read": guided.right, "read_real": judge.accuracy}
        found |= {"spread": guided.spread, "spread_real": judge.score(real, asked.labels).spread}
        found["read_plain"] = judge.score(plain, asked.labels).right
        found["read_plain_real"] = judge.accuracy
    return found


def _copied(
    dataset: PictureDataset, plain: Tensor, num: int, names: tuple[int, int, str]
) -> dict[str, float]:
    """Compares drawn pictures (n, C, S, S), and real ones, with training pictures."""
    rounded = dataset.codec.rounded  # to 8 bits, as pictures are shown
    parts = plain, dataset.train, dataset.heldout[: len(plain)]
    made, train, heldout = (rounded(part).flatten(1).double().numpy() for part in parts)
    found = copies(made, train, heldout, numpy_generator("copies", *names))
    pair = dataset.fresh_pair(num, torch_generator("real pairs", *names))
    one, other = (rounded(part).flatten(1).double().numpy() for part in pair)
    size = min(len(other), len(train))
    some = numpy_generator("real pairs", *names).choice(len(train), size, replace=False)
    real = closest_record(one, train[some], other[:size])
    return {
        "nearest": found.nearest,
        "nearest_real": found.nearest_real,
        "closer": found.closest.value,
        "closer_real": real.value,
    }


def _class_judge(dataset: PictureDataset) -> ClassJudge | None:
    """Fits the judge of classes; None unless every class has training pictures."""
    labels, heldout_labels = dataset.class_labels, dataset.heldout_class_labels
    if labels is None or heldout_labels is None:
        return None
    if len(labels.unique()) < max(2, len(dataset.classes)):
        return None
    return ClassJudge.fit(dataset.train, labels, dataset.heldout, heldout_labels)
