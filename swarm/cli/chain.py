"""`swarm chain`: care for this node's replica of the chain."""

from __future__ import annotations

from pathlib import Path

import click

from swarm.cli.options import DIRECTORY, FILE, typed_password
from swarm.visible import visible


@click.group("chain")
def command() -> None:
    """This node's replica of the chain: recover it after a loss.

    `recover` is for a node that lost its own votes. `override` is for a consortium that lost more
    than a third of its validators for good.
    """


@command.command()
@click.argument("directory", type=DIRECTORY, envvar="SWARM_NODE", default=Path("."))
@click.option("--yes", is_flag=True, help="Do not ask.")
def recover(directory: Path, yes: bool) -> None:
    """Let the node in DIRECTORY vote again at once, although its own votes were lost.

    A node that finds its votes missing or older than they should be asks the other validators what
    it voted for, and by itself votes again as soon as enough of them have answered. Only where that
    cannot happen (two validators, or three or four with another one down for good) is this needed.

    The risk: if this node did vote before the loss, it may now vote for another block at the same
    height. One node that does so is tolerated among four or more. If a third of the validators
    recover like this, two blocks can become final at one height, and the consortium's records
    split. Agree with the other members before you answer yes.
    """
    from swarm.chain.engine import Engine
    from swarm.chain.override import read_applied
    from swarm.chain.service import recover_votes
    from swarm.chain.store import VoteStore
    from swarm.errors import ConfigurationError
    from swarm.node.chain.source import read_network
    from swarm.node.home.config import load_config

    genesis = read_network(directory, load_config(directory))
    if genesis is None:
        raise ConfigurationError(f"{directory} uses an external chain: it has no votes to recover")
    if not yes:
        click.confirm("Has every other member agreed that this node votes anew?", abort=True)
    # Both files are locked by a node that runs, so this cannot happen beneath one.
    engine = Engine.open(directory / "chain", genesis, overrides=read_applied(directory))
    try:
        votes = VoteStore(directory / "chain" / "votes.db")
        try:
            recover_votes(votes, engine.head.height)
        finally:
            votes.close()
        click.echo(f"the node will vote from height {engine.head.height + 1} on; start it now")
    finally:
        engine.close()


@command.group("override")
def override_group() -> None:
    """Go on without validators that are gone for good, as the members who remain agree.

    \b
    1. Compare: every remaining node must show the same height and block.
    2. One operator begins the file, each of the others adds a signature:
       swarm chain override sign hospital override.json --without Kyoto --without Basel
       swarm chain override sign other-hospital override.json
    3. When more than half of the endorsed members have signed, every node is given it:
       swarm chain override apply hospital override.json

    The risk: if those who are gone had already made the next block, and come back with it, there
    are two histories. Read docs/operations.md before you begin.
    """


@override_group.command()
@click.argument("directory", type=DIRECTORY)
@click.argument("file", type=FILE)
@click.option("--without", multiple=True, metavar="NAME", help="A member whose validator is lost.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def sign(directory: Path, file: Path, without: tuple[str, ...], yes: bool) -> None:
    """Add the signature of the node in DIRECTORY to FILE, which --without begins."""
    from swarm.node.chain.override_command import describe, prepare_signature

    password = typed_password(directory)
    with prepare_signature(directory, file, without, password) as prepared:
        click.echo(visible(describe(prepared.proposed, prepared.members)))
        for warning in prepared.warnings:
            click.echo(f"warning: {visible(warning)}", err=True)
        if not yes:
            click.confirm("Are all of them gone for good, and have the others agreed?", abort=True)
        signed, needed = prepared.sign()
    click.echo(f"{file}: signed by {signed} of {needed} that are needed")


@override_group.command()
@click.argument("directory", type=DIRECTORY)
@click.argument("file", type=FILE)
def apply(directory: Path, file: Path) -> None:
    """Give the node in DIRECTORY the override in FILE, checked against its own chain.

    A node that is still behind checks it when it gets there. Start the node afterwards.
    """
    from swarm.node.chain.override_command import apply_override

    click.echo(apply_override(directory, file))
