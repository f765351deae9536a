"""Targets: what a node, and whoever audits it, reads of the node's own directory.

A disk that lies, or somebody who could write to it, must end neither with a traceback: an audit
names the fault, a node leaves out what it cannot read, or says what a person can mend.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import cast

import msgspec

from harness.chain import GENESIS_TIME_S, Member
from harness.fuzz.campaign import ACCEPTED, Session, Target
from harness.fuzz.decoders import from_file
from swarm.audit.holdings import check_blobs, check_records
from swarm.audit.replay import Replay
from swarm.audit.report import Fault, History, MemberHistory, Moment, PlanHistory, RoundHistory
from swarm.blobs.store import BlobStore
from swarm.chain.engine import Engine
from swarm.chain.genesis import consortium_genesis
from swarm.chain.messages import COMMIT, Certificate, encode, signing_digest
from swarm.chain.signer import NodeKeys
from swarm.chain.store import ChainStore, StoredBlock
from swarm.errors import UNREADABLE, BlobError, LocalError
from swarm.node.outgoing.log import OutgoingLog, files_in, read_entries, verify
from swarm.privacy.vault import Vault
from swarm.rounds.records import JointFigure, JointScore, Records, RoundRecord
from swarm.types import Address, Digest, to_hex

SECRET = bytes([7]) * 32
DIGEST = "0x" + "11" * 32


def targets() -> list[Target]:
    """All of them."""
    return [
        from_file("outgoing-list", "bytes", _lists, _read_list, "out/00000001.jsonl", LocalError),
        from_file("vault-entry", "bytes", _entries, _read_entry, "attempt/share", LocalError),
        from_file("vault-key", "bytes", _vault_keys, _read_entry, "attempt/key", LocalError),
        from_file(
            "round-records", "json", _records, _read_records, "records/plan-1.jsonl", BlobError
        ),
        from_file("blob-folder", "bytes", _blobs, _read_blobs, "blobs/held", BlobError),
        Target("audited-block", "msgpack", _open_audit, deadline_s=5.0),
    ]


# The list of what left.


def _lists(directory: Path) -> list[bytes]:
    folder = directory / "made"
    (directory / "out").mkdir()
    with closing(OutgoingLog(folder)) as listed:
        listed.add("update", 100, to="Kyoto", plan=1, round=2, blob=DIGEST, part=3)
        listed.add("chain", 200, what="submit")
    return [b"".join(path.read_bytes() for path in files_in(folder))]


def _read_list(path: Path) -> None:
    """As people do, and then as a node does when it starts: it goes on after what is there."""
    list(read_entries(path.parent))
    fault = verify(path.parent).fault
    try:
        with closing(OutgoingLog(path.parent)) as listed:
            listed.add("update", 1)
    finally:
        for other in set(files_in(path.parent)) - {path}:
            other.unlink()
    if fault:
        raise LocalError(fault)


# Secrets of masked rounds.


def _made_vault(directory: Path) -> Vault:
    vault = Vault(directory / "attempt", SECRET, bytes)
    vault.put("share", b"of a secret" * 10)
    return vault


def _entries(directory: Path) -> list[bytes]:
    _made_vault(directory)
    return [(directory / "attempt/share").read_bytes()]


def _vault_keys(directory: Path) -> list[bytes]:
    _made_vault(directory)
    return [(directory / "attempt/key").read_bytes()]


def _read_entry(path: Path) -> None:
    Vault(path.parent, SECRET, bytes).get("share")


# What an audit compares with the chain.


def _records(directory: Path) -> list[bytes]:
    (directory / "records").mkdir(exist_ok=True)
    figure = JointFigure(0.9, 0.8, 0.95, 100)
    record = RoundRecord(
        1, 1, leader=0, contributors=[0], omitted={1: "late"}, model=DIGEST,
        metrics={"test": {"auc": 0.9}},
        joint={"test": {"auc": JointScore({"auc": figure}, {0: figure})}},
    )  # fmt: skip
    return [msgspec.json.encode(record)]


def _history() -> History:
    now = Moment(1, 1_700_000_000)
    final = RoundHistory(
        1, 1, DIGEST, now, ("Basel",), ("Basel",), "final", now, leader="Basel", model=DIGEST,
        contributors=("Basel",), omitted={"Kyoto": "late"},
    )  # fmt: skip
    plan = PlanHistory(1, "Two", "Basel", DIGEST, DIGEST, DIGEST, now, rounds=[final])
    members = [MemberHistory(n, name, DIGEST, DIGEST, now) for n, name in enumerate(NAMES)]
    return History(7, DIGEST, now, DIGEST, members=members, plans=[plan])


NAMES = ("Basel", "Kyoto")


def _read_records(path: Path) -> None:
    """As an audit, and as the node itself when it starts."""
    path.write_bytes(path.read_bytes() + b"\n")
    faults: list[Fault] = []
    check_records(path.parent, _history(), faults)
    Records(path)
    _tell(faults)


def _blobs(directory: Path) -> list[bytes]:
    """A blob and its manifest, with the manifest's length before both."""
    store = BlobStore(directory / "blobs")
    root = store.add_bytes(b"x" * 1000)
    held = store.path(root)
    manifest = held.with_suffix(".manifest").read_bytes()
    return [len(manifest).to_bytes(2, "big") + manifest + held.read_bytes()]


