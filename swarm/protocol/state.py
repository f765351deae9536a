"""What the chain says, as plain records: members, plans, and the round that is under way.

The same records hold the state of the executable specification (`ledger`) and what the contract
client decodes from a real chain, so the round machine reads one shape in simulation and in life.

Sets of members are integers (bit i = member i), exactly as in the contract: a member's removal or
withdrawal then takes effect everywhere at once, without a loop.
All times are chain time, in whole seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum, IntFlag
from typing import TypeAlias

from swarm.protocol.election import holder_of, leader_of_slot, slot_start, slots_elapsed
from swarm.protocol.masking import Masking
from swarm.types import NO_ADDRESS, NO_DIGEST, Address, Digest, MemberId, PlanId

MAX_MEMBERS = 256
SLOTS = 4
"""Outputs of a plan: the model, statistics, the best model, gathered rows."""
MODEL_SLOT, STATISTICS_SLOT, BEST_SLOT, GATHERED_SLOT = range(SLOTS)
PLAIN = 255
"""`Rules.colluders` of a plan whose updates are not masked."""
MOST_SAMPLES = 2**45 - 1
"""Of one member: the sum over all members stays far below what a merge can weigh exactly."""
NO_ROLE, DRAWN, FIRST_NAMED = 0, 1, 2
"""`Rules.holder`: no role; whoever is drawn at each opening; FIRST_NAMED + m: member m."""

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
    MASKING = 5
    LOCKED = 6


UNDER_WAY = (RoundStatus.OPEN, RoundStatus.CLOSED, RoundStatus.MASKING, RoundStatus.LOCKED)
"""What a plan opens no other round beside."""


class Duty(IntFlag):
    """What a member does in a plan."""

    TRAIN = 1
    HOLD = 2
    """May hold the plan's role, if it has one."""
    TEST = 4


class Omission(IntEnum):
    """Why a leader left a frozen update out of its merge."""

    UNREACHABLE = 1
    WRONG_DIGEST = 2
    WRONG_SCHEMA = 3
    NOT_FINITE = 4
    WITHDRAWN = 5
    NOT_ITS_OWN = 6
    """Another's, by what the update says of itself."""


@dataclass(frozen=True)
class Rules:
    """A plan's rules, as the contract enforces them. Counts and whole seconds."""

    rounds: int
    """Number of the last round: a cap over all stages, which are numbered through from 1."""
    min_peers: int
    """Submissions without which nothing is merged."""
    verify_level: VerifyLevel = VerifyLevel.FULL
    colluders: int = PLAIN
    """How many curious members masked updates withstand; 255: updates are not masked."""
    min_rows: int = 0
    """The fewest training rows with which a site may train."""
    holder: int = NO_ROLE
    """Who holds the plan's role: 0 nobody, 1 whoever is drawn at each opening, 2 + m member m."""
    reopens: bool = False
    """Whether it may open masked sums over a base that another plan has locked already."""
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
    standby: Address = NO_ADDRESS
    """A second node, which synchronises and may be made the node; nothing else."""
    contact: bytes = b""
    """The node's signed addresses, as it stated them last."""
    contact_at: int = 0


@dataclass(frozen=True)
class Terms:
    """What a member consents with."""

    duties: int
    """`Duty` flags; at least one."""
    max_samples: int
    """The most samples that it will ever claim; 0 without TRAIN."""
    permit: Digest = NO_DIGEST
    """A salted digest of what allows it to take part."""
    until: int = 0
    """Chain time after which the consent counts as withdrawn at the next opening; 0: never."""
    commitment: Digest = NO_DIGEST
    """To the secret that its first submission will reveal."""
    receiving_key: Digest = NO_DIGEST
    """The public key to which shares are sealed from the next attempt on, in masked rounds."""
    meta: Digest = NO_DIGEST


@dataclass
class Consent:
    """A member's consent to one plan."""

    member: MemberId
    duties: int
    max_samples: int
    commitment: Digest
    committed_round: int = 0
    committed_attempt: int = 0
    """Where `commitment` was made (0, 0: before the first round), so that its secret can be
    derived. A consent in mid-plan has a place, too, or it would use a revealed secret again."""
    seen_at: int = 0
    until: int = 0
    permit: Digest = NO_DIGEST
    receiving_key: Digest = NO_DIGEST
    """To which its shares are sealed in the current attempt of a masked round; zero: it has no key
    that counts, and gets none."""
    meta: Digest = NO_DIGEST
    next_receiving_key: Digest = NO_DIGEST
    """Brought in the current attempt, for the next."""


