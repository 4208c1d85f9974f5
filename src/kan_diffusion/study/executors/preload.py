"""The imports of a worker, on one thread: what workers are forked from has them for all."""

from __future__ import annotations

from kan_diffusion.study.executors.base import use_one_thread

use_one_thread()

from kan_diffusion.study import trial  # noqa: E402, F401
