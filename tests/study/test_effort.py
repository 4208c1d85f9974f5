"""How much is computed to judge a model is no part of a trial: it is judged again, not trained."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from helpers import refused
from kan_diffusion.data.toys import ToyData
from kan_diffusion.errors import RunFolderError
from kan_diffusion.pictures.sources import PictureData
from kan_diffusion.study.config import EvaluationConfig
from kan_diffusion.study.folder import prepare_trial_folder
from kan_diffusion.study.run import load_study, run_study
from kan_diffusion.study.trial import run_trial
from make import study, trial_content, without_clock, written

NUMBERS = {"num_noised": 3000, "num_samples": 150, "num_likelihood": 20, "num_real_pairs": 2}
LEFT = {"num_noised": 2000, "num_samples": 100, "num_likelihood": 10, "num_real_pairs": 1}
"""What the quick effort leaves of them."""


def _study(effort, **changes):
    evaluation = {**NUMBERS, "num_drawn": 50, "moments": [0.0], "effort": effort}
    return study(
        **{"evaluation": evaluation, "training": {"steps": 20, "batch_size": 64}, **changes}
    )


def _trial(effort):
    return _study(effort).trials()[1]


def _never(step, loss):
    raise AssertionError("it trains")


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


def test_a_trial_is_the_same_by_whatever_effort_it_is_judged():
    full, quick = _trial("full"), _trial("quick")
    assert (full.id, full.identity) == (quick.id, quick.identity)
    assert "effort" not in full.identity
    assert quick.judging == quick.evaluation.model_copy(update=LEFT)
    assert full.judging == full.evaluation


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A trial that was judged quickly, and the same one judged fully from the start."""
    folder = tmp_path_factory.mktemp("efforts")
    for effort in ("quick", "full"):
        run_trial(_trial(effort), folder / effort, device="cpu")
    return folder


def test_a_trial_judged_quickly_is_judged_again_and_not_trained_again(judged, tmp_path):
    folder = shutil.copytree(judged / "quick", tmp_path / "run")
    before, quick = written(folder), trial_content(folder)
    wanted = trial_content(judged / "full")
    assert quick["weights"] == wanted["weights"]
    for key in ("floor", "c2st", "energy_real", "nll"):  # from fewer points, trees and steps
        assert quick["row"][key] != wanted["row"][key], key
    result = run_trial(_trial("full"), folder, device="cpu", on_progress=_never)
    assert trial_content(folder) == wanted
    assert without_clock(result.row) == wanted["row"]
    after = written(folder)
    changed = {str(path) for path, time in after.items() if time != before.get(path)}
    assert changed == {"samples.safetensors", "trial.json"}
    assert before.keys() == after.keys()  # so no checkpoint came back
    same = "samples.safetensors"
    assert (folder / same).read_bytes() == (judged / "full" / same).read_bytes()


def test_a_trial_judged_fully_is_left_alone_by_a_quick_look(judged):
    before = written(judged / "full")
    result = run_trial(_trial("quick"), judged / "full", device="cpu", on_progress=_never)
    assert result.config.evaluation.effort == "full"
    assert written(judged / "full") == before


def test_a_study_is_judged_fully_in_the_folder_of_its_first_look(judged, tmp_path, executor):
    models = [
        _trial("quick").model.model_dump(),
        {"name": "diverging", "family": "mlp", "params": 300, "learning_rate": 1e30},
    ]
    folder, plans, events = tmp_path / "run", [], []
    told = {"executor": executor, "on_plan": plans.append, "on_event": events.append}
    trial = _trial("quick").id
    shutil.copytree(judged / "quick", folder / "trials" / trial)
    (folder / "study.yaml").write_text(_study("quick", models=models).to_yaml())
    quick = run_study(_study("quick", models=models), folder, **told)
    assert [each.model.name for each in plans[0].to_run] == ["diverging"]
    events.clear()
    full = run_study(_study("full", models=models), folder, **told)
    assert load_study(folder).config.evaluation.effort == "full"
    # A trial that failed is over; the other is judged, and no step is taken.
    assert [each.model.name for each in plans[1].to_run] == ["MLP"]
    assert [(event.kind, event.trial) for event in events] == [("finished", trial)]
    assert trial_content(folder / "trials" / trial) == trial_content(judged / "full")
    row, wanted = full.rows.to_dict("records")[0], trial_content(judged / "full")["row"]
    known = {key: value for key, value in wanted.items() if value is not None}
    assert {key: row[key] for key in known} == known
    assert quick.rows["c2st"][0] != row["c2st"]
    # Another quick look changes nothing.
    before = written(folder / "trials")
    again = run_study(_study("quick", models=models), folder, **told)
    assert len(events) == 1
    assert written(folder / "trials") == before
    pd.testing.assert_frame_equal(again.rows, full.rows)


def test_a_judgement_that_was_killed_is_made_again_and_seals_no_damage(judged, tmp_path):
    for name in ("samples.safetensors", "denoiser/diffusion_pytorch_model.safetensors"):
        run = Path(shutil.copytree(judged / "quick", tmp_path / Path(name).stem))
        (run / name).write_bytes((judged / "full" / name).read_bytes()[:-4] + b"half")
        if name.startswith("samples"):
            with refused("not what the run wrote", RunFolderError):
                run_trial(_trial("quick"), run, device="cpu")
            prepare_trial_folder(run, _trial("full"))
            result = run_trial(_trial("full"), run, device="cpu", on_progress=_never)
            assert trial_content(run) == trial_content(judged / "full")
            assert run_trial(_trial("full"), run, device="cpu").row == result.row
        else:
            with refused("not what the run wrote", RunFolderError):
                run_trial(_trial("full"), run, device="cpu")
