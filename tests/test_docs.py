"""Commands, imports and links in the documentation are there; tests/all/test_docs.py runs them."""

import ast
import importlib
import re
import shlex

import pytest

from docs import COMMANDS, PAGES, ROOT, blocks, console_lines, known_words
from kan_diffusion.data.sources import ToyData
from kan_diffusion.pictures.sources import PictureData
from kan_diffusion.processes import Process
from kan_diffusion.study.budgets import Budget
from kan_diffusion.study.config import EvaluationConfig, ModelConfig, SamplingConfig, StudyConfig
from kan_diffusion.tables.sources import FileData, TableData
from kan_diffusion.training import TrainingConfig

MAKEFILE = (ROOT / "Makefile").read_text().replace("\\\n", "")


def _check_make(words):
    """There are such targets, and the commands they run exist."""
    for target in (word for word in shlex.split(words, comments=True) if "=" not in word):
        recipe = re.search(rf"^{re.escape(target)}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
        assert recipe, f"make {target}"
        for command in re.findall(r"^\t\$\(BIN\)/(kan-diffusion .*)", recipe[1], re.MULTILINE):
            known_words(command.replace("$(ARGS)", ""))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_imports_and_links_are_there(page):
    text = page.read_text()
    lines = [line for _, block in blocks(page, "console") for line in console_lines(block)]
    for line in [*lines, *re.findall(r"`((?:make|kan-diffusion) [^`]+)`", text)]:
        name, _, words = line.partition(" ")
        if name == "make":
            _check_make(words)
        elif name == "kan-diffusion" and words not in COMMANDS:  # a name stands for the command
            known_words(re.sub(r" --import \S+", "", line))  # which imports as it is read
    for _, program in blocks(page, "python"):
        for node in ast.walk(ast.parse(program)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("kan_diffusion"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, name.name) for name in node.names), ast.unparse(node)
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / target).exists(), target


def test_examples_of_the_help_are_known():
    for name, command in COMMANDS.items():
        examples = re.findall(r"`(kan-diffusion [^`]+)`", command.epilog or "")
        assert examples, name
        for example in examples:
            known_words(example)


def test_the_study_file_has_every_key():
    ((_, block),) = blocks(ROOT / "docs" / "studies.md", "yaml")
    keys = set(re.findall(r"^[ #-]*(\w+):", block, re.MULTILINE))
    data = (ToyData, FileData, TableData, PictureData, Process)
    parts = (StudyConfig, ModelConfig, Budget, TrainingConfig, SamplingConfig, EvaluationConfig)
    assert {key for part in (*parts, *data) for key in part.model_fields} <= keys
