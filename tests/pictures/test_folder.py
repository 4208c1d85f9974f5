import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import refused
from kan_diffusion.data.sources import load_dataset
from kan_diffusion.errors import DataError
from kan_diffusion.pictures.sources import PictureData
from picture_folders import write_noise

NUM = 12


@pytest.fixture
def folder(tmp_path):
    for index in range(NUM):
        write_noise(tmp_path / "own" / f"{index:02}.png", index)
    return tmp_path / "own"


def _write_captions(root, names=None, *more):
    names = sorted(path.name for path in root.glob("*.png")) if names is None else names
    lines = [f'{name},"picture {Path(name).stem}, drawn"' for name in names]
    lines += [f"{name},{text}" for name, text in more]
    (root / "metadata.csv").write_text("\n".join(["file_name,text", *lines]) + "\n")


def _load(root, **settings):
    """What is told of each picture by its values, and the data set."""
    dataset = load_dataset(PictureData(pictures=str(root), **{"size": 8, **settings}))
    told = {}
    for samples, labels in (
        (dataset.train, dataset.labels),
        (dataset.heldout, dataset.heldout_labels),
    ):
        for row, picture in enumerate(dataset.codec.decode(samples)):
            caption, kind = labels.loc[row, ["caption", "class"]]
            told[picture.tobytes()] = f"{kind}:{caption}" if dataset.classes else caption
    return told, dataset


def _bytes(path):
    return Image.open(path).tobytes()


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_captions_go_with_their_pictures(folder, form):
    paths = sorted(folder.glob("*.png"))
    _write_captions(folder)
    if form == "jsonl":
        (folder / "metadata.csv").unlink()
        rows = [
            {"text": f"picture {path.stem}, drawn", "file_name": path.name, "more": 1}
            for path in reversed(paths)
        ]
        rows[0]["text"] = rows[0]["text"].replace(" ", "\u2028")  # a line, but not of JSON
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        (folder / "metadata.jsonl").write_text("\r\n".join(lines), "utf-8", newline="")
    told, dataset = _load(folder)
    assert told == {_bytes(path): f"picture {path.stem}, drawn" for path in paths}
    assert (dataset.name, dataset.codec.mode) == ("own", "RGB")


def test_class_folders_are_classes_and_may_have_captions(tmp_path):
    for index in range(NUM):
        write_noise(tmp_path / ("cats" if index % 3 else "dogs") / f"{index}.png", index)
    paths = list(tmp_path.rglob("*.png"))
    assert _load(tmp_path)[0] == {_bytes(p): f"{p.parent.name}:{p.parent.name}" for p in paths}
    _write_captions(tmp_path, [p.relative_to(tmp_path).as_posix() for p in paths])
    captions = {_bytes(p): f"{p.parent.name}:picture {p.stem}, drawn" for p in paths}
    assert _load(tmp_path)[0] == captions


def test_folders_train_and_test_are_the_split_and_may_have_captions_of_their_own(tmp_path):
    for index in range(NUM):
        part = "test" if index % 4 == 0 else "train"
        write_noise(tmp_path / "a" / part / ("a" if index % 2 else "b") / f"{index}.png", index)
        write_noise(tmp_path / "b" / part / f"{index}.png", index)
    _, dataset = _load(tmp_path / "a")
    held_out = {picture.tobytes() for picture in dataset.codec.decode(dataset.heldout)}
    assert held_out == {_bytes(path) for path in (tmp_path / "a" / "test").rglob("*.png")}
    assert dataset.classes == ["a", "b"]
    assert len(dataset.train) == NUM - len(held_out)
    for part in ("train", "test"):
        _write_captions(tmp_path / "b" / part)
    told, _ = _load(tmp_path / "b")
    paths = (tmp_path / "b").rglob("*.png")
    assert told == {_bytes(path): f"picture {path.stem}, drawn" for path in paths}


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_the_mode_is_that_of_all_pictures_or_as_asked(tmp_path, mode):
    for index in range(NUM):
        write_noise(tmp_path / f"{index}.png", index, mode)
    told, dataset = _load(tmp_path)
    assert dataset.codec.mode == mode
    assert told.keys() == {_bytes(path) for path in tmp_path.glob("*.png")}
    assert _load(tmp_path, mode="RGB")[1].codec.mode == "RGB"
    write_noise(tmp_path / "other.png", 50, mode="LA" if mode == "L" else "L", size=(40, 20))
    assert _load(tmp_path)[1].codec.mode == "RGB"


