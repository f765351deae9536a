"""The network in memory: what `swarm.network.Network` promises, without libp2p, sockets or threads.

A `MemorySwitch` connects the networks that are open on it. Two of them are connected while both are
open, each lists the other as a member, and the link between them is not cut. The tests of
`swarm.network` hold both to the same behaviour; one difference remains: a request that its caller
cancels is cancelled at the other end too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec
import trio

from swarm.errors import (
    ChunkPending,
    LocalError,
    PeerUnreachable,
    ProtocolViolation,
    RemoteError,
    SwarmError,
)
from swarm.network import BlobProvider, NetworkLimits, PeerTraffic, Traffic
from swarm.network.blob_exchange import pending_pauses, when_readable
from swarm.network.bulk_transfer import refusal
from swarm.network.peers import Peer
from swarm.network.signals import Signal
from swarm.types import Address, Digest, to_hex


class MemorySwitch:
    """The wire between `MemoryNetwork`s."""

    def __init__(self) -> None:
        self.networks: dict[Address, MemoryNetwork] = {}
        self._cut: set[frozenset[Address]] = set()

    @asynccontextmanager
    async def open(
        self, address: Address, limits: NetworkLimits | None = None
    ) -> AsyncIterator[MemoryNetwork]:
        """A network at `address`; leaving the block is the death of its node."""
        network = MemoryNetwork(self, address, limits or NetworkLimits())
        self.networks[address] = network
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(network._deliver_messages)
                yield network
                nursery.cancel_scope.cancel()
        finally:
            del self.networks[address]
            self.settle()

    def cut(self, a: Address, b: Address) -> None:
        """Drop the link: connections over it end."""
        self._cut.add(frozenset((a, b)))
        self.settle()

    def heal(self, a: Address, b: Address) -> None:
        self._cut.discard(frozenset((a, b)))
        self.settle()

    def reach(self, a: Address, b: Address) -> bool:
        near, far = self.networks.get(a), self.networks.get(b)
        return (
            near is not None
            and far is not None
            and b in near.members
            and a in far.members
            and frozenset((a, b)) not in self._cut
        )

    def settle(self) -> None:
        """Bring every network's connections in line with who can reach whom."""
        for network in tuple(self.networks.values()):
            network._settle()


