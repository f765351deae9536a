"""`swarm node`: the one process that an institution runs."""

from __future__ import annotations

import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import click

from swarm.cli.options import (
    DIRECTORY,
    FILE,
    NUMBER,
    account_options,
    at_time,
    for_people,
    goes_on,
    json_option,
    open_account,
    print_json,
    print_table,
    short,
    typed_new_password,
    typed_password,
)
from swarm.visible import visible

WATCH_EVERY_S = 2.0


@click.group("node")
def command() -> None:
    """Start this institution's node; see how it is."""


@command.command()
@click.argument("directory", type=DIRECTORY, envvar="SWARM_NODE", default=Path("."))
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="The least that is written to the log; node.toml's `log.level` otherwise.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help="One line of text for each event, or one JSON object; `log.format` otherwise.",
)
def start(directory: Path, log_level: str | None, log_format: str | None) -> None:
    """Run the node in DIRECTORY until it is interrupted.

    It registers nothing and trains nothing by itself: `swarm plan consent` decides that. After a
    crash, start it again; it goes on where the consortium is.

    \b
    swarm node start hospital
    """
    from swarm.node.node_process import start_node

    given = {"level": log_level, "format": log_format}
    log_settings = {key: value for key, value in given.items() if value is not None}
    start_node(directory, typed_password(directory), **log_settings)


@command.command()
@click.argument("directory", type=DIRECTORY, envvar="SWARM_NODE", default=Path("."))
@click.option("--new-password-file", type=FILE, help="Read the new password from here.")
def password(directory: Path, new_password_file: Path | None) -> None:
    """Change the password of the keys in DIRECTORY, whether or not its node runs.

    Where node.toml names a password file, that file is written anew, too: with a random password,
    unless --new-password-file gives one. If the command is interrupted, the keys still open; give
    it again.

    \b
    swarm node password hospital
    """
    from swarm.node.home.config import load_config
    from swarm.node.home.keys import read_password
    from swarm.node.home.password import change_password

    config = load_config(directory)
    old = typed_password(directory)
    new = None
    if new_password_file is not None:
        new = read_password(new_password_file)
    elif config.key.password_file is None:
        new = typed_new_password("New password of the keys", "--new-password-file FILE")
    for path in change_password(directory, config, old, new):
        click.echo(f"{path}: encrypted anew")
    if config.key.password_file is not None:
        click.echo(f"{directory / config.key.password_file}: holds the new password")
    click.echo("Old copies of these files still open with the old password: delete them.")


@command.command()
@click.argument("directory", type=DIRECTORY, envvar="SWARM_NODE", default=Path("."))
@account_options
@click.option(
    "--finish",
    is_flag=True,
    help="For a stopped node whose next key the others have already: put it into place.",
)
def rotate(
    directory: Path, account: Path | None, account_password_file: Path | None, finish: bool
) -> None:
    """Give the node that runs in DIRECTORY a new key, which the institution's account names.

    The node goes on with it by itself, and validates again as soon as the others have answered it.
    At the first time the old key stays the account: it is kept as account.json, for decisions with
    --account, and may be taken away from this machine. If the command is interrupted, give it
    again.

    \b
    swarm node rotate hospital
    swarm node rotate hospital --account account.json
    """
    if finish:
        from swarm.node.commands.control import only_node_in
        from swarm.node.home.config import load_config
        from swarm.node.node_process import change_key

        config, password = load_config(directory), typed_password(directory)
        with only_node_in(directory):
            change_key(directory, config, password, governs=account is None)
        click.echo(f"{directory} has its new key; start the node now")
        return
    from swarm.node.commands.account import rotate_key

    key = open_account(account, account_password_file)
    with goes_on("give the command again, and it goes on from where it was"):
        address = rotate_key(directory, typed_password(directory), key)
    click.echo(f"the node's key is 0x{address.hex()} now")
    if account is None:
        click.echo(f"{directory}/account.json  the account's key: needed for votes, with --account")


@command.command()
@click.argument("directory", type=DIRECTORY)
@click.argument("file", type=FILE)
def backup(directory: Path, file: Path) -> None:
    """Write what only this institution has of the node in DIRECTORY into FILE, a new one; the node
    may run meanwhile.

    In it: the encrypted keys, the configuration, what this site keeps of its own, its records, the
    list of what left. Not in it: the password, the site's data, the node's votes, and what the
    other members have: chain, models, code.

    \b
    swarm node backup hospital hospital.tar.gz
    """
    from swarm.node.home.backup import write_backup

    for name in write_backup(directory, file):
        click.echo(visible(f"not in it: {name}, which lies outside of {directory}"))
    click.echo(f"{file}: written; keep the password apart from it")


