"""What `make test-all` runs beyond `make test`: all forms, whole studies, killed processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

FOLDER = Path(__file__).parent

settings.load_profile("all")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.all)
