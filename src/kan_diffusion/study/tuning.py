r"""Tuning with equal effort: all families get equally many tries over the same kind of space.

A *try* is one choice of settings, trained on every data set of the study with a seed that no
reported trial uses. Its value is

.. math:: \frac1D \sum_{d=1}^{D} \log m_d,

with :math:`m_d` the judged measure (the excess where the oracle is exact, else the held-out loss).
The logarithm gives all data sets the same weight, whatever their scale. The first try of a family
has the settings it was registered with; the others are chosen by Optuna's tree-structured Parzen
estimator (Bergstra et al. 2011), for each family from its own tries alone. The optimiser, where
there is a choice, and the size, where a budget of time leaves it free, are searched like the rest.

What is tried next is a function of the study's seed, the model and the tries before it. Finished
tries are kept in ``tuning.json``, one a line, and their trainings as trials in the run folder, so a
search that is interrupted goes on as if nothing had been.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import Field, TypeAdapter

from kan_diffusion.data.sources import load_dataset
from kan_diffusion.denoisers.families import Range, Setting, Space, get_family
from kan_diffusion.errors import KanDiffusionError, require_known
from kan_diffusion.files import read_as, write_json, write_text
from kan_diffusion.imports import from_extra
from kan_diffusion.limits import MOST_JSON_BYTES, MOST_LAYERS, MOST_PARAMETERS, MOST_POINTS
from kan_diffusion.randomness import stream_seed
from kan_diffusion.settings import Settings
from kan_diffusion.study.budgets import SIZES, USUAL_SIZE
from kan_diffusion.study.config import ModelConfig, StudyConfig, TrialConfig
from kan_diffusion.study.environment import write_environment
from kan_diffusion.study.executors import Executor, TrialEvent, get_executor
from kan_diffusion.study.folder import STUDY, Row, claimed
from kan_diffusion.study.measure import judged_measure
from kan_diffusion.study.run import Planned, finished_trial, require_folder, run_trials
from kan_diffusion.training.config import OPTIMIZERS, OptimizerName

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["Try", "Tuned", "TunedSettings", "apply_tuned", "best_try", "read_tuned", "tune"]

logger = logging.getLogger(__name__)

_OF_MODEL = ("params", "depth", "optimizer", "learning_rate", "batch_size")
"""Settings of a model that a search may choose, beside those of the denoiser."""

_SEED_SHIFT = 1_000_000
"""Added to a study's seed: tries get other data, noise and initial parameters."""

_NUM_RANDOM = 6
"""Number of tries of a family before its results decide what is tried."""


class TunedSettings(Settings):
    """Settings that a search has found for a family.

    Attributes:
        params: Number of parameters, where the budget left it free; else None.
        depth: Number of hidden layers; None for families without a choice.
        optimizer: Optimiser.
        learning_rate: Peak learning rate.
        batch_size: Samples per step, where it was searched; else None.
        settings: Settings of the denoiser that were searched, or that differ from those of the
            untuned family.
    """

    params: int | None = Field(None, ge=1, le=MOST_PARAMETERS)
    depth: int | None = Field(ge=1, le=MOST_LAYERS)
    optimizer: OptimizerName = "adam"
    learning_rate: float = Field(gt=0, allow_inf_nan=False)
    batch_size: int | None = Field(None, ge=1, le=MOST_POINTS)
    settings: dict[str, Setting]


class Try(Settings):
    """A finished try.

    Attributes:
        search: What was searched: another model, space, budget or data make another search.
        family: The family.
        settings: The settings that were chosen.
        value: Mean log of the judged measure; None where there is none.
        error: Why there is none.
        measures: The judged measure on each data set.
        trials: Ids of the trials.
    """

    search: str
    family: str
    settings: dict[str, Setting]
    value: float | None = Field(allow_inf_nan=False)
    error: str | None
    measures: dict[str, float]
    trials: list[str]


_TUNED = TypeAdapter(dict[str, TunedSettings])
_TRIES = TypeAdapter(list[Try])


