r"""Motion: reverse processes and training, as a GIF, a film or a player on a page.

A sampler goes through states :math:`x_{t_0}, x_{t_1}, \ldots, x_{t_N}` with :math:`t_0 = T` and
:math:`t_N = 0`: the first is noise, the last are the samples, and each is a frame. Models are drawn
side by side from the same noise; with the same sampler and steps their frames have the same times.
Where the density is known, the exact denoiser's process stands beside them.

The exact solution of the probability-flow ODE moves each point along a path. In diffusion, whose
signal and noise levels lie on a circle, these paths are curved; in flow matching, which joins data
and noise by straight lines, they are nearly straight.
"""

from __future__ import annotations

import base64
import io
import math
import textwrap
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.animation import FFMpegWriter
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from kan_diffusion.data.datasets import ToyData
from kan_diffusion.diffusion.sampling import (
    PointDiffusionPipeline,
    even_sampler,
    make_scheduler,
    watched,
)
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.evaluation.oracles import OracleDenoiser
from kan_diffusion.files import whole_file, write_bytes
from kan_diffusion.pictures.pipeline import PictureDiffusionPipeline
from kan_diffusion.processes import Process
from kan_diffusion.randomness import torch_generator
from kan_diffusion.report.html import Json, Page, Section
from kan_diffusion.report.images import LARGEST_WEBP, contact_sheet, embedded, image_address
from kan_diffusion.report.points import PointView, bins, framed, panel_figure, spread
from kan_diffusion.report.style import GRID, INK, MUTED, model_styles, report_style, shortened
from kan_diffusion.study.measure import load_run
from kan_diffusion.tables.pipeline import TableDiffusionPipeline

__all__ = [
    "ENDINGS", "EXACT", "LARGEST_GIF", "MOST_FRAMES", "MOST_MOVING", "Motion", "Mover", "Panel",
    "PicturePanel", "PointPanel", "Reverse", "add_player", "mover_of_run",
    "picture_motion", "require_ending", "reverse_motion", "reverse_process", "still_figure",
    "write_motion",
]  # fmt: skip

ENDINGS = (".gif", ".mp4", ".html")
"""Endings of the files that motion is written to."""
LARGEST_GIF = 3_000_000
"""Largest size of a GIF in bytes."""
MOST_FRAMES = 61
"""Largest number of frames; from longer processes as many are picked, evenly spaced."""

MOST_MOVING = 5_000
"""Largest number of points in a panel."""
EXACT = "exact denoiser"
"""Title of the panel of the exact denoiser, the best that there is."""

_LARGEST_PLAYER = 600_000
_TRAILS = 40
_MOST_PICTURES = 144
_SECONDS = 4.0
"""Usual playing time of all frames, without the pauses at both ends."""
_SLOWEST, _FASTEST = 2, 15  # frames a second
_PAUSES = 700, 1800
"""Milliseconds for which the first and the last frame stay."""
_STILLS = 6
_LETTERS = 31  # of a title, on one line
_DPI = 100
_SHRUNK = tuple((scale, colours) for scale in (1.0, 0.8, 0.64, 0.5) for colours in (64, 24))
"""Scales and numbers of colours that are tried until a GIF is small enough."""
_ABSENT = 65_535
"""Code for a coordinate that is not finite, in a player's data."""


class Panel(ABC):
    """One panel of a motion.

    Attributes:
        title: The title above it.
        frames: Its F frames.
    """

    title: str
    frames: Sequence[Image.Image] | NDArray[np.float64]

    @property
    def aspect(self) -> float:
        """Its height over its width."""
        return 1.0

    @abstractmethod
    def put(self, axes: Axes) -> Callable[[int], None]:
        """Draws the panel into axes; returns a function that shows a frame by its number."""

    @abstractmethod
    def content(self, largest: int) -> dict[str, Json]:
        """Gives the player's data, in about ``largest`` bytes at most."""


