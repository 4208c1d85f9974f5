"""Figures of many families: what they draw, and that they can be told apart."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from kan_diffusion.report.charts import (
    excess_by_level_figure,
    excess_figure,
    loss_figure,
    ranks_figure,
    ratio_figure,
    ratio_groups,
    time_figure,
)
from kan_diffusion.report.charts.differences import ratio_interval
from kan_diffusion.report.charts.losses import curves_by_seed
from kan_diffusion.report.comparisons import conclude
from kan_diffusion.report.figures import report_figures
from kan_diffusion.report.point_figures import samples_figure
from kan_diffusion.report.style import model_styles
from kan_diffusion.study.results.comparison import Setting
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
def conclusions(contents):
    return conclude(contents)


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


# --- ratios and ranks -------------------------------------------------------------------------


def test_the_ratios_are_in_their_cells(contents, conclusions):
    (group,) = ratio_groups(conclusions.differences)
    (axes,) = ratio_figure(contents, group).axes
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names == list(FAMILIES)
    rows = dict(zip(names, axes.get_yticks(), strict=True))
    # Budget by budget, data sets side by side.
    labels = [Setting(data, *budget).label for budget in BUDGETS for data in DATAS]
    written = {(round(t.get_position()[0]), t.get_position()[1]): t for t in axes.texts}
    for difference in conclusions.differences:
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


def test_better_is_green_and_worse_is_brown(contents, conclusions):
    figure = ratio_figure(contents, conclusions.differences)
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


def test_the_interval_of_a_ratio_holds_it_and_is_that_of_the_difference(contents, conclusions):
    rows = contents.rows
    for difference in conclusions.differences[:20]:
        setting = difference.setting
        chosen = rows[(rows["data"] == setting.data) & (rows["match"] == setting.match)]
        base = chosen.loc[chosen["name"] == difference.baseline, difference.measure].mean()
        low, high = ratio_interval(difference)
        assert low == pytest.approx(1 + difference.interval.low / base)
        assert high == pytest.approx(1 + difference.interval.high / base)


@pytest.mark.parametrize(("most", "sizes"), [(10, [6]), (4, [3, 3]), (2, [3, 3])])
def test_budgets_are_not_torn_apart(conclusions, most, sizes):
    groups = ratio_groups(conclusions.differences, most)
    assert [len({d.setting for d in group}) for group in groups] == sizes
    assert sorted(map(id, conclusions.differences)) == sorted(id(d) for g in groups for d in g)


def test_models_stand_at_their_ranks(contents, conclusions):
    ranking = conclusions.rankings[0]
    (axes,) = ranks_figure(contents, ranking).axes
    scale = {t.get_text(): t.get_position()[0] for t in axes.texts if t.get_text().isdigit()}
    one, last = scale["1"], scale[str(len(ranking.models))]
    styles = model_styles(contents.rows)
    for name, rank in zip(ranking.models, ranking.mean_ranks, strict=True):
        place = one + (last - one) * (rank - 1) / (len(ranking.models) - 1)
        drawn = [line for line in axes.get_lines() if line.get_color() == styles[name].colour]
        assert drawn[0].get_xdata()[0] == pytest.approx(place)
        assert any(
            name in text.get_text() and f"{rank:.2f}" in text.get_text() for text in axes.texts
        )
    bars = [line for line in axes.get_lines() if line.get_linewidth() == 3.2]
    assert len(bars) == sum(len(clique) > 1 for clique in ranking.cliques)


# --- one setting ------------------------------------------------------------------------------


def test_the_pareto_front_joins_the_models_that_none_beats(contents):
    figure = time_figure(contents, LABEL)
    rows = contents.complete_rows(LABEL)
    means = rows.groupby("name")[["train_cpu_seconds", "excess"]].mean()
    front = [
        name
        for name, (time, value) in means.iterrows()
        if not ((means["train_cpu_seconds"] < time) & (means["excess"] < value)).any()
    ]
    drawn = next(line for line in figure.axes[0].get_lines() if line.get_label() == "Pareto front")
    expected = means.loc[front].sort_values("train_cpu_seconds")
    assert drawn.get_xdata() == pytest.approx(expected["train_cpu_seconds"].to_numpy())
    assert drawn.get_ydata() == pytest.approx(expected["excess"].to_numpy())
    strong = [t.get_text() for t in figure.legends[0].get_texts() if t.get_fontweight() == "bold"]
    assert sorted(strong) == sorted(front)


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
    values = contents.complete_rows(WINE).query("name == 'MLP'")["heldout_loss"]
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


def test_rows_of_small_panels_are_full_and_square(contents):
    figure = samples_figure(contents, LABEL)
    titles = [axes.get_title(loc="left").replace("\n", " ") for axes in figure.axes]
    assert titles == ["real", *FAMILIES]
    figure.draw_without_rendering()
    boxes = [axes.get_window_extent() for axes in figure.axes]
    assert all(box.width == pytest.approx(box.height, rel=1e-3) for box in boxes)
    rows = [sum(round(box.y0) == y for box in boxes) for y in {round(box.y0) for box in boxes}]
    assert sorted(rows) == [5, 5, 6]
    assert all(len(axes.get_xticklabels()) > 1 for axes in figure.axes)


def test_no_text_lies_on_another(contents, conclusions):
    for figure in (
        ratio_figure(contents, conclusions.differences),
        ranks_figure(contents, conclusions.rankings[0]), time_figure(contents, LABEL),
        excess_by_level_figure(contents, LABEL),
    ):  # fmt: skip
        assert texts_overlap(figure) == []


def test_figures_say_what_they_are_about(contents, conclusions):
    figures = report_figures(contents, conclusions)
    assert len({figure.name for figure in figures}) == len(figures)
    assert {figure.label for figure in figures if figure.section == "samples"} == {
        Setting(data, *budget).label for data in DATAS for budget in BUDGETS
    }
    once = [figure.data for figure in figures if figure.name.startswith("corruption")]
    assert once == list(DATAS)
