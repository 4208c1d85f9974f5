"""Pictures in trials and studies: what models are told, how they are judged, what is kept."""

import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import DiffusionPipeline

from helpers import refused, seeded
from kan_diffusion.data.datasets import FileData, PictureData, data_from_name, load_dataset
from kan_diffusion.data.imagefolder import ImageFolder
from kan_diffusion.denoisers import build_denoiser, get_family
from kan_diffusion.errors import DataError, KanDiffusionError
from kan_diffusion.evaluation.pictures import PICTURE_MEASURES, Request, shown
from kan_diffusion.picture_pipeline import PictureDiffusionPipeline
from kan_diffusion.report.gather import report_contents
from kan_diffusion.study.config import EvaluationConfig
from kan_diffusion.study.measure import (
    evaluate_run,
    features_of,
    load_point_run,
    load_run,
    measure,
    yardstick,
)
from kan_diffusion.study.named import chosen_data, single_trial, study_for
from kan_diffusion.study.results.rows import Results, read_runs
from kan_diffusion.study.run import run_study
from kan_diffusion.study.trial import build, run_trial
from kan_diffusion.text import PromptedDenoiser, tokenize, unknown_words
from kan_diffusion.training.defaults import suggested_for_pictures
from picture_folders import NAMES, write_pictures
from picture_networks import save_clip
from tiny import tiny_picture_study

pytestmark = pytest.mark.usefixtures("quick_pictures")

TINY = {"width": 8, "heads": 2}
KINDS = ("captions", "classes", "nothing")


