"""A plan followed by the contract's events, so that it need not be read anew with every block.

    plan = follow(plan, "Submitted", {…}, block_time, members)

What one event tells, and what follows from it by the contract's rules, is all that changes in a
plan while its rounds run; a view of the contract costs as much as executing a block. Where an event
does not tell all (somebody consents, withdraws, is removed), `follow` says so, and the caller reads
the plan: as it does at the start. Tested against the contract on random walks, event by event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from swarm.protocol.election import reveal_term
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
)
from swarm.types import Digest, MemberId

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
            return replace(plan, round=closed)
        case "Merged":
            return _merged(plan, round, told, now)
        case "Attested":
            attested = _attested(round, _outcome(told), told["member"])
            return _seen(replace(plan, round=attested), told["member"], now)
        case "RoundFinal":
            return _final(plan, round, told, now)
        case "RoundVoided":
            ended = replace(plan, round=replace(round, status=RoundStatus.VOID))
            if round.status is RoundStatus.CLOSED:
                return _timed(ended, round, now - round.closed_at)
            return ended
    return None


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
    return replace(plan, status=PlanStatus.RUNNING, participants=participants, round=round)


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
    submission = Submission(member, update, told["samples"], meta, revealed)
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
    after = replace(plan, seed=round.seed, round=replace(round, status=RoundStatus.FINAL))
    after.take_output(round.number, candidate.outcome)
    began_at = round.slot_begins_at(round.first_slot_of(candidate.leader) or 0)
    return _timed(after, round, now - began_at)


def _timed(plan: Plan, round: Round, took_s: int) -> Plan:
    return replace(plan, merge_s=merge_seconds(plan.merge_s, took_s, round.slot_s))


def _seen(plan: Plan, member: int, now: int) -> Plan:
    consent = replace(plan.consents[MemberId(member)], seen_at=now)
    return replace(plan, consents={**plan.consents, consent.member: consent})
