"""The process that measures: reads one job from standard input, writes events to standard output.

Its thread count is set before torch is imported and stays. An event is a line of JSON after a mark,
since others' code may print what it likes.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable

__all__ = ["MARK", "main"]

MARK = "@event "


def main() -> None:
    """Runs the job that stands on standard input."""
    job = json.load(sys.stdin)
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    sys.stdout = sys.stderr

    def send(**event: object) -> None:
        out.write(MARK + json.dumps(event) + "\n")

    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    _HANDLERS[job["kind"]](job, torch.device(job["device"]), send)


def _environment(job: dict, device: object, send: Callable[..., None]) -> None:
    from layer_speed.environment import environment

    send(environment=environment(str(job["device"])))


def _timing(job: dict, device: object, send: Callable[..., None]) -> None:
    import torch

    from baselines import Case
    from layer_speed.plan import Pace, Task
    from layer_speed.timing import measure

    assert isinstance(device, torch.device)
    pace = Pace(**job["pace"])
    for index, (part, name, entries) in enumerate(job["tasks"]):
        task = Task(part, name, tuple((who, Case.of(*case)) for who, case in entries))
        rows = measure(
            task,
            pace,
            device,
            lambda entry, index=index: send(task=index, preparing=entry),
            lambda fraction, index=index: send(task=index, fraction=fraction),
        )
        send(task=index, rows=rows)


def _single(job: dict, device: object, send: Callable[..., None]) -> None:
    import torch

    from baselines import CONTENDERS, Case
    from layer_speed.single import first_use, peak_of_step
    from layer_speed.steps import plain_reason

    assert isinstance(device, torch.device)
    measure = peak_of_step if job["kind"] == "memory" else first_use
    try:
        measured = measure(CONTENDERS[job["contender"]], Case.of(*job["case"]), device)
    except Exception as error:  # noqa: BLE001  (others' code may raise anything; it is a result)
        measured = {"reason": plain_reason(error)}
    send(measured=measured)


_HANDLERS = {
    "environment": _environment,
    "timing": _timing,
    "memory": _single,
    "first-use": _single,
}

if __name__ == "__main__":
    main()
