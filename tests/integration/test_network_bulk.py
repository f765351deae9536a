"""The bulk channel between real sockets: who is let in, what a token buys, and what if it fails."""

from __future__ import annotations

import hashlib
import socket
import ssl
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives import serialization
from libp2p.crypto.ed25519 import create_new_key_pair as create_ed25519_key_pair
from libp2p.security.tls.certificate import (
    create_cert_template,
    generate_certificate,
    generate_self_signed_cert,
)

from swarm.blobs.fetch import fetch
from swarm.blobs.store import BlobStore
from swarm.errors import BlobError, PeerUnreachable, ProtocolViolation, RemoteError
from swarm.network import Network, NetworkLimits, open_network
from swarm.network.bulk import GRANT_METHOD
from swarm.network.bulk_connections import (
    CALL_METHOD,
    KEEP_OURS_S,
    RETRY_AFTER_S,
    BulkConnections,
    Way,
)
from swarm.network.identity import Identity
from swarm.network.tcp import parse_endpoint
from swarm.network.tls import TlsIdentity, Trust, address_in
from swarm.network.wire import CHUNK_HEADER, BulkCall, BulkGrant, BulkWanted, grant_decoder
from swarm.tensors import Layout, TensorSpec, create_file
from swarm.types import Address, Digest

KEYS = [hashlib.sha256(bytes([i])).digest() for i in range(4)]
ADDRESSES = [Identity(key).address for key in KEYS]
ROOT = Digest(b"r" * 32)
CHUNK = b"0123456789abcdef" * 4096
DEFAULT = NetworkLimits()
SHORT = NetworkLimits(handshake_s=0.5)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(30):
            await scenario()

    trio.run(bounded)


async def until(condition: Callable[[], bool], within_s: float = 10) -> None:
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


class Shelf:
    """Any blob of any number of chunks, all equal."""

    def manifest(self, sender: Address, root: Digest) -> bytes:
        return b"manifest"

    def read_chunk(self, sender: Address, root: Digest, index: int) -> bytes:
        return CHUNK


class Taker:
    def __init__(self) -> None:
        self.indices: list[int] = []
        self.size = 0

    def __call__(self, chunks: Sequence[tuple[int, bytes | memoryview]]) -> None:
        for index, chunk in chunks:
            assert chunk == CHUNK
            self.indices.append(index)
            self.size += len(chunk)


