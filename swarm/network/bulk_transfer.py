"""The blocking half of the bulk channel: chunks into and out of a TLS socket, in worker threads.

On the wire, a fetch is the token, answered by chunks as `wire` frames them. Both ends use blocking
calls on large buffers: OpenSSL, the disk and the hash leave Python's lock while they work, so one
thread that decrypts and one that checks and writes use two cores.

Chunks pass through a few buffers of one chunk each rather than into the mapped file: the hash reads
them while they are in the cache, wrong bytes never reach a file that others read, and filling fresh
pages through a mapping costs more than `pwrite` does (measured, 430 against 320 ms of CPU for
256 MB).
"""

from __future__ import annotations

import mmap
import queue
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol, cast

from swarm.errors import ChunkPending, LocalError, PeerUnreachable, ProtocolViolation, RemoteError
from swarm.network.pacing import Pacer
from swarm.network.peer_standing import Standing
from swarm.network.tickets import Ticket
from swarm.network.wire import CHUNK_HEADER, CHUNK_REFUSED, MAX_REFUSAL_CHARS, short
from swarm.types import Address, Digest

WRITE_BYTES = 256 * 1024
PACED_WRITE_BYTES = 16 * 1024
BUFFERS, KEPT_BUFFERS = 4, 64
IDLE_MS = 1
"""What has come is handed over before a wait that is longer, …"""
FLUSH_AFTER_S = 0.1
"""… and after this time at the latest: of a slow link, there is always a part of a record here."""
PENDING_S = 4.0
"""How long a peer that asks for a chunk waits for it to arrive here: less than it calls silence."""
GATHER_S = 0.003
"""Where one chunk has just come, more are coming: they go together, or each would wake a thread."""
STOP_LOOK_S = 0.05
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS

Chunk = tuple[int, bytes | memoryview]
Take = Callable[[Sequence[Chunk]], None]
"""Takes chunks as they arrive: called in a worker thread, in order, may block on the disk and may
refuse them with a SwarmError. The bytes are its own only until it returns."""


class ChunkReader(Protocol):
    """What `BlobProvider` gives to whoever sends its chunks."""

    def read_chunk(self, sender: Address, root: Digest, index: int) -> bytes | memoryview: ...


def sever(sock: socket.socket) -> None:
    """End a connection under the threads that use it: what they wait for fails at once."""
    with suppress(OSError):  # it had ended already
        # Closing it then resets it: a peer that waits for room to send would wait for long.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # SSLSocket's own would drop its TLS state


def write_all(secured: ssl.SSLSocket, data: memoryview) -> None:
    """What `sendall` does, with fewer steps for each record of 16 KiB."""
    write = secured.write
    while data:
        data = data[write(data) :]


class Sending:
    """One fetch, seen from the side that has the chunks."""

    def __init__(
        self,
        secured: ssl.SSLSocket,
        peer: Standing,
        ticket: Ticket,
        reader: ChunkReader,
        pacer: Pacer,
        stall_s: float,
    ) -> None:
        self._socket = secured
        self._peer = peer
        self._ticket = ticket
        self._reader = reader
        self._pacer = pacer
        self._stall_s = stall_s
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()
        sever(self._socket)

    def run(self) -> None:
        """Raises OSError if the peer takes nothing for `stall_s`, or is gone."""
        self._socket.settimeout(self._stall_s)
        small = bytearray()  # headers, and chunks that are not worth a write of their own
        try:
            for index in self._ticket.indices:
                try:
                    chunk = self._read(index)
                except ChunkPending as pending:  # what is here goes before the wait
                    self._write(small)
                    small = bytearray()
                    chunk = self._await(index, pending)
                small += CHUNK_HEADER.pack(index, len(chunk))
                if len(chunk) < WRITE_BYTES // 4:
                    small += chunk
                if len(chunk) >= WRITE_BYTES // 4 or len(small) >= WRITE_BYTES:
                    self._write(small)
                    small = bytearray()
                if len(chunk) >= WRITE_BYTES // 4:
                    self._write(chunk)
        except (RemoteError, LocalError) as error:
            # Of a chunk: what fails in the connection is an OSError, and the caller's.
            words = refusal(error).encode()[:MAX_REFUSAL_CHARS]
            small += CHUNK_HEADER.pack(CHUNK_REFUSED, len(words)) + words
        self._write(small)

    def _read(self, index: int) -> bytes | memoryview:
        """Raises ChunkPending if the chunk is on its way here."""
        try:
            return self._reader.read_chunk(self._peer.address, self._ticket.root, index)
        except OSError as error:
            raise LocalError(f"chunk {index} cannot be read: {error.strerror}") from error

    def _await(self, index: int, pending: ChunkPending) -> bytes | memoryview:
        """A chunk that is on its way here. Raises ChunkPending if it does not come in time."""
        deadline = time.monotonic() + PENDING_S
        while True:
            pending.wait(STOP_LOOK_S)
            if self._stopped.wait(GATHER_S):
                raise ConnectionAbortedError("stopped")
            try:
                return self._read(index)
            except ChunkPending as still:
                if time.monotonic() > deadline:
                    raise
                pending = still

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        step = PACED_WRITE_BYTES if self._pacer.is_limited else WRITE_BYTES
        for start in range(0, len(view), step):
            part = view[start : start + step]
            delay_s = self._pacer.reserve(len(part))
            if delay_s and self._stopped.wait(delay_s):
                raise ConnectionAbortedError("stopped")
            write_all(self._socket, part)
            self._peer.count(sent=len(part))


