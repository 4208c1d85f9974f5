"""Diffusion models whose denoiser is a Kolmogorov-Arnold network.

The public names; each is imported when it is first used, so that importing the package costs
nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from kan_diffusion._version import __version__
from kan_diffusion.registration import offer

if TYPE_CHECKING:
    from kan_diffusion.data.densities import GaussianMixture as GaussianMixture
    from kan_diffusion.data.sources import load_dataset as load_dataset
    from kan_diffusion.data.toys import TOYS as TOYS
    from kan_diffusion.data.toys import ToyData as ToyData
    from kan_diffusion.data.toys import make_toy as make_toy
    from kan_diffusion.denoisers.families import FAMILIES as FAMILIES
    from kan_diffusion.denoisers.families import build_denoiser as build_denoiser
    from kan_diffusion.denoisers.formula import FormulaDenoiser as FormulaDenoiser
    from kan_diffusion.denoisers.network import NetworkDenoiser as NetworkDenoiser
    from kan_diffusion.denoisers.readable import ReadableDenoiser as ReadableDenoiser
    from kan_diffusion.denoisers.readable import readable as readable
    from kan_diffusion.diffusion.likelihood import log_likelihood as log_likelihood
    from kan_diffusion.diffusion.sampling import SCHEDULERS as SCHEDULERS
    from kan_diffusion.diffusion.sampling import PointDiffusionPipeline as PointDiffusionPipeline
    from kan_diffusion.diffusion.sampling import make_scheduler as make_scheduler
    from kan_diffusion.errors import KanDiffusionError as KanDiffusionError
    from kan_diffusion.evaluation.denoising import draw_noised_points as draw_noised_points
    from kan_diffusion.evaluation.denoising import measure_denoising as measure_denoising
    from kan_diffusion.evaluation.metrics import SAMPLE_METRICS as SAMPLE_METRICS
    from kan_diffusion.evaluation.metrics import Metric as Metric
    from kan_diffusion.formulas.explain import ExplainOptions as ExplainOptions
    from kan_diffusion.formulas.explain import explain_run as explain_run
    from kan_diffusion.kan.linear import KAN as KAN
    from kan_diffusion.kan.linear import KANLinear as KANLinear
    from kan_diffusion.kanified.conversion import KanifyReport as KanifyReport
    from kan_diffusion.kanified.conversion import kanify as kanify
    from kan_diffusion.kanified.recipe import load_kanified as load_kanified
    from kan_diffusion.kanified.recipe import save_kanified as save_kanified
    from kan_diffusion.pictures.pipeline import PictureDiffusionPipeline as PictureDiffusionPipeline
    from kan_diffusion.pictures.prompts import Vocabulary as Vocabulary
    from kan_diffusion.pictures.scenes import score_scenes as score_scenes
    from kan_diffusion.pictures.sources import FolderData as FolderData
    from kan_diffusion.pictures.sources import ShapesData as ShapesData
    from kan_diffusion.processes import PROCESSES as PROCESSES
    from kan_diffusion.processes import Process as Process
    from kan_diffusion.processes import get_process as get_process
    from kan_diffusion.report.gather import report_contents as report_contents
    from kan_diffusion.report.study import write_report as write_report
    from kan_diffusion.study.config import StudyConfig as StudyConfig
    from kan_diffusion.study.config import read_preset as read_preset
    from kan_diffusion.study.config import read_study as read_study
    from kan_diffusion.study.results.rows import read_results as read_results
    from kan_diffusion.study.results.verdicts import compare as compare
    from kan_diffusion.study.results.verdicts import decide as decide
    from kan_diffusion.study.results.wording import say as say
    from kan_diffusion.study.run import run_study as run_study
    from kan_diffusion.tables.codec import TableCodec as TableCodec
    from kan_diffusion.tables.estimator import DiffusionEstimator as DiffusionEstimator
    from kan_diffusion.tables.page import write_table_page as write_table_page
    from kan_diffusion.tables.pipeline import TableDiffusionPipeline as TableDiffusionPipeline
    from kan_diffusion.tables.scores import TableScores as TableScores
    from kan_diffusion.tables.scores import table_scores as table_scores
    from kan_diffusion.tables.sources import FileData as FileData
    from kan_diffusion.tables.sources import TableData as TableData
    from kan_diffusion.training.callbacks import Progress as Progress
    from kan_diffusion.training.callbacks import Snapshots as Snapshots
    from kan_diffusion.training.config import TrainingConfig as TrainingConfig
    from kan_diffusion.training.loop import train as train

_NAMES = {
    "tables.codec": ["TableCodec"],
    "data.sources": ["load_dataset"],
    "data.densities": ["GaussianMixture"],
    "data.toys": ["TOYS", "ToyData", "make_toy"],
    "denoisers.families": ["FAMILIES", "build_denoiser"],
    "denoisers.formula": ["FormulaDenoiser"],
    "denoisers.network": ["NetworkDenoiser"],
    "denoisers.readable": ["ReadableDenoiser", "readable"],
    "errors": ["KanDiffusionError"],
    "tables.estimator": ["DiffusionEstimator"],
    "evaluation.denoising": ["draw_noised_points", "measure_denoising"],
    "evaluation.metrics": ["SAMPLE_METRICS", "Metric"],
    "pictures.scenes": ["score_scenes"],
    "pictures.sources": ["FolderData", "ShapesData"],
    "tables.sources": ["FileData", "TableData"],
    "tables.scores": ["TableScores", "table_scores"],
    "kan.linear": ["KAN", "KANLinear"],
    "kanified.conversion": ["KanifyReport", "kanify"],
    "kanified.recipe": ["load_kanified", "save_kanified"],
    "diffusion.likelihood": ["log_likelihood"],
    "pictures.pipeline": ["PictureDiffusionPipeline"],
    "processes": ["PROCESSES", "Process", "get_process"],
    "report.gather": ["report_contents"],
    "tables.page": ["write_table_page"],
    "report.study": ["write_report"],
    "diffusion.sampling": ["SCHEDULERS", "PointDiffusionPipeline", "make_scheduler"],
    "tables.pipeline": ["TableDiffusionPipeline"],
    "study.config": ["StudyConfig", "read_preset", "read_study"],
    "study.results": ["compare", "decide", "read_results", "say"],
    "study.run": ["run_study"],
    "formulas.explain": ["ExplainOptions", "explain_run"],
    "pictures.prompts": ["Vocabulary"],
    "training.callbacks": ["Progress", "Snapshots"],
    "training.config": ["TrainingConfig"],
    "training.loop": ["train"],
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOMES)]  # the names of _NAMES


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'kan_diffusion' has no attribute '{name}'")
    return getattr(importlib.import_module(f"kan_diffusion.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


offer(
    "diffusers",
    ("PictureDiffusionPipeline", "PointDiffusionPipeline", "TableDiffusionPipeline"),
    __getattr__,
)
