"""The network of one node: a connection to every member, kept alive, and nothing for strangers.

The parts of libp2p that make peers interoperable are used: PeerIDs, multiaddrs, Noise, yamux, and
its negotiation (`multistream`), so that any libp2p host with a member's key can speak to a node.
Its own host and swarm are not: they dial one address of a peer, blacklist it for a minute when that
fails, wait 250 ms and a round of identify per connection, leak a task per inbound one, and bring
discovery, pruning and retries, where a consortium needs one live connection to each of a few known
members. That is this module.

**One connection per member.** Every node dials every member it has no connection to; the lower
address goes first, the other leaves it a moment. If both dialled at once, two young connections
exist, and both sides keep the one that the lower address dialled. Otherwise a second connection
means that the peer has lost the first (it restarted, say), and the newer one is kept.
"""

from __future__ import annotations

import logging
import random
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager

import trio
from multiaddr import Multiaddr

from swarm.errors import ConfigurationError, LocalError, PeerUnreachable
from swarm.network import tcp
from swarm.network.blob_exchange import MANIFEST_METHOD, BlobProvider, BlobServer, fetch_chunks
from swarm.network.bulk import GRANT_METHOD, STREAM_METHOD, BulkChannel
from swarm.network.bulk_connections import CALL_METHOD, BulkUnavailable
from swarm.network.bulk_transfer import Take
from swarm.network.connection import Connection, Handlers, MessageHandler, RequestHandler
from swarm.network.dial_rules import DialRefused, DialRules
from swarm.network.half_open import HalfOpen
from swarm.network.identity import Identity, address_of
from swarm.network.limits import NetworkLimits
from swarm.network.muxer import Muxer
from swarm.network.pacing import Pacer
from swarm.network.peer_services import IDENTIFY, PING, Introduction, answer_pings
from swarm.network.peers import FailedDial, Peer, PeerTraffic, Traffic
from swarm.network.secure import HANDSHAKE_ERRORS, MemberNoise, NotAMember, connect, welcome
from swarm.network.signals import Signal
from swarm.network.stream_relay import StreamEnd, StreamHost
from swarm.network.wire import BLOB, short
from swarm.types import Address, Digest, to_hex

log = logging.getLogger("swarm.network")

DEFAULT_LISTEN = ("/ip4/127.0.0.1/tcp/0",)
DEFAULT_LIMITS = NetworkLimits()
DEFAULT_RULES = DialRules(())
NOT_COUNTED = "it does not count this one as a member"
MAX_LOGGED_HOSTS = 256
MAX_PORTS = 4
TLS_OPENING = b"\x16\x03"
"""How TLS begins (RFC 8446, section 5.1); libp2p begins otherwise, whatever follows."""


