"""The page of a study: verdicts first, then a part for each data set, then every trial."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from kan_diffusion.files import inside, write_bytes
from kan_diffusion.report import charts
from kan_diffusion.report.charts.lines import level_measure
from kan_diffusion.report.charts.sheets import asked_figure, process_figure
from kan_diffusion.report.contents import MANY_MODELS, ReportContents
from kan_diffusion.report.html import Page, Section
from kan_diffusion.report.images import embedded, figure_png
from kan_diffusion.report.motion import add_player
from kan_diffusion.report.points import PointView
from kan_diffusion.report.style import NARROW
from kan_diffusion.report.tables import (
    BADGES,
    REAL_ROW,
    Anchors,
    lead_table,
    model_table,
    time_use,
    trials_table,
    verdict_table,
)
from kan_diffusion.study.results.rows import MEASURES
from kan_diffusion.study.results.verdicts import Verdict
from kan_diffusion.study.results.wording import capitalised, overall, say

__all__ = ["write_report"]

_MOST_BYTES = 2_500_000
"""Approximate bytes of all figures of a page; a single SVG has fewer than ``_LARGEST``."""
_LARGEST = 120_000
_MANY_FIGURES = 24


def write_report(contents: ReportContents, folder: str | Path, *, figures: bool = True) -> Path:
    """Writes ``report.html``, and its figures again as PNG files under ``figures/``.

    Args:
        contents: The study.
        folder: The folder to write to. Existing files are replaced, each whole or not at all.
        figures: Whether to draw figures, into the page and as files.

    Returns:
        The path of the page.

    Raises:
        RunFolderError: A file cannot be written.
    """
    return _Report(contents, Path(folder), figures).write()


class _Report:
    """A report that is being written."""

    def __init__(self, contents: ReportContents, folder: Path, figures: bool) -> None:
        self.contents = contents
        self.results = contents.results
        self.decision = contents.decision
        self.data_sets = contents.results.data_sets()
        self.folder = folder
        self.paged = len(self.data_sets) > 1
        self.page = Page(contents.title, contents.question, self.paged, drawn=figures)
        self.names = Anchors()
        # Approximate number of figures.
        count = 7 * len(self.data_sets) + len(contents.trajectories)
        self.sharpness = 144 if count <= _MANY_FIGURES else 96
        self.largest = min(_LARGEST, _MOST_BYTES // max(count, 1))
        # Reserved first, so that these ids get no number appended.
        for fixed in ("trials", "settings"):
            self.page.anchors(fixed)
        for data in self.data_sets:
            self.page.anchors("data", data)

    def write(self) -> Path:
        contents, page = self.contents, self.page
        self._add_answer()
        page.items(contents.warnings, "warnings", "Before you read the numbers")
        verdicts = verdict_table(contents, page.anchors)
        if verdicts is not None:
            page.table(verdicts).text(
                "The best of a kind is the model with the lowest mean of the judged measure, "
                "chosen from as many as stand in brackets. KAN minus MLP: mean paired difference "
                "over the seeds that both finished, with its 95 % bootstrap interval; below 0 the "
                "KAN is better. p: sign-flip test, also corrected by Holm’s method over the data "
                "sets at that budget.",
                kind="note",
            )
        if not self.paged:
            for data in self.data_sets:
                self._add_tables(page, data, True)
                self._add_figures(page, data)
        self._add_differences()
        for data in contents.data_names():
            if self.paged:
                self._add_data(data)
            else:
                self._add_process(page, data)
        self._add_trials()
        background = page.section("Settings", "settings").facts(contents.settings)
        (background if self.paged else page).section("Environment").facts(contents.environment)
        (background if self.paged else page).section("Run it again", "command").code(
            contents.command
        )
        return page.write(self.folder / "report.html")

    def _draw(
        self, part: Section, name: str, draw: Callable[..., Figure], caption: str, alternative: str
    ) -> None:
        """Draws a figure into its own file and the page, there also for telephones if needed."""
        if not part.drawn:
            return
        path = inside(self.folder, "figures", f"{self.names(name)}.png")
        with part.keeping_going(alternative):
            figure = draw()
            narrow = partial(draw, width=NARROW)
            picture = embedded(figure, self.largest, self.sharpness, narrow)
            write_bytes(path, figure_png(figure))
            part.figure(picture, caption, alternative)

    def _add_answer(self) -> None:
        found = list(self.decision.verdicts.values())
        plain = [say(verdict) for verdict in found if not verdict.outcome]
        self.page.text(overall(self.decision), *plain, kind="answer")
        judged = [verdict for verdict in found if verdict.outcome]
        if len(judged) == 1:
            self.page.text(_verdict(judged[0]), kind="verdict")
            return
        line = Markup('{}<span><a href="#{}">{}</a>. {}</span>')
        lines = [
            line.format(
                _badge(verdict),
                self.page.anchors("data", verdict.data),
                verdict.data,
                say(verdict, with_label=False),
            )
            for verdict in judged
        ]
        self.page.items(lines, "verdicts")

    def _add_differences(self) -> None:
        """Adds the leads, and a forest plot with a panel for each data set."""
        compared = {c.data for c in self.decision.comparisons}
        data_sets = [data for data in self.data_sets if data in compared]
        section = self.page.part("Every model against the best MLP", "differences")
        if len(compared) < 2:
            return
        at = f" at {self.results.amount}" if self.results.amount else ""
        leads = lead_table(self.contents)
        if leads is not None:
            section.table(leads).text(
                "Each model against the best MLP of each data set with an exact oracle. Ahead on: "
                "the data sets where its mean excess is lower. Better and worse on: those where "
                "it, or that MLP, is called better (p below 0.05 after Holm’s correction, and an "
                "interval that leaves out 0). Median ratio: of its mean excess to that MLP’s, with "
                "the 95 % bootstrap interval over seeds.",
                kind="note",
            )
        for lead in self.decision.leads:
            if lead.model is None:
                self._draw(
                    section, f"lead {lead.amount}".strip(),
                    partial(charts.lead_figure, self.contents, lead),
                    "Excess of the best KAN as a multiple of that of the best MLP, on each data "
                    f"set with an exact oracle{at}; left is better. Marks and lines as below; the "
                    "median is that of the ratios.",
                    f"Best KAN against best MLP on each data set{at}",
                )  # fmt: skip
        losses = {self.results.judged(data) for data in data_sets} != {"excess"}
        self._draw(
            section, "differences", partial(charts.differences_figure, self.contents, data_sets),
            f"Excess of each model{at} as a multiple of that of the best MLP of the data set "
            "(vertical line), on a log axis; left is better. Small marks are seeds, the large "
            "mark is the ratio of the means, the line the 95 % bootstrap interval of the "
            "paired difference. Bold: p below 0.05 after Holm’s correction over the data sets."
            + (
                " Without an exact oracle the panel shows differences of held-out losses."
                if losses else ""
            ),
            f"Ratio of every model to the best MLP of each data set{at}",
        )  # fmt: skip

    def _add_data(self, data: str) -> None:
        part = self.page.section(data, "data", data)
        verdict = self.decision.verdicts[data]
        if verdict.outcome:
            part.text(_verdict(verdict), kind="verdict")
        self._add_tables(part, data, True)
        self._add_figures(part, data)
        self._add_process(part, data)

    def _add_tables(self, part: Section, data: str, explained: bool) -> None:
        part.table(model_table(self.contents, data, self.page.anchors))
        if explained:
            part.text(self._explanation(), kind="note")
        used = time_use(self.contents, data, self.page.anchors)
        if used is not None:
            table, sentence, large = used
            times = part.section("Time really used", "time", data)
            times.text(sentence, kind="flag" if large else "").table(table, True)

    def _explanation(self) -> str:
        """Explains the columns of a table of models."""
        text = (
            "Means over seeds, ± half the width of their 95 % intervals (Student’s t). Excess: "
            "mean over t of the squared distance between a model’s prediction and that of the "
            "oracle, both as predicted noise; 0 is perfect."
        )
        if self.results.rows["nll"].notna().any():
            text += (
                " NLL: negative log-likelihood of held-out points through the probability-flow "
                "ODE, in nats a point."
            )
        metrics = [
            f"{metric.label}: {metric.title}{f' ({metric.unit})' if metric.unit else ''}"
            for metric in self.results.metrics.values()
        ]
        if metrics:
            text += f" {'; '.join(metrics)}."
            text += f" The row “{REAL_ROW}” is what a perfect model would score."
        if self.decision.comparisons:
            text += (
                " “− best MLP”: paired difference of the judged measure to the MLP with the lowest "
                "mean, with its 95 % bootstrap interval; p: sign-flip test, corrected by Holm’s "
                "method over the data sets."
            )
        return Markup(
            '{} A model’s numbers come from the trials that its seeds unfold to; <a href="#trials">'
            "All trials</a> has their raw values."
        ).format(text)

    def _add_figures(self, part: Section, data: str) -> None:
        """Adds the figures of one data set; if it is the only one, file names may be short."""
        contents, label = self.contents, data
        suffix = f" {label}" if self.paged else ""
        rows = self.results.of_data(label)
        many = len(contents.model_names(label)) > MANY_MODELS
        behind = "; the models of other kinds are grey behind" if many else ""
        figures: list[tuple[str, str, Callable[..., Figure], str, str]] = []
        if any(key[0] == label for key in contents.samples):
            figures.append((
                "What the models generate", f"samples {label}", charts.samples_figure,
                "Generated points beside real ones",
                "fresh real points, which no model was trained on, beside those that each model "
                f"generates (first seed), on the same axes.{self._view_note(data)}",
            ))  # fmt: skip
        if any(key[0] == label for key in contents.drawn):
            figures.append((
                "What the models draw", f"pictures {label}", _pictures_figure,
                "Pictures that were asked for beside real ones",
                "what was asked for, a real picture of it, and what each model draws (first seed), "
                "from the same noise.",
            ))  # fmt: skip
        judged = MEASURES[self.results.judged(label)]
        if rows[self.results.judged(label)].notna().any():
            against = (
                " relative to the best MLP (vertical line). Excess and training time are ratios on "
                "a log axis, held-out losses differences. The line is the 95 % bootstrap interval "
                "of the paired difference; bold: p below 0.05, of training time without Holm’s "
                "correction"
            )
            alone = ". The line is the 95 % interval of the mean (Student’s t over seeds)"
            compared = bool(self.decision.of_data(label))
            figures.append((
                "How the models compare", f"forest{suffix}", charts.forest_figure,
                f"{capitalised(judged)} of each model",
                f"{judged} of each model{against if compared else alone}; an arrowhead says that "
                "it goes on beyond the axis. Left is better. Small marks are seeds, the large mark "
                "is the mean; n: seeds.",
            ))  # fmt: skip
        levels = contents.levels_of(label)
        if len(levels) and levels[level_measure(levels)].notna().any():
            shown = f"{capitalised(MEASURES[level_measure(levels)])} by noise level"
            figures.append((
                shown, f"excess by level{suffix}", charts.by_level_figure, shown,
                "mean over seeds in bins of noise levels, against the logarithm of the "
                "signal-to-noise ratio: noise on the left, data on the right"
                f"{behind or '; band: 95 % interval'}. Bins whose estimate is not above 0 are not "
                "drawn.",
            ))  # fmt: skip
        if len(contents.curves_of(label)):
            floor = (
                " The floor is the loss of the exact oracle, which no denoiser can beat on "
                "average; a running mean that dips below it by chance is not drawn above it."
            )
            figures.append((
                "Training losses", f"loss {label}", charts.loss_figure, "Training losses",
                "training loss as a running mean over windows that grow with the step, so that "
                "late values average many batches; mean over seeds"
                f"{behind or '; band: their range'}.{floor if label in contents.floors else ''}",
            ))  # fmt: skip
        if rows[list(self.results.metrics)].notna().any(axis=None):
            figures.append((
                "Sample metrics", f"metrics {label}", charts.metrics_figure, "Sample metrics",
                "metrics of what each model generates, relative to the best MLP "
                "(vertical line); further left is better unless a title says otherwise. Dashed: "
                "two fresh real samples of the same size, which no model can be expected to beat. "
                "Marks and lines as above, p without Holm’s correction.",
            ))  # fmt: skip
        for title, name, draw, alternative, caption in figures:
            section = part.section(title, "part", label, title)
            draws = partial(draw, contents, label)
            self._draw(section, name, draws, f"{label}: {caption}", f"{alternative}, {label}")
        self._add_motion(part, label)

    def _add_motion(self, part: Section, label: str) -> None:
        """Adds players of the reverse processes of a data set's models, and of their training."""
        if not part.drawn:
            return
        contents = self.contents
        exact = " beside that of the exact denoiser" if label in contents.exact else ""
        motions = (
            (
                "From noise to samples", charts.process_motion,
                f"the reverse process of every model after training{exact}, all from the same "
                "noise (first seed). Between recorded times, a tenth of T apart, what is seen "
                "moves straight.",
            ),
            (
                "What training changes", charts.training_motion,
                "what every model draws from the same noise at moments of its training (first "
                "seed).",
            ),
        )  # fmt: skip
        for title, moving, caption in motions:
            motion = moving(contents, label)
            if motion is not None:
                section = part.section(title, "part", label, title)
                with section.keeping_going(title):
                    words = f"{label}: {caption}"
                    add_player(section, motion, words, f"{title}, {label}", 2 * self.largest)

    def _add_process(self, part: Section, data: str) -> None:
        """Adds the figures of a data set, of its forward process and of its reverse processes."""
        contents = self.contents
        section = part.section("Data and process", "part", data, "process")
        if data in contents.originals:
            self._draw(
                section, f"data {data}", partial(charts.data_figure, contents, data),
                f"{data}: real points.{self._view_note(data)}", f"Real points, {data}",
            )  # fmt: skip
        if contents.corruption.get(data):
            self._draw(
                section, f"corruption {data}", partial(charts.corruption_figure, contents, data),
                f"{data}, forward process: the same points "
                "with more and more noise, from t = 0 to T. Sampling starts from pure noise, so "
                "the last panel must look like it.",
                f"The forward process, {data}",
            )  # fmt: skip
        for label, name in contents.trajectories:
            if label == data:
                self._draw(
                    section, f"reverse {label} {name}",
                    partial(charts.reverse_figure, contents, label, name),
                    f"{label}, reverse process of {name}: from noise at t = T to a sample at "
                    "t = 0, one row for each moment of training.",
                    f"The reverse process of {name}, {label}",
                )  # fmt: skip

        for (label, name), moments in contents.states.items():
            if label == data:
                for moment, states in moments:
                    self._draw(
                        section, f"reverse {label} {name} {moment}",
                        partial(
                            process_figure, contents.asked[data], states,
                            np.linspace(1, 0, states.shape[1]).tolist(),
                        ),
                        f"{label}, reverse process of {name} after {moment}: from noise at t = T "
                        "to a picture at t = 0, one row for each that was asked for.",
                        f"The reverse process of {name}, {label}, {moment}",
                    )  # fmt: skip

    def _add_trials(self) -> None:
        section = self.page.section("All trials", "trials")
        failures = self.results.rows[self.results.rows["failed"]].to_dict("records")
        if failures:
            words = "1 trial failed and is" if len(failures) == 1 else None
            section.text(
                f"{words or f'{len(failures)} trials failed and are'} left out of every mean:"
            ).items(
                [
                    f"{row['data']}, {row['name']}, seed {row['seed']}: {row['error']}"
                    for row in failures
                ],
                "failures",
            )
        section.text(
            Markup(
                "The same rows are in <code>results.parquet</code> beside this page; "
                "<code>trials/&lt;trial&gt;/</code> holds each trial’s configuration, denoiser, "
                "loss curve and samples."
            ),
            kind="note",
        ).table(trials_table(self.results, self.page.anchors), plain=True)

    def _view_note(self, data: str) -> str:
        points = self.contents.originals.get(data)
        if points is None or points.shape[1] <= 2:
            return ""
        explained = PointView.of(points).explained
        return (
            f" The points have {points.shape[1]} dimensions and are seen in the plane of the first "
            f"two principal components of the real data, which holds {explained:.0%} of its "
            "variance."
        )


def _pictures_figure(contents: ReportContents, label: str, width: float = math.inf) -> Figure:
    drawn = [
        (name, contents.drawn[label, name])
        for name in contents.model_names(label)
        if (label, name) in contents.drawn
    ]
    return asked_figure(contents.asked[label], [("real", contents.real[label]), *drawn], width)


def _badge(verdict: Verdict) -> Markup:
    assert verdict.outcome is not None
    return Markup('<span class="badge {}">{}</span>').format(
        BADGES[verdict.outcome], verdict.outcome
    )


def _verdict(verdict: Verdict) -> Markup:
    return Markup("{} {}").format(_badge(verdict), say(verdict, with_label=False))
