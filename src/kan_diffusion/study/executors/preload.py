"""Imports all that a worker needs, on one thread: once, in the server that forks workers."""

from __future__ import annotations

from kan_diffusion.study.executors.base import use_one_thread

__all__ = ["trial"]

use_one_thread()

from kan_diffusion.study import trial  # noqa: E402
