"""What ends a command that has started nodes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from swarm.cli.options import signals_end_it


@pytest.fixture(autouse=True)
def heard_signals() -> Iterator[None]:
    """Whoever started the tests may ignore them: `nohup` does."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_unwinds_the_command_and_the_old_handler_comes_back(
    number: signal.Signals,
) -> None:
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
    assert signal.getsignal(number) is signal.SIG_DFL


def test_a_signal_that_the_caller_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with signals_end_it():
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
