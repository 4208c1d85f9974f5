"""The view of tables: rows as points of two columns of numbers, and a page that judges rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from kan_diffusion.data.sources import Source, data_from_name
from kan_diffusion.diffusion.sampling import SamplePipeline, watched
from kan_diffusion.errors import DataError, KanDiffusionError
from kan_diffusion.randomness import numpy_generator, torch_generator
from kan_diffusion.report.views import JudgedPage, Reverse, View
from kan_diffusion.study.measure import load_run
from kan_diffusion.tables.page import say_scores, score_texts, write_table_page
from kan_diffusion.tables.pipeline import TableDiffusionPipeline
from kan_diffusion.tables.scores import TableScores, table_scores
from kan_diffusion.tables.sources import FileData, TableData
from kan_diffusion.training.run import num_held_out

__all__ = ["TableView", "judge_run"]

_MOST_ROWS = 20_000
"""Largest number of real, training and synthetic rows that are judged."""
_FEWEST_DRAWN = 1_000
_WORST = 3


def judge_run(
    folder: Path, data: str | None = None, *, verify: bool = True
) -> tuple[TableScores, str]:
    """Draws rows from a run and judges them, with the effort of its settings.

    Args:
        folder: The run's folder.
        data: A file to judge it with; the run's own data when None. Of the file it was trained on,
            only the held-out rows are used.
        verify: Whether to refuse files of the run that have changed since they were written.

    Returns:
        The scores and a sentence that says where real rows come from. Training rows are compared,
        too, if their file has not changed.

    Raises:
        RunFolderError: The folder holds no finished run.
        DataError: The data cannot be used.
    """
    config, pipeline = load_run(folder, verify=verify)
    own, seeds = config.data, (config.study_seed, config.seed)
    assert isinstance(pipeline, TableDiffusionPipeline)
    assert isinstance(own, FileData | TableData)
    # A model has not learned the rows that decided when its training ended.
    ending = (lambda _: 0) if config.training.patience is None else num_held_out
    parts = partial(own.frames, *seeds, _MOST_ROWS, ending)
    other = own if data is None else data_from_name(data, pinned=False)
    if isinstance(other, FileData) and not own.is_same(other):
        file = pipeline.codec.read(other.path)
        order = numpy_generator("judged rows").permutation(len(file.frame))
        real, used = file.take(np.sort(order[:_MOST_ROWS])), "."
        try:
            train, _ = parts()
        except DataError:  # the file has changed or is missing
            train = None
    else:
        (train, real), other, used = parts(), own, " that were held out."
    synthetic = pipeline.draw(
        min(max(len(real if train is None else train), _FEWEST_DRAWN), _MOST_ROWS),
        steps=config.sampling.steps,
        generator=torch_generator("judged rows", *seeds),
    )
    scores = table_scores(
        real,
        synthetic,
        train=train,
        kinds={str(column.name): column.kind for column in pipeline.codec.columns},
        generator=numpy_generator("scores of a table", *seeds),
        effort=config.evaluation.effort,
    )
    if config.evaluation.effort == "quick":
        used += " This is a first look: learners have few trees."
    return scores, f"Real rows are those of '{other.name}'{used}"


class TableView(View):
    """The view of tables."""

    def reverse(
        self,
        pipeline: SamplePipeline,
        data: Source,
        num: int,
        steps: int,
        generator: torch.Generator,
    ) -> Reverse:
        """Draws rows and keeps the first two columns of numbers, see :meth:`.View.reverse`."""
        assert isinstance(pipeline, TableDiffusionPipeline)
        shown = [column.name for column in pipeline.codec.columns if column.kind == "number"][:2]
        if len(shown) < 2:
            raise KanDiffusionError(
                f"motion needs two columns of numbers and the table has {len(shown)}; draw "
                "its rows without it"
            )
        with watched(pipeline) as kept:
            frame = pipeline.draw(num, steps=steps, generator=generator)
        frames = [*(pipeline.codec.decode(state) for state in kept.values()), frame]
        rows = [each[shown].to_numpy(np.float64, na_value=np.nan) for each in frames]
        return Reverse((*kept, 0.0), np.stack(rows), tuple(map(str, shown)))

    def page(
        self,
        run: Path,
        data: str | None,
        out: Path | None,
        *,
        verify: bool = True,
        on_progress: Callable[[str, str, float], None] | None = None,
    ) -> JudgedPage:
        """Judges drawn rows beside real ones, see :meth:`.View.page`."""
        if on_progress is not None:
            on_progress("rows", "drawing and judging", 0.0)
        scores, used = judge_run(run, data, verify=verify)
        path = write_table_page(scores, out or run / "tables.html", f"Rows of {run}", used)
        worst = scores.columns.query("shortfall > 0")["name"][:_WORST]
        columns = [f"Columns that are met worst: {', '.join(worst)}."] if len(worst) else []
        return JudgedPage(
            path,
            [(score.label, *score_texts(score)) for score in scores.scores],
            [*say_scores(scores), *columns],
        )
