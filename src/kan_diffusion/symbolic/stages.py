"""The stages of an explanation as runs: judged like any other, and saved as one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.denoisers.formula import FormulaDenoiser
from kan_diffusion.denoisers.readable import ReadableDenoiser
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.evaluation.metrics import metrics_named
from kan_diffusion.files import write_json, write_parquet
from kan_diffusion.sampling import PointDiffusionPipeline
from kan_diffusion.study.config import TrialConfig
from kan_diffusion.study.folder import (
    CURVES,
    RESULT,
    SAMPLES,
    Row,
    load_trial,
    save_pipeline,
    save_points,
)
from kan_diffusion.study.measure import Yardstick, measure
from kan_diffusion.symbolic.context import Context
from kan_diffusion.symbolic.explanation import Standing

__all__ = ["judge_stage", "remove_stages", "save_stage"]

STAGES = ("simplified", "with formulas", "formula")
"""What an explanation may make of a network, in order."""


def judge_stage(
    name: str,
    denoiser: Denoiser,
    context: Context,
    config: TrialConfig,
    shared: Yardstick | None,
    pipeline: PointDiffusionPipeline,
) -> tuple[Standing, Row, list[dict[str, float | None]], np.ndarray | None]:
    """Judges a denoiser as a study would.

    Args:
        name: What to call the stage.
        denoiser: The denoiser.
        context: Where edges are judged, for its loss where nothing is shared.
        config: The run it comes from, with how to judge.
        shared: What all stages are judged with; None measures no more than the loss.
        pipeline: The run's pipeline.

    Returns:
        How it does; its row of results, its scores by noise level and its samples with shape
        (n, d), empty or None where they were not asked for.
    """
    edges = len(denoiser.edges) if isinstance(denoiser, ReadableDenoiser) else None
    constants = (
        denoiser.num_constants if isinstance(denoiser, ReadableDenoiser) else denoiser.num_trainable
    )
    row: Row = {}
    levels: list[dict[str, float | None]] = []
    samples = None
    trouble = ""
    if shared is not None:
        made = _pipeline(denoiser, pipeline)
        try:
            row, levels, generated = measure(config, context.dataset, made, shared)
        except KanDiffusionError as error:
            # Far from the data, where a sampler may get, functions such as exp have no bounds.
            trouble = str(error)
            evaluation = config.evaluation.model_copy(update={"num_samples": 0})
            plain = config.model_copy(update={"evaluation": evaluation})
            row, levels, generated = measure(plain, context.dataset, made, shared)
        samples = None if generated is None else generated.double().numpy()
    loss, floor, excess = (_number(row, key) for key in ("heldout_loss", "floor", "excess"))
    if loss is None:
        scores = context.scores(denoiser)
        loss, floor, excess = scores.heldout_loss, scores.floor, scores.excess
    keys = metrics_named(config.evaluation.metrics)
    metrics = {key: _number(row, key) for key in keys}
    real = {key: _number(row, f"{key}_real") for key in keys}
    standing = Standing(
        name,
        edges,
        constants,
        loss,
        floor,
        excess,
        {key: value for key, value in metrics.items() if value is not None},
        {key: value for key, value in real.items() if value is not None},
        trouble,
    )
    return standing, row, levels, samples


def _number(row: Row, key: str) -> float | None:
    value = row.get(key)
    return float(value) if isinstance(value, int | float) else None


def _pipeline(denoiser: Denoiser, like: PointDiffusionPipeline) -> PointDiffusionPipeline:
    return PointDiffusionPipeline(
        denoiser, like.scheduler, like.config.mean, like.config.scale, like.config.columns
    )


def save_stage(
    name: str,
    denoiser: Denoiser,
    config: TrialConfig,
    row: Row,
    levels: list[dict[str, float | None]],
    samples: np.ndarray | None,
    pipeline: PointDiffusionPipeline,
    out: Path,
) -> None:
    """Saves a stage as a run of its own, so that it can be sampled, evaluated and reported as one.

    Its training curve has no steps: it was made of another run.

    Args:
        name: What to call the stage.
        denoiser: The denoiser.
        config: The run it comes from, with how it was judged.
        row: What was measured.
        levels: The same by noise level.
        samples: Its samples with shape (n, d), if there are any.
        pipeline: The run's pipeline.
        out: Folder of the explanation; the stage's own is named after it.

    Raises:
        RunFolderError: It cannot be written.
    """
    folder = _place(out, name)
    save_pipeline(_pipeline(denoiser, pipeline), folder)
    write_parquet(folder / CURVES, pd.DataFrame({"step": [], "loss": [], "learning_rate": []}))
    if samples is not None:
        save_points(folder / SAMPLES, torch.from_numpy(samples).float())
    model = config.model.model_copy(update={"name": f"{config.model.name}, {name}"})
    stage = config.model_copy(update={"model": model})
    full: Row = {
        **stage.keys,
        "match": None,
        "budget": None,
        "family": "formula" if isinstance(denoiser, FormulaDenoiser) else "readable-kan",
        "kind": "other",
        "stage": name,
        "parameters": denoiser.num_trainable,
        "flops": denoiser.flops,
        "flops_per_edge": denoiser.flops_per_edge,
        "steps": config.training.steps,
        "error": None,
        **row,
    }
    content = {"config": stage.model_dump(mode="json"), "row": full, "levels": levels}
    write_json(folder / RESULT, content)


def remove_stages(out: Path) -> None:
    """Removes stages that an earlier explanation left, so that none is taken for one of this.

    Args:
        out: Folder of the explanation. What is no stage stays.
    """
    for name in STAGES:
        folder = _place(out, name)
        trial = load_trial(folder)
        if trial is not None and trial.config.model.name.endswith(f", {name}"):
            shutil.rmtree(folder)


def _place(out: Path, name: str) -> Path:
    return out / name.replace(" ", "-")
