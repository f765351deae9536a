"""What one node does about a masked round, from its close to its end: a table, and nothing else.

`wanted` compares what the chain says with what this node holds, and gives what should be done about
the difference: as in `machine`, nothing depends on having seen what was before. A rule of the table
is a function of a `View`; what a node holds is its `Holdings`, which hands fill from the vault and
from their own work. The rules behind the table are in docs/decisions/0019-secure-rounds.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from swarm.protocol.masking import SHARE_BYTES, Masking, unanswered
from swarm.protocol.state import (
    Candidate,
    MemberSet,
    Outcome,
    Plan,
    Round,
    RoundStatus,
    VerifyLevel,
    mask_deadline,
    masked_voters,
    may_void,
    member_set,
    members_in,
    present_in,
)
from swarm.types import NO_DIGEST, Digest, MemberId

Attempt = tuple[int, int]
"""(round, attempt)"""
NO_SHARE = bytes(SHARE_BYTES)
"""In the place of a share that this node does not have."""


# Commands. Each ends with something in `Holdings`, sooner or later.


@dataclass(frozen=True)
class Deal:
    """Take the keys of this attempt out of the vault, or draw them and put them there, durably;
    make the envelope."""

    attempt: Attempt


@dataclass(frozen=True)
class Recall:
    """Take out of the vault what it has of this attempt: after a restart, say. If that is nothing,
    the keys are empty from here on: never new ones, once some were submitted."""

    attempt: Attempt


@dataclass(frozen=True)
class DrawKey:
    """Take the receiving key for the next attempt out of the vault, or draw it and put it there,
    durably."""

    attempt: Attempt


@dataclass(frozen=True)
class CheckShares:
    """Pull these dealers' envelopes and open this node's shares: each is good or wrong. An envelope
    that cannot be pulled, or does not hash to what the chain says, is neither."""

    attempt: Attempt
    dealers: MemberSet


@dataclass(frozen=True)
class CheckAnswer:
    """Check a published share against its dealer's commitments."""

    attempt: Attempt
    epoch: int
    dealer: MemberId
    complainant: MemberId
    share: bytes


@dataclass(frozen=True)
class FindAnswer:
    """Take the share of a complainant out of this node's own dealing."""

    attempt: Attempt
    epoch: int
    complainant: MemberId


@dataclass(frozen=True)
class Mask:
    """Mask this site's update among these contributors, once for an epoch: keep durably what it was
    masked for before anyone gets it."""

    attempt: Attempt
    epoch: int
    contributors: MemberSet


@dataclass(frozen=True)
class AddUp:
    """Pull these masked updates, and add them."""

    attempt: Attempt
    epoch: int
    posted: Mapping[MemberId, Digest]


@dataclass(frozen=True)
class HoldSum:
    """Pull the file of a sum that `leader` has added up of these contributors' masked updates."""

    attempt: Attempt
    epoch: int
    total: Digest
    leader: MemberId
    contributors: MemberSet


@dataclass(frozen=True)
class FindReveal:
    """Write down durably whose sum is opened for this base and slot, unless that of others was;
    then take this node's shares of the owners' self masks out of the vault."""

    attempt: Attempt
    epoch: int
    owners: MemberSet
    base: Digest
    slot: int
    answers: Mapping[tuple[int, MemberId, MemberId], bytes]
    """Published shares, for those that were wrong in the envelope."""


@dataclass(frozen=True)
class OpenSum:
    """Check these reveals; with enough good ones for each owner, take the masks off the sum."""

    attempt: Attempt
    epoch: int
    total: Digest
    owners: MemberSet
    reveals: Mapping[MemberId, bytes]


@dataclass(frozen=True)
class Send:
    """A transaction of the contract; its arguments after plan, round and attempt."""

    function: str
    arguments: tuple[object, ...] = ()


Work = (
    Deal
    | Recall
    | DrawKey
    | CheckShares
    | CheckAnswer
    | FindAnswer
    | Mask
    | AddUp
    | HoldSum
    | FindReveal
    | OpenSum
)
Command = Work | Send


@dataclass(frozen=True)
class MaskedUpdate:
    """What this node has masked in an epoch."""

    contributors: MemberSet
    digest: Digest
    codes: bytes


