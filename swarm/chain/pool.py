"""Transactions that wait for a block, of members only.

The pool is a plain data structure behind a lock: what may enter is the engine's to say. The only
time that counts is the newest block's: what was to be carried out before it is dropped. What
expires between two blocks may still be carried out, in vain, so that its sender knows. Gas is free,
so a higher price cannot replace a transaction: the first one with a nonce keeps its place until a
block makes it stale. Every bound is per member, so that one member that floods its own share takes
nothing from the others.
"""

from __future__ import annotations

import threading
from collections import deque
from itertools import accumulate
from typing import Protocol

from swarm.chain.block import InvalidTransaction, Transaction
from swarm.errors import ChainError
from swarm.types import Address, Digest, to_hex

MAX_PER_SENDER = 64
MAX_TOTAL = 4096
MAX_ARRIVALS = 4096
"""The newest names that are remembered for whoever follows what comes in."""


class PoolFull(ChainError):
    """The pool has no room for this transaction now; send it again after the next blocks."""


class Admission(Protocol):
    """What the pool asks of the engine."""

    def inspect(self, raw: bytes) -> Transaction: ...

    def is_member(self, address: Address) -> bool: ...

    def nonce(self, address: Address) -> int: ...

    def room_today(self, address: Address) -> int: ...

    @property
    def timestamp(self) -> int:
        """The newest block's."""


class Pool:
    """Pending transactions by sender and nonce. Safe to use from several threads."""

    def __init__(
        self,
        admission: Admission,
        *,
        max_per_sender: int = MAX_PER_SENDER,
        max_total: int = MAX_TOTAL,
    ) -> None:
        self._admission = admission
        self._max_per_sender = max_per_sender
        self._max_total = max_total
        self._lock = threading.Lock()
        self._by_sender: dict[Address, dict[int, Transaction]] = {}
        self._by_hash: dict[Digest, Transaction] = {}
        self._arrivals: deque[Digest] = deque(maxlen=MAX_ARRIVALS)
        self._arrived = 0

    def __len__(self) -> int:
        return len(self._by_hash)

    def __contains__(self, name: Digest) -> bool:
        return name in self._by_hash

    def find(self, name: Digest) -> Transaction | None:
        """A waiting transaction."""
        return self._by_hash.get(name)

    def get(self, name: Digest) -> bytes | None:
        """The bytes of a waiting transaction."""
        transaction = self.find(name)
        return None if transaction is None else transaction.raw

    def add(self, raw: bytes) -> Digest:
        """Take in a transaction; one that waits already changes nothing.

        Raises InvalidTransaction for one that no block could contain, PoolFull for lack of room.
        """
        transaction = self._admission.inspect(raw)
        expected = self._admission.nonce(transaction.sender)
        with self._lock:
            if transaction.hash in self._by_hash:
                return transaction.hash
            self._check_room(transaction, expected)
            self._by_sender.setdefault(transaction.sender, {})[transaction.nonce] = transaction
            self._by_hash[transaction.hash] = transaction
            self._arrivals.append(transaction.hash)
            self._arrived += 1
        return transaction.hash

    def pending(self) -> tuple[bytes, ...]:
        """What a block could contain now, each sender's in the order of its nonces.

        Senders take turns, so that a block with little room has something of everyone; who came
        first goes first, as one's transaction may answer another's. Those that wait for an earlier
        nonce are not among them.
        """
        with self._lock:
            senders = dict.fromkeys(t.sender for t in self._by_hash.values())
            runs = [self._run_today(sender) for sender in senders]
        longest = max((len(run) for run in runs), default=0)
        return tuple(run[i].raw for i in range(longest) for run in runs if i < len(run))

    def first_of_each(self) -> tuple[Transaction, ...]:
        """The next transaction of each sender, if a block could contain it now."""
        with self._lock:
            runs = [self._run_today(sender) for sender in self._by_sender]
        return tuple(run[0] for run in runs if run)

    def all(self) -> tuple[bytes, ...]:
        """Every waiting transaction, also those that wait for an earlier nonce."""
        return tuple(transaction.raw for transaction in self.waiting())

    def waiting(self) -> tuple[Transaction, ...]:
        """`all`, as they were read when they came."""
        with self._lock:
            return tuple(self._by_hash.values())

    @property
    def arrived(self) -> int:
        """How many transactions have come in since the node started."""
        return self._arrived

    def arrivals(self, first: int, following: int) -> tuple[Digest, ...]:
        """The names of those that came in as number `first`, counted from 0, up to `following`, if
        they wait still or not; only the newest MAX_ARRIVALS names are known."""
        with self._lock:
            oldest = self._arrived - len(self._arrivals)
            names = tuple(self._arrivals)
        return names[max(first - oldest, 0) : max(following - oldest, 0)]

    def next_nonce(self, sender: Address) -> int:
        """The nonce for the sender's next transaction, after those that wait."""
        with self._lock:
            run = self._run(sender)
        return run[-1].nonce + 1 if run else self._admission.nonce(sender)

    def prune(self) -> None:
        """Drop what the newest block made stale. To be called after every commit."""
        now = self._admission.timestamp
        with self._lock:
            for sender in list(self._by_sender):
                expected = self._admission.nonce(sender)
                member = self._admission.is_member(sender)
                waiting = self._by_sender[sender]
                stale = [
                    n
                    for n, transaction in waiting.items()
                    if n < expected or not member or transaction.has_expired(now)
                ]
                for nonce in stale:
                    del self._by_hash[waiting.pop(nonce).hash]
                if not waiting:
                    del self._by_sender[sender]

    def _run(self, sender: Address) -> list[Transaction]:
        """The sender's transactions that could follow each other from the next nonce on."""
        waiting = self._by_sender.get(sender, {})
        nonce = self._admission.nonce(sender)
        run: list[Transaction] = []
        while nonce in waiting:
            run.append(waiting[nonce])
            nonce += 1
        return run

    def _run_today(self, sender: Address) -> list[Transaction]:
        """Those of the run that the sender's member may still send today."""
        run, room = self._run(sender), self._admission.room_today(sender)
        sizes = accumulate(len(transaction.raw) for transaction in run)
        return run[: sum(size <= room for size in sizes)]

    def _check_room(self, transaction: Transaction, expected: int) -> None:
        sender, nonce = transaction.sender, transaction.nonce
        waiting = self._by_sender.get(sender, {})
        if nonce in waiting:
            raise InvalidTransaction(
                f"nonce {nonce} of {to_hex(sender)} belongs to {to_hex(waiting[nonce].hash)}, "
                "which waits for a block: use the next nonce"
            )
        if nonce >= expected + self._max_per_sender:
            raise InvalidTransaction(
                f"nonce {nonce} of {to_hex(sender)} is too far ahead; {expected} is next"
            )
        if len(waiting) >= self._max_per_sender or len(self._by_hash) >= self._max_total:
            raise PoolFull(
                f"{len(waiting)} transactions of {to_hex(sender)} and {len(self._by_hash)} in all "
                "wait for a block: send this one again later"
            )
