"""Nodes and trainers that start at once: forks of processes that have imported what they need.

A testnet's nodes are the same program, and importing it is most of their start; so it is with their
trainers. So a testnet begins two processes, one that imports what nodes need and one that imports
what trainers need, and they are asked for one fork each time. Nothing else happens in them: they
have read no key and no file of anybody's, and have one thread. A fork takes on the environment and
the command line that a process started by itself would have, and holds nothing else open.

A node's fork leads a session, and outlives both the process that it came from and the one that
asked, as `swarm testnet up` wants it. A trainer's fork is its launcher (`swarm.box.launcher`),
which builds the same walls; only the plan's process, behind all of them, goes on in the interpreter
that is there instead of executing another. Linux only: elsewhere each is started by itself.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
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
from typing import Literal, NoReturn

import msgspec
import trio

from swarm.box import contents, frames, launcher, process, system
from swarm.box.description import Box
from swarm.errors import LocalError
from swarm.learning.supervisor.trainer_process import REPEATABLE, TRAINER

FORK_S = 60.0
"""For the first fork: until then everything is imported, beside whatever else starts."""
END_S = 10.0
POLL_S = 0.01
STATUS_BYTES = 4
MAX_COMMAND_BYTES = 16 << 10
"""Room for the command line of a fork, which is written over that of its parent."""
IS_POSSIBLE = sys.platform == "linux"

Kind = Literal["node", "trainer"]
NEEDED: dict[Kind, tuple[str, ...]] = {
    "node": ("click", "swarm.node.node_process"),
    # Choosing repeatable kernels, and the first optimiser, import torch's compiler.
    "trainer": (TRAINER, "torch._dynamo", "torch._inductor.config"),
}
"""What they import before they do anything of their own."""


class Connect(msgspec.Struct, tag=True):
    """Forks may be asked for over the socket that goes beside it as well."""


class Fork(msgspec.Struct, tag=True):
    """Fork once. Beside it go descriptors: where the exit status is to be written, then, for a
    node, where it writes to, and over what it may ask for trainers; for a trainer, where its
    launcher writes errors to, its control socket, and what its box is to hold."""

    arguments: tuple[str, ...] = ()
    """A node's, of `swarm`."""
    directory: str = "/"
    environment: dict[str, str] = {}
    numbers: tuple[int, ...] = ()
    """Those of a launcher's other descriptors where it is asked for, which they have in it, too."""


_requests = msgspec.msgpack.Decoder(Connect | Fork)


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


class Asking:
    """Asks for forks over a socket. Any thread may ask."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.settimeout(FORK_S)
        self._lock = threading.Lock()

    def fork(self, fork: Fork, descriptors: Sequence[int]) -> ForkedProcess:
        """Raises LocalError if there is none."""
        status, theirs = os.pipe()
        try:
            with self._lock:
                body = msgspec.msgpack.encode(fork)
                frames.send(self.connection, body, (theirs, *descriptors))
                answer = frames.receive(self.connection)
        except OSError:
            answer = None
        finally:
            os.close(theirs)
        if answer is None:
            os.close(status)
            raise LocalError("nothing could be started: the process that it comes from ended")
        return ForkedProcess(int.from_bytes(answer.body, "big"), status)


class WarmProcess:
    """A process that is forked from, from outside. Any thread may ask."""

    def __init__(self, kind: Kind) -> None:
        ours, theirs = socket.socketpair()
        self.asking = Asking(ours)
        room = "-" * MAX_COMMAND_BYTES
        # Both import the package that this process did, wherever it was found: a box shows its
        # trainer the one that the node has.
        given = contents.own_environment() | REPEATABLE
        if kind == "node":
            ours_first = [given["PYTHONPATH"], os.environ.get("PYTHONPATH", "")]
            given = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, ours_first))}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-s", "-m", __name__, kind, str(theirs.fileno()), room],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C is not for it
                env=given,
            )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def connect(self) -> socket.socket:
        """Another socket to ask over, for whoever holds it. Raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            body = msgspec.msgpack.encode(Connect())
            frames.send(self.asking.connection, body, (theirs.fileno(),))
        return ours

    def close(self) -> None:
        """Ask no more: it ends once nobody else may ask, which nodes do as long as they run."""
        self.asking.connection.close()

    def wait(self) -> None:
        """Return when it has ended. Raises subprocess.TimeoutExpired."""
        self._process.wait(timeout=END_S)


