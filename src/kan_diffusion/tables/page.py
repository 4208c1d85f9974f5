"""The view of tables: encoded rows are points, and a page judges rows.

The page has scores, columns and pairs, real beside synthetic, and says what they tell of privacy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kan_diffusion.data.sources import data_from_name
from kan_diffusion.errors import DataError, listed
from kan_diffusion.randomness import numpy_generator, torch_generator
from kan_diffusion.report.page import Page, swatch
from kan_diffusion.report.style import REAL, SYNTHETIC, WIDTH, report_style, shortened
from kan_diffusion.report.tables import format_number, number_frame
from kan_diffusion.report.views import JudgedPage, View
from kan_diffusion.study.trial import load_run
from kan_diffusion.tables.pipeline import TableDiffusionPipeline
from kan_diffusion.tables.scales import Names, Scale
from kan_diffusion.tables.scores import SURE, TableScores, table_scores
from kan_diffusion.tables.sources import FileData, TableData
from kan_diffusion.training.config import num_held_out

_Array = NDArray[np.float64]

_SHOWN_COLUMNS = 12
_SHOWN_PAIRS = 20
_MOST_ROWS = 20_000  # real, training and synthetic ones that are judged
_FEWEST_DRAWN = 1_000
_WORST = 3

_UNPROMISED = (
    "None of these numbers is a promise of privacy. They are averages over rows: they can look "
    "perfect while a few people are given away, above all those with rare values. They look for "
    "copies alone, and there are stronger attacks. What bounds what anybody can learn about a "
    "person is differential privacy, which this model does not have."
)


class TableView(View):
    """The view of tables."""

    def page(
        self,
        run: Path,
        data: str | None,
        out: Path | None,
        *,
        on_progress: Callable[[str, str, float], None] | None = None,
    ) -> JudgedPage:
        """Judges drawn rows beside real ones, see :meth:`.View.page`.

        They are compared with the training rows, too, if their file has not changed. Of the file
        that a run was trained on, only the held-out rows are real rows.
        """
        if on_progress is not None:
            on_progress("rows", "drawing and judging", 0.0)
        config, pipeline = load_run(run)
        trained_on, seeds = config.data, (config.study_seed, config.seed)
        assert isinstance(pipeline, TableDiffusionPipeline)
        assert isinstance(trained_on, FileData | TableData)
        other = trained_on if data is None else data_from_name(data, pinned=False)
        others = other if isinstance(other, FileData) and not trained_on.is_same(other) else None
        train, used = None, f"Real rows are those of '{(others or trained_on).name}'"
        try:
            if data is None or others is not None:
                trained_on.require_recorded()
            rows, _ = trained_on.content()
            learned, heldout = trained_on.split(len(rows), *seeds)
            # A model has not learned the rows that decided when its training ended.
            ending = 0 if config.training.patience is None else num_held_out(len(learned))
            train, real = (
                rows.iloc[part[:_MOST_ROWS].sort().values.numpy()]
                for part in (learned[ending:], heldout)
            )
        except DataError:  # the file has changed or is missing
            if others is None:
                raise
        if others is None:
            used += (
                f" that were held out. Of its {len(rows):,} rows the model learned "
                f"{len(learned) - ending:,}, {ending:,} decided when training ended, and "
                f"{len(heldout):,} were held out"
            )
        else:
            rows, _ = pipeline.codec.read(others.path)
            order = numpy_generator("judged rows").permutation(len(rows))
            real = rows.iloc[np.sort(order[:_MOST_ROWS])]
        synthetic = pipeline.draw(
            min(max(len(real if train is None else train), _FEWEST_DRAWN), _MOST_ROWS),
            steps=config.sampling.steps,
            generator=torch_generator("judged rows", *seeds),
        )
        effort = config.evaluation.effort
        scores = table_scores(
            real,
            synthetic,
            train=train,
            kinds={str(column.name): column.spelled for column in pipeline.codec.columns},
            generator=numpy_generator("scores of a table", *seeds),
            effort=effort,
        )
        used += ". This is a first look, with few trees." if effort == "quick" else "."
        title = f"Synthetic rows of {trained_on.name}"
        path = write_table_page(scores, out or run / "tables.html", title, used)
        return JudgedPage(path, score_texts(scores), say_scores(scores))


def score_texts(scores: TableScores) -> list[tuple[str, str, str]]:
    """Formats each score: its label, its value, and the value of a perfect model."""
    texts = []
    for label, value, perfect, margin in scores.scores.drop(columns="meaning").to_numpy():
        chance = "" if np.isnan(margin) else f" ± {format_number(margin, 2)}"
        texts.append((label, format_number(value), format_number(perfect) + chance))
    return texts


def say_scores(scores: TableScores) -> list[str]:
    """Says in a few sentences whether a table is good, and whether it is a copy."""
    value, perfect, margin = (scores.scores[name] for name in ("value", "perfect", "margin"))
    chance = "chance alone may do that"
    if value["c2st"] - max(perfect["c2st"], 0.5) > margin["c2st"]:
        chance = "a guess is right in 50 %"
    share = _percent(value["c2st"])
    said = [f"Trees tell synthetic rows from real ones in {share} of cases; {chance}."]
    if scores.telling:
        alone = scores.columns.set_index("name")["c2st"]
        names = listed([f"{name} ({_percent(alone[name])})" for name in scores.telling], _WORST)
        kinds = "see whether their kinds are right"
        said.append(f"Columns that give rows away by themselves: {names}; {kinds}.")
    if scores.copied:
        said.append(
            "Synthetic values are mostly real ones, which are nearly unique, in "
            f"{listed(scores.copied)}: call such columns identifiers or leave them out."
        )
    if "closest" not in value:
        unknown = "cannot be said without the rows that the model was trained on"
        return [*said, f"Whether rows are copies {unknown}."]
    signs = []
    if value["closest"] > 0.5 + margin["closest"]:
        nearer = "of synthetic rows are nearer to a training row than to a held-out one"
        signs.append(f"{_percent(value['closest'])} {nearer}")
    if value["copies"] > perfect["copies"] + 0.01:
        signs.append(f"{_percent(value['copies'])} of synthetic rows are training rows")
    if signs:
        return [*said, f"There are signs of copying: {'; '.join(signs)}."]
    none = "is no sign of copying whole rows in these tests, which is no promise of privacy"
    return [*said, f"There {none}."]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def write_table_page(scores: TableScores, path: str | Path, title: str, used: str = "") -> Path:
    """Writes the page of a synthetic table.

    Args:
        scores: The scores of the table.
        path: The file to write.
        title: The title of the page.
        used: Sentences that say which rows were compared.

    Returns:
        The path.

    Raises:
        RunFolderError: The page cannot be written.
    """
    written = partial(number_frame, words=partial(shortened, most=40))
    page = Page(title, "Is it good, and is it a copy? Real rows beside synthetic ones.")
    page.say(*say_scores(scores), kind="answer")
    texts = pd.DataFrame(score_texts(scores), columns=["score", "synthetic", "perfect"])
    texts["score"] += "\n" + scores.scores["meaning"].to_numpy()
    page.table(texts, "Scores")
    real, synthetic, train = scores.num_rows
    others = f"the {train:,} training rows" if train else "the other half of the real rows"
    used += (
        f" {real:,} real rows are compared with {synthetic:,} synthetic ones, equally many a side. "
        f"Perfect: the same number for real rows in the place of the synthetic ones, from {others};"
        " ± holds 95 % of what chance makes of it."
    )
    if scores.left_out:
        names = listed(shortened(name, 40) for name in scores.left_out)
        used += f" Not judged, since they identify rows or have one value everywhere: {names}."
    page.say(used.strip(), kind="note").say(_UNPROMISED, kind="flag")
    page.table(written(scores.usefulness), "Usefulness", fold="Usefulness of columns")
    section = page.section("Columns, those that give rows away first").say(
        swatch(REAL, "real ") + swatch(SYNTHETIC, "synthetic. ")
        + "The grey band holds 95 % of what chance alone makes of that many rows.",
        kind="note",
    )  # fmt: skip
    for column in scores.columns[:_SHOWN_COLUMNS].to_numpy().tolist():
        name, _, alone, alike, perfect, *gaps = column
        caption = f"Similarity {format_number(alike)}, real rows {format_number(perfect)}; "
        caption += f"C2ST alone {alone:.2f}."
        if max(gaps) >= 0.0005:
            caption += " Gaps: {:.1%} real, {:.1%} synthetic.".format(*gaps)
        section.figure(
            partial(column_figure, name, *scores.cells[name]),
            caption.replace("%", "\N{NO-BREAK SPACE}%"),
            f"Real and synthetic values of {name}",
        )
    fold = f"All {len(scores.columns):,} columns as numbers"
    section.table(written(scores.columns), "All columns", fold=fold)
    section = page.section("Pairs of columns")
    pairs = scores.pairs.dropna(axis=1, how="all")
    if "real" in pairs:
        section.say("Real, synthetic: Pearson’s correlation of two numbers or dates.", kind="note")
    section.table(written(pairs[:_SHOWN_PAIRS]), "The worst pairs")
    return page.write(Path(path))


@report_style()
def column_figure(name: str, scale: Scale, real: _Array, synthetic: _Array) -> Figure:
    """Draws the shares of one column's values: a histogram, or lying bars of categories.

    Real cells (n,) and synthetic ones (m,) are numbers, NaN for a gap. The band around real shares
    holds 95 % of the shares that chance alone gives to as many rows as the synthetic ones.
    """
    sides: Sequence[_Array] = [cells[~np.isnan(cells)] for cells in (real, synthetic)]
    if isinstance(scale, Names):
        scale, sides = scale.drawn(*sides)
    edges, log = scale.bins(sides[0])
    shares, drawn = (100 * np.histogram(cells, edges)[0] / max(len(cells), 1) for cells in sides)
    # The standard deviation of the difference of two samples' shares.
    each = sum(1 / max(len(cells), 1) for cells in sides)
    spread = SURE * np.sqrt(each * shares * (100 - shares))
    lower, upper = np.maximum(shares - spread, 0), np.minimum(shares + spread, 100)
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    axes = figure.subplots()
    stairs = partial(
        axes.stairs, edges=edges, orientation="horizontal" if scale.is_named else "vertical"
    )
    stairs(shares, fill=True, color=REAL, alpha=0.5, label="real")
    stairs(upper, baseline=lower, fill=True, color=REAL, alpha=0.35)
    stairs(drawn, color=SYNTHETIC, linewidth=1.6, label="synthetic")
    top = min(1.06 * max(1e-9, float(np.max([upper, drawn]))), 100.5)
    label = scale.label(axes, log)
    outside = [max(0.0, 100 - side.sum()) for side in (shares, drawn)]
    if max(outside) >= 0.05 and label:
        label += "; outside: {:.1f} % real, {:.1f} % synthetic".format(*outside)
    if scale.is_named:
        axes.set(ylim=(edges[-1], edges[0]), xlim=(0, top), xlabel="share of values (%)")
    else:
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0, top), ylabel="share of values (%)")
        axes.set_xlabel(label)
    figure.suptitle(shortened(name, 40), x=0.02, ha="left", fontsize=9, weight="bold")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