@asynccontextmanager
async def nodes(
    count: int = 2, limits: NetworkLimits = DEFAULT, provider: Any = None
) -> AsyncIterator[list[Network]]:
    """Connected members of each other; the first serves."""
    async with trio.open_nursery() as nursery:
        opened: list[Network] = []

        async def keep(i: int, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
            async with open_network(KEYS[i], limits=limits) as network:
                task_status.started(network)
                await trio.sleep_forever()

        for i in range(count):
            opened.append(await nursery.start(keep, i))
        opened[0].serve_blobs(provider or Shelf())
        members = {n.address: n.addresses for n in opened}
        for network in opened:
            network.set_members(members)
        for network in opened:
            await network.wait_connected(members, 5)
        yield opened
        nursery.cancel_scope.cancel()


def refuse_streams(network: Network) -> None:
    """Let nothing but the bulk channel serve."""
    network._handlers.streams.clear()


def cannot_be_dialled(monkeypatch: pytest.MonkeyPatch, network: Network, by: Network) -> None:
    """For blobs: the control connection stands."""
    monkeypatch.setattr(by._bulk._connections, "_endpoints", lambda *_: iter(()))


async def never(*_: object) -> None:
    await trio.sleep_forever()


def bulk_sockets(network: Network) -> int:
    return sum(map(len, network._bulk._connections._kept.values()))


def score(network: Network, of: Address) -> dict[str, int]:
    return dict(network._peers[of].score)


# What it is for


def test_fetches_go_over_one_kept_connection_on_the_nodes_own_port() -> None:
    async def scenario() -> None:
        async with nodes() as (a, b):
            refuse_streams(a)
            taker = Taker()
            for _ in range(3):
                await b.fetch_chunks(a.address, ROOT, [4, 2, 0], taker, stall_s=5)
            assert taker.indices == [4, 2, 0] * 3
            (kept,) = b._bulk._connections._kept[a.address]
            ends = {kept.secured.getpeername()[1], kept.secured.getsockname()[1]}
            assert ends & {parse_endpoint(each.addresses[0]).port for each in (a, b)}
            assert kept.secured.version() == "TLSv1.3"

    run(scenario)


def test_both_sides_fetch_whoever_dialled() -> None:
    async def scenario() -> None:
        async with nodes() as (a, b):
            b.serve_blobs(Shelf())
            for network in (a, b):
                refuse_streams(network)
            for near, far in ((a, b), (b, a)):
                taker = Taker()
                await near.fetch_chunks(far.address, ROOT, range(5), taker, stall_s=5)
                assert taker.indices == list(range(5))

    run(scenario)


def test_several_members_fetch_at_once_and_each_several_times() -> None:
    async def scenario() -> None:
        async with nodes(4) as networks:
            refuse_streams(networks[0])
            takers = [Taker() for _ in range(9)]
            async with trio.open_nursery() as nursery:
                for i, taker in enumerate(takers):
                    network = networks[1 + i % 3]

                    async def pull(network: Network = network, taker: Taker = taker) -> None:
                        await network.fetch_chunks(
                            networks[0].address, ROOT, range(30), taker, stall_s=10
                        )

                    nursery.start_soon(pull)
            assert all(taker.indices == list(range(30)) for taker in takers)
            sent = networks[0].traffic()
            for network in networks[1:]:
                assert sent.peers[network.address].sent_bytes >= 90 * len(CHUNK)

    run(scenario)


def test_a_connection_that_the_server_has_closed_is_replaced() -> None:
    async def scenario() -> None:
        async with nodes() as (a, b):
            refuse_streams(a)
            taker = Taker()
            await b.fetch_chunks(a.address, ROOT, [0], taker, stall_s=5)
            (kept,) = b._bulk._connections._kept[a.address]
            for secured in a._bulk._live[b.address]:
                socket.socket.shutdown(secured, socket.SHUT_RDWR)
            await b.fetch_chunks(a.address, ROOT, [1], taker, stall_s=5)
            assert taker.indices == [0, 1]
            (fresh,) = b._bulk._connections._kept[a.address]
            assert fresh.secured is not kept.secured

    run(scenario)


def test_connections_that_only_many_fetches_at_once_needed_are_closed() -> None:
    async def scenario() -> None:
        async with nodes() as (a, b):
            refuse_streams(a)
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    fetch = partial(b.fetch_chunks, stall_s=5)
                    nursery.start_soon(fetch, a.address, ROOT, range(30), Taker())
            kept = list(b._bulk._connections._kept[a.address])
            assert len(kept) > 1
            for each in kept[:-1]:
                each.since -= KEEP_OURS_S + 1
            await b.fetch_chunks(a.address, ROOT, [0], Taker(), stall_s=5)
            assert [k.secured for k in b._bulk._connections._kept[a.address]] == [kept[-1].secured]
            assert {k.secured.fileno() for k in kept[:-1]} == {-1}

    run(scenario)


def test_a_slow_server_is_not_given_up_while_bytes_come() -> None:
    async def scenario() -> None:
        limits = NetworkLimits(max_upload_bytes_per_s=400_000)
        async with nodes(limits=limits) as (a, b):
            refuse_streams(a)
            start = trio.current_time()
            taker = Taker()
            await b.fetch_chunks(a.address, ROOT, range(8), taker, stall_s=0.4)
            assert trio.current_time() - start > 0.8  # 512 KiB at 400 KB/s
            assert taker.size == 8 * len(CHUNK)

    run(scenario)


# Who is let in


def context_with(certificate: str | None, key: str = "") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(certificate + key)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def without_extension() -> tuple[str, str]:
    key, certificate = generate_self_signed_cert()
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), pem.decode()


