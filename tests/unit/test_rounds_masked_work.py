"""The hands of masked rounds together: real keys, masks, vaults and files of four members, on the
executable specification of the chain; only training and the network are made up."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trio
from harness.evm import LedgerContract

from swarm.blobs.manifest import Origin
from swarm.blobs.store import BlobStore
from swarm.errors import ContractError, RemoteError
from swarm.privacy.masks import RandomWords
from swarm.protocol import machine as m
from swarm.protocol import masked_table as t
from swarm.protocol.ledger import Founder
from swarm.protocol.program import Program, Stage
from swarm.protocol.state import (
    Outcome,
    Plan,
    PlanStatus,
    RoundStatus,
    Rules,
    Terms,
    VerifyLevel,
)
from swarm.rounds.address_book import AddressBook
from swarm.rounds.hidden_updates import HiddenUpdates
from swarm.rounds.masked_secrets import MaskedSecrets
from swarm.rounds.masked_work import MaskedWork
from swarm.rounds.records import Records
from swarm.rounds.retention import PlanBlobs
from swarm.tensors import Layout, TensorSpec, create_file, open_file
from swarm.types import NO_DIGEST, Address, Digest, MemberId, PlanId

START = 1_700_000_000
CODE = Digest(b"\x01" * 32)
PLAN = PlanId(1)
MEMBERS = 4
LAYOUT = Layout.from_specs([TensorSpec("w", "F32", (3, 5)), TensorSpec("b", "F32", (5,))])
PROGRAM = Program((Stage("training", "train", "mean", 2, clip=4.0),))
SAMPLES = (172, 166, 69, 113)


def node(number: int) -> Address:
    return Address(bytes([0xB2, number + 1]) * 10)


def entropy_of(member: int, drawn: list[bytes]) -> Callable[[int], bytes]:
    """A member's entropy; what is drawn is noted in `drawn`."""
    counted = itertools.count(1 << 40 * (member + 1))

    def draw(size: int) -> bytes:
        drawn.append(RandomWords(next(counted).to_bytes(32, "big"))(size).tobytes()[:size])
        return drawn[-1]

    return draw


def move_of(member: int, number: int) -> dict[str, np.ndarray]:
    """What a member's training adds to a model in a round."""
    rng = np.random.default_rng([member, number])
    return {s.name: (0.1 * rng.standard_normal(s.shape)).astype(np.float32) for s in LAYOUT.specs}


@dataclass
class Wire:
    """Gives a member what another's store has."""

    stores: dict[Address, BlobStore]
    mine: BlobStore
    dead: set[Address]

    async def pull(self, root: Digest, peers: Iterable[Address], **_: object) -> None:
        await trio.lowlevel.checkpoint()
        for peer in peers:
            theirs = self.stores[peer]
            if peer not in self.dead and theirs.has(root):
                manifest = theirs.manifest(root)
                partial = self.mine.partial(root, manifest, max_bytes=1 << 30)
                for index in range(manifest.chunks):
                    partial.write_chunk(index, theirs.read_chunk(root, index))
                partial.finish()
                return
        raise RemoteError("nobody has it")


