import numpy as np
import pandas as pd
import pytest

from drawn import line, marks, texts_overlap
from kan_diffusion.report.charts import (
    by_level,
    lead_forest,
    lines,
    losses,
    model_forest,
    smoothed_curve,
)
from kan_diffusion.report.style import model_styles
from kan_diffusion.study.results import Results, compare, decide
from synthetic_study import FAMILIES, make_rows

DATAS = ("swiss-roll", "checkerboard", "moons")


@pytest.fixture(scope="module")
def results():
    return Results.of(make_rows(DATAS, budget=2_300, without_oracle=("moons",), failed=False))


@pytest.fixture(scope="module")
def styles(results):
    return model_styles(results.rows)


def drawn(results, data):
    """The forest of a data set, with comparisons that are not corrected, as those of one are."""
    comparisons = {c.model: c for c in compare(results, data, results.judged(data))}
    return model_forest(results, data, model_styles(results.rows), comparisons)


def texts(axes):
    """Names and numbers of a forest's rows."""
    said = [text.get_text() for text in axes.texts]
    return dict(zip(said[::2], said[1::2], strict=True))


def test_a_forest_plot_shows_the_ratios_to_the_best_mlp(results, styles):
    figure = drawn(results, "swiss-roll")
    (axes,) = figure.axes
    values = results.values("swiss-roll", "excess")
    comparisons = {c.model: c for c in compare(results, "swiss-roll")}
    (best,) = set(FAMILIES) - set(comparisons)
    assert axes.get_xscale() == "log"
    assert list(texts(axes)) == list(FAMILIES)
    assert texts(axes)[best] == "best MLP"
    seeds, mean = marks(axes, styles["KAN"].colour)
    assert seeds == pytest.approx((values["KAN"] / values[best]).to_numpy())
    assert mean == pytest.approx([comparisons["KAN"].ratio])
    assert texts(axes)["KAN"].endswith("n = 3")
    assert float(texts(axes)["KAN"].split()[0]) == pytest.approx(comparisons["KAN"].ratio, rel=0.02)
    (reference,) = [line for line in axes.get_lines() if list(line.get_xdata()) == [1, 1]]
    assert reference.get_color() == styles[best].colour
    assert figure.get_figwidth() == pytest.approx(4.3)
    assert texts_overlap(figure) == []


def test_significant_differences_are_bold(results, styles):
    decision = decide(Results.of(make_rows(num_seeds=8, budget=2_300, failed=False)))
    found = decision.of_data("swiss-roll")
    rows = Results.of(make_rows(num_seeds=8, budget=2_300, failed=False))
    (axes,) = model_forest(rows, "swiss-roll", styles, found).axes
    weights = {
        name.get_text(): number.get_fontweight() == "bold"
        for name, number in zip(axes.texts[::2], axes.texts[1::2], strict=True)
    }
    bold = {name: c.p_holm < 0.05 for name, c in found.items()}
    assert {name: weights[name] for name in bold} == bold
    assert any(bold.values())


def test_without_an_oracle_differences_of_held_out_losses_are_drawn(results, styles):
    (axes,) = drawn(results, "moons").axes
    (comparison,) = [c for c in compare(results, "moons") if c.model == "spline-MLP"]
    assert axes.get_xscale() == "linear"
    assert "minus the best MLP" in axes.get_xlabel()
    assert marks(axes, styles["spline-MLP"].colour)[1] == pytest.approx([comparison.interval.mean])


def test_models_without_an_mlp_are_drawn_as_they_are_and_an_excess_below_zero_has_no_ratio():
    alone = Results.of(make_rows(("moons",), ("KAN", "full KAN"), failed=False))
    styles = model_styles(alone.rows)
    (axes,) = drawn(alone, "moons").axes
    values = alone.values("moons", "excess")
    for name, style in styles.items():
        seeds, mean = marks(axes, style.colour)
        assert seeds == pytest.approx(values[name].to_numpy())
        assert mean == pytest.approx([values[name].mean()])
    rows = make_rows(("moons",), ("KAN", "MLP"), 2, budget=2_300, failed=False)
    rows.loc[rows["name"] == "KAN", "excess"] *= -1
    below = Results.of(rows)
    (axes,) = drawn(below, "moons").axes
    assert texts(axes) == {"KAN": "–", "MLP": "best MLP"}


