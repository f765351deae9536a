"""Fetching one blob from whoever has it: several peers at once, chunk by chunk, none trusted.

Each peer in use has a worker that claims the next chunks, asks for them, and checks and writes what
came. What a peer did not deliver goes back to the others; a worker with nothing left to claim takes
over chunks that another has owed for a while. So one honest, reachable peer is enough, a fast one
gives most, and a slow one delays nothing that another can give. A small blob is not worth that: it
is asked of one peer, and of the next when that one refuses or takes its time. (With eight members
of a small model, asking four at once made a thousand requests a round, and on a busy machine none
of them came in time.)

Whose fault a failure is decides what follows. Wrong bytes: that peer is not asked again. Silence, a
broken connection, "not here": it is asked again a few times, as long as the deadline allows. A
manifest that is genuine but not wanted (too long, other tensors): the blob itself is refused, no
peer can help. What was verified stays on disk, and the next fetch goes on from there.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from swarm.blobs.store import BlobStore, Partial
from swarm.blobs.tree import Manifest
from swarm.errors import (
    BlobError,
    LocalError,
    PeerUnreachable,
    ProtocolViolation,
    RemoteError,
)
from swarm.tensors import Layout
from swarm.types import Address, Digest, to_hex

MAX_PEERS_AT_ONCE = 4
SMALL_BYTES = 256 << 10
NEXT_PEER_AFTER_S = 0.5  # of a small blob, while the peers before have neither given nor refused it
ATTEMPTS = 5  # in a row without a chunk, before a peer is given up
FIRST_PAUSE_S, LAST_PAUSE_S = 0.1, 2.0  # between attempts, doubling
FIRST_BATCH_BYTES, MAX_BATCH_BYTES = 4 << 20, 128 << 20
SHORT_BATCH_S, LONG_BATCH_S = 0.25, 1.0  # a batch grows or shrinks until it takes between these
TAKE_OVER_AFTER_S = 1.0
SLOWEST_BYTES_PER_S = 8 << 10  # a chunk that takes longer than at this pace is silence


Take = Callable[[Sequence[tuple[int, bytes | memoryview]]], None]


class BlobSource(Protocol):
    """How blobs come from one peer; `swarm.network` provides it.

    Both raise PeerUnreachable for silence or a broken connection, RemoteError for a refusal.
    """

    async def fetch_manifest(self, peer: Address, root: Digest, *, deadline_s: float) -> bytes:
        """The encoded manifest, unchecked."""
        ...

    async def fetch_chunks(
        self,
        peer: Address,
        root: Digest,
        indices: Sequence[int],
        take: Take,
        *,
        stall_s: float,
    ) -> None:
        """Give chunks to `take` as they arrive, unchecked; `stall_s` of silence is the end.

        `take` may block on the disk, so it is called in a worker thread; what it raises is raised.
        """
        ...


@dataclass(frozen=True)
class Fetched:
    """What came from whom, and what was wrong with the others (their last fault)."""

    manifest: Manifest
    bytes_from: Mapping[Address, int]
    faults: Mapping[Address, RemoteError]


async def fetch(
    store: BlobStore,
    root: Digest,
    peers: Sequence[Address],
    source: BlobSource,
    *,
    max_bytes: int,
    deadline_s: float,
    stall_s: float = 10.0,
    layout: Layout | None = None,
    on_fault: Callable[[Address, RemoteError], None] | None = None,
) -> Fetched:
    """Bring a blob into the store. `peers` are asked in order, four at a time,
    or one after the other for a small blob.

    With `layout`, it must be a whole tensor file of that layout. `on_fault` hears of every fault as
    it happens. Raises BlobError if the blob is not wanted, or was only ever given in wrong bytes,
    PeerUnreachable if it did not come in time, LocalError if it cannot be written.
    """
    download = _Download(store, root, source, max_bytes, layout, stall_s, on_fault)
    return await download.run(list(dict.fromkeys(peers)), deadline_s)


class _Download:
    """The state that the workers of one fetch share; all of it is touched on the trio thread."""

    def __init__(
        self,
        store: BlobStore,
        root: Digest,
        source: BlobSource,
        max_bytes: int,
        layout: Layout | None,
        stall_s: float,
        on_fault: Callable[[Address, RemoteError], None] | None,
    ) -> None:
        self.store, self.root, self.source = store, root, source
        self.max_bytes, self.layout, self.stall_s = max_bytes, layout, stall_s
        self.on_fault = on_fault
        self.partial: Partial | None = None
        self.opening = trio.Lock()
        self.unclaimed: deque[int] = deque()
        self.claimed_at: dict[int, float] = {}  # chunks asked for and not yet here
        self.remaining: set[int] = set()
        self.changed = trio.Event()  # replaced each time: chunks may be claimable again
        self.waiting: deque[Address] = deque()
        self.working = 0
        self.sharers = 1  # how many are to claim chunks as soon as they can
        self.most_sharers = MAX_PEERS_AT_ONCE
        self.attempts: Counter[Address] = Counter()
        self.batch_bytes: dict[Address, int] = {}
        self.bytes_from: Counter[Address] = Counter()
        self.faults: dict[Address, RemoteError] = {}
        self.verdict: BlobError | LocalError | None = None  # no peer can help
        self.scope = trio.CancelScope()  # around the workers

    async def run(self, peers: list[Address], deadline_s: float) -> Fetched:
        manifest = await trio.to_thread.run_sync(self._known_manifest)
        if manifest is not None:
            manifest.require(max_bytes=self.max_bytes, layout=self.layout)
            if self.store.has(self.root):
                return Fetched(manifest, {}, {})
            await self._open_partial(manifest)
        self.waiting.extend(peers)
        self.most_sharers = min(len(peers), MAX_PEERS_AT_ONCE)
        with trio.move_on_after(deadline_s) as whole, self.scope:
            if not self.complete:
                async with trio.open_nursery() as nursery:
                    for turn in range(self.most_sharers):
                        nursery.start_soon(self._work_through_peers, turn)
        if self.verdict is not None:
            raise self.verdict
        if self.partial is None or not self.complete:
            raise self._failure(peers, f" in {deadline_s:g} s" if whole.cancelled_caught else "")
        await trio.to_thread.run_sync(self.partial.finish)
        return Fetched(self.partial.manifest, dict(self.bytes_from), dict(self.faults))

    @property
    def complete(self) -> bool:
        return self.partial is not None and not self.remaining

    async def _work_through_peers(self, turn: int) -> None:
        """Draw from one peer after the other, until the blob is complete or no peer is left."""
        with trio.move_on_after(turn * NEXT_PEER_AFTER_S):
            while self.sharers <= turn:
                await self.changed.wait()
        while self.waiting:
            peer = self.waiting.popleft()
            self.working += 1
            try:
                await self._draw_from(peer)
                return
            except RemoteError as error:
                self._note_fault(peer, error)
                if isinstance(error, BlobError | ProtocolViolation):
                    continue
            except LocalError as error:
                self._end(error)
                return
            finally:
                self.working -= 1
            self.attempts[peer] += 1
            if self.attempts[peer] < ATTEMPTS:
                self.waiting.append(peer)
                pause_s = FIRST_PAUSE_S * 2 ** (self.attempts[peer] - 1)
                await trio.sleep(min(pause_s, LAST_PAUSE_S))

    async def _draw_from(self, peer: Address) -> None:
        """Fetch from one peer until the blob is complete; raise what is wrong with the peer."""
        if self.partial is None:
            await self._fetch_manifest(peer)
        while self.partial is not None and self.remaining:
            batch = self._claim(peer, self.partial.manifest.chunk_bytes)
            if batch:
                await self._fetch_batch(peer, self.partial, batch)
            else:
                with trio.move_on_after(TAKE_OVER_AFTER_S / 2):
                    await self.changed.wait()

    async def _fetch_manifest(self, peer: Address) -> None:
        with trio.move_on_after(self.stall_s) as patience:
            encoded = await self.source.fetch_manifest(peer, self.root, deadline_s=self.stall_s)
        if patience.cancelled_caught:
            raise PeerUnreachable(f"no manifest within {self.stall_s:g} s")
        if self.partial is not None:  # another peer was faster
            return
        manifest = await trio.to_thread.run_sync(Manifest.decode, encoded, self.root)
        try:
            manifest.require(max_bytes=self.max_bytes, layout=self.layout)
        except BlobError as error:
            self._end(error)
            return
        await self._open_partial(manifest)

    async def _open_partial(self, manifest: Manifest) -> None:
        async with self.opening:
            if self.partial is not None:
                return
            partial = await trio.to_thread.run_sync(
                lambda: self.store.partial(self.root, manifest, max_bytes=self.max_bytes)
            )
            self.unclaimed.extend(partial.missing)
            self.remaining.update(partial.missing)
            self.partial = partial
        if manifest.length_bytes > SMALL_BYTES:
            self.sharers = self.most_sharers
            self._tell_changed()
        if self.complete:
            self.scope.cancel()

    def _claim(self, peer: Address, chunk_bytes: int) -> list[int]:
        """The next chunks to ask this peer for; none if all are claimed and none is overdue."""
        now = trio.current_time()
        count = max(1, self.batch_bytes.setdefault(peer, FIRST_BATCH_BYTES) // chunk_bytes)
        count = min(count, max(1, len(self.unclaimed) // max(self.working, self.sharers)))
        batch: list[int] = []
        while self.unclaimed and len(batch) < count:
            index = self.unclaimed.popleft()
            if index in self.remaining:  # else one who took over brought it
                batch.append(index)
        if not batch:
            overdue = (
                index for index, at in self.claimed_at.items() if now - at >= TAKE_OVER_AFTER_S
            )
            batch = sorted(overdue)[:count]
        self.claimed_at.update(dict.fromkeys(batch, now))
        return batch

    async def _fetch_batch(self, peer: Address, partial: Partial, batch: list[int]) -> None:
        began = trio.current_time()
        arrival = _Arrival(partial, batch)
        patience_s = self.stall_s + partial.manifest.chunk_bytes / SLOWEST_BYTES_PER_S
        was_silent = False
        fault: RemoteError | LocalError | None = None

        async def give_up_on_silence(scope: trio.CancelScope) -> None:
            nonlocal was_silent
            seen = -1
            while seen < arrival.bytes:
                seen = arrival.bytes
                await trio.sleep(patience_s)
            was_silent = True
            scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(give_up_on_silence, nursery.cancel_scope)
                try:
                    await self.source.fetch_chunks(
                        peer, self.root, batch, arrival.take, stall_s=self.stall_s
                    )
                except (RemoteError, LocalError) as error:
                    fault = error
                nursery.cancel_scope.cancel()
        finally:
            if arrival.bytes:
                self.attempts[peer] = 0
                self.bytes_from[peer] += arrival.bytes
            self._give_back(partial, batch)
        if fault is not None:
            raise fault
        if was_silent:
            raise PeerUnreachable(f"no chunk within {patience_s:g} s")
        if arrival.wanted:
            raise PeerUnreachable(f"the stream ended {len(arrival.wanted)} chunks early")
        self._adapt_batch(peer, trio.current_time() - began)

    def _give_back(self, partial: Partial, batch: list[int]) -> None:
        """Settle a batch: what is here is done, the rest is for anyone."""
        for index in batch:
            self.claimed_at.pop(index, None)
        self.remaining.difference_update(index for index in batch if partial.holds(index))
        self.unclaimed.extendleft(index for index in reversed(batch) if index in self.remaining)
        if self.complete:
            self.scope.cancel()
        self._tell_changed()

    def _tell_changed(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    def _adapt_batch(self, peer: Address, took_s: float) -> None:
        if took_s < SHORT_BATCH_S:
            factor = 2 if took_s > SHORT_BATCH_S / 4 else 4
            self.batch_bytes[peer] = min(factor * self.batch_bytes[peer], MAX_BATCH_BYTES)
        elif took_s > LONG_BATCH_S:
            self.batch_bytes[peer] //= 2

    def _known_manifest(self) -> Manifest | None:
        try:
            return self.store.manifest(self.root)
        except BlobError:
            return None

    def _note_fault(self, peer: Address, error: RemoteError) -> None:
        self.faults[peer] = error
        self.sharers = min(self.sharers + 1, self.most_sharers)  # somebody else may know better
        self._tell_changed()
        if self.on_fault is not None:
            self.on_fault(peer, error)

    def _end(self, verdict: BlobError | LocalError) -> None:
        self.verdict = verdict
        self.scope.cancel()

    def _failure(self, peers: list[Address], when: str) -> RemoteError:
        told = "; ".join(
            f"{to_hex(peer)}: {self.faults.get(peer, 'did not finish')}" for peer in peers
        )
        message = f"blob {to_hex(self.root)} did not come{when} ({told or 'nobody to ask'})"
        faults = [self.faults.get(peer) for peer in peers]
        lied = any(isinstance(fault, BlobError | ProtocolViolation) for fault in faults)
        # One that said it has no such blob tells nothing; one that was silent may have it.
        silent = any(fault is None or isinstance(fault, PeerUnreachable) for fault in faults)
        return BlobError(message) if lied and not silent else PeerUnreachable(message)


class _Arrival:
    """What comes of one batch. `take` runs in the source's threads, the rest on the trio thread."""

    def __init__(self, partial: Partial, batch: Sequence[int]) -> None:
        self.wanted = set(batch)
        self.bytes = 0
        self._partial = partial

    def take(self, chunks: Sequence[tuple[int, bytes | memoryview]]) -> None:
        """Check and keep. Raises ProtocolViolation, BlobError, or LocalError of the disk."""
        for index, chunk in chunks:
            if index not in self.wanted or len(chunk) > self._partial.manifest.chunk_bytes:
                raise ProtocolViolation(f"chunk {index} came unasked, twice or too long")
            self.wanted.discard(index)
        self._partial.write_chunks(chunks)
        self.bytes += sum(len(chunk) for _, chunk in chunks)
