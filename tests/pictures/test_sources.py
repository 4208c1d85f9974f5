import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from sklearn.datasets import load_digits

from helpers import refused
from kan_diffusion.data.sources import load_dataset
from kan_diffusion.errors import DataError
from kan_diffusion.pictures.codec import decode
from kan_diffusion.pictures.scenes import score_scenes
from kan_diffusion.pictures.sources import DigitsData, FolderData, PictureData, ShapesData
from picture_folders import write_noise

NUM = 12


def test_digits_are_split_and_their_captions_name_them():
    dataset = load_dataset("digits")
    assert dataset.train.shape[1:] == (1, 8, 8)
    exact = torch.from_numpy(load_digits().images / 8 - 1).float()[:, None]
    joined = torch.cat([dataset.train, dataset.heldout])
    assert len(joined) == len(exact) == len({sample.numpy().tobytes() for sample in joined})
    # 17 levels in 256: each is off by half a level of 8 bits at most.
    order, other = (s.flatten(1).sum(dim=1).sort()[0] for s in (joined, exact))
    torch.testing.assert_close(order, other, rtol=0, atol=64 * 0.5 / 127.5)
    for labels in (dataset.labels, dataset.heldout_labels):
        assert labels["caption"].str.split().str[-1].tolist() == labels["class"].tolist()
    assert {"an eight", "a seven", "seven", "the digit seven"} <= {*dataset.labels["caption"]}


def test_pictures_follow_from_the_seeds():
    def same(data, *seeds):
        one, other = load_dataset(data), load_dataset(data, *seeds)
        return torch.equal(one.train, other.train), torch.equal(one.heldout, other.heldout)

    shapes = ShapesData(num_pictures=50, holdout=0.5)
    assert same(shapes) == same("digits") == (True, True)
    # What shapes are judged with is one for all trials of a study, as of toys.
    assert same(shapes, 0, 1) == (False, True)
    assert same(shapes, 1) == same("digits", 0, 1) == (False, False)


