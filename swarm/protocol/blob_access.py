"""Who may read which blob from this node: models are for members, updates only for those who need
them in that round.

An update tells more about a site than the merge of many does, so it is served to those who merge or
recompute, and to nobody else; once the round is final it is deleted.
"""

from __future__ import annotations

from swarm.protocol.masking import read_keys
from swarm.protocol.state import MemberSet, Plan, Round, RoundStatus, VerifyLevel, submitters
from swarm.types import NO_DIGEST, Digest, MemberId

SLOTS_AHEAD = 1
"""The next leader may already pull, so that its merge is ready when its slot begins."""


def may_read(plan: Plan, members: MemberSet, reader: MemberId, blob: Digest, now: int) -> bool:
    """Whether `reader` may be sent `blob` on behalf of this plan, at chain time `now`."""
    if not members & (1 << reader) or blob == NO_DIGEST:
        return False
    if blob == plan.base or blob in plan.outputs:
        return True
    round = plan.round
    if round is None:
        return False
    if any(blob == c.model for c in round.candidates):
        return True
    if any(blob == s.meta for s in round.submissions.values()):
        return True
    if plan.is_masked and round.roster >> reader & 1 and blob in masked_blobs(round):
        return True
    if any(blob == s.update for s in round.submissions.values()):
        return may_read_updates(plan, round, members, reader, now)
    return False


def masked_blobs(round: Round) -> set[Digest]:
    """What the roster of a masked round needs of each other, and tells it nothing of anyone: sealed
    shares, and masked updates and their locked sum, once their digests stand on the chain."""
    keys = (read_keys(each.keys) for each in round.submissions.values())
    masking = round.masking
    posted = () if masking is None else (*masking.posted.values(), masking.sum)
    return {each.envelope for each in keys if each is not None}.union(posted) - {NO_DIGEST}


def may_read_updates(
    plan: Plan, round: Round, members: MemberSet, reader: MemberId, now: int
) -> bool:
    """Whether `reader`'s role in this round needs the others' updates: submission is closed, it
    submitted itself, and it leads now, will next, or recomputes the merge."""
    if round.status is not RoundStatus.CLOSED or not submitters(round, members) & (1 << reader):
        return False
    if plan.rules.verify_level is not VerifyLevel.HELD:
        return True
    first = round.first_slot_of(reader)
    return first is not None and first <= round.slot_at(now) + SLOTS_AHEAD
