import errno
import itertools
import json
import math
import os
from pathlib import Path

import pytest

from disk import is_hidden, power_cuts, watched
from kan_diffusion.study.executors.base import Task, attempt
from kan_diffusion.study.folder import CHECKPOINT, RESULT
from kan_diffusion.study.trial import run_trial
from make import EVALUATION, study, trial_content

NAME = Path("trials", "one")


@pytest.fixture(scope="module")
def trial():
    config = study(
        models=[{"family": "kan", "params": 600}],
        training={"steps": 4, "batch_size": 16, "checkpoint_every": 2},
        evaluation={**EVALUATION, "num_samples": 20, "num_drawn": 20, "moments": [0.0, 0.75]},
    )
    return config.pinned().trials()[0]


@pytest.fixture(scope="module")
def recorded(trial, tmp_path_factory):
    """The folder of a finished trial, and all that was done to its files."""
    root, operations = tmp_path_factory.mktemp("recorded"), []
    with watched(root, operations.append):
        run_trial(trial, root / NAME, device="cpu")
    return root / NAME, operations


def _content(folder):
    """All that a trial leaves for good, but what a clock decides; a checkpoint may be left over."""
    others = (RESULT, "SHA256SUMS", CHECKPOINT)
    files = [path for path in folder.rglob("[!.]*") if path.is_file() and path.name not in others]
    return trial_content(folder), {path.relative_to(folder): path.read_bytes() for path in files}


def _progress(files):
    """How many steps of a trial are kept; infinitely many when it is finished, -1 for none."""
    content = files.get(NAME / CHECKPOINT)
    if RESULT in {path.name for path in files}:
        return math.inf
    if not content:
        return -1
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return json.loads(header["__metadata__"]["progress"])["step"]


def _files(root):
    files = {path.relative_to(root): path for path in root.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not is_hidden(name)}


def test_after_a_power_cut_at_any_moment_the_same_command_ends_the_same(recorded, trial, tmp_path):
    folder, operations = recorded
    wanted, seen, states = _content(folder), -1, {}
    for files, cuts in power_cuts(operations):
        # One operation later, the folder's sync, what was kept is safe.
        assert min(map(_progress, cuts)) >= seen
        seen = _progress(files)
        states |= {frozenset(cut.items()): cut for cut in cuts}
    assert seen == math.inf
    assert len(states) > 10
    for number, state in enumerate(states.values()):
        root = tmp_path / str(number)
        for path, content in state.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        run_trial(trial, root / NAME, device="cpu")
        assert _content(root / NAME) == wanted


@pytest.mark.parametrize(
    ("fault", "kinds"),
    [
        (errno.ENOSPC, {"mkdir", "open", "write", "fsync", "rename"}),
        (errno.EIO, {"fsync", "remove", "rmdir"}),
    ],
)
def test_whichever_operation_fails_says_so_in_a_line_and_loses_nothing(
    fault, kinds, recorded, trial, tmp_path
):
    folder, operations = recorded
    wanted, failed = _content(folder), 0
    numbers = [number for number, each in enumerate(operations) if each.kind in kinds]
    for number in numbers:
        root, count, kept = tmp_path / str(number), itertools.count(), []

        def fail(operation, root=root, count=count, kept=kept, number=number):
            kept.append(_progress(_files(root)))
            if next(count) == number:
                raise OSError(fault, os.strerror(fault), str(operation.path))

        with watched(root, fail):
            event = attempt(Task(trial, root / NAME), "cpu", tell=lambda event: None)
        assert event.kind in ("finished", "failed")
        if event.kind == "failed":
            failed += 1
            assert os.strerror(fault) in event.error
            assert "\n" not in event.error
        assert _progress(_files(root)) >= max(kept)
        run_trial(trial, root / NAME, device="cpu")
        assert _content(root / NAME) == wanted
        assert not list(root.rglob("*.tmp*"))
    assert failed > len(numbers) / 2
