"""The measures of a study's models, set side by side: settings, judged measures, paired seeds.

A *setting* is one data set at one budget. Within it models are judged by one measure, the lower the
better: the excess where the oracle is exact, else the held-out loss. They are paired over seeds:
with v_s(a) the measure of model a and seed s, d_s = v_s(a) - v_s(b) over the seeds that both
finished. Failed trials and missing values leave their seed out of a pair. A model with less than
half of a setting's seeds cannot be the best of it: what it lost may be its worst.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

from kan_diffusion.errors import DataError
from kan_diffusion.evaluation.metrics import SAMPLE_METRICS
from kan_diffusion.study.results.statistics import Interval, bootstrap_interval, paired_permutation_p

__all__ = [
    "MEANS_ONLY",
    "MEASURES",
    "SIZES",
    "TIMES",
    "PairedDifference",
    "Scores",
    "Setting",
    "Verdict",
    "all_scores",
    "groups_of",
    "judged_measure",
    "rows_of",
    "settings_of",
]

MEASURES = ("excess", "heldout_loss", "nll", *SAMPLE_METRICS)
"""Columns of rows that measure a denoiser."""
MEANS_ONLY = ("floor", "nll_real", *(f"{key}_real" for key in SAMPLE_METRICS))
"""Columns that measure the data."""
SIZES = ("parameters", "flops", "flops_per_edge")
"""Columns that say how large a model is."""
TIMES = ("train_seconds", "train_cpu_seconds")
"""Columns that say how long its training took, in seconds."""

Verdict = Literal["KAN better", "MLP better", "not distinguishable", "undecided"]
"""``undecided``: fewer than two paired seeds, or a kind without a model that has half of them."""

_NUMBERS = ("budget", *MEASURES, *MEANS_ONLY, *SIZES, *TIMES)
# The amount held equal in words, and what to say where it is not known.
_AMOUNTS = {
    "params": ("{} parameters", "equal parameters"),
    "flops": ("{} FLOPs a point", "equal FLOPs"),
    "flops-per-edge": ("{} FLOPs a point, counted per edge", "equal FLOPs, counted per edge"),
    "time": ("{} of training", "equal training time"),
}


@dataclass(frozen=True)
class Setting:
    """One data set at one budget.

    Attributes:
        data: The data set's name.
        match: What was held equal: ``params``, ``flops``, ``flops-per-edge`` or ``time``; None
            where nothing was.
        budget: The amount of it, in the unit of ``match`` (time in seconds); None if unknown.
    """

    data: str
    match: str | None = None
    budget: float | None = None

    @property
    def amount(self) -> str:
        """What was held equal, such as ``2,300 parameters`` or ``6 s of training``, or ``""``."""
        if self.match is None:
            return ""
        known, unknown = _AMOUNTS.get(self.match, ("{} " + self.match, f"equal {self.match}"))
        if self.budget is None:
            return unknown
        if self.match != "time":
            return known.format(f"{self.budget:,.0f}")
        short = self.budget < 120
        return known.format(f"{self.budget:.4g} s" if short else f"{self.budget / 60:.3g} min")

    @property
    def budgeted(self) -> tuple[str | None, float | None]:
        """What settings of one budget have in common: ``(match, budget)``."""
        return self.match, self.budget

    @property
    def label(self) -> str:
        """The data set and what was held equal."""
        return f"{self.data}, {self.amount}" if self.amount else self.data


@dataclass(frozen=True)
class PairedDifference:
    """One model minus another over the seeds both have; negative: the model is better.

    Attributes:
        setting: Where they are compared.
        measure: The judged measure.
        model: The model.
        baseline: What it is compared with.
        interval: Mean paired difference and its 95 % bootstrap interval.
        ratio: Mean of the model over mean of the baseline; NaN unless both are above 0.
        p_value: Two-sided sign-flip test; NaN where no seed is shared.
        p_holm: The same, corrected over the settings of this (match, budget) in which the same
            comparison was made.
    """

    setting: Setting
    measure: str
    model: str
    baseline: str
    interval: Interval
    ratio: float
    p_value: float
    p_holm: float


@dataclass(frozen=True)
class Scores:
    """The judged measure of the models of one setting.

    Attributes:
        setting: The setting.
        measure: The judged measure.
        kinds: Model to its kind, ``kan``, ``mlp`` or ``other``, in the order of the rows.
        parameters: Model to its mean number of trainable parameters.
        values: A row a seed and a column a model; NaN where a trial failed or is missing.
    """

    setting: Setting
    measure: Literal["excess", "heldout_loss"]
    kinds: dict[str, str]
    parameters: dict[str, float]
    values: pd.DataFrame

    def models(self, kind: str) -> list[str]:
        """The models of a kind, finished or not."""
        return [model for model, own in self.kinds.items() if own == kind]

    @cached_property
    def means(self) -> pd.Series[float]:
        """Mean of each model; NaN where it has less than half of the seeds."""
        return self.values.mean().where(2 * self.values.count() >= len(self.values))

    def best(self, kind: str) -> str | None:
        """The model of a kind with the lowest mean, or None where none has half of the seeds."""
        means = {model: self.means[model] for model in self.models(kind)}
        known = {model: mean for model, mean in means.items() if not math.isnan(mean)}
        return min(known, key=lambda model: known[model]) if known else None

    def stand_in(self, kind: str) -> str:
        """The best model of a kind, or the one with the most seeds where none has half of them."""
        return self.best(kind) or str(self.values[self.models(kind)].count().idxmax())

    def common(self, model: str, baseline: str) -> pd.DataFrame:
        """The values of two models over the seeds that both have."""
        return self.values[[model, baseline]].dropna()

    def difference(self, model: str, baseline: str) -> PairedDifference:
        """One model minus another, not yet corrected: ``p_holm`` is ``p_value``."""
        common = self.common(model, baseline)
        differences = (common[model] - common[baseline]).tolist()
        means = common.mean()
        p_value = paired_permutation_p(differences)
        return PairedDifference(
            setting=self.setting,
            measure=self.measure,
            model=model,
            baseline=baseline,
            interval=bootstrap_interval(differences),
            ratio=float(means[model] / means[baseline]) if means.min() > 0 else math.nan,
            p_value=p_value,
            p_holm=p_value,
        )


def settings_of(rows: pd.DataFrame) -> list[Setting]:
    """The settings of a study, in the order of their first row.

    Args:
        rows: One row a trial, as in a study's results. Columns ``match`` and ``budget`` that are
            missing, as in older studies, mean that nothing was held equal.

    Raises:
        DataError: The table has no column ``data``, ``name``, ``family`` or ``seed``.
    """
    return list(groups_of(rows))


def rows_of(rows: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """The rows of one setting, with the columns and the index they have.

    Raises:
        DataError: As `settings_of`.
    """
    return rows[[own == setting for own in _settings(_table(rows))]]


def judged_measure(rows_of_setting: pd.DataFrame) -> Literal["excess", "heldout_loss"]:
    """What the models of a setting are judged by.

    Args:
        rows_of_setting: The rows of one setting. A row with an excess and no ``oracle``, as in
            older studies, counts as one with an exact oracle; failed trials have no say.

    Returns:
        ``excess`` where every row has an exact oracle, else ``heldout_loss``.
    """
    return _measure(_table(rows_of_setting))


def groups_of(rows: pd.DataFrame) -> dict[Setting, pd.DataFrame]:
    """The rows of each setting, completed.

    Returns:
        Setting to its rows: every column there can be, numbers as floats (NaN for what is missing,
        not finite or of a failed trial), ``kind`` filled in, and ``failed``.

    Raises:
        DataError: As `settings_of`.
    """
    table = _table(rows)
    places: dict[Setting, list[int]] = {}
    for place, setting in enumerate(_settings(table)):
        places.setdefault(setting, []).append(place)
    return {setting: table.iloc[own] for setting, own in places.items()}


def all_scores(rows: pd.DataFrame) -> list[Scores]:
    """The judged measures of every setting, in the order of `settings_of`.

    Raises:
        DataError: As `settings_of`, or a setting has a model's seed twice.
    """
    found = []
    for setting, table in groups_of(rows).items():
        twice = table[table.duplicated(["name", "seed"])]
        if len(twice):
            name, seed = twice["name"].iloc[0], twice["seed"].iloc[0]
            raise DataError(
                f"{setting.label}: '{name}' has seed {seed} twice; give the rows of one study"
            )
        measure = _measure(table)
        models = table.drop_duplicates("name")
        sizes = table.groupby("name", sort=False)["parameters"].mean()
        values = table.pivot(index="seed", columns="name", values=measure)
        found.append(
            Scores(
                setting=setting,
                measure=measure,
                kinds=dict(zip(models["name"], models["kind"], strict=True)),
                parameters={str(n): v for n, v in sizes.items()},
                values=values[models["name"].tolist()],
            )
        )
    return found


def _table(rows: pd.DataFrame) -> pd.DataFrame:
    """A copy as `groups_of` hands it out."""
    absent = [column for column in ("data", "name", "family", "seed") if column not in rows]
    if absent and len(rows):
        raise DataError(f"the rows have no column '{absent[0]}'; give those of a study's results")
    wanted = (*absent, "match", "kind", "oracle", "trial", "error", *_NUMBERS)
    table = rows.reindex(columns=list(dict.fromkeys([*rows.columns, *wanted]))).reset_index(
        drop=True
    )
    given = [column for column in _NUMBERS if column in rows]
    numbers = table[given].apply(pd.to_numeric, errors="coerce").astype(float)
    table[given] = numbers.where(np.isfinite(numbers))
    table["name"] = table["name"].astype(str)
    table["failed"] = np.array([isinstance(e, str) and e != "" for e in table["error"]], dtype=bool)
    table.loc[table["failed"], [*MEASURES, *MEANS_ONLY, *TIMES]] = np.nan
    table["kind"] = [
        kind if isinstance(kind, str) else _kind_of(str(family))
        for kind, family in zip(table["kind"], table["family"], strict=True)
    ]
    return table


def _settings(table: pd.DataFrame) -> list[Setting]:
    """The setting of each row."""
    return [
        Setting(str(data), match, None if math.isnan(budget) else budget)
        if isinstance(match, str)
        else Setting(str(data))
        for data, match, budget in zip(table["data"], table["match"], table["budget"], strict=True)
    ]


def _kind_of(family: str) -> str:
    """The kind of a family by its name, for rows from before there was a column for it."""
    if "kan" in family:
        return "kan"
    is_mlp = family.startswith("mlp") or (family.endswith("-mlp") and family != "spline-mlp")
    return "mlp" if is_mlp else "other"


def _measure(table: pd.DataFrame) -> Literal["excess", "heldout_loss"]:
    good = table[~table["failed"]]
    exact = (good["oracle"] == "exact") | (good["oracle"].isna() & good["excess"].notna())
    return "excess" if exact.all() else "heldout_loss"
