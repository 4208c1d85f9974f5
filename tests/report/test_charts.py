"""Figures of a study: what they draw, and that it can be read."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

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
from kan_diffusion.report.charts.axes import value_axis, value_scale
from kan_diffusion.report.charts.lines import curves_by_seed
from kan_diffusion.report.contents import smoothed_curve
from kan_diffusion.report.images import TELEPHONE, embedded
from kan_diffusion.report.pictures import asked_figure, process_figure
from kan_diffusion.report.points import PointView
from kan_diffusion.report.style import NARROW, REAL, model_styles
from kan_diffusion.study.results.rows import Results, Setting
from kan_diffusion.study.results.verdicts import compare
from synthetic_study import BUDGETS, FAMILIES, MODELS, kind_of, make_contents

DATAS = ("swiss roll", "checkerboard", "wine")
LABEL = Setting("swiss roll", *BUDGETS[0]).label
WINE = Setting("wine", *BUDGETS[0]).label
TIMED = Setting("swiss roll", *BUDGETS[1]).label


@pytest.fixture(scope="module")
def contents():
    """A study of 15 families, two budgets and a data set without an oracle."""
    return make_contents(
        DATAS, None, 4, False, 60, budgets=BUDGETS, families=True, without_oracle=("wine",)
    )


@pytest.fixture(scope="module")
def small():
    """A study of three models, two of which can be compared."""
    return make_contents(num_seeds=3, count=60)


def title(axes):
    return axes.get_title(loc="left").replace("\n", " ")


def line(axes, label):
    return next(drawn for drawn in axes.get_lines() if drawn.get_label() == label)


def marks(axes, colour):
    """Places along x of the scattered marks of a colour, seeds before means."""
    drawn = [c for c in axes.collections if to_hex(c.get_facecolor()[0]) == colour]
    return [np.asarray(c.get_offsets())[:, 0] for c in drawn]


def texts_overlap(figure):
    """Pairs of texts that lie on one another."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    undrawn = {
        id(tick.label1)
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    found = [
        (text.get_text(), text.get_window_extent(renderer).shrunk(0.98, 0.8))
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and id(text) not in undrawn
    ]
    boxes = [(text, box) for text, box in found if box.width and box.height]
    return [
        (a, b)
        for index, (a, box) in enumerate(boxes)
        for b, other in boxes[index + 1 :]
        if box.overlaps(other)
    ]


# --- forest plots -----------------------------------------------------------------------------


def test_a_forest_plot_shows_the_ratios_to_the_best_mlp(contents):
    excess, time = forest_figure(contents, LABEL).axes
    assert [tick.get_text() for tick in excess.get_yticklabels()] == list(FAMILIES)
    styles = model_styles(contents.results.rows)
    setting = contents.results.settings()[0]
    for axes, measure in ((excess, "excess"), (time, "train_cpu_seconds")):
        assert axes.get_xscale() == "log"
        values = contents.results.values(LABEL, measure)
        for comparison in compare(contents.results, setting, measure):
            seeds, mean = marks(axes, styles[comparison.model].colour)
            name, baseline = comparison.model, comparison.baseline
            assert seeds == pytest.approx((values[name] / values[baseline]).to_numpy())
            assert mean == pytest.approx([comparison.ratio])
            text = axes.texts[list(FAMILIES).index(name)].get_text()
            assert text.endswith("n = 4")
            assert float(text.split()[0]) == pytest.approx(comparison.ratio, rel=0.02)
        (reference,) = [drawn for drawn in axes.get_lines() if list(drawn.get_xdata()) == [1, 1]]
        assert reference.get_color() == styles[baseline].colour


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("label", [LABEL, WINE])
def test_a_terminal_shows_the_same_rows_in_plain_characters(contents, label, width):
    lines = forest_lines(contents, label, width)
    text = "\n".join(lines)
    assert text.isascii()
    assert max(map(len, lines)) <= width
    rows = {name: line for line in lines for name in FAMILIES if line.startswith(f"{name}  ")}
    assert list(rows) == list(FAMILIES)
    reference = {line.index("|") for line in rows.values() if "|" in line}
    assert len(reference) == 1  # the best MLP stands in one column
    decision = contents.decision.of_setting(label)
    for name, comparison in decision.items():
        ratio = comparison.measure == "excess"
        line, value = rows[name], comparison.ratio if ratio else comparison.interval.mean
        # The mean is on the side of the best MLP where its number is, or on it.
        side = np.sign(line.index("o", len(name)) - min(reference))
        assert side in (0, np.sign(value - 1.0 if ratio else value))
        assert line.endswith("*") == (comparison.p_holm < 0.05)
    (baseline,) = {comparison.baseline for comparison in decision.values()}
    assert rows[baseline].endswith("best MLP")
    assert ("after Holm" in text) == any(line.endswith("*") for line in rows.values())