def made_by(key: bytes) -> tuple[str, str]:
    return generate_certificate(Identity(key).key_pair.private_key, create_cert_template())


def say_and_read(port: int, context: ssl.SSLContext, token: bytes) -> bytes:
    """Connect, send a token, read to the end; what came is all that a stranger learns."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
        try:
            with context.wrap_socket(raw) as secured:
                secured.sendall(token)
                received = b""
                while more := secured.recv(1 << 20):
                    received += more
                return received
        except (ssl.SSLError, ConnectionError):
            return b""


async def knock(network: Network, context: ssl.SSLContext, token: bytes = b"t" * 32) -> bytes:
    port = parse_endpoint(network.addresses[0]).port
    return await trio.to_thread.run_sync(say_and_read, port, context, token)


def granted(network: Network, member: Network, indices: Sequence[int] = (0,)) -> bytes:
    """A token as the control stream gives it."""
    return network._bulk._tickets.issue(member.address, ROOT, indices, trio.current_time())


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(lambda: (None, ""), id="no certificate"),
        pytest.param(without_extension, id="a certificate without a node key"),
        pytest.param(lambda: made_by(KEYS[3]), id="a stranger's certificate"),
        pytest.param(lambda: made_by(KEYS[1]), id="a member's, but not the one that it announced"),
    ],
)
def test_whoever_is_not_a_member_is_refused_in_the_handshake_even_with_a_token(
    shown: Callable[[], tuple[str | None, str]],
) -> None:
    async def scenario() -> None:
        async with nodes() as (a, b):
            await b.fetch_chunks(a.address, ROOT, [0], Taker(), stall_s=5)
            token = granted(a, b)
            assert await knock(a, context_with(*shown()), token) == b""
            assert a.status()["refused_connections"] == 1
            assert token in a._bulk._tickets._open  # nobody came as far as to show it
            await b.fetch_chunks(a.address, ROOT, [0], Taker(), stall_s=5)

    run(scenario)


def test_tokens_buy_one_fetch_for_their_owner_and_the_others_are_refused() -> None:
    async def scenario() -> None:
        async with nodes(3) as (a, b, c):
            for member in (b, c):
                await member.fetch_chunks(a.address, ROOT, [0], Taker(), stall_s=5)
            ours, theirs = (context_of(each) for each in (b, c))
            token = granted(a, b)
            whole = CHUNK_HEADER.pack(0, len(CHUNK)) + CHUNK

            assert await knock(a, theirs, token) == b""  # another member's
            assert score(a, c.address) == {"bad bulk token": 1}
            with trio.move_on_after(2):  # the server keeps the connection open after a fetch
                assert (await read_once(a, ours, token, len(whole))) == whole
            assert await knock(a, ours, token) == b""  # used
            assert await knock(a, ours, bytes(32)) == b""  # never given
            expired = a._bulk._tickets.issue(b.address, ROOT, [0], trio.current_time() - 11)
            assert await knock(a, ours, expired) == b""  # too late, which is no offence
            assert score(a, b.address) == {"bad bulk token": 2}

    run(scenario)


def context_of(network: Network) -> ssl.SSLContext:
    context = network._bulk._identity.context(server_side=False, trusted=())
    context.verify_mode = ssl.CERT_NONE
    return context


async def read_once(network: Network, context: ssl.SSLContext, token: bytes, size: int) -> bytes:
    def talk() -> bytes:
        port = parse_endpoint(network.addresses[0]).port
        with socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
            with context.wrap_socket(raw) as secured:
                secured.sendall(token)
                received = b""
                while len(received) < size:
                    received += secured.recv(size)
                return received

    return await trio.to_thread.run_sync(talk)


@pytest.mark.parametrize(
    "certificate",
    [
        pytest.param(lambda: TlsIdentity(Identity(KEYS[2])).der, id="of another node"),
        pytest.param(lambda: ssl.PEM_cert_to_DER_cert(without_extension()[0]), id="of no node"),
        pytest.param(lambda: b"", id="empty"),
        pytest.param(lambda: b"\x30\x82" + bytes(500), id="garbage"),
    ],
)
def test_a_certificate_that_does_not_name_its_sender_is_refused_and_scored(
    certificate: Callable[[], bytes],
) -> None:
    async def scenario() -> None:
        async with nodes() as (a, b):
            wanted = msgspec.msgpack.encode(BulkWanted(ROOT, [0], certificate()))
            with pytest.raises(RemoteError, match="certificate"):
                await b.request(a.address, GRANT_METHOD, wanted, deadline_s=5)
            assert score(a, b.address) == {"bad blob.bulk request": 1}
            assert a._bulk._trust._certificates == {}

    run(scenario)


def test_a_certificate_of_another_kind_of_key_names_no_node() -> None:
    key = create_ed25519_key_pair(bytes(32)).private_key
    certificate, _ = generate_certificate(key, create_cert_template())
    with pytest.raises(RemoteError, match="no node key"):
        address_in(ssl.PEM_cert_to_DER_cert(certificate))
    assert address_in(TlsIdentity(Identity(KEYS[0])).der) == ADDRESSES[0]


def test_a_server_that_shows_another_certificate_than_it_announced_is_not_believed() -> None:
    async def scenario() -> None:
        async with nodes() as (a, b):

            async def announce(sender: Address, payload: bytes) -> bytes:
                grant = grant_decoder.decode(await a._bulk.grant(sender, payload))
                other = TlsIdentity(Identity(KEYS[0])).der  # of the same node, even
                return msgspec.msgpack.encode(BulkGrant(grant.token, other, grant.ports))

            a.handle(GRANT_METHOD, announce)
            taker = Taker()
            await b.fetch_chunks(a.address, ROOT, [0], taker, stall_s=5)  # over libp2p
            assert taker.indices == [0]
            assert bulk_sockets(b) == 0

    run(scenario)


def test_a_removed_member_loses_its_connections_in_the_middle_of_a_fetch() -> None:
    async def scenario() -> None:
        async with nodes() as (a, b):
            refuse_streams(a)
            begun = threading.Event()

            def slow(chunks: object) -> None:
                begun.set()

            async def remove() -> None:
                await trio.to_thread.run_sync(begun.wait)
                a.set_members({})

            async with trio.open_nursery() as nursery:
                nursery.start_soon(remove)
                with pytest.raises(PeerUnreachable):
                    await b.fetch_chunks(a.address, ROOT, range(60_000), slow, stall_s=10)
            await until(lambda: not a._bulk._live[b.address])
            assert a._bulk._trust._certificates == {}
            assert await knock(a, context_of(b), bytes(32)) == b""

    run(scenario)


def test_a_server_that_sends_too_large_a_chunk_is_scored_and_its_connection_closed() -> None:
    class TooLarge(Shelf):
        def read_chunk(self, sender: Address, root: Digest, index: int) -> bytes:
            return bytes(DEFAULT.max_chunk_bytes + 1)

    async def scenario() -> None:
        async with nodes(provider=TooLarge()) as (a, b):
            refuse_streams(a)
            with pytest.raises(ProtocolViolation, match="1048577 bytes"):
                await b.fetch_chunks(a.address, ROOT, [0], Taker(), stall_s=5)
            assert score(b, a.address) == {"broke the blob protocol": 1}
            assert bulk_sockets(b) == 0
            await until(lambda: not a._bulk._live[b.address])

    run(scenario)


def test_a_fetch_that_is_cancelled_ends_its_threads_and_its_connection() -> None:
    async def scenario() -> None:
        async with nodes() as (a, b):
            refuse_streams(a)
            started = threading.Event()

            def note(_: object) -> None:
                started.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    partial(b.fetch_chunks, a.address, ROOT, range(60_000), note, stall_s=5)
                )
                await trio.to_thread.run_sync(started.wait)
                nursery.cancel_scope.cancel()
            assert b._bulk._receivers.borrowed_tokens == 0
            assert bulk_sockets(b) == 0
            await until(lambda: a._bulk._senders.borrowed_tokens == 0)
            await until(lambda: not a._bulk._live[b.address])

    run(scenario)


# When it cannot be had


def test_where_no_bulk_connection_can_be_made_the_blob_comes_over_libp2p(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        async with nodes() as (a, b):
            grants = 0

            async def count(sender: Address, payload: bytes) -> bytes:
                nonlocal grants
                grants += 1
                return await a._bulk.grant(sender, payload)

            a.handle(GRANT_METHOD, count)
            cannot_be_dialled(monkeypatch, a, by=b)
            cannot_be_dialled(monkeypatch, b, by=a)
            taker = Taker()
            for _ in range(3):
                await b.fetch_chunks(a.address, ROOT, range(40), taker, stall_s=5)
            assert taker.indices == [*range(40)] * 3
            assert grants == 1  # not tried again for a while
            assert RETRY_AFTER_S > 30
            renewed: list[Address] = []
            b.on_connect(renewed.append)
            a.set_members({})
            a.set_members({b.address: b.addresses})
            await until(lambda: bool(renewed))
            await b.fetch_chunks(a.address, ROOT, [0], taker, stall_s=5)
            assert grants == 2  # another connection is another chance

    run(scenario)


@pytest.mark.parametrize("dialler", [0, 1])
def test_an_owner_that_cannot_be_dialled_dials_the_asker(
    monkeypatch: pytest.MonkeyPatch, dialler: int
) -> None:
    async def scenario() -> None:
        async with nodes() as (a, b):
            refuse_streams(a)
            connection = b._peers[a.address].connection
            assert connection is not None
            connection.dialler = (a, b)[dialler].address
            cannot_be_dialled(monkeypatch, a, by=b)
            taker = Taker()
            for _ in range(3):
                await b.fetch_chunks(a.address, ROOT, [4, 2, 0], taker, stall_s=5)
            assert taker.indices == [4, 2, 0] * 3
            (kept,) = b._bulk._connections._kept[a.address]
            assert kept.secured.server_side
            assert kept.secured.getsockname()[1] == parse_endpoint(b.addresses[0]).port
            assert score(a, b.address) == score(b, a.address) == {}

    run(scenario)


def test_several_fetches_are_called_back_at_once_each_over_its_own_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        async with nodes() as (a, b):
            refuse_streams(a)
            cannot_be_dialled(monkeypatch, a, by=b)
            takers = [Taker() for _ in range(4)]
            async with trio.open_nursery() as nursery:
                for taker in takers:
                    fetch = partial(b.fetch_chunks, stall_s=5)
                    nursery.start_soon(fetch, a.address, ROOT, range(30), taker)
            assert all(taker.indices == list(range(30)) for taker in takers)

    run(scenario)


def test_a_call_that_is_answered_too_late_serves_the_next_fetch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        async with nodes() as (a, b):
            cannot_be_dialled(monkeypatch, a, by=b)
            dial, released = a._bulk._connections.dial, trio.Event()

            async def late(*given: Any) -> ssl.SSLSocket:
                await released.wait()
                return await dial(*given)

            monkeypatch.setattr(a._bulk._connections, "dial", late)
            taker = Taker()
            await b.fetch_chunks(a.address, ROOT, [0], taker, stall_s=0.4)  # over libp2p
            released.set()
            await until(lambda: bulk_sockets(b) == 1)
            refuse_streams(a)
            b._bulk.try_again(a.address)
            await b.fetch_chunks(a.address, ROOT, [1], taker, stall_s=5)
            assert taker.indices == [0, 1]
            assert score(b, a.address) == {}

    run(scenario)


def test_a_member_has_a_node_dial_no_more_often_than_it_may_fetch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        async with nodes() as (a, b):
            await b.fetch_chunks(a.address, ROOT, [0], Taker(), stall_s=5)
            monkeypatch.setattr(a._bulk._connections, "dial", never)
            refusals: list[str] = []

            async def call(number: int) -> None:
                wanted = msgspec.msgpack.encode(BulkCall(bytes([number] * 32), [1]))
                try:
                    await b.request(a.address, CALL_METHOD, wanted, deadline_s=0.5)
                except RemoteError as error:
                    refusals.append(str(error))

            async with trio.open_nursery() as nursery:
                for number in range(12):
                    nursery.start_soon(call, number)
            refused = [words for words in refusals if "as many" in words]
            assert len(refused) == 12 - DEFAULT.max_bulk_connections + 1

    run(scenario)


def test_a_dial_that_was_given_up_after_a_second_counts_as_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        channel = BulkConnections({}, [1], Trust(TlsIdentity(Identity(KEYS[0]))))
        connection = SimpleNamespace(peer=SimpleNamespace(address=ADDRESSES[1]), dialler=b"")
        monkeypatch.setattr(channel, "dial", never)
        for cancelled_after_s, left in ((0.5, [Way.DIRECT, Way.CALLED]), (1.5, [Way.CALLED])):
            with trio.move_on_after(cancelled_after_s):
                await channel.connect(connection, [1], 5.0)  # type: ignore[arg-type]
            assert channel.ways_to(connection) == left  # type: ignore[arg-type]

    trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_peer_that_knows_no_bulk_channel_is_served_over_libp2p() -> None:
    async def scenario() -> None:
        async with nodes() as (a, b):
            del a._handlers.requests[GRANT_METHOD]
            taker = Taker()
            await b.fetch_chunks(a.address, ROOT, range(3), taker, stall_s=5)
            assert taker.indices == [0, 1, 2]

    run(scenario)


@pytest.mark.parametrize("opening", [b"\x16", b"\x16\x03", b"\x16\x03\x01\x02\x00\x01" + bytes(99)])
def test_half_a_hello_is_ended_in_time_and_costs_nobody_else(opening: bytes) -> None:
    async def scenario() -> None:
        async with nodes(limits=SHORT) as (a, b):
            port = parse_endpoint(a.addresses[0]).port
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            async with stream:
                await stream.send_all(opening)
                start = trio.current_time()
                with trio.fail_after(5):
                    try:
                        while await stream.receive_some(1000):
                            pass
                    except trio.BrokenResourceError:
                        pass
                assert trio.current_time() - start < 3
            await until(lambda: not a._half_open)
            taker = Taker()
            await b.fetch_chunks(a.address, ROOT, [0], taker, stall_s=5)
            assert taker.indices == [0]

    run(scenario)


# With the store above it

LAYOUT = Layout.from_specs([TensorSpec("w", "F32", (1_500_000,))])


class StoreShelf:
    """Serves a store; lies if told to."""

    def __init__(self, store: BlobStore, lies: bool = False) -> None:
        self.store = store
        self.lies = lies

    def manifest(self, sender: Address, root: Digest) -> bytes:
        return self.store.manifest(root).encode()

    def read_chunk(self, sender: Address, root: Digest, index: int) -> bytes:
        chunk = self.store.read_chunk(root, index)
        return bytes(len(chunk)) if self.lies else chunk


def test_a_blob_comes_whole_from_an_honest_holder_beside_one_that_lies(tmp_path: Path) -> None:
    origin, mine = BlobStore(tmp_path / "origin"), BlobStore(tmp_path / "mine")
    with create_file(origin.scratch("update"), LAYOUT) as file:
        file["w"][...] = np.random.default_rng(1).standard_normal(1_500_000, np.float32)
    root = origin.add(origin.scratch("update"))

    async def scenario() -> None:
        async with nodes(3, provider=StoreShelf(origin)) as (a, b, c):
            b.serve_blobs(StoreShelf(origin, lies=True))
            for network in (a, b):
                refuse_streams(network)
            fetched = await fetch(
                mine, root, [b.address, a.address], c, max_bytes=2**24, deadline_s=20, layout=LAYOUT
            )
            assert isinstance(fetched.faults[b.address], BlobError)
            assert fetched.bytes_from == {a.address: LAYOUT.file_bytes}
            assert mine.verify(root)

    run(scenario)
