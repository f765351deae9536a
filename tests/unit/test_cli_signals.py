"""What ends a command that has started nodes."""

from __future__ import annotations

import os
import signal

import pytest

from swarm.cli.options import signals_end_it


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_unwinds_the_command_and_the_old_handler_comes_back(
    number: signal.Signals,
) -> None:
    before = signal.getsignal(number)
    unwound = []

    def work() -> None:
        with signals_end_it():
            try:
                os.kill(os.getpid(), number)
            finally:
                unwound.append(number)

    with pytest.raises(SystemExit) as ended:
        work()
    assert unwound == [number]
    assert ended.value.code == 128 + number
    assert signal.getsignal(number) is before


def test_a_signal_that_the_caller_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_end_it():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
