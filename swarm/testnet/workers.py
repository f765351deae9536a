"""The simulator's workers: processes that answer one request at a time, and are replaced.

A worker is told nothing that the next one could not be told again: so one that dies, or has
answered so often that a fresh one is due, costs nothing but its start.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

from msgspec.structs import replace

from swarm.errors import LocalError, PlanError, SwarmError
from swarm.learning.simulation.messages import (
    Begin,
    Faulty,
    Opened,
    OpenPlan,
    Ready,
    Reply,
    Request,
    decode_reply,
    encode,
    read_frame,
    write_frame,
)
from swarm.learning.supervisor.trainer_process import REPEATABLE

ANSWERS_OF_A_WORKER = 2000
"""After which it is replaced: whatever a plan's libraries have piled up goes with it."""
TRIES = 3
END_S = 10.0

R = TypeVar("R", bound=Reply)


class Channel(Protocol):
    """One worker, wherever it runs."""

    def ask(self, raw: bytes) -> bytes:
        """Raises LocalError if it is gone."""
        ...

    def end(self) -> None: ...


class WorkerProcess:
    """A worker on this machine. It is gone when its input is closed."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "swarm.learning.simulation.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | REPEATABLE,
        )

    def ask(self, raw: bytes) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            write_frame(self._process.stdin, raw)  # type: ignore[arg-type]
            reply = read_frame(self._process.stdout)  # type: ignore[arg-type]
        except OSError:
            reply = None
        if reply is None:
            raise LocalError("a worker ended; is there enough memory?")
        return reply

    def end(self) -> None:
        self._process.kill()
        self._process.wait(timeout=END_S)


class Workers:
    """One worker for each device of `devices`. Made by `open_workers`; `ask` gives futures."""

    def __init__(
        self, devices: Sequence[str], start: Callable[[], Channel], opening: OpenPlan
    ) -> None:
        self.count = len(devices)
        self._start = start
        self._openings = [encode(replace(opening, device=device)) for device in devices]
        self._places = iter(range(self.count))
        self._begin: bytes | None = None
        self._pool = ThreadPoolExecutor(max_workers=self.count)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._channels: set[Channel] = set()

    def begin(self, begin: Begin) -> None:
        """What all requests from now on begin with."""
        self._begin = encode(begin)

    def ask(self, request: Request, kind: type[R]) -> Future[R]:
        """One worker's reply. Raises PlanError or LocalError as the worker does."""
        return self._pool.submit(self._ask, request, kind)

    def open(self, kind: type[R]) -> R:
        """The reply of the first worker to being opened."""
        return self._pool.submit(self._opened, kind).result()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            channels, self._channels = self._channels, set()
        for channel in channels:
            channel.end()

    def _opened(self, kind: type[R]) -> R:
        _, reply = self._channel()
        return checked(reply, kind)

    def _ask(self, request: Request, kind: type[R]) -> R:
        for attempt in range(1, TRIES + 1):
            try:
                channel, _ = self._channel()
                begin = self._begin
                if begin is not None and self._local.begin is not begin:
                    checked(channel.ask(begin), Ready)
                    self._local.begin = begin
                self._local.answers += 1
                return checked(channel.ask(encode(request)), kind)
            except LocalError:
                self._drop()
                if attempt == TRIES:
                    raise
        raise AssertionError("TRIES is at least 1")

    def _channel(self) -> tuple[Channel, bytes]:
        """This thread's worker, with its plan open, and what it said to that."""
        channel: Channel | None = getattr(self._local, "channel", None)
        if channel is not None and self._local.answers >= ANSWERS_OF_A_WORKER:
            self._drop()
            channel = None
        if channel is None:
            channel = self._start()
            with self._lock:
                self._channels.add(channel)
            self._local.channel, self._local.answers, self._local.begin = channel, 0, None
            self._local.said = channel.ask(self._own_opening())
            checked(self._local.said, Opened)
        return channel, self._local.said

    def _own_opening(self) -> bytes:
        """What this thread's workers are opened with: each thread has one device for good."""
        if not hasattr(self._local, "opening"):
            with self._lock:
                self._local.opening = self._openings[next(self._places)]
        return bytes(self._local.opening)

    def _drop(self) -> None:
        channel: Channel | None = getattr(self._local, "channel", None)
        self._local.channel = None
        if channel is not None:
            with self._lock:
                self._channels.discard(channel)
            channel.end()


def in_order(
    workers: Workers, requests: Iterable[Request], kind: type[R], ahead: int = 3
) -> Iterator[R]:
    """The replies in the order of the requests, never more than `ahead` a worker asked ahead: what
    waits for its turn is bounded."""
    waiting: list[Future[R]] = []
    todo = iter(requests)
    for request in todo:
        waiting.append(workers.ask(request, kind))
        if len(waiting) >= ahead * workers.count:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


@contextmanager
def open_workers(
    devices: Sequence[str], start: Callable[[], Channel], opening: OpenPlan
) -> Iterator[Workers]:
    """Workers for the length of the block, one for each device named."""
    workers = Workers(devices, start, opening)
    try:
        yield workers
    finally:
        workers.close()


def checked(raw: bytes, kind: type[R]) -> R:
    """A worker's reply. Raises PlanError or LocalError as it says, LocalError for another one."""
    reply = decode_reply(raw)
    if isinstance(reply, Faulty):
        failure: type[SwarmError] = PlanError if reply.exit_status == 2 else LocalError
        raise failure(reply.message)
    if not isinstance(reply, kind):
        raise LocalError(f"a worker answered with {type(reply).__name__}")
    return reply
