"""Verdicts: which model is better on each data set, and how certain that is.

Models of a data set are compared by their paired differences: with v_s(a) the measure of model a
and seed s, d_s = v_s(a) - v_s(b) over the seeds that both finished. A seed with a failed trial or a
missing value is left out. A model with less than half of the seeds cannot be the best: the lost
seeds may be its worst. `kan_diffusion.study.results.statistics` says what the bootstrap interval of
the mean difference and the exact sign-flip test assume.

Models can be compared where a study held a resource equal. Where it did not, models can be compared
that happen to have the same number of parameters within 5 %, if they include a KAN and an MLP.

A verdict compares the best KAN with the best MLP, each the model with the lowest mean of its kind.
Choosing the best of several models on the seeds that then judge it flatters it, the more so the
more models there are. Both sides are chosen alike, and the sentence says how many each was chosen
from. If all models are equally good, ten seeds call one side better in 5 % of comparisons of one
KAN with one MLP, in 1 % of the best of 8 with the best of 5, where the luck of both sides cancels,
but in 12 % of the best of 8 with a single opponent. One of the two is called better only if the
p-value, corrected by Holm's method over the data sets, is below 0.05 and the 95 % interval excludes
0.

A *lead* summarises the data sets that have an exact oracle: on how many of them a model, or the
best KAN of each, has less excess than the best MLP, and the median of the ratios.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from kan_diffusion.errors import require_known
from kan_diffusion.study.tasks import JudgedMeasure
from kan_diffusion.study.results.rows import Results
from kan_diffusion.study.results.statistics import (
    SIGNIFICANCE,
    Interval,
    bootstrap_interval,
    holm,
    median_ratio,
    paired_permutation_p,
    smallest_permutation_p,
)

Outcome = Literal["KAN better", "MLP better", "not distinguishable", "undecided"]
"""``undecided``: fewer than two paired seeds, or no model of a kind has half of the seeds."""

_EQUAL_SIZE = 1.05


@dataclass(frozen=True)
class Comparison:
    """The difference of two models in one measure, over the seeds that both have.

    Attributes:
        data: The data set on which they are compared.
        measure: The measure, a column of the rows.
        better: Whether ``"lower"`` or ``"higher"`` values of it are better.
        model: The model.
        baseline: The model it is compared with.
        means: Means of the two over the common seeds.
        interval: Mean paired difference and its 95 % bootstrap interval.
        p_value: Two-sided sign-flip test; NaN where no seed is shared or nothing was tested.
        p_holm: The p-value, corrected by `decide` over the data sets on which the same comparison
            is made.
    """

    data: str
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
    """The comparison of the models of one data set.

    Attributes:
        data: The data set.
        amount: The resource held equal, in words; empty where nothing was.
        measure: The judged measure.
        models: Kind of each model that was compared, in the order of the rows.
        left_out: Models of another size, which were not compared.
        num_seeds: Number of seeds of the data set.
        means: Mean of each model that has half of the seeds, the best first.
        contest: Whether a KAN and an MLP can be compared.
        difference: In a contest the best KAN minus the best MLP, else the best of all models minus
            the next; None where one of the two has not half of the seeds.
        num_tests: Number of data sets in Holm's correction.
        smallest_p: The smallest corrected p that this many seeds can give; NaN without a test.
    """

    data: str
    amount: str
    measure: JudgedMeasure
    models: dict[str, str]
    left_out: tuple[str, ...]
    num_seeds: int
    means: dict[str, float]
    contest: bool
    difference: Comparison | None
    num_tests: int = 1
    smallest_p: float = math.nan

    @property
    def label(self) -> str:
        """Data set and resource held equal."""
        return f"{self.data}, {self.amount}" if self.amount else self.data

    @property
    def outcome(self) -> Outcome | None:
        """Which kind is better; None where there is no contest."""
        difference = self.difference
        if not self.contest:
            return None
        if difference is None or difference.interval.low is None:
            return "undecided"
        better: dict[str | None, Outcome] = {
            None: "not distinguishable",
            difference.model: "KAN better",
            difference.baseline: "MLP better",
        }
        return better[difference.winner]

    def of_kind(self, kind: str) -> list[str]:
        """The compared models of a kind, finished or not."""
        return [name for name, its in self.models.items() if its == kind]


@dataclass(frozen=True)
class Lead:
    """The excess of a model compared with the best MLP's, over data sets with an exact oracle.

    Attributes:
        model: The model; None for the best KAN of each data set.
        amount: The resource held equal, in words; empty where nothing was.
        comparisons: Its comparisons, one for each data set.
        ratio: Median of their ratios as ``mean``, with its 95 % bootstrap interval over seeds.
    """

    model: str | None
    amount: str
    comparisons: tuple[Comparison, ...]
    ratio: Interval

    @classmethod
    def of(cls, results: Results, model: str | None, comparisons: Sequence[Comparison]) -> Lead:
        """Summarises comparisons of a positive measure, one for each data set."""
        pairs = [
            results.values(c.data, c.measure)[[c.model, c.baseline]].dropna().to_numpy(float)
            for c in comparisons
        ]
        return cls(model, results.amount, tuple(comparisons), median_ratio(pairs))

    @property
    def ahead(self) -> list[str]:
        """The data sets on which the model's mean is lower."""
        return [c.data for c in self.comparisons if c.ratio < 1]

    @property
    def better(self) -> list[str]:
        """The data sets on which the model is called better."""
        return [c.data for c in self.comparisons if c.winner == c.model]

    @property
    def worse(self) -> list[str]:
        """The data sets on which the best MLP is called better."""
        return [c.data for c in self.comparisons if c.winner == c.baseline]


