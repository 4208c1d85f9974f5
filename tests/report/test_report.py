import base64
import io
import re
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from html_page import Page, write_quickly
from kan_diffusion.report import ReportContents, summary_table, trial_table, write_report
from kan_diffusion.report.charts import (
    excess_by_level_figure,
    excess_figure,
    loss_figure,
    metrics_figure,
)
from kan_diffusion.report.contents import smoothed_curve
from kan_diffusion.report.figures import report_figures
from kan_diffusion.report.images import figure_png
from kan_diffusion.report.point_figures import (
    PointView,
    corruption_figure,
    data_figure,
    reverse_figure,
    samples_figure,
)
from kan_diffusion.report.style import REAL, model_styles
from kan_diffusion.report.tables import (
    REAL_ROW,
    format_half_width,
    format_interval,
    format_number,
    format_seconds,
)
from kan_diffusion.study.results.rows import Results
from kan_diffusion.study.results.statistics import mean_interval
from kan_diffusion.study.results.wording import overall
from synthetic_study import MODELS, make_contents


def rows_of(data="d", error=None, **excess):
    """Rows of one data set from models with their size and the excess of each seed."""
    return Results.of(
        pd.DataFrame(
            [
                {
                    "data": data, "name": name, "family": name, "kind": "other", "seed": seed,
                    "parameters": size, "oracle": "exact", "excess": value, "error": error,
                }
                for name, (size, values) in excess.items()
                for seed, value in enumerate(values)
            ]
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def contents():
    made = make_contents(count=60)
    kept = ("swiss roll", "KAN"), ("checkerboard", "MLP")
    made.trajectories = {key: made.trajectories[key] for key in kept}
    return made


@pytest.fixture(scope="module")
def written(contents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return write_report(contents, folder)


@pytest.fixture(scope="module")
def page(written):
    return Page(written.read_text())


def test_the_page_loads_nothing_from_anywhere(page, written):
    assert page.loads
    assert all(load.startswith("data:image/webp;base64,") for load in page.loads)
    assert set(page.links) <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    assert page.empty == []
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", written.read_text())
    assert not re.search(r"https?://|@import|url\(|<link", text)


def test_every_figure_is_a_file_and_the_same_picture_in_the_page(page, written, contents):
    files = {path.stem: path for path in (written.parent / "figures").iterdir()}
    figures = report_figures(contents)
    assert set(files) == {figure.name for figure in figures}
    for figure in figures:
        file = Image.open(files[figure.name]).convert("RGB")
        source = page.pictures[figure.alternative].partition(",")[2]
        shown = Image.open(io.BytesIO(base64.b64decode(source))).convert("RGB")
        assert shown.size == file.size
        if not figure.cloud:
            assert shown.tobytes() == file.tobytes()
    # For each data set: samples, excess, excess by level, losses, metrics, data, corruption
    # and the reverse process of one model.
    assert len(page.images) == 2 * 8 + 1  # and ratios over the two
    assert len(figures) == len(page.images)
    assert not [path for path in written.parent.rglob("*") if "tmp" in path.name]


def test_the_page_is_light(written):
    assert written.stat().st_size < 5e6


def test_the_tables_of_the_page_hold_the_means_of_the_rows(page, contents):
    for data in contents.data_names():
        of_data = contents.results.rows[contents.results.rows["data"] == data]
        for name in MODELS:
            chosen = of_data[of_data["name"] == name]
            line = page.row(f"Models, {data}", name)
            excess = format_half_width(mean_interval(chosen["excess"]))
            assert line["excess"] == excess.replace("\n", " ")
            assert line["parameters"] == f"{MODELS[name][1]:,}"
        last = page.tables[f"Models, {data}"][-1]
        head = page.tables[f"Models, {data}"][0]
        assert last[0] == REAL_ROW
        assert last[head.index("D²")] == format_number(of_data["energy_real"].mean())


def test_trials_are_all_listed_and_the_failed_one_says_why(page, contents):
    head, *lines = page.tables["All trials"]
    assert len(lines) == len(contents.results.rows)
    failed = [line for line in lines if line[head.index("state")] == "failed"]
    assert [line[head.index("trial")] for line in failed] == ["dead00"]
    assert failed[0][head.index("excess")] == "–"
    assert any(
        "the loss became NaN at step 71 <&>; lower the learning rate" in t for t in page.text
    )
    assert any(t.startswith("1 trial failed") for t in page.text)


def test_the_page_says_what_was_asked_warned_set_and_run(page, contents):
    text = " ".join(page.text)
    for part in (
        contents.title, contents.question, contents.command, contents.warnings[0],
        *contents.environment.values(), *(value for _, value in contents.settings),
        overall(contents.decision),
    ):  # fmt: skip
        assert part in text


def test_what_a_study_says_of_itself_cannot_break_the_page(tmp_path):
    results = rows_of(**{"<b>": (100, [0.1])}, data="a/../b")
    hostile = ReportContents("<script>alert(1)</script>", "q", results, warnings=["a < b & c"])
    text = write_report(hostile, tmp_path).read_text()
    assert text.count("<script>") == 1
    assert "a &lt; b &amp; c" in text


def test_rows_alone_make_a_report(tmp_path):
    results = rows_of(KAN=(100, [0.1]), error="out of memory")
    path = write_report(ReportContents("Title", "Question?", results), tmp_path)
    page = Page(path.read_text())
    assert page.images == []
    assert page.empty == []
    assert "d: no model finished half of its seeds." in page.text
    assert any("out of memory" in text for text in page.text)


def test_one_seed_of_one_model_makes_a_report(tmp_path):
    contents = make_contents(("swiss roll",), ("MLP",), num_seeds=1, failed=False, count=9)
    for points in (contents.trajectories, contents.corruption, contents.originals):
        points.clear()
    text = write_report(contents, tmp_path).read_text()
    assert "there is no second model to compare" in text


def test_a_report_written_again_replaces_the_old_one(tmp_path):
    contents = ReportContents(
        "One", "q", make_contents(("swiss roll",), ("MLP",), 2, False, 9).results
    )
    first = write_quickly(contents, tmp_path).read_bytes()
    assert write_quickly(contents, tmp_path).read_bytes() == first
    contents.title = "Another"
    assert b"<h1>Another</h1>" in write_quickly(contents, tmp_path).read_bytes()


# --- tables and sentences ---------------------------------------------------------------------


def test_summary_table(contents):
    table = summary_table(contents.results)
    assert list(table["model"]) == [*MODELS, REAL_ROW, *MODELS, REAL_ROW]
    first = table.iloc[0]
    assert first["seeds"] == "3 of 4"
    assert table.iloc[1]["seeds"] == "3"
    values = contents.results.rows.query("data == 'swiss roll' and name == 'KAN'")["c2st"]
    assert first["c2st"] == format_interval(mean_interval(values))
    assert table.iloc[3]["excess"] == ""


def test_columns_that_were_never_measured_are_left_out(contents):
    results = Results.of(contents.results.rows.drop(columns=["w2", "w2_real", "flops"]))
    assert "w2" not in summary_table(results)
    assert "flops" not in trial_table(results)
    assert "excess" in trial_table(results)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0016349, "0.00163"), (0.5, "0.500"), (0, "0"), (22_080, "22,080"), (123.4, "123"),
        (2.5e-7, "2.50e-07"), (float("nan"), "–"), (None, "–"),
    ],
)  # fmt: skip
def test_format_number(value, text):
    assert format_number(value) == text