@dataclass(frozen=True)
class Tuned:
    """Result of a search.

    Attributes:
        best: Best settings of each family.
        tries: The tries of each family, in their order.
        path: File of the best settings, as :func:`read_tuned` takes it.
    """

    best: dict[str, TunedSettings]
    tries: dict[str, tuple[Try, ...]]
    path: Path


def tune(
    config: StudyConfig,
    folder: Path,
    *,
    tries: int = 12,
    optimizers: Sequence[str] = (),
    batch_sizes: Sequence[int] = (),
    executor: Executor | None = None,
    on_plan: Planned | None = None,
    on_event: Callable[[TrialEvent], object] | None = None,
) -> Tuned:
    """Searches the settings of every model of a study.

    Args:
        config: The study, of which the data sets, training, budget and models are used.
        folder: Run folder of the search.
        tries: Number of tries per model.
        optimizers: Optimisers to choose from; each model keeps its own when empty.
        batch_sizes: Samples per step to choose from; each model keeps its own when empty.
        executor: Executor of the trainings; processes of this machine when None.
        on_plan: Called with each round's trials, and those that are missing, before these run.
        on_event: Called with each event of a trial.

    Returns:
        The best settings, which are also in the folder's ``tuned.json``.

    Raises:
        DataError: A data set cannot be used.
        KanDiffusionError: Optuna is not installed, the study has no budget, a model's family
            cannot be tuned, or no try of a family gave a result.
        RunFolderError: The folder holds something else or cannot be written.
        TrialTakenError: Another process is running another search in the folder.
    """
    for name in optimizers:
        require_known("optimizer", name, OPTIMIZERS)
    with from_extra("tune", "searches for settings"):
        import optuna
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    config = _searched(config, tries)
    require_folder(config, folder, tries * len(config.trials()))
    for data in config.data:
        load_dataset(data, config.seed, 0)
    shared: Space = {"optimizer": tuple(optimizers), "batch_size": tuple(batch_sizes)}
    searches = [_Search.of(model, config, shared) for model in config.models]
    executor = executor or get_executor()

    def train(trials: Sequence[TrialConfig]) -> dict[str, Row]:
        missing = [trial for trial in trials if finished_trial(folder, trial) is None]
        if on_plan is not None:
            on_plan(trials, missing)
        rows: dict[str, Row] = {}
        for event in run_trials(missing, folder, executor):
            if event.kind == "failed":
                rows[event.trial] = {"error": str(event.error)}
            if on_event is not None:
                on_event(event)
        results = {trial.id: finished_trial(folder, trial) for trial in trials}
        return rows | {trial: found.row for trial, found in results.items() if found is not None}

    with claimed(folder, config.to_yaml()):
        write_text(folder / STUDY, config.to_yaml())
        write_environment(folder)
        told, known = list[Try](), folder / "tuning.json"
        if known.exists():
            told = read_as(_TRIES, known, "the tries of a search", "delete it", MOST_JSON_BYTES)
        while running := [search for search in searches if len(search.tries(told)) < tries]:
            told += _run_round([(search, search.ask(told)) for search in running], config, train)
            lines = ",\n".join(each.model_dump_json() for each in told)
            write_text(known, f"[\n{lines}\n]\n")
        best = {search.model.family: search.best(told) for search in searches}
        path = folder / "tuned.json"
        write_json(path, {family: chosen.model_dump() for family, chosen in best.items()})
    return Tuned(best, {search.model.family: search.tries(told) for search in searches}, path)


def _searched(config: StudyConfig, tries: int) -> StudyConfig:
    """Makes the study that a search trains: one seed, other draws, no sample metrics."""
    if tries < 1:
        raise KanDiffusionError(f"tuning needs at least 1 try a model, not {tries}")
    if config.budget is None:
        raise KanDiffusionError(
            f"study '{config.name}' has no budget that its models share; give one, or a "
            "study with a budget"
        )
    families = [model.family for model in config.models]
    for family in families:
        if families.count(family) > 1:
            raise KanDiffusionError(f"family '{family}' is there more than once; tune it once")
        if not get_family(family).space:
            raise KanDiffusionError(
                f"family '{family}' has no space to search; give its Family one"
            )
    models = tuple(
        model.resolved(config.training).model_copy(
            update={"optimizer": model.optimizer or config.training.optimizer}
        )
        for model in config.models
    )
    unsampled = {"num_samples": 0, "num_likelihood": 0, "moments": ()}
    changes = {
        "data": config.pinned().data,
        "models": models,
        "seed": config.seed + _SEED_SHIFT,
        "seeds": 1,
        "evaluation": config.evaluation.model_copy(update=unsampled),
    }
    return config.model_copy(update=changes)


