"""An audit's report for people: plain words first, evidence after."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from swarm.audit.report import Moment, PlanHistory, Report, RoundHistory


def verdict(report: Report) -> str:
    """The one sentence that matters."""
    if not report.faults:
        return (
            f"Everything agrees: {report.history.head.height} blocks were carried out again from "
            "the beginning, every seal was checked, and nothing stored here differs."
        )
    count = len(report.faults)
    first = report.faults[0]
    return (
        f"{'One thing does' if count == 1 else f'{count} things do'} not agree. "
        f"The first: {first.place}: {first.words}"
    )


def told(report: Report) -> Iterator[str]:
    """The report, line by line."""
    history = report.history
    yield verdict(report)
    yield ""
    yield (
        f"Up to block {history.head.height} of {at(history.head)}; digest {report.digest}. Every "
        "member that audits up to this block gets the same digest."
    )
    yield from _members_told(report)
    for proposal in history.proposals:
        votes = ", ".join(f"{n} {'yes' if yes else 'no'}" for n, yes in proposal.votes.items())
        yield (
            f"Proposal {proposal.number} of {proposal.proposer}: {proposal.kind} "
            f"{proposal.subject}; {votes or 'no votes'}; {proposal.outcome}."
        )
    for plan in history.plans:
        yield ""
        yield from _plan_told(plan)
    yield ""
    here = report.here
    yield (
        f"At {report.node}: {here.blocks} blocks, {here.state_values} values of the state, "
        f"{here.blobs} blobs with {here.blob_bytes} bytes and {here.records} records compared"
        + (f", {here.choices} choices of a best model made again." if here.choices else ".")
    )
    if report.faults:
        yield ""
        yield "What does not agree:"
        yield from (f"  {fault.place}: {fault.words}" for fault in report.faults)


def _members_told(report: Report) -> Iterator[str]:
    yield ""
    yield "Members:"
    for member in report.history.members:
        left = f", until {at(member.until)}" if member.until else ""
        yield (
            f"  {member.name}: since {at(member.since)}{left}; proposed {member.proposed_blocks} "
            f"blocks, sealed {report.here.seals.get(member.name, 0)} as they are kept here"
        )


def _plan_told(plan: PlanHistory) -> Iterator[str]:
    outcome = "not over yet" if plan.outcome == "open" else plan.outcome
    yield f"Plan {plan.number}, {plan.name}, of {plan.proposer}, {at(plan.at)}: {outcome}."
    yield f"  Code {plan.code}"
    for consent in plan.consents:
        terms = ""
        if consent.answer == "consented":
            same = "this code" if consent.code == plan.code else f"other code, {consent.code}"
            most = f", at most {consent.max_samples} rows" if consent.max_samples else ""
            terms = f" to {same}, to {' and '.join(consent.duties)}{most}"
        yield f"  {consent.member} {consent.answer}{terms}, {at(consent.at)}."
    final = [r for r in plan.rounds if r.outcome == "final"]
    void = sum(r.outcome == "void" for r in plan.rounds)
    yield (
        f"  {len(final)} rounds are final; {void} attempts were void. They are numbered as on the "
        "chain, where statistics are a round, too (of one row at each site)."
    )
    yield from (f"  {_round_told(r)}" for r in final)
    if plan.model:
        yield f"  Final model {plan.model}"


def _round_told(round: RoundHistory) -> str:
    rows = ", ".join(f"{name} {round.samples[name]}" for name in round.contributors)
    left_out = "".join(f"; without {name} ({why})" for name, why in round.omitted.items())
    checked = ", ".join(f"{name} ({level})" for name, level in round.attested.items())
    return (
        f"Round {round.round}: led by {round.leader}; rows: {rows}{left_out}; attested by "
        f"{checked}; model {round.model}"
    )


def at(moment: Moment | None) -> str:
    """A time for people, in UTC."""
    if moment is None:
        return ""
    return datetime.fromtimestamp(moment.time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
