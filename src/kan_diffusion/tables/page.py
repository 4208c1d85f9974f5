"""The page of a synthetic table: scores, columns and pairs, real beside synthetic, and privacy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import pandas as pd
from pandas.api.types import is_float_dtype

from kan_diffusion.report.html import Page, Section
from kan_diffusion.report.images import Picture, embedded
from kan_diffusion.report.style import REAL, SYNTHETIC, shortened
from kan_diffusion.report.tables import (
    Cell,
    Columns,
    Head,
    Table,
    format_number,
    number_cell,
    table_of,
)
from kan_diffusion.tables.charts import column_figure, dependence_figure
from kan_diffusion.tables.scores import Score, TableScores

__all__ = ["say_scores", "score_texts", "write_table_page"]

_SHOWN_COLUMNS = 12
_SHOWN_PAIRS = 10
_MOST_PAIRS = 500
_MOST_DEPENDENT = 24

_MEANINGS = {
    "shapes": "each column for itself: 1 is the same distribution",
    "gaps": "share of gaps in each column: 1 is the same",
    "trends": "each pair of columns: 1 is the same dependence",
    "c2st": "how often trees tell synthetic rows from real ones: 0.5 is a guess",
    "usefulness": "AUC or R² on real rows of learners trained on the synthetic ones",
    "closest": "share of synthetic rows nearer to a training row than to a held-out one",
    "copies": "share of synthetic rows that are a training row, cell by cell",
}
"""The meaning of each score, by key."""

_UNPROMISED = (
    "None of these numbers is a promise of privacy. They are averages over rows: they can look "
    "perfect while a few people are given away, above all those with rare values. They look for "
    "copies alone, and there are stronger attacks. What bounds what anybody can learn about a "
    "person is differential privacy, which this model does not have."
)


def score_texts(score: Score) -> tuple[str, str]:
    """Formats the value of a score, and the value of a perfect model."""
    perfect = format_number(score.perfect)
    if score.margin is not None:
        perfect = f"{perfect} ± {format_number(score.margin, 2)}"
    return format_number(score.value), perfect


def say_scores(scores: TableScores) -> list[str]:
    """Says in a few sentences whether a table is good, and whether it is a copy."""
    parts = [
        f"{score.label} {format_number(score.value)} (real rows {format_number(score.perfect)})"
        for score in scores.scores
        if score.key in ("shapes", "trends")
    ]
    said = [f"How alike columns and pairs are, 1 being the same: {', '.join(parts)}."]
    c2st = scores["c2st"]
    told = f"Trees tell synthetic rows from real ones in {100 * c2st.value:.0f} % of cases"
    seen = c2st.value - max(c2st.perfect, 0.5) > (c2st.margin or 0)
    said.append(f"{told}; {'a guess is right in 50 %' if seen else 'chance alone may do that'}.")
    if "usefulness" in scores:
        useful = scores["usefulness"]
        said.append(
            "Learners trained on synthetic rows predict real ones with a mean score of "
            f"{format_number(useful.value)}; trained on as many real rows, with "
            f"{format_number(useful.perfect)}."
        )
    return [*said, _say_privacy(scores)]


def _say_privacy(scores: TableScores) -> str:
    if "closest" not in scores:
        return (
            "Whether rows are copies cannot be said without the rows that the model was trained on."
        )
    closest, copies = scores["closest"], scores["copies"]
    signs = []
    if closest.value > 0.5 + (closest.margin or 0):
        signs.append(
            f"{100 * closest.value:.0f} % of synthetic rows are nearer to a training row than to a "
            "held-out one"
        )
    if copies.value > copies.perfect + 0.01:
        signs.append(f"{100 * copies.value:.0f} % of synthetic rows are training rows")
    if signs:
        return f"There are signs of copying: {'; '.join(signs)}."
    return "There is no sign of copying in these tests, which is no promise of privacy."


def write_table_page(
    scores: TableScores, path: str | Path, title: str, used: str = "", *, figures: bool = True
) -> Path:
    """Writes the page of a synthetic table.

    Args:
        scores: The scores of the table.
        path: The file to write.
        title: The title of the page.
        used: A sentence that says which rows were compared.
        figures: Whether to draw figures.

    Returns:
        The path.

    Raises:
        RunFolderError: The page cannot be written.
    """
    intro = "Is it good, and is it a copy? Real rows beside synthetic ones."
    page = Page(title, intro, drawn=figures)
    page.text(*say_scores(scores), kind="answer")
    perfect = Head("perfect", "What real rows score that no model was trained on")
    heads: Columns[Score] = {
        Head("score", words=True): lambda one: Cell(one.label, _MEANINGS[one.key]),
        Head("synthetic"): lambda one: number_cell(one.value, score_texts(one)[0]),
        perfect: lambda one: number_cell(one.perfect, score_texts(one)[1]),
    }
    page.table(table_of(scores.scores, heads, "Scores", "summary wrapped"), narrow=True)
    page.text(_explanation(scores, used), kind="note")
    _add_columns(page.section("Columns, the worst first", "columns"), scores)
    if len(scores.pairs):
        _add_pairs(page.section("Pairs of columns", "pairs"), scores)
    if len(scores.usefulness):
        section = page.section("Usefulness", "usefulness")
        section.text(
            "Each learner predicts a column of the real rows from all others: once after training "
            "on synthetic rows, once after training on as many real ones. AUC: of a category "
            "against the others, 0.5 is a guess. R²: of a number’s normal scores, 0 is its mean.",
            kind="note",
        )
        section.table(_frame_table(scores.usefulness, "Usefulness", _USEFULNESS), narrow=True)
    section = page.section("Is it a copy?", "privacy")
    section.text(_say_privacy(scores)).text(_UNPROMISED, kind="flag")
    return page.write(Path(path))


def _explanation(scores: TableScores, used: str) -> str:
    real, synthetic, train = scores.rows
    text = (
        f"{used} {real:,} real rows are compared with {synthetic:,} synthetic ones, equally many a "
        f"side{f'; the model was trained on {train:,}' if train else ''}. Perfect: the same number "
        "for real rows in the place of the synthetic ones, from "
        f"{'the training rows' if train else 'the other half of the real rows'}; ± holds 95 % of "
        "what chance makes of it."
    )
    if scores.left_out:
        names = [shortened(name, 40) for name in scores.left_out[:5]]
        names += [f"{len(scores.left_out) - 5:,} more"] if len(scores.left_out) > 5 else []
        text += " Not judged, since they identify rows or have one value everywhere: "
        text += f"{', '.join(names)}."
    return text.strip()


_COLUMNS = {
    "name": "column", "kind": "kind", "shape": "similarity", "perfect": "real rows",
    "real_gaps": "gaps, real", "synthetic_gaps": "gaps, synthetic",
}  # fmt: skip
_PAIRS = {
    "first": "column", "second": "and", "score": "similarity", "perfect": "real rows",
    "real": "real", "synthetic": "synthetic", "measure": "measure",
}  # fmt: skip
_USEFULNESS = {
    "target": "column to predict", "learner": "learner", "measure": "measure",
    "synthetic": "trained on synthetic", "real": "trained on real",
}  # fmt: skip


def _frame_table(frame: pd.DataFrame, caption: str, heads: Mapping[str, str]) -> Table:
    """Makes a table of columns of a frame, each under its head."""

    def cell(name: str, place: int) -> Cell:
        value = frame[name].iloc[place]
        return number_cell(value) if isinstance(value, float) else Cell(shortened(str(value), 40))

    columns: Columns[int] = {
        Head(head, words=not is_float_dtype(frame[name])): partial(cell, name)
        for name, head in heads.items()
    }
    return table_of(range(len(frame)), columns, caption)


def _add_columns(section: Section, scores: TableScores) -> None:
    section.legend({"real": REAL, "synthetic": SYNTHETIC})
    section.text(
        "The grey band holds 95 % of what chance alone makes of that many rows.", kind="note"
    )
    first, others = scores.columns[:_SHOWN_COLUMNS], scores.columns[_SHOWN_COLUMNS:]
    section.gallery(_column_figures(section, scores, first))
    section.gallery(
        _column_figures(section, scores, others),
        folded=f"The other {len(others):,} columns, which are met better",
    )
    table = _frame_table(scores.columns, "All columns", _COLUMNS)
    section.folded("All columns as numbers", table)


def _column_figures(
    section: Section, scores: TableScores, columns: pd.DataFrame
) -> Iterator[tuple[Picture, str, str]]:
    for column in columns.to_dict("records"):
        name, shares = str(column["name"]), scores.pictures[column["name"]]
        similar = [format_number(column[key]) for key in ("shape", "perfect")]
        caption = f"Similarity {similar[0]}, real rows {similar[1]}."
        outside = [1 - float(side.sum()) for side in (shares.real, shares.synthetic)]
        gaps = [column[key] for key in ("real_gaps", "synthetic_gaps")]
        for what, (real, synthetic) in {"Gaps": gaps, "Outside the picture": outside}.items():
            if max(real, synthetic) >= 0.0005:
                caption += f" {what}: {real:.1%} real, {synthetic:.1%} synthetic."
        caption = caption.replace("%", "\N{NO-BREAK SPACE}%")
        with section.keeping_going(name):
            picture = embedded(column_figure(name, shares))
            yield picture, caption, f"Real and synthetic values of {name}"


def _add_pairs(section: Section, scores: TableScores) -> None:
    pairs = scores.pairs
    both = pairs[["first", "second"]].to_numpy().ravel()
    worst = pd.unique(both)[:_MOST_DEPENDENT]
    names = [name for name in scores.columns["name"].sort_index() if name in worst]
    which = f" These are the {len(names)} columns whose pairs are met worst."
    section.text(
        "Pearson’s correlation of two numbers or dates, from −1 to 1; Cramér’s V with a category, "
        f"from 0 to 1.{'' if len(names) == len(scores.columns) else which}",
        kind="note",
    )
    section.gallery(
        (embedded(dependence_figure(names, pairs, what)), "", f"Dependence of columns, {what}")
        for what in ("real", "synthetic", "difference")
    )
    section.table(_frame_table(pairs[:_SHOWN_PAIRS], "The worst pairs", _PAIRS), narrow=True)
    if len(pairs) > _SHOWN_PAIRS:
        some = f"The {_MOST_PAIRS} worst" if len(pairs) > _MOST_PAIRS else "All"
        table = _frame_table(pairs[:_MOST_PAIRS], "Pairs of columns", _PAIRS)
        section.folded(f"{some} of {len(pairs):,} pairs", table)
