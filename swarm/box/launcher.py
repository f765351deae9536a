"""The program between a node and a box: it builds the walls, and waits outside them.

    node ── launcher ── first process of the box ── the plan's process
            outside     inside, waits               inside, behind every wall

The launcher receives the box's description over a socket of the node's, and answers with a report.
While the box lives it keeps the end of its output in a log of bounded size, and ends the box when
the node ends, or when the disk runs full. It ends as the plan's process ended.

The first process builds the file system, and then only waits: for the kernel it is the root of the
box's processes, and all of them end with it. The plan's process gives up every privilege before it
executes the plan's interpreter, which begins with an empty memory and the environment of the box.
"""

from __future__ import annotations

import os
import resource
import select
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import msgspec

from swarm.box import frames, landlock, limits, namespaces, seccomp, system
from swarm.box.description import SCOPED_SIGNALS, Box, Report, Wall

LOOK_EVERY_S = 0.2
OUTPUT_BYTES = 1 << 16
OF_MEMORY = ("/dev/shm", "/tmp")
CANNOT_EXECUTE = 127
BY_SIGNAL = 128

_boxes = msgspec.msgpack.Decoder(Box)
_reports = msgspec.msgpack.Decoder(Report)


@dataclass
class Walls:
    """Which walls stand so far, and why the others do not."""

    without: tuple[Wall, ...]
    stand: dict[Wall, str] = field(default_factory=dict)
    missing: dict[Wall, str] = field(default_factory=dict)

    def build(self, wall: Wall, how: Callable[[], str]) -> None:
        if wall in self.without:
            self.missing[wall] = "left out"
            return
        try:
            self.stand[wall] = how()
            self.missing.pop(wall, None)
        except OSError as error:
            self.missing[wall] = error.strerror or str(error)

    def report(self, pid: int | None = None) -> Report:
        return Report(stand=self.stand, missing=self.missing, pid=pid)


Become = Callable[[Box, dict[str, str]], NoReturn]
"""How the plan's process becomes what the box is for, with this environment."""


def main() -> None:
    """Entry point of `python -m swarm.box.launcher SOCKET`, a descriptor; for nodes only."""
    launch(int(sys.argv[1]), execute)


def launch(descriptor: int, become: Become) -> None:
    """Receive a box's description over this socket, and be its launcher until it has ended."""
    control = socket.socket(fileno=descriptor)
    control.set_inheritable(False)
    received = frames.receive(control)
    if received is None:
        return
    box = _boxes.decode(received.body)
    _end_with(_Launch(box, control, become).run())


def execute(box: Box, environment: dict[str, str]) -> NoReturn:
    """Execute the box's command: of all that is in this process's memory nothing is left."""
    for descriptor in box.descriptors:
        os.set_inheritable(descriptor, True)
    try:
        os.execve(box.command[0], box.command, environment)
    except OSError as error:
        print(f"{box.command[0]} cannot be started: {error.strerror}", flush=True)
        os._exit(CANNOT_EXECUTE)


