"""Imports all that a worker needs, on one thread: once, in the server that forks workers."""

from __future__ import annotations

import gc

from kan_diffusion.study.executors.base import use_one_thread

__all__ = ["trial"]

gc.disable()  # what is imported stays, and looking for garbage in it takes a fifth of the time
use_one_thread()
from kan_diffusion.study import trial  # noqa: E402

gc.freeze()  # so that workers neither look through it nor copy it
gc.enable()
