"""The view of pictures: what was asked for beside what was drawn, and how it came about."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from PIL import Image, ImageOps

from kan_diffusion.data.datasets import Dataset
from kan_diffusion.diffusion.sampling import recorded_states
from kan_diffusion.errors import listed
from kan_diffusion.pictures.codec import contact_sheet, decode
from kan_diffusion.pictures.pipeline import PictureDiffusionPipeline
from kan_diffusion.pictures.scores import EACH, shown
from kan_diffusion.pictures.sources import PictureDataset
from kan_diffusion.report.clouds import Motion, Panel
from kan_diffusion.report.figures import Json
from kan_diffusion.report.views import Mover, Reverse, View
from kan_diffusion.study.folder import TrialResult, load_points
from kan_diffusion.study.tasks import NOTHING_ASKED, Asked

_LARGEST_WEBP = 16_383
"""Largest side of a WebP in pixels; larger pictures are shrunk."""


@dataclass(frozen=True)
class PicturePanel(Panel):
    """A panel of a picture, such as the sheet of all that a model draws.

    Attributes:
        title: The title above it.
        frames: A picture for each frame, all of one size.
    """

    title: str
    frames: Sequence[Image.Image]

    @property
    def aspect(self) -> float:
        """Its height over its width."""
        return self.frames[0].height / self.frames[0].width

    def draw(self, axes: Axes) -> Callable[[int], None]:
        """Prepares axes; returns a function that shows a frame by its number."""
        axes.set_axis_off()
        axes.set_anchor("N")
        image = axes.imshow(np.asarray(self.frames[0].convert("RGB")), interpolation="nearest")
        return lambda frame: image.set_data(np.asarray(self.frames[frame].convert("RGB")))

    def content(self, largest: int) -> dict[str, Json]:
        """Gives a player's data: all frames in one picture, row by row, as square as possible."""
        width, height = self.frames[0].size
        across = min(math.ceil(math.sqrt(len(self.frames) * height / width)), len(self.frames))
        down = -(-len(self.frames) // across)
        share = min(_LARGEST_WEBP / max(width * across, height * down), 1.0)
        width, height = max(int(width * share), 1), max(int(height * share), 1)
        sheet = Image.new("RGB", (width * across, height * down))
        for number, frame in enumerate(self.frames):
            row, column = divmod(number, across)
            small = frame.convert("RGB").resize((width, height))  # the same where none is shrunk
            sheet.paste(small, (column * width, row * height))
        return {
            "kind": "pictures",
            "title": self.title,
            "width": width,
            "height": height,
            "across": across,
            "sheet": _address(sheet, largest),
        }

    def address(self, frame: int, largest: int) -> str:
        """Gives a frame as a ``data:`` address."""
        return _address(self.frames[frame].convert("RGB"), largest)


class PictureView(View):
    """The view of pictures."""

    most_moving = 144

    def panels(
        self,
        dataset: Dataset,
        trials: Mapping[str, TrialResult],
        colours: Mapping[str, str],
        most: int,
    ) -> tuple[list[Panel], str]:
        """Shows real pictures beside those that trials drew, see :meth:`.View.panels`."""
        assert isinstance(dataset, PictureDataset)
        num_drawn = max(trial.config.evaluation.num_drawn for trial in trials.values())
        prompts, real = shown(dataset, num_drawn)
        panels: list[Panel] = [PicturePanel("real", [contact_sheet([[p] for p in decode(real)])])]
        for name, trial in trials.items():
            points = load_points(trial.samples, len(prompts) * EACH, *dataset.shape)
            drawn = decode(torch.from_numpy(points))
            rows = [drawn[k : k + EACH] for k in range(0, len(drawn), EACH)]
            panels.append(PicturePanel(name, [contact_sheet(rows)]))
        asked = f"Row by row: {listed(prompts, len(prompts))}." if any(prompts) else ""
        return panels, asked

    def motion(
        self,
        states: Mapping[str, NDArray[np.floating]],
        colours: Mapping[str, str],
        labels: Sequence[str],
        asked: Asked = NOTHING_ASKED,
    ) -> Motion:
        """Makes a sheet of each model, with a row for each prompt or class."""
        panels = []
        for title, of_model in states.items():
            count, rows = of_model.shape[1], len(asked.requests)
            across = count // rows if rows > 1 else math.ceil(math.sqrt(count))
            frames = [decode(torch.from_numpy(each)) for each in of_model]
            sheets = [
                contact_sheet([frame[k : k + across] for k in range(0, count, across)])
                for frame in frames
            ]
            panels.append(PicturePanel(title, sheets))
        return Motion(labels, panels)

    def reverse(
        self, mover: Mover, asked: Asked, num: int, steps: int, generator: torch.Generator
    ) -> Reverse:
        """Draws equally many pictures of each prompt or class, see :meth:`.View.reverse`."""
        pipeline, prompts = mover.pipeline, asked.requests
        assert isinstance(pipeline, PictureDiffusionPipeline)
        usual = mover.guidance if prompts else None
        draw = partial(
            pipeline,
            prompts or None,
            num_images_per_prompt=num // max(len(prompts), 1),
            guidance_scale=usual if asked.guidance is None else asked.guidance,
            output_type="pt",
        )
        times, states = recorded_states(draw, pipeline, steps, generator)
        return times, states.numpy()


def _address(image: Image.Image, largest: int) -> str:
    """Writes a picture as an address that holds it, lossless if that is small, else lossy."""
    if max(image.size) > _LARGEST_WEBP:
        image = ImageOps.contain(image, (_LARGEST_WEBP, _LARGEST_WEBP))
    content = b""
    for quality in (None, 80, 50, 20):
        file = io.BytesIO()
        image.save(file, "WEBP", lossless=quality is None, quality=quality or 80, method=6)
        content = file.getvalue()
        if len(content) <= largest:
            break
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"
