"""Strangers learn nothing, and members that misbehave harm nobody but themselves."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import psutil
import pytest
import trio
from libp2p import new_host
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from multiaddr import Multiaddr

from swarm.errors import PeerUnreachable, ProtocolViolation, RemoteError
from swarm.network import Network, NetworkLimits, open_network
from swarm.network import multistream as ms
from swarm.network.identity import Identity
from swarm.network.muxer import Muxer, Stream
from swarm.network.peers import Peer
from swarm.network.secure import HANDSHAKE_ERRORS, MemberNoise, connect
from swarm.network.tcp import TcpStream, dial, parse_endpoint
from swarm.network.wire import (
    BLOB,
    CHUNK_HEADER,
    CONTROL,
    ChunksWanted,
    Message,
    Request,
    Response,
    control_decoder,
    encode_frame,
    read_frame,
)
from swarm.types import Address, Digest

KEYS = [hashlib.sha256(bytes([i])).digest() for i in range(4)]
ADDRESSES = [Identity(key).address for key in KEYS]
ROOT = Digest(b"r" * 32)
SHORT = NetworkLimits(handshake_s=0.4, read_stall_s=0.4)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(30):
            await scenario()

    trio.run(bounded)


async def until(condition: Callable[[], bool], within_s: float = 10) -> None:
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


async def echo(sender: Address, payload: bytes) -> bytes:
    return payload


def score(network: Network, of: Address = ADDRESSES[1]) -> dict[str, int]:
    return dict(network._peers[of].score)


@asynccontextmanager
async def honest_pair(limits: NetworkLimits = SHORT) -> AsyncIterator[tuple[Network, Network]]:
    """Nodes 0 and 2, connected; node 1 is a member too, and is played by the tests."""
    async with open_network(KEYS[0], limits=limits) as a, open_network(KEYS[2]) as c:
        a.handle("echo", echo)
        a.set_members({ADDRESSES[1]: (), c.address: c.addresses})
        c.set_members({a.address: a.addresses})
        await c.wait_connected([a.address], 5)
        yield a, c
        # Whatever happened in between, honest members still get their answers.
        assert await c.request(a.address, "echo", b"still", deadline_s=5) == b"still"


async def knock(network: Network | Elsewhere) -> TcpStream:
    return await dial(parse_endpoint(network.addresses[0]))


@asynccontextmanager
async def hostile_member(network: Network | Elsewhere) -> AsyncIterator[Muxer]:
    """Node 1, authenticated and multiplexed, with nothing of our code above that."""
    stream = await knock(network)
    noise = MemberNoise(Identity(KEYS[1]), lambda _: True)
    muxer = await connect(stream, noise, network.address, 2**26)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(muxer.run, 5.0)
            await muxer.event_started.wait()
            yield muxer
            nursery.cancel_scope.cancel()
    finally:
        await stream.close()


async def open_control(muxer: Muxer) -> Stream:
    stream = await muxer.open()
    await ms.propose(stream, CONTROL)
    return stream


async def ends(muxer: Muxer, within_s: float = 5) -> None:
    with trio.fail_after(within_s):
        await muxer.event_closed.wait()


# Strangers


def test_a_stock_libp2p_host_that_is_no_member_is_refused_in_the_handshake() -> None:
    async def scenario() -> None:
        async with honest_pair() as (a, _):
            ran: list[str] = []

            async def note(peer: Peer, stream: Stream) -> None:
                ran.append("stream")

            a._handlers.streams["/test/1"] = note
            stranger = new_host(key_pair=create_new_key_pair(KEYS[3]))
            async with stranger.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
                info = info_from_p2p_addr(Multiaddr(a.addresses[0]))
                stranger.get_peerstore().add_addrs(info.peer_id, info.addrs, 60)
                with pytest.raises(BaseLibp2pError):
                    await stranger.new_stream(info.peer_id, [TProtocol("/test/1")])
                await stranger.close()
            assert ran == []
            assert ADDRESSES[3] not in a.connected
            assert a.status()["refused_connections"] >= 1  # type: ignore[operator]

    run(scenario)


def test_a_stock_libp2p_host_with_a_members_key_speaks_to_us() -> None:
    async def scenario() -> None:
        async with honest_pair(NetworkLimits()) as (a, _):
            member = new_host(key_pair=create_new_key_pair(KEYS[1]))
            async with member.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
                info = info_from_p2p_addr(Multiaddr(a.addresses[0]))
                await member.connect(info)
                control = await member.new_stream(info.peer_id, [TProtocol(CONTROL)])
                await control.write(encode_frame(Request(5, "echo", b"hello")))
                await until(lambda: ADDRESSES[1] in a.connected)
                expected = encode_frame(Response(5, b"hello"))
                assert await control.read(len(expected)) == expected
                await member.close()

    run(scenario)


def test_a_stranger_that_proves_its_key_reads_nothing_but_the_end() -> None:
    async def scenario() -> None:
        async with honest_pair() as (a, _):
            stream = await knock(a)
            await ms.propose(stream, NOISE)
            noise = MemberNoise(Identity(KEYS[3]), lambda _: True)
            session = await noise.secure_outbound(stream, None)
            with pytest.raises(BaseLibp2pError, match="closed"):
                await session.read(1)

    run(scenario)


def test_lone_bytes_and_silence_are_ended_in_time() -> None:
    async def scenario() -> None:
        async with honest_pair() as (a, _):
            for opening in (b"", b"\x16", b"\x13", b"\x13/multistream/1.0.0\n\x07/noise\n\xff"):
                stream = await knock(a)
                start = trio.current_time()
                await stream.write(opening or b"\x13")
                with pytest.raises(BaseLibp2pError):
                    await stream.read(1000)
                assert trio.current_time() - start < 2
                await stream.close()

    run(scenario)


def test_random_handshakes_are_refused_logged_once_and_leave_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def play(network: Network, dice: random.Random) -> None:
        stream = await knock(network)
        try:
            with trio.move_on_after(3):
                if dice.random() < 0.8:
                    await ms.propose(stream, NOISE)
                if dice.random() < 0.5:  # a well-formed first message, whatever follows
                    key = dice.randbytes(32)
                    await stream.write(struct.pack(">H", 32) + key)
                for _ in range(dice.randrange(1, 4)):
                    body = dice.randbytes(dice.choice([0, 1, 31, 32, 96, 200, 5000]))
                    announced = dice.choice([len(body), len(body), 65_535])
                    await stream.write(struct.pack(">H", announced) + body)
                await stream.read(10_000)
        except (BaseLibp2pError, ms.NegotiationError):
            pass
        finally:
            await stream.close()

    async def scenario() -> None:
        async with honest_pair() as (a, _):
            for seed in range(0, 80, 8):
                async with trio.open_nursery() as nursery:
                    for i in range(8):
                        nursery.start_soon(play, a, random.Random(seed + i))
            await until(lambda: not a._half_open)
            assert a.status()["refused_connections"] >= 70  # type: ignore[operator]

    with caplog.at_level(logging.INFO, "swarm.network"):
        run(scenario)
    refusals = [r for r in caplog.records if r.message.startswith("refused a connection")]
    assert len(refusals) == 1


async def occupy(port: int, source: str, connections: int) -> None:
    """Hold so many silent connections from an address, each made anew as soon as it is closed."""

    async def hold() -> None:
        while True:
            with trio.socket.socket() as sock, suppress(OSError):
                await sock.bind((source, 0))
                await sock.connect(("127.0.0.1", port))
                await sock.recv(1)
            await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        for _ in range(connections):
            nursery.start_soon(hold)


@pytest.mark.parametrize(
    ("sources", "connections"),
    [
        ([f"127.0.0.{11 + n}" for n in range(4)], 16),  # one network
        ([f"127.{1 + n}.0.1" for n in range(12)], 16),  # more networks than there are places
    ],
)
def test_strangers_that_hold_connections_keep_no_member_out(sources, connections) -> None:
    async def scenario() -> None:
        limits = NetworkLimits(max_half_open=64)
        async with honest_pair(limits) as (a, c):
            port = parse_endpoint(a.addresses[0]).port
            async with trio.open_nursery() as nursery:
                for source in sources:
                    nursery.start_soon(occupy, port, source, connections)
                await until(lambda: len(a._half_open) >= 30)
                for _ in range(5):
                    c.set_members({})
                    await until(lambda: c.address not in a.connected)
                    c.set_members({a.address: a.addresses})
                    await c.wait_connected([a.address], 2)
                    assert len(a._half_open) <= limits.max_half_open
                nursery.cancel_scope.cancel()

    run(scenario)


def test_a_member_that_asks_and_never_reads_costs_few_tasks_and_is_closed() -> None:
    async def scenario() -> None:
        limits = NetworkLimits(take_stall_s=1.5)
        async with honest_pair(limits) as (a, _), hostile_member(a) as muxer:
            control = await open_control(muxer)
            await until(lambda: ADDRESSES[1] in a.connected)
            connection = a._peers[ADDRESSES[1]].connection
            assert connection is not None
            before = trio.lowlevel.current_statistics().tasks_living
            requests = b"".join(encode_frame(Request(i, "nothing", b"")) for i in range(500))
            highest = 0

            async def flood() -> None:
                with suppress(PeerUnreachable):
                    while True:
                        await control.write(requests)

            async def trickle() -> None:
                """Just enough window that the connection seems alive."""
                while not muxer.event_shutting_down.is_set():
                    await control._stream.send_window_update(64)
                    await trio.sleep(0.3)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(flood)
                nursery.start_soon(trickle)
                while ADDRESSES[1] in a.connected:
                    tasks = trio.lowlevel.current_statistics().tasks_living - before
                    highest = max(highest, tasks)
                    assert len(connection._frames) <= 2 * limits.max_inbound_requests + 1
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
            assert highest <= limits.max_inbound_requests + 4  # and the two of this test
            assert score(a)["too many requests at once"] > 16

    run(scenario)


NODE = """
import sys, trio
from swarm.network import open_network

