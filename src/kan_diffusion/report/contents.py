"""What a study hands over to be reported: plain arrays and tables, no networks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = [
    "CURVE_COLUMNS",
    "LEVEL_COLUMNS",
    "ROW_COLUMNS",
    "Panels",
    "Points",
    "ReportContents",
    "complete_rows",
]

Points = NDArray[np.floating]
"""Points, shape (n, d)."""

Panels = list[tuple[float, Points]]
"""Points at several times, each with its time as a fraction of T."""

_METRICS = ("energy", "sliced_w2", "w2", "mmd", "c2st")
_NUMBERS = (
    *("parameters", "flops", "train_seconds", "sample_seconds", "out_of_range"),
    *("heldout_loss", "floor", "excess", "excess_se"),
    *(column for metric in _METRICS for column in (metric, f"{metric}_real")),
)
ROW_COLUMNS = ("data", "name", "family", "seed", *_NUMBERS, "trial", "error")
"""The columns of `ReportContents.rows`."""
LEVEL_COLUMNS = ("data", "name", "seed", "t_low", "t_high", "t_mid", "log_snr", "excess")
"""The columns of `ReportContents.excess_by_level`."""
CURVE_COLUMNS = ("data", "name", "seed", "step", "loss")
"""The columns of `ReportContents.curves`."""


def _empty(columns: Iterable[str]) -> pd.DataFrame:
    return pd.DataFrame(columns=list(columns))


@dataclass
class ReportContents:
    """A study's results, ready to be drawn.

    Everything but the title, the question and the rows may be left out; what is missing is left
    out of the report too.

    Attributes:
        title: The report's title.
        question: What the study asked, one sentence.
        rows: One row a trial, with the columns `ROW_COLUMNS` (absent ones count as missing). A
            failed trial has its reason in ``error`` and NaN for what was not measured.
        command: The command that runs the study again.
        environment: Versions and hardware.
        settings: Process, steps, batch, seeds and the like, as name and value.
        warnings: What a reader must know before believing the numbers.
        excess_by_level: Excess in bins of the noise level, with the columns `LEVEL_COLUMNS`;
            t is a fraction of T, ``log_snr`` is log(alpha² / sigma²).
        curves: Training losses, with the columns `CURVE_COLUMNS`.
        floors: Data to the training loss of the oracle.
        corruption: Data to panels of the forward process.
        trajectories: Data and model to moments of training, each with panels of the reverse
            process from noise to data.
        samples: Data and model to generated points, shape (n, d).
        originals: Data to fresh real points, shape (n, d).
        columns: Data to the names of its coordinates.
        budget: What the study held equal between families.
    """

    title: str
    question: str
    rows: pd.DataFrame
    command: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    settings: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    excess_by_level: pd.DataFrame = field(default_factory=lambda: _empty(LEVEL_COLUMNS))
    curves: pd.DataFrame = field(default_factory=lambda: _empty(CURVE_COLUMNS))
    floors: dict[str, float] = field(default_factory=dict)
    corruption: dict[str, Panels] = field(default_factory=dict)
    trajectories: dict[tuple[str, str], list[tuple[str, Panels]]] = field(default_factory=dict)
    samples: dict[tuple[str, str], Points] = field(default_factory=dict)
    originals: dict[str, Points] = field(default_factory=dict)
    columns: dict[str, list[str]] = field(default_factory=dict)
    budget: Literal["params", "flops", "time"] = "params"

    def data_names(self) -> list[str]:
        """The data sets, in the order of their first row."""
        return list(dict.fromkeys(self.rows["data"]))

    def model_names(self, data: str | None = None) -> list[str]:
        """The models, in the order of their first row, on one data set or on all."""
        rows = self.rows if data is None else self.rows[self.rows["data"] == data]
        return list(dict.fromkeys(rows["name"]))


def complete_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with every column of `ROW_COLUMNS`, numbers as floats, and ``failed``.

    Returns:
        A copy, one row a trial; ``failed`` says whether ``error`` holds a reason.
    """
    complete = rows.reindex(columns=list(ROW_COLUMNS)).reset_index(drop=True)
    for column in _NUMBERS:
        complete[column] = pd.to_numeric(complete[column], errors="coerce").astype(float)
    complete["name"] = complete["name"].astype(str)
    complete["family"] = complete["family"].where(complete["family"].notna(), complete["name"])
    complete["failed"] = [isinstance(error, str) and error != "" for error in complete["error"]]
    return complete
