"""The audit: it believes nothing but the genesis, and names what differs."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from eth_account import Account
from harness.chain import GENESIS_TIME_S, Member

import swarm
from swarm.audit.audit import audit
from swarm.audit.choices import check_choices
from swarm.audit.page import page
from swarm.audit.report import (
    Fault,
    History,
    MemberHistory,
    Moment,
    PlanHistory,
    RoundHistory,
)
from swarm.audit.words import told, verdict
from swarm.blobs.store import BlobStore
from swarm.chain import contract
from swarm.chain.engine import CHAIN_FILE, Engine
from swarm.chain.genesis import CONTRACT_ADDRESS, Genesis
from swarm.chain.messages import COMMIT, Certificate, encode, signing_digest
from swarm.chain.signer import NodeKeys
from swarm.errors import ConfigurationError
from swarm.learning.metrics.choice import Pair, encode_pair
from swarm.learning.metrics.wire import SentCounts, pack
from swarm.node.home.setup import create_node, found_network, install_network
from swarm.node.plans.programs import Programs
from swarm.protocol.election import commitment_to
from swarm.protocol.membership import Kind
from swarm.protocol.program import Program, Stage
from swarm.protocol.state import BEST_SLOT, Outcome, Rules, Terms
from swarm.rounds.records import RoundRecord
from swarm.types import NO_ADDRESS, Digest, to_hex

DIGEST, MODEL = Digest(b"\x11" * 32), Digest(b"\x22" * 32)
MEMBERS = [Member(number) for number in range(4)]
ANN, BEN, CLEO, DAN = MEMBERS
RULES = Rules(1, 2, max_round_s=600, slot_s=10)


class Chain:
    """A consortium's chain, block by block, sealed by three of four."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def commit(self, *calls: tuple[Member, str, tuple[object, ...]]) -> None:
        """A block with these calls, each sent by a member."""
        raws = [self._sign(member, name, arguments) for member, name, arguments in calls]
        now = self.engine.timestamp + 5
        block = self.engine.build(raws, now, self.engine.validators()[0])
        assert len(self.engine.transactions(block)) == len(raws)
        self.engine.execute(block)
        said = signing_digest(self.engine.vote_domain(), COMMIT, block.height, 0, block.hash)
        seals = tuple(NodeKeys(member.secret).sign(said) for member in MEMBERS[:3])
        self.engine.commit(block, encode(Certificate(block.height, 0, block.hash, seals)))

    def _sign(self, member: Member, name: str, arguments: tuple[object, ...]) -> bytes:
        transaction = {
            "chainId": self.engine.chain_id,
            "nonce": self.engine.nonce(member.address),
            "to": to_hex(CONTRACT_ADDRESS),
            "value": 0,
            "gas": 900_000,
            "type": 2,
            "maxFeePerGas": 0,
            "maxPriorityFeePerGas": 0,
            "data": contract.call_data(name, *arguments),
        }
        return bytes(Account.sign_transaction(transaction, member.secret).raw_transaction)


def write_history(directory: Path, genesis: Genesis) -> None:
    """A plan that three consent to and one declines, with one final round; a proposal."""
    with Engine.open(directory / "chain", genesis) as engine:
        chain = Chain(engine)
        chain.commit(
            (ANN, "proposePlan", ("a plan", DIGEST, DIGEST, DIGEST, RULES, 0, 0)),
            (BEN, "propose", (Kind.REMOVE, NO_ADDRESS, NO_ADDRESS, "", 3, 0)),
        )
        trainers = (ANN, BEN, CLEO)
        reveals = {member.address: bytes([n + 1]) * 32 for n, member in enumerate(trainers)}
        terms = [
            Terms(3, 100, DIGEST, 0, commitment_to(reveals[m.address]), DIGEST, DIGEST)
            for m in trainers
        ]
        consents = [(m, "consent", (1, DIGEST, t)) for m, t in zip(trainers, terms, strict=True)]
        chain.commit((DAN, "decline", (1,)), *consents[:2])
        chain.commit(consents[2])
        updates = [
            (m, "submit", (1, 1, 1, bytes([n + 5]) * 32, 10 + n, reveals[m.address],
                           commitment_to(DIGEST), DIGEST, b""))
            for n, m in enumerate(trainers)
        ]  # fmt: skip
        chain.commit(*updates)
        leader = contract.result(
            "leaderAt",
            engine.call(
                CONTRACT_ADDRESS, contract.call_data("leaderAt", 1, 1, 1, engine.timestamp + 5)
            ),
        )
        led = MEMBERS[int(leader)]
        chain.commit((led, "merge", (1, 1, 1, Outcome(MODEL, 0), b"")))
        others = [m for m in trainers if m is not led]
        chain.commit((others[0], "attest", (1, 1, 1, Outcome(MODEL, 0), 3, DIGEST)))
        for _ in range(3):
            chain.commit()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("audit") / "hospital"
    create_node(directory, "site 000", password=None)
    genesis = found_network([m.card for m in MEMBERS], GENESIS_TIME_S)
    install_network(directory, genesis)
    write_history(directory, genesis)
    store = BlobStore(directory / "blobs")
    store.add_bytes(random.Random(1).randbytes(5000))
    final = audit(directory).history.plans[0].rounds[0]
    record = RoundRecord(1, 1, leader=int(final.leader[-3:]), contributors=[0, 1, 2])
    record.model = to_hex(MODEL)
    (directory / "records").mkdir()
    (directory / "records" / "plan-1.jsonl").write_bytes(msgspec.json.encode(record) + b"\n")
    return directory


