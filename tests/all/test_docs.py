"""Commands, programs and study files in the documentation do what they say.

Each page is worked through from top to bottom in a folder of its own, as a reader would, with fewer
steps, seeds, tries and points.
"""

import re
import shutil
from functools import partial

import numpy as np
import pytest
import torch

import kan_diffusion
from docs import PAGES, ROOT, blocks, console_lines, known_words, unprinted
from kan_diffusion import decide, read_results
from kan_diffusion.cli.console import show_conclusions
from kan_diffusion.study.config import read_study
from kan_diffusion.training.config import TrainingConfig

SHORTER = {
    "train": ["--steps", "20"],
    "compare": ["--steps", "20", "--seeds", "1"],
    "tune": ["--steps", "20", "--tries", "1"],
    "explain": ["--library", "linear,tanh", "--seconds", "60"],
}
LONG_ENOUGH_TO_READ = ["--steps", "600"]
HARDLY_READ = ["--library", "linear", "--seconds", "1", "--num", "20"]
"""Options of an explanation of which the page shows nothing."""
RUN = [
    page for page in PAGES if blocks(page, "python|yaml") or "$ kan-diffusion" in page.read_text()
]


def _shorter(words, shown):
    more = SHORTER.get(words[0], [])
    if shown and "--sparsify" in words:
        more = LONG_ENOUGH_TO_READ
    elif not shown and words[0] == "explain":
        more = HARDLY_READ
    pairs = zip(more[::2], more[1::2], strict=True)
    return [*words, *(word for pair in pairs if pair[0] not in words for word in pair)]


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with the files that the pages speak of, where programs train for a few steps."""
    for name, count in (("points", 400), ("other-points", 60)):
        points = np.random.default_rng(0).normal([100, -0.5], [10, 0.01], (count, 2))
        np.savetxt(tmp_path / f"{name}.csv", points, delimiter=",", header="mass,age", comments="")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    customers = tmp_path / "examples" / "customers.csv"
    customers.write_text("".join(customers.read_text().splitlines(keepends=True)[:401]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    short = {
        "DiffusionEstimator": partial(kan_diffusion.DiffusionEstimator, steps=20),
        "TrainingConfig": lambda **settings: TrainingConfig(**{**settings, "steps": 20}),
    }
    for name, made in short.items():
        monkeypatch.setattr(kan_diffusion, name, made, raising=False)
    return tmp_path


def _known_to_the_reader():
    """Names that programs in the pages use for something the reader has."""
    table = np.random.default_rng(0).normal(size=(100, 2))
    edges = {"base_weight": (2, 3), "spline_weight": (2, 3, 7), "spline_scaler": (2, 3)}
    state = {f"layers.0.{name}": torch.randn(shape) for name, shape in edges.items()}
    state["layers.0.grid"] = torch.arange(-4.0, 7).expand(3, -1) / 2
    return {"table": table, "points": torch.randn(100, 2), "state_dict": state}


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_commands_programs_and_study_files_work(page, desk, cli):
    names = _known_to_the_reader()
    for language, block in blocks(page, "console|python|yaml"):
        file = re.match(r"# ([\w-]+\.(py|yaml))\n", block)
        if file is not None:
            (desk / file[1]).write_text(block)
        if language == "python" and file is None:
            exec(block, names)
        elif language == "yaml":
            assert file is not None, "a YAML block begins with the name of its file"
            read_study(desk / file[1], importing=True)
            (desk / file[1]).write_text(re.sub(r"\bsteps: \d+", "steps: 20", block))
        elif language == "console":
            for line, shown in console_lines(block):
                if line.startswith("kan-diffusion "):  # others change the reader's machine
                    outcome = cli(*_shorter(known_words(line), shown))
                    assert outcome.code == 0, f"{line}\n{outcome.err}"
                    assert not unprinted(shown, outcome.out), f"{line}\n{outcome.out}"


def test_the_first_screen_shows_what_the_committed_rows_say(capsys):
    results = read_results(ROOT / "results" / "swiss-roll")
    show_conclusions(decide(results))
    _, first = blocks(ROOT / "README.md", "console")[0]
    shown = dict(console_lines(first))["make compare"]
    printed = f"{capsys.readouterr().out}Report: runs/swiss-roll/report.html"
    assert not unprinted(shown, printed, numbers=True)
