"""One stream through a node: between this node's trainer and the bulk channel, in a worker thread.

Both ways in one thread, as a TLS connection must not be read and written by two. A way has one
buffer, filled when it is empty: so a side that takes nothing makes the other wait, and nothing
piles up here. Headers are read in passing, before any byte of a piece goes on.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from swarm.errors import LocalError, PeerUnreachable, ProtocolViolation
from swarm.network.bulk_transfer import PACED_WRITE_BYTES, sever
from swarm.network.pacing import Pacer
from swarm.network.peer_standing import Standing
from swarm.protocol.streams import Conversation, Frames, Header
from swarm.types import Address

BUFFER_BYTES = 256 * 1024
IDLE_LOOK_S = 5.0
WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class StreamEnd(Protocol):
    """This node's end of a stream."""

    @property
    def near(self) -> socket.socket:
        """Its trainer's socket, which the relay closes."""

    @property
    def book(self) -> Conversation: ...

    @property
    def asks(self) -> bool:
        """Whether the trainer here asks, or answers."""

    @property
    def leaving(self) -> Callable[[int], None]:
        """Called in a worker thread with the size of each piece before it is sent; a LocalError
        ends the stream."""


class StreamHost(Protocol):
    """What a node needs to hold a role. Both raise RemoteError in words to refuse `sender`."""

    def admit(self, sender: Address, name: bytes) -> None:
        """Whether this member may have the stream of this name, now."""

    def join(self, sender: Address, name: bytes) -> StreamEnd:
        """It has come: the end of it here."""


class Relay:
    """Carries one stream. `run` blocks until either side ends it."""

    def __init__(
        self,
        end: StreamEnd,
        far: ssl.SSLSocket | socket.socket,
        peer: Standing,
        pacer: Pacer,
        stall_s: float,
    ) -> None:
        self._near, self._far = end.near, far
        self._leaving, self._peer, self._pacer = end.leaving, peer, pacer
        self._stall_s = stall_s
        self._stopped = threading.Event()
        asked, answered = end.book.note_question, end.book.note_answer
        sends, takes = (asked, answered) if end.asks else (answered, asked)
        self._out, self._back = _Way(sends), _Way(takes)

    def stop(self) -> None:
        self._stopped.set()
        sever(self._far)
        with suppress(OSError):
            self._near.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        """Raises ProtocolViolation for what the peer may not send, LocalError for what this node's
        trainer may not, PeerUnreachable if a frame that has begun does not go on, OSError if the
        connection breaks."""
        self._near.setblocking(False)
        self._far.setblocking(False)
        while not self._stopped.is_set():
            moved = [self._take_out(), self._send_out(), self._take_back(), self._send_back()]
            if None in moved:
                return
            if not any(moved):
                self._wait()

    def _take_out(self) -> bool | None:
        """Fill the way out from the trainer; None at its end."""
        if self._out.is_full:
            return False
        count = _read(self._near, self._out.room)
        if not count:
            return None if count == 0 else False
        try:
            self._out.take(count)
        except ProtocolViolation as error:
            raise LocalError(f"the plan's process broke the protocol of streams: {error}") from None
        self._leaving(count)
        return True

    def _send_out(self) -> bool:
        if not self._out.is_full:
            return False
        data = self._out.waiting
        if self._pacer.is_limited:
            data = data[:PACED_WRITE_BYTES]
            if self._stopped.wait(self._pacer.reserve(len(data))):
                return False
        sent = _write(self._far, data)
        self._out.sent(sent)
        self._peer.count(sent=sent)
        return sent > 0

    def _take_back(self) -> bool | None:
        if self._back.is_full:
            return False
        got = 0
        while got < BUFFER_BYTES:  # TLS gives a record of 16 KiB at a time
            count = _read(self._far, self._back.room[got:])
            if count == 0 and got == 0:
                return None
            if not count:
                break
            got += count
        if not got:
            return False
        self._back.take(got)
        self._peer.count(chunk=got)
        return True

    def _send_back(self) -> bool:
        if not self._back.is_full:
            return False
        sent = _write(self._near, self._back.waiting)
        self._back.sent(sent)
        return sent > 0

    def _wait(self) -> None:
        """Until something can move. Raises PeerUnreachable for a frame that has stalled."""
        near = select.POLLOUT if self._back.is_full else 0
        far = select.POLLOUT if self._out.is_full else 0
        near |= 0 if self._out.is_full else select.POLLIN
        far |= 0 if self._back.is_full else select.POLLIN
        poll = select.poll()
        for side, wanted in ((self._near, near), (self._far, far)):
            if wanted:  # one that has ended would wake this at once, again and again
                poll.register(side, wanted)
        poll.poll(1000 * (self._stall_s if self._is_within_a_frame else IDLE_LOOK_S))
        if any(way.stalled_s > self._stall_s for way in (self._out, self._back)):
            raise PeerUnreachable(f"a frame that had begun did not go on for {self._stall_s:g} s")

    @property
    def _is_within_a_frame(self) -> bool:
        return not (self._out.frames.is_between and self._back.frames.is_between)


class _Way:
    """One direction: a buffer, and where it is in a frame."""

    def __init__(self, note: Callable[[Header], object]) -> None:
        self.frames = Frames()
        self._note = note
        self.room = memoryview(bytearray(BUFFER_BYTES))
        self._begin = self._end = 0
        self._since = time.monotonic()

    @property
    def is_full(self) -> bool:
        """Whether something waits to be sent on; nothing more is taken then."""
        return self._begin < self._end

    @property
    def waiting(self) -> memoryview:
        return self.room[self._begin : self._end]

    @property
    def stalled_s(self) -> float:
        """For how long the rest of a frame has been waited for."""
        waits = not self.is_full and not self.frames.is_between
        return time.monotonic() - self._since if waits else 0.0

    def take(self, count: int) -> None:
        """So many bytes have come into `room`. Raises ProtocolViolation."""
        self._begin, self._end = 0, count
        self._since = time.monotonic()
        for header in self.frames.feed(self.room[:count]):
            self._note(header)

    def sent(self, count: int) -> None:
        self._begin += count
        self._since = time.monotonic()


def _read(sock: socket.socket, room: memoryview) -> int | None:
    """How many bytes came; 0 at the end, None if there are none yet."""
    try:
        return sock.recv_into(room)
    except WOULD_BLOCK:
        return None


def _write(sock: socket.socket, data: memoryview) -> int:
    try:
        return sock.send(data)
    except WOULD_BLOCK:
        return 0
