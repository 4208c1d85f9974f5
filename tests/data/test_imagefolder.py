from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import refused
from kan_diffusion.data.datasets import PictureData, load_dataset
from kan_diffusion.data.imagefolder import ImageFolder
from kan_diffusion.errors import DataError

NUM = 12


def _picture(path: Path, seed: int = 0, mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve coloured pictures of 8 pixels."""
    root = tmp_path / "own"
    for index in range(NUM):
        _picture(root / f"{index:02}.png", index)
    return root


def _captions(root: Path, names: list[str] | None = None, *more: tuple[str, str]) -> None:
    names = sorted(path.name for path in root.glob("*.png")) if names is None else names
    lines = [f'{name},"picture {Path(name).stem}, drawn"' for name in names]
    lines += [f"{name},{text}" for name, text in more]
    (root / "metadata.csv").write_text("\n".join(["file_name,text", *lines]) + "\n")


def _load(root: Path, **settings: object) -> tuple[dict[bytes, str | None], object]:
    """The caption or class of each picture by its values, and the data set."""
    dataset = load_dataset(PictureData(pictures=str(root), **{"size": 8, **settings}))
    told: dict[bytes, str | None] = {}
    for samples, captions, labels in (
        (dataset.train, dataset.captions, dataset.class_labels),
        (dataset.heldout, dataset.heldout_captions, dataset.heldout_class_labels),
    ):
        for row, picture in enumerate(dataset.codec.decode(samples)):
            word = captions[row] if captions is not None else None
            if labels is not None:
                word = f"{dataset.classes[int(labels[row])]}:{word}"
            told[picture.tobytes()] = word
    return told, dataset


def _bytes(path: Path) -> bytes:
    return Image.open(path).tobytes()


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_captions_go_with_their_pictures(folder: Path, form: str) -> None:
    _captions(folder)
    if form == "jsonl":
        (folder / "metadata.csv").unlink()
        rows = [
            {"text": f"picture {path.stem}, drawn", "file_name": path.name, "more": 1}
            for path in sorted(folder.glob("*.png"), reverse=True)
        ]
        rows[0]["text"] = str(rows[0]["text"]).replace(" ", "\u2028")  # a line, but not of JSON
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        (folder / "metadata.jsonl").write_text("\r\n".join(lines), "utf-8", newline="")
    told, dataset = _load(folder)
    assert told == {
        _bytes(path): f"picture {path.stem}, drawn" for path in sorted(folder.glob("*.png"))
    }
    assert dataset.name == "own"
    assert dataset.report == ""


def test_class_folders_are_classes_and_may_have_captions(tmp_path: Path) -> None:
    for index in range(NUM):
        _picture(tmp_path / ("cats" if index % 3 else "dogs") / f"{index}.png", index)
    told, _ = _load(tmp_path)
    assert told == {_bytes(p): f"{p.parent.name}:None" for p in tmp_path.rglob("*.png")}
    _captions(tmp_path, [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png")])
    told, _ = _load(tmp_path)
    assert told == {
        _bytes(p): f"{p.parent.name}:picture {p.stem}, drawn" for p in tmp_path.rglob("*.png")
    }


def test_folders_train_and_test_are_the_split(tmp_path: Path) -> None:
    for index in range(NUM):
        part = "test" if index % 4 == 0 else "train"
        _picture(tmp_path / part / ("a" if index % 2 else "b") / f"{index}.png", index)
    dataset = load_dataset(PictureData(pictures=str(tmp_path), size=8))
    held_out = {picture.tobytes() for picture in dataset.codec.decode(dataset.heldout)}
    assert held_out == {_bytes(path) for path in (tmp_path / "test").rglob("*.png")}
    assert dataset.classes == ("a", "b")
    assert len(dataset.train) == NUM - len(held_out)


def test_captions_may_lie_beside_their_pictures(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for index in range(6):
            _picture(tmp_path / part / f"{index}.png", index + 10 * (part == "test"))
        _captions(tmp_path / part)
    told, _ = _load(tmp_path)
    assert len(told) == 12
    assert set(told.values()) == {f"picture {index}, drawn" for index in range(6)}


def test_a_report_says_what_was_done(folder: Path) -> None:
    _picture(folder / "wide.png", 50, size=(40, 20))
    _picture(folder / "grey.png", 51, mode="L")
    _picture(folder / "clear.png", 52, mode="RGBA")
    _, dataset = _load(folder)
    report = dataset.report
    assert report.startswith("of 15 pictures, ")
    for part in (
        "1 resized to 8 pixels",
        "1 cropped to the middle square",
        "1 put on white",
        "1 converted from RGBA to RGB",
        "1 converted from L to RGB",
        "'00.png' is RGB and 'clear.png' is RGBA and 'grey.png' is L: all are read as RGB, mode",
    ):
        assert part in report


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_the_mode_is_that_of_all_pictures_or_as_asked(tmp_path: Path, mode: str) -> None:
    for index in range(NUM):
        _picture(tmp_path / f"{index}.png", index, mode)
    told, dataset = _load(tmp_path)
    assert dataset.codec.mode == mode
    assert told.keys() == {_bytes(path) for path in tmp_path.glob("*.png")}
    _, dataset = _load(tmp_path, mode="RGB")
    assert dataset.codec.mode == "RGB"


def test_pictures_stand_upright(folder: Path) -> None:
    values = np.zeros((8, 8, 3), dtype=np.uint8)
    values[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(values).save(folder / "turned.png", exif=exif)
    told, _ = _load(folder)
    assert values[::-1].tobytes() in told


def test_other_files_do_not_count(folder: Path) -> None:
    (folder / "README.txt").write_text("about")
    (folder / ".hidden.png").write_text("nothing")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.png").write_text("nothing")
    assert len(_load(folder)[0]) == NUM


def test_a_folder_is_pinned_by_its_content(folder: Path) -> None:
    _captions(folder)
    config = PictureData(pictures=str(folder), size=8).pinned()
    assert len(config.sha256) == 64
    assert config.pinned() == config
    load_dataset(config)
    before = (folder / "metadata.csv").read_text()
    (folder / "metadata.csv").write_text(before.replace("picture 03", "picture 3"))
    changed = "'.*own' has changed since this run was set up; put its files back"
    for use in (load_dataset, PictureData.pinned):
        with refused(changed, DataError):
            use(config)
    (folder / "metadata.csv").write_text(before)
    load_dataset(config)
    (folder / "03.png").rename(folder / "003.png")
    _captions(folder)
    with refused("has changed since", DataError):
        load_dataset(config)


def _bomb(path: Path) -> None:
    """A picture of a few bytes that says it has ten thousand million pixels."""
    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"0" * 100)), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        content += struct.pack(">I", len(data)) + kind + data
        content += struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:150])


def _no_class(root: Path) -> None:
    for index in range(NUM):
        _picture(root / "ab"[index % 2] / f"{index}.png", index)


def _line(text: str, name: str = "metadata.csv") -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        if name == "metadata.csv":
            _captions(root)
        with (root / name).open("a") as file:
            file.write(text + "\n")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: _cut(root / "05.png"), "'05.png' is no picture that can be read .*truncated"),
        (
            lambda root: (root / "05.png").write_text("no"),
            "'05.png' is no picture that can be read;",
        ),
        (lambda root: (root / "05.png").write_bytes(b""), "'05.png' is no picture"),
        (lambda root: _bomb(root / "bomb.png"), "'bomb.png' has more than 50,000,000 pixels"),
        (
            lambda root: Image.new("F", (8, 8)).save(root / "deep.tiff"),
            "'deep.tiff': a picture of mode F has values of 32 bits",
        ),
        (lambda root: _captions(root, ["00.png"]), "no caption for '01.png' and 10 more pictures"),
        (_line("lost.png,lost"), "'metadata.csv', line 14: there is no picture 'lost.png'"),
        (_line("../x.png,out"), "line 14: '../x.png' is outside of the folder"),
        (_line("/etc/x.png,out"), "line 14: '/etc/x.png' is outside of the folder"),
        (_line("03.png,again"), "line 14: '03.png' has a caption already"),
        (_line("03.png,a,b"), "line 14 must have file_name and text, and nothing unnamed"),
        (lambda root: _captions(root, [], ("00.png", " ")), "line 2: '00.png' has an empty text"),
        (lambda root: (root / "metadata.csv").write_text("file_name,text\n"), "has no lines"),
        (
            lambda root: (root / "metadata.csv").write_text("file_name,label\n00.png,1\n"),
            "line 2 must have file_name and text.*it has file_name, label",
        ),
        (
            lambda root: (root / "metadata.csv").write_bytes(b"file_name,text\n00.png,\xff\n"),
            "'metadata.csv' is not UTF-8",
        ),
        (
            lambda root: (root / "metadata.csv").write_text('file_name,text\n00.png,"a\n'),
            "'metadata.csv', line .*quotes",
        ),
        (_line('{"file_name": "00.png"', "metadata.jsonl"), "'metadata.jsonl', line 1 is no JSON"),
        (_line("[1]", "metadata.jsonl"), "line 1 is no object with file_name and text"),
        (
            _line('{"file_name": "00.png", "text": 3}', "metadata.jsonl"),
            "line 1 must have file_name and text, and nothing unnamed; it has file_name$",
        ),
        (
            lambda root: (root / "x.png").symlink_to("/etc/hostname"),
            "'x.png' .* is a link that leads",
        ),
        (lambda root: (root / "x").symlink_to("/etc"), "'x' in '.*own' is a link that leads"),
        (
            lambda root: [p.unlink() for p in root.glob("*.png")],
            "has no picture; give a folder with",
        ),
        (lambda root: [p.unlink() for p in root.glob("0*.png")], "has 2 pictures; at least 10"),
        (_no_class, "'00.png' lies beside the folders of classes"),
    ],
)
def test_what_is_wrong_is_said_by_its_name(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folder)
    config = PictureData(pictures=str(folder), size=8)
    for read in (load_dataset, PictureData.pinned):
        with refused(message, DataError):
            read(config)


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        ("png", "RGBA"),
        ("png", "P"),
        ("jpg", "RGB"),
        ("gif", "P"),
        ("tiff", "RGB"),
        ("webp", "RGB"),
        ("bmp", "RGB"),
        ("ppm", "RGB"),
    ],
)
def test_damaged_pictures_are_read_or_refused_in_a_line(
    tmp_path: Path, form: str, mode: str
) -> None:
    rng = np.random.default_rng(0)
    for index in range(9):
        _picture(tmp_path / f"{index}.png", index)
    damaged = tmp_path / f"x.{form}"
    _picture(damaged, 9, mode, (24, 24))
    whole = damaged.read_bytes()
    outcomes = set()
    for trial in range(40):
        content = bytearray(whole)
        if trial % 2:
            del content[rng.integers(len(content)) :]
        for place in rng.integers(min(200, len(content) or 1), size=3):
            content[place : place + 1] = rng.bytes(1)
        damaged.write_bytes(content)
        try:
            for picture in ImageFolder.of(tmp_path).pictures():
                assert picture.mode in ("L", "RGB", "RGBA")
            outcomes.add("read")
        except DataError as error:
            outcomes.add(str(error)[: len(damaged.name) + 2])
    assert f"'{damaged.name}'" in outcomes <= {"read", f"'{damaged.name}'"}


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with refused("does not exist; give a folder", DataError):
        load_dataset(PictureData(pictures=str(tmp_path / "none")))
    with refused("is a file, not a folder", DataError):
        load_dataset(PictureData(pictures=str(tmp_path / "file")))


def test_too_many_values_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kan_diffusion.data.pictures.MOST_VALUES", 1_000)
    with refused(
        "12 pictures of 16 pixels .* fit, take fewer pictures or a smaller size", DataError
    ):
        load_dataset(PictureData(pictures=str(folder), size=16))