def test_format_interval_shares_decimals():
    assert re.fullmatch(
        r"0\.00200 \[−0\.00048, 0\.00448\]", format_interval(mean_interval([0.001, 0.002, 0.003]))
    )
    assert format_interval(mean_interval([0.002])) == "0.00200"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0.40 s"), (31.2, "31 s"), (720, "12 min"), (7_560, "2.1 h"), (float("nan"), "–")],
)
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text


# --- figures ----------------------------------------------------------------------------------


def line(axes, label):
    return next(drawn for drawn in axes.get_lines() if drawn.get_label() == label)


def test_the_floor_is_drawn_at_the_floor(contents):
    figure = loss_figure(contents, "swiss roll")
    floor = contents.floors["swiss roll"]
    assert set(line(figure.axes[0], "floor (oracle)").get_ydata()) == {floor}
    assert figure.axes[0].get_ylim()[0] < floor
    above = line(figure.axes[0], "MLP").get_ydata() - floor
    left = line(figure.axes[1], "MLP").get_ydata()
    early = slice(0, 10)
    assert left[early] == pytest.approx(above[early], rel=1e-9)


def test_smoothed_curve_averages_every_loss_once():
    steps = np.arange(1, 1_001)
    middles, losses = smoothed_curve(steps, 1.0 / steps, num_bins=20)
    assert (np.diff(middles) > 0).all()
    assert len(losses) == len(middles) <= 20
    assert losses * middles == pytest.approx(np.ones(len(middles)), abs=0.05)
    assert losses[0] == 1.0
    constant = smoothed_curve(steps, np.full(1_000, 0.25))[1]
    assert constant == pytest.approx(np.full(constant.shape, 0.25))


