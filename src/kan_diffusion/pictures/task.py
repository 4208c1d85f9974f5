r"""The task of pictures: models that draw what a prompt asks for.

With N pictures, training sees :math:`64000 \sqrt{N / 20000}` in all, at least 25,000, in batches of
64. This is about what was found for 1,617 digits and for 20,000 scenes, between which the rule
interpolates (docs/search.md). Patches are such that a side has at most 8 tokens. A U-Net halves a
side until it has at most 8 pixels, at least once. Pictures of at most 16 tokens get 250,000
parameters; others get 320,000, and 110,000 more for each halving after the first, about as many as
its convolutions have.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.diffusion.sampling import PointDiffusionPipeline, make_scheduler
from kan_diffusion.errors import KanDiffusionError, require_known
from kan_diffusion.files import whole_file
from kan_diffusion.pictures.codec import contact_sheet
from kan_diffusion.pictures.denoisers import PICTURE_FAMILIES, PictureDenoiser
from kan_diffusion.pictures.pipeline import PictureDiffusionPipeline
from kan_diffusion.pictures.prompts import Vocabulary
from kan_diffusion.pictures.scores import PICTURE_MEASURES, score_pictures, shown
from kan_diffusion.pictures.sources import PictureDataset
from kan_diffusion.processes import Process
from kan_diffusion.randomness import torch_generator
from kan_diffusion.study.config import EvaluationConfig, SamplingConfig, TrialConfig
from kan_diffusion.study.folder import Row
from kan_diffusion.study.tasks import Asked, Defaults, Drawn, Reference, Task
from kan_diffusion.training.config import TrainingConfig

logger = logging.getLogger(__name__)

_SEEDS, _FEWEST_SEEDS = {"digits": 5}, 3

_MOST_TOKENS, _FEW_TOKENS = 8, 16
"""Most tokens of a picture's side, and most tokens of a cheap picture."""
_CHANNELS = 16
"""Channels of a U-Net at full resolution; it has twice as many at lower ones."""
_BATCH_SIZE = 64
_SEEN, _SCENES, _FEWEST_SEEN = 64_000, 20_000, 25_000
"""Pictures that training sees if the data have ``_SCENES`` pictures, and the fewest it sees."""
_CLASS_GUIDANCE, _PROMPT_GUIDANCE = 2.0, 4.0
"""Classes need less guidance than prompts that compose."""
_LONGEST_NAME, _MOST_ACROSS = 60, 16
"""Letters of a file's name, and pictures in a row of a contact sheet."""


