r"""Motion: reverse processes side by side, as a GIF or a player on a page.

Panels move in step, a frame at a time. What they show of models is made by their views
(:mod:`kan_diffusion.report.views`).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.files import write_bytes
from kan_diffusion.report.clouds import Panel, clouds, panel_grid, spread
from kan_diffusion.report.figures import Json, inline
from kan_diffusion.report.page import Page
from kan_diffusion.report.style import GRID, MUTED, report_style, shortened

__all__ = [
    "ENDINGS", "EXACT", "LARGEST_GIF", "LARGEST_PLAYER", "MOST_FRAMES", "Motion", "require_ending",
    "write_motion",
]  # fmt: skip

ENDINGS = (".gif", ".html")
"""Endings of the files that motion is written to."""
LARGEST_GIF = 3_000_000
"""Largest size of a GIF in bytes."""
LARGEST_PLAYER = 180_000
"""Approximate size of a player's data on the page of a study, in bytes."""
MOST_FRAMES = 61
"""Largest number of frames; from longer processes as many are picked, evenly spaced."""
EXACT = "exact denoiser"
"""Title of the panel of the exact denoiser, the best that there is."""
_LARGEST_PAGE = 600_000
_SECONDS = 4.0
"""Usual playing time of all frames, without the pauses at both ends."""
_SLOWEST, _FASTEST = 2, 15  # frames a second
_PAUSES = 700, 1800
"""Milliseconds for which the first and the last frame stay."""
_STILLS, _STILL_PICTURES = 6, 3
_DPI = 100
_SHRUNK = tuple((scale, colours) for scale in (1.0, 0.8, 0.64, 0.5) for colours in (64, 24))
"""Scales and numbers of colours that are tried until a GIF is small enough."""


@dataclass(frozen=True)
class Motion:
    """Panels that move in step.

    Attributes:
        labels: The name of each frame, such as its time.
        panels: The panels, each with a frame for every label.

    Raises:
        KanDiffusionError: There are fewer than two frames, or a panel has another number of them.
    """

    labels: tuple[str, ...]
    panels: tuple[Panel, ...]

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or not self.panels:
            raise KanDiffusionError(
                f"motion needs two frames or more, not {len(self.labels)}; take more steps"
            )
        for panel in self.panels:
            if panel.num_frames != len(self.labels):
                raise KanDiffusionError(
                    f"'{panel.title}' has {panel.num_frames} frames and there are "
                    f"{len(self.labels)} times; give one for each"
                )

    @property
    def pace(self) -> float:
        """Frames per second."""
        return float(np.clip((len(self.labels) - 1) / _SECONDS, _SLOWEST, _FASTEST))

    def content(self, largest: int) -> dict[str, Json]:
        """Gives the player's data, in about ``largest`` bytes at most."""
        share = largest // len(self.panels)
        panels = [panel.content(share) for panel in self.panels]
        return {"labels": list(self.labels), "pace": self.pace, "panels": panels}

    def stills(self, name: str, alternative: str, largest: int) -> Markup:
        """Draws a few frames for paper and where no script runs.

        Args:
            name: A name that no other figure of the page has.
            alternative: What they show.
            largest: Approximate size of pictures in bytes.
        """
        if self.panels[0].address(0, 0) is None:
            frames = spread(len(self.labels), _STILLS)
            labels = [self.labels[frame] for frame in frames]
            return inline(clouds(self.panels, frames=frames, labels=labels), name, alternative)
        frames = spread(len(self.labels), _STILL_PICTURES)
        share = largest // (len(frames) * len(self.panels))
        image = Markup('<img src="{}" alt="{}, {}">')
        return Markup(" ").join(
            image.format(panel.address(frame, share), panel.title, self.labels[frame])
            for panel in self.panels
            for frame in frames
        )


def _images(motion: Motion, scale: float) -> list[Image.Image]:
    """Draws all frames, RGB."""
    columns = min(len(motion.panels), 4)
    aspect = max(panel.aspect for panel in motion.panels)
    with report_style():
        figure, grid = panel_grid(len(motion.panels), columns, 3.15 * columns, aspect, below=0.4)
        shows = []
        for panel, axes in zip(motion.panels, grid, strict=True):
            shows.append(panel.draw(axes))
            axes.set_title(shortened(panel.title, 40), fontsize=10)
        height = figure.get_figheight()
        bar = figure.add_axes((0.1, 0.14 / height, 0.7, 0.05 / height))
        bar.set(xlim=(0.0, 1.0), ylim=(0.0, 1.0))
        bar.set_axis_off()
        bar.axvspan(0.0, 1.0, color=GRID, linewidth=0)
        done = bar.axvspan(0.0, 0.0, color=MUTED, linewidth=0)
        label = figure.text(0.98, 0.1 / height, "", ha="right", fontsize=10)
        figure.set_dpi(_DPI * scale)
        canvas = FigureCanvasAgg(figure)
        images = []
        for frame, text in enumerate(motion.labels):
            for show in shows:
                show(frame)
            label.set_text(text)
            done.set_width(frame / (len(motion.labels) - 1))
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
        joined = Image.fromarray(np.concatenate([np.asarray(image) for image in some]))
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


def require_ending(path: Path) -> None:
    """Checks before any work that motion can be written into a file of this name.

    Raises:
        KanDiffusionError: The ending is not in ``ENDINGS``.
    """
    if path.suffix.lower() not in ENDINGS:
        raise KanDiffusionError(
            f"'{path}' has an unknown ending; motion is written as {' or '.join(ENDINGS)}"
        )


def write_motion(
    motion: Motion, path: Path, title: str, caption: str = "", largest: int = LARGEST_GIF
) -> str:
    """Writes motion into a file, whole or not at all.

    Args:
        motion: The motion.
        path: The file: .gif or .html.
        title: The title of a page.
        caption: What to look for, on a page.
        largest: Largest size of a GIF in bytes.

    Returns:
        What was written, in words.

    Raises:
        KanDiffusionError: The ending is unknown, or a GIF is too large.
        RunFolderError: The file cannot be written.
    """
    require_ending(path)
    shrunk = ""
    if path.suffix.lower() == ".gif":
        content, shrunk = _gif(motion, largest)
        write_bytes(path, content)
    else:
        page = Page(title)
        page.player(lambda: motion, caption, title, _LARGEST_PAGE)
        page.write(path)
    size = path.stat().st_size / 1e6
    return f"{len(motion.labels)} frames, {size:.2g} MB{shrunk}: {path}"
