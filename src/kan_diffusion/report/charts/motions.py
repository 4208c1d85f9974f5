"""Motion of a study: the reverse processes of its models, and how they change with training."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from PIL import Image

from kan_diffusion.report.charts.clouds import point_view
from kan_diffusion.report.charts.sheets import mosaic
from kan_diffusion.report.contents import ReportContents
from kan_diffusion.report.motion import EXACT, Motion, Panel, PicturePanel, PointPanel
from kan_diffusion.report.points import PictureRows, Points
from kan_diffusion.report.style import INK

__all__ = ["process_motion", "training_motion"]


T = TypeVar("T")


def process_motion(contents: ReportContents, label: str) -> Motion | None:
    """Shows the reverse processes of all models after training, from the same noise.

    Args:
        contents: The study.
        label: The data set.

    Returns:
        A frame for each time; None if no process was recorded.
    """
    pictures = {name: moments[-1][1] for name, moments in _of(contents.states, label)}
    if pictures:
        count = next(iter(pictures.values())).shape[1]
        panels = [
            PicturePanel(name, [_sheet(states[:, time]) for time in range(count)])
            for name, states in pictures.items()
        ]
        return Motion(_times(np.linspace(1, 0, count).tolist()), tuple(panels))
    processes = {name: moments[-1][1] for name, moments in _of(contents.trajectories, label)}
    if not processes:
        return None
    if label in contents.exact:
        processes[EXACT] = contents.exact[label]
    times = [time for time, _ in next(iter(processes.values()))]
    frames = {name: [points for _, points in panels] for name, panels in processes.items()}
    return _point_motion(contents, label, _times(times), frames)


def training_motion(contents: ReportContents, label: str) -> Motion | None:
    """Shows what all models draw from the same noise at moments of training.

    Args:
        contents: The study.
        label: The data set.

    Returns:
        A frame for each moment; None unless all models have equally many, two or more.
    """
    pictures, points = _of(contents.states, label), _of(contents.trajectories, label)
    names = [tuple(name for name, _ in moments) for _, moments in pictures]
    names += [tuple(name for name, _ in moments) for _, moments in points]
    count = min(map(len, names), default=0)
    if count < 2 or len(set(map(len, names))) > 1:
        return None
    labels = names[0]
    if len(set(names)) > 1:  # as with a budget of time, where the models' steps differ
        labels = tuple(f"moment {number} of {count}" for number in range(1, count + 1))
    if pictures:
        panels = [
            PicturePanel(name, [_sheet(states[:, -1]) for _, states in moments])
            for name, moments in pictures
        ]
        return Motion(labels, tuple(panels))
    frames = {name: [panels[-1][1] for _, panels in moments] for name, moments in points}
    return _point_motion(contents, label, labels, frames)


def _of(recorded: dict[tuple[str, str], T], label: str) -> list[tuple[str, T]]:
    """The records of each model of a data set."""
    return [(name, each) for (of, name), each in recorded.items() if of == label]


def _times(times: list[float]) -> tuple[str, ...]:
    return tuple(f"t = {time:.1f} T" for time in times)


def _point_motion(
    contents: ReportContents, label: str, labels: tuple[str, ...], frames: dict[str, list[Points]]
) -> Motion:
    view, limits = point_view(contents, label)
    colours = {name: style.colour for name, style in contents.styles.items()} | {EXACT: INK}
    panels: list[Panel] = [
        PointPanel.of(name, colours[name], each, view, limits) for name, each in frames.items()
    ]
    return Motion(labels, tuple(panels), view.labels)


def _sheet(pictures: PictureRows) -> Image.Image:
    """Tiles pictures (n, C, S, S) into one that is as square as possible."""
    across = int(np.ceil(np.sqrt(len(pictures))))
    blank = -(-len(pictures) // across) * across - len(pictures)
    whole = np.concatenate([pictures, np.ones((blank, *pictures.shape[1:]), pictures.dtype)])
    return Image.fromarray(mosaic(whole.reshape(-1, across, *pictures.shape[1:])))
