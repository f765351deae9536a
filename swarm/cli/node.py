"""`swarm node`: the one process that an institution runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from swarm.cli.options import (
    DIRECTORY,
    for_people,
    json_option,
    print_json,
    print_table,
    short,
    typed_password,
)


@click.group("node")
def command() -> None:
    """Start this institution's node; see how it is."""


@command.command()
@click.argument("directory", type=DIRECTORY, envvar="SWARM_NODE", default=Path("."))
def start(directory: Path) -> None:
    """Run the node in DIRECTORY until it is interrupted.

    It registers nothing and trains nothing by itself: `swarm plan consent` decides that. After a
    crash, start it again; it goes on where the consortium is.

    \b
    swarm node start hospital
    """
    from swarm.node.process import start_node

    start_node(directory, typed_password(directory))


@command.command()
@click.argument("directory", type=DIRECTORY, envvar="SWARM_NODE", default=Path("."))
@click.option(
    "--connected",
    "must_be_connected",
    is_flag=True,
    help="Fail, with exit status 1, unless every other member is connected: for health checks.",
)
@json_option
def status(directory: Path, must_be_connected: bool, as_json: bool) -> None:
    """How the node in DIRECTORY is: chain, peers, plans, rounds."""
    from swarm.node.control import ask

    answer = ask(directory, "status")
    if as_json:
        print_json(answer)
    else:
        _print_status(for_people(answer))
    if must_be_connected:
        _refuse_gaps(answer)


def _refuse_gaps(answer: dict[str, Any]) -> None:
    """Raise PeerUnreachable that names every member to whom this node has no connection."""
    from swarm.errors import PeerUnreachable

    missing = sorted(set(answer["members"]) - set(answer["connected"]) - {answer["name"]})
    if missing:
        raise PeerUnreachable(
            f"{answer['name']} is not connected to {', '.join(missing)}: look there whether the "
            "node runs, and at both places whether the other's address can be dialled"
        )


def _print_status(answer: dict[str, Any]) -> None:
    chain = answer["chain"]
    print_table(
        ("node", "height", "validators", "connected", "rpc"),
        [
            (
                answer["name"],
                answer["height"],
                len(chain.get("validators", [])),
                f"{len(answer['connected'])} of {len(answer['members']) - 1}",
                answer["rpc_url"],
            )
        ],
    )
    if chain.get("waiting_for") and chain.get("round"):  # in round 0 that is the usual second
        click.echo(f"\nThe chain waits for: {', '.join(chain['waiting_for'])}")
    reach = answer["sandbox"]["reach"]
    if reach:
        click.echo(f"\nPlan code can reach {', and '.join(reach)}")
    for plan in answer["plans"]:
        click.echo(
            f"\nplan {plan['id']} {plan.get('name', '')}: {plan.get('status', 'starting')}, "
            f"{plan.get('title') or 'no round yet'}, {plan.get('rounds')} rounds in all "
            f"({plan.get('phase')})"
        )
        if plan.get("waits_for"):
            click.echo(f"  waits for {', '.join(plan['waits_for'])}")
        if plan.get("halted"):
            click.echo(f"  training has stopped here: {plan['halted']}")
        rows = [
            (
                r["number"] or r["title"],
                r["leader"],
                short(r["model"]),
                *_scores(r),
                _joint(r) or _told(r["figures"]),
                f"{r['total_s']:.1f}",
            )
            for r in plan.get("records", [])[-10:]
        ]
        if rows:
            print_table(("round", "leader", "model", "validation", "all sites", "seconds"), rows)

    for number, why in answer["refused_plans"].items():
        click.echo(f"\nplan {number}: this node takes no part: {why}")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _joint(record: dict[str, Any]) -> str:
    """The main figure of what all sites' rows say, with its interval, and of how many sites."""
    told = []
    for name, score in (record["joint"].get("validation") or {}).items():
        figure = next(iter(score["figures"].values()))
        text = f"{name} {_number(figure['value'])}"
        if figure["low"] is not None:
            text += f" ({_number(figure['low'])} to {_number(figure['high'])})"
        told.append(f"{text} of {len(score['sites'])}")
    return ", ".join(told)


def _told(figures: dict[str, Any] | None) -> str:
    """What the sites told of models of their own: before and after."""
    before, after = ((figures or {}).get(when, {}) for when in ("before", "after"))
    told = [f"{n} {_number(before.get(n))} → {_number(v)}" for n, v in after.items()]
    return ", ".join(told) + (f" of {figures['sites']}" if figures and told else "")


def _scores(record: dict[str, dict[str, dict[str, float | None]]]) -> tuple[str]:
    scores = record["metrics"].get("validation", {})
    return (", ".join(f"{name} {_number(value)}" for name, value in scores.items()),)
