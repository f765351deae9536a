"""Which transactions a round still waits for, so that they share one block.

A block costs every node its execution, and its validators three messages each. What all wait for
comes within a fraction of a second: the submissions of a round, and then the merge with the
attestations that make it final; in a masked round the masked updates with what is said of shares,
and the reveals, too. If whoever proposes a block knows what is still to come, two blocks are enough
for a plain round, and five for a masked one. This is advice for a proposer and no rule: a block
with more or fewer of them is as valid. So it may be wrong where that costs a moment only: a call
that waits is taken for one that counts, even if it waits for an earlier one of its sender or is
going to be refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from swarm.protocol.state import (
    MemberSet,
    Outcome,
    Plan,
    Round,
    RoundStatus,
    majority,
    masked_voters,
    masked_votes_needed,
    member_set,
    members_in,
    pending,
    present_in,
    submitters,
)
from swarm.types import NO_DIGEST, MemberId


class Waiting(NamedTuple):
    """A transaction that waits for a block: `function` called by `sender` for one round; of a
    merge or an attestation also what for."""

    function: str
    sender: MemberId
    number: int
    attempt: int
    outcome: Outcome | None = None


def is_more_awaited(
    plan: Plan, members: MemberSet, waiting: Iterable[Waiting], now: int
) -> bool | None:
    """Whether more transactions of the plan's round would have to come for it to close or end.

    plan, members: as the newest block left them. waiting: calls of this plan. Returns False when
    those that wait are enough, and None when nothing of them belongs to the round.
    """
    round = plan.round
    if round is None:
        return None
    calls = [w for w in waiting if (w.number, w.attempt) == (round.number, round.attempt)]
    if round.status is RoundStatus.OPEN:
        came = member_set(w.sender for w in calls if w.function == "submit")
        return bool(pending(plan, round, members, now) & ~came) if came else None
    if round.status is RoundStatus.CLOSED:
        voters = submitters(round, members)
        return _are_votes_missing(round, calls, voters, majority(voters.bit_count()))
    masking = round.masking
    if masking is None or round.status not in (RoundStatus.MASKING, RoundStatus.LOCKED):
        return None
    if any(w.function in ("merge", "attest") for w in calls):
        voters, needed = masked_voters(round, masking), masked_votes_needed(round, masking)
        return _are_votes_missing(round, calls, voters, needed)
    judges = member_set(
        i
        for i in members_in(present_in(round, members))
        if plan.consents[i].receiving_key != NO_DIGEST
    )
    if round.status is RoundStatus.LOCKED:
        return _is_somebody_missing(calls, "unmask", judges & ~member_set(masking.opened))
    masks = _is_somebody_missing(
        calls, "masked", masking.contributors & ~member_set(masking.posted)
    )
    judgements = _is_somebody_missing(calls, "good", judges & ~member_set(masking.good))
    return None if masks is None and judgements is None else bool(masks or judgements)


def _are_votes_missing(
    round: Round, calls: Iterable[Waiting], voters: MemberSet, needed: int
) -> bool | None:
    """Whether no merge has the votes that it needs, with those that wait; None if none wait."""
    for_each: dict[Outcome | None, MemberSet] = {c.outcome: c.attesters for c in round.candidates}
    votes = [w for w in calls if w.function in ("merge", "attest")]
    for vote in votes:
        for_each[vote.outcome] = for_each.get(vote.outcome, 0) | 1 << vote.sender
    most = max(((those & voters).bit_count() for those in for_each.values()), default=0)
    return most < needed if votes else None


def _is_somebody_missing(
    calls: Iterable[Waiting], function: str, awaited: MemberSet
) -> bool | None:
    """Whether somebody awaited has not sent this; None if none of it waits."""
    came = member_set(w.sender for w in calls if w.function == function)
    return bool(awaited & ~came) if came else None
