"""Starting, asking and ending the nodes of a testnet."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from swarm.errors import ConfigurationError, LocalError, SwarmError
from swarm.node.commands.control import ask, read_running
from swarm.testnet import warm
from swarm.testnet.layout import TestnetFile, TestnetNode

START_DEADLINE_S = 60.0
START_EACH_S = 5.0
"""More for each node: they share the machine's cores while they start."""
STOP_GRACE_S = 10.0
POLL_S = 0.1


class NodeProcess(Protocol):
    """The process of a node, as `subprocess.Popen` has it."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float) -> int: ...

    def send_signal(self, number: int, /) -> None: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


def prepare_nodes() -> None:
    """Begin what nodes and trainers are forked from, so that it is ready once it is needed."""
    if warm.IS_POSSIBLE:
        warm.warm_process("node")
        warm.warm_process("trainer")


def start_node(
    node: TestnetNode, within: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> NodeProcess:
    """Start `swarm node start` in a session of its own, so that it outlives this command.

    `within` is a command that runs another one in its place, such as `ip netns exec NAME`; without
    it, the node is a fork of a process that is there for that (`warm`). `environment` comes on top
    of this process's.
    """
    given = {**os.environ, **(environment or {})}
    directory = Path(node.directory)
    arguments = ["node", "start", str(directory)]
    with (directory / "node.log").open("ab") as log:
        process: NodeProcess
        if warm.IS_POSSIBLE and not within:
            process = warm.start_node(arguments, given, log.fileno())
        else:
            process = subprocess.Popen(
                [*within, sys.executable, "-P", "-m", "swarm", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=given,
            )
    node.pid = process.pid
    return process


def wait_ready(testnet: TestnetFile, processes: Mapping[str, NodeProcess]) -> None:
    """Wait until every node answers. Raises the node's own error if it ends instead."""
    patience_s = START_DEADLINE_S + START_EACH_S * len(testnet.nodes)
    deadline = time.monotonic() + patience_s
    for node in testnet.nodes:
        while not answers(node):
            process = processes.get(node.name)
            status = None if process is None else process.poll()
            if status is not None:
                last = last_line(Path(node.directory) / "node.log")
                failure = ConfigurationError if status == 2 else LocalError
                raise failure(f"the node {node.name} ended at its start: {last}")
            if time.monotonic() > deadline:
                raise LocalError(
                    f"the node {node.name} has not answered for {patience_s:.0f} s: see "
                    f"{node.directory}/node.log"
                )
            time.sleep(POLL_S)


def answers(node: TestnetNode) -> bool:
    try:
        return read_running(Path(node.directory)).pid == node.pid
    except SwarmError:
        return False


def status_of(node: TestnetNode) -> dict[str, Any]:
    """The node's own status, or the little that is known of a dead one."""
    known = {
        "name": node.name,
        "pid": node.pid,
        "account": node.account,
        "dir": node.directory,
        "alive": False,
    }
    try:
        answer: dict[str, Any] = ask(Path(node.directory), "status")
    except SwarmError:
        return known
    return known | answer | {"alive": True}


def stop_nodes(testnet: TestnetFile, processes: Mapping[str, NodeProcess]) -> None:
    """End all nodes: SIGTERM, and SIGKILL for those that are still there after a grace."""
    for node in testnet.nodes:
        _signal(node, signal.SIGTERM)
    deadline = time.monotonic() + STOP_GRACE_S
    while any(map(running_pid, testnet.nodes)) and time.monotonic() < deadline:
        for process in processes.values():
            process.poll()
        time.sleep(POLL_S)
    for node in testnet.nodes:
        _signal(node, signal.SIGKILL)
    for process in processes.values():
        process.wait(STOP_GRACE_S)


def _signal(node: TestnetNode, number: signal.Signals) -> None:
    pid = running_pid(node)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def running_pid(node: TestnetNode) -> int | None:
    """The pid of the node's process: the one started here, or whoever restarted it since.

    One that has ended but was not waited for has no command line any more, and does not count.
    """
    candidates = [node.pid]
    with contextlib.suppress(SwarmError):
        candidates.append(read_running(Path(node.directory)).pid)
    for pid in candidates:
        if pid is not None and node.directory.encode() in _command(pid):
            return pid
    return None


def _command(pid: int) -> list[bytes]:
    """A process's command line; empty if there is no such process (any more)."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def last_line(log: Path) -> str:
    """The last line that a node wrote, for an error message."""
    try:
        lines = [x for x in log.read_text(errors="replace").splitlines() if x.strip()]
    except OSError:
        lines = []
    return lines[-1].removeprefix("Error: ") if lines else f"see {log}"
