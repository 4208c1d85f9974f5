import errno
import fcntl
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from disk import disturbed
from helpers import randn, refused
from kan_diffusion.diffusion.sampling import PointDiffusionPipeline
from kan_diffusion.errors import RunFolderError
from kan_diffusion.files import read_json, write_parquet
from kan_diffusion.processes import get_process
from kan_diffusion.study.folder import (
    Trained,
    TrialResult,
    TrialTakenError,
    _save_pipeline,
    claimed,
    keep_trial,
    load_points,
    load_trial,
    prepare_trial_folder,
    read_record,
    recorded_steps,
    replaced_trial,
    save_points,
    write_record,
)
from kan_diffusion.study.named import single_trial
from kan_diffusion.study.trial import run_trial
from make import contents, denoiser, reseal
from runs import copied


@pytest.fixture(scope="module")
def config():
    return single_trial("moons", family="mlp", params=400)


def _finish(folder, config, error=None):
    row = {**config.keys, "parameters": 400, "error": error}
    result = TrialResult(config, folder, Trained(row=row))
    keep_trial(result)
    return result


def test_a_trial_is_read_back_where_there_is_one(tmp_path, config):
    assert load_trial(tmp_path) is None
    assert load_trial(tmp_path / "missing") is None
    kept = _finish(tmp_path, config)
    assert load_trial(tmp_path) == kept
    assert (kept.config.id, kept.folder, kept.judged) == (config.id, tmp_path, None)


PARTS = '"version": 1, "trained": {"date": "", "row": {}}, "judged": null'


@pytest.mark.parametrize("text", ["", "[]", '{"version": 1}', f'{{{PARTS}, "config": 1}}'])
def test_damaged_trial_is_one_line(tmp_path, text):
    (tmp_path / "trial.json").write_text(text)
    with refused(r"trial\.json' is not (the result of a trial|what the run wrote)"):
        load_trial(tmp_path)
    if text.startswith("{"):
        reseal(tmp_path)
        with refused(r"trial\.json'.* (config: Field required|valid dictionary)"):
            load_trial(tmp_path)


def test_a_folder_of_another_version_is_refused_and_left_alone(tmp_path, config):
    _finish(tmp_path, config)
    path = tmp_path / "trial.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    reseal(tmp_path)
    before = contents(tmp_path)
    said = "trial.json' is of a folder of version 2, and this is version 1; choose another"
    for use in (
        load_trial,
        partial(run_trial, config),
        partial(prepare_trial_folder, config=config),
        partial(prepare_trial_folder, config=config, fresh=True),
    ):
        with refused(said, RunFolderError):
            use(folder=tmp_path)
    assert contents(tmp_path) == before


def test_a_trial_is_what_the_run_wrote_to_the_last_bit(tmp_path, config):
    save_points(tmp_path / "reverse" / "5.safetensors", randn(3, 7, 2, dtype=torch.float32))
    _finish(tmp_path, config)
    files = [tmp_path / "trial.json", tmp_path / "reverse" / "5.safetensors"]
    for path in files:
        content = path.read_bytes()
        for place in range(0, len(content), 7):
            bit = content[place] ^ 1 << place % 8
            path.write_bytes(content[:place] + bytes([bit]) + content[place + 1 :])
            with refused(f"'{path}' (is not|cannot be read)", RunFolderError):
                load_trial(tmp_path)
        path.write_bytes(content[:-1])
        with refused(f"'{path}' is not what the run wrote", RunFolderError):
            load_trial(tmp_path)
        path.write_bytes(content)
    assert load_trial(tmp_path) is not None
    save_points(tmp_path / "reverse" / "6.safetensors", randn(3, 7, 2, dtype=torch.float32))
    with refused("has no digest of 'reverse/6.safetensors'; move that file", RunFolderError):
        load_trial(tmp_path)