@command.command()
@click.argument("file", type=FILE)
@click.argument("directory", type=DIRECTORY)
def restore(file: Path, directory: Path) -> None:
    """Make the node's directory DIRECTORY, a new one, from the backup in FILE.

    The node then copies the chain from the others. It votes only after it has seen that no other
    machine uses its key, and from a height on at which it cannot contradict earlier votes.

    \b
    swarm node restore hospital.tar.gz hospital
    """
    from swarm.node.home.backup import read_backup

    restored = read_backup(file, directory)
    click.echo(visible(f"{directory}: {restored.name}, as of {at_time(restored.made_at)}"))
    if restored.password_file is not None:
        click.echo(f"Put its password into {restored.password_file} (mode 600).")
    click.echo(f"Make sure that the old machine is off; then `swarm node start {directory}`.")


@command.command("take-over")
@click.argument("directory", type=DIRECTORY, envvar="SWARM_NODE", default=Path("."))
@account_options
def take_over(directory: Path, account: Path | None, account_password_file: Path | None) -> None:
    """Make the standby that runs in DIRECTORY the institution's node, in the place of the one that
    was: that one is cut off at once by all others.

    \b
    swarm node take-over standby --account account.json
    """
    from swarm.node.commands.account import take_over

    key = open_account(account, account_password_file)
    if key is None:
        raise click.UsageError("give the key of the institution's account, with --account FILE")
    with goes_on("`swarm contract members` shows it; give the command again to see to it"):
        name = take_over(directory, typed_password(directory), key)
    click.echo(visible(f"this is the node of {name} now: consents hold; check its data.path"))


@command.command()
@click.argument("directory", type=DIRECTORY, envvar="SWARM_NODE", default=Path("."))
@click.option(
    "--connected",
    "must_be_connected",
    is_flag=True,
    help="Fail, with exit status 1, unless every other member is connected: for health checks.",
)
@click.option("--watch", is_flag=True, help="Show it anew every two seconds, until Ctrl-C.")
@json_option
def status(directory: Path, must_be_connected: bool, watch: bool, as_json: bool) -> None:
    """How the node in DIRECTORY is: chain, peers, plans, rounds."""
    from swarm.node.commands.control import ask

    with suppress(KeyboardInterrupt) if watch else nullcontext():
        while True:
            answer = ask(directory, "status")
            if watch:
                click.clear()  # of a terminal; what is piped goes on, one status after the other
            if as_json:
                print_json(answer)
            else:
                _print_status(for_people(answer))
            if not watch:
                break
            time.sleep(WATCH_EVERY_S)
    if must_be_connected:
        _refuse_gaps(answer)


@command.command("try-alert")
@click.argument("directory", type=DIRECTORY, envvar="SWARM_NODE", default=Path("."))
def try_alert(directory: Path) -> None:
    """Have the node in DIRECTORY post a message to its webhook, to see whether it arrives.

    \b
    swarm node try-alert hospital
    """
    from swarm.node.commands.control import ask

    ask(directory, "try_alert")
    click.echo('posted, and taken: look for "somebody tries whether alerts arrive" there')


@command.command()
@click.argument("directory", type=DIRECTORY, envvar="SWARM_NODE", default=Path("."))
@click.option("--plan", type=NUMBER, help="Of this plan only.")
@click.option("--peer", help="To this member only.")
@click.option("--kind", help="Of this kind only: update, model, statistics, code …")
@click.option("--day", help="Of this day only (UTC): 2026-11-29.")
@click.option("--each", is_flag=True, help="One line for each, instead of sums.")
@click.option(
    "--verify", "must_hold", is_flag=True, help="Whether every line is as it was written."
)
@json_option
def outgoing(
    directory: Path,
    plan: int | None,
    peer: str | None,
    kind: str | None,
    day: str | None,
    each: bool,
    must_hold: bool,
    as_json: bool,
) -> None:
    """What left the node in DIRECTORY: to whom, when, of which plan, of which kind, how many bytes.

    Also for a node that is stopped. With --verify, a line that was changed, inserted or removed is
    named, and the exit status is 1. Note the `chain` that it prints somewhere else now and then:
    with that, a list that was written anew from the beginning is found, too.
    """
    from swarm.errors import ConfigurationError, LocalError
    from swarm.node.commands.control import ask
    from swarm.node.outgoing.log import OUTGOING, verify
    from swarm.node.outgoing.query import Wanted, find, sums_of

    folder = directory / OUTGOING
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} does not exist: no node has run in {directory} yet")
    with suppress(ConfigurationError):  # it does not run
        ask(directory, "outgoing")  # have it write down what it has not yet
    if must_hold:
        verdict = verify(folder)
        if as_json:
            print_json({"lines": verdict.lines, "chain": verdict.chain, "fault": verdict.fault})
        else:
            click.echo(f"{verdict.lines} lines, chain {verdict.chain}")
        if verdict.fault:
            raise LocalError(f"the list in {folder} was changed: {verdict.fault}")
        return
    found = find(folder, Wanted(plan, peer, kind, day))
    rows = [row.in_words() for row in (found if each else sums_of(found))]
    if as_json:
        print_json(rows)
    else:
        headings = list(rows[0]) if rows else ["nothing has left"]
        print_table(headings, [list(row.values()) for row in rows])


