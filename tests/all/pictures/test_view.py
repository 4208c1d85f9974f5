"""Pictures on pages, and how they come about."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import refused, seeded
from kan_diffusion.denoisers.families import build_denoiser
from kan_diffusion.diffusion.sampling import make_scheduler
from kan_diffusion.pictures.codec import contact_sheet, decode
from kan_diffusion.pictures.pipeline import PictureDiffusionPipeline
from kan_diffusion.pictures.sources import DigitsData
from kan_diffusion.pictures.view import PicturePanel
from kan_diffusion.processes import get_process
from kan_diffusion.randomness import torch_generator
from kan_diffusion.report.clouds import Motion
from kan_diffusion.report.views import Mover, animate
from movers import mover


def test_every_pixel_of_a_picture_is_a_square_in_its_cell_of_a_sheet():
    values = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    pictures = [Image.fromarray(value) for value in values]
    sheet = np.array(contact_sheet([pictures[:3], pictures[3:]]))
    assert sheet.shape == (2 * 68, 3 * 68, 3)
    grey = np.array(Image.new("RGB", (1, 1), "grey"))[0, 0]
    for index, value in enumerate(values):
        y, x = divmod(index, 3)
        cell = sheet[68 * y : 68 * (y + 1), 68 * x : 68 * (x + 1)]
        expected = value.repeat(8, 0).repeat(8, 1)[..., None]
        assert (cell[2:-2, 2:-2] == expected).all()
        assert (cell[:2] == grey).all()
    assert (sheet[68:, 2 * 68 :] == grey).all()
    # Transparent parts are white.
    half = Image.new("RGBA", (64, 64), (255, 0, 0, 51))
    sheet = contact_sheet([[Image.new("RGBA", (64, 64), (255, 0, 0, 0)), half]])
    assert [sheet.getpixel((x, 30)) for x in (30, 100)] == [(255, 255, 255), (255, 204, 204)]


@pytest.mark.parametrize("size", [(9, 900), (17_000, 8)])
def test_large_sheets_are_squarer_or_shrunk_to_what_a_page_can_hold(size):
    frames = [Image.new("L", size, shade) for shade in range(0, 250, 10)]
    panel = PicturePanel("sheet", frames)
    content = panel.content(100_000)
    sheet = Image.open(io.BytesIO(base64.b64decode(content["sheet"].partition(",")[2])))
    down = -(-len(frames) // content["across"])
    assert sheet.size == (content["width"] * content["across"], content["height"] * down)
    assert max(sheet.size) <= 16_383
    assert panel.address(0, 100).startswith("data:image/webp;base64,")
    stills = Motion(("a", "b"), (PicturePanel("<b>", frames[:2]),)).stills("n", "They", 9_000)
    assert stills.count("<img") == 2
    assert 'alt="&lt;b&gt;, a"' in stills


def test_a_picture_takes_no_more_bytes_than_it_may():
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    panel = PicturePanel("noise", [Image.fromarray(noise)])
    lossless, lossy = (len(panel.address(0, most)) for most in (1_000_000, 30_000))
    assert lossy < 4 / 3 * 30_000 + 100 < lossless


def test_pictures_come_from_noise_to_what_the_pipeline_draws():
    flow = get_process("flow")
    denoiser = build_denoiser(
        "dit", (1, 8, 8), num_train_timesteps=1000, params=200_000, generator=seeded()
    )
    euler = make_scheduler("flow-euler", flow)
    pipeline = PictureDiffusionPipeline(denoiser, flow, scheduler=euler)
    dit = Mover("DiT", "dit", pipeline, DigitsData())
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
