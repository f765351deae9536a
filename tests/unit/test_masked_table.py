"""The table of masked rounds, rule by rule: what a node does, and what it does not do yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from swarm.protocol import masked_table as t
from swarm.protocol.masked_table import NO_SHARE, Holdings, MaskedUpdate, Send, View, wanted
from swarm.protocol.masking import Masking
from swarm.protocol.state import (
    Candidate,
    Consent,
    Outcome,
    Plan,
    Round,
    RoundStatus,
    Rules,
    Submission,
    VerifyLevel,
)
from swarm.types import NO_DIGEST, Digest, MemberId, PlanId

HERE, NOW, BEGAN = (1, 1), 1000, 990
ALL, ME = 0b1111, MemberId(1)
SUM, MINE = Digest(b"\xaa" * 32), Digest(b"\x02" * 32)
KEYS = b"k" * 195
KEY, NEXT = Digest(b"r" * 32), Digest(b"n" * 32)
RULES = Rules(5, 3, colluders=1, liveness_s=20, grace_s=2, max_round_s=100, slot_s=10)


def view_of(status: RoundStatus, me: int = ME, now: int = NOW, **masking: object) -> View:
    members = [MemberId(i) for i in range(4)]
    consents = {i: Consent(i, 1, 100, NO_DIGEST) for i in members}
    for own in consents.values():
        own.receiving_key = KEY
    round = Round(1, 1, status, 900, roster=ALL, trainers=ALL, closed_at=BEGAN, slot_s=10)
    if status is not RoundStatus.OPEN:
        round.submitted, round.eligible = ALL, tuple(members)
        round.submissions = {i: Submission(i, NO_DIGEST, 9, NO_DIGEST, True, KEYS) for i in members}
        round.masking = replace(Masking(ALL, 1, ALL, ALL, BEGAN), **masking)
    plan = Plan(PlanId(1), members[0], "p", NO_DIGEST, NO_DIGEST, NO_DIGEST, RULES)
    plan.participants, plan.consents, plan.round = ALL, consents, round
    return View(plan, round, ALL, MemberId(me), Holdings(), 0, 1, now)


def masking(**more: object) -> View:
    view = view_of(RoundStatus.MASKING, **more)
    view.held.keys[HERE] = KEYS
    return view


def posted() -> dict[MemberId, Digest]:
    return {MemberId(i): Digest(bytes([i + 1]) * 32) for i in range(4)}


def lockable(**more: object) -> View:
    good = {MemberId(i): ALL for i in range(4)}
    view = masking(**{"posted": posted(), "good": good} | more)
    view.held.good[HERE] = ALL
    view.held.masked[HERE, 0] = MaskedUpdate(ALL, MINE, b"")
    return view


def locked(**more: object) -> View:
    view = view_of(RoundStatus.LOCKED, **{"posted": posted(), "sum": SUM} | more)
    view.held.keys[HERE] = KEYS
    view.held.sums[HERE, 0] = SUM
    return view


def of(view: View, kind: type) -> list[t.Command]:
    return [command for command in wanted(view) if isinstance(command, kind)]


def sent(view: View, function: str) -> list[tuple[object, ...]]:
    sends = (command for command in wanted(view) if isinstance(command, Send))
    return [send.arguments for send in sends if send.function == function]


def votes(view: View) -> bool:
    """Whether it attests a sum that stands there, once it has added that up."""
    view.held.sums[HERE, 0] = SUM
    view.round.candidates = [Candidate(MemberId(0), Outcome(SUM, 0, 0, 1), NOW, 1)]
    return bool(sent(view, "attest"))


def test_keys_are_dealt_before_the_submission_and_once() -> None:
    view = view_of(RoundStatus.OPEN)
    assert of(view, t.Deal) == [t.Deal(HERE)]
    view.held.keys[HERE] = KEYS
    assert of(view, t.Deal) == []


def test_after_a_restart_the_vault_is_asked_first_and_never_for_new_keys() -> None:
    view = view_of(RoundStatus.MASKING)
    assert of(view, t.Recall) == [t.Recall(HERE)]
    assert of(view, t.Deal) == of(view, t.Mask) == []


@pytest.mark.parametrize("kept", [b"", b"other keys"])
def test_a_node_whose_vault_lost_its_keys_sits_the_attempt_out(kept: bytes) -> None:
    view = masking()
    view.held.keys[HERE] = kept
    assert of(view, t.Mask) == of(view, t.Recall) == []


def renewed(view: View) -> list[t.Command]:
    return [c for c in wanted(view) if c == t.DrawKey(HERE) or c == Send("renewKey", (NEXT,))]


@pytest.mark.parametrize("status", [RoundStatus.OPEN, RoundStatus.MASKING, RoundStatus.LOCKED])
def test_who_submits_nothing_brings_its_next_key_at_once_and_once(status: RoundStatus) -> None:
    """It waits for no share to be checked: the attempt may be over before that."""
    view = view_of(status)
    view.round.trainers &= ~(1 << ME)
    assert renewed(view) == [t.DrawKey(HERE)]
    view.held.next_keys[HERE] = NEXT
    assert renewed(view) == [Send("renewKey", (NEXT,))]
    view.plan.consents[ME].next_receiving_key = NEXT
    assert renewed(view) == []


def test_who_trains_brings_its_key_with_the_submission_while_it_can() -> None:
    assert renewed(view_of(RoundStatus.OPEN)) == []
    assert renewed(view_of(RoundStatus.MASKING)) == [t.DrawKey(HERE)]


def test_who_has_left_brings_no_key() -> None:
    view = view_of(RoundStatus.MASKING)
    view.round.left = 1 << ME
    assert renewed(view) == []


def test_who_has_no_key_that_counts_judges_and_reveals_nothing_and_is_not_waited_for() -> None:
    view = masking()
    view.plan.consents[ME].receiving_key = NO_DIGEST
    view.held.good[HERE] = ALL
    assert of(view, t.CheckShares) == sent(view, "good") == []
    view = locked()
    view.plan.consents[ME].receiving_key = NO_DIGEST
    view.held.reveals[HERE] = b"shares"
    assert of(view, t.CheckShares) == of(view, t.FindReveal) == sent(view, "unmask") == []
    view = lockable(good={MemberId(i): ALL for i in (0, 1, 2)}, began_at=NOW)
    assert not votes(view)
    view.plan.consents[MemberId(3)].receiving_key = NO_DIGEST
    assert votes(view)


def test_a_contributor_masks_and_then_posts_what_it_masked() -> None:
    view = masking()
    assert of(view, t.Mask) == [t.Mask(HERE, 0, ALL)]
    view.held.masked[HERE, 0] = MaskedUpdate(ALL, MINE, b"codes")
    assert sent(view, "masked") == [(0, MINE, b"codes")]


def test_nobody_masks_for_a_second_set_of_one_epoch() -> None:
    """As the other side of a fork would have it."""
    view = masking(contributors=0b0111)
    view.held.masked[HERE, 0] = MaskedUpdate(ALL, MINE, b"")
    assert of(view, t.Mask) == sent(view, "masked") == []


def test_nobody_masks_among_too_few() -> None:
    assert of(masking(contributors=0b0011), t.Mask) == []


def test_shares_are_judged_once_they_are_checked() -> None:
    view = masking()
    assert of(view, t.CheckShares) == [t.CheckShares(HERE, ALL)]
    view.held.good[HERE], view.held.wrong[HERE] = 0b0111, 0b1000
    assert of(view, t.CheckShares) == []
    assert sent(view, "good") == [(0b0111, 0b1000)]


def test_a_dealer_is_called_good_only_once_each_complaint_has_a_right_answer() -> None:
    complaints = {MemberId(3): 0b0001}
    view = masking(complaints=complaints)
    view.held.good[HERE] = ALL
    assert sent(view, "good") == [(0b1110, 0)]
    answer = (0, MemberId(0), MemberId(3))
    view = masking(complaints=complaints, answers={answer: b"s" * 32})
    view.held.good[HERE] = ALL
    assert [c.share for c in of(view, t.CheckAnswer)] == [b"s" * 32]
    for right, dealers in ((False, 0b1110), (True, ALL)):
        view.held.answers[HERE, *answer] = right
        assert sent(view, "good") == [(dealers, 0)]


def test_a_dealer_answers_no_more_members_than_may_collude() -> None:
    complaints = {MemberId(0): 0b0010, MemberId(3): 0b0010}
    view = masking(complaints=complaints)
    assert of(view, t.FindAnswer) == [t.FindAnswer(HERE, 0, MemberId(0))]
    view.held.own_shares[HERE, 0, MemberId(0)] = b"s" * 32
    assert sent(view, "answer") == [(0, MemberId(0), b"s" * 32)]


def test_a_sum_is_attested_with_ones_own_digest_in_it_only() -> None:
    view = lockable()
    assert [c.posted for c in of(view, t.AddUp)] == [posted()]
    view.held.masked[HERE, 0] = MaskedUpdate(ALL, Digest(b"\x77" * 32), b"")
    assert of(view, t.AddUp) == []


def test_a_sum_waits_for_complaints_and_for_those_who_have_not_judged() -> None:
    assert not votes(lockable(complaints={MemberId(3): 0b0001}))
    three = {MemberId(i): ALL for i in range(3)}
    assert not votes(lockable(good=three, began_at=NOW - 1))
    assert votes(lockable(good=three, began_at=NOW - 2))


def test_a_sum_is_added_up_while_shares_are_still_judged() -> None:
    view = lockable(good={})
    assert len(of(view, t.AddUp)) == 1
    assert not votes(view)
    assert of(lockable(posted={ME: MINE}), t.AddUp) == []


def test_a_sum_that_its_leader_is_about_to_post_is_attested_and_no_other() -> None:
    view = lockable(now=NOW - 1)  # before the own slot
    view.held.sums[HERE, 0] = SUM
    announced = (Candidate(MemberId(0), Outcome(SUM, 0, 0, 1), NOW, 1),)
    assert sent(view, "attest") == []
    (vote,) = sent(replace(view, announced=announced), "attest")
    assert vote[0] == Outcome(SUM, 0, 0, 1)
    view.held.sums[HERE, 0] = Digest(b"\xbb" * 32)
    assert sent(replace(view, announced=announced), "attest") == []


def held_sums(view: View) -> View:
    """The same where members hold what leaders add up."""
    view.plan.rules = replace(RULES, verify_level=VerifyLevel.HELD)
    return view


def test_where_members_hold_sums_nobody_adds_up_before_its_slot() -> None:
    early, late = (held_sums(lockable(now=now)) for now in (NOW - 1, NOW))
    assert of(early, t.AddUp) == []
    assert len(of(late, t.AddUp)) == 1
    late.held.sums[HERE, 0] = SUM
    assert [arguments[0].model for arguments in sent(late, "merge")] == [SUM]


def test_a_sum_of_a_leader_is_pulled_and_then_attested() -> None:
    view = held_sums(lockable(now=NOW - 1))
    view.round.candidates = [Candidate(MemberId(0), Outcome(SUM, 0, 0, 1), NOW, 1)]
    assert of(view, t.HoldSum) == [t.HoldSum(HERE, 0, SUM, MemberId(0), ALL)]
    assert sent(view, "attest") == []
    view.held.pulled_sums.add((HERE, 0, SUM))
    assert of(view, t.HoldSum) == []
    assert [arguments[0].model for arguments in sent(view, "attest")] == [SUM]
    view.held.pulled_sums = {(HERE, 1, SUM)}  # of another epoch
    assert sent(view, "attest") == []


def test_a_sum_that_is_not_served_is_led_by_the_next_leader() -> None:
    view = held_sums(lockable(now=NOW))
    view.round.candidates = [Candidate(MemberId(0), Outcome(SUM, 0, 0, 1), NOW, 1)]
    assert len(of(view, t.HoldSum)) == len(of(view, t.AddUp)) == 1
    view.held.pulled_sums.add((HERE, 0, SUM))
    assert of(view, t.HoldSum) == of(view, t.AddUp) == []


def test_who_does_not_hold_the_locked_sum_pulls_it_before_it_reveals() -> None:
    view = held_sums(locked())
    view.held.sums.clear()
    view.held.good[HERE] = ALL
    assert [c.total for c in of(view, t.HoldSum)] == [SUM]
    assert of(view, t.FindReveal) == []
    view.held.pulled_sums.add((HERE, 0, SUM))
    assert len(of(view, t.FindReveal)) == 1


def test_a_posted_sum_is_attested_if_it_is_the_own_one() -> None:
    view = lockable()
    view.held.sums[HERE, 0] = SUM
    view.round.candidates = [Candidate(MemberId(0), Outcome(SUM, 0), 1, NOW)]
    assert [arguments[0] for arguments in sent(view, "attest")] == [Outcome(SUM, 0)]
    view.held.sums[HERE, 0] = Digest(b"\xab" * 32)
    assert sent(view, "attest") == []


def test_late_contributors_are_left_behind_after_the_deadline_in_turn() -> None:
    three = {m: d for m, d in posted().items() if m != 3}
    good = {MemberId(i): ALL for i in range(4)}
    early, late = (masking(posted=three, good=good, now=BEGAN + s) for s in (20, 21))
    assert (sent(early, "nextEpoch"), sent(late, "nextEpoch")) == ([], [()])


@pytest.mark.parametrize("make", [masking, lockable])
def test_nothing_is_revealed_before_the_lock(make: Callable[[], View]) -> None:
    view = make()
    view.held.sums[HERE, 0] = SUM
    view.round.candidates = [Candidate(MemberId(0), Outcome(SUM, 0), ALL, NOW)]
    assert of(view, t.FindReveal) == sent(view, "unmask") == []


def test_a_reveal_waits_for_the_sum_and_for_shares_that_are_not_checked_yet() -> None:
    view = locked()
    view.held.sums.clear()
    assert of(view, t.FindReveal) == []
    assert len(of(view, t.AddUp)) == 1
    view = locked()
    assert of(view, t.CheckShares) == [t.CheckShares(HERE, ALL)]
    assert of(view, t.FindReveal) == []
    view.held.good[HERE] = ALL
    assert [c.owners for c in of(view, t.FindReveal)] == [ALL]


def test_a_reveal_does_not_wait_for_ever_for_a_share() -> None:
    view = locked(now=BEGAN + RULES.max_round_s)
    assert len(of(view, t.FindReveal)) == 1
    view.held.reveals[HERE] = 4 * NO_SHARE
    assert sent(view, "unmask") == [(ALL, 4 * NO_SHARE)]


def test_a_reveal_comes_once() -> None:
    view = locked(opened={ME: b""})
    view.held.good[HERE] = ALL
    assert of(view, t.FindReveal) == sent(view, "unmask") == []


def test_the_model_is_computed_once_enough_have_revealed() -> None:
    two = {MemberId(i): b"" for i in (0, 2)}
    assert of(locked(opened=two), t.OpenSum) == []
    view = locked(opened=two | {MemberId(3): b""})
    assert [c.owners for c in of(view, t.OpenSum)] == [ALL]
    view.held.models[HERE] = NO_DIGEST
    view.round.candidates = [Candidate(MemberId(0), Outcome(NO_DIGEST, 0), 1, NOW)]
    assert [arguments[0] for arguments in sent(view, "attest")] == [Outcome(NO_DIGEST, 0)]
