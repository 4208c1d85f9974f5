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
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from kan_diffusion.data.sources import Source
from kan_diffusion.errors import DataError, KanDiffusionError, RunFolderError
from kan_diffusion.evaluation.metrics import Measure, metrics_named
from kan_diffusion.study.config import StudyConfig
from kan_diffusion.study.folder import TrialResult
from kan_diffusion.study.measure import Judged, judged_measure, trained_run
from kan_diffusion.study.run import StudyResults, load_study
from kan_diffusion.study.tasks import measures_of

__all__ = ["COSTS", "MEASURES", "Results", "read_results", "read_runs"]

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
# The amount held equal in words, and the words if it is not known.
_AMOUNTS = {
    "params": ("{} parameters", "equal parameters"),
    "flops": ("{} FLOPs a point", "equal FLOPs"),
    "time": ("{} of training", "equal training time"),
}


@dataclass(frozen=True, eq=False)
class Results:
    """The rows of a study, normalised.

    Attributes:
        rows: One row per trial. Missing numbers are NaN, missing words are None, and a failed trial
            has no measurements. A derived column, ``failed``, says so.
        metrics: The sample metrics and other scores of samples that were measured, by key.
    """

    rows: pd.DataFrame
    metrics: dict[str, Measure]

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
                f"{row['data']}: '{row['name']}' has seed {row['seed']} twice; give the rows of "
                "one study"
            )
        measured = {key: metric for key, metric in known.items() if table[key].notna().any()}
        return cls(table, measured)

    @property
    def match(self) -> str | None:
        """Resource held equal: ``params``, ``flops`` or ``time``; None where nothing was."""
        return next(iter(self.rows["match"]), None)

    @property
    def amount(self) -> str:
        """The resource held equal, such as ``2,300 parameters``; empty where nothing was."""
        if self.match is None:
            return ""
        known, unknown = _AMOUNTS[self.match]
        budget = float(self.rows["budget"].iloc[0])
        if np.isnan(budget):
            return unknown
        if self.match != "time":
            return known.format(f"{budget:,.0f}")
        return known.format(f"{budget:.4g} s" if budget < 120 else f"{budget / 60:.3g} min")

    def data_sets(self) -> list[str]:
        """Lists the data sets in the order of their first row."""
        return list(self._by_data)

    def of_data(self, data: str) -> pd.DataFrame:
        """Returns the rows of a data set."""
        return self._by_data.get(data, self.rows.iloc[:0])

    @cached_property
    def _by_data(self) -> dict[str, pd.DataFrame]:
        return {str(data): rows for data, rows in self.rows.groupby("data", sort=False)}

    def models(self, data: str | None = None) -> dict[str, str]:
        """Returns each model's kind, ``kan``, ``mlp`` or ``other``, on one data set or all."""
        rows = self.rows if data is None else self.of_data(data)
        return dict(rows.drop_duplicates("name")[["name", "kind"]].itertuples(index=False))

    def judged(self, data: str) -> Judged:
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


