"""Targets: what members tell each other of plans, models and masked rounds, beside the chain."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from harness.chain import Member
from harness.fuzz.campaign import ACCEPTED, Session, Target
from harness.fuzz.decoders import pure
from swarm.errors import (
    UNREADABLE,
    BlobError,
    ConfigurationError,
    LocalError,
    PlanError,
    ProtocolViolation,
    RemoteError,
    SwarmError,
)
from swarm.learning.metrics.classes import Confusion
from swarm.learning.metrics.counts import Counts
from swarm.learning.metrics.matrix import OfCopies, read_matrix, write_counts
from swarm.learning.metrics.ranking import Roc
from swarm.learning.metrics.wire import Told, encode_told, pack, read_told, unpack
from swarm.learning.models.card import (
    Card,
    CardSite,
    Score,
    Scores,
    decode_card,
    encode_card,
    write_markdown,
)
from swarm.learning.parameters.next_file import Contribution, Folding, fold_whole
from swarm.learning.parameters.placement import Frozen, Local, Placement, Shared, read_placement
from swarm.learning.plans.stages import check_known
from swarm.learning.simulation import messages as workers
from swarm.network import wire
from swarm.network.tcp import parse_endpoint
from swarm.node.consent.confirmations import sign
from swarm.node.members.contacts import decode_contact, encode_contact
from swarm.node.members.greetings import Greeting, Greetings
from swarm.node.zoo.statements import Entry, Statement, decode_entry, signers_of
from swarm.node.zoo.zoo import LIST, Zoo
from swarm.privacy.derivation import Occasion, Party, public_key
from swarm.privacy.envelope import EPOCHS, Dealer, open_shares, seal
from swarm.privacy.envelope import Shape as Attempt
from swarm.privacy.shares import deal
from swarm.protocol.membership import MAX_CONTACT_BYTES
from swarm.protocol.program import MAX_ROUNDS, build, federated_averaging, parse
from swarm.protocol.state import Member as Known
from swarm.rounds.metas import Meta, decode_meta, encode_meta
from swarm.rounds.model_tables import lines_of
from swarm.tensors import Layout, TensorFile, open_file
from swarm.types import NO_DIGEST, Address, MemberId, to_hex

SENDER = Address(b"\7" * 20)
Answer = Callable[[Address, bytes], Awaitable[bytes]]


def targets() -> list[Target]:
    """All of them."""
    return [
        pure("program", "json", _programs, _read_program, PlanError),
        pure("contact", "bytes", _contacts, _read_contact, ConfigurationError),
        pure("placement", "json", _placements, _read_placement, PlanError),
        pure("update-meta", "json", _metas, decode_meta, BlobError),
        pure("tallies", "json", tallies, _read_tallies, BlobError),
        pure("model-table", "bytes", _model_tables, _read_model_table, BlobError),
        pure("zoo-entry", "json", _zoo_entries, _read_zoo_entry, RemoteError),
        pure("model-card", "json", _model_cards, _read_model_card, ConfigurationError),
        pure("bulk-call", "msgpack", _bulk_calls, _read_bulk_call, ProtocolViolation),
        pure("worker-in", "msgpack", _worker_requests, workers.decode_request, LocalError),
        pure("worker-out", "msgpack", _worker_replies, workers.decode_reply, LocalError),
        pure("envelope", "bytes", _envelopes, _open_envelope, RemoteError),
        Target("greeting", "msgpack", _open_greetings),
        Target("zoo", "msgpack", _open_zoo),
    ]


# Plans.


def _programs(_: Path) -> list[bytes]:
    frozen = Placement((("encoder.*", Frozen()), ("*", Shared()))).encode()
    two = build(
        [
            {"name": "warm up", "task": "train", "merge": frozen, "rounds": 3, "epochs": 2},
            {"name": "personalise", "task": "personalise", "merge": "gather", "rounds": 2},
        ]
    )
    averaging = federated_averaging(3, statistics=True)
    return [averaging.blob, averaging.with_rounds(5, before=2).blob, two.blob]


def _read_program(data: bytes) -> None:
    """As a node does, which then asks it about any round."""
    program = parse(data)
    check_known(program)
    for number in (0, 1, program.rounds, program.rounds + 1, MAX_ROUNDS, 2**32 - 1):
        program.place(number)
        program.number_of(number)
        program.title_of(number)
        assert 0 <= program.next_after(number) <= len(program.stages)


def _placements(_: Path) -> list[bytes]:
    frozen = Frozen(sha256="ab" * 32)
    rows = (("encoder.*", frozen), ("head.*", Local()), ("*", Shared()))
    return [b"mean", b"sum", b"gather", Placement(rows).encode().encode()]


def _read_placement(data: bytes) -> None:
    """Merges are ASCII before they come here: the program's type says so."""
    read_placement(data.decode("ascii", "replace"))


