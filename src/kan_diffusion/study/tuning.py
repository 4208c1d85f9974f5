r"""Tuning with equal effort: every family gets as many tries over the same kind of space.

A *try* is one choice of settings, trained on every data set of the study with a seed that no
reported trial uses. Its value is

.. math:: \frac1D \sum_{d=1}^{D} \log m_d,

with m the judged measure (the excess where the oracle is exact, else the held-out loss): a
logarithm, so that each data set counts alike whatever its scale. The first try of a family is what
it was registered with, before any tuning; the others are chosen by Optuna's tree-structured Parzen
estimator (Bergstra et al. 2011), for each family from its own tries alone.

Tries are kept in a database (an SQLite file in the run folder, or any URL Optuna takes, for many
machines) and their trainings as trials in the run folder: what is finished is not run again, and a
try whose driver died is taken up by the next one. One round runs one try of every family, so that
a family's tries follow one another and a search of one driver is a function of its seed.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from kan_diffusion.denoisers.registry import get_family, untuned_family
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.files import require_free_space, write_json, write_text
from kan_diffusion.study.config import ModelConfig, StudyConfig, TrialConfig
from kan_diffusion.study.executors import TrialEvent, default_workers, run_trials
from kan_diffusion.study.folder import load_trial
from kan_diffusion.study.run import StudyPlan, environment, plan_study
from kan_diffusion.study.search import (
    SILENT_SECONDS,
    chosen_model,
    next_try,
    open_searches,
    sign,
    values_of,
    written,
)

if TYPE_CHECKING:
    import optuna

__all__ = ["Tuned", "apply_tuned", "read_tuned", "tune"]

logger = logging.getLogger(__name__)

_SEED_SHIFT = 1_000_000
"""Added to a study's seed, so that tuning sees other data, noise and initial parameters."""


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes:
        best: Settings of each family that were best: ``depth``, ``learning_rate``, ``settings``.
        tries: One row a try: ``family``, ``try``, ``value``, the judged measure on each data set,
            what was tried, the ids of its trials and, where it gave nothing, the ``error``.
        path: File of the best settings, as ``--tuned`` takes it.
    """

    best: dict[str, dict[str, object]]
    tries: pd.DataFrame
    path: Path


def tune(
    config: StudyConfig,
    folder: Path,
    *,
    tries: int = 12,
    storage: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    executor: str = "local",
    address: str | None = None,
    on_plan: Callable[[StudyPlan], None] | None = None,
    on_event: Callable[[TrialEvent], None] | None = None,
) -> Tuned:
    """Searches the settings of every model of a study.

    Args:
        config: The study: its models' families, data sets, training and its first budget.
        folder: Run folder of the search.
        tries: Number of tries a model.
        storage: URL of a database; an SQLite file in the folder when None.
        device: Where to train.
        workers: How many trainings run side by side; one a CPU core when None.
        executor: ``"local"`` or ``"ray"``.
        address: Of a Ray cluster.
        on_plan: Told of each round's trials before they are run.
        on_event: Told the news of each trial.

    Returns:
        The best settings, which are in the folder's ``tuned.json``, too.

    Raises:
        KanDiffusionError: Optuna is not installed, the study has no budget, a model's family
            cannot be tuned, or no try of a family gave a result.
        RunFolderError: The folder cannot be written.
    """
    config = _searched(config, tries)
    require_free_space(folder, 1_000_000 * tries * len(config.models) * len(config.data))
    workers = default_workers(device) if workers is None else workers
    write_text(folder / "study.yaml", config.to_yaml())
    write_json(folder / "environment.json", environment())
    searches = open_searches(config, folder, storage)
    while True:
        running = {
            name: found
            for name, search in searches.items()
            if (found := next_try(search, config.model(name), tries)) is not None
        }
        if not running:
            break
        _run_round(
            config, folder, searches, running, device, workers, executor, address, on_plan, on_event
        )
    table = _table(config, folder, searches)
    write_json(folder / "tuning.json", json.loads(table.to_json(orient="records")))
    best = {
        config.model(name).family: _best(name, search, config.model(name))
        for name, search in searches.items()
    }
    path = folder / "tuned.json"
    write_json(path, best)
    return Tuned(best, table, path)


def _searched(config: StudyConfig, tries: int) -> StudyConfig:
    """The study as its trainings are set up: one seed, other draws, no sample metrics."""
    if tries < 1:
        raise KanDiffusionError(f"tuning needs at least 1 try a model, not {tries}")
    if not config.budgets:
        raise KanDiffusionError(
            f"study '{config.name}' has no budget that its models share; give --match and "
            "--budget, or a study with budgets"
        )
    families = [model.family for model in config.models]
    for model in config.models:
        if families.count(model.family) > 1:
            raise KanDiffusionError(
                f"family '{model.family}' is there more than once; tune it once"
            )
        if not get_family(model.family).space:
            raise KanDiffusionError(
                f"family '{model.family}' has no space to search; give its Family one"
            )
    evaluation = config.evaluation.model_copy(
        update={"num_samples": 0, "num_likelihood": 0, "moments": ()}
    )
    models = tuple(
        model.resolved(config.training, untuned_family(model.family)) for model in config.models
    )
    return config.model_copy(
        update={
            "data": config.pinned().data,
            "models": models,
            "seed": config.seed + _SEED_SHIFT,
            "seeds": 1,
            "evaluation": evaluation,
            "budgets": config.budgets[:1],
        }
    )


def _run_round(
    config: StudyConfig,
    folder: Path,
    searches: Mapping[str, optuna.Study],
    running: Mapping[str, optuna.Trial],
    device: str,
    workers: int,
    executor: str,
    address: str | None,
    on_plan: Callable[[StudyPlan], None] | None,
    on_event: Callable[[TrialEvent], None] | None,
) -> None:
    """Runs one try of each model and tells the searches what came of them."""
    from optuna.trial import TrialState

    plans, refused = {}, {}
    for name, found in running.items():
        model = chosen_model(config.model(name), found.params)
        try:
            plans[name] = plan_study(
                config.model_copy(update={"models": (model,), "budgets": _budget(config, name)}),
                folder,
                workers,
            )
        except KanDiffusionError as error:  # a depth that misses the budget, say
            refused[name] = str(error)
    plan = StudyPlan(
        trials=tuple(trial for each in plans.values() for trial in each.trials),
        parameters={key: n for each in plans.values() for key, n in each.parameters.items()},
        finished=frozenset(key for each in plans.values() for key in each.finished),
    )
    if on_plan is not None:
        on_plan(plan)
    last_signed = time.monotonic()

    def pass_on(event: TrialEvent) -> None:
        nonlocal last_signed
        if time.monotonic() - last_signed > SILENT_SECONDS / 10:
            last_signed = time.monotonic()
            for found in running.values():
                sign(found)
        if on_event is not None:
            on_event(event)

    todo = [trial for trial in plan.trials if trial.id not in plan.finished]
    todo.sort(key=lambda trial: -plan.parameters[trial.id] * trial.training.steps)
    failures = run_trials(
        todo,
        lambda trial: folder / "trials" / trial.id,
        device=device,
        workers=workers,
        on_event=pass_on,
        executor=executor,
        address=address,
    )
    for name, found in running.items():
        value: float | None = None
        reason = refused.get(name)
        if reason is None:
            value, reason = _value(folder, plans[name].trials, failures)
        if reason is not None:
            found.set_user_attr("error", reason)
        else:
            found.set_user_attr("trials", [trial.id for trial in plans[name].trials])
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        # Another driver that took it for lost may have told it already.
        searches[name].tell(found.number, value, state, skip_if_finished=True)


def _budget(config: StudyConfig, name: str) -> tuple[object, ...]:
    """The study's budget for one model."""
    return tuple(budget.model_copy(update={"models": (name,)}) for budget in config.budgets)


