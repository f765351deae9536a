"""What a testnet's nodes are forked from: a fork is what a process of its own would be."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swarm.errors import LocalError
from swarm.testnet.warm import ForkedProcess, WarmProcess

END_S = 60.0
Start = Callable[..., tuple[ForkedProcess, Path]]


@pytest.fixture(scope="module")
def process() -> Iterator[WarmProcess]:
    process = WarmProcess()
    yield process
    process.close()


@pytest.fixture
def start(process: WarmProcess, tmp_path: Path) -> Start:
    def started(*arguments: object, **environment: str) -> tuple[ForkedProcess, Path]:
        log = tmp_path / "log"
        with log.open("wb") as output:
            given = os.environ | environment
            return process.start([str(a) for a in arguments], given, output.fileno()), log

    return started


def held_open(pid: int) -> list[str]:
    return sorted(os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir())


def test_a_fork_runs_the_command_and_tells_how_it_ended(start: Start, tmp_path: Path) -> None:
    ended, log = start("node", "status", tmp_path)
    assert ended.wait(END_S) == 2
    assert ended.poll() == 2
    assert f"no node runs in {tmp_path}" in log.read_text()
    help_, log = start("--help")
    assert help_.wait(END_S) == 0
    assert "Usage: swarm" in log.read_text()


@pytest.fixture
def waiting(start: Start, tmp_path: Path) -> Iterator[ForkedProcess]:
    """A fork that waits: for a reader of what it is to read."""
    os.mkfifo(tmp_path / "card")
    process, _ = start("network", "found", tmp_path / "card", SWARM_TOLD="once")
    while b"found" not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
        assert process.poll() is None
        time.sleep(0.01)
    yield process
    process.kill()
    process.wait(END_S)


def test_a_fork_has_the_command_line_and_the_environment_of_a_process_of_its_own(
    waiting: ForkedProcess, tmp_path: Path
) -> None:
    found = Path(f"/proc/{waiting.pid}")
    line = (found / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    assert line[1:] == [
        b"-P", b"-m", b"swarm", b"network", b"found", os.fsencode(tmp_path / "card")
    ]  # fmt: skip
    assert os.getsid(waiting.pid) == waiting.pid
    assert os.readlink(found / "cwd") == str(Path.cwd())


def test_a_fork_holds_nothing_open_of_the_process_that_it_came_from(
    waiting: ForkedProcess, tmp_path: Path
) -> None:
    assert held_open(waiting.pid) == ["/dev/null", str(tmp_path / "log"), str(tmp_path / "log")]


def test_a_signal_ends_a_fork_and_its_number_is_told(waiting: ForkedProcess) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0.01)
    assert waiting.poll() is None
    waiting.send_signal(signal.SIGKILL)
    assert waiting.wait(END_S) == -signal.SIGKILL


def test_a_fork_outlives_the_process_that_it_came_from(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "card")
    parent = WarmProcess()
    with (tmp_path / "log").open("wb") as output:
        fork = parent.start(
            ["network", "found", str(tmp_path / "card")], os.environ, output.fileno()
        )
    parent.close()
    assert not parent.is_alive
    os.kill(fork.pid, signal.SIGKILL)
    with pytest.raises(LocalError, match="the process that they come from ended"):
        parent.start([], {}, 2)
