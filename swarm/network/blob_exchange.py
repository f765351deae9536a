"""Blobs over libp2p streams: what works wherever two members are connected at all.

`bulk` is faster, and goes first where it can be had. A peer asks for a blob's manifest by request,
and for chunks on a stream of their own, as many as it likes in one go. Whoever serves reads them in
a worker thread, about a megabyte per trip, one batch ahead of what is being sent. Nothing here
knows what a manifest says or what a chunk's digest is: that is for the caller, who must trust no
byte of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import trio

from swarm.errors import (
    AskedTooEarly,
    ChunkPending,
    LocalError,
    PeerUnreachable,
    ProtocolViolation,
    RemoteError,
)
from swarm.network.bulk_transfer import (
    FLUSH_AFTER_S,
    PACED_WRITE_BYTES,
    PENDING_S,
    Chunk,
    Take,
    refusal,
)
from swarm.network.connection import Connection
from swarm.network.limits import MIB, NetworkLimits
from swarm.network.muxer import Stream
from swarm.network.pacing import Pacer
from swarm.network.peer_standing import Standing
from swarm.network.wire import (
    BLOB,
    CHUNK_HEADER,
    CHUNK_REFUSED,
    MAX_REFUSAL_CHARS,
    ChunksWanted,
    encode_frame,
    read_frame,
    short,
    wanted_decoder,
)
from swarm.types import Address, Digest

MANIFEST_METHOD = "blob.manifest"
BATCH_BYTES = 1 * MIB
WINDOW_BYTES = 4 * MIB
FINISH_S = 5.0
FIRST_LOOK_S, LAST_LOOK_S = 0.002, 0.05
EARLY_S = 0.25
"""How long one that asks too early is kept waiting: refused, it would ask others, who have less."""


class BlobProvider(Protocol):
    """What a node serves; both may raise RemoteError in words to refuse `sender`.

    `manifest` raises AskedTooEarly where that may be otherwise in a moment: it is asked again then.
    `read_chunk` raises ChunkPending for a chunk that is on its way: it is asked again, for a while.
    Called in worker threads, several at once.
    """

    def manifest(self, sender: Address, root: Digest) -> bytes: ...
    def read_chunk(self, sender: Address, root: Digest, index: int) -> bytes | memoryview: ...


class BlobServer:
    """Answers to MANIFEST_METHOD and BLOB from a provider."""

    def __init__(self, provider: BlobProvider, limits: NetworkLimits, pacer: Pacer) -> None:
        self._provider = provider
        self._limits = limits
        self._pacer = pacer
        self._threads = trio.CapacityLimiter(4)

    async def manifest(self, sender: Address, payload: bytes) -> bytes:
        if len(payload) != 32:
            raise ProtocolViolation(f"a blob's name has 32 bytes, not {len(payload)}")
        look = partial(self._provider.manifest, sender, Digest(payload))
        try:
            return await when_readable(
                partial(trio.to_thread.run_sync, look, limiter=self._threads)
            )
        except (LocalError, OSError) as error:
            raise RemoteError(refusal(error)) from error

    async def serve(self, peer: Standing, stream: Stream) -> None:
        """One fetch, from the request to the last chunk."""
        with trio.fail_after(self._limits.handshake_s):
            wanted = await read_frame(
                stream, wanted_decoder, self._limits.max_frame_bytes, self._limits.handshake_s
            )
        if len(wanted.indices) > self._limits.max_chunks_per_fetch:
            raise ProtocolViolation(f"{len(wanted.indices)} chunks in one fetch")
        batches, ahead = trio.open_memory_channel[bytes](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_batches, peer.address, wanted, batches)
            async for batch in ahead:
                try:
                    await self._write(stream, batch)
                except PeerUnreachable:
                    nursery.cancel_scope.cancel()
                    return
                peer.count(sent=len(batch))
        await stream.finish(FINISH_S)

    async def _write(self, stream: Stream, batch: bytes) -> None:
        step = PACED_WRITE_BYTES if self._pacer.is_limited else len(batch)
        for start in range(0, len(batch), step):
            part = batch[start : start + step]
            await trio.sleep(self._pacer.reserve(len(part)))
            await stream.write_in_time(part, self._limits.take_stall_s)

    async def _read_batches(
        self, sender: Address, wanted: ChunksWanted, batches: trio.MemorySendChannel[bytes]
    ) -> None:
        async with batches:
            position = 0
            while position < len(wanted.indices):
                pauses = pending_pauses()
                batch, count = await self._read_ahead(sender, wanted, position, True)
                while not count:
                    pause_s = next(pauses, None)
                    await trio.sleep(pause_s or 0.0)
                    may_wait = pause_s is not None
                    batch, count = await self._read_ahead(sender, wanted, position, may_wait)
                await batches.send(batch)
                position += count

    async def _read_ahead(
        self, sender: Address, wanted: ChunksWanted, start: int, may_wait: bool
    ) -> tuple[bytes, int]:
        return await trio.to_thread.run_sync(
            self._read_batch, sender, wanted, start, may_wait, limiter=self._threads
        )

    def _read_batch(
        self, sender: Address, wanted: ChunksWanted, start: int, may_wait: bool
    ) -> tuple[bytes, int]:
        """Chunks from position `start` on, framed, until there are BATCH_BYTES of them, or the next
        is on its way here and `may_wait`."""
        parts: list[bytes | memoryview] = []
        size = count = 0
        for index in wanted.indices[start:]:
            try:
                chunk = self._provider.read_chunk(sender, Digest(wanted.root), index)
            except (RemoteError, LocalError, OSError) as error:
                if isinstance(error, ChunkPending) and (may_wait or count):
                    break
                words = refusal(error).encode()[:MAX_REFUSAL_CHARS]
                parts += [CHUNK_HEADER.pack(CHUNK_REFUSED, len(words)), words]
                return b"".join(parts), len(wanted.indices)
            parts += [CHUNK_HEADER.pack(index, len(chunk)), chunk]
            size += len(chunk)
            count += 1
            if size >= BATCH_BYTES:
                break
        return b"".join(parts), count


async def fetch_chunks(
    connection: Connection,
    root: Digest,
    indices: Sequence[int],
    take: Take,
    limits: NetworkLimits,
    stall_s: float,
) -> None:
    """Ask for chunks and give them to `take` as they arrive, in the order asked for.

    Raises RemoteError with the peer's refusal, PeerUnreachable if it sends nothing for `stall_s`
    or the connection ends, ProtocolViolation if it sends what was not asked for, and whatever
    `take` raises.
    """
    with trio.move_on_after(stall_s) as patience:
        stream = await connection.open_stream(BLOB)
    if patience.cancelled_caught:
        raise PeerUnreachable(f"the peer opened no stream for {stall_s:g} s")
    batch = _Batch(take)
    try:
        try:
            await stream.widen(WINDOW_BYTES)
            with trio.move_on_after(stall_s) as patience:
                await stream.write(encode_frame(ChunksWanted(root, list(indices))))
            if patience.cancelled_caught:
                raise PeerUnreachable(f"the peer took nothing for {stall_s:g} s")
            for expected in indices:
                chunk = await _read_chunk(stream, expected, limits.max_chunk_bytes, stall_s)
                connection.peer.count(chunk=len(chunk))
                await batch.add(expected, chunk)
        except RemoteError:
            await batch.hand_over()
            raise
        await batch.hand_over()
    except ProtocolViolation as error:
        connection.peer.blame("broke the blob protocol", error)
        raise
    finally:
        await stream.reset()


class _Batch:
    """Chunks that wait to be taken: a thread for each would cost more than it does."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._chunks: list[Chunk] = []
        self._size_bytes = 0
        self._began = trio.current_time()

    async def add(self, index: int, chunk: bytes) -> None:
        self._chunks.append((index, chunk))
        self._size_bytes += len(chunk)
        overdue = trio.current_time() - self._began > FLUSH_AFTER_S
        if overdue or self._size_bytes >= BATCH_BYTES:
            await self.hand_over()

    async def hand_over(self) -> None:
        chunks, self._chunks, self._size_bytes = self._chunks, [], 0
        if chunks:
            await trio.to_thread.run_sync(self._take, chunks)
        self._began = trio.current_time()


