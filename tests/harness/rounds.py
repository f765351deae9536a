"""A consortium in virtual time: real round machines, and a simulated everything else.

A `Site` is one life of one node: a round machine and the hands that obey it. Training and merging
are durations and hashes, so equal inputs give equal digests, as in life; blobs are names, and a
pull succeeds if a node that is up, reachable and willing holds the blob. What the rules are and
what the chain says comes from the contract's executable specification, or from the contract itself
on an EVM. A `Referee` watches every accepted transaction.

`Consortium` puts a delay where the chain would be: a transaction comes into a block if its sender
can reach a quorum of nodes, and every node that can reach one sees the block a little later.
`harness.joint` puts the real consensus there instead. One seed, one trace.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Any, cast

from harness.calls import OF_PLANS
from harness.evm import DOMAIN, Book, EvmContract, LedgerContract
from harness.folds import Folds
from harness.foreign import ForeignPlans, ending
from harness.names import name
from harness.referee import Referee, true_choice
from harness.simnet import Port, SimNet, Violation
from harness.validators import sim_address
from swarm.errors import ContractError
from swarm.learning.folds.reduce import check_samples
from swarm.protocol import machine as m
from swarm.protocol.attestation import (
    Attestation,
    Signatures,
    attestation_digest,
    node_key_digest,
)
from swarm.protocol.election import commitment_to, secret_for
from swarm.protocol.ledger import Founder, Ledger
from swarm.protocol.program import Program, federated_averaging
from swarm.protocol.state import (
    BEST_SLOT,
    GATHERED_SLOT,
    Duty,
    Omission,
    Outcome,
    Plan,
    Round,
    RoundStatus,
    Rules,
    Terms,
    VerifyLevel,
    member_set,
    members_in,
    two_thirds,
)
from swarm.types import NO_DIGEST, Address, Digest, MemberId, PlanId
from swarm.visible import visible

PLAN = PlanId(1)
MODEL0 = Digest(b"\x01" * 32)
PLAN_DIGEST = Digest(b"\x02" * 32)
MOST_SAMPLES = 1000
TRANSACTION_DEADLINE_S = 60.0
CARRIED_WITHIN_S = 5.0
BY_PEOPLE = frozenset({"propose", "vote", "cancel", "leave", "setNode", "setStandby"})
"""Transactions that only a member's account may send."""


class Vice(StrEnum):
    """How a member may be Byzantine in the rounds."""

    FORGES = "posts a merge that is not one"
    OMITS = "leaves a good update out of its merge"
    AGREES = "attests whatever is posted, unseen"
    SILENT = "submits, but never merges or attests"
    WITHHOLDS = "never reveals its secret"
    GARBAGE = "submits an update that cannot be merged"
    HOARDS = "serves its update to nobody"
    TWISTS = "merges rightly, but for another output, or as if the plan ended with it"
    COPIES = "submits another's update as its own"
    BOASTS = "claims more samples than it has, or than it declared"
    MEDDLES = "sends transactions that it must not send"


@dataclass
class SimNode:
    """What of a node survives a crash: its key, its disk, its character."""

    id: MemberId
    account: Address
    """What its people sign with."""
    address: Address
    """Its node key, which they may change."""
    secret: bytes
    train_s: float = 2.0
    vices: frozenset[Vice] = frozenset()
    duties: Duty = Duty.TRAIN
    disk: set[Digest] = field(default_factory=lambda: {MODEL0})
    training_fails: bool = False
    evaluated: dict[int, Digest] = field(default_factory=dict)
    """The final models that it scored, by round."""
    reports: list[str] = field(default_factory=list)
    site: Site | None = None
    """Its present life, or its last."""

    @property
    def up(self) -> bool:
        return self.site is not None and self.site.port.alive

    @property
    def awake(self) -> bool:
        return self.site is not None and self.site.port.alive and not self.site.port.is_stopped

    @property
    def honest(self) -> bool:
        return not self.vices


