import base64

import numpy as np
import pytest
from matplotlib.colors import to_hex

from kan_diffusion.report.clouds import PointPanel, clouds, point_panels
from kan_diffusion.report.style import REAL

RANDOM = np.random.default_rng(0)
COLOURS = {"real": REAL, "KAN": "#0072b2"}


def frames(dim, count=50):
    points = RANDOM.normal(size=(3, count, dim))
    return {"real": [points[0]], "KAN": [points[1]]}


def test_points_are_seen_as_they_are_or_along_their_principal_components():
    states = frames(2)
    (real, kan), said = point_panels(states, COLOURS, states["real"][0], ["x", "z"])
    assert said == "Axes: x and z."
    assert np.array_equal(real.frames, np.stack(states["real"]))
    assert np.array_equal(real.limits, kan.limits)
    low, high = real.limits.T
    assert ((real.frames[0] >= low) & (real.frames[0] <= high)).mean() > 0.98
    assert np.ptp(real.limits, axis=1)[0] == pytest.approx(np.ptp(real.limits, axis=1)[1])
    # In four dimensions the plane is that of the largest variance of the real points.
    wide = RANDOM.normal(size=(2_000, 4)) * [0.1, 5.0, 0.2, 2.0]
    (panel,), said = point_panels({"real": [wide]}, COLOURS, wide)
    assert "have 4 dimensions" in said
    assert "holds 100% of its variance" in said
    seen = panel.frames[0] - panel.frames[0].mean(0)
    centred = wide - wide.mean(0)
    assert np.abs(seen[:, 0]) == pytest.approx(np.abs(centred[:, 1]), abs=0.5)
    assert np.abs(seen[:, 1]) == pytest.approx(np.abs(centred[:, 3]), abs=0.5)


def test_one_point_far_away_or_missing_does_not_squeeze_the_others():
    points = RANDOM.normal(size=(1_000, 2))
    points[0], points[1] = 1e6, np.nan
    (panel,), _ = point_panels({"KAN": [points]}, COLOURS)
    assert np.abs(panel.limits).max() < 10
    none = np.full((3, 2), np.nan)
    assert np.isfinite(point_panels({"KAN": [none]}, COLOURS)[0][0].limits).all()


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_panels_stand_side_by_side_in_the_colours_of_their_models(dim):
    panels, _ = point_panels(frames(dim), COLOURS)
    figure = clouds([*panels, *panels], columns=3)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["real", "KAN"] * 2
    assert figure.get_figwidth() == pytest.approx(4.3)
    figure.draw_without_rendering()
    boxes = [axes.get_window_extent() for axes in figure.axes]
    assert all(box.width == pytest.approx(box.height, rel=1e-3) for box in boxes)
    assert len({round(box.y0) for box in boxes}) == 2
    if dim == 1:
        assert figure.axes[0].patches
    else:
        assert to_hex(figure.axes[1].collections[0].get_facecolor()[0]) == COLOURS["KAN"]
        drawn = np.asarray(figure.axes[1].collections[0].get_offsets())
        assert drawn == pytest.approx(panels[1].frames[-1])


def test_strips_have_a_row_for_each_panel_and_a_column_for_each_frame():
    points = RANDOM.normal(size=(11, 40, 2))
    panels, _ = point_panels(
        {"step 0": points, "step 9": points}, dict.fromkeys(["step 0", "step 9"], REAL)
    )
    figure = clouds(panels, frames=[0, 5, 10], labels=["t = T", "0.5 T", "t = 0"], width=11.0)
    assert len(figure.axes) == 6
    assert [axes.texts[0].get_text() for axes in figure.axes[:3]] == ["t = T", "0.5 T", "t = 0"]
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["step 0", "", "", "step 9", "", ""]
    for axes, frame in zip(figure.axes, [0, 5, 10] * 2, strict=True):
        drawn = np.asarray(axes.collections[0].get_offsets())
        assert drawn == pytest.approx(points[frame])


def test_a_players_data_hold_every_coordinate_in_16_bits_and_fewer_points_where_room_is_little():
    states = RANDOM.normal(size=(7, 60, 2))
    states[3, 5] = np.nan
    (panel,), _ = point_panels({"KAN": states}, COLOURS)
    content = panel.content(100_000)
    packed = np.frombuffer(base64.b64decode(content["places"]), "<u2").reshape(7, 60, 2)
    low, high = panel.limits.T
    shown = (packed / 65_534 - 0.25) * 2 * (high - low) + low
    near = np.clip(panel.frames, low - (high - low) / 2, high + (high - low) / 2)
    known = np.isfinite(panel.frames)
    assert shown[known] == pytest.approx(near[known], abs=1e-4 * float((high - low).max()))
    assert (packed[~known] == 65_535).all()
    assert (content["colour"], content["kind"]) == (panel.colour, "points")
    assert panel.content(1_000)["count"] < 60


def test_one_dimension_far_outside_of_its_axes_is_no_error():
    panel = PointPanel("a", "#000000", np.full((2, 4, 1), 9.0), np.array([[-1.0, 1.0]]))
    clouds([panel], frames=[0, 1]).draw_without_rendering()
