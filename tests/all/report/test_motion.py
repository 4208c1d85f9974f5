import base64
import io
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import refused, seeded
from kan_diffusion.denoisers.families import build_denoiser
from kan_diffusion.diffusion.sampling import fitting_samplers, make_scheduler
from kan_diffusion.pictures.codec import decode
from kan_diffusion.pictures.pipeline import PictureDiffusionPipeline
from kan_diffusion.pictures.sources import DigitsData
from kan_diffusion.processes import get_process
from kan_diffusion.randomness import torch_generator
from kan_diffusion.report import motion as moving
from kan_diffusion.report.charts import process_motion, training_motion
from kan_diffusion.report.images import contact_sheet, image_address
from kan_diffusion.report.motion import (
    EXACT,
    Motion,
    PicturePanel,
    PointPanel,
    write_motion,
)
from kan_diffusion.report.views import Mover, animate, view_of
from kan_diffusion.study.measure import load_run
from kan_diffusion.study.tasks import NOTHING_ASKED
from movers import mover, require_frames_from_noise_to_samples
from synthetic_study import make_contents


@pytest.mark.parametrize(
    ("process", "scheduler"),
    [
        (process, name)
        for process in ("cosine", "flow")
        for name in fitting_samplers(get_process(process))
    ],
)
def test_frames_go_from_the_noise_to_the_very_samples(process, scheduler):
    require_frames_from_noise_to_samples(process, scheduler)


def test_two_processes_are_counted_by_steps_and_leave_trails():
    motion = animate([mover("mlp"), mover("mlp", "flow")], num=30, steps=5)
    assert motion.labels == tuple(f"step {k} of 5" for k in range(6))
    titles = ["mlp, cosine", "mlp, flow", f"{EXACT}, cosine", f"{EXACT}, flow"]
    assert [panel.title for panel in motion.panels] == titles
    assert all(panel.trails > 0 for panel in motion.panels)


def test_models_of_one_name_are_told_apart_and_long_processes_thinned():
    movers = [replace(mover(), source=source) for source in ("runs/a", "runs/b")]
    motion = animate(movers, num=4, steps=100)
    assert [panel.title for panel in motion.panels] == ["mlp (runs/a)", "mlp (runs/b)", EXACT]
    assert len(motion.labels) == moving.MOST_FRAMES
    assert (motion.labels[0], motion.labels[-1]) == ("t = 1.00 T", "t = 0.00 T")


def test_a_table_shows_the_encoded_rows_that_its_pipeline_draws(runs):
    config, pipeline = load_run(runs("table"))
    model = Mover("mlp", "mlp", pipeline, config.process, config.data)
    drawn = view_of(config.data).reverse(model, NOTHING_ASKED, 15, 4, seeded(1))
    rows = pipeline(15, 4, generator=seeded(1)).samples
    np.testing.assert_array_equal(drawn.states[-1], rows.double().numpy())


def test_one_dimension_far_outside_of_its_axes_is_no_error():
    panel = PointPanel("a", "#000000", np.full((2, 4, 1), 9.0), np.array([[-1.0, 1.0]]))
    moving.still_figure(Motion(("x", "y"), (panel,)))


