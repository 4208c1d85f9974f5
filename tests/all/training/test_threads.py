from types import SimpleNamespace

import torch

from kan_diffusion.training import TrainingConfig, threads
from short_training import small, trained


def test_the_faster_number_of_threads_is_chosen(monkeypatch):
    now = 0.0

    def clock():
        nonlocal now
        now += 1.0 / torch.get_num_threads()
        return now

    monkeypatch.setattr(threads, "time", SimpleNamespace(perf_counter=clock))
    torch.set_num_threads(2)
    try:
        assert trained(small("kan"), TrainingConfig(steps=40, batch_size=64)).threads == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
