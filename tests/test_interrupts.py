from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from kan_diffusion.interrupts import interrupts_wait


@pytest.fixture(autouse=True)
def python_hears() -> Iterator[None]:
    """Undoes what a shell does to jobs in the background, where these tests may run."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("inner", [nullcontext, interrupts_wait])
def test_an_interrupt_is_heard_when_the_outermost_block_is_done(inner) -> None:
    done = []

    def interrupted() -> None:
        with interrupts_wait():
            with inner():
                signal.raise_signal(signal.SIGINT)
            done.append("rest of the block")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == ["rest of the block"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_an_interrupt_nothing_happens_and_errors_pass() -> None:
    with pytest.raises(ValueError, match="its own"), interrupts_wait():
        raise ValueError("its own")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.skipif(os.name != "posix", reason="signals are ignored in another way elsewhere")
def test_who_ignores_interrupts_goes_on_ignoring_them() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_wait():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_leaves_the_handler_alone() -> None:
    seen = []

    def work() -> None:
        with interrupts_wait():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
