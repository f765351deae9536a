"""What this node keeps about each member: addresses, the live connection, counters.

A `Peer` outlives its connections; it is dropped when the member is removed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from swarm.network.connection import Connection
from swarm.network.dial_rules import DialRules
from swarm.network.peer_standing import Standing
from swarm.network.signals import Signal
from swarm.network.tcp import Endpoint, TcpStream, dial
from swarm.types import Address


@dataclass(frozen=True)
class PeerTraffic:
    """Bytes of messages, requests, answers and chunks, before encryption."""

    sent_bytes: int = 0
    received_bytes: int = 0
    received_chunk_bytes: int = 0


@dataclass(frozen=True)
class Traffic:
    """Bytes in total and by peer since the network was opened; the total counts removed members."""

    sent_bytes: int
    received_bytes: int
    peers: dict[Address, PeerTraffic]

    @property
    def total(self) -> tuple[int, int]:
        """Bytes sent and received."""
        return self.sent_bytes, self.received_bytes


@dataclass(frozen=True)
class FailedDial:
    """An attempt that led nowhere, and when."""

    at: float
    why: str


@dataclass
class Peer(Standing):
    """A member as this node reaches it."""

    endpoints: tuple[Endpoint, ...] = ()
    connection: Connection | None = None
    changed: Signal = field(default_factory=Signal)
    """Notified when `endpoints` or `connection` is another."""
    away_since: float | None = None
    """When the last connection ended; before the first, when it was first to be dialled."""
    rules: DialRules | None = None
    """Bounds on `endpoints`, where the member states them itself."""
    failed_dials: dict[Endpoint, FailedDial] = field(default_factory=dict)
    """Why each of `endpoints` led nowhere when it was last tried, if it did not."""
    is_one_way: bool = False
    """Whether the live connection is one that it has made, and none of `endpoints` leads to it."""
    running: int = 0
    """Connections that are being served: the live one and those being settled."""
    dialling: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def reach(self, endpoint: Endpoint) -> TcpStream:
        """Dial this member there, if it may be. The caller sets the deadline. Raises OSError."""
        if self.rules is not None:
            endpoint = await self.rules.permit(endpoint)
        return await dial(endpoint)
