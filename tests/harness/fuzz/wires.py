"""Targets that listen: the node's one TCP port, as strangers and as a member reach it.

Two honest members keep a connection throughout, and must still get their answers. The third member
is the attacker: it has a key, so it gets as far as its bytes take it. What each layer is offered:

    stranger     the first bytes of a connection: multistream, Noise, TLS, or none of them
    yamux        frames of the multiplexer, inside the member's encrypted session
    control      frames on the control stream
    blob         a request on a blob stream
    bulk         tokens, and what else comes after the TLS handshake of the bulk channel
"""

from __future__ import annotations

import hashlib
import logging
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec
import outcome
import trio
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE

from harness.fuzz.campaign import ACCEPTED, Session, Target
from swarm.errors import RemoteError
from swarm.network import Network, NetworkLimits, open_network
from swarm.network import multistream as ms
from swarm.network.bulk import GRANT_METHOD
from swarm.network.identity import Identity
from swarm.network.muxer import YAMUX, Muxer, Stream
from swarm.network.secure import HANDSHAKE_ERRORS, MemberNoise, connect
from swarm.network.tcp import TcpStream, dial, parse_endpoint
from swarm.network.tls import TlsIdentity, handshake, when_ready
from swarm.network.wire import (
    BLOB,
    CONTROL,
    BulkWanted,
    ChunksWanted,
    ControlFrame,
    Message,
    Request,
    Response,
    control_decoder,
    encode_frame,
    grant_decoder,
    read_frame,
)
from swarm.types import Address, Digest

KEYS = [hashlib.sha256(b"fuzz %d" % number).digest() for number in range(3)]
IDENTITIES = [Identity(key) for key in KEYS]
LIAR = IDENTITIES[1]
LIMITS = NetworkLimits(handshake_s=1.0, read_stall_s=0.5, max_penalty_s=0.0)
"""Short patience; and the offender may come back at once, so that it can offend again."""
ROOT = Digest(b"r" * 32)
CHUNK = b"chunk " * 1000
MOMENT_S = 0.05
"""For an answer to what may well deserve none."""


def targets() -> list[Target]:
    """All of them."""
    return [
        Target("stranger", "bytes", partial(_open, strangers_samples, _as_stranger)),
        Target("yamux", "bytes", partial(_open, _yamux_samples, _as_multiplexer)),
        Target("control", "framed", partial(_open, _control_samples, _as_controller)),
        Target("blob", "framed", partial(_open, _blob_samples, _as_fetcher)),
        Target("bulk", "bytes", partial(_open, _bulk_samples, _as_bulk_peer)),
    ]


class _Blobs:
    """One blob with three chunks."""

    def manifest(self, sender: Address, root: Digest) -> bytes:
        return b"manifest"

    def read_chunk(self, sender: Address, root: Digest, index: int) -> bytes:
        if root != ROOT or index > 2:
            raise RemoteError("not here")
        return CHUNK


Samples = Callable[[], list[bytes]]
Attack = Callable[[Network, bytes], Awaitable[str]]


@asynccontextmanager
async def _open(samples: Samples, attack: Attack, directory: Path) -> AsyncIterator[Session]:
    warnings = _Warnings()
    async with open_network(KEYS[0], limits=LIMITS) as target, open_network(KEYS[2]) as friend:
        target.handle("echo", _echo)
        target.on_message("note", lambda sender, payload: None)
        target.serve_blobs(_Blobs())
        target.set_members({LIAR.address: (), friend.address: ()})
        friend.set_members({target.address: target.addresses})
        await friend.wait_connected([target.address], 10)

        async def offer(data: bytes) -> str:
            offences = _offences(target)
            with suppress(*HANDSHAKE_ERRORS, RemoteError):
                verdict = await attack(target, data)
                if verdict == ACCEPTED and _offences(target) == offences:
                    return ACCEPTED
            new = _offences(target) - offences
            return "scored" if new else "closed"

        async def check() -> None:
            with trio.fail_after(10):
                answer = await friend.request(target.address, "echo", b"still here", deadline_s=5)
            assert answer == b"still here"
            assert len(target._half_open) <= LIMITS.max_half_open

        valid = samples()
        logger = logging.getLogger("swarm.network")
        logger.addHandler(warnings)
        try:
            yield Session(lambda: valid, offer, check)
        finally:
            logger.removeHandler(warnings)
        warnings.require_few()


class _Warnings(logging.Handler):
    """However much is refused, a person reads each kind of it once."""

    MOST = 24

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def require_few(self) -> None:
        if len(self.lines) > self.MOST:
            raise AssertionError(f"{len(self.lines)} warnings: {self.lines[:: self.MOST]}")


def _offences(target: Network) -> int:
    peer = target._peers[LIAR.address]
    return sum(peer.score.values()) + target._refused_hosts.total()


async def _echo(sender: Address, payload: bytes) -> bytes:
    return payload


async def _knock(target: Network) -> TcpStream:
    return await dial(parse_endpoint(target.addresses[0]))


async def _answers(stream: TcpStream, within_s: float) -> str:
    """Whether anything but the end comes back within a moment."""
    verdict = "no answer"
    with trio.move_on_after(within_s):
        await stream.read(1)
        verdict = ACCEPTED
    return verdict


# Strangers.


def _line(text: str) -> bytes:
    return bytes([len(text) + 1]) + text.encode() + b"\n"


def strangers_samples() -> list[bytes]:
    opening = _line(ms.HEADER) + _line(str(NOISE))
    return [
        opening,
        opening + struct.pack(">H", 32) + bytes(range(32)),
        opening + struct.pack(">H", 32) + bytes(range(32)) + struct.pack(">H", 200) + b"x" * 200,
        _client_hello(),
        b"\x16\x03",
        b"GET / HTTP/1.1\r\n\r\n",
    ]


