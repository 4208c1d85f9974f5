"""Trials of latents: what is trained on, judged, kept and refused."""

import pytest
import torch
from diffusers import AutoencoderKL

from helpers import assert_same_state, refused
from kan_diffusion import train
from kan_diffusion.data.datasets import load_dataset
from kan_diffusion.errors import DataError, RunFolderError
from kan_diffusion.randomness import stream_seed
from kan_diffusion.study.measure import evaluate_run, load_run
from kan_diffusion.study.named import single_trial
from kan_diffusion.study.trial import build, run_trial, told, without_text
from make import picture_study, study, without_clock
from picture_folders import write_pictures
from picture_networks import autoencoder, change
from runs import copied

TINY = {"hidden": (8, 8), "settings": {"width": 8, "heads": 2, "patch": 2}}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with captioned pictures and an autoencoder."""
    root = tmp_path_factory.mktemp("latents")
    write_pictures(root / "pictures", "captions")
    autoencoder().save_pretrained(root / "vae")
    return root


@pytest.fixture(scope="module")
def config(root):
    settings = {"steps": 4, "batch_size": 8, "size": 8, "mode": "RGB", "vae": root / "vae"}
    trial = single_trial(str(root / "pictures"), family="dit-kan", **settings)
    assert trial.model.settings["patch"] == 2  # as suits latents of 4 x 4
    changes = {
        "model": trial.model.model_copy(update={"params": None, **TINY}),
        "sampling": trial.sampling.model_copy(update={"steps": 3}),
        "evaluation": trial.evaluation.model_copy(update={"moments": (0.0,), "effort": "quick"}),
    }
    return trial.model_copy(update=changes)


@pytest.fixture(scope="module")
def run(root, config):
    return run_trial(config, root / "run", device="cpu")


def test_a_trial_is_trained_on_latents_as_by_hand(run, root):
    config = run.config
    dataset = load_dataset(config.data, config.study_seed, config.seed)
    vae = AutoencoderKL.from_pretrained(root / "vae").eval()
    with torch.no_grad():
        latents = 0.4 * (vae.encode(dataset.train).latent_dist.mode() - 0.3)
    by_hand, untrained = build(config, dataset), build(config, dataset)
    train(
        *(by_hand, config.process, latents, config.training),
        seed=stream_seed("training", config.study_seed, config.seed, config.data.name),
        conditions=told(by_hand, dataset),
        device="cpu",
    )
    _, pipeline = load_run(run.folder)
    x, prompts = latents[:4], torch.ones(4, 1, by_hand.denoiser.text_width)
    with torch.no_grad():
        one, same, before = (
            each(x, 500, encoder_hidden_states=prompts).sample
            for each in (pipeline.denoiser, without_text(by_hand), without_text(untrained))
        )
    assert change(same, one) < 0.01 * change(before, one)
    assert_same_state(pipeline.vae, vae)


def test_a_run_is_judged_without_the_folder_of_its_autoencoder(run, root):
    assert run.row["oracle"] == "none"
    assert run.row["excess"] is None
    hidden = (root / "vae").rename(root / "elsewhere")
    try:
        row, used, warning = evaluate_run(run.folder)
    finally:
        hidden.rename(root / "vae")
    assert used.endswith("were not trained on, their loss of latents, for which no oracle is known")
    assert warning is None
    row = without_clock(row)
    assert {key: run.row[key] for key in row} == pytest.approx(row)


def test_an_autoencoder_is_known_by_its_content(run, config, root, tmp_path):
    assert run.config.model.digests.keys() == {"vae"}
    vae = copied(root / "vae", tmp_path / "moved")
    model = config.model.model_copy(update={"vae": str(vae)})
    moved = config.model_copy(update={"model": model})
    assert moved.id == config.id
    pixels = config.model.model_copy(update={"vae": None, "digests": {}})
    assert config.model_copy(update={"model": pixels}).id != config.id
    for path in (vae / "config.json", copied(run.folder, tmp_path / "run") / "vae/config.json"):
        path.write_text(path.read_text().replace("0.4", "0.5"))
    with refused("moved' has changed since this run was set up", DataError):
        run_trial(moved, tmp_path / "again", device="cpu")
    with refused("is not what the run wrote", RunFolderError):
        evaluate_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        ("pictures", {"vae": "pictures"}, "is not the configuration of an autoencoder"),
        ("pictures", {"vae": "none"}, "give a folder of diffusers' AutoencoderKL"),
        ("pictures", {"vae": "vae"}, "takes 3 channels and pictures of mode L have 1; choose"),
        ("pictures", {"vae": "vae", "mode": "RGB", "size": 9}, "do not divide pictures of"),
        ("moons", {"vae": "vae"}, "--vae is for pictures; leave it out"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_in_one_line(root, monkeypatch, what, options, message):
    monkeypatch.chdir(root)
    with refused(message):
        trial = single_trial(what, family="mlp" if what == "moons" else "dit-kan", **options)
        build(trial, load_dataset(trial.data))


def test_points_have_no_latents_and_losses_of_pixels_do_not_compare(root):
    model = {"family": "mlp", "hidden": [8], "vae": str(root / "vae")}
    (trial, *_) = study(models=[model]).trials()
    with refused("no pictures for an autoencoder to encode"):
        build(trial, load_dataset(trial.data))
    models = [{"family": "dit", **TINY, "vae": str(root / "vae")}, {"family": "dit-kan", **TINY}]
    with pytest.raises(ValueError, match="losses of latents and of pixels do not compare"):
        picture_study({"pictures": "shapes"}, {}, models=models)
