r"""Views: how the samples of models, and their reverse processes, come onto a page.

:class:`View` is the view of points. A wing has its own, a subclass that overrides what differs, and
its sources name it (:mod:`kan_diffusion.data.sources`).

A sampler goes through states :math:`x_{t_0}, x_{t_1}, \ldots, x_{t_N}` with :math:`t_0 = T` and
:math:`t_N = 0`: the first is noise, the last are the samples, and each is a frame. Models are drawn
side by side from the same noise; with the same sampler and steps their frames have the same times.
Where the density is known, the exact denoiser's process stands beside them.

The exact solution of the probability-flow ODE moves each point along a path. In diffusion, whose
signal and noise levels lie on a circle, these paths are curved; in flow matching, which joins data
and noise by straight lines, they are nearly straight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kan_diffusion.data.datasets import Dataset
from kan_diffusion.data.sources import Source
from kan_diffusion.diffusion.sampling import (
    SamplePipeline,
    even_sampler,
    make_scheduler,
)
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.evaluation.oracles import OracleDenoiser
from kan_diffusion.imports import own_class
from kan_diffusion.processes import Process
from kan_diffusion.randomness import torch_generator
from kan_diffusion.report.contents import ReportContents
from kan_diffusion.report.motion import EXACT, MOST_FRAMES, Motion, PointPanel
from kan_diffusion.report.points import Panels, PointView, spread
from kan_diffusion.report.style import INK, model_styles
from kan_diffusion.study.config import StudyConfig, TrialConfig
from kan_diffusion.study.folder import REVERSE, TrialResult, load_points, recorded_steps
from kan_diffusion.study.measure import load_run
from kan_diffusion.study.tasks import NOTHING_ASKED, Asked, task_of
from kan_diffusion.study.trial import NUM_PANELS, record_reverse

__all__ = [
    "JudgedPage", "Mover", "Reverse", "View", "animate", "mover_of_run", "states_of", "titles_of",
    "view_of", "watched",
]  # fmt: skip

_TRAILS = 40
_OF_SEVERAL = 6
"""Samples that move of each of several prompts or classes."""


@dataclass(frozen=True)
class Mover:
    """A model whose reverse process is drawn.

    Attributes:
        name: Its name above the panel.
        family: Its family, which gives the colour.
        pipeline: Its denoiser with its sampler.
        process: Its noising process.
        data: The data it was trained on.
        guidance: Strength of guidance for pictures; the pipeline's default when None.
        source: Where it comes from, to tell models of the same name apart.
    """

    name: str
    family: str
    pipeline: SamplePipeline
    process: Process
    data: Source
    guidance: float | None = None
    source: str = ""


@dataclass(frozen=True)
class Reverse:
    """A reverse process; points are in the data's own units.

    Attributes:
        times: Time of each state as a fraction of T, with shape (F,), from 1 for noise to 0.
        states: Samples at these times, with shape (F, n, *shape), points in float64; the last are
            those that the pipeline returns, bit for bit.
    """

    times: tuple[float, ...]
    states: NDArray[np.floating]


@dataclass(frozen=True)
class JudgedPage:
    """A page about samples that were judged one by one.

    Attributes:
        path: The page.
        scores: Each score with its value and that of a perfect model, in words.
        sentences: What they say.
    """

    path: Path
    scores: Sequence[tuple[str, str, str]]
    sentences: Sequence[str]


def mover_of_run(run: Path) -> Mover:
    """Reads a finished run, to be drawn.

    Args:
        run: The run's folder.

    Raises:
        RunFolderError: There is no such run.
    """
    config, pipeline = load_run(run)
    made, usual = config.model, config.sampling.guidance
    return Mover(made.name, made.family, pipeline, config.process, config.data, usual, str(run))


@contextmanager
def watched(pipeline: SamplePipeline) -> Iterator[dict[float, Tensor]]:
    """Records the states of the reverse process that a pipeline goes through inside the block.

    The states are the inputs of the denoiser: x_t of the process, whatever the sampler computes
    with. If a sampler corrects its first guess, the corrected state is recorded.

    Args:
        pipeline: The pipeline, which must draw only one batch.

    Yields:
        Standardised samples (n, *shape) by their time as a fraction of T, noise (1.0) first. The
        last state, at time 0, is what the pipeline returns and is not included.
    """
    states: dict[float, Tensor] = {}
    num_timesteps = pipeline.process.num_timesteps

    def keep(_: nn.Module, given: tuple[Tensor, Tensor]) -> None:
        sample, timestep = given
        states[(float(timestep) + 1) / num_timesteps] = sample.detach().cpu().clone()

    hook = pipeline.denoiser.register_forward_pre_hook(keep)
    try:
        yield states
    finally:
        hook.remove()


class View:
    """The view of points: a wing's overrides what differs.

    Attributes:
        most_moving: Largest number of samples of a model that move.
    """

    most_moving: ClassVar[int] = 5_000

    def gather_data(
        self, contents: ReportContents, source: Source, dataset: Dataset, config: StudyConfig
    ) -> None:
        """Adds what a report shows of the data alone."""
        if dataset.heldout is None:
            generator = torch_generator("drawn points", dataset.name)
            drawn = dataset.fresh(config.evaluation.num_drawn, generator)
        else:
            drawn = dataset.heldout[: config.evaluation.num_drawn]
        contents.originals[source.name] = drawn.numpy()
        contents.columns[source.name] = list(dataset.columns)
        contents.corruption[source.name] = _corruption(dataset, config.process, drawn)

    def gather_trial(
        self, contents: ReportContents, trial: TrialResult, label: str, dataset: Dataset
    ) -> None:
        """Adds what a trial drew, and its reverse processes.

        Raises:
            RunFolderError: A file of the trial is missing or damaged.
        """
        key, config = (label, str(trial.row["name"])), trial.config
        evaluation = config.judging
        # Some stages of an explanation cannot be sampled.
        if evaluation.num_samples and trial.row.get("sample_seconds") is not None:
            points = load_points(trial.samples, evaluation.num_samples, dataset.dim)
            contents.samples[key] = points[: evaluation.num_drawn]
        times = np.linspace(1, 0, NUM_PANELS).tolist()
        trajectories = [
            (moment, list(zip(times, states, strict=True)))
            for moment, states in states_of(trial, dataset)
        ]
        if trajectories:
            contents.trajectories[key] = trajectories
            if label not in contents.exact and config.data.density is not None:
                contents.exact[label] = _exact_process(config, dataset)

    def reverse(
        self, mover: Mover, asked: Asked, num: int, steps: int, generator: torch.Generator
    ) -> Reverse:
        """Draws samples and keeps all states of the reverse process.

        Args:
            mover: The model, with its sampler.
            asked: What is asked for.
            num: Number of samples in all.
            steps: Steps of the sampler.
            generator: Source of the noise; keeping the states does not change the samples.

        Raises:
            KanDiffusionError: A number is out of range, or there is nothing to be drawn in a plane.
            NonFiniteSamplesError: The samples became infinite or NaN.
        """
        points = task_of(mover.data).points(mover.pipeline)
        with watched(points) as kept:
            last = points(num, steps, generator=generator).samples.cpu().double()
        before = (points.standardizer.invert(state.double()) for state in kept.values())
        return Reverse((*kept, 0.0), torch.stack([*before, last]).numpy())

    def motion(
        self,
        movers: Sequence[Mover],
        states: Sequence[NDArray[np.floating]],
        labels: tuple[str, ...],
        asked: Asked,
    ) -> Motion:
        """Makes a panel of each model.

        Args:
            movers: The models.
            states: The states that are shown of each, with shape (F, n, *shape).
            labels: Names of the F frames.
            asked: What was asked for.
        """
        trails = asked.trails
        if trails is None:
            trails = _TRAILS if len({mover.process.name for mover in movers}) > 1 else 0
        drawn = list(zip(movers, states, strict=True))
        views = [_view_of_group([each for each in drawn if each[0].data == m.data]) for m in movers]
        panels = [
            PointPanel.of(title, colour, list(frames), *view, trails)
            for title, colour, frames, view in zip(
                titles_of(movers), _colours(movers), states, views, strict=True
            )
        ]
        axes = views[0][0].labels if len({mover.data for mover in movers}) == 1 else ()
        return Motion(labels, tuple(panels), axes)

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
            on_progress: Takes the phase, what was just done in it, and the share that is done.

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
        asked: What is asked for; paths are drawn of 40 points unless it says so, where processes
            differ, else of none.
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
    exact = {(m.process, m.data): m for m in movers if m.data.density is not None}
    drawn = [*movers, *map(_exact, exact.values())]
    reverses = []
    for mover in drawn:
        sampler = make_scheduler(scheduler or even_sampler(mover.process), mover.process)
        pipeline = type(mover.pipeline).from_pipe(mover.pipeline, scheduler=sampler)
        usual = mover.process.num_timesteps if scheduler == "ddpm" else MOST_FRAMES - 1
        sampled, generator = replace(mover, pipeline=pipeline), torch_generator("samples", seed)
        of_data = view_of(mover.data)
        reverses.append(of_data.reverse(sampled, asked, num, steps or usual, generator))
    labels, picks = _steps_of_all([reverse.times for reverse in reverses])
    states = [reverse.states[pick] for reverse, pick in zip(reverses, picks, strict=True)]
    return view.motion(drawn, states, labels, asked)


def view_of(source: Source) -> View:
    """Returns the view of some data; its module is loaded when it is first asked for."""
    return _view(source.view)


def _steps_of_all(times: Sequence[Sequence[float]]) -> tuple[tuple[str, ...], list[list[int]]]:
    """Labels the frames, and picks the states of each process that they show."""
    count = min(MOST_FRAMES, *map(len, times))
    picks = [spread(len(each), count) for each in times]
    seen = [np.array(each)[pick] for each, pick in zip(times, picks, strict=True)]
    if all(np.allclose(each, seen[0]) for each in seen):
        return tuple(f"t = {time:.2f} T" for time in seen[0]), picks
    return tuple(f"step {number} of {count - 1}" for number in range(count)), picks


def _exact(mover: Mover) -> Mover:
    """Makes the exact denoiser of a model's data, with the same process and sampler."""
    pipeline, density = task_of(mover.data).points(mover.pipeline), mover.data.density
    assert density is not None
    oracle = OracleDenoiser(pipeline.standardizer.rescale(density), mover.process)
    made = type(pipeline).from_pipe(pipeline, denoiser=oracle)
    return replace(mover, name=EXACT, pipeline=made, source="")


