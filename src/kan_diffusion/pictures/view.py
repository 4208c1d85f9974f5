"""The view of pictures: what was asked for beside what was drawn, and how it came about."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from kan_diffusion.data.datasets import Dataset
from kan_diffusion.data.sources import Source
from kan_diffusion.pictures.codec import decode
from kan_diffusion.pictures.pipeline import PictureDiffusionPipeline
from kan_diffusion.pictures.scores import EACH, shown
from kan_diffusion.pictures.sources import PictureDataset
from kan_diffusion.report.contents import ReportContents
from kan_diffusion.report.images import contact_sheet
from kan_diffusion.report.motion import Motion, PicturePanel
from kan_diffusion.report.views import Mover, Reverse, View, states_of, titles_of, watched
from kan_diffusion.study.config import StudyConfig
from kan_diffusion.study.folder import TrialResult, load_points
from kan_diffusion.study.tasks import Asked

__all__ = ["PictureView"]


class PictureView(View):
    """The view of pictures."""

    most_moving = 144

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
            pictures = load_points(trial.samples, num * EACH, *dataset.shape)
            contents.drawn[key] = pictures.reshape(num, EACH, *dataset.shape)
        # As many as when it was trained: a later judgement may show others.
        states = states_of(trial, dataset)
        if states and all(each.shape[1] == num for _, each in states):
            contents.states[key] = [(moment, each.swapaxes(0, 1)) for moment, each in states]

    def reverse(
        self, mover: Mover, asked: Asked, num: int, steps: int, generator: torch.Generator
    ) -> Reverse:
        """Draws equally many pictures of each prompt or class, see :meth:`.View.reverse`."""
        pipeline, prompts = mover.pipeline, asked.requests
        assert isinstance(pipeline, PictureDiffusionPipeline)
        usual = mover.guidance if prompts else None
        with watched(pipeline) as kept:
            last = pipeline(
                prompts or None,
                steps,
                num_images_per_prompt=num // max(len(prompts), 1),
                guidance_scale=usual if asked.guidance is None else asked.guidance,
                generator=generator,
                batch_size=num,
                output_type="pt",
            ).images
        return Reverse((*kept, 0.0), torch.stack([*kept.values(), last.cpu()]).numpy())

    def motion(
        self,
        movers: Sequence[Mover],
        states: Sequence[NDArray[np.floating]],
        labels: tuple[str, ...],
        asked: Asked,
    ) -> Motion:
        """Makes a sheet of each model, with a row for each prompt or class."""
        count, rows = len(states[0][0]), len(asked.requests)
        across = count // rows if rows > 1 else math.ceil(math.sqrt(count))
        panels = []
        for title, of_model in zip(titles_of(movers), states, strict=True):
            frames = [decode(torch.from_numpy(each)) for each in of_model]
            sheets = [
                contact_sheet([frame[k : k + across] for k in range(0, count, across)])
                for frame in frames
            ]
            panels.append(PicturePanel(title, sheets))
        return Motion(labels, tuple(panels))