class Site:
    """One life of one node: the round machine, and the work that it asks for."""

    foreign_class: type[ForeignPlans] = ForeignPlans

    def __init__(self, port: Port, world: Consortium, node: SimNode) -> None:
        self.port = port
        self.world = world
        self.node = node
        self.machine = world.machine_class(
            PLAN, node.id, node.secret, node.disk.__contains__, world.program
        )
        self._wake_at = float("inf")
        self._training: m.Train | None = None
        self._stopping = False
        self._holding = (0, 0)
        self.foreign = self.foreign_class(node.id, node.secret)
        self._following: set[tuple[int, int, MemberId]] = set()
        self._evaluated: set[int] = set()
        if Vice.MEDDLES in node.vices:
            port.call_later(port.rng.uniform(1, 4), self._meddle)

    def receive(self, sender: Address, message: Any) -> None:
        """Nothing is sent to a site directly."""

    def connected(self, peer: Address) -> None:
        """A link works again: look where the chain is."""
        self.port.call_later(self.world.chain_s, partial(self.world.show_head, self))

    def event(self, event: m.Event) -> None:
        """Give the machine one event and do what it says."""
        now = self.port.clock_s
        with ending(self.node.id):
            commands = self.machine.handle(event, now)
        for command in commands:
            self._obey(command)
        wake_at = self.machine.wake_at
        if wake_at <= now:
            raise Violation(f"{self._name} would never sleep: it asks to be woken in the past")
        if wake_at < float("inf") and wake_at != self._wake_at:
            self._wake_at = wake_at
            self.port.call_later(wake_at - now, partial(self._wake, wake_at))

    def _wake(self, at: float) -> None:
        if self._wake_at == at:
            self._wake_at = float("inf")
            self.event(m.TimePassed())

    @property
    def _name(self) -> str:
        return f"n{self.node.id}"

    def _obey(self, command: m.Command) -> None:
        world, rng = self.world, self.port.rng
        match command:
            case m.Train():
                self._train(command)
            case m.Hold(number, attempt):
                self._holding = (number, attempt)
            case m.Release():
                ended = m.HoldingEnded(*self._holding)
                self.port.call_later(rng.uniform(0.01, 2), partial(self.event, ended))
            case m.StopTraining():
                self._stopping = True
                self.port.call_later(rng.uniform(0.01, 2), partial(self._stopped, self._training))
            case m.Fetch(digest, _):
                self.port.call_later(world.fetch_s, partial(self._fetch, digest))
            case m.Merge():
                self.port.call_later(world.merge_s, partial(self._merge, command, 0.0))
            case m.Verify():
                self.port.call_later(world.merge_s, partial(self._verify, command, 0.0))
            case m.Follow():
                self._follow(command)
            case m.ExpectDraft(number, attempt):
                self._expect(number, attempt)
            case m.DropDrafts(number, attempt):
                self._following = {f for f in self._following if f[:2] == (number, attempt)}
            case m.Evaluate(number, model):
                self._evaluate(number, model)
            case m.Transact():
                self._transact(command)
            case m.Report(text):
                self.node.reports.append(text)

    # Training: one at a time, stopped when asked, a little later.

    def _train(self, command: m.Train) -> None:
        if self._training is not None:
            raise Violation(f"{self._name} has two trainings at once")
        given = (command.base, command.statistics, command.best, command.rows)
        needed = {digest for digest in given if digest is not None and digest != NO_DIGEST}
        if needed - self.node.disk:
            raise Violation(f"{self._name} is to train from a model that it does not hold")
        if command.rows is not None:
            self._check_rows(command)
        self._training, self._stopping = command, False
        spent_s = self.node.train_s * self.port.rng.uniform(0.9, 1.1)
        self.port.call_later(spent_s / 2, partial(self._progressed, command))
        self.port.call_later(spent_s, partial(self._trained, command))

    def _check_rows(self, command: m.Train) -> None:
        """A cross-evaluation is of the copies that were gathered, and of the best model."""
        world, plan = self.world, self.machine.plan
        before = world.program.place(command.number - 1)
        world.count("cross-evaluations")
        gathers = before is not None and before.stage.slot == GATHERED_SLOT
        if gathers and {command.rows} != world.finals[command.number - 1]:
            raise Violation(f"{self._name} is to score other copies than those gathered")
        if plan is None or (command.best or NO_DIGEST) != plan.outputs[BEST_SLOT]:
            raise Violation(f"{self._name} is to score another model than the best")

    def _progressed(self, command: m.Train) -> None:
        if self._training is command and not self._stopping and not self.node.training_fails:
            self.event(m.TrainingProgressed(500))

    def _trained(self, command: m.Train) -> None:
        if self._training is not command or self._stopping:
            return
        self._training = None
        if self.node.training_fails:
            failed = m.TrainingFailed(command.number, command.base, "out of memory", False)
            self.event(failed)
            return
        update = name("update", self.node.id, command.number, command.base, command.rows)
        if Vice.GARBAGE in self.node.vices:
            update = name("garbage", self.node.id, command.number)
            self.world.garbage.add(update)
        self.node.disk.add(update)
        self.world.origins[update] = (self.node.id, command.number)
        samples = 100 + self.node.id
        done = m.TrainingFinished(command.number, command.base, update, samples, NO_DIGEST)
        self.event(done)

    def _stopped(self, command: m.Train | None) -> None:
        if command is None or self._training is not command:
            return
        self._training = None
        self.event(m.TrainingFailed(command.number, command.base, "it was stopped", False))

    # Pulling, merging, checking.

    def _pull(self, digest: Digest) -> bool:
        return self.world.pull(self.node, digest)

    def _fetch(self, digest: Digest) -> None:
        found = self._pull(digest)
        event = m.BlobHeld(digest) if found else m.FetchFailed(digest, "nobody has it")
        self.event(event)

    def _collect(self, updates: Iterable[m.FrozenUpdate]) -> dict[MemberId, Omission]:
        """Pull these updates; those that cannot be used, and why."""
        faults: dict[MemberId, Omission] = {}
        for frozen in updates:
            if not self._pull(frozen.update):
                faults[frozen.member] = Omission.UNREACHABLE
            elif frozen.update in self.world.garbage:
                faults[frozen.member] = Omission.WRONG_SCHEMA
            elif not self._is_its_own(frozen):
                faults[frozen.member] = Omission.NOT_ITS_OWN
        return faults

    def _is_its_own(self, frozen: m.FrozenUpdate) -> bool:
        """Whether an update names its submitter, as its header does in life."""
        origin = self.world.origins.get(frozen.update)
        return origin is None or origin[0] == frozen.member

    def _merge(self, command: m.Merge, waited_s: float) -> None:
        omitted = dict.fromkeys(members_in(command.gone), Omission.WITHDRAWN)
        omitted |= self._collect(u for u in command.updates if u.member not in omitted)
        if Omission.UNREACHABLE in omitted.values() and waited_s < max(2.0, command.patience_s):
            self.port.call_later(0.5, partial(self._merge, command, waited_s + 0.5))
            return
        here = (command.number, command.attempt)
        chosen = [u for u in command.updates if u.member not in omitted]
        if Vice.OMITS in self.node.vices and len(chosen) > command.min_peers:
            unwanted = self.port.rng.choice([u for u in chosen if u.member != self.node.id])
            chosen.remove(unwanted)
            omitted[unwanted.member] = Omission.UNREACHABLE
            self.world.count("updates left out")
        if len(chosen) < command.min_peers:
            self.event(m.MergeFailed(*here, "too few updates"))
            return
        with ending(self.node.id):
            check_samples([u.samples for u in chosen], len(chosen))
        model = self._outcome_of(command, chosen)
        if Vice.FORGES in self.node.vices:
            model = name("forged", self.node.id, here)
            self.world.count("forged merges")
        self.node.disk.add(model)
        self.event(m.Merged(*here, model, *m.omission_reasons(omitted)))

    def _verify(self, command: m.Verify, waited_s: float) -> None:
        candidate = command.candidate
        place = (command.number, command.attempt, candidate.model, candidate.omitted)
        if Vice.AGREES in self.node.vices:
            self.event(m.CandidateVerified(*place))
            return
        kept = [u for u in command.updates if not candidate.omitted >> u.member & 1]
        missing = not self._pull(candidate.model)
        faults: dict[MemberId, Omission] = {}
        if command.level is not VerifyLevel.HELD and not missing:
            if self._omits_good_update(command):
                self.event(m.CandidateRefused(*place, "it omits a good update", True))
                return
            faults = self._collect(kept)
        if missing or faults:
            if waited_s < max(2.0, command.patience_s):
                self.port.call_later(0.5, partial(self._verify, command, waited_s + 0.5))
            else:
                self.event(m.CandidateRefused(*place, "it cannot be checked here", False))
        elif command.level is not VerifyLevel.HELD and (
            candidate.model != self._outcome_of(command, kept)
        ):
            self.event(m.CandidateRefused(*place, "it is not the merge", True))
        else:
            self.event(m.CandidateVerified(*place))

    def _outcome_of(self, command: m.Merge | m.Verify, updates: Sequence[m.FrozenUpdate]) -> Digest:
        if command.best is not None:
            return true_choice(self.world.program, command.base, command.best, updates)
        place = self.world.program.place(command.number)
        assert place is not None
        return self.world.folds.merged(place.stage.merge, command.base, updates)

    def _omits_good_update(self, command: m.Verify) -> bool:
        """Whether the candidate leaves out what can be pulled here and used."""
        out = command.candidate.omitted & ~command.gone
        left_out = [u for u in command.updates if out >> u.member & 1]
        return len(self._collect(left_out)) < len(left_out)

    def _follow(self, command: m.Follow) -> None:
        here, leader = (command.number, command.attempt), command.leader
        if leader == self.node.id:
            raise Violation(f"{self._name} follows itself")
        if (*here, leader) in self._following:
            raise Violation(f"{self._name} follows n{leader} twice")
        if any(f[:2] != here for f in self._following):
            raise Violation(f"{self._name} keeps drafts of rounds that are over")
        self._following.add((*here, leader))
        self.world.count("merges followed")

    def _expect(self, number: int, attempt: int) -> None:
        plan = self.machine.plan
        if plan is None or plan.round is None:
            raise Violation(f"{self._name} expects to merge a round that it does not know")
        round, now = plan.round, int(self.port.clock_s)
        if (round.number, round.attempt) != (number, attempt) or (
            round.leader_at(now) != self.node.id
        ):
            raise Violation(f"{self._name} expects to merge though another leads")

    def _evaluate(self, number: int, model: Digest) -> None:
        if model not in self.node.disk:
            raise Violation(f"{self._name} is to score a model that it does not hold")
        if number in self._evaluated:
            raise Violation(f"{self._name} scores round {number} twice")
        self._evaluated.add(number)
        self.node.evaluated[number] = model

    # Transactions.

    def _transact(self, command: m.Transact) -> None:
        vices, arguments = self.node.vices, command.arguments

        def settled(error: str | None) -> None:
            number, attempt = command.number, command.attempt
            self.event(m.TransactionSettled(command.function, number, attempt, error))

        if Vice.SILENT in vices and command.function in ("merge", "attest"):
            self.world.count("merges and attestations kept back")
            return
        if Vice.WITHHOLDS in vices and command.function == "submit":
            self.world.count("reveals withheld")
            arguments = (*arguments[:2], bytes(32), *arguments[3:])
        if Vice.COPIES in vices and command.function == "submit":
            others = self._others_updates(command.number)
            if not others:
                self.port.call_later(0.5, partial(settled, "there is nothing to copy yet"))
                return
            self.world.count("copied updates")
            arguments = (self.port.rng.choice(others), self._declared(), *arguments[2:])
        if Vice.BOASTS in vices and command.function == "submit":
            self.world.count("false sample counts")
            boast = self._declared() + self.port.rng.choice([0, 1])
            arguments = (arguments[0], boast, *arguments[2:])
        place = () if command.function == "open" else (command.number, command.attempt)

        if Vice.TWISTS in vices and command.function == "merge":
            self.world.count("merges for another output or stage")
            outcome = cast(Outcome, arguments[0])
            twisted = self.port.rng.choice(twists(outcome))
            arguments = (twisted, *arguments[1:])
        if command.function == "merge":
            outcome, _ = cast(tuple[Outcome, bytes], arguments)
            here = (command.number, command.attempt, self.node.id)
            self.world.announce(self.node, m.MergeAnnounced(*here, outcome))
        carrier = self._find_carrier() if command.function == "attest" else None
        if carrier is not None:
            self._have_carried(carrier, command, settled)
            return
        function, whole = self._dated(command.function, (PLAN, *place, *arguments))
        self.world.transact(self, function, whole, settled)

    def _declared(self) -> int:
        """The most samples that it may claim."""
        plan = self.machine.plan
        return MOST_SAMPLES if plan is None else plan.consents[self.node.id].max_samples

    def _others_updates(self, number: int) -> list[Digest]:
        """On the chain, or still waiting for a block: a copy may stand before what it copies."""
        made = self.world.origins.items()
        return [u for u, (i, round) in made if round == number and i != self.node.id]

    def _find_carrier(self) -> Site | None:
        """Another site that is to send this one's attestation, now and then."""
        if self.port.rng.random() >= self.world.carried:
            return None
        others = [n for n in self.world.nodes if n is not self.node and n.awake]
        return self.port.rng.choice(others).site if others else None

    def _have_carried(
        self, carrier: Site, command: m.Transact, settled: Callable[[str | None], None]
    ) -> None:
        outcome, level, meta = cast(tuple[Outcome, int, Digest], command.arguments)
        here = (PLAN, command.number, command.attempt)
        signature = self.world.sign(self.node, Attestation(*here, outcome, level, meta))
        open_ = [settled]

        def answer(error: str | None) -> None:
            if open_ and self.port.alive:
                open_.pop()(error)

        self.world.count("attestations carried")
        metas, signatures = (meta, meta), (signature, signature)  # the second is skipped
        arguments = (*here, outcome, level, metas, signatures)
        self.world.transact(carrier, "attestMany", arguments, answer)
        self.port.call_later(CARRIED_WITHIN_S, partial(answer, "nobody carried it"))

    def _dated(
        self, function: str, arguments: tuple[object, ...]
    ) -> tuple[str, tuple[object, ...]]:
        """The transaction, sometimes with a time after which it must do nothing."""
        rng, now = self.port.rng, int(self.world.now)
        if rng.random() >= self.world.dated:
            return function, arguments
        late = rng.random() < 0.3
        time = now - rng.randint(3, 60) if late else now + rng.randint(30, 300)
        self.world.count("transactions past their time" if late else "transactions with a time")
        return "until", (time, function, *arguments)

    def _meddle(self) -> None:
        """Send something that the contract must refuse, or that must do no harm."""
        rng = self.port.rng
        self.port.call_later(rng.uniform(1, 4), self._meddle)
        drawn = self.world.draw_call(self.node) if rng.random() < 0.5 else None
        if drawn is not None:
            self.world.transact(self, *drawn, lambda error: None)
            return
        plan = self.machine.plan
        if plan is None or plan.round is None:
            return
        round = plan.round
        place = (PLAN, round.number, round.attempt)
        lie = name("lie", self.node.id, *place)
        first = secret_for(self.node.secret, PLAN, 0, 0)
        commitment = commitment_to(first)
        said = [c.outcome for c in round.candidates]
        outcome = rng.choice(said) if said else Outcome(lie, 0)
        # The right merge, but for another output, or as if the plan ended with it.
        twisted = rng.choice(twists(outcome))
        level = int(plan.rules.verify_level)
        function, arguments = rng.choice(
            [
                ("submit", (lie, 5, bytes(32), commitment, NO_DIGEST, b"")),
                ("submit", (lie, 5, first, commitment, NO_DIGEST, b"")),
                ("submit", (lie, 10 * MOST_SAMPLES, bytes(32), commitment, NO_DIGEST, b"")),
                ("submit", (lie, 5, bytes(32), commitment, NO_DIGEST, b"keys")),
                ("merge", (Outcome(lie, 0), b"")),
                ("merge", (twisted, bytes(twisted.omitted.bit_count() * [1]))),
                ("attest", (Outcome(lie, 0), level, NO_DIGEST)),
                ("attest", (outcome, level, NO_DIGEST)),
                ("attestMany", (outcome, level, (NO_DIGEST,), (bytes(65),))),
                ("finalise", (outcome,)),
                ("checkIn", (500,)),
                ("close", ()),
                ("void", ()),
            ]
        )
        if function == "submit":
            self.node.disk.add(lie)
            self.world.garbage.add(lie)
        if rng.random() < 0.2:
            announced = m.MergeAnnounced(*place[1:], self.node.id, rng.choice([outcome, twisted]))
            self.world.announce(self.node, announced)
        self.world.count("meddling transactions")
        self.world.transact(self, function, (*place, *arguments), lambda error: None)


