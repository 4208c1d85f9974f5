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

__all__ = ["app", "main"]

app = App(
    name="kan-diffusion",
    help="Diffusion models whose denoiser is a Kolmogorov-Arnold network, compared with MLPs.",
    help_epilogue="Begin with `kan-diffusion compare swiss-roll`, two minutes, or with "
    "`kan-diffusion train people.csv` for rows of your own.",
    version=f"kan-diffusion {__version__}",
    default_parameter=Parameter(allow_repeating=True),  # the last one counts
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,
)


def _add(command: str, text: str, *examples: str) -> None:
    """Adds a command by the place of its function, its help and examples of its use."""
    shown = "\n\n".join(["Examples:", *examples])
    name = command.partition(":")[2]
    app.command(f"kan_diffusion.cli.{command}", name=name, help=text, help_epilogue=shown)


_add(
    "study:compare",
    "Train KAN and MLP denoisers side by side and report who denoises better.\n\n"
    "Finished trials are kept: the same command goes on where it was interrupted.",
    "`kan-diffusion compare swiss-roll`: the default study, two minutes on two cores",
    "`kan-diffusion compare points.csv --match params --budget 2300`: the answer for your data",
    "`kan-diffusion compare wine --families all --seeds 10`",
    "`kan-diffusion compare moons --match time --budget 6 --families kan,mlp`",
    "`kan-diffusion compare moons --match flops --budget mlp:32-32-32`",
    "`kan-diffusion compare moons --process flow`",
    "`kan-diffusion compare digits`: pictures by prompts, plain and KAN transformers and U-Nets",
    "`kan-diffusion compare study.yaml --executor ray --address auto --out /shared/mine`",
)
_add(
    "study:tune",
    "Search good settings for each family, with the same effort for all of them.\n\n"
    "Tunes on seeds that no comparison uses, at the budget of the study. The same command goes on "
    "where it was interrupted.",
    "`kan-diffusion tune points.csv --tries 12 --out runs/tuned`, then",
    "`kan-diffusion compare points.csv --tuned runs/tuned/tuned.json`",
    "`kan-diffusion tune study.yaml --data moons,circles`: on some of its data sets",
)
_add(
    "runs:train",
    "Train one denoiser on your rows or pictures or on a toy, and judge it.\n\n"
    "The same command goes on where it was interrupted.",
    "`kan-diffusion train people.csv --out runs/people`",
    "`kan-diffusion train people.csv --describe`: the kinds of its columns",
    "`kan-diffusion train people.csv --columns 'age=number,zip=category'`",
    "`kan-diffusion train two-spirals --family mlp --steps 2000 --lr 0.01`",
    "`kan-diffusion train digits --out runs/digits`: pictures, by prompts, in a minute or two",
    "`kan-diffusion train two-modes --family readable-kan --params 153 --sparsify 0.001`",
)
_add(
    "runs:sample",
    "Draw rows from a trained run, in the data's own units, under conditions; or pictures.",
    "`kan-diffusion sample runs/mine --num 1000`: into runs/mine/samples.csv",
    "`kan-diffusion sample runs/iris --where 'species=setosa' --where '1.0<=petal length<=1.5'`",
    "`kan-diffusion sample runs/people --like some.csv`: a row for each, its cells kept",
    "`kan-diffusion sample runs/mine --scheduler heun --steps 30 --out samples.parquet`",
    "`kan-diffusion sample runs/digits --prompt 'a seven' --num 16 --guidance 2 --out sevens`: PNG "
    "files and a contact sheet",
    "`kan-diffusion sample runs/kan runs/mlp --animate both.gif`: how points come about, side by "
    "side from the same noise",
)
_add(
    "runs:impute",
    "Fill the gaps of rows with what a trained run thinks likely; all other cells stay.",
    "`kan-diffusion impute runs/people gaps.csv --out filled.csv`",
    "`kan-diffusion impute runs/people gaps.csv --draws 20 --out filled.parquet`: twenty fillings, "
    "whose spread says how sure they are",
)
_add(
    "runs:evaluate",
    "Judge a trained run: loss and sample metrics; of a table also its rows, on a page.",
    "`kan-diffusion evaluate runs/mine`: with the rows that were held out",
    "`kan-diffusion evaluate runs/people --data real.csv --out people.html`",
)
_add(
    "runs:explain",
    "Look into a KAN: its edges, what can be left out, and formulas for its score.\n\n"
    "Edges can be read in the families readable-kan, full-kan and modulated-kan, not in kan.",
    "`kan-diffusion train two-modes --family readable-kan --params 153 --sparsify 0.001 --out "
    "runs/two-modes`, then",
    "`kan-diffusion explain runs/two-modes`: pictures, formulas, programs",
    "`kan-diffusion explain runs/mine --library linear,tanh,sin --seconds 60`",
    "`kan-diffusion explain runs/mine --no-simplify`: look at the network as it is",
    "`kan-diffusion sample runs/two-modes/explanation/formula`: sample from the formula",
)
_add(
    "study:report",
    "Write a study's report again from its trials, or one of finished runs side by side.",
    "`kan-diffusion report runs/swiss-roll`: a study's report again",
    "`kan-diffusion report runs/two-modes runs/two-modes/explanation/formula --out runs/both`: a "
    "network and its formula side by side",
)

_RESUMED = {"compare", "tune", "train"}
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
        with valid_settings("settings"):
            app(words)
    except CycloptsError as error:
        if not isinstance(error.__cause__, KanDiffusionError):
            command = " ".join(["kan-diffusion", *(error.command_chain or ())])
            raise _ended(f"usage: {one_line(str(error))} See {command} --help", 2) from error
        raise _ended(f"error: {error.__cause__}", 1) from error
    except KeyboardInterrupt as signalled:
        kept = "nothing is kept: give the same command again to begin anew"
        if _RESUMED.intersection(words[:1]):
            kept = "what is finished is kept: give the same command again to go on"
        code = 128 + next(iter(signalled.args), signal.SIGINT)
        raise _ended(f"interrupted; {kept}", code) from None
    except Exception as error:  # what nobody foresaw may quote a file, too
        raise _ended(f"error: {_in_words(error)}", 1) from error


def _ended(text: str, code: int) -> SystemExit:
    TextConsole(stderr=True).say(text)
    return SystemExit(code)


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
