r"""Rehearsals: trainings that choose the best model sizes under a budget of time.

Under a budget of S seconds, a larger model takes fewer steps. Before a study, each model whose size
is free is trained for S seconds at every size of :data:`.budgets.SIZES`, on each data set, with
seeds that no reported trial uses. It keeps the size with the lowest

.. math:: \frac1P \sum_{p=1}^{P} \log m_p,

with :math:`m_p` the judged measure under the p-th process (the excess where the oracle is exact,
else the held-out loss). Rehearsals are trials in their own run folder, ``rehearsals/`` inside the
study's. The chosen sizes are written to the study's ``sizes.json`` and are not chosen again, unless
the settings of a model have changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Annotated

import numpy as np
from pydantic import Field, TypeAdapter

from kan_diffusion.data.sources import load_dataset
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.files import read_as, write_json
from kan_diffusion.limits import MOST_PARAMETERS
from kan_diffusion.study.budgets import SIZES, Budget
from kan_diffusion.study.config import StudyConfig, TrialConfig, read_study
from kan_diffusion.study.folder import STUDY, Row
from kan_diffusion.study.measure import judged_measure
from kan_diffusion.study.planning import CHOSEN_SIZES, Driver
from kan_diffusion.study.tasks import task_of

__all__ = ["judged", "mean_log", "rehearse", "unreported"]

_REHEARSALS = "rehearsals"
_SIZES = TypeAdapter(dict[str, Annotated[int, Field(ge=1, le=MOST_PARAMETERS)]])

_SEED_SHIFT = 1_000_000
"""Added to a study's seed: rehearsals and tuning get other data, noise and initial parameters."""


def unreported(config: StudyConfig, budgets: Sequence[Budget]) -> StudyConfig:
    """Makes a study whose trials are judged but not reported: one seed, other draws, no samples."""
    unsampled = {"num_samples": 0, "num_likelihood": 0, "moments": ()}
    return config.model_copy(
        update={
            "seed": config.seed + _SEED_SHIFT,
            "seeds": 1,
            "evaluation": config.evaluation.model_copy(update=unsampled),
            "budgets": tuple(budgets),
        }
    )


def judged(row: Mapping[str, object]) -> float | None:
    """The judged measure of a row; None where there is none."""
    value = row[judged_measure([row["oracle"]])]
    return float(value) if isinstance(value, (int, float)) else None


def mean_log(
    trials: Sequence[TrialConfig],
    row_of: Callable[[str], Row | None],
    failures: Mapping[str, str],
) -> tuple[float | None, str | None]:
    """Computes the mean log of the judged measure over trials, or the reason why there is none.

    Args:
        trials: The trials.
        row_of: Gives the row of a trial by its id; None if it is not finished.
        failures: Ids of trials that could not be run, with the reason.
    """
    logs = []
    for trial in trials:
        row = row_of(trial.id)
        if row is None or row["error"] is not None:
            reason = failures.get(trial.id) if row is None else row["error"]
            return None, f"{trial.data.name}: {reason}"
        measured = judged(row)
        if measured is None or not measured > 0:
            return None, f"{trial.data.name}: the judged measure is {measured}"
        logs.append(math.log(measured))
    return float(np.mean(logs)), None


def rehearse(config: StudyConfig, driver: Driver) -> StudyConfig:
    """Chooses the model sizes that a study's budgets of time leave free.

    Args:
        config: The study, pinned.
        driver: What runs the study; the rehearsals are run alike. Sizes that were chosen in its
            folder before are kept, unless the ``study.yaml`` there has other settings of their
            model.

    Returns:
        The study, in which budgets of time give a size to every model without its own.

    Raises:
        DataError: A data set cannot be used.
        KanDiffusionError: A model cannot be built at any size, or no rehearsal of it gave a result.
    """
    path = driver.folder / CHOSEN_SIZES
    chosen: dict[str, int] = {}
    if path.exists():
        chosen = read_as(_SIZES, path, "a file of sizes", "delete it to choose them again")
        study = driver.folder / STUDY
        known = read_study(study).models if study.exists() else config.models
        changed = {model.name for model in config.models if model not in known}
        for budget, data, model in _free(config):
            if model in changed:
                chosen.pop(_place(budget, data, model), None)
    settled = _sized(config, chosen)
    if not any(_free(settled)):
        return settled
    driver = replace(driver, folder=driver.folder / _REHEARSALS)
    plan = driver.plan(unreported(config, _ladder(settled)))
    failures = driver.run(plan)
    chosen |= _best(settled, plan.trials, driver.row_of(), failures)
    write_json(path, chosen)  # a second driver writes the same sizes
    return _sized(config, chosen)


