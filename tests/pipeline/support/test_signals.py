"""Test which signals interrupt a command, and that none does afterwards."""

import os
import signal
import sys
import time

import pytest

from pipeline.support import signals


@pytest.fixture(autouse=True)
def handlers(monkeypatch):
    """Install the handlers in this process, and put the former ones back."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    numbers = (signal.SIGINT, signal.SIGTERM)
    former = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has turned it off
    signals.interrupt_on_signals()
    yield
    for number in numbers:
        signal.signal(number, former[number])


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_signals_in_a_row_are_one(first, second):
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(first)
    for _ in range(4):
        signal.raise_signal(second)


def test_a_later_signal_interrupts_again(monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    monkeypatch.setattr(signals, "PATIENCE_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_no_signal_interrupts_a_command_that_has_ended():
    signals.conclude(3)
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)


def test_a_late_signal_ends_the_process_with_the_commands_status():
    child = os.fork()
    if child == 0:
        signals.conclude(3)
        signals.PATIENCE_S = 0.0
        signal.raise_signal(signal.SIGINT)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def test_an_interrupt_in_a_finalizer_is_not_lost(capfd):
    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Finalized()
        time.sleep(60)
    assert capfd.readouterr().err == ""
