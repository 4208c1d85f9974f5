"""The page of a synthetic table: scores, columns and pairs, real beside synthetic, and privacy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

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
from kan_diffusion.tables.scores import (
    ColumnScore,
    PairScore,
    Score,
    TableScores,
    UsefulnessScore,
)

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
    said = []
    parts = [
        f"{score.label} {format_number(score.value)} (real rows {format_number(score.perfect)})"
        for score in scores.scores
        if score.key in ("shapes", "trends")
    ]
    said.append(f"How alike columns and pairs are, 1 being the same: {', '.join(parts)}.")
    c2st = scores["c2st"]
    assert c2st.margin is not None
    told = f"Trees tell synthetic rows from real ones in {100 * c2st.value:.0f} % of cases"
    seen = c2st.value - max(c2st.perfect, 0.5) > c2st.margin
    said.append(f"{told}; {'a guess is right in 50 %' if seen else 'chance alone may do that'}.")
    if "usefulness" in scores:
        useful = scores["usefulness"]
        said.append(
            "Learners trained on synthetic rows predict real ones with a mean score of "
            f"{format_number(useful.value)}; trained on as many real rows, with "
            f"{format_number(useful.perfect)}."
        )
    if "closest" in scores:
        said.append(_say_privacy(scores))
    else:
        said.append(
            "Whether rows are copies cannot be said without the rows that the model was trained on."
        )
    return said


def _say_privacy(scores: TableScores) -> str:
    closest, copies = scores["closest"], scores["copies"]
    assert closest.margin is not None
    signs = []
    if closest.value > 0.5 + closest.margin:
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
    page.table(_score_table(scores), narrow=True)
    page.text(_explanation(scores, used), kind="note")
    _add_columns(page, scores)
    _add_pairs(page, scores)
    _add_usefulness(page, scores)
    _add_privacy(page, scores)
    return page.write(Path(path))


def _score_table(scores: TableScores) -> Table:
    perfect = Head("perfect", "What real rows score that no model was trained on")
    columns: Columns[Score] = {
        Head("score", words=True): lambda one: Cell(one.label, _MEANINGS[one.key]),
        Head("synthetic"): lambda one: number_cell(one.value, score_texts(one)[0]),
        perfect: lambda one: number_cell(one.perfect, score_texts(one)[1]),
    }
    return table_of(scores.scores, columns, "Scores", "summary wrapped")


def _explanation(scores: TableScores, used: str) -> str:
    real, synthetic, train = scores.rows
    text = f"{used} " if used else ""
    text += (
        f"{real:,} real rows are compared with {synthetic:,} synthetic ones, equally many a side"
    )
    text += f"; the model was trained on {train:,}." if train else "."
    text += (
        " Perfect: the same number for real rows in the place of the synthetic ones, from "
        f"{'the training rows' if train else 'the other half of the real rows'}; ± holds 95 % of "
        "what chance makes of it."
    )
    if scores.left_out:
        names = ", ".join(shortened(name, 40) for name in scores.left_out[:5])
        more = len(scores.left_out) - 5
        names += f" and {more:,} more" if more > 0 else ""
        text += f" Not judged, since they identify rows or have one value everywhere: {names}."
    return text


# --- columns ----------------------------------------------------------------------------------


def _add_columns(page: Page, scores: TableScores) -> None:
    section = page.section("Columns, the worst first", "columns")
    section.legend({"real": REAL, "synthetic": SYNTHETIC})
    section.text(
        "The grey band, or the line on a grey bar, holds 95 % of what chance alone makes of that "
        "many rows.",
        kind="note",
    )
    pictured = [column for column in scores.columns if column.picture is not None]
    section.gallery(_column_figures(section, pictured[:_SHOWN_COLUMNS]))
    section.gallery(
        _column_figures(section, pictured[_SHOWN_COLUMNS:]),
        folded=f"The other {len(pictured) - _SHOWN_COLUMNS:,} columns, which are met better",
    )
    section.folded("All columns as numbers", _column_table(scores.columns))


def _column_figures(
    section: Section, columns: Sequence[ColumnScore]
) -> Iterator[tuple[Picture, str, str]]:
    for column in columns:
        assert column.picture is not None
        with section.keeping_going(column.name):
            yield (
                embedded(column_figure(column.name, column.picture)),
                _caption(column),
                f"Real and synthetic values of {column.name}",
            )


def _caption(column: ColumnScore) -> str:
    text = f"Similarity {format_number(column.shape)}, real rows {format_number(column.perfect)}."
    shares = {"Gaps": column.gaps}
    if (picture := column.picture) is not None:
        if picture.zeros is not None:
            shares["Zeros, which the picture leaves out"] = picture.zeros
        inside = zip((picture.real, picture.synthetic), picture.numbers, strict=True)
        real, synthetic = (1 - float(side.sum()) if number else 0.0 for side, number in inside)
        shares["Outside the picture"] = real, synthetic
    for what, (real, synthetic) in shares.items():
        if max(real, synthetic) >= 0.0005:
            text += f" {what}: {_percent(real)} real, {_percent(synthetic)} synthetic."
    return text


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def _column_table(columns: Sequence[ColumnScore]) -> Table:
    shown: Columns[ColumnScore] = {
        Head("column", words=True): lambda one: Cell(shortened(one.name, 40)),
        Head("kind", words=True): lambda one: Cell(one.kind),
        Head("similarity"): lambda one: number_cell(one.shape),
        Head("real rows"): lambda one: number_cell(one.perfect),
        Head("gaps, real (%)"): lambda one: number_cell(one.gaps[0], f"{100 * one.gaps[0]:.1f}"),
        Head("gaps, synthetic (%)"): lambda one: number_cell(
            one.gaps[1], f"{100 * one.gaps[1]:.1f}"
        ),
    }
    return table_of(columns, shown, "All columns")


# --- pairs ------------------------------------------------------------------------------------


def _add_pairs(page: Page, scores: TableScores) -> None:
    pairs = scores.pairs
    section = page.section("Pairs of columns", "pairs")
    if not pairs:
        return
    names = _dependent(scores)
    which = "" if len(names) == len(scores.columns) else (
        f" These are the {len(names)} columns whose pairs are met worst."
    )  # fmt: skip
    section.text(
        "Pearson’s correlation of two numbers or dates, from −1 to 1; Cramér’s V with a category, "
        f"from 0 to 1.{which}",
        kind="note",
    )
    section.gallery(
        (
            embedded(dependence_figure(names, pairs, what)),
            "",
            f"Dependence of columns, {what}",
        )
        for what in ("real", "synthetic", "difference")
    )
    section.table(_pair_table(pairs[:_SHOWN_PAIRS], "The worst pairs"), narrow=True)
    if len(pairs) > _SHOWN_PAIRS:
        some = f"The {_MOST_PAIRS} worst" if len(pairs) > _MOST_PAIRS else "All"
        section.folded(
            f"{some} of {len(pairs):,} pairs", _pair_table(pairs[:_MOST_PAIRS], "Pairs of columns")
        )


def _dependent(scores: TableScores) -> list[str]:
    """Chooses the columns of the dependence figures: all, or those of the worst pairs."""
    worst: dict[str, None] = {}
    for pair in scores.pairs:
        for name in (pair.first, pair.second):
            if len(worst) < _MOST_DEPENDENT:
                worst.setdefault(name)
    return [name for name in scores.names if name in worst]


def _pair_table(pairs: Sequence[PairScore], caption: str) -> Table:
    measures = {"correlation": "correlation", "contingency": "Cramér’s V"}
    columns: Columns[PairScore] = {
        Head("column", words=True): lambda one: Cell(shortened(one.first, 28)),
        Head("and", words=True): lambda one: Cell(shortened(one.second, 28)),
        Head("similarity"): lambda one: number_cell(one.score),
        Head("real rows"): lambda one: number_cell(one.perfect),
        Head("real"): lambda one: number_cell(one.real, format_number(one.real, 2)),
        Head("synthetic"): lambda one: number_cell(one.synthetic, format_number(one.synthetic, 2)),
        Head("measure", words=True): lambda one: Cell(measures[one.measure]),
    }
    return table_of(pairs, columns, caption)


# --- usefulness and privacy -------------------------------------------------------------------


def _add_usefulness(page: Page, scores: TableScores) -> None:
    section = page.section("Usefulness", "usefulness")
    if not scores.usefulness:
        return
    section.text(
        "Each learner predicts a column of the real rows from all others: once after training on "
        "synthetic rows, once after training on as many real ones. AUC: of a category against the "
        "others, 0.5 is a guess. R²: of a number’s normal scores, 0 is its mean.",
        kind="note",
    )
    columns: Columns[UsefulnessScore] = {
        Head("column to predict", words=True): lambda one: Cell(shortened(one.target, 40)),
        Head("learner", words=True): lambda one: Cell(one.learner),
        Head("measure", words=True): lambda one: Cell(one.measure),
        Head("trained on synthetic"): lambda one: number_cell(one.synthetic),
        Head("trained on real"): lambda one: number_cell(one.real),
    }
    section.table(table_of(scores.usefulness, columns, "Usefulness"), narrow=True)


def _add_privacy(page: Page, scores: TableScores) -> None:
    section = page.section("Is it a copy?", "privacy")
    if "closest" in scores:
        section.text(_say_privacy(scores))
    section.text(_UNPROMISED, kind="flag")
