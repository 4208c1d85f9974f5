"""What a study's rows say: which model is better where, and how sure that is.

Models of one setting are compared by their paired differences (`kan_diffusion.study.results.scores`): the
bootstrap interval of the mean difference and the exact sign-flip test
(`kan_diffusion.study.results.statistics`, which says what each assumes).

The verdict of a setting compares the best KAN with the best MLP, each the model with the lowest
mean of its kind. Choosing the best of several on the seeds it is then judged by flatters it, the
more so the more there are to choose from. Both sides are chosen alike, and the sentence says how
many each was chosen from: among models that are all alike, ten seeds have one side called better in
5 % of comparisons of one KAN with one MLP, in 1 % of the best of 8 with the best of 5, whose luck
cancels, but in 12 % of the best of 8 with a lone opponent. One of the two is called better only if
the p-value, corrected by Holm's method over the data sets at that budget, is below 0.05 and the
95 % interval leaves out 0.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from kan_diffusion.errors import DataError
from kan_diffusion.study.results.scores import (
    MEANS_ONLY,
    MEASURES,
    SIZES,
    TIMES,
    PairedDifference,
    Scores,
    Setting,
    Verdict,
    all_scores,
    groups_of,
    judged_measure,
    rows_of,
    settings_of,
)
from kan_diffusion.study.results.statistics import (
    SIGNIFICANCE,
    average_ranks,
    friedman_p,
    holm,
    nemenyi_critical_difference,
    smallest_permutation_p,
    summarise,
)
from kan_diffusion.study.results.wording import budget_sentence, setting_sentence

__all__ = [
    "PairedDifference",
    "Ranking",
    "Setting",
    "SettingVerdict",
    "Verdict",
    "differences_to_best_mlp",
    "judged_measure",
    "measure_table",
    "overall_sentence",
    "pareto_front",
    "rankings",
    "rows_of",
    "settings_of",
    "verdicts",
]


@dataclass(frozen=True)
class SettingVerdict:
    """Whether the best KAN or the best MLP of a setting is better.

    Attributes:
        setting: The setting.
        measure: The judged measure.
        verdict: The answer.
        kan: The KAN with the lowest mean.
        mlp: The MLP with the lowest mean.
        num_kans: How many KANs it was chosen from.
        num_mlps: How many MLPs it was chosen from.
        difference: ``kan`` minus ``mlp``.
        sentence: The answer in words, with its numbers.
    """

    setting: Setting
    measure: str
    verdict: Verdict
    kan: str
    mlp: str
    num_kans: int
    num_mlps: int
    difference: PairedDifference
    sentence: str


@dataclass(frozen=True)
class Ranking:
    """The order of models over the data sets of one budget (Demšar 2006).

    Attributes:
        match: What was held equal.
        budget: The amount of it.
        models: The models, best first.
        mean_ranks: Their mean ranks over data sets; 1 is the best.
        num_settings: How many data sets there are.
        friedman_p: Friedman's test that all models are alike.
        critical_difference: Nemenyi's at 0.05: mean ranks nearer than it are not told apart.
        cliques: Groups of two or more consecutive models whose extremes are nearer than it, none
            within another.
    """

    match: str | None
    budget: float | None
    models: list[str]
    mean_ranks: list[float]
    num_settings: int
    friedman_p: float
    critical_difference: float
    cliques: list[tuple[str, ...]]


def differences_to_best_mlp(rows: pd.DataFrame) -> list[PairedDifference]:
    """Every model of every setting against the MLP with the lowest mean there.

    Models without a seed in common with that MLP are included, with NaN. The MLP itself is not,
    and neither are settings where no MLP has half of the seeds. Holm's correction is over the data
    sets at one budget on which the same model is compared; it does not cover the number of models,
    so this is a table to look at, and `verdicts` are what to conclude from.

    Raises:
        DataError: As `settings_of`, or a setting has a model's seed twice.
    """
    found = []
    for scores in all_scores(rows):
        baseline = scores.best("mlp")
        if baseline is not None:
            others = (model for model in scores.kinds if model != baseline)
            found += [scores.difference(model, baseline) for model in others]
    return _holm_corrected(found, [(d.setting.budgeted, d.model) for d in found])


def verdicts(rows: pd.DataFrame) -> list[SettingVerdict]:
    """The best KAN against the best MLP of every setting that has both kinds.

    Both are chosen by their mean on the very seeds they are then compared on, which flatters
    both; see the module. Where no model of a kind has half of the seeds, the one with the most of
    them stands for it, nothing is tested, and the verdict is ``undecided``.

    Raises:
        DataError: As `differences_to_best_mlp`.
    """
    pairs = [s for s in all_scores(rows) if s.models("kan") and s.models("mlp")]
    differences = [_kan_minus_mlp(scores) for scores in pairs]
    groups = [scores.setting.budgeted for scores in pairs]
    corrected = _holm_corrected(differences, groups)
    # Holm's values grow with each p, so those of the smallest p possible are the smallest possible.
    attainable = _holm_corrected([_most_extreme(each) for each in differences], groups)
    tested = [each.setting.budgeted for each in differences if not math.isnan(each.p_value)]
    found = []
    for scores, difference, extreme in zip(pairs, corrected, attainable, strict=True):
        verdict, num_tests = _judge(difference), tested.count(scores.setting.budgeted)
        found.append(
            SettingVerdict(
                setting=scores.setting,
                measure=scores.measure,
                verdict=verdict,
                kan=difference.model,
                mlp=difference.baseline,
                num_kans=len(scores.models("kan")),
                num_mlps=len(scores.models("mlp")),
                difference=difference,
                sentence=setting_sentence(scores, difference, verdict, num_tests, extreme),
            )
        )
    return found


def overall_sentence(verdicts: Sequence[SettingVerdict]) -> str:
    """All verdicts, a sentence for each budget."""
    if not verdicts:
        return "No data set has both a KAN and an MLP, so there is nothing to compare."
    groups: dict[Hashable, list[tuple[Setting, Verdict]]] = {}
    for each in verdicts:
        groups.setdefault(each.setting.budgeted, []).append((each.setting, each.verdict))
    return " ".join(budget_sentence(group) for group in groups.values())


def rankings(rows: pd.DataFrame) -> list[Ranking]:
    """Models in the order of their mean rank over the data sets of each budget.

    A data set ranks the models by the mean of its judged measure. Only models that have half of the
    seeds on every data set are ranked, and only budgets with two data sets and two such models.

    Raises:
        DataError: As `differences_to_best_mlp`.
    """
    groups: dict[tuple[str | None, float | None], list[Scores]] = {}
    for scores in all_scores(rows):
        groups.setdefault(scores.setting.budgeted, []).append(scores)
    found = []
    for (match, budget), group in groups.items():
        # A row a data set; a model that one of them lacks has NaN there.
        means = pd.DataFrame([scores.means for scores in group]).dropna(axis="columns")
        if len(group) < 2 or means.shape[1] < 2:
            continue
        values = means.to_numpy(np.float64)
        ranks = average_ranks(values)
        order = np.argsort(ranks, kind="stable")
        models = [str(means.columns[index]) for index in order]
        mean_ranks = [float(ranks[index]) for index in order]
        distance = nemenyi_critical_difference(len(models), len(group), SIGNIFICANCE)
        found.append(
            Ranking(
                match=match,
                budget=budget,
                models=models,
                mean_ranks=mean_ranks,
                num_settings=len(group),
                friedman_p=friedman_p(values),
                critical_difference=distance,
                cliques=_cliques(models, mean_ranks, distance),
            )
        )
    return found


def pareto_front(times: Sequence[float], values: Sequence[float]) -> list[int]:
    """The points that none other beats in both time and value; lower is better in both.

    Args:
        times: A time each.
        values: A value each. A point whose time or value is not finite is left out.

    Returns:
        Indices by rising time. Points that are equal in both are all of the front.

    Raises:
        DataError: The two are not equally many.
    """
    if len(times) != len(values):
        raise DataError(f"{len(times)} times and {len(values)} values make no points; give as many")
    points = [
        (float(time), float(value), index)
        for index, (time, value) in enumerate(zip(times, values, strict=True))
        if math.isfinite(time) and math.isfinite(value)
    ]
    front: list[tuple[float, float, int]] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1] or point[:2] == front[-1][:2]:
            front.append(point)
    return [index for _, _, index in front]


def measure_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The numbers of a study, a row for each model of each setting.

    Args:
        rows: One row a trial, as in `settings_of`.

    Returns:
        Columns ``data``, ``match``, ``budget``, ``label``, ``name``, ``family``, ``kind``,
        ``parameters``, ``flops``, ``flops_per_edge``, ``measure`` (the judged one), ``seeds``
        (trials that did not fail), ``failed``, ``trials`` (the ids behind the numbers, a list);
        ``<m>_mean``, ``<m>_low``, ``<m>_high`` (Student's 95 % interval, NaN where unknown) and
        ``<m>_n`` for m in ``judged``, ``excess``, ``heldout_loss``, ``nll`` and the sample metrics;
        then the means ``floor``, ``nll_real``, ``<metric>_real``, ``train_seconds`` and
        ``train_cpu_seconds``, NaN where nothing was measured.

    Raises:
        DataError: As `settings_of`.
    """
    measured = ["judged", *MEASURES]
    parts = ("mean", "low", "high", "n")
    columns = [
        *("data", "match", "budget", "label", "name", "family", "kind", *SIZES),
        *("measure", "seeds", "failed", "trials"),
        *(f"{measure}_{part}" for measure in measured for part in parts),
        *MEANS_ONLY,
        *TIMES,
    ]
    records: list[dict[Hashable, object]] = []
    for setting, table in groups_of(rows).items():
        measure = judged_measure(table)
        numbers = summarise(table.assign(judged=table[measure]), ["name"], measured)
        for (_, group), interval in zip(
            table.groupby("name", sort=False), numbers.to_dict("records"), strict=True
        ):
            good = group[~group["failed"]]
            record: dict[Hashable, object] = {
                "data": setting.data,
                "match": setting.match,
                "budget": setting.budget,
                "label": setting.label,
                "measure": measure,
                "seeds": len(good),
                "failed": len(group) - len(good),
                "trials": [str(trial) for trial in good["trial"] if pd.notna(trial)],
            }
            record.update(interval)
            record.update(group[["family", "kind"]].iloc[0].to_dict())
            record.update(group[[*SIZES, *MEANS_ONLY, *TIMES]].mean().to_dict())
            records.append(record)
    return pd.DataFrame(records, columns=columns)


