"""What the tests share: one thread, one compiler, and trained runs."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

SUPPORT = Path(__file__).parent / "support"
pytest.register_assert_rewrite("helpers", *(path.stem for path in SUPPORT.glob("*.py")))

# Compilation of kernels falls into whichever example runs first, so no example has a deadline.
settings.register_profile("few", deadline=None, max_examples=8, derandomize=True, database=None)
settings.register_profile("all", deadline=None, max_examples=50)
settings.load_profile("few")

ALLOWED_SKIPS = ("there is no CUDA device", "there is no Chromium", "torch has it from 2.9 on")
"""Reasons for which a test may be skipped: what a machine lacks, and no package that is missing."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """A test that is skipped for any other reason has failed."""
    report = yield
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if skipped and not report.longrepr[-1].endswith(ALLOWED_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"{report.longrepr[-1]}: not among ALLOWED_SKIPS of {__file__}"
    return report


gc.disable()  # what is imported stays: looking for garbage in it takes half of the time


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture
def cli(capsys, monkeypatch):
    """Runs a command in this process; what it trains is judged quickly."""
    from command_line import quick_commands  # imports all of the package, for ten seconds

    return quick_commands(capsys, monkeypatch)


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Gives the folder of a run that all tests share, by its name."""
    from runs import shared_runs  # likewise

    return shared_runs(tmp_path_factory)


@pytest.fixture
def no_net(monkeypatch):
    """Lets Python reach no other machine, and lists the addresses that it has asked for."""
    from helpers import without_network

    return without_network(monkeypatch)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Small tensors are slower on several threads, and tests may run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def one_compiler(tmp_path_factory) -> Iterator[None]:
    """A kernel that several workers need at once is compiled by one, and read by the others."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    from filelock import FileLock
    from numba.core.dispatcher import Dispatcher

    lock = FileLock(tmp_path_factory.getbasetemp().parent / "kernels.lock")
    compiled = Dispatcher.compile

    def alone(self, signature):
        with lock:
            return compiled(self, signature)

    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(Dispatcher, "compile", alone)
        yield
