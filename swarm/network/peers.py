"""What this node keeps about each member: addresses, the live connection, counters.

A `Peer` outlives its connections; it is dropped when the member is removed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from swarm.network.connection import Connection
from swarm.network.peer_standing import Standing
from swarm.network.signals import Signal
from swarm.network.tcp import Endpoint
from swarm.types import Address


@dataclass(frozen=True)
class PeerTraffic:
    """Bytes of messages, requests, answers and chunks, before encryption."""

    sent_bytes: int = 0
    received_bytes: int = 0


@dataclass(frozen=True)
class Traffic:
    """Bytes in total and by peer since the network was opened; the total counts removed members."""

    sent_bytes: int
    received_bytes: int
    peers: dict[Address, PeerTraffic]


@dataclass
class Peer(Standing):
    """A member as this node reaches it."""

    endpoints: tuple[Endpoint, ...] = ()
    connection: Connection | None = None
    changed: Signal = field(default_factory=Signal)
    """Notified when `endpoints` or `connection` is another."""
    away_since: float = field(default_factory=trio.current_time)
    """When the last connection ended; before the first, when it became a member."""
    running: int = 0
    """Connections that are being served: the live one and those being settled."""
    dialling: trio.CancelScope = field(default_factory=trio.CancelScope)
