"""Random sequences of calls on the contract and on its specification: never a difference.

Every step compares the result or the error with all its fields, and then everything that can be
read. A generator of blind noise would hardly ever get a round closed, so most steps do what some
node could sensibly do now; the rest is noise. `test_the_sequences_reach_...` holds the generator to
that: every error and every kind of transition must have come up, but for a few.
"""

from __future__ import annotations

import random
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from harness.evm import DOMAIN, EvmContract, LedgerContract, proof_of
from harness.whole import is_whole
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from swarm.chain import contract
from swarm.chain.signer import NodeKeys
from swarm.errors import ContractError
from swarm.protocol.attestation import Attestation, attestation_digest, sign
from swarm.protocol.election import commitment_to
from swarm.protocol.follow import follow
from swarm.protocol.ledger import Founder, Kind
from swarm.protocol.masking import KEYS_BYTES, Masking
from swarm.protocol.state import (
    PLAIN,
    Candidate,
    Member,
    Omission,
    Outcome,
    Plan,
    PlanStatus,
    Round,
    RoundStatus,
    Rules,
    Terms,
    VerifyLevel,
    expired,
    mask_deadline,
    may_open,
    member_set,
    members_in,
    submitters,
    undecided,
)
from swarm.types import NO_ADDRESS, NO_DIGEST, Address, Digest, MemberId, PlanId

START = 1_700_000_000
DAY = 86_400
UNREACHABLE_ERRORS = {
    "ConsortiumNoFounders": "only the constructor raises it",
    "ConsortiumBadKind": "the specification's type has no such kind",
    "PlanTooMany": "the walk proposes four plans at most",
    "ConsortiumBudget": "the walk seldom makes seventeen proposals in a day; named tests do",
    "ConsortiumFull": "256 admissions are too many for a random walk",
}
TRANSITIONS = {
    "closed by the completing submit",
    "closed by close()",
    "closed by a withdrawal",
    "all submitters revealed",
    "some submitters revealed",
    "nobody revealed",
    "final by merge",
    "final by attest",
    "final by finalise",
    "final with several candidates",
    "final with omissions",
    "final with a submitter gone",
    "final by a later attempt",
    "voided while open",
    "voided after the close",
    "statistics merged",
    "plan completed",
    "plan stopped by its proposer",
    "plan stopped by a majority",
    "member admitted",
    "member removed",
    "member removed while its round ran",
    "node changed",
    "node changed to the standby",
    "contact stated",
    "proposal cancelled",
    "opened by a decline",
    "opened when the invitation had ended",
    "opened without somebody whose consent had ended",
    "opened with a holder",
    "opened with somebody who does not train",
    "voided as the holder was silent",
    "voided and opened with another holder",
    "completed early",
    "consent renewed",
    "until in time",
    "until too late",
    "final by attestMany",
    "validator endorsed late",
    "validator retired",
    "version activated",
    "closed by masking",
    "masked again",
    "given up while masking",
    "locked",
    "final after a lock",
    "spoiled",
    "abandoned",
    *(
        f"followed {event}"
        for event in (
            "RoundOpened",
            "CheckedIn",
            "Submitted",
            "RoundClosed",
            "Merged",
            "Attested",
            "RoundFinal",
            "RoundVoided",
            "PlanCompleted",
            "KeyRenewed",
            "Masked",
            "SharesJudged",
            "ShareAnswered",
            "EpochBegan",
            "RoundLocked",
            "Unmasked",
            "AbandonVoted",
        )
    ),
}
ROUND_CALLS = {
    "decline", "withdraw", "stop", "open", "checkIn", "submit", "close", "merge", "attest",
    "attestMany", "finalise", "void", "masked", "good", "answer", "nextEpoch", "unmask", "abandon",
    "renewKey",
}  # fmt: skip
NODE_SECRETS = [bytes([n + 1]) * 32 for n in range(8)]
NODE_KEYS = [NodeKeys(secret) for secret in NODE_SECRETS]
PICK = st.integers(0, 2**32)
"""Seeds one step: hypothesis chooses and shrinks the sequence, not the choices within a step."""

seen: Counter[str] = Counter()


def as_viewed(round: Round) -> Round:
    """As a view has a round that is over: without what only its events tell."""
    masking = round.masking
    if masking is not None:
        masking = Masking(
            masking.roster,
            masking.colluders,
            masking.submitters,
            masking.contributors,
            masking.began_at,
            masking.epoch,
            sum=masking.sum,
        )
    submissions = {n: replace(each, keys=b"") for n, each in round.submissions.items()}
    return replace(round, masking=masking, submissions=submissions)


def address(kind: int, number: int) -> Address:
    return Address(bytes([kind]) + number.to_bytes(19, "big"))


def digest(*parts: int) -> Digest:
    return Digest(bytes(parts).ljust(32, b"\x01"))


