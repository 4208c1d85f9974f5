"""An executor that starts no process: for studies that only have to be run."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from kan_diffusion.study.executors.base import Executor, Task, TrialEvent, attempt


class OneByOne(Executor):
    """Runs one trial after another in the calling process."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        self.tasks: list[Task] = []

    def room(self) -> int:
        return 1 - len(self.tasks)

    def submit(self, task: Task) -> None:
        self.tasks.append(task)

    def collect(self) -> Iterable[TrialEvent]:
        return [attempt(self.tasks.pop(), self.device, tell=lambda event: None)]

    def close(self) -> None:
        self.tasks.clear()


@pytest.fixture(scope="session")
def executor() -> OneByOne:
    """This process: it has imported all that a trial needs."""
    return OneByOne(workers=1, device="cpu")
