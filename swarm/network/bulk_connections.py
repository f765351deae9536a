"""How a bulk connection comes about on the side that fetches: kept, dialled, or called back.

Who dials makes no difference to what is sent. Where the owner of a blob has dialled us, or cannot
be dialled, it is asked over the control connection to dial this node instead: a member behind a
firewall can dial out. A call has a token of its own, the first thing that whoever was called sends.

A way that failed is not tried again for a minute, and neither is one that was under way in vain for
a second when its fetch was given up.
"""

from __future__ import annotations

import secrets
import ssl
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import msgspec
import trio

from swarm.errors import PeerUnreachable, RemoteError
from swarm.network import tcp
from swarm.network.connection import Connection
from swarm.network.peers import Peer
from swarm.network.tickets import TOKEN_BYTES
from swarm.network.tls import Trust, handshake
from swarm.network.wire import BulkCall, short
from swarm.types import Address

CALL_METHOD = "blob.call"
KEEP_OURS_S = 45.0
"""How long an unused connection is kept by the side that fetches."""
RETRY_AFTER_S = 60.0
IN_VAIN_S = 1.0
CALL_LIFETIME_S = 10.0


Dial = Callable[[tcp.Endpoint], Awaitable[tcp.TcpStream]]


class BulkUnavailable(Exception):
    """There is no bulk connection to be had, and nothing was fetched. Stays in this package."""


class Way(Enum):
    """Who dials."""

    DIRECT = "dialled"
    CALLED = "called back"


@dataclass
class Kept:
    """A connection between two fetches."""

    secured: ssl.SSLSocket
    since: float


@dataclass
class _Call:
    """A member was asked to dial this node."""

    member: Address
    expires_at: float
    answered: trio.Event = field(default_factory=trio.Event)
    secured: ssl.SSLSocket | None = None
    is_given_up: bool = False


