"""The view of tables: encoded rows are points, and a page judges rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from kan_diffusion.data.sources import data_from_name
from kan_diffusion.errors import DataError
from kan_diffusion.randomness import numpy_generator, torch_generator
from kan_diffusion.report.views import JudgedPage, View
from kan_diffusion.study.measure import load_run
from kan_diffusion.tables.page import say_scores, score_texts, write_table_page
from kan_diffusion.tables.pipeline import TableDiffusionPipeline
from kan_diffusion.tables.scores import table_scores
from kan_diffusion.tables.sources import FileData, TableData
from kan_diffusion.training.run import num_held_out

__all__ = ["TableView"]

_MOST_ROWS = 20_000  # real, training and synthetic ones that are judged
_FEWEST_DRAWN = 1_000
_WORST = 3


class TableView(View):
    """The view of tables."""

    def page(
        self,
        run: Path,
        data: str | None,
        out: Path | None,
        *,
        verify: bool = True,
        on_progress: Callable[[str, str, float], None] | None = None,
    ) -> JudgedPage:
        """Judges drawn rows beside real ones, see :meth:`.View.page`.

        They are compared with the training rows, too, if their file has not changed. Of the file
        that a run was trained on, only the held-out rows are real rows.
        """
        if on_progress is not None:
            on_progress("rows", "drawing and judging", 0.0)
        config, pipeline = load_run(run, verify=verify)
        own, seeds = config.data, (config.study_seed, config.seed)
        assert isinstance(pipeline, TableDiffusionPipeline)
        assert isinstance(own, FileData | TableData)
        other = own if data is None else data_from_name(data, pinned=False)
        others = other if isinstance(other, FileData) and not own.is_same(other) else None
        # A model has not learned the rows that decided when its training ended.
        ending = (lambda _: 0) if config.training.patience is None else num_held_out
        train, used = None, f"Real rows are those of '{(others or own).name}'"
        try:
            file = own.rows()
            learned, heldout = own.split(len(file.frame), *seeds)
            train, real = (
                file.frame.iloc[part[:_MOST_ROWS].sort().values.numpy()]
                for part in (learned[ending(len(learned)) :], heldout)
            )
        except DataError:  # the file has changed or is missing
            if others is None:
                raise
        if others is None:
            used += " that were held out"
        else:
            file = pipeline.codec.read(others.path)
            order = numpy_generator("judged rows").permutation(len(file.frame))
            real = file.frame.iloc[np.sort(order[:_MOST_ROWS])]
        synthetic = pipeline.draw(
            min(max(len(real if train is None else train), _FEWEST_DRAWN), _MOST_ROWS),
            steps=config.sampling.steps,
            generator=torch_generator("judged rows", *seeds),
        )
        effort = config.evaluation.effort
        scores = table_scores(
            real,
            synthetic,
            train=train,
            kinds={str(column.name): column.kind for column in pipeline.codec.columns},
            generator=numpy_generator("scores of a table", *seeds),
            effort=effort,
        )
        used += ". This is a first look, with few trees." if effort == "quick" else "."
        path = write_table_page(scores, out or run / "tables.html", f"Rows of {run}", used)
        worst = scores.columns.query("shortfall > 0")["name"][:_WORST]
        columns = [f"Columns that are met worst: {', '.join(worst)}."] if len(worst) else []
        return JudgedPage(path, score_texts(scores), [*say_scores(scores), *columns])
