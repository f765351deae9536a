"""One trainer process: started in a group of its own, and spoken to over three pipes.

Requests go in, replies come out; the third pipe takes the stacks that the trainer's watchdog writes
while nothing in it can speak, or when it crashes. They are a sign of life, and name a place in the
plan.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import trio

from swarm.errors import LocalError, TrainerError
from swarm.learning.messages import (
    LENGTH_BYTES,
    Reply,
    Request,
    decode_reply,
    frame,
    read_length,
)

END_GRACE_S = 5.0
EXIT_STATUS_WAIT_S = 1.0
WRITE_DEADLINE_S = 10.0
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
MAX_SIGNS_BYTES = 64 << 10


class Died(Exception):
    """The process ended, fell silent or broke the protocol; the text completes a sentence."""

    def __init__(self, words: str, of_itself: bool = False) -> None:
        super().__init__(words)
        self.of_itself = of_itself
        """Whether it crashed or left, and was not killed."""


@dataclass
class TrainerProcess:
    """One trainer process, in a process group of its own, and its three pipes."""

    process: trio.Process
    requests: trio.lowlevel.FdStream
    replies: trio.lowlevel.FdStream
    signs: int
    """A pipe that does not block: the stacks that its watchdog writes while it cannot speak."""
    code: Path
    """Below which the plan's code lies that it runs."""
    busy: bool = False
    """Whether it owes a final reply."""
    spoke: bool = False
    """Whether it has said anything: it cannot before torch is imported."""
    place: str = ""
    """Where in the plan's code it was last, "plan.py:42 in data"."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def lives(self) -> bool:
        return self.process.poll() is None

    async def send(self, request: Request) -> None:
        try:
            with trio.fail_after(WRITE_DEADLINE_S):
                await self.requests.send_all(frame(request))
        except (trio.BrokenResourceError, trio.TooSlowError) as error:
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
        """Some bytes. Raises Died if the process has closed its pipe."""
        with suppress(trio.BrokenResourceError):
            piece = await self.replies.receive_some(most)
            if piece:
                return bytes(piece)
        with trio.move_on_after(EXIT_STATUS_WAIT_S):
            await self.process.wait()
        self._shows_signs()  # a crash leaves its stack
        code = self.process.poll()
        of_itself = code is not None and (code >= 0 or -code in CRASHES)
        raise Died(f"died ({_status(self.process)})", of_itself)

    def _shows_signs(self) -> bool:
        """Whether its watchdog has written since the last look; notes the place."""
        try:
            signs = os.read(self.signs, MAX_SIGNS_BYTES)
        except BlockingIOError:
            return False
        own = rf'File "{re.escape(str(self.code))}[^/"]*/(.+?\.py)", line (\d+) in (\S+)'
        found = re.search(own, signs.decode(errors="replace"))
        if found:
            self.place = f"{found[1]}:{found[2]} in {found[3]}"
        return bool(signs)

    async def end(self) -> None:
        """Kill the process group, and wait for the process."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.requests.aclose()
        await self.replies.aclose()
        os.close(self.signs)
        with trio.CancelScope(shield=True), trio.move_on_after(END_GRACE_S):
            await self.process.wait()


async def start_process(workspace: Path, log_file: Path | None, nice: int) -> TrainerProcess:
    """Start a trainer process, which keeps its files in the absolute folder `workspace`, and whose
    plan prints to `log_file`. Raises LocalError if the system cannot."""
    child_reads, we_write = os.pipe()
    we_read, child_writes = os.pipe()
    signs, child_signs = os.pipe()
    os.set_blocking(signs, False)
    log: IO[bytes] | None = None
    try:
        log = log_file.open("ab") if log_file else None
        process = await trio.lowlevel.open_process(
            [
                sys.executable,
                "-P",
                "-m",
                "swarm.learning.trainer",
                f"--requests={child_reads}",
                f"--replies={child_writes}",
                f"--signs={child_signs}",
                f"--nice={nice}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT if log else None,
            pass_fds=(child_reads, child_writes, child_signs),
            start_new_session=True,
            env=_environment(),
        )
    except BaseException as error:
        os.close(we_write)
        os.close(we_read)
        os.close(signs)
        if isinstance(error, OSError):
            raise LocalError(f"the trainer process cannot be started: {error}") from error
        raise
    finally:
        os.close(child_reads)
        os.close(child_writes)
        os.close(child_signs)
        if log is not None:
            log.close()
    requests, replies = trio.lowlevel.FdStream(we_write), trio.lowlevel.FdStream(we_read)
    code = workspace / "plan-"  # and its digest: see `trainer`
    return TrainerProcess(process, requests, replies, signs, code)


def _environment() -> dict[str, str]:
    """The trainer's environment: repeatable arithmetic must be asked for before torch loads.

    Nothing of swarm's own goes in, above all not the password of the node's key.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("SWARM_")}
    return {
        **inherited,
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "MKL_CBWR": "AUTO,STRICT",
    }


def _status(process: trio.Process) -> str:
    code = process.poll()
    if code is None:
        return "its pipe closed"
    return f"signal {-code}" if code < 0 else f"exit status {code}"
