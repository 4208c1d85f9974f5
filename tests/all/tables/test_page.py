import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from drawn import texts_overlap
from html_page import Page
from kan_diffusion.tables.charts import column_figure, dependence_figure
from kan_diffusion.tables.page import write_table_page
from kan_diffusion.tables.scores import table_scores
from mixed_tables import people, shuffled


def scores_of(real, synthetic, **settings):
    return table_scores(real, synthetic, generator=0, effort="quick", **settings)


def require_inside(figure):
    FigureCanvasAgg(figure).draw()
    renderer = figure.canvas.get_renderer()
    drawn, (width, height) = figure.get_tightbbox(renderer), figure.get_size_inches()
    assert min(drawn.x0, drawn.y0) > -0.03
    assert drawn.x1 < width + 0.03
    assert drawn.y1 < height + 0.03
    assert texts_overlap(figure) == []
    assert any(label.get_text() for label in figure.axes[0].get_xticklabels())


def test_every_picture_is_in_the_page_and_can_be_read(tmp_path):
    train = people(400, 1)
    loose = scores_of(people(300, 2), shuffled(train, 4), train=train)
    page = Page(write_table_page(loose, tmp_path / "tables.html", "people").read_text())
    # A picture a column, and three squares of dependences.
    assert len(page.loads) == 6 + 3
    assert page.empty == []
    for name, picture in loose.pictures.items():
        require_inside(column_figure(name, picture))
    for what in ("real", "synthetic", "difference"):
        require_inside(dependence_figure(list(loose.pictures), loose.pairs, what))


def test_a_column_is_drawn_with_its_shares_and_its_gaps_are_said(tmp_path):
    random = np.random.default_rng(0)
    value = np.exp(3 * random.normal(size=500))
    value[random.random(500) < 0.1] = np.nan
    frame = pd.DataFrame({"fine ($)": value, "other": random.normal(size=500)})
    scores = scores_of(frame, frame)
    picture = scores.pictures["fine ($)"]
    assert picture.log
    figure = column_figure("fine ($)", picture)
    require_inside(figure)
    (histogram,) = figure.axes
    drawn = [patch.get_data().values for patch in histogram.patches]
    np.testing.assert_allclose(drawn[0], 100 * picture.real)
    np.testing.assert_allclose(drawn[2], 100 * picture.synthetic)
    said = write_table_page(scores, tmp_path / "tables.html", "fines").read_text()
    gaps = scores.columns.set_index("name")["real_gaps"]["fine ($)"]
    assert f"Gaps: {100 * gaps:.1f}\N{NO-BREAK SPACE}% real" in said


@pytest.mark.parametrize("count", [4, 9])
def test_a_handful_of_rows_makes_a_page(count, tmp_path):
    train, real = people(count, 1), people(count, 2)
    scores = scores_of(real, train, train=train)
    text = write_table_page(scores, tmp_path / "tables.html", "few").read_text()
    assert Page(text).empty == []