@dataclass(frozen=True)
class Decision:
    """Everything a study concludes.

    Attributes:
        verdicts: Verdict of each data set.
        comparisons: Every comparable model of every data set against the best MLP there, in the
            judged measure. Holm's correction is over the data sets on which the same model is
            compared. It does not cover the number of models, so look at the comparisons, but draw
            conclusions from the verdicts.
        leads: With at least two data sets whose oracle is exact, the lead of the best KANs, then
            the leads of all models but MLPs that were compared on at least two.
    """

    verdicts: dict[str, Verdict]
    comparisons: list[Comparison]
    leads: list[Lead]

    def of_data(self, data: str) -> dict[str, Comparison]:
        """The comparisons on one data set, by model."""
        return {c.model: c for c in self.comparisons if c.data == data}


def decide(results: Results) -> Decision:
    """Decides what a study shows, one data set after another.

    Both sides of a verdict are chosen by their mean on the same seeds on which they are then
    compared, which flatters both; see the module.

    Args:
        results: The study.
    """
    compared = {data: compare(results, data) for data in results.data_sets()}
    verdicts = {data: _verdict(results, data, each) for data, each in compared.items()}
    tested = [v.difference for v in verdicts.values() if v.contest and v.difference is not None]
    corrected = holm(difference.p_value for difference in tested)
    # Holm's values grow with each p, so the smallest possible p's give the smallest ones.
    smallest = holm(smallest_permutation_p(difference.interval.n) for difference in tested)
    for difference, p_holm, smallest_p in zip(tested, corrected, smallest, strict=True):
        verdicts[difference.data] = replace(
            verdicts[difference.data],
            difference=replace(difference, p_holm=p_holm),
            num_tests=sum(not math.isnan(p) for p in corrected),
            smallest_p=smallest_p,
        )
    comparisons = correct([c for each in compared.values() for c in each])
    return Decision(verdicts, comparisons, _leads(results, verdicts.values(), comparisons))


def _verdict(results: Results, data: str, compared: Sequence[Comparison]) -> Verdict:
    """Makes the verdict of one data set from its models against the best MLP; nothing is corrected."""
    everyone, equal = results.models(data), _equal_models(results, data)
    contest, measure = {"kan", "mlp"} <= {*equal.values()}, results.judged(data)
    models = equal if contest else everyone
    means, difference = _means(results, data, models), None
    if contest:
        best = next((name for name in means if models[name] == "kan"), None)
        difference = next((c for c in compared if c.model == best), None)
    elif len(means) > 1:
        first, second, *_ = means
        difference = _difference(results, data, measure, first, second)
    return Verdict(
        data=data,
        amount=results.amount,
        measure=measure,
        models=models,
        left_out=tuple(name for name in everyone if name not in models),
        num_seeds=results.of_data(data)["seed"].nunique(),
        means=means,
        contest=contest,
        difference=difference,
    )


