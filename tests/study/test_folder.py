from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from kan_diffusion.errors import KanDiffusionError, RunFolderError
from kan_diffusion.files import write_json
from kan_diffusion.study.config import TrialConfig
from kan_diffusion.study.folder import (
    load_points,
    load_trial,
    recorded_steps,
    require_trial_folder,
    save_points,
)
from kan_diffusion.study.named import single_trial


@pytest.fixture
def config() -> TrialConfig:
    return single_trial("moons", family="mlp", params=400)


def _finish(folder: Path, config: TrialConfig, error: str | None = None) -> None:
    row = {"name": config.model.name, "error": error}
    write_json(
        folder / "trial.json", {"config": config.model_dump(mode="json"), "row": row, "levels": []}
    )


def test_no_trial_is_none(tmp_path: Path) -> None:
    assert load_trial(tmp_path) is None
    assert load_trial(tmp_path / "missing") is None


def test_trial_is_read_back(tmp_path: Path, config: TrialConfig) -> None:
    _finish(tmp_path, config)
    result = load_trial(tmp_path)
    assert result is not None
    assert result.config == config
    assert result.config.id == config.id
    assert result.folder == tmp_path


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "null", '{"config": {}}', '{"config": 1, "row": {}, "levels": []}'],
)
def test_damaged_trial_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "trial.json").write_text(text)
    with pytest.raises(KanDiffusionError, match=r"trial\.json'") as caught:
        load_trial(tmp_path)
    assert "\n" not in str(caught.value)


def test_points_are_read_back(tmp_path: Path) -> None:
    points = torch.randn(3, 7, 2, generator=torch.Generator().manual_seed(0))
    # Not contiguous, as slices of larger tensors are.
    save_points(tmp_path / "reverse" / "5.safetensors", points.transpose(0, 1))
    read = load_points(tmp_path / "reverse" / "5.safetensors")
    np.testing.assert_array_equal(read, points.transpose(0, 1).numpy())
    save_points(tmp_path / "reverse" / "10.safetensors", points)
    (tmp_path / "reverse" / ".10.safetensors.x.tmp.safetensors").write_bytes(b"")
    assert recorded_steps(tmp_path) == [5, 10]
    assert recorded_steps(tmp_path / "reverse") == []


def test_damaged_points_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.safetensors"
    for content in (b"", b"not safetensors", None):
        path.unlink(missing_ok=True) if content is None else path.write_bytes(content)
        with pytest.raises(RunFolderError, match=r"samples\.safetensors' cannot be read"):
            load_points(path)


def test_folders_that_are_welcome(tmp_path: Path, config: TrialConfig) -> None:
    require_trial_folder(tmp_path / "new" / "folder", config, resume=False)
    assert not (tmp_path / "new").exists()  # a check makes nothing
    (tmp_path / ".hidden").write_text("")
    require_trial_folder(tmp_path, config, resume=False)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"")
    require_trial_folder(tmp_path, config, resume=True)


def test_folders_that_are_refused(tmp_path: Path, config: TrialConfig) -> None:
    def refused(message: str, folder: Path, resume: bool = True) -> None:
        with pytest.raises(RunFolderError, match=message) as caught:
            require_trial_folder(folder, config, resume=resume)
        assert "\n" not in str(caught.value)

    (tmp_path / "file").write_text("")
    refused("is a file; choose a folder", tmp_path / "file")
    refused("holds other files and no run", tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "checkpoint.safetensors").write_bytes(b"")
    refused("unfinished run; add --resume", folder, resume=False)
    _finish(folder, config)
    refused("already holds this very run, finished", folder)
    _finish(folder, config, "the loss became nan")
    refused("holds this very run, and it failed: the loss became nan", folder)
    other = config.model_copy(update={"seed": 9})
    _finish(folder, other)
    refused(r"holds another run \(moons · MLP · seed 9\)", folder)


def test_full_disk_is_known_before_training(
    tmp_path: Path, config: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(RunFolderError, match="0 MB free and this run may write 20 MB"):
        require_trial_folder(tmp_path / "run", config, resume=False)
    assert not (tmp_path / "run").exists()


def test_json_is_plain(tmp_path: Path, config: TrialConfig) -> None:
    _finish(tmp_path, config)
    content = json.loads((tmp_path / "trial.json").read_text())
    assert set(content) == {"config", "row", "levels"}
