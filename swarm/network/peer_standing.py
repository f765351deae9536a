"""How a member stands with this node, whatever connection it is on: its bytes and its offences."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from dataclasses import dataclass, field

from swarm.types import Address, to_hex

log = logging.getLogger("swarm.network")


@dataclass
class Standing:
    """Outlives a member's connections."""

    address: Address
    observes: bool = False
    """Whether it is no member's node, and may follow the chain only."""
    sent_bytes: int = 0
    received_bytes: int = 0
    received_chunk_bytes: int = 0
    """Of those, the contents of blobs: what the sender has written down as leaving to here."""
    dropped_messages: int = 0
    score: Counter[str] = field(default_factory=Counter)
    """Offences by reason."""
    refused_until: float = 0.0
    _counting: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, *, sent: int = 0, received: int = 0, chunk: int = 0) -> None:
        """Count bytes, a received `chunk` too; from any thread, as the bulk channel does."""
        with self._counting:
            self.sent_bytes += sent
            self.received_bytes += received + chunk
            self.received_chunk_bytes += chunk

    def blame(self, reason: str, detail: object = "") -> None:
        """Count an offence; the first of each kind is logged."""
        self.score[reason] += 1
        if self.score[reason] == 1:
            log.warning("peer %s: %s: %s", to_hex(self.address), reason, detail)

    def penalise(self, now: float, max_penalty_s: float) -> None:
        """Refuse connections for a time that doubles with each offence."""
        offences = min(self.score.total(), 10)
        self.refused_until = now + min(max_penalty_s, 0.25 * 2**offences)