@pytest.mark.parametrize("size", [(9, 900), (17_000, 8)])
def test_large_sheets_are_squarer_or_shrunk_to_what_a_page_can_hold(size):
    frames = [Image.new("L", size, shade) for shade in range(0, 250, 10)]
    content = PicturePanel("sheet", frames).content(100_000)
    sheet = Image.open(io.BytesIO(base64.b64decode(content["sheet"].partition(",")[2])))
    down = -(-len(frames) // content["across"])
    assert sheet.size == (content["width"] * content["across"], content["height"] * down)
    assert max(sheet.size) <= 16_383
    assert image_address(Image.new("RGB", (17_000, 2)), 100).startswith("data:image/webp;base64,")


def test_pictures_come_from_noise_to_what_the_pipeline_draws():
    flow = get_process("flow")
    denoiser = build_denoiser(
        "dit", (1, 8, 8), num_train_timesteps=1000, params=200_000, generator=seeded()
    )
    euler = make_scheduler("flow-euler", flow)
    pipeline = PictureDiffusionPipeline(denoiser, flow, scheduler=euler)
    dit = Mover("DiT", "dit", pipeline, flow, DigitsData())
    motion = animate([dit, replace(dit, name="the same")], num=5, steps=3)
    assert (len(motion.labels), motion.labels[0]) == (4, "t = 1.00 T")
    one, other = motion.panels
    assert (one.title, other.title) == ("DiT", "the same")
    assert [frame.tobytes() for frame in one.frames] == [f.tobytes() for f in other.frames]
    last = pipeline(None, 3, num_images_per_prompt=5, generator=torch_generator("samples", 0))
    assert one.frames[-1].tobytes() == contact_sheet([last.images[:3], last.images[3:]]).tobytes()
    noise = torch.randn(5, 1, 8, 8, generator=torch_generator("samples", 0))
    first = decode(noise)
    assert one.frames[0].tobytes() == contact_sheet([first[:3], first[3:]]).tobytes()
    many = animate([dit], num=130, steps=1).panels[0]  # more than a batch
    assert len({frame.size for frame in many.frames}) == 1
    for message, movers, num in (
        ("8 x 8 and 2 numbers a sample", [dit, mover()], 16),
        ("8 x 8 and 2 numbers a sample", [mover(), dit], 16),
        ("at most 144 pictures", [dit], 145),
    ):
        with refused(message):
            animate(movers, num=num)


def test_a_study_of_pictures_moves_too():
    contents = make_contents(("swiss roll",), ("MLP",), count=9)
    contents.trajectories.clear()
    states = np.random.default_rng(0).uniform(-1, 1, (5, 11, 1, 4, 4)).astype(np.float32)
    contents.states["swiss roll", "MLP"] = [("step 0", -states), ("step 9", states)]
    process, training = (f(contents, "swiss roll") for f in (process_motion, training_motion))
    assert (len(process.labels), training.labels) == (11, ("step 0", "step 9"))
    one, other = (motion.panels[0].frames[-1] for motion in (process, training))
    assert one.tobytes() == other.tobytes()
    assert one.size == (18, 12)  # three across, two down, of four pixels with a line about each


def test_a_film_is_one_where_there_is_ffmpeg(tmp_path):
    motion = animate([mover()], num=9, steps=2)
    if moving.FFMpegWriter.isAvailable():
        write_motion(motion, tmp_path / "one.mp4", "One")
        assert (tmp_path / "one.mp4").read_bytes()[4:8] == b"ftyp"
    else:
        with refused("apt install ffmpeg.*or write a .gif"):
            write_motion(motion, tmp_path / "one.mp4", "One")


CHROMIUM = Path("/usr/bin/chromium")
_CLOCK = """<head><script>
// A browser without a screen draws when it likes: here each 16 milliseconds of its virtual time.
requestAnimationFrame = draw => setTimeout(() => draw(performance.now()), 16);
cancelAnimationFrame = clearTimeout;
</script>"""
_DRIVER = """<script>
addEventListener("error", event => document.title = "error: " + event.message);
const [button, slider] = document.querySelectorAll("figure.player button, figure.player input");
const seen = [slider.value];
button.click();
setTimeout(() => { seen.push(slider.value, button.textContent); }, 700);
setTimeout(() => {
  seen.push(slider.value, button.textContent, document.querySelector("output").textContent);
  const data = document.querySelector("canvas").getContext("2d").getImageData(0, 0, 150, 150).data;
  seen.push(String(data.some(value => value)));
  document.body.dataset.seen = seen.join("|");
}, 6000);
</script></body>"""


@pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no Chromium")
def test_the_player_plays_in_a_browser(tmp_path):
    path = tmp_path / "both.html"
    motion = animate([mover("residual-mlp"), mover("mlp")], num=60, steps=6)
    write_motion(motion, path, "Both")
    page = path.read_text().replace("<head>", _CLOCK).replace("</body>", _DRIVER)
    page = re.sub(
        "<meta http-equiv=.Content-Security-Policy.[^>]*>", "", page
    )  # it allows no driver
    path.write_text(page)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=9000"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    ended = subprocess.run(
        [CHROMIUM, *options, profile, "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "<title>Both</title>" in ended.stdout  # no error
    (seen,) = re.findall('data-seen="([^"]*)"', ended.stdout)
    start, midway, pausing, end, playing, label, drawn = seen.split("|")
    assert (float(start), float(end)) == (6, 6)
    assert 0 < float(midway) < 6
    assert (pausing, playing) == ("❚❚ Pause", "▶ Play")
    assert (label, drawn) == ("t = 0.00 T", "true")
    assert ended.stdout.count("<canvas") == len(motion.panels)
