"""What the server that tests fork from imports and does once, so that no command waits for it."""

import importlib

import torch

from kan_diffusion.kan import KAN

for name in (
    "kan_diffusion.cli.app",
    "kan_diffusion.cli.runs",
    "kan_diffusion.cli.study",
    "kan_diffusion.cli.progress",
    "kan_diffusion.tables.estimator",
    "kan_diffusion.tables.task",
    "kan_diffusion.report.study",
    "kan_diffusion.report.explanation",
    "kan_diffusion.formulas.explain",
    "kan_diffusion.study.tuning",
    "diffusers.pipelines.pipeline_utils",
    "sklearn.ensemble",
    "pyarrow.parquet",
):
    importlib.import_module(name)

KAN([1, 1])(torch.zeros(1, 1))  # the first call of a kernel