class MemoryNetwork:
    """See `swarm.network.Network`; the same methods, the same errors."""

    def __init__(self, switch: MemorySwitch, address: Address, limits: NetworkLimits) -> None:
        self.address = address
        self.peer_id = f"memory-{address.hex()[:8]}"
        self.addresses: tuple[str, ...] = (f"/memory/{address.hex()}",)
        self._switch = switch
        self._limits = limits
        self._peers: dict[Address, Peer] = {}
        self._connected: frozenset[Address] = frozenset()
        self._requests: dict[str, Callable[[Address, bytes], Awaitable[bytes]]] = {}
        self._messages: dict[str, Callable[[Address, bytes], Awaitable[None] | None]] = {}
        self._inbox: deque[tuple[Address, str, bytes]] = deque()
        self._received = Signal()
        self._changed = Signal()
        self._on_connect: list[Callable[[Address], None]] = []
        self._provider: BlobProvider | None = None

    def set_members(self, members: Mapping[Address, Sequence[str]]) -> None:
        wanted = set(members) - {self.address}
        self._peers = {a: self._peers.get(a) or Peer(a) for a in wanted}
        self._switch.settle()

    @property
    def members(self) -> frozenset[Address]:
        return frozenset(self._peers)

    @property
    def connected(self) -> frozenset[Address]:
        return self._connected

    async def wait_connected(self, peers: Collection[Address], deadline_s: float) -> None:
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
        self._on_connect.append(callback)

    def handle(self, method: str, handler: Callable[[Address, bytes], Awaitable[bytes]]) -> None:
        self._requests[method] = handler

    async def request(
        self, peer: Address, method: str, payload: bytes, *, deadline_s: float
    ) -> bytes:
        self._check_size(payload)
        with trio.move_on_after(deadline_s):
            return await self._ask(peer, method, payload)
        raise PeerUnreachable(f"{to_hex(peer)} did not answer {method!r} within {deadline_s:g} s")

    async def _ask(self, peer: Address, method: str, payload: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        far = self._far(peer)
        handler = far._requests.get(method)
        if handler is None:
            raise RemoteError(f"refused {method!r}: this node does not answer to {method!r}")
        self._count(peer, len(payload))
        outcome: list[bytes | SwarmError] = []

        async def handle() -> None:
            try:
                outcome.append(await handler(self.address, payload))
            except (SwarmError, msgspec.MsgspecError) as error:
                if isinstance(error, (ProtocolViolation, msgspec.MsgspecError)):
                    far._peers[self.address].blame(f"bad {method} request", error)
                outcome.append(RemoteError(f"refused {method!r}: {error}"))

        async def watch(scope: trio.CancelScope) -> None:
            while peer in self._connected:
                await self._changed.wait()
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, nursery.cancel_scope)
            await handle()
            nursery.cancel_scope.cancel()
        if not outcome or peer not in self._connected:
            raise PeerUnreachable(f"the connection ended before {method!r} was answered")
        if isinstance(outcome[0], SwarmError):
            raise outcome[0]
        far._count(self.address, len(outcome[0]))
        return outcome[0]

    def on_message(
        self, topic: str, handler: Callable[[Address, bytes], Awaitable[None] | None]
    ) -> None:
        self._messages[topic] = handler

    def blame(self, peer: Address, reason: str, detail: str) -> None:
        if peer in self._peers:
            self._peers[peer].blame(reason, detail)

    def send(self, peer: Address, topic: str, payload: bytes) -> None:
        self._check_size(payload)
        if peer not in self._peers:
            return
        if peer not in self._connected:
            self._peers[peer].dropped_messages += 1
            return
        far = self._switch.networks[peer]
        self._count(peer, len(payload))
        far._inbox.append((self.address, topic, payload))
        if len(far._inbox) > self._limits.max_queued_messages * max(1, len(far._peers)):
            far._inbox.popleft()
            self._peers[peer].dropped_messages += 1
        far._received.notify()

    def broadcast(self, topic: str, payload: bytes) -> None:
        for peer in tuple(self._peers):
            self.send(peer, topic, payload)

    def serve_blobs(self, provider: BlobProvider) -> None:
        self._provider = provider

    async def fetch_manifest(self, peer: Address, root: Digest, *, deadline_s: float) -> bytes:
        with trio.move_on_after(deadline_s):
            await trio.lowlevel.checkpoint()
            far = self._far(peer)

            async def look() -> bytes:
                return far._blobs().manifest(self.address, root)

            try:
                manifest = await when_readable(look)
            except (RemoteError, LocalError) as error:
                raise RemoteError(refusal(error)) from error
            far._count(self.address, len(manifest))
            return manifest
        raise PeerUnreachable(f"{to_hex(peer)} sent no manifest within {deadline_s:g} s")

    async def fetch_chunks(
        self,
        peer: Address,
        root: Digest,
        indices: Sequence[int],
        take: Callable[[Sequence[tuple[int, bytes | memoryview]]], None],
        *,
        stall_s: float,
    ) -> None:
        for index in indices:
            await trio.lowlevel.checkpoint()
            far, chunk = await self._await_chunk(peer, root, index)
            far._count(self.address, len(chunk))
            take([(index, chunk)])

    async def _await_chunk(
        self, peer: Address, root: Digest, index: int
    ) -> tuple[MemoryNetwork, bytes]:
        for pause_s in (*pending_pauses(), None):
            far = self._far(peer)
            try:
                return far, bytes(far._blobs().read_chunk(self.address, root, index))
            except ChunkPending as error:
                if pause_s is None:
                    raise RemoteError(refusal(error)) from error
                await trio.sleep(pause_s)
            except (RemoteError, LocalError) as error:
                raise RemoteError(refusal(error)) from error
        raise AssertionError("unreachable")

    def traffic(self) -> Traffic:
        peers = {a: PeerTraffic(p.sent_bytes, p.received_bytes) for a, p in self._peers.items()}
        return Traffic(
            sum(t.sent_bytes for t in peers.values()),
            sum(t.received_bytes for t in peers.values()),
            peers,
        )

    def status(self) -> dict[str, object]:
        return {
            "peer_id": self.peer_id,
            "addresses": list(self.addresses),
            "refused_connections": 0,
            "peers": {
                to_hex(address): {
                    "connected": address in self._connected,
                    "remote": None,
                    "sent_bytes": peer.sent_bytes,
                    "received_bytes": peer.received_bytes,
                    "dropped_messages": peer.dropped_messages,
                    "score": dict(peer.score),
                }
                for address, peer in sorted(self._peers.items())
            },
        }

    def _check_size(self, payload: bytes) -> None:
        if len(payload) > self._limits.max_payload_bytes:
            raise LocalError(
                f"a payload may have {self._limits.max_payload_bytes} bytes, not {len(payload)}; "
                "send it as a blob"
            )

    def _far(self, peer: Address) -> MemoryNetwork:
        if peer not in self._peers:
            raise PeerUnreachable(f"{to_hex(peer)} is not a member")
        if peer not in self._connected:
            raise PeerUnreachable(f"no connection to {to_hex(peer)}")
        return self._switch.networks[peer]

    def _blobs(self) -> BlobProvider:
        if self._provider is None:
            raise RemoteError("this node serves no blobs")
        return self._provider

    def _count(self, to: Address, size: int) -> None:
        self._peers[to].sent_bytes += size
        self._switch.networks[to]._peers[self.address].received_bytes += size

    def _settle(self) -> None:
        now = frozenset(a for a in self._peers if self._switch.reach(self.address, a))
        fresh, self._connected = now - self._connected, now
        self._inbox = deque(item for item in self._inbox if item[0] in now)
        self._changed.notify()
        for peer in sorted(fresh):
            for callback in self._on_connect:
                callback(peer)

    async def _deliver_messages(self) -> None:
        while True:
            while not self._inbox:
                await self._received.wait()
            sender, topic, payload = self._inbox.popleft()
            handler = self._messages.get(topic)
            try:
                if handler is None:
                    self._peers[sender].blame("unknown topic", topic)
                    continue
                outcome = handler(sender, payload)
                if outcome is not None:
                    await outcome
            except (ProtocolViolation, msgspec.MsgspecError) as error:
                if sender in self._peers:
                    self._peers[sender].blame(f"bad {topic} message", error)
            await trio.lowlevel.checkpoint()
