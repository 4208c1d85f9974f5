"""The page of a synthetic table: what it says, and that every picture can be read."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from command_line import few_trees
from html_page import Page as Read
from html_page import leave_pictures_empty
from kan_diffusion.evaluation.tables import table_scores
from kan_diffusion.report.charts.columns import (
    column_figure,
    dependence_figure,
    distances_figure,
    joint_figure,
)
from kan_diffusion.report.style import shortened
from kan_diffusion.report.synthetic import say_scores, score_texts, write_table_page
from mixed_tables import people, shuffled

TRAIN, REAL = people(400, 1), people(300, 2)


@pytest.fixture(scope="module")
def loose():
    return table_scores(REAL, shuffled(TRAIN, 4), train=TRAIN, generator=0)


def inside(figure):
    """Everything drawn lies within the figure, and no level tick label on the next one."""
    FigureCanvasAgg(figure).draw()
    renderer = figure.canvas.get_renderer()
    drawn, (width, height) = figure.get_tightbbox(renderer), figure.get_size_inches()
    assert min(drawn.x0, drawn.y0) > -0.03
    assert drawn.x1 < width + 0.03
    assert drawn.y1 < height + 0.03
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            labels = [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
            if axes is figure.axes[0]:
                assert any(label.get_text() for label in labels)
            boxes = [
                label.get_window_extent(renderer)
                for label in labels
                if label.get_visible() and label.get_text() and label.get_rotation() in (0, 90)
            ]
            assert not any(one.overlaps(other) for one, other in pairwise(boxes))


def test_the_page_says_everything_worst_first(loose, tmp_path):
    page = Read(write_table_page(loose, tmp_path / "tables.html", "people").read_text())
    headline = page.tables["Scores"]
    for line, score in zip(headline[1:], loose.scores, strict=True):
        assert line[0].startswith(score.label)
    assert [line[1] for line in headline[1:]] == [score_texts(score)[0] for score in loose.scores]
    columns = [line[0] for line in page.tables["All columns"][1:]]
    assert columns == [column.name for column in loose.columns]
    assert page.tables["The worst pairs"][1][:2] == [loose.pairs[0].first, loose.pairs[0].second]
    assert len(page.tables["Pairs of columns"]) == 1 + 15
    assert len(page.tables["Usefulness"]) == 1 + 9
    # A picture a column, three squares of dependences, six pairs, and the distances.
    assert len(page.loads) == 6 + 3 + 6 + 1
    assert "is a promise of privacy" in " ".join(page.text)
    assert page.empty == []


def test_the_sentences_tell_good_tables_from_bad_ones_and_from_copies(loose):
    said = " ".join(say_scores(loose))
    assert "a guess is right in 50 %" in said
    assert "no sign of copying" in said
    with few_trees():
        copied = " ".join(say_scores(table_scores(REAL, TRAIN, train=TRAIN, generator=0)))
        alone = " ".join(say_scores(table_scores(REAL, TRAIN, generator=0)))
    assert "chance alone may do that" in copied
    assert "signs of copying" in copied
    assert "100 % of synthetic rows are training rows" in copied
    assert "cannot be said without the rows" in alone


def test_every_picture_can_be_read(loose):
    for column in loose.columns:
        inside(column_figure(column.name, column.picture))
    for what in ("real", "synthetic", "difference"):
        inside(dependence_figure(loose.names, loose.pairs, what))
    for joint in loose.joints:
        inside(joint_figure(joint))
    inside(distances_figure(loose.distances))


def test_a_column_is_drawn_with_its_shares_its_zeros_and_its_gaps():
    random = np.random.default_rng(0)
    value = np.where(random.random(500) < 0.6, 0.0, np.exp(3 * random.normal(size=500)))
    value[random.random(500) < 0.1] = np.nan
    frame = pd.DataFrame({"fine ($)": value, "other": random.normal(size=500)})
    scores = table_scores(frame, frame, kinds={"fine ($)": "mostly-zero"}, generator=0)
    picture = next(one.picture for one in scores.columns if one.name == "fine ($)")
    assert [name for name, _, _ in picture.apart] == ["zero", "gap"]
    assert picture.log
    figure = column_figure("fine ($)", picture)
    inside(figure)
    histogram, beside = figure.axes
    heights = [100 * share for share in (picture.real, picture.synthetic)]
    drawn = [patch.get_data().values for patch in histogram.patches]
    np.testing.assert_allclose(drawn[0], heights[0])
    np.testing.assert_allclose(drawn[2], heights[1])
    assert [bar.get_height() for bar in beside.patches] == [
        100 * picture.apart[0][1], 100 * picture.apart[1][1],
        100 * picture.apart[0][2], 100 * picture.apart[1][2],
    ]  # fmt: skip


def test_many_columns_are_folded_and_stay_readable(tmp_path, monkeypatch):
    leave_pictures_empty(monkeypatch)
    random = np.random.default_rng(0)
    names = [f"a name that is much too long for any picture {index}" for index in range(26)]
    frame = pd.DataFrame(random.normal(size=(120, 26)), columns=names)
    with few_trees():
        scores = table_scores(frame.head(60), frame.tail(60), generator=0)
    text = write_table_page(scores, tmp_path / "tables.html", "wide").read_text()
    page = Read(text)
    assert len(page.loads) == 26 + 3 + 6
    assert "Columns 13 to 26 of 26" in text
    assert "24 columns whose pairs are met worst" in text
    assert len(page.tables["Pairs of columns"]) == 1 + 26 * 25 // 2
    inside(column_figure(names[0], scores.columns[0].picture))
    inside(dependence_figure(names[:24], scores.pairs, "real"))


@pytest.mark.parametrize("count", [4, 9])
def test_a_handful_of_rows_makes_a_page(count, tmp_path, monkeypatch):
    if count == 9:  # whose pictures are as those of four rows; of nine there are gaps
        leave_pictures_empty(monkeypatch)
    train, real = people(count, 1), people(count, 2)
    page = write_table_page(
        table_scores(real, train, train=train, generator=0), tmp_path / "tables.html", "few"
    )
    assert Read(page.read_text()).empty == []


def test_hostile_names_stay_text(tmp_path, monkeypatch):
    leave_pictures_empty(monkeypatch)
    name = "</script><img src=x onerror=alert(1)> $x^2$"
    frame = pd.DataFrame({name: np.arange(60.0) ** 2, "<b>": ["<i>", "</td>", "&amp;"] * 20})
    with few_trees():
        scores = table_scores(frame, frame, generator=0)
    text = write_table_page(scores, tmp_path / "tables.html", name).read_text()
    assert "<img src=x" not in text
    assert "<i>" not in text
    assert Read(text).empty == []
    inside(joint_figure(scores.joints[0]))


def test_long_names_lose_their_middle():
    assert shortened("short") == "short"
    assert shortened("two\nlines") == "two lines"
    cut = shortened("a column with a rather long name, number 17", 20)
    assert len(cut) <= 20
    assert cut.startswith("a column")
    assert cut.endswith("17")
