"""What this node keeps about each member: addresses, the live connection, counters.

A `Peer` outlives its connections; it is dropped when the member is removed.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from swarm.network.tcp import Endpoint
from swarm.types import Address, to_hex

if TYPE_CHECKING:
    from swarm.network.connection import Connection

log = logging.getLogger("swarm.network")


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


class Signal:
    """Wakes all who wait, each time; unlike trio.Event it can be set again."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def notify(self) -> None:
        self._event.set()
        self._event = trio.Event()

    async def wait(self) -> None:
        await self._event.wait()


@dataclass
class Peer:
    """A member as this node sees it."""

    address: Address
    endpoints: tuple[Endpoint, ...] = ()
    connection: Connection | None = None
    changed: Signal = field(default_factory=Signal)
    """Notified when `endpoints` or `connection` is another."""
    running: int = 0
    """Connections that are being served: the live one and those being settled."""
    dialling: trio.CancelScope = field(default_factory=trio.CancelScope)
    sent_bytes: int = 0
    received_bytes: int = 0
    dropped_messages: int = 0
    score: Counter[str] = field(default_factory=Counter)
    """Offences by reason."""
    refused_until: float = 0.0
    _counting: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, *, sent: int = 0, received: int = 0) -> None:
        """Count bytes; from any thread, as the bulk channel does."""
        with self._counting:
            self.sent_bytes += sent
            self.received_bytes += received

    def blame(self, reason: str, detail: object = "") -> None:
        """Count an offence; the first of each kind is logged."""
        self.score[reason] += 1
        if self.score[reason] == 1:
            log.warning("peer %s: %s: %s", to_hex(self.address), reason, detail)

    def penalise(self, now: float, max_penalty_s: float) -> None:
        """Refuse connections for a time that doubles with each offence."""
        offences = min(self.score.total(), 10)
        self.refused_until = now + min(max_penalty_s, 0.25 * 2**offences)
