from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from drawn import line, marks, texts_overlap
from kan_diffusion.evaluation.metrics import SAMPLE_METRICS, Metric
from kan_diffusion.report import ReportContents
from kan_diffusion.report.charts import (
    by_level_figure,
    corruption_figure,
    data_figure,
    differences_figure,
    forest_figure,
    forest_lines,
    lead_figure,
    lead_lines,
    loss_figure,
    metrics_figure,
    reverse_figure,
    samples_figure,
)
from kan_diffusion.report.charts.sheets import asked_figure, process_figure
from kan_diffusion.report.style import REAL, model_styles
from kan_diffusion.study.results.rows import Results
from synthetic_study import BUDGETS, FAMILIES, MODELS, kind_of, make_contents

DATAS = ("swiss roll", "checkerboard", "wine")
LABEL, WINE = DATAS[0], DATAS[2]


@pytest.fixture(scope="module")
def contents():
    """A study of 15 families, a budget and a data set without an oracle."""
    return make_contents(
        DATAS, None, 4, False, 60, budget=BUDGETS[0], families=True, without_oracle=("wine",)
    )


@pytest.fixture(scope="module")
def small():
    return make_contents(count=60)


def title(axes):
    return axes.get_title(loc="left").replace("\n", " ")


def changed(contents, **columns):
    rows = contents.results.rows.assign(**columns)
    return replace(contents, results=Results.of(rows))


def test_a_terminal_shows_the_rows_in_plain_characters(contents):
    lead = next(found for found in contents.decision.leads if found.model is None)
    for lines, names in (
        (forest_lines(contents, LABEL, 80), FAMILIES),
        (lead_lines(contents, lead), [*(c.data for c in lead.comparisons), "median"]),
    ):
        assert "".join(lines).isascii()
        assert max(map(len, lines)) <= 80
        assert {line.split("  ")[0] for line in lines} >= set(names)


