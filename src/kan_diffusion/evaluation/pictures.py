r"""How good the pictures are that a model draws: near to real ones, no copies, and as asked.

What a model is asked for are captions (or classes) of pictures that it was not trained on. Drawn
without guidance they are samples of its :math:`p(x) = E_c\, p(x \mid c)`, which are compared with
real pictures by features (:mod:`kan_diffusion.evaluation.features`) and by the distance to the
nearest training picture. Drawn with guidance they are read: scenes by the nearest rendering, of
combinations that are trained on and of held-out ones, classes by a classifier
(:mod:`kan_diffusion.evaluation.reading`). All models of a seed start from the same noise, and
beside each score stands what real pictures have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from kan_diffusion.data.datasets import Dataset
from kan_diffusion.data.pictures import PictureCodec
from kan_diffusion.data.shapes import Combinations, Scene, caption, draw_scenes, render
from kan_diffusion.evaluation.closeness import closest_record, copies
from kan_diffusion.evaluation.features import PictureFeatures
from kan_diffusion.evaluation.metrics import (
    PICTURE_METRICS,
    Score,
    real_against_real,
    sample_metrics,
)
from kan_diffusion.evaluation.reading import ClassJudge, SceneScores, score_scenes
from kan_diffusion.picture_pipeline import PictureDiffusionPipeline
from kan_diffusion.randomness import numpy_generator, torch_generator
from kan_diffusion.sampling import StepCallback

__all__ = [
    "EACH",
    "PICTURE_SCORES",
    "Request",
    "draw_pictures",
    "real_pictures",
    "score_pictures",
    "shown",
]

EACH = 4
"""Pictures of each prompt or class that are kept to be shown."""

_KINDS = {
    "count": "as many things as asked",
    "shape": "shapes as asked",
    "colour": "colours as asked",
    "size": "sizes as asked",
    "place": "places as asked",
    "all": "all as asked",
}


def _scores() -> Iterator[Score]:
    yield from PICTURE_METRICS.values()
    yield Score("nearest", "nearest", "higher", title="distance to the nearest training picture")
    yield Score(
        "closer", "closer", "lower", title="share nearer to a training picture than to a new one"
    )
    asked = "pictures as asked"
    yield Score("read_plain", "unguided", "higher", title="as asked, without guidance", group=asked)
    yield Score("read", "class", "higher", title="classes as asked", group=asked)
    yield Score("spread", "spread", "higher", title="spread within a class", group=asked)
    for which, said in (("seen", "combinations trained on"), ("unseen", "held-out combinations")):
        for kind, title in _KINDS.items():
            yield Score(
                *(f"{which}_{kind}", kind, "higher"),
                title=f"{title}, {said}",
                group=f"{asked}: {said}",
            )


PICTURE_SCORES: dict[str, Score] = {score.key: score for score in _scores()}
"""All that is measured of pictures, by the column of a study's rows; some of it of some data."""


@dataclass(frozen=True)
class Request:
    """A request to a model: how many pictures, and of which prompts or classes.

    Attributes:
        num: Number of pictures.
        prompts: A prompt for each; None of a model without text.
        labels: A class for each, with shape (num,); None where there are no classes.
    """

    num: int
    prompts: tuple[str, ...] | None = None
    labels: Tensor | None = None

    @classmethod
    def of(cls, dataset: Dataset, rows: Tensor) -> Request:
        """Asks for what held-out pictures, by their numbers, show."""
        captions, labels = dataset.heldout_captions, dataset.heldout_class_labels
        return cls(
            len(rows),
            captions and tuple(captions[row] for row in rows.tolist()),
            None if labels is None else labels[rows],
        )

    def words(self, classes: Sequence[str]) -> list[str]:
        """The prompt of each picture, or the name of its class."""
        if self.prompts is not None:
            return list(self.prompts)
        return [""] * self.num if self.labels is None else [classes[i] for i in self.labels]

    @classmethod
    def of_scenes(cls, scenes: list[Scene]) -> Request:
        """Asks for scenes in the words of their first captions."""
        return cls(len(scenes), tuple(caption(scene) for scene in scenes))


