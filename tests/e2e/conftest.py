"""Real nodes in real processes, for tests of what a user sees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from harness.plans import write_tiny_plan

DEADLINE_S = 240.0

Swarm = Callable[..., subprocess.CompletedProcess[str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session", autouse=True)
def heard_signals() -> Iterator[None]:
    """A shell's background job ignores Ctrl-C, and so would all that these tests start from one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def swarm() -> Swarm:
    """Run a command as a user does; fails the test unless it ends with `status`."""

    def run(
        *arguments: object, status: int = 0, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "swarm", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            env=os.environ | (env or {}),
            check=False,
        )
        said = f"swarm {' '.join(map(str, arguments))}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == status, said
        assert "Traceback" not in done.stdout + done.stderr, said
        return done

    return run


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Wait for something that other processes bring about."""

    def wait(
        what: str, happened: Callable[[], object], deadline_s: float = 90.0, poll_s: float = 0.05
    ) -> None:
        deadline = time.monotonic() + deadline_s
        while not happened():
            assert time.monotonic() < deadline, f"{what}: not within {deadline_s:.0f} s"
            time.sleep(poll_s)

    return wait


SLOW = "slow-nodes"


@pytest.fixture(scope="session")
def slow_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan for three sites, whose steps pause where the nodes lie in a folder SLOW, so that there
    is time to disturb them; the pause changes nothing in the result. (No variable of the
    environment would get into the box.)"""
    return write_tiny_plan(
        tmp_path_factory.mktemp("plans") / "slow",
        ("import torch\n", "import os\nimport time\n\nimport torch\n"),
        (
            "        x, y = batch\n",
            f"        x, y = batch\n        time.sleep(0.2 if '/{SLOW}/' in os.getcwd() else 0)\n",
        ),
        sites=3,
    )


@pytest.fixture(scope="session")
def processes_of() -> Callable[[Path], list[psutil.Process]]:
    """The processes, and theirs, that work in a directory: nodes by their command line, launchers
    of trainers, which may be children of another process, by where their errors go."""

    def find(directory: Path) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                errors = os.readlink(f"/proc/{process.pid}/fd/2")
                if str(directory) in " ".join([*process.cmdline(), errors]):
                    found += [process, *process.children(recursive=True)]
            except (psutil.Error, OSError):
                continue
        return list(dict.fromkeys(found))

    return find


@pytest.fixture(scope="session")
def all_ended() -> Callable[[list[psutil.Process]], bool]:
    """Whether processes have ended; where nobody waits for orphans, they stay as zombies."""

    def ended(processes: list[psutil.Process]) -> bool:
        return not any(
            p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes
        )  # fmt: skip

    return ended