@dataclass
class Submission:
    member: MemberId
    update: Digest
    samples: int
    meta: Digest
    revealed: bool
    keys: bytes = b""
    """What a masked round needs of it (`masking.Keys`)."""


@dataclass(frozen=True)
class Outcome:
    """What a round is to end with, and what is voted on: attestations count only for one that is
    equal in every field."""

    model: Digest
    omitted: MemberSet
    slot: int = MODEL_SLOT
    """The plan's output that `model` becomes."""
    next: int = 1
    """The stage of the round that follows; 0 completes the plan."""


@dataclass
class Candidate:
    """A posted merge. Several may stand at once; the first that a majority attests is final."""

    leader: MemberId
    outcome: Outcome
    attesters: MemberSet
    posted_at: int
    reasons: bytes = b""

    @property
    def model(self) -> Digest:
        return self.outcome.model

    @property
    def omitted(self) -> MemberSet:
        return self.outcome.omitted


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
    stage: int = 1
    """Which of the program's stages it belongs to, counted from 1."""
    trainers: MemberSet = 0
    """Of the roster, those who train: only they submit, and are waited for."""
    holder: MemberId | None = None
    """Who holds the plan's role in this attempt."""
    epoch: int = 0
    """The masking epoch; 0 in plain rounds."""
    masking: Masking | None = None
    """What a masked round has more, from its close on."""
    behind: MemberSet = 0
    """Who was left behind when a masked attempt was given up: others go first in the next."""
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

    def candidate(self, outcome: Outcome) -> Candidate | None:
        """The posted merge with exactly this outcome."""
        return next((c for c in self.candidates if c.outcome == outcome), None)


@dataclass
class Plan:
    """One training plan, its participants, and where it stands."""

    id: PlanId
    proposer: MemberId
    name: str
    digest: Digest
    """Of the plan's code."""
    program: Digest
    """Of its stages and folds (`protocol.program`)."""
    base: Digest
    """The model that training starts from."""
    rules: Rules
    status: PlanStatus = PlanStatus.PROPOSED
    participants: MemberSet = 0
    consents: dict[MemberId, Consent] = field(default_factory=dict)
    invited: MemberSet = 0
    invited_only: bool = False
    """Whether the others may not take part."""
    declined: MemberSet = 0
    until: int = 0
    """How long the invited may decide: then the first round waits for nobody's answer any more."""
    stop_votes: MemberSet = 0
    outputs: tuple[Digest, ...] = (NO_DIGEST,) * SLOTS
    """By slot: the newest final model (`base` before the first), statistics, the best model,
    gathered rows."""
    output_rounds: tuple[int, ...] = (0,) * SLOTS
    """The rounds that made them; 0: none."""
    stage: int = 1
    """The stage of the next round that is not a further attempt."""
    seed: Digest = NO_DIGEST
    merge_s: int = 0
    """Recent seconds from close to the round's end, smoothed: what leader slots are cut from."""
    round: Round | None = None
    spoiled: MemberSet = 0
    """Whose sum was opened and was spoiled: exactly these train in the next attempt."""

    @property
    def place(self) -> tuple[int, int]:
        """(round, attempt) of what runs or ran last; (0, 0) before the first round. A consent's
        commitment is made here."""
        return (0, 0) if self.round is None else (self.round.number, self.round.attempt)

    @property
    def is_masked(self) -> bool:
        """Whether only sums of its updates come out."""
        return self.rules.colluders != PLAIN

    @property
    def model(self) -> Digest:
        """The newest final model; `base` before the first."""
        return self.outputs[MODEL_SLOT]

    @property
    def model_round(self) -> int:
        """The round that made `model`; 0 for `base`."""
        return self.output_rounds[MODEL_SLOT]

    @property
    def statistics(self) -> Digest:
        return self.outputs[STATISTICS_SLOT]

    @property
    def result(self) -> Digest:
        """The model that people are to have: the best where the plan has chosen one, or the
        newest."""
        best = self.outputs[BEST_SLOT]
        return self.model if best == NO_DIGEST else best

    def take_output(self, round: int, outcome: Outcome) -> None:
        """Note what a round has ended with."""
        outputs, rounds = list(self.outputs), list(self.output_rounds)
        outputs[outcome.slot], rounds[outcome.slot] = outcome.model, round
        self.outputs, self.output_rounds = tuple(outputs), tuple(rounds)
        self.stage = outcome.next or self.stage

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
    """Live trainers that have not submitted: the ones that an open round waits for."""
    missing = present_in(round, members) & round.trainers & ~round.submitted
    return member_set(m for m in members_in(missing) if now <= plan.live_until(m, round))


