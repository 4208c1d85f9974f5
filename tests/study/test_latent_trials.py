"""Trials of latents: what is trained on, judged, kept, shown and refused."""

import shutil

import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from pydantic import ValidationError

from helpers import assert_same_state, refused
from kan_diffusion import PictureDiffusionPipeline, PromptedDenoiser, train
from kan_diffusion.data.datasets import load_dataset
from kan_diffusion.errors import DataError, KanDiffusionError, RunFolderError
from kan_diffusion.randomness import stream_seed
from kan_diffusion.report.gather import report_contents, runs_contents
from kan_diffusion.study.config import StudyConfig
from kan_diffusion.study.measure import evaluate_run, load_run
from kan_diffusion.study.named import single_trial, study_for
from kan_diffusion.study.results.rows import read_runs
from kan_diffusion.study.run import run_study
from kan_diffusion.study.trial import build, run_trial, told, without_text
from picture_folders import write_pictures
from picture_networks import autoencoder, change
from tiny import tiny_picture_study

pytestmark = pytest.mark.usefixtures("quick_pictures")

TINY = {"hidden": (8, 8), "settings": {"width": 8, "heads": 2, "patch": 2}}
SHORT = ["--steps", "3", "--batch-size", "8", "--size", "8", "--device", "cpu"]


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
    sampling = trial.sampling.model_copy(update={"steps": 3})
    evaluation = trial.evaluation.model_copy(update={"moments": (0.0,)})
    model = trial.model.model_copy(update={"params": None, **TINY})
    return trial.model_copy(update={"model": model, "sampling": sampling, "evaluation": evaluation})


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
    assert isinstance(pipeline, PictureDiffusionPipeline)
    assert isinstance(by_hand, PromptedDenoiser)
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
    assert {key: run.row[key] for key in row if key != "sample_seconds"} == pytest.approx(
        {key: value for key, value in row.items() if key != "sample_seconds"}
    )


