from __future__ import annotations

import pytest

from kan_diffusion.study.executors import Executor
from one_by_one import OneByOne


@pytest.fixture(scope="session")
def executor() -> Executor:
    """This process: it has imported all that a trial needs."""
    return OneByOne(workers=1, device="cpu")