class Consortium:
    """N nodes, one plan, one clock. Drive it with `run`; look at `plan` and `finals`."""

    def __init__(
        self,
        nodes: int,
        rules: Rules,
        *,
        statistics: bool = False,
        program: Program | None = None,
        invited: int = 0,
        invitation_s: int = 0,
        seed: int = 0,
        net: SimNet | None = None,
        chain_s: float = 0.2,
        fetch_s: float = 0.1,
        merge_s: float = 0.2,
        skew_s: float = 0.0,
        secrets: Callable[[int], bytes] = lambda i: bytes([i]) * 32,
        machine_class: type[m.RoundMachine] = m.RoundMachine,
        ledger_class: type[Ledger] = Ledger,
        site_class: type[Site] = Site,
        evm: bool = False,
        proposer: int = 0,
        founded: int = 0,
    ) -> None:
        self.net = net or SimNet(seed, label=lambda address: f"n{address[0] - 1}")
        self.chain_s, self.fetch_s, self.merge_s = chain_s, fetch_s, merge_s
        self.machine_class = machine_class
        self.site_class = site_class
        usual = federated_averaging(rules.rounds - statistics, statistics)
        self.program: Program = program or usual
        founding = [(i, sim_address(i)) for i in range(nodes)]
        self.nodes = [SimNode(MemberId(i), key, key, secrets(i)) for i, key in founding]
        self._founders = [Founder(n.account, n.address, f"n{n.id}") for n in self.nodes]
        self._founded = founded
        """Unix seconds; whoever has sent nothing for a week after it is dormant."""
        self._ledger_class = ledger_class
        self._evm = evm
        self.book = self.new_book()
        self.executed: list[tuple[int, Address, int, str, tuple[object, ...], str | None]] = []
        """Every transaction in the order of execution: height, sender, time, what, outcome."""
        self.garbage: set[Digest] = set()
        self.origins: dict[Digest, tuple[MemberId, int]] = {}
        """Whose update each is, and of which round, as its header says."""
        self.dated = 0.0
        """Chance that a node's transaction carries a time after which it is to do nothing."""
        self.carried = 0.0
        """Chance that an attestation is handed to another node, which sends it."""
        self.fetch_loss = 0.0
        """Chance that a holder does not answer a pull."""
        self.blocked: set[tuple[int, int]] = set()
        """(puller, holder) pairs between which no blob travels."""
        self.counted: Counter[str] = Counter()
        self.chain_now = int(self.now)
        self.folds = Folds()
        self.referee = Referee(self.nodes, rules, self.program, self.folds)
        self._snapshot: tuple[Plan, int] | None = None
        self._ended = (-1, 0)
        if net is None:
            for node in self.nodes:
                skew = self.net.rng.uniform(-skew_s, skew_s)
                self.net.add(node.address, partial(self._boot, node), skew_s=skew, start=False)
        digests = (PLAN_DIGEST, self.program.digest, MODEL0)
        until = self.chain_now + invitation_s if invitation_s else 0
        what = ("plan", *digests, rules, invited, until)
        self._send(self.nodes[proposer], self.chain_now, "proposePlan", what)

    def new_book(self) -> Book:
        """The contract as it is at genesis."""
        if self._evm:
            return EvmContract(self._founders, self._founded)
        book = LedgerContract(self._founders, self._founded)
        book.ledger = self._ledger_class(self._founders, self._founded)
        book.ledger.membership.signatures = Signatures(DOMAIN, self._recover)
        return book

    def sign(self, node: SimNode, said: Attestation) -> bytes:
        """A signature that nobody else could have made: there is a list of all."""
        return self._signature(node.id, node.address, attestation_digest(DOMAIN, said))

    def prove(self, member: MemberId, key: Address) -> bytes:
        """The signature with which a new node key agrees to be this member's."""
        return self._signature(member, key, node_key_digest(DOMAIN, member))

    def _signature(self, member: MemberId, key: Address, digest: Digest) -> bytes:
        signature = name("signature", key, digest).ljust(65, b"\x1b")
        self.referee.signed[signature] = (digest, member, key)
        return signature

    def _recover(self, digest: Digest, signature: bytes) -> Address | None:
        signed = self.referee.signed.get(signature)
        return None if signed is None or signed[0] != digest else signed[2]

    @property
    def now(self) -> float:
        return self.net.epoch_s + self.net.now_s

    @property
    def plan(self) -> Plan:
        """The plan as the chain's newest block has it."""
        return self.book.plan(PLAN)

    @property
    def members(self) -> int:
        return member_set(i for i, member in self.book.members().items() if member.present)

    @property
    def trace(self) -> list[str]:
        return self.net.trace

    @property
    def finals(self) -> dict[int, set[Digest]]:
        """The models that were ever final, by round."""
        return self.referee.finals

    def count(self, what: str) -> None:
        """Note for the coverage table that something happened."""
        self.counted[what] += 1

    # Controls for tests.

    def consent(self, nodes: Iterable[int] | None = None) -> None:
        """Let these nodes (all of them by default) consent now, and start all that are down."""
        for i in range(len(self.nodes)) if nodes is None else nodes:
            self.send(i, "consent", *self.consent_of(i))
        for node in self.nodes:
            self.net.start(node.address)

    def consent_of(self, i: int, until: int = 0) -> tuple[object, ...]:
        """The arguments of node `i`'s consent."""
        node = self.nodes[i]
        commitment = commitment_to(secret_for(node.secret, PLAN, *self.plan.place))
        samples = MOST_SAMPLES if node.duties & Duty.TRAIN else 0
        return PLAN, PLAN_DIGEST, Terms(node.duties, samples, until=until, commitment=commitment)

    def send(self, i: int, function: str, *arguments: object) -> str | None:
        """Execute a transaction of node `i` at once; the contract's error name, if refused."""
        return self.execute(self.nodes[i], self.advance_clock(), function, arguments)

    def kill(self, i: int) -> None:
        """SIGKILL: memory is gone, the disk stays, requests on the wire still arrive."""
        self.net.crash(self.nodes[i].address)

    def restart(self, i: int) -> None:
        self.net.start(self.nodes[i].address)

    def partition(self, *groups: Iterable[int]) -> None:
        """Cut all links between these groups."""
        sides = [[self.nodes[i].address for i in sorted(group)] for group in groups]
        for index, side in enumerate(sides):
            for other in sides[index + 1 :]:
                self.net.cut(side, other)

    def heal(self) -> None:
        self.net.heal()

    def at(self, delay_s: float, action: Callable[[], object]) -> None:
        """Have `action` happen `delay_s` from now."""
        self.net.at(self.net.now_s + delay_s, action)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let `seconds` of virtual time pass, or less if `until` holds earlier; whether it held."""
        return self.net.run(self.net.now_s + seconds, until)

    def run_rounds(self, last: int, seconds: float) -> bool:
        """Run until round `last` is final."""
        return self.run(seconds, lambda: self.final_round() >= last)

    def final_round(self) -> int:
        """Number of the newest final training round."""
        return self.plan.model_round

    # The world of blobs.

    def reachable(self, a: int, b: int) -> bool:
        """Whether both run and a connection between them holds."""
        one, other = self.nodes[a], self.nodes[b]
        return one.awake and other.awake and self.net.linked(one.address, other.address)

    def pull(self, node: SimNode, digest: Digest) -> bool:
        """Bring a blob to this node's disk from whoever has it."""
        if digest in node.disk:
            return True
        for other in self.nodes:
            if (
                digest in other.disk
                and self.reachable(node.id, other.id)
                and (node.id, other.id) not in self.blocked
                and not (Vice.HOARDS in other.vices and digest == self._update_of(other))
                and not (self.fetch_loss and self.net.rng.random() < self.fetch_loss)
            ):
                node.disk.add(digest)
                return True
        return False

    def _update_of(self, node: SimNode) -> Digest | None:
        plan = None if node.site is None else node.site.machine.plan
        if plan is None or plan.round is None or node.id not in plan.round.submissions:
            return None
        return plan.round.submissions[node.id].update

    # The chain: a delay.

    def transact(
        self,
        site: Site,
        function: str,
        arguments: tuple[object, ...],
        settled: Callable[[str | None], None],
    ) -> None:
        """Send a transaction; `settled` is called with the error, if the sender still lives."""
        arrive = partial(self._arrive, site, function, arguments, settled)
        self.at(self.chain_s * self.net.rng.uniform(0.8, 1.2), arrive)

    def draw_call(self, liar: SimNode) -> tuple[str, tuple[object, ...]] | None:
        """Any call of the contract, if this world knows how to make them up."""
        return None

    def _arrive(
        self,
        site: Site,
        function: str,
        arguments: tuple[object, ...],
        settled: Callable[[str | None], None],
    ) -> None:
        if site.port.alive and not self._has_chain(site.node.id):
            # Pooled until the sender is with a quorum again; gone with its process.
            retry = partial(self._arrive, site, function, arguments, settled)
            site.port.call_later(1.0, retry)
            return
        error = self.execute(site.node, self.advance_clock(), function, arguments)
        site.port.call_later(self.chain_s, lambda: settled(error))

    def announce(self, node: SimNode, announced: m.MergeAnnounced) -> None:
        """Others may see a merge before it is in a block, or may not."""
        rng = self.net.rng
        for other in self.nodes:
            if other is node or other.site is None or not self.reachable(node.id, other.id):
                continue
            if rng.random() < 0.8:
                delay_s = self.chain_s * rng.uniform(0.1, 2.0)
                other.site.port.call_later(delay_s, partial(other.site.event, announced))

    def advance_clock(self) -> int:
        """The next block's timestamp: some node's clock, never backwards."""
        skew = self.net.rng.uniform(-2, 2) if self.net.rng.random() < 0.1 else 0.0
        self.chain_now = max(self.chain_now, int(self.now + skew))
        return self.chain_now

    def show_head(self, site: Site) -> None:
        """Have this node see the newest block, if it can reach a quorum."""
        if site.port.alive and self._has_chain(site.node.id):
            site.event(m.ChainObserved(*self.snapshot()))

    def snapshot(self) -> tuple[Plan, int]:
        """A copy of what the chain says now."""
        if self._snapshot is None:
            self._snapshot = (copy_of(self.plan), self.members)
        return self._snapshot

    def execute(
        self,
        node: SimNode,
        now: int,
        function: str,
        arguments: tuple[object, ...],
        key: Address | None = None,
    ) -> str | None:
        """Carry out one transaction at chain time `now`, signed with the node's key of now or an
        earlier one; the contract's error name, if refused."""
        before = self.plan.round
        error = self._send(node, now, function, arguments, key)
        if function == "until":
            time, function, *rest = cast(tuple[int, str, object], arguments)
            arguments = tuple(rest)
            if error is None and now > time:
                raise Violation(f"{function} was carried out {now - time} s after its time")
        if error is not None:
            self.count("refused transactions")
            self._note(f"n{node.id} {function} refused: {error}")
            return error
        self._note(f"n{node.id} {function} {_brief(arguments)}")
        if before is not None and isinstance(self.book, EvmContract):
            before = self.book.past_round(PLAN, before.number, before.attempt)
        self._snapshot = None
        if function in OF_PLANS and arguments[0] != PLAN:
            self.changed()
            return None
        plan, members = self.plan, self.members
        if before is not None:
            self._note_end(before)
        self.referee.accepted(node, now, function, arguments, before, plan, members)
        self.changed()
        return None

    def _send(
        self,
        node: SimNode,
        now: int,
        function: str,
        arguments: tuple[object, ...],
        key: Address | None = None,
    ) -> str | None:
        what = arguments[1] if function == "until" else function
        sender = node.account if what in BY_PEOPLE else key or node.address
        error = None
        try:
            self.book.send(sender, now, function, *arguments)
        except ContractError as refusal:
            error = refusal.name
        done = (self.book.height, sender, now, function, arguments, error)
        self.executed.append(done)
        return error

    def changed(self) -> None:
        """A block changed something: all nodes will see it."""
        for node in self.nodes:
            if node.site is not None and node.up:
                delay_s = self.chain_s * self.net.rng.uniform(0.5, 1.5)
                node.site.port.call_later(delay_s, partial(self.show_head, node.site))

    def _note_end(self, round: Round) -> None:
        here = (round.number, round.attempt)
        if here == self._ended or round.status not in (RoundStatus.FINAL, RoundStatus.VOID):
            return
        self._ended = here
        final = round.status is RoundStatus.FINAL
        self.count("rounds final" if final else "voids")
        if round.left & round.submitted:
            self.count("withdrawals after submitting")
        self._note(f"--- round {round.number}.{round.attempt} is {'final' if final else 'void'}")

    def _boot(self, node: SimNode, port: Port) -> Site:
        node.site = self.site_class(port, self, node)
        port.call_later(self.chain_s, partial(self.show_head, node.site))
        return node.site

    def _has_chain(self, i: int) -> bool:
        """Whether node `i` is with a quorum of the validators, two thirds rounded up."""
        reached = sum(i == j or self.reachable(i, j) for j in range(len(self.nodes)))
        return self.nodes[i].up and reached >= two_thirds(len(self.nodes))

    def _note(self, text: str) -> None:
        self.net.log(text)


def twists(outcome: Outcome) -> list[Outcome]:
    """The same merge for another output, as if the plan ended with it, or with a stage skipped."""
    skipped = replace(outcome, next=outcome.next + 1)
    return [replace(outcome, slot=2), replace(outcome, next=0), skipped]


def copy_of(plan: Plan) -> Plan:
    """The plan as it stands; what the contract changes later does not change the copy."""
    copied = copy.copy(plan)
    copied.consents = {member: copy.copy(consent) for member, consent in plan.consents.items()}
    if plan.round is not None:
        copied.round = round = copy.copy(plan.round)
        round.submissions = dict(plan.round.submissions)
        round.candidates = [copy.copy(candidate) for candidate in plan.round.candidates]
    return copied


def _brief(arguments: tuple[object, ...]) -> str:
    return visible(" ".join(a.hex()[:8] if isinstance(a, bytes) else str(a) for a in arguments[1:]))
