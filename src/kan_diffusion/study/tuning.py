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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, TypeAdapter

from kan_diffusion.data.sources import load_dataset
from kan_diffusion.denoisers.families import Range, Setting, Space, get_family
from kan_diffusion.errors import KanDiffusionError, require_known
from kan_diffusion.files import read_as, write_json, write_text
from kan_diffusion.imports import from_extra
from kan_diffusion.limits import MOST_JSON_BYTES
from kan_diffusion.randomness import stream_seed
from kan_diffusion.settings import Settings
from kan_diffusion.study.config import SIZES, USUAL_SIZE, ModelConfig, StudyConfig, TrialConfig
from kan_diffusion.study.executors import Executor, TrialEvent, get_executor
from kan_diffusion.study.folder import claimed
from kan_diffusion.study.run import (
    Planned,
    finished_trial,
    require_folder,
    run_trials,
    write_settings,
)
from kan_diffusion.study.tasks import judged_measure
from kan_diffusion.training.config import OPTIMIZERS

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

logger = logging.getLogger(__name__)

_OF_MODEL = ("params", "depth", "optimizer", "learning_rate", "batch_size")
"""Settings of a model that a search may choose, beside those of the denoiser."""

_SEED_SHIFT = 1_000_000
"""Added to a study's seed: tries get other data, noise and initial parameters."""

_NUM_RANDOM = 6
"""Number of tries of a family before its results decide what is tried."""


class Try(Settings):
    """A finished try."""

    search: str
    """What was searched: another model, space, budget or data make another search."""
    family: str
    """The family."""
    settings: dict[str, Setting]
    """The settings that were chosen."""
    value: float | None = Field(allow_inf_nan=False)
    """Mean log of the judged measure; None where there is none."""
    error: str | None
    """Why there is none."""
    measures: dict[str, float]
    """The judged measure on each data set."""
    trials: list[str]
    """Ids of the trials."""


_TUNED = TypeAdapter(dict[str, ModelConfig])
_TRIES = TypeAdapter(list[Try])


@dataclass(frozen=True)
class Tuned:
    """Result of a search.

    Attributes:
        tries: The tries of each family, in their order.
        path: File of the best settings, as :func:`read_tuned` takes it.
    """

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
        tries: Number of tries per model, at least 1.
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
    config = _searched(config)
    require_folder(config, folder, tries * len(config.trials()))
    for data in config.data:
        load_dataset(data, config.seed, 0)
    shared: Space = {"optimizer": tuple(optimizers), "batch_size": tuple(batch_sizes)}
    searches = [_Search(model, config, shared) for model in config.models]
    executor = executor or get_executor()
    known, path = folder / "tuning.json", folder / "tuned.json"
    with claimed(folder, settings := config.to_yaml()):
        write_settings(folder, settings)
        told = list[Try]()
        if known.exists():
            told = read_as(_TRIES, known, "the tries of a search", "delete it", MOST_JSON_BYTES)
        while running := [search for search in searches if len(search.tries(told)) < tries]:
            # The tries of all searches are the models of a study, whose trials run side by side.
            asked = {search: search.ask(told) for search in running}
            models = tuple(search.model_with(settings) for search, settings in asked.items())
            trials = config.model_copy(update={"models": models}).trials()
            missing = [trial for trial in trials if finished_trial(folder, trial) is None]
            if on_plan is not None:
                on_plan(trials, missing)
            failures = dict[str, str]()
            for event in run_trials(missing, folder, executor):
                if event.kind == "failed":
                    failures[event.trial] = str(event.error)
                if on_event is not None:
                    on_event(event)
            told += [
                _finished(search, settings, _trials_of(search.model, trials), folder, failures)
                for search, settings in asked.items()
            ]
            lines = ",\n".join(each.model_dump_json() for each in told)
            write_text(known, f"[\n{lines}\n]\n")
        tuned = Tuned({each.model.family: each.tries(told) for each in searches}, path)
        best = [each.model_with(best_try(each.tries(told)).settings) for each in searches]
        kept = {"family", *_OF_MODEL, "settings"}
        write_json(path, {model.family: model.model_dump(include=kept) for model in best})
    return tuned


def _searched(config: StudyConfig) -> StudyConfig:
    """Makes the study that a search trains: one seed, other draws, no sample metrics."""
    if config.budget is None:
        raise KanDiffusionError(
            f"study '{config.name}' has no budget that its models share; give one, or a "
            "study with a budget"
        )
    families = [model.family for model in config.models]
    for family in families:
        if families.count(family) > 1 or not get_family(family).space:
            raise KanDiffusionError(
                f"family '{family}' is there more than once, or has no space to search; tune it "
                "once, or give its Family a space"
            )
    config = config.pinned()
    usual = config.training.optimizer
    changes = {
        "models": tuple(
            model.model_copy(update={"optimizer": model.optimizer or usual})
            for model in config.models
        ),
        "seed": config.seed + _SEED_SHIFT,
        "seeds": 1,
        "evaluation": config.evaluation.model_copy(
            update={"num_samples": 0, "num_likelihood": 0, "moments": ()}
        ),
    }
    return config.model_copy(update=changes)


