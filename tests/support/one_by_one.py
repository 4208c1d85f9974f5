"""An executor that starts no process: for studies that only have to be run."""

from kan_diffusion.study.executors.base import TaskQueue
from kan_diffusion.study.executors.worker import attempt


def one_by_one(tasks, workers=1, device="cpu", tell=lambda event: None):
    """Runs one trial after another in the calling process."""
    queue = TaskQueue(tasks)
    while (task := queue.next()) is not None:
        yield from queue.settle(attempt(task, device, tell))