class _Launch:
    """One box, from outside."""

    def __init__(self, box: Box, control: socket.socket, become: Become) -> None:
        self.box = box
        self.control = control
        self.become = become
        self.user = os.getuid()
        self.walls = Walls(box.without)
        self.inside, self.outside = socket.socketpair()
        self.output, self.printed = os.pipe()

    def run(self) -> int:
        """Build, report, watch. Returns the exit status, or 128 and the signal."""
        self._write(b"")  # so that the log is there, whatever comes
        os.nice(self.box.nice)
        limits.be_ended_first()
        self.walls.build("user", namespaces.enter_user)
        self.walls.build("pid", namespaces.enter_pid)
        self.walls.build("net", namespaces.enter_net)
        self.walls.build("ipc", namespaces.enter_ipc)
        with suppress(AttributeError):
            self.outside.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        child = os.fork()
        if child == 0:
            self._become_first()
        self.inside.close()
        for descriptor in (self.printed, *self.box.descriptors):
            os.close(descriptor)
        self._report()
        return self._watch(child)

    # Outside.

    def _report(self) -> None:
        """Tell the node what the two inside tell: the first has the read-only view of the machine's
        files with it, the second knows all the walls."""
        first = frames.receive(self.outside)
        second = frames.receive(self.outside)
        if first is None or second is None:
            return  # it has printed why, and the node sees its end
        told = _reports.decode(second.body)
        pid = (second.sender or told.pid) if self.box.command else None
        report = msgspec.structs.replace(told, pid=pid)
        with suppress(OSError):
            frames.send(self.control, msgspec.msgpack.encode(report), first.descriptors)
        frames.close_all(first.descriptors)

    def _watch(self, child: int) -> int:
        os.set_blocking(self.output, False)
        poll = select.poll()
        for descriptor in (self.output, self.outside.fileno(), self.control.fileno()):
            poll.register(descriptor, select.POLLIN)
        pause_ms = LOOK_EVERY_S * 1000 if self.box.limits.free_disk_bytes else None
        while True:
            ready = {descriptor for descriptor, _ in poll.poll(pause_ms)}
            if self.output in ready and self._keep_output() == b"":
                poll.unregister(self.output)  # closed, by a plan that goes on
            if self.outside.fileno() in ready:
                break  # the first process has ended, and with it all others
            if self.control.fileno() in ready or self._is_disk_full():
                self._end(child)
                break
        _, status = os.waitpid(child, 0)
        while self._keep_output():
            pass
        if self._is_disk_full():
            self._empty_folder()
        return _shown(status)

    def _end(self, child: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL if "pid" in self.walls.stand else signal.SIGTERM)

    def _keep_output(self) -> bytes | None:
        """Move some of what was printed to the log: empty at its end, None if there is no more."""
        try:
            data = os.read(self.output, OUTPUT_BYTES)
        except BlockingIOError:
            return None
        self._write(data)
        return data

    def _write(self, data: bytes) -> None:
        if self.box.log is None:
            os.write(sys.stderr.fileno(), data)
            return
        with suppress(OSError), open(self.box.log, "ab") as log:  # a full disk shows elsewhere
            log.write(data)
            if log.tell() > self.box.limits.log_bytes:
                os.replace(self.box.log, f"{self.box.log}.1")

    def _is_disk_full(self) -> bool:
        least = self.box.limits.free_disk_bytes
        if not least:
            return False
        disk = os.statvfs(self.box.folder)
        return disk.f_bavail * disk.f_frsize < least

    def _empty_folder(self) -> None:
        """Give the disk back. All that is lost is time: checkpoints, and copies."""
        words = (
            f"less than {self.box.limits.free_disk_bytes} bytes were left on the disk of "
            f"{self.box.folder}: the plan's process was ended, and that folder emptied\n"
        )
        self._write(words.encode())
        for path in Path(self.box.folder).iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    # The first process.

    def _become_first(self) -> NoReturn:
        """Build the rest of the box, start the plan's process, and wait for it."""
        self.control.close()
        self.outside.close()
        os.close(self.output)
        os.setsid()
        has_pids = "pid" in self.walls.stand
        children = None if has_pids else _Children()
        with suppress(OSError):
            system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL if has_pids else signal.SIGTERM)
        os.dup2(self.printed, 1)
        os.dup2(self.printed, 2)
        views: list[int] = []
        if has_pids:
            self.walls.build(
                "processes", lambda: namespaces.bound_processes(self.box.limits.processes)
            )
        self.walls.build("mount", lambda: self._enter_tree(views))
        frames.send(self.inside, b"", views)
        frames.close_all(views)
        child = os.fork()
        if child == 0:
            self._become_plan()
        with suppress(OSError):
            system.prctl(system.PR_SET_DUMPABLE, 0)
        for descriptor in (0, 1, 2, self.printed, *self.box.descriptors):
            os.close(descriptor)
        while True:
            pid, status = os.wait()
            if pid == child:
                break
        if children is not None:
            children.end()
        os._exit(_shown(status))

    def _enter_tree(self, views: list[int]) -> str:
        box = self.box
        namespaces.enter_mount()
        with suppress(OSError):
            views.append(namespaces.clone_read_only())
        return namespaces.Tree(
            folder=box.folder,
            readable=box.readable,
            devices=box.devices,
            scratch_bytes=box.limits.scratch_bytes,
            has_own_processes="pid" in self.walls.stand,
        ).enter()

    # The plan's process.

    def _become_plan(self) -> NoReturn:
        """Give up what is left, and become what the box is for."""
        box, walls = self.box, self.walls
        os.setsid()
        os.chdir(box.folder)
        has_tree = "mount" in walls.stand
        limits.restrict(box.limits)
        if "processes" not in walls.stand:
            most, is_apart = box.limits.processes, "user" in walls.stand
            walls.build("processes", lambda: limits.bound_processes(most, self.user, is_apart))
        walls.build("capabilities", limits.drop_capabilities)
        walls.build("landlock", lambda: str(landlock.restrict(*self._opened(has_tree))))
        walls.build("seccomp", lambda: seccomp.restrict(self._families()))
        frames.send(self.inside, msgspec.msgpack.encode(walls.report(os.getpid())))
        if not box.command:
            os._exit(0)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        # A box without a file system of its own has no other room for scratch.
        scratch = {} if has_tree else {"TMPDIR": box.folder}
        self.become(box, box.environment | scratch)

    def _families(self) -> tuple[int, ...]:
        """The sockets that lead nowhere out of this box, where the other walls stand."""
        report = self.walls.report()
        has_net, has_tree = "net" in report.stand, "mount" in report.stand
        is_unix_safe = has_tree and (has_net or report.landlock >= SCOPED_SIGNALS)
        of_network = seccomp.OF_NETWORK if has_net else ()
        return (*([seccomp.UNIX] if is_unix_safe else []), *of_network)

    def _opened(self, has_tree: bool) -> tuple[list[str], list[str], list[str]]:
        """What Landlock lets the box read, write, and list."""
        readable = [*self.box.readable]
        writable = [self.box.folder, *namespaces.DEVICES, *self.box.devices]
        if has_tree:  # where there is nothing else
            return [*readable, "/proc", "/etc", "/dev"], [*writable, *OF_MEMORY], ["/"]
        own = [f"/proc/{name}" for name in ("self", *namespaces.PROC_FILES)]
        # Python lists the folders in which it looks for modules.
        searched = self.box.environment.get("PYTHONPATH", "").split(os.pathsep)
        return [*readable, *own], writable, [path for path in searched if path]


