"""The searches behind tuning: Optuna's database, its tries, and what they are values of.

A search is an Optuna study of one model. Its space is that of the model's family; the values of a
`Choice` are written as JSON, because a database keeps plain values alone. A try that is asked for
is signed by its driver, so that another one knows whether it was lost.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from kan_diffusion.denoisers.family import Choice, IntRange, Range
from kan_diffusion.denoisers.registry import Setting, get_family
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.randomness import stream_seed
from kan_diffusion.study.config import ModelConfig, StudyConfig

if TYPE_CHECKING:
    import optuna

__all__ = [
    "SILENT_SECONDS",
    "chosen_model",
    "next_try",
    "open_searches",
    "sign",
    "values_of",
    "written",
]

SILENT_SECONDS = 600.0
"""A try of another machine without news for so long is taken for lost."""


def open_searches(
    config: StudyConfig, folder: Path, storage: str | None
) -> dict[str, optuna.Study]:
    """The search of each model, by its name."""
    try:
        import optuna
    except ImportError as error:
        raise KanDiffusionError(
            "tuning needs Optuna; install it with: pip install 'kan-diffusion[tune]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = storage or f"sqlite:///{(folder / 'tuning.db').absolute()}"
    try:
        database = optuna.storages.RDBStorage(url)
    except Exception as error:  # SQLAlchemy has its own, and Optuna others for each database
        raise KanDiffusionError(
            f"the database '{url}' cannot be used ({' '.join(str(error).split())[:200]}); give "
            "another --storage"
        ) from error
    searches = {}
    for model in config.models:
        search = optuna.create_study(
            storage=database,
            study_name=f"{config.name}/{model.name}",
            sampler=optuna.samplers.TPESampler(
                seed=stream_seed("tuning", config.seed, model.name) % 2**32,
                n_startup_trials=6,
            ),
            load_if_exists=True,
        )
        if not search.get_trials(deepcopy=False):
            search.enqueue_trial(_own_values(model), skip_if_exists=True)
        searches[model.name] = search
    return searches


def _own_values(model: ModelConfig) -> dict[str, object]:
    """What a model begins with, as values of its space."""
    space = get_family(model.family).space
    now: dict[str, object] = {
        **model.settings,
        "learning_rate": model.learning_rate,
        "depth": model.depth,
    }
    values: dict[str, object] = {}
    for name, dimension in space.items():
        value = now.get(name)
        if isinstance(dimension, Choice):
            if any(written(value) == written(choice) for choice in dimension.values):
                values[name] = written(value)
        elif isinstance(value, (int, float)) and dimension.low <= value <= dimension.high:
            values[name] = value
    return values


def written(value: object) -> str:
    """A choice as the database keeps it: Optuna's categories are plain values."""
    return json.dumps(value)


def _distributions(model: ModelConfig) -> dict[str, optuna.distributions.BaseDistribution]:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    made: dict[str, optuna.distributions.BaseDistribution] = {}
    for name, dimension in get_family(model.family).space.items():
        if isinstance(dimension, Range):
            made[name] = FloatDistribution(dimension.low, dimension.high, log=dimension.log)
        elif isinstance(dimension, IntRange):
            made[name] = IntDistribution(dimension.low, dimension.high)
        else:
            made[name] = CategoricalDistribution([written(v) for v in dimension.values])
    return made


def next_try(search: optuna.Study, model: ModelConfig, tries: int) -> optuna.Trial | None:
    """A try that was lost, else a new one; None when there are enough."""
    from optuna import Trial
    from optuna.trial import TrialState

    all_tries = search.get_trials(deepcopy=False)
    lost = next((t for t in all_tries if t.state == TrialState.RUNNING and _is_lost(t)), None)
    if lost is not None:
        found = Trial(search, lost._trial_id)
    elif sum(t.state != TrialState.WAITING for t in all_tries) >= tries:
        return None
    else:
        found = search.ask(_distributions(model))
    sign(found)
    return found


def sign(found: optuna.Trial) -> None:
    """Says who runs a try, and that it is alive."""
    found.set_user_attr("host", socket.gethostname())
    found.set_user_attr("pid", os.getpid())
    found.set_user_attr("seen", time.time())


def _is_lost(found: optuna.trial.FrozenTrial) -> bool:
    """Whether the driver of a try that is not finished seems to be gone."""
    signed = found.user_attrs
    if signed.get("host") != socket.gethostname():
        return time.time() - float(signed.get("seen", 0.0)) > SILENT_SECONDS
    pid = int(signed.get("pid", -1))
    if pid == os.getpid():
        return True  # this driver's own, from a round that was interrupted
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError):
        return True
    return False


def chosen_model(model: ModelConfig, params: Mapping[str, object]) -> ModelConfig:
    """The model with the values of a try."""
    values = values_of(model.family, params)
    changes: dict[str, object] = {
        name: values.pop(name) for name in ("learning_rate", "depth") if name in values
    }
    return model.model_copy(update={**changes, "settings": {**model.settings, **values}})


def values_of(family: str, params: Mapping[str, object]) -> dict[str, Setting]:
    """What a database keeps of a try, as settings."""
    space = get_family(family).space
    values: dict[str, Setting] = {}
    for name, value in params.items():
        chosen = isinstance(space[name], Choice)
        values[name] = json.loads(str(value)) if chosen else cast("Setting", value)
    return values
