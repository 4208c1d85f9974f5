"""The view of pictures: what was asked for beside what was drawn, and how it came about."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kan_diffusion.data.datasets import Dataset
from kan_diffusion.data.sources import Source
from kan_diffusion.diffusion.sampling import watched
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.pictures.pipeline import PictureDiffusionPipeline
from kan_diffusion.pictures.scores import EACH, shown
from kan_diffusion.pictures.sources import PictureDataset
from kan_diffusion.randomness import torch_generator
from kan_diffusion.report.contents import ReportContents
from kan_diffusion.report.images import contact_sheet
from kan_diffusion.report.motion import Motion, PicturePanel
from kan_diffusion.report.views import (
    Mover,
    View,
    same_noise,
    sampler_of,
    states_of,
    steps_of_all,
    titles_of,
)
from kan_diffusion.study.config import StudyConfig
from kan_diffusion.study.folder import SAMPLES, TrialResult, load_points
from kan_diffusion.study.tasks import NOTHING_ASKED, Asked

__all__ = ["PictureView"]

_MOST_MOVING = 144
_ALONE, _SEVERAL = 16, 6
"""Pictures that move of one prompt or class, and of each of several."""


class PictureView(View):
    """The view of pictures."""

    def gather_data(
        self, contents: ReportContents, source: Source, dataset: Dataset, config: StudyConfig
    ) -> None:
        """Adds what a report asks for, and real pictures of it."""
        assert isinstance(dataset, PictureDataset)
        asked, real = shown(dataset, config.evaluation.num_drawn)
        contents.asked[source.name] = list(asked)
        contents.real[source.name] = real[:, None].numpy()

    def gather_trial(
        self, contents: ReportContents, trial: TrialResult, label: str, dataset: Dataset
    ) -> None:
        """Adds the pictures that a trial drew, and their reverse processes."""
        key = label, str(trial.row["name"])
        num = len(contents.real[trial.config.data.name])
        if trial.row.get("sample_seconds") is not None:
            pictures = load_points(trial.folder / SAMPLES, num * EACH, *dataset.shape)
            contents.drawn[key] = pictures.reshape(num, EACH, *dataset.shape)
        if states := states_of(trial, num, dataset):
            contents.states[key] = [(moment, each.swapaxes(0, 1)) for moment, each in states]

    def animate(
        self,
        movers: Sequence[Mover],
        asked: Asked = NOTHING_ASKED,
        *,
        num: int | None = None,
        steps: int | None = None,
        scheduler: str | None = None,
        seed: int = 0,
    ) -> Motion:
        """Draws the reverse processes of pictures, a sheet for each model, from the same noise.

        Arguments and errors are those of :meth:`.View.animate`; a row of a sheet is a prompt or
        class, and ``num`` is the number of pictures of each.
        """
        same_noise(movers)
        prompts = [*asked.prompts, *asked.classes]
        rows = max(len(prompts), 1)
        num = num or (_ALONE if rows == 1 else _SEVERAL)
        if rows * num > _MOST_MOVING:
            raise KanDiffusionError(
                f"motion shows at most {_MOST_MOVING} pictures, not {rows * num}; take fewer"
            )
        across = math.ceil(math.sqrt(num)) if rows == 1 else num
        times, sheets = [], []
        for mover in movers:
            pipeline, its_steps = sampler_of(mover, scheduler, steps)
            assert isinstance(pipeline, PictureDiffusionPipeline)
            usual = mover.guidance if prompts else None
            with watched(pipeline) as kept:
                last = pipeline(
                    prompts or None,
                    its_steps,
                    num_images_per_prompt=num,
                    guidance_scale=usual if asked.guidance is None else asked.guidance,
                    generator=torch_generator("samples", seed),
                    batch_size=rows * num,
                ).images
            frames = [*map(pipeline.codec.decode, kept.values()), last]
            times.append((*kept, 0.0))
            sheets.append([
                contact_sheet([frame[k : k + across] for k in range(0, len(frame), across)])
                for frame in frames
            ])  # fmt: skip
        labels, picks = steps_of_all(times)
        panels = [
            PicturePanel(title, [frames[number] for number in pick])
            for title, frames, pick in zip(titles_of(movers), sheets, picks, strict=True)
        ]
        return Motion(labels, tuple(panels))
