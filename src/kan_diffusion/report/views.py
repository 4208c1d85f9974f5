r"""Views: how the samples of models, and their reverse processes, come onto a page.

:class:`View` is the view of points. A wing has its own, a subclass that overrides what differs, and
its sources name it (:mod:`kan_diffusion.data.sources`).

A sampler goes through states :math:`x_{t_0}, x_{t_1}, \ldots, x_{t_N}` with :math:`t_0 = T` and
:math:`t_N = 0`: the first is noise, the last are the samples, and each is a frame. Models are drawn
side by side from the same noise; with the same sampler and steps their frames have the same times.
Where the density is known, the exact denoiser's process stands beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from kan_diffusion.data.datasets import Dataset
from kan_diffusion.data.sources import Source
from kan_diffusion.diffusion.sampling import (
    SamplePipeline,
    even_sampler,
    make_scheduler,
    recorded_states,
)
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.evaluation.oracles import OracleDenoiser
from kan_diffusion.imports import own_class
from kan_diffusion.randomness import torch_generator
from kan_diffusion.report.clouds import Motion, Panel, Points, point_panels, spread
from kan_diffusion.report.style import INK, REAL, model_styles
from kan_diffusion.study.config import TrialConfig
from kan_diffusion.study.folder import REVERSE, TrialResult, load_points, recorded_steps
from kan_diffusion.study.tasks import NOTHING_ASKED, Asked, task_of
from kan_diffusion.study.trial import NUM_PANELS, load_run, record_reverse

EXACT = "exact denoiser"
"""Title of the panel of the exact denoiser, the best that there is."""
MOST_FRAMES = 61
"""Largest number of frames; from longer processes as many are picked, evenly spaced."""
Reverse = tuple[tuple[float, ...], NDArray[np.floating]]
"""Times (F,) as fractions of T, from 1 for noise to 0, and states (F, n, *shape)."""

_OF_SEVERAL = 6
"""Samples that move of each of several prompts or classes."""


@dataclass(frozen=True)
class Mover:
    """A model whose reverse process is drawn.

    Attributes:
        name: Its name above the panel.
        family: Its family, which gives the colour.
        pipeline: Its denoiser with its sampler.
        data: The data it was trained on.
        guidance: Strength of guidance for pictures; the pipeline's default when None.
        source: Where it comes from, to tell models of the same name apart.
    """

    name: str
    family: str
    pipeline: SamplePipeline
    data: Source
    guidance: float | None = None
    source: str = ""


@dataclass(frozen=True)
class JudgedPage:
    """A page about samples that were judged one by one, and what it says.

    ``scores`` are each score with its value and that of a perfect model, in words.
    """

    path: Path
    scores: Sequence[tuple[str, str, str]]
    sentences: Sequence[str]


def mover_of_run(run: Path) -> Mover:
    """Reads a finished run, to be drawn.

    Raises:
        RunFolderError: There is no such run.
    """
    config, pipeline = load_run(run)
    made, usual = config.model, config.sampling.guidance
    return Mover(made.name, made.family, pipeline, config.data, usual, str(run))


class View:
    """The view of points: a wing's overrides what differs.

    Attributes:
        most_moving: Largest number of samples of a model that move.
    """

    most_moving: ClassVar[int] = 5_000

    def panels(
        self,
        dataset: Dataset,
        trials: Mapping[str, TrialResult],
        colours: Mapping[str, str],
        most: int,
    ) -> tuple[list[Panel], str]:
        """Shows real samples beside those that trials drew.

        Args:
            dataset: The data set of the trials.
            trials: A trial of each model that drew any, by name.
            colours: The colour of each model.
            most: Most points of a cloud.

        Returns:
            The panels, real samples first, and a sentence on what is seen.

        Raises:
            RunFolderError: A file of a trial is missing or damaged.
        """
        shown = max(trial.config.evaluation.num_drawn for trial in trials.values())
        num = min(shown, most)
        if dataset.heldout is None:
            real = dataset.fresh(num, torch_generator("drawn points", dataset.name))
        else:
            real = dataset.heldout[:num]
        states: dict[str, Sequence[Points]] = {"real": [real.numpy()]}
        for name, trial in trials.items():
            points = load_points(trial.samples, trial.config.judging.num_samples, dataset.dim)
            states[name] = [points[:num]]
        return point_panels(states, {"real": REAL, **colours}, real.numpy(), dataset.columns)

    def motion(
        self,
        states: Mapping[str, NDArray[np.floating]],
        colours: Mapping[str, str],
        labels: Sequence[str],
        asked: Asked = NOTHING_ASKED,
    ) -> Motion:
        """Makes a panel of each reverse process.

        Args:
            states: The states that are shown, with shape (F, n, *shape), by title.
            colours: The colour of each.
            labels: Names of the F frames.
            asked: What was asked for.
        """
        frames = {title: list(each) for title, each in states.items()}
        last = next((each[-1] for title, each in frames.items() if title.startswith(EXACT)), None)
        return Motion(labels, point_panels(frames, colours, last)[0])

    def reverse(
        self, mover: Mover, asked: Asked, num: int, steps: int, generator: torch.Generator
    ) -> Reverse:
        """Draws samples and records their reverse process in the data's own units.

        Args:
            mover: The model, with its sampler.
            asked: What is asked for.
            num: Number of samples in all.
            steps: Steps of the sampler.
            generator: Source of the noise.

        Raises:
            KanDiffusionError: A number is out of range, or there is nothing to be drawn in a plane.
            NonFiniteSamplesError: The samples became infinite or NaN.
        """
        points = task_of(mover.data).points(mover.pipeline)
        times, states = recorded_states(partial(points, num), points, steps, generator)
        return times, torch.stack([points.standardizer.invert(x.double()) for x in states]).numpy()

    def page(
        self,
        run: Path,
        data: str | None,
        out: Path | None,
        *,
        on_progress: Callable[[str, str, float], None] | None = None,
    ) -> JudgedPage | None:
        """Judges samples of a run one by one, and writes a page about them.

        Args:
            run: The run's folder.
            data: What to judge with; the run's own data when None.
            out: The page; one in the run's folder when None.
            on_progress: Takes the phase, what was just done, and the share that is done.

        Returns:
            The page; None where the scores of the run say all.

        Raises:
            DataError: The data cannot be used.
            KanDiffusionError: A page is asked for and there is none.
        """
        if out is not None:
            raise KanDiffusionError(f"'{run}' is no model of a table; only tables have a page")
        return None


@lru_cache
def _view(place: str) -> View:
    return own_class(place, View)()


def animate(
    movers: Sequence[Mover],
    asked: Asked = NOTHING_ASKED,
    *,
    num: int | None = None,
    steps: int | None = None,
    scheduler: str | None = None,
    seed: int = 0,
) -> Motion:
    """Draws the reverse processes of models side by side, from the same noise.

    Models of different processes have different times; their frames are then numbered by steps.

    Args:
        movers: The models, of samples of one shape. Where a density is known, the process of its
            exact denoiser comes last.
        asked: What is asked for.
        num: Number of samples of each model, for each prompt or class that is asked for; as many as
            suit when None.
        steps: Steps of the samplers; when None one for each frame, or all timesteps of ``"ddpm"``.
        scheduler: Name of the sampler; when None DDIM, or Euler's method for flow matching, whose
            steps are even in time.
        seed: Seed of the noise, as in the command ``sample``.

    Raises:
        KanDiffusionError: Models have samples of different shapes, or refuse what is asked.
        NonFiniteSamplesError: Samples became infinite or NaN.
    """
    task, view = task_of(movers[0].data), view_of(movers[0].data)
    shapes = {mover.pipeline.denoiser.sample_shape for mover in movers}
    if len(shapes) > 1:
        words = sorted(" x ".join(map(str, shape)) for shape in shapes)
        raise KanDiffusionError(
            f"models of {' and '.join(words)} numbers a sample cannot start from the same noise; "
            "draw them by themselves"
        )
    rows = max(len(asked.requests), 1)
    num = rows * (num or (task.num if rows == 1 else _OF_SEVERAL))
    if num > view.most_moving:
        raise KanDiffusionError(
            f"motion shows at most {view.most_moving:,} {task.noun}, not {num:,}; take fewer"
        )
    exact = {(m.pipeline.process, m.data): m for m in movers if m.data.density is not None}
    drawn = [*movers, *map(_exact, exact.values())]
    reverses = []
    for mover in drawn:
        process = mover.pipeline.process
        sampler = make_scheduler(scheduler or even_sampler(process), process)
        pipeline = type(mover.pipeline).from_pipe(mover.pipeline, scheduler=sampler)
        usual = process.num_timesteps if scheduler == "ddpm" else MOST_FRAMES - 1
        sampled, generator = replace(mover, pipeline=pipeline), torch_generator("samples", seed)
        of_data = view_of(mover.data)
        reverses.append(of_data.reverse(sampled, asked, num, steps or usual, generator))
    count = min(MOST_FRAMES, *(len(times) for times, _ in reverses))
    picks = [spread(len(times), count) for times, _ in reverses]
    seen = [np.array(times)[pick] for (times, _), pick in zip(reverses, picks, strict=True)]
    labels = [f"step {number} of {count - 1}" for number in range(count)]
    if all(np.allclose(times, seen[0]) for times in seen):
        labels = [f"t = {time:.2f} T" for time in seen[0]]
    titles = _titles_of(drawn)
    states = {
        title: states[pick]
        for title, (_, states), pick in zip(titles, reverses, picks, strict=True)
    }
    models = pd.DataFrame({"name": titles, "family": [mover.family for mover in drawn]})
    colours = {name: style.colour for name, style in model_styles(models).items()}
    colours |= {title: INK for title in titles if title.startswith(EXACT)}
    return view.motion(states, colours, labels, asked)


def view_of(source: Source) -> View:
    """Returns the view of some data; its module is loaded when it is first asked for."""
    return _view(source.view)


def _exact(mover: Mover) -> Mover:
    """Makes the exact denoiser of a model's data, with the same process and sampler."""
    pipeline, density = task_of(mover.data).points(mover.pipeline), mover.data.density
    assert density is not None
    oracle = OracleDenoiser(pipeline.standardizer.rescale(density), pipeline.process)
    made = type(pipeline).from_pipe(pipeline, denoiser=oracle)
    return replace(mover, name=EXACT, pipeline=made, source="")


