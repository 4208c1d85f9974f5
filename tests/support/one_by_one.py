"""An executor that starts no process: for studies that only have to be run."""

import pytest

from kan_diffusion.study.executors.base import Executor, attempt


class OneByOne(Executor):
    """Runs one trial after another in the calling process."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.tasks = []

    def room(self):
        return 1 - len(self.tasks)

    def submit(self, task):
        self.tasks.append(task)

    def collect(self):
        return [attempt(self.tasks.pop(), self.device, tell=lambda event: None)]

    def close(self):
        self.tasks.clear()


@pytest.fixture(scope="session")
def executor():
    """This process: it has imported all that a trial needs."""
    return OneByOne(workers=1, device="cpu")
