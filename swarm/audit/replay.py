"""Every block carried out again, from the genesis on, and compared with what is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eth_hash.auto import keccak

from swarm.audit.report import Fault
from swarm.chain import contract
from swarm.chain.block import InvalidBlock
from swarm.chain.codec import decode_receipts
from swarm.chain.engine import Engine
from swarm.chain.genesis import CONTRACT_ADDRESS, Genesis
from swarm.chain.messages import check_certificate, decode_certificate
from swarm.chain.override import SignedOverride
from swarm.chain.signer import Recovery
from swarm.chain.store import ChainStore, StoredBlock
from swarm.errors import ChainError, LocalError, ProtocolViolation
from swarm.types import Address, Digest, to_hex

FIELDS = ("hash", "timestamp", "bloom", "receipts", "validators")
"""What is stored beside a block and follows from it."""


@dataclass(frozen=True)
class ReplayedBlock:
    """A block that follows from the genesis, with what it did to the contract."""

    height: int
    hash: Digest
    timestamp: int
    proposer: Address | None
    """None of the genesis."""
    sealed_by: frozenset[Address]
    transactions: int
    events: tuple[contract.Event, ...]


@dataclass
class Replay:
    """A chain that is carried out again in the folder `work`."""

    store: ChainStore
    genesis: Genesis
    overrides: Sequence[SignedOverride]
    work: Path
    faults: list[Fault] = field(default_factory=list)

    def blocks(self, until: int | None = None) -> Iterator[ReplayedBlock]:
        """All blocks up to the height `until`, or to the first that does not follow: what comes
        after that proves nothing. Faults are noted as they are found."""
        with Engine.open(self.work, self.genesis, overrides=self.overrides) as engine:
            first = engine.stored_block(0)
            assert first is not None
            self._compare(first, self._read(0))
            yield _replayed(engine, first, None, frozenset())
            height = 0
            while until is None or height < until:
                height += 1
                stored = self._read(height)
                if stored is None:
                    self._note_gap(height)
                    return
                block = self._carry_out(engine, stored)
                if block is None:
                    return
                yield block

    def check_state(self) -> int:
        """Compare every stored value of the state with its name; how many there are."""
        count = 0
        try:
            for key, value in self.store.state_items():
                count += 1
                if keccak(value) != key:
                    self._fault(f"chain.db, state {to_hex(key)}", "the value has another digest")
        except LocalError as error:
            self._fault("chain.db, state", str(error))
        return count

    def _carry_out(self, engine: Engine, stored: StoredBlock) -> ReplayedBlock | None:
        place = f"block {stored.height}"
        try:
            block = engine.decode(stored.payload)
            certificate = decode_certificate(stored.certificate)
            domain = engine.vote_domain(stored.height)
            validators = engine.validators(stored.height)
            sealed_by = check_certificate(certificate, domain, validators, Recovery())
            if (certificate.height, certificate.block_hash) != (stored.height, block.hash):
                raise ProtocolViolation(
                    f"its seals are of block {certificate.height} {to_hex(certificate.block_hash)},"
                    f" but what is stored is block {block.height} {to_hex(block.hash)}"
                )
            engine.execute(block)
            engine.commit(block, stored.certificate)
        except (ProtocolViolation, InvalidBlock, ChainError) as error:
            self._fault(place, str(error))
            return None
        again = engine.stored_block(stored.height)
        assert again is not None
        self._compare(again, stored)
        self._check_names(engine, again)
        return _replayed(engine, again, block.proposer, sealed_by)

    def _compare(self, right: StoredBlock, stored: StoredBlock | None) -> None:
        if stored is None:
            self._fault(f"block {right.height}", "it is not stored")
            return
        for name in FIELDS:
            if getattr(stored, name) != getattr(right, name):
                where = _first_difference(getattr(stored, name), getattr(right, name))
                self._fault(
                    f"block {right.height}, {name}{where}", "it is not what the block gives"
                )
        if right.height == 0 and stored.payload != right.payload:
            where = _first_difference(stored.payload, right.payload)
            self._fault(f"block 0, payload{where}", "it is not what network.json gives")

    def _check_names(self, engine: Engine, block: StoredBlock) -> None:
        """Transactions must be found where they are."""
        for position, name in enumerate(engine.transactions(engine.block(block.height))):
            if self.store.find_transaction(name) != (block.height, position):
                place = f"block {block.height}, transaction {position}"
                self._fault(place, f"{to_hex(name)} is not found under its name")

    def _read(self, height: int) -> StoredBlock | None:
        try:
            return self.store.block(height)
        except (LocalError, ValueError) as error:
            self._fault(f"block {height}", f"it cannot be read: {error}")
            return None

    def _note_gap(self, height: int) -> None:
        """The chain ends at the newest block; before that it is a fault."""
        if self.faults and self.faults[-1].place == f"block {height}":
            return
        newest = self.store.head()
        if newest is not None and newest.height >= height:
            self._fault(f"block {height}", f"it is missing; the newest is {newest.height}")

    def _fault(self, place: str, words: str) -> None:
        self.faults.append(Fault(place, words))


def read_events(stored: StoredBlock, name_of: Callable[[int], Digest]) -> list[contract.Event]:
    """What the contract said in a block, in order; `name_of` names a transaction by its place."""
    found = []
    for position, receipt in enumerate(decode_receipts(stored.receipts)):
        for index, log in enumerate(receipt.logs):
            if log.address != CONTRACT_ADDRESS:
                continue
            topics = [topic.to_bytes(32, "big") for topic in log.topics]
            read = contract.event(topics, log.data)
            if read is not None:
                tx = name_of(position)
                found.append(contract.Event(*read, stored.height, tx, index, stored.timestamp))
    return found


def _replayed(
    engine: Engine, stored: StoredBlock, proposer: Address | None, sealed_by: frozenset[Address]
) -> ReplayedBlock:
    names = engine.transactions(engine.block(stored.height)) if stored.height else ()
    return ReplayedBlock(
        stored.height,
        stored.hash,
        stored.timestamp,
        proposer,
        sealed_by,
        len(names),
        tuple(read_events(stored, names.__getitem__)),
    )


def _first_difference(one: object, other: object) -> str:
    """ ", byte 17" where both are bytes."""
    if not isinstance(one, bytes) or not isinstance(other, bytes):
        return ""
    pairs = zip(one, other, strict=False)
    shorter = min(len(one), len(other))
    return f", byte {next((i for i, (a, b) in enumerate(pairs) if a != b), shorter)}"
