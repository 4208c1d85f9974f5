from __future__ import annotations

from collections.abc import Iterator

import pytest

from command_line import few_pictures, few_trees
from kan_diffusion.study.executors import Executor
from one_by_one import OneByOne


@pytest.fixture(scope="session")
def executor() -> Executor:
    """This process: it has imported all that a trial needs."""
    return OneByOne(workers=1, device="cpu")


@pytest.fixture(scope="module", autouse=True)
def small_forests() -> Iterator[None]:
    """Trials of this process are judged sooner; workers know nothing of it."""
    with few_trees():
        yield


@pytest.fixture(scope="module")
def quick_pictures() -> Iterator[None]:
    """Pictures are judged by few of them."""
    with few_pictures():
        yield
