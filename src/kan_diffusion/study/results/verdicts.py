"""Verdicts: which model of each setting is better, and how certain that is.

Models of a setting are compared by their paired differences: with v_s(a) the measure of model a and
seed s, d_s = v_s(a) - v_s(b) over the seeds that both finished. A seed with a failed trial or a
missing value is left out. A model with less than half of a setting's seeds cannot be its best: the
lost seeds may be its worst. `kan_diffusion.study.results.statistics` says what the bootstrap
interval of the mean difference and the exact sign-flip test assume.

Models can be compared where a study held a resource equal. Where it did not, models can be compared
that happen to have the same number of parameters within 5 %, if they include a KAN and an MLP.

The verdict of a setting compares the best KAN with the best MLP, each the model with the lowest
mean of its kind. Choosing the best of several models on the seeds that then judge it flatters it,
the more so the more models there are. Both sides are chosen alike, and the sentence says how many
each was chosen from. If all models are equally good, ten seeds call one side better in 5 % of
comparisons of one KAN with one MLP, in 1 % of the best of 8 with the best of 5, where the luck of
both sides cancels, but in 12 % of the best of 8 with a single opponent. One of the two is called
better only if the p-value, corrected by Holm's method over the data sets at that budget, is below
0.05 and the 95 % interval excludes 0.

A *lead* summarises the data sets of one budget that have an exact oracle: on how many of them a
model, or the best KAN of each, has less excess than the best MLP, and the median of the ratios.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kan_diffusion.study.measure import Judged
from kan_diffusion.study.results.rows import Results, Setting
from kan_diffusion.study.results.statistics import (
    SIGNIFICANCE,
    Interval,
    bootstrap_interval,
    holm,
    median_ratio,
    paired_permutation_p,
    smallest_permutation_p,
)

__all__ = [
    "Comparison",
    "Decision",
    "Lead",
    "Outcome",
    "Verdict",
    "compare",
    "correct",
    "decide",
    "lead",
]

Outcome = Literal["KAN better", "MLP better", "not distinguishable", "undecided"]
"""``undecided``: fewer than two paired seeds, or no model of a kind has half of the seeds."""

_EQUAL_SIZE = 1.05


@dataclass(frozen=True)
class Comparison:
    """The difference of two models in one measure, over the seeds that both have.

    Attributes:
        setting: The setting in which they are compared.
        measure: The measure, a column of the rows.
        better: Whether ``"lower"`` or ``"higher"`` values of it are better.
        model: The model.
        baseline: The model it is compared with.
        means: Means of the two over the common seeds.
        interval: Mean paired difference and its 95 % bootstrap interval.
        p_value: Two-sided sign-flip test; NaN where no seed is shared or nothing was tested.
        p_holm: The p-value, corrected by `decide` over the settings at this budget in which the
            same comparison is made.
    """

    setting: Setting
    measure: str
    better: Literal["lower", "higher"]
    model: str
    baseline: str
    means: tuple[float, float]
    interval: Interval
    p_value: float
    p_holm: float

    @property
    def ratio(self) -> float:
        """Mean of the model divided by the baseline's; NaN unless both are above 0."""
        return self.means[0] / self.means[1] if min(self.means) > 0 else math.nan

    @property
    def ratio_interval(self) -> tuple[float, float] | None:
        """The interval of the ratio, (b + end) / b with the baseline's mean b taken as fixed."""
        low, high = self.interval.low, self.interval.high
        if low is None or high is None or math.isnan(self.ratio):
            return None
        return (self.means[1] + low) / self.means[1], (self.means[1] + high) / self.means[1]

    @property
    def winner(self) -> str | None:
        """The model that is called better, or None where the two are not distinguishable."""
        low, high = self.interval.low, self.interval.high
        if low is None or high is None or not self.p_holm < SIGNIFICANCE or low <= 0 <= high:
            return None
        return self.model if (high < 0) == (self.better == "lower") else self.baseline


