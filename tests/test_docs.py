"""Commands, programs and study files in the documentation do what they say.

Each page is worked through from top to bottom in a folder of its own, as a reader would, with fewer
steps, seeds, tries and points.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer

import kan_diffusion
from command_line import SMALL, Cli, cli  # noqa: F401
from html_page import draw_nothing
from kan_diffusion.cli.app import app
from kan_diffusion.data.datasets import FileData, PictureData, TableData, ToyData
from kan_diffusion.processes import Process
from kan_diffusion.study.budgets import Budget
from kan_diffusion.study.config import (
    EvaluationConfig,
    ModelConfig,
    SamplingConfig,
    StudyConfig,
    read_study,
)
from kan_diffusion.training import TrainingConfig

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(app)

SHORTER = {
    "train": ["--steps", "20"],
    "compare": ["--steps", "20", "--seeds", "1"],
    "tune": ["--steps", "20", "--tries", "1"],
    "explain": ["--num", "100", "--library", "linear,tanh", "--seconds", "5", "--levels", "300"],
}
LONG_ENOUGH_TO_READ = ["--steps", "600"]

ELSEWHERE = re.compile(r"git clone|cd |pip install|\.venv/bin/(pip|pre-commit) install|open ")
"""Commands that need the network or act on the reader's desk."""

SHARED = re.compile(
    r"kan-diffusion (train (two-modes|digits) .*|explain runs/two|compare points.csv .*)$"
)
"""Commands that need no file of the page's own; where two pages have one, it runs once."""
_DESKS: dict[str, Path] = {}
"""Where each of them has run."""


def _blocks(page: Path, language: str = r"\w+") -> list[tuple[str, str]]:
    return re.findall(rf"^```({language})\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def _words(command: str) -> list[str]:
    """The words after `kan-diffusion`, which must be a command with options it knows."""
    words = shlex.split(command, comments=True)
    assert words.pop(0) == "kan-diffusion", command
    if words and words[0].startswith("-"):
        return words
    assert words[0] in COMMANDS.commands, command
    COMMANDS.commands[words[0]].make_context(words[0], words[1:])
    return words


def _shorter(words: list[str]) -> list[str]:
    more = LONG_ENOUGH_TO_READ if "--sparsify" in words else SHORTER.get(words[0], [])
    pairs = zip(more[::2], more[1::2], strict=True)
    return [*words, *(word for pair in pairs if pair[0] not in words for word in pair)]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages speak of."""
    for name, count in (("points", 400), ("other-points", 60)):
        points = np.random.default_rng(0).normal([100, -0.5], [10, 0.01], (count, 2))
        np.savetxt(tmp_path / f"{name}.csv", points, delimiter=",", header="mass,age", comments="")
    age = np.random.default_rng(1).integers(18, 80, 300)
    job = np.where(age < 26, "student", "baker")
    pd.DataFrame({"age": age, "job": job}).to_csv(tmp_path / "people.csv", index=False)
    drawn = ROOT / "playground" / "tests" / "fixtures" / "browser-model.json"
    (tmp_path / "kan-drawing.json").write_bytes(drawn.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    estimator = partial(kan_diffusion.DiffusionEstimator, steps=20)
    monkeypatch.setattr(kan_diffusion, "DiffusionEstimator", estimator, raising=False)

    def short(**settings: object) -> TrainingConfig:
        return TrainingConfig(**{**settings, "steps": 20})

    monkeypatch.setattr(kan_diffusion, "TrainingConfig", short, raising=False)
    return tmp_path


def _less_to_do(setting: re.Match[str]) -> str:
    small = {**SMALL, "steps": 20}
    return f"{setting[1]}: {small[setting[1]]}" if setting[1] in small else setting[0]


def _known_to_the_reader() -> dict[str, object]:
    """Names that programs in the pages use for something the reader has."""
    table = np.random.default_rng(0).normal(size=(100, 2))
    edges = {"base_weight": (2, 3), "spline_weight": (2, 3, 7), "spline_scaler": (2, 3)}
    state = {f"layers.0.{name}": torch.randn(shape) for name, shape in edges.items()}
    state["layers.0.grid"] = torch.arange(-4.0, 7).expand(3, -1) / 2
    return {"table": table, "points": torch.randn(100, 2), "state_dict": state}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_programs_and_study_files_work(
    page: Path,
    desk: Path,
    cli: Cli,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw_nothing(monkeypatch)
    names = _known_to_the_reader()
    for language, block in _blocks(page, "console|python|yaml"):
        file = re.match(r"# ([\w-]+\.(py|yaml))\n", block)
        if file is not None:
            (desk / file[1]).write_text(block)
        if language == "python" and file is None:
            exec(block, names)
        elif language == "yaml":
            assert file is not None, "a YAML block begins with the name of its file"
            read_study(desk / file[1], importing=True)
            small = re.sub(r"(\w+): \d+", _less_to_do, block)
            (desk / file[1]).write_text(small)
        elif language == "console":
            for line in re.findall(r"^\$ (.*)", block, re.MULTILINE):
                if line in _DESKS:
                    shutil.copytree(_DESKS[line] / "runs", desk / "runs", dirs_exist_ok=True)
                elif not ELSEWHERE.match(line):
                    _run(line, cli)
                    if SHARED.match(line):
                        _DESKS[line] = desk


def _run(line: str, cli: Cli) -> None:  # noqa: F811
    if line.startswith("make "):
        _check_make(shlex.split(line, comments=True)[1:])
        return
    outcome = cli(*_shorter(_words(line)))
    assert outcome.code == 0, f"{line}\n{outcome.err}"


def _check_make(words: list[str]) -> None:
    """There is such a target, and the commands it runs exist."""
    # The ARGS of a `make test` are not for these commands.
    own = {key: value for key, value in os.environ.items() if key not in ("ARGS", "MAKEFLAGS")}
    result = subprocess.run(
        ["make", "--dry-run", *words],
        cwd=ROOT, env=own, capture_output=True, text=True, check=True,
    )  # fmt: skip
    printed = result.stdout.replace("\\\n", "")
    for command in re.findall(r"^\.venv/bin/(kan-diffusion .*)$", printed, re.MULTILINE):
        _words(command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_within_sentences_are_known(page: Path) -> None:
    for command in re.findall(r"`kan-diffusion ([^`]+)`", page.read_text()):
        if command not in COMMANDS.commands:  # a name alone stands for the command
            _words(f"kan-diffusion {command}")
    for target in re.findall(r"`make ([^`]+)`", page.read_text()):
        _check_make(shlex.split(target))


def test_examples_of_the_help_are_known() -> None:
    for name, command in COMMANDS.commands.items():
        examples = re.findall(r"`(kan-diffusion [^`]+)`", command.epilog or "")
        assert examples, name
        for example in examples:
            _words(example)


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_study_file_has_every_key() -> None:
    ((_, block),) = _blocks(ROOT / "docs" / "studies.md", "yaml")
    keys = set(re.findall(r"^[ #-]*(\w+):", block, re.MULTILINE))
    data = (ToyData, FileData, TableData, PictureData, Process)
    parts = (StudyConfig, ModelConfig, Budget, TrainingConfig, SamplingConfig, EvaluationConfig)
    assert {key for part in (*parts, *data) for key in part.model_fields} <= keys