def _contacts(_: Path) -> list[bytes]:
    return [encode_contact(["/ip4/192.0.2.1/tcp/4001", "/dns4/swarm.basel.example/tcp/443"])]


def _read_contact(data: bytes) -> None:
    """As a node does with what a member states; the contract takes no longer one."""
    for address in decode_contact(data[:MAX_CONTACT_BYTES]):
        parse_endpoint(address)


# Updates and models.


def _metas(_: Path) -> list[bytes]:
    return [encode_meta(Meta("0x" + "11" * 32, "train", 7, 1.5))]


def tallies(_: Path) -> list[bytes]:
    measures: list[Any] = [Roc(1, 4, 0.9), Confusion(3)]
    some = {f"of {m}": pack(Counts(m, np.ones(m.places, np.int64))) for m in measures}
    told = Told(1, 4, "0x" + "22" * 32, {"validation": some, "test": some})
    return [encode_told(told)]


def _read_tallies(data: bytes) -> None:
    """As a node does with what a member tells: added up with its own, and put into figures."""
    for part in read_told(data).parts.values():
        for sent in part.values():
            counts = unpack(sent)
            (counts + counts).figures()


def _model_tables(folder: Path) -> list[bytes]:
    one, other = ({"auc": Counts(Roc(1, 1, 0.9), np.full(258, n))} for n in (1, 2))
    told: Sequence[OfCopies] = ({-1: one, 4: other}, {-1: other, 4: one})
    given = []
    for member, counts in enumerate(told):
        write_counts(folder / f"told-{member}", counts)
        given.append(Contribution(member, 1, np.fromfile(folder / f"told-{member}", np.uint8)))
    folding = Folding(read_placement("gather"), open_file(folder / "told-0").layout)
    return [fold_whole(folding, given, None).raw.tobytes()]


def _read_model_table(data: bytes) -> None:
    header = data[: 8 + int.from_bytes(data[:8], "little")]
    file = TensorFile(Layout.parse(header, len(data)), np.frombuffer(data, np.uint8))
    lines_of(read_matrix(file).table(str))


def _statement() -> Statement:
    digest = "0x" + "33" * 32
    account = to_hex(Member(0).address)
    return Statement(
        chain_id=7, contract=account, plan_id=1, name="Two", about="Tells one from two.",
        licence="CC0-1.0", plan=digest, base=digest, model=digest, whole=digest, statistics="",
        chain_round=4, round=4, rounds=4, contributors=(account,),
    )  # fmt: skip


def _zoo_entries(_: Path) -> list[bytes]:
    told = _statement()
    return [msgspec.json.encode(Entry(told, (sign(told.sentence, Member(0).secret),)))]


def _read_zoo_entry(data: bytes) -> None:
    entry = decode_entry(data)
    assert len(entry.statement.digest) == 32
    signers_of(entry)


def _model_cards(_: Path) -> list[bytes]:
    scores = Scores("rows of all sites", {"auc": Score(0.9, 0.8, 0.95), "kappa": Score(None)})
    card = Card(
        name="Two", about="Tells one from two.", plan="0x" + "44" * 32, round=4, rounds=4,
        sites=(CardSite("Basel", 100, contributed=True),), scores=(scores,), files={"a.csv": "0x"},
    )  # fmt: skip
    return [encode_card(card)]


def _read_model_card(data: bytes) -> None:
    write_markdown(decode_card(data, "card.json"))


def _bulk_calls(_: Path) -> list[bytes]:
    return [msgspec.msgpack.encode(wire.BulkCall(bytes(32), [4001, 4002]))]


def _read_bulk_call(data: bytes) -> None:
    try:
        wire.call_decoder.decode(data)
    except UNREADABLE as error:
        raise ProtocolViolation(str(error)) from None


def _worker_requests(_: Path) -> list[bytes]:
    requests: list[workers.Request] = [
        workers.OpenPlan(plan="p", partition="iid", clients=3, seed=1),
        workers.TrainClient(client=1, round=1, round_in_all=2, kept=b"k"),
        workers.ScoreModel(part="test", kept={1: b"k"}),
        workers.CopyClient(client=1, kept=b"k"),
        workers.ScoreCopies(client=1),
    ]
    return [workers.encode(each) for each in requests]


