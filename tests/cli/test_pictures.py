"""Pictures on the command line: trained, prompted, judged, compared, and what is refused."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from command_line import Cli, call_quietly
from kan_diffusion.cli import app
from picture_folders import Told, write_pictures
from tiny import tiny_picture_study

SHORT = ["--steps", "3", "--batch-size", "8", "--size", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs of pictures with captions and with classes, beside their pictures."""
    root = tmp_path_factory.mktemp("pictures")
    kinds: tuple[Told, ...] = ("captions", "classes")
    for told in kinds:
        data = write_pictures(root / told, told)
        assert call_quietly("train", data, *SHORT, "--out", root / f"{told}-run") == 0
    return root


def test_prompts_become_files_and_a_sheet(folder: Path, cli: Cli, tmp_path: Path) -> None:
    run, out = folder / "captions-run", tmp_path / "drawn"
    words = ["--prompt", "a bright picture", "--prompt", "a brigth one", "--num", "3"]
    outcome = cli("sample", run, *words, "--guidance", "2", "--steps", "3", "--out", out)
    assert outcome.code == 0, outcome.err
    assert outcome.out == f"6 pictures: {out}\n"
    said = " ".join(outcome.err.split())
    assert "'brigth' was never seen; nearest known: bright" in said
    assert "'one' was never seen" in said
    names = sorted(path.name for path in out.iterdir())
    stems = ["01-a-bright-picture", "02-a-brigth-one"]
    assert names == [*(f"{stem}-{n}.png" for stem in stems for n in (1, 2, 3)), "sheet.png"]
    for name in names[:-1]:
        with Image.open(out / name) as picture:
            assert (picture.size, picture.mode) == ((8, 8), "L")
    assert "exists; choose another --out" in cli("sample", run, *words, "--out", out).error
    # Without a place the pictures go beside the run, and never over others.
    for place in ("pictures", "pictures-2"):
        assert (
            cli("sample", run, "--num", "2", "--steps", "2").out == f"2 pictures: {run / place}\n"
        )


