"""Diffusion models whose denoiser is a Kolmogorov-Arnold network.

The public names; each is imported when it is first used, so that importing the package costs
nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from kan_diffusion._version import __version__

if TYPE_CHECKING:
    from kan_diffusion.data.datasets import load_dataset as load_dataset
    from kan_diffusion.data.densities import GaussianMixture as GaussianMixture
    from kan_diffusion.data.toys import TOYS as TOYS
    from kan_diffusion.data.toys import make_toy as make_toy
    from kan_diffusion.denoisers.families import build_denoiser as build_denoiser
    from kan_diffusion.denoisers.formula import FormulaDenoiser as FormulaDenoiser
    from kan_diffusion.denoisers.kan import KANDenoiser as KANDenoiser
    from kan_diffusion.denoisers.mlp import MLPDenoiser as MLPDenoiser
    from kan_diffusion.denoisers.readable import ReadableDenoiser as ReadableDenoiser
    from kan_diffusion.errors import KanDiffusionError as KanDiffusionError
    from kan_diffusion.estimator import DiffusionEstimator as DiffusionEstimator
    from kan_diffusion.kan.linear import KANLinear as KANLinear
    from kan_diffusion.kan.network import KAN as KAN
    from kan_diffusion.processes import PROCESSES as PROCESSES
    from kan_diffusion.processes import Process as Process
    from kan_diffusion.processes import get_process as get_process
    from kan_diffusion.report.gather import report_contents as report_contents
    from kan_diffusion.report.page import write_report as write_report
    from kan_diffusion.sampling import SCHEDULERS as SCHEDULERS
    from kan_diffusion.sampling import PointDiffusionPipeline as PointDiffusionPipeline
    from kan_diffusion.sampling import make_scheduler as make_scheduler
    from kan_diffusion.study.config import StudyConfig as StudyConfig
    from kan_diffusion.study.config import read_preset as read_preset
    from kan_diffusion.study.run import run_study as run_study
    from kan_diffusion.symbolic.explain import ExplainOptions as ExplainOptions
    from kan_diffusion.symbolic.explain import explain_run as explain_run
    from kan_diffusion.denoisers.readable import readable as readable
    from kan_diffusion.training import TrainingConfig as TrainingConfig
    from kan_diffusion.training import train as train

_HOMES = {
    "GaussianMixture": "data.densities",
    "TOYS": "data.toys",
    "make_toy": "data.toys",
    "load_dataset": "data.datasets",
    "build_denoiser": "denoisers.families",
    "KANDenoiser": "denoisers.kan",
    "MLPDenoiser": "denoisers.mlp",
    "KanDiffusionError": "errors",
    "DiffusionEstimator": "estimator",
    "KANLinear": "kan.linear",
    "KAN": "kan.network",
    "PROCESSES": "processes",
    "Process": "processes",
    "get_process": "processes",
    "report_contents": "report.gather",
    "write_report": "report.page",
    "SCHEDULERS": "sampling",
    "PointDiffusionPipeline": "sampling",
    "make_scheduler": "sampling",
    "StudyConfig": "study.config",
    "read_preset": "study.config",
    "run_study": "study.run",
    "ExplainOptions": "symbolic.explain",
    "explain_run": "symbolic.explain",
    "FormulaDenoiser": "denoisers.formula",
    "ReadableDenoiser": "denoisers.readable",
    "readable": "denoisers.readable",
    "TrainingConfig": "training",
    "train": "training",
}

__all__ = ["__version__", *sorted(_HOMES)]  # the names of _HOMES


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'kan_diffusion' has no attribute '{name}'")
    return getattr(importlib.import_module(f"kan_diffusion.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
