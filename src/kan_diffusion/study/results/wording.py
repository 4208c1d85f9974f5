"""Verdicts in plain words, with the numbers they rest on.

All that a study says about its models is written here: the terminal, the report and the
documentation show these sentences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from kan_diffusion.study.results.rows import MEASURES
from kan_diffusion.study.results.statistics import SIGNIFICANCE, smallest_permutation_p
from kan_diffusion.study.results.verdicts import Comparison, Decision, Lead, Outcome, Verdict

_KINDS = {"kan": "KAN", "mlp": "MLP"}
_ENDINGS: dict[Outcome, str] = {
    "KAN better": "the best KAN is better than the best MLP",
    "MLP better": "the best MLP is better than the best KAN",
    "not distinguishable": "the best KAN and the best MLP are not distinguishable",
    "undecided": "KAN against MLP is undecided",
}


def sentences(decision: Decision) -> list[str]:
    """Says everything a study concludes: a paragraph for each data set, then a summary."""
    said = [say(verdict) for verdict in decision.verdicts.values()]
    together = overall(decision)
    return [*said, together] if together else said


def say(verdict: Verdict, with_label: bool = True) -> str:
    """Says the verdict of one data set, or compares its best models if there is none.

    Args:
        verdict: The verdict.
        with_label: Whether to begin with the data set and the resource held equal.
    """
    text = _judged(verdict)
    if verdict.left_out:
        text += f" Only models of equal size are compared: {listed(list(verdict.models))}."
    return f"{verdict.label}: {text}" if with_label else capitalised(text)


def overall(decision: Decision) -> str:
    """Summarises all verdicts in one sentence; empty without verdicts."""
    outcomes = {v.data: v.outcome for v in decision.verdicts.values() if v.outcome is not None}
    if not outcomes:
        return ""
    (name, outcome), *_ = outcomes.items()
    amount = decision.verdicts[name].amount
    where = f" at {amount}" if amount else ""
    if len(outcomes) == 1:
        return f"On {name}{where} {_ENDINGS[outcome]}."
    data = {end: [name for name, each in outcomes.items() if each == end] for end in _ENDINGS}
    kan, mlp = _counted(data["KAN better"]), _counted(data["MLP better"])
    text = (
        f"Of {len(outcomes)} data sets{where} the best KAN is better on {kan}, "
        f"the best MLP on {mlp}"
    )
    level, undecided = len(data["not distinguishable"]), len(data["undecided"])
    if level:
        text += f"; on {level} they are not distinguishable"
    if undecided:
        text += f"; {undecided} {'is' if undecided == 1 else 'are'} undecided"
    for lead in decision.leads:
        if lead.model is None:
            count = len(lead.comparisons)
            some = f" of {count} data sets" if count < len(outcomes) else ""
            text += f"; the ratio of their excesses is {_median(lead)}{some}"
    return text + "."


def say_lead(lead: Lead) -> str:
    """Says how far a model is ahead of the best MLPs over the data sets."""
    side = "the best KAN" if lead.model is None else lead.model
    ratios = [comparison.ratio for comparison in lead.comparisons]
    text = (
        f"{f'At {lead.amount} ' if lead.amount else ''}{side} has less excess than the best MLP on "
        f"{len(lead.ahead)} of {len(ratios)} data sets. It is called better on "
        f"{_counted(lead.better)} and worse on {_counted(lead.worse)}. "
    )
    return capitalised(text) + f"The ratio is {_median(lead)}."


def _median(lead: Lead) -> str:
    """Writes the median of a lead's ratios with its interval."""
    low, high = lead.ratio.low, lead.ratio.high
    middle, *ends = _fixed([lead.ratio.mean, low or 0.0, high or 0.0], 0.01)
    interval = f" [{', '.join(ends)}]" if low is not None else ""
    return f"{middle}{interval} in the median"


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names)})" if names else "none"


