"""What all executors share: tasks, events, the order of trials, and what a lost worker means."""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from kan_diffusion.study.config import TrialConfig

logger = logging.getLogger(__name__)

_NUM_ATTEMPTS = 3


@dataclass(frozen=True)
class Task:
    """A trial and the folder it is kept in, which machines of a cluster must share."""

    config: TrialConfig
    folder: Path


@dataclass(frozen=True)
class TrialEvent:
    """An event of a trial.

    Attributes:
        kind: ``"progressed"``: a worker runs it, from step 0 on; ``"finished"``: it has a result,
            which may say that its training diverged; ``"failed"``: it could not be run. Only
            :class:`TaskQueue` sees ``"lost"``: its worker died; and ``"taken"``: another driver
            is running it. A short trial may finish without other events.
        trial: Its id.
        step: Number of finished steps.
        loss: Latest loss, NaN where there is none.
        error: Reason why it diverged, failed or is taken, if so.
        worker: Process that runs it, as ``host:process id``; None when it was lost.
    """

    kind: Literal["progressed", "finished", "failed", "lost", "taken"]
    trial: str
    step: int = 0
    loss: float = math.nan
    error: str | None = None
    worker: str | None = None

    @property
    def finished(self) -> bool:
        """Whether the trial is over, with or without success."""
        return self.kind in ("finished", "failed")


class TaskQueue:
    """The order of trials, and what becomes of those that are lost or taken.

    A trial whose worker dies (killed, out of memory) is tried three times in all and resumes from
    its checkpoint; one that raises is not repeated. A trial that another driver is running is tried
    again after the others.

    Attributes:
        running: Tasks that were handed out, by the id of their trial.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._waiting = deque(tasks)
        self.running: dict[str, Task] = {}
        self._counts = Counter[tuple[str, str]]()

    def next(self) -> Task | None:
        """Hands out the next task; None where none is waiting now."""
        if not self._waiting:
            return None
        task = self._waiting.popleft()
        self.running[task.config.id] = task
        return task

    def settle(self, event: TrialEvent) -> list[TrialEvent]:
        """Takes note of an event; returns what the driver is to know of it."""
        trial = event.trial
        if trial not in self.running:
            return []  # late news of a trial that is over
        if event.kind == "progressed":
            return [event]
        task = self.running.pop(trial)
        self._counts[event.kind, trial] += 1
        times = self._counts[event.kind, trial]
        if event.kind == "taken":
            self._waiting.append(task)
            if times == 2:  # there is little else to do
                logger.warning("waiting: %s", event.error)
            return []
        if event.kind != "lost":
            return [event]
        if times < _NUM_ATTEMPTS:
            self._waiting.appendleft(task)
            return []
        error = (
            f"its worker process died {times} times ({event.error}); if memory was short, run the "
            "same again with fewer workers"
        )
        return [TrialEvent("failed", trial, error=error)]