@dataclass(frozen=True, eq=False)
class _Search:
    """The search of a model of a study, with the choices that all models share.

    Attributes:
        model: The model, with the settings it was registered with.
        study: The study that is searched for.
        shared: The choices; none where they are empty.
    """

    model: ModelConfig
    study: StudyConfig
    shared: Space

    @cached_property
    def space(self) -> Space:
        """The space: that of the family, the shared one, and sizes where they are free."""
        space = {**get_family(self.model.family).space}
        space |= {name: choices for name, choices in self.shared.items() if choices}
        if self.study.budget is not None and not (self.study.budget.size or self.model.size):
            space["params"] = SIZES
        return space

    @cached_property
    def id(self) -> str:
        """Identifies the search among others of the folder."""
        ids = (trial.id for trial in _trials_of(self.model, self.study.trials()))
        return f"{stream_seed('search', repr(self.space), *ids):016x}"

    def tries(self, told: Sequence[Try]) -> tuple[Try, ...]:
        """Returns those of some tries that are of this search."""
        return tuple(each for each in told if each.search == self.id)

    def ask(self, told: Sequence[Try]) -> dict[str, Setting]:
        """Chooses the settings of the next try; they follow from those before it."""
        import optuna
        from optuna.trial import TrialState, create_trial

        tries = self.tries(told)
        draws = stream_seed("tuning", self.study.seed, self.model.name, len(tries)) % 2**32
        sampler = optuna.samplers.TPESampler(seed=draws, n_startup_trials=_NUM_RANDOM)
        study = optuna.create_study(sampler=sampler)
        distributions = {name: _distribution(dimension) for name, dimension in self.space.items()}
        for each in tries:
            study.add_trial(
                create_trial(
                    state=TrialState.FAIL if each.value is None else TrialState.COMPLETE,
                    value=each.value,
                    params=self._encoded(each.settings),
                    distributions=distributions,
                )
            )
        if not tries:
            study.enqueue_trial(self._encoded(self._registered()))
        chosen = study.ask(distributions).params.items()
        return {name: json.loads(v) if isinstance(v, str) else v for name, v in chosen}

    def _encoded(self, settings: Mapping[str, Setting]) -> dict[str, object]:
        """Writes choices as JSON, since Optuna's categories are plain values; leaves others out."""
        encoded: dict[str, object] = {}
        for name, dimension in self.space.items():
            value = settings.get(name)
            if isinstance(dimension, tuple):
                if (text := json.dumps(value)) in map(json.dumps, dimension):
                    encoded[name] = text
            elif isinstance(value, int | float) and dimension.low <= value <= dimension.high:
                encoded[name] = value
        return encoded

    def _registered(self) -> dict[str, Setting]:
        """Returns the model's own settings, which are tried first."""
        return {
            **self.model.settings,
            **{name: getattr(self.model, name) for name in _OF_MODEL},
            "params": self.model.params or USUAL_SIZE,
            "batch_size": self.model.batch_size or self.study.training.batch_size,
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


def _trials_of(model: ModelConfig, trials: Iterable[TrialConfig]) -> list[TrialConfig]:
    """Returns the trials of a model, one for each data set."""
    return [trial for trial in trials if trial.model.name == model.name]


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


def _distribution(dimension: Range | tuple[Setting, ...]) -> BaseDistribution:
    """Returns a space's dimension as Optuna's."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(dimension, tuple):
        return CategoricalDistribution([json.dumps(choice) for choice in dimension])
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high))
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _finished(
    search: _Search,
    settings: dict[str, Setting],
    trials: Sequence[TrialConfig],
    folder: Path,
    failures: Mapping[str, str],
) -> Try:
    """Reads what the trials of a try have measured."""
    measures, error = dict[str, float](), None
    for trial in trials:
        result = finished_trial(folder, trial)
        row = {"error": failures.get(trial.id)} if result is None else result.row
        measured = None if row["error"] else row[judged_measure([row["oracle"]])]
        if isinstance(measured, (int, float)) and measured > 0:
            measures[trial.data.name] = float(measured)
        elif error is None:
            reason = row["error"] or f"the judged measure is {measured}"
            error = f"{trial.data.name}: {reason}"
    value = None if error else sum(map(math.log, measures.values())) / len(measures)
    return Try(
        search=search.id,
        family=search.model.family,
        settings=settings,
        value=value,
        error=error,
        measures=measures,
        trials=[trial.id for trial in trials],
    )


def read_tuned(path: Path) -> dict[str, ModelConfig]:
    """Reads a file of tuned settings, as models of their families.

    Raises:
        KanDiffusionError: It is missing or holds something else.
    """
    remedy = "make one with 'kan-diffusion tune'"
    return read_as(_TUNED, path, "a file of tuned settings", remedy)


def apply_tuned(config: StudyConfig, tuned: Mapping[str, ModelConfig]) -> StudyConfig:
    """Replaces the models' settings by tuned ones, and warns of families that have none.

    Raises:
        KanDiffusionError: Models that differ become the same.
    """
    models = []
    without = [model.name for model in config.models if model.family not in tuned]
    if without:
        logger.warning("no tuned settings are known for %s; left as they are", ", ".join(without))
    for model in config.models:
        found = tuned.get(model.family, model)
        changes = {name: getattr(found, name) for name in _OF_MODEL}
        if model.size or (config.budget is not None and config.budget.size):
            changes["params"] = model.params
        if model.hidden is not None:
            changes["depth"] = None
        changes["batch_size"] = found.batch_size or model.batch_size
        settings = {**model.settings, **found.settings}
        models.append(model.model_copy(update={**changes, "settings": settings}))
    for (old, new), (other, other_new) in combinations(zip(config.models, models, strict=True), 2):
        if _are_same(new, other_new) and not _are_same(old, other):
            raise KanDiffusionError(
                f"with tuned settings models '{old.name}' and '{other.name}' are the same; keep "
                "one of them, or leave the tuned settings out"
            )
    return config.model_copy(update={"models": tuple(models)})


def _are_same(model: ModelConfig, other: ModelConfig) -> bool:
    return model == other.model_copy(update={"name": model.name})
