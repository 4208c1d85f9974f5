"""Comparisons in plain words, with the numbers they rest on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kan_diffusion.study.results.scores import PairedDifference, Scores, Setting, Verdict
from kan_diffusion.study.results.statistics import SIGNIFICANCE

__all__ = ["budget_sentence", "setting_sentence"]

_KINDS = {"kan": "KAN", "mlp": "MLP"}
_MEASURES = {"excess": "an excess", "heldout_loss": "a held-out loss"}
_SAME_SIZE = 1.05
_ENDINGS: dict[Verdict, str] = {
    "KAN better": "the best KAN is better than the best MLP",
    "MLP better": "the best MLP is better than the best KAN",
    "not distinguishable": "the best KAN and the best MLP are not distinguishable",
    "undecided": "KAN against MLP is undecided",
}


def setting_sentence(
    scores: Scores,
    difference: PairedDifference,
    verdict: Verdict,
    num_tests: int,
    attainable: PairedDifference,
) -> str:
    """How the best KAN and the best MLP of a setting compare.

    Args:
        scores: The setting's models.
        difference: The KAN minus the MLP.
        verdict: What follows from it.
        num_tests: How many data sets Holm's correction is over.
        attainable: The same with the smallest p-values that so many seeds can give.
    """
    label = scores.setting.label
    for kind, word in _KINDS.items():
        if scores.best(kind) is None:
            num_seeds = len(scores.values)
            return f"{label}: no {word} finished half of its {num_seeds} seeds: undecided."
    common = scores.common(difference.model, difference.baseline)
    sides = {
        difference.model: _side(scores, "kan", difference.model),
        difference.baseline: _side(scores, "mlp", difference.baseline),
    }
    if common.empty:
        return f"{label}: {' and '.join(sides.values())} have no seed in common: undecided."
    means = common.mean()
    lower, upper = sorted(sides, key=lambda name: means[name])
    small, large = float(means[lower]), float(means[upper])
    first, second = _fixed([small, large], _step(small, large))
    text = (
        f"{label}: {sides[lower]} has {_MEASURES[scores.measure]} of {first}, {sides[upper]} "
        f"{second}{_more(small, large)}; "
    )
    interval = difference.interval
    if interval.low is None or interval.high is None:
        return (
            text + "one seed in common decides nothing: undecided." + _sizes(scores, lower, upper)
        )
    step = max(abs(interval.low), abs(interval.high)) / 10
    mean, low, high = _fixed([interval.mean, interval.low, interval.high], step)
    corrected = f" (Holm over {num_tests} data sets {_p(difference.p_holm)})"
    return (
        f"{text}paired difference (KAN minus MLP) {mean} [{low}, {high}] over {len(common)} seeds, "
        f"p = {_p(difference.p_value)}{corrected if num_tests > 1 else ''}: {verdict}."
        f"{_reach(attainable, num_tests)}{_sizes(scores, lower, upper)}"
    )


def budget_sentence(verdicts: Sequence[tuple[Setting, Verdict]]) -> str:
    """The verdicts of all settings of one budget, one or more, in one sentence."""
    amount = verdicts[0][0].amount
    where = f" at {amount}" if amount else ""
    if len(verdicts) == 1:
        setting, verdict = verdicts[0]
        return f"On {setting.data}{where} {_ENDINGS[verdict]}."
    datas: dict[Verdict, list[str]] = {verdict: [] for verdict in _ENDINGS}
    for setting, verdict in verdicts:
        datas[verdict].append(setting.data)
    kan, mlp = (
        f"{len(names)} ({', '.join(names)})" if names else "none"
        for names in (datas["KAN better"], datas["MLP better"])
    )
    text = (
        f"Of {len(verdicts)} data sets{where} the best KAN is better on {kan}, "
        f"the best MLP on {mlp}"
    )
    level, undecided = len(datas["not distinguishable"]), len(datas["undecided"])
    if level:
        text += f"; on {level} they are not distinguishable"
    if undecided:
        text += f"; {undecided} {'is' if undecided == 1 else 'are'} undecided"
    return text + "."


def _side(scores: Scores, kind: str, name: str) -> str:
    count, word = len(scores.models(kind)), _KINDS[kind]
    return f"the only {word} ({name})" if count == 1 else f"the best {word} ({name}, of {count})"


def _more(small: float, large: float) -> str:
    """How much more a value is than a smaller one; nothing where that has no meaning."""
    if small <= 0:
        return ""
    ratio = large / small
    if ratio >= 2:
        return f": {ratio:,.{0 if ratio >= 10 else 1}f} times as much"
    percent = 100 * (ratio - 1)
    if percent >= 0.1:
        return f": {percent:.{0 if percent >= 10 else 1}f} % more"
    return ": less than 0.1 % more" if large > small else ": equal"


def _reach(attainable: PairedDifference, num_tests: int) -> str:
    """What to say where no outcome of so few seeds could have been called a difference."""
    if attainable.p_holm < SIGNIFICANCE:
        return ""
    rest = f"over {num_tests} data sets {SIGNIFICANCE} is out of reach"
    if attainable.p_value >= SIGNIFICANCE:
        rest = f"{SIGNIFICANCE} is out of reach even uncorrected"
    return (
        f" No outcome of {attainable.interval.n} seeds has a p below {_p(attainable.p_value)}, so "
        f"{rest}."
    )


def _sizes(scores: Scores, lower: str, upper: str) -> str:
    """A warning where nothing was held equal and the models differ in size."""
    first, second = scores.parameters[lower], scores.parameters[upper]
    if scores.setting.match is not None or not max(first, second) > _SAME_SIZE * min(first, second):
        return ""
    return f" Their sizes differ: {first:,.0f} and {second:,.0f} parameters."


def _step(small: float, large: float) -> float:
    """To what two values are written: three digits, or up to five more to tell them apart."""
    least = min((abs(value) for value in (small, large) if value), default=0.0)
    gap = (large - small) or least
    return min(least / 100, max(gap / 10, least / 1e7))


def _fixed(values: Sequence[float], step: float) -> list[str]:
    """Numbers to one number of decimals, that of the first digit of ``step``."""
    decimals = max(0, -math.floor(math.log10(step))) if step > 0 else 0
    if decimals > 9:
        written = [f"{value:.2e}" for value in values]
    else:
        # Adding 0 takes the sign off a zero.
        written = [f"{round(value, decimals) + 0.0:,.{decimals}f}" for value in values]
    return [text.replace("-", "−") for text in written]


def _p(value: float) -> str:
    return f"{value:.3g}" if value >= 1e-4 else "0.0001 or less"