def test_pictures_stand_upright_and_other_files_do_not_count(folder):
    values = np.zeros((8, 8, 3), dtype=np.uint8)
    values[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(values).save(folder / "turned.png", exif=exif)
    (folder / "README.txt").write_text("about")
    (folder / ".hidden.png").write_text("nothing")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.png").write_text("nothing")
    told, _ = _load(folder)
    assert values[::-1].tobytes() in told
    assert len(told) == NUM + 1


def test_a_folder_is_pinned_by_its_content(folder):
    _write_captions(folder)
    config = PictureData(pictures=str(folder), size=8).pinned()
    assert len(config.sha256) == 64
    assert config.pinned() == config
    load_dataset(config)
    before = (folder / "metadata.csv").read_text()
    (folder / "metadata.csv").write_text(before.replace("picture 03", "picture 3"))
    for use in (load_dataset, PictureData.pinned):
        with refused("'.*own' has changed since this run was set up; put its files", DataError):
            use(config)
    (folder / "metadata.csv").write_text(before)
    load_dataset(config)
    (folder / "03.png").rename(folder / "003.png")
    _write_captions(folder)
    with refused("has changed since", DataError):
        load_dataset(config)


def _write_bomb(path):
    """A picture of a few bytes that says it has ten thousand million pixels."""
    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(b"0" * 100)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data
        content += struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(content)


def _line(text):
    """Adds a line to the captions of all pictures."""

    def spoil(root):
        _write_captions(root)
        with (root / "metadata.csv").open("a") as file:
            file.write(text + "\n")

    return spoil


def _metadata(content, form="csv"):
    return lambda root: (root / f"metadata.{form}").write_bytes(content)


def _no_class(root):
    for index in range(NUM):
        write_noise(root / "ab"[index % 2] / f"{index}.png", index)


def test_what_is_wrong_is_said_by_its_name(folder, tmp_path, monkeypatch):
    fifth = (folder / "05.png").read_bytes()
    for number, (spoil, message) in enumerate([
        (lambda root: (root / "05.png").write_bytes(fifth[:150]), "'05.png' is no .*truncated"),
        (lambda root: (root / "05.png").write_text("no"), "'05.png' is no picture that can be r"),
        (lambda root: _write_bomb(root / "bomb.png"), "'bomb.png' is .*Image size .* exceeds"),
        (lambda root: Image.new("F", (8, 8)).save(root / "x.tiff"), "'x.tiff': .* of 16 or 32 b"),
        (lambda root: _write_captions(root, ["00.png"]), "no caption for '01.png' and 10 more"),
        (_line("lost.png,lost"), "'metadata.csv': 'lost.png' is no picture of the folder"),
        (_line("../x.png,out"), "'metadata.csv': '../x.png' is no picture of the folder"),
        (_line("/etc/x.png,out"), "'/etc/x.png' is no picture of the folder"),
        (_line("03.png,again"), "'03.png' has a caption already"),
        (_line("03.png,a,b"), "'metadata.csv' cannot be read .*line 14.* in double quotes"),
        (_metadata(b"file_name,text\n00.png, \n"), "no caption for '00.png' and 11 more"),
        (_metadata(b"file_name,text\n"), "no caption for '00.png' and 11 more"),
        (_metadata(b""), "'metadata.csv' cannot be read"),
        (_metadata(b"file_name,label\n00.png,1\n"), "must have the columns .* no 'text'"),
        (_metadata(b"file_name,text\n00.png,\xff\n"), "'metadata.csv' cannot be read as UTF-8"),
        (_metadata(b'file_name,text\n00.png,"a\n'), "'metadata.csv' cannot be read .*quotes"),
        (_metadata(b'{"text": "00.png"', "jsonl"), "'metadata.jsonl' cannot be read .*one object"),
        (_metadata(b"[1]", "jsonl"), "must have the columns .* no 'file_name'"),
        (_metadata(b'{"file_name": "00.png", "text": 3}', "jsonl"), r"00.png', 3\) must be a file"),
        (lambda root: (root / "x.png").symlink_to("/etc/hostname"), "'x.png' .* is a link that le"),
        (lambda root: (root / "x").symlink_to("/etc"), "'x' in '.*own' is a link that leads"),
        (lambda root: [p.unlink() for p in root.glob("*.png")], "has 0 pictures .files that"),
        (lambda root: [p.unlink() for p in root.glob("0*.png")], "has 2 pictures .*; at least 10"),
        (_no_class, "'00.png' lies beside the folders of classes"),
        (shutil.rmtree, "does not exist; give a folder"),
        (lambda root: (shutil.rmtree(root), root.touch()), "is a file, not a folder"),
    ]):  # fmt: skip
        root = shutil.copytree(folder, tmp_path / str(number) / "own")
        spoil(root)
        config = PictureData(pictures=str(root), size=8)
        for read in (load_dataset, PictureData.pinned):
            with refused(message, DataError):
                read(config)
    monkeypatch.setattr("kan_diffusion.pictures.folder.MOST_VALUES", 1_000)
    words = "12 pictures of 16 pixels .* fit, take fewer pictures or a smaller size"
    with refused(words, DataError):
        load_dataset(PictureData(pictures=str(folder), size=16))