def test_a_lead_has_a_row_for_each_data_set_and_their_median(contents):
    lead = next(found for found in contents.decision.leads if found.model is None)
    (axes,) = lead_figure(contents, lead).axes
    datas = [comparison.setting.data for comparison in lead.comparisons]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [*datas, "median"]
    numbers = [float(text.get_text().split()[0]) for text in axes.texts]
    ratios = [comparison.ratio for comparison in lead.comparisons]
    assert numbers == pytest.approx([*ratios, lead.ratio.mean], rel=0.01)
    lines = lead_lines(contents, lead)
    assert max(map(len, lines)) <= 80
    drawn = {line.split("  ")[0]: line for line in lines}
    for name, number in zip([*datas, "median"], [*ratios, lead.ratio.mean], strict=True):
        (written,) = re.findall(r"(\d+\.\d\d) \[", drawn[name])
        assert float(written) == pytest.approx(number, abs=0.005)


def test_times_that_were_held_equal_are_not_drawn(contents):
    assert len(forest_figure(contents, LABEL).axes) == 2
    assert len(forest_figure(contents, TIMED).axes) == 1


def test_without_an_oracle_differences_of_held_out_losses_are_drawn(contents):
    axes = forest_figure(contents, WINE).axes[0]
    assert axes.get_xscale() == "linear"
    decision = contents.decision.of_setting(WINE)
    colour = model_styles(contents.results.rows)["RBF 2015"].colour
    _, _, scale = axes.get_xlabel().partition("(10⁻")
    power = 10.0 ** -"⁰¹²³⁴⁵⁶⁷⁸⁹".index(scale[0]) if scale else 1.0
    assert marks(axes, colour)[1] * power == pytest.approx([decision["RBF 2015"].interval.mean])


def test_every_data_set_has_a_panel_and_significant_differences_are_bold(contents):
    settings = [s for s in contents.results.settings() if s.match == "params"]
    figure = differences_figure(contents, settings)
    assert [title(axes) for axes in figure.axes] == [f"{data}, n = 4" for data in DATAS]
    for axes, setting in zip(figure.axes, settings, strict=True):
        decision = contents.decision.of_setting(setting.label)
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
    rows = contents.results.rows.assign(spread=lambda table: 3.0 + table["seed"], spread_real=5.0)
    rows.loc[rows["name"] == "KAN", "spread"] += 0.5
    figure = metrics_figure(replace(contents, results=Results.of(rows)))
    assert len(figure.axes) == 6
    axes = figure.axes[-1]
    assert title(axes) == "Spread of the points (higher is better)"
    assert axes.get_xlabel() == "spread minus the best MLP’s\n(metres)"
    seeds, _ = marks(axes, model_styles(rows)["KAN"].colour)
    assert seeds == pytest.approx([0.5] * 3)
    real = next(drawn for drawn in axes.get_lines() if drawn.get_color() == REAL)
    assert real.get_xdata()[0] == pytest.approx(1.0)  # 5 minus the MLP's mean of 4


