import errno
import itertools
import json
import math
import os
from pathlib import Path

import pytest

from disk import disturbed, is_hidden, power_cuts, watched
from kan_diffusion.study.executors import Task
from kan_diffusion.study.executors.worker import attempt
from kan_diffusion.study.folder import CHECKPOINT, RESULT
from kan_diffusion.study.run import run_study
from kan_diffusion.study.trial import run_trial
from make import EVALUATION, contents, study, trial_content

CONFIG = study(
    models=[{"family": "mlp", "params": 300}],
    training={"steps": 4, "batch_size": 16, "checkpoint_every": 2},
    sampling={"scheduler": "ddpm", "steps": 2},  # which pictures of the reverse process take, too
    evaluation={**EVALUATION, "num_samples": 20, "num_likelihood": 0, "moments": [0.0, 0.75]},
).pinned()
TRIAL = CONFIG.trials()[0]
NAME = Path("trials", TRIAL.id)


@pytest.fixture(scope="module")
def recorded(executor, tmp_path_factory):
    """The folder of a finished study, and all that was done to its files."""
    root, operations = tmp_path_factory.mktemp("recorded"), []
    with watched(root, operations.append):
        run_study(CONFIG, root, executor=executor)
    return root, operations


def _files(root):
    files = {path: content for path, content in contents(root).items() if content is not None}
    return {path: content for path, content in files.items() if not is_hidden(path)}


def _content(root, below="."):
    """All that is left for good, but what a clock decides; a checkpoint may be left over."""
    others = (RESULT, CHECKPOINT, "environment.json", "results.parquet")
    files = {name: file for name, file in _files(root).items() if name.is_relative_to(below)}
    kept = {name: file for name, file in files.items() if name.name not in others}
    return trial_content(root / NAME), kept, {name.name for name in files} - {CHECKPOINT}


def _progress(files):
    """How many steps of the trial are kept; -1 for none, infinitely many when it is judged."""
    content = files.get(NAME / CHECKPOINT)
    if NAME / RESULT in files:
        return math.inf if json.loads(files[NAME / RESULT])["judged"] else TRIAL.training.steps + 1
    if not content:
        return -1
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return json.loads(header["__metadata__"]["state"])["step"]


def test_after_a_kill_or_power_cut_at_any_moment_the_same_command_ends_the_same(
    recorded, executor, tmp_path
):
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
        for path, content in state.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        if _progress(state) == math.inf:  # a trial is finished with its last file, or not at all
            assert _content(root, NAME) == _content(folder, NAME)
        run_study(CONFIG, root, executor=executor)
        assert _content(root) == wanted
        assert not list((root / NAME).rglob("*.tmp*"))


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

    wanted, events = _content(recorded[0], NAME), []
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
        assert _progress(_files(root)) >= max(kept)
        run_trial(TRIAL, root / NAME, device="cpu")
        assert _content(root, NAME) == wanted
        assert not list(root.rglob("*.tmp*"))
    assert set(events) <= {"finished", "failed"}
    assert events.count("failed") > len(events) / 2
