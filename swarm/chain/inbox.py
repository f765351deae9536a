"""What peers have sent and nobody has read yet: bounded for each, and read in turns.

So a peer that floods delays and loses its own messages, and nobody else's.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from swarm.chain.messages import MAX_MESSAGE_BYTES
from swarm.types import Address

MAX_WAITING_PER_PEER = 256
MAX_BYTES_PER_PEER = 4 * MAX_MESSAGE_BYTES


class Inbox:
    """Messages by sender. The first of every sender comes before the second of any."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Address, deque[bytes]] = OrderedDict()
        self._bytes: dict[Address, int] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, sender: Address, payload: bytes) -> bool:
        """Take in a message; False, and nothing is kept, if too much of this sender's waits."""
        waiting = self._waiting.get(sender, ())
        size = self._bytes.get(sender, 0) + len(payload)
        if len(waiting) >= MAX_WAITING_PER_PEER or size > MAX_BYTES_PER_PEER:
            return False
        self._waiting.setdefault(sender, deque()).append(payload)
        self._bytes[sender] = size
        return True

    def take(self) -> tuple[Address, bytes]:
        """The next message, of whoever's turn it is. Raises KeyError if there is none."""
        sender, waiting = self._waiting.popitem(last=False)
        payload = waiting.popleft()
        self._bytes[sender] -= len(payload)
        if waiting:
            self._waiting[sender] = waiting
        else:
            del self._bytes[sender]
        return sender, payload