def test_a_difference_near_zero_has_one_decimal_more_than_the_others(monkeypatch):
    own = Metric("read", "read", "higher", lambda *_: 0.0, title="as asked")
    monkeypatch.setitem(SAMPLE_METRICS, "read", own)
    contents = make_contents(("swiss roll",), None, 3, False, 9, families=True)
    rows = contents.results.rows.assign(read=lambda table: 0.5 + 0.01 * table["seed"])
    rows.loc[rows["name"] == "MLP Fourier inputs", "read"] = 0.9  # the best MLP
    near = rows["name"] == "KAN"
    rows.loc[near, "read"] = rows.loc[near, "seed"].map({0: 0.906, 1: 0.894, 2: 0.904})
    axes = metrics_figure(replace(contents, results=Results.of(rows))).axes[-1]
    texts = dict(zip(FAMILIES, (text.get_text() for text in axes.texts), strict=False))
    assert texts["KAN"].startswith("0.001")
    assert texts["KAN RBF"].startswith("−0.39")


def test_a_ratio_below_one_has_two_digits_beside_large_ones(contents):
    rows = contents.results.rows.copy()
    excess = {"KAN": [7.4, 7.5, 7.4, 7.5], "MLP": [10.0] * 4, "RBF 2015": [290.0] * 4}
    rows = rows[(rows["setting"] == LABEL) & rows["name"].isin(excess)]
    rows["excess"] = [excess[n][s] for n, s in zip(rows["name"], rows["seed"], strict=True)]
    changed = replace(contents, results=Results.of(rows))
    settings = changed.results.settings()
    axes = differences_figure(changed, settings * 3).axes[0]  # three panels in a row
    texts = dict(zip(excess, (text.get_text() for text in axes.texts), strict=True))
    assert texts["KAN"].startswith(("0.74 [0.7", "0.75 [0.7"))
    assert texts["RBF 2015"].startswith("29 ")


def two_models(kan, mlp):
    rows = [
        {"data": "d", "name": name, "family": name, "kind": name, "seed": seed,
         "parameters": 100, "oracle": "exact", "excess": value}
        for name, values in (("kan", kan), ("mlp", mlp))
        for seed, value in enumerate(values)
    ]  # fmt: skip
    return ReportContents("t", "q", Results.of(pd.DataFrame(rows)))


def test_intervals_that_leave_the_axis_end_in_arrowheads():
    contents = two_models([0.0001, 0.4, 0.0002], [0.1, 0.1, 0.1])
    (axes,) = forest_figure(contents).axes
    low, _ = axes.get_xlim()
    assert low > 0
    assert all(np.min(drawn.get_xdata()) >= low for drawn in axes.get_lines())
    (line,) = [line for line in forest_lines(contents) if line.startswith("kan")]
    assert re.match(r"kan  <-+\|?-*o-*>? ", line)


def test_an_excess_below_zero_has_no_ratio():
    (axes,) = forest_figure(two_models([-0.001, -0.002], [0.004, 0.005])).axes
    assert [text.get_text() for text in axes.texts] == ["–", "best MLP"]


@pytest.mark.parametrize(("low", "high"), [(0.9, 1.2), (0.5, 3), (1, 100), (3e-5, 2), (1e-9, 1e9)])
def test_log_axes_have_some_ticks_and_not_too_many(low, high):
    axes = Figure().subplots()
    value_axis(axes, "x", value_scale([low, high]))
    ends = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if ends[0] <= tick <= ends[1]]
    assert 2 <= len(ticks) <= 6


# --- lines ------------------------------------------------------------------------------------


def test_levels_are_drawn_over_their_log_snr(small):
    levels = small.levels_of("swiss roll").query("name == 'KAN'").groupby("log_snr")["excess"]
    drawn = line(by_level_figure(small, "swiss roll").axes[0], "KAN")
    assert drawn.get_xdata() == pytest.approx(levels.mean().index.to_numpy(float))
    assert drawn.get_ydata() == pytest.approx(levels.mean().to_numpy(float))
    assert "log SNR" in by_level_figure(small).axes[0].get_xlabel()


def test_levels_whose_estimate_is_below_zero_are_left_out(small):
    levels = small.excess_by_level.copy()
    levels.loc[levels["t_mid"] > 0.9, "excess"] *= -1
    axes = by_level_figure(replace(small, excess_by_level=levels)).axes[0]
    assert len(line(axes, "KAN").get_xdata()) == levels["t_mid"].nunique() - 1
    assert axes.get_yscale() == "log"


