"""Where a node keeps its chain: two sqlite files.

`chain.db` holds blocks with their certificates and the state they left. One block is one sqlite
transaction, so after kill -9 at any instruction the file ends with a whole block. It is not synced
to disk at every block (`synchronous=NORMAL`): a power cut may lose the newest blocks, which the
other members still have.

`votes.db` holds what this node has voted for. There a loss would be a lie: a validator that forgets
its vote may vote for another block at the same height. So each write is on disk before `put`
returns (`synchronous=FULL`).

Both use write-ahead logging and an exclusive lock: a second node on the same directory is refused.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarm.chain.budget import DAY_S
from swarm.chain.evm import Outcome
from swarm.errors import ConfigurationError, LocalError, system_fault
from swarm.types import Address, Digest

_CHAIN_TABLES = """
CREATE TABLE IF NOT EXISTS state (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blocks (
    height INTEGER PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    timestamp INTEGER NOT NULL,
    payload BLOB NOT NULL,
    bloom BLOB NOT NULL,
    receipts BLOB NOT NULL,
    validators BLOB NOT NULL,
    certificate BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS transactions (
    hash BLOB PRIMARY KEY, height INTEGER NOT NULL, position INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spent (member INTEGER PRIMARY KEY, day INTEGER, bytes INTEGER);
"""
_VOTE_TABLES = """
CREATE TABLE IF NOT EXISTS votes (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""
_LAYOUT = 1
_LOCK_WAIT_S = 1.0
_CACHE_KIB = 512  # the system keeps the rest of the file in memory
_STATE_PAGE = 1024
_CACHED_NODES = 4096  # about 2 MB of trie nodes: the state that blocks and calls keep reading


@dataclass(frozen=True)
class StoredBlock:
    """A committed block. `validators` are those that decide the next height."""

    height: int
    hash: Digest
    timestamp: int
    payload: bytes
    bloom: bytes
    receipts: bytes
    validators: tuple[Address, ...]
    certificate: bytes


class ChainStore:
    """Blocks, certificates and state. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._database = _Database(path, _CHAIN_TABLES, synchronous="NORMAL")
        self._nodes: dict[bytes, bytes] = {}

    def close(self) -> None:
        self._database.close()

    def read_state(self, key: bytes) -> bytes | None:
        """The trie node or contract code with this hash."""
        value = self._nodes.get(key)
        if value is None:
            row = self._database.row("SELECT value FROM state WHERE key = ?", (key,))
            if row is None:
                return None
            value = bytes(row[0])
            self._remember({key: value})
        return value

    def append(
        self, outcome: Outcome, validators: Sequence[Address], certificate: bytes
    ) -> StoredBlock:
        """Store a block, its certificate and the state it left, all or nothing."""
        block = outcome.block
        stored = StoredBlock(
            height=block.height,
            hash=block.hash,
            timestamp=block.timestamp,
            payload=block.payload,
            bloom=outcome.bloom,
            receipts=outcome.receipts,
            validators=tuple(validators),
            certificate=certificate,
        )
        with self._database.transaction() as write:
            write.executemany("INSERT OR IGNORE INTO state VALUES (?, ?)", outcome.state.items())
            write.execute(
                "INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    stored.height,
                    stored.hash,
                    stored.timestamp,
                    stored.payload,
                    stored.bloom,
                    stored.receipts,
                    b"".join(stored.validators),
                    stored.certificate,
                ),
            )
            write.executemany(
                "INSERT OR REPLACE INTO spent VALUES (?, ?, ?)",
                [
                    (member, block.timestamp // DAY_S, sent)
                    for member, sent in outcome.spent.items()
                ],
            )
            write.executemany(
                "INSERT INTO transactions VALUES (?, ?, ?)",
                [(name, block.height, i) for i, name in enumerate(outcome.transactions)],
            )
        self._remember(outcome.state)
        return stored

    def head(self) -> StoredBlock | None:
        """The block with the greatest height; None in an empty store."""
        return self._block("ORDER BY height DESC LIMIT 1", ())

    def block(self, height: int) -> StoredBlock | None:
        return self._block("WHERE height = ?", (height,))

    def block_named(self, name: bytes) -> StoredBlock | None:
        return self._block("WHERE hash = ?", (name,))

    def block_hash(self, height: int) -> Digest | None:
        row = self._database.row("SELECT hash FROM blocks WHERE height = ?", (height,))
        return None if row is None else Digest(row[0])

    def spent(self, timestamp: int) -> dict[int, int]:
        """Bytes of transactions, by member, on the day of this time."""
        query = "SELECT member, bytes FROM spent WHERE day = ?"
        return dict(self._database.rows(query, (timestamp // DAY_S,)))

    def find_transaction(self, name: bytes) -> tuple[int, int] | None:
        """(height, position in the block) of a committed transaction."""
        query = "SELECT height, position FROM transactions WHERE hash = ?"
        row = self._database.row(query, (name,))
        return None if row is None else (row[0], row[1])

    def blooms(self, first: int, last: int) -> list[tuple[int, bytes]]:
        """(height, bloom) of the blocks from `first` to `last` that have any logs."""
        query = "SELECT height, bloom FROM blocks WHERE height BETWEEN ? AND ? AND bloom != ?"
        return self._database.rows(query + " ORDER BY height", (first, last, bytes(256)))

    def copy_to(self, path: Path) -> None:
        """Write the whole store, as of this moment, to a new file."""
        self._database.copy_to(path)

    def state_items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every trie node and contract code with the hash under which it is stored."""
        query = "SELECT key, value FROM state WHERE key > ? ORDER BY key LIMIT ?"
        last = b""
        while rows := self._database.rows(query, (last, _STATE_PAGE)):
            yield from ((bytes(key), bytes(value)) for key, value in rows)
            last = bytes(rows[-1][0])

    def _remember(self, nodes: Mapping[bytes, bytes]) -> None:
        if len(self._nodes) + len(nodes) > _CACHED_NODES:
            self._nodes.clear()
        self._nodes.update(nodes)

    def _block(self, where: str, parameters: tuple[object, ...]) -> StoredBlock | None:
        columns = "height, hash, timestamp, payload, bloom, receipts, validators, certificate"
        row = self._database.row(f"SELECT {columns} FROM blocks {where}", parameters)
        if row is None:
            return None
        height, name, timestamp, payload, bloom, receipts, packed, certificate = row
        validators = tuple(Address(packed[i : i + 20]) for i in range(0, len(packed), 20))
        return StoredBlock(
            height, Digest(name), timestamp, payload, bloom, receipts, validators, certificate
        )


class VoteStore:
    """A few small values that must never be lost nor go back, such as one's own votes."""

    def __init__(self, path: Path) -> None:
        self._database = _Database(path, _VOTE_TABLES, synchronous="FULL")

    def close(self) -> None:
        self._database.close()

    def get(self, key: bytes) -> bytes | None:
        row = self._database.row("SELECT value FROM votes WHERE key = ?", (key,))
        return None if row is None else bytes(row[0])

    def put(self, key: bytes, value: bytes) -> None:
        """Keep `value` under `key`. It is on the disk when this returns."""
        with self._database.transaction() as write:
            write.execute("INSERT OR REPLACE INTO votes VALUES (?, ?)", (key, value))

    def delete(self, key: bytes) -> None:
        with self._database.transaction() as write:
            write.execute("DELETE FROM votes WHERE key = ?", (key,))

    def items(self) -> list[tuple[bytes, bytes]]:
        """All keys and values, in the order of the keys."""
        return self._database.rows("SELECT key, value FROM votes ORDER BY key", ())


class _Database:
    """One sqlite file, one connection, one lock; sqlite's errors become ours."""

    def __init__(self, path: Path, tables: str, synchronous: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=_LOCK_WAIT_S
            )
        except OSError as error:
            raise ConfigurationError(f"cannot open {path}: {system_fault(error)}") from None
        except sqlite3.OperationalError as error:
            raise ConfigurationError(
                f"cannot open {path}: {error}; give a directory that this user can write to"
            ) from None
        try:
            self._prepare(tables, synchronous)
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self, tables: str, synchronous: str) -> None:
        connection = self._connection
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            (layout,) = connection.execute("PRAGMA user_version").fetchone()
            if layout not in (0, _LAYOUT):
                raise ConfigurationError(
                    f"{self._path} was written by another version of swarm (layout {layout}, this "
                    f"one reads {_LAYOUT}): use that version, or move the file away and sync again"
                )
            if layout == 0:
                connection.executescript(f"BEGIN; {tables} PRAGMA user_version={_LAYOUT}; COMMIT;")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise ConfigurationError(
                    f"{self._path} is in use: another node process runs on this directory; stop "
                    "it, or give this node a directory of its own"
                ) from None
            raise LocalError(f"cannot use {self._path}: {error}") from None
        except sqlite3.DatabaseError as error:
            raise ConfigurationError(
                f"{self._path} is not a chain file of swarm or is damaged ({error}): move it away "
                "and start again; the node then copies the chain from the other members"
            ) from None

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def row(self, query: str, parameters: tuple[object, ...]) -> Any:
        with self._lock, self._failing("read"):
            return self._connection.execute(query, parameters).fetchone()

    def rows(self, query: str, parameters: tuple[object, ...]) -> list[Any]:
        with self._lock, self._failing("read"):
            return self._connection.execute(query, parameters).fetchall()

    def copy_to(self, path: Path) -> None:
        with (
            self._lock,
            self._failing("copy"),
            closing(sqlite3.connect(path, timeout=_LOCK_WAIT_S)) as copy,
        ):
            self._connection.backup(copy)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is executed inside is stored together, or not at all."""
        with self._lock, self._failing("write to"):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise LocalError(
                f"cannot {what} {self._path}: {error}; check the disk's free space and health"
            ) from error