_ours: dict[Kind, WarmProcess] = {}
_beginning = threading.Lock()


def warm_process(kind: Kind) -> WarmProcess:
    """The one of this process, which it begins, if need be, and ends with it."""
    with _beginning:
        if kind not in _ours or not _ours[kind].is_alive:
            _ours[kind] = WarmProcess(kind)
            atexit.register(_ours[kind].close)
        return _ours[kind]


def start_node(
    arguments: Sequence[str], environment: Mapping[str, str], output: int
) -> ForkedProcess:
    """Run `swarm` with these arguments in a fork, whose trainers are forks. Raises LocalError."""
    fork = Fork(tuple(arguments), os.getcwd(), dict(environment))
    with warm_process("trainer").connect() as trainers:
        return warm_process("node").asking.fork(fork, (output, trainers.fileno()))


# In a node.


class ForkedLauncher:
    """The launcher of a box that is a fork."""

    def __init__(self, fork: ForkedProcess) -> None:
        self._fork = fork
        self.pid = fork.pid

    def poll(self) -> int | None:
        return self._fork.poll()

    async def wait(self) -> int:
        while (found := self._fork.poll()) is None:  # noqa: ASYNC110 (several may wait)
            await trio.sleep(POLL_S)
        return found


class ForkedLaunching:
    """Has launchers forked, from where what a trainer needs is imported."""

    def __init__(self, connection: socket.socket) -> None:
        self._asking = Asking(connection)

    async def __call__(self, control: int, descriptors: Sequence[int]) -> ForkedLauncher:
        held = (sys.stderr.fileno(), control, *descriptors)
        fork = Fork(numbers=held[1:])
        return ForkedLauncher(await trio.to_thread.run_sync(self._asking.fork, fork, held))


# In a process that is forked from.


def main() -> None:
    """Entry point of `python -m swarm.testnet.warm KIND SOCKET ROOM`; for testnets only."""
    kind, control = sys.argv[1], socket.socket(fileno=int(sys.argv[2]))
    control.set_inheritable(False)
    for name in NEEDED["node" if kind == "node" else "trainer"]:
        import_module(name)
    _be_one_thread()
    # It may outlive the command that began it, whose readers wait for the end of its output.
    os.dup2(1, 2)
    gc.collect()
    gc.freeze()  # or each fork's first collection would copy all of it
    forked = _Forks(control).serve()
    if forked is None:
        return
    if kind == "node":
        _become_node(*forked)
    else:
        _become_launcher(*forked)


def _be_one_thread() -> None:
    """numpy's library has threads as soon as it is imported; it ends them before a fork, and makes
    new ones when it needs them. Anything else that has threads would not have them in a fork."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    more = len(os.listdir("/proc/self/task")) - 1
    if more:
        sys.exit(f"what was imported began {more} threads, which no fork would have")


class _Forks:
    """All that have not ended."""

    def __init__(self, control: socket.socket) -> None:
        self.connections = {control.fileno(): control}
        self.statuses: dict[int, int] = {}
        """Where the exit status of each goes, by its process id."""
        self.deaths, self.died = os.pipe()
        for end in (self.deaths, self.died):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self.died)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def serve(self) -> tuple[Fork, tuple[int, ...]] | None:
        """Fork whenever asked to, until nobody can ask. In the fork: what it is to be, and the
        descriptors that it holds."""
        while self.connections:
            for ready in select.select([*self.connections, self.deaths], [], [])[0]:
                if ready == self.deaths:
                    os.read(self.deaths, 1 << 10)
                    self._bury()
                    continue
                with suppress(OSError):
                    forked = self._answer(self.connections[ready])
                    if forked is not None:
                        return forked
        return None

    def _answer(self, connection: socket.socket) -> tuple[Fork, tuple[int, ...]] | None:
        """Do what is asked over this connection. In the fork: as `serve` has it."""
        frame = frames.receive(connection)
        if frame is None:
            del self.connections[connection.fileno()]
            connection.close()
            return None
        request = _requests.decode(frame.body)
        if isinstance(request, Connect):
            self.connections[frame.descriptors[0]] = socket.socket(fileno=frame.descriptors[0])
            return None
        pid = os.fork()
        if pid == 0:
            return request, self._leave(frame)
        self.statuses[pid], *rest = frame.descriptors
        frames.close_all(rest)
        frames.send(connection, pid.to_bytes(STATUS_BYTES, "big"))
        return None

    def _bury(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            with suppress(OSError):
                os.write(self.statuses[pid], code.to_bytes(STATUS_BYTES, "big", signed=True))
            os.close(self.statuses.pop(pid))

    def _leave(self, frame: frames.Frame) -> tuple[int, ...]:
        """Forget in the fork what is the parent's."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for connection in self.connections.values():
            connection.close()
        held = frame.descriptors[1:]
        _hold_only(held)
        return held


