"""What a network promises to those above it, held against libp2p and against the one in memory."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
from harness.memory_network import MemoryNetwork, MemorySwitch

from swarm.errors import LocalError, PeerUnreachable, ProtocolViolation, RemoteError
from swarm.network import Network, open_network
from swarm.network.identity import Identity
from swarm.types import Address, Digest

AnyNetwork = Network | MemoryNetwork
Opener = Callable[[int], Any]
"""Opens the network of node i, as an async context manager."""

KEYS = [hashlib.sha256(bytes([i])).digest() for i in range(8)]
ADDRESSES = [Identity(key).address for key in KEYS]
ROOT = Digest(b"r" * 32)


@pytest.fixture(params=["libp2p", "memory"])
def opener(request: pytest.FixtureRequest) -> Opener:
    if request.param == "libp2p":
        return lambda i: open_network(KEYS[i])
    switch = MemorySwitch()
    return lambda i: switch.open(ADDRESSES[i])


@asynccontextmanager
async def mesh(opener: Opener, count: int) -> AsyncIterator[list[AnyNetwork]]:
    """`count` networks, all members of each other, connected."""
    async with AsyncExitStack() as stack:
        networks = [await stack.enter_async_context(opener(i)) for i in range(count)]
        members = {n.address: n.addresses for n in networks}
        for network in networks:
            network.set_members(members)
        for network in networks:
            await network.wait_connected(set(members), 5)
        yield networks


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(20):
            await scenario()

    trio.run(bounded)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


async def echo(sender: Address, payload: bytes) -> bytes:
    return sender + payload


def test_four_nodes_find_each_other(opener: Opener) -> None:
    async def scenario() -> None:
        async with mesh(opener, 4) as networks:
            everybody = {n.address for n in networks}
            for network in networks:
                assert network.connected == everybody - {network.address}

    run(scenario)


def test_a_request_is_answered_and_names_its_sender(opener: Opener) -> None:
    async def scenario() -> None:
        async with mesh(opener, 2) as (a, b):
            b.handle("echo", echo)
            answer = await a.request(b.address, "echo", b"hello", deadline_s=5)
            assert answer == a.address + b"hello"

    run(scenario)


def test_two_megabytes_fit_and_more_is_refused_here(opener: Opener) -> None:
    async def scenario() -> None:
        async with mesh(opener, 2) as (a, b):

            async def last(sender: Address, payload: bytes) -> bytes:
                return payload[-20:]

            b.handle("last", last)
            full = bytes(2**21 - 20) + b"x" * 20
            assert await a.request(b.address, "last", full, deadline_s=10) == b"x" * 20
            with pytest.raises(LocalError, match="2097152"):
                await a.request(b.address, "last", full + b"x", deadline_s=10)
            with pytest.raises(LocalError, match="2097152"):
                a.send(b.address, "topic", full + b"x")

    run(scenario)


def test_a_refusal_carries_the_peers_words(opener: Opener) -> None:
    async def refuse(sender: Address, payload: bytes) -> bytes:
        raise RemoteError("this blob is not yours to read")

    async def scenario() -> None:
        async with mesh(opener, 2) as (a, b):
            b.handle("refuse", refuse)
            with pytest.raises(RemoteError, match="not yours to read") as caught:
                await a.request(b.address, "refuse", b"", deadline_s=5)
            assert not isinstance(caught.value, PeerUnreachable)
            with pytest.raises(RemoteError, match="does not answer to 'other'"):
                await a.request(b.address, "other", b"", deadline_s=5)

    run(scenario)


def test_a_slow_answer_is_given_up_at_the_deadline_and_harms_no_later_one(opener: Opener) -> None:
    async def scenario() -> None:
        async with mesh(opener, 2) as (a, b):
            release = trio.Event()

            async def slow(sender: Address, payload: bytes) -> bytes:
                await release.wait()
                return b"late"

            b.handle("slow", slow)
            b.handle("echo", echo)
            for _ in range(3):
                start = trio.current_time()
                with pytest.raises(PeerUnreachable, match=r"within 0\.1 s"):
                    await a.request(b.address, "slow", bytes(500_000), deadline_s=0.1)
                assert trio.current_time() - start < 2
            release.set()
            for i in range(20):
                answer = await a.request(b.address, "echo", bytes([i]), deadline_s=5)
                assert answer == a.address + bytes([i])

    run(scenario)


def test_requests_run_side_by_side(opener: Opener) -> None:
    async def scenario() -> None:
        async with mesh(opener, 2) as (a, b):
            arrived, release = 0, trio.Event()

            async def meet(sender: Address, payload: bytes) -> bytes:
                nonlocal arrived
                arrived += 1
                if arrived == 5:
                    release.set()
                await release.wait()
                return payload

            b.handle("meet", meet)
            answers: dict[int, bytes] = {}

            async def ask(i: int) -> None:
                answers[i] = await a.request(b.address, "meet", bytes([i]), deadline_s=5)

            async with trio.open_nursery() as nursery:
                for i in range(5):
                    nursery.start_soon(ask, i)
            assert answers == {i: bytes([i]) for i in range(5)}

    run(scenario)


def test_messages_arrive_in_order_from_each_sender(opener: Opener) -> None:
    async def scenario() -> None:
        async with mesh(opener, 3) as (a, b, c):
            received: dict[Address, list[bytes]] = {a.address: [], b.address: []}

            async def collect(sender: Address, payload: bytes) -> None:
                await trio.lowlevel.checkpoint()
                received[sender].append(payload)

            c.on_message("count", collect)
            numbers = [b"%d" % i for i in range(500)]
            for number in numbers:
                a.send(c.address, "count", number)
                b.send(c.address, "count", number)
            await until(lambda: all(len(r) == 500 for r in received.values()))
            assert received == {a.address: numbers, b.address: numbers}

    run(scenario)


def test_a_broadcast_reaches_every_member_but_the_sender(opener: Opener) -> None:
    async def scenario() -> None:
        async with mesh(opener, 4) as networks:
            received: set[Address] = set()
            for network in networks:

                def note(_: Address, __: bytes, own: Address = network.address) -> None:
                    received.add(own)

                network.on_message("news", note)
            networks[0].broadcast("news", b"!")
            await until(lambda: len(received) == 3)
            assert networks[0].address not in received

    run(scenario)


def test_a_bad_message_is_scored_and_the_next_one_is_handled(opener: Opener) -> None:
    async def scenario() -> None:
        async with mesh(opener, 2) as (a, b):
            good: list[bytes] = []

            def check(sender: Address, payload: bytes) -> None:
                if payload == b"bad":
                    raise ProtocolViolation("no such vote")
                good.append(payload)

            b.on_message("vote", check)
            for payload in (b"bad", b"good", b"bad", b"good"):
                a.send(b.address, "vote", payload)
            a.send(b.address, "gossip", b"")
            a.send(b.address, "vote", b"last")
            await until(lambda: b"last" in good)
            assert good == [b"good", b"good", b"last"]
            (peer,) = b.status()["peers"].values()  # type: ignore[attr-defined]
            assert peer["score"] == {"bad vote message": 2, "unknown topic": 1}

    run(scenario)


def test_whoever_is_not_a_member_is_not_connected(opener: Opener) -> None:
    async def scenario() -> None:
        async with opener(0) as a, opener(1) as b, opener(2) as stranger:
            stranger.set_members({n.address: n.addresses for n in (a, b)})
            a.set_members({b.address: b.addresses})
            b.set_members({a.address: a.addresses})
            await a.wait_connected([b.address], 5)
            with pytest.raises(PeerUnreachable, match="no connection"):
                await stranger.wait_connected([a.address], 0.3)
            with pytest.raises(PeerUnreachable):
                await stranger.request(a.address, "echo", b"", deadline_s=0.3)
            with pytest.raises(PeerUnreachable, match="not a member"):
                await a.request(stranger.address, "echo", b"", deadline_s=0.3)

    run(scenario)


def test_a_removed_member_is_cut_off_at_once(opener: Opener) -> None:
    async def scenario() -> None:
        async with mesh(opener, 3) as (a, b, c):
            a.handle("echo", echo)
            b.set_members({a.address: a.addresses})
            a.set_members({b.address: b.addresses})
            assert c.address not in a.connected
            await until(lambda: a.address not in c.connected and b.address not in c.connected)
            with pytest.raises(PeerUnreachable):
                await c.request(a.address, "echo", b"", deadline_s=0.5)
            assert await b.request(a.address, "echo", b"", deadline_s=5) == b.address

    run(scenario)


def test_a_member_that_is_admitted_later_is_connected_then(opener: Opener) -> None:
    async def scenario() -> None:
        async with mesh(opener, 2) as (a, b), opener(2) as late:
            late.set_members({n.address: n.addresses for n in (a, b)})
            await trio.sleep(0.05)
            assert not late.connected
            for network in (a, b):
                network.set_members({n.address: n.addresses for n in (a, b, late)})
            await late.wait_connected([a.address, b.address], 5)

    run(scenario)


def test_a_node_that_restarts_is_connected_again(opener: Opener) -> None:
    async def scenario() -> None:
        async with opener(0) as a:
            a.handle("echo", echo)
            met: list[Address] = []
            a.on_connect(met.append)
            for lives in (1, 2, 3):
                async with opener(1) as b:
                    b.set_members({a.address: a.addresses})
                    a.set_members({b.address: b.addresses})  # a new port every time
                    await b.wait_connected([a.address], 5)
                    await a.wait_connected([b.address], 5)
                    assert await b.request(a.address, "echo", b"", deadline_s=5) == b.address
                    assert met.count(b.address) >= lives
                await until(lambda: not a.connected)

    run(scenario)


def test_a_request_ends_when_its_peer_dies(opener: Opener) -> None:
    async def scenario() -> None:
        async with opener(0) as a:
            asked = trio.Event()

            async def hang(sender: Address, payload: bytes) -> bytes:
                asked.set()
                await trio.sleep_forever()
                return b""

            async def ask(peer: Address) -> None:
                with pytest.raises(PeerUnreachable, match=r"connection ended|no connection"):
                    await a.request(peer, "hang", b"", deadline_s=15)

            async with trio.open_nursery() as nursery:
                async with opener(1) as b:
                    b.handle("hang", hang)
                    a.set_members({b.address: b.addresses})
                    b.set_members({a.address: a.addresses})
                    await a.wait_connected([b.address], 5)
                    nursery.start_soon(ask, b.address)
                    await asked.wait()
                    nursery.cancel_scope.deadline = trio.current_time() + 5
            assert not nursery.cancel_scope.cancelled_caught

    run(scenario)


def copied(chunks: Sequence[tuple[int, bytes | memoryview]]) -> list[tuple[int, bytes]]:
    return [(index, bytes(chunk)) for index, chunk in chunks]


def ignore(_: object) -> None:
    pass


class Shelf:
    """A provider with one blob of `sizes`, which only `reader` may have."""

    def __init__(self, sizes: list[int], reader: Address) -> None:
        self.chunks = [bytes([i % 256]) * size for i, size in enumerate(sizes)]
        self.reader = reader

    def manifest(self, sender: Address, root: Digest) -> bytes:
        self._check(sender, root)
        return b"%d chunks" % len(self.chunks)

    def read_chunk(self, sender: Address, root: Digest, index: int) -> bytes | memoryview:
        self._check(sender, root)
        if index >= len(self.chunks):
            raise RemoteError(f"there is no chunk {index}")
        return memoryview(self.chunks[index])

    def _check(self, sender: Address, root: Digest) -> None:
        if root != ROOT or sender != self.reader:
            raise RemoteError("no such blob here")


def test_chunks_come_in_the_order_asked_for(opener: Opener) -> None:
    async def scenario() -> None:
        async with mesh(opener, 2) as (a, b):
            shelf = Shelf([2**20, 5, 0, 4096, 2**20, 2**19], a.address)
            b.serve_blobs(shelf)
            assert await a.fetch_manifest(b.address, ROOT, deadline_s=5) == b"6 chunks"
            got: list[tuple[int, bytes]] = []
            wanted = [4, 2, 0, 1, 5, 3]
            await a.fetch_chunks(
                b.address, ROOT, wanted, lambda chunks: got.extend(copied(chunks)), stall_s=5
            )
            assert got == [(i, shelf.chunks[i]) for i in wanted]

    run(scenario)


def test_bytes_are_counted_for_both_ends(opener: Opener) -> None:
    async def scenario() -> None:
        async with mesh(opener, 2) as (a, b):
            b.serve_blobs(Shelf([2**18] * 12, a.address))
            await a.fetch_chunks(b.address, ROOT, range(12), ignore, stall_s=5)
            sent, received = b.traffic(), a.traffic()
            assert 12 * 2**18 <= received.received_bytes < 12 * 2**18 + 2000
            assert 12 * 2**18 <= sent.sent_bytes < 12 * 2**18 + 2000
            assert sent.peers[a.address].sent_bytes == sent.sent_bytes
            a.set_members({})
            assert a.traffic().peers == {} or a.traffic().received_bytes >= 12 * 2**18

    run(scenario)


def test_a_blob_may_be_refused_with_words_and_what_came_before_stays(opener: Opener) -> None:
    async def scenario() -> None:
        async with mesh(opener, 3) as (a, b, c):
            b.serve_blobs(Shelf([100] * 3, a.address))
            with pytest.raises(RemoteError, match="no such blob"):
                await c.fetch_manifest(b.address, ROOT, deadline_s=5)
            with pytest.raises(RemoteError, match="no such blob"):
                await c.fetch_chunks(b.address, ROOT, [0], ignore, stall_s=5)
            got: list[int] = []
            with pytest.raises(RemoteError, match="no chunk 7"):
                await a.fetch_chunks(
                    b.address,
                    ROOT,
                    [0, 1, 7, 2],
                    lambda chunks: got.extend(i for i, _ in chunks),
                    stall_s=5,
                )
            assert got == [0, 1]
            await a.fetch_chunks(
                b.address, ROOT, [2], lambda chunks: got.extend(i for i, _ in chunks), stall_s=5
            )
            assert got == [0, 1, 2]

    run(scenario)
