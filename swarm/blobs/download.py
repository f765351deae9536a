"""The chunks of one blob from several peers at once: who is asked for which, and what came of it.

`fetch` says what is wanted, and this is how it comes: a worker for each peer claims chunks, asks
for them and settles what came, until nothing is missing. What is shared out, taken over or given up
is decided here, by counts and clocks only.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from swarm.blobs.partial import Draft, Partial
from swarm.errors import (
    BlobError,
    LocalError,
    PeerUnreachable,
    ProtocolViolation,
    RemoteError,
)
from swarm.types import Address, Digest, to_hex

MAX_PEERS_AT_ONCE = 4
SMALL_BYTES = 256 << 10
NEXT_PEER_AFTER_S = 0.5  # of a small blob, while the peers before have neither given nor refused it
MAX_SOURCES_AT_ONCE = 16  # with a spread, where each has chunks of its own to give
ATTEMPTS = 8  # in a row without a chunk, before a peer is given up
FIRST_PAUSE_S, LAST_PAUSE_S, LAST_PATIENT_PAUSE_S = 0.01, 2.0, 0.1
"""Between attempts, doubling: a peer that is a block behind will know in a moment who may ask."""
FIRST_BATCH_BYTES, MAX_BATCH_BYTES = 16 << 20, 128 << 20
SHORT_BATCH_S, LONG_BATCH_S = 0.25, 1.0  # a batch grows or shrinks until it takes between these
TAKE_OVER_AFTER_S = 1.0
SLOWEST_BYTES_PER_S = 8 << 10  # a chunk that takes longer than at this pace is silence
SLACK = 4  # a peer at a quarter of the pace that is needed may still catch up; a slower one may not


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


class TooSlow(PeerUnreachable):
    """A peer gives chunks, but at a pace at which the blob cannot come in time."""


@dataclass(frozen=True)
class Spread:
    """Who takes which chunk from the origin, when all `takers` want the same blob at once.

    All of them must have the same `takers` in the same order; `me` is one of them. With `me` alone,
    everything is asked of the origin, and others help only where it fails or is slow.
    """

    origin: Address
    takers: Sequence[Address]
    me: Address

    def source_of(self, index: int) -> Address:
        """From whom this node gets a chunk, if all goes well."""
        taker = self.takers[index % len(self.takers)]
        return self.origin if taker == self.me else taker

    @property
    def sources(self) -> list[Address]:
        """The origin and the other takers; those from this node's place on come first."""
        place = self.takers.index(self.me)
        return [self.origin, *self.takers[place + 1 :], *self.takers[:place]]


@dataclass
class _Standing:
    """How one peer has been doing: what it was given to do, and what came of it."""

    queue: deque[int] = field(default_factory=deque)
    """With a spread: the chunks that it is to be asked for."""
    batch_bytes: int = FIRST_BATCH_BYTES
    attempts: int = 0
    """In a row without a chunk."""
    arrival: _Arrival | None = None
    seen_bytes: int = 0
    moved_at: float = 0.0
    """When it was first seen to have given `seen_bytes`."""


