"""Options: fields of settings, whose docstrings, types and bounds are those of the command line."""

from __future__ import annotations

import csv
import inspect
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import AfterValidator, BeforeValidator, ConfigDict

from kan_diffusion.imports import import_own
from kan_diffusion.progress import TextConsole
from kan_diffusion.settings import Settings


@Parameter(name="*")
class Options(Settings):
    """Options of a command, a field each: its docstring is the help, pydantic reads the value."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    def of(self, function: Callable[..., object]) -> dict[str, Any]:
        """Returns the values that a function takes, by the names of its arguments."""
        taken = inspect.signature(function).parameters
        return {name: value for name, value in self if name in taken}


def _listed(texts: Sequence[str] | None) -> list[str] | None:
    """Parses names with commas between them; those with commas are quoted."""
    if texts is None:
        return None
    lines = (next(csv.reader([text], skipinitialspace=True)) or [""] for text in texts)
    return [name.strip() for line in lines for name in line]


def _imported(names: list[str] | None) -> list[str] | None:
    for name in names or ():
        import_own(name)
    return names


Names = Annotated[list[str] | None, BeforeValidator(_listed)]
"""Names with commas between them."""
Several = Annotated[tuple[str, ...], Parameter(show_default=False)]
"""A text that may be given several times."""
Switch = Annotated[bool, Parameter(show_default=False)]
"""Something to switch on."""
Run = Annotated[Path, Parameter(help="Folder of a finished run.")]
Device = Annotated[str, Parameter(help="cpu, cuda, ... or auto: a GPU when there is one.")]
Out = Annotated[Path | None, Parameter(help="Run folder.")]


class RunOptions(Options):
    """Options of all commands on runs and studies that may need code of one's own."""

    modules: Annotated[Names, AfterValidator(_imported), Parameter(name="--import")] = None
    """Modules of your own, of families or metrics that the folder names."""


def command_line() -> str:
    """The command as the user gave it."""
    return shlex.join(["kan-diffusion", *sys.argv[1:]])


def say_loading(what: str) -> None:
    """Says on a terminal what is read, before modules are imported that take seconds."""
    console = TextConsole(stderr=True)
    if console.is_terminal:
        console.say(f"loading '{what}'")


def warn(message: str | None) -> None:
    """Warns, unless there is nothing to warn of."""
    if message is not None:
        logging.getLogger("kan_diffusion").warning(message)
