"""Where trials run: in processes of this machine, or on a Ray cluster.

One process and one thread a trial, as many side by side as asked for: at the sizes of these
networks a second thread makes a step slower, so parallel trials are the only parallelism that pays.
A trial is a function of its configuration and its folder; an executor hands those out and passes
the news on. Nothing is locked, and nothing needs to be: a trial's draws depend on its configuration
alone, every file is written whole or not at all, and ``trial.json`` comes last
(:mod:`kan_diffusion.study.folder`). A trial may therefore be broken off anywhere, taken up by
another process or another machine, or run twice at once.
"""

from __future__ import annotations

from kan_diffusion.study.executors.events import EventCallback, TrialEvent
from kan_diffusion.study.executors.local import default_workers
from kan_diffusion.study.executors.registry import EXECUTORS, run_trials

__all__ = ["EXECUTORS", "EventCallback", "TrialEvent", "default_workers", "run_trials"]