def test_points_are_read_back_and_damaged_ones_are_refused(tmp_path):
    points = randn(3, 7, 2, dtype=torch.float32)
    path = tmp_path / "reverse" / "5.safetensors"
    save_points(path, points.transpose(0, 1))  # not contiguous, as slices of larger tensors are
    np.testing.assert_array_equal(load_points(path), points.transpose(0, 1).numpy())
    save_points(tmp_path / "reverse" / "10.safetensors", points)
    (tmp_path / "reverse" / ".10.safetensors.x.tmp.safetensors").write_bytes(b"")
    assert recorded_steps(tmp_path) == [5, 10]
    assert recorded_steps(tmp_path / "reverse") == []
    for content in (b"", b"not safetensors", None):
        path.unlink() if content is None else path.write_bytes(content)
        with refused(r"5\.safetensors' cannot be read", RunFolderError):
            load_points(path)


def test_folders_that_are_welcome_and_those_that_are_refused(tmp_path, config):
    def prepare(name):
        prepare_trial_folder(tmp_path / name, config)

    prepare("new/folder")
    assert not (tmp_path / "new").exists()  # a check makes nothing
    for name in ("hidden/.env", "begun/checkpoint.safetensors", "file"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    _finish(tmp_path / "finished", config)
    for name in ("hidden", "begun", "finished"):
        prepare(name)
    _finish(tmp_path / "run", config.model_copy(update={"seed": 9}))
    for name, message in (
        ("file", "is a file; choose a folder"),
        (".", "holds other files and no run"),
        ("run", r"moons · MLP · seed 9 \(seed 9, not 0\); choose another folder, or train afresh"),
    ):
        with refused(message, RunFolderError):
            prepare(name)


def test_a_trial_is_cleared_where_that_is_asked_for_and_other_files_stay(tmp_path, config):
    (tmp_path / "samples.csv").write_text("")
    (tmp_path / "denoiser").mkdir()
    write_parquet(tmp_path / "curves.parquet", pd.DataFrame({"step": [1]}))
    _finish(tmp_path, config)
    prepare_trial_folder(tmp_path, config.model_copy(update={"seed": 9}), fresh=True)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "samples.csv", "denoiser"}
    # Of one that does not say what it wrote, nothing is deleted.
    write_parquet(tmp_path / "curves.parquet", pd.DataFrame({"step": [1]}))
    _finish(tmp_path, config)
    (tmp_path / "trial.json").write_text("{}")
    with refused(r"trial\.json' is not what the run wrote.*delete", RunFolderError):
        prepare_trial_folder(tmp_path, config, fresh=True)
    (tmp_path / "trial.json").unlink()
    for fresh in (True, False):
        with refused("holds other files and no run", RunFolderError):
            prepare_trial_folder(tmp_path, config, fresh=fresh)
    assert (tmp_path / "curves.parquet").exists()


def test_no_file_of_the_user_is_cleared_or_swept(tmp_path, config):
    theirs = [".env.tmpl", ".pipelines/ci.yml", ".notes.tmp/keep.txt", "weights/resnet.safetensors"]
    for name in theirs:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("of the user")
    left = tmp_path / ".trial.json.0123abcd.tmp.json"
    left.touch()
    _finish(tmp_path, config)
    with claimed(tmp_path), refused("another process is running the trial", TrialTakenError):
        prepare_trial_folder(tmp_path, config, fresh=True)
    assert (tmp_path / "trial.json").exists()
    prepare_trial_folder(tmp_path, config, fresh=True)
    assert not left.exists()
    assert not (tmp_path / "trial.json").exists()
    assert all((tmp_path / name).read_text() == "of the user" for name in theirs)


def test_a_record_that_another_process_replaces_while_it_is_read_is_the_new_one(
    tmp_path, monkeypatch
):
    path, replacing = tmp_path / "record.json", [{"state": "trained"}, {"state": "judged"}]
    write_record(path, replacing.pop(0), [])

    def slowly(*arguments):
        content = read_json(*arguments)
        if replacing:
            write_record(path, replacing.pop(), [])
        return content

    monkeypatch.setattr("kan_diffusion.study.folder.read_json", slowly)
    assert read_record(path, "a record", (), "make it anew") == {"state": "judged"}