def _hold_only(descriptors: Sequence[int]) -> None:
    """Close everything else but input and output."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in descriptors:
            with suppress(OSError):  # that of the list itself
                os.close(int(name))


def _renumber(descriptors: Sequence[int], numbers: Sequence[int]) -> None:
    """Give these descriptors, and nothing else, these numbers."""
    above = max(*descriptors, *numbers) + 1
    aside = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, above) for one in descriptors]
    frames.close_all(descriptors)
    for one, number in zip(aside, numbers, strict=True):
        os.dup2(one, number, inheritable=False)
    frames.close_all(aside)


def _become_node(fork: Fork, descriptors: tuple[int, ...]) -> NoReturn:
    output, trainers = descriptors
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.environ.clear()
    os.environ.update(fork.environment)
    os.chdir(fork.directory)
    _show((sys.executable, "-P", "-m", "swarm", *fork.arguments))
    sys.argv[:] = ["swarm", *fork.arguments]
    process.launching = ForkedLaunching(socket.socket(fileno=trainers))
    runpy.run_module("swarm", run_name="__main__", alter_sys=True)
    raise AssertionError("a command exits")


def _become_launcher(fork: Fork, descriptors: tuple[int, ...]) -> None:
    errors, *rest = descriptors
    os.dup2(errors, 2)
    os.close(errors)
    _renumber(rest, fork.numbers)
    control = fork.numbers[0]
    _show((sys.executable, "-P", "-m", "swarm.box.launcher", str(control)))
    launcher.launch(control, _become_trainer)


def _become_trainer(box: Box, environment: dict[str, str]) -> NoReturn:
    """Behind the walls: be what `launcher.execute` would make of this process, as far as anything
    can tell that runs in it."""
    if TRAINER not in box.command:
        launcher.execute(box, environment)
    _hold_only(box.descriptors)
    # What executing a program, and beginning an interpreter, do.
    system.prctl(system.PR_SET_DUMPABLE, 1)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(environment)
    _show(box.command)
    of_python = box.command.index(TRAINER)
    sys.argv[:] = box.command[of_python:]
    sys.modules["__main__"] = module = import_module(TRAINER)  # for the processes of a DataLoader
    module.main(list(box.command[of_python + 1 :]))
    sys.exit(0)


def _show(command: Sequence[str]) -> None:
    """Let the system show this command line for ours: people, and `processes`, look for a node by
    it. It is written over the old one, where `proc(5)` says that it lies."""
    with suppress(OSError):
        stat = Path("/proc/self/stat").read_text()
        fields = stat[stat.rindex(")") + 1 :].split()
        start, end = int(fields[45]), int(fields[46])
        line = os.fsencode("\0".join(command)) + b"\0"
        if start and len(line) <= end - start:
            ctypes.memset(start, 0, end - start)
            ctypes.memmove(start, line, len(line))


if __name__ == "__main__":
    main()
