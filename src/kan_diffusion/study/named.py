"""Makes studies and trials of what a user names: a preset, a study file, a data set or a file.

A name that is both a preset and a toy (``swiss-roll``) means the preset, unless families, a size or
a process are asked for: then it means the toy, and a study is made for it. What a user leaves open
is what suits the data, as their task says (:mod:`.tasks`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from kan_diffusion.data.datasets import Dataset
from kan_diffusion.data.sources import Source, data_from_name, known_data, load_dataset
from kan_diffusion.data.toys import TOYS
from kan_diffusion.denoisers.families import COUNTABLES, Setting, build_denoiser, get_family
from kan_diffusion.errors import BudgetError, KanDiffusionError, require_known, valid_settings
from kan_diffusion.processes import Process, get_process
from kan_diffusion.study.budgets import MATCHES, USUAL_SIZE, Budget, Match
from kan_diffusion.study.config import (
    EvaluationConfig,
    ModelConfig,
    SamplingConfig,
    StudyConfig,
    TrialConfig,
    preset_names,
    read_preset,
    read_study,
)
from kan_diffusion.study.tasks import accepted, task_of
from kan_diffusion.training.config import OPTIMIZERS, TrainingConfig

__all__ = ["parse_budget", "single_trial", "study_for"]

logger = logging.getLogger(__name__)


def parse_budget(
    match: str,
    text: str | None,
    data: Sequence[Source],
    params: int | None = None,
) -> Budget:
    """Reads a budget as a user writes it.

    Args:
        match: Resource held equal, one of :data:`.budgets.MATCHES`.
        text: Amount: a number, or a model such as ``mlp:32-32-32`` (family and hidden widths)
            whose parameters or operations all models get; None for a budget of parameters that
            ``params`` gives.
        data: The data sets; a model given as the budget is measured on the first one.
        params: Number of parameters of each model, where ``text`` does not give it; when None
            2,300, or what a search finds under a budget of time.

    Raises:
        KanDiffusionError: It is not a budget, or the model cannot be built.
    """
    require_known("match", match, MATCHES)
    kind = cast("Match", match)
    if match != "time" and params is not None:
        if text is not None or match != "params":
            raise KanDiffusionError(f"params says the size, and so does a budget of {match}")
        text, params = str(params), None
    if text is None:
        if match != "params":
            such = {"flops": "'mlp:32-32-32'", "time": "6, in seconds"}[match]
            raise KanDiffusionError(f"match '{match}' needs a budget, such as {such}")
        text = str(USUAL_SIZE)
    family, _, widths = text.rpartition(":")
    if family and match == "time":
        raise KanDiffusionError(
            f"budget '{text}' is a model, and a budget of time is a number of seconds; give one, "
            "or match params or flops"
        )
    try:
        numbers = [int(width) for width in widths.split("-")] if family else [float(text)]
    except ValueError as error:
        raise KanDiffusionError(
            f"budget '{text}' is neither a number nor a model such as 'mlp:32-32-32'"
        ) from error
    with valid_settings(f"budget {text}"):
        amount = numbers[0]
        if family:
            get_family(family, importing=True)
            hidden = tuple(map(int, numbers))
            model = ModelConfig(family=family, hidden=hidden)
            amount = _amount_of_model(kind, model, data[0])
        return Budget(match=kind, amount=amount, params=params)


def _amount_of_model(match: Match, model: ModelConfig, data: Source) -> float:
    """Counts the parameters or operations of a model that is given as the budget."""
    trial = _alone(data, get_process("cosine"), model, TrainingConfig())
    count, _ = COUNTABLES[match]
    return count(task_of(data).build(trial, load_dataset(data)))


def _matched_study(
    source: Source, match: str, amount: str | None, params: int | None,
    families: Sequence[str] | None,
) -> StudyConfig:  # fmt: skip
    """Makes the study of some families at one budget, each with its own settings."""
    task, dataset = task_of(source), load_dataset(source)
    suits = task.suggest_study(dataset)
    if match == "time" or (match == "params" and amount is None):
        params = params or suits.params
    budget = parse_budget(match, amount, (source,), params)
    everything = families is not None and list(families) == ["all"]
    asked = suits.families if families is None else task.families if everything else families
    for name in (names := list(dict.fromkeys(asked))):
        get_family(name, importing=True)
    process = get_process(task.process)
    if everything or families is None:  # families asked for by name must fit
        size, reasons = budget.size or {"params": USUAL_SIZE}, {}
        for name in names:
            settings = accepted(name, suits.settings)
            model = ModelConfig.model_validate({"family": name, "settings": settings, **size})
            try:
                task.build(_alone(source, process, model, suits.training), dataset)
            except KanDiffusionError as error:
                reasons[name] = str(error)
        if len(reasons) == len(names):
            raise KanDiffusionError(
                f"no family has that size on '{source.name}': {reasons[names[0]]}"
            )
        for reason in reasons.values():
            logger.warning("left out: %s", reason)
        names = [name for name in names if name not in reasons]
    return StudyConfig(
        name=source.name,
        title=f"KAN and MLP denoisers on {source.name}",
        question=f"At equal {_EQUAL[budget.match]}, which denoises better?",
        seeds=suits.seeds,
        data=(source,),
        process=process,
        training=suits.training,
        models=tuple(
            ModelConfig(family=name, settings=accepted(name, suits.settings)) for name in names
        ),
        budget=budget,
        sampling=suits.sampling,
        evaluation=suits.evaluation,
    )


_EQUAL = {
    "params": "parameters",
    "flops": "arithmetic",
    "time": "training time",
}


def study_for(
    what: str,
    params: int | None = None,
    *,
    match: str | None = None,
    budget: str | None = None,
    families: Sequence[str] | None = None,
    process: str | None = None,
) -> StudyConfig:
    """Makes or reads the study a user names.

    Args:
        what: A preset, a study file (.yaml, .yml), a toy, a table of scikit-learn's, pictures, or a
            file of points or folder of pictures.
        params: Number of parameters of each model.
        match: Resource held equal, see :mod:`.budgets`; parameters when None.
        budget: Amount of this resource, see :func:`parse_budget`.
        families: Families to compare, or ``["all"]``; of a preset or a study file, only models of
            these families are kept.
        process: Name of the noising process; the study's own when None.

    Raises:
        DataError: The file of points cannot be used.
        KanDiffusionError: Nothing has that name, the study file is wrong, or a budget is given for
            a study that fixes the sizes of its models.
    """
    sized = not (params is None and match is None and budget is None)
    is_file = Path(what).suffix in (".yaml", ".yml")
    asks_for_a_toy = what in TOYS and (sized or families is not None or process is not None)
    if is_file or (what in preset_names() and not asks_for_a_toy):
        study = read_study(Path(what), importing=True) if is_file else read_preset(what)
        if sized:
            if study.budget is None:
                raise KanDiffusionError(
                    f"study '{what}' fixes the sizes of its models; leave params, match and "
                    "budget out"
                )
            given = parse_budget(match or "params", budget, study.data, params)
            study = study.model_copy(update={"budget": given})
        if families is not None and list(families) != ["all"]:
            study = study.with_families(families)
    else:
        data = _named_data(what)
        study = _matched_study(data, match or "params", budget, params, families)
    if process is None:
        return study
    with valid_settings("process"):
        return StudyConfig.model_validate({**dict(study), "process": process})


def _named_data(what: str) -> Source:
    if what not in TOYS and not Path(what).suffix and not Path(what).exists():
        known = [*preset_names(), *known_data()]
        require_known("study, data set or file", what, known)
    return data_from_name(what).for_study()


def _alone(
    data: Source,
    process: Process,
    model: ModelConfig,
    training: TrainingConfig,
    seed: int = 0,
    sampling: SamplingConfig | None = None,
    evaluation: EvaluationConfig | None = None,
) -> TrialConfig:
    """Makes a trial that belongs to no study."""
    return TrialConfig(
        study_seed=seed,
        seed=0,
        data=data,
        process=process,
        model=model.resolved(training),
        training=training,
        sampling=(sampling or SamplingConfig()).resolved(process),
        evaluation=(evaluation or EvaluationConfig()).model_copy(update={"moments": ()}),
    )


def single_trial(
    data: str | Source,
    *,
    family: str | None = None,
    params: int | None = None,
    depth: int | None = None,
    process: str | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    optimizer: str | None = None,
    learning_rate: float | None = None,
    max_seconds: float | None = None,
    settings: Mapping[str, Setting] | None = None,
    seed: int = 0,
    sparsify: float = 0.0,
    dataset: Dataset | None = None,
) -> TrialConfig:
    """Makes a trial that stands on its own.

    Args:
        data: Source of the samples, or its name or path.
        family: Family of the denoiser; when None ``kan``, of pictures ``unet-kan``.
        params: Largest number of trainable parameters; the trial gets the widths of the family's
            nearest size below it. For pictures it is met within 2 %, above or below. Where this
            and the following settings are None, they are chosen to suit the data, as
            :meth:`.Task.suggest` of their task does.
        depth: Number of hidden layers.
        process: Name of a process; when None ``cosine``, of pictures ``flow``.
        steps: Largest number of optimiser steps.
        batch_size: Samples per step.
        optimizer: Name of an optimiser.
        learning_rate: Peak learning rate.
        max_seconds: Seconds that training may take; None for no limit.
        settings: Settings of the denoiser that differ from those that suit it.
        seed: Seed of all randomness.
        sparsify: Weight of the penalty that makes the edges of KAN layers few; 0 for none.
        dataset: The data set that ``data`` loads, where it is loaded already.

    Raises:
        DataError: The file cannot be used.
        KanDiffusionError: A name is unknown or a number out of range.
    """
    source = data_from_name(data) if isinstance(data, str) else data
    task = task_of(source)
    family = family or task.family
    if get_family(family, importing=True).is_for_reading and dataset is None:
        source = source.for_reading()
    noising = get_process(process or task.process)
    if optimizer is not None:
        require_known("optimizer", optimizer, OPTIMIZERS)
    given = {
        "steps": steps, "batch_size": batch_size, "learning_rate": learning_rate,
        "max_seconds": max_seconds, "optimizer": optimizer,
    }  # fmt: skip
    with valid_settings("settings"):
        if dataset is None:
            dataset = load_dataset(source, seed)
        suits = task.suggest(dataset, family, noising, params)
        usual = suits.training
        # What suits another optimiser than Adam suits no other one.
        alike = usual.optimizer == "adam" or optimizer in (None, usual.optimizer)
        rate = usual.learning_rate if alike else get_family(family).learning_rate
        training = TrainingConfig.model_validate({
            **usual.model_dump(exclude_unset=True),
            "learning_rate": rate,
            **{key: value for key, value in given.items() if value is not None},
            "sparsify": sparsify,
            # Sparsifying needs all steps, whatever the loss says.
            **({"patience": None} if sparsify else {}),
        })  # fmt: skip
        model = ModelConfig(
            family=family,
            params=suits.params if params is None else params,
            depth=suits.depth if depth is None else depth,
            settings={**accepted(family, suits.settings), **(settings or {})},
            conditions=suits.conditions,
        )
        if suits.at_most:
            built = {"params": None, "depth": None, "hidden": _widths(model, dataset, noising)}
            model = model.model_copy(update=built)
        return _alone(source, noising, model, training, seed, suits.sampling, suits.evaluation)


def _widths(model: ModelConfig, dataset: Dataset, process: Process) -> tuple[int, ...]:
    """Finds the widths of the largest denoiser in a budget, or of the smallest with a warning."""
    try:
        denoiser = build_denoiser(
            model.family,
            dataset.shape,
            num_train_timesteps=process.num_timesteps,
            params=model.params,
            depth=model.depth,
            observable=model.conditions,
            settings=model.settings,
            at_most=True,
        )
        return tuple(denoiser.config.hidden)
    except BudgetError as error:
        logger.warning("%s; the smallest is taken", error)
        return (1,) * (model.depth or get_family(model.family).depth)