@pytest.mark.parametrize("link", [True, False])
def test_who_runs_a_trial_is_written_to_no_other_file(tmp_path, config, link):
    (tmp_path / "run").mkdir()
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("of the user")
    os.link(thesis, tmp_path / "run" / ".holder") if link else os.mkfifo(tmp_path / "run/.holder")
    with claimed(tmp_path / "run"):
        assert (tmp_path / "run" / ".holder").is_file()
    assert thesis.read_text() == "of the user"


def test_drivers_share_a_study_and_refuse_another_and_say_whose_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("kan_diffusion.study.folder._STARTING_SECONDS", 0.01)
    who = f"{socket.gethostname()}:{os.getpid()}"
    other = refused(rf"another study in '{tmp_path}' \({who}\); wait", TrialTakenError)
    with claimed(tmp_path, "seeds: 2"), claimed(tmp_path, "seeds: 2"), other:
        claimed(tmp_path, "seeds: 3").__enter__()
    with claimed(tmp_path, "seeds: 3"):  # one after the other may

        def no_locks(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", no_locks)
        with refused("the disk of '.*new' has no locks.* choose another folder", RunFolderError):
            claimed(tmp_path / "new").__enter__()
        monkeypatch.undo()
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "new"}


def _pipeline(value):
    """A pipeline all of whose weights are the same number."""
    names = {"activation": "silu" if value == 1 else "relu"}
    process, model = get_process("cosine"), denoiser(settings=names, num_train_timesteps=1000)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, value)
    return PointDiffusionPipeline(model, process, (value, value), (1.0, 1.0), ("x", "y"))


def _weights(pipeline):
    """The numbers that are its weights."""
    state = pipeline.denoiser.state_dict().values()
    return {number for values in state for number in values.flatten().tolist()}


@pytest.mark.parametrize("error", [KeyboardInterrupt, partial(OSError, errno.ENOSPC, "no room")])
def test_a_trial_kept_over_another_is_the_old_one_or_the_new_one(tmp_path, config, error):
    def keep(value, folder):
        row = {**config.keys, "parameters": 400, "error": None}
        with replaced_trial(folder) as new:
            keep_trial(TrialResult(config, new, Trained(row=row)), pipelines[value])

    def fail(_):
        raise error()

    pipelines = {value: _pipeline(value) for value in (1.0, 2.0)}
    keep(1.0, tmp_path / "old")
    read, renames = [], [None]
    while len(renames) >= len(read):
        folder = copied(tmp_path / "old", tmp_path / str(len(read)))
        numbers = range(len(read), 1000)
        changes = disturbed(folder, numbers, fail, lambda each: each.kind in ("rename", "remove"))
        with suppress(KeyboardInterrupt, RunFolderError, OSError), changes as renames:
            keep(2.0, folder)
        before = load_trial(folder).folder  # reading changes nothing
        with claimed(folder):  # whoever runs the trial next
            assert not list(folder.rglob(".*.tmp*")) + list(folder.rglob(".pipeline*"))
        assert before in (folder, folder / ".whole")
        assert load_trial(folder).folder == folder
        pipeline = PointDiffusionPipeline.from_pretrained(folder)
        settings = {"silu": 1.0, "relu": 2.0}[pipeline.denoiser.config.activation]
        read.append(_weights(pipeline) | {settings, *pipeline.standardizer.mean})
    assert all(values in ({1.0}, {2.0}) for values in read), read  # the old or the new one
    assert (read[0], read[-1]) == ({1.0}, {2.0})


def test_pipelines_saved_by_several_at_once_are_never_missing(tmp_path):
    pipelines = [_pipeline(1.0), _pipeline(2.0)]
    _save_pipeline(pipelines[0], tmp_path)
    names = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    assert Path("denoiser/config.json") in names

    def save(pipeline):
        for _ in range(15):
            _save_pipeline(pipeline, tmp_path)

    with ThreadPoolExecutor(2) as pool:
        saving = [pool.submit(save, pipeline) for pipeline in pipelines]
        while not all(future.done() for future in saving):
            assert all((tmp_path / name).exists() for name in names)
            read = PointDiffusionPipeline.from_pretrained(tmp_path)
            assert _weights(read) in ({1.0}, {2.0})
        for future in saving:
            future.result()
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*")} == names
