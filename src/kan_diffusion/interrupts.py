"""Ctrl-C, and the signals that end batch jobs and terminals, which are treated alike."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTS: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that ask a process to save its state and end."""


def interrupt_on_signals() -> None:
    """Has SIGTERM and SIGHUP interrupt this process as Ctrl-C does, unless they are ignored.

    The ``KeyboardInterrupt`` has the signal's number. Only the first of them counts, since a
    terminal that closes sends several; Ctrl-C goes on counting.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    heard = list[int]()

    def interrupt(number: int, _: FrameType | None) -> None:
        heard.append(number)
        if number == signal.SIGINT or len(heard) == 1:
            raise KeyboardInterrupt(number)

    for number in INTERRUPTS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):  # as nohup has it
            signal.signal(number, interrupt)


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Holds these signals back until the block is done, then passes the last to its handler.

    Python handles signals in its main thread only, so in others there is nothing to hold back. A
    handler that is not Python's, or none, is left in place.
    """
    numbers = INTERRUPTS if threading.current_thread() is threading.main_thread() else ()
    current = {number: signal.getsignal(number) for number in numbers}
    handlers = {number: handler for number, handler in current.items() if callable(handler)}
    heard: list[tuple[int, FrameType | None]] = []
    for number in handlers:
        signal.signal(number, lambda number, frame: heard.append((number, frame)))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in heard[-1:]:
            handlers[number](number, frame)
