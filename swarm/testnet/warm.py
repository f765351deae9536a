"""Nodes that start at once: forks of one process that has imported what a node needs, and no more.

A testnet's nodes are the same program, and importing it is most of their start. So a testnet begins
one process that imports it, and is asked for one fork a node. Nothing else happened in it: it has
read no key and no file of anybody's, and has one thread. A fork takes on the environment, folder
and command line that a process started by itself would have, and is told from one by nothing.

Each fork is the leader of a session, and outlives both the process that it came from and the one
that asked, as `swarm testnet up` wants it. Linux only: elsewhere nodes are started one by one.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import msgspec

from swarm.box import frames
from swarm.errors import LocalError

FORK_S = 60.0
"""For the first fork: until then everything is imported, beside whatever else starts."""
END_S = 10.0
STATUS_BYTES = 4
MAX_COMMAND_BYTES = 16 << 10
"""Room for the command line of a fork, which is written over that of its parent."""
NEEDED = ("click", "swarm.node.node_process")
"""What a node imports before it does anything."""
IS_POSSIBLE = sys.platform == "linux"


class Fork(msgspec.Struct):
    """What a fork is to be: `arguments` of `swarm`. Beside it go two descriptors: where it writes
    to, and where its exit status is to be written."""

    arguments: tuple[str, ...]
    directory: str
    environment: dict[str, str]


_forks = msgspec.msgpack.Decoder(Fork)


class ForkedProcess:
    """A fork, with as much of `subprocess.Popen` as is needed of one that is no child of ours."""

    def __init__(self, pid: int, status: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._look(0)

    def wait(self, timeout: float) -> int:
        """The same, once it has ended. Raises subprocess.TimeoutExpired."""
        found = self._look(timeout)
        if found is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return found

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _look(self, wait_s: float) -> int | None:
        with self._lock:
            if self.returncode is None and select.select([self._status], [], [], wait_s)[0]:
                told = os.read(self._status, STATUS_BYTES)
                os.close(self._status)
                # Without a word, its parent was killed, and nobody knows any more.
                unknown = -signal.SIGKILL
                self.returncode = int.from_bytes(told, "big", signed=True) if told else unknown
            return self.returncode


class WarmProcess:
    """The process that is forked from, from outside. Any thread may ask."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        self._control.settimeout(FORK_S)
        self._lock = threading.Lock()
        room = "-" * MAX_COMMAND_BYTES
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno()), room],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C is not for it
                # numpy's library begins a thread for each further processor while it is imported,
                # and a node multiplies no matrices.
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], output: int
    ) -> ForkedProcess:
        """Run `swarm` with these arguments in a fork. Raises LocalError if there is none."""
        status, theirs = os.pipe()
        try:
            body = msgspec.msgpack.encode(Fork(tuple(arguments), os.getcwd(), dict(environment)))
            with self._lock:
                frames.send(self._control, body, (output, theirs))
                answer = frames.receive(self._control)
        except OSError:
            answer = None
        finally:
            os.close(theirs)
        if answer is None:
            os.close(status)
            raise LocalError("no node could be started: the process that they come from ended")
        return ForkedProcess(int.from_bytes(answer.body, "big"), status)

    def close(self) -> None:
        """End it. Forks go on."""
        self._control.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)


_ours: list[WarmProcess] = []
_asking = threading.Lock()


def warm_process() -> WarmProcess:
    """The one of this process, which it begins, if need be, and ends with it."""
    with _asking:
        if not _ours or not _ours[0].is_alive:
            _ours[:] = [WarmProcess()]
            atexit.register(_ours[0].close)
        return _ours[0]


# In the process that is forked.


def main() -> None:
    """Entry point of `python -m swarm.testnet.warm SOCKET ROOM`; for testnets only."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)

    for name in NEEDED:
        import_module(name)
    threads = os.listdir("/proc/self/task")
    if len(threads) > 1:
        sys.exit(f"what a node imports began {len(threads) - 1} threads, which no fork would have")
    gc.collect()
    gc.freeze()  # or each fork's first collection would copy all of it
    fork = _Forks(control).serve()
    if fork is not None:
        _become(fork)


class _Forks:
    """All that have not ended."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.statuses: dict[int, int] = {}
        """Where the exit status of each goes, by its process id."""
        self.deaths, self.died = os.pipe()
        for end in (self.deaths, self.died):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self.died)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def serve(self) -> Fork | None:
        """Fork whenever asked to, until nobody can ask. What the fork is to be, in the fork."""
        while True:
            ready = select.select([self.control.fileno(), self.deaths], [], [])[0]
            if self.deaths in ready:
                os.read(self.deaths, 1 << 10)
                self._bury()
            if self.control.fileno() in ready:
                frame = frames.receive(self.control)
                if frame is None:
                    return None
                pid = os.fork()
                if pid == 0:
                    return self._leave(frame)
                output, self.statuses[pid] = frame.descriptors
                os.close(output)
                with suppress(OSError):
                    frames.send(self.control, pid.to_bytes(STATUS_BYTES, "big"))

    def _bury(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            exit_status = os.waitstatus_to_exitcode(status)
            with suppress(OSError):
                os.write(self.statuses[pid], exit_status.to_bytes(STATUS_BYTES, "big", signed=True))
            os.close(self.statuses.pop(pid))

    def _leave(self, frame: frames.Frame) -> Fork:
        """Forget in the fork what is the parent's."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        output, status = frame.descriptors
        os.dup2(output, 1)
        os.dup2(output, 2)
        frames.close_all([output, status, self.deaths, self.died, *self.statuses.values()])
        self.control.close()
        return _forks.decode(frame.body)


def _become(fork: Fork) -> NoReturn:
    os.environ.clear()
    os.environ.update(fork.environment)
    os.chdir(fork.directory)
    command = (sys.executable, "-P", "-m", "swarm", *fork.arguments)
    sys.argv[:] = ["swarm", *fork.arguments]
    _show(command)
    runpy.run_module("swarm", run_name="__main__", alter_sys=True)
    raise AssertionError("a command exits")


def _show(command: Sequence[str]) -> None:
    """Let the system show this command line for ours: people, and `processes`, look for a node by
    it. It is written over the old one, where `proc(5)` says that it lies."""
    stat = Path("/proc/self/stat").read_text()
    fields = stat[stat.rindex(")") + 1 :].split()
    start, end = int(fields[45]), int(fields[46])
    line = os.fsencode("\0".join(command)) + b"\0"
    if start and len(line) <= end - start:
        ctypes.memset(start, 0, end - start)
        ctypes.memmove(start, line, len(line))


if __name__ == "__main__":
    main()
