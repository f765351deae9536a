"""Yamux with one writer, bounded buffers and streams that can be cancelled.

libp2p's Yamux writes from whichever task holds its lock; a write that is cancelled half-way leaves
half an encrypted frame on the wire and ruins the connection for all. Here tasks only queue whole
frames and one task writes them: cancelling a caller costs at most its own stream. Frames that carry
data wait for room, frames that are only a header (open, close, reset, window) never wait, so that
cleaning up after a cancellation takes no time.

Yamux also lets a peer send beyond its window; `Muxer` closes such a connection when the bytes that
wait to be read exceed a bound.

And each trio.Lock costs a turn of the scheduler, taken or not. Yamux takes four for a frame, where
one thread runs it all: small messages, which are what consensus is made of, spent most of their
time there. Hence `_PromptLock`, and `Stream.try_write`.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from struct import Struct

import trio
from libp2p.abc import ISecureConn
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable
from libp2p.stream_muxer.yamux.yamux import (
    DEFAULT_WINDOW_SIZE,
    HEADER_SIZE,
    TYPE_DATA,
    YAMUX_HEADER_FORMAT,
    Yamux,
    YamuxStream,
)
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX

from swarm.errors import PeerUnreachable

__all__ = ["YAMUX", "Muxer", "Stream"]

NOISE_MESSAGE_BYTES = 65_535 - 16
"""Plaintext of one Noise message; one yamux frame fills it exactly."""
FRAME_DATA_BYTES = NOISE_MESSAGE_BYTES - HEADER_SIZE
MAX_QUEUED_BYTES = 4 * NOISE_MESSAGE_BYTES
MAX_QUEUED_FRAMES = 4096
READ_BYTES = 256 * 1024
CREDITS_PER_WINDOW = 16
"""Window is given back in sixteenths: a peer behind a slow link never waits long for the next."""


_HEADER = Struct(YAMUX_HEADER_FORMAT)


class _PromptLock:
    """A lock that waits only where it has to."""

    def __init__(self) -> None:
        self._lock = trio.Lock()

    async def __aenter__(self) -> None:
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


class Muxer(Yamux):  # type: ignore[misc]  # libp2p is untyped for mypy
    """One multiplexed connection. `run` must run for as long as it is used."""

    def __init__(
        self, session: ISecureConn, peer_id: ID, is_initiator: bool, max_buffered_bytes: int
    ) -> None:
        super().__init__(session, peer_id, is_initiator=is_initiator)
        self.streams_lock = _PromptLock()
        self._max_buffered_bytes = max_buffered_bytes
        self._frames: deque[bytes] = deque()
        self._queued_bytes = 0
        self._frame_queued = trio.Event()
        self._room_made = trio.Event()

    async def run(self, write_stall_s: float) -> None:
        """Read and write until the connection ends, for whatever reason; then wake everybody."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_frames, write_stall_s, nursery.cancel_scope)
                await self.start()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._cleanup_on_error()
            self._room_made.set()

    async def open(self) -> Stream:
        """Open a stream. Raises PeerUnreachable if the connection has ended."""
        with trio.CancelScope(shield=True):  # nothing below waits for the peer
            try:
                return Stream(await self.open_stream())
            except BaseLibp2pError as error:
                raise PeerUnreachable(f"the connection ended: {error}") from error

    async def accept(self) -> Stream:
        """The next stream that the peer opens. Raises PeerUnreachable at the end."""
        try:
            return Stream(await self.accept_stream())
        except (MuxedConnUnavailable, trio.ClosedResourceError) as error:
            raise PeerUnreachable("the connection ended") from error

    async def _write_frame(self, data: bytes) -> None:
        if len(data) > HEADER_SIZE:
            while not self.has_room and not self.event_shutting_down.is_set():
                await self._room_made.wait()
        self.queue_frame(data)

    @property
    def has_room(self) -> bool:
        """Whether a frame with data may be queued now."""
        # Of tiny frames, so many that headers, which never wait, still find a place.
        return self._queued_bytes <= MAX_QUEUED_BYTES and len(self._frames) < MAX_QUEUED_FRAMES // 2

    def queue_frame(self, frame: bytes) -> None:
        """Have a whole frame written. Raises ConnectionClosedError if the connection has ended."""
        if self.event_shutting_down.is_set() or len(self._frames) > MAX_QUEUED_FRAMES:
            raise ConnectionClosedError("connection closed")
        self._frames.append(frame)
        self._queued_bytes += len(frame)
        self._frame_queued.set()

    async def _write_frames(self, stall_s: float, connection: trio.CancelScope) -> None:
        while True:
            await self._frame_queued.wait()
            self._frame_queued = trio.Event()
            while self._frames:
                message = self._next_message()
                try:
                    with trio.fail_after(stall_s):
                        await self.secured_conn.write(message)
                except (BaseLibp2pError, trio.TooSlowError):
                    connection.cancel()
                    return

    def _next_message(self) -> bytes:
        """Whole frames that fit into one Noise message (or one larger frame), in order."""
        batch = [self._frames.popleft()]
        size = len(batch[0])
        while self._frames and size + len(self._frames[0]) <= NOISE_MESSAGE_BYTES:
            batch.append(self._frames.popleft())
            size += len(batch[-1])
        self._queued_bytes -= size
        room_made, self._room_made = self._room_made, trio.Event()
        room_made.set()
        return b"".join(batch)

    async def _read_data_body(self, length: int) -> bytes:
        waiting = sum(map(len, self.stream_buffers.values()))
        if waiting + length > self._max_buffered_bytes:
            # The one error that Yamux answers by closing the connection at once.
            raise trio.TooSlowError
        body: bytes = await super()._read_data_body(length)
        return body