def has_majority(round: Round, candidate: Candidate, members: MemberSet) -> bool:
    """Whether more than half of the remaining frozen submitters attested `candidate`; in masked
    rounds, enough contributors, or more than half of the opening roster: nobody's leaving changes
    what is counted there."""
    if round.masking is not None:
        votes = candidate.attesters & masked_voters(round, round.masking)
        return votes.bit_count() >= masked_votes_needed(round, round.masking)
    voters = submitters(round, members)
    return (candidate.attesters & voters).bit_count() >= majority(voters.bit_count())


def masked_voters(round: Round, masking: Masking) -> MemberSet:
    """Who votes: the contributors on their masked sum, then the opening roster on the model."""
    return masking.contributors if masking.sum == NO_DIGEST else round.roster


def masked_votes_needed(round: Round, masking: Masking) -> int:
    """How many of them decide."""
    if masking.sum == NO_DIGEST:
        return masking.votes_needed
    return majority(round.roster.bit_count())


def mask_deadline(plan: Plan, round: Round) -> int:
    """Chain time from which those who have not posted their masked updates are left behind."""
    assert round.masking is not None
    return round.masking.began_at + max(plan.rules.liveness_s, 2 * round.slot_s)


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


def is_holder_silent(plan: Plan, round: Round, members: MemberSet, now: int) -> bool:
    """Whether the role's holder has gone, or has sent nothing for the liveness interval."""
    if round.holder is None:
        return False
    gone = not present_in(round, members) & (1 << round.holder)
    return gone or now > holder_live_until(plan, round)


def holder_live_until(plan: Plan, round: Round) -> int:
    """Chain time until which the role's holder counts as live: the liveness interval after its last
    transaction, or after it became the holder, since nobody is held to have been silent before."""
    assert round.holder is not None
    return max(plan.consents[round.holder].seen_at, round.opened_at) + plan.rules.liveness_s


def may_void(plan: Plan, round: Round, members: MemberSet, now: int) -> bool:
    """Whether `void()` would be accepted at chain time `now`."""
    rules = plan.rules
    too_few = submitters(round, members).bit_count() < rules.min_peers
    if round.status is RoundStatus.OPEN:
        if (present_in(round, members) & round.trainers).bit_count() < rules.min_peers:
            return True
        if is_holder_silent(plan, round, members, now):
            return True
        return too_few and now >= round.opened_at + rules.max_round_s
    if round.status is RoundStatus.CLOSED:
        return (too_few and not round.candidates) or now >= round.voidable_at
    if round.status is RoundStatus.MASKING and round.masking is not None:
        return round.masking.may_lock() and now >= round.voidable_at
    return False


def expired(plan: Plan, now: int) -> MemberSet:
    """The participants whose consents have ended: the next opening counts them as withdrawn."""
    consents = (plan.consents[m] for m in members_in(plan.participants))
    return member_set(c.member for c in consents if c.until and now > c.until)


def willing_with(plan: Plan, duty: Duty, members: MemberSet, now: int) -> MemberSet:
    """The present participants with this duty and a consent that has not ended."""
    willing = plan.participants & members & ~expired(plan, now)
    return member_set(m for m in members_in(willing) if plan.consents[m].duties & duty)


def undecided(plan: Plan, members: MemberSet) -> MemberSet:
    """The invited that have neither consented nor declined: the first round waits for them."""
    return plan.invited & members & ~plan.participants & ~plan.declined


def waited_for(plan: Plan, members: MemberSet, now: int) -> MemberSet:
    """Those whose answer, update or merge comes next, for people to see."""
    round = plan.round
    if plan.status is PlanStatus.PROPOSED:
        return undecided(plan, members) if now < plan.until else 0
    if plan.status is not PlanStatus.RUNNING or round is None:
        return 0
    if round.status is RoundStatus.OPEN:
        return pending(plan, round, members, now)
    if round.status is RoundStatus.CLOSED and round.eligible:
        return 1 << round.leader_at(now)
    if round.masking is not None and round.status in (RoundStatus.MASKING, RoundStatus.LOCKED):
        return _awaited_in(plan, round, round.masking, present_in(round, members))
    return 0