def _titles_of(movers: Sequence[Mover]) -> list[str]:
    """Names the models, with process, data set or source where that tells them apart."""
    titles = [mover.name for mover in movers]
    for words in ([m.pipeline.process.name for m in movers], [m.data.name for m in movers]):
        if len(set(words)) > 1:
            titles = [f"{title}, {word}" for title, word in zip(titles, words, strict=True)]
    if len(set(titles)) < len(titles):
        sources = [f" ({mover.source})" * bool(mover.source) for mover in movers]
        titles = [title + source for title, source in zip(titles, sources, strict=True)]
    before = [titles[:number].count(title) for number, title in enumerate(titles)]
    return [f"{t} {k + 1}" if k else t for t, k in zip(titles, before, strict=True)]


def recorded(trial: TrialResult, dataset: Dataset) -> dict[str, NDArray[np.float32]]:
    """Reads the reverse process (panels, n, *shape) of each snapshot of training, by its name.

    Raises:
        RunFolderError: A file is missing or damaged.
    """
    training = trial.config.training
    snapshots = {}
    for step in recorded_steps(trial.folder):
        path = trial.folder / REVERSE / f"{step}.safetensors"
        label = f"step {step:,}"
        if training.batches == "epochs":
            label = f"epoch {step // -(-len(dataset.train) // training.batch_size):,}"
        snapshots[label] = load_points(path, NUM_PANELS, None, *dataset.shape)
    return snapshots


def exact_process(config: TrialConfig, dataset: Dataset) -> NDArray[np.float32]:
    """Draws the reverse process of the exact denoiser, from the same noise as a trial's."""
    assert dataset.density is not None
    oracle = OracleDenoiser(dataset.density, config.process)
    pipeline = task_of(config.data).pipeline(config, dataset, oracle)
    return record_reverse(config, dataset, pipeline).numpy()
