"""The public names: where each lives, for the package and for type checkers."""
# ruff: noqa: I001  # a line a module

from .data.densities import GaussianMixture as GaussianMixture
from .data.sources import load_dataset as load_dataset
from .data.toys import TOYS as TOYS, ToyData as ToyData, make_toy as make_toy
from .denoisers.families import FAMILIES as FAMILIES, build_denoiser as build_denoiser
from .denoisers.formula import FormulaDenoiser as FormulaDenoiser
from .denoisers.network import NetworkDenoiser as NetworkDenoiser
from .denoisers.readable import ReadableDenoiser as ReadableDenoiser, readable as readable
from .diffusion.likelihood import log_likelihood as log_likelihood
from .diffusion.sampling import (
    PointDiffusionPipeline as PointDiffusionPipeline,
    SCHEDULERS as SCHEDULERS,
    make_scheduler as make_scheduler,
)
from .errors import KanDiffusionError as KanDiffusionError
from .evaluation.denoising import (
    draw_noised_points as draw_noised_points,
    measure_denoising as measure_denoising,
)
from .evaluation.metrics import Metric as Metric, SAMPLE_METRICS as SAMPLE_METRICS
from .formulas.explain import ExplainOptions as ExplainOptions, explain_run as explain_run
from .kan.linear import KAN as KAN, KANLinear as KANLinear
from .kanified.conversion import KanifyReport as KanifyReport, kanify as kanify
from .kanified.recipe import load_kanified as load_kanified, save_kanified as save_kanified
from .pictures.pipeline import PictureDiffusionPipeline as PictureDiffusionPipeline
from .pictures.prompts import Vocabulary as Vocabulary
from .pictures.scenes import score_scenes as score_scenes
from .pictures.sources import FolderData as FolderData, ShapesData as ShapesData
from .processes import PROCESSES as PROCESSES, Process as Process, get_process as get_process
from .report.network import draw_network as draw_network
from .report.study import write_report as write_report
from .study.config import (
    StudyConfig as StudyConfig,
    read_preset as read_preset,
    read_study as read_study,
)
from .study.results.rows import read_results as read_results
from .study.results.verdicts import compare as compare, decide as decide
from .study.results.wording import say as say
from .study.run import run_study as run_study
from .tables.codec import TableCodec as TableCodec
from .tables.estimator import DiffusionEstimator as DiffusionEstimator
from .tables.page import write_table_page as write_table_page
from .tables.pipeline import TableDiffusionPipeline as TableDiffusionPipeline
from .tables.scores import TableScores as TableScores, table_scores as table_scores
from .tables.sources import FileData as FileData, TableData as TableData
from .training.callbacks import Progress as Progress, Snapshots as Snapshots
from .training.config import TrainingConfig as TrainingConfig
from .training.loop import train as train

__version__: str