def _shown(status: int) -> int:
    """An exit status as a shell shows it: that of a process which a signal ended is 128 more."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else BY_SIGNAL - code


def _end_with(shown: int) -> NoReturn:
    """End as the plan's process did, by the same signal if it was one."""
    if shown > BY_SIGNAL:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(OSError, ValueError):
            signal.signal(shown - BY_SIGNAL, signal.SIG_DFL)
        os.kill(os.getpid(), shown - BY_SIGNAL)
    sys.exit(shown)


class _Children:
    """All processes below this one, which no namespace ends for us."""

    def __init__(self) -> None:
        with suppress(OSError):
            system.prctl(system.PR_SET_CHILD_SUBREAPER, 1)
        # Opened now: there may be no /proc in the box.
        self._pids = open(f"/proc/self/task/{os.getpid()}/children")  # noqa: SIM115
        signal.signal(signal.SIGTERM, self._end_on_signal)

    def end(self) -> None:
        with suppress(OSError):
            while pids := self._living():
                for pid in pids:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                os.wait()

    def _living(self) -> list[int]:
        self._pids.seek(0)
        return [int(pid) for pid in self._pids.read().split()]

    def _end_on_signal(self, number: int, _: object) -> NoReturn:
        self.end()
        os._exit(BY_SIGNAL + number)


if __name__ == "__main__":
    main()
