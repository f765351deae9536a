"""Which processes belong to a run, and stopping all of them at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from harness.faults.nodes import Nodes, processes_in
from harness.faults.release import NEWER, write_release

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
SEEN_S = 10.0


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """One whose command names the directory, one that writes into it, and a stranger."""
    with ExitStack() as stack, (tmp_path / "trainer.log").open("wb") as log:
        processes = [
            subprocess.Popen([*SLEEP, str(tmp_path)]),
            subprocess.Popen(SLEEP, stdout=log),
            subprocess.Popen(SLEEP),
        ]
        for process in processes:
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield processes


def await_states(processes: list[subprocess.Popen[bytes]], stopped: list[bool]) -> None:
    until = time.monotonic() + SEEN_S
    while [_state(process.pid) == "T" for process in processes] != stopped:
        assert time.monotonic() < until, [_state(process.pid) for process in processes]
        time.sleep(0.01)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_nodes_and_trainers_are_frozen_and_thawed_and_nobody_else(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    assert set(processes_in(tmp_path)) == {started[0].pid, started[1].pid}
    testnet: Any = SimpleNamespace(directory=tmp_path, processes={"ada": started[0]})
    nodes = Nodes(testnet, None, {})
    nodes.freeze()
    await_states(started, [True, True, False])
    nodes.stopped.add("ada")  # by a fault of the plan, which thawing all does not undo
    nodes.thaw()
    await_states(started, [True, False, False])


def test_a_process_with_the_newer_releases_environment_imports_that_one(tmp_path: Path) -> None:
    environment = os.environ | write_release(tmp_path / "newer")
    told = "import importlib.metadata as m, swarm; print(m.version('swarm'), swarm.__version__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", told], env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == [NEWER, NEWER], done.stderr
