"""Two processes that work together, as torchrun starts them, forked from the tests' server."""

import os
import socket
from contextlib import redirect_stdout

import torch

from commands import context


def _take_part(rank, port, folder, call, *arguments):
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in own.items()})
    with (folder / f"{rank}.txt").open("w") as said, redirect_stdout(said):
        call(*arguments)
    assert torch.distributed.get_world_size() == 2


def in_two_processes(folder, call, *arguments):
    """Calls a function in two processes that find each other; what they print goes to a folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        context.Process(target=_take_part, args=(rank, port, folder, call, *arguments), daemon=True)
        for rank in range(2)
    ]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(300)
        assert [process.exitcode for process in processes] == [0, 0]
    finally:  # where one has failed, the other may wait for it
        for process in processes:
            process.kill()
