import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest

from kan_diffusion.interrupts import interrupts_wait


@pytest.fixture(autouse=True)
def python_hears():
    """Undoes what a shell does to jobs in the background, where these tests may run."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("inner", [nullcontext, interrupts_wait])
def test_an_interrupt_is_heard_when_the_outermost_block_is_done(inner):
    done = []

    def interrupted():
        with interrupts_wait():
            with inner():
                signal.raise_signal(signal.SIGINT)
            done.append("rest of the block")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == ["rest of the block"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_an_interrupt_nothing_happens_and_errors_pass():
    with pytest.raises(ValueError, match="its own"), interrupts_wait():
        raise ValueError("its own")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_who_ignores_interrupts_goes_on_ignoring_them():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts_wait():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_another_thread_leaves_the_handler_alone():
    def handler_within():
        with interrupts_wait():
            return signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor() as pool:
        assert pool.submit(handler_within).result() == signal.default_int_handler