def test_many_models_have_a_panel_for_each_kind_with_the_others_behind(contents):
    for figure in (by_level_figure(contents, LABEL), loss_figure(contents, LABEL)):
        assert [title(axes) for axes in figure.axes] == ["KANs", "MLPs", "Others"]
        for kind, axes in zip(("kan", "mlp", "other"), figure.axes, strict=True):
            names = [text.get_text() for text in axes.get_legend().get_texts()]
            assert names == [name for name, f in FAMILIES.items() if kind_of(f[0]) == kind]
            assert len(axes.get_lines()) == len(FAMILIES)


def test_without_an_oracle_held_out_losses_are_drawn_by_level(contents):
    levels = contents.levels_of(WINE).query("name == 'MLP'")
    figure = by_level_figure(contents, WINE)
    drawn = line(figure.axes[1], "MLP").get_ydata()
    assert drawn == pytest.approx(levels.groupby("log_snr")["heldout_loss"].mean().to_numpy(float))
    assert figure.axes[0].get_ylabel() == "held-out loss"


def test_the_loss_stands_beside_its_floor(small):
    left, right = loss_figure(small, "swiss roll").axes
    floor = small.floors["swiss roll"]
    assert any(set(drawn.get_ydata()) == {floor} for drawn in left.get_lines())
    assert any("floor" in text.get_text() for text in left.texts)
    assert left.get_ylim()[0] < floor
    for model in MODELS:
        above = line(left, model).get_ydata() - floor  # the mean of all seeds
        assert line(right, model).get_ydata() == pytest.approx(above[above > 0], rel=1e-9)


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


def test_seeds_of_different_length_are_read_at_common_steps():
    short = pd.DataFrame({"seed": 0, "step": [1.0, 10.0], "loss": [2.0, 1.0]})
    long = pd.DataFrame({"seed": 1, "step": [1.0, np.sqrt(10), 100.0], "loss": [4.0, 3.0, 0.0]})
    steps, losses = curves_by_seed(pd.concat((short, long)))
    assert steps == pytest.approx([1.0, np.sqrt(10), 100.0])
    assert losses[:2] == pytest.approx(np.array([[2.0, 4.0], [1.5, 3.0]]))
    assert np.isnan(losses[2, 0])


def test_a_smoothed_curve_averages_every_loss_once():
    steps = np.arange(1, 1_001)
    middles, losses = smoothed_curve(steps, 1.0 / steps, num_bins=20)
    assert (np.diff(middles) > 0).all()
    assert len(losses) == len(middles) <= 20
    assert losses * middles == pytest.approx(np.ones(len(middles)), abs=0.05)
    constant = smoothed_curve(steps, np.full(1_000, 0.25))[1]
    assert constant == pytest.approx(np.full(constant.shape, 0.25))


# --- all figures ------------------------------------------------------------------------------


@pytest.mark.parametrize("narrow", [False, True], ids=["on a screen", "on a telephone"])
def test_texts_can_be_read_and_none_lies_on_another(contents, narrow):
    budget = [s for s in contents.results.settings() if s.match == "params"]
    width = {"width": NARROW} if narrow else {}
    for figure in (
        differences_figure(contents, budget, **width), forest_figure(contents, LABEL, **width),
        metrics_figure(contents, LABEL, **width), by_level_figure(contents, LABEL, **width),
        loss_figure(contents, WINE, **width), samples_figure(contents, LABEL, **width),
        data_figure(contents, "swiss roll", **width),
        lead_figure(contents, contents.decision.leads[0], **width),
    ):  # fmt: skip
        assert texts_overlap(figure) == []
        sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
        assert min(sizes) >= 9
        picture = embedded(figure)
        assert (picture.least <= TELEPHONE) == narrow