def _client_hello() -> bytes:
    """What a TLS client says first."""

    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = TlsIdentity(LIAR).context(server_side=False, trusted=())
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


async def _as_stranger(target: Network, data: bytes) -> str:
    """Accepted if it is answered at all: the first line of multistream deserves that."""
    stream = await _knock(target)
    try:
        await stream.write(data or b"\x13")
        return await _answers(stream, MOMENT_S)
    finally:
        await stream.close()


# A member, below the streams.


def _frame(kind: int, flags: int, stream: int, length: int, body: bytes = b"") -> bytes:
    return struct.pack("!BBHII", 0, kind, flags, stream, length) + body


def _yamux_samples() -> list[bytes]:
    hello = _line(ms.HEADER) + _line(CONTROL)
    return [
        _frame(1, 1, 1, 0) + _frame(0, 0, 1, len(hello), hello),
        _frame(1, 1, 3, 0) + _frame(0, 4, 3, 5, b"hello"),
        _frame(0, 1, 5, 3, b"abc"),
        _frame(1, 1 | 8, 7, 0),
        _frame(2, 1, 0, 77),
        _frame(2, 2, 0, 77),
        _frame(3, 0, 0, 1),
        _frame(1, 0, 1, 2**31),
        _frame(0, 0, 1, 2**24),
    ]


async def _as_multiplexer(target: Network, data: bytes) -> str:
    stream = await _knock(target)
    try:
        await ms.propose(stream, NOISE)
        noise = MemberNoise(LIAR, lambda _: True)
        session = await noise.secure_outbound(stream, None)
        await ms.propose(session, YAMUX)
        for start in range(0, len(data), 60_000):
            await session.write(data[start : start + 60_000])
        return await _answers(stream, MOMENT_S)
    finally:
        await stream.close()


# A member, on its streams.


async def _as_member(target: Network, talk: Callable[[Muxer], Awaitable[str]]) -> str:
    stream = await _knock(target)
    try:
        muxer = await connect(stream, MemberNoise(LIAR, lambda _: True), target.address, 2**26)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(muxer.run, 5.0)
            await muxer.event_started.wait()
            said = await outcome.acapture(talk, muxer)
            nursery.cancel_scope.cancel()
        return said.unwrap()
    finally:
        await stream.close()


async def _open_stream(muxer: Muxer, protocol: str) -> Stream:
    stream = await muxer.open()
    await ms.propose(stream, protocol)
    return stream


def _control_samples() -> list[bytes]:
    certificate = TlsIdentity(LIAR).der
    wanted = msgspec.msgpack.encode(BulkWanted(ROOT, [0, 1], certificate))
    return [
        encode_frame(Message("note", b"hello")),
        encode_frame(Request(1, "echo", b"hello")),
        encode_frame(Request(2, "blob.manifest", ROOT)),
        encode_frame(Request(3, GRANT_METHOD, wanted)),
        encode_frame(Response(4, b"unasked")),
        encode_frame(Response(5, None, "no")),
    ]


async def _as_controller(target: Network, data: bytes) -> str:
    async def talk(muxer: Muxer) -> str:
        control = await _open_stream(muxer, CONTROL)
        await control.write(data + encode_frame(Request(99, "echo", b"ping")))
        answer: ControlFrame | None = None
        with trio.move_on_after(4 * MOMENT_S):
            while answer != Response(99, b"ping"):
                answer = await read_frame(control, control_decoder, 2**22, 1.0)
        return ACCEPTED if answer == Response(99, b"ping") else "no answer"

    return await _as_member(target, talk)


def _blob_samples() -> list[bytes]:
    return [
        encode_frame(ChunksWanted(ROOT, [0, 1, 2])),
        encode_frame(ChunksWanted(ROOT, [2] * 50)),
        encode_frame(ChunksWanted(bytes(32), [0])),
    ]


async def _as_fetcher(target: Network, data: bytes) -> str:
    async def talk(muxer: Muxer) -> str:
        await _open_stream(muxer, CONTROL)
        stream = await _open_stream(muxer, BLOB)
        await stream.write(data)
        verdict = "no answer"
        with trio.move_on_after(4 * MOMENT_S):
            await stream.read(8)
            verdict = ACCEPTED
        return verdict

    return await _as_member(target, talk)


def _bulk_samples() -> list[bytes]:
    return [b"T" * 32, b"T" * 32 + bytes(32), b"T" * 31]


async def _as_bulk_peer(target: Network, data: bytes) -> str:
    """A good grant; `T` * 32 in the input stands for its token."""
    mine = TlsIdentity(LIAR)

    async def talk(muxer: Muxer) -> str:
        control = await _open_stream(muxer, CONTROL)
        wanted = msgspec.msgpack.encode(BulkWanted(ROOT, [0, 1], mine.der))
        await control.write(encode_frame(Request(1, GRANT_METHOD, wanted)))
        answer = await read_frame(control, control_decoder, 2**22, 1.0)
        assert isinstance(answer, Response)
        grant = grant_decoder.decode(answer.payload or b"")
        raw = (await _knock(target)).detach()
        context = mine.context(server_side=False, trusted=[grant.certificate])
        with await handshake(raw, context, server_side=False) as secured:
            return await _exchange(secured, data.replace(b"T" * 32, grant.token))

    return await _as_member(target, talk)


async def _exchange(secured: ssl.SSLSocket, data: bytes) -> str:
    verdict = "no answer"
    with trio.move_on_after(4 * MOMENT_S):
        await when_ready(secured, partial(secured.send, data or b"\0"))
        if await when_ready(secured, partial(secured.recv, 1)):
            verdict = ACCEPTED
    return verdict