def test_a_lead_has_a_row_for_each_data_set_and_their_median(contents):
    lead = next(found for found in contents.decision.leads if found.model is None)
    (axes,) = lead_figure(contents, lead).axes
    names = [*(comparison.data for comparison in lead.comparisons), "median"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == names
    ratios = [*(comparison.ratio for comparison in lead.comparisons), lead.ratio.mean]
    assert [float(t.get_text().split()[0]) for t in axes.texts] == pytest.approx(ratios, rel=0.01)


def test_times_that_were_held_equal_are_not_drawn(contents):
    assert len(forest_figure(contents, LABEL).axes) == 2
    timed = contents.results.rows.assign(match="time", budget=20.0)
    timed = replace(contents, results=Results.of(timed))
    assert len(forest_figure(timed, LABEL).axes) == 1


def test_without_an_oracle_held_out_losses_are_drawn(contents):
    axes = forest_figure(contents, WINE).axes[0]
    assert axes.get_xscale() == "linear"
    colour = model_styles(contents.results.rows)["spline-MLP"].colour
    _, _, scale = axes.get_xlabel().partition("(10⁻")
    power = 10.0 ** -"⁰¹²³⁴⁵⁶⁷⁸⁹".index(scale[0]) if scale else 1.0
    difference = contents.decision.of_data(WINE)["spline-MLP"].interval.mean
    assert marks(axes, colour)[1] * power == pytest.approx([difference])
    levels = contents.levels_of(WINE).query("name == 'MLP'").groupby("log_snr")["heldout_loss"]
    figure = by_level_figure(contents, WINE)
    assert figure.axes[0].get_ylabel() == "held-out loss"
    drawn = line(figure.axes[1], "MLP").get_ydata()
    assert drawn == pytest.approx(levels.mean().to_numpy(float))


def test_every_data_set_has_a_panel_and_significant_differences_are_bold(contents):
    figure = differences_figure(contents, DATAS)
    assert [title(axes) for axes in figure.axes] == [f"{data}, n = 4" for data in DATAS]
    for axes, data in zip(figure.axes, DATAS, strict=True):
        decision = contents.decision.of_data(data)
        for name, text in zip(FAMILIES, axes.texts, strict=False):
            if name in decision:
                bold = text.get_fontweight() == "bold"
                assert bold == (decision[name].p_holm < 0.05)


def test_models_without_an_mlp_to_compare_are_drawn_as_they_are():
    alone = make_contents(("swiss roll",), ("KAN", "small KAN"), 3, False, 9)
    (axes,) = forest_figure(alone).axes
    values = alone.results.values("swiss roll", "excess")
    for name, style in model_styles(alone.results.rows).items():
        seeds, mean = marks(axes, style.colour)
        assert seeds == pytest.approx(values[name].to_numpy())
        assert mean == pytest.approx([values[name].mean()])


def test_a_metric_added_at_run_time_is_drawn(monkeypatch):
    own = Metric(
        "spread", "spread", "higher", lambda *_: 0.0, title="spread of the points", unit="metres"
    )
    monkeypatch.setitem(SAMPLE_METRICS, "spread", own)
    contents = make_contents(("swiss roll",), ("KAN", "MLP"), 3, False, 9)
    rows = contents.results.rows
    spread = 3.0 + rows["seed"] + 0.5 * (rows["name"] == "KAN")
    figure = metrics_figure(changed(contents, spread=spread, spread_real=5.0))
    assert len(figure.axes) == 4
    axes = figure.axes[-1]
    assert title(axes) == "Spread of the points (higher is better)"
    assert axes.get_xlabel() == "spread minus the best MLP’s\n(metres)"
    seeds, _ = marks(axes, model_styles(rows)["KAN"].colour)
    assert seeds == pytest.approx([0.5] * 3)
    real = next(drawn for drawn in axes.get_lines() if drawn.get_color() == REAL)
    assert real.get_xdata()[0] == pytest.approx(1.0)  # 5 minus the MLP's mean of 4


def test_an_excess_below_zero_has_no_ratio():
    rows = [
        {"data": "d", "name": name, "family": name, "kind": name, "seed": seed,
         "parameters": 100, "oracle": "exact", "excess": value}
        for name, values in (("kan", [-0.001, -0.002]), ("mlp", [0.004, 0.005]))
        for seed, value in enumerate(values)
    ]  # fmt: skip
    contents = ReportContents("t", "q", Results.of(pd.DataFrame(rows)))
    (axes,) = forest_figure(contents).axes
    assert [text.get_text() for text in axes.texts] == ["–", "best MLP"]


def test_many_models_have_a_panel_for_each_kind_with_the_others_behind(contents):
    for figure in (by_level_figure(contents, LABEL), loss_figure(contents, LABEL)):
        assert [title(axes) for axes in figure.axes] == ["KANs", "MLPs", "Others"]
        for kind, axes in zip(("kan", "mlp", "other"), figure.axes, strict=True):
            names = [text.get_text() for text in axes.get_legend().get_texts()]
            assert names == [name for name, f in FAMILIES.items() if kind_of(f[0]) == kind]
            assert len(axes.get_lines()) == len(FAMILIES)


def test_a_loss_that_leaps_up_does_not_flatten_the_others(small):
    curves = small.curves.copy()
    leap = small.curves_of("swiss roll").query("name == 'KAN'").index[-1]
    curves.loc[leap, "loss"] *= 1e4
    floor = small.floors["swiss roll"]
    left, right = loss_figure(replace(small, curves=curves), "swiss roll").axes
    low, high = left.get_ylim()
    starts = [line(left, model).get_ydata()[0] for model in MODELS]
    assert low < floor < max(starts) < high < 3 * max(starts)
    assert line(left, "KAN").get_ydata().max() > high
    assert right.get_ylim()[1] > 100 * high


def test_texts_can_be_read_and_none_lies_on_another(contents):
    asked = ["a seven", "a small red circle at the top left and a large green star on white"]
    pictures = np.zeros((2, 4, 1, 8, 8))
    charts = (
        differences_figure(contents, DATAS), forest_figure(contents, LABEL),
        metrics_figure(contents, LABEL), by_level_figure(contents, LABEL),
        loss_figure(contents, WINE), samples_figure(contents, LABEL),
        data_figure(contents, "swiss roll"), lead_figure(contents, contents.decision.leads[0]),
    )  # fmt: skip
    for figure in charts:
        sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
        assert min(sizes) >= 9
    asked_for = asked_figure(asked, [("real", pictures[:, :1]), ("DiT", pictures)])
    process = process_figure(asked, np.zeros((2, 11, 1, 8, 8)), np.linspace(1, 0, 11).tolist())
    for figure in (*charts, asked_for, process):
        assert texts_overlap(figure) == []


def test_a_model_has_one_colour_in_every_figure(small):
    styles = model_styles(small.results.rows)
    assert len({style.colour for style in styles.values()} | {REAL}) == len(MODELS) + 1
    samples, forest = samples_figure(small, "checkerboard"), metrics_figure(small, "checkerboard")
    for row, (name, style) in enumerate(styles.items()):
        for figure in (loss_figure(small), by_level_figure(small)):
            assert line(figure.axes[0], name).get_color() == style.colour
        drawn = samples.axes[row + 1].collections[0].get_facecolor()[0]
        assert to_hex(drawn) == style.colour
    assert len(marks(forest.axes[0], styles["KAN"].colour)) == 2
    reverse = reverse_figure(small, "checkerboard", "MLP").axes[0].collections[0]
    assert to_hex(reverse.get_facecolor()[0]) == styles["MLP"].colour
    assert to_hex(samples.axes[0].collections[0].get_facecolor()[0]) == REAL


def test_samples_are_the_points_in_square_panels_that_fill_their_rows(contents, small):
    drawn = data_figure(small, "swiss roll").axes[0].collections[0].get_offsets()
    assert np.asarray(drawn) == pytest.approx(small.originals["swiss roll"])
    figure = samples_figure(contents, LABEL)
    assert [title(axes) for axes in figure.axes] == ["real", *FAMILIES]
    figure.draw_without_rendering()
    boxes = [axes.get_window_extent() for axes in figure.axes]
    assert all(box.width == pytest.approx(box.height, rel=1e-3) for box in boxes)
    rows = [sum(round(box.y0) == y for box in boxes) for y in {round(box.y0) for box in boxes}]
    assert sorted(rows) == [5, 5]


@pytest.mark.parametrize("dimension", [1, 3])
def test_other_dimensions_are_drawn(dimension):
    generator = np.random.default_rng(0)

    def points(scale):
        return scale * generator.standard_normal((200, dimension))

    contents = make_contents(("swiss roll",), ("KAN", "MLP"), count=20)
    panels = [(t, points(1 + t)) for t in np.linspace(0, 1, 11)]
    contents.originals = {"swiss roll": points(1.0)}
    contents.samples = {key: points(1.1) for key in contents.samples}
    contents.corruption = {"swiss roll": panels}
    contents.trajectories = {key: [("step 1", panels[::-1])] for key in contents.trajectories}
    contents.columns = {}
    for figure in (
        data_figure(contents, "swiss roll"), samples_figure(contents, "swiss roll"),
        corruption_figure(contents, "swiss roll"), reverse_figure(contents, "swiss roll", "KAN"),
    ):  # fmt: skip
        figure.draw_without_rendering()
        assert bool(figure.axes[0].patches) == (dimension == 1)


def test_strips_have_a_panel_for_each_time_and_a_row_for_each_moment(small):
    strip = corruption_figure(small, "swiss roll")
    assert [axes.get_title() for axes in strip.axes][::5] == ["t = 0", "0.5 T", "t = T"]
    grid = reverse_figure(small, "swiss roll", "KAN")
    assert len(grid.axes) == 3 * 11
    assert len({axes.get_xlim() for axes in grid.axes}) == 1
