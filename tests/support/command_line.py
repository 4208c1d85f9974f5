"""The command line in the process of a test."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import pytest
from torch import Tensor

from kan_diffusion import table_pipeline
from kan_diffusion.cli import app as command_line
from kan_diffusion.evaluation import features, metrics, tables
from kan_diffusion.likelihood import log_likelihood
from kan_diffusion.study import measure, named, trial
from kan_diffusion.study.config import EvaluationConfig, StudyConfig
from kan_diffusion.study.executors import EXECUTORS
from kan_diffusion.symbolic import context, explain, levels, simplify
from kan_diffusion.symbolic.levels import search
from one_by_one import OneByOne

QUICK = ["--family", "mlp", "--params", "400", "--steps", "20", "--batch-size", "64"]
SMALL = {
    "num_noised": 200, "num_samples": 100, "num_likelihood": 10, "num_real_pairs": 1,
    "num_drawn": 50,
}  # fmt: skip
FEW_PICTURES = {"num_noised": 60, "num_samples": 12, "num_likelihood": 0, "num_drawn": 4}
WARNING = "92.5% of the signal is left"


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on standard error that says what went wrong."""
        lines = self.err.splitlines()
        assert self.code == 1, (self.code, self.out, self.err)
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        return lines[0]

    @property
    def warnings(self) -> int:
        """How often it is said that the process does not reach noise (lines are wrapped)."""
        return " ".join(self.err.split()).count(WARNING)


Cli = Callable[..., Outcome]


def call_command(*words: object) -> int:
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


@contextmanager
def few_pictures() -> Iterator[None]:
    """Lets pictures be judged by few of them, and by features that are hardly trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "_STEPS", 3)
        patch.setattr(named, "PICTURE_EVALUATION", FEW_PICTURES)
        yield
    features._fitted.cache_clear()


@contextmanager
def few_trees() -> Iterator[None]:
    """Tells samples apart by small forests, real ones too, whose scores are kept otherwise."""
    trial._shared_yardstick.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        for module in (metrics, tables):
            patch.setattr(module, "_TREES", 3)
        yield
    trial._shared_yardstick.cache_clear()


@contextmanager
def few_steps() -> Iterator[None]:
    """Integrates likelihoods in few steps."""

    def in_few(*given: object, **options: object) -> Tensor:
        return log_likelihood(*given, **{**options, "num_steps": 3})

    with pytest.MonkeyPatch.context() as patch:
        for module in (measure, table_pipeline):
            patch.setattr(module, "log_likelihood", in_few)
        yield


@contextmanager
def hardly_judged() -> Iterator[None]:
    """Judges by few points, pictures, trees and steps, where nothing asks how good a model is.

    The study of a toy or a preset has settings of its own: they become as small.
    """
    study_for = named.study_for

    def small_study(*what: object, **settings: object) -> StudyConfig:
        study = study_for(*what, **settings)
        least = {key: min(value, getattr(study.evaluation, key)) for key, value in SMALL.items()}
        return study.model_copy(update={"evaluation": study.evaluation.model_copy(update=least)})

    with pytest.MonkeyPatch.context() as patch, few_pictures(), few_trees(), few_steps():
        patch.setattr(named, "EvaluationConfig", partial(EvaluationConfig, **SMALL))
        patch.setattr(named, "study_for", small_study)
        yield


@contextmanager
def few_points() -> Iterator[None]:
    """Averages over few points and tries few forms, which is enough for the simplest scores."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_CLIMBED", "_SWEEPS"):
            patch.setattr(search, name, 1)
        patch.setattr(levels, "_BATCHES", 1)
        patch.setattr(context, "_FITTED", 16_384)
        yield


@contextmanager
def hardly_tuned() -> Iterator[None]:
    """Explains with few steps of training after each stage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simplify, "_STEPS_A_LINE", 100)
        patch.setattr(explain, "ExplainOptions", partial(explain.ExplainOptions, tune_steps=200))
        yield


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setitem(EXECUTORS, "local", OneByOne)

    def call(*words: object) -> Outcome:
        capsys.readouterr()
        code = call_command(*words)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    with hardly_judged(), few_points(), hardly_tuned():
        yield call


def call_quietly(*words: object) -> int:
    """Runs the command line in this process with little to judge by, and no fixture."""
    with hardly_judged():
        return call_command(*words)
