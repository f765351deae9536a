"""Logs: how they are searched for, and where each installed filter of a client stands.

A block's bloom says cheaply that a log is *not* in it; only blocks that pass are decoded. Installed
filters (for logs, blocks, or what comes to wait for a block) are a client's bookmarks: there are at
most `MAX_FILTERS`, and the one that was not asked
for the longest time gives way.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Literal

from eth_bloom.bloom import BloomFilter

from swarm.chain.engine import Engine
from swarm.chain.pool import Pool
from swarm.chain.rpc_format import data_hex, log_objects
from swarm.chain.rpc_parameters import SERVER, LogQuery, RpcFault

MAX_FILTERS = 64
MAX_LOGS = 10_000
"""Found at once; a search that finds more stops at the end of that block."""
_BLOCKS_AT_ONCE = 4096
"""Whose blooms are in memory."""
Wanted = LogQuery | Literal["blocks", "pending"]
"""What a filter reports: these logs, blocks, or transactions that come to wait for a block."""


def find_logs(
    engine: Engine, query: LogQuery, first: int, last: int
) -> tuple[list[Mapping[str, object]], int]:
    """The logs of the blocks `first` to `last` that `query` wants, in their JSON form, and the
    height up to which they are complete: below `last` if there are more than MAX_LOGS."""
    found: list[Mapping[str, object]] = []
    for start in range(first, last + 1, _BLOCKS_AT_ONCE):
        for height, bloom in engine.blooms(start, min(start + _BLOCKS_AT_ONCE - 1, last)):
            if not _may_match(query, bloom):
                continue
            stored = engine.stored_block(height)
            if stored is not None:
                found.extend(log for log in log_objects(stored) if _matches(query, log))
            if len(found) > MAX_LOGS:
                return found, height
    return found, last


class Filters:
    """The installed filters, each with what it reports next: for logs and blocks a height, for
    pending transactions a number in the order in which the pool has taken them in."""

    def __init__(self, engine: Engine, pool: Pool) -> None:
        self._engine = engine
        self._pool = pool
        self._lock = threading.Lock()
        self._count = 0
        self._filters: dict[str, tuple[Wanted, int]] = {}

    def add(self, wanted: Wanted) -> str:
        """Install a filter that reports what is new from now on; returns its name."""
        with self._lock:
            self._count += 1
            name = hex(self._count)
            if len(self._filters) >= MAX_FILTERS:
                del self._filters[next(iter(self._filters))]
            self._filters[name] = (wanted, self._end(wanted))
            return name

    def advance(self, name: str) -> tuple[Wanted, int, int]:
        """The filter, the first number that it has not reported, and the one after the last; marks
        them reported."""
        with self._lock:
            wanted, first = self._take(name)
            end = self._end(wanted)
            self._filters[name] = (wanted, max(first, end))
        return wanted, first, end

    def go_back(self, name: str, following: int) -> None:
        """Say that a filter has not reported `following` and what comes after it."""
        with self._lock:
            if name in self._filters:
                self._filters[name] = (self._filters[name][0], following)

    def get(self, name: str) -> Wanted:
        with self._lock:
            wanted, following = self._take(name)
            self._filters[name] = (wanted, following)
            return wanted

    def remove(self, name: str) -> bool:
        with self._lock:
            return self._filters.pop(name, None) is not None

    def _end(self, wanted: Wanted) -> int:
        return self._pool.arrived if wanted == "pending" else self._engine.head.height + 1

    def _take(self, name: str) -> tuple[Wanted, int]:
        """Take a filter out; it is put back at the end, as the one asked for last."""
        if name not in self._filters:
            raise RpcFault(SERVER, "filter not found")
        return self._filters.pop(name)


def _may_match(query: LogQuery, bloom: bytes) -> bool:
    """False if a block with this bloom cannot contain any of these logs."""
    bits = BloomFilter(int.from_bytes(bloom, "big"))
    choices = [entries for entries in (query.addresses, *query.topics) if entries]
    return all(any(entry in bits for entry in entries) for entries in choices)


def _matches(query: LogQuery, log: Mapping[str, object]) -> bool:
    """Whether a log, in its JSON form, is wanted."""
    if query.addresses and log["address"] not in {data_hex(a) for a in query.addresses}:
        return False
    topics = log["topics"]
    if not isinstance(topics, list) or len(query.topics) > len(topics):
        return False
    pairs = zip(query.topics, topics, strict=False)
    return all(not choice or topic in {data_hex(c) for c in choice} for choice, topic in pairs)