class Stream:
    """One stream: exact reads with read-ahead, whole writes, and two ways to end it.

    Every failure of the peer or the connection is raised as PeerUnreachable.
    """

    def __init__(self, stream: YamuxStream) -> None:
        # Yamux answers each read with a window update and doubles windows up to 16 MiB. Here they
        # are what `widen` says, so that the bytes which an honest peer may have under way stay far
        # below the bound on a hostile one, and small reads cost no frame in return.
        stream._auto_tune_and_send_window_update = self._grant_credit
        stream.window_lock = _PromptLock()
        self._stream = stream
        self._muxer: Muxer = stream.conn
        self._window_bytes = DEFAULT_WINDOW_SIZE
        self._consumed = 0
        self._ahead = bytearray()

    async def widen(self, window_bytes: int) -> None:
        """Let the peer send this much before it hears from us; worth it for long transfers."""
        more = window_bytes - self._window_bytes
        if more > 0:
            self._window_bytes += more
            self._stream.recv_window += more
            await self._stream.send_window_update(more)

    async def read(self, n: int) -> bytes:
        """Exactly n bytes."""
        while len(self._ahead) < n:
            await self._read_some()
        taken = bytes(memoryview(self._ahead)[:n])
        del self._ahead[:n]
        return taken

    async def read_in_time(self, n: int, stall_s: float) -> bytes:
        """Exactly n bytes, of which some must arrive in every `stall_s`."""
        while len(self._ahead) < n:
            with trio.move_on_after(stall_s) as patience:
                await self._read_some()
            if patience.cancelled_caught:
                raise PeerUnreachable(f"the peer sent nothing for {stall_s:g} s")
        return await self.read(n)

    async def _grant_credit(self, *, bytes_read: int = 0) -> None:
        """Give the peer back the window that it used."""
        self._consumed += bytes_read
        if self._consumed >= self._window_bytes // CREDITS_PER_WINDOW:
            credit, self._consumed = self._consumed, 0
            self._stream.recv_window += credit
            await self._stream.send_window_update(credit)

    async def _read_some(self) -> None:
        try:
            self._ahead += await self._stream.read(READ_BYTES)
        except BaseLibp2pError as error:
            raise PeerUnreachable(f"the stream ended: {error}") from error

    async def write(self, data: bytes | memoryview) -> None:
        """All of `data`, in frames that each fill one Noise message. One task may write at a time,
        and `try_write` not at all meanwhile."""
        view = memoryview(data)
        try:
            for start in range(0, len(view), FRAME_DATA_BYTES):
                part = view[start : start + FRAME_DATA_BYTES]
                if not self.try_write(part):
                    await self._stream.write(part)
        except BaseLibp2pError as error:
            raise PeerUnreachable(f"the stream ended: {error}") from error

    async def write_in_time(self, data: bytes | memoryview, stall_s: float) -> None:
        """The same; the peer must make room for each frame within `stall_s`.

        Whoever grants a few bytes of window at a time would otherwise hold what is to be written
        for as long as it likes.
        """
        view = memoryview(data)
        for start in range(0, len(view), FRAME_DATA_BYTES):
            with trio.move_on_after(stall_s) as patience:
                await self.write(view[start : start + FRAME_DATA_BYTES])
            if patience.cancelled_caught:
                raise PeerUnreachable(f"the peer took nothing for {stall_s:g} s")

    def try_write(self, data: bytes | memoryview) -> bool:
        """Write a frame's worth at once if the peer and the queue have room for it; whether it was.

        Raises PeerUnreachable if the connection has ended.
        """
        stream = self._stream
        if (
            len(data) > min(FRAME_DATA_BYTES, stream.send_window)
            or stream.send_closed
            or stream.closed
            or not self._muxer.has_room
        ):
            return False
        header = _HEADER.pack(0, TYPE_DATA, 0, stream.stream_id, len(data))
        try:
            self._muxer.queue_frame(header + data)
        except BaseLibp2pError as error:
            raise PeerUnreachable(f"the connection ended: {error}") from error
        stream.send_window -= len(data)
        return True

    async def finish(self, patience_s: float) -> None:
        """End our side, wait for the peer to end its own, reset if it does not."""
        try:
            await self._stream.close()
            with trio.move_on_after(patience_s):
                while True:
                    await self._stream.read(READ_BYTES)
        except BaseLibp2pError:
            pass
        finally:
            await self.reset()

    async def reset(self) -> None:
        """Drop the stream, now and without waiting; harmless if it has ended already."""
        with trio.CancelScope(shield=True):
            with suppress(BaseLibp2pError):
                await self._stream.reset()
        # Yamux would keep the unread bytes of the stream for a minute, and its event for ever.
        muxer, stream_id = self._muxer, self._stream.stream_id
        for table in (muxer.streams, muxer.stream_buffers, muxer.stream_events):
            table.pop(stream_id, None)
