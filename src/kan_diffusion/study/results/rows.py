"""The rows of a study, read and normalised once.

Everything that speaks of a study starts from `Results`: a data frame with one row per trial, where
every column exists and numbers are floats. Models are compared within a data set. Its *judged
measure* is the excess where the oracle is exact, else the held-out loss; lower is better.

Rows come from a study's folder, or from finished runs, read as if one study had made them: a run of
``train``, a trial of a study and a stage of an explanation are all folders with the result of a
trial. Runs can be compared if they were judged alike, with the same process, sampler and number of
points; runs with the same seed share the draws they were judged on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kan_diffusion.data.sources import Source
from kan_diffusion.errors import DataError, KanDiffusionError, RunFolderError
from kan_diffusion.evaluation.metrics import Measure, metrics_named
from kan_diffusion.study.config import StudyConfig
from kan_diffusion.study.folder import TrialResult
from kan_diffusion.study.run import StudyResults, load_study
from kan_diffusion.study.tasks import JudgedMeasure, judged_measure, measures_of
from kan_diffusion.study.trial import trained_run

MEASURES = {
    "excess": "excess",
    "heldout_loss": "held-out loss",
    "nll": "negative log-likelihood",
}
"""Columns that measure a denoiser, without the sample metrics, and their names in sentences."""

COSTS = ("parameters", "flops", "steps")
"""Columns that say how large a model is and how long it is trained."""

_KEYS = ("data", "name", "family", "kind", "seed")
_WORDS = ("process", "match", "oracle", "trial", "error")
_TIMES = ("train_seconds", "train_cpu_seconds", "sample_seconds")
_MEASURED = (*MEASURES, "floor", "excess_se", "nll_real", "out_of_range")
_AMOUNTS = {"params": "{:,.0f} parameters", "flops": "{:,.0f} FLOPs a point"}


@dataclass(frozen=True, eq=False)
class Results:
    """The rows of a study, normalised.

    Attributes:
        rows: One row per trial. Missing numbers are NaN, missing words are None, and a failed trial
            has no measurements. A derived column, ``failed``, says so.
        metrics: The sample metrics and other scores of samples that were measured, by key.
        notes: What a reader has to know of the study's own metrics, in sentences.
    """

    rows: pd.DataFrame
    metrics: dict[str, Measure]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, rows: pd.DataFrame, metrics: Iterable[str] = (), data: Sequence[Source] = ()
    ) -> Results:
        """Normalises the rows of a study.

        Args:
            rows: One row per trial, with ``data``, ``name``, ``family``, ``kind`` and ``seed``, and
                whatever else a trial's row holds. A failed trial has its reason in ``error``.
            metrics: The study's own metrics, each as ``"package.module:NAME"``.
            data: Its data sets, whose models may have measures of their own.

        Raises:
            DataError: One of these columns is missing, a model has a seed twice on a data set, or
                the rows are of several budgets.
            KanDiffusionError: A metric cannot be imported.
        """
        absent = [column for column in _KEYS if column not in rows]
        if absent and len(rows):
            raise DataError(f"the rows have no column '{absent[0]}'; give those of a study")
        own = metrics_named(metrics)
        known: dict[str, Measure] = {**own, **measures_of(data), **own}  # own first, and preferred
        scores = [*known, *(f"{key}_real" for key in known)]
        numbers = ["budget", *COSTS, *_TIMES, *_MEASURED, *scores]
        columns = dict.fromkeys([*_KEYS, *_WORDS, *numbers, *rows.columns])
        table = rows.reindex(columns=list(columns)).reset_index(drop=True)
        values = table[numbers].apply(pd.to_numeric, errors="coerce").astype(float)
        table[numbers] = values.where(np.isfinite(values))
        for column in _WORDS:
            words = table[column].astype(object)
            table[column] = words.where(words.notna(), None)
        table[["data", "name"]] = table[["data", "name"]].astype(str)
        table["failed"] = table["error"].notna()
        table.loc[table["failed"], [*_TIMES, *_MEASURED, *scores]] = np.nan
        if len(table[["match", "budget"]].drop_duplicates()) > 1:
            raise DataError("the rows are of several budgets; give the rows of one study")
        for _, row in table[table.duplicated(["data", "name", "seed"])].iterrows():
            raise DataError(
                f"{row['data']}: '{row['name']}' has seed {row['seed']} twice; give each once"
            )
        measured = {key: metric for key, metric in known.items() if table[key].notna().any()}
        done, notes = table[~table["failed"]], []
        for key in (key for key in own if key in rows):
            if count := int(done[key].isna().sum()):
                notes.append(
                    f"{own[key].label} ({own[key].title}) has no finite number in {count:,} of "
                    f"{len(done):,} trials, and no mean counts these."
                )
        return cls(table, measured, tuple(notes))

    @property
    def match(self) -> str | None:
        """Resource held equal: ``params``, ``flops`` or ``time``; None where nothing was."""
        return next(iter(self.rows["match"]), None)

    @property
    def amount(self) -> str:
        """The resource held equal, such as ``2,300 parameters``; empty where nothing was."""
        if self.match is None:
            return ""
        budget = float(self.rows["budget"].iloc[0])
        if self.match in _AMOUNTS:
            return _AMOUNTS[self.match].format(budget)
        return f"{f'{budget:.4g} s' if budget < 120 else f'{budget / 60:.3g} min'} of training"

    def data_sets(self) -> list[str]:
        """Lists the data sets in the order of their first row."""
        return list(dict.fromkeys(self.rows["data"]))

    def of_data(self, data: str) -> pd.DataFrame:
        """Returns the rows of a data set."""
        return self.rows[self.rows["data"] == data]

    def models(self, data: str | None = None) -> dict[str, str]:
        """Returns each model's kind, ``kan``, ``mlp`` or ``other``, on one data set or all."""
        rows = self.rows if data is None else self.of_data(data)
        return dict(rows.drop_duplicates("name")[["name", "kind"]].itertuples(index=False))

    def judged(self, data: str) -> JudgedMeasure:
        """Returns the judged measure of a data set; failed trials are ignored."""
        rows = self.of_data(data)
        return judged_measure(rows.loc[~rows["failed"], "oracle"])

    def values(self, data: str, measure: str) -> pd.DataFrame:
        """Tabulates a measure on a data set: a row per seed, a column per model, NaN if missing."""
        rows = self.of_data(data)
        table = rows.pivot(index="seed", columns="name", values=measure)
        return table[list(dict.fromkeys(rows["name"]))]

    def name_of(self, measure: str) -> str:
        """Returns the name of a measure in a sentence, such as ``held-out loss``."""
        return MEASURES.get(measure) or self.metrics[measure].title