def _read_blobs(path: Path) -> None:
    """As an audit, and as the node itself when it starts: both under the name that it had."""
    data = path.read_bytes()
    path.unlink()
    (held,) = path.parent.glob("*.blob")
    size = int.from_bytes(data[:2], "big")
    held.with_suffix(".manifest").write_bytes(data[2:][:size])
    held.write_bytes(data[2 + size :])
    kept = {file: file.read_bytes() for file in path.parent.iterdir()}
    faults: list[Fault] = []
    check_blobs(path.parent, faults)
    for root in BlobStore(path.parent).roots():
        assert to_hex(root)[2:] == held.stem
    for file, content in kept.items():
        file.write_bytes(content)
    _tell(faults)


def _tell(faults: list[Fault]) -> None:
    """An audit refuses nothing: it names faults."""
    if faults:
        raise BlobError(faults[0].words)


# The chain, carried out again.


class _LyingStore:
    """The chain up to a block, whose stored form is what it is given."""

    def __init__(self, genesis: StoredBlock) -> None:
        self._blocks = [genesis]

    def tell(self, block: StoredBlock) -> None:
        self._blocks[1:] = [block]

    def head(self) -> StoredBlock:
        return self._blocks[-1]

    def block(self, height: int) -> StoredBlock | None:
        return self._blocks[height] if height < len(self._blocks) else None

    def find_transaction(self, name: bytes) -> tuple[int, int] | None:
        return 1, 0


class _Stored(msgspec.Struct, array_like=True, frozen=True):
    """A stored block as one input. SQLite gives columns their types back, so these are given."""

    timestamp: int
    hash: bytes
    payload: bytes
    bloom: bytes
    receipts: bytes
    validators: bytes
    certificate: bytes


_stored = msgspec.msgpack.Decoder(_Stored)


@asynccontextmanager
async def _open_audit(directory: Path) -> AsyncIterator[Session]:
    member = Member(0)
    genesis = consortium_genesis([member.card], GENESIS_TIME_S)
    with Engine.open(directory / "chain", genesis) as engine:
        raw = member.sign(engine.chain_id, nonce=0)
        block = engine.build([raw], GENESIS_TIME_S + 5, member.address)
        engine.execute(block)
        said = signing_digest(engine.vote_domain(), COMMIT, 1, 0, block.hash)
        seal = NodeKeys(member.secret).sign(said)
        engine.commit(block, encode(Certificate(1, 0, block.hash, (seal,))))
        first, second = (engine.stored_block(height) for height in (0, 1))
    assert first is not None
    assert second is not None
    store, work = _LyingStore(first), directory / "work"

    def audit(data: bytes) -> list[Fault]:
        told = _stored.decode(data)
        packed = told.validators
        nodes = tuple(Address(packed[i : i + 20]) for i in range(0, len(packed), 20))
        store.tell(StoredBlock(
            1, Digest(told.hash), told.timestamp, told.payload, told.bloom, told.receipts, nodes,
            told.certificate,
        ))  # fmt: skip
        replay = Replay(cast(ChainStore, store), genesis, (), work)
        try:
            list(replay.blocks())
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return replay.faults

    async def offer(data: bytes) -> str:
        try:
            faults = audit(data)
        except UNREADABLE as error:
            return type(error).__name__  # of this target's own form
        return faults[0].place.split(",")[0] if faults else ACCEPTED

    valid = [
        msgspec.msgpack.encode(
            _Stored(
                second.timestamp, second.hash, second.payload, second.bloom, second.receipts,
                b"".join(second.validators), second.certificate,
            )
        )
    ]  # fmt: skip

    async def check() -> None:
        assert not audit(valid[0])

    yield Session(lambda: valid, offer, check)