def compare(
    results: Results, data: str, measure: str | None = None, baseline: str | None = None
) -> list[Comparison]:
    """Compares every comparable model of a data set with a baseline, paired by seed.

    The best MLP is chosen by the judged measure, whichever measure is compared. Models without a
    common seed are included, with NaN; without an MLP that has half of the seeds the list is empty.

    Args:
        results: The study.
        data: One of its data sets.
        measure: A column that measures a denoiser, such as ``"energy"``; the judged one when None.
        baseline: Name of the model that the others are compared with; the best MLP when None.

    Returns:
        A comparison for each model but the baseline, in the order of the rows. P-values are not
        corrected.

    Raises:
        KanDiffusionError: The study has no such data set, measure or model.
    """
    require_known("data set", data, results.data_sets())
    models, measure = _equal_models(results, data), measure or results.judged(data)
    require_known("measure", measure, [*results.rows])
    if baseline is not None:
        require_known("model", baseline, results.models(data))
    mlps = [name for name, kind in models.items() if kind == "mlp"]
    against = baseline or next(iter(_means(results, data, mlps)), None)
    return [
        _difference(results, data, measure, name, against)
        for name in models
        if against is not None and name != against
    ]


def correct(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Corrects p-values over the data sets on which the same models are compared."""
    corrected = {
        model: iter(holm(c.p_value for c in comparisons if c.model == model))
        for model in {c.model for c in comparisons}
    }
    return [replace(c, p_holm=next(corrected[c.model])) for c in comparisons]


def _equal_models(results: Results, data: str) -> dict[str, str]:
    """Kinds of the models of a data set that are held equal, or the most that happen to be."""
    models = results.models(data)
    if results.match is not None:
        return models
    sizes = results.of_data(data).groupby("name")["parameters"].mean().dropna()
    groups = [sizes.index[sizes.between(least, _EQUAL_SIZE * least)] for least in sorted(sizes)]
    mixed = [group for group in groups if {"kan", "mlp"} <= {models[name] for name in group}]
    kept = max(mixed, key=len, default=())
    return {name: kind for name, kind in models.items() if name in kept}


def _means(results: Results, data: str, names: Iterable[str]) -> dict[str, float]:
    """Computes the means of the models that have half of the seeds, the best first."""
    values = results.values(data, results.judged(data))[list(names)]
    means = values.mean()[2 * values.count() >= len(values)].sort_values(kind="stable")
    return {str(name): float(mean) for name, mean in means.items()}


def _difference(
    results: Results, data: str, measure: str, model: str, baseline: str
) -> Comparison:
    """Compares two models in a measure; nothing is corrected."""
    common = results.values(data, measure)[[model, baseline]].dropna()
    differences = (common[model] - common[baseline]).tolist()
    p_value = paired_permutation_p(differences)
    metric = results.metrics.get(measure)
    return Comparison(
        data=data,
        measure=measure,
        better="lower" if metric is None else metric.better,
        model=model,
        baseline=baseline,
        means=(float(common[model].mean()), float(common[baseline].mean())),
        interval=bootstrap_interval(differences),
        p_value=p_value,
        p_holm=p_value,
    )


def _leads(
    results: Results, verdicts: Iterable[Verdict], comparisons: Sequence[Comparison]
) -> list[Lead]:
    """Summarises excesses over the data sets."""
    candidates: dict[str | None, list[Comparison]] = {
        None: [v.difference for v in verdicts if v.contest and v.difference]
    }
    for model, kind in results.models().items():
        if kind != "mlp":
            candidates[model] = [c for c in comparisons if c.model == model]
    leads = []
    for name, compared in candidates.items():
        exact = [c for c in compared if c.measure == "excess" and math.isfinite(c.ratio)]
        if len(exact) > 1:
            leads.append(Lead.of(results, name, exact))
    return leads
