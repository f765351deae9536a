"""Published models: believed if they agree with the chain, and most contributors have signed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import trio

from swarm.blobs.store import BlobStore
from swarm.errors import BlobError, ConfigurationError, RemoteError
from swarm.learning.code.bundle import Bundle
from swarm.learning.models.model_folder import read_folder
from swarm.node.consent.confirmations import sign, signer_of
from swarm.node.home.keys import address_of
from swarm.node.plans.library import Library
from swarm.node.zoo.statements import Entry, Statement, check_entry, decode_entry
from swarm.node.zoo.zoo import LIST, Zoo
from swarm.protocol.program import federated_averaging
from swarm.protocol.state import (
    Candidate,
    Consent,
    Member,
    Outcome,
    Plan,
    Round,
    RoundStatus,
    Rules,
    VerifyLevel,
)
from swarm.tensors import Layout, TensorSpec, create_file
from swarm.types import NO_DIGEST, Address, Digest, MemberId, PlanId, to_digest, to_hex

KEYS = [bytes([n + 1]) * 32 for n in range(4)]
NODES = [address_of(key) for key in KEYS]
CODE = Bundle({"plan.py": b'"""Tells one from two."""\n'})
CONTRACT = Address(b"c" * 20)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    """The store of whoever has published the model."""
    return BlobStore(tmp_path / "holder")


@pytest.fixture
def whole(store: BlobStore) -> Digest:
    return made_of(store, 3)


def made_of(store: BlobStore, value: float) -> Digest:
    """A model of this number."""
    path = store.scratch("made")
    with create_file(path, Layout.from_specs([TensorSpec("w", "F32", (2000,))])) as file:
        file["w"][:] = value
    return store.add(path)


def members() -> dict[MemberId, Member]:
    return {MemberId(n): Member(MemberId(n), node, node, f"m{n}") for n, node in enumerate(NODES)}


def plan_of(whole: Digest) -> Plan:
    """Members 0, 1 and 2 have consented and submitted; the leader left out 1 in the last round."""
    outcome = Outcome(whole, omitted=0b010, next=0)
    round = Round(4, 1, RoundStatus.FINAL, roster=0b111, submitted=0b111)
    round.candidates = [Candidate(MemberId(0), outcome, 0b101, 0)]
    return Plan(
        PlanId(1), MemberId(0), "Two", CODE.digest, NO_DIGEST, Digest(b"b" * 32),
        Rules(4, 2, VerifyLevel.FULL), participants=0b111,
        consents={MemberId(n): Consent(MemberId(n), 1, 10 + n, NO_DIGEST) for n in range(3)},
        outputs=(whole, NO_DIGEST, NO_DIGEST, NO_DIGEST), output_rounds=(4, 0, 0, 0), round=round,
    )  # fmt: skip


def statement_of(whole: Digest, **changes: Any) -> Statement:
    told = Statement(
        chain_id=7,
        contract=to_hex(CONTRACT),
        plan_id=1,
        name="Two",
        about="Tells one from two.",
        licence="CC0-1.0",
        plan=to_hex(CODE.digest),
        base=to_hex(b"b" * 32),
        model=to_hex(whole),
        whole=to_hex(whole),
        statistics="",
        chain_round=4,
        round=4,
        rounds=4,
        contributors=(to_hex(NODES[0]), to_hex(NODES[2])),
    )
    return msgspec.structs.replace(told, **changes)


def signed(statement: Statement, *signers: int) -> Entry:
    return Entry(statement, tuple(sign(statement.sentence, KEYS[n]) for n in signers))


def refusal(entry: Entry, plan: Plan) -> str:
    with pytest.raises(RemoteError) as caught:
        check_entry(entry, {plan.id: plan}, members())
    return str(caught.value)


def test_an_entry_that_its_contributors_signed_is_believed(whole: Digest) -> None:
    plan = plan_of(whole)
    entry = signed(statement_of(whole), 0, 2)
    check_entry(decode_entry(msgspec.json.encode(entry)), {plan.id: plan}, members())


def test_half_of_the_contributors_are_too_few_and_strangers_do_not_count(whole: Digest) -> None:
    plan = plan_of(whole)
    assert "signed by 1 of 2 contributors, and 2" in refusal(signed(statement_of(whole), 0), plan)
    assert "signed by 1 of 2" in refusal(signed(statement_of(whole), 0, 0, 1, 3), plan)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"plan_id": 9}, "plan 9 is not on this chain"),
        ({"plan": "0x" + "11" * 32}, "another plan"),
        ({"model": "0x" + "22" * 32}, "has made another model"),
        ({"contributors": (to_hex(NODES[0]),)}, "other contributors than the chain"),
        ({"contributors": tuple(map(to_hex, NODES[:3]))}, "other contributors than the chain"),
    ],
)
def test_what_does_not_agree_with_the_chain_is_refused_though_it_is_signed(
    whole: Digest, change: dict[str, Any], why: str
) -> None:
    assert why in refusal(signed(statement_of(whole, **change), 0, 1, 2), plan_of(whole))


def test_words_changed_after_signing_make_the_signatures_worthless(whole: Digest) -> None:
    entry = signed(statement_of(whole), 0, 2)
    other = Entry(msgspec.structs.replace(entry.statement, licence="mine"), entry.signatures)
    assert "signed by 0 of 2" in refusal(other, plan_of(whole))


def test_an_older_round_may_be_signed_by_those_who_consented_and_nobody_else(whole: Digest) -> None:
    older = {"chain_round": 3, "round": 3, "model": "0x" + "33" * 32}
    plan = plan_of(whole)
    nodes = tuple(map(to_hex, NODES[:3]))
    entry = signed(statement_of(whole, contributors=nodes, **older), 0, 1)
    check_entry(entry, {plan.id: plan}, members())
    alien = statement_of(whole, contributors=(to_hex(NODES[3]),), **older)
    assert "other contributors" in refusal(signed(alien, 3), plan)


class Peer:
    """The network and the exchange of a member that did not train: one peer has entries."""

    def __init__(self, entries: list[Entry], store: BlobStore, own: BlobStore) -> None:
        self.entries, self.store, self.own = entries, store, own
        self.is_tampered = False

    async def request(
        self, peer: Address, method: str, payload: bytes, *, deadline_s: float
    ) -> bytes:
        if method == LIST and peer == NODES[0]:
            return msgspec.msgpack.encode([msgspec.json.encode(e) for e in self.entries])
        if method == "plan.bundle":
            return CODE.pack()
        raise RemoteError("not connected")

    async def pull(self, root: Digest, peers: list[Address], *, patience_s: float) -> None:
        assert peers == [NODES[0]]
        raw = bytearray(self.store.path(root).read_bytes())
        if self.is_tampered:
            raw[-1] ^= 1
        path = self.own.scratch("pulled")
        path.write_bytes(raw)
        if self.own.add(path) != root:
            raise BlobError(f"chunk 1 of blob {to_hex(root)} has another digest")


def open_zoo(tmp_path: Path, peer: Peer, plan: Plan) -> Zoo:
    return Zoo(
        tmp_path / "zoo", KEYS[3], NODES[3], 7, CONTRACT, peer, peer.own,
        peer, Library(tmp_path / "plans"), None, {plan.id: plan}, members, {},
    )  # type: ignore[arg-type]  # fmt: skip


def test_a_member_that_did_not_train_pulls_a_model_and_serves_it_then(
    tmp_path: Path, store: BlobStore, whole: Digest
) -> None:
    plan, entry = plan_of(whole), signed(statement_of(whole), 0, 2)
    unsigned = signed(statement_of(whole, licence="mine"), 0)
    peer = Peer([unsigned, entry], store, BlobStore(tmp_path / "own"))
    zoo = open_zoo(tmp_path, peer, plan)
    found, refused = trio.run(zoo.find)
    assert {d: holders for d, (_, holders) in found.items()} == {entry.statement.digest: [NODES[0]]}
    assert any("an entry of m0: it is signed by 1 of 2" in line for line in refused)
    trio.run(zoo.pull, entry.statement.digest, tmp_path / "model", False)
    card = read_folder(tmp_path / "model").card
    assert (card.licence, card.model, card.about) == (
        "CC0-1.0",
        to_hex(whole),
        "Tells one from two.",
    )
    assert [(s.name, s.contributed) for s in card.sites] == [
        ("m0", True),
        ("m1", False),
        ("m2", True),
    ]
    assert zoo.needed() == {whole}
    assert open_zoo(tmp_path, peer, plan).entries == {entry.statement.digest: entry}


def test_a_file_that_was_tampered_with_on_its_way_is_refused_by_name(
    tmp_path: Path, store: BlobStore, whole: Digest
) -> None:
    entry = signed(statement_of(whole), 0, 2)
    peer = Peer([entry], store, BlobStore(tmp_path / "own"))
    peer.is_tampered = True
    zoo = open_zoo(tmp_path, peer, plan_of(whole))
    with pytest.raises(RemoteError, match=r"model\.safetensors did not come as it was published"):
        trio.run(zoo.pull, entry.statement.digest, tmp_path / "model", False)
    assert not (tmp_path / "model").exists()
    assert not zoo.entries


def test_what_nobody_has_published_is_not_pulled(
    tmp_path: Path, store: BlobStore, whole: Digest
) -> None:
    peer = Peer([], store, BlobStore(tmp_path / "own"))
    with pytest.raises(ConfigurationError, match="nobody who is reached has published"):
        trio.run(open_zoo(tmp_path, peer, plan_of(whole)).pull, whole, tmp_path / "m", False)


def test_a_model_that_began_with_another_plans_names_that_plan(
    tmp_path: Path, store: BlobStore, whole: Digest
) -> None:
    first = plan_of(whole)
    second = replace(first, id=PlanId(2), base=whole)
    zoo = open_zoo(tmp_path, Peer([], store, BlobStore(tmp_path / "own")), first)
    zoo.plans = {first.id: first, second.id: second}
    assert zoo.parent_of(second) == 1
    assert zoo.parent_of(first) == 0
    assert to_digest(to_hex(whole)) == second.base


def contributor(tmp_path: Path, store: BlobStore, whole: Digest, signs: str) -> Zoo:
    """The zoo of a node whose update is in the model."""
    plan = plan_of(whole)
    zoo = Zoo(
        tmp_path / "zoo", KEYS[0], NODES[0], 7, CONTRACT, Peer([], store, store), store,
        None, None, None, {plan.id: plan}, members, {plan.id: SimpleNamespace(plan=plan)}, signs,
    )  # type: ignore[arg-type]  # fmt: skip
    zoo._made[plan.id, plan.model_round] = statement_of(whole)
    return zoo


def asked_to_sign(zoo: Zoo, round: int) -> str:
    wanted = msgspec.msgpack.encode({"plan": 1, "chain_round": round})
    return trio.run(zoo.serve_signature, NODES[2], wanted).decode()


def test_a_node_signs_for_others_once_somebody_there_has_said_so_for_that_round(
    tmp_path: Path, store: BlobStore, whole: Digest
) -> None:
    zoo, statement = contributor(tmp_path, store, whole, "ask"), statement_of(whole)
    with pytest.raises(
        RemoteError, match=r"nobody there has agreed .* `swarm model sign --plan 1`"
    ):
        asked_to_sign(zoo, statement.chain_round)
    assert trio.run(zoo.agree, PlanId(1)) == statement
    again = contributor(tmp_path, store, whole, "ask")  # after a restart
    assert signer_of(statement.sentence, asked_to_sign(again, statement.chain_round)) == NODES[0]
    with pytest.raises(RemoteError, match="nobody there has agreed"):
        asked_to_sign(again, statement.chain_round + 1)


def test_a_node_signs_by_itself_where_its_policy_says_so(
    tmp_path: Path, store: BlobStore, whole: Digest
) -> None:
    zoo, statement = contributor(tmp_path, store, whole, "automatic"), statement_of(whole)
    assert signer_of(statement.sentence, asked_to_sign(zoo, statement.chain_round)) == NODES[0]


def test_who_did_not_contribute_is_told_that_it_has_nothing_to_sign(
    tmp_path: Path, store: BlobStore, whole: Digest
) -> None:
    zoo = contributor(tmp_path, store, whole, "ask")
    zoo.address = NODES[1]
    with pytest.raises(ConfigurationError, match="this node is in the model of round 4 of plan 1"):
        trio.run(zoo.agree, PlanId(1))


class Part:
    """A node's part in the plan, whose third round has made the best model."""

    program = federated_averaging(4)

    def __init__(self, plan: Plan, models: dict[Digest, int], store: BlobStore) -> None:
        self.plan, self.models, self.store = plan, models, store

    def made_in(self, model: Digest) -> int | None:
        return self.models.get(model)

    def contributors_in(self, number: int) -> int:
        return 0b011 if number == 3 else 0b101

    async def export(self, model: Digest, out: Path, *, own_parts: bool) -> None:
        assert not own_parts
        await trio.to_thread.run_sync(shutil.copyfile, self.store.path(model), out)


