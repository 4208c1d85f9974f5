import numpy as np
import pandas as pd
import pytest

from helpers import refused
from kan_diffusion.errors import RunFolderError
from kan_diffusion.files import digest, sealed_json
from kan_diffusion.report.contents import CURVE_COLUMNS, LEVEL_COLUMNS, smoothed_curve
from kan_diffusion.report.gather import report_contents, runs_contents
from kan_diffusion.report.study import write_report
from kan_diffusion.study.folder import load_points
from kan_diffusion.study.results.rows import read_runs
from kan_diffusion.study.run import load_study
from runs import copied


@pytest.fixture
def changed(runs, tmp_path):
    """A study to be changed at will."""
    return copied(runs("study"), tmp_path / "study")


def test_contents_are_what_the_trials_left(runs):
    results = load_study(runs("study"))
    contents = report_contents(results, "again")
    assert set(contents.excess_by_level.columns) >= set(LEVEL_COLUMNS)
    assert set(contents.curves.columns) >= set(CURVE_COLUMNS)
    for trial in results.trials:
        row, seed = trial.row, trial.config.seed
        label = row["data"]
        levels = contents.levels_of(label).set_index(["name", "seed"]).loc[(row["name"], seed)]
        assert levels["excess"].mean() == pytest.approx(row["excess"], rel=1e-4)
        assert contents.floors[label] == pytest.approx(row["floor"])
        raw = pd.read_parquet(trial.folder / "curves.parquet")
        curve = contents.curves_of(label).set_index(["name", "seed"]).loc[(row["name"], seed)]
        steps, losses = smoothed_curve(raw["step"].to_numpy(), raw["loss"].to_numpy())
        np.testing.assert_allclose(curve["step"], steps)
        np.testing.assert_allclose(curve["loss"], losses)
        if seed == 0:
            drawn = load_points(trial.samples)[:50]
            np.testing.assert_array_equal(contents.samples[label, row["name"]], drawn)
    settings = dict(contents.settings)
    assert settings["training"].startswith("steps: 40, batch_size: 64")
    dates = [part.date[:10] for part in (results.trials[0].trained, results.trials[-1].judged)]
    assert settings["trained"].startswith(dates[0])
    assert settings["judged"].endswith(dates[1])
    assert ("data", "toy: moons, num_points: 200") in contents.settings


def test_the_reverse_process_at_moments_of_training_is_read(runs):
    contents = runs_contents(read_runs([runs("readable")]), "again")
    (moments,) = contents.trajectories.values()
    labels, panels = zip(*moments, strict=True)
    assert labels == ("step 0", "step 10", "step 20")
    exact = contents.exact["two-modes"]
    for moment in (*panels, exact):
        times, states = zip(*moment, strict=True)
        assert times == pytest.approx(np.linspace(1, 0, 11))
        # All start from the same noise.
        np.testing.assert_array_equal(states[0], panels[0][0][1])


def test_a_study_that_was_judged_quickly_says_that_it_is_a_first_look(runs, tmp_path):
    contents = report_contents(load_study(runs("study")), "again")
    text = write_report(contents, tmp_path, figures=False).read_text()
    said = "This is a first look: models were judged quickly, by few points, samples and trees."
    assert contents.warnings[0].startswith(said)
    assert said in text
    assert "A full judgement judges them again and trains none of them" in text


def test_too_few_seeds_to_call_a_difference_are_said(runs):
    (warning,) = [
        line
        for line in report_contents(load_study(runs("study")), "again").warnings
        if "seeds a model" in line
    ]
    assert warning.startswith("2 seeds a model: intervals are wide")
    assert warning.endswith(", and an exact paired test needs more to call a difference.")


def test_environment_is_that_of_the_run(changed):
    results, path = load_study(changed), changed / "environment.json"
    path.write_bytes(sealed_json({"version": 1, "processor": "an abacus"}, {}))
    with refused("has no digest of 'study.yaml'; run the study again", RunFolderError):
        report_contents(results, "again")
    digests = {name: digest(changed / name) for name in ("study.yaml", "results.parquet")}
    path.write_bytes(sealed_json({"version": 1, "processor": "an abacus"}, digests))
    assert report_contents(results, "again").environment == {"processor": "an abacus"}
    path.write_text("[")
    with refused(r"environment\.json' is not a list of versions", RunFolderError):
        report_contents(results, "again")


@pytest.mark.parametrize("name", ["curves.parquet", "samples-*.safetensors"])
def test_damaged_files_of_a_trial_are_named(changed, name):
    results = load_study(changed)
    (path,) = results.trials[0].folder.glob(name)
    path.write_bytes(b"no")
    with refused(f"{path.name}' cannot be read", RunFolderError):
        report_contents(results, "again")
    path.unlink()
    with refused(f"{path.name}' cannot be read", RunFolderError):
        report_contents(results, "again")