def test_shapes_are_as_their_captions_say_and_sizes_and_modes_as_asked():
    dataset = load_dataset(ShapesData(num_pictures=60))
    scores = score_scenes(dataset.train, dataset.labels["caption"])
    assert scores["all"] == 1.0
    assert scores["distance"] < 1e-4
    dataset = load_dataset(ShapesData(size=32, num_pictures=5))
    assert (dataset.train.shape, len(dataset.heldout)) == ((5, 3, 32, 32), 4)
    dataset = load_dataset(DigitsData(size=16, mode="RGB"))
    assert dataset.shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pictures": "shapse"}, "unknown pictures .*'shapse', did you mean 'shapes'"),
        ({"pictures": "shapes", "size": 20}, "in colour, with 16 or 32 pixels"),
        ({"pictures": "shapes", "mode": "L"}, "in colour, with 16 or 32 pixels"),
        ({"pictures": "digits", "sise": 8}, "unknown key 'sise', did you mean 'size'"),
        ({"pictures": "digits", "num_pictures": 8}, "num_pictures is for shapes"),
        ({"pictures": "shapes", "num_pictures": 10**6}, "fit, take fewer pictures or a smaller"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        PictureData.named(settings["pictures"])(**settings)


@pytest.fixture
def folder(tmp_path):
    for index in range(NUM):
        write_noise(tmp_path / "own" / f"{index:02}.png", index)
    return tmp_path / "own"


def _write_captions(root, names=None):
    names = sorted(path.name for path in root.glob("*.png")) if names is None else names
    lines = [f'{name},"picture {Path(name).stem}, drawn"' for name in names]
    (root / "metadata.csv").write_text("\n".join(["file_name,text", *lines]) + "\n")


def _load(root, **settings):
    """What is said of each picture by its values, and the data set."""
    dataset = load_dataset(FolderData(pictures=str(root), **{"size": 8, **settings}))
    labels = pd.concat([dataset.labels, dataset.heldout_labels])
    said = labels["caption"]
    if dataset.classes:
        said = labels["class"].astype(str) + ":" + said
    shown = decode(torch.cat([dataset.train, dataset.heldout]))
    return {picture.tobytes(): each for picture, each in zip(shown, said, strict=True)}, dataset


def _bytes(path):
    return Image.open(path).tobytes()


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_captions_go_with_their_pictures(folder, form):
    paths = sorted(folder.glob("*.png"))
    if form == "csv":
        _write_captions(folder)
    else:
        rows = [
            {"text": f"picture\u2028{path.stem}, drawn", "file_name": path.name, "more": 1}
            for path in reversed(paths)
        ]  # the sign is a line break, but not of JSON
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        (folder / "metadata.jsonl").write_text("\r\n".join(lines), "utf-8", newline="")
    said, dataset = _load(folder)
    assert said == {_bytes(path): f"picture {path.stem}, drawn" for path in paths}
    assert (dataset.name, dataset.shape) == ("own", (3, 8, 8))


def test_folders_train_and_test_are_the_split_others_are_classes_and_may_have_captions(tmp_path):
    for index in range(NUM):
        place = tmp_path / ("Train" if index % 4 else "val") / ("cat" if index % 3 else "train")
        write_noise(place / f"{index}.png", index)
    paths = list(tmp_path.rglob("*.png"))
    said, dataset = _load(tmp_path)
    assert said == {_bytes(p): f"{p.parent.name}:{p.parent.name}" for p in paths}
    held_out = {picture.tobytes() for picture in decode(dataset.heldout)}
    assert held_out == {_bytes(path) for path in (tmp_path / "val").rglob("*.png")}
    with refused("is split by its folders, such as train and test; leave holdout out"):
        FolderData(pictures=str(tmp_path), holdout=0.2).pinned()
    for part in ("Train", "val"):
        root = tmp_path / part
        _write_captions(root, [p.relative_to(root).as_posix() for p in root.rglob("*.png")])
    captions = {_bytes(p): f"{p.parent.name}:picture {p.stem}, drawn" for p in paths}
    assert _load(tmp_path)[0] == captions
    for path in list((tmp_path / "val").rglob("*.png"))[1:]:
        path.unlink()
    with refused("has fewer than 2 pictures to train on or to judge with", DataError):
        _load(tmp_path)


@pytest.mark.parametrize(
    ("kinds", "inside"),
    [(["cat", "train"], ""), (["cat", "dog"], "images"), (["cat/big", "dog/big"], "raw/8")],
)
def test_the_classes_are_the_last_folders_that_differ(tmp_path, kinds, inside):
    for index in range(NUM):
        write_noise(tmp_path / kinds[index % 2] / inside / f"{index}.png", index)
    expected = {f"{kind.split('/')[0]}:{kind.split('/')[0]}" for kind in kinds}
    assert {*_load(tmp_path)[0].values()} == expected


def test_pictures_are_grey_if_all_are_or_as_asked(tmp_path):
    for index in range(NUM):
        write_noise(tmp_path / f"{index}.png", index, "L")
    said, dataset = _load(tmp_path)
    assert dataset.shape == (1, 8, 8)
    assert said.keys() == {_bytes(path) for path in tmp_path.glob("*.png")}
    assert _load(tmp_path, mode="RGB")[1].shape == (3, 8, 8)
    write_noise(tmp_path / "clear.png", 50, "LA", (40, 20))
    assert _load(tmp_path)[1].shape == (1, 8, 8)
    write_noise(tmp_path / "other.png", 51, "RGBA", (40, 20))
    assert _load(tmp_path)[1].shape == (3, 8, 8)
    assert _load(tmp_path, mode="L")[1].shape == (1, 8, 8)


def test_pictures_stand_upright_and_other_files_do_not_count(folder):
    values = np.zeros((8, 8, 3), dtype=np.uint8)
    values[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(values).save(folder / "turned.png", exif=exif)
    (folder / ".cache").mkdir()
    # What a model has drawn of them is no data, wherever its run lies.
    (folder / "runs" / "own" / "pictures").mkdir(parents=True)
    (folder / "runs" / "own" / "trial.json").touch()
    write_noise(folder / "runs" / "own" / "pictures" / "drawn.png", 60)
    for name in ("README.txt", ".hidden.png", ".cache/x.png"):
        (folder / name).write_text("nothing")
    said, dataset = _load(folder)
    assert not dataset.classes
    assert values[::-1].tobytes() in said
    assert len(said) == NUM + 1


def test_a_folder_is_pinned_by_its_content(folder):
    _write_captions(folder)
    config = FolderData(pictures=str(folder), size=8).pinned()
    assert len(config.sha256) == 64
    before = (folder / "metadata.csv").read_text()
    (folder / "metadata.csv").write_text(before.replace("picture 03", "picture 3"))
    with refused("'.*own' has changed since this run was set up; put it back", DataError):
        load_dataset(config)
    (folder / "metadata.csv").write_text(before)
    assert config.pinned() == config
    (folder / "03.png").rename(folder / "003.png")
    _write_captions(folder)
    with refused("has changed since", DataError):
        config.pinned()


def _deep_png():
    """A picture in colour of 16 bits a channel, which Pillow reads and does not write."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(8 * (1 + 8 * 6)))),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def test_what_is_wrong_is_said_by_its_name(folder, tmp_path, monkeypatch):
    fifth, head = (folder / "05.png").read_bytes(), b"file_name,text\n"
    full = head + b"".join(b"%02d.png,a\n" % index for index in range(NUM))
    for number, (name, content, message) in enumerate([
        ("05.png", fifth[:150], "'05.png' is no .*truncated"),
        ("05.png", b"no", "'05.png' is no picture that can be read"),
        ("x.pgm", b"P5 8 8 65535\n" + bytes(128), "'x.pgm': .* of 16 or 32 bits"),
        ("x.ppm", b"P6 8 8 1000\n" + bytes(384), "'x.ppm': .* of 16 or 32 bits"),
        ("x.png", _deep_png(), "'x.png': .* 16 or 32 bits; save it with 8"),
        ("a/x.png", fifth, "'00.png' lies beside the folders of classes"),
        ("metadata.csv", head + b"00.png,a", "for 01.png, 02.png, 03.png, .*; add a line"),
        ("metadata.csv", head + b"00.png, ", "no caption for 00.png, 01.png"),
        ("metadata.csv", full + b"../x.png,out", "csv': '../x.png' is no picture of the folder"),
        ("metadata.csv", full + b"03.png,again", "'03.png' has a caption already"),
        ("metadata.csv", full + b"03.png,a,b", "cannot be read .*line 14.* in double quotes"),
        ("metadata.csv", b"file_name,label\n00.png,1", "^'m.* and text; it has file_name, label$"),
        ("metadata.csv", head + b"00.png,\xff", "'metadata.csv' cannot be read as UTF-8"),
        ("metadata.csv", head + b'00.png,"a', "'metadata.csv' cannot be read .*quotes"),
        ("metadata.jsonl", b'{"text": "00.png"', "'metadata.jsonl' cannot be read .*one object"),
        ("metadata.jsonl", b"[1]", "the columns file_name and text; it has 0"),
        ("metadata.jsonl", b'{"file_name": "a", "text": 3}', r"\('a', 3\) are no two texts"),
    ]):  # fmt: skip
        path = shutil.copytree(folder, tmp_path / str(number)) / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        with refused(message, DataError):
            load_dataset(FolderData(pictures=str(tmp_path / str(number)), size=8))
    for place, message in (
        ("PIL.Image.MAX_IMAGE_PIXELS", "'00.png' is .*Image size .* exceeds"),
        (
            "kan_diffusion.pictures.sources.MOST_VALUES",
            "12 pictures of 8 pixels .* fit, take fewer",
        ),
    ):
        monkeypatch.setattr(place, 40)
        with refused(message, DataError):
            load_dataset(FolderData(pictures=str(folder), size=8))
    few = tmp_path / "few"
    for spoil, message in (
        (lambda: None, "is no folder; give a folder"),
        (few.mkdir, "has 0 pictures .*; at least 10"),
        (lambda: (few / "x.png").symlink_to("/etc/hostname"), "'x.png' .* is a link that leads"),
    ):
        spoil()
        with refused(message, DataError):
            load_dataset(FolderData(pictures=str(few)))
