import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg

from drawn import texts_overlap
from html_page import Page
from kan_diffusion.tables.page import column_figure, write_table_page
from mixed_tables import people, quick_scores, shuffled


def require_inside(figure):
    FigureCanvasAgg(figure).draw()
    drawn = figure.get_tightbbox(figure.canvas.get_renderer())
    assert min(drawn.x0, drawn.y0) > -0.03
    assert (drawn.max < figure.get_size_inches() + 0.03).all()
    assert texts_overlap(figure) == []
    assert any(label.get_text() for label in figure.axes[0].get_xticklabels())


def test_every_figure_can_be_read():
    random = np.random.default_rng(0)
    real = people(300, 2).assign(town=[f"town number {n}" for n in random.integers(0, 40, 300)])
    for name, cells in quick_scores(real, shuffled(real, 4), train=real).cells.items():
        require_inside(column_figure(name, *cells))


def test_a_column_is_drawn_with_its_shares_and_its_gaps_are_said(tmp_path):
    random = np.random.default_rng(0)
    value = np.exp(3 * random.normal(size=500))
    value[random.random(500) < 0.1] = np.nan
    frame = pd.DataFrame({"fine ($)": value, "other": random.normal(size=500)})
    scores = quick_scores(frame, frame * 3)
    figure = column_figure("fine ($)", *scores.cells["fine ($)"])
    require_inside(figure)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    drawn = [patch.get_data() for patch in (axes.patches[0], axes.patches[2])]
    _, *sides = scores.cells["fine ($)"]
    for (shares, edges, _), cells in zip(drawn, sides, strict=True):
        known = cells[~np.isnan(cells)]
        np.testing.assert_allclose(shares, 100 / len(known) * np.histogram(known, edges)[0])
    outside = [100 - shares.values.sum() for shares in drawn]
    assert min(outside) > 0.2
    assert "{:.1f} % real, {:.1f} % synthetic".format(*outside) in axes.get_xlabel()
    said = write_table_page(scores, tmp_path / "tables.html", "fines").read_text()
    gaps = scores.columns.set_index("name")["real_gaps"]["fine ($)"]
    assert f"Gaps: {100 * gaps:.1f}\N{NO-BREAK SPACE}% real" in said


def test_a_handful_of_rows_makes_a_page(tmp_path):
    train, real = people(4, 1), people(4, 2)
    scores = quick_scores(real, train, train=train)
    page = Page(write_table_page(scores, tmp_path / "tables.html", "few").read_text())
    assert "Scores" in page.tables
