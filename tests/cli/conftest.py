from __future__ import annotations

import pytest

from command_line import cli  # noqa: F401
from html_page import draw_nothing


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the pictures of pages empty: the tests of reports draw them."""
    draw_nothing(monkeypatch)