@dataclass
class Holdings:
    """What a node holds for the masked rounds of one plan, as far as its decisions need it."""

    keys: dict[Attempt, bytes] = field(default_factory=dict)
    """What it submitted or is to submit, as the vault has it."""
    next_keys: dict[Attempt, Digest] = field(default_factory=dict)
    """The receiving key that it brings in an attempt, for the next."""
    good: dict[Attempt, MemberSet] = field(default_factory=dict)
    wrong: dict[Attempt, MemberSet] = field(default_factory=dict)
    """Dealers by what this node's shares are."""
    answers: dict[tuple[Attempt, int, MemberId, MemberId], bool] = field(default_factory=dict)
    """Published shares, by attempt, epoch, dealer and complainant: whether they are right."""
    own_shares: dict[tuple[Attempt, int, MemberId], bytes] = field(default_factory=dict)
    """Shares that this node dealt and has to publish, by attempt, epoch and complainant."""
    masked: dict[tuple[Attempt, int], MaskedUpdate] = field(default_factory=dict)
    sums: dict[tuple[Attempt, int], Digest] = field(default_factory=dict)
    """What this node has added up itself."""
    pulled_sums: set[tuple[Attempt, int, Digest]] = field(default_factory=set)
    """What others have, where the plan has members hold a merge and not recompute it."""
    reveals: dict[Attempt, bytes] = field(default_factory=dict)
    models: dict[Attempt, Digest] = field(default_factory=dict)
    """What came out; zero where the sum was spoiled."""


@dataclass(frozen=True)
class View:
    """One look at one masked round."""

    plan: Plan
    round: Round
    members: MemberSet
    me: MemberId
    held: Holdings
    slot: int
    next: int
    """What the program says of the round: the output that it makes, and the stage after it."""
    now: int
    announced: tuple[Candidate, ...] = ()
    """Leaders' merges that wait for a block: an attestation may wait with them."""

    @property
    def masking(self) -> Masking:
        """Raises AssertionError before the close."""
        assert self.round.masking is not None
        return self.round.masking

    @property
    def attempt(self) -> Attempt:
        return (self.round.number, self.round.attempt)

    def has(self, members: MemberSet) -> bool:
        """Whether this node is among them."""
        return bool(members >> self.me & 1)

    @property
    def keyed(self) -> MemberSet:
        """Those of the roster to whom dealers can seal shares."""
        consents = self.plan.consents
        return member_set(
            i for i in members_in(self.round.roster) if consents[i].receiving_key != NO_DIGEST
        )

    @property
    def recomputes(self) -> bool:
        """Whether every member adds the masked updates up itself; otherwise leaders do, and all
        others hold the file of their sum."""
        return self.plan.rules.verify_level is not VerifyLevel.HELD

    def holds(self, total: Digest) -> bool:
        """Whether this node has this sum of the epoch."""
        here, epoch = self.attempt, self.masking.epoch
        own = self.held.sums.get((here, epoch))
        return total == own or (here, epoch, total) in self.held.pulled_sums

    @property
    def turn(self) -> int:
        """Seconds that this node lets earlier members go first with what anyone may send."""
        return (self.plan.participants & ((1 << self.me) - 1)).bit_count()


Rule = Callable[[View], Iterator[Command]]


# Before the close.


def deal(view: View) -> Iterator[Command]:
    """Have keys by the time that the update is ready."""
    waiting = view.round.trainers & ~view.round.submitted
    if view.has(waiting) and view.attempt not in view.held.keys:
        yield Deal(view.attempt)


# Until the attempt is over.


def renew_key(view: View) -> Iterator[Command]:
    """Bring the next receiving key, if no submission does: what was sealed to this attempt's key
    must be nobody's once the attempt is over, so that key counts never again."""
    round, here = view.round, view.attempt
    submits = round.trainers if round.status is RoundStatus.OPEN else 0
    if not view.has(present_in(round, view.members) & ~submits):
        return
    if view.plan.consents[view.me].next_receiving_key != NO_DIGEST:
        return
    key = view.held.next_keys.get(here)
    if key is None:
        yield DrawKey(here)
    else:
        yield Send("renewKey", (key,))


# Until a sum is locked.


def recall(view: View) -> Iterator[Command]:
    """Know after a restart what was done before it."""
    if view.me in view.round.submissions and view.attempt not in view.held.keys:
        yield Recall(view.attempt)


