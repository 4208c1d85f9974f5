import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import refused, seeded
from html_page import Page
from kan_diffusion.data.toys import ToyData
from kan_diffusion.diffusion.sampling import fitting_samplers, make_scheduler
from kan_diffusion.processes import get_process
from kan_diffusion.randomness import torch_generator
from kan_diffusion.report import motion as moving
from kan_diffusion.report.motion import write_motion
from kan_diffusion.report.views import EXACT, View, animate
from kan_diffusion.study.tasks import NOTHING_ASKED
from movers import mover


@pytest.fixture(scope="module")
def both():
    """Two MLPs side by side with the exact denoiser."""
    return animate([mover("residual-mlp"), mover("mlp")], num=60, steps=3)


SAMPLERS = [
    (process, name)
    for process in ("cosine", "flow")
    for name in fitting_samplers(get_process(process))
]


@pytest.mark.parametrize(("process", "sampler"), SAMPLERS)
def test_frames_go_from_the_noise_to_the_very_samples(process, sampler):
    model = mover(process=process)
    pipeline = model.pipeline
    pipeline.scheduler = make_scheduler(sampler, pipeline.process)
    times, states = View().reverse(model, NOTHING_ASKED, 20, 8, seeded(3))
    samples = pipeline(20, 8, generator=seeded(3)).samples
    assert np.array_equal(states[-1], samples.numpy())
    noise = torch.randn(20, 2, generator=seeded(3))
    # Heun's method scales the noise up and down again, which rounds.
    start = pipeline.standardizer.invert(noise.double()).numpy()
    np.testing.assert_allclose(states[0], start, rtol=1e-6, atol=1e-5)
    assert (times[0], times[-1]) == (1.0, 0.0)
    assert all(np.diff(times) < 0)
    assert len(states) == len(times)
    if sampler in ("ddim", "flow-euler", "flow-heun", "ddpm"):
        assert len(times) == 9


def test_models_side_by_side_start_from_one_noise(both):
    relu, mlp, exact = both.panels
    assert [panel.title for panel in both.panels] == ["residual-mlp", "mlp", EXACT]
    assert both.labels == [f"t = {t:.2f} T" for t in (1, 2 / 3, 1 / 3, 0)]
    assert np.array_equal(relu.frames[0], mlp.frames[0])
    assert np.array_equal(relu.frames[0], exact.frames[0])
    assert not np.allclose(relu.frames[-1], mlp.frames[-1])
    assert len({panel.colour for panel in both.panels}) == 3
    assert np.array_equal(relu.limits, exact.limits)
    # What the command `sample` draws from the same seed with that sampler.
    pipeline = mover("residual-mlp").pipeline
    pipeline.scheduler = make_scheduler("ddim", pipeline.process)
    points = pipeline(60, 3, generator=torch_generator("samples", 0)).samples
    assert np.array_equal(relu.frames[-1], points.numpy())


def test_the_exact_denoiser_draws_the_data_in_their_own_units_and_samplers_are_kept():
    model = mover(data=ToyData(toy="two-modes"))
    before = model.pipeline.scheduler
    last = animate([model], num=2000, steps=30).panels[-1].frames[-1]
    density = ToyData(toy="two-modes").density
    assert abs(last.mean() - float(density.mean)) < 0.1 * float(density.std)
    assert last.std() == pytest.approx(float(density.std), rel=0.05)
    assert model.pipeline.scheduler is before


def test_what_cannot_be_drawn_is_refused(both, tmp_path):
    for message, call in (
        ("1 and 2 numbers a sample",
         lambda: animate([mover(), mover(data=ToyData(toy="two-modes"))], num=5, steps=2)),
        ("at most 5,000 points", lambda: animate([mover()], num=5001)),
        (r"\.gif or \.html", lambda: write_motion(both, tmp_path / "both.mov", "Both")),
    ):  # fmt: skip
        with refused(message):
            call()
    assert not list(tmp_path.iterdir())


def test_a_gif_has_a_frame_for_each_state_and_is_small(both, tmp_path):
    path = tmp_path / "both.gif"
    assert write_motion(both, path, "Both").startswith("4 frames, ")
    with Image.open(path) as image:
        assert (image.n_frames, image.info["loop"]) == (len(both.labels), 0)
        assert image.width > 900
        drawn = []
        for frame in (0, 1, 3):
            image.seek(frame)
            drawn.append(np.asarray(image.convert("RGB")).astype(int))
    assert all((one != other).any() for one, other in pairwise(drawn))
    whole = path.stat().st_size
    assert whole < moving.LARGEST_GIF
    # It shrinks until it is small enough, and says so.
    said = write_motion(both, path, "Both", largest=whole)
    assert re.search(r"shrunk to \d+% of its size to stay below", said)
    assert path.stat().st_size < whole
    kept = path.read_bytes()
    with refused("take fewer runs"):
        write_motion(both, path, "Both", largest=1000)
    assert path.read_bytes() == kept
    assert [left.name for left in tmp_path.iterdir()] == ["both.gif"]


def test_the_page_shows_stills_without_scripts_and_holds_the_frames(both, tmp_path):
    path = tmp_path / "both.html"
    write_motion(both, path, "Both </script>", "A caption.")
    text = path.read_text()
    page = Page(text)
    assert "<title>Both &lt;/script&gt;</title>" in text.partition('class="chart"')[2]
    assert "A caption." in page.text
    (content,) = page.data
    assert content["labels"] == list(both.labels)
    assert [panel["title"] for panel in content["panels"]] == ["residual-mlp", "mlp", EXACT]
    assert [panel["exact"] for panel in content["panels"]] == [False, False, True]
