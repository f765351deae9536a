"""Which transactions a round still waits for, as its proposer of blocks sees it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swarm.protocol.awaited_calls import Waiting, is_more_awaited
from swarm.protocol.masking import Masking
from swarm.protocol.state import (
    Candidate,
    Consent,
    Duty,
    Outcome,
    Plan,
    PlanStatus,
    Round,
    RoundStatus,
    Rules,
)
from swarm.types import NO_DIGEST, Digest, MemberId, PlanId

D = Digest(bytes(32))
ALL = 0b1111
NOW = 60
OPEN = Round(4, 1, RoundStatus.OPEN, opened_at=50, roster=ALL, trainers=ALL)
CLOSED = replace(OPEN, status=RoundStatus.CLOSED, submitted=ALL)


def plan_in(round: Round | None, **seen_at: int) -> Plan:
    consents = {
        MemberId(i): Consent(
            MemberId(i), Duty.TRAIN, 100, NO_DIGEST, seen_at=seen_at.get(f"of_{i}", 50)
        )
        for i in range(4)
    }
    return Plan(
        PlanId(1), MemberId(0), "p", D, D, D, Rules(9, 2), PlanStatus.RUNNING, ALL,
        consents, round=round,
    )  # fmt: skip


def calls(
    function: str, *senders: int, number: int = 4, attempt: int = 1, omitted: int = 0
) -> list[Waiting]:
    return [
        Waiting(function, MemberId(sender), number, attempt, Outcome(D, omitted))
        for sender in senders
    ]


def test_an_open_round_awaits_everybody_who_has_not_submitted() -> None:
    round = replace(OPEN, submitted=0b0001)
    assert is_more_awaited(plan_in(round), ALL, calls("submit", 1, 2), NOW) is True
    assert is_more_awaited(plan_in(round), ALL, calls("submit", 1, 2, 3), NOW) is False


def test_who_is_silent_or_has_left_is_not_awaited() -> None:
    waiting = calls("submit", 0, 1, 2)
    plan = plan_in(replace(OPEN, credit_from=40), of_3=30)
    assert is_more_awaited(plan, ALL, waiting, NOW) is False
    assert is_more_awaited(plan_in(replace(OPEN, left=0b1000)), ALL, waiting, NOW) is False
    assert is_more_awaited(plan_in(OPEN), 0b0111, waiting, NOW) is False


def test_a_closed_round_awaits_the_quorum_of_one_merge_and_no_more() -> None:
    plan = plan_in(CLOSED)
    leads = calls("merge", 2)
    assert is_more_awaited(plan, ALL, leads + calls("attest", 0), NOW) is True
    assert is_more_awaited(plan, ALL, leads + calls("attest", 0, 1), NOW) is False


def test_attestations_of_another_merge_do_not_count() -> None:
    waiting = [*calls("merge", 2), *calls("attest", 0), *calls("merge", 1, omitted=1)]
    assert is_more_awaited(plan_in(CLOSED), ALL, waiting, NOW) is True


def test_attestations_that_stand_already_count() -> None:
    stands = Candidate(MemberId(2), Outcome(D, 0), posted_at=55, attesters=0b0101)
    plan = plan_in(replace(CLOSED, candidates=[stands]))
    assert is_more_awaited(plan, ALL, calls("attest", 1), NOW) is False
    assert is_more_awaited(plan, ALL, calls("attest", 0), NOW) is True


@pytest.mark.parametrize(
    ("round", "waiting"),
    [
        (None, calls("submit", 0)),
        (OPEN, []),
        (OPEN, calls("attest", 0)),
        (OPEN, calls("submit", 0, number=3)),
        (OPEN, calls("submit", 0, attempt=2)),
        (CLOSED, calls("submit", 0)),
        (replace(OPEN, status=RoundStatus.FINAL), calls("submit", 0)),
    ],
)
def test_nothing_is_known_of_what_is_not_the_rounds_own(
    round: Round | None, waiting: list[Waiting]
) -> None:
    assert is_more_awaited(plan_in(round), ALL, waiting, NOW) is None


def masked(status: RoundStatus, **masking: object) -> Plan:
    round = replace(CLOSED, status=status, masking=Masking(ALL, 1, ALL, ALL, 55))
    assert round.masking is not None
    round.masking = replace(round.masking, **masking)  # type: ignore[arg-type]
    plan = plan_in(round)
    for consent in plan.consents.values():
        consent.receiving_key = Digest(b"r" * 32)
    return plan


def test_masked_updates_and_judgements_share_a_block() -> None:
    plan = masked(RoundStatus.MASKING, posted={MemberId(0): D})
    waiting = calls("masked", 1, 2, 3)
    assert is_more_awaited(plan, ALL, waiting, NOW) is False
    assert is_more_awaited(plan, ALL, waiting + calls("good", 0, 1, 2), NOW) is True
    assert is_more_awaited(plan, ALL, calls("masked", 1, 2), NOW) is True
    assert is_more_awaited(plan, ALL, calls("checkIn", 1), NOW) is None
    plan.consents[MemberId(3)].receiving_key = NO_DIGEST  # it judges nobody
    assert is_more_awaited(plan, ALL, waiting + calls("good", 0, 1, 2), NOW) is False


def test_a_masked_sum_awaits_as_many_votes_as_lock_it() -> None:
    votes = [*calls("merge", 1), *calls("attest", 3)]
    plan = masked(RoundStatus.MASKING, contributors=0b0111)  # the last has no vote
    assert is_more_awaited(plan, ALL, votes, NOW) is True
    assert is_more_awaited(plan, ALL, [*votes, *calls("attest", 0)], NOW) is False
    plan = masked(RoundStatus.MASKING)
    assert is_more_awaited(plan, ALL, votes, NOW) is True


def test_reveals_share_a_block_and_the_model_awaits_the_roster() -> None:
    plan = masked(RoundStatus.LOCKED, sum=Digest(b"s" * 32), opened={MemberId(0): b""})
    assert is_more_awaited(plan, ALL, calls("unmask", 1, 2), NOW) is True
    assert is_more_awaited(plan, ALL, calls("unmask", 1, 2, 3), NOW) is False
    assert is_more_awaited(plan, ALL, calls("merge", 1) + calls("attest", 0), NOW) is True