def judge_dealers(view: View) -> Iterator[Command]:
    """Call good who dealt well and answered every complaint; complain of wrong shares."""
    masking, held, here = view.masking, view.held, view.attempt
    if not view.has(present_in(view.round, view.members) & view.keyed):
        return
    good, wrong = held.good.get(here, 0), held.wrong.get(here, 0)
    unchecked = masking.submitters & ~good & ~wrong
    if unchecked:
        yield CheckShares(here, unchecked)
    yield from _check_answers(view)
    complaints = wrong & ~masking.complaints.get(view.me, 0)
    # An answer gives this node the share that the envelope did not.
    well = (good | wrong & ~complaints) & ~_open_complaints(view)
    dealers = well & ~masking.good.get(view.me, 0)
    if dealers or complaints:
        yield Send("good", (dealers, complaints))


def answer_complaints(view: View) -> Iterator[Command]:
    """Publish a share that somebody complains about, but to no more members than may collude: they
    know theirs anyway, and nobody honest complains of an honest dealer."""
    masking, held, here, epoch = view.masking, view.held, view.attempt, view.masking.epoch
    complainants = [m for m, said in masking.complaints.items() if view.has(said)]
    for complainant in complainants[: masking.colluders]:
        if (epoch, view.me, complainant) in masking.answers:
            continue
        share = held.own_shares.get((here, epoch, complainant))
        if share is None:
            yield FindAnswer(here, epoch, complainant)
        else:
            yield Send("answer", (epoch, complainant, share))


def mask(view: View) -> Iterator[Command]:
    """Mask once an epoch, and post it; never for a second set, as a fork would have it."""
    masking, here = view.masking, view.attempt
    if not view.has(masking.contributors) or view.me in masking.posted or not _has_keys(view):
        return
    if masking.contributors.bit_count() < masking.colluders + 2:
        return
    made = view.held.masked.get((here, masking.epoch))
    if made is None:
        yield Mask(here, masking.epoch, masking.contributors)
    elif made.contributors == masking.contributors:
        yield Send("masked", (masking.epoch, made.digest, made.codes))


def vote_on_sum(view: View) -> Iterator[Command]:
    """Attest the sum of exactly those who posted, with one's own digest among them."""
    masking, here = view.masking, view.attempt
    if not masking.is_complete or not view.has(masking.contributors):
        return
    made = view.held.masked.get((here, masking.epoch))
    if made is None or masking.posted.get(view.me) != made.digest:
        return
    yield from _bring_sums(view)  # shares are being judged meanwhile
    if not masking.may_lock():
        return
    yield from _check_answers(view)
    judged = sum(1 << member for member in masking.good)
    waited = view.now >= masking.began_at + view.plan.rules.grace_s
    everybody = not present_in(view.round, view.members) & view.keyed & ~judged
    if not (everybody or waited) or _open_complaints(view) & masking.contributors:
        return
    total = view.held.sums.get((here, masking.epoch))
    if total is not None:
        yield from _vote(view, total)
    for attempt, epoch, pulled in sorted(view.held.pulled_sums):
        if (attempt, epoch) == (here, masking.epoch) and pulled != total:
            yield from _attest(view, _outcome(view, pulled))


def _bring_sums(view: View) -> Iterator[Command]:
    """Add the masked updates up; where members hold what leaders add up, lead if it is time to and
    nobody has, and bring here what others have."""
    masking, here, now = view.masking, view.attempt, view.now
    if (here, masking.epoch) in view.held.sums:
        return
    merges = () if view.recomputes else (*view.round.candidates, *view.announced)
    posted = {merge.model: merge.leader for merge in merges if not merge.omitted}
    lacking = [total for total in posted if not view.holds(total)]
    for total in lacking:
        yield HoldSum(here, masking.epoch, total, posted[total], masking.contributors)
    first = view.round.first_slot_of(view.me)
    leads = first is not None and now >= view.round.slot_begins_at(first)
    if view.recomputes or (leads and len(lacking) == len(posted)):
        yield AddUp(here, masking.epoch, dict(masking.posted))


def go_on(view: View) -> Iterator[Command]:
    """Leave behind who is late, or give the attempt up."""
    masking, then = view.masking, view.now - view.turn
    remaining = masking.remaining(present_in(view.round, view.members))
    if then >= mask_deadline(view.plan, view.round) and remaining != masking.contributors:
        yield Send("nextEpoch")
    elif may_void(view.plan, view.round, view.members, then):
        yield Send("void")


# Once it is locked.


