"""How a model is judged is no part of its trial: it is judged again, and not trained again."""

import json
import math
import shutil
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from disk import disturbed
from helpers import refused
from kan_diffusion.data.toys import ToyData
from kan_diffusion.errors import RunFolderError
from kan_diffusion.evaluation.metrics import SAMPLE_METRICS, Metric
from kan_diffusion.pictures.sources import PictureData
from kan_diffusion.study.config import EvaluationConfig
from kan_diffusion.study.folder import load_trial
from kan_diffusion.study.results.rows import read_results
from kan_diffusion.study.run import load_study, run_study
from kan_diffusion.study.trial import run_trial
from make import contents, reseal, study, trial_content, without_clock, written
from one_by_one import one_by_one
from runs import copied
from short_training import never

NUMBERS = {"num_noised": 3000, "num_samples": 150, "num_likelihood": 20, "num_real_pairs": 2}
LEFT = {"num_noised": 2000, "num_samples": 100, "num_likelihood": 10, "num_real_pairs": 1}
"""What the quick effort leaves of them."""

WEIGHTS = "denoiser/diffusion_pytorch_model.safetensors"


def _study(sampling=(), models=None, **evaluation):
    given = {**NUMBERS, "num_drawn": 50, "moments": [0.0], "effort": "quick", **evaluation}
    models = models or [{"name": "MLP", "family": "mlp", "params": 300}]
    training = {"steps": 20, "batch_size": 64}
    sampling = {"steps": 5, **dict(sampling)}
    return study(evaluation=given, training=training, sampling=sampling, models=models)


def _trial(sampling=(), **evaluation):
    return _study(sampling, **evaluation).trials()[0]


JUDGED_OTHERWISE = {
    "more effort": {"effort": "full"},
    "no samples": {"num_samples": 0, "num_levels": 7},
    "another sampler": {"sampling": {"scheduler": "heun", "steps": 9}, "num_likelihood": 0},
}


