"""Reverse processes side by side as a file: a GIF, or a page with a player."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.files import write_bytes
from kan_diffusion.report.clouds import Motion, panel_grid
from kan_diffusion.report.page import Page
from kan_diffusion.report.style import GRID, MUTED, report_style, shortened

LARGEST_GIF = 3_000_000
"""Largest size of a GIF in bytes."""
_ENDINGS = (".gif", ".html")
_LARGEST_PAGE = 600_000
_PAUSES = 700, 1800
"""Milliseconds for which the first and the last frame stay."""
_DPI, _COLOURS = 100, 64
_SCALES = (1.0, 0.8, 0.64, 0.5)
"""Scales that are tried until a GIF is small enough."""


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
    for scale in _SCALES:
        images = _images(motion, scale)
        # One palette for all frames: what does not move then takes no bytes.
        some = [np.asarray(images[number]) for number in (0, len(images) // 2, -1)]
        palette = Image.fromarray(np.concatenate(some)).quantize(_COLOURS, dither=Image.Dither.NONE)
        few = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
        file = io.BytesIO()
        few[0].save(
            file, format="GIF", save_all=True, append_images=few[1:], duration=times, loop=0
        )
        if len(content := file.getvalue()) < largest:
            how = f"; shrunk to {scale:.0%} of its size to stay below {largest / 1e6:.3g} MB"
            return content, how * (scale < 1)
    raise KanDiffusionError(
        f"a GIF of {len(motion.panels)} panels and {len(motion.labels)} frames is larger than "
        f"{largest / 1e6:.3g} MB; take fewer runs or steps, or an .html"
    )


def require_ending(path: Path) -> None:
    """Checks before any work that motion can be written into a file of this name.

    Raises:
        KanDiffusionError: Its ending is neither .gif nor .html.
    """
    if path.suffix.lower() not in _ENDINGS:
        raise KanDiffusionError(
            f"'{path}' has an unknown ending; motion is written as {' or '.join(_ENDINGS)}"
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
        Page(title).figure(lambda: motion, caption, title, _LARGEST_PAGE).write(path)
    size = path.stat().st_size / 1e6
    return f"{len(motion.labels)} frames, {size:.2g} MB{shrunk}: {path}"