def _view_of_group(
    group: Sequence[tuple[Mover, NDArray[np.floating]]],
) -> tuple[PointView, NDArray[np.float64]]:
    """Chooses view and axis limits for models that draw points in the same units."""
    # A model that diverges must not shrink the others.
    lasts = [states[-1] for mover, states in group if mover.name == EXACT]
    lasts = lasts or [states[-1] for _, states in group]
    first, states = group[0]
    view = PointView.of(lasts[0], task_of(first.data).points(first.pipeline).columns)
    return view, view.limits([states[0], *lasts])


def titles_of(movers: Sequence[Mover]) -> list[str]:
    """Names the models, with process, data set or source where that tells them apart."""
    processes = {mover.process.name for mover in movers}
    sets = {mover.data for mover in movers}
    titles = [
        mover.name
        + (f", {mover.process.name}" if len(processes) > 1 else "")
        + (f", {mover.data.name}" if len(sets) > 1 else "")
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


def states_of(trial: TrialResult, dataset: Dataset) -> list[tuple[str, NDArray[np.float32]]]:
    """Reads the reverse process (panels, n, *shape) recorded at each moment of training.

    Args:
        trial: The trial.
        dataset: Its data set.

    Raises:
        RunFolderError: A file is missing or damaged.
    """
    training = trial.config.training
    moments = []
    for step in recorded_steps(trial.folder):
        path = trial.folder / REVERSE / f"{step}.safetensors"
        label = f"step {step:,}"
        if training.batches == "epochs":
            label = f"epoch {step // -(-len(dataset.train) // training.batch_size):,}"
        moments.append((label, load_points(path, NUM_PANELS, None, *dataset.shape)))
    return moments


def _corruption(dataset: Dataset, process: Process, points: torch.Tensor) -> Panels:
    """Noises points (n, d) at evenly spaced times of the forward process."""
    alpha, sigma = process.levels()
    noise = torch.randn(
        points.shape, generator=torch_generator("corruption", dataset.name), dtype=points.dtype
    )
    panels: Panels = []
    for fraction in np.linspace(0, 1, NUM_PANELS):
        steps = round(float(fraction) * process.num_timesteps)
        state = points if steps == 0 else alpha[steps - 1] * points + sigma[steps - 1] * noise
        panels.append((float(fraction), state.numpy()))
    return panels


def _exact_process(config: TrialConfig, dataset: Dataset) -> Panels:
    """Draws the reverse process of the exact denoiser, from the same noise as a trial's."""
    assert dataset.density is not None
    oracle = OracleDenoiser(dataset.density, config.process)
    states = record_reverse(config, dataset, task_of(config.data).pipeline(config, dataset, oracle))
    return list(zip(np.linspace(1, 0, NUM_PANELS).tolist(), states.numpy(), strict=True))