@dataclass(frozen=True)
class Verdict:
    """The comparison of the models of one setting.

    Attributes:
        setting: The setting.
        measure: The judged measure.
        outcome: Which kind is better; None where no KAN and MLP can be compared.
        models: Kind of each model that was compared, in the order of the rows.
        left_out: Models of another size, which were not compared.
        num_seeds: Number of seeds of the setting.
        lacking: A kind of which no model has half of the seeds, if there is one.
        difference: The best KAN minus the best MLP; without an outcome the best of all models minus
            the next, or None where fewer than two have half of the seeds.
        means: Mean of each model that has half of the seeds, the best first.
        num_tests: Number of data sets in Holm's correction.
        smallest_p: The smallest corrected p that this many seeds can give; NaN without a test.
    """

    setting: Setting
    measure: Judged
    outcome: Outcome | None
    models: dict[str, str]
    left_out: tuple[str, ...]
    num_seeds: int
    lacking: Literal["kan", "mlp"] | None
    difference: Comparison | None
    means: dict[str, float]
    num_tests: int = 1
    smallest_p: float = math.nan

    def count(self, kind: str) -> int:
        """Number of compared models of a kind, finished or not."""
        return list(self.models.values()).count(kind)


@dataclass(frozen=True)
class Lead:
    """The excess of a model compared with the best MLP's, over the data sets of one budget.

    Attributes:
        model: The model; None for the best KAN of each data set.
        comparisons: Its comparisons, one for each data set with an exact oracle.
        ratio: Median of their ratios as ``mean``, with its 95 % bootstrap interval over seeds.
    """

    model: str | None
    comparisons: tuple[Comparison, ...]
    ratio: Interval

    @property
    def ahead(self) -> list[str]:
        """The data sets on which the model's mean is lower."""
        return [c.setting.data for c in self.comparisons if c.ratio < 1]

    @property
    def better(self) -> list[str]:
        """The data sets on which the model is called better."""
        return [c.setting.data for c in self.comparisons if c.winner == c.model]

    @property
    def worse(self) -> list[str]:
        """The data sets on which the best MLP is called better."""
        return [c.setting.data for c in self.comparisons if c.winner == c.baseline]


@dataclass(frozen=True)
class Decision:
    """Everything a study concludes.

    Attributes:
        verdicts: Verdict of each setting, by label.
        comparisons: Every comparable model of every setting against the best MLP there, in the
            judged measure. Holm's correction is over the data sets at one budget on which the same
            model is compared. It does not cover the number of models, so look at the comparisons,
            but draw conclusions from the verdicts.
        leads: For each budget with at least two data sets whose oracle is exact, the lead of the
            best KANs, then the leads of all models but MLPs that were compared on at least two.
    """

    verdicts: dict[str, Verdict]
    comparisons: list[Comparison]
    leads: list[Lead]

    def of_setting(self, label: str) -> dict[str, Comparison]:
        """The comparisons of one setting, by model."""
        return {c.model: c for c in self.comparisons if c.setting.label == label}


@dataclass(frozen=True, eq=False)
class _Field:
    """The comparable models of one setting, with their values in the judged measure."""

    results: Results
    setting: Setting
    measure: Judged
    models: dict[str, str]
    values: pd.DataFrame

    @classmethod
    def of(cls, results: Results, setting: Setting) -> _Field:
        measure = results.judged(setting.label)
        values = results.values(setting.label, measure)
        kinds = results.models(setting.label)
        models = {name: kinds[name] for name in _comparable(results, setting)}
        return cls(results, setting, measure, models, values)

    def of_kind(self, kind: str) -> list[str]:
        return [name for name, own in self.models.items() if own == kind]

    def means(self, names: Sequence[str]) -> dict[str, float]:
        """Computes the means of the models that have half of the seeds, the best first."""
        values = self.values[list(names)]
        means = values.mean()[2 * values.count() >= len(values)].sort_values(kind="stable")
        return {str(name): float(mean) for name, mean in means.items()}

    def best(self, kind: str) -> str | None:
        return next(iter(self.means(self.of_kind(kind))), None)

    def stand_in(self, kind: str) -> str:
        """Returns the best model of a kind, or the one with the most seeds if none has half."""
        return self.best(kind) or str(self.values[self.of_kind(kind)].count().idxmax())

    def difference(
        self, model: str, baseline: str, other: tuple[str, pd.DataFrame] | None = None
    ) -> Comparison:
        """Compares two models in the judged measure, or in another one with its values.

        Nothing is corrected: ``p_holm`` is ``p_value``.
        """
        measure, values = other or (self.measure, self.values)
        common = values[[model, baseline]].dropna()
        differences = (common[model] - common[baseline]).tolist()
        p_value = paired_permutation_p(differences)
        metric = self.results.metrics.get(measure)
        return Comparison(
            setting=self.setting,
            measure=measure,
            better="lower" if metric is None else metric.better,
            model=model,
            baseline=baseline,
            means=(float(common[model].mean()), float(common[baseline].mean())),
            interval=bootstrap_interval(differences),
            p_value=p_value,
            p_holm=p_value,
        )

    def comparisons(
        self, measure: str | None = None, baseline: str | None = None
    ) -> list[Comparison]:
        """Compares each other model with a baseline, as `compare` says."""
        baseline = baseline or self.best("mlp")
        if baseline is None:
            return []
        other = (measure, self.results.values(self.setting.label, measure)) if measure else None
        names = (name for name in self.models if name != baseline)
        return [self.difference(name, baseline, other) for name in names]