class Network:
    """Made by `open_network`. Peers are named by node address throughout."""

    def __init__(
        self,
        identity: Identity,
        endpoints: Sequence[tcp.Endpoint],
        limits: NetworkLimits,
        rules: DialRules,
    ) -> None:
        self.peer_id = str(identity.peer_id)
        self.address = identity.address
        self.addresses = tuple(e.multiaddr(identity.peer_id) for e in endpoints)
        self._limits = limits
        self._rules = rules
        self._noise = MemberNoise(identity, self._is_admitted)
        self._handlers = Handlers()
        listening = [Multiaddr(str(endpoint)) for endpoint in endpoints]
        spoken = self._handlers.streams
        spoken[PING] = answer_pings
        spoken[IDENTIFY] = Introduction(identity, listening, spoken.keys()).tell
        self._peers: dict[Address, Peer] = {}
        self._former = PeerTraffic()
        self._on_connect: list[Callable[[Address], None]] = []
        self._changed = Signal()
        self._half_open = HalfOpen(
            limits.max_half_open, limits.max_half_open_per_subnet, limits.max_half_open_per_host
        )
        self._refused_hosts: Counter[str] = Counter()
        self._nursery: trio.Nursery | None = None
        self._pacer = Pacer(limits.max_upload_bytes_per_s)
        ports = list(dict.fromkeys(endpoint.port for endpoint in endpoints))[:MAX_PORTS]
        self._bulk = BulkChannel(identity, self._peers, ports, limits, self._pacer)

    # Members

    def set_members(
        self,
        members: Mapping[Address, Sequence[str]],
        stated: Collection[Address] = (),
        observers: Collection[Address] = (),
    ) -> None:
        """Say who may connect, and where each member is dialled (multiaddrs, possibly none).
        `observers` among them are answered what `serve_observers` says, and nothing else.

        Whoever is no longer listed is cut off at once. A multiaddr that cannot be used is skipped
        and logged. Those of `stated` members are the members' own word: the dial rules bound them.
        """
        for address in set(self._peers) - set(members):
            self._drop(self._peers.pop(address))
        for address, texts in members.items():
            if address == self.address:
                continue
            endpoints = self._usable_endpoints(address, texts)
            peer = self._peers.get(address)
            if peer is None:
                peer = self._peers[address] = Peer(address, endpoints=endpoints)
                if self._nursery is not None:
                    self._nursery.start_soon(self._keep_connected, peer)
            elif peer.endpoints != endpoints:
                peer.endpoints, peer.is_one_way = endpoints, False
                peer.failed_dials.clear()
                peer.changed.notify()
            peer.rules = self._rules if address in stated else None
            peer.observes = address in observers

    @property
    def members(self) -> frozenset[Address]:
        """The other members, connected or not."""
        return frozenset(self._peers)

    @property
    def connected(self) -> frozenset[Address]:
        return frozenset(a for a, peer in self._peers.items() if peer.connection is not None)

    def is_one_way(self, address: Address) -> bool:
        """Whether this member is connected because it has dialled this node, and cannot be dialled
        where it says that it is: behind a firewall, say."""
        peer = self._peers.get(address)
        return peer is not None and peer.is_one_way

    async def wait_connected(self, peers: Collection[Address], deadline_s: float) -> None:
        """Wait until all `peers` are connected. Raises PeerUnreachable naming those who are not."""
        wanted = set(peers) - {self.address}
        with trio.move_on_after(deadline_s):
            while not self.connected.issuperset(wanted):
                await self._changed.wait()
        missing = sorted(wanted - self.connected)
        if missing:
            raise PeerUnreachable(
                f"no connection after {deadline_s:g} s to {', '.join(map(to_hex, missing))}"
            )

    def on_connect(self, callback: Callable[[Address], None]) -> None:
        """Call back for each member whose connection comes up, again whenever it is renewed.

        Messages sent while there was no connection are lost: re-send here what still matters.
        """
        self._on_connect.append(callback)

    # Requests and messages

    def handle(self, method: str, handler: RequestHandler) -> None:
        """Answer requests for `method`; a SwarmError that the handler raises refuses the request,
        and its words go to the asking peer."""
        self._handlers.requests[method] = handler

    def serve_observers(self, *names: str) -> None:
        """The topics and methods that members' standbys may use."""
        self._handlers.for_observers.update(names)

    async def request(
        self, peer: Address, method: str, payload: bytes, *, deadline_s: float
    ) -> bytes:
        """Ask a member and wait for the answer.

        Raises PeerUnreachable (no connection, or no answer in time), RemoteError (refused, with the
        peer's words), LocalError (payload too large).
        """
        self._check_size(payload)
        with trio.move_on_after(deadline_s):
            connection = await self._connection_to(peer)
            return await connection.request(method, payload)
        raise PeerUnreachable(f"{to_hex(peer)} did not answer {method!r} within {deadline_s:g} s")

    def on_message(self, topic: str, handler: MessageHandler) -> None:
        """Handle one-way messages, in the order of their sender; ProtocolViolation is scored."""
        self._handlers.messages[topic] = handler

    def blame(self, peer: Address, reason: str, detail: str) -> None:
        """Score an offence that a handler found out only after it had returned."""
        offender = self._peers.get(peer)
        if offender is not None:
            offender.blame(reason, detail)

    def send(self, peer: Address, topic: str, payload: bytes) -> None:
        """Queue a one-way message; never waits.

        Dropped and counted if there is no connection; the oldest is dropped if the peer does not
        keep up. Raises LocalError if the payload is too large.
        """
        self._check_size(payload)
        target = self._peers.get(peer)
        if target is None:
            return
        if target.connection is None:
            target.dropped_messages += 1
        else:
            target.connection.send(topic, payload)

    def broadcast(self, topic: str, payload: bytes) -> None:
        """`send` to every member."""
        for peer in tuple(self._peers):
            self.send(peer, topic, payload)

    # Blobs

    def serve_blobs(self, provider: BlobProvider) -> None:
        """Serve manifests and chunks; the provider decides who may have what."""
        server = BlobServer(provider, self._limits, self._pacer)
        self._bulk.serve(provider)
        self._handlers.requests[GRANT_METHOD] = self._bulk.grant
        self._handlers.requests[CALL_METHOD] = self._bulk.call
        self._handlers.requests[MANIFEST_METHOD] = server.manifest
        self._handlers.streams[BLOB] = server.serve

    async def fetch_manifest(self, peer: Address, root: Digest, *, deadline_s: float) -> bytes:
        """A blob's manifest, unchecked. Raises as `request` does."""
        return await self.request(peer, MANIFEST_METHOD, root, deadline_s=deadline_s)

    async def fetch_chunks(
        self,
        peer: Address,
        root: Digest,
        indices: Sequence[int],
        take: Take,
        *,
        stall_s: float,
    ) -> None:
        """Fetch chunks, unchecked, over the bulk channel, or over libp2p where there is none.

        `take` is called with some chunks at a time, in the order asked for, in a worker thread; it
        may refuse them, and keeps none of their memory. Raises PeerUnreachable (nothing for
        `stall_s`, or connection lost), RemoteError (refused), ProtocolViolation (another chunk than
        asked for), and what `take` raises. Chunks handed over before stay good.
        """
        limits = self._limits
        for start in range(0, len(indices), limits.max_chunks_per_fetch):
            part = indices[start : start + limits.max_chunks_per_fetch]
            connection = await self._connection_to(peer)
            async with connection.fetching:
                try:
                    await self._bulk.fetch(connection, root, part, take, stall_s)
                except BulkUnavailable:
                    await fetch_chunks(connection, root, part, take, limits, stall_s)

    # Streams

    def serve_streams(self, host: StreamHost) -> None:
        """Let members open streams to this node; the host decides which."""
        self._bulk.host(host)
        self._handlers.requests[STREAM_METHOD] = self._bulk.grant_stream

    async def carry_stream(
        self, peer: Address, name: bytes, end: StreamEnd, *, deadline_s: float
    ) -> None:
        """Open a stream to a member, and carry it until either side ends it; `end.near` is closed
        if it was opened.

        `deadline_s` is for the opening. Raises PeerUnreachable if it cannot be opened, or breaks;
        RemoteError if the peer refuses it, or sends what the protocol does not allow; LocalError.
        """
        connection = await self._connection_to(peer)
        try:
            await self._bulk.carry(connection, name, end, deadline_s)
        except BulkUnavailable as error:
            raise PeerUnreachable(f"no stream: {error}") from error

    # Figures

    def traffic(self) -> Traffic:
        """Bytes since the start, for status and reports."""
        peers = {
            address: PeerTraffic(p.sent_bytes, p.received_bytes, p.received_chunk_bytes)
            for address, p in self._peers.items()
        }
        counted = [self._former, *peers.values()]
        return Traffic(
            sum(t.sent_bytes for t in counted), sum(t.received_bytes for t in counted), peers
        )

    def status(self) -> dict[str, object]:
        """For people and programs: each member's connection, bytes, drops and offences."""
        return {
            "peer_id": self.peer_id,
            "addresses": list(self.addresses),
            "refused_connections": self._refused_hosts.total(),
            "peers": {
                to_hex(address): {
                    "connected": peer.connection is not None,
                    "remote": peer.connection.remote if peer.connection else None,
                    "one_way": peer.is_one_way,
                    "failed_dials": {str(e): f.why for e, f in peer.failed_dials.items()},
                    "sent_bytes": peer.sent_bytes,
                    "received_bytes": peer.received_bytes,
                    "dropped_messages": peer.dropped_messages,
                    "score": dict(peer.score),
                }
                for address, peer in sorted(self._peers.items())
            },
        }

    # Inside

    def _check_size(self, payload: bytes) -> None:
        if len(payload) > self._limits.max_payload_bytes:
            raise LocalError(
                f"a payload may have {self._limits.max_payload_bytes} bytes, not {len(payload)}; "
                "send it as a blob"
            )

    def _is_admitted(self, address: Address) -> bool:
        peer = self._peers.get(address)
        return peer is not None and trio.current_time() >= peer.refused_until

    def _usable_endpoints(self, address: Address, texts: Sequence[str]) -> tuple[tcp.Endpoint, ...]:
        endpoints = []
        for text in texts[: self._limits.max_addresses]:
            try:
                endpoint = tcp.parse_endpoint(text)
            except ConfigurationError as error:
                log.warning("member %s: %s", to_hex(address), short(error))
                continue
            if endpoint.peer in (None, address):
                endpoints.append(endpoint)
            else:
                log.warning("member %s: %s is of another node", to_hex(address), text)
        return tuple(endpoints)

    def _drop(self, peer: Peer) -> None:
        peer.dialling.cancel()
        self._bulk.forget(peer.address)
        if peer.connection is not None:
            peer.connection.close()
        self._former = PeerTraffic(
            self._former.sent_bytes + peer.sent_bytes,
            self._former.received_bytes + peer.received_bytes,
        )
        self._changed.notify()

    async def _connection_to(self, address: Address) -> Connection:
        """The live connection, waiting a little for one that is just being renewed; not for one
        that has been away for longer: others may have what is asked for, at once."""
        peer = self._peers.get(address)
        if peer is None:
            raise PeerUnreachable(f"{to_hex(address)} is not a member")
        grace_s = self._limits.reconnect_grace_s
        away_since = peer.away_since
        if away_since is not None and trio.current_time() > away_since + self._limits.settle_s:
            grace_s = 0.0
        with trio.move_on_after(grace_s):
            while peer.connection is None:
                await peer.changed.wait()
        if peer.connection is None:
            raise PeerUnreachable(f"no connection to {to_hex(address)}")
        return peer.connection

    async def _run(self, listeners: Sequence[trio.SocketListener]) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._bulk.run)
            for peer in self._peers.values():
                nursery.start_soon(self._keep_connected, peer)
            await tcp.serve(listeners, self._accept)

    async def _accept(self, stream: tcp.TcpStream) -> None:
        host = stream.remote[0]
        muxer: Muxer | None = None
        bulk: tuple[ssl.SSLSocket, Peer] | None = None
        with self._half_open.admit(host) as place:
            try:
                with trio.fail_after(self._limits.handshake_s):
                    opening = await stream.peek(len(TLS_OPENING))
                    if not opening:
                        return  # a member saw whether this node can be dialled (`_probe`)
                    if opening == TLS_OPENING:
                        bulk = await self._bulk.welcome(stream.detach())
                    else:
                        muxer = await welcome(stream, self._noise, self._limits.max_buffered_bytes)
            except (*HANDSHAKE_ERRORS, trio.TooSlowError) as error:
                self._note_refusal(host, error)
                return
        if place.cancelled_caught:
            self._note_refusal(host, "it was half-open for longest when there were too many")
        elif bulk is not None:
            await stream.close()  # what was detached lives on
            await self._bulk.serve_connection(*bulk)
        elif muxer is not None:
            address = address_of(muxer.peer_id)
            known = self._peers.get(address) if address is not None else None
            if address is not None and known is not None:
                await self._run_connection(muxer, known, address, stream)

    def _note_refusal(self, host: str, error: Exception | str) -> None:
        """Count a refused connection; the first from each host is logged."""
        if host not in self._refused_hosts and len(self._refused_hosts) >= MAX_LOGGED_HOSTS:
            host = "others"
        self._refused_hosts[host] += 1
        if self._refused_hosts[host] == 1:
            named = isinstance(error, NotAMember | str)
            reason = error if named else type(error).__name__
            log.warning("refused a connection from %s: %s", host, short(reason))

    async def _keep_connected(self, peer: Peer) -> None:
        """Dial a member whenever it has no connection, for as long as it is a member."""
        limits = self._limits
        backoff_s = limits.backoff_first_s
        peer.away_since = trio.current_time()
        probed: tuple[Connection, tuple[tcp.Endpoint, ...]] | None = None
        with peer.dialling:
            while True:
                while (connection := peer.connection) is not None:
                    place = connection, peer.endpoints
                    if connection.dialler == peer.address and place != probed:
                        probed = place
                        await self._probe(peer, *place)
                    else:
                        await peer.changed.wait()
                if self.address > peer.address:
                    await self._changes(peer, limits.second_dialler_s)
                started = trio.current_time()
                await self._dial(peer)
                if trio.current_time() - started > limits.settle_s:
                    backoff_s = limits.backoff_first_s  # it was a connection, and it held
                if await self._changes(peer, backoff_s * random.uniform(0.8, 1.2)):
                    backoff_s = limits.backoff_first_s
                else:
                    backoff_s = min(2 * backoff_s, limits.backoff_max_s)

    async def _changes(self, peer: Peer, within_s: float) -> bool:
        with trio.move_on_after(within_s) as patience:
            await peer.changed.wait()
        return not patience.cancelled_caught

    async def _dial(self, peer: Peer) -> None:
        """Try each address until one leads to a connection; return once that has ended."""
        for endpoint in peer.endpoints:
            if peer.connection is not None or not self._is_admitted(peer.address):
                return
            if self._rests(peer, endpoint):
                continue
            try:
                with trio.fail_after(self._limits.dial_s):
                    stream = await peer.reach(endpoint)
            except (OSError, trio.TooSlowError) as error:
                self._note_failed_dial(peer, endpoint, _why_not_reached(error, self._limits.dial_s))
                continue
            try:
                with trio.fail_after(self._limits.handshake_s):
                    muxer = await connect(
                        stream, self._noise, peer.address, self._limits.max_buffered_bytes
                    )
            except (*HANDSHAKE_ERRORS, trio.TooSlowError) as error:
                self._note_failed_dial(peer, endpoint, _why_not_welcome(error))
            else:
                peer.failed_dials.clear()
                await self._run_connection(muxer, peer, self.address, stream)
                return
            finally:
                await stream.close()

    async def _probe(
        self, peer: Peer, connection: Connection, endpoints: tuple[tcp.Endpoint, ...]
    ) -> None:
        """Find out whether a member that has dialled this node could be dialled, too. Nothing is
        sent; what came of it is for people to see, at both ends."""
        host = connection.remote.rpartition(":")[0]
        tried = 0
        for endpoint in endpoints:
            if self._rests(peer, endpoint) and endpoint.host != host:
                continue
            tried += 1
            try:
                with trio.fail_after(self._limits.dial_s):
                    stream = await peer.reach(endpoint)
            except (OSError, trio.TooSlowError) as error:
                self._note_failed_dial(peer, endpoint, _why_not_reached(error, self._limits.dial_s))
            else:
                await stream.close()
                peer.failed_dials.clear()
                return
        if peer.connection is connection and peer.endpoints == endpoints:
            peer.is_one_way = 0 < tried == len(endpoints)

    def _rests(self, peer: Peer, endpoint: tcp.Endpoint) -> bool:
        """Whether a stated address that led nowhere is left alone for a while: whoever states one
        that is not its own must not have others knock there all the time."""
        failed = peer.failed_dials.get(endpoint)
        if failed is None or peer.rules is None:
            return False
        return trio.current_time() < failed.at + self._limits.stated_rest_s

    def _note_failed_dial(self, peer: Peer, endpoint: tcp.Endpoint, why: str) -> None:
        """Keep for the status why a member was not reached; what is new is logged."""
        known = peer.failed_dials.get(endpoint)
        peer.failed_dials[endpoint] = FailedDial(trio.current_time(), why)
        if known is None or known.why != why:
            log.info("cannot reach %s at %s: %s", to_hex(peer.address), endpoint, why)

    async def _run_connection(
        self, muxer: Muxer, peer: Peer, dialler: Address, stream: tcp.TcpStream
    ) -> None:
        """Serve an authenticated connection until it ends."""
        if peer.running >= self._limits.max_connections:
            peer.blame("too many connections at once", peer.running)
            return
        self._half_open.remember_member(stream.remote[0])
        remote = f"{stream.remote[0]}:{stream.remote[1]}"
        connection = Connection(muxer, peer, dialler, remote, self._handlers, self._limits)
        peer.running += 1
        try:
            await connection.run(self._adopt)
        finally:
            peer.running -= 1
            if peer.connection is connection:
                peer.connection, peer.is_one_way = None, False
                peer.away_since = trio.current_time()
                log.info("lost %s at %s", to_hex(peer.address), remote)
                peer.changed.notify()
                self._changed.notify()

    def _adopt(self, new: Connection) -> bool:
        """Make `new` the connection of its peer, unless the one there is to be kept."""
        peer = self._peers.get(new.peer.address)
        if peer is None or peer is not new.peer:
            return False  # removed during the handshake
        old = peer.connection
        if old is not None and not old.is_closed:
            simultaneous = (
                old.dialler != new.dialler and new.opened_at - old.opened_at < self._limits.settle_s
            )
            if simultaneous and old.dialler == min(self.address, peer.address):
                return False
            old.close()
        peer.connection, peer.is_one_way = new, False
        self._bulk.try_again(peer.address)
        log.info("connected to %s at %s", to_hex(peer.address), new.remote)
        peer.changed.notify()
        self._changed.notify()
        for callback in self._on_connect:
            callback(peer.address)
        return True


