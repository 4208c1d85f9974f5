"""Whatever is killed, loses its power or cannot write: the same command goes on to the same end."""

import errno
import itertools
import json
import math
import os
from functools import partial
from pathlib import Path

import pytest

from disk import disturbed, is_hidden, power_cuts, watched
from kan_diffusion.evaluation.metrics import SAMPLE_METRICS
from kan_diffusion.formulas.explain import ExplainOptions, explain_run
from kan_diffusion.study.executors import Task
from kan_diffusion.study.executors.worker import attempt
from kan_diffusion.study.folder import CHECKPOINT, RESULT
from kan_diffusion.study.run import run_study
from kan_diffusion.study.trial import run_trial
from kan_diffusion.study.tuning import tune
from make import EVALUATION, contents, study, trial_content
from one_by_one import one_by_one

CONFIG = study(
    models=[{"family": "mlp", "params": 300}],
    training={"steps": 4, "batch_size": 16, "checkpoint_every": 2},
    sampling={"scheduler": "ddpm", "steps": 2},  # which pictures of the reverse process take, too
    evaluation={**EVALUATION, "num_samples": 20, "num_likelihood": 0, "moments": [0.0, 0.75]},
).pinned()
TRIAL = CONFIG.trials()[0]
NAME = Path("trials", TRIAL.id)


def _files(root):
    files = {path: content for path, content in contents(root).items() if content is not None}
    return {path: content for path, content in files.items() if not is_hidden(path)}


def _content(root):
    """All that is left for good, but what a clock decides; a checkpoint may be left over."""
    clocked = (RESULT, "environment.json", "results.parquet")
    files = {path: file for path, file in _files(root).items() if path.name != CHECKPOINT}
    trials = [path.parent for path in files if path.name == RESULT]
    kept = {path: file for path, file in files.items() if path.name not in clocked}
    return {path: trial_content(root / path) for path in trials}, kept, {*files}


def _write(root, files):
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


def _recorded(root, work):
    """All that is done to the files of a folder while a function works in it."""
    operations = []
    with watched(root, operations.append):
        work(root)
    return operations


@pytest.fixture(autouse=True, scope="module")
def few_metrics():
    """The metric that takes the longest is left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(SAMPLE_METRICS, "c2st")
        yield


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The folder of a finished study, and all that was done to its files."""
    root = tmp_path_factory.mktemp("recorded")
    return root, _recorded(root, partial(run_study, CONFIG, executor=one_by_one))


def _progress(files):
    """How many steps of the trial are kept; -1 for none, infinitely many when it is judged."""
    content = files.get(NAME / CHECKPOINT)
    if NAME / RESULT in files:
        return math.inf if json.loads(files[NAME / RESULT])["judged"] else TRIAL.training.steps + 1
    if not content:
        return -1
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return json.loads(header["__metadata__"]["state"])["step"]


def test_after_a_kill_or_power_cut_at_any_moment_the_same_study_ends_the_same(recorded, tmp_path):
    folder, operations = recorded
    wanted, seen, states = _content(folder), -1, {}
    for files, cuts in power_cuts(operations):
        # One operation later, the folder's sync, what was kept is safe.
        assert min(map(_progress, cuts)) >= seen
        seen = _progress(files)
        states |= {frozenset(state.items()): state for state in (files, *cuts)}
    assert seen == math.inf
    assert len(states) > 10
    for number, state in enumerate(states.values()):
        root = tmp_path / str(number)
        _write(root, state)
        if _progress(state) == math.inf:  # a trial is finished with its last file, or not at all
            assert _content(root / NAME) == _content(folder / NAME)
        run_study(CONFIG, root, executor=one_by_one)
        assert _content(root) == wanted
        assert not list((root / NAME).rglob("*.tmp*"))


def _search(root):
    training = {"steps": 10, "batch_size": 64}
    searched = study(models=[{"family": "mlp"}], budget={"amount": 300}, training=training)
    tune(searched, root, tries=2, executor=one_by_one)


def _explain(root, run):
    explain_run(run, root, ExplainOptions(max_edges=0, tune_steps=5, num_samples=20))


@pytest.mark.parametrize("last", ["tuned.json", "formulas.json"])
def test_after_a_kill_a_search_or_an_explanation_ends_the_same(last, runs, tmp_path):
    work = _search if last == "tuned.json" else partial(_explain, run=runs("readable"))
    operations = _recorded(tmp_path / "whole", work)
    states = [files for files, _ in power_cuts(operations) if Path(last) not in files]
    assert len(states) > 10
    for number, state in enumerate(states[:: len(states) // 3]):
        _write(tmp_path / str(number), state)
        work(tmp_path / str(number))
        assert _content(tmp_path / str(number)) == _content(tmp_path / "whole")


@pytest.mark.parametrize(
    ("fault", "kinds"),
    [
        (errno.ENOSPC, {"mkdir", "open", "write", "fsync", "rename"}),
        (errno.EIO, {"fsync", "remove", "rmdir"}),
    ],
)
def test_whichever_operation_fails_says_so_in_a_line_and_loses_nothing(
    fault, kinds, recorded, tmp_path
):
    def fail(operation):
        raise OSError(fault, os.strerror(fault), str(operation.path))

    wanted, events, states = _content(recorded[0] / NAME), [], []
    for number in itertools.count():
        root, kept = tmp_path / str(number), []

        def counts(operation, root=root, kept=kept):
            kept.append(_progress(_files(root)))
            return operation.kind in kinds

        with disturbed(root, [number], fail, counts) as counted:
            event = attempt(Task(TRIAL, root / NAME), "cpu", tell=lambda event: None)
        if len(counted) <= number:
            break
        events.append(event.kind)
        if event.kind == "failed":
            assert os.strerror(fault) in event.error
            assert "\n" not in event.error
        progress = _progress(_files(root))
        assert progress >= max(kept)
        left = _content(root / NAME), progress, {path.suffix for path in root.rglob(".*")}
        if left in states:
            continue
        states.append(left)
        run_trial(TRIAL, root / NAME, device="cpu")
        assert _content(root / NAME) == wanted
        assert not list(root.rglob("*.tmp*"))
    assert len(states) > 3
    assert set(events) <= {"finished", "failed"}
    assert events.count("failed") > len(events) / 2
