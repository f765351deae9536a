"""Chunks through a socket, both ends in threads, without TLS: what a hostile server may send."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from swarm.errors import (
    BlobError,
    ChunkPending,
    LocalError,
    PeerUnreachable,
    ProtocolViolation,
    RemoteError,
)
from swarm.network.bulk_transfer import Chunk, Receiving, Sending, Take
from swarm.network.pacing import Pacer
from swarm.network.peers import Peer
from swarm.network.tickets import Ticket
from swarm.network.wire import CHUNK_HEADER, CHUNK_REFUSED
from swarm.types import Address, Digest

PEER = Address(b"\x0a" * 20)
ROOT = Digest(b"r" * 32)
TOKEN = b"t" * 32
MAX_CHUNK_BYTES = 4096


class Plain(socket.socket):
    """A socket without TLS that is read and written as one with it."""

    def read(self, size: int, buffer: memoryview) -> int:
        return self.recv_into(buffer, size)

    def write(self, data: memoryview) -> int:
        return self.send(data)

    def pending(self) -> int:
        return 0


def plain_pair() -> tuple[Plain, Plain]:
    ours, theirs = socket.socketpair()
    return Plain(fileno=ours.detach()), Plain(fileno=theirs.detach())


@pytest.fixture
def pair() -> Iterator[tuple[Any, Any]]:
    ours, theirs = plain_pair()
    with ours, theirs:
        yield ours, theirs


class Taker:
    def __init__(self, refuse: RemoteError | LocalError | None = None) -> None:
        self.chunks: list[tuple[int, bytes]] = []
        self.refuse = refuse

    def __call__(self, chunks: Sequence[Chunk]) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.chunks += [(index, bytes(chunk)) for index, chunk in chunks]


def receive(ours: Any, indices: Sequence[int], taker: Take, stall_s: float = 5.0) -> Receiving:
    buffers = [memoryview(bytearray(MAX_CHUNK_BYTES)) for _ in range(4)]
    receiving = Receiving(ours, Peer(PEER), indices, taker, buffers, stall_s)
    threads = [
        threading.Thread(target=receiving.hand_over),
        threading.Thread(target=receiving.receive, args=(TOKEN,)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    return receiving


class Shelf:
    def __init__(self, chunks: list[bytes], fault: Exception | None = None) -> None:
        self.chunks = chunks
        self.fault = fault

    def read_chunk(self, sender: Address, root: Digest, index: int) -> bytes:
        if self.fault is not None and index == len(self.chunks) - 1:
            raise self.fault
        return self.chunks[index]


def serve(theirs: Any, shelf: Shelf, indices: Sequence[int], rate: float | None = None) -> Peer:
    peer = Peer(PEER)
    assert theirs.recv(32) == TOKEN
    ticket = Ticket(PEER, ROOT, indices, 0.0)
    Sending(theirs, peer, ticket, shelf, Pacer(rate), 5.0).run()
    return peer


def exchange(
    pair: tuple[Any, Any], shelf: Shelf, indices: Sequence[int], **options: Any
) -> tuple[Taker, Receiving]:
    ours, theirs = pair
    taker = Taker()
    server = threading.Thread(target=serve, args=(theirs, shelf, indices), kwargs=options)
    server.start()
    receiving = receive(ours, indices, taker)
    server.join(10)
    return taker, receiving


@pytest.mark.parametrize("sizes", [[4096] * 20, [0, 1, 4096, 0, 4095, 7] * 5, [1] * 5000, [0]])
def test_chunks_of_any_size_come_whole_and_in_order(
    pair: tuple[Any, Any], sizes: list[int]
) -> None:
    shelf = Shelf([bytes([i % 251]) * size for i, size in enumerate(sizes)])
    order = list(range(len(sizes)))[::-1]
    taker, receiving = exchange(pair, shelf, order)
    assert taker.chunks == [(i, shelf.chunks[i]) for i in order]
    assert receiving.fault is None
    assert receiving.is_in_step


def test_what_has_come_is_taken_before_the_next_chunk_is_there(pair: tuple[Any, Any]) -> None:
    """Every chunk is only made once the one before has been taken: neither end may hold one back,
    and nobody looks again and again."""
    ours, theirs = pair
    taker, taken, looks = Taker(), threading.Condition(), []

    class Slow(Shelf):
        def read_chunk(self, sender: Address, root: Digest, index: int) -> bytes:
            looks.append(index)
            if len(taker.chunks) < index:
                raise ChunkPending("not yet", lambda seconds: await_taken(index, seconds))
            return super().read_chunk(sender, root, index)

    def await_taken(count: int, seconds: float) -> None:
        with taken:
            taken.wait_for(lambda: len(taker.chunks) >= count, 10 * seconds)

    def take(chunks: Sequence[Chunk]) -> None:
        with taken:
            taker(chunks)
            taken.notify_all()

    shelf = Slow([bytes([i]) * 100 for i in range(6)])
    server = threading.Thread(target=serve, args=(theirs, shelf, range(6)))
    server.start()
    receiving = receive(ours, range(6), take)
    server.join(10)
    assert receiving.fault is None
    assert taker.chunks == list(enumerate(shelf.chunks))
    assert len(looks) <= 2 * 6


def test_a_refusal_follows_what_came_before_and_the_connection_stays_of_use(
    pair: tuple[Any, Any],
) -> None:
    shelf = Shelf([b"one", b"two", b""], RemoteError("not for you"))
    taker, receiving = exchange(pair, shelf, [0, 1, 2])
    assert taker.chunks == [(0, b"one"), (1, b"two")]
    assert isinstance(receiving.fault, RemoteError)
    assert "not for you" in str(receiving.fault)
    assert receiving.is_in_step


def test_a_fault_of_the_servers_disk_tells_no_paths(pair: tuple[Any, Any]) -> None:
    shelf = Shelf([b""], OSError(5, "Input/output error", "/var/lib/secret"))
    _, receiving = exchange(pair, shelf, [0])
    assert "cannot be read here" in str(receiving.fault)
    assert "secret" not in str(receiving.fault)


@pytest.mark.parametrize(
    ("reply", "fault", "words"),
    [
        (CHUNK_HEADER.pack(1, 4) + b"data", ProtocolViolation, "expected chunk 0, got 1"),
        (CHUNK_HEADER.pack(0, MAX_CHUNK_BYTES + 1), ProtocolViolation, "4097 bytes"),
        (CHUNK_HEADER.pack(CHUNK_REFUSED, 2000), ProtocolViolation, "got 4294967295"),
        (CHUNK_HEADER.pack(0, 100) + b"half", PeerUnreachable, "closed by the peer"),
        (b"\x00\x00", PeerUnreachable, "closed by the peer"),
    ],
)
def test_a_server_that_sends_something_else_is_found_out(
    pair: tuple[Any, Any], reply: bytes, fault: type[Exception], words: str
) -> None:
    ours, theirs = pair
    theirs.sendall(reply)
    theirs.shutdown(socket.SHUT_WR)
    taker = Taker()
    receiving = receive(ours, [0], taker)
    assert type(receiving.fault) is fault
    assert words in str(receiving.fault)
    assert taker.chunks == []
    assert not receiving.is_in_step
    assert not receiving.ended_unused


def test_silence_is_given_up_after_the_stall_and_keeps_what_came(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    theirs.sendall(CHUNK_HEADER.pack(0, 4) + b"data")
    taker = Taker()
    start = time.monotonic()
    receiving = receive(ours, [0, 1], taker, stall_s=0.1)
    assert time.monotonic() - start < 3
    assert "nothing for 0.1 s" in str(receiving.fault)
    assert taker.chunks == [(0, b"data")]


def test_a_connection_that_was_dead_before_the_first_byte_is_told_apart(
    pair: tuple[Any, Any],
) -> None:
    ours, theirs = pair
    theirs.close()
    receiving = receive(ours, [0], Taker())
    assert receiving.ended_unused


def test_a_chunk_that_is_refused_here_ends_the_fetch_with_its_cause(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    refused = BlobError("wrong bytes")

    def flood() -> None:
        header = CHUNK_HEADER.pack
        try:
            for index in range(100_000):
                theirs.sendall(header(index, MAX_CHUNK_BYTES) + bytes(MAX_CHUNK_BYTES))
        except OSError:
            pass

    flooding = threading.Thread(target=flood)
    flooding.start()
    receiving = receive(ours, range(100_000), Taker(refused))
    assert receiving.fault is refused
    assert not receiving.is_in_step
    flooding.join(10)
    assert not flooding.is_alive()


@pytest.mark.parametrize("pending", [False, True])
def test_a_peer_that_is_gone_when_it_is_written_to_is_the_callers_to_hear(pending: bool) -> None:
    class Gone:
        """TLS whose peer has gone without a word."""

        def settimeout(self, timeout_s: float) -> None:
            pass

        def write(self, data: memoryview) -> int:
            raise ssl.SSLEOFError("EOF occurred in violation of protocol")

    shelf = Shelf([b"one", b""], ChunkPending("on its way") if pending else None)
    ticket = Ticket(PEER, ROOT, [0, 1], 0.0)
    sending = Sending(Gone(), Peer(PEER), ticket, shelf, Pacer(None), 5.0)  # type: ignore[arg-type]
    with pytest.raises(ssl.SSLEOFError):
        sending.run()


def test_a_paced_server_takes_the_time_that_its_rate_needs(pair: tuple[Any, Any]) -> None:
    start = time.monotonic()
    taker, receiving = exchange(pair, Shelf([bytes(4096)] * 50), range(50), rate=500_000)
    assert time.monotonic() - start > 0.2  # 200 KB at 500 KB/s, less the burst
    assert len(taker.chunks) == 50
    assert receiving.fault is None


def test_a_server_that_waits_for_its_pace_stops_when_it_is_told() -> None:
    ours, theirs = plain_pair()
    with ours, theirs:
        ticket = Ticket(PEER, ROOT, range(1000), 0.0)
        shelf = Shelf([bytes(4096)] * 1000)
        sending = Sending(theirs, Peer(PEER), ticket, shelf, Pacer(1000.0), 5.0)  # type: ignore[arg-type]
        ended: list[OSError] = []

        def run() -> None:
            try:
                sending.run()
            except OSError as error:
                ended.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        assert ours.recv(1)
        sending.stop()
        thread.join(5)
        assert not thread.is_alive()
        assert ended
