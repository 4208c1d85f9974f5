r"""Motion: reverse processes and training, as a GIF, a film or a player on a page.

Panels of points or of pictures move in step, a frame at a time. What they show of models is made
by their views (:mod:`kan_diffusion.report.views`).
"""

from __future__ import annotations

import base64
import io
import math
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.animation import FFMpegWriter
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.files import whole_file, write_bytes
from kan_diffusion.report.html import Json, Page, Section
from kan_diffusion.report.images import LARGEST_WEBP, embedded, image_address
from kan_diffusion.report.points import PointView, bins, framed, panel_figure, spread
from kan_diffusion.report.style import GRID, MUTED, report_style, shortened

__all__ = [
    "ENDINGS", "EXACT", "LARGEST_GIF", "MOST_FRAMES", "Motion", "Panel", "PicturePanel",
    "PointPanel", "add_player", "require_ending", "still_figure", "write_motion",
]  # fmt: skip

ENDINGS = (".gif", ".mp4", ".html")
"""Endings of the files that motion is written to."""
LARGEST_GIF = 3_000_000
"""Largest size of a GIF in bytes."""
MOST_FRAMES = 61
"""Largest number of frames; from longer processes as many are picked, evenly spaced."""
EXACT = "exact denoiser"
"""Title of the panel of the exact denoiser, the best that there is."""
_LARGEST_PLAYER = 600_000
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
                f"motion needs two frames or more, not {len(self.labels)}; take more steps"
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
        f"{largest / 1e6:.3g} MB; take fewer runs or steps, or an .html"
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