def _refuse_gaps(answer: dict[str, Any]) -> None:
    """Raise PeerUnreachable that names every member to whom this node has no connection."""
    from swarm.errors import PeerUnreachable

    missing = [peer for peer in answer["peers"] if not peer["connected"]]
    if missing:
        raise PeerUnreachable(
            f"{answer['name']} is not connected to {'; '.join(map(_why_away, missing))}: look "
            "there whether the node runs, and at both places whether the other can be dialled"
        )


def _why_away(peer: dict[str, Any]) -> str:
    """A peer that is not connected, with what became of each attempt to dial it."""
    dials = [f"{address}: {why}" for address, why in peer["failed_dials"].items()]
    return f"{peer['name']} ({'; '.join(dials) or 'no address of it is known here'})"


def _privacy(told: dict[str, Any]) -> str:
    most = "no limit" if told["epsilon"] is None else f"at most {told['epsilon']:g}"
    return f"spent ε = {told['spent']:.3g} ({most}, δ = {told['delta']:g})"


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
    for note in answer["notes"]:
        click.echo(f"\nAttention: {note}")
    for peer in answer["peers"]:
        if not peer["connected"]:
            click.echo(f"\nNot connected to {_why_away(peer)}")
        for note in peer["notes"]:
            click.echo(f"\n{peer['name']}: {note}")
    for name, is_connected in answer["standbys"].items():
        click.echo(f"\nStandby of {name}: {'connected' if is_connected else 'not connected'}")
    if answer["former"]:
        click.echo(f"\nNo members any more: {', '.join(answer['former'])}")
    if chain.get("waiting_for") and chain.get("round"):  # in round 0 that is the usual second
        click.echo(f"\nThe chain waits for: {', '.join(chain['waiting_for'])}")
    reach = answer["sandbox"]["reach"]
    if reach:
        click.echo(f"\nPlan code can reach {', and '.join(reach)}")
    if answer["privacy"]["spent"]:
        click.echo(f"\nPrivacy of this site's rows, all plans: {_privacy(answer['privacy'])}")
    for plan in answer["plans"]:
        click.echo(f"\n{_heading(plan)}")
        if plan.get("waits_for"):
            away = {peer["name"] for peer in answer["peers"] if not peer["connected"]}
            waits = [n + " (not connected)" * (n in away) for n in plan["waits_for"]]
            click.echo(f"  waits for {', '.join(waits)}: {plan['waits_why']}")
        elif plan.get("waits_why"):
            click.echo(f"  waits: {plan['waits_why']}")
        if plan.get("privacy"):
            click.echo(f"  privacy {_privacy(plan['privacy'])} of each training row here")
        if plan.get("halted"):
            click.echo(f"  training has stopped here: {plan['halted']}")
        rows = [
            (
                r["number"] or r["title"],
                r["leader"],
                short(r["model"]),
                _scores(r),
                _joint(r) or _told(r["figures"]),
                f"{r['total_s']:.1f}",
            )
            for r in plan.get("records", [])[-10:]
        ]
        if rows:
            print_table(("round", "leader", "model", "validation", "all sites", "seconds"), rows)

    for number, name in answer["asked"].items():
        click.echo(
            f"\nplan {number} {name} waits for this institution: read `swarm plan show {number}`, "
            f"then `swarm plan consent {number}` or `swarm plan decline {number}`"
        )
    for number, why in answer["refused_plans"].items():
        click.echo(f"\nplan {number}: this node takes no part: {why}")


def _heading(plan: dict[str, Any]) -> str:
    """Where a plan stands, in one line."""
    if "status" not in plan:
        return f"plan {plan['id']}: this node takes it up"
    line = f"plan {plan['id']} {plan['name']}: {plan['status']}"
    if plan["title"] is None:
        return f"{line}, no round yet, {plan['rounds']} rounds in all"
    return f"{line}, {plan['title']}, {plan['rounds']} rounds in all ({plan['phase']})"


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


def _scores(record: dict[str, Any]) -> str:
    """Of the merged model; where only the plan's script could tell them, of this site's update."""
    merged = record["metrics"].get("validation", {})
    scores = merged or record["own_metrics"]
    told = ", ".join(f"{name} {_number(value)}" for name, value in scores.items())
    return told if merged or not told else f"own update: {told}"
