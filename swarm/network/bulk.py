"""The bulk channel: blobs at the speed of the wire, beside libp2p on the node's one TCP port.

Noise and yamux in Python reach a sixth of what TLS in OpenSSL does, so libp2p keeps what it is good
at (who is there, who may what) and the bytes go beside it:

    wants the blob                                   has the blob
    GRANT_METHOD request: chunks, certificate  ──▶   a token for them, certificate, port
    TCP and TLS 1.3, both certificates known   ──▶   accepts the member's, nothing else
    token                                      ──▶   redeems it
                                               ◀──   the chunks

A connection is kept for a minute, and carries one fetch after the other. A fetch has two threads on
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
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import msgspec
import outcome
import trio

from swarm.errors import UNREADABLE, PeerUnreachable, ProtocolViolation, RemoteError
from swarm.network import tcp
from swarm.network.bulk_transfer import Buffers, ChunkReader, Receiving, Sending, Take, sever
from swarm.network.connection import Connection
from swarm.network.identity import Identity
from swarm.network.limits import NetworkLimits
from swarm.network.pacing import Pacer
from swarm.network.peers import Peer
from swarm.network.tickets import TOKEN_BYTES, Tickets
from swarm.network.tls import TlsIdentity, check_certificate, handshake, read_exactly
from swarm.network.wire import BulkGrant, BulkWanted, grant_decoder, short, want_decoder
from swarm.types import Address, Digest, to_hex

log = logging.getLogger("swarm.network")

GRANT_METHOD = "blob.bulk"
KEEP_S, KEEP_OURS_S = 60.0, 45.0
"""How long an unused connection is kept by the side that serves and by the side that dialled."""
RETRY_AFTER_S = 60.0
FETCHES_AT_ONCE = 32
SENDERS_AT_ONCE = 256
"""Threads. Members share the link, not these: one that reads slowly keeps no other waiting."""
T = TypeVar("T")


class BulkUnavailable(Exception):
    """There is no bulk connection to be had, and nothing was fetched. Stays in this package."""


@dataclass
class _Kept:
    """A connection between two fetches."""

    secured: ssl.SSLSocket
    since: float


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
        self._certificates: dict[Address, bytes] = {}
        self._server_context = self._identity.context(server_side=True, trusted=())
        self._client_contexts: dict[Address, tuple[bytes, ssl.SSLContext]] = {}
        self._tickets = Tickets()
        self._buffers = Buffers(limits.max_chunk_bytes)
        self._reader: ChunkReader | None = None
        self._live: defaultdict[Address, set[ssl.SSLSocket]] = defaultdict(set)
        self._serving: defaultdict[Address, int] = defaultdict(int)
        self._kept: defaultdict[Address, list[_Kept]] = defaultdict(list)
        self._retry_at: dict[Address, float] = {}
        self._fault_logged = False
        self._fetches = trio.CapacityLimiter(FETCHES_AT_ONCE)
        self._senders = trio.CapacityLimiter(SENDERS_AT_ONCE)
        self._receivers = trio.CapacityLimiter(2 * FETCHES_AT_ONCE)

    # Members

    def forget(self, member: Address) -> None:
        """A member is none any more: end what it has here, refuse what it holds."""
        self._tickets.forget(member)
        self._client_contexts.pop(member, None)
        self._retry_at.pop(member, None)
        self._close_kept(member)
        for secured in tuple(self._live.get(member, ())):
            sever(secured)
        if self._certificates.pop(member, None) is not None:
            self._trust_certificates()

    def try_again(self, member: Address) -> None:
        """A member is connected anew: what failed before may work now."""
        self._retry_at.pop(member, None)

    def close(self) -> None:
        for member in tuple(self._kept):
            self._close_kept(member)

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
        if self._certificates.get(sender) != wanted.certificate:
            check_certificate(wanted.certificate, sender)
            self._certificates[sender] = wanted.certificate
            self._trust_certificates()
        now = trio.current_time()
        token = self._tickets.issue(sender, Digest(wanted.root), wanted.indices, now)
        return msgspec.msgpack.encode(BulkGrant(token, self._identity.der, self._ports))

    async def welcome(self, raw: socket.socket) -> tuple[ssl.SSLSocket, Peer]:
        """Accept TLS from a member. Raises OSError; the caller sets the deadline."""
        secured = await handshake(raw, self._server_context, server_side=True)
        shown = secured.getpeercert(binary_form=True)
        for member, certificate in self._certificates.items():
            if certificate == shown and member in self._peers:
                return secured, self._peers[member]
        secured.close()
        raise ConnectionRefusedError("the certificate is no member's")

    async def serve_connection(self, secured: ssl.SSLSocket, peer: Peer) -> None:
        """Send what tokens are good for, until the peer ends the connection or leaves it unused."""
        member = peer.address
        if self._serving[member] >= self._limits.max_bulk_connections:
            peer.blame("too many bulk connections at once", self._serving[member])
            secured.close()
            return
        self._serving[member] += 1
        try:
            with self._alive(secured, member):
                await self._redeem_tokens(secured, peer)
        except (OSError, trio.TooSlowError):
            pass  # the peer ended it, left it or came too late: its right
        except ProtocolViolation as error:
            peer.blame("bad bulk token", error)
        except Exception:
            # A fault of ours that a fetch brings to light ends the fetch.
            if not self._fault_logged:
                self._fault_logged = True
                log.exception("a fetch by %s failed here", to_hex(member))
        finally:
            self._serving[member] -= 1
            secured.close()

    async def _redeem_tokens(self, secured: ssl.SSLSocket, peer: Peer) -> None:
        while True:
            with trio.fail_after(KEEP_S):
                token = await read_exactly(secured, TOKEN_BYTES)
            if self._reader is None or self._peers.get(peer.address) is not peer:
                return
            ticket = self._tickets.redeem(token, peer.address, trio.current_time())
            sending = Sending(
                secured, peer, ticket, self._reader, self._pacer, self._limits.write_stall_s
            )
            await _in_thread(sending.run, sending.stop, self._senders)
            secured.setblocking(False)

    def _trust_certificates(self) -> None:
        trusted = self._certificates.values()
        self._server_context = self._identity.context(server_side=True, trusted=trusted)

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
        if trio.current_time() < self._retry_at.get(peer.address, 0.0):
            raise BulkUnavailable("it failed a moment ago")
        async with self._fetches:
            try:
                await self._fetch(connection, root, indices, take, stall_s)
            except BulkUnavailable as reason:
                self._retry_at[peer.address] = trio.current_time() + RETRY_AFTER_S
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
        kept = self._take_kept(peer.address)
        secured = kept or await self._connect(connection, grant)
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
                secured.setblocking(False)
                self._kept[peer.address].append(_Kept(secured, trio.current_time()))
            else:
                secured.close()
        if receiving.fault is None:
            return
        if not receiving.ended_unused:
            raise receiving.fault
        if kept is None:
            raise BulkUnavailable(short(receiving.fault))
        await self._fetch(connection, root, indices, take, stall_s)  # with the next, or a new one

    async def _ask(self, connection: Connection, wanted: BulkWanted, stall_s: float) -> BulkGrant:
        with trio.move_on_after(stall_s) as patience:
            try:
                answer = await connection.request(GRANT_METHOD, msgspec.msgpack.encode(wanted))
                grant = grant_decoder.decode(answer)
            except PeerUnreachable:
                raise
            except RemoteError as error:
                raise BulkUnavailable(short(error)) from error
            except UNREADABLE as error:
                raise ProtocolViolation(f"a grant that cannot be read: {error}") from error
        if patience.cancelled_caught:
            raise PeerUnreachable(f"the peer granted nothing for {stall_s:g} s")
        return grant

    async def _connect(self, connection: Connection, grant: BulkGrant) -> ssl.SSLSocket:
        """Dial the peer where it is known to be, and accept only the certificate it sent."""
        context = self._client_context(connection.peer.address, grant.certificate)
        reason = "no address"
        with trio.move_on_after(self._limits.handshake_s) as patience:
            for endpoint in self._endpoints(connection, grant):
                try:
                    stream = await tcp.dial(endpoint)
                    raw = stream.detach()
                    await stream.close()
                    return await handshake(raw, context, server_side=False)
                except OSError as error:
                    reason = f"{endpoint}: {error.strerror or error}"
        if patience.cancelled_caught:
            reason = f"not in {self._limits.handshake_s:g} s"
        raise BulkUnavailable(reason)

    def _endpoints(self, connection: Connection, grant: BulkGrant) -> Iterator[tcp.Endpoint]:
        """Where the peer listens: where it was dialled, where it may be dialled, where it is."""
        host, _, port = connection.remote.rpartition(":")
        protocol = "ip6" if ":" in host else "ip4"
        address = connection.peer.address
        if connection.dialler != address:
            yield tcp.Endpoint(host, int(port), protocol)
            return
        if address in self._peers:  # or it has just ceased to be a member
            yield from self._peers[address].endpoints
        for listening in grant.ports:
            yield tcp.Endpoint(host, listening, protocol)

    def _client_context(self, member: Address, certificate: bytes) -> ssl.SSLContext:
        known = self._client_contexts.get(member)
        if known is None or known[0] != certificate:
            check_certificate(certificate, member)
            context = self._identity.context(server_side=False, trusted=[certificate])
            known = self._client_contexts[member] = (certificate, context)
        return known[1]

    def _take_kept(self, member: Address) -> ssl.SSLSocket | None:
        """A connection of an earlier fetch that is still whole, the one that was used last.

        Those that nobody has needed for long are closed: they were for more fetches at once.
        """
        since = trio.current_time() - KEEP_OURS_S
        old = [each for each in self._kept[member] if each.since < since]
        kept = self._kept[member] = [each for each in self._kept[member] if each.since >= since]
        for each in old:
            each.secured.close()
        while kept:
            candidate = kept.pop()
            if _is_quiet(candidate.secured):
                return candidate.secured
            candidate.secured.close()
        return None

    def _close_kept(self, member: Address) -> None:
        for each in self._kept.pop(member, ()):
            each.secured.close()

    @contextmanager
    def _alive(self, secured: ssl.SSLSocket, member: Address) -> Iterator[None]:
        """In use: `forget` ends it."""
        self._live[member].add(secured)
        try:
            yield
        finally:
            self._live[member].discard(secured)


def _is_quiet(secured: ssl.SSLSocket) -> bool:
    """Whether a connection between two fetches has neither ended nor brought anything."""
    try:
        secured.recv(1)
    except ssl.SSLWantReadError:
        return True
    except OSError:
        pass
    return False


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
