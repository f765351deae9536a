"""Which transactions a round still waits for, so that they share one block.

A block costs every node its execution, and its validators three messages each. What all wait for
comes within a fraction of a second: the submissions of a round, and then the merge with the
attestations that make it final. A round needs two blocks if whoever proposes one knows what is
still to come, and four if it does not. This is advice for a proposer and no rule: a block with more
or fewer of them is as valid.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from swarm.protocol.state import Plan, RoundStatus, mask_of, pending, quorum, submitters
from swarm.types import MemberId


class Waiting(NamedTuple):
    """A transaction that waits for a block: `function` called by `sender` for one round."""

    function: str
    sender: MemberId
    number: int
    attempt: int


def is_more_awaited(plan: Plan, members: int, waiting: Iterable[Waiting], now: int) -> bool | None:
    """Whether more transactions of the plan's round would have to come for it to close or end.

    plan, members: as the newest block left them. waiting: calls of this plan. Returns False when
    those that wait are enough, and None when nothing of them belongs to the round.
    """
    round = plan.round
    if round is None:
        return None
    calls = [w for w in waiting if (w.number, w.attempt) == (round.number, round.attempt)]
    if round.status is RoundStatus.OPEN:
        came = _senders(calls, "submit")
        return bool(pending(plan, round, members, now) & ~came) if came else None
    if round.status is RoundStatus.CLOSED:
        came = _senders(calls, "merge", "attest")
        standing = max((c.attesters for c in round.candidates), key=int.bit_count, default=0)
        voters = submitters(round, members)
        has_enough = ((standing | came) & voters).bit_count() >= quorum(voters.bit_count())
        return not has_enough if came else None
    return None


def _senders(calls: Iterable[Waiting], *functions: str) -> int:
    """Mask of who called one of these functions."""
    return mask_of(call.sender for call in calls if call.function in functions)
