r"""The task of tables: models of encoded rows, which draw and complete rows.

What suits n rows of d coordinates, V = n d values, P parameters, S steps and :math:`\eta` the
learning rate of the family, which was tuned at 2,300 parameters, is

.. math:: P = 300\, r \sqrt V, \qquad S = 3000\, r, \qquad r = n / 2000, \qquad
    \eta_P = \eta\, (2300 / P)^{1/4},

with r from 1 to 8, P at most 250,000 and :math:`\eta_P` at most :math:`\eta`. Exponents and the
factor 300 were measured on tables from 30 x 5 to 100,000 x 50 with r = 1
(benchmarks/table_defaults.py of commit 514aec34). Training ends before when the held-out
loss has not fallen for long.
A network that is too small costs much more than one that is too large, since training keeps the
weights of the lowest held-out loss. On tables of few rows and many columns, a full KAN does far
better with two hidden layers than with four; ``kan`` does about as well with two.
"""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kan_diffusion.data.sources import Source
from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.denoisers.families import get_family
from kan_diffusion.diffusion.sampling import make_scheduler
from kan_diffusion.errors import DataError
from kan_diffusion.evaluation.diagnostics import Distinction
from kan_diffusion.evaluation.effort import EffortName
from kan_diffusion.evaluation.metrics import Metric
from kan_diffusion.processes import Process
from kan_diffusion.study.config import EvaluationConfig, SamplingConfig, TrialConfig
from kan_diffusion.study.tasks import Asked, Defaults, Drawn, Task, rows_drawn
from kan_diffusion.tables.codec import TableCodec
from kan_diffusion.tables.conditions import conditions_from_texts
from kan_diffusion.tables.datasets import TableDataset
from kan_diffusion.tables.pipeline import TableDiffusionPipeline
from kan_diffusion.tables.scores import TableScores
from kan_diffusion.tables.sources import FileData
from kan_diffusion.training.config import TrainingConfig, num_held_out

_FACTOR, _MOST = 300, 250_000
_STEPS = 3_000
_MANY_ROWS, _MOST_GROWTH = 2_000, 8.0  # rows from which on size and steps grow with them, how far
_TUNED_AT = 2_300
_FEW_ROWS = 5_000
_SHALLOW = 2


class TableTask(Task[TableDataset, TableDiffusionPipeline]):
    """The task of tables."""

    noun = "rows"
    takes = ("where", "like", "max_seconds", "fill", "fillings")
    pipeline_class = TableDiffusionPipeline
    quick_seconds = 30.0

    def suggest(
        self,
        dataset: TableDataset,
        process: Process,
        family: str | None = None,
        params: int | None = None,
    ) -> Defaults:
        """Suggests how to train a model of a table, or to compare several."""
        if family is None:
            return super().suggest(dataset, process)
        num_rows, kind = len(dataset.train), get_family(family)
        growth = min(max(num_rows / _MANY_ROWS, 1.0), _MOST_GROWTH)
        if params is None:
            params = min(round(_FACTOR * growth * (num_rows * dataset.dim) ** 0.5), _MOST)
        shallow = kind.kind == "kan" and num_rows < _FEW_ROWS
        training = TrainingConfig(
            steps=round(_STEPS * growth),
            batch_size=128 if num_rows < 1_000 else 256 if num_rows < _MANY_ROWS else 512,
            learning_rate=kind.learning_rate * min(1.0, (_TUNED_AT / max(params, 1)) ** 0.25),
            patience=0.4 if num_held_out(num_rows) else None,
        )
        return Defaults(
            training,
            params,
            depth=min(kind.depth, _SHALLOW) if shallow else None,
            sampling=SamplingConfig(steps=20 if num_rows < _MANY_ROWS else 50),
            # Columns may be conditions where the family can have them.
            conditions="observable" in inspect.signature(kind.denoiser_class).parameters,
        )

    def pipeline(
        self, config: TrialConfig, dataset: TableDataset, denoiser: Denoiser
    ) -> TableDiffusionPipeline:
        """Makes the pipeline of a trained denoiser, with the codec of its table."""
        scheduler = make_scheduler(config.sampling.scheduler, config.process)
        return TableDiffusionPipeline(denoiser, config.process, dataset.codec, scheduler)

    def metrics(self, dataset: TableDataset, evaluation: EvaluationConfig) -> dict[str, Metric]:
        """Replaces the C2ST of coordinates by that of rows, which ``evaluate`` shows, too."""
        metrics, codec = super().metrics(dataset, evaluation), dataset.codec
        effort = evaluation.effort

        def of_rows(drawn: Tensor, real: Tensor, generator: np.random.Generator) -> float:
            return _beside(codec, drawn, real, generator, effort).c2st.value

        return metrics | {"c2st": replace(metrics["c2st"], function=of_rows)}

    def distinguished(
        self, dataset: TableDataset, drawn: Tensor, heldout: Tensor, generator: np.random.Generator
    ) -> Distinction:
        """Says how well drawn rows are distinguished from held-out ones, and by which columns."""
        judged = _beside(dataset.codec, drawn, heldout, generator, "full")
        return Distinction(judged.c2st.value, judged.telling)

    def settled(
        self, dataset: TableDataset, generated: Tensor, generator: np.random.Generator
    ) -> Tensor:
        """Decodes and encodes rows: a network's categories are only near -1 and 1."""
        codec = dataset.codec
        return codec.encode(codec.decode(codec.tempered(generated)), generator).double()

    def for_judging(
        self, config: TrialConfig, pipeline: TableDiffusionPipeline, other: Source
    ) -> TableDataset:
        """Reads a file of the same columns, see :meth:`.Task.for_judging`."""
        if not isinstance(other, FileData):
            raise DataError(
                f"'{other.name}' is not what the model was trained on; judge it with its own data "
                "or a file of the same columns"
            )
        return other.for_rows(pipeline.codec, config.study_seed)

    def draw(
        self,
        pipeline: TableDiffusionPipeline,
        asked: Asked,
        num: int | None,
        steps: int,
        generator: torch.Generator,
    ) -> Drawn:
        """Draws rows, completes those of a file or fills its gaps, see :meth:`.Task.draw`."""
        codec = pipeline.codec
        if asked.fill is not None:
            rows, form = codec.read(asked.fill)
            fillings = asked.fillings or 1
            frame, *others = pipeline.impute(rows, fillings, steps=steps, generator=generator)
            if others:  # column "draw" has the number of each
                frame = pd.concat([frame, *others], ignore_index=True)
                name = "draw" if "draw" not in frame else "draw_"
                frame.insert(0, name, np.repeat(range(1, fillings + 1), len(rows)))
            return rows_drawn(frame, form)
        names = [str(column.name) for column in codec.columns]
        like = None if asked.like is None else codec.read(asked.like)[0]
        frame = pipeline.draw(
            self.num if num is None and like is None else num,
            conditions=conditions_from_texts(asked.where, names),
            like=like,
            steps=steps,
            generator=generator,
            max_seconds=asked.max_seconds,
        )
        return rows_drawn(frame, codec.form)


def _beside(
    codec: TableCodec, drawn: Tensor, real: Tensor, random: np.random.Generator, effort: EffortName
) -> TableScores:
    """Judges encoded rows by real ones."""
    frames = {"real": codec.decode(real), "synthetic": codec.decode(drawn)}
    return TableScores(codec.columns, frames, random, effort)