def _free(config: StudyConfig) -> Iterator[tuple[Budget, str, str]]:
    """Yields each budget, data set name and model name whose size is free."""
    for budget, data, model in product(config.budgets, config.data, config.models):
        free = budget.match == "time" and not (budget.size or model.size)
        if free and budget.includes(data.name, model.name):
            yield budget, data.name, model.name


def _rest(config: StudyConfig, budget: Budget) -> list[Budget]:
    """Restricts a budget to the models whose size is not free, if there are any."""
    if budget.match != "time" or budget.size:
        return [budget]
    asked = budget.models or tuple(model.name for model in config.models)
    sized = tuple(m.name for m in config.models if m.size and m.name in asked)
    return [budget.model_copy(update={"models": sized})] if sized else []


def _place(budget: Budget, data: str, model: str) -> str:
    return f"{data}: {model}, {budget.amount:g} s"


def _at(budget: Budget, data: str, model: str, params: int | None) -> Budget:
    """Restricts a budget to one data set and model, with a size."""
    return budget.model_copy(update={"params": params, "data": (data,), "models": (model,)})


def _sized(config: StudyConfig, chosen: Mapping[str, int]) -> StudyConfig:
    """Replaces free sizes by the chosen ones."""
    budgets: list[Budget] = []
    for budget in config.budgets:
        budgets += _rest(config, budget)
        budgets += [
            _at(budget, data, model, chosen.get(_place(budget, data, model)))
            for own, data, model in _free(config)
            if own == budget
        ]
    return config.model_copy(update={"budgets": tuple(budgets)})


def _ladder(config: StudyConfig) -> list[Budget]:
    """Lists the free budgets, once for each size at which the model can be built."""
    budgets: list[Budget] = []
    for budget, data, model in _free(config):
        tried = [_at(budget, data, model, size) for size in SIZES]
        dataset, reason, fitting = None, "", []
        for each in tried:
            (trial, *_) = unreported(config, [each]).trials()
            if dataset is None:
                dataset = load_dataset(trial.data, trial.study_seed, 0)
            try:
                task_of(trial.data).build(trial, dataset)
            except KanDiffusionError as error:
                reason = str(error)
            else:
                fitting.append(each)
        if not fitting:
            raise KanDiffusionError(f"model '{model}' on '{data}' fits no size: {reason}")
        budgets += fitting
    return budgets


def _best(
    config: StudyConfig,
    trials: Sequence[TrialConfig],
    row_of: Callable[[str], Row | None],
    failures: Mapping[str, str],
) -> dict[str, int]:
    """Chooses the best size for each budget, data set and model, keyed by their `_place`."""
    chosen = {}
    for budget, data, model in _free(config):
        values, reason = {}, None
        for size in SIZES:
            theirs = [
                trial
                for trial in trials
                if (trial.budget, trial.data.name, trial.model.name) == (budget.amount, data, model)
                and trial.model.params == size
            ]
            if theirs:
                value, why = mean_log(theirs, row_of, failures)
                reason = why or reason
                if value is not None:
                    values[size] = value
        if not values:
            raise KanDiffusionError(
                f"no rehearsal of '{model}' on '{data}' gave a result; the last failed with: "
                f"{reason}"
            )
        chosen[_place(budget, data, model)] = min(values, key=lambda size: (values[size], size))
    return chosen
