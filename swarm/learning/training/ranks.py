"""The other processes of a site that trains in several: rank 0 starts them, and is their node.

It hands them what the node hands to itself, the requests to load the plan and to train and the open
files of these, over a socket pair each; they run the same program as it does (`trainer`). It hears
every second that they live. What one of them finds wrong with the plan is the trainer's answer; one
that dies, or is silent, is the trainer's death, which the node notices and mends.
"""

from __future__ import annotations

import os
import queue
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from swarm.box import frames
from swarm.errors import TrainerError
from swarm.learning.supervisor.trainer_messages import (
    WRITTEN,
    Alive,
    Failed,
    Progress,
    Reply,
    Request,
    decode_reply,
    encode,
    files_of,
)
from swarm.tensors import OpenFile

SILENCE_S = 10.0
"""After which a process that has work and says nothing is missed."""
COMMAND = (sys.executable, "-P", "-s", "-m", "swarm.learning.training.trainer")


class Ranks:
    """Ranks 1 and up, started by the one process that the node speaks to.

    They meet by a file in `folder`. `signs` takes what their watchdogs write. `fail` is called,
    from another thread, with what one of them found wrong, or with None when one has ended; it does
    not return.
    """

    def __init__(
        self, size: int, folder: Path, signs: int, fail: Callable[[Failed | None], None]
    ) -> None:
        for left in folder.glob("meeting-*"):
            left.unlink(missing_ok=True)
        self.meeting = folder / f"meeting-{secrets.token_hex(8)}"
        """The file by which they find each other."""
        self._fail = fail
        self._processes: list[subprocess.Popen[bytes]] = []
        self._channels: list[socket.socket] = []
        self._answers: list[queue.Queue[Reply]] = []
        self._heard: dict[int, float] = {}
        """Of those that owe an answer: when they last said something."""
        for rank in range(1, size):
            ours, theirs = socket.socketpair()
            with theirs:
                rest = [f"--channel={theirs.fileno()}", f"--signs={signs}"]
                rest += [f"--rank={rank}", f"--ranks={size}", f"--meeting={self.meeting}"]
                descriptors = (theirs.fileno(), signs)
                started = subprocess.Popen([*COMMAND, *rest], pass_fds=descriptors)
            self._processes.append(started)
            self._channels.append(ours)
            self._answers.append(queue.Queue())
            listener = threading.Thread(
                target=self._listen, args=(rank, ours), name=f"rank {rank}", daemon=True
            )
            listener.start()

    def ask(self, request: Request, files: Mapping[str, OpenFile]) -> None:
        """Hand a request to all of them. They write nothing."""
        with open(os.devnull, "wb") as nowhere:
            given = [
                nowhere.fileno() if field in WRITTEN else files[field].descriptor
                for field in files_of(request)
            ]
            for rank, channel in enumerate(self._channels, start=1):
                self._heard[rank] = time.monotonic()
                with suppress(OSError):  # whoever listens there notices
                    frames.send(channel, encode(request), given)

    def collect(self) -> None:
        """Return when all of them have answered."""
        for answers in self._answers:
            answers.get()

    def all_live(self) -> bool:
        """Whether each that owes an answer has said something lately."""
        now = time.monotonic()
        return all(now - heard < SILENCE_S for heard in list(self._heard.values()))

    def _listen(self, rank: int, channel: socket.socket) -> None:
        with suppress(OSError, ValueError, TrainerError):
            while (received := frames.receive(channel)) is not None:
                reply = decode_reply(received.body)
                self._heard[rank] = time.monotonic()
                if isinstance(reply, Failed):
                    self._fail(reply)
                if not isinstance(reply, Alive | Progress):
                    del self._heard[rank]  # it owes nothing, while the first may have work left
                    self._answers[rank - 1].put(reply)
        print(f"rank {rank} of this trainer has ended", file=sys.stderr, flush=True)
        self._fail(None)
