"""`swarm contract`: membership, through this institution's own node; the contract's code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import click
import msgspec

from swarm.cli.options import (
    DIRECTORY,
    FILE,
    NUMBER,
    account_options,
    ask_governor,
    ask_node,
    for_people,
    goes_on,
    json_option,
    node_option,
    open_account,
    print_json,
    print_table,
)
from swarm.visible import visible


@click.group("contract")
def command() -> None:
    """Members: who they are, propose, vote, leave."""


@command.command()
@node_option
@json_option
def info(node: Path, as_json: bool) -> None:
    """The contract: address, chain, height, validators."""
    answer = ask_node(node, "contract_info")
    if as_json:
        print_json(answer)
        return
    for key, value in for_people(answer).items():
        click.echo(f"{key:>18}  {', '.join(value) if isinstance(value, list) else value}")


@command.command()
@node_option
@json_option
def members(node: Path, as_json: bool) -> None:
    """All members, and the proposals that are open."""
    answer = ask_node(node, "members")
    if as_json:
        print_json(answer)
        return
    print_table(
        ("id", "name", "account", "node", "validator", "standby"),
        [
            (
                m["id"],
                m["name"],
                m["account"],
                m["node"],
                "yes" if m["validator"] else "no",
                m["standby"] or "",
            )
            for m in answer["members"]
            if m["present"]
        ],
    )
    proposals = [p for p in answer["proposals"] if p.get("status") == "open"]
    if proposals:
        click.echo()
        print_table(
            ("proposal", "what", "for", "against", "needed"),
            [(p["id"], p["what"], p["ayes"], p["noes"], p["needed"]) for p in proposals],
        )
    for unreadable in (p for p in answer["proposals"] if "unreadable" in p):
        why = unreadable["unreadable"]
        click.echo(visible(f"proposal {unreadable['id']} cannot be read: {why}"))


@command.command()
@node_option
@click.option("--admit", type=FILE, help="The newcomer's join card.")
@click.option("--remove", metavar="NAME_OR_ID", help="The member to remove.")
@account_options
def propose(
    node: Path,
    admit: Path | None,
    remove: str | None,
    account: Path | None,
    account_password_file: Path | None,
) -> None:
    """Propose to admit or to remove a member; this counts as the first vote for it.

    \b
    swarm contract propose --admit newcomer/card.json
    swarm contract propose --remove "St. Mary"
    """
    if (admit is None) == (remove is None):
        raise click.UsageError("name either --admit CARD or --remove MEMBER")
    card = None if admit is None else str(admit.resolve())
    key = open_account(account, account_password_file)
    with goes_on("`swarm contract members` shows it, and `swarm contract cancel` takes it back"):
        answer = ask_governor(node, key, "propose_member", card=card, remove=remove)
    _tell(answer)


@command.command()
@node_option
@click.argument("proposal", type=NUMBER)
@click.option("--against", is_flag=True, help="Vote against it.")
@account_options
def vote(
    node: Path,
    proposal: int,
    against: bool,
    account: Path | None,
    account_password_file: Path | None,
) -> None:
    """Vote on a PROPOSAL. More than half of the members admit or remove; a validator's removal
    takes two thirds."""
    key = open_account(account, account_password_file)
    with goes_on("`swarm contract members` shows it, and nothing takes a vote back"):
        answer = ask_governor(node, key, "vote", proposal=proposal, support=not against)
    _tell(answer)


@command.command()
@node_option
@click.argument("proposal", type=NUMBER)
@account_options
def cancel(
    node: Path, proposal: int, account: Path | None, account_password_file: Path | None
) -> None:
    """Take back a PROPOSAL of this institution's own that is not decided yet."""
    key = open_account(account, account_password_file)
    with goes_on("`swarm contract members` shows it; then only a new proposal can be voted on"):
        answer = ask_governor(node, key, "cancel", proposal=proposal)
    _tell(answer)


@command.command()
@node_option
@click.argument("card", type=FILE, required=False)
@click.option("--none", "no_standby", is_flag=True, help="There is no standby any more.")
@account_options
def standby(
    node: Path,
    card: Path | None,
    no_standby: bool,
    account: Path | None,
    account_password_file: Path | None,
) -> None:
    """Name a second node of this institution, by its join CARD: it follows the chain, does nothing
    else, and takes over with `swarm node take-over`.

    \b
    swarm contract standby standby/card.json
    """
    if (card is None) != no_standby:
        raise click.UsageError("name either the standby's CARD or --none")
    from swarm.chain.genesis import read_card

    named = None if card is None else "0x" + read_card(card).node.hex()
    key = open_account(account, account_password_file)
    with goes_on("`swarm contract members` shows it, and a standby that is named anew replaces it"):
        answer = ask_governor(node, key, "set_standby", node=named)
    answer = for_people(answer)
    click.echo(f"{answer['member']}: standby {answer['standby'] or 'none'}")


def _tell(answer: dict[str, Any]) -> None:
    answer = for_people(answer)
    votes = f"{answer['ayes']} for, {answer['noes']} against"
    state = {"passed": "carried out", "cancelled": "taken back"}.get(
        answer["status"], answer["status"]
    )
    missing = f", {answer['needed']} needed" if state == "open" else ""
    click.echo(f"proposal {answer['id']}: {answer['what']}: {state}, {votes}{missing}")


@command.command()
@node_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@account_options
def leave(node: Path, yes: bool, account: Path | None, account_password_file: Path | None) -> None:
    """End this institution's membership."""
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("nobody is here to confirm it: give --yes")
    if not yes:
        click.confirm("End the membership? Coming back takes the others' votes", abort=True)
    key = open_account(account, account_password_file)
    with goes_on("`swarm contract members` shows it; stop the node now to prevent it"):
        ask_governor(node, key, "leave")
    click.echo("This institution is no member any more; its node may be stopped.")


@command.command()
@click.option("--for", "form", type=click.Choice(["hardhat", "foundry"]), required=True)
@click.argument("folder", type=DIRECTORY)
def artifact(form: Literal["hardhat", "foundry"], folder: Path) -> None:
    """Write the contract's interface and code to FOLDER, as Hardhat or Foundry reads them.

    No node needs to run. Hardhat looks into its project's artifacts/, Foundry into out/.

    \b
    swarm contract artifact --for hardhat artifacts
    """
    from swarm.chain.foreign_artifacts import foreign_artifacts, source_of
    from swarm.errors import ConfigurationError, system_fault

    files = {
        folder / source_of(name) / f"{name}.json": msgspec.json.format(msgspec.json.encode(content))
        for name, content in foreign_artifacts(form).items()
    }
    there = next((path for path in files if path.exists()), None)
    if there is not None:
        raise ConfigurationError(f"{there} exists: move it away, or name another folder")
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content + b"\n")
    except OSError as error:
        raise ConfigurationError(f"cannot write to {folder}: {system_fault(error)}") from None
    for path in files:
        click.echo(path)