def test_a_narrow_forest_plot_shows_what_the_wide_one_does(contents):
    wide, narrow = (metrics_figure(contents, LABEL, width=width) for width in (11.4, NARROW))
    assert len(wide.axes) == len(narrow.axes)
    for one, other in zip(wide.axes, narrow.axes, strict=True):
        assert title(one) == title(other)
        assert one.get_xlim() == pytest.approx(other.get_xlim())
        for model in model_styles(contents.results.rows).values():
            here, there = (marks(axes, model.colour) for axes in (one, other))
            assert [part.tolist() for part in here] == [part.tolist() for part in there]
        written = [text.get_text() for text in other.texts]
        assert set(FAMILIES) <= set(written)
        assert {text.get_text().split(",")[0] for text in one.texts} <= {
            text.split(",")[0] for text in written
        }


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


def test_pictures_that_were_asked_for_fit_a_telephone():
    asked = ["a seven", "a small red circle at the top left and a large green star on white"]
    pictures = np.zeros((2, 4, 1, 8, 8))
    columns = [("real", pictures[:, :1]), ("DiT", pictures), ("U-Net KAN", pictures)]
    times = np.linspace(1, 0, 11).tolist()
    for figure in (
        asked_figure(asked, columns, NARROW),
        process_figure(asked, np.zeros((2, 11, 1, 8, 8)), times, NARROW),
    ):
        assert texts_overlap(figure) == []
        assert embedded(figure).least <= TELEPHONE
        texts = [text.get_text() for text in figure.findobj(Text)]
        assert {"a seven", "a small red\ncircle at the top\nleft and a …"} <= set(texts)
    assert {"t = T", "t = 0"} <= set(texts)


# --- points -----------------------------------------------------------------------------------


def test_rows_of_sample_panels_are_full_square_and_have_ticks(contents):
    figure = samples_figure(contents, LABEL)
    assert [title(axes) for axes in figure.axes] == ["real", *FAMILIES]
    figure.draw_without_rendering()
    boxes = [axes.get_window_extent() for axes in figure.axes]
    assert all(box.width == pytest.approx(box.height, rel=1e-3) for box in boxes)
    rows = [sum(round(box.y0) == y for box in boxes) for y in {round(box.y0) for box in boxes}]
    assert sorted(rows) == [5, 5, 6]
    assert all(len(axes.get_xticklabels()) > 1 for axes in figure.axes)


def test_two_dimensions_are_drawn_as_they_are(small):
    points = small.originals["swiss roll"]
    view = PointView.of(points, ["x", "z"])
    assert view.labels == ("x", "z")
    assert np.array_equal(view.project(points), points)
    drawn = data_figure(small, "swiss roll").axes[0].collections[0].get_offsets()
    assert np.asarray(drawn) == pytest.approx(points)


def test_many_dimensions_are_seen_along_their_principal_components():
    generator = np.random.default_rng(0)
    points = generator.standard_normal((4_000, 5)) * [0.1, 5.0, 0.1, 2.0, 0.1] + 7.0
    view = PointView.of(points)
    assert view.project(points).std(axis=0) == pytest.approx([5.0, 2.0], rel=0.05)
    assert view.explained == pytest.approx(29 / 29.03, abs=1e-3)
    assert view.labels[0].startswith("principal component 1 (86%)")


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


def test_stray_infinite_and_constant_points_have_a_picture():
    points = np.random.default_rng(0).standard_normal((1_000, 2))
    stray = np.concatenate((points, [[1e6, 0.0], [np.inf, 0.0], [np.nan, 1.0]]))
    assert np.abs(PointView.of(points).limits([stray])).max() < 6
    view = PointView.of(np.zeros((10, 2)))
    assert (np.diff(view.limits([np.zeros((10, 2))]), axis=1) > 0).all()


def test_strips_have_a_panel_for_each_time_and_a_row_for_each_moment(small):
    strip = corruption_figure(small, "swiss roll")
    assert [axes.get_title() for axes in strip.axes][::5] == ["t = 0", "0.5 T", "t = T"]
    grid = reverse_figure(small, "swiss roll", "KAN")
    assert len(grid.axes) == 3 * 11
    assert len({axes.get_xlim() for axes in grid.axes}) == 1
