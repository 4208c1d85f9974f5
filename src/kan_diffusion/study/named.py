"""Makes studies and trials of what a user names: a preset, a study file, a toy, a file of points.

A name that is both a preset and a toy (``swiss-roll``) means the preset, unless families, sizes or
processes are asked for: then it means the toy, and a study is made for it.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import cast

from kan_diffusion.data.datasets import (
    PICTURES,
    TABLES,
    DataConfig,
    FileData,
    PictureData,
    ToyData,
    data_from_name,
    load_dataset,
)
from kan_diffusion.data.toys import TOYS
from kan_diffusion.denoisers.families import (
    FAMILIES,
    build_denoiser,
    get_family,
    picture_families,
)
from kan_diffusion.denoisers.family import Setting
from kan_diffusion.denoisers.sizing import COUNTABLES
from kan_diffusion.errors import KanDiffusionError, require_known, valid_settings
from kan_diffusion.pictures.codec import read_pictures
from kan_diffusion.processes import Process, get_process
from kan_diffusion.study.budgets import MATCHES, SIZES, Budget, Match
from kan_diffusion.study.calibration import step_seconds
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
from kan_diffusion.study.trial import build, without_text
from kan_diffusion.tables.columns import Kind
from kan_diffusion.training import TrainingConfig
from kan_diffusion.training.defaults import (
    PictureSuggestion,
    Suggestion,
    suggested,
    suggested_for_pictures,
)
from kan_diffusion.training.optimization import OPTIMIZERS, OptimizerName, suitable_rate

__all__ = ["PICTURE_EVALUATION", "chosen_data", "parse_budget", "single_trial", "study_for"]

logger = logging.getLogger(__name__)

_DEFAULT_PARAMS = 2300
_DEFAULT_FAMILIES = ("kan", "mlp")
_DEFAULT_STEPS = 1500
_VERDICT_SEEDS = 10
"""Twenty trials of this length take two cores two or three minutes, and can reach p < 0.05."""

_STUDY_HOLDOUT = 0.5

_PICTURE_FAMILY = "unet-kan"
_PICTURE_FAMILIES = ("dit", "dit-kan", "dit-full-kan", "unet", "unet-kan")
_PICTURE_SEEDS = {"digits": 5}
_FEWEST_PICTURE_SEEDS = 3
_PICTURE_HOLDOUT = 0.3
"""Fraction of pictures that a study holds out; not of ``shapes``, of which any number is drawn."""

_PICTURE_PROCESS = "flow"

PICTURE_EVALUATION = {"num_noised": 2_000, "num_samples": 500, "num_likelihood": 0, "num_drawn": 10}
"""Evaluation settings for pictures: smaller than for points, since pictures take longer."""


def parse_budget(
    match: str,
    text: str | None,
    data: Sequence[DataConfig],
    params: int | None = None,
) -> Budget:
    """Reads a budget as a user writes it.

    Args:
        match: Resource held equal, one of :data:`.budgets.MATCHES`.
        text: Amount: a number, or a model such as ``mlp:32-32-32`` (family and hidden widths)
            whose size, or training time on this machine, all models get; None for a budget of
            parameters that ``params`` gives.
        data: The data sets; a model given as the budget is measured on the first one.
        params: Number of parameters of each model, where ``text`` does not give it; when None
            2,300, or free under a budget of time.

    Raises:
        KanDiffusionError: It is not a budget, or the model cannot be built.
    """
    require_known("--match", match, MATCHES)
    kind = cast("Match", match)
    if match != "time" and params is not None:
        if text is not None or match != "params":
            raise KanDiffusionError(f"--params says the size, and so does --match {match} --budget")
        text, params = str(params), None
    if text is None:
        if match != "params":
            raise KanDiffusionError(f"--match {match} needs a --budget, such as 'mlp:32-32-32'")
        text = str(_DEFAULT_PARAMS)
    family, _, widths = text.rpartition(":")
    try:
        numbers = [int(width) for width in widths.split("-")] if family else [float(text)]
    except ValueError as error:
        raise KanDiffusionError(
            f"--budget '{text}' is neither a number nor a model such as 'mlp:32-32-32'"
        ) from error
    with valid_settings(f"--budget {text}"):
        amount = numbers[0]
        if family:
            get_family(family, importing=True)
            hidden = tuple(map(int, numbers))
            model = ModelConfig(family=family, hidden=hidden)
            amount = _amount_of_model(kind, model, data[0])
        return Budget(match=kind, amount=amount, params=params)


def _amount_of_model(match: Match, model: ModelConfig, data: DataConfig) -> float:
    """Measures a model that is given as the budget: its size, or its training time."""
    trial = _alone(data, get_process("cosine"), model, TrainingConfig())
    if match == "time":
        seconds = round(step_seconds(trial) * trial.training.steps, 3)
        logger.warning(
            "the budget is %s s, measured now; to go on with this study later, give --budget %s",
            seconds,
            seconds,
        )
        return seconds
    count, _ = COUNTABLES[match]
    return count(without_text(build(trial, load_dataset(data, 0, 0))))


def _matched_study(
    data: DataConfig, match: str, amount: str | None, params: int | None,
    families: Sequence[str] | None,
) -> StudyConfig:  # fmt: skip
    """Makes the study of some families at one budget, each with its own settings."""
    everything = families is not None and list(families) == ["all"]
    if isinstance(data, PictureData):
        asked = picture_families() if everything else families or _PICTURE_FAMILIES
        return _picture_study(data, match, amount, params, list(dict.fromkeys(asked)))
    budget = parse_budget(match, amount, (data,), params)
    asked = _DEFAULT_FAMILIES if families is None else families
    names = list(FAMILIES if everything else dict.fromkeys(asked))
    if everything or families is None:  # families asked for by name must fit
        # A free size may be any of SIZES: the fewest families are too large at the largest.
        dataset, size = load_dataset(data, 0, 0), budget.size or {"params": SIZES[-1]}
        reasons = {}
        for name in names:
            try:
                build_denoiser(
                    name,
                    dataset.dim,
                    num_train_timesteps=get_process("cosine").num_timesteps,
                    params=size.get("params"),
                    flops=size.get("flops"),
                )
            except KanDiffusionError as error:
                reasons[name] = str(error)
        if len(reasons) == len(names):
            raise KanDiffusionError(
                f"no family has that size on '{data.name}': {reasons[names[0]]}"
            )
        for reason in reasons.values():
            logger.warning("left out: %s", reason)
        names = [name for name in names if name not in reasons]
    for name in names:
        get_family(name, importing=True)
    return StudyConfig(
        name=data.name,
        title=f"KAN and MLP denoisers on {data.name}",
        question=f"At equal {_EQUAL[budget.match]}, which denoises better?",
        seeds=_VERDICT_SEEDS,
        data=(data,),
        training=TrainingConfig(steps=_DEFAULT_STEPS),
        models=tuple(ModelConfig(family=name) for name in names),
        budgets=(budget,),
    )


def _picture_study(
    data: PictureData, match: str, amount: str | None, params: int | None,
    families: Sequence[str],
) -> StudyConfig:  # fmt: skip
    """Makes the study of some families on pictures."""
    suits = _suits_pictures(data)
    if match == "time" or (match == "params" and amount is None):
        params = params or suits.params
    budget = parse_budget(match, amount, (data,), params)
    return StudyConfig(
        name=data.name,
        title=f"KAN and MLP denoisers on {data.name}",
        question=f"At equal {_EQUAL[budget.match]}, which denoises better?",
        seeds=_PICTURE_SEEDS.get(data.name, _FEWEST_PICTURE_SEEDS),
        data=(data,),
        process=(get_process(_PICTURE_PROCESS),),
        training=suits.training,
        models=tuple(
            ModelConfig(family=name, settings=_accepted(name, suits.settings)) for name in families
        ),
        budgets=(budget,),
        sampling=SamplingConfig(guidance=suits.guidance),
        evaluation=EvaluationConfig(**PICTURE_EVALUATION, moments=(1.0,)),
    )


def _suits_pictures(data: PictureData, seed: int = 0) -> PictureSuggestion:
    dataset = load_dataset(data, seed)
    return suggested_for_pictures(len(dataset.train), dataset.shape[-1], bool(dataset.classes))


def _accepted(family: str, settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Keeps the settings that the denoisers of a family accept."""
    known = inspect.signature(get_family(family, importing=True).denoiser_class).parameters
    return {key: value for key, value in settings.items() if key in known}


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
    processes: Sequence[str] | None = None,
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
        processes: Names of the noising processes; the study's own when None.

    Raises:
        DataError: The file of points cannot be used.
        KanDiffusionError: Nothing has that name, the study file is wrong, or a budget is given for
            a study that fixes the sizes of its models.
    """
    sized = not (params is None and match is None and budget is None)
    is_file = Path(what).suffix in (".yaml", ".yml")
    asks_for_a_toy = what in TOYS and (sized or families is not None or processes is not None)
    if is_file or (what in preset_names() and not asks_for_a_toy):
        study = read_study(Path(what), importing=True) if is_file else read_preset(what)
        if sized:
            if not study.budgets:
                raise KanDiffusionError(
                    f"study '{what}' fixes the sizes of its models; leave --params, --match and "
                    "--budget out"
                )
            given = parse_budget(match or "params", budget, study.data, params)
            study = study.model_copy(update={"budgets": (given,)})
        if families is not None and list(families) != ["all"]:
            study = study.with_families(families)
    else:
        data = _named_data(what)
        study = _matched_study(data, match or "params", budget, params, families)
    if processes is None:
        return study
    with valid_settings("--process"):
        return StudyConfig.model_validate({**dict(study), "process": tuple(processes)})


def _named_data(what: str) -> DataConfig:
    known = [*TOYS, *TABLES, *PICTURES]
    if not Path(what).suffix and not Path(what).exists():
        require_known("study, data set or file", what, [*preset_names(), *known])
    data = data_from_name(what)
    if isinstance(data, FileData):
        return data.model_copy(update={"holdout": _STUDY_HOLDOUT})
    if isinstance(data, PictureData) and data.pictures != "shapes":
        return data.model_copy(update={"holdout": _PICTURE_HOLDOUT})
    return data


def _alone(
    data: DataConfig,
    process: Process,
    model: ModelConfig,
    training: TrainingConfig,
    seed: int = 0,
    sampling: SamplingConfig | None = None,
    evaluation: Mapping[str, int] = MappingProxyType({}),
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
        evaluation=EvaluationConfig(**evaluation, moments=()),
    )


def chosen_data(
    name: str,
    *,
    kinds: Mapping[str, Kind] | None = None,
    missing: Sequence[str] = (),
    holdout: float | None = None,
    size: int | None = None,
    mode: str | None = None,
) -> DataConfig:
    """Finds data by name and applies settings; arguments are those of :func:`single_trial`.

    Raises:
        DataError: There is no such data.
        KanDiffusionError: A setting is out of range, or not one of such data.
    """
    data = data_from_name(name, kinds, missing, pinned=False)
    of_pictures = {"size": size, "mode": mode}
    asked: dict[str, object] = {k: value for k, value in of_pictures.items() if value is not None}
    if asked and not isinstance(data, PictureData):
        raise KanDiffusionError("--size and --mode are for pictures; leave them out")
    if holdout is not None:
        if isinstance(data, ToyData):
            raise KanDiffusionError("a toy is judged with fresh points; leave --holdout out")
        asked["holdout"] = holdout
    with valid_settings("settings"):
        chosen: DataConfig = type(data).model_validate({**dict(data), **asked})
    if isinstance(chosen, FileData | PictureData):
        chosen = chosen.pinned()
    if (
        holdout is not None
        and isinstance(chosen, PictureData)
        and chosen.is_folder
        and read_pictures(chosen).heldout is not None
    ):
        raise KanDiffusionError(
            f"'{name}' is split by its folders, such as train and test; leave --holdout out"
        )
    return chosen


def single_trial(
    data: str,
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
    holdout: float | None = None,
    size: int | None = None,
    mode: str | None = None,
    kinds: Mapping[str, Kind] | None = None,
    missing: Sequence[str] = (),
    seed: int = 0,
    sparsify: float = 0.0,
) -> TrialConfig:
    """Makes a trial that stands on its own.

    Args:
        data: A toy, a table of scikit-learn's, a file of points, or pictures.
        family: Family of the denoiser; when None ``kan``, of pictures ``unet-kan``.
        params: Largest number of trainable parameters; the trial gets the widths of the family's
            nearest size below it. For pictures it is met within 2 %, above or below. Where this
            and the following settings are None, they are chosen to suit a file, table or pictures
            (:mod:`kan_diffusion.training.defaults`); for a toy they are 2,300 parameters, the
            family's depth and learning rate, and 4,000 steps of 1,024 points.
        depth: Number of hidden layers.
        process: Name of a process; when None ``cosine``, of pictures ``flow``.
        steps: Largest number of optimiser steps.
        batch_size: Points per step.
        optimizer: Name of an optimiser; when None the one that suits pictures, else Adam.
        learning_rate: Peak learning rate.
        max_seconds: Seconds that training may take; None for no limit.
        holdout: Fraction of rows or pictures that is held out; when None 0.2 for a file, 0.3 for a
            table and 0.1 for pictures.
        size: Side of pictures in pixels.
        mode: Channels of pictures.
        kinds: Kinds of those columns of a file whose kind should not be inferred.
        missing: Words for gaps in a text file beside the usual ones.
        seed: Seed of all randomness.
        sparsify: Weight of the penalty that makes the edges of KAN layers few; 0 for none.

    Raises:
        DataError: The file cannot be used.
        KanDiffusionError: A name is unknown or a number out of range.
    """
    points = chosen_data(data, kinds=kinds, missing=missing, holdout=holdout, size=size, mode=mode)
    of_pictures = isinstance(points, PictureData)
    family = family or (_PICTURE_FAMILY if of_pictures else "kan")
    kind = get_family(family, importing=True)
    chosen = get_process(process or (_PICTURE_PROCESS if of_pictures else "cosine"))
    if optimizer is not None:
        require_known("optimizer", optimizer, OPTIMIZERS)
    with valid_settings("settings"):
        if isinstance(points, PictureData):
            if sparsify:
                raise KanDiffusionError(
                    "sparsifying makes the edges of small KANs few, to be read; leave --sparsify "
                    "out for pictures"
                )
            given = {
                "steps": steps,
                "batch_size": batch_size,
                "learning_rate": learning_rate,
                "max_seconds": max_seconds,
                "optimizer": optimizer,
            }
            asked = ModelConfig(family=family, params=params, depth=depth)
            return _picture_trial(points, asked, chosen, given, seed)
        dataset = load_dataset(points, seed)
        if isinstance(points, ToyData):
            suits = Suggestion(
                params=_DEFAULT_PARAMS, depth=None, steps=2500, batch_size=2048,
                learning_rate=kind.learning_rate, patience=None, heldout_rows=0,
            )  # fmt: skip
        else:
            suits = suggested(len(dataset.train), dataset.dim, family, params)
        way = cast("OptimizerName", optimizer or "adam")
        training = TrainingConfig(
            steps=suits.steps if steps is None else steps,
            batch_size=suits.batch_size if batch_size is None else batch_size,
            optimizer=way,
            learning_rate=(
                suitable_rate(way, suits.learning_rate) if learning_rate is None else learning_rate
            ),
            # Sparsifying needs all steps, whatever the loss says.
            patience=None if sparsify else suits.patience,
            max_seconds=max_seconds,
            sparsify=sparsify,
        )
        params = suits.params if params is None else params
        depth = suits.depth if depth is None else depth
        # A table's model takes columns as conditions where its family can.
        told = "observable" in inspect.signature(kind.denoiser_class).parameters
        told &= not isinstance(points, ToyData)
        asked = ModelConfig(family=family, params=params, depth=depth, conditions=told)
        fitted = build_denoiser(
            family,
            dataset.dim,
            num_train_timesteps=chosen.num_timesteps,
            params=params,
            depth=depth,
            observable=told,
            at_most=True,
        )
        built = {"params": None, "depth": None, "hidden": tuple(fitted.config.hidden)}
        return _alone(points, chosen, asked.model_copy(update=built), training, seed)


def _picture_trial(
    data: PictureData,
    model: ModelConfig,
    process: Process,
    training: Mapping[str, int | float | str | None],
    seed: int,
) -> TrialConfig:
    """Makes a trial of pictures; size and training settings that are None suit the pictures."""
    suits = _suits_pictures(data, seed)
    given = {key: value for key, value in training.items() if value is not None}
    way = cast("OptimizerName", given.get("optimizer", suits.training.optimizer))
    rate = suits.training.learning_rate
    if way != suits.training.optimizer:
        rate = suitable_rate(way, get_family(model.family).learning_rate)
    config = TrainingConfig.model_validate({**dict(suits.training), "learning_rate": rate, **given})
    size = {} if model.size else {"params": suits.params}
    settings = _accepted(model.family, suits.settings)
    asked = model.model_copy(update={**size, "settings": settings})
    sampling = SamplingConfig(
        scheduler=suits.scheduler if process.is_flow else None, guidance=suits.guidance
    )
    return _alone(data, process, asked, config, seed, sampling, PICTURE_EVALUATION)