class Described:
    licence = "CC0-1.0"

    async def of(self, code: Digest) -> Any:
        return self

    async def describe(self) -> Any:
        await trio.lowlevel.checkpoint()
        return self


@pytest.mark.parametrize(
    ("best", "round", "contributors"),
    [(True, 3, (0, 1)), (False, 4, (0, 2))],
    ids=["best", "newest"],
)
def test_the_model_that_the_plan_has_chosen_is_signed_by_those_whose_updates_are_in_it(
    tmp_path: Path, store: BlobStore, whole: Digest, best: bool, round: int, contributors: Any
) -> None:
    newest = made_of(store, 4)
    outputs = (newest, NO_DIGEST, whole if best else NO_DIGEST, NO_DIGEST)
    plan = replace(plan_of(newest), outputs=outputs, output_rounds=(4, 0, 5 * best, 0))
    if not best:  # another stage came after it, so that the chain tells of a later round
        plan.round = Round(5, 1, RoundStatus.FINAL, roster=0b111, submitted=0b111)
    library = Library(tmp_path / "plans")
    library.add(CODE)
    part: Any = Part(plan, {newest: 4, whole: 3}, store)
    zoo = Zoo(
        tmp_path / "zoo", KEYS[0], NODES[0], 7, CONTRACT, Peer([], store, store), store,
        None, library, Described(), {plan.id: plan}, members, {plan.id: part}, "ask",
    )  # type: ignore[arg-type]  # fmt: skip
    statement = trio.run(zoo.agree, PlanId(1))
    assert (statement.chain_round, statement.round) == (round, round)
    assert statement.model == to_hex(whole if best else newest)
    assert statement.contributors == tuple(to_hex(NODES[n]) for n in contributors)
    check_entry(signed(statement, *contributors), {plan.id: plan}, members())
    part.models.clear()  # as at a node that came later
    plan.round = Round(6, 1, RoundStatus.FINAL)
    if best:
        with pytest.raises(ConfigurationError, match="made before the node came, so ask another"):
            trio.run(zoo.agree, PlanId(1))
