"""What few colours and compression leave of a figure."""

import io
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from kan_diffusion.report.charts import excess_by_level_figure, excess_figure, ratio_figure
from kan_diffusion.report.images import figure_images, figure_png
from kan_diffusion.report.point_figures import corruption_figure
from kan_diffusion.report.style import FAMILY_STYLES, SEED_ALPHA
from kan_diffusion.study.results.rows import Setting
from synthetic_study import BUDGETS, make_contents

LABEL = Setting("swiss roll", *BUDGETS[0]).label


@pytest.fixture(scope="module")
def contents():
    return make_contents(("swiss roll",), None, 4, False, 60, budgets=BUDGETS, families=True)


def pixels(picture):
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), dtype=int)


def exact(figure):
    """A figure as it is drawn, in all its colours."""
    file = io.BytesIO()
    figure.savefig(file, dpi=96, bbox_inches="tight", pad_inches=0.08, facecolor="white")
    return pixels(file.getvalue())


def colours_of(image):
    return np.unique(image.reshape(-1, 3), axis=0)


def distance_to(colours, wanted):
    return abs(colours - 255 * np.array(wanted)).max(axis=1).min()


@pytest.mark.parametrize("colours", [256, 80, 48])
def test_a_picture_in_few_colours_keeps_those_of_the_families(contents, colours):
    drawn = (
        ratio_figure(contents, contents.decision.comparisons),
        excess_by_level_figure(contents, LABEL),
        excess_figure(contents, LABEL),
    )
    for figure in drawn:
        found = colours_of(pixels(figure_png(figure, 96, colours)))
        assert len(found) <= colours
        for wanted in ("#ffffff", *(style.colour for style in FAMILY_STYLES.values())):
            assert distance_to(found, to_rgb(wanted)) <= 1


def test_the_marks_of_seeds_keep_their_colours(contents):
    figure = excess_figure(contents, LABEL)
    found = colours_of(pixels(figure_png(figure, 128, 80)))
    for style in FAMILY_STYLES.values():
        tint = [1 - SEED_ALPHA * (1 - part) for part in to_rgb(style.colour)]
        assert distance_to(found, tint) <= 1.5


def test_few_colours_look_like_all_of_them(contents):
    changes = [
        abs(
            pixels(figure_png(excess_by_level_figure(contents, LABEL), 96, colours))
            - exact(excess_by_level_figure(contents, LABEL))
        ).max(axis=2)
        for colours in (256, 80)
    ]
    assert changes[0].mean() < changes[1].mean() < 1
    assert np.quantile(changes[1], 0.99) < 24


@pytest.mark.parametrize("draw", [excess_figure, excess_by_level_figure])
def test_the_pages_picture_has_the_pixels_of_the_file_and_is_smaller(contents, draw):
    images = figure_images(draw(contents, LABEL), 128, 80)
    assert np.array_equal(pixels(images.webp), pixels(images.png))
    assert len(images.webp) < len(images.png)
    assert images.png == figure_png(draw(contents, LABEL), 128, 80)
    assert images.width == pixels(images.png).shape[1] * 96 // 128


def test_clouds_are_smaller_still_and_look_the_same(contents):
    generator = np.random.default_rng(0)
    contents.corruption = {
        "swiss roll": [
            (float(t), (0.05 + t) * generator.standard_normal((1_000, 2)))
            for t in np.linspace(0, 1, 11)
        ]
    }
    exactly, small = (
        figure_images(corruption_figure(contents, "swiss roll"), 128, 80, cloud=cloud)
        for cloud in (False, True)
    )
    assert small.png == exactly.png
    sizes = [len(picture) for picture in (small.webp, exactly.webp, exactly.png)]
    assert all(one < other for one, other in pairwise(sizes))
    assert abs(pixels(small.webp) - pixels(exactly.png)).mean() < 2


def test_a_cloud_that_loss_does_not_make_smaller_keeps_its_pixels():
    figure = Figure(figsize=(2, 2))
    figure.subplots().scatter([0, 1], [0, 1], s=4)
    images = figure_images(figure, 128, 80, cloud=True)
    assert np.array_equal(pixels(images.webp), pixels(images.png))
