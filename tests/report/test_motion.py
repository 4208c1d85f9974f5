"""Motion: frames of reverse processes, the files they are written into, and a page's player."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from exact_denoiser import ExactDenoiser
from helpers import refused, seeded
from html_page import Page
from kan_diffusion.data.codec import TableCodec
from kan_diffusion.data.datasets import ToyData, load_dataset
from kan_diffusion.denoisers.registry import build_denoiser
from kan_diffusion.evaluation.oracles import OracleDenoiser
from kan_diffusion.picture_pipeline import PictureDiffusionPipeline
from kan_diffusion.processes import get_process
from kan_diffusion.randomness import torch_generator
from kan_diffusion.report import motion as moving
from kan_diffusion.report.charts import process_motion, training_motion
from kan_diffusion.report.images import contact_sheet, image_address
from kan_diffusion.report.motion import (
    EXACT,
    Motion,
    Mover,
    PicturePanel,
    PointPanel,
    picture_motion,
    reverse_motion,
    reverse_process,
    write_motion,
)
from kan_diffusion.sampling import PointDiffusionPipeline, fitting_samplers, make_scheduler
from kan_diffusion.table_pipeline import TableDiffusionPipeline
from synthetic_study import make_contents

ROLL = ToyData(toy="swiss-roll", num_points=10)


def _mover(family: str = "mlp", process: str = "cosine", data: ToyData | None = ROLL) -> Mover:
    """An untrained model of a toy, in its own units."""
    chosen = get_process(process)
    toy = load_dataset(data or ToyData(toy="moons", num_points=10))
    denoiser = build_denoiser(
        family, toy.dim, num_train_timesteps=1000, params=600, num_classes=len(toy.classes),
        generator=seeded(),
    )  # fmt: skip
    pipeline = PointDiffusionPipeline(
        denoiser, make_scheduler(None, chosen.scheduler()), toy.standardizer.mean,
        toy.standardizer.scale, toy.columns,
    )  # fmt: skip
    return Mover(family, family, pipeline, chosen, data, source=f"runs/{family}")


def _table(**columns: object) -> TableDiffusionPipeline:
    codec = TableCodec.fit(pd.DataFrame(columns))
    denoiser = build_denoiser("mlp", codec.dim, num_train_timesteps=1000, params=400)
    process = get_process("cosine")
    return TableDiffusionPipeline(denoiser, process.scheduler(), codec, process)


@pytest.fixture(scope="module")
def both() -> Motion:
    """Two MLPs side by side with the exact denoiser."""
    return reverse_motion([_mover("mlp-relu"), _mover("mlp")], num=60, steps=6)


def _samplers() -> list[tuple[str, str]]:
    return [
        (process, name)
        for process in ("cosine", "flow")
        for name in fitting_samplers(get_process(process).scheduler())
    ]


@pytest.mark.parametrize(("process", "scheduler"), _samplers())
def test_frames_go_from_the_noise_to_the_very_samples(process: str, scheduler: str) -> None:
    pipeline = _mover(process=process).pipeline
    pipeline.scheduler = make_scheduler(scheduler, pipeline.scheduler)
    drawn = reverse_process(pipeline, 20, 8, seeded(3))
    samples = pipeline(20, 8, generator=seeded(3)).samples
    assert torch.equal(torch.from_numpy(drawn.states[-1]), samples)
    noise = torch.randn(20, 2, generator=seeded(3))
    # Heun's method scales the noise up and down again, which rounds.
    start = pipeline.standardizer.invert(noise.double()).numpy()
    np.testing.assert_allclose(drawn.states[0], start, rtol=1e-6, atol=1e-5)
    assert drawn.times[0] == 1.0
    assert drawn.times[-1] == 0.0
    assert all(np.diff(drawn.times) < 0)
    assert len(drawn.states) == len(drawn.times)
    if scheduler in ("ddim", "flow-euler", "flow-heun", "ddpm"):
        assert len(drawn.times) == 9


def test_states_stay_of_order_one_for_a_sampler_that_computes_with_others() -> None:
    pipeline = _mover().pipeline
    pipeline.scheduler = make_scheduler("heun", pipeline.scheduler)
    assert pipeline.scheduler.init_noise_sigma > 100
    drawn = reverse_process(pipeline, 20, 8, seeded())
    standard = pipeline.standardizer.apply(torch.from_numpy(drawn.states[0]))
    assert float(standard.abs().max()) < 5


def test_models_side_by_side_start_from_one_noise(both: Motion) -> None:
    relu, mlp, exact = both.panels
    assert [panel.title for panel in both.panels] == ["mlp-relu", "mlp", EXACT]
    assert both.labels == tuple(f"t = {t:.2f} T" for t in (1, 5 / 6, 4 / 6, 0.5, 2 / 6, 1 / 6, 0))
    assert np.array_equal(relu.frames[0], mlp.frames[0])
    assert np.array_equal(relu.frames[0], exact.frames[0])
    assert not np.allclose(relu.frames[-1], mlp.frames[-1])
    assert len({panel.colour for panel in both.panels}) == 3
    assert np.array_equal(relu.limits, exact.limits)
    # What the command `sample` draws from the same seed with that sampler.
    pipeline = _mover("mlp-relu").pipeline
    pipeline.scheduler = make_scheduler("ddim", pipeline.scheduler)
    points = pipeline(60, 6, generator=torch_generator("samples", 0)).samples
    assert np.array_equal(relu.frames[-1], points.numpy())


@pytest.mark.parametrize("process", ["cosine", "flow", "ddpm"])
def test_the_exact_denoiser_is_what_another_computation_of_it_is(process: str) -> None:
    chosen = get_process(process)
    density = load_dataset(ToyData(toy="gaussian-mixture", num_points=10)).density
    one, other = OracleDenoiser(density, chosen), ExactDenoiser(chosen, density)
    points = torch.randn(30, 2, generator=seeded(), dtype=torch.float64)
    for timestep in (0, 3.25, 500, 731.5, 999):
        pair = [each(points, timestep, return_dict=False)[0] for each in (one, other)]
        torch.testing.assert_close(*pair, rtol=1e-6, atol=1e-7)
    assert one.dtype == torch.float32


def test_the_exact_denoiser_draws_the_data_in_their_own_units() -> None:
    motion = reverse_motion([_mover(data=ToyData(toy="two-modes"))], num=2000, steps=30)
    last = motion.panels[-1].frames[-1]
    density = ToyData(toy="two-modes").density()
    assert abs(last.mean() - float(density.mean)) < 0.1 * float(density.std)
    assert last.std() == pytest.approx(float(density.std), rel=0.05)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_class_is_drawn_beside_the_exact_denoiser_of_that_class(guidance: float) -> None:
    data = ToyData(toy="moons", num_points=10, conditional=True)
    mover = replace(_mover(data=data), labels=(1,))
    motion = reverse_motion([mover], num=50, steps=10, guidance=guidance)
    model, exact = (panel.frames[-1] for panel in motion.panels)
    labels = {"class_labels": 1, "guidance_scale": guidance}
    pipeline = mover.pipeline
    pipeline.scheduler = make_scheduler("ddim", pipeline.scheduler)
    told = pipeline(50, 10, generator=torch_generator("samples", 0), **labels).samples
    np.testing.assert_array_equal(model, told.numpy())
    density = pipeline.standardizer.rescale(data.density())
    parts = [density.component(label) for label in (0, 1)]
    other = ExactDenoiser(mover.process, *parts, density, dtype=torch.float32)
    pipeline = type(pipeline).from_pipe(pipeline, denoiser=other)
    told = pipeline(50, 10, generator=torch_generator("samples", 0), **labels).samples
    np.testing.assert_allclose(exact, told.numpy(), rtol=1e-3, atol=1e-3)
    upper = reverse_motion([replace(mover, labels=(0,))], num=50, steps=10).panels[-1].frames[-1]
    assert upper[:, 1].mean() > exact[:, 1].mean() + 0.3
    with refused("at most 5,000 points, not 6,000"):
        reverse_motion([replace(mover, labels=(0, 1))], num=3000)


def test_two_processes_are_counted_by_steps_and_leave_trails() -> None:
    movers = [_mover("mlp"), _mover("mlp", "flow")]
    motion = reverse_motion(movers, num=30, steps=5)
    assert motion.labels == tuple(f"step {k} of 5" for k in range(6))
    titles = ["mlp, cosine", "mlp, flow", f"{EXACT}, cosine", f"{EXACT}, flow"]
    assert [panel.title for panel in motion.panels] == titles
    assert all(panel.trails > 0 for panel in motion.panels)
    assert reverse_motion(movers, num=30, steps=5, trails=0).panels[0].trails == 0


def test_models_of_one_name_are_told_apart_by_their_folders() -> None:
    movers = [replace(_mover(data=None), source=source) for source in ("runs/a", "runs/b")]
    titles = [panel.title for panel in reverse_motion(movers, num=5, steps=2).panels]
    assert titles == ["mlp (runs/a)", "mlp (runs/b)"]


def test_long_processes_are_thinned_and_keep_their_ends() -> None:
    motion = reverse_motion([_mover(data=None)], num=4, steps=100)
    assert len(motion.labels) == moving.MOST_FRAMES
    assert (motion.labels[0], motion.labels[-1]) == ("t = 1.00 T", "t = 0.00 T")


def test_a_table_shows_its_first_two_columns_of_numbers_as_sample_gives_them() -> None:
    random = np.random.default_rng(0)
    pipeline = _table(
        job=random.choice(["a", "b"], 60), age=random.integers(18, 80, 60),
        pay=np.where(random.random(60) < 0.2, np.nan, random.normal(size=60)),
    )  # fmt: skip
    drawn = reverse_process(pipeline, 15, 4, seeded(1))
    frame = pipeline.draw(15, steps=4, generator=seeded(1))
    assert drawn.columns == ("age", "pay")
    assert drawn.states.shape == (5, 15, 2)
    np.testing.assert_array_equal(drawn.states[-1], frame[["age", "pay"]].to_numpy(float))
    assert np.isnan(drawn.states[-1]).any()  # a gap is a gap
    with refused("two columns of numbers and the table has 1"):
        reverse_process(_table(job=list("ab") * 10, age=[20, 20, 30, 40] * 5), 5, 3, seeded())


def test_what_cannot_be_drawn_is_refused() -> None:
    with refused("1 and 2 numbers a sample"):
        reverse_motion([_mover(), _mover(data=ToyData(toy="two-modes"))], num=5, steps=2)
    with refused("at most 5,000 points"):
        reverse_motion([_mover()], num=5001)
    with refused("two frames or more, not 1"):
        Motion(("t",), (PointPanel("a", "#000000", np.zeros((1, 3, 2)), np.zeros((2, 2))),))
    with refused("'a' has 3 frames"):
        Motion(("x", "y"), (PointPanel("a", "#000000", np.zeros((3, 3, 2)), np.zeros((2, 2))),))


def test_a_gif_has_a_frame_for_each_state_and_is_small(both: Motion, tmp_path: Path) -> None:
    path = tmp_path / "both.gif"
    said = write_motion(both, path, "Both")
    assert said.startswith("7 frames, ")
    with Image.open(path) as image:
        assert image.n_frames == len(both.labels)
        assert image.info["loop"] == 0
        assert image.width > 900
        drawn = []
        for frame in (0, 3, 6):
            image.seek(frame)
            drawn.append(np.asarray(image.convert("RGB")).astype(int))
    assert all((one != other).any() for one, other in pairwise(drawn))
    assert path.stat().st_size < moving.LARGEST_GIF
    assert [left.name for left in tmp_path.iterdir()] == ["both.gif"]


def test_runs_in_folders_with_long_names_are_told_apart_in_a_gif(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 255)]
    drawn = set()
    for number in (1, 2):
        title = f"KAN (/home/student/diffusion-models/of-points-and-tables/runs/spirals-{number})"
        write_motion(Motion(("a", "b"), (PicturePanel(title, frames),)), tmp_path / "m.gif", "m")
        drawn.add((tmp_path / "m.gif").read_bytes())
    assert len(drawn) == 2


def test_a_gif_shrinks_until_it_is_small_enough_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "few.gif"
    frames = np.random.default_rng(0).normal(size=(2, 300, 2))
    few = Motion(("a", "b"), (PointPanel("a", "#0072b2", frames, np.array([[-3.0, 3.0]] * 2)),))
    assert "shrunk" not in write_motion(few, path, "Few")
    whole = path.stat().st_size
    said = write_motion(few, path, "Few", largest=whole)
    assert re.search(r"shrunk to \d+% of its size and \d+ colours", said)
    assert path.stat().st_size < whole
    kept = path.read_bytes()
    with refused("take fewer runs"):
        write_motion(few, path, "Few", largest=1000)
    assert path.read_bytes() == kept


def test_files_of_other_kinds_are_refused_and_nothing_is_written(
    both: Motion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with refused(r"\.gif, \.mp4, \.html"):
        write_motion(both, tmp_path / "both.mov", "Both")
    monkeypatch.setattr(moving.FFMpegWriter, "isAvailable", lambda: False)
    with refused("apt install ffmpeg.*or write a .gif"):
        write_motion(both, tmp_path / "both.mp4", "Both")
    assert not list(tmp_path.iterdir())


def _content(page: str) -> dict[str, object]:
    (found,) = re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    return json.loads(found)


def test_the_page_shows_stills_without_scripts_and_holds_the_frames(
    both: Motion, tmp_path: Path
) -> None:
    path = tmp_path / "both.html"
    write_motion(both, path, "Both </script>", "A caption.")
    page = Page(path.read_text())
    assert list(page.pictures) == ["Both </script>"]
    assert page.images[0].startswith("data:image/")
    assert all(load.startswith("data:") for load in page.loads)
    assert "A caption." in page.text
    content = _content(path.read_text())
    assert content["labels"] == list(both.labels)
    for panel, drawn in zip(both.panels, content["panels"], strict=True):
        packed = np.frombuffer(base64.b64decode(drawn["places"]), "<u2").reshape(7, 60, 2)
        low, high = panel.limits.T
        shown = (packed / 65_534 - 0.25) * 2 * (high - low) + low
        near = np.clip(panel.frames, low - (high - low) / 2, high + (high - low) / 2)
        np.testing.assert_allclose(shown, near, atol=1e-4 * float((high - low).max()))
        assert drawn["colour"] == panel.colour


def test_a_player_holds_fewer_points_where_there_is_little_room(both: Motion) -> None:
    small = both.content(6_000)
    counts = [panel["count"] for panel in small["panels"]]
    assert max(counts) < 60
    assert len(json.dumps(small)) < 8_000


def test_pictures_move_as_one_sheet(tmp_path: Path) -> None:
    frames = [Image.new("L", (12, 8), shade) for shade in (0, 100, 255)]
    motion = Motion(("a", "b", "c"), (PicturePanel("sheet", frames),))
    write_motion(motion, tmp_path / "m.gif", "m")
    with Image.open(tmp_path / "m.gif") as image:
        assert image.n_frames == 3
    (panel,) = motion.content()["panels"]
    assert (panel["width"], panel["height"]) == (12, 8)
    assert panel["sheet"].startswith("data:image/webp;base64,")


@pytest.mark.parametrize("size", [(9, 900), (17_000, 8)])
def test_large_sheets_are_squarer_or_shrunk_to_what_a_page_can_hold(size: tuple[int, int]) -> None:
    frames = [Image.new("L", size, shade) for shade in range(0, 250, 10)]
    content = PicturePanel("sheet", frames).content(100_000)
    sheet = Image.open(io.BytesIO(base64.b64decode(content["sheet"].partition(",")[2])))
    down = -(-len(frames) // content["across"])
    assert sheet.size == (content["width"] * content["across"], content["height"] * down)
    assert max(sheet.size) <= 16_383
    assert image_address(Image.new("RGB", (17_000, 2)), 100).startswith("data:image/webp;base64,")


def test_pictures_come_from_noise_to_what_the_pipeline_draws() -> None:
    flow = get_process("flow")
    denoiser = build_denoiser(
        "dit", (1, 8, 8), num_train_timesteps=1000, params=200_000, generator=seeded()
    )
    pipeline = PictureDiffusionPipeline(denoiser, flow.scheduler(), mode="L")
    mover = Mover("DiT", "dit", pipeline, flow)
    motion = picture_motion([mover, replace(mover, name="the same")], num=5, steps=3)
    assert (len(motion.labels), motion.labels[0]) == (4, "t = 1.00 T")
    one, other = motion.panels
    assert (one.title, other.title) == ("DiT", "the same")
    assert [frame.tobytes() for frame in one.frames] == [f.tobytes() for f in other.frames]
    last = pipeline(None, 3, num_images_per_prompt=5, generator=torch_generator("samples", 0))
    assert one.frames[-1].tobytes() == contact_sheet([last.images[:3], last.images[3:]]).tobytes()
    noise = torch.randn(5, 1, 8, 8, generator=torch_generator("samples", 0))
    first = pipeline.codec.decode(noise)
    assert one.frames[0].tobytes() == contact_sheet([first[:3], first[3:]]).tobytes()
    many = picture_motion([mover], num=130, steps=1).panels[0]  # more than a batch
    assert len({frame.size for frame in many.frames}) == 1
    with refused("8 x 8 and 2 numbers a sample"):
        picture_motion([mover, _mover()])
    with refused("'mlp' draws points and no pictures"):
        picture_motion([_mover()], num=1)
    with refused("'DiT' draws pictures and no points"):
        reverse_motion([mover], num=1)
    with refused("at most 144 pictures"):
        picture_motion([mover], num=145)


def test_models_keep_their_samplers() -> None:
    mover = _mover()
    before = mover.pipeline.scheduler
    reverse_motion([mover], num=2, steps=2)
    assert mover.pipeline.scheduler is before


@pytest.mark.skipif(not moving.FFMpegWriter.isAvailable(), reason="there is no ffmpeg")
def test_a_film_is_one(both: Motion, tmp_path: Path) -> None:
    write_motion(both, tmp_path / "both.mp4", "Both")
    assert (tmp_path / "both.mp4").read_bytes()[4:8] == b"ftyp"
    assert [left.name for left in tmp_path.iterdir()] == ["both.mp4"]


def test_one_dimension_far_outside_of_its_axes_is_no_error() -> None:
    frames = np.full((2, 4, 1), 9.0)
    panel = PointPanel("a", "#000000", frames, np.array([[-1.0, 1.0]]))
    moving.still_figure(Motion(("x", "y"), (panel,)))


def test_a_study_moves_from_noise_and_with_training() -> None:
    contents = make_contents(("swiss roll",), count=40)
    names = list(dict.fromkeys(name for _, name in contents.trajectories))
    process = process_motion(contents, "swiss roll")
    assert [panel.title for panel in process.panels] == names
    assert process.labels == tuple(f"t = {k / 10:.1f} T" for k in range(10, -1, -1))
    training = training_motion(contents, "swiss roll")
    assert training.labels == ("step 0", "step 1,000", "step 5,000")
    assert np.array_equal(process.panels[0].frames[-1], training.panels[0].frames[-1])
    assert not np.allclose(training.panels[0].frames[0], training.panels[0].frames[-1])
    contents.exact["swiss roll"] = contents.trajectories["swiss roll", names[0]][-1][1]
    assert process_motion(contents, "swiss roll").panels[-1].title == EXACT
    # Steps that differ, as in a budget of time, have no names in common.
    contents.trajectories["swiss roll", names[0]][1] = (
        "step 7", contents.trajectories["swiss roll", names[0]][1][1],
    )  # fmt: skip
    assert training_motion(contents, "swiss roll").labels[0] == "moment 1 of 3"
    contents.trajectories.clear()
    assert process_motion(contents, "swiss roll") is None
    assert training_motion(contents, "swiss roll") is None


def test_a_study_of_pictures_moves_too() -> None:
    contents = make_contents(("swiss roll",), ("MLP",), count=9)
    contents.trajectories.clear()
    states = np.random.default_rng(0).uniform(-1, 1, (5, 11, 1, 4, 4)).astype(np.float32)
    contents.states["swiss roll", "MLP"] = [("step 0", -states), ("step 9", states)]
    process, training = (f(contents, "swiss roll") for f in (process_motion, training_motion))
    assert (len(process.labels), training.labels) == (11, ("step 0", "step 9"))
    one, other = (motion.panels[0].frames[-1] for motion in (process, training))
    assert one.tobytes() == other.tobytes()
    assert one.size == (18, 12)  # three across, two down, of four pixels with a line about each


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
def test_the_player_plays_in_a_browser(both: Motion, tmp_path: Path) -> None:
    path = tmp_path / "both.html"
    write_motion(both, path, "Both")
    page = path.read_text().replace("<head>", _CLOCK).replace("</body>", _DRIVER)
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
    assert ended.stdout.count("<canvas") == len(both.panels)