@pytest.fixture
def hospital(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "hospital"))


def test_all_that_happened_is_told_and_nothing_differs(hospital: Path) -> None:
    report = audit(hospital)
    assert report.faults == []
    [plan] = report.history.plans
    assert (plan.outcome, plan.model) == ("completed", to_hex(MODEL))
    answers = {consent.member: consent.answer for consent in plan.consents}
    assert answers == {
        "site 000": "consented",
        "site 001": "consented",
        "site 002": "consented",
        "site 003": "declined",
    }
    [round] = plan.rounds
    assert round.outcome == "final"
    assert round.samples == {"site 000": 10, "site 001": 11, "site 002": 12}
    assert round.contributors == ("site 000", "site 001", "site 002")
    assert len(round.attested) == 2
    [proposal] = report.history.proposals
    assert (proposal.kind, proposal.subject) == ("remove", "site 003")
    assert report.here.seals == {
        "site 000": 9,
        "site 001": 9,
        "site 002": 9,
        "site 003": 0,
    }
    assert (report.here.blocks, report.here.blobs, report.here.records) == (10, 1, 1)
    assert verdict(report).startswith("Everything agrees: 9 blocks")


def test_members_that_keep_other_seals_and_files_get_the_same_digest(
    hospital: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(hospital, tmp_path / "other"))
    shutil.rmtree(other / "records")
    with closing(sqlite3.connect(other / "chain" / CHAIN_FILE)) as database, database:
        [(raw,)] = database.execute("SELECT certificate FROM blocks WHERE height = 9").fetchall()
        certificate = msgspec.msgpack.decode(raw)
        assert len(certificate[3]) == 3
    assert audit(other).digest == audit(hospital).digest
    assert audit(other, until=5).digest == audit(hospital, until=5).digest
    assert audit(other, until=5).digest != audit(other).digest


PLACES = {
    "payload": "SELECT height, payload FROM blocks",
    "receipts": "SELECT height, receipts FROM blocks WHERE length(receipts) > 1",
    "bloom": "SELECT height, bloom FROM blocks",
    "validators": "SELECT height, validators FROM blocks",
    "certificate": "SELECT height, certificate FROM blocks WHERE height > 0",
    "hash": "SELECT height, hash FROM blocks",
}


TRIED_PLACES = int(os.environ.get("SWARM_AUDIT_PLACES", "20"))
"""For a longer search: SWARM_AUDIT_PLACES=200 pytest tests/unit/test_audit.py"""


def flip_in_chain(hospital: Path, chance: random.Random) -> str:
    """Change one byte of one stored block, or of one value of the state; where."""
    column = chance.choice([*PLACES, "state"])
    with closing(sqlite3.connect(hospital / "chain" / CHAIN_FILE)) as database, database:
        if column == "state":
            key, value = chance.choice(database.execute("SELECT key, value FROM state").fetchall())
            query, where = "UPDATE state SET value = ? WHERE key = ?", f"state {to_hex(key)}"
        else:
            key, value = chance.choice(database.execute(PLACES[column]).fetchall())
            query, where = f"UPDATE blocks SET {column} = ? WHERE height = ?", f"block {key}"
        database.execute(query, (flipped(value, chance), key))
    return where


def flipped(value: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(value))
    changed = value[at] ^ 1 << chance.randrange(8)
    return value[:at] + bytes([changed]) + value[at + 1 :]


def flip_in_file(hospital: Path, chance: random.Random) -> str:
    """Change one byte of a blob, or of its manifest."""
    file = chance.choice(sorted((hospital / "blobs").iterdir()))
    file.write_bytes(flipped(file.read_bytes(), chance))
    return file.stem


def test_one_changed_byte_anywhere_is_named(original: Path, tmp_path: Path) -> None:
    """Three of four seals are kept here, and three are needed: each counts."""
    for number in range(TRIED_PLACES):
        chance = random.Random(number)
        hospital = Path(shutil.copytree(original, tmp_path / str(number)))
        flip = flip_in_chain if chance.random() < 0.7 else flip_in_file
        where = flip(hospital, chance)
        faults = audit(hospital).faults
        assert faults, (number, where)
        assert any(where in fault.place for fault in faults), (number, where, faults)
        shutil.rmtree(hospital)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": to_hex(DIGEST)}, "model"),
        ({"contributors": [0, 1]}, "contributors"),
        ({"omitted": {2: "unreachable"}}, "omitted"),
        ({"round": 7}, "no final round 7"),
    ],
)
def test_a_record_that_the_chain_contradicts_is_named(
    hospital: Path, change: dict[str, object], words: str
) -> None:
    file = hospital / "records" / "plan-1.jsonl"
    file.write_bytes(msgspec.json.encode(msgspec.json.decode(file.read_bytes()) | change) + b"\n")
    [fault] = audit(hospital).faults
    assert fault.place == "records/plan-1.jsonl, line 1"
    assert words in fault.words


