"""One executor for all studies that are run as users run them: its workers start once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kan_diffusion.study.executors import Executor, open_executor


@pytest.fixture(scope="session")
def executor() -> Iterator[Executor]:
    """Two processes of this machine."""
    with open_executor("local", workers=2, device="cpu") as opened:
        yield opened
