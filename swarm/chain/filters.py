"""Log filters: which logs a client wants, and where each of its installed filters stands.

A block's bloom says cheaply that a log is *not* in it; only blocks that pass are decoded. Installed
filters are a client's bookmarks: there are at most `MAX_FILTERS`, and the one that was not asked
for the longest time gives way.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace

from eth_bloom.bloom import BloomFilter

from swarm.chain.engine import Engine
from swarm.chain.rpc_format import RpcFault, data_hex, read_address, read_digest

MAX_FILTERS = 64
_MAX_ADDRESSES, _MAX_TOPICS, _MAX_CHOICES = 64, 4, 64
_BAD_PARAMS, _SERVER = -32602, -32000


@dataclass(frozen=True)
class LogFilter:
    """Logs of the blocks `first` to `last`, of any of `addresses` if there are any.

    `topics` has a set of accepted values for each position; an empty set accepts all.
    """

    first: int
    last: int
    addresses: frozenset[bytes]
    topics: tuple[frozenset[bytes], ...]

    @classmethod
    def read(cls, first: int, last: int, addresses: object, topics: object) -> LogFilter:
        """Read the JSON-RPC form. Raises RpcFault."""
        wanted = [] if addresses is None else _as_list(addresses)
        positions = [] if topics is None else topics
        if not isinstance(positions, list) or len(positions) > _MAX_TOPICS:
            raise RpcFault(_BAD_PARAMS, f"topics are a list of at most {_MAX_TOPICS}")
        if len(wanted) > _MAX_ADDRESSES:
            raise RpcFault(_BAD_PARAMS, f"at most {_MAX_ADDRESSES} addresses")
        return cls(
            first,
            last,
            frozenset(read_address(item) for item in wanted),
            tuple(_read_choices(item) for item in positions),
        )

    def between(self, first: int, last: int) -> LogFilter:
        """The same filter over other blocks."""
        return replace(self, first=first, last=last)

    def may_match(self, bloom: bytes) -> bool:
        """False if a block with this bloom cannot contain any of these logs."""
        bits = int.from_bytes(bloom, "big")
        choices = [entries for entries in (self.addresses, *self.topics) if entries]
        return all(any(_covers(bits, entry) for entry in entries) for entries in choices)

    def matches(self, log: Mapping[str, object]) -> bool:
        """Whether a log, in its JSON form, is wanted."""
        if self.addresses and log["address"] not in {data_hex(a) for a in self.addresses}:
            return False
        topics = log["topics"]
        if not isinstance(topics, list) or len(self.topics) > len(topics):
            return False
        pairs = zip(self.topics, topics, strict=False)
        return all(not choice or topic in {data_hex(c) for c in choice} for choice, topic in pairs)


class Filters:
    """The installed filters (a LogFilter, or None for blocks), each with its next height."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._count = 0
        self._filters: dict[str, tuple[LogFilter | None, int]] = {}

    def add(self, wanted: LogFilter | None) -> str:
        """Install a filter that reports from the next block on; returns its name."""
        with self._lock:
            self._count += 1
            name = hex(self._count)
            if len(self._filters) >= MAX_FILTERS:
                del self._filters[next(iter(self._filters))]
            self._filters[name] = (wanted, self._engine.head.height + 1)
            return name

    def advance(self, name: object) -> tuple[LogFilter | None, int, int]:
        """The filter and the range of heights that it has not reported; marks them reported."""
        head = self._engine.head.height
        with self._lock:
            wanted, first = self._take(name)
            self._filters[str(name)] = (wanted, max(first, head + 1))
        return wanted, first, head

    def get(self, name: object) -> LogFilter | None:
        with self._lock:
            wanted, following = self._take(name)
            self._filters[str(name)] = (wanted, following)
            return wanted

    def remove(self, name: object) -> bool:
        with self._lock:
            return isinstance(name, str) and self._filters.pop(name, None) is not None

    def _take(self, name: object) -> tuple[LogFilter | None, int]:
        """Take a filter out; it is put back at the end, as the one asked for last."""
        if not isinstance(name, str) or name not in self._filters:
            raise RpcFault(_SERVER, "filter not found")
        return self._filters.pop(name)


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _read_choices(value: object) -> frozenset[bytes]:
    choices = [] if value is None else _as_list(value)
    if len(choices) > _MAX_CHOICES:
        raise RpcFault(_BAD_PARAMS, f"at most {_MAX_CHOICES} values for a topic")
    return frozenset(read_digest(choice) for choice in choices)


def _covers(bits: int, entry: bytes) -> bool:
    return entry in BloomFilter(bits)