def _value(
    folder: Path, trials: tuple[TrialConfig, ...], failures: Mapping[str, str]
) -> tuple[float | None, str | None]:
    """The value of a try from its trials, or why it has none."""
    logs = []
    for trial in trials:
        result = load_trial(folder / "trials" / trial.id)
        if result is None or result.row["error"] is not None:
            reason = failures.get(trial.id) if result is None else result.row["error"]
            return None, f"{trial.data.name}: {reason}"
        measured = _judged(result.row)
        if measured is None or not measured > 0:
            return None, f"{trial.data.name}: the judged measure is {measured}"
        logs.append(math.log(measured))
    return float(np.mean(logs)), None


def _judged(row: Mapping[str, object]) -> float | None:
    value = row["excess" if row["oracle"] == "exact" else "heldout_loss"]
    return float(value) if isinstance(value, (int, float)) else None


def _table(config: StudyConfig, folder: Path, searches: Mapping[str, optuna.Study]) -> pd.DataFrame:
    rows = []
    for name, search in searches.items():
        model = config.model(name)
        for found in search.get_trials(deepcopy=False):
            if not found.state.is_finished():
                continue
            row: dict[str, object] = {
                "family": model.family,
                "try": found.number,
                "value": found.value,
                "error": found.user_attrs.get("error"),
            }
            ids = found.user_attrs.get("trials", [])
            for trial in ids:
                result = load_trial(folder / "trials" / trial)
                if result is not None:
                    row[str(result.row["data"])] = _judged(result.row)
            row["settings"] = values_of(model.family, found.params)
            row["trials"] = ids
            rows.append(row)
    return pd.DataFrame(rows)


def _best(name: str, search: optuna.Study, model: ModelConfig) -> dict[str, object]:
    from optuna.trial import TrialState

    complete = search.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        first = next((t.user_attrs.get("error") for t in search.get_trials(deepcopy=False)), None)
        raise KanDiffusionError(f"no try of '{name}' gave a result; the first failed with: {first}")
    best = min(complete, key=lambda found: (found.value, found.number))
    chosen = chosen_model(model, best.params)
    own = untuned_family(model.family).settings
    changed = {
        key: value
        for key, value in chosen.settings.items()
        if key not in own or written(own[key]) != written(value)
    }
    return {
        "depth": chosen.depth,
        "learning_rate": chosen.learning_rate,
        "settings": changed,
    }


def read_tuned(path: Path) -> dict[str, dict[str, object]]:
    """Reads a file of tuned settings.

    Raises:
        KanDiffusionError: It is missing or holds something else.
    """
    try:
        content = json.loads(path.read_text())
        return {
            str(family): {
                "depth": chosen["depth"],
                "learning_rate": float(chosen["learning_rate"]),
                "settings": dict(chosen["settings"]),
            }
            for family, chosen in content.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise KanDiffusionError(
            f"'{path}' is not a file of tuned settings ({error}); make one with 'kan-diffusion "
            "tune'"
        ) from error


def apply_tuned(config: StudyConfig, tuned: Mapping[str, Mapping[str, object]]) -> StudyConfig:
    """The study with tuned settings in the place of its models' own, where there are some."""
    models = []
    for model in config.models:
        found = tuned.get(model.family)
        if found is not None:
            settings = found["settings"]
            assert isinstance(settings, Mapping)
            changes = {
                "depth": None if model.hidden is not None else found["depth"],
                "learning_rate": found["learning_rate"],
                "settings": {**model.settings, **settings},
            }
            model = ModelConfig.model_validate({**model.model_dump(), **changes})
        models.append(model)
    return config.model_copy(update={"models": tuple(models)})
