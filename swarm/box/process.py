"""The node's side of a box: start it, hand it files, end it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import trio

from swarm.box import contents, frames
from swarm.box.description import WALLS, Box, Report, Sandbox, Wall
from swarm.errors import ConfigurationError, LocalError

BUILD_S = 30.0
END_S = 5.0
_reports = msgspec.msgpack.Decoder(Report)


class Launcher(Protocol):
    """The process of a launcher, which leads a session."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    async def wait(self) -> int: ...


class Launching(Protocol):
    async def __call__(self, control: int, descriptors: Sequence[int]) -> Launcher:
        """Start a launcher that holds these open, and no others; it is described its box over
        `control`. Raises OSError."""
        ...


async def start_launcher(control: int, descriptors: Sequence[int]) -> Launcher:
    """A launcher with an interpreter of its own, which executes another for the plan."""
    return await trio.lowlevel.open_process(
        [sys.executable, "-P", "-m", "swarm.box.launcher", str(control)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(control, *descriptors),
        start_new_session=True,
        env=contents.own_environment(),
    )


launching: Launching = start_launcher
"""How this process starts launchers. The nodes of a testnet have them forked (`testnet.warm`); no
other program sets this."""


@dataclass
class BoxedProcess:
    """A process in a box, and the launcher before it. Made by `start`."""

    report: Report
    _launcher: Launcher
    _control: socket.socket
    """The launcher ends the box when this is closed: with the node, if need be."""
    _view: int | None
    """The root of the machine's files, read-only; None where the machine cannot make it."""

    @property
    def pid(self) -> int:
        """The boxed process, as the node sees it."""
        return self._launcher.pid if self.report.pid is None else self.report.pid

    @property
    def exit_status(self) -> int | None:
        """That of the boxed process, negative for a signal; None while it lives."""
        return self._launcher.poll()

    async def wait(self) -> None:
        """Until the process and all that it started have ended; its caller sets a deadline."""
        await self._launcher.wait()

    def open(self, path: Path) -> int:
        """Open a file to hand it to the box, which can read it by this and do no more with it.

        Raises LocalError.
        """
        try:
            if self._view is None:
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            below = os.path.relpath(os.path.realpath(path), "/")
            return os.open(below, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._view)
        except OSError as error:
            raise LocalError(f"cannot read {path}: {error.strerror}") from error

    async def end(self) -> None:
        """End the process and all that it started."""
        self._control.close()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(END_S):
                await self._launcher.wait()
            with suppress(ProcessLookupError):
                os.killpg(self._launcher.pid, signal.SIGKILL)
            with trio.move_on_after(END_S):
                await self._launcher.wait()
        if self._view is not None:
            os.close(self._view)
            self._view = None


async def start(box: Box) -> BoxedProcess:
    """Start a process in a box. Raises LocalError if the system cannot."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            launcher = await launching(theirs.fileno(), box.descriptors)
    except OSError as error:
        ours.close()
        raise LocalError(f"the trainer process cannot be started: {error}") from error
    process = BoxedProcess(Report(), launcher, ours, None)
    try:
        ours.settimeout(BUILD_S)
        received = await trio.to_thread.run_sync(_introduce, ours, box)
    except BaseException:
        await process.end()
        raise
    if received is None:
        await process.end()
        raise LocalError(
            f"the box of the trainer could not be built: see {box.log or 'the output of the node'}"
        )
    process.report = _reports.decode(received.body)
    process._view = received.descriptors[0] if received.descriptors else None
    return process


async def try_out(sandbox: Sandbox) -> Report:
    """Build a box for nothing, and tell which walls stand on this machine.

    Raises ConfigurationError if that is not what `sandbox` asks for.
    """
    with tempfile.TemporaryDirectory(prefix="swarm-box-") as folder:
        box = Box(command=(), folder=folder, readable=("/usr",), without=left_out(sandbox))
        process = await start(box)
        await process.end()
    check(process.report, sandbox)
    return process.report


def left_out(sandbox: Sandbox) -> tuple[Wall, ...]:
    """The walls that are not even tried."""
    return WALLS if sandbox == "off" else ()


def check(report: Report, sandbox: Sandbox) -> None:
    """Raise ConfigurationError if a box is required, and this one leaves something in reach."""
    if sandbox == "required" and not report.is_closed:
        raise ConfigurationError(
            f'`training.sandbox` is "required", but {report.in_words()}: allow unprivileged user '
            'namespaces or Landlock on this machine, or choose "auto"'
        )


def _introduce(control: socket.socket, box: Box) -> frames.Frame | None:
    try:
        frames.send(control, msgspec.msgpack.encode(box))
        return frames.receive(control)
    except OSError:
        return None