@dataclass(frozen=True)
class _Search:
    """The search of one model over its family's space and the one that all share.

    Attributes:
        model: The model, with the settings it was registered with.
        space: The space.
        first: The model's own settings that lie in it; the first try has them.
        id: Identifies the search among others of the folder.
        seed: Seed of the study.
    """

    model: ModelConfig
    space: Space
    first: Mapping[str, Setting]
    id: str
    seed: int

    @classmethod
    def of(cls, model: ModelConfig, config: StudyConfig, shared: Space) -> Self:
        """Makes the search of a model of a study, with the choices that all models share."""
        assert config.budget is not None
        free = not (config.budget.size or model.size)
        shared = {name: choices for name, choices in shared.items() if choices}
        space = {**get_family(model.family).space, **shared, **({"params": SIZES} if free else {})}
        settings: dict[str, Setting] = {
            **model.settings,
            **{name: getattr(model, name) for name in _OF_MODEL},
            "params": model.params or USUAL_SIZE,
            "batch_size": model.batch_size or config.training.batch_size,
        }
        first = {
            name: settings.get(name) for name in space if _lies_in(space[name], settings.get(name))
        }
        trials = config.model_copy(update={"models": (model,)}).trials()
        number = stream_seed("search", repr(space), *(trial.id for trial in trials))
        return cls(model, space, first, f"{number:016x}", config.seed)

    def tries(self, told: Sequence[Try]) -> tuple[Try, ...]:
        """Returns those of some tries that are of this search."""
        return tuple(each for each in told if each.search == self.id)

    def ask(self, told: Sequence[Try]) -> dict[str, Setting]:
        """Chooses the settings of the next try; they follow from those before it."""
        import optuna

        tries = self.tries(told)
        draws = stream_seed("tuning", self.seed, self.model.name, len(tries)) % 2**32
        sampler = optuna.samplers.TPESampler(seed=draws, n_startup_trials=_NUM_RANDOM)
        study = optuna.create_study(sampler=sampler)
        distributions = {name: _distribution(dimension) for name, dimension in self.space.items()}
        for each in tries:
            state = optuna.trial.TrialState.FAIL if each.value is None else None
            study.add_trial(
                optuna.trial.create_trial(
                    state=state or optuna.trial.TrialState.COMPLETE,
                    value=each.value,
                    params=self._encoded(each.settings),
                    distributions=distributions,
                )
            )
        if not tries:
            study.enqueue_trial(self._encoded(self.first))
        return {
            name: json.loads(value) if isinstance(self.space[name], tuple) else value
            for name, value in study.ask(distributions).params.items()
        }

    def _encoded(self, settings: Mapping[str, Setting]) -> dict[str, object]:
        """Writes choices as JSON: Optuna's categories are plain values."""
        return {
            name: json.dumps(value) if isinstance(self.space[name], tuple) else value
            for name, value in settings.items()
        }

    def model_with(self, settings: Mapping[str, Setting]) -> ModelConfig:
        """Returns the model with the settings of a try.

        Numbers are rounded to six digits: the last digits of Optuna's sampler differ between
        processors, and trials must have the same id on all of them.
        """
        values = {
            name: float(f"{value:.6g}") if isinstance(value, float) else value
            for name, value in settings.items()
        }
        changes: dict[str, object] = {n: values.pop(n) for n in _OF_MODEL if n in values}
        changes["settings"] = {**self.model.settings, **values}
        return self.model.model_copy(update=changes)

    def best(self, told: Sequence[Try]) -> TunedSettings:
        """Returns the settings of the best try: those searched, and others that are not usual."""
        model = self.model_with(best_try(self.tries(told)).settings)
        usual = get_family(model.family).settings
        changed = {
            key: value
            for key, value in model.settings.items()
            if key in self.space or key not in usual or json.dumps(usual[key]) != json.dumps(value)
        }
        of_model = {name: getattr(model, name) for name in _OF_MODEL}
        return TunedSettings.model_validate({**of_model, "settings": changed})