def listed(names: Sequence[str]) -> str:
    """Lists names as a sentence does: ``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def capitalised(text: str) -> str:
    """Begins a text with a capital letter and leaves the rest as it is."""
    return text[:1].upper() + text[1:]


def _judged(verdict: Verdict) -> str:
    """Compares the best KAN and the best MLP, or the best two of models without a verdict."""
    difference, measure = verdict.difference, MEASURES[verdict.measure]
    if difference is None and verdict.contest:
        has_kan = any(name in verdict.means for name in verdict.of_kind("kan"))
        lost = "MLP" if has_kan else "KAN"
        return f"no {lost} finished half of its {verdict.num_seeds} seeds: undecided."
    if difference is None:
        for name, mean in verdict.means.items():
            (value,) = _fixed([mean], mean / 100)
            return f"{name} has {_a(measure)} of {value}; there is no second model to compare."
        return "no model finished half of its seeds."
    first, second, minus = difference.model, difference.baseline, "KAN minus MLP"
    if verdict.contest:
        first, second = _side(verdict, "kan", first), _side(verdict, "mlp", second)
        end = f": {verdict.outcome}."
    else:
        minus = f"{first} minus {second}"
        missing = [word for kind, word in _KINDS.items() if not verdict.of_kind(kind)]
        why = f"no {' and no '.join(missing)} to compare" if missing else "no KAN and MLP of equal size"
        unfinished = [name for name in verdict.models if name not in verdict.means]
        tail = f" {listed(unfinished)} did not finish half of the seeds." if unfinished else ""
        end = f". There is {why}, so no verdict.{tail}"
    if not difference.interval.n:
        return f"{first} and {second} have no seed in common{end}"
    sides = zip((first, second), difference.means, strict=True)
    (lower, small), (upper, large) = sorted(sides, key=lambda side: side[1])
    low, high = _fixed([small, large], _step(small, large))
    text = f"{lower} has {_a(measure)} of {low}, {upper} {high}{_more(small, large)}; "
    if difference.interval.low is None:
        return f"{text}one seed in common decides nothing{end}"
    paired = _paired(difference, minus, verdict.num_tests)
    return f"{text}{paired}{end}{_reach(verdict, difference)}"


def _side(verdict: Verdict, kind: str, name: str) -> str:
    count, word = len(verdict.of_kind(kind)), _KINDS[kind]
    return f"the only {word} ({name})" if count == 1 else f"the best {word} ({name}, of {count})"


def _a(word: str) -> str:
    return f"an {word}" if word[0] == "e" else f"a {word}"


def _paired(difference: Comparison, sides: str, num_tests: int) -> str:
    """Writes a paired difference with its interval, number of seeds and p-value."""
    interval = difference.interval
    low, high = interval.low or 0.0, interval.high or 0.0
    mean, *ends = _fixed([interval.mean, low, high], max(abs(low), abs(high)) / 10)
    corrected = f" (Holm over {num_tests} data sets {_p(difference.p_holm)})"
    return (
        f"paired difference ({sides}) {mean} [{', '.join(ends)}] over {interval.n} seeds, "
        f"p = {_p(difference.p_value)}{corrected if num_tests > 1 else ''}"
    )


def _more(small: float, large: float) -> str:
    """Says how much more a value is than a smaller one, if the smaller one is positive."""
    if small <= 0:
        return ""
    ratio = large / small
    if ratio >= 2:
        return f": {ratio:,.{0 if ratio >= 10 else 1}f} times as much"
    percent = 100 * (ratio - 1)
    if percent >= 0.1:
        return f": {percent:.{0 if percent >= 10 else 1}f} % more"
    return ": less than 0.1 % more" if large > small else ": equal"


def _reach(verdict: Verdict, difference: Comparison) -> str:
    """Says so if too few seeds made a significant difference impossible."""
    if not verdict.smallest_p >= SIGNIFICANCE:
        return ""
    smallest = smallest_permutation_p(difference.interval.n)
    rest = f"over {verdict.num_tests} data sets {SIGNIFICANCE} is out of reach"
    if smallest >= SIGNIFICANCE:
        rest = f"{SIGNIFICANCE} is out of reach even uncorrected"
    return f" No outcome of {difference.interval.n} seeds has a p below {_p(smallest)}, so {rest}."


def _step(small: float, large: float) -> float:
    """Returns the rounding of two values: three digits, or up to five more to tell them apart."""
    least = min((abs(value) for value in (small, large) if value), default=0.0)
    gap = (large - small) or least
    return min(least / 100, max(gap / 10, least / 1e7))


def _fixed(values: Sequence[float], step: float) -> list[str]:
    """Writes numbers with equally many decimals, down to the first digit of ``step``."""
    decimals = max(0, -math.floor(math.log10(step))) if step > 0 else 0
    if decimals > 9:
        written = [f"{value:.2e}" for value in values]
    else:
        # Adding 0 removes the sign of a zero.
        written = [f"{round(value, decimals) + 0.0:,.{decimals}f}" for value in values]
    return [text.replace("-", "−") for text in written]


def _p(value: float) -> str:
    return f"{value:.3g}" if value >= 1e-4 else "0.0001 or less"
