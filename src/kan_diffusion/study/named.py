"""Makes studies and trials of what a user names: a preset, a study file, a data set or a file.

A name that is both a preset and a toy (``swiss-roll``) means the preset, unless families, a size or
a process are asked for: then it means the toy, and a study is made for it. What a user leaves open
is what suits the data, as their task says (:mod:`.tasks`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kan_diffusion.data.datasets import Dataset
from kan_diffusion.data.sources import Source, data_from_name, known_data, load_dataset
from kan_diffusion.data.toys import TOYS
from kan_diffusion.denoisers.families import COUNTABLES, Setting, get_family
from kan_diffusion.errors import BudgetError, KanDiffusionError, require_known, valid_settings
from kan_diffusion.processes import Process, get_process
from kan_diffusion.study.config import (
    MATCHES,
    USUAL_SIZE,
    Budget,
    ModelConfig,
    StudyConfig,
    TrialConfig,
    preset_names,
    read_preset,
    read_study,
)
from kan_diffusion.study.tasks import Defaults, accepted, task_of
from kan_diffusion.training.config import OPTIMIZERS, TrainingConfig

logger = logging.getLogger(__name__)

_EQUAL = {"params": "parameters", "flops": "arithmetic", "time": "training time"}


def study_for(
    what: str,
    params: int | None = None,
    *,
    match: str | None = None,
    budget: str | None = None,
    families: Sequence[str] | None = None,
    process: str | None = None,
    seeds: int | None = None,
) -> StudyConfig:
    """Makes or reads the study a user names.

    Args:
        what: A preset, a study file (.yaml, .yml), a toy, a table of scikit-learn's, pictures, or a
            file of points or folder of pictures.
        params: Number of parameters of each model, also under a budget of time.
        match: Resource held equal, one of :data:`.config.MATCHES`; parameters when None.
        budget: Amount of this resource: a number, or a model such as ``mlp:32-32-32`` (family and
            hidden widths) whose parameters or operations all models get.
        families: Families to compare, or ``["all"]``; of a preset or a study file, only models of
            these families are kept.
        process: Name of the noising process; the study's own when None.
        seeds: Trials per model; the study's own when None.

    Raises:
        DataError: The file of points cannot be used.
        KanDiffusionError: Nothing has that name, the study file is wrong, or a budget makes no
            sense or is given for a study that fixes the sizes of its models.
    """
    sized = not (params is None and match is None and budget is None)
    is_file = Path(what).suffix in (".yaml", ".yml")
    asks_for_a_toy = what in TOYS and (sized or families is not None or process is not None)
    chosen: dict[str, object] = {"process": process, "seeds": seeds}
    changes = {name: value for name, value in chosen.items() if value is not None}
    if is_file or (what in preset_names() and not asks_for_a_toy):
        study = read_study(Path(what), importing=True) if is_file else read_preset(what)
        if sized and study.budget is None:
            raise KanDiffusionError(
                f"study '{what}' fixes the sizes of its models; leave params, match and budget out"
            )
        if sized:
            changes["budget"] = _budget(match or "params", budget, study.data[0], params)
        if families is not None and list(families) != ["all"]:
            study = study.only(families=families)
    else:
        if what not in TOYS and not Path(what).suffix and not Path(what).exists():
            known = [*preset_names(), *known_data()]
            require_known("study, data set or file", what, known)
        data = data_from_name(what).for_study()
        with valid_settings(f"study of '{what}'"):
            study = _matched_study(data, match or "params", budget, params, families)
    with valid_settings(f"study '{what}'"):
        return StudyConfig.model_validate({**dict(study), **changes})


def _budget(match: str, text: str | None, data: Source, params: int | None) -> Budget:
    """Reads a budget as a user writes it; a model that is the budget is measured on the data."""
    require_known("match", match, MATCHES)
    if match == "params" and text is None:
        text, params = str(params or USUAL_SIZE), None
    if text is None:
        such = "'mlp:32-32-32'" if match == "flops" else "6, in seconds"
        raise KanDiffusionError(f"match '{match}' needs a budget, such as {such}")
    if match != "time" and params is not None:
        raise KanDiffusionError(f"params says the size, and so does a budget of {match}; give one")
    family, _, widths = text.rpartition(":")
    if family and match == "time":
        raise KanDiffusionError(
            f"budget '{text}' is a model, and a budget of time is a number of seconds; give one, "
            "or match params or flops"
        )
    with valid_settings(f"budget {text}"):
        amount: float | str = text
        if family:
            get_family(family, importing=True)
            model = ModelConfig.model_validate({"family": family, "hidden": widths.split("-")})
            trial = _alone(data, get_process("cosine"), model, Defaults(TrainingConfig()))
            amount = COUNTABLES[match][0](task_of(data).build(trial, load_dataset(data)))
        return Budget.model_validate({"match": match, "amount": amount, "params": params})


def _matched_study(
    source: Source, match: str, amount: str | None, params: int | None,
    families: Sequence[str] | None,
) -> StudyConfig:  # fmt: skip
    """Makes the study of some families at one budget, each with its own settings."""
    task, dataset = task_of(source), load_dataset(source)
    process = get_process(task.process)
    suits = task.suggest(dataset, process)
    if match == "time" or (match == "params" and amount is None):
        params = params or suits.params
    budget = _budget(match, amount, source, params)
    everything = families is not None and list(families) == ["all"]
    names = suits.families if families is None else task.families if everything else families
    models, reasons = [], []
    for name in dict.fromkeys(names):
        model = ModelConfig(family=name, settings=accepted(name, suits.settings))
        if everything or families is None:  # families asked for by name must fit
            size = budget.size or {"params": USUAL_SIZE}
            trial = _alone(source, process, model.model_copy(update=size), suits)
            try:
                task.build(trial, dataset)
            except KanDiffusionError as error:
                reasons.append(str(error))
                continue
        models.append(model)
    if not models:
        raise KanDiffusionError(f"no family has that size on '{source.name}': {reasons[0]}")
    for reason in reasons:
        logger.warning("left out: %s", reason)
    return StudyConfig(
        name=source.name,
        title=f"KAN and MLP denoisers on {source.name}",
        question=f"At equal {_EQUAL[budget.match]}, which denoises better?",
        seeds=suits.seeds,
        data=(source,),
        process=process,
        training=suits.training,
        models=tuple(models),
        budget=budget,
        sampling=suits.sampling,
        evaluation=suits.evaluation,
    )


def _alone(
    data: Source, process: Process, model: ModelConfig, suits: Defaults, seed: int = 0
) -> TrialConfig:
    """Makes a trial that belongs to no study."""
    return TrialConfig(
        study_seed=seed,
        seed=0,
        data=data,
        process=process,
        model=model.resolved(suits.training),
        training=suits.training,
        sampling=suits.sampling.resolved(process),
        evaluation=suits.evaluation.model_copy(update={"moments": ()}),
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
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "max_seconds": max_seconds,
        "optimizer": optimizer,
    }
    with valid_settings("settings"):
        asked = ModelConfig(family=family, params=params, depth=depth, settings=settings or {})
        if dataset is None:
            dataset = load_dataset(source, seed)
        suits = task.suggest(dataset, noising, family, asked.params)
        usual = suits.training.model_dump(exclude_unset=True)
        if "optimizer" in usual and optimizer not in (None, usual["optimizer"]):
            usual["learning_rate"] = get_family(family).learning_rate  # its own suits no other one
        if sparsify:
            usual["patience"] = None  # sparsifying needs all steps, whatever the loss says
        chosen = {key: value for key, value in given.items() if value is not None}
        training = TrainingConfig.model_validate({**usual, **chosen, "sparsify": sparsify})
        model = ModelConfig(
            family=family,
            params=suits.params if asked.params is None else asked.params,
            depth=suits.depth if asked.depth is None else asked.depth,
            settings={**accepted(family, suits.settings), **asked.settings},
            conditions=suits.conditions,
        )
        trial = _alone(source, noising, model, replace(suits, training=training), seed)
        if suits.at_most:
            try:
                hidden = tuple(task.build(trial, dataset, at_most=True).config.hidden)
            except BudgetError as error:
                logger.warning("%s; the smallest is taken", error)
                hidden = (1,) * (trial.model.depth or 1)
            built = {"params": None, "depth": None, "hidden": hidden}
            trial = trial.model_copy(update={"model": trial.model.model_copy(update=built)})
        return trial
