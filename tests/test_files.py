import errno
import json
import os
import resource
import stat
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers import refused
from kan_diffusion.data.frames import write_frame
from kan_diffusion.errors import KanDiffusionError, RunFolderError
from kan_diffusion.files import (
    finite,
    inside,
    new_output,
    require_free_space,
    require_writable,
    stamp,
    whole_file,
    write_bytes,
    write_json,
    write_parquet,
    write_text,
)


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_writes_are_read_back_and_folders_are_made(tmp_path):
    folder = tmp_path / "a" / "b"
    write_text(folder / "text.txt", "σ = ½\n")
    write_bytes(folder / "raw.bin", b"\x00\xff")
    write_json(folder / "rows.json", [{"loss": 0.25, "name": "kan"}])
    frame = pd.DataFrame({"step": [1, 2], "loss": [0.5, 0.25]})
    write_parquet(folder / "curves.parquet", frame)
    assert (folder / "text.txt").read_text("utf-8") == "σ = ½\n"
    assert (folder / "raw.bin").read_bytes() == b"\x00\xff"
    assert json.loads((folder / "rows.json").read_text()) == [{"loss": 0.25, "name": "kan"}]
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "curves.parquet"), frame)
    assert _names(folder) == ["curves.parquet", "raw.bin", "rows.json", "text.txt"]


def test_files_can_be_read_by_whom_the_umask_says(tmp_path):
    before = os.umask(0)
    try:
        for umask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
            os.umask(umask)
            write_text(tmp_path / "report.html", "hello")
            assert stat.S_IMODE((tmp_path / "report.html").stat().st_mode) == mode
    finally:
        os.umask(before)


def test_the_way_below_a_folder_has_no_links_and_does_not_leave_it(tmp_path):
    (tmp_path / "real" / "a").mkdir(parents=True)
    (tmp_path / "root").symlink_to("real")  # as its user names it
    root = tmp_path / "root"
    for name, target in (("b", "a"), ("c", "."), ("d", "nowhere"), ("e.json", "a/../f.json")):
        (root / name).symlink_to(target)
    for path in ("a", "a/x.json", "a/*.json", "new/x", "e.json"):
        assert inside(root, path) == root / path
    for path in ("b", "b/x", "c/a/x", "d/x", "../x", "a/../../x"):
        with refused("by a link, through which nothing", RunFolderError):
            inside(root, path)
    with refused("e.json' leads out", RunFolderError):
        inside(root, "e.json", in_place=True)


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "state.bin"
    write_bytes(target, b"old")
    with pytest.raises(KeyboardInterrupt), whole_file(target) as temporary:  # noqa: PT012
        temporary.write_bytes(b"half of the n")
        assert target.read_bytes() == b"old"
        raise KeyboardInterrupt
    assert target.read_bytes() == b"old"
    assert _names(tmp_path) == ["state.bin"]


@pytest.mark.parametrize("ending", ["npy", "csv", "parquet"])
def test_a_disk_that_takes_no_more_leaves_the_old_file(ending, tmp_path):
    target, rows = tmp_path / f"rows.{ending}", np.random.default_rng(0).normal(size=(20_000, 1))
    write_bytes(target, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with refused(f"cannot write '{target}': .*free some space", RunFolderError) as caught:
            write_bytes(target, bytes(1_000_000))
        assert "File too large" in str(caught.value)
        full = refused(f"cannot write '{target}': .*free some space", RunFolderError)
        with full, new_output(target, overwrite=True) as output:
            write_frame(output.temporary, pd.DataFrame(rows, columns=["x"]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_is_a_file_or_has_no_room_is_named(tmp_path):
    (tmp_path / "runs").write_text("not a folder")
    with refused("runs", RunFolderError):
        write_text(tmp_path / "runs" / "study.yaml", "x")
    assert (tmp_path / "runs").read_text() == "not a folder"
    require_free_space(tmp_path / "not" / "yet" / "there", 1)
    with refused(r"MB free and this run may write 1000000000000 MB", RunFolderError):
        require_free_space(tmp_path / "not" / "yet" / "there", 10**18)
    assert _names(tmp_path) == ["runs"]


def test_numbers_that_json_has_not_are_refused_before_anything_is_lost_or_become_none(tmp_path):
    target = tmp_path / "results.json"
    write_json(target, {"excess": 0.1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(target, {"excess": float("nan")})
    assert json.loads(target.read_text()) == {"excess": 0.1}
    assert _names(tmp_path) == ["results.json"]
    content = {"a": [1.5, float("nan"), (float("inf"), "x")], "b": {"c": -float("inf"), "d": 3}}
    assert finite(content) == {"a": [1.5, None, [None, "x"]], "b": {"c": None, "d": 3}}


def _write(output, content):
    if content is None:
        output.temporary.mkdir()
        output.temporary = output.temporary / "1.png"
    write_text(output.temporary, "new")


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("content", ["file", None], ids=["file", "folder"])
def test_an_output_never_takes_the_place_of_another(content, links, tmp_path, monkeypatch):
    def link(source, target):
        if not links:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        made.append(target)
        make_link(source, target)

    made, make_link = [], os.link
    monkeypatch.setattr(os, "link", link)
    path = tmp_path / "out" / "samples.csv"
    for name in ("samples.csv", "samples-2.csv", "samples-3.csv"):
        with new_output(path, numbered=True) as output:
            _write(output, content)
        assert output.path == path.with_name(name)
    with refused(f"'{path}' exists; choose another path", RunFolderError), new_output(path):
        raise AssertionError("the work began")
    other = path.with_name("other.csv")
    with refused(f"'{other}' exists", RunFolderError), new_output(other) as output:
        _write(output, content)
        write_text(other, "somebody else's")  # meanwhile
    assert other.read_text() == "somebody else's"
    with new_output(path, overwrite=True) as output:
        _write(output, content)
    assert _names(path.parent) == ["other.csv", "samples-2.csv", "samples-3.csv", "samples.csv"]
    # A link fails where another command has just put its file, which no look beforehand sees.
    assert bool(made) == links


def test_an_output_fails_before_the_work_or_under_its_own_name_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "samples.csv", Path("/proc/samples.csv")):
        with refused(f"cannot write '{place}'", RunFolderError), new_output(place):
            raise AssertionError("the work began")
        with refused("cannot write", RunFolderError):
            require_writable(place)
    path = tmp_path / "samples.npy"
    with refused(f"'{path}', which takes numbers", KanDiffusionError), new_output(path) as output:
        write_frame(output.temporary, pd.DataFrame({"name": ["Ada"]}))
    with pytest.raises(KeyboardInterrupt), new_output(path):
        raise KeyboardInterrupt
    assert _names(tmp_path) == ["file"]


def test_a_stamp_tells_a_file_from_another_of_the_same_size_and_time(tmp_path):
    path = tmp_path / "rows.csv"
    stamps = set()
    for content, write in (("1\n", path.write_text), ("2\n", partial(write_text, path))):
        write(content)
        os.utime(path, ns=(10**18, 10**18))
        stamps.add(stamp(path))
    assert len(stamps) == 2