def test_pictures_that_are_drawn_meanwhile_stay(
    folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folder / "shared-run"
    shutil.copytree(folder / "captions-run", run, ignore=shutil.ignore_patterns("pictures*"))
    draw = app._draw_pictures

    def draw_while_others_do(*given: object) -> object:
        (run / "pictures").mkdir()
        return draw(*given)

    monkeypatch.setattr(app, "_draw_pictures", draw_while_others_do)
    outcome = cli("sample", run, "--num", "2", "--steps", "2")
    assert outcome.out == f"2 pictures: {run / 'pictures-2'}\n"
    assert not list((run / "pictures").iterdir())


def test_overwriting_leaves_the_new_pictures_and_files_of_others(
    folder: Path, cli: Cli, tmp_path: Path
) -> None:
    out = tmp_path / "drawn"

    def drawn(*words: str) -> list[str]:
        shared = ["--steps", "2", "--out", out, "--overwrite"]
        assert cli("sample", folder / "captions-run", *words, *shared).code == 0
        return sorted(path.name for path in out.iterdir())

    # What is asked for twice is drawn twice.
    names = drawn("--prompt", "dark", "--prompt", "dark", "--num", "1")
    assert names == ["01-dark-1.png", "02-dark-1.png", "sheet.png"]
    (out / "holiday-2024.png").write_bytes(b"somebody's")
    for num, expected in ((3, ["dark-1.png", "dark-2.png", "dark-3.png"]), (1, ["dark-1.png"])):
        names = drawn("--prompt", "dark", "--num", str(num))
        assert names == [*expected, "holiday-2024.png", "sheet.png"]


def test_a_class_is_asked_for_by_its_name_or_number(folder: Path, cli: Cli, tmp_path: Path) -> None:
    def drawn(*words: str) -> bytes:
        out = tmp_path / "-".join(words)
        shared = ["--num", "1", "--steps", "2", "--out", out]
        assert cli("sample", folder / "classes-run", "--class", *words, *shared).code == 0
        return (out / f"{words[0]}-1.png").read_bytes()

    named = drawn("dark")
    assert named == drawn("1")
    assert named != drawn("dark", "--seed", "1")


def test_a_run_is_judged_beside_real_pictures(folder: Path, cli: Cli) -> None:
    outcome = cli("evaluate", folder / "classes-run")
    assert outcome.code == 0, outcome.err
    for said in ("Fréchet distance (real against real)", "classes as asked (real against real)"):
        assert said in outcome.out
    assert "4 pictures of 'classes' that were not trained on" in " ".join(outcome.out.split())


def test_models_are_compared_and_their_pictures_shown(
    folder: Path, cli: Cli, tmp_path: Path
) -> None:
    pictures = {"pictures": str(folder / "classes"), "size": 8, "holdout": 0.5}
    study = tiny_picture_study(pictures, {"settings": {"width": 8, "heads": 2}})
    (tmp_path / "study.yaml").write_text(study.to_yaml())
    out = tmp_path / "study"
    outcome = cli("compare", tmp_path / "study.yaml", "--out", out)
    assert outcome.code == 0, outcome.err
    text = " ".join(outcome.out.split())
    assert "the only KAN (DiT KAN)" in text
    assert "pictures as asked" in text
    figures = {path.name.split("-")[0] for path in (out / "figures").iterdir()}
    assert {"pictures", "reverse", "metrics"} <= figures
    page = (out / "report.html").read_text()
    assert "What the models draw" in page
    assert "could not be drawn" not in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sample", "classes-run", "--prompt", "dark"), "trained without text; leave prompts out"),
        (("sample", "captions-run", "--class", "dark"), "trained without classes"),
        (("sample", "classes-run", "--class", "grey"), "class 'grey' is unknown; known: bright,"),
        (("sample", "classes-run", "--class", "²"), "class '²' is unknown; known: bright,"),
        (
            ("sample", "captions-run", "--guidance", "2", "--class", "a", "--prompt", "a"),
            "not with",
        ),
        (("sample", "captions-run", "--prompt", "a " * 40), "tokens and 13 fit; say it in fewer"),
        (("sample", "captions-run", "--where", "a=1"), "of pictures; --where is for models of tab"),
        (("sample", "classes-run", "--guidance", "2"), "and ask for class_labels"),
        (("sample", "captions-run", "--guidance", "2"), "and no prompt is given; leave guidance"),
        (("explain", "captions-run"), "is a model of pictures, and this is for models of points"),
        (("impute", "captions-run", "x.csv", "--out", "y.csv"), "is a model of pictures"),
        (("export", "captions-run", "--to", "web"), "is a model of pictures"),
        (("evaluate", "captions-run", "--out", "page.html"), "no model of a table; --out is for"),
        (("train", "captions", "--size", "9000"), "size = 9000"),
        (("compare", "captions", "--families", "dit,mlp"), "family 'mlp' is for points"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_makes_no_sense_is_refused_in_one_line(
    folder: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    command, what, *others = words
    assert message in cli(command, folder / what, *others).error


def test_a_spoilt_folder_is_refused_in_one_line(cli: Cli, tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "own", "captions")
    (root / "03.png").write_bytes(b"no picture")
    for command in ("train", "compare"):
        error = cli(command, root, "--out", tmp_path / "run").error
        assert "'03.png' is no picture that" in error
    assert not (tmp_path / "run").exists()


def test_what_prompts_need_is_said_where_it_is_not_installed(
    folder: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # as Python marks what is not there
    for words in (
        ("train", folder / "captions", *SHORT, "--out", tmp_path / "run"),
        ("sample", folder / "captions-run", "--prompt", "a dark picture"),
    ):
        assert cli(*words).error == (
            "error: prompts need 'transformers'; install it with: pip install 'kan-diffusion[text]'"
        )


def test_pictures_are_described_and_nothing_is_trained(folder: Path, cli: Cli) -> None:
    outcome = cli("train", folder / "captions", "--describe")
    assert outcome.code == 0
    said = (
        "20 pictures of 32 x 32 pixels in grey to train on, 4 held out, with captions such as 'a "
    )
    assert outcome.out.startswith(said)
    assert outcome.out.endswith("of 24 pictures, 24 resized to 32 pixels\n")
    asked = "--size", 8, "--mode", "RGB", "--holdout", 0.5
    outcome = cli("train", folder / "captions", "--describe", *asked)
    assert outcome.out.startswith("12 pictures of 8 x 8 pixels in colour to train on, 12 held out")
    assert "--objects are for pictures" in cli("train", "iris", "--describe", "--objects", 2).error
