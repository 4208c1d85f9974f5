"""The command line: its commands, which are imported when they run, and how it ends."""

from __future__ import annotations

import codecs
import io
import logging
import os
import signal
import sys
import traceback
import unicodedata
from pathlib import Path

from cyclopts import App, CycloptsError, Parameter

from kan_diffusion._version import __version__
from kan_diffusion.errors import (
    OUT_OF_MEMORY,
    KanDiffusionError,
    is_out_of_memory,
    one_line,
    printable,
    valid_settings,
)
from kan_diffusion.interrupts import interrupt_on_signals
from kan_diffusion.progress import TextConsole
from kan_diffusion.ranks import is_main_process

COMMANDS = {
    "compare": "Train KAN and MLP denoisers side by side and report who denoises better.",
    "tune": "Search good settings for each family, with the same effort for all of them.",
    "train": "Train one denoiser on your rows or pictures or on a toy, and judge it.",
    "sample": "Draw rows from a trained run, under conditions; or pictures.",
    "impute": "Fill the gaps of rows with what a trained run thinks likely; all other cells stay.",
    "evaluate": "Judge a trained run: loss and sample metrics; of a table also its rows.",
    "explain": "Look into a KAN: its edges, what can be left out, and formulas for its score.",
    "report": "Write a study's report again, or one of finished runs side by side.",
}
"""The commands in the order of ``--help``, which imports none of them."""

app = App(
    name="kan-diffusion",
    help="Diffusion models whose denoiser is a Kolmogorov-Arnold network, compared with MLPs.",
    help_epilogue="Begin with `kan-diffusion compare swiss-roll`, two minutes, or with "
    "`kan-diffusion train people.csv` for rows of your own.",
    version=f"kan-diffusion {__version__}",
    default_parameter=Parameter(allow_repeating=True, negative=()),  # the last one counts
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,
)
for _name, _text in COMMANDS.items():
    _module = "study" if _name in ("compare", "tune", "report") else "runs"
    app.command(f"kan_diffusion.cli.{_module}:{_name}", name=_name, help=_text, help_epilogue="")


_PLAIN = str.maketrans({"±": "~", "−": "-", "–": "-", "’": "'", "“": '"', "”": '"', "…": "..."})


def _in_plain_letters(error: UnicodeError) -> tuple[str, int]:
    """Replaces characters that the terminal lacks by ASCII, without accents."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_PLAIN)
    letters = (unicodedata.normalize("NFKD", letter) for letter in text)
    return "".join(each.encode("ascii", "ignore").decode() or "?" for each in letters), error.end


def _set_up() -> None:
    """Sets up streams, signals and logging for the whole process."""
    from rich.logging import RichHandler

    codecs.register_error("plain", _in_plain_letters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain")
    interrupt_on_signals()
    os.environ["PYTHONSAFEPATH"] = "1"  # no worker has the working folder on its path
    if not is_main_process():  # of several processes that train one model, only the first prints
        sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    console = TextConsole(stderr=True)
    handler = RichHandler(console=console, show_time=False, show_path=False, markup=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("kan_diffusion.imports").setLevel(logging.INFO)
    logging.captureWarnings(True)


def main() -> None:
    """Runs the command line; what a user can act on is one line on standard error.

    It ends with code 1 after an error, 2 after wrong usage, and 128 and a signal's number after it.
    """
    _set_up()
    words = sys.argv[1:]
    try:
        for word in words:
            if printable(word) != word or len(word.splitlines()) > 1 or "\n" in word:
                raise KanDiffusionError(f"argument '{word}' has invisible characters; rename it")
        if COMMANDS.keys() & words[:1]:
            app[words[0]].help = None  # its docstring, which says more
        with valid_settings("settings"):
            app(words)
    except CycloptsError as error:
        raise _ended(*_of_usage(error)) from error
    except KeyboardInterrupt as signalled:
        kept = "nothing is kept: give the same command again to begin anew"
        if {"compare", "tune", "train"} & {*words[:1]}:
            kept = "what is finished is kept: give the same command again to go on"
        code = 128 + next(iter(signalled.args), signal.SIGINT)
        raise _ended(f"interrupted; {kept}", code) from None
    except Exception as error:  # what nobody foresaw may quote a file, too
        raise _ended(f"error: {_in_words(error)}", 1) from error


def _ended(text: str, code: int) -> SystemExit:
    TextConsole(stderr=True).say(text)
    return SystemExit(code)


def _of_usage(error: CycloptsError) -> tuple[str, int]:
    """Says what is wrong with the words, or what the library says of them, and the exit code."""
    from pydantic import ValidationError

    said, cause = str(error), error.__cause__
    if error.argument is not None and isinstance(cause, ValidationError):
        first = cause.errors()[0]
        reason = first.get("ctx", {}).get("error")
        if isinstance(reason, KanDiffusionError):
            return f"error: {reason}", 1
        options = {option.keys[-1]: option.name for option in error.argument.children}
        said = f"{options[str(first['loc'][0])]} {first['input']}: {first['msg']}."
    command = " ".join(["kan-diffusion", *(error.command_chain or ())])
    return f"usage: {one_line(said)} See {command} --help", 2


def _in_words(error: Exception) -> str:
    """Writes an error a user can act on as one line, and any other with where it arose."""
    if isinstance(error, KanDiffusionError):
        return str(error)
    if isinstance(error, OSError):
        name = f"'{error.filename}': " if error.filename is not None else ""
        return one_line(f"{name}{error.strerror or error}; check the path, or choose another")
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    return "".join(traceback.format_exception(error))
