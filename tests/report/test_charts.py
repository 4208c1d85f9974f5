from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from drawn import line, marks
from kan_diffusion.report.charts import by_level_figure, forest_figure, loss_figure
from kan_diffusion.report.charts.lines import curves_by_seed
from kan_diffusion.report.contents import smoothed_curve
from kan_diffusion.report.points import PointView
from kan_diffusion.report.style import model_styles
from kan_diffusion.study.results.verdicts import compare
from synthetic_study import MODELS, make_contents


@pytest.fixture(scope="module")
def small():
    """A study of three models, two of which can be compared."""
    return make_contents(count=60)


def test_a_forest_plot_shows_the_ratios_to_the_best_mlp(small):
    axes = forest_figure(small, "swiss roll").axes[0]
    styles = model_styles(small.results.rows)
    values = small.results.values("swiss roll", "excess")
    (comparison,) = compare(small.results, small.results.data_sets()[0], "excess")
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_yticklabels()] == list(MODELS)
    seeds, mean = marks(axes, styles["KAN"].colour)
    assert seeds == pytest.approx((values["KAN"] / values["MLP"]).dropna().to_numpy())
    assert mean == pytest.approx([comparison.ratio])
    assert axes.texts[0].get_text().endswith("n = 3")
    assert float(axes.texts[0].get_text().split()[0]) == pytest.approx(comparison.ratio, rel=0.02)
    (reference,) = [drawn for drawn in axes.get_lines() if list(drawn.get_xdata()) == [1, 1]]
    assert reference.get_color() == styles["MLP"].colour


def test_levels_are_drawn_over_their_log_snr_but_for_estimates_below_zero(small):
    levels = small.excess_by_level.copy()
    levels.loc[levels["t_mid"] > 0.9, "excess"] *= -1
    axes = by_level_figure(replace(small, excess_by_level=levels), "swiss roll").axes[0]
    means = levels.query("name == 'KAN' and data == 'swiss roll' and excess > 0")
    means = means.groupby("log_snr")["excess"].mean()
    drawn = line(axes, "KAN")
    assert len(means) == levels["t_mid"].nunique() - 1
    assert drawn.get_xdata() == pytest.approx(means.index.to_numpy(float))
    assert drawn.get_ydata() == pytest.approx(means.to_numpy(float))
    assert axes.get_yscale() == "log"


def test_the_loss_stands_beside_its_floor(small):
    left, right = loss_figure(small, "swiss roll").axes
    floor = small.floors["swiss roll"]
    assert any(set(drawn.get_ydata()) == {floor} for drawn in left.get_lines())
    assert any("floor" in text.get_text() for text in left.texts)
    assert left.get_ylim()[0] < floor
    for model in MODELS:
        above = line(left, model).get_ydata() - floor  # the mean of all seeds
        assert line(right, model).get_ydata() == pytest.approx(above[above > 0], rel=1e-9)


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


def test_points_are_drawn_as_they_are_or_along_their_principal_components(small):
    points = small.originals["swiss roll"]
    view = PointView.of(points, ["x", "z"])
    assert view.labels == ("x", "z")
    assert np.array_equal(view.project(points), points)
    generator = np.random.default_rng(0)
    points = generator.standard_normal((4_000, 5)) * [0.1, 5.0, 0.1, 2.0, 0.1] + 7.0
    view = PointView.of(points)
    assert view.project(points).std(axis=0) == pytest.approx([5.0, 2.0], rel=0.05)
    assert view.explained == pytest.approx(29 / 29.03, abs=1e-3)
    assert view.labels[0].startswith("principal component 1 (86%)")


def test_stray_infinite_and_constant_points_have_a_picture():
    points = np.random.default_rng(0).standard_normal((1_000, 2))
    stray = np.concatenate((points, [[1e6, 0.0], [np.inf, 0.0], [np.nan, 1.0]]))
    assert np.abs(PointView.of(points).limits([stray])).max() < 6
    view = PointView.of(np.zeros((10, 2)))
    assert (np.diff(view.limits([np.zeros((10, 2))]), axis=1) > 0).all()
