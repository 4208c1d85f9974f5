"""Errors a user can act on: one line that names the thing, the value and the remedy."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar
from unicodedata import category

T = TypeVar("T")

OUT_OF_MEMORY = "the memory does not suffice; take fewer points, or a smaller network or batch"
"""What is said where there is too little memory."""

_LONGEST_VALUE = 80
_LONGEST_START, _LONGEST_END = 600, 300
_KEPT = "\n\t\u200c\u200d"


def one_line(text: str) -> str:
    """Puts a text on one line of at most about 900 characters, all of them printable."""
    line = " ".join(text[:_LONGEST_START].split())
    if len(text) > _LONGEST_START + _LONGEST_END:
        line += f" ... {' '.join(text[-_LONGEST_END:].split())}"
    elif len(text) > _LONGEST_START:
        line = " ".join(text.split())
    return printable(line)


def is_out_of_memory(error: Exception) -> bool:
    """Whether Python, or torch on a CPU or a GPU, found no memory; torch raises RuntimeErrors."""
    said = str(error) if isinstance(error, RuntimeError) else ""
    words = ("can't allocate memory", "out of memory")
    return isinstance(error, MemoryError) or any(each in said for each in words)


def printable(text: str) -> str:
    """Escapes what a terminal obeys or hides; keeps line breaks, tabs, spaces and joiners."""
    return "".join(
        c if c.isprintable() or c in _KEPT or category(c) == "Zs" else ascii(c)[1:-1] for c in text
    )


class KanDiffusionError(ValueError):
    """Base of every error the package raises on purpose: one line, whatever names it contains.

    Args:
        message: What is wrong, where, and the remedy. Line breaks become spaces, unprintable
            characters are escaped, and the middle of more than 900 characters is left out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class DataError(KanDiffusionError):
    """The given data cannot be used as they are."""


class RunFolderError(KanDiffusionError):
    """A run folder cannot be read or written as asked."""


class BudgetError(KanDiffusionError):
    """Even the smallest denoiser of a family and depth is over the budget."""


class NonFiniteLossError(KanDiffusionError):
    """The training loss became NaN or infinite."""


class NonFiniteSamplesError(KanDiffusionError):
    """Samples became NaN or infinite while they were drawn."""


def listed(values: Iterable[object], most: int = 8) -> str:
    """Lists values for a message: the first ``most``, and "..." if there are more."""
    shown = [str(value) for value in islice(values, most + 1)]
    return ", ".join(shown[:most]) + (", ..." if len(shown) > most else "")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> KanDiffusionError:
    """Makes the error for a name that is not in a registry.

    Args:
        kind: What was looked up, in the singular, such as ``"family"``.
        name: What the user wrote.
        known: The names there are.

    Returns:
        An error that lists the known names and suggests the nearest one, to be raised.
    """
    names = sorted(set(known))
    nearest = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f", did you mean '{nearest[0]}'?" if nearest else ";"
    return KanDiffusionError(f"unknown {kind} '{name}'{hint} known: {listed(names, 50) or 'none'}")


def require_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Checks that a name is in a registry.

    Args:
        kind: What the name stands for, in the singular, such as ``"family"``.
        name: What the user wrote.
        known: The names there are.

    Raises:
        KanDiffusionError: It is not; the message lists the known names.
    """
    known = known if isinstance(known, Collection) else list(known)
    if name not in known:
        raise unknown_name(kind, name, known)


def look_up(kind: str, name: str, registry: Mapping[str, T]) -> T:
    """Looks up a name in a registry; arguments and errors are those of :func:`require_known`."""
    require_known(kind, name, registry)
    return registry[name]


def require_whole(
    name: str, value: object, least: int = 1, most: int | None = None, remedy: str = ""
) -> None:
    """Checks that an argument is a whole number of a range.

    Args:
        name: What the number is.
        value: What the user gave: a number of any type that Python takes for an index, if usable.
        least: The smallest that is usable.
        most: The largest; None for any.
        remedy: What the message says to do beside taking another number.

    Raises:
        KanDiffusionError: It is no whole number, or not of the range.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or not least <= number <= (math.inf if most is None else most):
        ends = f"at least {least:,}" if most is None else f"from {least:,} to {most:,}"
        shown = repr(value) if number is None else f"{number:,}"
        raise KanDiffusionError(f"{name} must be a whole number, {ends}, not {shown}{remedy}")


@contextmanager
def valid_settings(where: str) -> Iterator[None]:
    """Turns a pydantic validation error inside the block into an error of one line.

    Args:
        where: Where the settings come from, such as a file's name.

    Yields:
        Nothing.

    Raises:
        KanDiffusionError: A setting is wrong; the message has the first of them, its value and why.
    """
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        reason = str(cause) if isinstance(cause, KanDiffusionError) else first["msg"]
        given = repr(first["input"])
        # A missing setting's input is everything around it.
        is_shown = first["type"] != "missing" and len(given) <= _LONGEST_VALUE
        value = f" = {given}" if is_shown else ""
        raise KanDiffusionError(f"{where}: {name}{value}: {reason}") from error
