"""Fetching from peers of which any may lie, stall or vanish: one honest one is enough.

Time is simulated by trio's autojump clock, which knows nothing of threads: what would run in one
runs in line. The peers' faults come from a seed.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import trio
import trio.lowlevel
import trio.testing

from swarm.blobs.download import ATTEMPTS, TooSlow
from swarm.blobs.fetch import Fetched, fetch
from swarm.blobs.manifest import Manifest
from swarm.blobs.partial import PartialBlob
from swarm.blobs.store import BlobStore
from swarm.errors import (
    BlobError,
    LocalError,
    PeerUnreachable,
    ProtocolViolation,
    RemoteError,
    SwarmError,
)
from swarm.tensors import Layout, TensorSpec, create_file
from swarm.types import Address, Digest

LAYOUT = Layout.from_specs([TensorSpec("w", "F32", (150_000,))])  # 147 chunks of 4 KiB
ALICE, BOB, CAROL, DAVE = (Address(bytes([number]) * 20) for number in (0xA, 0xB, 0xC, 0xD))

Behaviour = Callable[["Peers", Address, int], Awaitable[bytes]]


class Peers:
    """A source whose peers all hold the blob and answer chunk requests as they are told to."""

    def __init__(self, store: BlobStore, behaviours: dict[Address, Behaviour]) -> None:
        self.store = store
        self.behaviours = behaviours
        self.manifests: dict[Address, bytes | RemoteError] = {}
        self.asked: dict[Address, list[int]] = {peer: [] for peer in behaviours}
        self.requests = 0

    async def fetch_manifest(self, peer: Address, root: Digest, *, deadline_s: float) -> bytes:
        await trio.sleep(0.01)
        answer = self.manifests.get(peer)
        if isinstance(answer, RemoteError):
            raise answer
        return self.store.manifest(root).encode() if answer is None else answer

    async def fetch_chunks(
        self,
        peer: Address,
        root: Digest,
        indices: Sequence[int],
        take: Callable[[Sequence[tuple[int, bytes]]], None],
        *,
        stall_s: float,
    ) -> None:
        self.requests += 1
        for index in indices:
            self.asked[peer].append(index)
            take([(index, await self.behaviours[peer](self, peer, index))])

    def chunk(self, index: int) -> bytes:
        (root,) = self.store.roots()
        return self.store.read_chunk(root, index)


def honest(pace_s: float = 0.001) -> Behaviour:
    async def behave(peers: Peers, peer: Address, index: int) -> bytes:
        await trio.sleep(pace_s)
        return peers.chunk(index)

    return behave


async def lie(peers: Peers, peer: Address, index: int) -> bytes:
    await trio.sleep(0.001)
    return bytes(len(peers.chunk(index)))


async def send_too_much(peers: Peers, peer: Address, index: int) -> bytes:
    await trio.lowlevel.checkpoint()
    return bytes(1 << 20)


async def hang(peers: Peers, peer: Address, index: int) -> bytes:
    await trio.sleep_forever()
    raise AssertionError


def hang_after(chunks: int) -> Behaviour:
    given = 0

    async def behave(peers: Peers, peer: Address, index: int) -> bytes:
        nonlocal given
        given += 1
        return await (honest() if given <= chunks else hang)(peers, peer, index)

    return behave


async def refuse(peers: Peers, peer: Address, index: int) -> bytes:
    await trio.sleep(0.001)
    raise RemoteError("not here")


def broken_after(chunks: int) -> Behaviour:
    """The connection breaks after every so many chunks."""
    given = 0

    async def behave(peers: Peers, peer: Address, index: int) -> bytes:
        nonlocal given
        await trio.sleep(0.001)
        given += 1
        if given % (chunks + 1) == 0:
            raise PeerUnreachable("connection reset")
        return peers.chunk(index)

    return behave


@pytest.fixture(autouse=True)
def threads_in_line(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_sync(function: Callable[..., object], *arguments: object) -> object:
        await trio.lowlevel.checkpoint()
        return function(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)


@pytest.fixture
def origin(tmp_path: Path) -> BlobStore:
    store = BlobStore(tmp_path / "origin")
    path = store.scratch("update")
    with create_file(path, LAYOUT) as file:
        file["w"][...] = np.random.default_rng(1).standard_normal(150_000, np.float32)
    store.add(path)
    return store


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "mine")


def run_fetch(
    store: BlobStore,
    peers: Peers,
    *,
    deadline_s: float = 60.0,
    max_bytes: int = LAYOUT.file_bytes,
    layout: Layout | None = LAYOUT,
    on_fault: Callable[[Address, RemoteError], None] | None = None,
) -> Fetched:
    (root,) = peers.store.roots()
    return trio.run(
        partial(
            fetch,
            store,
            root,
            list(peers.behaviours),
            peers,
            max_bytes=max_bytes,
            deadline_s=deadline_s,
            stall_s=5.0,
            layout=layout,
            on_fault=on_fault,
        ),
        clock=trio.testing.MockClock(autojump_threshold=0),
    )


def assert_whole(store: BlobStore, origin: BlobStore) -> None:
    (root,) = origin.roots()
    assert store.has(root)
    assert store.verify(root)


def test_one_honest_peer_is_enough(store: BlobStore, origin: BlobStore) -> None:
    peers = Peers(origin, {ALICE: honest()})
    fetched = run_fetch(store, peers)
    assert_whole(store, origin)
    assert fetched.bytes_from == {ALICE: LAYOUT.file_bytes}
    assert fetched.faults == {}
    assert peers.asked[ALICE] == list(range(LAYOUT.chunks))  # each once, in order


def test_who_drips_is_left_long_before_the_time_is_over(
    store: BlobStore, origin: BlobStore
) -> None:
    heard: list[tuple[float, RemoteError]] = []
    peers = Peers(origin, {ALICE: honest(pace_s=4.0)})  # always just in time, 600 s in all

    def note(_: Address, error: RemoteError) -> None:
        heard.append((trio.current_time(), error))

    with pytest.raises(PeerUnreachable, match="do not come within"):
        run_fetch(store, peers, deadline_s=60.0, on_fault=note)
    ((at, error),) = heard
    assert isinstance(error, TooSlow)
    assert at < 15  # the clock begins at 0
    assert len(peers.asked[ALICE]) < 5


def test_who_drips_keeps_no_chunk_from_one_who_does_not(
    store: BlobStore, origin: BlobStore
) -> None:
    peers = Peers(origin, {ALICE: honest(pace_s=4.0), BOB: honest(pace_s=0.01)})
    fetched = run_fetch(store, peers, deadline_s=60.0)
    assert_whole(store, origin)
    assert fetched.bytes_from[BOB] > 0.9 * LAYOUT.file_bytes


def test_who_is_slow_but_in_time_is_waited_for(store: BlobStore, origin: BlobStore) -> None:
    in_time_s = 0.95 * 60.0 / LAYOUT.chunks
    run_fetch(store, Peers(origin, {ALICE: honest(in_time_s)}), deadline_s=60.0)
    assert_whole(store, origin)


def test_a_fetch_with_real_threads_and_real_time(
    store: BlobStore, origin: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    (root,) = origin.roots()
    peers = Peers(origin, {ALICE: honest(0.0), BOB: lie, CAROL: honest(0.0)})
    asked = list(peers.behaviours)
    trio.run(
        partial(fetch, store, root, asked, peers, max_bytes=LAYOUT.file_bytes, deadline_s=20.0)
    )
    assert_whole(store, origin)


def test_a_fetched_file_is_closed_at_once_and_not_when_garbage_is_collected(
    store: BlobStore, origin: BlobStore
) -> None:
    peers = Peers(origin, {ALICE: refuse, BOB: broken_after(3), CAROL: honest()})
    gc.collect()
    gc.disable()
    try:
        fetched = run_fetch(store, peers)
        assert fetched.faults.keys() == {ALICE, BOB}
        assert not [thing for thing in gc.get_objects() if isinstance(thing, PartialBlob)]
    finally:
        gc.enable()


def test_four_peers_share_the_work_and_no_chunk_comes_twice(
    store: BlobStore, origin: BlobStore
) -> None:
    peers = Peers(origin, {peer: honest() for peer in (ALICE, BOB, CAROL, DAVE)})
    fetched = run_fetch(store, peers)
    assert_whole(store, origin)
    assert sum(fetched.bytes_from.values()) == LAYOUT.file_bytes
    assert len(fetched.bytes_from) == 4
    assert sum(len(indices) for indices in peers.asked.values()) == LAYOUT.chunks


@pytest.fixture
def small(tmp_path: Path) -> BlobStore:
    """Somebody's store with one blob of a few chunks, such as a small network's update."""
    store = BlobStore(tmp_path / "small")
    store.add_bytes(bytes(range(256)) * 40)
    return store


@pytest.mark.parametrize(("first", "asked"), [(honest(), {ALICE}), (refuse, {ALICE, BOB})])
def test_a_small_blob_is_asked_of_the_next_peer_only_when_one_refuses_it(
    store: BlobStore, small: BlobStore, first: Behaviour, asked: set[Address]
) -> None:
    peers = Peers(small, dict.fromkeys((ALICE, BOB, CAROL, DAVE), honest()))
    peers.behaviours[ALICE] = first
    run_fetch(store, peers, layout=None)
    assert_whole(store, small)
    assert {peer for peer, indices in peers.asked.items() if indices} == asked


def test_a_small_blob_is_not_shared_out_among_peers_that_may_be_waiting_for_it_too(
    store: BlobStore, small: BlobStore
) -> None:
    class NobodyAtFirst(Peers):
        async def fetch_manifest(self, peer: Address, root: Digest, *, deadline_s: float) -> bytes:
            self.manifests.setdefault(peer, RemoteError("the round has not closed here"))
            try:
                return await super().fetch_manifest(peer, root, deadline_s=deadline_s)
            finally:
                self.manifests[peer] = small.manifest(root).encode()

    peers = NobodyAtFirst(small, {ALICE: honest(0.05), BOB: hang, CAROL: hang})
    run_fetch(store, peers, layout=None)
    assert_whole(store, small)
    assert len(peers.asked[ALICE]) > 1
    assert peers.asked[BOB] == peers.asked[CAROL] == []


def test_a_small_blob_comes_from_another_soon_if_the_first_peer_hangs(
    store: BlobStore, small: BlobStore
) -> None:
    peers = Peers(small, {ALICE: hang, BOB: honest()})
    run_fetch(store, peers, layout=None, deadline_s=4.0)
    assert_whole(store, small)


def test_a_blob_that_is_held_is_not_asked_for(store: BlobStore, origin: BlobStore) -> None:
    run_fetch(store, Peers(origin, {ALICE: honest()}))
    peers = Peers(origin, {ALICE: lie})
    assert run_fetch(store, peers).bytes_from == {}
    assert peers.asked[ALICE] == []


@pytest.mark.parametrize("wrong", [lie, send_too_much])
def test_a_peer_that_sends_wrong_bytes_is_dropped_and_named(
    store: BlobStore, origin: BlobStore, wrong: Behaviour
) -> None:
    named: list[Address] = []
    peers = Peers(origin, {ALICE: wrong, BOB: honest()})
    fetched = run_fetch(store, peers, on_fault=lambda peer, _: named.append(peer))
    assert_whole(store, origin)
    assert named == [ALICE]
    assert isinstance(fetched.faults[ALICE], BlobError | ProtocolViolation)
    assert fetched.bytes_from[BOB] == LAYOUT.file_bytes


def test_a_liar_is_asked_once_and_never_again(store: BlobStore, origin: BlobStore) -> None:
    peers = Peers(origin, {ALICE: lie})
    with pytest.raises(BlobError):
        run_fetch(store, peers)
    assert peers.requests == 1


class Flood(Peers):
    """Sends one good chunk over and over, whatever was asked."""

    async def fetch_chunks(
        self,
        peer: Address,
        root: Digest,
        indices: Sequence[int],
        take: Callable[[Sequence[tuple[int, bytes]]], None],
        *,
        stall_s: float,
    ) -> None:
        for _ in range(10_000):
            await trio.lowlevel.checkpoint()
            take([(indices[0], self.chunk(indices[0]))])


class Silence(Peers):
    """Answers every request with an orderly end of the stream and nothing in it."""

    async def fetch_chunks(self, *_: object, stall_s: float) -> None:
        self.requests += 1
        await trio.lowlevel.checkpoint()


def test_a_flood_of_chunks_is_cut_off_at_the_first_unasked_one(
    store: BlobStore, origin: BlobStore
) -> None:
    faults: list[RemoteError] = []
    with pytest.raises(BlobError, match="unasked"):
        run_fetch(
            store, Flood(origin, {ALICE: honest()}), on_fault=lambda _, fault: faults.append(fault)
        )
    assert [type(fault) for fault in faults] == [ProtocolViolation]


def test_streams_that_end_with_nothing_in_them_are_given_up(
    store: BlobStore, origin: BlobStore
) -> None:
    peers = Silence(origin, {ALICE: honest()})
    with pytest.raises(PeerUnreachable, match="chunks early"):
        run_fetch(store, peers)
    assert peers.requests == ATTEMPTS


def test_a_peer_that_hangs_delays_nothing_that_another_can_give(
    store: BlobStore, origin: BlobStore
) -> None:
    peers = Peers(origin, {ALICE: hang, BOB: honest()})
    fetched = run_fetch(store, peers, deadline_s=3.0)  # less than the stall time of 5 s
    assert_whole(store, origin)
    assert fetched.bytes_from == {BOB: LAYOUT.file_bytes}


@pytest.mark.parametrize("given", [1, 10, 30])
def test_a_peer_that_hangs_after_some_chunks_holds_up_nothing_either(
    store: BlobStore, origin: BlobStore, given: int
) -> None:
    """What it gave is here, though the batch in which it came is not at its end."""
    fetched = run_fetch(store, Peers(origin, {ALICE: honest(), BOB: hang_after(given)}))
    assert_whole(store, origin)
    assert fetched.faults == {}  # after the stall time of 5 s there would be one


def test_a_slow_peer_is_not_dropped_while_it_makes_progress(
    store: BlobStore, origin: BlobStore
) -> None:
    fetched = run_fetch(store, Peers(origin, {ALICE: honest(pace_s=2.0)}), deadline_s=600.0)
    assert_whole(store, origin)
    assert fetched.faults == {}


def test_a_hundredth_of_the_pace_costs_no_more_than_its_own_chunks(
    store: BlobStore, origin: BlobStore
) -> None:
    peers = Peers(origin, {ALICE: honest(pace_s=0.1), BOB: honest(pace_s=0.001)})
    run_fetch(store, peers, deadline_s=2.0)
    assert_whole(store, origin)


def test_a_connection_that_breaks_again_and_again_is_resumed(
    store: BlobStore, origin: BlobStore
) -> None:
    peers = Peers(origin, {ALICE: broken_after(10)})
    run_fetch(store, peers)
    assert_whole(store, origin)
    assert peers.asked[ALICE].count(0) == 1  # what had come was not asked again


def test_a_peer_that_is_never_reached_is_given_up_after_a_few_attempts(
    store: BlobStore, origin: BlobStore
) -> None:
    peers = Peers(origin, {ALICE: broken_after(0)})
    with pytest.raises(PeerUnreachable, match=r"0x0a0a.*connection reset"):
        run_fetch(store, peers)
    assert peers.requests == ATTEMPTS


def test_what_came_before_a_failure_is_kept_for_the_next_fetch(
    store: BlobStore, origin: BlobStore
) -> None:
    gone = False

    async def vanish(peers: Peers, peer: Address, index: int) -> bytes:
        nonlocal gone
        await trio.sleep(0.001)
        gone = gone or index == 100
        if gone:
            raise PeerUnreachable("powered off")
        return peers.chunk(index)

    with pytest.raises(PeerUnreachable, match="powered off"):
        run_fetch(store, Peers(origin, {ALICE: vanish}))
    peers = Peers(origin, {BOB: honest()})
    peers.manifests[BOB] = RemoteError("the manifest is not needed again")
    run_fetch(BlobStore(store.directory), peers)
    assert peers.asked[BOB] == list(range(100, LAYOUT.chunks))


def test_the_deadline_ends_a_fetch_from_peers_that_hang(
    store: BlobStore, origin: BlobStore
) -> None:
    with pytest.raises(PeerUnreachable, match="did not come in 4 s"):
        run_fetch(store, Peers(origin, {ALICE: hang, BOB: hang}), deadline_s=4.0)


def test_the_error_names_every_peer_and_what_was_wrong_with_it(
    store: BlobStore, origin: BlobStore
) -> None:
    peers = Peers(origin, {ALICE: lie, BOB: refuse, CAROL: broken_after(0)})
    with pytest.raises(PeerUnreachable) as caught:
        run_fetch(store, peers)
    for words in ("0x0a0a", "do not have its hash", "0x0b0b", "not here", "0x0c0c", "reset"):
        assert words in str(caught.value)


def test_if_all_peers_lied_it_is_the_blobs_bytes_that_are_refused(
    store: BlobStore, origin: BlobStore
) -> None:
    with pytest.raises(BlobError):
        run_fetch(store, Peers(origin, {ALICE: lie, BOB: send_too_much}))


def test_without_peers_the_answer_is_immediate(store: BlobStore, origin: BlobStore) -> None:
    with pytest.raises(PeerUnreachable, match="nobody to ask"):
        run_fetch(store, Peers(origin, {}))


def test_a_manifest_of_another_blob_is_the_peers_fault(store: BlobStore, origin: BlobStore) -> None:
    peers = Peers(origin, {ALICE: honest(), BOB: honest()})
    peers.manifests[ALICE] = Manifest.of_bytes(b"another").encode()
    fetched = run_fetch(store, peers)
    assert_whole(store, origin)
    assert "not that of" in str(fetched.faults[ALICE])
    assert ALICE not in fetched.bytes_from


@pytest.mark.parametrize("manifest", [b"", b"\xff" * 1000, bytes(4 << 20)])
def test_garbage_for_a_manifest_is_the_peers_fault(
    store: BlobStore, origin: BlobStore, manifest: bytes
) -> None:
    peers = Peers(origin, {ALICE: honest(), BOB: honest()})
    peers.manifests[ALICE] = manifest
    assert list(run_fetch(store, peers).faults) == [ALICE]


def test_a_genuine_blob_that_is_not_wanted_is_refused_before_its_bytes_travel(
    store: BlobStore, origin: BlobStore
) -> None:
    peers = Peers(origin, {ALICE: honest(), BOB: honest()})
    other = Layout.from_specs([TensorSpec("v", "F32", (150_000,))])
    with pytest.raises(BlobError, match="expected tensors"):
        run_fetch(store, peers, layout=other)
    with pytest.raises(BlobError, match="at most 1000"):
        run_fetch(store, peers, max_bytes=1000)
    assert peers.requests == 0
    assert store.total_bytes == 0


def test_a_disk_that_fails_ends_the_fetch_as_a_local_error(
    store: BlobStore, origin: BlobStore
) -> None:
    async def pull_the_disk(peers: Peers, peer: Address, index: int) -> bytes:
        await trio.sleep(0.001)
        for file in store.directory.glob("*.part"):
            file.unlink()
        return peers.chunk(index)

    with pytest.raises(LocalError, match="cannot write"):
        run_fetch(store, Peers(origin, {ALICE: pull_the_disk, BOB: honest()}))


@pytest.mark.parametrize("seed", range(25))
def test_any_mixture_of_faults_ends_well_if_one_peer_is_honest(
    store: BlobStore, origin: BlobStore, seed: int
) -> None:
    draw = random.Random(seed)
    faults: list[Callable[[], Behaviour]] = [
        lambda: lie,
        lambda: hang,
        lambda: refuse,
        lambda: send_too_much,
        lambda: broken_after(draw.randrange(30)),
        lambda: honest(draw.choice([0.0, 0.01, 3.0])),
    ]
    behaviours = {Address(bytes([n]) * 20): draw.choice(faults)() for n in range(1, 8)}
    honest_one = Address(bytes([draw.randrange(1, 8)]) * 20)
    behaviours[honest_one] = honest(0.002)
    peers = Peers(origin, behaviours)
    for peer in behaviours:
        if peer != honest_one and draw.random() < 0.3:
            peers.manifests[peer] = draw.choice([b"junk", RemoteError("no"), PeerUnreachable("?")])
    fetched = run_fetch(store, peers, deadline_s=300.0)
    assert_whole(store, origin)
    liars = {peer for peer, behaviour in behaviours.items() if behaviour in (lie, send_too_much)}
    assert not liars & {peer for peer, count in fetched.bytes_from.items() if count}
    assert honest_one not in fetched.faults
    assert all(isinstance(fault, SwarmError) for fault in fetched.faults.values())