def _config(data, told=None):
    size = 8 if told else None
    trial = single_trial(data, family="dit-kan", steps=3, batch_size=8, size=size)
    model = {"params": None, "hidden": (8, 8), "settings": {**trial.model.settings, **TINY}}
    sampling = trial.sampling.model_copy(update={"steps": 3})
    update = {"model": trial.model.model_copy(update=model), "sampling": sampling}
    return trial.model_copy(update=update)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A short trial of pictures with captions, with classes, and with neither."""
    root = tmp_path_factory.mktemp("pictures")
    return {
        told: run_trial(
            _config(str(write_pictures(root / told, told)), told),
            root / f"{told}-run",
            device="cpu",
        )
        for told in KINDS
    }


@pytest.mark.parametrize("told", KINDS)
def test_a_model_is_told_what_there_is(runs, told):
    config = runs[told].config
    denoiser = build(config, load_dataset(config.data, config.study_seed, config.seed))
    assert isinstance(denoiser, PromptedDenoiser) == (told == "captions")
    assert denoiser.num_classes == (2 if told == "classes" else 0)
    _, pipeline = load_run(runs[told].folder)
    assert isinstance(pipeline, PictureDiffusionPipeline)
    assert (pipeline.text_encoder is not None) == (told == "captions")
    assert pipeline.classes == (NAMES if told == "classes" else ())
    # The models held equal are without their text encoders.
    assert runs[told].row["parameters"] == pipeline.denoiser.num_trainable


@pytest.mark.parametrize("told", KINDS)
def test_diffusers_reads_a_run_by_the_name_of_its_class(runs, told):
    _, ours = load_run(runs[told].folder)
    theirs = DiffusionPipeline.from_pretrained(runs[told].folder)
    assert type(theirs) is PictureDiffusionPipeline
    asked = {"captions": {"prompt": "a dark picture"}, "classes": {"class_labels": "dark"}}
    one, other = (
        each(**asked.get(told, {}), num_inference_steps=2, generator=seeded(), output_type="pt")
        for each in (ours, theirs)
    )
    torch.testing.assert_close(one.images, other.images)


@pytest.mark.parametrize("told", KINDS)
def test_the_row_has_each_score_beside_that_of_real_pictures(runs, told):
    row = runs[told].row
    assert row["error"] is None
    assert row["oracle"] == "none"
    expected = {"frechet", "c2st", "nearest", "closer"}
    if told == "classes":
        expected |= {"read", "read_plain", "spread"}
    scored = {key for key in PICTURE_MEASURES if row.get(key) is not None}
    assert scored == expected
    assert all(row.get(f"{key}_real") is not None for key in scored)
    if told == "classes":
        assert row["read_real"] == 1.0


@pytest.mark.parametrize("told", KINDS)
def test_a_finished_run_is_judged_again_to_the_same_row(runs, told):
    row, used, warning = evaluate_run(runs[told].folder)
    assert warning is None
    assert used == f"4 pictures of '{told}' that were not trained on"
    assert {key: runs[told].row[key] for key in row if key != "sample_seconds"} == pytest.approx(
        {key: value for key, value in row.items() if key != "sample_seconds"}, nan_ok=True
    )


def test_a_model_that_is_told_nothing_has_a_higher_loss_on_what_it_was_told(runs, tmp_path):
    """Held-out losses are of denoisers that are told the captions of held-out pictures."""
    config = runs["captions"].config
    longer = {"steps": 100, "learning_rate": 1e-2, "ema_decay": 0.9, "warmup_steps": 5}
    training = config.training.model_copy(update=longer)
    learnt = config.model_copy(update={"training": training})
    result = run_trial(learnt, tmp_path / "run", device="cpu")
    _, pipeline = load_run(tmp_path / "run")
    assert isinstance(pipeline, PictureDiffusionPipeline)
    pipeline.embed = lambda prompts: type(pipeline).embed(pipeline, [""] * len(prompts))
    dataset = load_dataset(config.data, config.study_seed, config.seed)
    judging = config.process, config.evaluation.model_copy(update={"num_samples": 0}), 0, 0
    shared = yardstick(dataset, *judging, features_of(config.data, 0))
    untold, _, _ = measure(learnt, dataset, pipeline, shared)
    assert isinstance(untold["heldout_loss"], float)
    assert isinstance(result.row["heldout_loss"], float)
    assert result.row["heldout_loss"] < untold["heldout_loss"]


def test_a_run_does_not_depend_on_where_its_folder_lies(runs, tmp_path):
    there = runs["classes"].config.data
    assert isinstance(there, PictureData)
    shutil.copytree(there.pictures, tmp_path / "classes")
    moved = _config(str(tmp_path / "classes"), "classes")
    assert moved.id == runs["classes"].config.id
    (next((tmp_path / "classes" / "dark").iterdir())).unlink()
    assert _config(str(tmp_path / "classes"), "classes").id != moved.id
    with refused("has changed since this run was set up", DataError):
        load_dataset(moved.data)


def test_runs_of_points_are_asked_for_where_pictures_are_no_use(runs):
    with refused("is a model of pictures, and this is for models of points and tables"):
        load_point_run(runs["captions"].folder)
    with refused("cannot be judged with 'moons': pictures judge", DataError):
        evaluate_run(runs["captions"].folder, "moons")


def test_names_and_folders_of_pictures_are_known(runs):
    config = runs["captions"].config.data
    assert isinstance(config, PictureData)
    assert data_from_name(config.pictures) == PictureData(pictures=config.pictures).pinned()
    assert data_from_name("digits") == PictureData(pictures="digits")
    with refused("kinds are for the columns of a file"):
        data_from_name("digits", {"a": "integer"})


def test_a_folder_with_parquet_files_is_a_table(tmp_path):
    write_pictures(tmp_path / "both", "nothing")
    (tmp_path / "both" / "rows.parquet").write_bytes(b"")
    config = data_from_name(str(tmp_path / "both"), pinned=False)
    assert isinstance(config, FileData)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "digits", "family": "mlp"}, "family 'mlp' is for points; choose one for"),
        ({"data": "moons", "family": "dit"}, "family 'dit' is for pictures; choose one for"),
        ({"data": "digits", "sparsify": 0.1}, "leave --sparsify out for pictures"),
        ({"data": "digits", "objects": 2}, "num_pictures and objects are for shapes"),
        ({"data": "moons", "mode": "L"}, "--size, --mode and --objects are for pictures"),
        ({"data": "shapes", "size": 20}, "16 or 32 pixels, not 20"),
        ({"data": "digits", "kinds": {"a": "count"}}, "kinds are for the columns of a file"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with refused(message):
        trial = single_trial(**settings)
        build(trial, load_dataset(trial.data))


def test_defaults_are_about_the_recipes_they_rest_on():
    digits = suggested_for_pictures(1_617, 8, has_classes=True)
    assert (digits.training.steps, digits.training.batch_size) == (400, 64)
    shapes = suggested_for_pictures(20_000, 16)
    assert (shapes.training.steps, shapes.training.batch_size) == (1_000, 64)
    few = suggested_for_pictures(20, 16).training
    assert few.steps * few.batch_size >= 25_000
    for side, has_relations, is_fitted in (
        (8, False, True), (12, True, False), (16, True, False), (28, False, False),
        (32, True, True), (64, False, False), (96, True, True),
    ):  # fmt: skip
        suggested = suggested_for_pictures(1_000, side, has_relations=has_relations)
        patch = suggested.settings["patch"]
        assert side % patch == 0
        assert side // patch <= 8
        halvings = len(suggested.settings["channels"]) - 1
        assert halvings >= 1
        assert side % 2**halvings == 0
        assert side / 2**halvings <= 8 or side / 2**halvings % 2
        for family, own in (("dit-kan", "patch"), ("unet-kan", "channels")):
            shared = ("pooled", "draft_patch") if has_relations else ("pooled",)
            settings = {name: suggested.settings[name] for name in (own, *shared)}
            # A search for widths takes a second: the others have room for some.
            size = {"params": suggested.params} if is_fitted else {"hidden": (8, 8, 8, 8)}
            made = build_denoiser(
                family, (3, side, side), num_train_timesteps=1_000, **size,
                settings={"text_width": 64, **settings},
            )  # fmt: skip
            if is_fitted:
                assert made.num_trainable == pytest.approx(suggested.params, rel=0.02)
            assert made.num_trainable <= 1.02 * suggested.params
    assert suggested_for_pictures(1_000, 13).settings["patch"] == 1  # a prime is cut by no other


def test_pictures_are_trained_by_what_suits_them_unless_asked_otherwise():
    def trained(**asked):
        training = single_trial("digits", **asked).training
        return training.optimizer, training.learning_rate

    suits = suggested_for_pictures(1_617, 8).training
    own = get_family("unet-kan").learning_rate
    assert trained() == (suits.optimizer, suits.learning_rate)
    assert trained(optimizer=suits.optimizer) == (suits.optimizer, suits.learning_rate)
    assert suits.optimizer != "adam"
    assert trained(optimizer="adam") == ("adam", own)
    assert trained(optimizer="adam", learning_rate=0.1) == ("adam", 0.1)
    assert trained(learning_rate=0.1) == (suits.optimizer, 0.1)


def test_scenes_of_several_things_are_drafted():
    settings = [single_trial("shapes", objects=count).model.settings for count in (None, 1, 2)]
    assert settings[0] == settings[1]
    assert settings[2] == {**settings[0], "draft_patch": 2}


@pytest.mark.parametrize(("data", "seeds", "holdout"), [("digits", 5, 0.3), ("shapes", 3, 0.1)])
def test_a_comparison_of_pictures_has_families_of_pictures(data, seeds, holdout):
    study = study_for(data)
    families = [model.family for model in study.models]
    assert families == ["dit", "dit-kan", "dit-full-kan", "unet", "unet-kan"]
    assert study.seeds == seeds
    assert [each.name for each in study.process] == ["flow"]
    assert study.data[0].holdout == holdout
    in_time = study_for(data, match="time", budget="30", families=["dit"])
    assert in_time.budgets[0].params == study.budgets[0].amount
    assert {m.family for m in study_for(data, families=["all"]).models} >= set(families)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory, executor):
    """A study of two families on scenes of one thing."""
    config = tiny_picture_study(
        {"pictures": "shapes", "num_pictures": 60, "holdout": 0.5},
        {"settings": {**TINY, "patch": 4}},
        training={"steps": 3, "batch_size": 8, "timesteps": "logit-normal"},
        sampling={"steps": 2, "guidance": 2},
    )
    return run_study(config, tmp_path_factory.mktemp("scenes") / "run", executor=executor)


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
            assert f"{which}_count" not in results.metrics
            assert row[f"{which}_all"] <= min(row[f"{which}_{kind}"] for kind in kinds)
    # What is drawn and judged starts from the same noise, and real pictures are the same.
    real = [key for key in results.rows if key.endswith("_real")]
    assert (results.rows[real].nunique() <= 1).all()


def test_there_is_room_for_held_out_captions_or_they_are_refused_before_training(runs, tmp_path):
    config = runs["captions"].config
    own = load_dataset(config.data, config.study_seed, config.seed)
    long = replace(own, captions=("ab a",) * len(own.train), heldout_captions=("ab " * 30, "b"))
    denoiser = build(config, long)
    assert isinstance(denoiser, PromptedDenoiser)
    assert tokenize(denoiser.tokenizer, long.heldout_captions or ()).shape == (2, 32)
    assert unknown_words(denoiser.tokenizer, ["b"])
    model = config.model.model_copy(update={"text_encoder": str(save_clip(tmp_path))})
    with refused("has 32 tokens and 20 fit"):
        build(config.model_copy(update={"model": model}), long)


def test_a_share_to_hold_out_is_refused_where_folders_are_the_split(tmp_path):
    for part in ("train", "test"):
        write_pictures(tmp_path / "own" / part, "nothing", num=6)
    assert len(load_dataset(chosen_data(str(tmp_path / "own"))).train) == 6
    with refused("own' is split by its folders, such as train and test; leave --holdout out"):
        chosen_data(str(tmp_path / "own"), holdout=0.5)


def test_a_folder_is_read_once(tmp_path, monkeypatch):
    write_pictures(tmp_path / "own", "captions")
    read, opened = ImageFolder.pictures, []
    monkeypatch.setattr(ImageFolder, "pictures", lambda own: opened.append(own) or read(own))
    monkeypatch.chdir(tmp_path)
    assert len(load_dataset(chosen_data("own", size=8)).train) == 20
    assert len(opened) == 1
    config = PictureData(pictures="./own")
    assert len(load_dataset(config.pinned()).train) == len(load_dataset(config).train)
    assert len(opened) == 2


def test_a_report_shows_what_was_asked_for_and_drawn(scenes):
    contents = report_contents(scenes, "command")
    assert len(contents.asked["shapes"]) == 4
    assert contents.real["shapes"].shape == (4, 1, 3, 16, 16)
    assert [each.shape for each in contents.drawn.values()] == [(4, 4, 3, 16, 16)] * 2
    for key, ((label, states),) in contents.states.items():
        assert label == "step 3"
        assert states.shape == (4, 11, 3, 16, 16)
        noises = [moments[0][1][:, 0] for moments in contents.states.values()]
        assert (noises[0] == noises[1]).all(), key
    together = read_runs([trial.folder for trial in scenes.trials])
    assert list(report_contents(together, "command").drawn) == list(contents.drawn)


def test_pictures_that_are_shown_are_one_of_each_class_and_half_of_held_out_scenes():
    digits = load_dataset("digits")
    asked, real = shown(digits, 10)
    assert asked.labels is not None
    assert asked.labels.tolist() == list(range(10))
    assert real.shape == (10, 1, 8, 8)
    assert asked.words(digits.classes) == list(asked.prompts or ())
    # A study file that does not say asks for more than can be drawn and recorded at once.
    few = load_dataset(PictureData(pictures="shapes", num_pictures=4))
    scenes, real = shown(few, EvaluationConfig().num_drawn)
    assert scenes.num == len(real) == 128
    plain = Request(2, labels=torch.tensor([3, 1]))
    assert plain.words(digits.classes) == ["three", "one"]


def test_guidance_of_a_model_without_conditions_is_refused(runs):
    _, pipeline = load_run(runs["nothing"].folder)
    assert isinstance(pipeline, PictureDiffusionPipeline)
    with refused("and this model takes neither; leave guidance out", KanDiffusionError):
        pipeline(guidance_scale=2.0)
    _, classes = load_run(runs["classes"].folder)
    assert isinstance(classes, PictureDiffusionPipeline)
    with refused("and ask for class_labels"):
        classes(guidance_scale=2.0)