def read_results(folder: Path) -> Results:
    """Reads the results of a study from its folder; arguments and errors as for `load_study`."""
    study = load_study(folder)
    return Results.of(study.rows, study.config.evaluation.metrics, study.config.data)


def read_runs(folders: Sequence[Path]) -> StudyResults:
    """Reads finished runs as the results of a study.

    Runs of one model that were trained alike with different seeds belong together, whether the
    seeds are numbers within a study or were given to ``train``. Where different models share a
    name, that of a folder is added to it.

    Args:
        folders: Folders of the runs, at least one.

    Raises:
        RunFolderError: A folder holds no finished run that was judged.
        KanDiffusionError: The runs were not judged alike.
    """
    trials = [trained_run(folder) for folder in folders]
    _require_alike(trials)
    if len({trial.config.study_seed for trial in trials}) > 1:
        # A run of train is alone in its study, whose seed tells it from others.
        trials = [_with(trial, seed=trial.config.study_seed) for trial in trials]
    trials = _told_apart(trials)
    first, configs = trials[0].config, [trial.config for trial in trials]
    models = {config.model.name: config.model for config in configs}
    config = StudyConfig(
        name="side-by-side",
        title=first.label if len(trials) == 1 else "Runs side by side",
        seed=first.study_seed,
        seeds=min(len({c.seed for c in configs if c.model.name == name}) for name in models),
        data=tuple({config.data.name: config.data for config in configs}.values()),
        process=first.process,
        training=first.training,
        models=tuple(models.values()),
        sampling=first.sampling,
        evaluation=first.evaluation,
    )
    if len({(trial.row["match"], trial.row["budget"]) for trial in trials}) > 1:
        # Runs of different studies, or of none, have no budget in common.
        trials = [trial.changed(match=None, budget=None) for trial in trials]
    rows = pd.DataFrame([trial.row for trial in trials])
    return StudyResults(config, trials[0].folder, tuple(trials), rows)


def _with(trial: TrialResult, **changes: object) -> TrialResult:
    """Returns a trial whose configuration has changed, and so its row."""
    config = trial.config.model_copy(update=changes)
    return trial.changed(config, name=config.model.name, seed=config.seed)


def _require_alike(trials: Sequence[TrialResult]) -> None:
    """Checks that trials were judged, and that their numbers can be compared."""
    names = [trial.config.data.name for trial in trials]
    if len(trials) > 1 and len({*names}) == len(names):
        raise KanDiffusionError(
            f"the runs are all of different data ({', '.join(names)}), so there is nothing to "
            "compare; report them apart"
        )
    several = len({trial.config.study_seed for trial in trials}) > 1
    shared: dict[str, tuple[object, TrialResult]] = {}
    for trial in trials:
        config = trial.config
        if "heldout_loss" not in trial.row:
            raise RunFolderError(
                f"the run in '{trial.folder}' was not judged; hold rows out when you train it, or "
                "explain again with as many points to generate as the run it comes from"
            )
        for what, value in {
            "process": config.process,
            "sampler": config.sampling,
            "way of judging": config.judging.model_copy(update={"num_drawn": 1}),
            f"content or held-out part of '{config.data.name}'": config.data.identity(),
            # Which runs of several studies share their draws, their seeds say alone.
            "number within their studies": config.seed if several else 0,
        }.items():
            before, other = shared.setdefault(what, (value, trial))
            if before != value:
                raise KanDiffusionError(
                    f"the runs in '{other.folder}' and '{trial.folder}' do not have the same "
                    f"{what}, so their numbers cannot be compared; train or explain one of them "
                    "again with the other's settings, or report them apart"
                )


def _told_apart(trials: Sequence[TrialResult]) -> list[TrialResult]:
    """Adds the folder of its first run to the name of a model, where other models share the name."""
    folders: dict[str, dict[str, Path]] = {}
    keys = []
    for trial in trials:
        config, size = trial.config, trial.row["parameters"]
        training = config.training.model_copy(update={"checkpoint_every": 1})
        keys.append(repr((size, config.model, training)))
        folders.setdefault(config.model.name, {}).setdefault(keys[-1], trial.folder)
    renamed = []
    for trial, key in zip(trials, keys, strict=True):
        model = trial.config.model
        if len(alike := folders[model.name]) > 1:
            names = [folder.name for folder in alike.values()]
            distinct = len({*names}) == len(names)
            name = f"{model.name} ({alike[key].name if distinct else alike[key]})"
            trial = _with(trial, model=model.model_copy(update={"name": name}))
        renamed.append(trial)
    return renamed
