import json
import math
import shutil
from itertools import pairwise

import pytest

from helpers import refused
from kan_diffusion.errors import RunFolderError
from kan_diffusion.study import rehearsal
from kan_diffusion.study.budgets import SIZES, Budget
from kan_diffusion.study.folder import load_trial
from kan_diffusion.study.planning import CHOSEN_SIZES
from kan_diffusion.study.rehearsal import rehearse
from kan_diffusion.study.run import load_study, run_study
from make import EVALUATION, study

SMALL, LARGE = 600, 900
BUDGET = {"match": "time", "amount": 0.5}  # far more than the first steps take


@pytest.fixture(autouse=True)
def _two_sizes(monkeypatch):
    """One size that nothing has and two more."""
    monkeypatch.setattr(rehearsal, "SIZES", (3, SMALL, LARGE))


def _study(**changes):
    """Two models of free size with half a second."""
    return study(
        **{
            "data": [{"toy": "moons", "num_points": 200}],
            "models": [{"family": "kan"}, {"family": "mlp"}],
            "budgets": [BUDGET],
            "evaluation": {**EVALUATION, "num_samples": 0, "num_likelihood": 0, "moments": []},
            **changes,
        }
    ).pinned()


def _rehearsals(folder):
    found = [load_trial(path) for path in (folder / "rehearsals" / "trials").iterdir()]
    return [trial for trial in found if trial is not None]


def test_each_model_keeps_the_size_that_served_it_best(tmp_path, executor):
    results = run_study(_study(seeds=2), tmp_path, executor=executor)
    rehearsals = _rehearsals(tmp_path)
    places = {}
    for trial in rehearsals:
        assert trial.config.study_seed == 1_000_000  # of no reported trial
        places.setdefault((trial.config.data.name, trial.config.model.name), []).append(trial)
    assert len(places) == 2
    for (data, model), tried in places.items():
        assert {trial.config.model.params for trial in tried} == {SMALL, LARGE}
        best = min(tried, key=lambda trial: trial.row["excess"])
        reported = [t for t in results.trials if (t.row["data"], t.row["name"]) == (data, model)]
        assert len(reported) == 2
        for trial in reported:
            assert trial.config.model.params == best.config.model.params
            assert trial.row["parameters"] == best.row["parameters"]
            assert trial.config.study_seed == 0
    again = load_study(tmp_path)
    assert [trial.config for trial in again.trials] == [trial.config for trial in results.trials]

    # The same command finds everything settled, also without the rehearsals.
    events = []
    plans = []
    told = {"on_plan": plans.append, "on_event": events.append}
    run_study(_study(seeds=2), tmp_path, executor=executor, **told)
    assert events == []
    assert [len(plan.to_run) for plan in plans] == [0]

    # One more model is rehearsed alone; the others stay as they were.
    deep = {"family": "mlp", "name": "deep", "depth": 7}
    more = _study(seeds=2, models=[{"family": "kan"}, {"family": "mlp"}, deep])
    settled = rehearse(more, tmp_path, executor, **told)
    assert {event.trial for event in events} <= {
        trial.config.id for trial in _rehearsals(tmp_path) if trial.config.model.name == "deep"
    }
    assert events
    assert {trial.id for trial in settled.trials()} >= {t.config.id for t in results.trials}
    assert len(json.loads((tmp_path / CHOSEN_SIZES).read_text())) == 3


def test_a_model_with_other_settings_is_rehearsed_again(tmp_path, executor):
    rehearse(_study(), tmp_path, executor)
    (tmp_path / "study.yaml").write_text(_study().to_yaml())
    before = {trial.config.id for trial in _rehearsals(tmp_path)}
    chosen = json.loads((tmp_path / CHOSEN_SIZES).read_text())
    (tmp_path / CHOSEN_SIZES).write_text(json.dumps(dict.fromkeys(chosen, 5)))
    models = [{"family": "kan"}, {"family": "mlp", "learning_rate": 0.02}]
    settled = rehearse(_study(models=models), tmp_path, executor)
    kan, mlp = settled.trials()
    assert (kan.model.params, mlp.model.params in (SMALL, LARGE)) == (5, True)
    new = [trial.config for trial in _rehearsals(tmp_path) if trial.config.id not in before]
    assert {trial.model.learning_rate for trial in new} == {0.02}


def test_what_has_a_size_keeps_it(tmp_path, executor):
    models = [{"family": "mlp", "params": 700}, {"family": "mlp", "name": "free"}]
    settled = rehearse(_study(models=models, budgets=[BUDGET]), tmp_path, executor)
    first, second = settled.trials()
    assert (first.model.params, second.model.params in (SMALL, LARGE)) == (700, True)
    assert {trial.config.model.name for trial in _rehearsals(tmp_path)} == {"free"}
    given = [{**BUDGET, "params": 700}, {"amount": 700}]
    sized = _study(models=models[1:], budgets=given)
    assert rehearse(sized, tmp_path / "given", executor) == sized
    assert not (tmp_path / "given").exists()
    plain = _study(models=models[1:], budgets=[{"amount": 700}])
    assert rehearse(plain, tmp_path / "plain", executor) == plain
    assert not (tmp_path / "plain").exists()


def test_rehearsals_are_settled_again_unless_they_were_changed(tmp_path, executor):
    settled = rehearse(_study(), tmp_path, executor, keep_rows=True)
    (tmp_path / CHOSEN_SIZES).unlink()  # as if they were not over
    for file in (tmp_path / "rehearsals").glob("trials/*/curves.parquet"):
        file.write_bytes(b"")
    with refused("--unverified", RunFolderError):
        rehearse(_study(), tmp_path, executor)
    assert rehearse(_study(), tmp_path, executor, verify=False) == settled
    # A clone has no trials, and their rows are enough.
    (tmp_path / CHOSEN_SIZES).unlink()
    shutil.rmtree(tmp_path / "rehearsals" / "trials")
    events = []
    again = rehearse(_study(), tmp_path, executor, on_event=events.append, keep_rows=True)
    assert (events, again) == ([], settled)


def test_rehearsals_that_settle_nothing_are_one_line(tmp_path, executor, monkeypatch):
    mlp = {"family": "mlp", "name": "M"}
    wild = _study(models=[{**mlp, "learning_rate": 1e30}])
    with refused("no rehearsal of 'M' on 'moons' gave a result; .*lower the learning rate"):
        rehearse(wild, tmp_path / "wild", executor)
    (tmp_path / CHOSEN_SIZES).write_text("[]")
    with refused("is not a file of sizes", RunFolderError):
        rehearse(_study(), tmp_path, executor)
    monkeypatch.setattr(rehearsal, "SIZES", (3,))
    with refused("model 'KAN' on 'moons' fits no size: .*too small"):
        rehearse(_study(), tmp_path / "none", executor)


def test_sizes_are_a_ladder_of_about_the_same_ratio():
    steps = [math.log(after / before) for before, after in pairwise(SIZES)]
    assert min(steps) > 0.7
    assert max(steps) < 1
    assert Budget(match="time", amount=6).size == {}
