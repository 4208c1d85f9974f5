import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest

from kan_diffusion.interrupts import INTERRUPTS, interrupt_on_signals, interrupts_wait


@pytest.fixture(autouse=True)
def python_hears():
    """Undoes what a shell does to jobs in the background, where these tests may run."""
    before = {number: signal.getsignal(number) for number in INTERRUPTS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("inner", [nullcontext, interrupts_wait])
def test_an_interrupt_is_heard_when_the_outermost_block_is_done(inner, number):
    done = []
    interrupt_on_signals()
    handler = signal.getsignal(number)

    def interrupted():
        with interrupts_wait():
            with inner():
                signal.raise_signal(number)
            done.append("rest of the block")

    with pytest.raises(KeyboardInterrupt) as stop:
        interrupted()
    assert stop.value.args == (number,)
    assert done == ["rest of the block"]
    assert signal.getsignal(number) is handler


def test_what_is_saved_after_one_signal_is_not_cut_short_by_the_next():
    interrupt_on_signals()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGHUP)  # as the shell sends it after the terminal has
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_without_an_interrupt_nothing_happens_and_errors_pass():
    with pytest.raises(ValueError, match="its own"), interrupts_wait():
        raise ValueError("its own")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_who_ignores_interrupts_goes_on_ignoring_them():
    for number in INTERRUPTS:  # as nohup does of SIGHUP
        signal.signal(number, signal.SIG_IGN)
        interrupt_on_signals()
        with interrupts_wait():
            signal.raise_signal(number)
        signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_IGN


def test_another_thread_leaves_the_handler_alone():
    def handler_within():
        with interrupts_wait():
            return signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor() as pool:
        assert pool.submit(handler_within).result() == signal.default_int_handler