def _why_not_reached(error: BaseException, within_s: float) -> str:
    """In words: a node that is down, a firewall, or an address that is none."""
    if isinstance(error, DialRefused):
        return f"not dialled: {error}"
    if isinstance(error, trio.TooSlowError):
        return f"no answer within {within_s:g} s: a firewall drops it, or the machine is off"
    cause = error.__cause__ or error  # trio tries all addresses of a name, and groups what it met
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    if isinstance(cause, ConnectionRefusedError):
        return "refused: no node listens there"
    return short(getattr(cause, "strerror", None) or cause)


def _why_not_welcome(error: Exception) -> str:
    if isinstance(error, NotAMember):
        return f"another node is there: {short(error)}"
    return f"the handshake was ended there: no node listens, or {NOT_COUNTED}"


@asynccontextmanager
async def open_network(
    key: bytes,
    listen: Sequence[str] = DEFAULT_LISTEN,
    limits: NetworkLimits = DEFAULT_LIMITS,
    rules: DialRules = DEFAULT_RULES,
) -> AsyncIterator[Network]:
    """Listen, and keep connections to the members that `set_members` names, until the block ends.

    `key` is the 32-byte secp256k1 secret of the node, `listen` multiaddrs (port 0: any free one);
    `rules` bound where members that state their own addresses are dialled.
    Raises ConfigurationError if the key or an address cannot be used.
    """
    quiet_libp2p()
    identity = Identity(key)
    listeners: list[trio.SocketListener] = []
    try:
        for text in listen:
            listeners += await tcp.listen(tcp.parse_endpoint(text))
        network = Network(identity, [tcp.bound_endpoint(each) for each in listeners], limits, rules)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(network._run, listeners)
            try:
                yield network
            finally:
                nursery.cancel_scope.cancel()
                network._bulk.close()
    finally:
        for listener in listeners:
            await trio.aclose_forcefully(listener)


def quiet_libp2p() -> None:
    """Keep libp2p's log lines out of ours: what they report, this package reports itself.

    Set LIBP2P_DEBUG (see libp2p's documentation) to read them.
    """
    logger = logging.getLogger("libp2p")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
        logger.setLevel(logging.CRITICAL)
