from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from helpers import refused, seeded
from kan_diffusion.data.sources import data_from_name, load_dataset
from kan_diffusion.denoisers import get_family
from kan_diffusion.formulas.explain import explain_run
from kan_diffusion.pictures import sources
from kan_diffusion.pictures.pipeline import PictureDiffusionPipeline
from kan_diffusion.pictures.scores import PICTURE_MEASURES, shown
from kan_diffusion.pictures.sources import DigitsData, FolderData, ShapesData
from kan_diffusion.pictures.task import PictureTask
from kan_diffusion.processes import get_process
from kan_diffusion.study.config import EvaluationConfig
from kan_diffusion.study.folder import load_trial
from kan_diffusion.study.named import single_trial, study_for
from kan_diffusion.study.trial import evaluate_run, load_run, run_trial
from make import without_clock
from picture_folders import NAMES, write_pictures

each_kind = pytest.mark.parametrize("told", ["captions", "classes"])


@each_kind
def test_a_model_is_told_what_there_is(runs, told):
    _, pipeline = load_run(runs(told))
    assert isinstance(pipeline, PictureDiffusionPipeline)
    known = NAMES if told == "classes" else ("a", "picture", *NAMES)
    assert {*pipeline.denoiser.vocabulary.words.split()} == {*known}
    # The models held equal are without their text encoders.
    assert load_trial(runs(told)).row["parameters"] == pipeline.denoiser.num_trainable


def test_diffusers_reads_a_run_by_the_name_of_its_class(runs):
    _, ours = load_run(runs("captions"))
    theirs = DiffusionPipeline.from_pretrained(runs("captions"))
    assert type(theirs) is PictureDiffusionPipeline
    theirs.scheduler = ours.scheduler  # that of the run's study; else the process's default
    one, other = (
        each("dark", num_inference_steps=2, generator=seeded(), output_type="pt")
        for each in (ours, theirs)
    )
    torch.testing.assert_close(one.images, other.images)


@each_kind
def test_each_score_is_beside_that_of_real_pictures_and_the_same_when_judged_again(runs, told):
    row = load_trial(runs(told)).row
    assert (row["error"], row["oracle"]) == (None, "none")
    expected = {"nearest", "closer"}
    if told == "classes":
        expected |= {"read", "read_plain", "spread"}
        assert row["read_real"] == 1.0
    scored = {key for key in PICTURE_MEASURES if row.get(key) is not None}
    assert scored == expected
    assert all(row.get(f"{key}_real") is not None for key in scored)
    again, used = evaluate_run(runs(told))
    assert used == "4 pictures of 'pictures' that were not trained on; no oracle is known"
    again = without_clock(again)
    assert {key: row[key] for key in again} == pytest.approx(again, nan_ok=True)


def test_training_of_pictures_may_end_early(tmp_path):
    trial = single_trial("digits", family="dit", steps=2)
    changes = {
        "model": trial.model.model_copy(update={"params": None, "hidden": (8,)}),
        "training": trial.training.model_copy(update={"patience": 0.9}),
        "evaluation": trial.evaluation.model_copy(update={"num_samples": 0, "num_noised": 20}),
    }
    patient = trial.model_copy(update=changes)
    assert run_trial(patient, tmp_path, device="cpu").row["error"] is None


def test_runs_of_points_are_asked_for_where_pictures_are_no_use(runs, tmp_path):
    with refused("is a model of pictures, and only models of points and tables"):
        explain_run(runs("captions"), tmp_path)
    with refused("is a model of pictures, and only models of points and tables"):
        evaluate_run(runs("captions"), "moons")


def test_names_and_folders_of_pictures_are_known_wherever_these_lie(tmp_path):
    own, moved = (str(write_pictures(tmp_path / place / "own", "classes")) for place in "ab")
    known = data_from_name(own)
    assert known == FolderData(pictures=own).pinned()
    assert known.identity() == data_from_name(moved).identity()
    next(Path(moved, "dark").iterdir()).unlink()
    assert known.identity() != data_from_name(moved).identity()
    assert data_from_name("digits") == DigitsData()


def test_a_folder_is_read_once(tmp_path, monkeypatch):
    write_pictures(tmp_path / "own", "captions")
    opened = []

    def read(root, name, size, read=sources._opened):
        opened.append(name)
        return read(root, name, size)

    monkeypatch.setattr(sources, "_opened", read)
    monkeypatch.chdir(tmp_path)
    assert len(load_dataset(data_from_name("own", size=8)).train) == 20
    assert len(opened) == 24
    config = FolderData(pictures="./own")
    assert len(load_dataset(config.pinned()).train) == len(load_dataset(config).train)
    assert len(opened) == 48


def test_pictures_are_compared_and_trained_by_what_suits_them_unless_asked_otherwise(monkeypatch):
    # That models of these sizes can be built takes seconds, and is tested in tests/all.
    monkeypatch.setattr(PictureTask, "build", lambda *_: None)
    study = study_for("digits")
    families = ["dit", "dit-kan", "dit-full-kan", "unet", "unet-kan"]
    assert [model.family for model in study.models] == families
    assert study.process.name == "flow"
    assert (study.seeds, study.data[0].holdout) == (5, 0.3)

    def trained(**asked):
        training = single_trial("digits", **asked).training
        return training.optimizer, training.learning_rate

    suits = PictureTask().suggest(load_dataset("digits"), get_process("flow")).training
    own = get_family("unet-kan").learning_rate
    assert trained() == (suits.optimizer, suits.learning_rate)
    assert suits.optimizer != "adam"
    assert trained(optimizer="adam") == ("adam", own)
    assert trained(optimizer="adam", learning_rate=0.1) == ("adam", 0.1)
    assert trained(learning_rate=0.1) == (suits.optimizer, 0.1)


def test_pictures_that_are_shown_are_one_of_each_class_and_half_of_held_out_scenes():
    digits = load_dataset("digits")
    prompts, real = shown(digits, 10)
    assert [prompt.split()[-1] for prompt in prompts] == list(digits.classes)
    assert real.shape == (10, 1, 8, 8)
    # A study file that does not say asks for more than can be drawn and recorded at once.
    few = load_dataset(ShapesData(num_pictures=4))
    prompts, real = shown(few, EvaluationConfig().num_drawn)
    assert len(prompts) == len(real) == 128