def shown(dataset: Dataset, num: int) -> tuple[Request, Tensor]:
    """Chooses what pictures of a report ask for: of classes one each, of scenes half held-out ones.

    Args:
        dataset: The pictures.
        num: Number of prompts or classes at most.

    Returns:
        What is asked for, and a real picture of each, (num, C, S, S).
    """
    assert dataset.heldout is not None
    if dataset.things:
        halves: tuple[tuple[int, Combinations], ...]
        halves = ((num - num // 2, "seen"), (num // 2, "held-out"))
        scenes = [
            scene
            for count, which in halves
            for scene in draw_scenes(count, numpy_generator("shown", which), dataset.things, which)
        ]
        return Request.of_scenes(scenes), _rendered(scenes, dataset.shape[-1])
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
    """Draws what is asked for.

    Args:
        pipeline: The model; one without text and classes is asked for nothing but a number.
        asked: What it is asked for.
        steps: Steps of its sampler.
        guidance: Strength of guidance, where there is something to be guided by.
        generator: Source of the noise.
        each: Pictures of each prompt or class, which stand together.
        on_step: Called after each step, as diffusers' ``callback_on_step_end``.

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
    dataset: Dataset,
    features: PictureFeatures,
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
        features: What turns pictures into numbers.
        num: Pictures of each kind of request.
        steps: Steps of the sampler.
        guidance: Strength of guidance of the pictures that are read.
        study_seed: All draws derive from it.
        seed: So they do from the number of the trial.

    Returns:
        Scores by the keys of `PICTURE_SCORES`, with those of real pictures, which need no model,
        under the key and ``_real``.
    """
    names = study_seed, seed, dataset.name
    assert dataset.heldout is not None
    rows = dataset.heldout_rows(num, torch_generator("asked", *names))
    asked = Request.of(dataset, rows)

    def drawn(what: Request, scale: float, stream: str) -> Tensor:
        noise = torch_generator("samples", stream, *names)
        return draw_pictures(pipeline, what, steps, scale, noise)

    plain = drawn(asked, 1.0, "plain")
    fresh = dataset.fresh(num, torch_generator("fresh points", *names))
    found: dict[str, float | None] = {
        **sample_metrics(
            *(features(plain[: len(fresh)]), features(fresh)),
            numpy_generator("metrics", *names),
            PICTURE_METRICS,
        ),
        **_copies(dataset, plain, numpy_generator("copies", *names)),
    }
    real = dataset.heldout[rows]
    if dataset.things:
        kinds: tuple[tuple[str, Combinations], ...] = (("seen", "seen"), ("unseen", "held-out"))
        for which, combinations in kinds:
            generator = numpy_generator("asked", which, *names)
            scenes = draw_scenes(num, generator, dataset.things, combinations)
            what = Request.of_scenes(scenes)  # says all that was held out, or could have been
            samples = drawn(what, guidance, which)
            for end, judged in (("", samples), ("_real", _rendered(scenes, dataset.shape[-1]))):
                scores = _read(judged, what, dataset.things)
                found |= {f"{which}_{kind}{end}": value for kind, value in scores.items()}
        found["read_plain"] = _read(plain, asked, dataset.things)["all"]
        found["read_plain_real"] = _read(real, asked, dataset.things)["all"]
    elif (judge := _class_judge(dataset)) is not None and asked.labels is not None:
        guided = judge.score(drawn(asked, guidance, "guided"), asked.labels)
        found |= {"read": guided.right, "read_real": judge.accuracy}
        found |= {"spread": guided.spread, "spread_real": judge.score(real, asked.labels).spread}
        found["read_plain"] = judge.score(plain, asked.labels).right
        found["read_plain_real"] = judge.accuracy
    return found


def real_pictures(
    dataset: Dataset,
    features: PictureFeatures,
    num: int,
    num_pairs: int,
    study_seed: int,
    split: int = 0,
) -> dict[str, float]:
    """Scores real pictures against others, which is what a perfect model would have.

    Args:
        dataset: The pictures.
        features: What turns pictures into numbers.
        num: Pictures of a sample, at most half of those held out.
        num_pairs: Number of pairs of samples.
        study_seed: All draws derive from it.
        split: So they do from the number of the split.
    """
    names = study_seed, split, dataset.name
    draws, choices = torch_generator("real pairs", *names), numpy_generator("real pairs", *names)
    pairs = [dataset.fresh_pair(num, draws) for _ in range(num_pairs)]
    scores = real_against_real(
        lambda index: (features(pairs[index][0]), features(pairs[index][1])),
        num_pairs,
        choices,
        PICTURE_METRICS,
    )
    one, other = pairs[0]
    some = choices.choice(len(dataset.train), min(len(other), len(dataset.train)), replace=False)
    share, _ = closest_record(
        *(_flat(dataset, each) for each in (one, dataset.train[some], other[: len(some)]))
    )
    return {**scores, "closer": share.value}


def _copies(
    dataset: Dataset, samples: Tensor, generator: np.random.Generator
) -> dict[str, float | None]:
    assert dataset.heldout is not None
    parts = samples, dataset.train, dataset.heldout[: len(samples)]
    made, train, heldout = (_flat(dataset, part) for part in parts)
    found = copies(made, train, heldout, generator)
    return {
        "nearest": found.nearest,
        "nearest_real": found.nearest_real,
        "closer": found.closest.value,
    }


def _rendered(scenes: list[Scene], size: int) -> Tensor:
    """Scenes as samples (n, 3, S, S)."""
    return torch.from_numpy(render(scenes, size)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _flat(dataset: Dataset, samples: Tensor) -> np.ndarray:
    """Samples as they are shown, in 8 bits, as rows (n, C S S)."""
    assert isinstance(dataset.codec, PictureCodec)
    return dataset.codec.rounded(samples).flatten(1).double().numpy()


def _read(samples: Tensor, asked: Request, things: int) -> dict[str, float | None]:
    """Shares of scenes that are as asked, of kinds that prompts speak of."""
    assert asked.prompts is not None
    scores: SceneScores = score_scenes(samples, asked.prompts, things)
    shares = {kind: share for kind, share in asdict(scores).items() if kind in _KINDS}
    if things == 1:
        del shares["count"]  # a single thing is all that is looked for
    return shares


def _class_judge(dataset: Dataset) -> ClassJudge | None:
    """The judge of classes, where each has training pictures."""
    labels, heldout_labels = dataset.class_labels, dataset.heldout_class_labels
    if labels is None or heldout_labels is None or dataset.heldout is None:
        return None
    if len(labels.unique()) < max(2, len(dataset.classes)):
        return None
    return ClassJudge.fit(dataset.train, labels, dataset.heldout, heldout_labels)