@pytest.mark.parametrize("data", ["swiss roll", "checkerboard"])
def test_excess_marks_stand_at_the_values(contents, data):
    (axes,) = excess_figure(contents, data).axes
    of_data = contents.results.rows[contents.results.rows["data"] == data]
    marks = [tuple(c.get_offsets()[:, 0]) for c in axes.collections]
    for name, group in of_data.groupby("name", sort=False)["excess"]:
        group = group.dropna()
        assert any(m == pytest.approx(group.tolist()) for m in marks if len(m) == 3), name
        assert any(m[0] == pytest.approx(group.mean()) for m in marks if len(m) == 1), name
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_yticklabels()] == list(MODELS)


def test_intervals_that_reach_below_zero_stay_on_the_log_axis():
    rows = rows_of(kan=(100, [0.001, 0.004]), mlp=(100, [0.002, 0.0021]))
    (axes,) = excess_figure(ReportContents("t", "q", rows)).axes
    low = axes.get_xlim()[0]
    assert low > 0
    assert mean_interval([0.001, 0.004]).low < 0
    assert all(np.min(drawn.get_xdata()) >= low for drawn in axes.get_lines())


def test_an_excess_below_zero_is_drawn_on_a_linear_axis():
    (axes,) = excess_figure(ReportContents("t", "q", rows_of(kan=(9, [-0.001, 0.004])))).axes
    assert axes.get_xscale() == "linear"
    assert axes.get_xlim()[0] < -0.001


def test_excess_by_level_draws_the_means(contents):
    figure = excess_by_level_figure(contents)
    expected = (
        contents.excess_by_level.query("setting == 'swiss roll' and name == 'KAN'")
        .groupby("t_mid")["excess"]
        .mean()
    )
    drawn = line(figure.axes[0], "KAN")
    assert drawn.get_xdata() == pytest.approx(expected.index.to_numpy())
    assert drawn.get_ydata() == pytest.approx(expected.to_numpy())


def test_levels_below_zero_are_left_out(contents):
    levels = contents.excess_by_level.copy()
    levels.loc[levels["t_mid"] > 0.9, "excess"] *= -1
    figure = excess_by_level_figure(replace(contents, excess_by_level=levels))
    assert line(figure.axes[0], "KAN").get_xdata().max() < 0.9
    assert figure.axes[0].get_yscale() == "log"


def test_metrics_show_real_against_real(contents):
    figure = metrics_figure(contents, "swiss roll")
    real = contents.results.rows.query("data == 'swiss roll'")["energy_real"].mean()
    dashed = [drawn for drawn in figure.axes[0].get_lines() if drawn.get_color() == REAL]
    assert dashed[0].get_xdata()[0] == pytest.approx(real)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]
    assert titles[0] == "Energy distance"
    assert len(titles) == 5


def test_a_model_has_one_colour_in_every_figure(contents):
    styles = model_styles(contents.results.rows)
    assert len({style.colour for style in styles.values()} | {REAL}) == len(MODELS) + 1
    data = "checkerboard"
    loss, level = loss_figure(contents, data), excess_by_level_figure(contents, data)
    excess = excess_figure(contents, data)
    samples = samples_figure(contents, data)
    for row, (name, style) in enumerate(styles.items()):
        assert line(loss.axes[0], name).get_color() == style.colour
        assert line(level.axes[0], name).get_color() == style.colour
        drawn = samples.axes[row + 1].collections[0].get_facecolor()[0]
        assert to_hex(drawn) == style.colour
        colours = [to_hex(c.get_facecolor()[0]) for c in excess.axes[0].collections]
        assert style.colour in colours
    reverse = reverse_figure(contents, "checkerboard", "MLP")
    assert to_hex(reverse.axes[0].collections[0].get_facecolor()[0]) == styles["MLP"].colour
    assert to_hex(samples.axes[0].collections[0].get_facecolor()[0]) == REAL