class Buffers:
    """Memory for chunks, lent to one fetch after the other: the most that was needed at once stays.

    A buffer that is freed with a fetch that failed would wait for the cyclic garbage collector, as
    an exception's traceback refers to it, and a few hundred retries would hold a gigabyte. A
    buffer's pages are taken when they are first filled: a small model never needs the rest.
    """

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._free: list[memoryview] = []

    @contextmanager
    def lend(self) -> Iterator[list[memoryview]]:
        """BUFFERS of them, for the block. Not for several threads."""
        lent = [
            self._free.pop() if self._free else memoryview(mmap.mmap(-1, self._size_bytes, PRIVATE))
            for _ in range(BUFFERS)
        ]
        try:
            yield lent
        finally:
            self._free += lent
            del self._free[KEPT_BUFFERS:]


class Receiving:
    """One fetch, seen from the side that wants the chunks.

    `receive` and `hand_over` run in two threads, and end whatever happens; `fault` says why if not
    all chunks came. What came before a fault has been handed over.
    """

    def __init__(
        self,
        secured: ssl.SSLSocket,
        peer: Standing,
        indices: Sequence[int],
        take: Take,
        buffers: Sequence[memoryview],
        stall_s: float,
    ) -> None:
        self._socket = secured
        self._peer = peer
        self._indices = indices
        self._take = take
        self._max_chunk_bytes = len(buffers[0])
        self._stall_s = stall_s
        # The last one used comes first: it is in the cache, and others may never be touched.
        self._free: queue.LifoQueue[memoryview | None] = queue.LifoQueue()
        self._full: queue.SimpleQueue[tuple[memoryview, list[Chunk]] | None] = queue.SimpleQueue()
        for buffer in buffers:
            self._free.put(buffer)
        self.fault: RemoteError | LocalError | None = None
        self.ended_unused = False
        """The connection was dead before the first byte came."""
        self._has_begun = False
        self.is_in_step = False
        """Whether the connection can carry another fetch."""

    def stop(self) -> None:
        """Both threads end, also if the other one never began."""
        self._free.put(None)
        self._full.put(None)
        sever(self._socket)

    def receive(self, token: bytes) -> None:
        try:
            self._socket.settimeout(self._stall_s)
            self._socket.sendall(token)
            self._receive_chunks()
            self.is_in_step = True
        except TimeoutError:
            self._fail(PeerUnreachable(f"the peer sent nothing for {self._stall_s:g} s"))
        except OSError as error:
            self.ended_unused = self.fault is None and not self._has_begun
            self._fail(PeerUnreachable(f"the connection ended: {error.strerror or error}"))
        except RemoteError as error:
            self._fail(error)
        finally:
            self._full.put(None)

    def hand_over(self) -> None:
        try:
            while (filled := self._full.get()) is not None:
                buffer, chunks = filled
                self._take(chunks)
                self._free.put(buffer)
        except (RemoteError, LocalError) as error:
            self._fail(error)
        finally:
            self._free.put(None)
            if self.fault is not None and not self.is_in_step:
                sever(self._socket)

    def _fail(self, fault: RemoteError | LocalError) -> None:
        # The first is the cause: to refuse a chunk ends the connection under the other thread.
        if self.fault is None:
            self.fault = fault

    def _receive_chunks(self) -> None:
        header = memoryview(bytearray(CHUNK_HEADER.size))
        buffer, filled, began = self._next_buffer(), 0, time.monotonic()
        chunks: list[Chunk] = []
        incoming = select.poll()
        incoming.register(self._socket, select.POLLIN)
        try:
            for expected in self._indices:
                overdue = time.monotonic() - began > FLUSH_AFTER_S
                if chunks and (overdue or not (self._socket.pending() or incoming.poll(IDLE_MS))):
                    self._full.put((buffer, chunks))
                    chunks = []
                    buffer, filled, began = self._next_buffer(), 0, time.monotonic()
                self._fill(header)
                index, length = CHUNK_HEADER.unpack(header)
                if index == CHUNK_REFUSED and length <= MAX_REFUSAL_CHARS:
                    self._refused(length)
                if index != expected or length > self._max_chunk_bytes:
                    raise ProtocolViolation(
                        f"expected chunk {expected}, got {index} of {length} bytes"
                    )
                if chunks and filled + length > len(buffer):
                    self._full.put((buffer, chunks))
                    chunks = []
                    buffer, filled, began = self._next_buffer(), 0, time.monotonic()
                view = buffer[filled : filled + length]
                self._fill(view)
                self._peer.count(chunk=length)
                chunks.append((index, view))
                filled += length
        finally:
            if chunks:
                self._full.put((buffer, chunks))

    def _refused(self, length: int) -> None:
        words = bytearray(length)
        self._fill(memoryview(words))
        self.is_in_step = True
        raise RemoteError(f"refused the blob: {short(words.decode(errors='replace'))}")

    def _next_buffer(self) -> memoryview:
        buffer = self._free.get()
        if buffer is None:
            raise ConnectionAbortedError("the chunks are not taken any more")
        return buffer

    def _fill(self, view: memoryview) -> None:
        # OpenSSL gives a record of 16 KiB at a time. `recv_into` ends in `read`, but the steps
        # between the two would be a tenth of this thread's time.
        read = cast(Callable[[int, memoryview], int], self._socket.read)
        filled, size = 0, len(view)
        while filled < size:
            count = read(size - filled, view[filled:])
            if count == 0:
                raise ConnectionResetError("closed by the peer")
            filled += count
            self._has_begun = True


def refusal(error: RemoteError | LocalError | OSError) -> str:
    """Why a blob is not sent, in words for the peer: without the paths of this machine."""
    return short(error) if isinstance(error, RemoteError) else "the blob cannot be read here"