class PictureTask(Task[PictureDataset, PictureDiffusionPipeline]):
    """The task of pictures."""

    noun = "pictures"
    takes = ("prompts", "classes", "guidance")
    file = "pictures"
    num = 16
    pipeline_class = PictureDiffusionPipeline
    families = PICTURE_FAMILIES
    family = "unet-kan"
    process = "flow"
    measures = PICTURE_MEASURES

    def suggest(
        self,
        dataset: PictureDataset,
        process: Process,
        family: str | None = None,
        params: int | None = None,
    ) -> Defaults:
        """Suggests how to train a model of pictures, or to compare several."""
        side, halvings = dataset.shape[-1], 0
        divisors = [each for each in range(2, side // 2 + 1) if side % each == 0]
        patch = next((each for each in divisors if side // each <= _MOST_TOKENS), 1)
        cheap = (side // patch) ** 2 <= _FEW_TOKENS
        while side % 2 ** (halvings + 1) == 0 and (not halvings or side >> halvings > _MOST_TOKENS):
            halvings += 1
        seen = max(_FEWEST_SEEN, _SEEN * (len(dataset.train) / _SCENES) ** 0.5)
        return Defaults(
            TrainingConfig(
                steps=int(round(seen / _BATCH_SIZE, -2)),
                batch_size=_BATCH_SIZE,
                timesteps="logit-normal",
                optimizer="muon",
                learning_rate=1e-2,
                warmup_steps=50,
                ema_decay=0.998,
            ),
            families=tuple(PICTURE_FAMILIES),
            seeds=_SEEDS.get(dataset.name, _FEWEST_SEEDS),
            params=params or (250_000 if cheap else 320_000 + 110_000 * max(halvings - 1, 0)),
            at_most=False,
            settings={"patch": patch, "channels": (_CHANNELS, *[2 * _CHANNELS] * halvings)},
            sampling=SamplingConfig(
                # For one model a sampler that evaluates the network once per step.
                scheduler="flow-euler" if family and process.is_flow else None,
                guidance=_CLASS_GUIDANCE if dataset.classes else _PROMPT_GUIDANCE,
            ),
            # Smaller numbers than for points, since pictures take longer.
            evaluation=EvaluationConfig(
                num_noised=2_000, num_samples=500, num_likelihood=0, num_drawn=10, moments=(1.0,)
            ),
        )

    def build(
        self, config: TrialConfig, dataset: PictureDataset, *, at_most: bool = False
    ) -> Denoiser:
        """Builds a trial's untrained denoiser, for captioned pictures with its text encoder."""
        known = Vocabulary.of(dataset.labels["caption"], dataset.heldout_labels["caption"])
        settings = {**config.model.settings, "words": known.words, "prompt_length": known.length}
        model = config.model.model_copy(update={"settings": settings})
        network = super().build(
            config.model_copy(update={"model": model}), dataset, at_most=at_most
        )
        assert isinstance(network, PictureDenoiser)
        # The same for all models of a seed.
        network.reset_text_encoder(torch_generator("text", config.study_seed, config.seed))
        return network

    def conditions(
        self, denoiser: Denoiser, dataset: PictureDataset, rows: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Returns the tokens of captions, see :meth:`.Task.conditions`."""
        assert isinstance(denoiser, PictureDenoiser)
        labels = dataset.labels if rows is None else dataset.heldout_labels.iloc[rows.numpy()]
        return {"input_ids": denoiser.vocabulary.tokens(labels["caption"])}

    def pipeline(
        self, config: TrialConfig, dataset: PictureDataset, denoiser: Denoiser
    ) -> PictureDiffusionPipeline:
        """Makes the pipeline of a trained denoiser."""
        assert isinstance(denoiser, PictureDenoiser)
        scheduler = make_scheduler(config.sampling.scheduler, config.process)
        return PictureDiffusionPipeline(denoiser, config.process, scheduler, dataset.classes)

    def points(self, pipeline: PictureDiffusionPipeline) -> PointDiffusionPipeline:
        """Refuses: pictures are no points, see :meth:`.Task.points`."""
        raise KanDiffusionError(
            "this is a model of pictures, and only models of points and tables can be explained, "
            "drawn from as points or judged with other data; judge it with its own pictures"
        )

    def _score(
        self,
        config: TrialConfig,
        dataset: PictureDataset,
        pipeline: PictureDiffusionPipeline,
        shared: Reference,
    ) -> tuple[Row, Tensor | None]:
        if not config.judging.num_samples:
            return {}, None
        return score_pictures(config, dataset, pipeline)

    def to_show(
        self, pipeline: PictureDiffusionPipeline, dataset: PictureDataset, config: TrialConfig
    ) -> Callable[..., object]:
        """Prepares to draw the pictures that a report asks for, see :meth:`.Task.to_show`."""
        prompts, _ = shown(dataset, config.evaluation.num_drawn)
        guidance = config.sampling.guidance
        return partial(pipeline, prompts, guidance_scale=guidance, output_type="pt")

    def draw(
        self,
        pipeline: PictureDiffusionPipeline,
        asked: Asked,
        num: int | None,
        steps: int,
        generator: torch.Generator,
    ) -> Drawn:
        """Draws pictures by prompt or class; warns of words of prompts that were never seen."""
        num = num or self.num
        prompts, vocabulary = asked.requests, pipeline.denoiser.vocabulary
        for name in asked.classes:
            require_known("class", name, pipeline.config.classes)
        for sentence in vocabulary.unknown(prompts):
            logger.warning(sentence)
        pictures = pipeline(
            prompts or None,
            steps,
            num_images_per_prompt=num,
            guidance_scale=asked.guidance,
            generator=generator,
        ).images
        asked_for = prompts or [""]
        return Drawn(
            f"{len(pictures):,} pictures", lambda folder: _write(folder, asked_for, pictures)
        )


def _write(folder: Path, prompts: Sequence[str], pictures: Sequence[Image.Image]) -> None:
    """Writes pictures as PNG files named after what was asked for, and a contact sheet of all."""
    folder.mkdir(parents=True, exist_ok=True)
    num, several = len(pictures) // len(prompts), len(prompts) > 1
    # One prompt alone is as square as possible.
    across = _MOST_ACROSS if several else math.ceil(math.sqrt(num))
    files, rows = dict[str, Image.Image](), list[Sequence[Image.Image]]()
    for index, prompt in enumerate(prompts):
        slug = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:_LONGEST_NAME] or "picture"
        stem = f"{index + 1:02}-{slug}" if several else slug
        drawn = pictures[index * num : (index + 1) * num]
        files |= {f"{stem}-{n:0{len(str(num))}}.png": each for n, each in enumerate(drawn, start=1)}
        rows += [drawn[k : k + across] for k in range(0, num, across)]
    for name, picture in {**files, "sheet.png": contact_sheet(rows)}.items():
        with whole_file(folder / name) as temporary:
            picture.save(temporary, "PNG")
