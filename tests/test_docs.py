"""Commands, imports and links in the documentation are there; tests/all/test_docs.py runs them."""

import ast
import importlib
import re
import shlex

import pytest

from docs import COMMANDS, HELP, PAGES, ROOT, blocks, console_lines, known_words, unprinted
from kan_diffusion.data.toys import ToyData
from kan_diffusion.pictures.sources import PictureData
from kan_diffusion.processes import Process
from kan_diffusion.study.config import (
    USUAL_SIZE,
    Budget,
    EvaluationConfig,
    ModelConfig,
    SamplingConfig,
    StudyConfig,
)
from kan_diffusion.study.named import single_trial
from kan_diffusion.tables.sources import FileData, TableData
from kan_diffusion.training.config import TrainingConfig
from tables.sources import make_customers

SHOWING_OUTPUT = ("README.md", "tables.md")
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
    steps = [step for _, block in blocks(page, "console") for step in console_lines(block)]
    if page.name in SHOWING_OUTPUT:
        assert all(shown for line, shown in steps if line.startswith("kan-diffusion"))
    lines = [line for line, _ in steps]
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
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not anchor or anchor in _anchors(file), f"{target}#{anchor}"


def _anchors(page):
    """The anchors of a page's headings, as they are made of their words."""
    heads = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def test_what_is_not_printed_is_seen():
    printed = "KAN on moons\n\n excess   0.0013\n loss 2\n\nRun: runs/mine\n"
    for shown in ("KAN on moons\n...\nRun: runs/mine", "excess 1e-06 loss 3", "..."):
        assert not unprinted(shown, printed)
    for shown in ("MLP on moons", "Run: runs/mine\n...\nexcess 0.0013", "loss\n...\nexcess"):
        assert unprinted(shown, printed)
    assert unprinted("loss 3", printed, numbers=True) == "loss 3"


def test_the_example_is_the_table_that_its_program_makes():
    text = (ROOT / "examples" / "customers.csv").read_text()
    assert text == make_customers(1000).to_csv(index=False)


def test_defaults_in_the_help_are_those_of_the_code():
    config, said = single_trial("moons"), " ".join(HELP["train"].split())
    model = f"a KAN of {USUAL_SIZE} parameters, {config.training.steps} steps and batches of "
    assert f"{model}{config.training.batch_size}." in said
    kept = [kind.model_fields["holdout"].default for kind in (FileData, TableData, PictureData)]
    holdout = COMMANDS["train"].assemble_argument_collection()["--holdout"].parameter.help
    said = "by default {}; {} of a table; {} of pictures.".format(*kept)
    assert holdout.replace("\n", " ").endswith(said)


def test_no_message_names_a_page_an_index_or_an_option_that_users_do_not_have():
    for file in (ROOT / "src").rglob("*.py"):
        options = "" if "cli" in file.parts else r"|(?<![\w-])--[a-z]"
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call | ast.Return):  # and no docstring
                texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
                said = " ".join(map(str, texts)).replace("ray start --head", "")
                said = re.sub(r'var\(--|="--', "", said)  # names of CSS
                assert not re.search(rf"docs/|pip install (?!'?\.){options}", said), (file, said)
    assert not any("docs/" in text for text in HELP.values())


def test_commands_that_the_playground_names_are_known():
    playground = ROOT / "playground"
    texts = [playground / "index.html", *(playground / "src").rglob("*.ts")]
    said = " ".join(" ".join(file.read_text().split()) for file in texts)
    commands = re.findall(r"kan-diffusion (?:[a-z]+\b(?: [\w./-]+)*)", said)
    assert commands
    for command in commands:
        known_words(command)


def test_examples_of_the_help_are_known():
    for name, text in HELP.items():
        examples = re.findall(r"`(kan-diffusion [^`]+)`", text)
        assert examples, name
        for example in examples:
            known_words(" ".join(example.split()))


def test_the_study_file_has_every_key():
    ((_, block),) = blocks(ROOT / "docs" / "studies.md", "yaml")
    keys = set(re.findall(r"^[ #-]*(\w+):", block, re.MULTILINE))
    data = (ToyData, FileData, TableData, PictureData, Process)
    parts = (StudyConfig, ModelConfig, Budget, TrainingConfig, SamplingConfig, EvaluationConfig)
    assert {key for part in (*parts, *data) for key in part.model_fields} <= keys