def _kan_minus_mlp(scores: Scores) -> PairedDifference:
    """The best KAN minus the best MLP, without a test where there is no best."""
    difference = scores.difference(scores.stand_in("kan"), scores.stand_in("mlp"))
    if scores.best("kan") is None or scores.best("mlp") is None:
        return replace(difference, p_value=math.nan)
    return difference


def _most_extreme(difference: PairedDifference) -> PairedDifference:
    """The same with the smallest p-value that so many seeds can give."""
    if math.isnan(difference.p_value):
        return difference
    return replace(difference, p_value=smallest_permutation_p(difference.interval.n))


def _holm_corrected(
    differences: Sequence[PairedDifference], groups: Sequence[Hashable]
) -> list[PairedDifference]:
    """The differences with ``p_holm`` filled in, corrected over those of one group."""
    corrected = list(differences)
    for group in dict.fromkeys(groups):
        indices = [index for index, own in enumerate(groups) if own == group]
        adjusted = holm(differences[index].p_value for index in indices)
        for index, p_holm in zip(indices, adjusted, strict=True):
            corrected[index] = replace(differences[index], p_holm=p_holm)
    return corrected


def _judge(difference: PairedDifference) -> Verdict:
    low, high = difference.interval.low, difference.interval.high
    if low is None or high is None or math.isnan(difference.p_holm):
        return "undecided"
    if difference.p_holm < SIGNIFICANCE and high < 0:
        return "KAN better"
    if difference.p_holm < SIGNIFICANCE and low > 0:
        return "MLP better"
    return "not distinguishable"


def _cliques(
    models: Sequence[str], mean_ranks: Sequence[float], distance: float
) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    reached = 0
    for first, rank in enumerate(mean_ranks):
        end = first + sum(other - rank < distance for other in mean_ranks[first:])
        if end > max(reached, first + 1):
            found.append(tuple(models[first:end]))
            reached = end
    return found
