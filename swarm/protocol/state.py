"""What the chain says, as plain records: members, plans, and the round that is under way.

The same records hold the state of the executable specification (`ledger`) and what the contract
client decodes from a real chain, so the round machine reads one shape in simulation and in life.

Sets of members are integers (bit i = member i), exactly as in the contract: a member's removal or
withdrawal then takes effect everywhere at once, without a loop.
All times are chain time, in whole seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias

from swarm.protocol.election import leader_of_slot, slot_start, slots_elapsed
from swarm.types import NO_DIGEST, Address, Digest, MemberId, PlanId

MAX_MEMBERS = 256


MemberSet: TypeAlias = int
"""Which members: bit i stands for member i."""


def members_in(members: MemberSet) -> Iterator[MemberId]:
    """The members of a set, in member order."""
    while members:
        lowest = members & -members
        yield MemberId(lowest.bit_length() - 1)
        members ^= lowest


def member_set(members: Iterable[int]) -> MemberSet:
    """The set that holds these members."""
    found = 0
    for member in members:
        found |= 1 << member
    return found


class VerifyLevel(IntEnum):
    """What a member has checked when it attests (blueprint, section 3)."""

    HELD = 1
    """Holds the model: root, schema and finite values checked."""
    SHARED = 2
    """Recomputed the chunks that were drawn for it (`protocol.rechecks`)."""
    FULL = 3
    """Recomputed every chunk."""


class PlanStatus(IntEnum):
    NONE = 0
    PROPOSED = 1
    RUNNING = 2
    COMPLETED = 3
    STOPPED = 4


class RoundStatus(IntEnum):
    NONE = 0
    OPEN = 1
    CLOSED = 2
    FINAL = 3
    VOID = 4


class Omission(IntEnum):
    """Why a leader left a frozen update out of its merge."""

    UNREACHABLE = 1
    WRONG_DIGEST = 2
    WRONG_SCHEMA = 3
    NOT_FINITE = 4
    WITHDRAWN = 5


@dataclass(frozen=True)
class Rules:
    """A plan's rules, as the contract enforces them. Counts and whole seconds."""

    rounds: int
    """Number of the last round; training rounds are 1..rounds."""
    statistics_round: bool
    """Whether a round 0 comes first, in which statistics are merged by sum."""
    min_peers: int
    """Submissions without which nothing is merged."""
    verify_level: VerifyLevel = VerifyLevel.FULL
    consent_s: int = 60
    """How long after the min_peers-th consent the first round still waits for other members."""
    window_s: int = 0
    """Nobody but the completing submit may close before this much of the round has run."""
    grace_s: int = 2
    """How long after the min_peers-th submission the others are still let in."""
    liveness_s: int = 20
    """A participant counts as live for this long after its last transaction."""
    max_round_s: int = 3600
    """A live participant is waited for until then, and no longer."""
    slot_s: int = 3
    """The shortest time that a leader is given."""


@dataclass
class Member:
    id: MemberId
    account: Address
    node: Address
    name: str
    present: bool = True
    """False once removed or left; the record and its number stay."""
    endorsed: bool = True
    """Whether two thirds of the members back it as a validator; founders are."""
    validator: bool = False
    seen_at: int = 0


@dataclass
class Consent:
    """A member's consent to one plan."""

    member: MemberId
    max_samples: int
    commitment: Digest
    committed_round: int = 0
    committed_attempt: int = 0
    """Where `commitment` was made (0, 0: before the first round), so that its secret can be
    derived. A consent in mid-plan has a place, too, or it would use a revealed secret again."""
    seen_at: int = 0


@dataclass
class Submission:
    member: MemberId
    update: Digest
    samples: int
    meta: Digest
    revealed: bool


@dataclass
class Candidate:
    """A posted merge. Several may stand at once; the first that a majority attests is final."""

    leader: MemberId
    model: Digest
    omitted: MemberSet
    attesters: MemberSet
    posted_at: int
    reasons: bytes = b""


