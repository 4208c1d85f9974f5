"""Judges rows drawn by a finished run of a table against rows it was not trained on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from kan_diffusion.data.sources import data_from_name
from kan_diffusion.errors import DataError
from kan_diffusion.randomness import numpy_generator, torch_generator
from kan_diffusion.study.measure import load_run
from kan_diffusion.tables.pipeline import TableDiffusionPipeline
from kan_diffusion.tables.scores import TableScores, table_scores
from kan_diffusion.tables.sources import FileData, TableData, split_frames
from kan_diffusion.training.run import num_held_out

__all__ = ["judge_run"]

_MOST_ROWS = 20_000
"""Largest number of real, training and synthetic rows that are judged."""
_FEWEST_DRAWN = 1_000


def judge_run(
    folder: Path,
    data: str | None = None,
    *,
    verify: bool = True,
    on_progress: Callable[[str, float], None] | None = None,
) -> tuple[TableScores, str]:
    """Draws rows from a run and judges them, with the effort of its settings.

    Args:
        folder: The run's folder.
        data: A file to judge it with; the run's own data when None. Of the file it was trained on,
            only the held-out rows are used.
        verify: Whether to refuse files of the run that have changed since they were written.
        on_progress: As in :func:`kan_diffusion.table_scores`.

    Returns:
        The scores and a sentence that says where real rows come from. Training rows are compared,
        too, if their file has not changed.

    Raises:
        RunFolderError: The folder holds no finished run.
        DataError: The data cannot be used.
    """
    config, pipeline = load_run(folder, verify=verify)
    own = config.data
    assert isinstance(pipeline, TableDiffusionPipeline)
    assert isinstance(own, FileData | TableData)
    # A model has not learned the rows that decided when its training ended.
    ending = (lambda _: 0) if config.training.patience is None else num_held_out
    parts = partial(split_frames, own, config.study_seed, config.seed, _MOST_ROWS, ending)
    other = own if data is None else data_from_name(data, pinned=False)
    if isinstance(other, FileData) and not own.is_same(other):
        file = pipeline.codec.read(other.path)
        places = numpy_generator("judged rows").permutation(file.num_rows)[:_MOST_ROWS]
        places.sort()
        real, used = file.take(places), f"Real rows are those of '{other.name}'."
        try:
            train, _ = parts()
        except DataError:  # the file has changed or is missing
            train = None
    else:
        train, real = parts()
        used = f"Real rows are those of '{own.name}' that were held out."
    if on_progress is not None:
        on_progress("drawing rows", 0.0)
    synthetic = pipeline.draw(
        min(max(len(real if train is None else train), _FEWEST_DRAWN), _MOST_ROWS),
        steps=config.sampling.steps,
        generator=torch_generator("judged rows", config.study_seed, config.seed),
    )
    scores = table_scores(
        real,
        synthetic,
        train=train,
        kinds={str(column.name): column.kind for column in pipeline.codec.columns},
        generator=numpy_generator("scores of a table", config.study_seed, config.seed),
        effort=config.evaluation.effort,
        on_progress=on_progress,
    )
    if config.evaluation.effort == "quick":
        used += " This is a first look: learners have few trees."
    return scores, used
