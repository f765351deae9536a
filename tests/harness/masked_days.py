"""Simulated days of masked rounds: members that crash, forget, leave and lie, chains that fork, and
a referee that computes what every coalition can.

The members decide by the shipped machine, with its table for masked rounds, on the shipped rules
(`swarm.protocol.ledger`); time passes in seconds, and in each a member may look at its chain and do
some of what it should. A day has a plan of several rounds, and perhaps a second one on the same
base by other members. At the end of a day every disk and every node key is stolen.

    python -m tests.campaigns masked --seeds 200 --nodes 4
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from harness.eavesdropper import Eavesdroppers, Keystreams, Unknown
from harness.evm import DOMAIN, LedgerContract
from harness.masked_hands import Disk, Hands
from harness.names import name
from harness.simnet import Violation
from swarm.errors import ContractError
from swarm.protocol import machine as m
from swarm.protocol import masked_table as t
from swarm.protocol.ledger import Founder, Ledger
from swarm.protocol.masking import Masking
from swarm.protocol.program import federated_averaging
from swarm.protocol.state import (
    UNDER_WAY,
    Duty,
    Plan,
    PlanStatus,
    Round,
    RoundStatus,
    Rules,
    Terms,
    VerifyLevel,
    members_in,
)
from swarm.types import NO_DIGEST, Address, Digest, MemberId, PlanId

EPOCH = 1_700_000_000
BASE, CODE = (Digest(bytes([n]) * 32) for n in (1, 2))
ROUNDS = 2
PROGRAM = federated_averaging(ROUNDS)
VICES = (
    "complains",
    "deals badly",
    "reveals badly",
    "posts noise",
    "never posts",
    "never votes",
    "never reveals",
    "copies keys",
)
TROUBLE_S, PATIENCE_S, A_WHILE_S, LONG_S = 150, 600, 60, 200
KEY_DUE_S = 45
"""Who was there for so long has brought its next receiving key."""


Seen = tuple[int, PlanId]
"""A plan, as one side of a fork has it."""


@dataclass
class Side:
    """One chain; after a fork there are two."""

    number: int
    book: LedgerContract
    members: set[int]
    seen: dict[tuple[PlanId, int, int], RoundStatus] = field(default_factory=dict)
    locked: dict[tuple[PlanId, int, int], int] = field(default_factory=dict)
    """The sets that were locked, by attempt."""
    by_base: dict[tuple[object, ...], int] = field(default_factory=dict)
    """And by what is to have one only."""
    masked_at: dict[tuple[PlanId, int, int], int] = field(default_factory=dict)
    """When an attempt was closed, and began to be masked."""


@dataclass
class Member:
    """One member's node."""

    id: MemberId
    key: Address
    vices: frozenset[str]
    disk: Disk
    speed: float
    """Chance of a look at the chain in a second."""
    down_until: int = 0
    there_since: int = EPOCH
    hands: dict[Seen, Hands] = field(default_factory=dict)
    machines: dict[Seen, m.RoundMachine] = field(default_factory=dict)
    under_way: list[tuple[int, Seen, m.Command]] = field(default_factory=list)
    """Work, and when it will be done."""

    def crash(self) -> None:
        """Memory is gone; the disk stays."""
        self.hands.clear()
        self.machines.clear()
        self.under_way.clear()


@dataclass(frozen=True)
class Parts:
    """What a day is made of; a planted fault puts something else in its place."""

    hands: type[Hands] = Hands
    ledger: type[Ledger] = Ledger
    table: t.Table = field(default_factory=lambda: t.TABLE)
    trouble: Mapping[str, int] = field(default_factory=dict)
    """What happens on every day, and how often."""
    vices: tuple[str, ...] = ()
    """What one member does on every day."""
    testers: tuple[int, ...] = ()
    """Who only tests, on every day."""