@dataclass(frozen=True)
class PointPanel(Panel):
    """A panel of points that move, or of a curve that changes.

    Attributes:
        title: The title above it.
        colour: The colour of its points.
        frames: Positions in each frame, with shape (F, n, 1) or (F, n, 2); in one dimension a frame
            is a histogram. NaN stands for a missing point.
        limits: Limits of the axes, with shape (1 or 2, 2).
        joined: Whether the points of a frame are joined to a curve.
        trails: Number of points whose paths are drawn.
    """

    title: str
    colour: str
    frames: NDArray[np.float64]
    limits: NDArray[np.float64]
    joined: bool = False
    trails: int = 0

    @classmethod
    def of(
        cls,
        title: str,
        colour: str,
        frames: Sequence[NDArray[np.floating]],
        view: PointView,
        limits: NDArray[np.float64],
        trails: int = 0,
    ) -> PointPanel:
        """Makes a panel of the points (n, d) of each frame, projected by a view."""
        seen = (np.stack(frames).astype(np.float64) - view.centre) @ view.axes
        return cls(title, colour, seen, limits, trails=trails)

    def put(self, axes: Axes) -> Callable[[int], None]:
        """Draws the panel into axes; returns a function that shows a frame by its number."""
        axes.set(xlim=self.limits[0], box_aspect=1)
        axes.grid(False)
        framed(axes)
        if len(self.limits) == 1:
            edges = bins(self.limits[0])

            def heights(frame: int) -> NDArray[np.float64]:
                return np.histogram(self.frames[frame, :, 0], edges)[0] / self.frames.shape[1]

            axes.set_ylim(0.0, 1.15 * max(heights(0).max(), heights(-1).max(), 1e-9))
            bars = axes.stairs(heights(0), edges, fill=True, color=self.colour)
            return lambda frame: bars.set_data(heights(frame))
        axes.set_ylim(*self.limits[1])
        if self.joined:
            (line,) = axes.plot([], [], color=self.colour, linewidth=2.0)
            return lambda frame: line.set_data(*self.frames[frame].T)
        area = float(np.clip(4_000 / max(self.frames.shape[1], 1), 3.0, 9.0))
        trails = LineCollection([], colors=self.colour, alpha=0.55, linewidths=0.8)
        axes.add_collection(trails, autolim=False)
        marks = axes.scatter(
            [], [], s=area, color=self.colour, alpha=0.3 if self.trails else 0.6, linewidths=0
        )
        ends = axes.scatter([], [], s=10, color=self.colour, linewidths=0)

        def show(frame: int) -> None:
            marks.set_offsets(self.frames[frame])
            if self.trails:
                paths = self.frames[: frame + 1, : self.trails].swapaxes(0, 1)
                trails.set_segments(list(paths))
                ends.set_offsets(paths[:, -1])

        return show

    def content(self, largest: int) -> dict[str, Json]:
        """Gives the player's data: 16 bits per coordinate, of fewer points if they are too many."""
        count = max(largest // (len(self.frames) * len(self.limits) * 3), 1)
        few = self.frames if self.joined else self.frames[:, :count]
        low, high = self.limits.T
        # Half an axis beyond either end is kept, for points that come from there.
        scaled = np.clip((few - low) / (high - low) / 2 + 0.25, 0.0, 1.0) * (_ABSENT - 1)
        numbers = np.where(np.isfinite(few), np.rint(scaled), _ABSENT).astype("<u2")
        return {
            "kind": "curve" if self.joined else "points" if len(self.limits) > 1 else "bars",
            "title": self.title,
            "colour": self.colour,
            "count": few.shape[1],
            "trails": self.trails,
            "places": base64.b64encode(numbers.tobytes()).decode(),
        }


@dataclass(frozen=True)
class PicturePanel(Panel):
    """A panel of a picture that changes, such as the sheet of all that a model draws.

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

    def put(self, axes: Axes) -> Callable[[int], None]:
        """Draws the panel into axes; returns a function that shows a frame by its number."""
        axes.set_axis_off()
        axes.set_anchor("N")
        shown = axes.imshow(np.asarray(self.frames[0].convert("RGB")), interpolation="nearest")
        return lambda frame: shown.set_data(np.asarray(self.frames[frame].convert("RGB")))

    def content(self, largest: int) -> dict[str, Json]:
        """Gives the player's data: all frames in one picture, row by row, as square as possible."""
        width, height = self.frames[0].size
        across = min(math.ceil(math.sqrt(len(self.frames) * height / width)), len(self.frames))
        down = -(-len(self.frames) // across)
        share = min(LARGEST_WEBP / max(width * across, height * down), 1.0)
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
            "sheet": image_address(sheet, largest),
        }


@dataclass(frozen=True)
class Motion:
    """Panels that move in step.

    Attributes:
        labels: The name of each frame, such as its time.
        panels: The panels, each with a frame for every label.
        axes: Names of the axes of the panels of points; empty if they have none.

    Raises:
        KanDiffusionError: There are fewer than two frames, or a panel has another number of them.
    """

    labels: tuple[str, ...]
    panels: tuple[Panel, ...]
    axes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or not self.panels:
            raise KanDiffusionError(
                f"motion needs two frames or more, not {len(self.labels)}; take more --steps"
            )
        for panel in self.panels:
            if len(panel.frames) != len(self.labels):
                raise KanDiffusionError(
                    f"'{panel.title}' has {len(panel.frames)} frames and there are "
                    f"{len(self.labels)} times; give one for each"
                )

    @property
    def pace(self) -> float:
        """Frames per second."""
        return float(np.clip((len(self.labels) - 1) / _SECONDS, _SLOWEST, _FASTEST))

    def content(self, largest: int = _LARGEST_PLAYER) -> dict[str, Json]:
        """Gives the player's data, in about ``largest`` bytes at most."""
        share = largest // len(self.panels)
        return {
            "labels": list(self.labels),
            "pace": self.pace,
            "panels": [panel.content(share) for panel in self.panels],
        }


@dataclass(frozen=True)
class Mover:
    """A model whose reverse process is drawn.

    Attributes:
        name: Its name above the panel.
        family: Its family, which gives the colour.
        pipeline: Its denoiser with its sampler.
        process: Its noising process.
        data: The toy it was trained on, whose exact denoiser is known; None for other data.
        guidance: Strength of guidance for pictures; the pipeline's default when None.
        source: Where it comes from, to tell models of the same name apart.
    """

    name: str
    family: str
    pipeline: PointDiffusionPipeline | PictureDiffusionPipeline
    process: Process
    data: ToyData | None = None
    guidance: float | None = None
    source: str = ""


@dataclass(frozen=True)
class Reverse:
    """A reverse process, in the data's own units.

    Attributes:
        times: Time of each state as a fraction of T, with shape (F,), from 1 for noise to 0.
        states: Points at these times, with shape (F, n, d), float64; the last are the samples that
            the pipeline returns, bit for bit.
        columns: Names of the d coordinates.
    """

    times: tuple[float, ...]
    states: NDArray[np.float64]
    columns: tuple[str, ...]


def mover_of_run(run: Path, *, verify: bool = True) -> Mover:
    """Reads a finished run, to be drawn.

    Args:
        run: The run's folder.
        verify: Whether to refuse files that have changed since they were written.

    Raises:
        RunFolderError: There is no such run.
    """
    config, pipeline = load_run(run, verify=verify)
    data = config.data if isinstance(config.data, ToyData) else None
    made = config.model
    usual = config.sampling.guidance
    return Mover(made.name, made.family, pipeline, config.process, data, usual, str(run))


def reverse_process(
    pipeline: PointDiffusionPipeline,
    num: int,
    steps: int,
    generator: torch.Generator,
) -> Reverse:
    """Draws points or rows and keeps all states of the reverse process.

    Args:
        pipeline: The denoiser with its sampler. For a table, the first two columns of numbers are
            kept.
        num: Number of points or rows.
        steps: Steps of the sampler.
        generator: Source of the noise; keeping the states does not change the samples.

    Raises:
        KanDiffusionError: A number is out of range, or a table has fewer than two columns of
            numbers.
        NonFiniteSamplesError: The samples became infinite or NaN.
    """
    if not isinstance(pipeline, TableDiffusionPipeline):
        with watched(pipeline) as kept:
            last = pipeline(num, steps, generator=generator).samples.cpu().double()
        before = (pipeline.standardizer.invert(state.double()) for state in kept.values())
        states = torch.stack([*before, last]).numpy()
        return Reverse((*kept, 0.0), states, pipeline.columns)
    named = {column.name: str(column.name) for column in pipeline.codec.columns
             if column.kind == "number"}  # fmt: skip
    if len(named) < 2:
        raise KanDiffusionError(
            f"motion needs two columns of numbers and the table has {len(named)}; draw "
            "its rows without it"
        )
    shown = list(named)[:2]
    with watched(pipeline) as kept:
        frame = pipeline.draw(num, steps=steps, generator=generator)
    frames = [*(pipeline.codec.decode(state) for state in kept.values()), frame]
    rows = [each[shown].to_numpy(np.float64, na_value=np.nan) for each in frames]
    return Reverse((*kept, 0.0), np.stack(rows), tuple(named[name] for name in shown))


def reverse_motion(
    movers: Sequence[Mover],
    *,
    num: int = 1000,
    steps: int | None = None,
    scheduler: str | None = None,
    seed: int = 0,
    trails: int | None = None,
) -> Motion:
    """Draws the reverse processes of models side by side, from the same noise.

    Models of different processes have different times; their frames are then numbered by steps.

    Args:
        movers: The models, of data with the same number of coordinates. Where a density is known,
            the process of its exact denoiser comes last.
        num: Number of points of each model.
        steps: Steps of the samplers; when None one for each frame, or all timesteps of ``"ddpm"``.
        scheduler: Name of the sampler; when None DDIM, or Euler's method for flow matching, whose
            steps are even in time.
        seed: Seed of the noise, as in the command ``sample``.
        trails: Number of points whose paths are drawn; when None 40 if processes differ, else 0.

    Raises:
        KanDiffusionError: Models have different dimensions, or :func:`reverse_process` fails.
        NonFiniteSamplesError: Samples became infinite or NaN.
    """
    if num > MOST_MOVING:
        raise KanDiffusionError(
            f"motion shows at most {MOST_MOVING:,} points, not {num:,}; take fewer"
        )
    _require_one_shape(movers)
    processes = {mover.process.name for mover in movers}
    if trails is None:
        trails = _TRAILS if len(processes) > 1 else 0
    exact = {(mover.process, mover.data): mover for mover in movers if mover.data is not None}
    drawn = [*movers, *map(_exact, exact.values())]
    reverses = []
    for mover in drawn:
        pipeline, its_steps = _sampler(mover, scheduler, steps)
        if not isinstance(pipeline, PointDiffusionPipeline):
            raise KanDiffusionError(f"'{mover.name}' draws pictures and no points")
        generator = torch_generator("samples", seed)
        reverses.append(reverse_process(pipeline, num, its_steps, generator))
    labels, picks = _steps_of_all([reverse.times for reverse in reverses])
    views = [
        _view([other for other in zip(drawn, reverses, strict=True) if _alike(mover, other[0])])
        for mover in drawn
    ]
    panels = [
        PointPanel.of(title, colour, list(reverse.states[pick]), *view, trails)
        for title, colour, reverse, pick, view in zip(
            _titles(drawn), _colours(drawn), reverses, picks, views, strict=True
        )
    ]
    axes = views[0][0].labels if all(_alike(mover, drawn[0]) for mover in drawn) else ()
    return Motion(labels, tuple(panels), axes)


def picture_motion(
    movers: Sequence[Mover],
    *,
    prompts: Sequence[str] = (),
    classes: Sequence[str | int] = (),
    num: int | None = None,
    guidance: float | None = None,
    steps: int | None = None,
    scheduler: str | None = None,
    seed: int = 0,
) -> Motion:
    """Draws the reverse processes of pictures, a sheet for each model, from the same noise.

    Args:
        movers: The models, of pictures of one size.
        prompts: Prompts, a row each.
        classes: Classes, a row each, for models that know classes.
        num: Number of pictures of each prompt or class; when None 16 of one, 6 of several.
        guidance: Strength of guidance; the usual one of each model when None.
        steps: As in :func:`reverse_motion`.
        scheduler: As in :func:`reverse_motion`.
        seed: Seed of the noise, as in the command ``sample``.

    Raises:
        KanDiffusionError: Models draw points or pictures of several sizes, or refuse the request.
        NonFiniteSamplesError: Samples became infinite or NaN.
    """
    _require_one_shape(movers)
    rows = max(len(prompts) + len(classes), 1)
    num = num or (16 if rows == 1 else 6)
    if rows * num > _MOST_PICTURES:
        raise KanDiffusionError(
            f"motion shows at most {_MOST_PICTURES} pictures, not {rows * num}; take fewer"
        )
    across = math.ceil(math.sqrt(num)) if rows == 1 else num
    times, sheets = [], []
    for mover in movers:
        pipeline, its_steps = _sampler(mover, scheduler, steps)
        if not isinstance(pipeline, PictureDiffusionPipeline):
            raise KanDiffusionError(f"'{mover.name}' draws points and no pictures")
        usual = mover.guidance if prompts or classes else None
        with watched(pipeline) as kept:
            last = pipeline(
                list(prompts) or None,
                its_steps,
                class_labels=list(classes) or None,
                num_images_per_prompt=num,
                guidance_scale=usual if guidance is None else guidance,
                generator=torch_generator("samples", seed),
                batch_size=rows * num,
            ).images
        assert isinstance(last, list)
        frames = [*map(pipeline.codec.decode, kept.values()), last]
        times.append((*kept, 0.0))
        sheets.append([
            contact_sheet([frame[k : k + across] for k in range(0, len(frame), across)])
            for frame in frames
        ])  # fmt: skip
    labels, picks = _steps_of_all(times)
    return Motion(
        labels,
        tuple(
            PicturePanel(title, [frames[number] for number in pick])
            for title, frames, pick in zip(_titles(movers), sheets, picks, strict=True)
        ),
    )


def _require_one_shape(movers: Sequence[Mover]) -> None:
    shapes = {mover.pipeline.denoiser.sample_shape for mover in movers}
    if len(shapes) > 1:
        words = sorted(" x ".join(map(str, shape)) for shape in shapes)
        raise KanDiffusionError(
            f"models of {' and '.join(words)} numbers a sample cannot start from the same noise; "
            "draw them by themselves"
        )


def _sampler(
    mover: Mover, name: str | None, steps: int | None
) -> tuple[PointDiffusionPipeline | PictureDiffusionPipeline, int]:
    """Makes a pipeline of the same model with the sampler asked for; gives its steps too."""
    scheduler = make_scheduler(name or even_sampler(mover.process), mover.process)
    pipeline = type(mover.pipeline).from_pipe(mover.pipeline, scheduler=scheduler)
    usual = mover.process.num_timesteps if name == "ddpm" else MOST_FRAMES - 1
    return pipeline, steps or usual


def _steps_of_all(
    times: Sequence[Sequence[float]],
) -> tuple[tuple[str, ...], list[list[int]]]:
    """Labels the frames, and picks the states of each process that they show."""
    count = min(MOST_FRAMES, *map(len, times))
    picks = [spread(len(each), count) for each in times]
    seen = [np.array(each)[pick] for each, pick in zip(times, picks, strict=True)]
    if all(np.allclose(each, seen[0]) for each in seen):
        return tuple(f"t = {time:.2f} T" for time in seen[0]), picks
    return tuple(f"step {number} of {count - 1}" for number in range(count)), picks


def _exact(mover: Mover) -> Mover:
    """Makes the exact denoiser of a model's toy, with the same process and sampler."""
    assert mover.data is not None
    pipeline = mover.pipeline
    assert isinstance(pipeline, PointDiffusionPipeline)
    density = pipeline.standardizer.rescale(mover.data.density())
    oracle = OracleDenoiser(density, mover.process)
    made = type(pipeline).from_pipe(pipeline, denoiser=oracle)
    return replace(mover, name=EXACT, pipeline=made, source="")


def _alike(one: Mover, other: Mover) -> bool:
    """Whether two models draw points in the same units."""
    units = [(m.data, getattr(m.pipeline, "columns", ())) for m in (one, other)]
    return units[0] == units[1]


def _view(group: Sequence[tuple[Mover, Reverse]]) -> tuple[PointView, NDArray[np.float64]]:
    """Chooses view and axis limits for models that draw points in the same units."""
    # A model that diverges must not shrink the others.
    lasts = [reverse.states[-1] for mover, reverse in group if mover.name == EXACT]
    lasts = lasts or [reverse.states[-1] for _, reverse in group]
    view = PointView.of(lasts[0], group[0][1].columns)
    return view, view.limits([group[0][1].states[0], *lasts])


def _titles(movers: Sequence[Mover]) -> list[str]:
    """Names the models, with process, data set or source where that tells them apart."""
    processes = {mover.process.name for mover in movers}
    sets = {mover.data for mover in movers}
    titles = [
        mover.name
        + (f", {mover.process.name}" if len(processes) > 1 else "")
        + (f", {mover.data.name}" if len(sets) > 1 and mover.data is not None else "")
        for mover in movers
    ]
    counts = Counter(titles)
    return [
        f"{title} ({mover.source})" if counts[title] > 1 and mover.source else title
        for title, mover in zip(titles, movers, strict=True)
    ]


def _colours(movers: Sequence[Mover]) -> list[str]:
    """Gives models the colours of their families, and ink to the exact denoiser."""
    models = [{"name": str(place), "family": m.family} for place, m in enumerate(movers)]
    styles = model_styles(pd.DataFrame(models))
    return [
        INK if mover.name == EXACT else styles[str(place)].colour
        for place, mover in enumerate(movers)
    ]


@report_style()
def _moving_figure(motion: Motion) -> tuple[Figure, Callable[[int], None]]:
    """Makes a figure of all panels, and the function that shows a frame of it."""
    count = len(motion.panels)
    rows, columns = -(-count // 4), min(count, 4)
    tall = 3.0 * max(panel.aspect for panel in motion.panels)
    width, height = 3.15 * columns + 0.35, (tall + 0.5) * rows + 0.55
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(
        rows, columns, squeeze=False,
        gridspec_kw={
            "left": 0.35 / width, "right": 1 - 0.15 / width, "top": 1 - 0.55 / height,
            "bottom": 0.65 / height, "wspace": 0.05, "hspace": 0.22,
        },
    )  # fmt: skip
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    shows = []
    for panel, axes in zip(motion.panels, grid.flat, strict=False):
        shows.append(panel.put(axes))
        title = shortened(panel.title, 50)  # of two lines, whose words may not fill them
        axes.set_title("\n".join(textwrap.wrap(title, _LETTERS)[:2]), fontsize=10.5)
        if motion.axes:
            axes.set_xlabel(motion.axes[0], fontsize=9)
    if len(motion.axes) > 1:
        grid[0, 0].set_ylabel(motion.axes[1], fontsize=9)
    label = figure.text(1 - 0.15 / width, 0.12 / height, "", ha="right", fontsize=10.5)
    long = (width - 1.7) / width
    bar = figure.add_axes((0.35 / width, 0.16 / height, long, 0.05 / height))
    bar.set(xlim=(0.0, 1.0), ylim=(0.0, 1.0))
    bar.set_axis_off()
    bar.axvspan(0.0, 1.0, color=GRID, linewidth=0)
    done = bar.axvspan(0.0, 0.0, color=MUTED, linewidth=0)

    def show(frame: int) -> None:
        for each in shows:
            each(frame)
        label.set_text(motion.labels[frame])
        done.set_width(frame / (len(motion.labels) - 1))

    return figure, show


@report_style()
def still_figure(motion: Motion) -> Figure:
    """Draws a few frames side by side, a row for each panel, from the first to the last."""
    count = len(motion.labels)
    shown = spread(count, _STILLS)
    counts = [len(shown)] * len(motion.panels)
    aspect = max(panel.aspect for panel in motion.panels)
    side = 1.7 if len(counts) <= 6 else 1.1
    figure, rows = panel_figure(counts, 10.5, aspect, (0.06, 0.3), (0.05, 0.05, 0.55), side)
    for row, panel in zip(rows, motion.panels, strict=True):
        for axes, frame in zip(row, shown, strict=True):
            panel.put(axes)(frame)
        row[0].set_title(panel.title, fontsize=9.5)
    for axes, frame in zip(rows[0], shown, strict=True):
        height = 0.3 / figure.get_figheight()
        middle = axes.get_position().x0 + axes.get_position().width / 2
        figure.text(
            middle, 1 - height * 0.75, motion.labels[frame], ha="center", va="bottom", fontsize=9,
            color=MUTED,
        )  # fmt: skip
    return figure


def _images(motion: Motion, scale: float) -> list[Image.Image]:
    """Draws all frames, RGB."""
    figure, show = _moving_figure(motion)
    figure.set_dpi(_DPI * scale)
    canvas = FigureCanvasAgg(figure)
    images = []
    with report_style():
        for frame in range(len(motion.labels)):
            show(frame)
            canvas.draw()
            images.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    return images


def _gif(motion: Motion, largest: int) -> tuple[bytes, str]:
    """Draws a GIF of fewer than ``largest`` bytes, and says how it was shrunk, if it was."""
    frame = round(1000 / motion.pace)
    times = [_PAUSES[0], *[frame] * (len(motion.labels) - 2), _PAUSES[1]]
    images: list[Image.Image] = []
    drawn = 0.0
    for scale, colours in _SHRUNK:
        if scale != drawn:
            images, drawn = _images(motion, scale), scale
        # One palette for all frames: what does not move then takes no bytes.
        some = [images[number] for number in (0, len(images) // 2, -1)]
        width, height = some[0].size
        joined = Image.new("RGB", (width, height * len(some)))
        for number, image in enumerate(some):
            joined.paste(image, (0, number * height))
        palette = joined.quantize(colours, dither=Image.Dither.NONE)
        few = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
        file = io.BytesIO()
        few[0].save(
            file, format="GIF", save_all=True, append_images=few[1:], duration=times, loop=0
        )
        content = file.getvalue()
        if len(content) < largest:
            shrunk = (scale, colours) != _SHRUNK[0]
            how = f"; shrunk to {scale:.0%} of its size and {colours} colours to stay below "
            return content, f"{how}{largest / 1e6:.3g} MB" if shrunk else ""
    raise KanDiffusionError(
        f"a GIF of {len(motion.panels)} panels and {len(motion.labels)} frames is larger than "
        f"{largest / 1e6:.3g} MB; take fewer runs or --steps, or an .html"
    )


def _write_film(motion: Motion, path: Path) -> None:
    writer = FFMpegWriter(fps=round(motion.pace), extra_args=["-pix_fmt", "yuv420p"])
    figure, show = _moving_figure(motion)
    first, last = (round(pause / 1000 * motion.pace) for pause in _PAUSES)
    final = len(motion.labels) - 1
    with (
        whole_file(path) as temporary,
        report_style(),
        writer.saving(figure, str(temporary), _DPI * 1.5),
    ):
        for frame in (*[0] * first, *range(len(motion.labels)), *[final] * last):
            show(frame)
            writer.grab_frame()


def add_player(
    section: Section,
    motion: Motion,
    caption: str,
    alternative: str,
    largest: int = _LARGEST_PLAYER,
) -> None:
    """Adds motion to a page as a player, and as a few frames where no script runs.

    Args:
        section: The section to add it to.
        motion: The motion.
        caption: What to look for.
        alternative: What it shows, for those who cannot see it.
        largest: Approximate limit of its data in bytes.
    """
    stills = embedded(still_figure(motion), largest_svg=0, dpi=120)
    section.player(motion.content(largest), stills, caption, alternative)


def require_ending(path: Path) -> None:
    """Checks before any work that motion can be written into a file of this name.

    Raises:
        KanDiffusionError: The ending is not in ``ENDINGS``, or ffmpeg is missing for a film.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise KanDiffusionError(
            f"'{path}' has an unknown ending; motion is written as {', '.join(ENDINGS)}"
        )
    if ending == ".mp4" and not FFMpegWriter.isAvailable():
        raise KanDiffusionError(
            f"'{path}' needs ffmpeg, which is not there; install it (apt install ffmpeg, brew "
            "install ffmpeg, winget install ffmpeg), or write a .gif or .html"
        )


def write_motion(
    motion: Motion, path: Path, title: str, caption: str = "", largest: int = LARGEST_GIF
) -> str:
    """Writes motion into a file, whole or not at all.

    Args:
        motion: The motion.
        path: The file: .gif, .mp4 or .html.
        title: The title of a page.
        caption: What to look for, on a page.
        largest: Largest size of a GIF in bytes.

    Returns:
        What was written, in words.

    Raises:
        KanDiffusionError: The ending is unknown, ffmpeg is missing, or a GIF is too large.
        RunFolderError: The file cannot be written.
    """
    require_ending(path)
    ending, shrunk = path.suffix.lower(), ""
    if ending == ".gif":
        content, shrunk = _gif(motion, largest)
        write_bytes(path, content)
    elif ending == ".mp4":
        _write_film(motion, path)
    else:
        page = Page(title)
        add_player(page, motion, caption, title)
        page.write(path)
    size = path.stat().st_size / 1e6
    return f"{len(motion.labels)} frames, {size:.2g} MB{shrunk}: {path}"
