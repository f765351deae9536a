"""One trainer process: started in a box, and spoken to over a socket pair.

A pipe beside it takes the stacks that the trainer's watchdog writes while nothing in it can speak,
or when it crashes. They are a sign of life, and name a place in the plan.

The files of a request go with it as open descriptors, because the trainer can open none by name
that is not its own. What it makes it writes to a file without a name; once it says that this is
complete, its contents are copied to where they belong, out of reach of whatever still runs.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import trio
from msgspec import structs

from swarm.box import contents, frames
from swarm.box.description import Box, Limits, Sandbox
from swarm.box.process import BoxedProcess, check, left_out, start
from swarm.errors import ConfigurationError, LocalError, PlanError, TrainerError
from swarm.learning.supervisor.trainer_messages import (
    LENGTH_BYTES,
    SOCKETS,
    WRITTEN,
    Reply,
    Request,
    decode_reply,
    files_of,
    frame,
    read_length,
)
from swarm.tensors import MAX_FILE_BYTES, copy_file

NO_SOCKETS: Mapping[str, int] = {}
TRAINER = "swarm.learning.training.trainer"
EXIT_STATUS_WAIT_S = 1.0
WRITE_DEADLINE_S = 10.0
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
MAX_SIGNS_BYTES = 64 << 10
FREE_DISK_BYTES = 2**30
FREE_DISK_PART = 50
"""Of a small disk, so many parts to one are the plan's to fill."""
PROCESSES = 2048
PROCESSES_PER_CPU = 64
REPEATABLE = {
    "PYTHONHASHSEED": "0",
    "PYTHONUNBUFFERED": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "MKL_CBWR": "AUTO,STRICT",
}
"""Repeatable arithmetic must be asked for before torch loads."""


class Died(Exception):
    """The process ended, fell silent or broke the protocol; the text completes a sentence."""

    def __init__(self, words: str, of_itself: bool = False) -> None:
        super().__init__(words)
        self.of_itself = of_itself
        """Whether it crashed or left, and was not killed."""


class Handover:
    """The files of one request, open, and its `sockets` by field. Made in a worker thread; ends
    with `close`.

    Raises LocalError if one cannot be read, or a result cannot be written where it belongs.
    """

    def __init__(
        self, boxed: BoxedProcess, request: Request, sockets: Mapping[str, int] = NO_SOCKETS
    ) -> None:
        self.descriptors: list[int] = []
        self._written: list[tuple[int, Path]] = []
        try:
            for field, name in files_of(request).items():
                if field in WRITTEN:
                    self.descriptors.append(_unnamed_beside(Path(name)))
                    self._written.append((self.descriptors[-1], Path(name)))
                elif field in SOCKETS:
                    self.descriptors.append(os.dup(sockets[field]))
                else:
                    self.descriptors.append(boxed.open(Path(name)))
        except BaseException:
            self.close()
            raise

    def keep(self, most_bytes: int) -> None:
        """Give the results their names. Raises PlanError if one is larger, LocalError if that
        fails."""
        for descriptor, _ in self._written:
            size_bytes = os.fstat(descriptor).st_size
            if size_bytes > most_bytes:
                raise PlanError(
                    f"the plan's process made a file of {size_bytes} bytes, where {most_bytes} are "
                    "the most: only the model's tensors, or small arrays of statistics, belong "
                    "there, and what stays at a site is of such a size as well"
                )
        for descriptor, path in self._written:
            copy_file(descriptor, path)

    def close(self) -> None:
        while self.descriptors:
            os.close(self.descriptors.pop())


