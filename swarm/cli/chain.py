"""`swarm chain`: care for this node's replica of the chain."""

from __future__ import annotations

from pathlib import Path

import click

from swarm.cli.options import DIRECTORY


@click.group("chain")
def command() -> None:
    """This node's replica of the chain: recover it after a loss."""


@command.command()
@click.argument("directory", type=DIRECTORY, default=Path("."))
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
    from swarm.chain.service import recover_votes
    from swarm.chain.store import VoteStore
    from swarm.errors import ConfigurationError
    from swarm.node.config import load_config
    from swarm.node.embedded import read_network

    genesis = read_network(directory, load_config(directory))
    if genesis is None:
        raise ConfigurationError(f"{directory} uses an external chain: it has no votes to recover")
    if not yes:
        click.confirm("Has every other member agreed that this node votes anew?", abort=True)
    # Both files are locked by a node that runs, so this cannot happen beneath one.
    engine = Engine.open(directory / "chain", genesis)
    try:
        votes = VoteStore(directory / "chain" / "votes.db")
        try:
            recover_votes(votes, engine.head.height)
        finally:
            votes.close()
        click.echo(f"the node will vote from height {engine.head.height + 1} on; start it now")
    finally:
        engine.close()
