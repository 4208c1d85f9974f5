import re
import shlex
from pathlib import Path

from kan_diffusion.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = {name: app[name] for name in app if not name.startswith("-")}
HELP = {name: str(command.default_command.__doc__) for name, command in COMMANDS.items()}


def blocks(page, language=r"\w+"):
    """Languages and contents of the blocks of code of a page."""
    return re.findall(rf"^```({language})\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def console_lines(block):
    """What a reader types, each with what the page shows that it prints."""
    _, *steps = re.split(r"^\$ ", block, flags=re.MULTILINE)
    return [tuple(step.partition("\n")[::2]) for step in steps]


def unprinted(shown, printed, *, numbers=False):
    """What a page shows of an output and a command has not printed; nothing if it has all.

    Words and signs must be there in the same order. ``...`` is whatever is left out, a number is
    some number unless ``numbers`` are compared, too, and lines may be broken elsewhere.
    """

    def words(text):
        text = text if numbers else re.sub(r"[-−]?\d[\d.,]*(e[-−]?\d+)?", "#", text)
        return " ".join(text.split())

    rest = words(printed)
    for part in map(words, shown.split("...")):
        _, seen, rest = rest.partition(part) if part else ("", "none", rest)
        if not seen:
            return part
    return ""


def known_words(command):
    """The words after `kan-diffusion`, which must be a command with options it knows."""
    words = shlex.split(command, comments=True)
    assert words.pop(0) == "kan-diffusion", command
    if not words[0].startswith("-"):
        assert words[0] in COMMANDS, command
        app.parse_args(words)
    return words
