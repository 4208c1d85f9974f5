"""Figures of many families: what they draw, and that they can be told apart."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from kan_diffusion.report.charts import (
    excess_by_level_figure,
    excess_figure,
    loss_figure,
    ratio_figure,
    ratio_groups,
)
from kan_diffusion.report.charts.losses import curves_by_seed
from kan_diffusion.report.figures import report_figures
from kan_diffusion.report.point_figures import samples_figure
from kan_diffusion.report.style import FAMILY_STYLES, REAL, model_styles
from kan_diffusion.study.results.rows import Setting
from synthetic_study import BUDGETS, FAMILIES, kind_of, make_contents

DATAS = ("swiss roll", "checkerboard", "wine")
LABEL = Setting("swiss roll", *BUDGETS[0]).label
WINE = Setting("wine", *BUDGETS[0]).label


@pytest.fixture(scope="module")
def contents():
    return make_contents(
        DATAS, None, 4, False, 60, budgets=BUDGETS, families=True, without_oracle=("wine",)
    )


@pytest.fixture(scope="module")
def comparisons(contents):
    return contents.decision.comparisons


def texts_overlap(figure):
    """Pairs of texts that lie on one another."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    found = [
        (text.get_text(), text.get_window_extent(renderer))
        for text in figure.findobj(lambda artist: hasattr(artist, "get_fontsize"))
        if text.get_visible() and text.get_text().strip()
    ]
    boxes = [(text, box.shrunk(0.98, 0.8)) for text, box in found if box.width and box.height]
    return [
        (a, b)
        for index, (a, box) in enumerate(boxes)
        for b, other in boxes[index + 1 :]
        if box.overlaps(other)
    ]


# --- style ------------------------------------------------------------------------------------


def lab(colour):
    """CIE L*a*b* of a colour (D65)."""
    linear = np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour])
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.array(matrix) @ linear / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_families_of_a_kind_share_a_hue_and_are_told_apart():
    assert set(FAMILY_STYLES) == {family for family, *_ in FAMILIES.values()}
    for name, style in FAMILY_STYLES.items():
        red, green, blue = to_rgb(style.colour)
        largest = {"kan": blue, "mlp": red, "other": green}[kind_of(name)]
        assert largest == max(red, green, blue), name
    colours = {name: lab(to_rgb(style.colour)) for name, style in FAMILY_STYLES.items()}
    colours["real"] = lab(to_rgb(REAL))
    names = list(colours)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            apart = np.linalg.norm(colours[first] - colours[second])
            assert apart > 12, (first, second, apart)
    for kind in ("kan", "mlp", "other"):
        markers = [style.marker for name, style in FAMILY_STYLES.items() if kind_of(name) == kind]
        assert len(set(markers)) == len(markers)


def test_a_family_looks_the_same_whatever_stands_beside_it():
    alone = model_styles(pd.DataFrame({"name": ["a"], "family": ["residual-kan"]}))
    rows = pd.DataFrame({"name": ["x", "b", "a"], "family": ["new", "kan", "residual-kan"]})
    among = model_styles(rows)
    assert alone["a"] == among["a"] == FAMILY_STYLES["residual-kan"]
    assert among["x"].colour not in {style.colour for style in FAMILY_STYLES.values()} - {
        among["x"].colour
    }


def test_two_models_of_a_family_differ():
    rows = pd.DataFrame({"name": ["a", "b", "c"], "family": "mlp-relu"})
    styles = list(model_styles(rows).values())
    assert styles[0] == FAMILY_STYLES["mlp-relu"]
    assert len({style.colour for style in styles}) == 3
    assert len({style.marker for style in styles}) == 3


# --- ratios ---------------------------------------------------------------------------------


def test_the_ratios_are_in_their_cells(contents, comparisons):
    (group,) = ratio_groups(comparisons)
    (axes,) = ratio_figure(contents, group).axes
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names == list(FAMILIES)
    rows = dict(zip(names, axes.get_yticks(), strict=True))
    # Budget by budget, data sets side by side.
    labels = [Setting(data, *budget).label for budget in BUDGETS for data in DATAS]
    written = {(round(t.get_position()[0]), t.get_position()[1]): t for t in axes.texts}
    for difference in comparisons:
        column, row = labels.index(difference.setting.label), rows[difference.model]
        number, note = (
            next(
                text
                for (x, y), text in written.items()
                if x == column and abs(y - row - shift) < 0.02
            )
            for shift in (-0.17, 0.22)
        )
        assert float(number.get_text()) == pytest.approx(difference.ratio, rel=6e-3)
        low, high = (float(end) for end in note.get_text().split(" to "))
        assert low <= difference.ratio * 1.006
        assert high >= difference.ratio * 0.994
        assert (number.get_fontweight() == "bold") == (difference.p_holm < 0.05)
    assert sum(t.get_text() == "best MLP" for t in axes.texts) == len(labels)