def test_an_interrupted_run_goes_on_to_the_same_end(run, tmp_path):
    def stop(step, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(run.config, tmp_path, device="cpu", on_progress=stop)
    assert (tmp_path / "checkpoint.safetensors").exists()
    resumed = run_trial(run.config, tmp_path, device="cpu")
    assert resumed.row["heldout_loss"] == run.row["heldout_loss"]
    (_, one), (_, other) = load_run(tmp_path), load_run(run.folder)
    assert_same_state(one.denoiser, other.denoiser)


def test_scenes_have_no_oracle_as_latents_and_a_study_says_so(root, tmp_path, executor):
    pictures = {"pictures": "shapes", "num_pictures": 60, "holdout": 0.5}
    config = tiny_picture_study(pictures, {"vae": str(root / "vae"), **TINY})
    results = run_study(config, tmp_path / "run", executor=executor)
    assert set(results.rows["oracle"]) == {"none"}
    assert results.rows["seen_all_real"].eq(1.0).all()  # real pictures are read as they are
    contents = report_contents(results, "")
    assert any("No oracle is known for shapes" in line for line in contents.warnings)
    drawn, states = (next(iter(each.values())) for each in (contents.drawn, contents.states))
    assert drawn.shape == (4, 4, 3, 16, 16)
    # The process ends, and is shown, in pixels.
    last = states[-1][1][:, -1]
    assert last.shape == (4, 3, 16, 16)
    models = [config.models[0], {"family": "dit-kan", **TINY}]
    with pytest.raises(ValidationError, match="losses of latents and of pixels do not compare"):
        tiny_picture_study(pictures, {}, models=models)


def test_a_run_is_reported_but_not_beside_one_of_pixels(run, tmp_path):
    contents = runs_contents(read_runs([run.folder]), "")
    assert any("No oracle is known for pictures" in line for line in contents.warnings)
    ((_, states),) = next(iter(contents.states.values()))[:1]
    assert states.shape[2:] == (3, 8, 8)
    model = run.config.model.model_copy(update={"vae": None, "digests": {}})
    pixels = run.config.model_copy(update={"model": model})
    assert "vae" not in pixels.identity
    assert pixels.id != run.config.id
    run_trial(pixels, tmp_path / "run", device="cpu")
    with refused("autoencoder"):
        read_runs([run.folder, tmp_path / "run"])


def test_commands_take_latents(root, cli, tmp_path):
    vae, place = ("--mode", "RGB", "--vae", root / "vae"), tmp_path / "run"
    outcome = cli("train", root / "pictures", *SHORT, *vae, "--out", place)
    assert outcome.code == 0, outcome.err
    said = " ".join(outcome.out.split())
    assert f"trained on as latents of '{root / 'vae'}', for which no oracle is known" in said
    asked = ["--prompt", "a dark picture", "--num", "2", "--steps", "2"]
    assert cli("sample", place, *asked, "--out", tmp_path / "drawn").code == 0
    with Image.open(tmp_path / "drawn" / "a-dark-picture-1.png") as picture:
        assert (picture.size, picture.mode) == ((8, 8), "RGB")
    assert cli("sample", place, *asked, "--animate", tmp_path / "way.gif").code == 0
    with Image.open(tmp_path / "way.gif") as way:
        assert way.n_frames == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pictures", "--vae", "pictures"), "is not the configuration of an autoencoder"),
        (("pictures", "--vae", "none"), "give a folder of diffusers' AutoencoderKL"),
        (("pictures", "--vae", "vae"), "takes 3 channels and pictures of mode L have 1; choose"),
        (("pictures", "--vae", "vae", "--mode", "RGB", "--size", "9"), "do not divide pictures of"),
        (("moons", "--vae", "vae"), "--vae is for pictures; leave it out"),
        (("pictures", "--mode", "grey"), "mode"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_makes_no_sense_is_refused_in_one_line(
    root, cli, tmp_path, monkeypatch, words, message
):
    monkeypatch.chdir(root)
    assert message in cli("train", *words, "--out", tmp_path / "run").error
    assert not (tmp_path / "run").exists()


def test_a_run_whose_autoencoder_was_changed_is_refused(run, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    path = folder / "vae" / "config.json"
    path.write_text(path.read_text().replace("0.4", "0.5"))
    with refused("is not what the run wrote", RunFolderError):
        evaluate_run(folder)


def test_an_autoencoder_is_known_by_its_content(run, config, root, tmp_path):
    assert run.config.model.digests.keys() == {"vae"}
    vae = shutil.copytree(root / "vae", tmp_path / "moved")
    model = config.model.model_copy(update={"vae": str(vae)})
    moved = config.model_copy(update={"model": model})
    assert moved.id == config.id
    # Runs of several places are one model's.
    other = run_trial(moved.model_copy(update={"study_seed": 1}), tmp_path / "run", device="cpu")
    both = read_runs([run.folder, other.folder])
    assert both.config.seeds == 2
    assert [model.name for model in both.config.models] == [config.model.name]
    path = vae / "config.json"
    path.write_text(path.read_text().replace("0.4", "0.5"))
    with refused("moved' has changed since this run was set up", DataError):
        run_trial(moved, tmp_path / "again", device="cpu")


def test_a_study_of_latents_suits_them(root, tmp_path):
    pictures, vae = str(root / "pictures"), tmp_path / "grey"
    autoencoder(in_channels=1, out_channels=1).save_pretrained(vae)
    asked = {"families": ["dit", "dit-kan"], "match": "params", "budget": "dit:16-16"}
    plain, latent = (study_for(pictures, vae=each, **asked) for each in (None, vae))
    assert {model.vae for model in plain.models} == {None}
    assert {model.vae for model in latent.models} == {str(vae)}
    # Pictures of 32 pixels are latents of 16.
    assert [study.models[0].settings["patch"] for study in (plain, latent)] == [4, 2]
    assert plain.budgets != latent.budgets
    path = tmp_path / "study.yaml"
    path.write_text(plain.to_yaml())
    assert study_for(str(path), vae=vae).pinned().trials()[0].model.vae == str(vae)


def test_points_have_no_latents(root, cli, tmp_path):
    refusal = cli("compare", "moons", "--vae", root / "vae", "--out", tmp_path / "run").error
    assert "--vae is for pictures; leave it out" in refusal
    model = {"family": "mlp", "hidden": [8], "vae": str(root / "vae")}
    settings = {"name": "a", "title": "A", "data": [{"toy": "moons"}], "models": [model]}
    (trial, *_) = StudyConfig.model_validate(settings).trials()
    with pytest.raises(KanDiffusionError, match="no pictures for an autoencoder to encode"):
        build(trial, load_dataset(trial.data))