async def _read_chunk(stream: Stream, expected: int, max_bytes: int, stall_s: float) -> bytes:
    header = await stream.read_in_time(CHUNK_HEADER.size, stall_s)
    index, length = CHUNK_HEADER.unpack(header)
    if index == CHUNK_REFUSED and length <= MAX_REFUSAL_CHARS:
        words = await stream.read_in_time(length, stall_s)
        raise RemoteError(f"refused the blob: {short(words.decode(errors='replace'))}")
    if index != expected or length > max_bytes:
        raise ProtocolViolation(f"expected chunk {expected}, got {index} of {length} bytes")
    return await stream.read_in_time(length, stall_s)


async def when_readable(look: Callable[[], Awaitable[bytes]]) -> bytes:
    """What `look` returns, now or once this node has seen why the asker may have it.

    Raises AskedTooEarly after EARLY_S, and what else `look` raises.
    """
    until_s = trio.current_time() + EARLY_S
    while True:
        try:
            return await look()
        except AskedTooEarly as early:
            with trio.move_on_at(until_s) as patience:
                await early.news()
            if patience.cancelled_caught:
                raise


def pending_pauses() -> Iterator[float]:
    """Seconds to sleep between looks at a chunk that is on its way here, PENDING_S in all."""
    waited_s, pause_s = 0.0, FIRST_LOOK_S
    while waited_s < PENDING_S:
        yield pause_s
        waited_s += pause_s
        pause_s = min(2 * pause_s, LAST_LOOK_S)
