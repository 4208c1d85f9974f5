"""Options that several commands share, and options that follow from settings."""

from __future__ import annotations

import csv
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, Token
from cyclopts.validators import Number

from kan_diffusion.imports import import_own
from kan_diffusion.limits import MOST_PARAMETERS, MOST_WORKERS
from kan_diffusion.progress import TextConsole
from kan_diffusion.settings import Settings

__all__ = [
    "Address", "Device", "Executor", "Modules", "Out", "Overwrite", "Params", "Quick", "Run",
    "SamplerSteps", "Switch", "Whole", "Workers", "command_line", "listed", "say_loading",
    "setting", "warn", "within", "without_bars",
]  # fmt: skip

_BOUNDS = {"ge": "gte", "le": "lte", "gt": "gt", "lt": "lt"}


def _whole(_: object, tokens: Sequence[Token]) -> int:
    """Reads a whole number; of an option that is repeated the last."""
    try:
        return int(tokens[-1].value)
    except ValueError:
        raise ValueError(f"'{tokens[-1].value}' is no whole number.") from None


Whole = Parameter(converter=_whole)
"""A whole number, which is not made of others by rounding."""


def within(least: float | None = None, most: float | None = None) -> Parameter:
    """Bounds of an option, both included."""
    return Parameter(validator=Number(gte=least, lte=most))


def setting(settings: type[Settings], name: str, default: str | None = None) -> Parameter:
    """An option that sets a field of settings: described, and bounded, as the field is.

    Args:
        settings: The settings.
        name: The field.
        default: What is used where the option is not given; None for the field's default.
    """
    field = settings.model_fields[name]
    bounds = {
        ours: getattr(bound, theirs)
        for bound in field.metadata
        for theirs, ours in _BOUNDS.items()
        if hasattr(bound, theirs)
    }
    return Parameter(
        help=field.description,
        validator=Number(**bounds) if bounds else None,
        show_default=str(field.default) if default is None else default,
    )


def _import(_: object, names: str | None) -> None:
    for name in listed(names) or ():
        import_own(name)


Switch = Parameter(negative="", show_default=False)
"""A switch that has no opposite."""

Run = Annotated[Path, Parameter(help="Folder of a finished run.")]
Out = Annotated[Path | None, Parameter(help="Run folder.")]
Device = Annotated[str, Parameter(help="cpu, cuda, ... or auto: a GPU when there is one.")]
Params = Annotated[
    int | None, Whole, within(1, MOST_PARAMETERS), Parameter(help="Parameters of each model.")
]
Overwrite = Annotated[
    bool, Switch, Parameter(help="Replace the file, or pictures of the same names.")
]
SamplerSteps = Annotated[
    int | None,
    Whole,
    within(1),
    Parameter(
        help="Steps of the sampler.",
        show_default="20, of tables of 2,000 rows 50, for ddpm all timesteps",
    ),
]
Quick = Annotated[
    bool,
    Switch,
    Parameter(
        help="Judge by few points, samples and trees, for a first look; the same command without "
        "it judges again and trains nothing again. 'train' trains on rows for half a minute."
    ),
]
Modules = Annotated[
    str | None,
    Parameter(
        name="--import",
        help="Modules of your own that the run needs, for its family or metrics.",
        validator=_import,
    ),
]
Workers = Annotated[
    int | None,
    Whole,
    within(1, MOST_WORKERS),
    Parameter(help="Trials side by side.", group="Where", show_default="one per core"),
]
Executor = Annotated[str, Parameter(help="Where trials run: local or ray.", group="Where")]
Address = Annotated[
    str | None,
    Parameter(
        help="Address of a running Ray cluster; without it one is started on this machine.",
        group="Where",
    ),
]


def listed(text: str | None) -> list[str] | None:
    """Parses names with commas between them; those with commas are quoted."""
    if text is None:
        return None
    return [name.strip() for name in next(csv.reader([text], skipinitialspace=True)) or [""]]


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


def without_bars() -> None:
    """Hides the bars that diffusers shows while it loads a pipeline."""
    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()