def test_the_common_families_keep_their_colours_whatever_the_study():
    alone = model_styles(pd.DataFrame({"name": ["b"], "family": ["mlp"]}))
    among = model_styles(
        pd.DataFrame({"name": ["x", "a", "b"], "family": ["rbf-2015", "kan", "mlp"]})
    )
    assert alone["b"].colour == among["b"].colour
    assert among["x"].colour not in (among["a"].colour, among["b"].colour)


def test_twenty_models_are_told_apart():
    rows = pd.DataFrame({"name": [f"m{i}" for i in range(20)], "family": "mlp"})
    styles = model_styles(rows)
    assert len({(style.colour, style.marker) for style in styles.values()}) == 20


def test_figures_leave_the_global_settings_alone(contents):
    before = dict(mpl.rcParams)
    figure_png(data_figure(contents, "swiss roll"))
    assert dict(mpl.rcParams) == before


def test_a_png_has_twice_the_resolution_of_a_screen_and_is_the_same_each_time(contents):
    first, second = (figure_png(excess_figure(contents)) for _ in range(2))
    assert first == second
    assert Image.open(io.BytesIO(first)).width == pytest.approx(8.5 * 192, rel=0.05)


def test_no_text_is_small(contents):
    figure = metrics_figure(contents, "swiss roll")
    sizes = [text.get_fontsize() for text in figure.findobj(mpl.text.Text) if text.get_text()]
    assert min(sizes) >= 9


# --- points -----------------------------------------------------------------------------------


def test_two_dimensions_are_drawn_as_they_are(contents):
    points = contents.originals["swiss roll"]
    view = PointView.of(points, ["x", "z"])
    assert view.labels == ("x", "z")
    assert np.array_equal(view.project(points), points)
    drawn = data_figure(contents, "swiss roll").axes[0].collections[0].get_offsets()
    assert np.asarray(drawn) == pytest.approx(points)


def test_many_dimensions_are_seen_along_their_principal_components():
    generator = np.random.default_rng(0)
    points = generator.standard_normal((4_000, 5)) * [0.1, 5.0, 0.1, 2.0, 0.1] + 7.0
    view = PointView.of(points)
    spread = view.project(points).std(axis=0)
    assert spread == pytest.approx([5.0, 2.0], rel=0.05)
    assert view.explained == pytest.approx(29 / 29.03, abs=1e-3)
    assert view.labels[0].startswith("principal component 1 (86%)")


@pytest.mark.parametrize("dimension", [1, 3])
def test_other_dimensions_draw_without_a_warning(dimension):
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
    note = [f.caption for f in report_figures(contents) if "principal components" in f.caption]
    assert bool(note) == (dimension == 3)
    for figure in (
        data_figure(contents, "swiss roll"), samples_figure(contents, "swiss roll"),
        corruption_figure(contents, "swiss roll"), reverse_figure(contents, "swiss roll", "KAN"),
    ):  # fmt: skip
        assert len(figure_png(figure)) > 1_000
        assert bool(figure.axes[0].patches) == (dimension == 1)


def test_stray_and_infinite_points_do_not_squeeze_the_picture():
    points = np.random.default_rng(0).standard_normal((1_000, 2))
    view = PointView.of(points)
    stray = np.concatenate((points, [[1e6, 0.0], [np.inf, 0.0], [np.nan, 1.0]]))
    assert np.abs(view.limits([stray])).max() < 6


def test_constant_points_have_a_picture():
    view = PointView.of(np.zeros((10, 2)))
    assert (np.diff(view.limits([np.zeros((10, 2))]), axis=1) > 0).all()


def test_strips_have_a_panel_a_time_and_a_row_a_moment(contents):
    strip = corruption_figure(contents, "swiss roll")
    assert [axes.get_title() for axes in strip.axes][::5] == ["t = 0", "0.5 T", "t = T"]
    grid = reverse_figure(contents, "swiss roll", "KAN")
    assert len(grid.axes) == 3 * 11
    limits = {axes.get_xlim() for axes in grid.axes}
    assert len(limits) == 1