def member_with_node(members: Mapping[MemberId, Member], node: Address) -> Member | None:
    """The member whose node this is now: one that left and came back has another number."""
    return next((m for m in members.values() if m.node == node and m.present), None)


@dataclass
class Round:
    """One attempt at one round. `number` and `attempt` count from the plan's first round and 1."""

    number: int
    attempt: int
    status: RoundStatus = RoundStatus.NONE
    opened_at: int = 0
    credit_from: int = 0
    """Participants seen since then (when the attempt before was opened) count as live at the
    opening, however long ago that was; those silent throughout it are not waited for."""
    base: Digest = NO_DIGEST
    roster: MemberSet = 0
    left: MemberSet = 0
    """Roster members that withdrew while the round ran."""
    submitted: MemberSet = 0
    revealed: MemberSet = 0
    reveals_xor: int = 0
    min_peers_at: int = 0
    """When the min_peers-th submission came; 0 before."""
    closed_at: int = 0
    seed: Digest = NO_DIGEST
    slot_s: int = 0
    eligible: tuple[MemberId, ...] = ()
    submissions: dict[MemberId, Submission] = field(default_factory=dict)
    candidates: list[Candidate] = field(default_factory=list)

    def slot_at(self, now: int) -> int:
        """Number of the leader slot at chain time `now`; slot 0 begins at the close."""
        return slots_elapsed(max(0, now - self.closed_at), self.slot_s, len(self.eligible))

    def leader_at(self, now: int) -> MemberId:
        """The leader at chain time `now` (the contract's `leaderAt`)."""
        return leader_of_slot(self.eligible, self.seed, self.slot_at(now))

    def first_slot_of(self, member: MemberId) -> int | None:
        """The first slot in which `member` leads; None if it is not eligible."""
        if member not in self.eligible:
            return None
        start = int.from_bytes(self.seed, "big")
        return (self.eligible.index(member) - start) % len(self.eligible)

    def slot_begins_at(self, slot: int) -> int:
        """Chain time at which `slot` begins."""
        return self.closed_at + slot_start(slot, self.slot_s, len(self.eligible))

    @property
    def voidable_at(self) -> int:
        """Chain time from which two leader cycles without a final model may be voided."""
        return self.slot_begins_at(2 * len(self.eligible))

    def candidate(self, model: Digest, omitted: MemberSet) -> Candidate | None:
        """The posted merge with exactly this model and these omissions."""
        for candidate in self.candidates:
            if candidate.model == model and candidate.omitted == omitted:
                return candidate
        return None


@dataclass
class Plan:
    """One training plan, its participants, and where it stands."""

    id: PlanId
    proposer: MemberId
    name: str
    digest: Digest
    model0: Digest
    workflow: Digest
    workflow_version: int
    merge: Digest
    rules: Rules
    status: PlanStatus = PlanStatus.PROPOSED
    participants: MemberSet = 0
    consents: dict[MemberId, Consent] = field(default_factory=dict)
    min_consents_at: int = 0
    stop_votes: MemberSet = 0
    statistics: Digest = NO_DIGEST
    model: Digest = NO_DIGEST
    """The newest final model; `model0` before the first."""
    model_round: int = 0
    """The round that made `model`; 0 for model0."""
    seed: Digest = NO_DIGEST
    merge_s: int = 0
    """Recent seconds from close to the round's end, smoothed: what leader slots are cut from."""
    round: Round | None = None

    @property
    def place(self) -> tuple[int, int]:
        """(round, attempt) of what runs or ran last; (0, 0) before the first round. A consent's
        commitment is made here."""
        return (0, 0) if self.round is None else (self.round.number, self.round.attempt)

    def live_until(self, member: MemberId, round: Round) -> int:
        """Chain time until which `member` counts as live: the liveness interval after its last
        transaction, or after the opening if it was seen in the attempt before."""
        seen_at = self.consents[member].seen_at
        if seen_at >= round.credit_from:
            seen_at = max(seen_at, round.opened_at)
        return seen_at + self.rules.liveness_s


