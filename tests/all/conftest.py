"""What `make test-all` runs beyond `make test`: all forms, whole studies, killed processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

FOLDER = Path(__file__).parent
LONGEST = {
    "test_interruptions.py",
    "test_hostile_folder.py",
    "test_notebook.py",
    "test_docs.py",
    "test_wings.py",
}
"""They come first, so that no worker waits at the end for one that is halfway through."""

settings.load_profile("all")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.all)
    items.sort(key=lambda item: item.path.name not in LONGEST)