class MaskedDay:
    """One seed's day."""

    def __init__(self, nodes: int, seed: int, parts: Parts | None = None) -> None:
        self.rng = rng = Random(seed)
        self.parts = parts or Parts()
        self.now = EPOCH
        self.colluders = max(1, (nodes - 1) // 3)
        self.counted: Counter[str] = Counter()
        self.trace: list[str] = []
        self.blobs: dict[Digest, object] = {}
        self.secret_of: dict[bytes, Unknown] = {}
        self.noise: set[Digest] = set()
        self._fresh = 0
        self.streams = Keystreams()
        book = LedgerContract([Founder(_key(i), _key(i), f"n{i}") for i in range(nodes)], EPOCH)
        book.ledger = self.parts.ledger([Founder(_key(i), _key(i), f"n{i}") for i in range(nodes)])
        book.ledger.membership.signatures.domain = DOMAIN
        self.sides = [Side(0, book, set(range(nodes)))]
        liars = rng.sample(range(nodes), rng.randint(0, self.colluders))
        self.members = [
            Member(
                MemberId(i),
                _key(i),
                frozenset(rng.sample(VICES, rng.randint(1, 2)) if i in liars else ()),
                Disk(),
                rng.choice((0.15, 0.5, 0.9)) if i in liars else rng.choice((0.4, 0.7, 0.9)),
            )
            for i in range(nodes)
        ]
        # Where members hold what a leader has added up, it may be wrong. Drawn apart, so that all
        # other days stay as they are.
        self.level = VerifyLevel.HELD if seed % 4 == 3 else VerifyLevel.FULL
        for member in self.members if self.level is VerifyLevel.HELD else ():
            if member.vices and Random(f"{seed} {member.id}").random() < 0.5:
                member.vices |= {"adds up wrong"}
        if self.parts.vices:
            for member in self.members:
                member.vices = frozenset(self.parts.vices if member is self.members[-1] else ())
        # A false complaint has its sender's share published: that sender is one of the colluders.
        exposed = [each.id for each in self.members if "complains" in each.vices]
        self.ears = Eavesdroppers(range(nodes), self.colluders, exposed)
        self.lost: set[int] = set()
        """Whose vault was lost."""
        self.testers = set(rng.sample(range(nodes), rng.choice((0, 0, 1)) if nodes > 4 else 0))
        self.testers |= set(self.parts.testers)
        self.plans: list[PlanId] = []
        self._propose(0, reopens=False)
        self._trouble = self._draw_trouble(nodes)

    # What happens.

    def _draw_trouble(self, nodes: int) -> dict[int, list[tuple[str, int]]]:
        rng, drawn = self.rng, dict[int, list[tuple[str, int]]]()
        kinds = {
            "crash": rng.randint(0, 6),
            "lose vault": rng.choice((0, 0, 1)),
            "withdraw": rng.choice((0, 0, 1)),
            "stop": rng.choice((0, 0, 0, 1)),
            "fork": rng.choice((0, 0, 0, 1)),
            "second plan": rng.choice((0, 1)),
            **self.parts.trouble,
        }
        for kind, times in kinds.items():
            for _ in range(times):
                at = EPOCH + rng.randrange(TROUBLE_S)
                drawn.setdefault(at, []).append((kind, rng.randrange(nodes)))
        return drawn

    def run(self) -> None:
        """Live through the day. Raises Violation if a promise is broken."""
        while not self._is_over():
            for kind, i in self._trouble.get(self.now, ()):
                self._strike(kind, self.members[i])
            order = self.rng.sample(self.members, len(self.members))
            for member in order:
                if self.now >= member.down_until and self.rng.random() < member.speed:
                    for side in self.sides:
                        if member.id in side.members:
                            self._look(member, side)
            self.now += 1
        self._end()

    def _strike(self, kind: str, member: Member) -> None:
        rng = self.rng
        self.count(f"trouble: {kind}")
        self.note(f"n{member.id}: {kind}")
        if kind == "crash":
            member.down_until = member.there_since = self.now + rng.choice((1, 5, 30))
            member.crash()
        elif kind == "lose vault":
            self.lost.add(member.id)
            member.disk.vaults.clear()
            member.crash()
            member.there_since = max(member.there_since, self.now)
        elif kind == "withdraw":
            self.send(self.sides[0], member, "withdraw", self.plans[0])
        elif kind == "consent":
            self._consent(member, self.plans[0])
        elif kind == "stop":
            self.send(self.sides[0], self.members[0], "stop", self.plans[0])
        elif kind == "second plan" and len(self.sides) == 1:
            self._propose(member.id, reopens=rng.random() < 0.2)
        elif kind == "fork" and len(self.sides) == 1:
            self._fork()
        elif kind == "switch" and len(self.sides) == 2 and not member.vices:
            member.crash()
            member.there_since = max(member.there_since, self.now)
            for side in self.sides:
                side.members ^= {member.id}

    def _fork(self) -> None:
        """Two chains from here on: each honest member sees one of them, liars see both."""
        one = self.sides[0]
        said = dict(one.seen), dict(one.locked), dict(one.by_base), dict(one.masked_at)
        other = Side(1, copy.deepcopy(one.book), set(), *said)
        for member in self.members:
            if member.vices:
                other.members.add(member.id)
            elif self.rng.random() < 0.5:
                self.sides[0].members.discard(member.id)
                other.members.add(member.id)
        self.sides.append(other)

    def _propose(self, proposer: int, *, reopens: bool) -> None:
        """A plan on the first model; not everybody joins a second one."""
        side, rng = self.sides[0], self.rng
        nodes, c = len(self.members), self.colluders
        rules = Rules(
            rounds=ROUNDS,
            min_peers=c + 2,
            colluders=c,
            verify_level=self.level,
            reopens=reopens,
            liveness_s=8,
            grace_s=2,
            max_round_s=40,
            slot_s=3,
        )
        what = ("plan", CODE, PROGRAM.digest, BASE, rules, 0, self.now + 60)
        if self.send(side, self.members[proposer], "proposePlan", *what) is not None:
            return
        plan = PlanId(len(self.plans) + 1)
        self.plans.append(plan)
        few = set(rng.sample(range(nodes), rng.randint(0, nodes - c - 2))) if plan > 1 else set()
        for member in self.members:
            if member.id in few:
                self.send(side, member, "decline", plan)
                continue
            self._consent(member, plan)

    def _consent(self, member: Member, plan: PlanId) -> None:
        """Join a plan, or join it again."""
        public, secret = self._receiving_key(member, plan)
        member.disk.receiving[public] = secret
        duties = Duty.TEST if member.id in self.testers else Duty.TRAIN
        samples = 100 if duties is Duty.TRAIN else 0
        terms = Terms(duties, samples, receiving_key=Digest(public))
        self.send(self.sides[0], member, "consent", plan, CODE, terms)

    def _receiving_key(self, member: Member, plan: PlanId) -> tuple[bytes, Unknown]:
        secret = ("receiving", plan, int(member.id), self.fresh())
        public = name("public", secret)
        self.secret_of[public] = secret
        self.ears.tell(member.id, secret)
        return public, secret

    # One look of one member at its chain.

    def _look(self, member: Member, side: Side) -> None:
        for plan_id in self.plans:
            plan = side.book.ledger.plans.get(plan_id)
            if plan is None or member.id not in plan.consents:
                continue
            seen = (side.number, plan_id)
            hands = self._hands(member, seen)
            live, round = plan.status in (PlanStatus.PROPOSED, PlanStatus.RUNNING), plan.round
            runs = live and round is not None and round.status in UNDER_WAY
            here = (plan_id, round.number, round.attempt) if runs and round is not None else None
            hands.erase(plan, here, live)
            sent = {} if round is None or here is None else round.submissions
            if "copies keys" in member.vices and here is not None and member.id in sent:
                hands.held.keys[here[1:]] = sent[member.id].keys
            observed = m.ChainObserved(replace(plan), side.book.ledger.present_members)
            self._tell(member, side, plan_id, observed)
            done = [w for w in member.under_way if w[0] <= self.now and w[1] == seen]
            for work in done:
                if work in member.under_way:
                    member.under_way.remove(work)
                    self._finish(member, side, plan_id, work[2])

    def _hands(self, member: Member, seen: Seen) -> Hands:
        if seen not in member.hands:
            member.hands[seen] = self.parts.hands(self, member.id, member.disk, member.vices)
        return member.hands[seen]

    def _tell(self, member: Member, side: Side, plan_id: PlanId, event: m.Event) -> None:
        seen = (side.number, plan_id)
        machine = member.machines.get(seen)
        if machine is None:
            secret = bytes([member.id]) * 32
            machine = m.RoundMachine(
                plan_id, member.id, secret, lambda digest: True, PROGRAM, self.parts.table
            )
            member.machines[seen] = machine
        for command in machine.handle(event, float(self.now)):
            takes_s = 0 if self.rng.random() < 0.75 else self.rng.randint(1, 4)
            if isinstance(command, m.Train):
                takes_s = self.rng.randint(1, 10)
            if isinstance(command, m.Transact | m.MaskedWork | m.Train | m.StopTraining):
                member.under_way.append((self.now + takes_s, seen, command))

    def _finish(self, member: Member, side: Side, plan_id: PlanId, command: m.Command) -> None:
        """Do some work, and tell the machine of its end."""
        seen = (side.number, plan_id)
        plan, hands = side.book.plan(plan_id), self._hands(member, seen)
        round = plan.round
        match command:
            case m.Train(number=number, base=base):
                event: m.Event = m.TrainingFinished(
                    number, base, name("x", member.id), 10 + member.id, NO_DIGEST
                )
            case m.StopTraining():
                training = [w for w in member.under_way if isinstance(w[2], m.Train)]
                for work in (w for w in training if w[1] == seen):
                    member.under_way.remove(work)
                    stopped = work[2]
                    assert isinstance(stopped, m.Train)
                    failed = m.TrainingFailed(stopped.number, stopped.base, "stopped", False)
                    self._tell(member, side, plan_id, failed)
                return
            case m.MaskedWork(wanted):
                current = round is not None and (round.number, round.attempt) == wanted.attempt
                if current and round is not None and round.status in UNDER_WAY:
                    hands.obey(wanted, plan, round)
                event = m.MaskedWorkEnded(wanted, hands.held)
            case m.Transact(function, number, attempt, arguments):
                error: str | None = "it was kept back"
                if not self._refrains(member, function):
                    place = () if function == "open" else (number, attempt)
                    if function == "submit" and "copies keys" in member.vices:
                        arguments = self._with_copied_keys(round, arguments)
                    error = self.send(side, member, function, plan_id, *place, *arguments)
                event = m.TransactionSettled(function, number, attempt, error)
            case _:
                return
        self._tell(member, side, plan_id, event)

    @staticmethod
    def _refrains(member: Member, function: str) -> bool:
        """What a liar keeps to itself."""
        kept = {"masked": "never posts", "unmask": "never reveals"}
        if function in ("attest", "merge"):
            return "never votes" in member.vices
        return kept.get(function) in member.vices

    @staticmethod
    def _with_copied_keys(round: Round | None, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        others = {} if round is None else round.submissions
        return (*arguments[:-1], others[min(others)].keys) if others else arguments

    # The chain.

    def send(self, side: Side, member: Member, function: str, *arguments: Any) -> str | None:
        """Carry a transaction out at once; the contract's error, if it is refused."""
        before = {p: side.book.plan(p).round for p in side.book.ledger.plans}
        were = [
            (r, r.masking, r.masking.contributors, dict(r.masking.posted), r.status)
            for r in before.values()
            if r is not None and r.masking is not None
        ]
        try:
            side.book.send(member.key, self.now, function, *arguments)
        except ContractError as refusal:
            self.count(f"refused: {refusal.name}")
            return refusal.name
        if function != "checkIn":
            self.note(f"n{member.id} {function}")
        for masked, masking, contributors, posted, status in were:
            left = contributors & ~masking.contributors | masked.behind
            if left and status is RoundStatus.LOCKED:
                raise Violation("the locked set has changed")
            self._check_left(side, masked, masking, left & sum(1 << i for i in posted))
        for plan_id, plan in side.book.ledger.plans.items():
            for round in (before.get(plan_id), plan.round):
                if round is not None:
                    self._watch(side, plan, round)
        return None

    def _watch(self, side: Side, plan: Plan, round: Round) -> None:
        """What the referee says to each change of a round's status."""
        here = (plan.id, round.number, round.attempt)
        before = side.seen.get(here)
        if round.status is before:
            return
        side.seen[here] = round.status
        self.note(f"--- plan {here[0]} round {here[1]}.{here[2]} is {round.status.name}")
        masking = round.masking
        if masking is None:
            return
        if round.status is RoundStatus.MASKING:
            side.masked_at[here] = self.now
        elif round.status not in UNDER_WAY:
            self._check_renewed(side, plan, round)
        if round.status is RoundStatus.LOCKED:
            self.count("locks")
            self._check_lock(side, plan, round)
        elif before is RoundStatus.LOCKED:
            noise = not self.noise.isdisjoint((*masking.posted.values(), masking.sum))
            if round.status is RoundStatus.FINAL:
                self.count("masked rounds final")
                if noise:
                    raise Violation("a spoiled sum became a model")
            elif plan.spoiled:
                self.count("spoiled rounds")
                if not noise and len(self.sides) == 1:
                    raise Violation("a sum is called spoiled, though all its parts were right")
            elif masking.abandoned.bit_count() <= round.roster.bit_count() // 2:
                raise Violation(f"round {here} was locked, and voided nevertheless")
        elif round.status is RoundStatus.VOID:
            self.count("voids before a lock")
        if round.epoch:
            self.count("later epochs")

    def _check_renewed(self, side: Side, plan: Plan, round: Round) -> None:
        """Who was there has another receiving key by the time that this attempt's is spent."""
        began = side.masked_at.get((plan.id, round.number, round.attempt), self.now)
        for i in members_in(round.roster & ~round.left & side.book.ledger.present_members):
            own, member = plan.consents[i], self.members[i]
            is_next = plan.round is not round
            key = own.receiving_key if is_next else own.next_receiving_key
            if key != NO_DIGEST:
                continue
            self.count("members without a key")
            there = self.now - max(began, member.there_since)
            if i in side.members and not member.vices and there > KEY_DUE_S:
                raise Violation(f"n{i} has brought no other receiving key, though it was there")

    def _check_left(self, side: Side, round: Round, masking: Masking, left: int) -> None:
        """Nobody is left behind who has posted, is there, and has dealt well."""
        for i in members_in(left & side.book.ledger.present_members & ~round.left):
            said = sum(good >> i & 1 for good in masking.good.values())
            if not self.members[i].vices and said >= masking.needed:
                raise Violation(f"n{i} is left behind, though it was in time and dealt well")

    def _check_lock(self, side: Side, plan: Plan, round: Round) -> None:
        masking = round.masking
        assert masking is not None
        side.locked[plan.id, round.number, round.attempt] = masking.contributors
        if set(members_in(masking.contributors)) != set(masking.posted):
            raise Violation("the locked set is not those who posted")
        owners = list(members_in(masking.contributors))
        if len(owners) < plan.rules.colluders + 2:
            raise Violation(f"a sum of {len(owners)} is locked: a coalition knows too much of it")
        for i in owners:
            made = self.members[i].disk.vaults.get((plan.id, round.number, round.attempt), {})
            mine = made.get("masked", {}).get(masking.epoch)
            member = self.members[i]
            if member.vices or i in self.lost:
                continue
            forked = mine is None and len(self.sides) > 1  # it saw this attempt end over there
            if not forked and (mine is None or mine.digest != masking.posted[i]):
                raise Violation(f"a sum is locked with what n{i} has not masked")
        what = (round.base, round.stage, plan.id if plan.rules.reopens else None)
        if side.by_base.setdefault(what, masking.contributors) != masking.contributors:
            raise Violation("another set is locked over the same base")
        key = what[:2] if what[2] is None else what
        updates = [u for u in (self.members[i].disk.updates.get(key) for i in owners) if u]
        self.ears.lock(updates, what)

    # Asked by hands.

    def fresh(self) -> int:
        """A number that was never given before."""
        self._fresh += 1
        return self._fresh

    def count(self, what: str) -> None:
        """For the table of what was covered."""
        self.counted[what] += 1

    def note(self, text: str) -> None:
        """For the story."""
        self.trace.append(f"{self.now - EPOCH:6d}  {text}")

    def check_reveal(
        self, node: int, round: Round, owners: int, seeds: Mapping[int, Unknown]
    ) -> None:
        """A reveal is for a lock that stands on the chain that the node sees, for its set, and each
        share is of its owner's own secret."""
        for side in self.sides:
            for plan in side.book.ledger.plans.values():
                if plan.round is not round:
                    continue
                here = (plan.id, round.number, round.attempt)
                if round.status is not RoundStatus.LOCKED or here not in side.locked:
                    raise Violation(f"n{node} reveals, though nothing is locked")
                if side.locked[here] != owners:
                    raise Violation(f"n{node} reveals what is not of the locked set")
        for owner, seed in seeds.items():
            if isinstance(seed, tuple) and seed[2] != owner:
                raise Violation(f"n{node} reveals n{seed[2]}'s secret as n{owner}'s")

    # The end.

    def _is_over(self) -> bool:
        if self.now < EPOCH + TROUBLE_S:
            return False
        if self.now >= EPOCH + TROUBLE_S + (PATIENCE_S if len(self.sides) == 1 else A_WHILE_S):
            return True  # on a fork some wait for ever for those who see the other side
        plans = [p for side in self.sides for p in side.book.ledger.plans.values()]
        return all(p.status in (PlanStatus.COMPLETED, PlanStatus.STOPPED) for p in plans)

    def _end(self) -> None:
        for side in self.sides:
            for plan in side.book.ledger.plans.values():
                self._check_ended(side, plan)
        self._steal()

    def _check_ended(self, side: Side, plan: Plan) -> None:
        """A locked round opens once enough of its roster are back."""
        round = plan.round
        if round is None or round.masking is None or round.status not in UNDER_WAY:
            return
        self._check_renewed(side, plan, round)
        if round.status is not RoundStatus.LOCKED:
            return
        if self.now < round.closed_at + LONG_S:
            return  # locked just before the day ended
        honest = {each.id for each in self.members if not each.vices} & side.members - self.lost
        able = [i for i in members_in(round.roster) if i in honest]
        may_open = len(self.sides) == 1 and not self._was_opened(plan, able)
        if may_open and self._have_shares(plan, able):
            raise Violation(f"plan {plan.id} stays locked, though {able} are there")

    def _have_shares(self, plan: Plan, able: Sequence[int]) -> bool:
        """Whether these have enough right shares of everybody's self mask among them. Who was away
        while shares were judged, and has found a wrong one since, can complain no more (0019); to
        whom no key of its own came in time, none were sealed."""
        round = plan.round
        assert round is not None
        assert round.masking is not None
        here, masking = (plan.id, round.number, round.attempt), round.masking
        able = [i for i in able if plan.consents[MemberId(i)].receiving_key != NO_DIGEST]
        wrong = {i: self.members[i].disk.vaults.get(here, {}).get("wrong", 0) for i in able}
        return all(
            sum(
                not wrong[i] >> owner & 1 or (masking.epoch, owner, MemberId(i)) in masking.answers
                for i in able
            )
            >= masking.needed
            for owner in members_in(masking.contributors)
        )

    def _was_opened(self, plan: Plan, able: Sequence[int]) -> bool:
        """Whether somebody has helped to open another set over the same base."""
        assert plan.round is not None
        assert plan.round.masking is not None
        key = (plan.round.base, 0, plan.id if plan.rules.reopens else None)
        owners = plan.round.masking.contributors
        return any(self.members[i].disk.opened.get(key, owners) != owners for i in able)

    def _steal(self) -> None:
        """All disks and node keys of rounds that are over: recorded rounds stay closed."""
        for member in self.members:
            for side in self.sides:
                if member.id in side.members:
                    self._look(member, side)
        running = {
            (plan.id, round.number, round.attempt)
            for side in self.sides
            for plan in side.book.ledger.plans.values()
            if (round := plan.round) is not None and round.status in UNDER_WAY
        }
        if running or len(self.sides) > 1:
            return
        self.count("days on which all disks were stolen")
        for member in self.members:
            for secret in self.secrets_on(member):
                self.ears.publish_secret(secret)

    @staticmethod
    def secrets_on(member: Member) -> list[Unknown]:
        """What a thief finds on a node's disk, with the node key."""
        kept = [v["sk"] for v in member.disk.vaults.values() if "sk" in v]
        seeds = [s for v in member.disk.vaults.values() for _, s in v.get("seeds", ())]
        derivable = member.disk.derivable
        return [*kept, *seeds, *member.disk.receiving.values(), *derivable]

    def story(self) -> list[str]:
        """What happened."""
        liars = [f"n{i.id} {', '.join(sorted(i.vices))}" for i in self.members if i.vices]
        head = f"{len(self.members)} members, {self.colluders} may collude; {'; '.join(liars)}"
        return [head, *self.trace]


def _key(i: int) -> Address:
    return Address(bytes([i + 1]) * 20)
