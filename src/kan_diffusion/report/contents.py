"""What a study hands over to be reported: plain arrays and tables, no networks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kan_diffusion.study.results.comparison import Setting

__all__ = [
    "CURVE_COLUMNS",
    "LEVEL_COLUMNS",
    "MANY_MODELS",
    "ROW_COLUMNS",
    "Panels",
    "Points",
    "ReportContents",
    "complete_rows",
    "kind_of",
    "smoothed_curve",
]

Points = NDArray[np.floating]
"""Points, shape (n, d)."""

Panels = list[tuple[float, Points]]
"""Points at several times, each with its time as a fraction of T."""

MANY_MODELS = 6
"""With more models than this a figure is cut by kind and its legend stands beside it."""

_NUM_BINS = 30
_ALL = ""
_METRICS = ("energy", "sliced_w2", "w2", "mmd", "c2st")
_NUMBERS = (
    *("budget", "parameters", "flops", "flops_per_edge", "steps"),
    *("train_seconds", "train_cpu_seconds", "sample_seconds", "out_of_range"),
    *("heldout_loss", "floor", "excess", "excess_se", "nll", "nll_real"),
    *(column for metric in _METRICS for column in (metric, f"{metric}_real")),
)
_SETTING = ("data", "match", "budget")
ROW_COLUMNS = (
    *("data", "match", "name", "family", "kind", "seed", "oracle"),
    *(*_NUMBERS, "trial", "error"),
)
"""The columns of `ReportContents.rows`."""
LEVEL_COLUMNS = (
    *(*_SETTING, "name", "seed"),
    *("t_low", "t_high", "t_mid", "log_snr", "excess", "heldout_loss"),
)
"""The columns of `ReportContents.levels`."""
CURVE_COLUMNS = (*_SETTING, "name", "seed", "step", "loss")
"""The columns of `ReportContents.curves`."""


def _empty(columns: Iterable[str]) -> pd.DataFrame:
    return pd.DataFrame(columns=list(columns))


@dataclass
class ReportContents:
    """A study's results, ready to be drawn.

    Everything but the title, the question and the rows may be left out; what is missing is left
    out of the report too. A *setting* is a data set at a budget; its label is that of
    `kan_diffusion.study.results.comparison.Setting`: the name of the data set alone where the
    study holds nothing equal.

    Attributes:
        title: The report's title.
        question: What the study asked, one sentence.
        rows: One row a trial, with the columns `ROW_COLUMNS` (absent ones count as missing). A
            failed trial has its reason in ``error`` and NaN for what was not measured.
        command: The command that runs the study again.
        environment: Versions and hardware.
        settings: Process, steps, batch, seeds and the like, as name and value.
        warnings: What a reader must know before believing the numbers.
        excess_by_level: Excess and held-out loss in bins of the noise level, with the columns
            `LEVEL_COLUMNS`; t is a fraction of T, ``log_snr`` is log(alpha² / sigma²).
        curves: Training losses, each as `smoothed_curve` gives it, with the columns
            `CURVE_COLUMNS`.
        floors: Data to the training loss of the oracle.
        corruption: Data to panels of the forward process.
        trajectories: Label of a setting and model to moments of training, each with panels of the
            reverse process from noise to data.
        samples: Label of a setting and model to generated points, shape (n, d).
        originals: Data to fresh real points, shape (n, d).
        columns: Data to the names of its coordinates.
        budget: What the study held equal between families whose rows do not say so themselves.
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
    budget: Literal["params", "flops", "flops-per-edge", "time"] = "params"
    _split: dict[str, tuple[pd.DataFrame, dict[str, pd.DataFrame]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def data_names(self) -> list[str]:
        """The data sets, in the order of their first row."""
        return list(dict.fromkeys(self.rows["data"]))

    def settings_of_rows(self, data: str | None = None) -> list[Setting]:
        """The settings, in the order of their first row, of one data set or of all."""
        first = self.complete_rows().drop_duplicates("setting")
        return [
            _setting(*key)
            for key in first[list(_SETTING)].itertuples(index=False, name=None)
            if data in (None, str(key[0]))
        ]

    def data_of(self, label: str) -> str:
        """The data set of a setting; the label itself where no row has that setting."""
        return next((s.data for s in self.settings_of_rows() if s.label == label), label)

    def complete_rows(self, label: str | None = None) -> pd.DataFrame:
        """The rows as `complete_rows` makes them, of one setting or all."""
        return self._part("rows", label)

    def model_names(self, label: str | None = None) -> list[str]:
        """The models in the order of their first row, of one setting or all.

        Many models come by kind: KANs, MLPs, others.
        """
        first = self.complete_rows(label).drop_duplicates("name")
        names, kinds = first["name"].tolist(), first["kind"].tolist()
        if len(names) <= MANY_MODELS:
            return names
        order = sorted(
            range(len(names)), key=lambda index: ("kan", "mlp", "other").index(kinds[index])
        )
        return [names[index] for index in order]

    def levels_of(self, label: str) -> pd.DataFrame:
        """`excess_by_level` of one setting, with every column of `LEVEL_COLUMNS`."""
        return self._part("excess_by_level", label)

    def curves_of(self, label: str) -> pd.DataFrame:
        """`curves` of one setting."""
        return self._part("curves", label)

    def _part(self, which: str, label: str | None) -> pd.DataFrame:
        """A table, completed, or its part of one setting; kept as long as the table is the same."""
        table: pd.DataFrame = getattr(self, which)
        kept = self._split.get(which)
        if kept is None or kept[0] is not table:
            if which == "rows":
                complete = complete_rows(table)
            else:
                columns = LEVEL_COLUMNS if which == "excess_by_level" else CURVE_COLUMNS
                complete = table.reindex(columns=list(columns))
                complete = complete.assign(setting=_labels(complete))
            groups = complete.groupby("setting", sort=False)
            kept = table, {_ALL: complete} | {str(key): part for key, part in groups}
            self._split[which] = kept
        empty = kept[1][_ALL].iloc[:0]
        return kept[1].get(_ALL if label is None else label, empty)


def kind_of(family: str) -> str:
    """The kind of a family whose rows do not say it, by its name: ``kan``, ``mlp`` or ``other``."""
    if family == "spline-mlp":
        return "other"
    for kind in ("kan", "mlp"):
        if family == kind or family.startswith(f"{kind}-") or family.endswith(f"-{kind}"):
            return kind
    return "other"


def complete_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with every column of `ROW_COLUMNS`, numbers as floats, ``failed`` and ``setting``.

    What older rows do not say is filled in: ``kind`` by the family's name, and ``oracle`` of a
    setting by whether it has an excess.

    Returns:
        A copy, one row a trial; ``failed`` says whether ``error`` holds a reason, and ``setting``
        is the label of the row's setting. Rows that have both are complete and handed back.
    """
    if {"failed", "setting"} <= set(rows.columns):
        return rows
    complete = rows.reindex(columns=list(ROW_COLUMNS)).reset_index(drop=True)
    for column in _NUMBERS:
        complete[column] = pd.to_numeric(complete[column], errors="coerce").astype(float)
    complete["name"] = complete["name"].astype(str)
    complete["family"] = complete["family"].where(complete["family"].notna(), complete["name"])
    for column in ("match", "kind", "oracle"):
        values = complete[column].astype(object)
        complete[column] = values.where(values.notna(), None)
    guesses = complete["family"].astype(str).map(kind_of)
    complete["kind"] = complete["kind"].where(complete["kind"].notna(), guesses).astype(object)
    complete["failed"] = [isinstance(error, str) and error != "" for error in complete["error"]]
    complete["setting"] = _labels(complete)
    for _, group in complete.groupby("setting", sort=False):
        known = group["oracle"].dropna()
        guess = "exact" if group["excess"].notna().any() else "none"
        filled = group["oracle"].where(
            group["oracle"].notna(), known.iloc[0] if len(known) else guess
        )
        complete.loc[group.index, "oracle"] = filled
    return complete


def smoothed_curve(
    steps: NDArray[np.number], losses: NDArray[np.floating], num_bins: int = _NUM_BINS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Running means of one trial's losses, over windows of steps that grow by one factor.

    Late windows are long, so that a loss near its floor is averaged over many batches.

    Args:
        steps: Positive steps, shape (n,).
        losses: The loss of each, shape (n,).
        num_bins: The most windows there are.

    Returns:
        The mean step of each window that has any, and the mean loss in it, both of shape (b,).
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


def _setting(data: object, match: str | None, budget: float | None) -> Setting:
    """The setting of a row, whose budget may be None or NaN."""
    if match is None or budget is None or np.isnan(budget):
        return Setting(str(data), match)
    return Setting(str(data), match, float(budget))


def _labels(frame: pd.DataFrame) -> list[str]:
    """The label of every row's setting; columns ``match`` and ``budget`` may be absent."""
    keys = frame.reindex(columns=list(_SETTING)).astype(object)
    keys = keys.where(keys.notna(), None)
    known: dict[tuple[object, ...], str] = {}
    labels = []
    for key in keys.itertuples(index=False, name=None):
        if key not in known:
            data, match, budget = key
            known[key] = _setting(data, match, budget).label
        labels.append(known[key])
    return labels