def _comparable(results: Results, setting: Setting) -> list[str]:
    """Lists the models of a setting that are held equal, or the most that happen to be equal."""
    models = results.models(setting.label)
    if setting.match is not None:
        return list(models)
    sizes = results.of_setting(setting.label).groupby("name")["parameters"].mean().dropna()
    groups: list[list[str]] = []
    start = math.nan
    for name, size in sizes.sort_values().items():
        if not size <= start * _EQUAL_SIZE:
            groups.append([])
            start = float(size)
        groups[-1].append(str(name))
    mixed = [group for group in groups if {"kan", "mlp"} <= {models[name] for name in group}]
    largest = max(mixed, key=len, default=[])
    return [name for name in models if name in largest]


def compare(
    results: Results, setting: Setting, measure: str | None = None, baseline: str | None = None
) -> list[Comparison]:
    """Compares every comparable model of a setting with a baseline, paired by seed.

    The best MLP is chosen by the judged measure, whichever measure is compared. Models without a
    common seed are included, with NaN; without an MLP that has half of the seeds the list is empty.

    Args:
        results: The study.
        setting: One of its settings.
        measure: A column that measures a denoiser, such as ``"energy"``; the judged one when None.
        baseline: Name of the model that the others are compared with; the best MLP when None.

    Returns:
        A comparison for each model but the baseline, in the order of the rows. P-values are not
        corrected.
    """
    return _Field.of(results, setting).comparisons(measure, baseline)


def decide(results: Results) -> Decision:
    """Decides what a study shows, setting by setting.

    Both sides of a verdict are chosen by their mean on the same seeds on which they are then
    compared, which flatters both; see the module. If no model of a kind has half of the seeds, the
    model with the most seeds represents it, nothing is tested, and the outcome is ``undecided``.

    Args:
        results: The study.
    """
    fields = [_Field.of(results, setting) for setting in results.settings()]
    comparisons = [c for field in fields for c in field.comparisons()]
    verdicts = [_verdict(field, comparisons) for field in fields]
    verdicts, comparisons = _corrected(verdicts), correct(comparisons)
    return Decision(
        {verdict.setting.label: verdict for verdict in verdicts},
        comparisons,
        _leads(results, verdicts, comparisons),
    )


