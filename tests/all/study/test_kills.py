import json
import os
import signal
from functools import partial

import pytest

from commands import context
from kan_diffusion.study.folder import load_trial
from kan_diffusion.study.tuning import tune
from kills import WAIT, drive, explain, run_until
from make import study, trial_content
from one_by_one import one_by_one

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")
KILLED = -signal.SIGKILL


def test_a_search_that_is_killed_loses_no_try(tmp_path):
    training = {"steps": 10, "batch_size": 64}
    config = study(models=[{"family": "mlp"}], budget={"amount": 300}, training=training)
    search = partial(tune, tries=2, executor=one_by_one)
    for write in (3, 6, 9, 12):
        assert run_until(write, tmp_path, search, config, tmp_path) == KILLED
        assert not (tmp_path / "tuned.json").exists()
    tries = search(config, tmp_path).tries["mlp"]
    assert [each.error for each in tries] == [None, None]
    for trial in (trial for each in tries for trial in each.trials):
        assert load_trial(tmp_path / "trials" / trial) is not None


def test_an_explanation_that_is_killed_is_made_again(runs, tmp_path):
    explain(runs("readable"), tmp_path / "undisturbed")
    write, out = 0, tmp_path / "out"
    while (code := run_until(write, out, explain, runs("readable"), out)) == KILLED:
        write += 5
    assert code == 0
    assert write > 5
    made, wanted = (
        json.loads((place / "formulas.json").read_text())
        for place in (out, tmp_path / "undisturbed")
    )
    assert made == wanted
    again, once = (trial_content(place / "simplified") for place in (out, tmp_path / "undisturbed"))
    assert again == once


def test_two_drivers_train_no_trial_twice(tmp_path):
    models = [
        {"name": name, "family": f"troubles:{family}", "params": 600}
        for name, family in (("KAN", "UNDISTURBED_KAN"), ("MLP", "UNDISTURBED"))
    ]
    training = {"steps": 12, "batch_size": 64, "checkpoint_every": 4}
    config = study(seeds=2, training=training, models=models).pinned()
    folder, log = tmp_path / "run", tmp_path / "log"
    drivers = [context.Process(target=drive, args=(config, folder, log)) for _ in range(2)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join(WAIT)
        assert driver.exitcode == 0
    assert sorted(log.read_text().split()) == sorted(trial.id for trial in config.trials())
