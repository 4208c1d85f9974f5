import re
import shlex
from pathlib import Path

import typer

from kan_diffusion.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(app).commands


def blocks(page, language=r"\w+"):
    """Languages and contents of the blocks of code of a page."""
    return re.findall(rf"^```({language})\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def console_lines(block):
    """What a reader types."""
    return re.findall(r"^\$ (.*)", block, re.MULTILINE)


def known_words(command):
    """The words after `kan-diffusion`, which must be a command with options it knows."""
    words = shlex.split(command, comments=True)
    assert words.pop(0) == "kan-diffusion", command
    if not words[0].startswith("-"):
        assert words[0] in COMMANDS, command
        COMMANDS[words[0]].make_context(words[0], words[1:])
    return words