def correct(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Corrects p-values over the settings at one budget in which the same models are compared."""
    groups = [(c.setting.budgeted, c.model) for c in comparisons]
    p_holm = _holm_by_group([c.p_value for c in comparisons], groups)
    return [replace(c, p_holm=p) for c, p in zip(comparisons, p_holm, strict=True)]


def lead(results: Results, model: str | None, comparisons: Sequence[Comparison]) -> Lead:
    """Summarises comparisons of a positive measure, one for each data set."""
    pairs = [_pairs(results, comparison) for comparison in comparisons]
    return Lead(model, tuple(comparisons), median_ratio(pairs))


def _leads(
    results: Results, verdicts: Sequence[Verdict], comparisons: Sequence[Comparison]
) -> list[Lead]:
    """Summarises the excesses at each budget."""
    kinds = results.models()
    best = [v.difference for v in verdicts if v.outcome and v.difference and not v.lacking]
    found: dict[Hashable, dict[str | None, list[Comparison]]] = {}
    for model, compared in [(None, best), *((name, comparisons) for name in kinds)]:
        for c in compared:
            of_it = model is None or (c.model == model and kinds[model] != "mlp")
            if of_it and c.measure == "excess" and math.isfinite(c.ratio):
                found.setdefault(c.setting.budgeted, {}).setdefault(model, []).append(c)
    return [
        lead(results, model, own)
        for of_budget in found.values()
        for model, own in of_budget.items()
        if len(own) > 1
    ]


def _pairs(results: Results, comparison: Comparison) -> NDArray[np.float64]:
    """Returns the values behind a comparison, with shape (seeds, 2)."""
    values = results.values(comparison.setting.label, comparison.measure)
    return values[[comparison.model, comparison.baseline]].dropna().to_numpy(np.float64)


def _verdict(field: _Field, comparisons: Sequence[Comparison]) -> Verdict:
    """Makes the verdict of a setting, with an uncorrected p-value."""
    everyone = field.results.models(field.setting.label)
    kinds: tuple[Literal["kan"], Literal["mlp"]] = ("kan", "mlp")
    contest = all(field.of_kind(kind) for kind in kinds)
    models = field.models if contest else everyone
    means = field.means(list(models))
    lacking = next((kind for kind in kinds if contest and field.best(kind) is None), None)
    difference = None
    if contest:
        pair = field.setting, field.stand_in("kan"), field.stand_in("mlp")
        known = {(c.setting, c.model, c.baseline): c for c in comparisons}
        difference = known.get(pair) or field.difference(*pair[1:])
    elif len(means) > 1:
        first, second, *_ = means
        difference = field.difference(first, second)
    if difference and lacking:
        difference = replace(difference, p_value=math.nan, p_holm=math.nan)
    return Verdict(
        setting=field.setting,
        measure=field.measure,
        outcome="undecided" if contest else None,
        models=models,
        left_out=tuple(name for name in everyone if name not in models),
        num_seeds=len(field.values),
        lacking=lacking,
        difference=difference,
        means=means,
    )


def _corrected(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Corrects p-values over the data sets at each budget, and decides."""
    p_values, smallest_ps = [], []
    for verdict in verdicts:
        p_value = smallest = math.nan
        if verdict.outcome is not None and verdict.difference is not None:
            p_value = verdict.difference.p_value
            if not math.isnan(p_value):
                smallest = smallest_permutation_p(verdict.difference.interval.n)
        p_values.append(p_value)
        smallest_ps.append(smallest)
    groups = [verdict.setting.budgeted for verdict in verdicts]
    made = [group for p, group in zip(p_values, groups, strict=True) if not math.isnan(p)]
    found = []
    # Holm's values grow with each p, so the smallest possible p's give the smallest ones.
    for verdict, p_holm, smallest in zip(
        verdicts, _holm_by_group(p_values, groups), _holm_by_group(smallest_ps, groups), strict=True
    ):
        if verdict.outcome is not None and verdict.difference is not None:
            difference = replace(verdict.difference, p_holm=p_holm)
            outcome: Outcome = "not distinguishable"
            if difference.interval.low is None or math.isnan(p_holm):
                outcome = "undecided"
            elif difference.winner is not None:
                outcome = "KAN better" if difference.winner == difference.model else "MLP better"
            verdict = replace(
                verdict,
                outcome=outcome,
                difference=difference,
                num_tests=made.count(verdict.setting.budgeted),
                smallest_p=smallest,
            )
        found.append(verdict)
    return found


def _holm_by_group(p_values: Sequence[float], groups: Sequence[Hashable]) -> list[float]:
    """Corrects p-values within each group."""
    corrected = [math.nan] * len(groups)
    for group in dict.fromkeys(groups):
        indices = [index for index, own in enumerate(groups) if own == group]
        for index, p in zip(indices, holm(p_values[i] for i in indices), strict=True):
            corrected[index] = p
    return corrected
