"""Studies that go on from their rows alone."""

import shutil

import pandas as pd
import pytest

from kan_diffusion.study.planning import plan_study
from kan_diffusion.study.run import load_study, run_study
from make import study
from one_by_one import OneByOne

DIVERGING = {"name": "diverging", "family": "mlp", "params": 300, "learning_rate": 1e30}


def _study(**changes):
    """A tiny study of three models, the first of which diverges."""
    models = [DIVERGING, *study().model_dump(include={"models"})["models"]]
    return study(**{"models": models, **changes})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, executor):
    return run_study(_study(), tmp_path_factory.mktemp("study") / "run", executor=executor)


def test_a_study_goes_on_from_its_rows_alone(undisturbed, tmp_path, executor):
    # What is committed of a study: its files, and no folder of a trial.
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("study.yaml", "results.parquet"):
        shutil.copy(undisturbed.folder / name, folder)
    assert run_study(_study(), folder, executor=executor, keep_rows=True).trials == ()
    assert not (folder / "trials").exists()
    read = load_study(folder)
    pd.testing.assert_frame_equal(read.rows, undisturbed.rows, check_dtype=False)

    events = []
    grown = run_study(
        _study(seeds=2), folder, executor=executor, on_event=events.append, keep_rows=True
    )
    assert {event.trial for event in events} == {t.id for t in grown.config.trials() if t.seed}
    assert grown.failures == {}
    pd.testing.assert_frame_equal(
        grown.rows.iloc[:3], undisturbed.rows, check_dtype=False, check_names=False
    )
    assert grown.rows["excess"].notna().tolist() == [False, True, True] * 2
    # The rows that came last need their folders no longer, either.
    shutil.rmtree(folder / "trials")
    pd.testing.assert_frame_equal(load_study(folder).rows, grown.rows, check_dtype=False)
    # Who does not ask for rows has every trial whose folder is gone run again.
    plan = plan_study(_study(seeds=2), folder)
    assert len(plan.to_run) == 6


def test_rows_are_kept_while_a_study_runs(tmp_path, monkeypatch):
    class StoppedError(Exception):
        pass

    def stop(event):
        if len(rows()) == 1:
            raise StoppedError

    def rows():
        path = tmp_path / "run" / "results.parquet"
        return pd.read_parquet(path) if path.exists() else pd.DataFrame()

    study = _study(models=[DIVERGING], seeds=3)
    monkeypatch.setattr("kan_diffusion.study.planning._SECONDS_BETWEEN", 0.0)
    executor = OneByOne(workers=1, device="cpu")
    with pytest.raises(StoppedError):
        run_study(study, tmp_path / "run", executor=executor, on_event=stop, keep_rows=True)
    assert rows()["seed"].tolist() == [0]
    shutil.rmtree(tmp_path / "run" / "trials")
    events = []
    results = run_study(
        study, tmp_path / "run", executor=OneByOne(workers=1, device="cpu"),
        on_event=events.append, keep_rows=True,
    )  # fmt: skip
    assert [event.trial for event in events] == [t.id for t in study.trials() if t.seed > 0]
    assert results.rows["error"].str.contains("lower the learning rate").all()


def test_rows_of_trials_that_a_study_has_no_longer_stay(tmp_path):
    settings = {"executor": OneByOne(workers=1, device="cpu"), "keep_rows": True}
    study = _study(models=[DIVERGING], seeds=2)
    whole = run_study(study, tmp_path, **settings).rows
    shutil.rmtree(tmp_path / "trials")
    fewer = _study(models=[DIVERGING])
    assert len(run_study(fewer, tmp_path, **settings).rows) == len(load_study(tmp_path).rows) == 1
    events = []
    again = run_study(study, tmp_path, on_event=events.append, **settings).rows
    assert events == []
    pd.testing.assert_frame_equal(again, whole, check_dtype=False)