def test_a_lead_has_a_row_for_each_data_set_and_their_median(results, styles):
    lead = next(found for found in decide(results).leads if found.model is None)
    (axes,) = lead_forest(results, lead, styles).axes
    names = [*(comparison.data for comparison in lead.comparisons), "median"]
    assert list(texts(axes)) == names
    ratios = [*(comparison.ratio for comparison in lead.comparisons), lead.ratio.mean]
    shown = [float(text.split()[0]) for text in texts(axes).values()]
    assert shown == pytest.approx(ratios, rel=0.01)


def test_levels_are_averaged_over_their_log_snr_but_for_estimates_below_zero():
    levels = pd.DataFrame(
        {"name": "KAN", "seed": [0, 1] * 3, "t_low": [0.1, 0.1, 0.5, 0.5, 0.9, 0.9],
         "log_snr": [4.0, 4.0, 0.0, 0.0, -4.0, -4.0], "excess": [1.0, 3.0, 0.5, 0.5, -2.0, 1.0]}
    )  # fmt: skip
    points = by_level(levels, "excess")
    assert points["x"].tolist() == [0.0, 4.0]
    assert points["y"].tolist() == [0.5, 2.0]
    assert (points["low"] <= points["y"]).all()


def test_losses_are_seen_on_both_sides_of_the_floor_and_its_error():
    steps = np.arange(1.0, 1_001)
    curves = {"KAN": [(steps, 0.4 + 1 / steps - 0.01)]}
    styles = model_styles(pd.DataFrame({"name": ["KAN"], "family": ["kan"]}))
    points = losses(curves, floor=0.4)
    figure = lines(points, styles, ("step", "loss"), steps=True, error=0.02)
    (axes,) = figure.axes
    drawn = line(axes, "KAN")
    assert drawn.get_ydata() == pytest.approx(1 / steps - 0.01)
    low, high = axes.get_ylim()
    assert low < drawn.get_ydata().min() < 0 < drawn.get_ydata().max() < high
    (band,) = [patch for patch in axes.patches if patch.get_label() == "its error"]
    assert band.get_extents().transformed(axes.transData.inverted()).intervaly == pytest.approx(
        [-0.02, 0.02]
    )
    assert list(line(axes, "floor").get_ydata()) == [0.0, 0.0]
    assert texts_overlap(figure) == []


def test_seeds_of_different_length_are_read_at_common_steps():
    short = np.array([1.0, 10.0]), np.array([2.0, 1.0])
    long = np.array([1.0, np.sqrt(10), 100.0]), np.array([4.0, 3.0, 0.0])
    points = losses({"KAN": [short, long]})
    assert points["x"].to_numpy() == pytest.approx([1.0, np.sqrt(10), 100.0])
    assert points["y"].to_numpy() == pytest.approx([3.0, 2.25, 0.0])
    assert points["low"].to_numpy() == pytest.approx([2.0, 1.5, 0.0])
    assert points["high"].to_numpy() == pytest.approx([4.0, 3.0, 0.0])


def test_a_smoothed_curve_averages_every_loss_once():
    steps = np.arange(1, 1_001)
    middles, smooth = smoothed_curve(steps, 1.0 / steps, num_bins=20)
    assert (np.diff(middles) > 0).all()
    assert len(smooth) == len(middles) <= 20
    assert smooth * middles == pytest.approx(np.ones(len(middles)), abs=0.05)
    constant = smoothed_curve(steps, np.full(1_000, 0.25))[1]
    assert constant == pytest.approx(np.full(constant.shape, 0.25))