def reveal(view: View) -> Iterator[Command]:
    """Publish one's shares of the contributors' self masks, once, holding the locked sum. Who was
    not there when shares were judged opens them first: what is published lacks none for ever."""
    masking, here = view.masking, view.attempt
    if not view.has(view.keyed) or view.me in masking.opened:
        return
    if not view.holds(masking.sum):
        if view.recomputes:
            yield AddUp(here, masking.epoch, dict(masking.posted))
        else:
            yield HoldSum(here, masking.epoch, masking.sum, view.me, masking.contributors)
        return
    shares = view.held.reveals.get(here)
    checked = view.held.good.get(here, 0) | view.held.wrong.get(here, 0)
    if masking.contributors & ~checked:
        yield CheckShares(here, masking.contributors & ~checked)
        if view.now < view.round.closed_at + view.plan.rules.max_round_s:
            return
    if shares is None:
        owners, answers = masking.contributors, dict(masking.answers)
        yield FindReveal(here, masking.epoch, owners, view.round.base, view.slot, answers)
    else:
        yield Send("unmask", (masking.contributors, shares))


def vote_on_model(view: View) -> Iterator[Command]:
    """Recompute the model, once enough has been revealed, and attest it."""
    masking, here = view.masking, view.attempt
    if len(masking.opened) < masking.needed or not view.has(view.round.roster):
        return
    model = view.held.models.get(here)
    if model is None:
        reveals = dict(masking.opened)
        yield OpenSum(here, masking.epoch, masking.sum, masking.contributors, reveals)
    else:
        yield from _vote(view, model)


Table = Mapping[RoundStatus, tuple[Rule, ...]]
TABLE: Table = {
    RoundStatus.OPEN: (deal, renew_key),
    RoundStatus.MASKING: (
        recall,
        renew_key,
        judge_dealers,
        answer_complaints,
        mask,
        vote_on_sum,
        go_on,
    ),
    RoundStatus.LOCKED: (recall, renew_key, reveal, vote_on_model),
}


def wanted(view: View, table: Mapping[RoundStatus, tuple[Rule, ...]] = TABLE) -> Iterator[Command]:
    """What this node should do now. The same things, until they are done."""
    for rule in table.get(view.round.status, ()):
        yield from rule(view)


def wake_times(view: View) -> Iterator[float]:
    """When to look again though nothing has happened, in chain time."""
    round, masking = view.round, view.masking
    first = round.first_slot_of(view.me)
    if first is not None:
        yield round.slot_begins_at(first)
    if round.status is RoundStatus.MASKING:
        yield masking.began_at + view.plan.rules.grace_s
        yield mask_deadline(view.plan, round) + view.turn
        yield round.voidable_at + view.turn


def _vote(view: View, model: Digest) -> Iterator[Command]:
    """Attest a posted merge that is what this node has computed, or one that is about to be; or
    post it, once this node's slot came."""
    round, outcome = view.round, _outcome(view, model)
    if not view.has(masked_voters(round, view.masking)):
        return
    if any(c.outcome == outcome for c in (*round.candidates, *view.announced)):
        yield from _attest(view, outcome)
        return
    first = round.first_slot_of(view.me)
    is_posted = any(c.leader == view.me for c in round.candidates)
    if first is not None and not is_posted and view.now >= round.slot_begins_at(first):
        yield Send("merge", (outcome, b""))


def _attest(view: View, outcome: Outcome) -> Iterator[Command]:
    """Attest a merge that stands, or is about to, unless this node has."""
    standing = view.round.candidate(outcome)
    is_known = any(c.outcome == outcome for c in (*view.round.candidates, *view.announced))
    if is_known and (standing is None or not view.has(standing.attesters)):
        yield Send("attest", (outcome, int(view.plan.rules.verify_level), Digest(bytes(32))))


def _outcome(view: View, model: Digest) -> Outcome:
    return Outcome(model, 0, view.slot, view.next)


def _has_keys(view: View) -> bool:
    """Whether the vault still has what this node submitted: if not, it sits the attempt out."""
    submission = view.round.submissions.get(view.me)
    return submission is not None and view.held.keys.get(view.attempt) == submission.keys


def _check_answers(view: View) -> Iterator[Command]:
    for (epoch, dealer, complainant), share in view.masking.answers.items():
        if (view.attempt, epoch, dealer, complainant) not in view.held.answers:
            yield CheckAnswer(view.attempt, epoch, dealer, complainant, share)


def _open_complaints(view: View) -> MemberSet:
    """The dealers about whom a complaint has no right answer in this epoch."""
    right = {
        (epoch, dealer, complainant): share
        for (epoch, dealer, complainant), share in view.masking.answers.items()
        if view.held.answers.get((view.attempt, epoch, dealer, complainant))
    }
    return unanswered(view.masking, right)
