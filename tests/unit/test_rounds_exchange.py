"""A node's blobs and its peers': what is pulled once, and what is served to whom."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from swarm.blobs.fetch import Wish
from swarm.blobs.store import BlobStore
from swarm.errors import AskedTooEarly, BlobError, PeerUnreachable, RemoteError, SwarmError
from swarm.network.blob_exchange import EARLY_S, when_readable
from swarm.rounds.exchange import Exchange
from swarm.rounds.suspension import once_more_if_overslept
from swarm.types import Address, Digest

PEER, STRANGER = Address(b"\x01" * 20), Address(b"\x02" * 20)
CONTENT = bytes(range(256)) * 40


class Peer:
    """A source that counts what is asked of it, and takes its time."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self.chunks_sent = 0

    async def fetch_manifest(self, peer: Address, root: Digest, *, deadline_s: float) -> bytes:
        await trio.sleep(0.01)
        return self.store.manifest(root).encode()

    async def fetch_chunks(
        self, peer: Address, root: Digest, indices: Sequence[int], take: Any, *, stall_s: float
    ) -> None:
        for index in indices:
            await trio.sleep(0.01)
            self.chunks_sent += 1
            chunk = memoryview(self.store.read_chunk(root, index))
            await trio.to_thread.run_sync(take, [(index, chunk)])


def test_a_blob_that_several_ask_for_at_once_travels_once(tmp_path: Path) -> None:
    theirs = BlobStore(tmp_path / "theirs")
    root = theirs.add_bytes(CONTENT)
    source = Peer(theirs)
    exchange = Exchange(BlobStore(tmp_path / "ours"), source, max_blob_bytes=10**6)

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(lambda: exchange.pull(root, [PEER], patience_s=5))

    trio.run(scenario)
    assert exchange.store.verify(root)
    assert source.chunks_sent == theirs.manifest(root).chunks
    assert exchange._on_its_way == {}


def test_a_peer_whose_time_ran_out_while_this_process_was_stopped_is_asked_once_more(
    tmp_path: Path,
) -> None:
    theirs = BlobStore(tmp_path / "theirs")
    root = theirs.add_bytes(CONTENT)
    clock = trio.testing.MockClock(rate=1.0)

    class Asleep(Peer):
        times = 0

        async def fetch_manifest(self, peer: Address, root: Digest, *, deadline_s: float) -> bytes:
            self.times += 1
            if self.times == 1:
                clock.jump(60)
                await trio.sleep_forever()
            return await super().fetch_manifest(peer, root, deadline_s=deadline_s)

    exchange = Exchange(BlobStore(tmp_path / "ours"), Asleep(theirs), max_blob_bytes=0)

    async def scenario() -> None:
        await exchange.pull(root, [PEER], patience_s=30, wish=Wish(len(CONTENT)))

    trio.run(scenario, clock=clock)
    assert exchange.store.verify(root)


def test_who_was_stopped_twice_gives_up_and_other_failures_are_not_tried_again() -> None:
    clock = trio.testing.MockClock()

    def calls_before(error: type[SwarmError], stopped_s: float) -> int:
        calls = 0

        async def function() -> None:
            nonlocal calls
            calls += 1
            clock.jump(stopped_s)
            await trio.lowlevel.checkpoint()
            raise error("no")

        with pytest.raises(error):
            trio.run(once_more_if_overslept, function, clock=clock)
        return calls

    assert calls_before(PeerUnreachable, 5.0) == 2
    assert calls_before(PeerUnreachable, 0.5) == 1
    assert calls_before(BlobError, 5.0) == 1


def test_what_no_rule_allows_is_not_here_as_far_as_others_can_tell(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    root = store.add_bytes(CONTENT)
    exchange = Exchange(store, Peer(store), max_blob_bytes=10**6)
    exchange.rules.append(lambda sender, blob: sender == PEER)
    assert exchange.manifest(PEER, root) == store.manifest(root).encode()
    for ask in (exchange.manifest, lambda *who: exchange.read_chunk(*who, 0)):
        with pytest.raises(RemoteError, match="not here for you"):
            ask(STRANGER, root)


def test_who_asks_before_this_node_has_seen_why_is_told_when_it_has(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    root = store.add_bytes(CONTENT)
    exchange = Exchange(store, Peer(store), max_blob_bytes=10**6)
    allowed: set[Address] = set()
    exchange.rules.append(lambda sender, blob: sender in allowed)
    exchange.soon.append(lambda sender, blob: sender == PEER)
    looks = 0

    async def look() -> bytes:
        nonlocal looks
        looks += 1
        return exchange.manifest(PEER, root)

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask() -> None:
                assert await when_readable(look) == store.manifest(root).encode()

            await trio.testing.wait_all_tasks_blocked()
            exchange.rules_changed()  # of something else
            await trio.testing.wait_all_tasks_blocked()
            assert looks == 2
            allowed.add(PEER)
            exchange.rules_changed()

    trio.run(scenario, clock=trio.testing.MockClock())
    assert looks == 3


def test_who_asks_for_what_it_may_not_have_is_refused_after_a_moment(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    root = store.add_bytes(CONTENT)
    exchange = Exchange(store, Peer(store), max_blob_bytes=10**6)
    exchange.soon.append(lambda sender, blob: sender == PEER)

    async def look() -> bytes:
        return exchange.manifest(PEER, root)

    async def scenario() -> float:
        with pytest.raises(AskedTooEarly, match="not here for you"):
            await when_readable(look)
        return trio.current_time()

    clock = trio.testing.MockClock(autojump_threshold=0)
    began = clock.current_time()
    assert trio.run(scenario, clock=clock) - began == pytest.approx(EARLY_S)


def test_what_nobody_may_come_to_read_is_refused_at_once(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    root = store.add_bytes(CONTENT)
    exchange = Exchange(store, Peer(store), max_blob_bytes=10**6)
    exchange.soon.append(lambda sender, blob: sender == PEER)
    with pytest.raises(RemoteError, match="not here for you") as refused:
        exchange.manifest(STRANGER, root)
    assert not isinstance(refused.value, AskedTooEarly)