class Download:
    """The state that the workers of one fetch share; all of it is touched on the trio thread."""

    def __init__(
        self,
        root: Digest,
        peers: list[Address],
        source: BlobSource,
        stall_s: float,
        spread: Spread | None,
        on_fault: Callable[[Address, RemoteError], None] | None,
    ) -> None:
        self.root, self.source, self.stall_s = root, source, stall_s
        self.peers, self.spread, self.on_fault = peers, spread, on_fault
        self.find: Callable[[Address], Awaitable[None]] | None = None
        self.is_patient: Callable[[], bool] = lambda: False
        self.target: Partial | Draft | None = None
        self.began = trio.current_time()
        self.until = math.inf  # the end of the time that the fetch has
        self.unclaimed: deque[int] = deque()
        self.claims: dict[int, tuple[Address, float]] = {}  # asked for, from whom, since when
        self.remaining: set[int] = set()
        self.changed = trio.Event()  # replaced each time: chunks may be claimable again
        self.waiting = deque(peers)
        self.working = 0
        self.sharers = 1  # how many are to claim chunks as soon as they can
        at_once = MAX_PEERS_AT_ONCE if spread is None else MAX_SOURCES_AT_ONCE
        self.standings = {peer: _Standing() for peer in peers[:at_once]}
        self.bytes_from: Counter[Address] = Counter()
        self.faults: dict[Address, RemoteError] = {}
        self.verdict: BlobError | LocalError | None = None  # no peer can help
        self.scope = trio.CancelScope()  # around the workers

    def begin(self, target: Partial | Draft, needed: Sequence[int]) -> None:
        """Chunks can be asked for from now on."""
        self.target = target
        if target.length_bytes > SMALL_BYTES and not self.is_patient():
            self.sharers = len(self.standings)
        self.remaining.update(needed)
        for index in needed:
            source = None if self.spread is None else self.spread.source_of(index)
            known = None if source is None else self.standings.get(source)
            (self.unclaimed if known is None else known.queue).append(index)
        self._tell_change()

    @property
    def complete(self) -> bool:
        return self.target is not None and not self.remaining

    async def work(self) -> None:
        """Ask the peers until all is here, none is left, or there is a verdict."""
        with self.scope:
            if not self.complete:
                async with trio.open_nursery() as nursery:
                    for turn in range(len(self.standings)):
                        nursery.start_soon(self._work_through_peers, turn)

    async def _work_through_peers(self, turn: int) -> None:
        """Draw from one peer after the other, until the blob is complete or no peer is left."""
        patience_s = math.inf if self.is_patient() else turn * NEXT_PEER_AFTER_S
        with trio.move_on_after(patience_s):
            while self.sharers <= turn:
                await self.changed.wait()
        while self.waiting:
            peer = self.waiting.popleft()
            standing = self._standing(peer)
            self.working += 1
            try:
                await self._draw_from(peer)
                return
            except RemoteError as error:
                self._note_fault(peer, error)
                if isinstance(error, BlobError | ProtocolViolation | TooSlow):
                    self._release(peer)
                    continue
            except LocalError as error:
                self.end(error)
                return
            finally:
                self.working -= 1
            pause_s = FIRST_PAUSE_S * 2 ** min(standing.attempts, ATTEMPTS)
            standing.attempts += 1
            if self.is_patient():
                # The same again: were the origin to wait in line behind others, who wait for it
                # themselves, all of them would wait for each other.
                self.waiting.appendleft(peer)
                await trio.sleep(min(pause_s, LAST_PATIENT_PAUSE_S))
            elif standing.attempts < ATTEMPTS:
                self.waiting.append(peer)
                await trio.sleep(min(pause_s, LAST_PAUSE_S))
            else:
                self._release(peer)

    async def _draw_from(self, peer: Address) -> None:
        """Fetch from one peer until the blob is complete; raise what is wrong with the peer."""
        if self.target is None and self.find is not None:
            await self.find(peer)
        while self.target is not None and self.remaining:
            batch = self._claim(peer, self.target.chunk_bytes)
            if batch:
                await self._fetch_batch(peer, self.target, batch)
            elif self._settle_held(self.target):
                self._tell_change()
            else:
                with trio.move_on_after(TAKE_OVER_AFTER_S / 2):
                    await self.changed.wait()

    def _claim(self, peer: Address, chunk_bytes: int) -> list[int]:
        """The next chunks to ask this peer for; none if all are claimed and none is overdue."""
        now = trio.current_time()
        standing = self._standing(peer)
        count = max(1, standing.batch_bytes // chunk_bytes)
        if self.is_patient():  # it waits with us: one request is as good as many
            count = MAX_BATCH_BYTES // chunk_bytes
        batch = self._next_of(standing.queue, count)
        if not batch and self._has_all(peer):
            batch = self._next_of(self.unclaimed, min(count, self._share()))
        if not batch:
            batch = self._take_over(peer, count, now)
        self.claims.update(dict.fromkeys(batch, (peer, now)))
        return batch

    def _share(self) -> int:
        """How many of the unclaimed chunks one peer is asked for.

        All of a small blob: who told what is in it has it all, or asks one who has. Were it shared
        out, three who want the same one could each wait for a chunk that the next one waits for.
        """
        assert self.target is not None
        if self.target.length_bytes <= SMALL_BYTES:
            return len(self.unclaimed)
        return max(1, len(self.unclaimed) // max(self.working, self.sharers))

    def _next_of(self, queue: deque[int], count: int) -> list[int]:
        batch: list[int] = []
        while queue and len(batch) < count:
            index = queue.popleft()
            if index in self.remaining:  # else one who took over brought it
                batch.append(index)
        return batch

    def _has_all(self, peer: Address) -> bool:
        """Whether a peer may be asked for any chunk, or only for those that it takes first."""
        if self.spread is None or peer == self.spread.origin:
            return True
        origin = self.standings.get(self.spread.origin)
        if origin is None or origin.attempts > 0:
            return True  # it fails: who knows what the others have
        is_alone = len(self.spread.takers) == 1
        return is_alone and self._is_slow(self.spread.origin, trio.current_time())

    def _take_over(self, peer: Address, count: int, now: float) -> list[int]:
        """Chunks that others have owed for too long."""
        target = self.target
        if target is None or self.is_patient() or not self._has_all(peer):
            return []
        for owner, standing in self.standings.items():
            if standing.queue and owner != peer and self._is_slow(owner, now):
                half = max(1, len(standing.queue) // 2)
                last = deque(standing.queue.pop() for _ in range(min(half, count)))
                return self._next_of(last, count)
        overdue = [
            index
            for index, (owner, at) in self.claims.items()
            if now - at >= TAKE_OVER_AFTER_S
            and not target.holds(index)  # else it is here, and its batch is not at its end
            and (self.spread is None or self._is_slow(owner, now))
        ]
        return sorted(overdue)[:count]

    def _is_slow(self, owner: Address, now: float) -> bool:
        """Whether a peer gives nothing, or will need longer for what it owes than all took yet."""
        standing = self._standing(owner)
        given = self.bytes_from[owner]
        if standing.arrival is not None:
            given += standing.arrival.bytes
        if given > standing.seen_bytes:
            standing.seen_bytes, standing.moved_at = given, now
        if now - max(standing.moved_at, self.began) >= TAKE_OVER_AFTER_S:
            return True
        elapsed = now - self.began
        if self.target is None or elapsed < TAKE_OVER_AFTER_S:
            return False
        owed = len(standing.queue) + sum(1 for who, _ in self.claims.values() if who == owner)
        return owed * self.target.chunk_bytes * elapsed > given * (elapsed + TAKE_OVER_AFTER_S)

    async def _fetch_batch(self, peer: Address, target: Partial | Draft, batch: list[int]) -> None:
        began = trio.current_time()
        standing = self._standing(peer)
        standing.arrival = arrival = _Arrival(target, batch)
        if self.sharers < len(self.standings):
            token = trio.lowlevel.current_trio_token()
            arrival.on_first = lambda: token.run_sync_soon(self._admit_all)
        patience_s = self.stall_s + target.chunk_bytes / SLOWEST_BYTES_PER_S
        fault: RemoteError | LocalError | None = None

        async def give_up_on_silence(scope: trio.CancelScope) -> None:
            nonlocal fault
            seen = -1
            while seen < arrival.bytes:
                seen = arrival.bytes
                await trio.sleep(patience_s)
            fault = PeerUnreachable(f"no chunk within {patience_s:g} s")
            scope.cancel()

        async def give_up_on_dripping(scope: trio.CancelScope) -> None:
            nonlocal fault
            while True:
                await trio.sleep(self.stall_s)
                now = trio.current_time()
                # The chunk that is on its way counts: what of it is here cannot be told.
                pace = (arrival.bytes + target.chunk_bytes) / (now - began)
                missing_bytes = len(arrival.wanted) * target.chunk_bytes
                if pace * SLACK * (self.until - now) < missing_bytes:
                    break
            left_s = max(0.0, self.until - now)
            fault = TooSlow(
                f"{arrival.bytes} bytes in {now - began:.0f} s: at that pace the other "
                f"{missing_bytes} do not come within {left_s:.0f} s"
            )
            scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(give_up_on_silence, nursery.cancel_scope)
                if self.until < math.inf:
                    nursery.start_soon(give_up_on_dripping, nursery.cancel_scope)
                try:
                    await self.source.fetch_chunks(
                        peer, self.root, batch, arrival.take, stall_s=self.stall_s
                    )
                except (RemoteError, LocalError) as error:
                    fault = error
                nursery.cancel_scope.cancel()
        finally:
            standing.arrival = None
            if arrival.bytes:
                standing.attempts = 0
                self.bytes_from[peer] += arrival.bytes
            self._give_back(peer, target, batch)
        if fault is not None:
            raise fault
        if arrival.wanted:
            raise PeerUnreachable(f"the stream ended {len(arrival.wanted)} chunks early")
        self._adapt_batch(standing, trio.current_time() - began)

    def _give_back(self, peer: Address, target: Partial | Draft, batch: list[int]) -> None:
        """Settle a batch: what is here is done, the rest is for anyone, or for the same again."""
        for index in batch:
            if self.claims.get(index, (None, 0))[0] == peer:
                del self.claims[index]
        self.remaining.difference_update(index for index in batch if target.holds(index))
        self._settle_held(target)
        queue = self.unclaimed if self.spread is None else self._standing(peer).queue
        queue.extendleft(index for index in reversed(batch) if index in self.remaining)
        self._tell_change()

    def _settle_held(self, target: Partial | Draft) -> bool:
        """What is here is done, also in a batch of which the rest has not come; whether any was."""
        held = {index for index in self.claims if target.holds(index)} & self.remaining
        self.remaining -= held
        return bool(held)

    def _admit_all(self) -> None:
        """There is something to get: nobody needs to wait for a turn any more.

        Also if patience has ended meanwhile: who waits for a turn would wait for ever.
        """
        if self.target is not None and self.target.length_bytes > SMALL_BYTES:
            self.sharers = len(self.standings)
            self._tell_change()

    def _release(self, peer: Address) -> None:
        """A peer is not asked any more: what it had to give is for anyone."""
        standing = self._standing(peer)
        self.unclaimed.extend(standing.queue)
        standing.queue.clear()
        self._tell_change()

    def _tell_change(self) -> None:
        if self.complete:
            self.scope.cancel()
        self.changed.set()
        self.changed = trio.Event()

    def _adapt_batch(self, standing: _Standing, took_s: float) -> None:
        if took_s < SHORT_BATCH_S:
            factor = 2 if took_s > SHORT_BATCH_S / 4 else 4
            standing.batch_bytes = min(factor * standing.batch_bytes, MAX_BATCH_BYTES)
        elif took_s > LONG_BATCH_S:
            standing.batch_bytes //= 2

    def _standing(self, peer: Address) -> _Standing:
        return self.standings.setdefault(peer, _Standing())

    def _note_fault(self, peer: Address, error: RemoteError) -> None:
        self.faults[peer] = error.with_traceback(None)  # it would keep this fetch, and its files
        if not self.is_patient():  # somebody else may know better
            self.sharers = min(self.sharers + 1, len(self.standings))
        self._tell_change()
        if self.on_fault is not None:
            self.on_fault(peer, error)

    def end(self, verdict: BlobError | LocalError) -> None:
        """No peer can help."""
        self.verdict = verdict
        self.scope.cancel()

    def failure(self, when: str) -> RemoteError:
        """Why it did not come."""
        told = "; ".join(
            f"{to_hex(peer)}: {self.faults.get(peer, 'did not finish')}" for peer in self.peers
        )
        message = f"blob {to_hex(self.root)} did not come{when} ({told or 'nobody to ask'})"
        faults = [self.faults.get(peer) for peer in self.peers]
        lied = any(isinstance(fault, BlobError | ProtocolViolation) for fault in faults)
        # One that said it has no such blob tells nothing; one that was silent may have it.
        silent = any(fault is None or isinstance(fault, PeerUnreachable) for fault in faults)
        return BlobError(message) if lied and not silent else PeerUnreachable(message)


class _Arrival:
    """What comes of one batch. `take` runs in the source's threads, the rest on the trio thread."""

    def __init__(self, target: Partial | Draft, batch: Sequence[int]) -> None:
        self.wanted = set(batch)
        self.bytes = 0
        self.on_first: Callable[[], None] | None = None
        self._target = target

    def take(self, chunks: Sequence[tuple[int, bytes | memoryview]]) -> None:
        """Check and keep. Raises ProtocolViolation, BlobError, or LocalError of the disk."""
        for index, chunk in chunks:
            if index not in self.wanted or len(chunk) > self._target.chunk_bytes:
                raise ProtocolViolation(f"chunk {index} came unasked, twice or too long")
            self.wanted.discard(index)
        self._target.write_chunks(chunks)
        if self.on_first is not None and not self.bytes:
            self.on_first()
        self.bytes += sum(len(chunk) for _, chunk in chunks)
