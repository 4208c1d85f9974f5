r"""Tuning with equal effort: all families get equally many tries over the same kind of space.

A *try* is one choice of settings, trained on every data set of the study with a seed that no
reported trial uses. Its value is

.. math:: \frac1D \sum_{d=1}^{D} \log m_d,

with :math:`m_d` the judged measure (the excess where the oracle is exact, else the held-out loss).
The logarithm gives all data sets the same weight, whatever their scale. The first try of a family
has the settings it was registered with; the others are chosen by Optuna's tree-structured Parzen
estimator (Bergstra et al. 2011), for each family from its own tries alone. The optimiser, where
there is a choice, and the size, where a budget of time leaves it free, are searched like the rest.

Tries are kept in a database (an SQLite file in the run folder, or any URL Optuna takes, for many
machines) and their trainings as trials in the run folder. Finished trials are not run again, and
the next driver takes over a try whose driver died. Each round runs one try of every family, so that
a family's tries follow one another. The random draws of a try depend only on the study's seed, the
model and the try's number: a search by one driver is a function of its seed, even if interrupted.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd
from pydantic import Field, TypeAdapter

from kan_diffusion.denoisers.families import Setting, Space, get_family
from kan_diffusion.errors import DataError, KanDiffusionError, RunFolderError, require_known
from kan_diffusion.files import inside, read_as, write_json, write_text
from kan_diffusion.imports import from_extra
from kan_diffusion.limits import MOST_LAYERS, MOST_PARAMETERS, MOST_POINTS
from kan_diffusion.randomness import stream_seed
from kan_diffusion.settings import Settings
from kan_diffusion.study.budgets import SIZES, USUAL_SIZE
from kan_diffusion.study.config import ModelConfig, StudyConfig, TrialConfig
from kan_diffusion.study.environment import write_environment
from kan_diffusion.study.executors import Executor, TrialEvent, get_executor
from kan_diffusion.study.folder import STUDY, Row, claimed
from kan_diffusion.study.measure import judged_measure
from kan_diffusion.study.planning import Driver, StudyPlan
from kan_diffusion.study.run import require_folder
from kan_diffusion.training.optimization import OPTIMIZERS, OptimizerName

if TYPE_CHECKING:
    import optuna

__all__ = ["TRY", "Tuned", "TunedSettings", "apply_tuned", "read_tuned", "tune"]

logger = logging.getLogger(__name__)

TRY = ("family", "try", "value", "error", "settings", "trials")
"""Columns of a search's table beside those of the data sets."""

_OF_MODEL = ("params", "depth", "optimizer", "learning_rate", "batch_size")
"""Settings of a model that a search may choose, beside those of the denoiser."""

_SEED_SHIFT = 1_000_000
"""Added to a study's seed: tries get other data, noise and initial parameters."""

_SILENT_SECONDS = 600.0
"""A try counts as lost after so long without a sign of life."""


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


_TUNED = TypeAdapter(dict[str, TunedSettings])


@dataclass(frozen=True)
class Tuned:
    """Result of a search.

    Attributes:
        best: Best settings of each family.
        tries: One row per try: ``family``, ``try``, ``value``, the judged measure on each data set,
            the settings tried, the ids of its trials and, if it gave no value, the ``error``. A
            data set that is called like another column has ``(data)`` after its name.
        path: File of the best settings, as ``--tuned`` takes it.
    """

    best: dict[str, TunedSettings]
    tries: pd.DataFrame
    path: Path