def best_try(tries: Sequence[Try]) -> Try:
    """Returns the try of a search with the smallest value, the first of equal ones.

    Raises:
        KanDiffusionError: None has a value.
    """
    best = min(tries, key=lambda each: math.inf if each.value is None else each.value)
    if best.value is None:
        raise KanDiffusionError(
            f"no try of '{best.family}' gave a result; the first failed with: {best.error}"
        )
    return best


def _lies_in(dimension: Range | tuple[Setting, ...], value: Setting) -> bool:
    """Whether a value is one of a space's dimension."""
    if isinstance(dimension, tuple):
        return any(json.dumps(value) == json.dumps(choice) for choice in dimension)
    return isinstance(value, (int, float)) and dimension.low <= value <= dimension.high


def _distribution(dimension: Range | tuple[Setting, ...]) -> BaseDistribution:
    """Returns a space's dimension as Optuna's."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(dimension, tuple):
        return CategoricalDistribution([json.dumps(choice) for choice in dimension])
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high))
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _run_round(
    chosen: Sequence[tuple[_Search, dict[str, Setting]]],
    config: StudyConfig,
    train: Callable[[Sequence[TrialConfig]], dict[str, Row]],
) -> list[Try]:
    """Trains a try of each search, whose trials run side by side."""
    trials = {
        search.id: config.model_copy(update={"models": (search.model_with(settings),)}).trials()
        for search, settings in chosen
    }
    rows = train([trial for each in trials.values() for trial in each])
    told = []
    for search, settings in chosen:
        measures, error = dict[str, float](), None
        for trial in trials[search.id]:
            row = rows[trial.id]
            measured = None if row["error"] else row[judged_measure([row["oracle"]])]
            if isinstance(measured, (int, float)) and measured > 0:
                measures[trial.data.name] = float(measured)
            elif error is None:
                reason = row["error"] or f"the judged measure is {measured}"
                error = f"{trial.data.name}: {reason}"
        value = None if error else float(np.mean([math.log(each) for each in measures.values()]))
        told.append(
            Try(
                search=search.id,
                family=search.model.family,
                settings=settings,
                value=value,
                error=error,
                measures=measures,
                trials=[trial.id for trial in trials[search.id]],
            )
        )
    return told


def read_tuned(path: Path) -> dict[str, TunedSettings]:
    """Reads a file of tuned settings.

    Raises:
        KanDiffusionError: It is missing or holds something else.
    """
    remedy = "make one with 'kan-diffusion tune'"
    return read_as(_TUNED, path, "a file of tuned settings", remedy)


def apply_tuned(config: StudyConfig, tuned: Mapping[str, TunedSettings]) -> StudyConfig:
    """Replaces the models' settings by tuned ones, and warns of families that have none."""
    models = []
    without = [model.name for model in config.models if model.family not in tuned]
    if without:
        logger.warning("no tuned settings are known for %s; left as they are", ", ".join(without))
    free = config.budget is not None and not config.budget.size
    for model in config.models:
        found = tuned.get(model.family)
        if found is not None:
            changes = {
                "params": model.params if model.size or not free else found.params,
                "depth": None if model.hidden is not None else found.depth,
                "optimizer": found.optimizer,
                "learning_rate": found.learning_rate,
                "batch_size": found.batch_size or model.batch_size,
                "settings": {**model.settings, **found.settings},
            }
            model = ModelConfig.model_validate({**model.model_dump(), **changes})
        models.append(model)
    return config.model_copy(update={"models": tuple(models)})