def _awaited_in(plan: Plan, round: Round, masking: Masking, present: MemberSet) -> MemberSet:
    """Whose masked update, shares or vote a masked round waits for."""
    keyed = member_set(
        i for i in members_in(round.roster) if plan.consents[i].receiving_key != NO_DIGEST
    )
    if round.status is RoundStatus.LOCKED and len(masking.opened) < masking.needed:
        return keyed & ~member_set(masking.opened)
    if round.status is RoundStatus.MASKING and not masking.is_complete:
        return masking.contributors & ~member_set(masking.posted)
    if round.status is RoundStatus.MASKING and not masking.may_lock():
        return keyed & present & ~member_set(masking.good)
    voted = [candidate.attesters for candidate in round.candidates]
    return masked_voters(round, masking) & ~max(voted, key=int.bit_count, default=0)


def holders(plan: Plan, members: MemberSet, now: int) -> MemberSet:
    """Those who may be given the plan's role at an opening at `now`."""
    if plan.rules.holder == NO_ROLE:
        return 0
    willing = willing_with(plan, Duty.HOLD, members, now)
    named = willing if plan.rules.holder == DRAWN else 1 << (plan.rules.holder - FIRST_NAMED)
    return willing & named


def holder_at(plan: Plan, number: int, attempt: int, candidates: MemberSet) -> MemberId | None:
    """Who of these is given the role in this attempt; None where there is no role."""
    chosen = tuple(members_in(candidates))
    return holder_of(chosen, plan.seed, number, attempt) if chosen else None


def may_open(plan: Plan, members: MemberSet, now: int) -> bool:
    """Whether `open()` would be accepted at chain time `now`.

    Every opening needs enough willing trainers, and somebody to hold the role if there is one. The
    first waits until nobody invited is undecided, or until the invitation has ended.
    """
    if plan.status not in (PlanStatus.PROPOSED, PlanStatus.RUNNING):
        return False
    if plan.round is not None and plan.round.status in UNDER_WAY:
        return False
    trainers = willing_with(plan, Duty.TRAIN, members, now)
    if trainers.bit_count() < plan.rules.min_peers or plan.spoiled & ~trainers:
        return False
    if plan.rules.holder != NO_ROLE and not holders(plan, members, now):
        return False
    if plan.status is PlanStatus.RUNNING:
        return True
    return not undecided(plan, members) or now >= plan.until


def opened(plan: Plan, members: MemberSet, now: int) -> Plan:
    """The plan with its next attempt or round open, where `may_open` holds.

    Consents that have ended are withdrawn by it.
    """
    previous = plan.round
    if previous is None:
        number, attempt, stage = 1, 1, plan.stage
    elif previous.status is RoundStatus.VOID:
        number, attempt, stage = previous.number, previous.attempt + 1, previous.stage
    else:
        number, attempt, stage = previous.number + 1, 1, plan.stage
    participants = plan.participants & ~expired(plan, now)
    trainers = willing_with(plan, Duty.TRAIN, members, now)
    if previous is not None and previous.status is RoundStatus.VOID:
        punctual = trainers & ~previous.behind
        trainers = punctual if punctual.bit_count() >= plan.rules.min_peers else trainers
    round = Round(
        number,
        attempt,
        RoundStatus.OPEN,
        now,
        0 if previous is None else previous.opened_at,
        plan.model,
        participants & members,
        stage,
        plan.spoiled or trainers,
        holder_at(plan, number, attempt, holders(plan, members, now)),
    )
    consents = with_next_keys(plan)
    return replace(
        plan, status=PlanStatus.RUNNING, participants=participants, consents=consents, round=round
    )


def with_next_keys(plan: Plan) -> dict[MemberId, Consent]:
    """The consents of a plan in the attempt after its current one. Shares are sealed to what was
    brought before it. A key counts in one attempt that is masked, and never again: a member that
    brought no other has none."""
    was_masked = plan.round is not None and plan.round.masking is not None
    turned = {}
    for member, consent in plan.consents.items():
        key = consent.next_receiving_key
        if key == NO_DIGEST and not was_masked:
            key = consent.receiving_key
        turned[member] = replace(consent, receiving_key=key, next_receiving_key=NO_DIGEST)
    return turned


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