def tune(
    config: StudyConfig,
    folder: Path,
    *,
    tries: int = 12,
    optimizers: Sequence[str] = (),
    batch_sizes: Sequence[int] = (),
    storage: str | None = None,
    executor: Executor | None = None,
    on_plan: Callable[[StudyPlan], None] | None = None,
    on_event: Callable[[TrialEvent], None] | None = None,
) -> Tuned:
    """Searches the settings of every model of a study.

    Args:
        config: The study, of which the data sets, training, budget and models are used.
        folder: Run folder of the search.
        tries: Number of tries per model.
        optimizers: Optimisers to choose from; each model keeps its own when empty.
        batch_sizes: Samples per step to choose from; each model keeps its own when empty.
        storage: URL of a database; an SQLite file in the folder when None.
        executor: Executor of the trainings; processes of this machine when None.
        on_plan: Called with the plan of each round's trials before they run.
        on_event: Called with each event of a trial.

    Returns:
        The best settings, which are also in the folder's ``tuned.json``.

    Raises:
        KanDiffusionError: Optuna is not installed, the study has no budget, a model's family
            cannot be tuned, or no try of a family gave a result.
        RunFolderError: The folder holds something else or cannot be written.
        TrialTakenError: Another process is running another search in the folder.
    """
    for name in optimizers:
        require_known("optimizer", name, OPTIMIZERS)
    config = _searched(config, tries)
    require_folder(config, folder, tries * len(config.trials()))
    given: dict[str, tuple[Setting, ...]] = {
        "optimizer": tuple(optimizers),
        "batch_size": tuple(batch_sizes),
    }
    shared = {name: values for name, values in given.items() if values}
    with claimed(folder, config.to_yaml()):
        driver = Driver(folder, executor or get_executor(), on_plan, on_event)
        write_text(folder / STUDY, config.to_yaml())
        write_environment(folder)
        searches = _open_searches(config, folder, storage, shared)
        while running := [search for search in searches if search.begin(tries)]:
            _run_round(config, running, driver)
        rows = [row for search in searches for row in search.rows(driver.row_of)]
        table = pd.DataFrame(rows)
        write_json(folder / "tuning.json", json.loads(table.to_json(orient="records")))
        best = {search.model.family: search.best() for search in searches}
        path = folder / "tuned.json"
        write_json(path, {family: chosen.model_dump() for family, chosen in best.items()})
    return Tuned(best, table, path)


