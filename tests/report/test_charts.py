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
from kan_diffusion.study.results.rows import Results
from kan_diffusion.study.results.verdicts import decide
from synthetic_study import FAMILIES, make_rows

DATAS = ("swiss-roll", "checkerboard", "moons")


def decided(rows):
    results = Results.of(rows)
    return results, decide(results), model_styles(results.rows)


@pytest.fixture(scope="module")
def shown():
    """Rows of nine models on three data sets, what is decided of them, and their styles."""
    rows = make_rows(DATAS, num_seeds=8, budget=2_300, without_oracle=("moons",), failed=False)
    return decided(rows)


def forest(shown, data):
    """Axes of the forest of a data set, and the names of its rows with their texts."""
    results, decision, styles = shown
    figure = model_forest(results, data, styles, decision.of_data(data))
    (axes,) = figure.axes
    assert figure.get_figwidth() == pytest.approx(4.3)
    assert texts_overlap(figure) == []
    return axes, dict(zip(axes.texts[::2], axes.texts[1::2], strict=True))


def said(texts):
    return {name.get_text(): number.get_text() for name, number in texts.items()}


def test_a_forest_plot_shows_the_ratios_to_the_best_mlp_significant_ones_in_bold(shown):
    results, decision, styles = shown
    axes, texts = forest(shown, "swiss-roll")
    values, comparisons = results.values("swiss-roll", "excess"), decision.of_data("swiss-roll")
    (best,) = set(FAMILIES) - set(comparisons)
    assert axes.get_xscale() == "log"
    assert list(said(texts)) == list(FAMILIES)
    assert said(texts)[best] == "best MLP"
    seeds, mean = marks(axes, styles["KAN"].colour)
    assert seeds == pytest.approx((values["KAN"] / values[best]).to_numpy())
    assert mean == pytest.approx([comparisons["KAN"].ratio])
    number = said(texts)["KAN"]
    assert float(number.split()[0]) == pytest.approx(comparisons["KAN"].ratio, rel=0.02)
    assert number.endswith("n = 8")
    (reference,) = [line for line in axes.get_lines() if list(line.get_xdata()) == [1, 1]]
    assert reference.get_color() == styles[best].colour
    weights = {name.get_text(): text.get_fontweight() for name, text in texts.items()}
    bold = {name: c.p_holm < 0.05 for name, c in comparisons.items()}
    assert {name: weights[name] == "bold" for name in bold} == bold
    assert any(bold.values())


def test_without_an_oracle_differences_of_held_out_losses_are_drawn(shown):
    axes, _ = forest(shown, "moons")
    comparison = shown[1].of_data("moons")["spline-MLP"]
    assert axes.get_xscale() == "linear"
    assert "minus the best MLP" in axes.get_xlabel()
    mean = marks(axes, shown[2]["spline-MLP"].colour)[1]
    assert mean == pytest.approx([comparison.interval.mean])


def test_models_without_an_mlp_are_drawn_as_they_are_and_an_excess_below_zero_has_no_ratio():
    alone = decided(make_rows(("moons",), ("KAN", "full KAN"), failed=False))
    axes, _ = forest(alone, "moons")
    values = alone[0].values("moons", "excess")
    for name, style in alone[2].items():
        seeds, mean = marks(axes, style.colour)
        assert seeds == pytest.approx(values[name].to_numpy())
        assert mean == pytest.approx([values[name].mean()])
    rows = make_rows(("moons",), ("KAN", "MLP"), 2, budget=2_300, failed=False)
    rows.loc[rows["name"] == "KAN", "excess"] *= -1
    assert said(forest(decided(rows), "moons")[1]) == {"KAN": "–", "MLP": "best MLP"}


def test_a_lead_has_a_row_for_each_data_set_and_their_median(shown):
    results, decision, styles = shown
    lead = next(found for found in decision.leads if found.model is None)
    (axes,) = lead_forest(results, lead, styles).axes
    texts = [text.get_text() for text in axes.texts]
    assert texts[::2] == [*(comparison.data for comparison in lead.comparisons), "median"]
    ratios = [*(comparison.ratio for comparison in lead.comparisons), lead.ratio.mean]
    assert [float(text.split()[0]) for text in texts[1::2]] == pytest.approx(ratios, rel=0.01)


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
    middles, smooth = smoothed_curve(steps, 1.0 / steps)
    assert (np.diff(middles) > 0).all()
    assert len(smooth) == len(middles) <= 30
    assert smooth * middles == pytest.approx(np.ones(len(middles)), abs=0.05)
    constant = smoothed_curve(steps, np.full(1_000, 0.25))[1]
    assert constant == pytest.approx(np.full(constant.shape, 0.25))