def read_runs(folders: Sequence[Path], title: str | None = None) -> StudyResults:
    """Reads finished runs as the results of a study.

    Runs of one model that were trained alike with different seeds belong together, whether the
    seeds are numbers within a study or were given to ``train``. Where different models share a
    name, what differs is added to it.

    Args:
        folders: Folders of the runs, at least one.
        title: Title of the study; by default it says what the runs are.

    Raises:
        RunFolderError: A folder holds no finished run.
        KanDiffusionError: The runs were not judged alike, or two of them have the same data, model
            and seed.
    """
    trials = _told_apart(_numbered([_read(folder) for folder in folders]))
    _require_alike(trials)
    configs = [trial.config for trial in trials]
    first, models = configs[0], {config.model.name: config.model for config in configs}
    config = StudyConfig(
        name="side-by-side",
        title=title or (first.label if len(trials) == 1 else "Runs side by side"),
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
    return StudyResults(config, trials[0].folder, tuple(trials), {}, rows)


def _read(folder: Path) -> TrialResult:
    trial = trained_run(folder)
    if "heldout_loss" not in trial.row:
        raise RunFolderError(
            f"the run in '{folder}' was not judged; hold rows out when you train it, or explain "
            "again with as many points to generate as the run it comes from"
        )
    return trial


def _require_alike(trials: Sequence[TrialResult]) -> None:
    """Checks that the numbers of trials can be compared, and that none is there twice."""
    no_number: dict[str, object] = {"moments": (), "num_drawn": 1}
    first = trials[0]
    data: dict[str, TrialResult] = {}
    places: dict[tuple[str, str, int], TrialResult] = {}
    for trial in trials:
        a, b = first.config, trial.config
        other = data.setdefault(b.data.name, trial)
        twin = places.setdefault((b.data.name, b.model.name, b.seed), trial)
        judging = [each.judging.model_copy(update=no_number) for each in (a, b)]
        for what, same in (
            ("a process", a.process == b.process),
            ("a sampler", a.sampling == b.sampling),
            ("a way of judging", judging[0] == judging[1]),
        ):
            if not same:
                raise KanDiffusionError(
                    f"the runs in '{first.folder}' and '{trial.folder}' do not have {what} in "
                    "common, so their numbers cannot be compared; train or explain one of them "
                    "again with the other's settings"
                )
        if b.data.identity() != other.config.data.identity():
            raise KanDiffusionError(
                f"the runs in '{other.folder}' and '{trial.folder}' have different data of one "
                f"name, '{b.data.name}' (other points, or another number of them), so their "
                "numbers cannot be compared; report them apart"
            )
        if twin is not trial:
            raise KanDiffusionError(
                f"the runs in '{twin.folder}' and '{trial.folder}' are both of '{b.model.name}' "
                f"with seed {b.seed}, trained alike; give one of them"
            )


def _numbered(trials: list[TrialResult]) -> list[TrialResult]:
    """Gives trials that share their draws the same seed.

    Draws derive from the study's seed and the trial's. A run of ``train`` is alone in its study,
    so its study's seed replaces the trial's.

    Raises:
        KanDiffusionError: Both seeds differ between the trials.
    """
    studies = {trial.config.study_seed for trial in trials}
    if len(studies) == 1:
        return trials
    if len({trial.config.seed for trial in trials}) > 1:
        raise KanDiffusionError(
            "the runs come from studies with different seeds ("
            + ", ".join(map(str, sorted(studies)))
            + ") and have different seeds within them, so which of them share their draws cannot "
            "be shown; give runs of one study, or runs of train"
        )
    return [
        trial.changed(
            trial.config.model_copy(update={"seed": trial.config.study_seed}),
            seed=trial.config.study_seed,
        )
        for trial in trials
    ]


def _told_apart(trials: list[TrialResult]) -> list[TrialResult]:
    """Adds to the name of a model in what it differs from others of that name."""
    renamed = []
    for trial in trials:
        name = trial.config.model.name
        others = [_settings(other) for other in trials if other.config.model.name == name]
        differing = [
            f"{key.replace('_', ' ')} {f'{value:.3g}' if isinstance(value, float) else value}"
            for key, value in _settings(trial).items()
            if any(other.get(key) != value for other in others)
        ]
        if differing:
            name = f"{name} ({', '.join(differing)})"
        model = trial.config.model.model_copy(update={"name": name})
        config = trial.config.model_copy(update={"model": model})
        renamed.append(trial.changed(config, name=name))
    return renamed


def _settings(trial: TrialResult) -> dict[str, object]:
    """Returns what decides a model and its training, but seeds; its size is that it was built in."""
    model, training = trial.config.model, trial.config.training
    return {
        "parameters": trial.row["parameters"],
        "flops": trial.row["flops"],
        **training.model_dump(exclude={"checkpoint_every"}),
        "learning_rate": model.learning_rate or training.learning_rate,
        "family": model.family,
        "conditions": model.conditions,
        **model.settings,
    }
