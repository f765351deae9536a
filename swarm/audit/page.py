"""An audit's report as one HTML page, which opens without a network and runs no script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from swarm.audit.report import PlanHistory, Report
from swarm.audit.words import at, verdict
from swarm.visible import visible

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
.good { border-left: 6px solid #2e7d32; padding: .5rem 1rem; }
.bad { border-left: 6px solid #c62828; padding: .5rem 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; vertical-align: top; }
th { border-bottom: 1px solid; }
code { font-size: .8rem; overflow-wrap: anywhere; }
"""


def page(report: Report) -> str:
    """The whole page. Names in it are others': they are escaped, and hidden characters shown."""
    history = report.history
    kind = "bad" if report.faults else "good"
    parts = [
        f'<p class="{kind}"><strong>{_text(verdict(report))}</strong></p>',
        f"<p>Up to block {history.head.height} of {_text(at(history.head))}. Every member that "
        f"audits up to this block gets the digest <code>{_text(report.digest)}</code>.</p>",
    ]
    if report.faults:
        parts.append("<h2>What does not agree</h2>")
        parts.append(_table(("where", "what"), ((f.place, f.words) for f in report.faults)))
    parts.append("<h2>Members</h2>")
    parts.append(
        _table(
            ("name", "since", "until", "blocks proposed", "blocks sealed", "node"),
            (
                (
                    m.name,
                    at(m.since),
                    at(m.until),
                    m.proposed_blocks,
                    report.here.seals.get(m.name, 0),
                    m.node,
                )
                for m in history.members
            ),
        )
    )
    if history.proposals:
        parts.append("<h2>Proposals</h2>")
        parts.append(
            _table(
                ("number", "what", "by", "when", "votes", "outcome"),
                (
                    (p.number, f"{p.kind} {p.subject}", p.proposer, at(p.at), _votes(p.votes),
                     p.outcome)
                    for p in history.proposals
                ),
            )
        )  # fmt: skip
    parts.extend(_plan(plan) for plan in history.plans)
    here = report.here
    parts.append(
        f"<h2>At {_text(report.node)}</h2><p>{here.blocks} blocks, {here.state_values} values of "
        f"the state, {here.blobs} blobs with {here.blob_bytes} bytes and {here.records} records "
        f"were compared, and {here.choices} choices of a best model made again, by release "
        f"{_text(report.release)}.</p>"
    )
    title = f"Audit of {_text(report.node)}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>{title}</h1>{''.join(parts)}</main></body></html>\n"
    )


def _plan(plan: PlanHistory) -> str:
    consents = _table(
        ("member", "answer", "when", "duties", "most rows", "code"),
        (
            (c.member, c.answer, at(c.at), ", ".join(c.duties), c.max_samples or "", c.code)
            for c in plan.consents
        ),
    )
    rounds = _table(
        ("round", "attempt", "outcome", "led by", "rows by contributor", "left out", "attested by",
         "model"),
        (
            (
                r.round,
                r.attempt,
                r.outcome,
                r.leader,
                ", ".join(f"{name} {r.samples[name]}" for name in r.contributors),
                ", ".join(f"{name}: {why}" for name, why in r.omitted.items()),
                ", ".join(f"{name} ({level})" for name, level in r.attested.items()),
                r.model,
            )
            for r in plan.rounds
        ),
    )  # fmt: skip
    return (
        f"<h2>Plan {plan.number}: {_text(plan.name)}</h2>"
        f"<p>Proposed by {_text(plan.proposer)}, {_text(at(plan.at))}; {_text(plan.outcome)}. "
        f"Code <code>{_text(plan.code)}</code>.</p><h3>Consents</h3>{consents}"
        f"<h3>Rounds</h3>{rounds}"
    )


def _votes(votes: dict[str, bool]) -> str:
    return ", ".join(f"{name} {'yes' if yes else 'no'}" for name, yes in votes.items())


def _table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = "".join(f'<th scope="col">{_text(heading)}</th>' for heading in headings)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _cell(value: object) -> str:
    text = _text(value)
    return f"<td><code>{text}</code></td>" if text.startswith("0x") else f"<td>{text}</td>"


def _text(value: object) -> str:
    return escape(visible(str(value)))
