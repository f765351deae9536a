"""The bulk channel: blobs at the speed of the wire, beside libp2p on the node's one TCP port.

Noise and yamux in Python reach a sixth of what TLS in OpenSSL does, so libp2p keeps what it is good
at (who is there, who may what) and the bytes go beside it:

    wants the blob                                   has the blob
    GRANT_METHOD request: chunks, certificate  ──▶   a token for them, certificate, port
    TCP and TLS 1.3, both certificates known   ──▶   accepts the member's, nothing else
    token                                      ──▶   redeems it
                                               ◀──   the chunks

Whoever wants the blob dials, or has its owner dial (`bulk_connections`): the rest is the same. A
connection is kept for a minute, and carries one fetch after the other. A fetch has two threads on
the side that writes, one on the side that reads; whoever only waits (for a handshake, for the next
token) has none. Where no such connection can be made, behind a relay say, `fetch` raises
BulkUnavailable before any chunk has come, and the caller goes on over libp2p.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import msgspec
import outcome
import trio

from swarm.errors import (
    UNREADABLE,
    LocalError,
    PeerUnreachable,
    ProtocolViolation,
    RemoteError,
)
from swarm.network.bulk_connections import BulkConnections, BulkUnavailable, Way
from swarm.network.bulk_transfer import Buffers, ChunkReader, Receiving, Sending, Take, sever
from swarm.network.connection import Connection
from swarm.network.identity import Identity
from swarm.network.limits import NetworkLimits
from swarm.network.pacing import Pacer
from swarm.network.peer_standing import Standing
from swarm.network.peers import Peer
from swarm.network.stream_relay import Relay, StreamEnd, StreamHost
from swarm.network.tickets import TOKEN_BYTES, Tickets
from swarm.network.tls import TlsIdentity, Trust, handshake, read_exactly, send_all
from swarm.network.wire import (
    BulkGrant,
    BulkWanted,
    StreamWanted,
    call_decoder,
    grant_decoder,
    short,
    stream_decoder,
    want_decoder,
)
from swarm.types import Address, Digest, to_hex

log = logging.getLogger("swarm.network")

GRANT_METHOD = "blob.bulk"
STREAM_METHOD = "stream.open"
KEEP_S = 60.0
"""How long an unused connection is kept by the side that serves."""
FETCHES_AT_ONCE = 32
SENDERS_AT_ONCE = 256
STREAMS_AT_ONCE = 256
"""Threads. Members share the link, not these: one that reads slowly keeps no other waiting."""
T = TypeVar("T")


class BulkChannel:
    """Both sides of it, for one node. `peers` is the network's own table of members."""

    def __init__(
        self,
        identity: Identity,
        peers: Mapping[Address, Peer],
        ports: Sequence[int],
        limits: NetworkLimits,
        pacer: Pacer,
    ) -> None:
        self._peers = peers
        self._ports = list(ports)
        self._limits = limits
        self._pacer = pacer
        self._identity = TlsIdentity(identity)
        self._trust = Trust(self._identity)
        self._connections = BulkConnections(peers, ports, self._trust)
        self._tickets = Tickets()
        self._buffers = Buffers(limits.max_chunk_bytes)
        self._reader: ChunkReader | None = None
        self._live: defaultdict[Address, set[ssl.SSLSocket]] = defaultdict(set)
        self._serving: defaultdict[Address, int] = defaultdict(int)
        self._dialling: defaultdict[Address, int] = defaultdict(int)
        self._nursery: trio.Nursery | None = None
        self._fault_logged = False
        self._fetches = trio.CapacityLimiter(FETCHES_AT_ONCE)
        self._senders = trio.CapacityLimiter(SENDERS_AT_ONCE)
        self._receivers = trio.CapacityLimiter(2 * FETCHES_AT_ONCE)
        self._relays = trio.CapacityLimiter(STREAMS_AT_ONCE)
        self._host: StreamHost | None = None

    # Members

    def forget(self, member: Address) -> None:
        """A member is none any more: end what it has here, refuse what it holds."""
        self._tickets.forget(member)
        self._connections.forget(member)
        for secured in tuple(self._live.get(member, ())):
            sever(secured)
        self._trust.forget(member)

    def try_again(self, member: Address) -> None:
        """A member is connected anew: what failed before may work now."""
        self._connections.try_again(member)

    def close(self) -> None:
        self._connections.close()

    async def run(self) -> None:
        """Serve those that were called back, for as long as the network is open."""
        async with trio.open_nursery() as self._nursery:
            await trio.sleep_forever()

    # Serving

    def serve(self, reader: ChunkReader) -> None:
        self._reader = reader

    async def grant(self, sender: Address, payload: bytes) -> bytes:
        """Answer GRANT_METHOD: a token for these chunks. The provider is asked when they go."""
        wanted = want_decoder.decode(payload)
        if len(wanted.indices) > self._limits.max_chunks_per_fetch:
            raise ProtocolViolation(f"{len(wanted.indices)} chunks in one fetch")
        if sender not in self._peers:
            raise RemoteError("you are no member any more")
        self._trust.note(sender, wanted.certificate)
        now = trio.current_time()
        token = self._tickets.issue(sender, Digest(wanted.root), wanted.indices, now)
        return msgspec.msgpack.encode(BulkGrant(token, self._identity.der, self._ports))

    def host(self, host: StreamHost) -> None:
        self._host = host

    async def grant_stream(self, sender: Address, payload: bytes) -> bytes:
        """Answer STREAM_METHOD: a token for this stream."""
        wanted = stream_decoder.decode(payload)
        if self._host is None or sender not in self._peers:
            raise RemoteError("no streams end here for you")
        self._host.admit(sender, wanted.name)
        self._trust.note(sender, wanted.certificate)
        token = self._tickets.issue_stream(sender, wanted.name, trio.current_time())
        return msgspec.msgpack.encode(BulkGrant(token, self._identity.der, self._ports))

    async def welcome(self, raw: socket.socket) -> tuple[ssl.SSLSocket, Peer]:
        """Accept TLS from a member. Raises OSError; the caller sets the deadline."""
        secured = await handshake(raw, self._trust.server_context, server_side=True)
        member = self._trust.owner_of(secured.getpeercert(binary_form=True))
        if member is not None and member in self._peers:
            return secured, self._peers[member]
        secured.close()
        raise ConnectionRefusedError("the certificate is no member's")

    async def serve_connection(self, secured: ssl.SSLSocket, peer: Peer) -> None:
        """Send what tokens are good for, until the peer ends the connection or leaves it unused.

        If it answers a call of ours, the connection is handed on instead.
        """
        member = peer.address
        is_ours = False
        if self._serving[member] >= self._limits.max_bulk_connections:
            peer.blame("too many bulk connections at once", self._serving[member])
            secured.close()
            return
        self._serving[member] += 1
        try:
            with self._alive(secured, member):
                token = await _next_token(secured)
                is_ours = self._connections.answered(token, member, secured)
                if not is_ours:
                    await self._redeem_tokens(secured, peer, token)
        except (OSError, trio.TooSlowError):
            pass  # the peer ended it, left it or came too late: its right
        except ProtocolViolation as error:
            peer.blame("bad bulk token", error)
        except (RemoteError, LocalError) as error:
            log.info("a stream of %s ended: %s", to_hex(member), short(error))
        except Exception:
            # A fault of ours that a fetch brings to light ends the fetch.
            if not self._fault_logged:
                self._fault_logged = True
                log.exception("a fetch by %s failed here", to_hex(member))
        finally:
            self._serving[member] -= 1
            if not is_ours:
                secured.close()

    async def call(self, sender: Address, payload: bytes) -> bytes:
        """Answer CALL_METHOD: dial the sender, which fetches over that connection.

        At addresses that this node dials for itself, and nowhere else.
        """
        wanted = call_decoder.decode(payload)
        peer = self._peers.get(sender)
        if peer is None or peer.connection is None or self._nursery is None:
            raise RemoteError("you are not connected any more")
        if self._serving[sender] + self._dialling[sender] >= self._limits.max_bulk_connections:
            raise RemoteError("you have as many bulk connections as you may")
        self._dialling[sender] += 1
        try:
            with trio.fail_after(self._limits.handshake_s):
                secured = await self._connections.dial(peer.connection, wanted.ports)
                await send_all(secured, wanted.token)
        except (OSError, trio.TooSlowError) as error:
            reason = error if isinstance(error, OSError) else f"{self._limits.handshake_s:g} s"
            raise RemoteError(f"you cannot be dialled from here: {short(reason)}") from error
        finally:
            self._dialling[sender] -= 1
        self._nursery.start_soon(self.serve_connection, secured, peer)
        return b""

    async def _redeem_tokens(self, secured: ssl.SSLSocket, peer: Peer, token: bytes) -> None:
        while True:
            if self._peers.get(peer.address) is not peer:
                return
            ticket = self._tickets.redeem(token, peer.address, trio.current_time())
            if ticket.stream and self._host is not None:
                await self._relay(secured, peer, self._host.join(peer.address, ticket.stream))
            if ticket.stream or self._reader is None:
                return
            sending = Sending(
                secured, peer, ticket, self._reader, self._pacer, self._limits.write_stall_s
            )
            await _in_thread(sending.run, sending.stop, self._senders)
            secured.setblocking(False)
            token = await _next_token(secured)

    # Fetching

    async def fetch(
        self,
        connection: Connection,
        root: Digest,
        indices: Sequence[int],
        take: Take,
        stall_s: float,
    ) -> None:
        """Fetch chunks over a connection of their own.

        Raises BulkUnavailable if there is none to be had; otherwise as `Network.fetch_chunks`.
        """
        peer = connection.peer
        if not self._connections.ways_to(connection):
            raise BulkUnavailable("it failed a moment ago")
        async with self._fetches:
            try:
                await self._fetch(connection, root, indices, take, stall_s)
            except BulkUnavailable as reason:
                log.info("no bulk connection to %s: %s", to_hex(peer.address), reason)
                raise
            except ProtocolViolation as error:
                peer.blame("broke the blob protocol", error)
                raise

    async def _fetch(
        self,
        connection: Connection,
        root: Digest,
        indices: Sequence[int],
        take: Take,
        stall_s: float,
    ) -> None:
        peer = connection.peer
        wanted = BulkWanted(root, list(indices), self._identity.der)
        grant = await self._ask(connection, wanted, stall_s)
        kept = self._connections.take_kept(peer.address)
        patience_s = min(self._limits.handshake_s, stall_s / 2)  # the rest is for libp2p
        secured = kept or await self._connections.connect(connection, grant.ports, patience_s)
        reusable = False
        try:
            with self._alive(secured, peer.address), self._buffers.lend() as buffers:
                receiving = Receiving(secured, peer, indices, take, buffers, stall_s)
                async with trio.open_nursery() as nursery:
                    for work in (receiving.hand_over, partial(receiving.receive, grant.token)):
                        nursery.start_soon(_in_thread, work, receiving.stop, self._receivers)
            reusable = receiving.is_in_step
        finally:
            if reusable and self._peers.get(peer.address) is peer:
                self._connections.keep(peer.address, secured)
            else:
                secured.close()
        if receiving.fault is None:
            return
        if not receiving.ended_unused:
            raise receiving.fault
        if kept is None:
            self._connections.doubt(peer.address, *Way)
            raise BulkUnavailable(short(receiving.fault))
        await self._fetch(connection, root, indices, take, stall_s)  # with the next, or a new one

    # Streams

    async def carry(
        self, connection: Connection, name: bytes, end: StreamEnd, patience_s: float
    ) -> None:
        """Open the stream of this name to the peer, and carry it until either side ends it.

        Raises BulkUnavailable if there is no connection or the peer refuses, and what a `Relay`
        does; a ProtocolViolation has been scored.
        """
        wanted = StreamWanted(name, self._identity.der)
        grant = await self._ask(connection, wanted, patience_s, STREAM_METHOD)
        wait_s = min(self._limits.handshake_s, patience_s)
        secured = await self._connections.connect(connection, grant.ports, wait_s)
        try:
            with trio.fail_after(self._limits.handshake_s):
                await send_all(secured, grant.token)
            await self._relay(secured, connection.peer, end)
        except (OSError, trio.TooSlowError) as error:
            raise PeerUnreachable(f"the stream broke: {short(error)}") from error
        finally:
            secured.close()

    async def _relay(self, secured: ssl.SSLSocket, peer: Standing, end: StreamEnd) -> None:
        relay = Relay(end, secured, peer, self._pacer, self._limits.read_stall_s)
        try:
            with self._alive(secured, peer.address):
                await _in_thread(relay.run, relay.stop, self._relays)
        except ProtocolViolation as error:
            peer.blame("broke the protocol of streams", error)
            raise RemoteError(str(error)) from error
        finally:
            end.near.close()

    async def _ask(
        self,
        connection: Connection,
        wanted: BulkWanted | StreamWanted,
        stall_s: float,
        method: str = GRANT_METHOD,
    ) -> BulkGrant:
        with trio.move_on_after(stall_s) as patience:
            try:
                answer = await connection.request(method, msgspec.msgpack.encode(wanted))
                grant = grant_decoder.decode(answer)
            except PeerUnreachable:
                raise
            except RemoteError as error:
                raise BulkUnavailable(short(error)) from error
            except UNREADABLE as error:
                raise ProtocolViolation(f"a grant that cannot be read: {error}") from error
        if patience.cancelled_caught:
            raise PeerUnreachable(f"the peer granted nothing for {stall_s:g} s")
        if connection.peer.address in self._peers:  # or it has just ceased to be a member
            self._trust.note(connection.peer.address, grant.certificate)
        return grant

    @contextmanager
    def _alive(self, secured: ssl.SSLSocket, member: Address) -> Iterator[None]:
        """In use: `forget` ends it."""
        self._live[member].add(secured)
        try:
            yield
        finally:
            self._live[member].discard(secured)


async def _next_token(secured: ssl.SSLSocket) -> bytes:
    """Raises OSError or TooSlowError if the peer ends the connection or leaves it unused."""
    with trio.fail_after(KEEP_S):
        return await read_exactly(secured, TOKEN_BYTES)


async def _in_thread(
    function: Callable[[], T], stop: Callable[[], None], limiter: trio.CapacityLimiter
) -> T:
    """Run blocking work in a thread; if this task is cancelled, `stop` makes it end at once.

    Unlike an abandoned thread, it has ended when this returns: the socket may be closed then.
    """
    has_ended = False

    async def stop_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            if not has_ended:
                stop()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_when_cancelled)
        result = await trio.to_thread.run_sync(outcome.capture, function, limiter=limiter)
        has_ended = True
        nursery.cancel_scope.cancel()
    unwrapped: T = result.unwrap()
    return unwrapped