def _worker_replies(_: Path) -> list[bytes]:
    replies: list[workers.Reply] = [
        workers.Updated(client=1, update=b"u", samples=3, loss=0.5, train_s=1.0),
        workers.Scored(metrics={"auc": None}),
        workers.Copied(client=1, copy=b"c"),
        workers.CopiesScored(client=1, counts={-1: b"{}"}),
        workers.Faulty(message="no", exit_status=2),
    ]
    return [workers.encode(each) for each in replies]


# Masked rounds.


@dataclass(frozen=True)
class _Attempt:
    """Three members, of whom the first deals."""

    shape: Attempt
    dealer: Dealer
    envelope: bytes

    @classmethod
    def made(cls) -> _Attempt:
        parties = tuple(Party(n, public_key(_secret(n))) for n in range(3))
        shape = Attempt(Occasion(NO_DIGEST, 1, 2, 1), parties, needed=2)
        draw = random.Random(1).randbytes
        dealings = [deal(range(3), 2, draw) for _ in range(EPOCHS)]
        dealer = Dealer(parties[0], tuple(d.commitments[0] for d in dealings))
        return cls(shape, dealer, seal(shape, parties[0], _secret(0), dealings))


def _secret(number: int) -> bytes:
    return bytes([number + 1]) * 32


ATTEMPT = _Attempt.made()


def _envelopes(_: Path) -> list[bytes]:
    return [ATTEMPT.envelope]


def _open_envelope(data: bytes) -> None:
    """As each recipient does; the words of a refusal are a ValueError's there."""
    for party in ATTEMPT.shape.roster[1:]:
        try:
            open_shares(ATTEMPT.shape, ATTEMPT.dealer, party, _secret(party.member), data)
        except ValueError as error:
            raise RemoteError(str(error)) from None


# What is asked of a node.


@asynccontextmanager
async def _asked(valid: Sequence[bytes], answer: Answer) -> AsyncIterator[Session]:
    """What a connection catches of a handler is a refusal; anything else would be a bug of ours."""

    async def offer(data: bytes) -> str:
        try:
            await answer(SENDER, data)
        except (SwarmError, *UNREADABLE) as error:
            return type(error).__name__
        return ACCEPTED

    async def check() -> None:
        for each in valid:
            await answer(SENDER, each)

    yield Session(lambda: valid, offer, check)


def greetings(_: Path) -> list[bytes]:
    said = [
        Greeting("1.0", 1e9, bytes(16), [1, 2], your_key_is_elsewhere=True),
        Greeting("0.9", 1e9 + 100, b"\1" * 16, []),
    ]
    return [msgspec.msgpack.encode(each) for each in said]


@asynccontextmanager
async def _open_greetings(directory: Path) -> AsyncIterator[Session]:
    heard = Greetings("1.0", lambda: [1, 2])

    async def answer(sender: Address, payload: bytes) -> bytes:
        answered = await heard.answer(sender, payload)
        heard.own_clock_s()
        assert len(heard.peers) <= 1
        return answered

    async with _asked(greetings(directory), answer) as session:
        yield session


class _Peer:
    """A member that tells in its list what it is given."""

    def __init__(self) -> None:
        self.told = b""

    async def request(
        self, peer: Address, method: str, payload: bytes, *, deadline_s: float
    ) -> bytes:
        assert method == LIST
        return self.told


@asynccontextmanager
async def _open_zoo(directory: Path) -> AsyncIterator[Session]:
    """The same bytes as a request to sign, and as a peer's list of what it has published."""
    peer, member = _Peer(), Member(0)
    nobody: Any = None
    members = {MemberId(0): Known(MemberId(0), SENDER, SENDER, "Basel")}
    zoo = Zoo(
        directory / "zoo", member.secret, member.address, 7, SENDER, peer, nobody, nobody, nobody,
        nobody, {}, lambda: members, {}, "automatic",
    )  # fmt: skip
    entry = _zoo_entries(directory)[0]
    valid = [
        msgspec.msgpack.encode({"plan": 1, "chain_round": 4}),
        msgspec.msgpack.encode([entry, entry]),
        msgspec.msgpack.encode([entry, b"{}", b""]),
    ]

    async def answer(sender: Address, payload: bytes) -> bytes:
        peer.told = payload
        found, _ = await zoo.find()
        assert not found, "an entry of a plan that is not on this chain was believed"
        return await zoo.serve_signature(sender, payload)

    async def offer(data: bytes) -> str:
        try:
            await answer(SENDER, data)
        except (SwarmError, *UNREADABLE) as error:
            return type(error).__name__
        return ACCEPTED

    async def check() -> None:
        assert await zoo.serve_list(SENDER, b"") == msgspec.msgpack.encode([])

    yield Session(lambda: valid, offer, check)
