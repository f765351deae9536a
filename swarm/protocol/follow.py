"""A plan followed by the contract's events, so that it need not be read anew with every block.

    plan = follow(plan, "Submitted", {…}, block_time, members)

What one event tells, and what follows from it by the contract's rules, is all that changes in a
plan while its rounds run; a view of the contract costs as much as executing a block. Where an event
does not tell all (somebody consents, withdraws, is removed), `follow` says so, and the caller reads
the plan: as it does at the start. Tested against the contract on random walks, event by event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from swarm.protocol.election import reveal_term
from swarm.protocol.masking import Masking, read_keys
from swarm.protocol.state import (
    Candidate,
    Member,
    Outcome,
    Plan,
    PlanStatus,
    Round,
    RoundStatus,
    Submission,
    expired,
    member_set,
    members_in,
    merge_seconds,
    submitters,
    with_next_keys,
)
from swarm.types import NO_DIGEST, Digest, MemberId

NO_HOLDER = 256
"""How an event says that nobody holds a role."""


def follow(
    plan: Plan, event: str, told: Mapping[str, Any], now: int, members: Mapping[MemberId, Member]
) -> Plan | None:
    """The plan after one more of its events; None if the event does not tell all that changed.

    `plan` is left as it is. now: chain time of the event's block. members: all members ever.
    """
    round = plan.round
    if event == "RoundOpened":
        return _opened(plan, told, now)
    if event == "PlanCompleted":
        return replace(plan, status=PlanStatus.COMPLETED)
    if round is None or (told.get("round"), told.get("attempt")) != (round.number, round.attempt):
        return None
    match event:
        case "CheckedIn":
            return _seen(plan, told["member"], now)
        case "KeyRenewed":
            own = replace(plan.consents[told["member"]], next_receiving_key=Digest(told["key"]))
            changed = replace(plan, consents={**plan.consents, own.member: own})
            return _seen(changed, own.member, now)
        case "Submitted":
            return _submitted(plan, round, told, now, members)
        case "RoundClosed":
            closed = replace(
                round,
                status=RoundStatus.CLOSED,
                submitted=told["frozen"],
                closed_at=now,
                seed=Digest(told["seed"]),
                slot_s=told["slotS"],
                eligible=tuple(members_in(told["eligible"])),
            )
            if plan.is_masked:
                closed.status, frozen = RoundStatus.MASKING, closed.submitted
                closed.masking = Masking(round.roster, plan.rules.colluders, frozen, frozen, now)
            return replace(plan, round=closed)
        case "Merged":
            return _merged(plan, round, told, now)
        case "Attested":
            attested = _attested(round, _outcome(told), told["member"])
            return _seen(replace(plan, round=attested), told["member"], now)
        case "RoundFinal":
            return _final(plan, round, told, now)
        case "RoundVoided" if plan.is_masked:
            return None  # time, too few contributors, another lock, a spoiled sum: it does not say
        case "RoundVoided":
            ended = replace(plan, round=replace(round, status=RoundStatus.VOID))
            if round.status is RoundStatus.CLOSED:
                return _timed(ended, round, now - round.closed_at)
            return ended
    return None if round.masking is None else _masked(plan, round, round.masking, event, told, now)


def recalled(
    plan: Plan,
    events: Iterable[tuple[str, Mapping[str, Any], int]],
    members: Mapping[MemberId, Member],
) -> Plan:
    """A plan that was read, with what only the events of its current attempt tell: keys, masked
    updates, judgements of shares, and shares.

    events: name, arguments and chain time, from the attempt's opening on. members: all members
    ever.
    """
    round, traced = plan.round, plan
    if round is None or not plan.is_masked:
        return plan
    for event, told, now in events:
        if (told.get("round"), told.get("attempt")) == (round.number, round.attempt):
            traced = follow(traced, event, told, now, members) or traced
    seen = traced.round
    assert seen is not None
    submissions = {
        member: replace(each, keys=seen.submissions[member].keys)
        for member, each in round.submissions.items()
        if member in seen.submissions
    }
    masking = None if round.masking is None else seen.masking
    return replace(plan, round=replace(round, masking=masking, submissions=submissions))


def _masked(
    plan: Plan, round: Round, masking: Masking, event: str, told: Mapping[str, Any], now: int
) -> Plan | None:
    """What an event of a masked round has changed."""
    member = MemberId(told.get("member", told.get("dealer", 0)))
    after = replace(round)
    match event:
        case "Masked":
            posted = {**masking.posted, member: Digest(told["masked"])}
            masking = replace(masking, posted=posted, codes={**masking.codes, member: told["macs"]})
            if masking.is_complete:
                after.closed_at = now
        case "SharesJudged":
            good, complaints = dict(masking.good), dict(masking.complaints)
            good[member] = good.get(member, 0) | told["dealers"]
            complaints[member] = complaints.get(member, 0) | told["complaints"]
            masking = replace(masking, good=good, complaints=complaints)
        case "ShareAnswered":
            key = (told["epoch"], member, MemberId(told["complainant"]))
            masking = replace(masking, answers={**masking.answers, key: told["share"]})
        case "EpochBegan":
            remaining = told["contributors"]
            after.epoch, after.candidates = told["epoch"], []
            after.eligible = tuple(members_in(remaining & round.revealed or remaining))
            masking = replace(
                masking,
                epoch=after.epoch,
                contributors=remaining,
                began_at=now,
                posted={},
                codes={},
            )
        case "RoundLocked":
            after.status, after.closed_at, after.candidates = RoundStatus.LOCKED, now, []
            after.eligible = tuple(members_in(round.roster))
            masking = replace(masking, sum=Digest(told["sum"]))
        case "Unmasked":
            masking = replace(masking, opened={**masking.opened, member: told["shares"]})
        case "AbandonVoted":
            masking = replace(masking, abandoned=masking.abandoned | 1 << member)
        case _:
            return None
    after.masking = masking
    changed = replace(plan, round=after)
    sent_by_one = event in ("Masked", "SharesJudged", "ShareAnswered", "Unmasked")
    return _seen(changed, member, now) if sent_by_one else changed


def _opened(plan: Plan, told: Mapping[str, Any], now: int) -> Plan:
    credit_from = 0 if plan.round is None else plan.round.opened_at
    holder = None if told["holder"] == NO_HOLDER else MemberId(told["holder"])
    round = Round(
        told["round"],
        told["attempt"],
        RoundStatus.OPEN,
        now,
        credit_from,
        Digest(told["base"]),
        told["roster"],
        told["stage"],
        told["trainers"],
        holder,
    )
    participants = plan.participants & ~expired(plan, now)
    return replace(
        plan,
        status=PlanStatus.RUNNING,
        participants=participants,
        consents=with_next_keys(plan),
        round=round,
    )


def _submitted(
    plan: Plan,
    round: Round,
    told: Mapping[str, Any],
    now: int,
    members: Mapping[MemberId, Member],
) -> Plan:
    member, reveal = MemberId(told["member"]), told["reveal"]
    bit, revealed = 1 << member, reveal != bytes(32)
    update, meta = Digest(told["update"]), Digest(told["meta"])
    keys = read_keys(told["keys"])
    submission = Submission(member, update, told["samples"], meta, revealed, told["keys"])
    term = reveal_term(members[member].account, reveal) if revealed else 0
    after = replace(
        round,
        submitted=round.submitted | bit,
        revealed=round.revealed | (bit if revealed else 0),
        reveals_xor=round.reveals_xor ^ term,
        submissions={**round.submissions, member: submission},
    )
    present = member_set(i for i, each in members.items() if each.present)
    if not after.min_peers_at and (submitters(after, present).bit_count() >= plan.rules.min_peers):
        after.min_peers_at = now
    consent = replace(
        plan.consents[member],
        commitment=Digest(told["commitment"]),
        committed_round=round.number,
        committed_attempt=round.attempt,
        next_receiving_key=NO_DIGEST if keys is None else Digest(keys.next_receiving),
    )
    changed = replace(plan, round=after, consents={**plan.consents, member: consent})
    return _seen(changed, member, now)


def _merged(plan: Plan, round: Round, told: Mapping[str, Any], now: int) -> Plan:
    leader, outcome = MemberId(told["leader"]), _outcome(told)
    if round.candidate(outcome) is None:
        posted = Candidate(leader, outcome, 0, now, told["reasons"])
        round = replace(round, candidates=[*round.candidates, posted])
    return _seen(replace(plan, round=_attested(round, outcome, leader)), leader, now)


def _outcome(told: Mapping[str, Any]) -> Outcome:
    return Outcome(Digest(told["model"]), told["omitted"], told["slot"], told["next"])


def _attested(round: Round, outcome: Outcome, member: int) -> Round:
    candidates = [
        replace(each, attesters=each.attesters | 1 << member) if each.outcome == outcome else each
        for each in round.candidates
    ]
    return replace(round, candidates=candidates)


def _final(plan: Plan, round: Round, told: Mapping[str, Any], now: int) -> Plan | None:
    candidate = round.candidate(_outcome(told))
    if candidate is None:
        return None
    final = replace(round, status=RoundStatus.FINAL)
    after = replace(plan, seed=round.seed, spoiled=0, round=final)
    after.take_output(round.number, candidate.outcome)
    began_at = round.slot_begins_at(round.first_slot_of(candidate.leader) or 0)
    return _timed(after, round, now - began_at)


def _timed(plan: Plan, round: Round, took_s: int) -> Plan:
    return replace(plan, merge_s=merge_seconds(plan.merge_s, took_s, round.slot_s))


def _seen(plan: Plan, member: int, now: int) -> Plan:
    consent = replace(plan.consents[MemberId(member)], seen_at=now)
    return replace(plan, consents={**plan.consents, consent.member: consent})