async def main():
    async def never(sender, payload):
        await trio.sleep_forever()

    async with open_network(bytes.fromhex(sys.argv[1])) as network:
        network.handle("never", never)
        network.on_message("never", never)
        network.set_members({bytes.fromhex(sys.argv[2]): ()})
        print(network.addresses[0], flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@dataclass(frozen=True)
class Elsewhere:
    """A node in a process of its own, so that its memory can be told from ours."""

    process: subprocess.Popen[str]
    addresses: tuple[str, ...]
    address: Address = ADDRESSES[0]

    def resident_bytes(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    given = [sys.executable, "-c", NODE, KEYS[0].hex(), ADDRESSES[1].hex()]
    with subprocess.Popen(given, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Elsewhere(process, (process.stdout.readline().strip(),))
        process.kill()


def test_what_one_member_can_make_a_node_hold_is_bounded(elsewhere: Elsewhere) -> None:
    """Requests that are never answered, messages that are never done with, answers never read."""
    limits = NetworkLimits()
    large = bytes(limits.max_payload_bytes)
    before = elsewhere.resident_bytes()

    async def scenario() -> None:
        async with hostile_member(elsewhere) as muxer:
            control = await open_control(muxer)
            for number in range(limits.max_inbound_requests):
                await control.write(encode_frame(Request(number, "never", large)))
            for _ in range(20):
                await control.write(encode_frame(Message("never", large)))
            small = b"".join(encode_frame(Request(n, "never", b"")) for n in range(500))
            with trio.move_on_after(5):
                while True:
                    await control.write(small)

    run(scenario)
    held = limits.max_inbound_requests * len(large) + limits.max_queued_message_bytes
    # As much again for what is being read and has not been given back to the system.
    assert elsewhere.resident_bytes() - before < 2 * held < 100 * 2**20


def test_what_strangers_can_make_a_node_hold_is_bounded(elsewhere: Elsewhere) -> None:
    """Each of them sends as much as the handshake lets it, and stops."""
    limits = NetworkLimits()
    before = elsewhere.resident_bytes()
    message = b"\x13/multistream/1.0.0\n\x07/noise\n" + b"\xff\xff" + bytes(60_000)

    async def scenario() -> None:
        port = parse_endpoint(elsewhere.addresses[0]).port
        streams = []
        for number in range(2 * limits.max_half_open):
            sock = trio.socket.socket()
            await sock.bind((f"127.{1 + number % 100}.0.1", 0))
            await sock.connect(("127.0.0.1", port))
            streams.append(trio.SocketStream(sock))
            with suppress(trio.BrokenResourceError):
                await streams[-1].send_all(message)
        await trio.sleep(0.5)
        assert elsewhere.resident_bytes() - before < 64 * 2**20
        assert len(os.listdir(f"/proc/{elsewhere.process.pid}/fd")) < limits.max_half_open + 32
        for stream in streams:
            await stream.aclose()

    run(scenario)


def test_a_stream_whose_peer_takes_a_few_bytes_at_a_time_is_given_up() -> None:
    class Endless:
        def manifest(self, sender: Address, root: Digest) -> bytes:
            raise AssertionError

        def read_chunk(self, sender: Address, root: Digest, index: int) -> bytes:
            return bytes(2**20)

    async def scenario() -> None:
        async with honest_pair(NetworkLimits(take_stall_s=1.0)) as (a, _):
            a.serve_blobs(Endless())
            async with hostile_member(a) as muxer:
                await open_control(muxer)
                stream = await muxer.open()
                await ms.propose(stream, BLOB)
                await stream.write(encode_frame(ChunksWanted(ROOT, list(range(1000)))))
                connection = a._peers[ADDRESSES[1]].connection
                assert connection is not None
                await until(lambda: connection._streams == 1)
                with trio.fail_after(5):
                    while connection._streams:
                        await stream._stream.send_window_update(64)
                        await trio.sleep(0.1)

    run(scenario)


# Members


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xff\xff\xff" + bytes(100),  # 4 GiB announced
        struct.pack(">I", 2**22 + 1),
        struct.pack(">I", 5) + b"\xc1\xc1\xc1\xc1\xc1",  # not msgpack
        struct.pack(">I", 1) + b"\x07",  # not a frame
        struct.pack(">I", 6) + b"\x93\x01\xa1\xff\xc4\x00",  # a topic that is not UTF-8
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_garbage_on_the_control_stream_ends_the_connection_and_is_scored(garbage: bytes) -> None:
    async def scenario() -> None:
        async with honest_pair() as (a, _):
            async with hostile_member(a) as muxer:
                control = await open_control(muxer)
                await until(lambda: ADDRESSES[1] in a.connected)
                await control.write(garbage)
                await ends(muxer)
            assert score(a) == {"broke the control protocol": 1}
            assert ADDRESSES[1] not in a.connected

    run(scenario)


def test_half_a_frame_that_never_ends_is_given_up() -> None:
    async def scenario() -> None:
        async with honest_pair() as (a, _), hostile_member(a) as muxer:
            control = await open_control(muxer)
            await control.write(struct.pack(">I", 1000) + b"half")
            await ends(muxer, within_s=3)

    run(scenario)


def test_a_member_that_repeats_its_offence_is_logged_once_and_kept_out_longer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        async with honest_pair() as (a, _):
            for _ in range(2):
                await until(lambda: a._is_admitted(ADDRESSES[1]))
                async with hostile_member(a) as muxer:
                    control = await open_control(muxer)
                    await control.write(b"\xff" * 100)
                    await ends(muxer)
            peer = a._peers[ADDRESSES[1]]
            assert peer.refused_until - trio.current_time() > 0.5
            with pytest.raises((BaseLibp2pError, ms.NegotiationError)):
                async with hostile_member(a):
                    pass
            assert score(a) == {"broke the control protocol": 2}

    with caplog.at_level(logging.INFO, "swarm.network"):
        run(scenario)
    assert sum("broke the control protocol" in r.message for r in caplog.records) == 1


def test_a_fault_of_ours_ends_what_brought_it_to_light_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(*_: object) -> bytes:
        raise OverflowError("int too large")

    async def scenario() -> None:
        async with honest_pair() as (a, c):
            a.handle("fails", fail)
            a.on_message("fails", fail)  # type: ignore[arg-type]
            a._handlers.streams["/fails/1"] = fail  # type: ignore[assignment]
            for _ in range(2):
                with pytest.raises(RemoteError, match="failed inside this node"):
                    await c.request(a.address, "fails", b"", deadline_s=5)
                c.send(a.address, "fails", b"")
            async with hostile_member(a) as muxer:
                await open_control(muxer)
                await until(lambda: ADDRESSES[1] in a.connected)
                stream = await muxer.open()
                with suppress(PeerUnreachable):  # it may end before it is answered
                    await ms.propose(stream, "/fails/1")
                with pytest.raises(PeerUnreachable):
                    await stream.read(1)
            assert a.connected >= {c.address}
            assert score(a, c.address) == {}

    run(scenario)
    failed = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert len(failed) == 2  # the name, and the stream
    assert all("failed here" in message for message in failed)


def test_answers_nobody_waits_for_are_dropped() -> None:
    async def scenario() -> None:
        async with honest_pair() as (a, _), hostile_member(a) as muxer:
            control = await open_control(muxer)
            for i in range(50):
                await control.write(encode_frame(Response(i, b"unasked")))
            await control.write(encode_frame(Request(1, "echo", b"ping")))
            answer = await read_frame(control, control_decoder, 10_000, 2)
            assert answer == Response(1, b"ping")
            assert score(a) == {}

    run(scenario)


def test_of_one_members_connections_few_run_at_once_and_one_stays() -> None:
    async def scenario() -> None:
        async with honest_pair() as (a, _), AsyncExitStack() as stack:
            most = 0
            for _ in range(3 * NetworkLimits().max_connections):
                with suppress(*HANDSHAKE_ERRORS, PeerUnreachable):
                    muxer = await stack.enter_async_context(hostile_member(a))
                    await open_control(muxer)
                most = max(most, a._peers[ADDRESSES[1]].running)
            assert 0 < most <= NetworkLimits().max_connections
            await until(lambda: a._peers[ADDRESSES[1]].running == 1)

    run(scenario)


def test_streams_beyond_the_bound_and_without_a_known_protocol_are_reset() -> None:
    async def scenario() -> None:
        async with honest_pair() as (a, _), hostile_member(a) as muxer:
            await open_control(muxer)
            await until(lambda: ADDRESSES[1] in a.connected)
            for _ in range(40):
                await muxer.open()  # and says nothing
            await until(lambda: score(a).get("too many streams at once", 0) == 24)
            await until(lambda: score(a).get("broke the protocol of a stream", 0) == 16)
            unknown = await muxer.open()
            with pytest.raises(ms.NegotiationError, match="na"):
                await ms.propose(unknown, "/ipfs/kad/1.0.0")
            await unknown.reset()
            connection = a._peers[ADDRESSES[1]].connection
            assert connection is not None
            await until(lambda: len(connection._muxer.streams) <= 1)

    run(scenario)


def test_bytes_beyond_the_window_end_the_connection_before_they_fill_memory() -> None:
    async def scenario() -> None:
        limits = NetworkLimits(max_buffered_bytes=2**20)
        async with honest_pair(limits) as (a, _), hostile_member(a) as muxer:
            await open_control(muxer)

            async def never_read(peer: Peer, stream: Stream) -> None:
                await trio.sleep_forever()

            a._handlers.streams["/idle/1"] = never_read
            stream = await muxer.open()
            await ms.propose(stream, "/idle/1")
            frame = struct.pack("!BBHII", 0, 0, 0, stream._stream.stream_id, 2**15) + bytes(2**15)
            sent = 0
            with suppress(BaseLibp2pError):
                while sent < 1000:
                    await muxer._write_frame(frame)
                    sent += 1
            assert 2**20 // 2**15 <= sent < 1000
            await ends(muxer)

    run(scenario)


def test_a_flood_of_messages_is_bounded_and_answers_still_flow() -> None:
    async def scenario() -> None:
        async with honest_pair() as (a, _), hostile_member(a) as muxer:
            handled = 0

            async def slow(sender: Address, payload: bytes) -> None:
                nonlocal handled
                handled += 1
                await trio.sleep(0.01)

            a.on_message("flood", slow)
            control = await open_control(muxer)
            await control.write(encode_frame(Message("flood", b"x")) * 5000)
            await control.write(encode_frame(Request(1, "echo", b"ping")))
            answer = await read_frame(control, control_decoder, 10_000, 5)
            assert answer == Response(1, b"ping")
            assert a._peers[ADDRESSES[1]].dropped_messages > 3000

    run(scenario)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\xff\xff\xff\xff",
        struct.pack(">I", 3) + b"abc",
        struct.pack(">I", 4) + b"\x92\xc4\x01r",  # a root of one byte
        b"",
    ],
)
def test_a_malformed_fetch_is_reset_and_scored(request_bytes: bytes) -> None:
    class Never:
        def manifest(self, sender: Address, root: Digest) -> bytes:
            raise AssertionError

        def read_chunk(self, sender: Address, root: Digest, index: int) -> bytes:
            raise AssertionError

    async def scenario() -> None:
        async with honest_pair() as (a, _), hostile_member(a) as muxer:
            a.serve_blobs(Never())
            await open_control(muxer)
            stream = await muxer.open()
            await ms.propose(stream, BLOB)
            await stream.write(request_bytes)
            with pytest.raises(PeerUnreachable):
                await stream.read(1)
            await until(lambda: bool(score(a)))
            assert score(a) == {"broke the protocol of a stream": 1}
            assert ADDRESSES[1] in a.connected  # one bad stream is not the end

    run(scenario)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (CHUNK_HEADER.pack(1, 4) + b"data", ProtocolViolation),  # not the chunk asked for
        (CHUNK_HEADER.pack(0, 2**30) + b"data", ProtocolViolation),  # too large
        (CHUNK_HEADER.pack(0xFFFFFFFF, 2**20), ProtocolViolation),  # a refusal too long
        (CHUNK_HEADER.pack(0, 100) + b"half", PeerUnreachable),
        (b"", PeerUnreachable),
    ],
)
def test_a_server_that_sends_something_else_is_found_out(
    reply: bytes, error: type[Exception]
) -> None:
    async def scenario() -> None:
        async with honest_pair() as (a, c):

            async def cheat(peer: Peer, stream: Stream) -> None:
                await stream.read(10)
                await stream.write(reply)
                await stream.finish(1)

            a._handlers.streams[BLOB] = cheat
            got: list[bytes] = []
            with pytest.raises(error):
                await c.fetch_chunks(
                    a.address,
                    ROOT,
                    [0],
                    lambda chunks: got.extend(bytes(c) for _, c in chunks),
                    stall_s=2,
                )
            assert got == []
            assert bool(score(c, a.address)) == (error is ProtocolViolation)

    run(scenario)