@dataclass
class TrainerProcess:
    """One trainer process in its box, and the node's end of the socket pair."""

    boxed: BoxedProcess
    channel: trio.socket.SocketType
    signs: int
    """A pipe that does not block: the stacks that its watchdog writes while it cannot speak."""
    code: str
    """What the paths of the plan's code that it runs begin with."""
    busy: bool = False
    """Whether it owes a final reply."""
    spoke: bool = False
    """Whether it has said anything: it cannot before torch is imported."""
    place: str = ""
    """Where in the plan's code it was last, "plan.py:42 in data"."""

    @property
    def pid(self) -> int:
        return self.boxed.pid

    def lives(self) -> bool:
        return self.boxed.exit_status is None

    async def send(self, request: Request, handover: Handover) -> None:
        data = frame(request)
        try:
            with trio.fail_after(WRITE_DEADLINE_S):
                sent = await self.channel.sendmsg([data], frames.rights(handover.descriptors))
                while sent < len(data):
                    sent += await self.channel.send(data[sent:])
        except (OSError, trio.TooSlowError) as error:
            raise Died("died before it was asked") from error

    async def receive(self, silence_s: float) -> Reply:
        """The next reply. Raises Died after `silence_s` without a byte and without a sign."""
        try:
            length = read_length(await self._exactly(LENGTH_BYTES, silence_s))
            return decode_reply(await self._exactly(length, silence_s))
        except TrainerError as error:
            raise Died(f"broke its protocol ({error})") from error

    async def _exactly(self, count: int, silence_s: float) -> bytes:
        data = bytearray()
        while len(data) < count:
            with trio.move_on_after(silence_s) as patience:
                data += await self._piece(count - len(data))
            if patience.cancelled_caught and not self._shows_signs():
                raise Died(f"was silent for {silence_s:g} s")
        return bytes(data)

    async def _piece(self, most: int) -> bytes:
        """Some bytes. Raises Died if the process has closed its end."""
        with suppress(OSError):
            piece = await self.channel.recv(most)
            if piece:
                return bytes(piece)
        with trio.move_on_after(EXIT_STATUS_WAIT_S):
            await self.boxed.wait()
        self._shows_signs()  # a crash leaves its stack
        code = self.boxed.exit_status
        of_itself = code is not None and (code >= 0 or -code in CRASHES)
        raise Died(f"died ({_status(code)})", of_itself)

    def _shows_signs(self) -> bool:
        """Whether its watchdog has written since the last look; notes the place."""
        try:
            signs = os.read(self.signs, MAX_SIGNS_BYTES)
        except BlockingIOError:
            return False
        own = rf'File "{re.escape(self.code)}[^/"]*/(.+?\.py)", line (\d+) in (\S+)'
        found = re.search(own, signs.decode(errors="replace"))
        if found:
            self.place = f"{found[1]}:{found[2]} in {found[3]}"
        return bool(signs)

    async def end(self) -> None:
        """End the process and all that it started."""
        self.channel.close()
        await self.boxed.end()
        os.close(self.signs)


async def start_process(described: Box, sandbox: Sandbox) -> TrainerProcess:
    """Start a trainer in a box as described, which lacks the command and the descriptors.

    Raises LocalError if the system cannot, ConfigurationError if `sandbox` asks for more than this
    machine has.
    """
    with ExitStack() as ours, ExitStack() as theirs:
        pair = socket.socketpair()
        channel, its_channel = ours.enter_context(pair[0]), theirs.enter_context(pair[1]).fileno()
        signs, its_signs = os.pipe()
        ours.callback(os.close, signs)
        theirs.callback(os.close, its_signs)
        os.set_blocking(signs, False)
        channels = (f"--channel={its_channel}", f"--signs={its_signs}")
        boxed = await start(
            structs.replace(
                described,
                command=(sys.executable, "-P", "-s", "-m", TRAINER, *channels),
                descriptors=(its_channel, its_signs),
                without=left_out(sandbox),
            )
        )
        try:
            check(boxed.report, sandbox)
        except ConfigurationError:
            await boxed.end()
            raise
        ours.pop_all()
    code = f"{described.folder}/plan-"  # and its digest: see `trainer`
    return TrainerProcess(boxed, trio.socket.from_stdlib_socket(channel), signs, code)


def describe_box(
    workspace: Path, readable: list[Path], device: str, log: Path | None, nice: int
) -> Box:
    """The box of a trainer that keeps its files in `workspace`, which exists."""
    folder = Path(os.path.realpath(workspace))
    devices = () if device == "cpu" else contents.gpus()
    disk = os.statvfs(folder)
    return Box(
        command=(),
        folder=str(folder),
        readable=(*contents.libraries(), *(str(path.absolute()) for path in readable)),
        devices=devices,
        environment=contents.environment(folder) | REPEATABLE,
        limits=Limits(
            # With a GPU, a process has address space for its memory as well.
            memory_bytes=0 if devices else contents.physical_memory(),
            processes=max(PROCESSES, PROCESSES_PER_CPU * (os.cpu_count() or 1)),
            file_bytes=MAX_FILE_BYTES,
            free_disk_bytes=min(FREE_DISK_BYTES, disk.f_blocks * disk.f_frsize // FREE_DISK_PART),
        ),
        nice=nice,
        log=None if log is None else str(log.absolute()),
    )


def _unnamed_beside(path: Path) -> int:
    """A new file on the same disk that ends with its last descriptor."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise LocalError(
            f"cannot write {path}: {error.strerror}; check the disk's free space and permissions"
        ) from error
    with suppress(FileNotFoundError):
        os.unlink(name)
    return descriptor


def _status(code: int | None) -> str:
    if code is None:
        return "its socket closed"
    return f"signal {-code}" if code < 0 else f"exit status {code}"