def test_better_is_green_and_worse_is_brown(contents, comparisons):
    figure = ratio_figure(contents, comparisons)
    (axes,) = figure.axes
    shown = [(patch.get_facecolor()[:3], t) for patch, t in _cells(axes)]
    better = [colour for colour, ratio in shown if ratio < 0.8]
    worse = [colour for colour, ratio in shown if ratio > 1.25]
    assert worse
    assert all(green > red for red, green, _ in better)
    assert all(red > blue for red, _, blue in worse)


def _cells(axes):
    for patch in axes.patches:
        x, y = patch.get_x() + patch.get_width() / 2, patch.get_y() + patch.get_height() / 2
        for text in axes.texts:
            place = text.get_position()
            if abs(place[0] - x) < 0.01 and -0.2 < place[1] - y < 0.01:
                try:
                    yield patch, float(text.get_text())
                except ValueError:
                    continue


def test_the_interval_of_a_ratio_holds_it_and_is_that_of_the_difference(contents, comparisons):
    rows = contents.results.rows
    for difference in comparisons[:20]:
        setting = difference.setting
        chosen = rows[(rows["data"] == setting.data) & (rows["match"] == setting.match)]
        base = chosen.loc[chosen["name"] == difference.baseline, difference.measure].mean()
        low, high = difference.ratio_interval
        assert low == pytest.approx(1 + difference.interval.low / base)
        assert high == pytest.approx(1 + difference.interval.high / base)


@pytest.mark.parametrize(("most", "sizes"), [(10, [6]), (4, [3, 3]), (2, [3, 3])])
def test_budgets_are_not_torn_apart(comparisons, most, sizes):
    groups = ratio_groups(comparisons, most)
    assert [len({d.setting for d in group}) for group in groups] == sizes
    assert sorted(map(id, comparisons)) == sorted(id(d) for g in groups for d in g)


# --- one setting ------------------------------------------------------------------------------


def test_many_models_have_a_panel_a_kind_with_the_others_behind(contents):
    figure = excess_by_level_figure(contents, LABEL)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["KANs", "MLPs", "Others"]
    named = [
        [line.get_label() for line in axes.get_lines() if not line.get_label().startswith("_")]
        for axes in figure.axes
    ]
    kinds = {name: kind_of(family) for name, (family, *_) in FAMILIES.items()}
    for kind, names in zip(("kan", "mlp", "other"), named, strict=True):
        assert names == [name for name in FAMILIES if kinds[name] == kind]
    assert all(len(axes.get_lines()) == len(FAMILIES) for axes in figure.axes)


def test_without_an_oracle_the_held_out_loss_is_drawn(contents):
    levels = contents.levels_of(WINE)
    expected = levels[levels["name"] == "MLP"].groupby("t_mid")["heldout_loss"].mean()
    figure = excess_by_level_figure(contents, WINE)
    drawn = next(line for line in figure.axes[1].get_lines() if line.get_label() == "MLP")
    assert drawn.get_ydata() == pytest.approx(expected.to_numpy(float))
    assert figure.get_supylabel() == "held-out loss"
    (axes,) = excess_figure(contents, WINE).axes
    assert axes.get_xlabel() == "held-out loss"
    values = contents.results.of_setting(WINE).query("name == 'MLP'")["heldout_loss"]
    marks = [c.get_offsets()[:, 0] for c in axes.collections]
    assert any(m.tolist() == values.tolist() for m in marks)
    assert len(loss_figure(contents, WINE).axes) == 3


def test_seeds_of_different_length_are_read_at_common_steps():
    short = pd.DataFrame({"seed": 0, "step": [1.0, 10.0], "loss": [2.0, 1.0]})
    long = pd.DataFrame({"seed": 1, "step": [1.0, np.sqrt(10), 100.0], "loss": [4.0, 3.0, 0.0]})
    steps, losses = curves_by_seed(pd.concat((short, long)))
    assert steps == pytest.approx([1.0, np.sqrt(10), 100.0])
    assert losses[:2] == pytest.approx(np.array([[2.0, 4.0], [1.5, 3.0]]))
    assert np.isnan(losses[2, 0])


def test_small_panels_are_square_and_at_most_six_stand_in_a_row(contents):
    figure = samples_figure(contents, LABEL)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == ["real", *FAMILIES]
    figure.draw_without_rendering()
    boxes = [axes.get_window_extent() for axes in shown]
    assert all(box.width == pytest.approx(box.height, rel=1e-3) for box in boxes)
    assert len({round(box.x0) for box in boxes}) == 6


def test_no_text_lies_on_another(contents, comparisons):
    for figure in (
        ratio_figure(contents, comparisons),
        excess_by_level_figure(contents, LABEL),
    ):  # fmt: skip
        assert texts_overlap(figure) == []


def test_figures_say_what_they_are_about(contents):
    figures = report_figures(contents)
    assert len({figure.name for figure in figures}) == len(figures)
    assert {figure.label for figure in figures if figure.section == "samples"} == {
        Setting(data, *budget).label for data in DATAS for budget in BUDGETS
    }
    once = [figure.data for figure in figures if figure.name.startswith("corruption")]
    assert once == list(DATAS)