def majority(voters: int) -> int:
    """More than half of `voters`."""
    return voters // 2 + 1


def two_thirds(voters: int) -> int:
    """Two thirds of `voters`, rounded up."""
    return -(-2 * voters // 3)


def present_in(round: Round, members: MemberSet) -> MemberSet:
    """Those of the roster who neither withdrew from the plan nor ceased to be members."""
    return round.roster & ~round.left & members


def submitters(round: Round, members: MemberSet) -> MemberSet:
    """The submitters that count now: once closed, these are the frozen submitters that remain."""
    return round.submitted & present_in(round, members)


def contributors(round: Round, omitted: MemberSet) -> MemberSet:
    """Whose updates a merge with these omissions contains."""
    return round.submitted & ~omitted


def pending(plan: Plan, round: Round, members: MemberSet, now: int) -> MemberSet:
    """Live roster members that have not submitted: the ones that an open round waits for."""
    missing = present_in(round, members) & ~round.submitted
    return member_set(m for m in members_in(missing) if now <= plan.live_until(m, round))


def has_majority(round: Round, candidate: Candidate, members: MemberSet) -> bool:
    """Whether more than half of the remaining frozen submitters attested `candidate`."""
    voters = submitters(round, members)
    return (candidate.attesters & voters).bit_count() >= majority(voters.bit_count())


def may_close(plan: Plan, round: Round, members: MemberSet, now: int) -> bool:
    """Whether `close()` would be accepted at chain time `now`."""
    rules = plan.rules
    return (
        round.status is RoundStatus.OPEN
        and submitters(round, members).bit_count() >= rules.min_peers
        and now >= round.opened_at + rules.window_s
        and now >= round.min_peers_at + rules.grace_s
        and (not pending(plan, round, members, now) or now >= round.opened_at + rules.max_round_s)
    )


def may_void(plan: Plan, round: Round, members: MemberSet, now: int) -> bool:
    """Whether `void()` would be accepted at chain time `now`."""
    rules = plan.rules
    if round.status is RoundStatus.OPEN:
        if present_in(round, members).bit_count() < rules.min_peers:
            return True
        too_few = submitters(round, members).bit_count() < rules.min_peers
        return too_few and now >= round.opened_at + rules.max_round_s
    if round.status is RoundStatus.CLOSED:
        too_few = submitters(round, members).bit_count() < rules.min_peers
        return (too_few and not round.candidates) or now >= round.voidable_at
    return False


def may_open(plan: Plan, members: MemberSet, now: int) -> bool:
    """Whether `open()` would be accepted at chain time `now`.

    The first round waits until every member has consented, or for `consent_s` after the
    min_peers-th consent; later ones only for enough participants.
    """
    if plan.status not in (PlanStatus.PROPOSED, PlanStatus.RUNNING):
        return False
    if plan.round is not None and plan.round.status in (RoundStatus.OPEN, RoundStatus.CLOSED):
        return False
    willing = plan.participants & members
    if willing.bit_count() < plan.rules.min_peers:
        return False
    if plan.status is PlanStatus.RUNNING or willing == members:
        return True
    return now >= plan.min_consents_at + plan.rules.consent_s


def merge_seconds(before_s: int, took_s: int, slot_s: int) -> int:
    """A plan's `merge_s` after one more merge, or attempt at one.

    From the beginning of the slot of the leader whose merge it is: the slots of leaders that died
    before it say nothing about merges, and would widen the next ones with each death. Half of the
    newest, half of the past: one slow merge widens the slots, none widens them for ever. Rounded
    up, or a merge of one second would count as none. A void counts too, or merges that need longer
    than two cycles would never fit; and never more than a slot, which doubles the next one: an
    outage of hours does not make slots of hours.
    """
    return min((before_s + took_s + 1) // 2, slot_s)


def winner(round: Round, members: MemberSet) -> Candidate | None:
    """The candidate that made a final round final."""
    if round.status is not RoundStatus.FINAL:
        return None
    return next((c for c in round.candidates if has_majority(round, c, members)), None)
