"""Latents in whole studies and commands."""

import pytest
from PIL import Image

from helpers import refused
from kan_diffusion.report.gather import report_contents, runs_contents
from kan_diffusion.study.folder import load_trial
from kan_diffusion.study.named import study_for
from kan_diffusion.study.results.rows import read_runs
from kan_diffusion.study.run import run_study
from kan_diffusion.study.trial import run_trial
from make import picture_study
from picture_folders import write_pictures
from picture_networks import autoencoder
from runs import copied

TINY = {"hidden": (8, 8), "settings": {"width": 8, "heads": 2, "patch": 2}}
SHORT = ["--steps", "3", "--batch-size", "8", "--size", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    place = tmp_path_factory.mktemp("latents") / "vae"
    autoencoder().save_pretrained(place)
    return place


def test_scenes_have_no_oracle_as_latents_and_a_study_says_so(vae, tmp_path, executor):
    pictures = {"pictures": "shapes", "num_pictures": 60, "holdout": 0.5}
    config = picture_study(pictures, {"vae": str(vae), **TINY})
    results = run_study(config, tmp_path / "run", executor=executor)
    assert set(results.rows["oracle"]) == {"none"}
    assert results.rows["seen_all_real"].eq(1.0).all()  # real pictures are read as they are
    contents = report_contents(results, "")
    assert any("No oracle is known for shapes" in line for line in contents.warnings)
    drawn, states = (next(iter(each.values())) for each in (contents.drawn, contents.states))
    assert drawn.shape == (4, 4, 3, 16, 16)
    # The process ends, and is shown, in pixels.
    assert states[-1][1][:, -1].shape == (4, 3, 16, 16)


def test_a_run_of_latents_is_made_shown_and_drawn_from(vae, cli, tmp_path):
    pictures, place = write_pictures(tmp_path / "pictures", "captions"), tmp_path / "run"
    given = ("--mode", "RGB", "--vae", vae)
    outcome = cli("train", pictures, *SHORT, *given, "--moments", "1", "--out", place)
    assert outcome.code == 0, outcome.err
    said = " ".join(outcome.out.split())
    assert f"trained on as latents of '{vae}', for which no oracle is known" in said
    asked = ["--prompt", "a dark picture", "--num", "2", "--steps", "2"]
    assert cli("sample", place, *asked, "--out", tmp_path / "drawn").code == 0
    with Image.open(tmp_path / "drawn" / "a-dark-picture-1.png") as picture:
        assert (picture.size, picture.mode) == ((8, 8), "RGB")
    assert cli("sample", place, *asked, "--animate", tmp_path / "way.gif").code == 0
    with Image.open(tmp_path / "way.gif") as way:
        assert way.n_frames == 3
    # It is reported, also beside one of the same autoencoder elsewhere, but not of pixels.
    contents = runs_contents(read_runs([place]), "")
    assert any("No oracle is known for pictures" in line for line in contents.warnings)
    ((_, states),) = next(iter(contents.states.values()))[:1]
    assert states.shape[2:] == (3, 8, 8)
    config = load_trial(place).config
    model = config.model.model_copy(update={"vae": str(copied(vae, tmp_path / "moved"))})
    moved = config.model_copy(update={"model": model, "study_seed": 1})
    run_trial(moved, tmp_path / "again", device="cpu")
    both = read_runs([place, tmp_path / "again"])
    assert (both.config.seeds, len(both.config.models)) == (2, 1)
    model = config.model.model_copy(update={"vae": None, "digests": {}})
    run_trial(config.model_copy(update={"model": model}), tmp_path / "pixels", device="cpu")
    with refused("autoencoder"):
        read_runs([place, tmp_path / "pixels"])


def test_a_study_of_latents_suits_them(vae, tmp_path):
    pictures, grey = str(write_pictures(tmp_path / "pictures", "captions")), tmp_path / "grey"
    autoencoder(in_channels=1, out_channels=1).save_pretrained(grey)
    asked = {"families": ["dit", "dit-kan"], "match": "params", "budget": "dit:16-16"}
    plain, latent = (study_for(pictures, vae=each, **asked) for each in (None, grey))
    assert {model.vae for model in plain.models} == {None}
    assert {model.vae for model in latent.models} == {str(grey)}
    # Pictures of 32 pixels are latents of 16.
    assert [study.models[0].settings["patch"] for study in (plain, latent)] == [4, 2]
    assert plain.budgets != latent.budgets
    path = tmp_path / "study.yaml"
    path.write_text(plain.to_yaml())
    assert study_for(str(path), vae=grey).pinned().trials()[0].model.vae == str(grey)