def test_an_effort_limits_the_numbers_of_an_evaluation_and_raises_none():
    full, quick = (EvaluationConfig(**NUMBERS, effort=effort) for effort in ("full", "quick"))
    for source in (ToyData, PictureData):
        assert full.limited(source.quick) == full
    of_points, of_pictures = (quick.limited(source.quick) for source in (ToyData, PictureData))
    assert of_points == EvaluationConfig(**LEFT, effort="quick")
    few = {"num_noised": 60, "num_samples": 12}
    assert of_pictures == EvaluationConfig(**{**NUMBERS, **few}, effort="quick")
    fewer = EvaluationConfig(num_noised=11, num_samples=0, num_likelihood=0, effort="quick")
    assert fewer.limited(ToyData.quick) == fewer.model_copy(update={"num_real_pairs": 1})


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A trial that was judged quickly."""
    folder = tmp_path_factory.mktemp("judged") / "run"
    run_trial(_trial(), folder, device="cpu")
    return folder


@pytest.mark.parametrize("changes", JUDGED_OTHERWISE.values(), ids=JUDGED_OTHERWISE)
def test_a_model_judged_again_is_as_one_judged_so_at_once_and_is_not_trained(
    changes, judged, tmp_path
):
    run, before = copied(judged, tmp_path / "run"), written(judged)
    again = run_trial(_trial(**changes), run, device="cpu", on_progress=never)
    once = run_trial(_trial(**changes), tmp_path / "once", device="cpu")
    assert trial_content(run) == trial_content(tmp_path / "once")
    assert without_clock(again.row) == without_clock(once.row)
    assert load_trial(run) == again
    kept = before.keys() - {load_trial(judged).samples.relative_to(judged)}
    assert written(run).keys() - kept <= {again.samples.relative_to(run)}
    assert (run / WEIGHTS).read_bytes() == (judged / WEIGHTS).read_bytes()
    # It says when both were done, and training was done once.
    assert again.trained == load_trial(judged).trained
    assert again.trained.date <= again.judged.date


def test_a_fuller_judgement_answers_a_lesser_question(judged, tmp_path):
    run = copied(judged, tmp_path / "run")
    run_trial(_trial(effort="full"), run, device="cpu", on_progress=never)
    before = written(run)
    result = run_trial(_trial(), run, device="cpu", on_progress=never)
    assert result.config.evaluation.effort == "full"
    assert written(run) == before


def test_a_metric_is_measured_when_it_comes_or_changes_and_not_when_it_goes(
    judged, tmp_path, monkeypatch
):
    run, calls = copied(judged, tmp_path / "run"), []

    def width(x, y, generator):
        calls.append(len(x))
        return float(x.std() / y.std())

    metric = Metric("width", "W", "lower", width)
    with monkeypatch.context() as patched:
        for again in (metric, replace(metric, version=2)):
            patched.setitem(SAMPLE_METRICS, "width", again)
            for expected in (2, 0):  # of the model and of a real pair; then it is known
                calls.clear()
                row = run_trial(_trial(), run, device="cpu", on_progress=never).row
                assert len(calls) == expected
                assert row["width"] > 0
    before = written(run)
    assert run_trial(_trial(), run, on_progress=never).row["energy"] == row["energy"]
    assert written(run) == before


def test_nothing_of_an_earlier_judgement_is_left_beside_an_error(judged, tmp_path):
    run = copied(judged, tmp_path / "run")
    huge = {name: 1e30 * value for name, value in load_file(run / WEIGHTS).items()}
    save_file(huge, run / WEIGHTS)
    reseal(run)
    result = run_trial(_trial(num_samples=40), run, device="cpu", on_progress=never)
    assert "samples" in result.row["error"]
    assert not {"excess", "energy", "oracle"} & result.row.keys()
    assert result.levels == []
    assert not result.samples.exists()
    assert load_trial(run) == result


@pytest.mark.parametrize("error", [KeyboardInterrupt, partial(OSError, 28, "no room")])
def test_a_judgement_that_is_cut_off_anywhere_leaves_the_first_whole(judged, tmp_path, error):
    def fail(_):
        raise error()

    first, second, counted, number = trial_content(judged), None, [None], 0
    while len(counted) > number - 1:
        run = copied(judged, tmp_path / str(number))
        changes = disturbed(run, [number], fail, lambda each: each.kind in ("rename", "remove"))
        with suppress(KeyboardInterrupt, RunFolderError), changes as counted:
            run_trial(_trial(num_samples=40), run, device="cpu", on_progress=never)
        now = load_trial(run)
        assert now.samples.exists()
        if now.config.evaluation.num_samples == 150:
            assert trial_content(run) == first
        else:
            second = second or trial_content(run)
            assert trial_content(run) == second
        number += 1
    assert number > 3
    assert second is not None


def test_a_finished_study_is_judged_as_is_asked_and_alike(judged, tmp_path):
    diverging = {"name": "diverging", "family": "mlp", "params": 300, "learning_rate": 1e30}
    models = [_trial().model.model_dump(), diverging]
    folder, events = tmp_path / "run", []
    told = {"executor": one_by_one, "on_event": events.append}
    shutil.copytree(judged, folder / "trials" / _trial().id)
    (folder / "study.yaml").write_text(_study(models=models).to_yaml())
    quick = run_study(_study(models=models), folder, **told)
    events.clear()
    full = run_study(_study(models=models, effort="full"), folder, **told)
    # A trial that failed is over; the other is judged, and no step is taken.
    assert [(event.kind, event.trial) for event in events] == [("finished", _trial().id)]
    assert quick.rows["c2st"][0] != full.rows["c2st"][0]
    assert [trial.config.evaluation.effort for trial in full.trials] == ["full", "quick"]
    # Another quick look changes nothing, and what it adds is judged as fully as the rest.
    before = written(folder / "trials")
    again = run_study(_study(models=models), folder, **told)
    assert (len(events), written(folder / "trials")) == (1, before)
    pd.testing.assert_frame_equal(again.rows, full.rows)
    more = _study(models=models).model_copy(update={"seeds": 2})
    grown = run_study(more, folder, **told).trials
    assert {t.judgement.id for t in grown if t.judged} == {full.trials[0].judgement.id}
    assert load_study(folder).config.evaluation.effort == "full"
    # Of a study of which a part is judged otherwise, that part is not compared.
    one = folder / "trials" / more.trials()[0].id
    run_trial(_trial(effort="full", num_samples=40), one, device="cpu")
    rows = read_results(folder).rows
    assert rows["error"].tolist()[0] == "not run"
    assert math.isnan(rows["excess"][0])
    environment = folder / "environment.json"
    version = json.loads(environment.read_text()) | {"version": 2}
    environment.write_text(json.dumps(version))
    reseal(folder)
    before = contents(folder)
    for use in (load_study, partial(run_study, more, executor=one_by_one)):
        with refused(r"environment\.json' is of a folder of version 2", RunFolderError):
            use(folder=folder)
    assert contents(folder) == before  # nothing in it is written or deleted