def test_a_block_that_is_taken_out_is_missed(hospital: Path) -> None:
    with closing(sqlite3.connect(hospital / "chain" / CHAIN_FILE)) as database, database:
        database.execute("DELETE FROM blocks WHERE height = 4")
    report = audit(hospital)
    assert [fault.place for fault in report.faults][:1] == ["block 4"]
    assert report.history.head.height == 3


def test_a_node_without_a_chain_cannot_be_audited(tmp_path: Path) -> None:
    create_node(tmp_path / "new", "new", password=None)
    with pytest.raises(ConfigurationError, match=r"network\.json"):
        audit(tmp_path / "new")


def test_the_page_and_the_words_hold_names_but_no_markup_of_them(hospital: Path) -> None:
    report = audit(hospital)
    report.history.plans[0].name = "<script>alert(1)</script>\u202e"
    text = page(report)
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u202e" in text
    assert "http" not in text.replace("http-equiv", "")
    assert "site 003 declined" in "\n".join(told(report))


# Choices of a best model.

CHOOSING = Program(
    (
        Stage("training", "train", "mean", 1),
        Stage("select", "select", "highest right", 1, BEST_SLOT),
        Stage("training", "train", "mean", 1, follows=1),
        Stage("select", "select", "highest right", 1, BEST_SLOT),
    )
)
FIRST, SECOND = to_hex(b"\1" * 32), to_hex(b"\2" * 32)


def right(rows: int) -> SentCounts:
    """Of ten rows."""
    columns = [0] * rows + [1] * (10 - rows)
    return pack(swarm.metrics.confusion(np.zeros(10), np.eye(2)[columns], 2))


def chosen(number: int, base: str, model: str, counted: dict[str, str]) -> RoundHistory:
    names, now = tuple(counted), Moment(9, 9)
    return RoundHistory(
        number, 1, base, now, names, names, "final", now, dict.fromkeys(names, 1), counted,
        names[0], model, names,
    )  # fmt: skip


def choices_of(
    directory: Path, model: str, sites: dict[str, tuple[int, int]], is_kept: bool = True
) -> tuple[int, list[Fault]]:
    """What an audit says of the second choice: at each site, how many of ten rows the newer and the
    older model get right."""
    store = BlobStore(directory / "blobs")
    Programs(directory / "programs").add(CHOOSING)

    def told(*pair: SentCounts) -> str:
        return to_hex(store.add_bytes(encode_pair(Pair(*pair))))

    first = {site: told(right(5)) for site in sites}
    second = {site: told(right(new), right(old)) for site, (new, old) in sites.items()}
    now = Moment(1, 1)
    plan = PlanHistory(1, "p", "ann", "", to_hex(CHOOSING.digest), to_hex(DIGEST), now)
    plan.rounds = [chosen(2, FIRST, FIRST, first), chosen(4, SECOND, model, second)]
    people = [MemberHistory(n, name, "", "", now) for n, name in enumerate(sites)]
    faults: list[Fault] = []
    history = History(1, "", now, "", members=people, plans=[plan])
    if not is_kept:
        store.discard(store.roots())
    return check_choices(directory, history, faults), faults


def test_choices_of_the_best_model_are_made_again_from_what_all_sites_counted(
    tmp_path: Path,
) -> None:
    better = {"ann": (9, 5), "ben": (4, 5)}
    assert choices_of(tmp_path / "a", SECOND, better) == (2, [])
    worse = {"ann": (6, 5), "ben": (3, 5)}
    assert choices_of(tmp_path / "b", FIRST, worse) == (2, [])


def test_a_wrong_choice_is_named_with_what_the_counts_choose(tmp_path: Path) -> None:
    worse = {"ann": (6, 5), "ben": (3, 5)}
    count, [fault] = choices_of(tmp_path, SECOND, worse)
    assert (count, fault.place) == (2, "plan 1, select")
    assert fault.words == f"the sites' counts choose {FIRST}, and the chain has {SECOND}"


def test_without_all_counts_a_choice_must_at_least_be_of_the_two_models(tmp_path: Path) -> None:
    other, sites = to_hex(b"\3" * 32), {"ann": (9, 5), "ben": (4, 5)}
    for model, count in ((FIRST, 0), (SECOND, 0), (other, 1)):
        made_again, faults = choices_of(tmp_path / model, model, sites, is_kept=False)
        assert (made_again, len(faults)) == (0, count)
        assert all("neither the newest model nor the best before" in f.words for f in faults)