@dataclass
class Member:
    """One member's node: its disk, and what it holds in memory."""

    id: MemberId
    folder: Path
    world: World
    store: BlobStore = field(init=False)
    alive: bool = True
    waiting: list[m.Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = BlobStore(self.folder / "blobs")
        self.world.stores[node(self.id)] = self.store
        self.start()

    def start(self) -> None:
        """As after a restart: only what is on the disk is known."""
        world, folding = self.world, SimpleNamespace(up=LAYOUT)

        async def layouts(number: int) -> Any:
            return folding

        self.secrets = MaskedSecrets(
            self.folder / "masked", bytes([self.id]) * 32, world.entropy[self.id]
        )
        blobs = PlanBlobs(self.store, Records(self.folder / "records"), PROGRAM, 3)
        book = AddressBook(self.id, world.book.members())
        wire: Any = Wire(world.stores, self.store, world.dead)
        self.hands = MaskedWork(
            PLAN, self.id, CODE, PROGRAM, book, self.store, wire,
            SimpleNamespace(folding=layouts), blobs, self.secrets,  # type: ignore[arg-type]
        )  # fmt: skip
        self.hidden = HiddenUpdates(PLAN, self.secrets, self.hands)
        secret = bytes([self.id]) * 32
        self.machine = m.RoundMachine(PLAN, self.id, secret, self.store.has, PROGRAM)
        self.waiting.clear()

    async def look(self) -> None:
        plan = replace(self.world.plan)
        await self.hands.settle(plan)
        events = [m.ChainObserved(plan, self.world.book.ledger.present_members), *self.waiting]
        self.waiting.clear()
        for event in events:
            for command in self.machine.handle(event, float(self.world.now)):
                if (done := await self.obey(command)) is not None:
                    self.waiting.append(done)

    async def obey(self, command: m.Command) -> m.Event | None:
        match command:
            case m.Train():
                kept = await self.hidden.recall(command.number, command.base)
                if kept is None:
                    self.world.trained.append((self.id, command.number))
                    out = self.store.scratch("update")
                    base, move = (
                        open_file(self.store.path(command.base)),
                        move_of(self.id, command.number),
                    )
                    with create_file(out, LAYOUT) as file:
                        for name in base:
                            file[name][...] = base[name] + move[name]
                    await self.hidden.keep(command, out, SAMPLES[self.id], CODE)
                    assert not out.exists()
                return m.TrainingFinished(
                    command.number, command.base, NO_DIGEST, SAMPLES[self.id], CODE
                )
            case m.MaskedWork(work):
                self.world.worked.append((self.id, type(work).__name__))
                return await self.hands.work(work, self.machine.plan)
            case m.Transact(function, number, attempt, arguments):
                error = self.world.send(self.id, function, number, attempt, arguments)
                return m.TransactionSettled(function, number, attempt, error)
            case m.Fetch(digest):
                await self.hands.exchange.pull(digest, self.hands.book.others(), patience_s=1)
                return m.BlobHeld(digest)
        return None


@dataclass
class World:
    """A chain, and four members with a secure plan."""

    folder: Path
    level: VerifyLevel = VerifyLevel.FULL
    now: int = START
    stores: dict[Address, BlobStore] = field(default_factory=dict)
    dead: set[Address] = field(default_factory=set)
    trained: list[tuple[int, int]] = field(default_factory=list)
    worked: list[tuple[int, str]] = field(default_factory=list)
    drawn: list[bytes] = field(default_factory=list)
    """All that members drew: secrets, keys of vaults, nonces."""
    spoil: Callable[[int, str, tuple[object, ...]], tuple[object, ...]] = lambda i, f, a: a

    def __post_init__(self) -> None:
        founders = [Founder(node(i), node(i), f"site {i}") for i in range(MEMBERS)]
        self.book = LedgerContract(founders, START)
        self.entropy = [entropy_of(i, self.drawn) for i in range(MEMBERS)]
        self.members = [Member(MemberId(i), self.folder / f"n{i}", self) for i in range(MEMBERS)]
        for member in self.members:
            first = member.store.scratch("model0")
            with create_file(first, LAYOUT) as file:
                file["b"][...] = range(5)
            base = member.store.add(first)
        times = {"liveness_s": 20, "grace_s": 2, "max_round_s": 60, "slot_s": 10}
        rules = Rules(2, 3, self.level, colluders=1, **times)
        what = ("plan", CODE, PROGRAM.digest, base, rules, 0, 0)
        self.book.send(node(0), self.now, "proposePlan", *what)
        for member in self.members:
            key = Digest(member.secrets.new_receiving_key(PLAN))
            terms = Terms(1, 1000, receiving_key=key)
            self.book.send(node(member.id), self.now, "consent", PLAN, CODE, terms)

    @property
    def plan(self) -> Plan:
        return self.book.plan(PLAN)

    def send(
        self, who: int, function: str, number: int, attempt: int, arguments: tuple[object, ...]
    ) -> str | None:
        place = () if function == "open" else (number, attempt)
        given = self.spoil(who, function, arguments)
        try:
            self.book.send(node(who), self.now, function, PLAN, *place, *given)
        except ContractError as error:
            return error.name
        return None

    async def second(self) -> None:
        for member in self.members:
            if member.alive:
                await member.look()
        self.now += 1

    def run(self, until: Callable[[], bool], within_s: int = 400) -> None:
        """Let seconds pass until something holds."""

        async def run() -> None:
            for _ in range(within_s):
                if until():
                    return
                await self.second()
            raise AssertionError(f"not within {within_s} s: {self.plan.round}, {self.worked[-20:]}")

        trio.run(run)

    def is_over(self) -> bool:
        return self.plan.status is PlanStatus.COMPLETED

    def model(self, *members: int) -> Mapping[str, np.ndarray]:
        """The final model, which these have, all with the same bits."""
        made = {self.stores[node(i)].path(self.plan.model).read_bytes() for i in members}
        assert len(made) == 1
        return open_file(self.stores[node(members[0])].path(self.plan.model))


def expected(rounds: Mapping[int, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The plain average of those who contributed, round by round."""
    model = {"w": np.zeros((3, 5)), "b": np.arange(5.0)}
    for number, who in rounds.items():
        moves = [move_of(i, number) for i in who]
        weights = [SAMPLES[i] for i in who]
        for name in model:
            mean = np.average([move[name].astype(np.float64) for move in moves], 0, weights)
            model[name] = (model[name] + mean).astype(np.float32).astype(np.float64)
    return model


def assert_close(made: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    for name, value in wanted.items():
        np.testing.assert_allclose(made[name], value, rtol=0, atol=1e-6)


EVERYBODY = (0, 1, 2, 3)


@pytest.mark.parametrize("level", list(VerifyLevel))
def test_a_secure_plan_gives_the_plain_average_and_the_same_bits_to_all(
    tmp_path: Path, level: VerifyLevel
) -> None:
    world = World(tmp_path, level)
    world.run(world.is_over)
    assert_close(world.model(*EVERYBODY), expected({1: EVERYBODY, 2: EVERYBODY}))


def test_where_members_hold_sums_their_leader_alone_pulls_masked_updates(tmp_path: Path) -> None:
    world = World(tmp_path, VerifyLevel.HELD)
    world.run(status_is(world, RoundStatus.LOCKED))
    adders = [who for who in EVERYBODY if (who, "AddUp") in world.worked]
    assert len(adders) == 1
    assert world.plan.round is not None
    assert world.plan.round.masking is not None
    posted = world.plan.round.masking.posted
    for who in set(EVERYBODY) - set(adders):
        has = [m for m in EVERYBODY if world.members[who].store.has(posted[MemberId(m)])]
        assert has == [who]


def test_a_leader_that_dies_after_the_lock_does_not_keep_the_sum_that_others_hold_closed(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, VerifyLevel.HELD)
    world.run(status_is(world, RoundStatus.LOCKED))
    (leader,) = [who for who in EVERYBODY if (who, "AddUp") in world.worked]
    kill(world, leader)
    world.run(lambda: world.plan.model_round == 1)
    others = [who for who in EVERYBODY if who != leader]
    assert_close(world.model(*others), expected({1: EVERYBODY}))


def test_a_sum_that_nobody_serves_is_led_by_the_next(tmp_path: Path) -> None:
    """Its leader posts a digest of nothing."""
    world = World(tmp_path, VerifyLevel.HELD)
    lied: set[int] = set()

    def spoil(who: int, function: str, arguments: tuple[object, ...]) -> tuple[object, ...]:
        outcome = arguments[0] if arguments else None
        if function == "merge" and isinstance(outcome, Outcome) and (not lied or who in lied):
            lied.add(who)
            return (replace(outcome, model=CODE), *arguments[1:])
        return arguments

    world.spoil = spoil
    world.run(status_is(world, RoundStatus.LOCKED))
    assert world.plan.round is not None
    assert world.plan.round.masking is not None
    assert world.plan.round.masking.sum != CODE
    world.run(lambda: world.plan.model_round == 1)
    assert_close(world.model(*set(EVERYBODY) - lied), expected({1: EVERYBODY}))


def test_what_is_announced_as_a_sum_and_is_none_is_passed_on_to_nobody(tmp_path: Path) -> None:
    """Else a liar could have what others keep marked as something that the roster may read."""
    world = World(tmp_path, VerifyLevel.HELD)
    world.run(status_is(world, RoundStatus.MASKING))
    world.run(lambda: all((who, "Mask") in world.worked for who in EVERYBODY))
    hands, round = world.members[1].hands, world.plan.round
    assert round is not None
    kept = world.members[1].store.add_bytes(b"not for others")
    held = next(iter(hands.held.masked.values())).digest
    for digest in (kept, held):
        command = t.HoldSum((1, 1), 0, digest, MemberId(0), 0b1111)
        trio.run(hands.work, command, world.plan)
        assert hands.held.pulled_sums == set()
        assert hands.blobs.sums_for(1) == frozenset()


def all_bytes(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("status", [RoundStatus.MASKING, RoundStatus.LOCKED, RoundStatus.FINAL])
def test_no_secret_that_was_drawn_lies_on_any_disk_at_any_time(
    tmp_path: Path, status: RoundStatus
) -> None:
    """Vaults are sealed by keys that are sealed themselves. One secret comes out: that of each
    contributor's self mask, in shares, which are others' bytes."""
    world = World(tmp_path)
    world.run(status_is(world, status))
    secrets = {raw for raw in world.drawn if len(raw) == 32}
    assert len(secrets) > 40
    here = all_bytes(tmp_path)
    assert [raw for raw in secrets if raw in here] == []
    (tmp_path / "n0" / "blobs" / "planted").write_bytes(b"before" + min(secrets) + b"behind")
    here = all_bytes(tmp_path)
    assert [raw for raw in secrets if raw in here] == [min(secrets)]


def test_after_a_plan_no_secret_and_no_update_in_clear_is_left_on_any_disk(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.run(world.is_over)
    trio.run(world.second)  # each sees that it is over
    here = all_bytes(tmp_path)
    assert not any(raw in here for raw in world.drawn if len(raw) == 32)
    for member in world.members:
        left = [f for f in (member.folder / "masked" / "plan-1").rglob("*") if f.is_file()]
        assert left == []
        for number in (1, 2):
            planted = move_of(member.id, number)["w"].tobytes()
            update = (move_of(member.id, 1)["b"] + np.arange(5, dtype=np.float32)).tobytes()
            for other in world.members:
                for file in other.folder.rglob("*"):
                    content = file.read_bytes() if file.is_file() else b""
                    assert planted not in content
                    assert update not in content


@pytest.mark.parametrize("work", ["Deal", "CheckShares", "Mask", "AddUp", "FindReveal", "OpenSum"])
def test_a_node_that_restarts_after_any_step_goes_on_with_what_it_had(
    tmp_path: Path, work: str
) -> None:
    world = World(tmp_path)
    world.run(lambda: (2, work) in world.worked)
    world.members[2].start()
    world.run(world.is_over)
    assert_close(world.model(*EVERYBODY), expected({1: EVERYBODY, 2: EVERYBODY}))
    assert world.trained.count((2, 1)) == 1


def status_is(world: World, status: RoundStatus) -> Callable[[], bool]:
    return lambda: world.plan.round is not None and world.plan.round.status is status


def kill(world: World, who: int) -> None:
    world.members[who].alive = False
    world.dead.add(node(who))


def test_one_of_four_that_dies_after_the_lock_does_not_keep_the_sum_closed(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.run(status_is(world, RoundStatus.LOCKED))
    kill(world, 3)
    world.run(lambda: world.plan.model_round == 1)
    assert_close(world.model(0, 1, 2), expected({1: EVERYBODY}))


def test_one_of_four_that_dies_while_it_should_mask_is_left_behind(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.run(status_is(world, RoundStatus.MASKING))
    kill(world, 3)
    world.run(lambda: world.plan.model_round == 1)
    assert_close(world.model(0, 1, 2), expected({1: (0, 1, 2)}))


def revive(world: World, who: int) -> None:
    world.members[who].alive = True
    world.members[who].start()
    world.dead.discard(node(who))


def secret_of(world: World, who: int, key: Digest) -> bytes | None:
    return world.members[who].secrets.receiving_secret(PLAN, key)


def test_who_comes_too_late_to_submit_has_a_key_of_its_own_in_the_next_round(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    first = world.plan.consents[MemberId(3)].receiving_key
    kill(world, 3)
    world.run(status_is(world, RoundStatus.MASKING))
    revive(world, 3)
    world.run(lambda: world.plan.place == (2, 1))
    trio.run(world.second)
    second = world.plan.consents[MemberId(3)].receiving_key
    assert world.worked.count((3, "DrawKey")) == 1
    assert secret_of(world, 3, first) is None
    assert secret_of(world, 3, second) is not None
    world.run(world.is_over)
    assert_close(world.model(*EVERYBODY), expected({1: (0, 1, 2), 2: EVERYBODY}))


def test_who_was_away_for_a_whole_round_erases_its_key_and_is_dealt_no_shares(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    first = world.plan.consents[MemberId(3)].receiving_key
    kill(world, 3)
    world.run(lambda: world.plan.place == (2, 1))
    assert world.plan.consents[MemberId(3)].receiving_key == NO_DIGEST
    assert secret_of(world, 3, first) is not None
    revive(world, 3)
    world.run(world.is_over)
    assert secret_of(world, 3, first) is None
    assert (3, "CheckShares") not in world.worked
    assert_close(world.model(0, 1, 2), expected({1: (0, 1, 2), 2: EVERYBODY}))


def test_a_digest_of_anothers_masked_update_is_voted_for_by_nobody(tmp_path: Path) -> None:
    world = World(tmp_path)
    copied: list[object] = []

    def spoil(who: int, function: str, arguments: tuple[object, ...]) -> tuple[object, ...]:
        if function == "masked" and who == 0:
            copied.append(arguments[1])
        return (
            (arguments[0], copied[0], *arguments[2:])
            if (function == "masked" and who == 1 and copied)
            else arguments
        )

    world.spoil = spoil
    world.run(lambda: world.plan.place >= (1, 2))
    assert world.plan.model_round == 0
    assert world.book.ledger.masked_rounds.locks == {}


def test_what_a_digest_names_that_is_no_masked_update_is_refused_and_the_node_goes_on(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    world.spoil = lambda who, function, arguments: (
        (arguments[0], world.plan.base, *arguments[2:])
        if function == "masked" and who == 1
        else arguments
    )
    world.run(lambda: world.plan.place >= (1, 2))
    assert world.book.ledger.masked_rounds.locks == {}


def test_a_lost_vault_makes_its_member_sit_the_attempt_out(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.run(status_is(world, RoundStatus.MASKING))
    member = world.members[1]
    if world.plan.round is not None and world.plan.round.masking is not None:
        assert not world.plan.round.masking.posted
    world.members[1].secrets.attempt(PLAN, 1, 1).erase()
    member.start()
    world.run(lambda: world.plan.model_round == 1)
    assert_close(world.model(0, 2, 3), expected({1: (0, 2, 3)}))


def test_a_masked_update_names_its_owner(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.run(lambda: (2, "AddUp") in world.worked)
    round = world.plan.round
    assert round is not None
    assert round.masking is not None
    for member, digest in round.masking.posted.items():
        manifest = world.stores[node(member)].manifest(digest)
        assert manifest.origin == Origin(PLAN, round.number, member)


def test_every_kind_of_work_is_done_in_a_round(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.run(world.is_over)
    kinds = {name for _, name in world.worked}
    assert {t.Deal, t.CheckShares, t.Mask, t.AddUp, t.FindReveal, t.OpenSum} <= {
        getattr(t, name) for name in kinds
    }
