"""Several processes that train one model, as ``torchrun`` starts them."""

from __future__ import annotations

import os


def is_main_process() -> bool:
    """Whether this process is the first or the only one, which writes files and prints."""
    return os.environ.get("RANK", "0") == "0"