class Consortium(RuleBasedStateMachine):
    """The contract beside the specification, and what the members keep secret."""

    COLLUDERS: tuple[int, ...] = (PLAIN,)
    """What plans are proposed with."""
    GOES_ON = 50
    """How often a step goes on with rounds, of about a hundred."""

    @initialize(founders=st.sampled_from([1, 2, 3, 4, 5, 5, 5, 8]), pick=PICK)
    def found(self, founders: int, pick: int) -> None:
        self.now = START
        self.done: list[tuple[Any, ...]] = []
        self.changed: set[PlanId] = set()
        self.version = 1
        self.accepted = False
        nodes = {NODE_KEYS[n].address: NODE_SECRETS[n] for n in range(founders)}
        cards = [
            Founder(node if n % 2 else address(1, n), node, f"site {n}")
            for n, node in enumerate(nodes)
        ]
        self.spec = LedgerContract(cards, self.now)
        self.ledger = self.spec.ledger
        self.real = EvmContract(cards, self.now)
        self.secrets: dict[bytes, bytes] = {}
        self.keys: dict[Address, bytes] = nodes
        """Of those nodes whose keys are real, so that they can sign: address → secret."""
        self.made = founders
        draw = random.Random(pick)
        self.propose_plan(draw)
        for member in list(self.ledger.members.values()):
            self.consent(draw, PlanId(1), member.node)

    # Calls.

    def call(self, sender: Address, function: str, *arguments: Any) -> bool:
        """The same call on both; whether it was accepted."""
        before = {number: plan.round for number, plan in self.ledger.plans.items()}
        plans, members = deepcopy((self.ledger.plans, self.ledger.members))
        answers = []
        for book in (self.spec, self.real):
            try:
                answers.append((book.send(sender, self.now, function, *arguments), "", None))
            except ContractError as error:
                answers.append((None, error.name, error.arguments))
        assert answers[0] == answers[1], f"{function}{arguments} by {sender.hex()} at {self.now}"
        accepted = answers[0][1] == ""
        if function == "until":
            seen["until in time"] += accepted
            seen["until too late"] += answers[0][1] == "Expired"
            function, *rest = arguments[1:]
            arguments = tuple(rest)
        seen[function if accepted else f"! {answers[0][1]}"] += 1
        for number, old in before.items():
            if old is not None and old is not self.ledger.plans[number].round:
                past = self.real.past_round(number, old.number, old.attempt)
                assert past == as_viewed(old)
        if accepted:
            self.accepted = True
            self.note(function)
            self.follow(plans, members)
            self.done.append((sender, function, *arguments))
            seen["node changed to the standby"] += function == "setNode" and any(
                name == "StandbyChanged" for name, _ in self.real.events
            )
            if function == "consent":
                plan = plans[arguments[0]]
                held_by = self.ledger.membership.either(sender).id
                seen["consent renewed"] += bool(plan.participants >> held_by & 1)
            if function in ("proposePlan", "consent") or function in ROUND_CALLS:
                self.changed.add(PlanId(answers[0][0] or arguments[0]))
        return accepted

    def follow(self, plans: dict[PlanId, Plan], members: dict[MemberId, Member]) -> None:
        """From the state before a call, its events lead to the state after it, or say they do not.

        A plan that an event does not tell all of is left to the next reading; nobody follows plans
        across changes of members.
        """
        if any("plan" not in fields for _, fields in self.real.events):
            return
        followed: dict[PlanId, Plan | None] = dict(plans)
        for name, fields in self.real.events:
            plan = followed.get(PlanId(fields["plan"]))
            if plan is not None:
                kept = deepcopy(plan)
                followed[plan.id] = follow(plan, name, fields, self.now, members)
                assert plan == kept, f"{name} changed what it was given"
                seen[f"followed {name}"] += followed[plan.id] is not None
        for number, plan in followed.items():
            assert plan is None or plan == self.real.plan(number)

    def note(self, function: str) -> None:
        """Count the kinds of transition, from the contract's own events."""
        names = [name for name, _ in self.real.events]
        seen["masked again"] += "EpochBegan" in names
        seen["given up while masking"] += function == "nextEpoch" and "RoundVoided" in names
        seen["locked"] += "RoundLocked" in names
        seen["abandoned"] += "AbandonVoted" in names and "PlanStopped" in names
        seen["spoiled"] += function in ("merge", "attest") and "RoundVoided" in names
        for name, fields in self.real.events:
            if name == "RoundOpened":
                self.note_opening(function, fields, "RoundVoided" in names)
            elif name == "RoundClosed":
                how = {"submit": "the completing submit", "close": "close()"}
                seen[f"closed by {how.get(function, 'a withdrawal')}"] += 1
                current = self.real.past_round(
                    PlanId(fields["plan"]), fields["round"], fields["attempt"]
                )
                assert current is not None
                seen["closed by masking"] += current.status is RoundStatus.MASKING
                revealed = current.submitted & current.revealed
                kind = "some submitters" if revealed else "nobody"
                if revealed == current.submitted:
                    kind = "all submitters"
                seen[f"{kind} revealed"] += 1
            elif name == "RoundFinal":
                self.note_final(function, fields)
            elif name == "RoundVoided" and function == "void":
                old = self.real.past_round(
                    PlanId(fields["plan"]), fields["round"], fields["attempt"]
                )
                assert old is not None
                seen[f"voided {'after the close' if old.closed_at else 'while open'}"] += 1
                plan = self.ledger.plans[PlanId(fields["plan"])]
                early = self.now < old.opened_at + plan.rules.max_round_s
                seen["voided as the holder was silent"] += (
                    early and old.holder is not None and not old.closed_at
                )
            elif name == "MemberRemoved":
                bit = 1 << fields["member"]
                rounds = [plan.round for plan in self.ledger.plans.values() if plan.round]
                running = (RoundStatus.OPEN, RoundStatus.CLOSED)
                if any(each.roster & bit for each in rounds if each.status in running):
                    seen["member removed while its round ran"] += 1
        seen["plan completed"] += "PlanCompleted" in names
        seen["member admitted"] += "MemberAdmitted" in names
        seen["member removed"] += "MemberRemoved" in names
        seen["node changed"] += "NodeChanged" in names
        seen["contact stated"] += "ContactChanged" in names
        seen["proposal cancelled"] += "ProposalCancelled" in names
        seen["validator retired"] += "ValidatorRetired" in names
        late = "ValidatorEndorsed" in names and "MemberAdmitted" not in names
        seen["validator endorsed late"] += late
        if "PlanStopped" in names:
            how = "a majority" if "PlanStopVoted" in names else "its proposer"
            seen[f"plan stopped by {how}"] += 1

    def note_opening(self, function: str, fields: dict[str, Any], after_void: bool) -> None:
        plan = self.ledger.plans[PlanId(fields["plan"])]
        assert plan.round is not None
        first = plan.round.number == 1 and plan.round.attempt == 1
        seen["opened by a decline"] += function == "decline"
        waited = undecided(plan, self.ledger.present_members)
        seen["opened when the invitation had ended"] += first and bool(waited)
        gone = set(plan.consents) - set(members_in(plan.participants))
        ended = [plan.consents[i].until for i in gone]
        seen["opened without somebody whose consent had ended"] += any(
            until and until < self.now for until in ended
        )
        seen["opened with a holder"] += fields["holder"] != 255
        seen["voided and opened with another holder"] += after_void and fields["holder"] != 255
        seen["opened with somebody who does not train"] += fields["trainers"] != fields["roster"]

    def note_final(self, function: str, fields: dict[str, Any]) -> None:
        done = self.real.past_round(PlanId(fields["plan"]), fields["round"], fields["attempt"])
        assert done is not None
        seen[f"final by {function}"] += 1
        seen["final after a lock"] += done.masking is not None
        seen["final with several candidates"] += len(done.candidates) > 1
        seen["final with omissions"] += fields["omitted"] != 0
        seen["final with a submitter gone"] += (
            submitters(done, self.ledger.present_members) != done.submitted
        )
        seen["final by a later attempt"] += done.attempt > 1
        seen["statistics merged"] += fields["slot"] == 1
        plan = self.ledger.plans[PlanId(fields["plan"])]
        seen["completed early"] += fields["next"] == 0 and done.number < plan.rules.rounds

    # What the members do.

    @rule(pick=PICK)
    def step(self, pick: int) -> None:
        draw = random.Random(pick)
        actions = {
            self.go_on: self.GOES_ON,
            self.tick: 10,
            self.repeat: 10,
            self.noise: 10,
            self.join: 5,
            self.go_away: 4,
            self.govern: 7,
            self.new_plan: 3,
            self.change_keys: 4,
            self.date: 5,
            self.sleep: 3,
        }
        (action,) = draw.choices(list(actions), list(actions.values()))
        action(draw)

    def tick(self, draw: random.Random) -> None:
        self.now += draw.choice([1, 2, 5, 12, 30, 61, 130, 700])
        self.spec.height = self.real.height = self.real.height + 1

    def sleep(self, draw: random.Random) -> None:
        """Days pass; some wake, and find others asleep."""
        self.now += draw.choice([3, 8, 8, 31]) * DAY
        members = list(self.ledger.members.values())
        draw.shuffle(members)
        asleep = draw.choice([0, 1, len(members) // 3, len(members) - 1])
        for member in members[asleep:]:
            self.call(member.node, "activate")
        for member in members[: asleep + 1]:
            self.call(self.any_key(draw), "retire", member.id)

    def repeat(self, draw: random.Random) -> None:
        """What was accepted lately, once more: as it was, or by somebody else."""
        for sender, function, *arguments in self.some(draw, self.done[-12:])[:4]:
            other = self.any_key(draw) if draw.random() < 0.3 else sender
            self.call(other, function, *arguments)

    def date(self, draw: random.Random) -> None:
        """Something with a time after which it must do nothing."""
        moves = self.moves(draw) or [(self.any_key(draw), "activate")]
        for sender, function, *arguments in self.some(draw, moves)[:3]:
            time = max(0, self.now + draw.choice([-1, 0, 0, 1, 60]))
            if draw.random() < 0.1:
                function, arguments = "until", [time, function, *arguments]
            self.call(sender, "until", time, function, *arguments)

    def go_on(self, draw: random.Random) -> None:
        """Some steps that sensible nodes would take now, in some order."""
        for _ in range(draw.randint(1, 10)):
            moves = self.moves(draw)
            if moves:
                sender, function, *arguments = draw.choice(moves)
                self.call(sender, function, *arguments)
                if draw.random() < 0.1:
                    self.call(sender, function, *arguments)
                elif draw.random() < 0.25:
                    self.call(sender, function, *self.spoiled(draw, arguments))
            if draw.random() < 0.25:
                self.now += draw.choice([1, 1, 2, 5, 12, 30])

    @staticmethod
    def spoiled(draw: random.Random, arguments: list[Any]) -> list[Any]:
        place = draw.randrange(len(arguments))
        value = arguments[place]
        if isinstance(value, int):
            worse: Any = value + 1
        elif isinstance(value, bytes):
            worse = bytes([draw.choice([0, 9])]) * len(value)
        elif isinstance(value, Outcome):
            changes = [{"slot": 4}, {"slot": 2}, {"next": 0}, {"next": 7}, {"omitted": 1}]
            worse = replace(value, **draw.choice(changes))
        elif isinstance(value, Terms):
            worse = replace(value, **draw.choice([{"duties": 0}, {"duties": 8}, {"until": 1}]))
        else:
            worse = value[:-1]
        return [*arguments[:place], worse, *arguments[place + 1 :]]

    def moves(self, draw: random.Random) -> list[tuple[Any, ...]]:
        plan = self.some_plan(draw)
        if plan is None or plan.status not in (PlanStatus.PROPOSED, PlanStatus.RUNNING):
            return []
        nodes = {
            number: self.ledger.members[number].node
            for number in members_in(plan.participants & self.ledger.present_members)
        }
        current = plan.round
        if not nodes:
            return self.consents(draw, plan)
        anyone = draw.choice(list(nodes.values()))
        if current is None or current.status in (RoundStatus.FINAL, RoundStatus.VOID):
            if may_open(plan, self.ledger.present_members, self.now):
                return [(anyone, "open", plan.id)]
            return self.consents(draw, plan)
        if draw.random() < 0.05:
            return self.consents(draw, plan)
        at = (plan.id, current.number, current.attempt)
        moves: list[tuple[Any, ...]] = [(anyone, "void", *at)]
        if plan.is_masked:
            moves += self.renewals(draw, plan, current)
        if current.status is RoundStatus.OPEN:
            moves.append((anyone, "checkIn", *at, draw.choice([0, 1000, 1001])))
            moves.append((anyone, "close", *at))
            late = [n for n in nodes if not current.submitted >> n & 1]
            if len(late) == 1 and draw.random() < 0.2:
                return [(nodes[late[0]], "withdraw", plan.id)]
            for number, node in nodes.items():
                if current.trainers >> number & ~current.submitted >> number & 1:
                    moves += 2 * [(node, "submit", *at, *self.update(draw, plan, number))]
            return moves
        if current.masking is not None:
            moves += self.masked_moves(draw, plan, current, current.masking)
            if current.status is RoundStatus.MASKING and not current.masking.may_lock():
                return moves
        for candidate in current.candidates:
            others = [n for n in nodes if not candidate.attesters >> n & 1]
            if len(others) < len(nodes) / 2 + 1 and others and draw.random() < 0.2:
                moves += 5 * [(nodes[draw.choice(others)], "withdraw", plan.id)]
            place = (*at, candidate.outcome)
            moves.append((anyone, "finalise", *place))
            moves.append((anyone, "attestMany", *place, *self.carried(draw, plan, candidate)))
            for number in nodes:
                if not candidate.attesters >> number & 1:
                    moves.append(
                        (nodes[number], "attest", *place, draw.choice([3] * 9 + [1, 4]), digest(9))
                    )
        merged = {candidate.leader for candidate in current.candidates}
        for leader in (set(current.eligible) & set(nodes)) - merged:
            early = current.slot_at(self.now) < (current.first_slot_of(leader) or 0)
            if early and draw.random() < 0.9:
                continue
            gone = current.submitted & ~submitters(current, self.ledger.present_members)
            if plan.is_masked:
                gone = 0
            omitted = gone | (draw.getrandbits(6) & current.submitted if draw.random() < 0.4 else 0)
            if plan.is_masked and draw.random() < 0.9:
                omitted = 0
            reasons = bytes(draw.randint(1, 5) for _ in range(omitted.bit_count()))
            model = digest(current.number, current.attempt, draw.choice([1, 1, 1, 2]))
            if current.status is RoundStatus.LOCKED and draw.random() < 0.3:
                model = NO_DIGEST
            slot = draw.choice([current.number % 2] * 16 + [1, 2, 3, 4])
            following = draw.choice([current.stage] * 16 + [min(255, current.stage + 1), 0, 255])
            if draw.random() < 0.03:
                following = current.stage - 1
            outcome = Outcome(model, omitted, slot, following)
            moves += 2 * [(nodes[leader], "merge", *at, outcome, reasons)]
        return moves

    def renewals(self, draw: random.Random, plan: Plan, current: Round) -> list[tuple[Any, ...]]:
        """Receiving keys of those who sent no update, and of some who need none or have them."""
        at = (plan.id, current.number, current.attempt)
        moves: list[tuple[Any, ...]] = []
        for number in members_in(current.roster & self.ledger.present_members):
            consent = plan.consents[number]
            submits = current.status is RoundStatus.OPEN and current.trainers >> number & 1
            is_due = consent.next_receiving_key == NO_DIGEST and not submits
            if is_due or draw.random() < 0.02:
                used = [NO_DIGEST, consent.receiving_key, consent.next_receiving_key]
                key = draw.choice(used) if draw.random() < 0.05 else Digest(draw.randbytes(32))
                moves.append((self.ledger.members[number].node, "renewKey", *at, key))
        return moves

    def masked_moves(
        self, draw: random.Random, plan: Plan, current: Round, masking: Masking
    ) -> list[tuple[Any, ...]]:
        """What a masked round needs, from those of the roster who are members still."""
        at = (plan.id, current.number, current.attempt)
        present = current.roster & self.ledger.present_members
        nodes = {n: self.ledger.members[n].node for n in members_in(present)}
        moves: list[tuple[Any, ...]] = []
        if current.status is RoundStatus.LOCKED:
            owners = masking.contributors
            for number, node in nodes.items():
                if number not in masking.opened:
                    shares = draw.randbytes(32 * owners.bit_count())
                    moves += 4 * [(node, "unmask", *at, owners, shares)]
                if draw.random() < 0.2:
                    moves.append((node, "abandon", *at))
            return moves
        others = masking.contributors.bit_count() - 1
        remaining = masking.remaining(present & ~current.left)
        overdue = self.now >= mask_deadline(plan, current) and remaining != masking.contributors
        late = (plan.id + current.number + current.attempt) % 7
        for number, node in nodes.items():
            if number == late and masking.epoch == 0 and draw.random() < 0.95:
                continue
            if masking.contributors >> number & ~member_set(masking.posted) >> number & 1:
                made = (masking.epoch, digest(20, number), draw.randbytes(8 * others))
                moves += 3 * [(node, "masked", *at, *made)]
            missing = masking.submitters & ~masking.good.get(MemberId(number), 0)
            has_key = plan.consents[number].receiving_key != NO_DIGEST
            if missing and (has_key or draw.random() < 0.02):
                wrong = draw.getrandbits(8) & missing if draw.random() < 0.2 else 0
                moves += 3 * [(node, "good", *at, missing & ~wrong, wrong)]
            for complainant, dealers in masking.complaints.items():
                if dealers >> number & 1:
                    share = draw.randbytes(32)
                    moves.append((node, "answer", *at, masking.epoch, complainant, share))
        if nodes and (overdue or draw.random() < 0.3):
            moves += 6 * [(draw.choice(list(nodes.values())), "nextEpoch", *at)]
        return moves

    def carried(
        self, draw: random.Random, plan: Plan, candidate: Candidate
    ) -> tuple[int, list[Digest], list[bytes]]:
        """Attestations for somebody else to send: most are good, some stale, foreign or no such."""
        assert plan.round is not None
        here = (plan.id, plan.round.number, plan.round.attempt)
        metas, signatures = [], []
        for key in self.some(draw, list(self.keys.values())):
            meta, round = digest(draw.choice([6, 7])), plan.round
            place = (round.epoch, round.status)
            said = Attestation(*here, candidate.outcome, 3, meta, *place)
            if draw.random() < 0.2:
                said = replace(
                    said,
                    **draw.choice([{"attempt": 9}, {"level": 2}, {"epoch": 1}, {"plan": 7}]),
                )
            signature = sign(key, attestation_digest(DOMAIN, said))
            if draw.random() < 0.1:
                signature = draw.choice([signature[:64], bytes(65), signature[:64] + b"\x02"])
            times = draw.choice([1] * 9 + [2])
            metas += times * [said.meta]
            signatures += times * [signature]
        if draw.random() < 0.05:
            metas = metas[1:]
        return draw.choice([3] * 9 + [4]), metas, signatures

    def consents(self, draw: random.Random, plan: Plan) -> list[tuple[Any, ...]]:
        missing = self.ledger.present_members & ~plan.participants | expired(plan, self.now)
        present = missing & self.ledger.present_members
        nodes = [self.ledger.members[n].node for n in members_in(present)]
        joining = [(node, "consent", plan.id, digest(3), self.terms(draw, plan)) for node in nodes]
        return [*joining, *joining, *joining, *((node, "decline", plan.id) for node in nodes)]

    def terms(self, draw: random.Random, plan: Plan | None) -> Terms:
        duties = draw.choice([1] * 12 + [3, 3, 3, 7, 2, 4, 6])
        if plan is not None and plan.rules.holder and draw.random() < 0.7:
            duties |= 2
        samples = draw.choice([50, 50, 50, 2, 2**45 - 1]) if duties & 1 else 0
        until = self.now + draw.choice([5, 30, 200]) if draw.random() < 0.15 else 0
        if draw.random() < 0.03:
            samples = draw.choice([0, 1, 2**45])
        if draw.random() < 0.02:
            duties = draw.choice([0, 8, 255])
        return Terms(
            duties,
            samples,
            digest(10),
            until,
            self.commitment(draw),
            Digest(draw.randbytes(32)),
            digest(12),
        )

    def update(self, draw: random.Random, plan: Plan, number: int) -> tuple[Any, ...]:
        consent = plan.consents[number]
        secret = self.secrets.get(consent.commitment, bytes(32))
        reveal = secret if draw.random() < 0.8 else bytes(32)
        samples = draw.choice([1, consent.max_samples] * 9 + [0, consent.max_samples + 1])
        if draw.random() < 0.05:
            reveal = digest(7)
        update = draw.choice([digest(5, number)] * 19 + [NO_DIGEST])
        keys = b"keys" if draw.random() < 0.03 else b""
        if plan.is_masked:
            update = digest(5) if draw.random() < 0.05 else NO_DIGEST
            keys = draw.randbytes(KEYS_BYTES - (draw.random() < 0.05))
        return (update, samples, reveal, self.commitment(draw), digest(6), keys)

    def commitment(self, draw: random.Random) -> Digest:
        secret = draw.randbytes(32)
        self.secrets[commitment_to(secret)] = secret
        return commitment_to(secret)

    def new_plan(self, draw: random.Random) -> None:
        if len(self.ledger.plans) < 4:
            self.propose_plan(draw)

    def propose_plan(self, draw: random.Random) -> None:
        colluders = draw.choice(self.COLLUDERS)
        fewest = 1 if colluders == PLAIN else colluders + 2
        rules = Rules(
            draw.choice([1, 2, 3, 4]),
            max(draw.choice([1, 1, 2, 2, 3]), fewest - (draw.random() < 0.05)),
            draw.choice(list(VerifyLevel)),
            colluders=colluders,
            min_rows=draw.choice([0, 0, 0, 2]),
            holder=draw.choice([0] * 5 + [1, 1, 1, 2]) if draw.random() < 0.97 else 9,
            reopens=draw.random() < 0.5,
            window_s=draw.choice([0, 0, 5]),
            grace_s=draw.choice([0, 2]),
            liveness_s=draw.choice([1, 20]),
            max_round_s=draw.choice([10, 600]),
            slot_s=draw.choice([1, 3, 10]),
        )
        base = draw.choice([digest(4)] * 19 + [NO_DIGEST])
        invited = draw.getrandbits(8) if draw.random() < 0.3 else 0
        until = draw.choice([0, 0, self.now + 60, self.now])
        if draw.random() < 0.9:
            invited &= self.ledger.present_members
            invited = invited if invited.bit_count() >= rules.min_peers else 0
        elif draw.random() < 0.5:
            until = draw.choice([self.now - 1, self.now + 91 * DAY])
        what = ("plan", digest(3), digest(7), base, rules, invited, until)
        self.call(self.any_key(draw), "proposePlan", *what)

    def join(self, draw: random.Random) -> None:
        for key in self.some(draw, [m.node for m in self.ledger.members.values() if m.present]):
            plan = self.some_plan(draw)
            if plan is not None:
                self.consent(draw, plan.id, key)

    def consent(self, draw: random.Random, plan: PlanId, key: Address) -> None:
        if plan in self.ledger.plans:
            self.call(key, "consent", plan, digest(3), self.terms(draw, self.ledger.plans[plan]))

    def go_away(self, draw: random.Random) -> None:
        plan = self.some_plan(draw)
        if plan is not None:
            what = draw.choice(["withdraw", "withdraw", "stop", "stop", "decline"])
            members = [m for m in self.ledger.members.values() if m.id != plan.proposer]
            if draw.random() < 0.3:
                members = self.some(draw, list(self.ledger.members.values()))
            keys = [member.account for member in members]
            for key in keys[: 2 if what == "withdraw" else None]:
                self.call(key, what, plan.id)

    def govern(self, draw: random.Random) -> None:
        """One proposal and some votes on it, or votes on an old one."""
        members = [m for m in self.ledger.members.values() if m.present]
        number = draw.randint(1, len(self.ledger.membership.proposals) + 1)
        if draw.random() < 0.6:
            kind = draw.choice(3 * [Kind.ADMIT] + 2 * [Kind.REMOVE] + [Kind.UPGRADE])
            self.made += kind is Kind.ADMIT
            arguments: tuple[Any, ...] = (NO_ADDRESS, NO_ADDRESS, "", draw.randint(0, 6), 0)
            if kind is Kind.ADMIT:
                node = address(1 + self.made % 2, self.made)
                arguments = (
                    address(1, self.made),
                    node,
                    draw.choice(
                        [f"x{self.made}"] * 12 + 3 * ["site 0"] + ["", "z" * 65, "a\u200bb"]
                    ),
                    0,
                    0,
                )
            elif kind is Kind.UPGRADE:
                height = self.real.height + draw.randint(0, 3)
                arguments = (NO_ADDRESS, NO_ADDRESS, "", draw.randint(1, 4), height)
            number = len(self.ledger.membership.proposals) + 1
            self.call(draw.choice(members).account, "propose", kind, *arguments)
        for member in members if draw.random() < 0.4 else self.some(draw, members):
            passed = self.call(member.account, "vote", number, draw.random() < 0.9) and any(
                name == "Passed" for name, _ in self.real.events
            )
            if passed and draw.random() < 0.7:
                break
        proposal = self.ledger.membership.proposals.get(number)
        if draw.random() < 0.15 and proposal is not None:
            proposer = self.ledger.members[proposal.proposer]
            self.call(draw.choice([proposer, *members[:1]]).account, "cancel", number)
        for member in list(self.ledger.members.values())[-3:]:
            self.call(member.node, "activate")
        assert self.real.validators() == self.spec.validators()

    def change_keys(self, draw: random.Random) -> None:
        fresh = self.new_key()
        node = draw.choice([fresh, fresh, NO_ADDRESS, self.any_key(draw)])
        for member in self.some(draw, list(self.ledger.members.values())):
            if draw.random() < 0.5:
                self.call(member.account, "setStandby", node)
            if draw.random() < 0.5:
                node = draw.choice([node, member.standby])
            secret = self.keys.get(node, b"\x01" * 32)
            other = draw.random() < 0.1
            self.call(member.account, "setNode", node, proof_of(secret, member.id + other))
            self.call(member.node, "setContact", draw.randbytes(draw.choice([0, 40, 512, 513])))
            node = self.new_key()
        if self.ledger.present_members.bit_count() == 1 or draw.random() < 0.2:
            self.call(self.any_key(draw), "leave")

    def new_key(self) -> Address:
        """A node key of nobody yet, which can sign."""
        self.made += 1
        secret = b"\x03" + self.made.to_bytes(31, "big")
        key = NodeKeys(secret).address
        self.keys[key] = secret
        return key

    def noise(self, draw: random.Random) -> None:
        for _ in range(draw.randint(1, 6)):
            function = draw.choice(list(ARGUMENTS))
            arguments = [self.argument(draw, kind) for kind in ARGUMENTS[function]]
            self.call(self.any_key(draw), function, *arguments)

    def argument(self, draw: random.Random, kind: str) -> Any:
        plan = self.some_plan(draw)
        current = plan.round if plan and plan.round else Round(1, 1)
        candidate = draw.choice(current.candidates) if current.candidates else None
        slip = draw.random() < 0.25
        match kind:
            case "plan":
                return PlanId(99) if slip else plan.id if plan else PlanId(1)
            case "round":
                return current.number + slip
            case "attempt":
                return max(0, current.attempt - slip)
            case "outcome":
                made_up = Outcome(digest(99), draw.getrandbits(7), draw.randint(0, 4), 1)
                return made_up if slip or not candidate else candidate.outcome
            case "terms":
                return self.terms(draw, plan)
            case "bytes":
                return draw.randbytes(draw.choice([0, 9, 600]))
            case "reasons":
                return bytes(draw.choice([*Omission, 0, 7]) for _ in range(draw.randint(0, 2)))
            case "digest":
                return draw.choice([NO_DIGEST, digest(3), digest(5)])
            case "key":
                return draw.choice(
                    [NO_ADDRESS, self.any_key(draw), address(4, draw.getrandbits(8))]
                )
            case "name":
                return draw.choice(["", "x", "y" * 64, "z" * 65, "é" * 33, "a\x00", "\u202e"])
            case "kind":
                return draw.choice(list(Kind))
            case "rules":
                return Rules(0, 1) if slip else Rules(1, 257)
            case "flag":
                return draw.random() < 0.5
            case _:
                return draw.choice([0, 1, 2, 3, 4, 50, int(kind)])

    # Choices.

    def some_plan(self, draw: random.Random) -> Plan | None:
        plans = list(self.ledger.plans.values())
        running = [p for p in plans if p.status in (PlanStatus.PROPOSED, PlanStatus.RUNNING)]
        return draw.choice(running or plans) if plans else None

    def any_key(self, draw: random.Random) -> Address:
        if draw.random() < 0.05:
            return address(9, 9)
        members = list(self.ledger.members.values())
        member = draw.choice([m for m in members if m.present] if draw.random() < 0.9 else members)
        return draw.choice([member.account, member.node])

    @staticmethod
    def some(draw: random.Random, things: list[Any]) -> list[Any]:
        return draw.sample(things, draw.randint(0, len(things)))

    @invariant()
    def both_read_the_same(self) -> None:
        if not hasattr(self, "real"):
            return
        version = self.spec.protocol_version()
        assert self.real.protocol_version() == version
        seen["version activated"] += version != self.version
        self.version = version
        if self.accepted:
            assert self.real.members() == self.spec.members()
            assert self.real.ask("presentMembers") == self.ledger.present_members
        self.accepted = False
        for plan in self.changed:
            self.check_plan(plan)
        self.changed.clear()

    def teardown(self) -> None:
        if not hasattr(self, "real"):
            return
        assert self.real.members() == self.spec.members()
        assert self.real.proposals() == self.spec.proposals()
        assert self.real.ask("planCount") == len(self.ledger.plans)
        for plan in self.ledger.plans:
            self.check_plan(plan)

    def check_plan(self, number: PlanId) -> None:
        plan = self.ledger.plans[number]
        assert self.real.plan(number) == plan
        current = plan.round
        if current is not None and current.closed_at:
            place = (number, current.number, current.attempt)
            for time in (current.closed_at, self.now, self.now + 100):
                assert self.real.ask("leaderAt", *place, time) == current.leader_at(time)


ARGUMENTS = {
    "propose": ["kind", "key", "key", "name", "255", "9"],
    "vote": ["7", "flag"],
    "cancel": ["7"],
    "setNode": ["key", "bytes"],
    "setStandby": ["key"],
    "setContact": ["bytes"],
    "activate": [],
    "retire": ["200"],
    "proposePlan": ["name", "digest", "digest", "digest", "rules", "9", "9"],
    "consent": ["plan", "digest", "terms"],
    "decline": ["plan"],
    "withdraw": ["plan"],
    "open": ["plan"],
    "checkIn": ["plan", "round", "attempt", "1001"],
    "submit": ["plan", "round", "attempt", "digest", "9", "digest", "digest", "digest", "bytes"],
    "close": ["plan", "round", "attempt"],
    "merge": ["plan", "round", "attempt", "outcome", "reasons"],
    "attest": ["plan", "round", "attempt", "outcome", "3", "digest"],
    "finalise": ["plan", "round", "attempt", "outcome"],
    "void": ["plan", "round", "attempt"],
    "masked": ["plan", "round", "attempt", "2", "digest", "bytes"],
    "good": ["plan", "round", "attempt", "9", "9"],
    "answer": ["plan", "round", "attempt", "2", "7", "bytes"],
    "nextEpoch": ["plan", "round", "attempt"],
    "unmask": ["plan", "round", "attempt", "9", "bytes"],
    "abandon": ["plan", "round", "attempt"],
    "renewKey": ["plan", "round", "attempt", "digest"],
}
"""Arguments of the noise, by kind; a number is the largest of some."""


class MaskedConsortium(Consortium):
    """The same where updates are masked."""

    COLLUDERS = (PLAIN, 0, 0, 0, 1)
    GOES_ON = 150


@pytest.mark.parametrize(("kind", "walks"), [(Consortium, 20), (MaskedConsortium, 15)])
def test_contract_and_specification_never_differ(kind: type[Consortium], walks: int) -> None:
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=16 * walks if is_whole() else walks,
            stateful_step_count=40,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_sequences_reach_nearly_every_error_and_transition() -> None:
    assert seen, "runs after test_contract_and_specification_never_differ"
    for what, times in sorted(seen.items()):
        print(f"{times:6} {what}")
    errors = {entry.name for entry in contract.interface().errors.values()}
    wanted = {f"! {name}" for name in errors - set(UNREACHABLE_ERRORS)} | TRANSITIONS
    missing = {name for name in wanted if not seen[name]}
    # The walk is another one with every change: Hypothesis tries constants that it finds in the
    # modules that are loaded. Each of the rarest has a named test of its own.
    assert len(missing) <= len(wanted) // (20 if is_whole() else 5), missing
