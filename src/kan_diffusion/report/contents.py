"""Contents of a study's report: plain arrays and tables, ready to be drawn, no networks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kan_diffusion.report.points import Panels, PictureRows, Points
from kan_diffusion.report.style import ModelStyle, model_styles
from kan_diffusion.study.results.rows import Results
from kan_diffusion.study.results.verdicts import Decision, decide

__all__ = ["CURVE_COLUMNS", "LEVEL_COLUMNS", "MANY_MODELS", "ReportContents", "smoothed_curve"]

MANY_MODELS = 6
"""With more models than this, line charts have a panel for each kind of model."""

_NUM_BINS = 30
_KINDS = ("kan", "mlp", "other")
LEVEL_COLUMNS = (
    *("data", "name", "seed", "t_low", "t_high", "t_mid", "log_snr"),
    *("excess", "heldout_loss"),
)
"""The columns of `ReportContents.excess_by_level`."""
CURVE_COLUMNS = ("data", "name", "seed", "step", "loss")
"""The columns of `ReportContents.curves`."""


def _empty(columns: Iterable[str]) -> pd.DataFrame:
    return pd.DataFrame(columns=list(columns))


@dataclass
class ReportContents:
    """A study's results, ready to be drawn.

    Only the title, the question and the results are required; the report leaves out what is
    missing.

    Attributes:
        title: The report's title.
        question: What the study asked, one sentence.
        results: The rows of the study.
        command: The command that runs the study again.
        environment: Versions and hardware.
        settings: Process, steps, batch size, seeds and the like, as pairs of name and value.
        warnings: What a reader must know before believing the numbers.
        excess_by_level: Excess and held-out loss in bins of the noise level, with the columns
            `LEVEL_COLUMNS`; t is a fraction of T, ``log_snr`` is log(alpha² / sigma²).
        curves: Training losses smoothed by `smoothed_curve`, with the columns `CURVE_COLUMNS`.
        floors: Training loss of the oracle, by data set.
        corruption: Panels of the forward process, by data set.
        trajectories: Moments of training, each with panels of the reverse process from noise to
            data, by data set and model.
        exact: Reverse process of the exact denoiser, from the same noise as `trajectories`, by
            setting; only where the density is known.
        samples: Generated points, shape (n, d), by data set and model.
        originals: Fresh real points, shape (n, d), by data set.
        columns: Names of the coordinates, by data set.
        asked: What each of the n rows of pictures asks for, such as a prompt, by data set.
        real: A real picture for each of these rows, shape (n, 1, C, S, S), by data set.
        drawn: Drawn pictures in each row, shape (n, each, C, S, S), by data set and model.
        states: Moments of training, each with the reverse process of one picture in each row, shape
            (n, times, C, S, S), by data set and model.
    """

    title: str
    question: str
    results: Results
    command: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    settings: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    excess_by_level: pd.DataFrame = field(default_factory=lambda: _empty(LEVEL_COLUMNS))
    curves: pd.DataFrame = field(default_factory=lambda: _empty(CURVE_COLUMNS))
    floors: dict[str, float] = field(default_factory=dict)
    corruption: dict[str, Panels] = field(default_factory=dict)
    trajectories: dict[tuple[str, str], list[tuple[str, Panels]]] = field(default_factory=dict)
    exact: dict[str, Panels] = field(default_factory=dict)
    samples: dict[tuple[str, str], Points] = field(default_factory=dict)
    originals: dict[str, Points] = field(default_factory=dict)
    columns: dict[str, list[str]] = field(default_factory=dict)
    asked: dict[str, list[str]] = field(default_factory=dict)
    real: dict[str, PictureRows] = field(default_factory=dict)
    drawn: dict[tuple[str, str], PictureRows] = field(default_factory=dict)
    states: dict[tuple[str, str], list[tuple[str, PictureRows]]] = field(default_factory=dict)

    @cached_property
    def decision(self) -> Decision:
        """The study's verdicts and comparisons."""
        return decide(self.results)

    @cached_property
    def styles(self) -> dict[str, ModelStyle]:
        """The style of every model, in the order of their first rows."""
        return model_styles(self.results.rows)

    def data_names(self) -> list[str]:
        """The data sets, in the order of their first row."""
        return list(dict.fromkeys(self.results.rows["data"]))

    def model_names(self, label: str | None = None) -> list[str]:
        """The models of one data set, or of all, in the order of their first row.

        More than `MANY_MODELS` are sorted by kind: KANs, MLPs, others.
        """
        models = self.results.models(label)
        if len(models) <= MANY_MODELS:
            return list(models)
        return sorted(models, key=lambda name: _KINDS.index(models[name]))

    def levels_of(self, label: str) -> pd.DataFrame:
        """The rows of `excess_by_level` of one data set."""
        return self.excess_by_level[self.excess_by_level["data"] == label]

    def curves_of(self, label: str) -> pd.DataFrame:
        """The rows of `curves` of one data set."""
        return self.curves[self.curves["data"] == label]


def smoothed_curve(
    steps: NDArray[np.number], losses: NDArray[np.floating], num_bins: int = _NUM_BINS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Averages one trial's losses over windows of steps that grow by a constant factor.

    Late windows are long, so that a loss near its floor is averaged over many batches.

    Args:
        steps: Positive steps, shape (n,).
        losses: The loss of each, shape (n,).
        num_bins: Largest number of windows.

    Returns:
        The mean step and the mean loss of each window that is not empty, both of shape (b,).
    """
    if not len(steps):
        return np.empty(0), np.empty(0)
    steps = np.asarray(steps, dtype=np.float64)
    edges = np.geomspace(max(steps.min(), 1.0), max(steps.max(), 1.0) + 1.0, num_bins + 1)
    window = np.searchsorted(edges, steps, side="right")
    counts = np.bincount(window)
    some = counts > 0
    sums = (np.bincount(window, values) for values in (steps, np.asarray(losses, np.float64)))
    means, smooth = (total[some] / counts[some] for total in sums)
    return means, smooth