def _searched(config: StudyConfig, tries: int) -> StudyConfig:
    """Makes the study that a search trains: one seed, other draws, no sample metrics."""
    if tries < 1:
        raise KanDiffusionError(f"tuning needs at least 1 try a model, not {tries}")
    if config.budget is None:
        raise KanDiffusionError(
            f"study '{config.name}' has no budget that its models share; give --match and "
            "--budget, or a study with a budget"
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
    pinned = config.model_copy(update={"data": config.pinned().data, "models": models})
    # One seed, other draws, no samples.
    unsampled = {"num_samples": 0, "num_likelihood": 0, "moments": ()}
    changes = {
        "seed": config.seed + _SEED_SHIFT,
        "seeds": 1,
        "evaluation": config.evaluation.model_copy(update=unsampled),
    }
    return pinned.model_copy(update=changes)


def _open_searches(
    config: StudyConfig,
    folder: Path,
    storage: str | None,
    shared: Mapping[str, tuple[Setting, ...]],
) -> list[_Search]:
    """Opens the search of each model over its family's space and the one that all share.

    The first try has the model's own settings.
    """
    with from_extra("tune", "searches for settings"):
        import optuna
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = storage or f"sqlite:///{inside(folder, 'tuning.db', in_place=True).absolute()}"
    try:
        database = optuna.storages.RDBStorage(url)
    except Exception as error:  # SQLAlchemy's own, and others for each database
        raise KanDiffusionError(
            f"the database '{url}' cannot be used ({' '.join(str(error).split())[:200]}); give "
            "another --storage"
        ) from error
    chosen = [value for dimension in shared.values() for value in dimension]
    searches = []
    for model in config.models:
        free = config.budget is not None and not (config.budget.size or model.size)
        size: Space = {"params": SIZES} if free else {}
        # Tries at another budget, or of other data or settings, belong to another search.
        trials = config.model_copy(update={"models": (model,)}).trials()
        start = stream_seed("search", *(trial.id for trial in trials))
        study = optuna.create_study(
            storage=database,
            study_name="/".join([config.name, model.name, *map(str, chosen), *size, f"{start:x}"]),
            load_if_exists=True,
        )
        space = {**get_family(model.family).space, **shared, **size}
        search = _Search(model, study, space, config)
        if not search.tries():
            study.enqueue_trial(search.own_values(), skip_if_exists=True)
        searches.append(search)
    return searches


class _Search:
    """The search of one model: its Optuna study and the try that is being trained.

    Attributes:
        model: The model, with the settings it was registered with.
        chosen: The model with the settings of the try.
    """

    def __init__(
        self, model: ModelConfig, study: optuna.Study, space: Space, config: StudyConfig
    ) -> None:
        self.model = self.chosen = model
        self._study = study
        self._space = space
        self._seed = config.seed
        self._batch_size = config.training.batch_size
        self._try: optuna.Trial | None = None

    def tries(self) -> list[optuna.trial.FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def own_values(self) -> dict[str, object]:
        """Returns the model's settings that lie in its search space, as values of this space."""
        model = self.model
        now: dict[str, object] = {
            **model.settings,
            **{name: getattr(model, name) for name in _OF_MODEL},
            "params": model.params or USUAL_SIZE,
            "batch_size": model.batch_size or self._batch_size,
        }
        values: dict[str, object] = {}
        for name, dimension in self._space.items():
            value = now.get(name)
            if isinstance(dimension, tuple):
                if any(_written(value) == _written(choice) for choice in dimension):
                    values[name] = _written(value)
            elif isinstance(value, (int, float)) and dimension.low <= value <= dimension.high:
                values[name] = value
        return values

    def begin(self, tries: int) -> bool:
        """Takes over a lost try or asks for a new one; returns False when there are enough."""
        from optuna import Trial
        from optuna.samplers import TPESampler
        from optuna.trial import TrialState

        known = self.tries()
        lost = next((t for t in known if t.state == TrialState.RUNNING and _is_lost(t)), None)
        asked = sum(t.state != TrialState.WAITING for t in known) if lost is None else lost.number
        if lost is None and asked >= tries:
            return False
        draws = stream_seed("tuning", self._seed, self.model.name, asked)
        self._study.sampler = TPESampler(seed=draws % 2**32, n_startup_trials=6)
        self._try = self._study.ask() if lost is None else Trial(self._study, lost._trial_id)
        self.sign()
        for name, distribution in self._distributions().items():
            self._try._suggest(name, distribution)  # those that a lost driver had not drawn yet
        self.chosen = self._with(self._try.params)
        return True

    def sign(self) -> None:
        """Records who runs the try, and that it is alive."""
        assert self._try is not None
        self._try.set_user_attr("host", socket.gethostname())
        self._try.set_user_attr("pid", os.getpid())
        self._try.set_user_attr("seen", time.time())

    def tell(self, value: float | None, trials: Sequence[str], reason: str | None) -> None:
        """Reports the value of the try to Optuna, or the reason why it has none."""
        from optuna.trial import TrialState

        assert self._try is not None
        if reason is None:
            self._try.set_user_attr("trials", list(trials))
        else:
            self._try.set_user_attr("error", reason)
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        # Another driver that took it for lost may have reported it already.
        self._study.tell(self._try.number, value, state, skip_if_finished=True)

    def rows(self, row_of: Callable[[str], Row | None]) -> Iterator[dict[str, object]]:
        """Yields a row for each finished try from the rows of its trials."""
        for found in self.tries():
            if not found.state.is_finished():
                continue
            ids = found.user_attrs.get("trials", [])
            rows = [row for trial in ids if (row := row_of(trial))]
            yield {
                "family": self.model.family,
                "try": found.number,
                "value": found.value,
                "error": found.user_attrs.get("error"),
                **{_column(row): _judged(row) for row in rows},
                "settings": self._values(found.params),
                "trials": ids,
            }

    def best(self) -> TunedSettings:
        """Returns the settings of the best try: those searched, and others that are not usual."""
        complete = [found for found in self.tries() if found.value is not None]
        if not complete:
            first = next((found.user_attrs.get("error") for found in self.tries()), None)
            raise KanDiffusionError(
                f"no try of '{self.model.name}' gave a result; the first failed with: {first}"
            )
        chosen = self._with(min(complete, key=lambda found: (found.value, found.number)).params)
        own = get_family(self.model.family).settings
        changed = {
            key: value
            for key, value in chosen.settings.items()
            if key in self._space or key not in own or _written(own[key]) != _written(value)
        }
        of_model = {name: getattr(chosen, name) for name in _OF_MODEL}
        return TunedSettings.model_validate({**of_model, "settings": changed})

    def _distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        made: dict[str, optuna.distributions.BaseDistribution] = {}
        for name, dimension in self._space.items():
            if isinstance(dimension, tuple):
                made[name] = CategoricalDistribution([_written(v) for v in dimension])
            elif dimension.whole:
                made[name] = IntDistribution(int(dimension.low), int(dimension.high))
            else:
                made[name] = FloatDistribution(dimension.low, dimension.high, log=dimension.log)
        return made

    def _values(self, params: Mapping[str, object]) -> dict[str, Setting]:
        """Converts the values of a try, as the database keeps them, to settings.

        Numbers are rounded to six digits: the last digits of Optuna's sampler differ between
        processors, and trials must have the same id on all of them.
        """
        return {
            name: json.loads(str(value))
            if isinstance(self._space[name], tuple)
            else float(f"{value:.6g}")
            if isinstance(value, float)
            else cast("Setting", value)
            for name, value in params.items()
        }

    def _with(self, params: Mapping[str, object]) -> ModelConfig:
        """Returns the model with the values of a try."""
        values = self._values(params)
        changes: dict[str, object] = {
            name: values.pop(name) for name in _OF_MODEL if name in values
        }
        settings = {**self.model.settings, **values}
        return self.model.model_copy(update={**changes, "settings": settings})


def _column(row: Row) -> str:
    """Names the column of a data set."""
    name = str(row["data"])
    return f"{name} (data)" if name in TRY else name


def _written(value: object) -> str:
    """Writes a choice as JSON: Optuna's categories are plain values."""
    return json.dumps(value)


def _is_lost(found: optuna.trial.FrozenTrial) -> bool:
    """Whether the driver of an unfinished try seems to be gone."""
    signed = found.user_attrs
    silent = time.time() - float(signed.get("seen", 0.0)) > _SILENT_SECONDS
    # After a restart of this machine its process id may be that of any other program.
    if silent or signed.get("host") != socket.gethostname():
        return silent
    pid = int(signed.get("pid", -1))
    if pid == os.getpid():
        return True  # of this driver, from an interrupted round
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError):
        return True
    return False


def _judged(row: Mapping[str, object]) -> float | None:
    """The judged measure of a row; None where there is none."""
    value = row[judged_measure([row["oracle"]])]
    return float(value) if isinstance(value, (int, float)) else None


def _mean_log(
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
        measured = _judged(row)
        if measured is None or not measured > 0:
            return None, f"{trial.data.name}: the judged measure is {measured}"
        logs.append(math.log(measured))
    return float(np.mean(logs)), None


def _run_round(config: StudyConfig, running: Sequence[_Search], driver: Driver) -> None:
    """Trains one try of each model and reports the outcomes to the searches."""
    plans: dict[str, StudyPlan] = {}
    refused: dict[str, str] = {}
    for search in running:
        name = search.model.name
        study = config.model_copy(update={"models": (search.chosen,)})
        try:
            plans[name] = driver.plan(study)
        except (DataError, RunFolderError):  # whatever the settings are
            raise
        except KanDiffusionError as error:  # such as a depth that misses the budget
            refused[name] = str(error)
    plan = StudyPlan(
        trials=tuple(trial for each in plans.values() for trial in each.trials),
        parameters={key: n for each in plans.values() for key, n in each.parameters.items()},
        finished=frozenset(key for each in plans.values() for key in each.finished),
    )
    last_signed = time.monotonic()

    def pass_on(event: TrialEvent) -> None:
        nonlocal last_signed
        if time.monotonic() - last_signed > _SILENT_SECONDS / 10:
            last_signed = time.monotonic()
            for search in running:
                search.sign()
        if driver.on_event is not None:
            driver.on_event(event)

    failures = replace(driver, on_event=pass_on).run(plan)
    for search in running:
        name = search.model.name
        trials = plans[name].trials if name in plans else ()
        value, reason = None, refused.get(name)
        if reason is None:
            value, reason = _mean_log(trials, driver.row_of, failures)
        search.tell(value, [trial.id for trial in trials], reason)


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
