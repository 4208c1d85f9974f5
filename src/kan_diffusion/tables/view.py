"""The view of tables: rows as points of two columns of numbers, and a page that judges rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from kan_diffusion.data.sources import Source
from kan_diffusion.diffusion.sampling import SamplePipeline, watched
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.report.views import JudgedPage, Reverse, View
from kan_diffusion.tables.judging import judge_run
from kan_diffusion.tables.page import say_scores, score_texts, write_table_page
from kan_diffusion.tables.pipeline import TableDiffusionPipeline

__all__ = ["TableView"]

_WORST = 3


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

        def say(phase: str, what: str, done: float) -> None:
            if on_progress is not None:
                on_progress(phase, what, done)

        scores, source = judge_run(
            run, data, verify=verify, on_progress=lambda what, done: say("rows", what, done)
        )
        say("page", "", 0.0)
        path = write_table_page(scores, out or run / "tables.html", f"Rows of {run}", source)
        worst = [column.name for column in scores.columns if column.shortfall > 0][:_WORST]
        columns = [f"Columns that are met worst: {', '.join(worst)}."] if worst else []
        return JudgedPage(
            path,
            [(score.label, *score_texts(score)) for score in scores.scores],
            [*say_scores(scores), *columns],
        )
