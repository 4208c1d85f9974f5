import logging
import re
import sys
from dataclasses import dataclass

import pytest

from helpers import without_network
from kan_diffusion.cli import app as command_line
from kan_diffusion.study.executors import EXECUTORS
from one_by_one import one_by_one

WARNING = "92.5% of the signal is left"

OBEYED = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What a terminal obeys, but line breaks and tabs."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended, which has printed nothing that a terminal obeys."""

    code: int
    out: str
    err: str

    def __post_init__(self):
        assert not OBEYED.findall(self.out + self.err), (self.out, self.err)

    @property
    def error(self):
        """The one line on standard error that says what went wrong."""
        lines = self.err.splitlines()
        assert self.code == 1, (self.code, self.out, self.err)
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        return lines[0]

    @property
    def warnings(self):
        """How often it is said that the process does not reach noise (lines are wrapped)."""
        return " ".join(self.err.split()).count(WARNING)


def call_command(*words):
    """Runs the command line in this process, with logging as in a process of its own."""
    root = logging.getLogger()
    handlers, level, argv = root.handlers[:], root.level, sys.argv
    root.handlers[:] = []
    sys.argv = ["kan-diffusion", *map(str, words)]
    try:
        with pytest.raises(SystemExit) as stop:
            command_line.main()
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        sys.argv = argv
    return int(stop.value.code or 0)


def quick_commands(capsys, monkeypatch):
    """Makes what runs a command in this process; what it trains is judged quickly."""
    asked = without_network(monkeypatch)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setitem(EXECUTORS, "local", one_by_one)

    def call(*words: object) -> Outcome:
        capsys.readouterr()
        quick = ["--quick"] if words and words[0] in ("train", "compare") else []
        code = call_command(*words, *quick)
        assert not asked, asked
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call