class BulkConnections:
    """Connections over which this node fetches. `peers` is the network's own table of members."""

    def __init__(self, peers: Mapping[Address, Peer], ports: Sequence[int], trust: Trust) -> None:
        self._peers = peers
        self._ports = list(ports)
        self._trust = trust
        self._kept: defaultdict[Address, list[Kept]] = defaultdict(list)
        self._calls: dict[bytes, _Call] = {}
        self._retry_at: dict[tuple[Address, Way], float] = {}

    # Members

    def forget(self, member: Address) -> None:
        self.try_again(member)
        for token in [t for t, call in self._calls.items() if call.member == member]:
            del self._calls[token]
        for each in self._kept.pop(member, ()):
            each.secured.close()

    def try_again(self, member: Address) -> None:
        """A member is connected anew: what failed before may work now."""
        for way in Way:
            self._retry_at.pop((member, way), None)

    def close(self) -> None:
        for member in tuple(self._kept):
            self.forget(member)

    # Having one

    def ways_to(self, connection: Connection) -> list[Way]:
        """Those worth trying, the likelier first: a peer that has dialled us can do so again."""
        member, now = connection.peer.address, trio.current_time()
        ways = [Way.DIRECT, Way.CALLED]
        if connection.dialler == member:
            ways.reverse()
        return [way for way in ways if now >= self._retry_at.get((member, way), 0.0)]

    def doubt(self, member: Address, *ways: Way) -> None:
        """These do not work now."""
        for way in ways:
            self._retry_at[member, way] = trio.current_time() + RETRY_AFTER_S

    def take_kept(self, member: Address) -> ssl.SSLSocket | None:
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

    def keep(self, member: Address, secured: ssl.SSLSocket) -> None:
        """For the next fetch."""
        secured.setblocking(False)
        self._kept[member].append(Kept(secured, trio.current_time()))

    async def connect(
        self, connection: Connection, ports: Sequence[int], patience_s: float
    ) -> ssl.SSLSocket:
        """A new connection to the peer, which listens on `ports` and has announced its certificate.

        Raises BulkUnavailable if no way leads there in time.
        """
        ways: dict[Way, Callable[[], Awaitable[ssl.SSLSocket]]] = {
            Way.DIRECT: lambda: self.dial(connection, ports),
            Way.CALLED: lambda: self._call(connection),
        }
        member, reason = connection.peer.address, "it failed a moment ago"
        tried: Way | None = None
        began = trio.current_time()
        try:
            with trio.move_on_after(patience_s):
                for way in self.ways_to(connection):
                    tried, began = way, trio.current_time()
                    reason = f"not {way.value} within {patience_s:g} s"
                    try:
                        return await ways[way]()
                    except (OSError, RemoteError) as error:
                        self.doubt(member, way)
                        reason, tried = short(error), None
        except trio.Cancelled:
            if tried is not None and trio.current_time() - began >= IN_VAIN_S:
                self.doubt(member, tried)
            raise
        if tried is not None:
            self.doubt(member, tried)
        raise BulkUnavailable(reason)

    async def dial(self, connection: Connection, ports: Sequence[int]) -> ssl.SSLSocket:
        """Dial the peer where it is known to be, and accept only the certificate it announced.

        Raises OSError; the caller sets the deadline.
        """
        context = self._trust.client_context(connection.peer.address)
        fault: OSError = ConnectionRefusedError("no address is known")
        for endpoint, dial in self._endpoints(connection, ports):
            try:
                stream = await dial(endpoint)
                raw = stream.detach()
                await stream.close()
                return await handshake(raw, context, server_side=False)
            except OSError as error:
                fault = type(error)(f"{endpoint}: {error.strerror or error}")
        raise fault

    def _endpoints(
        self, connection: Connection, ports: Sequence[int]
    ) -> Iterator[tuple[tcp.Endpoint, Dial]]:
        """Where the peer listens, and how it is dialled there: where it was dialled, where it may
        be dialled, where it is."""
        host, _, port = connection.remote.rpartition(":")
        protocol = "ip6" if ":" in host else "ip4"
        address = connection.peer.address
        if connection.dialler != address:
            yield tcp.Endpoint(host, int(port), protocol), tcp.dial
            return
        if address in self._peers:  # or it has just ceased to be a member
            peer = self._peers[address]
            yield from ((endpoint, peer.reach) for endpoint in peer.endpoints)
        for listening in ports:
            yield tcp.Endpoint(host, listening, protocol), tcp.dial

    # Being called back

    async def _call(self, connection: Connection) -> ssl.SSLSocket:
        """Ask the peer to dial this node, and wait until it has. Raises RemoteError."""
        now = trio.current_time()
        for token in [t for t, call in self._calls.items() if now >= call.expires_at]:
            del self._calls[token]
        token = secrets.token_bytes(TOKEN_BYTES)
        call = self._calls[token] = _Call(connection.peer.address, now + CALL_LIFETIME_S)
        try:
            wanted = msgspec.msgpack.encode(BulkCall(token, self._ports))
            await connection.request(CALL_METHOD, wanted)
            await call.answered.wait()
        finally:
            call.is_given_up = True
        if call.secured is None:
            raise PeerUnreachable("the call was taken back")
        return call.secured

    def answered(self, token: bytes, member: Address, secured: ssl.SSLSocket) -> bool:
        """Whether this token is of a call to `member`: then the connection is ours to fetch over.

        One that comes after its call was given up is kept for the next fetch.
        """
        call = self._calls.get(token)
        if call is None or call.member != member:
            return False
        del self._calls[token]
        if call.is_given_up:
            self.keep(member, secured)
        else:
            call.secured = secured
            call.answered.set()
        return True


def _is_quiet(secured: ssl.SSLSocket) -> bool:
    """Whether a connection between two fetches has neither ended nor brought anything."""
    try:
        secured.recv(1)
    except ssl.SSLWantReadError:
        return True
    except OSError:
        pass
    return False
