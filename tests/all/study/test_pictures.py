import base64
import io
import re

import pandas as pd
import pytest
import torch
from PIL import Image

from helpers import refused
from html_page import Page
from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.data.sources import data_from_name, load_dataset
from kan_diffusion.denoisers import build_denoiser
from kan_diffusion.pictures.prompts import Vocabulary
from kan_diffusion.pictures.sources import PictureDataset
from kan_diffusion.pictures.task import PictureTask
from kan_diffusion.processes import get_process
from kan_diffusion.report.study import MOST_BYTES, write_report
from kan_diffusion.study.named import single_trial
from kan_diffusion.study.results.rows import Results
from kan_diffusion.study.run import run_study
from kan_diffusion.study.tasks import task_of
from kan_diffusion.study.trial import load_run, run_trial
from make import study
from one_by_one import one_by_one
from picture_folders import write_pictures

TINY = {"width": 16, "patch": 4}


def _config(folder, told, **training):
    trial = single_trial(
        data_from_name(str(write_pictures(folder, told)), size=8), family="dit-kan", batch_size=8
    )
    model = {"params": None, "hidden": (8, 8), "settings": {**trial.model.settings, **TINY}}
    update = {
        "model": trial.model.model_copy(update=model),
        "sampling": trial.sampling.model_copy(update={"steps": 3}),
        "training": trial.training.model_copy(update=training),
        "evaluation": trial.evaluation.model_copy(update={"effort": "quick"}),
    }
    return trial.model_copy(update=update)


def test_a_model_that_is_told_nothing_knows_no_words(tmp_path):
    config = _config(tmp_path / "pictures", "nothing", steps=3)
    result = run_trial(config, tmp_path / "run", device="cpu")
    assert result.row["nearest"] is not None
    assert "read" not in result.row
    _, pipeline = load_run(tmp_path / "run")
    assert pipeline.denoiser.vocabulary.unknown(["dark"])
    assert len(pipeline("", 2, num_images_per_prompt=3, guidance_scale=2.0).images) == 3
    with refused("has 3 tokens and 2 fit"):
        pipeline("dark")


def test_a_model_that_is_told_nothing_has_a_higher_loss_on_what_it_was_told(tmp_path, monkeypatch):
    """Held-out losses are of denoisers that are told the captions of held-out pictures."""
    longer = {"steps": 100, "learning_rate": 1e-2, "ema_decay": 0.9, "warmup_steps": 5}
    learnt = _config(tmp_path / "pictures", "captions", **longer)
    result = run_trial(learnt, tmp_path / "run", device="cpu")
    _, pipeline = load_run(tmp_path / "run")
    tokens = Vocabulary.tokens
    monkeypatch.setattr(Vocabulary, "tokens", lambda own, told: tokens(own, [""] * len(told)))
    learnt = learnt.model_copy(
        update={"evaluation": learnt.evaluation.model_copy(update={"num_samples": 0})}
    )
    dataset = load_dataset(learnt.data, learnt.study_seed, learnt.seed)
    task = task_of(learnt.data)
    shared = task.reference(dataset, learnt.process, learnt.judging, 0)
    untold, _ = task.judge(learnt, dataset, pipeline, shared)
    assert result.row["heldout_loss"] < untold.row["heldout_loss"]


def suggested(num, side):
    """What suits so many pictures of so many pixels a side."""
    none = torch.empty(0, 3, side, side)
    told = pd.DataFrame({"caption": [], "class": pd.Categorical([])})
    pictures = PictureDataset(
        name="p", columns=(), standardizer=Standardizer.identity(1), heldout=none,
        labels=told, heldout_labels=told,
        train=torch.empty(num, 3, side, side, device="meta"),
    )  # fmt: skip
    return PictureTask().suggest(pictures, get_process("flow"))


def test_defaults_are_about_the_recipes_they_rest_on():
    digits = suggested(1_617, 8)
    assert (digits.training.steps, digits.training.batch_size) == (400, 64)
    shapes = suggested(20_000, 16)
    assert (shapes.training.steps, shapes.training.batch_size) == (1_000, 64)
    few = suggested(20, 16).training
    assert few.steps * few.batch_size >= 25_000
    for side in (8, 12, 28, 32, 96):
        suits = suggested(1_000, side)
        patch = suits.settings["patch"]
        assert side % patch == 0
        assert side // patch <= 8
        halvings = len(suits.settings["channels"]) - 1
        assert halvings >= 1
        assert side % 2**halvings == 0
        assert side / 2**halvings <= 8 or side / 2**halvings % 2
        for family, own in (("dit-kan", "patch"), ("unet-kan", "channels")):
            settings = {own: suits.settings[own]}
            made = build_denoiser(
                *(family, (3, side, side)),
                num_train_timesteps=1_000,
                params=suits.params,
                settings=settings,
            )
            assert made.num_trainable == pytest.approx(suits.params, rel=0.02)
    assert suggested(1_000, 13).settings["patch"] == 1  # a prime is cut by no other


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A study of two families on scenes."""
    models = ({"family": name, "hidden": [8, 8], "settings": TINY} for name in ("dit", "dit-kan"))
    config = study(
        data=[{"pictures": "shapes", "num_pictures": 60, "holdout": 0.5}],
        process="flow",
        models=list(models),
        training={"steps": 3, "batch_size": 8, "timesteps": "logit-normal"},
        sampling={"steps": 2, "guidance": 2},
        evaluation={"num_drawn": 4, "moments": [1.0], "effort": "quick"},
    )
    return run_study(config, tmp_path_factory.mktemp("scenes") / "run", executor=one_by_one)


def test_scenes_have_an_excess_and_are_read(scenes):
    results = Results.of(scenes.rows)
    for row in results.rows.to_dict("records"):
        assert row["oracle"] == "exact"
        assert 0 < row["floor"] < row["heldout_loss"]
        assert row["excess"] > 0
        for which in ("seen", "unseen"):
            kinds = ("shape", "colour", "size", "all")
            assert all(0 <= row[f"{which}_{kind}"] <= 1 for kind in kinds)
            assert all(row[f"{which}_{kind}_real"] == 1.0 for kind in kinds)
            assert row[f"{which}_all"] <= min(row[f"{which}_{kind}"] for kind in kinds)
    # What is drawn and judged starts from the same noise, and real pictures are the same.
    real = [key for key in results.rows if key.endswith("_real")]
    assert (results.rows[real].nunique() <= 1).all()


def test_a_report_shows_what_was_asked_for_and_drawn(scenes, tmp_path):
    path = write_report(scenes, tmp_path, "command")
    text = path.read_text()
    page = Page(text)
    assert "could not be drawn" not in page.said
    # Four prompts, one real picture of each and four of each model, of 16 enlarged pixels.
    drawn = dict(re.findall(r'<img src="(data:image/webp[^"]*)" alt="([^",]+)">', text))
    sizes = {title: picture_size(address) for address, title in drawn.items()}
    assert sizes.pop("real") == (68, 4 * 68)
    assert set(sizes.values()) == {(4 * 68, 4 * 68)}
    assert len(sizes) == 2
    assert "Row by row: " in page.said
    assert text.count('<script type="application/json">') == 1  # the player
    assert path.stat().st_size < MOST_BYTES


def picture_size(address):
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).size
